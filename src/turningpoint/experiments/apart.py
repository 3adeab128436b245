r"""How far two runs are apart: the growth of their features, their final images, what their layers do.

Growth is laid on a common grid of log-SNR by linear interpolation between recorded times.  Where items are paired,
both runs are estimated under the same bootstrap draws, so that what items owe to their noise cancels in the band of
the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..statistics.association import FEWEST
from ..statistics.bootstrap import interval, weights
from ..statistics.growth import Series, pooled_growth
from ..statistics.paired import difference
from .subjects import Shared, Subject

MOST_IMAGES = 256
"""Pairs whose final images are compared; all against all."""


def on_grid(curves: np.ndarray, logsnr: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Curves (..., T) on a grid within their range: (..., G), linear between recorded times."""
    known = np.isfinite(logsnr)
    axis, values = logsnr[known], curves[..., known]
    right = np.clip(np.searchsorted(axis, grid, side="right"), 1, len(axis) - 1)
    left = right - 1
    share = (grid - axis[left]) / (axis[right] - axis[left])
    a, b = values[..., left], values[..., right]
    mixed: np.ndarray = np.where(
        share == 0, a, np.where(share == 1, b, a + share * (b - a))
    )  # a gap stays beside it
    return mixed


def _with_band(samples: np.ndarray) -> dict[str, np.ndarray]:
    """The first row of bootstrap samples with the 95 % band of the others; NaN where it is NaN."""
    low, high = interval(samples[1:])
    gap = np.isnan(samples[0])
    return {"low": np.where(gap, np.nan, low), "high": np.where(gap, np.nan, high)}


def growth_on(one: Subject, read: Sequence[Series], grid: np.ndarray) -> pd.DataFrame:
    counts, parts = weights(len(one)), []
    for series in read:
        samples = on_grid(pooledgrowth_on(series, counts), one.logsnr, grid)
        columns = {"feature": series.feature, "label": series.label, "logsnr": grid, "growth": samples[0]}
        parts.append(pd.DataFrame(columns | _with_band(samples)))
    return pd.concat(parts, ignore_index=True)


def growth_apart(
    first: Subject,
    read: Sequence[Series],
    other: Subject,
    again: Sequence[Series],
    pairs: Shared,
    grid: np.ndarray,
) -> pd.DataFrame:
    """Growth in the other run less growth in the first: of the pairs, under equal draws, or of all items."""
    parts = []
    counts = (weights(len(pairs.first)),) * 2 if pairs else (weights(len(first)), weights(len(other), seed=1))
    for a, b in zip(read, again, strict=True):
        sides = (_only(a, pairs.first), _only(b, pairs.second)) if pairs else (a, b)
        before, after = (
            on_grid(pooledgrowth_on(series, drawn), one.logsnr, grid)
            for series, drawn, one in zip(sides, counts, (first, other), strict=True)
        )
        columns = {"feature": a.feature, "label": a.label, "logsnr": grid, "difference": after[0] - before[0]}
        parts.append(pd.DataFrame(columns | _with_band(after - before)))
    return pd.concat(parts, ignore_index=True)


def _only(series: Series, places: np.ndarray) -> Series:
    return replace(series, values=series.values[places], final=series.final[places])


def images_apart(first: Subject, other: Subject, pairs: Shared) -> pd.DataFrame:
    """How far paired final images are apart; nothing if there are no pairs or no images of one shape."""
    if not pairs or first.images is None or other.images is None:
        return pd.DataFrame()
    count = min(len(pairs.first), MOST_IMAGES)
    a, b = first.images(pairs.first[:count]), other.images(pairs.second[:count])
    if a.shape != b.shape:
        return pd.DataFrame()
    x, y = (z.reshape(count, -1).astype(np.float64) for z in (a, b))
    distance = np.stack(
        [np.sqrt(np.mean((x - row) ** 2, axis=1)) for row in y]
    )  # (count, count), partners on the diagonal
    own = np.diagonal(distance)
    strangers = distance[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    found = {"items": count, "distance": np.median(own), "strangers": np.median(strangers)}
    return pd.DataFrame([found | {"nearest": float((own < strangers.min(1)).mean())}])


def activations_apart(
    first: Subject, others: Sequence[Subject], company: Sequence[Shared]
) -> tuple[pd.DataFrame, list[str]]:
    """What the layers do otherwise than in the first run, and why nothing can be said of a run."""
    parts, notes = [], []
    for other, pairs in zip(others, company, strict=True):
        if first.activations is None or other.activations is None:
            continue
        reason = _incomparable(first.activations, other.activations, pairs)
        if reason:
            notes.append(f"activations of {other.label} are not compared: {reason}")
            continue
        (a, layers, summaries), (b, *_) = first.activations, other.activations
        a, b, axis = a[pairs.first], b[pairs.second], first.logsnr
        if not (len(axis) == len(other.logsnr) and np.allclose(axis, other.logsnr)):
            kept = [
                k for k, name in enumerate(summaries) if name != "change"
            ]  # that is a change from step to step
            low, high = _range([first, other])
            axis = axis[(axis >= low) & (axis <= high)]
            a, b = (
                np.moveaxis(on_grid(np.moveaxis(x[..., kept], 1, -1), one.logsnr, axis), -1, 1)
                for x, one in ((a, first), (b, other))
            )
            summaries = [summaries[k] for k in kept]
        parts.append((other.label, activation_difference(b, a, axis, layers, summaries)))
    return _stacked(parts), notes


def _incomparable(a: tuple, b: tuple, pairs: Shared) -> str:
    if tuple(a[1]) != tuple(b[1]) or tuple(a[2]) != tuple(b[2]):
        return "the runs have looked at different layers"
    if not pairs:
        return "no items share their noise"
    if len(pairs.first) < FEWEST:
        return f"fewer than {FEWEST} items share their noise"
    return ""
