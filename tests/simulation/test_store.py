"""The store and its collecting: whole or absent units, claims, full disks, and shared work."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from worlds import Mixture

from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.sampler import sampler
from turningpoint.diffusion.schedule import VP
from turningpoint.errors import SimulationError
from turningpoint.simulation.collect import Unit, collect, placed
from turningpoint.simulation.engine import Engine
from turningpoint.simulation.noise import Address, SeededNoise
from turningpoint.simulation.store import FORMAT, Store, packing
from turningpoint.simulation.walk import FromNoise, Record, Walk

IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 1, 5, 5)).astype(np.float32)
PACKING = packing("uint8")


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "run", {"question": "when"})


def keep(store, dtype, values=IMAGES, name="final"):
    dims = ("item", "channel", "y", "x")
    store.require(name, dims, values.shape, (2, 1, 5, 5), dtype, PACKING if dtype == "uint8" else {})
    store.write(name, values)
    return store.read(name)


class TestArrays:
    @pytest.mark.parametrize("place", ["folder", "memory"])
    @pytest.mark.parametrize(
        ("dtype", "error"),
        [("float32", 0.0), ("float16", 2**-12), ("uint8", 1 / 255 + 1e-6)],  # half a step of each
    )
    def test_round_trip(self, tmp_path, place, dtype, error):
        store = Store.create(tmp_path / "run" if place == "folder" else None, {})
        back = keep(store, dtype)
        assert back.dtype == np.float32
        assert np.abs(back - IMAGES).max() <= error
        assert store.group["final"].dtype == np.dtype(dtype)
        if place == "folder":
            again = Store.open(tmp_path / "run", writable=False).read("final")
            np.testing.assert_array_equal(again, back)

    def test_uint8_levels_are_exact_and_clipped(self, store):
        levels = (np.arange(256, dtype=np.float32) / 127.5 - 1).reshape(1, 1, 16, 16)
        store.require("levels", ("item", "channel", "y", "x"), levels.shape, levels.shape, "uint8", PACKING)
        store.write("levels", levels)
        np.testing.assert_array_equal(store.group["levels"][...].ravel(), np.arange(256))
        np.testing.assert_allclose(store.read("levels"), levels, rtol=0, atol=2**-23)  # one unit of float32
        store.write("levels", np.full_like(levels, 1.7))
        np.testing.assert_array_equal(store.read("levels"), np.ones_like(levels))
        store.write("levels", -9 * np.ones_like(levels))
        np.testing.assert_array_equal(store.read("levels"), -np.ones_like(levels))

    def test_regions(self, store):
        store.require("a", ("item", "replicate", "x"), (4, 3, 2), (2, 3, 2))
        part = np.arange(4, dtype=np.float32).reshape(2, 2)
        store.write("a", part, (slice(2, 4), 1))
        np.testing.assert_array_equal(store.read("a", (slice(2, 4), 1)), part)
        np.testing.assert_array_equal(store.read("a", (3, 1, 0)), part[1, 0])
        assert np.isnan(store.read("a")).sum() == 4 * 3 * 2 - 4  # gaps are NaN
        store.require("n", ("item",), (4,), (2,), "int64")
        np.testing.assert_array_equal(store.read("n"), np.zeros(4))  # or 0

    def test_growing(self, store):
        store.require("a", ("item",), (2,), (2,))
        store.write("a", np.array([1.0, 2.0]))
        store.require("a", ("item",), (4,), (2,))
        np.testing.assert_array_equal(store.read("a"), [1, 2, np.nan, np.nan])
        store.require("a", ("item",), (1,), (2,))  # never shrinks
        assert store.read("a").shape == (4,)

    def test_xarray_opens_it(self, store):
        keep(store, "float32")
        store.require("lam", ("item",), (4,), (4,), attrs={"units": "nat"})
        store.write("lam", np.arange(4.0))
        for dataset in (
            store.dataset(),
            xr.open_zarr(store.folder / "data.zarr", consolidated=False),
        ):
            assert dataset["final"].dims == ("item", "channel", "y", "x")
            assert dict(dataset.sizes) == {"item": 4, "channel": 1, "y": 5, "x": 5}
            np.testing.assert_array_equal(dataset["final"], IMAGES)
            assert dataset["lam"].attrs["units"] == "nat"
        assert store.has("lam")
        assert not store.has("nothing")

    def test_in_memory_too(self):
        store = Store.create(None, {})
        keep(store, "float16")
        assert store.dataset()["final"].dims == ("item", "channel", "y", "x")
        with store.exclusive():
            store.save_manifest()
        lock = store.claim("unit")
        assert lock is not None
        lock.release()

    def test_gaps_in_packed_images_are_quiet(self, store):
        values = IMAGES.copy()
        values[0] = np.nan  # a record's time that a walk did not visit
        with np.errstate(all="raise"):
            keep(store, "uint8", values)


class TestManifest:
    def test_round_trip(self, store, tmp_path):
        again = Store.open(tmp_path / "run")
        assert again.manifest == {"format": FORMAT, "question": "when"}
        again.manifest["more"] = [1, 2]
        again.save_manifest()
        assert Store.read_manifest(tmp_path / "run")["more"] == [1, 2]
        assert [p.name for p in (tmp_path / "run").glob("manifest*")] == ["manifest.json"]

    def test_newer_format(self, store, tmp_path, refuses):
        store.manifest["format"] = FORMAT + 1
        store.save_manifest()
        with refuses(f"has format {FORMAT + 1}; this version reads up to {FORMAT}"):
            Store.open(tmp_path / "run")

    def test_no_run(self, tmp_path, refuses):
        with refuses("accepted: a folder that holds a manifest.json"):
            Store.open(tmp_path)
        assert Store.read_manifest(tmp_path / "nowhere") is None

    @pytest.mark.parametrize("text", ["{", "[]", "7", '{"format": "new"}'])
    def test_damaged(self, store, tmp_path, refuses, text):
        (tmp_path / "run" / "manifest.json").write_text(text)
        with refuses("manifest .* cannot be read|has format"):
            Store.open(tmp_path / "run")

    def test_foreign_files(self, tmp_path, refuses):
        (tmp_path / "thesis.tex").write_text("years of work")
        with refuses("which is not empty and holds no run; accepted: a new folder or a run"):
            Store.create(tmp_path, {})
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_folder_left_by_a_kill_before_the_manifest(self, tmp_path):
        (tmp_path / "locks").mkdir()
        (tmp_path / "manifest.json.123").write_text("{")
        Store.create(tmp_path, {"question": "when"})
        assert Store.open(tmp_path).manifest["question"] == "when"

    def test_another_process_makes_the_group_first(self, tmp_path, monkeypatch):
        """The same command started twice at once: both see no group, one of them makes it first."""
        make, made = zarr.open_group, []

        def beaten(*args, **kwargs):
            group = make(*args, **kwargs)
            if not made:
                made.append(group)
                raise zarr.errors.ContainsGroupError(group.store, "")
            return group

        monkeypatch.setattr(zarr, "open_group", beaten)
        store = Store.create(tmp_path / "run", {})
        keep(store, "float32")
        np.testing.assert_array_equal(store.read("final"), IMAGES)

    def test_another_process_makes_an_array_first(self, store, monkeypatch):
        """Two workers end their first units at once: both see no array, one of them makes it first."""
        other, make = Store.open(store.folder), zarr.Group.create_array

        def beaten(group, *args, **kwargs):
            monkeypatch.setattr(zarr.Group, "create_array", make)
            keep(other, "float32")
            return make(group, *args, **kwargs)

        monkeypatch.setattr(zarr.Group, "create_array", beaten)
        np.testing.assert_array_equal(keep(store, "float32"), IMAGES)

    def test_a_folder_left_by_a_kill_before_the_arrays(self, tmp_path, refuses):
        (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT}))
        with refuses("run is"):  # a reader has nothing to read
            Store.open(tmp_path, writable=False)
        Store.open(tmp_path)  # a writer goes on

    def test_a_file_where_the_folder_should_be(self, tmp_path, refuses):
        (tmp_path / "file").write_text("")
        with refuses("where a file stands"):
            Store.create(tmp_path / "file", {})
        with refuses("where a file stands"):
            Store.create(tmp_path / "file" / "below", {})


def child(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from turningpoint.simulation.store import packing, Store
store = Store.open(sys.argv[1])
lock = store.claim("unit-3")
print("held" if lock else "refused", flush=True)
time.sleep(60)
"""

