"""The memory of a whole trace: 256 digits x 100 steps, all measures and the decoder's activations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back to the system: counted is what is in use, not what an allocator keeps for another time."""

PEAK = """
import sys
from pathlib import Path
import turningpoint as tp

MEASURES = "frequency,gain,structure,texture,lab,color,wavelet,spectrum,class"
run = tp.trace("digits", 256, measures=MEASURES, activations="up_blocks.*", steps=100, out=sys.argv[1], progress=None)
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
assert (run.items, len(run.t)) == (256, 100)
assert sorted(run.measured()) == sorted(MEASURES.split(","))
print(peak)  # kB, since this program began
"""


@pytest.mark.long
def test_a_trace_of_25600_estimates_takes_less_than_two_gibibytes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "run")], capture_output=True, text=True, check=False,
        env=os.environ | MALLOC,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert int(done.stdout) * 1024 < 2 * 2**30
