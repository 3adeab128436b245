"""A run survives SIGKILL at any moment, a full disk, Ctrl-C, NaN; several workers share one."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest
import torch
from worlds import Mixture

import turningpoint as tp


def _world():
    means = torch.zeros(2, 8)
    means[0, 0], means[1, 0] = 2.0, -2.0
    return Mixture(means, std=0.5)


def _turn(out, world=None, **settings):
    x, _ = _world().sample(150, seed=5)
    settings = {
        "times": [0.2, 0.5, 0.8],
        "replicates": 2,
        "steps": 40,
        "batch": 32,
        "progress": None,
    } | settings
    return tp.uturn(world or _world(), x, out=out, **settings)


def _in_child(work, kill_after=None):
    """Run ``work`` in a forked process, killed with SIGKILL after some seconds; its exit code or -signal."""
    child = os.fork()
    if child == 0:
        try:
            if kill_after is not None:
                threading.Timer(kill_after, os.kill, (os.getpid(), signal.SIGKILL)).start()
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_killed_at_twenty_random_moments(tmp_path):
    undisturbed = _turn(None)
    begun = time.monotonic()
    assert _in_child(lambda: _turn(tmp_path / "timed")) == 0
    whole = time.monotonic() - begun
    moments, kills, calls = random.Random(0), 0, 0
    while kills < 20 and calls < 200:
        calls += 1
        # a run that has ended before its kill begins afresh in another folder
        out = tmp_path / f"run{calls - kills}"
        if _in_child(lambda out=out: _turn(out).measure("class"), moments.uniform(0.02, 0.4) * whole) != 0:
            kills += 1
    assert kills == 20
    for out in tmp_path.glob("run*"):
        run = _turn(out)
        assert run.complete
        np.testing.assert_array_equal(run.images.values, undisturbed.images.values)
        np.testing.assert_array_equal(run.start.values, undisturbed.start.values)
        expected = undisturbed.measure("class").windows()
        assert run.measure("class").windows().equals(expected)


def test_two_processes_share_one_run(tmp_path):
    alone = _turn(None)
    script = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "import experiments_of_survival as e; e.shared(sys.argv[1])\n"
    )
    path = tmp_path / "experiments_of_survival.py"
    path.write_text(
        "import test_survival, torch\n"
        "def shared(out):\n"
        "    torch.set_num_threads(1)\n"
        "    run = test_survival._turn(out)\n"
        "    assert run.complete\n"
    )
    here = os.pathsep.join(
        [str(tmp_path), os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    )
    environment = os.environ | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], env=environment)
        for _ in range(2)
    ]
    assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    np.testing.assert_allclose(_turn(tmp_path / "run").images.values, alone.images.values, atol=1e-5)


def test_ctrl_c_leaves_a_run_that_continues(tmp_path):
    class Interrupting(Mixture):
        calls = 0

        def forward(self, x_t, t, label=None):
            type(self).calls += 1
            if type(self).calls == 200:
                raise KeyboardInterrupt
            return super().forward(x_t, t)

    world = _world()
    stops = Interrupting(world.means, world.std)
    stops.fingerprint_config = world.fingerprint_config
    with pytest.raises(KeyboardInterrupt):
        _turn(tmp_path, stops)
    done = tp.open_run(tmp_path, world).store.read("done")
    assert 0 < done.sum() < done.size
    run = _turn(tmp_path)
    np.testing.assert_array_equal(run.images.values, _turn(None).images.values)


def test_nan_stops_with_the_walk_and_the_time(tmp_path, refuses):
    class Breaking(Mixture):
        def forward(self, x_t, t, label=None):
            x_0 = super().forward(x_t, t)
            return torch.where(((t > 0.45) & (t < 0.5))[:, None], torch.nan, x_0)

    world = _world()
    breaks = Breaking(world.means, world.std)
    with refuses(
        r"returned NaN or an infinite number at t = 0.475, in the walk of item \d+", tp.SimulationError
    ):
        _turn(tmp_path, breaks)
    kept = tp.open_run(tmp_path, breaks).store.read("done")
    assert not kept[:, :, 1:].any()  # U-turns at 0.5 and 0.8 pass the bad times


def test_full_disk_is_a_sentence_and_the_run_continues(tmp_path, monkeypatch, refuses):
    import zarr.storage._local as local

    write, left = local._put, 40

    def full(path, value, *arguments, **settings):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, value, *arguments, **settings)

    monkeypatch.setattr(local, "_put", full)
    with refuses("is full", tp.SimulationError):
        _turn(tmp_path)
    monkeypatch.setattr(local, "_put", write)
    before = tp.open_run(tmp_path, _world()).store.read("done").sum()
    assert before > 0
    np.testing.assert_array_equal(_turn(tmp_path).images.values, _turn(None).images.values)


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(tmp_path):
    class Small(Mixture):
        def forward(self, x_t, t, label=None):
            if len(x_t) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x_t, t)

    world = _world()
    run = _turn(tmp_path, Small(world.means, world.std))
    np.testing.assert_allclose(run.images.values, _turn(None).images.values, atol=1e-5)
