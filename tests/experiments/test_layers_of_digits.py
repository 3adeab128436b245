"""The hierarchy in the layers of digits' own classifier, on fewer images than docs/hierarchy.md has, and other ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import turningpoint as tp

PAGE = Path(__file__).parent.parent.parent / "docs" / "hierarchy.md"
FIRST, LOGITS = "layers.features.2.cosine", "layers.head.2.cosine"
LEVELS = [-6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0]
CERTAIN = 0.975
"""Of bootstrap samples: the 95 % interval leaves zero out."""
NORMAL = 3.92
"""Standard errors that a 95 % interval is wide."""


@pytest.fixture(scope="module")
def run():
    images, labels = tp.load("digits").starting_images()
    assert labels is not None
    others = images[128:168].numpy()  # the page has the first 128
    return tp.uturn("digits", others, logsnr=LEVELS, steps=20, progress=None).measure("layers", "class")


def at(run, feature, level):
    """Retention at a level, and its bootstrap samples."""
    order = np.argsort(run.store.read("t"))
    place = np.flatnonzero(np.isclose(run.store.read("logsnr")[order], level)).item()
    return run.curve(feature).retention[:, place]


def errors_from_zero(samples):
    """An estimate in standard errors; its bootstrap samples follow it."""
    return samples[0] / samples[1:].std()


def on_the_page(feature, edge):
    """A number in the page's table of digits, and its standard error."""
    name = feature.removeprefix("layers.").removesuffix(".cosine")
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", PAGE.read_text(), flags=re.M)
    cell = row.split("|")[["start", "centre", "end"].index(edge)]
    value, low, high = map(float, re.findall(r"-?\d+\.\d+", cell))
    return value, (high - low) / NORMAL


@pytest.mark.parametrize("feature", [FIRST, LOGITS, "class"])
@pytest.mark.parametrize("edge", ["centre", "end"])
def test_windows_are_those_of_the_page(run, feature, edge):
    samples = getattr(run.window(feature), edge)
    known, error = on_the_page(feature, edge)
    assert abs(samples[0] - known) < 4 * np.hypot(samples[1:].std(), error)


def test_early_layers_decay_while_the_logits_still_hold(run):
    for level in (0.0, 1.0):
        assert errors_from_zero(at(run, LOGITS, level) - at(run, FIRST, level)) > 4


def test_the_logits_are_decided_before_the_early_layers_and_with_the_class(run):
    centre = {feature: run.window(feature).centre for feature in (FIRST, LOGITS, "class")}
    assert run.order([FIRST, LOGITS]).loc[LOGITS, FIRST] > CERTAIN
    assert abs(errors_from_zero(centre["class"] - centre[LOGITS])) < 4


def test_the_window_closes_faster_for_the_logits(run):
    first, last = run.window(FIRST), run.window(LOGITS)
    assert errors_from_zero((first.end - first.centre) - (last.end - last.centre)) > 4


def test_what_early_layers_keep_beyond_the_window_strangers_have_too(run):
    """Raw cosines of early layers stay above those of the logits, but not above chance."""
    order = np.argsort(run.store.read("t"))
    far = np.flatnonzero(np.isclose(run.store.read("logsnr")[order], -6.0)).item()
    first, last = run.curve(FIRST), run.curve(LOGITS)
    assert errors_from_zero(first.kept[:, far] - last.kept[:, far]) > 4
    assert abs(errors_from_zero(first.retention[:, far])) < 4


def test_maps_of_changes_have_a_susceptibility(run):
    maps = run.maps()
    assert maps == [f"layers.features.{place}.change" for place in (2, 5, 9, 12)]
    chi = run.susceptibility(maps[-1]).sortby("logsnr")
    assert (chi.susceptibility > 1).all()
    inside = chi.susceptibility.values[np.isin(np.round(chi.logsnr.values), [-3, -2, -1])]
    before = chi.isel(time=np.flatnonzero(np.round(chi.logsnr.values) == 2))
    assert inside.max() > float(before.high.item())