# root may write anywhere: give up being root first
READ_ONLY = """
import os, sys
from turningpoint.errors import TurningpointError
from turningpoint.simulation.store import packing, Store
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for attempt in (lambda: Store.create(sys.argv[1] + "/new", {}), lambda: Store.create(sys.argv[1], {}),
                lambda: Store.open(sys.argv[2]).claim("unit"), lambda: Store.open(sys.argv[2]).save_manifest()):
    try:
        attempt()
        print("written")
    except TurningpointError as error:
        print(error)
print(Store.open(sys.argv[2]).read("lam").tolist())
"""


class TestClaims:
    def test_another_process_and_its_death(self, store, tmp_path):
        other = child(HOLD, str(tmp_path / "run"))
        try:
            assert other.stdout.readline() == "held\n"
            assert store.claim("unit-3") is None
            free = store.claim("unit-4")
            assert free is not None
            free.release()
        finally:
            os.kill(other.pid, signal.SIGKILL)
            other.wait()
        lock = store.claim("unit-3")
        assert lock is not None
        again = child(HOLD, str(tmp_path / "run"))
        try:
            assert again.stdout.readline() == "refused\n"
        finally:
            again.kill()
            again.wait()
        lock.release()

    def test_released_claims_can_be_taken(self, store):
        for _ in range(3):
            lock = store.claim("unit")
            assert lock is not None
            lock.release()

    def test_a_second_claim_in_this_process(self, store):
        lock, taken = store.claim("unit"), []
        thread = threading.Thread(target=lambda: taken.append(Store.open(store.folder).claim("unit")))
        thread.start()
        thread.join()
        assert taken == [None]
        lock.release()


