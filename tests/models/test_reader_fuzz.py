"""Ten thousand damaged checkpoints: none runs anything, ends the interpreter or takes more memory than allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "reading_under_watch.py"
HOSTILE = Path(__file__).parent / "golden" / "edm" / "hostile"


def run(folder, *arguments):
    """What the program printed last, or how it ended; the folder must be as empty of `PWNED` as before."""
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert not (folder / "PWNED").exists()
    return json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else ended.stderr


def test_ten_thousand_mutants_are_read_or_refused(tmp_path):
    told = run(tmp_path, "fuzz", 10_000)
    assert isinstance(told, dict), told
    assert told["returned"] + told["refused"] == 10_000
    assert told["returned"] > 500
    assert len(told["sentences"]) > 25


def test_greedy_streams_stay_within_the_memory_allowed(tmp_path):
    told = run(tmp_path, "greedy")
    assert isinstance(told, dict), told
    assert told["returned"] > 10
    assert told["refused"] > 10
    assert any("more memory" in sentence for sentence in told["sentences"])


def test_the_watch_sees_what_pickle_does(tmp_path):
    assert "audit: " in run(tmp_path, "pickle", HOSTILE / "reduce_os_system.pkl")
    nine_bytes = tmp_path / "nine.pkl"
    nine_bytes.write_bytes(b"\x80\x02Nr\xff\xff\xff\x05.")
    told = run(tmp_path, "pickle", nine_bytes)
    assert "MemoryError" in told if sys.platform == "linux" else told
