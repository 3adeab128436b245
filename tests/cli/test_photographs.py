"""Real photographs offline: the commands of docs/hierarchy.md on few pictures and times, and on a broken one."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from picture_sets import picture
from skimage import data

import turningpoint as tp

PAGE = Path(__file__).parent.parent.parent / "docs" / "hierarchy.md"
TEXT = PAGE.read_text()
LINES = [
    line.strip()
    for line in TEXT.splitlines()
    if line.startswith("    turningpoint ") and "photographs" in line
]
PHOTOGRAPHS = runpy.run_path(str(PAGE.parent / "photographs.py"))
SMALLER = [
    (r"--logsnr=\S+", "--logsnr=-10,-5,2"),
    (r"--steps \d+", "--steps 5"),
    (r"(statistics .*)--out", r"\1--layers _blocks.0 --layers _fc --out"),
]


def smaller(line):
    for pattern, text in SMALLER:
        line = re.sub(pattern, text, line)
    return shlex.split(line)[1:]


@pytest.fixture
def photographs(tmp_path):
    """Two squares of each, opposite corners of those that ``photographs.py photographs --side 2 --size 32`` writes."""
    assert PHOTOGRAPHS["write"](tmp_path / "photographs", 2, 32) == 20
    for square in [*tmp_path.glob("photographs/*/01.png"), *tmp_path.glob("photographs/*/10.png")]:
        square.unlink()
    return tmp_path / "photographs"


@pytest.fixture
def desk(command):
    def run(*arguments):
        status, out, complaint = command(*arguments)
        assert status == 0, f"{arguments}: {complaint}"
        return out

    return run


def test_the_photographs_are_what_they_say(photographs):
    assert sorted(path.name for path in photographs.iterdir()) == sorted(PHOTOGRAPHS["PHOTOGRAPHS"])
    points, labels = tp.load(f"empirical:{photographs}").starting_images()
    assert points.shape == (10, 3, 32, 32)
    assert np.bincount(labels).tolist() == [2] * 5
    # a photograph's first square is its upper left corner, three quarters as high
    whole = data.chelsea()
    corner = whole[:225, :225].astype(float).reshape(15, 15, 15, 15, 3).mean((1, 3))
    square = np.asarray(picture(((points[2].numpy() + 1) * 127.5).round().astype(np.uint8)).resize((15, 15)))
    assert np.corrcoef(corner.ravel(), square.ravel())[0, 1] > 0.95


@pytest.mark.usefixtures("photographs")
def test_photographs_from_pictures_to_a_report(desk):
    kinds = [shlex.split(line)[1] for line in LINES]
    assert kinds == ["statistics", "uturn", "theory", "windows", "report"]
    for line in LINES[:2]:
        desk(*smaller(line))
    run = tp.open_run("runs/photographs")
    assert run.images.shape == (10, 1, 3, 3, 32, 32)
    assert {"class", "classifier.top1", "classifier.top5", "classifier.logits"} <= set(run.features())
    layers = [
        f"layers.{name}.{kind}" for name in ("_blocks.0", "_fc") for kind in ("cosine", "l2", "l2_normalised")
    ]
    assert set(layers) <= set(run.features())
    assert run.maps() == ["layers._blocks.0.change"]

    # an exact denoiser of few points ends on one of them, the nearest if there is little noise
    ends, starts = run.images.values[:, 0], run.start.values
    distances = np.abs(ends[:, :, None] - starts).reshape(10, 3, 10, -1).max(-1)
    assert distances.min(-1).max() < 1e-3
    for feature in ("class", "classifier.top1", *layers[:1], *layers[3:4]):
        curve = run.retention(feature).sortby("logsnr")
        assert curve.retention[-1].item() == pytest.approx(1, abs=1e-4), feature
        assert curve.high[0].item() < 0.9, feature
    kept = run.retention("class").sortby("logsnr")
    assert (np.diff(kept.kept) > 0).all()
    assert kept.kept_low[0].item() < 0.5

    for line in LINES[3:]:
        assert desk(*smaller(line))
    drawn = pd.read_csv("runs/photographs/figures/layers.csv")
    assert set(drawn.layer) == {"_blocks.0", "_fc"}
    for name in ("layers", "timeline"):
        assert Path(f"runs/photographs/figures/{name}.svg").stat().st_size > 1000
    desk(*smaller(LINES[2]), "--json")


def test_a_broken_photograph_is_named_and_left_out_if_told(photographs, command):
    broken = photographs / "coffee" / "00.png"
    broken.write_bytes(broken.read_bytes()[:300])
    good = PHOTOGRAPHS["PHOTOGRAPHS"]["rocket"]
    np.save("points.npy", np.ascontiguousarray(good()[:32, :32].transpose(2, 0, 1))[None])
    for line in (
        "uturn empirical:points.npy --images photographs --times 0.2 --steps 2 --out runs/all",
        "statistics --classifier efficientnet-lite0 --images photographs --layers _blocks.0 --out all.zarr",
    ):
        status, _, complaint = command(*line.split())
        assert status
        assert "coffee" in complaint
        assert "00.png" in complaint
        status, out, complaint = command(*line.split(), "--skip-bad", "--json")
        assert "left out" in complaint
        assert not status
        said = json.loads(out)
        assert len(said["skipped"]) == 1
        assert "00.png" in said["skipped"][0]
        assert said["images"] == 9 if "images" in said else said["sizes"]["item"] == 9