class TestRefusals:
    def test_read_only_folder(self):
        with tempfile.TemporaryDirectory() as top:
            closed, run = Path(top) / "closed", Path(top) / "run"
            closed.mkdir()
            store = Store.create(run, {})
            store.require("lam", ("item",), (2,), (2,))
            store.write("lam", np.array([1.0, 2.0]))
            for folder in (closed, run):
                folder.chmod(0o555)
            Path(top).chmod(0o755)
            process = child(READ_ONLY, str(closed), str(run))
            lines = process.communicate(timeout=300)[0].splitlines()
            for folder in (closed, run):
                folder.chmod(0o755)
        assert len(lines) == 5, lines
        for line in lines[:4]:
            assert line.endswith("cannot be written; accepted: a folder you may write to."), line
        assert lines[4] == "[1.0, 2.0]"  # reading works

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk(self, store, monkeypatch, refuses, number):
        keep(store, "float32")

        def full(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", full)
            with refuses("is full; make room and give the same command again", SimulationError):
                store.write("final", -IMAGES)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with refuses("is full", SimulationError):
                store.save_manifest()
        np.testing.assert_array_equal(store.read("final"), IMAGES)
        store.write("final", -IMAGES)
        np.testing.assert_array_equal(store.read("final"), -IMAGES)
        assert Store.read_manifest(store.folder)["question"] == "when"

    def test_names_that_cannot_be(self, tmp_path, refuses):
        with refuses("a name too long for the disk; accepted: a shorter one"):
            Store.create(tmp_path / ("n" * 300), {})
        (tmp_path / "loop").symlink_to("loop")
        for folder in ("/proc/x", tmp_path / "loop" / "x"):
            with refuses("which is not there and cannot be made; accepted: a folder you may write to"):
                Store.create(folder, {})
        with refuses("accepted: a folder that holds a manifest.json"):
            Store.open(tmp_path / ("n" * 300))

    def test_full_disk_below_zarr(self, store, monkeypatch, refuses):
        """The refusal comes from the file system, through zarr's own threads."""
        keep(store, "float32")
        replace = os.replace

        def full(source, target, *args, **kwargs):
            if "final" in str(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(source, target, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            patch.setattr(Path, "replace", full)
            with refuses("is full", SimulationError):
                store.write("final", -IMAGES[:2], (slice(0, 2),))  # one chunk
        np.testing.assert_array_equal(store.read("final"), IMAGES)  # which is old or new, never half
        store.write("final", -IMAGES)
        np.testing.assert_array_equal(store.read("final"), -IMAGES)

    def test_other_errors_stay_what_they_are(self, store, monkeypatch):
        keep(store, "float32")

        def broken(*args, **kwargs):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(zarr.Array, "__setitem__", broken)
        with pytest.raises(OSError, match="Input/output error"):
            store.write("final", IMAGES)


ITEMS, REPLICATES, STEPS = 12, 4, 10
SEED = SeededNoise(5)


class Slow(Mixture):
    """A network that takes its time, and counts its calls."""

    pause, calls, stop_at = 0.0, 0, 10**9

    def forward(self, x_t, t, label=None):
        self.calls += 1
        if self.calls >= self.stop_at:
            raise ConnectionError("power cut")
        time.sleep(self.pause)
        return super().forward(x_t, t, label)


def engine(batch=6, pause=0.0, stop_at=10**9):
    model = Slow([[2.0, 0.0], [-2.0, 1.0]], std=0.5)
    model.pause, model.stop_at = pause, stop_at
    return Engine(model, sampler("ddpm"), SEED, batch)


def one_walk(item, replicate):
    records = [Record("state", (0.5, 0.25))]
    return Walk(Address(item, replicate), FromNoise(), Grid(STEPS).times(VP()), records=records)


WALK_STEPS = len(one_walk(0, 0).times) - 1


def units():
    return [
        Unit(
            name=f"item-{i}",
            region=(i, slice(0, REPLICATES)),
            walks=lambda offsets, i=i: [one_walk(i, r) for r in offsets],
            size=REPLICATES,
            steps=WALK_STEPS,
        )
        for i in range(ITEMS)
    ]


def prepared(folder):
    """A store with arrays whose chunks are the units."""
    store = Store.create(folder, {"seed": 5})
    dims, shape, chunks = ("item", "replicate"), (ITEMS, REPLICATES), (1, REPLICATES)
    store.require("done", dims, shape, chunks, "bool")
    store.require("final", (*dims, "x"), (*shape, 2), (*chunks, 2))
    store.require("state", (*dims, "time", "x"), (*shape, 2, 2), (*chunks, 2, 2))
    return store


def writer(store, written=None):
    def write(unit, offsets, finished):
        for name in ("final", "state"):
            values = store.read(name, unit.region)
            values[list(offsets)] = placed(finished, name)
            store.write(name, values, unit.region)
        if written is not None:
            written.extend((f.walk.address.item, f.walk.address.replicate) for f in finished)

    return write


def arrays(store):
    assert store.read("done").all()
    return {name: store.read(name) for name in ("final", "state")}


@pytest.fixture(scope="module")
def undisturbed():
    store = prepared(None)
    collect(store, units(), engine(), writer(store))
    return arrays(store)


def assert_equal(one, other):
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])


class TestCollect:
    def test_everything_is_there(self, undisturbed):
        assert np.isfinite(undisturbed["final"]).all()
        assert len(np.unique(undisturbed["final"][..., 0])) == ITEMS * REPLICATES

    def test_order_and_batch(self, undisturbed):
        store = prepared(None)
        collect(store, units()[::-1], engine(batch=48), writer(store))
        for name, values in arrays(store).items():
            np.testing.assert_allclose(values, undisturbed[name], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("stop_at", [1, 15, 40, 87])
    def test_interrupted_and_continued(self, tmp_path, undisturbed, stop_at):
        """88 calls in all: the power goes before the first unit ends, between units, and at the end."""
        store = prepared(tmp_path / "run")
        with pytest.raises(ConnectionError):
            collect(store, units(), engine(stop_at=stop_at), writer(store))
        store = Store.open(tmp_path / "run")
        done = store.read("done")
        assert (done.all(1) | ~done.any(1)).all()  # wholly there or not there
        for i in np.flatnonzero(done.all(1)):
            np.testing.assert_array_equal(store.read("final")[i], undisturbed["final"][i])
        again, written = engine(), []
        collect(store, units(), again, writer(store, written))
        assert_equal(arrays(store), undisturbed)
        assert len(written) == len(set(written)) == (~done).sum()
        assert again.steps == WALK_STEPS * (~done).sum()

    def test_the_same_units_and_engine_again(self, undisturbed):
        store, work, same = prepared(None), units(), engine(stop_at=40)
        with pytest.raises(ConnectionError):
            collect(store, work, same, writer(store))
        same.model.stop_at = 10**9
        collect(store, work, same, writer(store))
        assert_equal(arrays(store), undisturbed)

    def test_a_full_disk_and_continued(self, tmp_path, monkeypatch, undisturbed, refuses):
        store, writes = prepared(tmp_path / "run"), []
        whole = zarr.Array.__setitem__

        def filling(array, *args):
            writes.append(array.name)
            if len(writes) > 7:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(array, *args)

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", filling)
            with refuses("make room", SimulationError):
                collect(store, units(), engine(), writer(store))
        store = Store.open(tmp_path / "run")
        assert 0 < store.read("done").sum() < ITEMS * REPLICATES
        collect(store, units(), engine(), writer(store))
        assert_equal(arrays(store), undisturbed)

    def test_a_unit_that_is_partly_there(self, undisturbed):
        store = prepared(None)
        store.write("done", np.array([True, False, True, False]), (3, slice(0, 4)))
        for name in ("final", "state"):
            store.write(name, undisturbed[name][3], (3, slice(0, 4)))
        used, written = engine(), []
        collect(store, units(), used, writer(store, written))
        assert_equal(arrays(store), undisturbed)
        assert {(3, 0), (3, 2)}.isdisjoint(written)
        assert len(written) == ITEMS * REPLICATES - 2

    def test_nothing_to_do(self, undisturbed):
        store = prepared(None)
        collect(store, units(), engine(), writer(store))
        idle = engine()
        collect(store, units(), idle, writer(store))
        assert idle.calls == 0

    def test_progress(self):
        store, told = prepared(None), []
        total = ITEMS * REPLICATES * WALK_STEPS
        collect(store, units(), engine(), writer(store), lambda *numbers: told.append(numbers))
        done = [numbers[0] for numbers in told]
        assert done == sorted(done)
        assert told[0] == (0, total, 0)
        assert told[-1] == (total, total, total)  # one evaluation a step, padding not counted
        assert {numbers[1] for numbers in told} == {total}

    def test_locks_are_given_back(self, tmp_path):
        store = prepared(tmp_path / "run")
        with pytest.raises(ConnectionError):
            collect(store, units(), engine(stop_at=20), writer(store))
        for unit in units():
            lock = store.claim(unit.name)
            assert lock is not None
            lock.release()


def worker(folder, barrier, results):
    """One of several processes that share a run."""
    store, written, used = Store.open(folder), [], engine(pause=0.004)
    barrier.wait()
    collect(store, units(), used, writer(store, written), patience=0.05)
    results.put((written, used.steps, bool(store.read("done").all())))


class TestWorkers:
    def test_two_processes_share_one_run(self, tmp_path, undisturbed):
        store = prepared(tmp_path / "run")
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(2), context.Queue()
        processes = [
            context.Process(target=worker, args=(tmp_path / "run", barrier, results)) for _ in range(2)
        ]
        for process in processes:
            process.start()
        shares = [results.get(timeout=300) for _ in processes]
        for process in processes:
            process.join(300)
            assert process.exitcode == 0
        assert_equal(arrays(store), undisturbed)
        simulated = [address for written, _, _ in shares for address in written]
        assert len(simulated) == len(set(simulated)) == ITEMS * REPLICATES
        assert sum(steps for _, steps, _ in shares) == ITEMS * REPLICATES * WALK_STEPS
        assert all(written for written, _, _ in shares)  # both took part
        assert all(done for _, _, done in shares)  # and each waited for the other

    def test_a_killed_worker_leaves_its_units_to_others(self, tmp_path, undisturbed):
        store = prepared(tmp_path / "run")
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(2), context.Queue()
        process = context.Process(target=worker, args=(tmp_path / "run", barrier, results))
        process.start()
        barrier.wait(300)
        deadline = time.monotonic() + 300
        while not store.read("done").any() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join(300)
        before = store.read("done")
        assert before.any()
        used = engine()
        collect(store, units(), used, writer(store))
        assert_equal(arrays(store), undisturbed)
        assert used.steps == WALK_STEPS * (~before).sum()


def test_exclusive(store):
    order = []

    def second():
        with Store.open(store.folder).exclusive():
            order.append("second")

    thread = threading.Thread(target=second)
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.exclusive())
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
