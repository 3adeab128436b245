"""docs/trace.md does what it says: its commands and its Python run, on few trajectories and steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny_pipelines import tiny_sd

import turningpoint as tp

PAGE = Path(__file__).parent.parent / "docs" / "trace.md"
TEXT = PAGE.read_text()
LINES = [line.strip() for line in TEXT.splitlines() if line.startswith("    turningpoint ")]
SMALLER = [(r"--generate \d+", "--generate 6"), (r"--steps \d+", "--steps 4"), ("FOLDER", "sd")]


def smaller(text):
    for pattern, less in SMALLER:
        text = re.sub(pattern, less, text)
    return text


def test_its_commands_run_one_after_the_other(command, tmp_path):
    tiny_sd(tmp_path / "sd")
    assert [shlex.split(line)[1] for line in LINES] == [
        "trace",
        "onset",
        "onset",
        "trace",
        "patch",
        "trace",
        "compare",
    ]
    for line in LINES:
        arguments = shlex.split(smaller(line))[1:]
        if arguments[0] == "patch":
            arguments += ["--generate", "6", "--steps", "8"]
        status, _, complaint = command(*arguments)
        assert status == 0, f"{line}: {complaint}"
    assert (tmp_path / "runs" / "trace" / "report.html").is_file()
    red = tp.open_trace(tmp_path / "runs" / "red", f"diffusers:{tmp_path / 'sd'}")
    values, _, summaries = red.activation_summaries()
    assert (values[..., summaries.index("contrast")] > 0).all()


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    known: dict[str, object] = {}
    few = blocks[0].replace("(18, 40, 80, 160)", "(18,)").replace('"field", 256', '"field?size=8", 8')
    exec(few, known)
    assert capsys.readouterr().out.startswith("18 4.48%")
    exec(blocks[1].replace("16, measures", "6, measures").replace("steps=20", "steps=5"), known)


@pytest.mark.parametrize("name", re.findall(r"\]\(([\w./-]+)\)", TEXT))
def test_its_links_lead_somewhere(name):
    assert (PAGE.parent / name).exists()
