"""docs/measures.md does what it says: its commands and its Python run, and every measure is on it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.io import imsave
from tiny_clip import tiny_clip, tiny_dinov2

import turningpoint as tp
from turningpoint.measures import MEASURES

PAGE = Path(__file__).parent.parent / "docs" / "measures.md"
LINES = [
    line.partition("  #")[0] for line in PAGE.read_text().splitlines() if line.startswith("    turningpoint ")
]
FEWER = {"--items": "3", "--generate": "3", "--steps": "2", "--times": "0.3,0.8"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {
        "openai/clip-vit-base-patch32": tiny_clip(folder / "clip"),
        "facebook/dinov2-base": tiny_dinov2(folder / "dino"),
    }


def smaller(line: str, networks) -> list[str]:
    """The arguments of a line, with fewer images and steps, and tiny networks in the place of the hub's."""
    words = shlex.split(line)[1:]
    words = [FEWER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return [str(networks.get(word, word)).replace("size=64", "size=24") for word in words]


def test_its_commands_and_its_python_run(command, networks):
    Path("photos").mkdir()
    for name in ("astronaut", "chelsea"):
        imsave(
            f"photos/{name}.png", np.ascontiguousarray(getattr(data, name)()[::8, ::8]), check_contrast=False
        )
    assert len(LINES) >= 15
    for line in LINES:
        status, _, complaint = command(*smaller(line, networks))
        assert status == 0, f"{line}: {complaint}"
    run = tp.open_run("runs/photos")
    assert {"clip.color", "clip.background", "dino", "palette.dominant", "classifier.top1"} <= set(
        run.features()
    )
    assert run.susceptibility("clip.patches").susceptibility.shape == (2,)
    for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S):
        exec(compile(text, PAGE.name, "exec"), {})


def test_every_measure_has_a_section():
    sections = set(re.findall(r"^## (\w+)$", PAGE.read_text(), flags=re.M))
    assert set(MEASURES.names()) <= sections
