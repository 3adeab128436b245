"""docs/text-to-image.md does what it says: its commands and its Python run, on tiny networks and few images."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_clip import tiny_clip
from tiny_pipelines import tiny_sd

import turningpoint as tp

PAGE = Path(__file__).parent.parent / "docs" / "text-to-image.md"
TEXT = PAGE.read_text()
LINES = [line for line in TEXT.splitlines() if line.startswith("    turningpoint ")]
FEWER = {"--generate": "2", "--steps": "10", "--times": "0.1,0.5,0.9"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    tiny_sd(folder / "sd")
    tiny_clip(folder / "clip")
    return folder


def smaller(line, networks):
    """The arguments of a line, with fewer images, times and steps, and tiny networks in the place of the hub's."""
    words = shlex.split(line)[1:]
    simulated = words[0] in ("uturn", "clone")
    words = [
        FEWER.get(before, word) if simulated else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    tiny = {
        "diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5": f"diffusers:{networks / 'sd'}",
        "openai/clip-vit-base-patch32": str(networks / "clip"),
    }
    return [tiny.get(word, word) for word in words]


def test_its_commands_and_its_python_run(command, networks):
    Path("photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 3), dtype=np.uint8)
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"photos/{k}.png")
    assert [shlex.split(line)[1] for line in LINES] == [
        *("uturn", "uturn", "clone", "measure", "measure", "measure"),
        *("windows", "report", "report", "export", "export"),
    ]
    for line in LINES:
        status, _, complaint = command(*smaller(line, networks))
        assert status == 0, f"{line}: {complaint}"
    assert {"clip.color", "clip.background", "color.mean"} <= set(tp.open_run("runs/car").features())
    assert len(list(Path("files").glob("*.png"))) == 2 + 2 * 2 * 3
    assert len(list(Path("exact").glob("*.npy"))) == 2 + 2 * 2
    (text,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    names: dict[str, object] = {}
    exec(compile(text.replace("generated-10", "generated-2"), PAGE.name, "exec"), names)
    assert names["path"].shape == (2, 11, 4, 8, 8)
    assert "clip.color" in names["table"]
    own = tp.open_run("runs/own").measure("pixels", progress=None)
    assert own.retention("pixels").round_trip > 0


def test_its_sums():
    """The cost of the clones, by the arithmetic that the page gives."""
    line = next(line for line in LINES if " clone " in line)
    words = shlex.split(line)
    told = dict(itertools.pairwise(words))
    n, copies, steps = (int(told[f"--{name}"]) for name in ("generate", "replicates", "steps"))
    first, last, count = told["--times"].split(":")
    left = sum(round(steps * t) for t in np.linspace(float(first), float(last), int(count)))
    assert f"{n} x ({steps} + {copies} x {left}) = {n * (steps + copies * left):,} steps" in TEXT
    assert f"{n * steps * (1 + copies * int(count)):,} if every clone came" in TEXT.replace("\n", " ")
