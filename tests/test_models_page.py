"""docs/models.md does what it says: its Python runs from top to bottom, its formats and commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from turningpoint.models import MODELS

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
GOLDEN = Path(__file__).parent / "models" / "golden"
BLOCKS = re.findall(r"```python( file=\S+)?\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A working directory with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copy(GOLDEN / "edm" / "ddpmpp_edm.pkl", "net.pkl")
    shutil.copy(GOLDEN / "guided-diffusion" / "uncond16.pt", "net.pt")
    shutil.copytree(GOLDEN / "symmetry_breaking" / "workdir", "workdir")
    shutil.copytree(GOLDEN / "critical-windows" / "tiny_sd", "sd")
    Path("photos").mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{k}.png")
    yield tmp_path
    sys.modules.pop("my_model", None)


def test_its_python_runs(shelf):
    names: dict[str, object] = {}
    assert len(BLOCKS) >= 8
    for where, text in BLOCKS:
        if where:
            Path(where.removeprefix(" file=")).write_text(text)
        else:
            exec(compile(text, f"{PAGE.name}: {text.splitlines()[0]}", "exec"), names)
    assert names["run"].complete


def test_its_commands_run(shelf, command):
    Path("my_model.py").write_text(next(text for where, text in BLOCKS if where))
    lines = [
        line.partition("#")[0]
        for line in PAGE.read_text().splitlines()
        if line.startswith("    turningpoint ")
    ]
    lines = [line for line in lines if "diffusers:" not in line and "my_module" not in line]
    assert len(lines) >= 7
    Path("photos").rename("photos16")
    for line in lines:
        pictures = "photos32" if "python:" in line else "photos16"
        if pictures == "photos32":
            Path(pictures).mkdir(exist_ok=True)
            Image.new("RGB", (32, 32)).save(f"{pictures}/0.png")
        arguments = [pictures if a == "photos" else a for a in shlex.split(line)[1:]]
        status, _, complaint = command(*arguments)
        assert status == 0, f"{line}: {complaint}"


def test_every_scheme_is_on_it():
    text = PAGE.read_text()
    assert [name for name in MODELS.names() if not re.search(rf'[`" ]{name}[:?` ]', text)] == []
