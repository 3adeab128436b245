"""docs/hierarchy.md does what it says: its other commands and its Python run, on few pictures and times.

The commands with photographs are in ``cli/test_photographs.py``; the numbers in ``long/test_hierarchy_numbers.py``.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from picture_sets import noise, picture, png, table

import turningpoint as tp

PAGE = Path(__file__).parent.parent / "docs" / "hierarchy.md"
TEXT = PAGE.read_text()
LINES = [line.strip() for line in TEXT.splitlines() if line.startswith("    turningpoint ")]
ADM = Path(__file__).parent / "models" / "golden" / "guided-diffusion" / "uncond16.pt"
SMALLER = [
    (r"--logsnr=\S+", "--logsnr=-10,-4.5,2"),
    (r"--steps \d+", "--steps 5"),
    (r"--items \d+", "--items 3"),
    (r"--per-class \d+", "--per-class 1"),
    (r"--native \S+", "--native 99,999"),
    ("torchvision:convnext_base", "efficientnet-lite0"),
    ("adm:256x256_diffusion_uncond.pt", f"adm:{ADM}"),
    ("--statistics photographs.zarr", "--layers _blocks.0 --layers _blocks.10 --layers _fc"),
]


def lines(word):
    """The page's lines with a word, as arguments, in small; a report is drawn in ``cli/test_photographs.py``."""
    found = [line for line in LINES if word in line and " report " not in line]
    for pattern, text in SMALLER:
        found = [re.sub(pattern, text, line) for line in found]
    return [shlex.split(line)[1:] for line in found]


@pytest.fixture
def desk(command):
    def run(arguments):
        status, _, complaint = command(*arguments)
        assert status == 0, f"{arguments}: {complaint}"

    return run


def test_its_lines_with_imagenet(desk):
    folder = Path("ILSVRC2012/validation")
    folder.mkdir(parents=True)
    for k, synset in enumerate(["n01440764", "n01751748", "n01440764"]):
        (folder / f"ILSVRC2012_val_{k:08}_{synset}.JPEG").write_bytes(png(noise(k, 20, 24)))
    assert [line[0] for line in lines("imagenet")] == ["statistics", "uturn", "measure", "windows"]
    for line in lines("imagenet"):
        desk(line)
    run = tp.open_run("runs/imagenet")
    assert run.images.shape == (2, 1, 2, 3, 16, 16)
    assert run.data.label.values.tolist() == [0, 65]  # of the thousand, the numbers of these two synsets
    assert {"classifier.top1", "layers._blocks.15.cosine", "layers._fc.cosine"} <= set(run.features())


def test_its_lines_with_a_parquet(desk):
    images = [{"bytes": png(noise(k, 32, 32)), "path": None} for k in range(6)]
    table(Path("cifar10.parquet"), images, names=["cat", "dog"], label=[0, 1, 0, 1, 0, 1])
    for line in lines("cifar"):
        desk(line)
    run = tp.open_run("runs/cifar")
    assert run.data.label.values.tolist() == [0, 1]
    assert {"layers._blocks.7.cosine", "layers.logits.cosine", "class"} <= set(run.features())


def test_its_lines_with_digits_and_its_python(desk):
    for k, name in enumerate(["cat", "coffee", "coffee"]):
        Path("photographs", name).mkdir(parents=True, exist_ok=True)
        picture(noise(k, 16, 16)).save(f"photographs/{name}/{k}.png")
    for line in [*lines("runs/digits"), *lines("uturn empirical:photographs")]:
        desk(line)
    names: dict[str, object] = {}
    for text in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S):
        exec(compile(text, PAGE.name, "exec"), names)
    assert names["same"].shape == (3,)
    assert names["width"]["last"].shape == (1001,)
    assert names["peak"].susceptibility.shape == ()


def test_every_line_is_run_by_a_test():
    words = ("imagenet", "photographs", "cifar", "runs/digits")
    assert all(sum(word in line for word in words) == 1 for line in LINES)
