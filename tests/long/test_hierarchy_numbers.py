"""The tables and statements of docs/hierarchy.md, by its own commands."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

import turningpoint as tp
from turningpoint.theory import theory

PAGE = Path(__file__).parent.parent.parent / "docs" / "hierarchy.md"
TEXT = PAGE.read_text()
NORMAL = 3.92
"""Standard errors that a 95 % interval is wide."""
CERTAIN = 0.975
"""Of bootstrap samples: the 95 % interval leaves zero out."""


def run_by(command, name):
    """The run that the page's commands make in ``runs/NAME``."""
    for line in re.findall(rf"^    turningpoint (.*\b{name}\b.*)$", TEXT, flags=re.M):
        if line.startswith(("statistics", "uturn")):
            status, _, complaint = command(*shlex.split(line))
            assert status == 0, complaint
    return tp.open_run(f"runs/{name}")


def rows(section, edges):
    """Each row of a section's table: its name, and for each edge an estimate with the ends of its interval."""
    text = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for name, row in re.findall(r"^\| `([\w.]+)`[^|]*\|(.*)\|$", text, flags=re.M):
        cells = [[float(v) for v in re.findall(r"-?\d+\.\d+", cell)] for cell in row.split("|")]
        if len(cells[0]) == 3:
            yield name, dict(zip(edges, cells, strict=False))


def check_table(run, section, edges):
    """The same draws on another machine: rounding moves an edge by less than its standard error."""
    seen = 0
    for name, known in rows(section, edges):
        feature = f"layers.{name}.cosine" if f"layers.{name}.cosine" in run.features() else name
        window = run.window(feature).row()
        for edge, (value, low, high) in known.items():
            assert abs(window[edge] - value) < (high - low) / NORMAL, (feature, edge)
            seen += 1
    return seen


def check_digits(run):
    assert check_table(run, "Digits", ("start", "centre", "end")) == 18
    names = ("features.2", "features.5", "features.9", "features.12", "head.2")
    windows = [run.window(f"layers.{name}.cosine") for name in names]
    first, last, known = windows[0], windows[-1], run.window("class")
    width = first.end - first.start
    for window in [*windows[1:], known]:
        assert (window.end - window.start < width)[1:].mean() > CERTAIN
    assert (last.centre < first.centre)[1:].mean() > CERTAIN
    apart = (known.centre - last.centre)[1:]
    assert np.quantile(apart, 0.975) < np.quantile((first.centre - known.centre)[1:], 0.025)
    curves = [
        run.retention(f"layers.{name}.cosine").swap_dims(time="logsnr") for name in (names[0], names[-1])
    ]
    early, logits = (curve.sel(logsnr=0, method="nearest") for curve in curves)
    assert early.high < logits.low
    early, logits = (curve.sel(logsnr=-4, method="nearest") for curve in curves)
    assert early.kept_low > logits.kept_high  # raw cosines
    assert early.low < logits.retention < early.high
    chi = run.susceptibility("layers.features.12.change").swap_dims(time="logsnr")
    inside, outside = (chi.sel(logsnr=level, method="nearest") for level in (-1, 1))
    assert inside.low > outside.high


def check_photographs(run):
    assert check_table(run, "Photographs", ("centre", "end")) == 10
    found = {one.name: one for one in theory(tp.load("empirical:photographs"))}
    window = run.window("class").row()
    for edge in ("centre", "end"):
        exact = found[f"retention.{edge}"]
        error = np.hypot((window[f"{edge}_high"] - window[f"{edge}_low"]) / NORMAL, exact.error)
        assert abs(window[edge] - exact.logsnr) < 4 * error
    same = (abs(run.images - run.start) < 1e-3).all(("channel", "y", "x")).mean(("item", "replicate"))
    some = {
        name: values.swap_dims(time="logsnr").sel(logsnr=-4.5, method="nearest")
        for name, values in (("square", same), ("photograph", run.retention("class").kept))
    }
    assert some["photograph"] == 1
    assert 0.7 < some["square"] < 0.9
    names = [f"layers.{name}.cosine" for name in ("_blocks.0", "_fc", "_blocks.10")]
    order = run.order(names)
    assert (order.loc[names[:2], names[2]] > CERTAIN).all()


@pytest.mark.long
def test_digits(command):
    check_digits(run_by(command, "digits"))


@pytest.mark.long
def test_photographs(command):
    script = runpy.run_path(str(PAGE.parent / "photographs.py"))
    assert script["write"](Path("photographs"), 4, 64) == 80
    check_photographs(run_by(command, "photographs"))
