"""A trace's memory does not grow with the number of trajectories, nor with their steps."""

from __future__ import annotations

import os
import subprocess
import sys

MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back to the system: counted is what is in use, not what an allocator keeps for another time."""

PEAKS = """
import importlib
import sys
import threading
import time
from pathlib import Path
import torch
import turningpoint as tp

torch.set_num_threads(1)
trace, along = (importlib.import_module(f"turningpoint.experiments.{name}") for name in ("trace", "along"))
trace.UNIT = trace.IN_MEMORY = along.BYTES = 2**20
peak, watching = 0, True


def anonymous():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


def watch():
    global peak
    while watching:
        peak = max(peak, anonymous())
        time.sleep(0.001)


class Still(torch.nn.Module):
    schedule, shape = tp.VP(), (3, 48, 48)

    def forward(self, x_t, t):
        return self.schedule.alpha(t)[:, None, None, None] * x_t


def traced(items, steps, out):
    global peak
    run = tp.trace(Still(), items, steps=steps, sampler="euler", measures=["color", "gain"], batch=4, out=out,
                   progress=None)
    assert run.store.read("readings/color/estimate.contrast").shape == (items, steps)
    assert run.items == items


threading.Thread(target=watch, daemon=True).start()
traced(4, 8, sys.argv[1] + "/first")  # what is loaded once
for items, steps in ((4, 8), (64, 16), (4, 256)):
    peak = 0
    begun = anonymous()
    traced(items, steps, f"{sys.argv[1]}/run{items}x{steps}")
    print(items, steps, max(peak, anonymous()) - begun)
"""


def test_memory_grows_neither_with_trajectories_nor_with_steps(tmp_path):
    """32 times as many estimates take less memory than a quarter of what they are as floats."""
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(tmp_path)], capture_output=True, text=True, check=False,
        env=os.environ | MALLOC,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    few, *many = (int(line.split()[-1]) for line in done.stdout.splitlines())
    for peak in many:
        assert peak - few < (4 * 256 - 4 * 8) * 3 * 48 * 48 * 4 / 4, done.stdout
