"""docs/clusters.md does what it says: its commands are accepted, and the scripts on it are those that they print."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from turningpoint.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "clusters.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [block for block in BLOCKS if not block.startswith("#!")]
LINES = [line.strip() for line in TEXT.splitlines() if line.startswith("    turningpoint ")]


@pytest.fixture
def submitted(tmp_path, command):
    """Runs lines of bash, and what they tell ``turningpoint`` here; what it prints."""
    told = tmp_path / "bin" / "turningpoint"
    told.parent.mkdir()
    told.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" > '{tmp_path}/told'\n")
    told.chmod(0o755)

    def run(text):
        environment = os.environ | {"PATH": f"{told.parent}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-euc", text], env=environment, cwd=tmp_path, check=True)
        _, *arguments = (tmp_path / "told").read_bytes().decode().split("\0")[:-1]
        (tmp_path / "told").unlink()
        status, printed, complaint = command("submit", "--print", *(a for a in arguments if a != "--print"))
        assert (status, complaint) == (0, "")
        return printed

    return run


def test_the_scripts_on_the_page_are_what_is_printed(submitted):
    pairs = [(a, b) for a, b in pairwise(BLOCKS) if b.startswith("#!")]
    assert len(pairs) == 2
    assert all("--print" in commands for commands, _ in pairs)
    for commands, script in pairs:
        assert submitted(commands) == script
    slurm, pbs = (script for _, script in pairs)
    assert "\n#SBATCH --array=" in slurm
    assert "\n#PBS -J " in pbs


@pytest.mark.parametrize("text", [*COMMANDS, *LINES])
def test_every_command_is_accepted(submitted, text):
    printed = submitted(text)
    assert printed.startswith("#!/bin/bash\n")
    runs = set(re.findall(r"--out (\S+)", printed))
    readers = re.findall(r"turningpoint (?:compare|onset|report) (.*)", printed)
    read = [word for line in readers for word in line.split()]
    asked = {word for word in read if word.startswith("runs/")} - {"runs/steps"}
    assert asked
    assert asked <= runs  # what is analysed is what was made


def test_every_option_is_told(command):
    command("submit", "--help")  # every command is added to the app by then
    options = {name for parameter in get_command(app).commands["submit"].params for name in parameter.opts}
    told = {name for name in options if name.startswith("--")} - {"--json"}
    assert {"--workers", "--rounds"} < told
    assert {name for name in told if name not in TEXT} == set()
