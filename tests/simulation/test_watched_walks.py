"""The engine with a probe: what is seen at a call goes to the walk whose call it was; and records that wait on disk."""

import contextlib
import gc
import os

import numpy as np
import pytest
import torch
from worlds import Mixture

from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.sampler import sampler
from turningpoint.diffusion.schedule import VP
from turningpoint.simulation.engine import Engine
from turningpoint.simulation.noise import Address, SeededNoise
from turningpoint.simulation.walk import FromNoise, Record, Walk

NOISE = SeededNoise(5)


class Noticing(Mixture):
    """A mixture that remembers the states it was asked about, and forgets the call if memory runs out."""

    limit = 99

    def forward(self, x_t, t, label=None):
        if len(x_t) > self.limit:
            raise MemoryError("out of memory")
        self.asked = x_t.clone(), t.clone()
        return super().forward(x_t, t)


class Counting:
    """Sees the state, the time, and which rows it was told are new and count."""

    def __init__(self, model):
        self.model, self.told, self.forgotten = model, [], 0

    @contextlib.contextmanager
    def watch(self, rows, fresh, active):
        seen = {}
        yield seen
        x_t, t = self.model.asked
        assert len(x_t) == rows
        self.told.append((fresh.clone(), active.clone()))
        seen["state"] = x_t
        seen["time"] = t[:, None]
        seen["flags"] = torch.stack([fresh, active], 1).float()

    def forget(self):
        self.forgotten += 1


def world():
    return Noticing([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]], std=0.5, weights=[0.7, 0.3])


def walks(count, names, every=1):
    made = []
    for i in range(count):
        times = Grid(6 + i % 3).times(VP())
        kept = tuple(times[:-1:every])
        records = [Record("activation", kept, name) for name in names] + [Record("state", kept, "x")]
        made.append(Walk(Address(i), FromNoise(), times, records=records))
    return made


@pytest.mark.parametrize("method", ["ddim", "heun"])
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_seen_belongs_to_the_walk_whose_call_it_was(method, every):
    model = world()
    engine = Engine(model, sampler(method), NOISE, 4, probe=Counting(model))
    ended = list(engine.simulate(walks(11, ["state", "time", "flags"], every)))
    assert len(ended) == 11
    for finished in ended:
        values, record = finished.values, finished.walk.records[0]
        np.testing.assert_array_equal(values["state"], values["x"])
        np.testing.assert_allclose(values["time"][:, 0], record.times, rtol=1e-6)
        # new at its first call only, and what is recorded is never a second phase
        assert values["flags"][:, 0].tolist() == [1.0] + [0.0] * (len(record.times) - 1)
        assert values["flags"][:, 1].all()


def test_second_phases_and_padding_do_not_count():
    model = world()
    probe = Counting(model)
    engine = Engine(model, sampler("heun"), NOISE, 4, probe=probe)
    list(engine.simulate(walks(1, ["time"])))
    active = torch.stack([rows for _, rows in probe.told])
    assert not active[:, 1:].any()
    assert int(active.sum()) == 6  # of 2 x 6 - 1 calls: every step's first
    assert len(active) == 11


def test_rows_that_move_are_forgotten_by_the_probe():
    model = world()
    model.limit = 3
    probe = Counting(model)
    engine = Engine(model, sampler("ddim"), NOISE, 8, probe=probe)
    ended = list(engine.simulate(walks(5, ["state"])))
    assert engine.batch == 2
    assert probe.forgotten == 3  # at the start, and at each halving
    for finished in ended:
        np.testing.assert_array_equal(finished.values["state"], finished.values["x"])


def test_a_walk_that_waited_is_new_to_the_row_that_it_takes():
    """Else what changed since its last step would be told from the walk that had the row before."""
    model = world()
    model.limit = 5
    probe = Counting(model)
    asked = model.forward

    def forward(x_t, t, label=None):  # memory runs out at the third call
        model.limit = 5 if len(probe.told) < 2 else 3
        return asked(x_t, t)

    model.forward = forward
    engine = Engine(model, sampler("ddim"), NOISE, 5, probe=probe)
    ended = {f.walk.address.item: f.values for f in engine.simulate(walks(5, ["state", "flags"]))}
    assert engine.batch == 2
    flags = np.concatenate([values["flags"][:, 0] for values in ended.values()])
    assert flags.sum() == 10  # once at its start, and once when it went on
    for values in ended.values():
        np.testing.assert_array_equal(values["state"], values["x"])


def test_many_arrays_on_disk_take_few_handles(tmp_path, monkeypatch):
    import turningpoint.simulation.scratch as scratch

    monkeypatch.setattr(scratch, "FILE", 2**10)
    before = len(os.listdir("/proc/self/fd"))
    room = scratch.Scratch(tmp_path)
    kept = [room.full((3, k), k, np.float32) for k in range(1, 40)]
    assert len(os.listdir("/proc/self/fd")) <= before + sum(a.nbytes + 64 for a in kept) // 2**9
    for k, array in enumerate(kept, 1):
        assert array.shape == (3, k)
        assert (array == k).all()
    large = room.full((2**9,), 1, np.float64)
    assert large.sum() == 2**9
    del kept, large, array, room
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_records_that_wait_on_disk_are_the_same_and_leave_nothing(tmp_path):
    in_memory = {
        f.walk.address: f.values for f in Engine(world(), sampler("heun"), NOISE, 4).simulate(walks(9, []))
    }
    before = len(os.listdir("/proc/self/fd"))
    engine = Engine(world(), sampler("heun"), NOISE, 4, scratch=tmp_path)
    on_disk = {f.walk.address: f.values for f in engine.simulate(walks(9, []))}
    for address, values in in_memory.items():
        assert isinstance(on_disk[address]["x"], np.memmap)
        np.testing.assert_array_equal(on_disk[address]["x"], values["x"])
    assert list(tmp_path.iterdir()) == []
    del on_disk, engine, address, values
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_an_unknown_record_is_refused(refuses):
    with refuses("record is 'feeling'.*state, estimate, activation"):
        Record("feeling", (0.5,))
