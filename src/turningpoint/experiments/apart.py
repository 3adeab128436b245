r"""How far two runs are apart: the growth of their features, their final images, what their layers do.

Growth is laid on a common grid of log-SNR by linear interpolation between recorded times.  A straight line between
distant times is wrong by their distance squared, which would pass for a difference; so differences are taken at the
times of the run that recorded fewer, and it is the other one that is interpolated.  Where items are paired, both runs
are estimated under the same bootstrap draws, so that what items owe to their noise cancels in the band of the
difference.
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
SHOWN = 12
"""Pairs whose final images are shown."""
BY_STEP = "change"
"""The summary of activations that is one of steps, not of times: it is compared on equal steps only."""


def on_grid(curves: np.ndarray, logsnr: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Curves (..., T) on a grid within their range, linear between recorded times: (..., G).

    Parameters
    ----------
    curves : array (..., T)
        NaN where not known; so is what lies between it and its neighbours.
    logsnr : array (T,)
        Of the curves, rising; infinite ends are left out.
    grid : array (G,)
        Between the lowest and the highest finite log-SNR.

    Examples
    --------
    >>> on_grid(np.array([5.0, 0.0, 1.0, np.nan]), np.array([-np.inf, -2.0, 2.0, 4.0]), np.array([-2.0, 1.0, 2.0, 3.0]))
    array([0.  , 0.75, 1.  ,  nan])
    """
    known = np.isfinite(logsnr)
    axis, values = logsnr[known], curves[..., known]
    right = np.clip(np.searchsorted(axis, grid, side="left"), 1, len(axis) - 1)
    left = right - 1
    share = (grid - axis[left]) / (axis[right] - axis[left])
    a, b = values[..., left], values[..., right]
    between = a + share * (b - a)
    on_it: np.ndarray = np.where(share == 0, a, np.where(share == 1, b, between))
    return on_it


def growth_on(grid: np.ndarray, one: Subject, read: Sequence[Series]) -> pd.DataFrame:
    """The pooled growth of a run's readings on a grid (G,), with its bootstrap band; a row per feature and place.

    ``feature``, ``label``, ``logsnr``, ``growth``, ``low``, ``high``.
    """
    counts, parts = weights(len(one)), []
    for series in read:
        samples = on_grid(pooled_growth(series, counts), one.logsnr, grid)
        columns = {"feature": series.feature, "label": series.label, "logsnr": grid, "growth": samples[0]}
        parts.append(pd.DataFrame(columns | _band(samples)))
    return pd.concat(parts, ignore_index=True)


def times_of_both(first: Subject, other: Subject) -> np.ndarray:
    """The log-SNRs that the run with fewer times has recorded where both have been: (G,)."""
    axes = [one.logsnr[np.isfinite(one.logsnr)] for one in (first, other)]
    low, high = max(axis[0] for axis in axes), min(axis[-1] for axis in axes)
    return min((axis[(axis >= low) & (axis <= high)] for axis in axes), key=len)


def growth_apart(
    first: Subject,
    read: Sequence[Series],
    other: Subject,
    again: Sequence[Series],
    pairs: Shared,
) -> pd.DataFrame:
    """Growth in another run less growth in the first: of the pairs, or, if there are none, of all items.

    Parameters
    ----------
    first, other : Subject
        The runs.
    read, again : sequence of Series
        Their readings, in the same order.
    pairs : Shared
        Of `shared`.

    Returns
    -------
    DataFrame
        ``feature``, ``label``, ``logsnr``, ``difference``, ``low``, ``high``, at the times of `times_of_both`.
    """
    grid = times_of_both(first, other)
    counts = (weights(len(first)), weights(len(other), seed=1))
    if pairs:
        counts = (weights(len(pairs.first)),) * 2
    parts = []
    for a, b in zip(read, again, strict=True):
        sides = (_only(a, pairs.first), _only(b, pairs.second)) if pairs else (a, b)
        before, after = (
            on_grid(pooled_growth(series, drawn), one.logsnr, grid)
            for series, drawn, one in zip(sides, counts, (first, other), strict=True)
        )
        columns = {"feature": a.feature, "label": a.label, "logsnr": grid, "difference": after[0] - before[0]}
        parts.append(pd.DataFrame(columns | _band(after - before)))
    return pd.concat(parts, ignore_index=True)


def images_apart(first: Subject, other: Subject, pairs: Shared) -> pd.DataFrame:
    """How far the final images of paired items are apart: one row, or none without pairs or images of one shape.

    ``items`` (at most `MOST_IMAGES`), ``distance`` (median root mean square of paired images' difference),
    ``strangers`` (the same of images that are not paired), ``nearest`` (the share of items whose partner is nearer
    than every other image of the first run).
    """
    if not pairs or first.images is None or other.images is None:
        return pd.DataFrame()
    n = min(len(pairs.first), MOST_IMAGES)
    a, b = first.images(pairs.first[:n]), other.images(pairs.second[:n])
    if a.shape != b.shape:
        return pd.DataFrame()
    x, y = (z.reshape(n, -1).astype(np.float64) for z in (a, b))
    distance = np.stack([np.sqrt(np.mean((x - row) ** 2, axis=1)) for row in y])
    own, strangers = np.diagonal(distance), distance[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    found = {"items": n, "distance": np.median(own), "strangers": np.median(strangers)}
    return pd.DataFrame([found | {"nearest": float((own < strangers.min(1)).mean())}])


def images_shown(
    first: Subject, other: Subject, pairs: Shared
) -> tuple[list[int], np.ndarray, np.ndarray] | None:
    """The numbers of the first few paired items with their final images (n, C, H, W) in both runs, if they are images.

    >>> from .subjects import Subject
    >>> blank = lambda places: np.zeros((len(places), 1, 4, 4))
    >>> run = Subject("a", np.arange(2.0), [], None, {}, None, [(7, ""), (8, "")], blank)
    >>> images_shown(run, run, Shared(np.array([0, 1]), np.array([0, 1])))[0]
    [7, 8]
    """
    if not pairs or first.images is None or other.images is None:
        return None
    a, b = first.images(pairs.first[:SHOWN]), other.images(pairs.second[:SHOWN])
    if a.ndim != 4 or a.shape != b.shape:
        return None
    items = [first.items[k] for k in pairs.first[:SHOWN]]
    return [int(item[0] if isinstance(item, tuple) else item) for item in items], a, b  # type: ignore[call-overload]


def activations_apart(first: Subject, other: Subject, pairs: Shared) -> tuple[pd.DataFrame, str]:
    """What the layers do in another run, less what they do in the first, item by item.

    Returns
    -------
    table : DataFrame
        Of `turningpoint.statistics.paired.difference`, at the times of `times_of_both`; empty if there is nothing to
        compare.  On unequal times ``change`` is left out: it is one from step to step.
    reason : str
        Why there is nothing, if both runs have looked at layers.
    """
    if first.activations is None or other.activations is None:
        return pd.DataFrame(), ""
    (a, layers, summaries), (b, *named) = first.activations, other.activations
    if [list(layers), list(summaries)] != [list(names) for names in named]:
        return pd.DataFrame(), "the runs have looked at different layers"
    if len(pairs.first) < FEWEST:
        return pd.DataFrame(), f"fewer than {FEWEST} items share their noise"
    a, b, axis, kept = a[pairs.first], b[pairs.second], first.logsnr, list(range(len(summaries)))
    if len(axis) != len(other.logsnr) or not np.allclose(axis, other.logsnr):
        kept = [k for k in kept if summaries[k] != BY_STEP]
        axis = times_of_both(first, other)
        a, b = (
            np.moveaxis(on_grid(np.moveaxis(x, 1, -1), one.logsnr, axis), -1, 1)
            for x, one in ((a, first), (b, other))
        )
    if not kept or not len(axis):
        return pd.DataFrame(), "no time and summary can be compared"
    return difference(b[..., kept], a[..., kept], axis, layers, [summaries[k] for k in kept]), ""


def _only(series: Series, places: np.ndarray) -> Series:
    return replace(series, values=series.values[places], final=series.final[places])


def _band(samples: np.ndarray) -> dict[str, np.ndarray]:
    """The 95 % band of bootstrap samples (S + 1, G), of which the first row is the estimate; NaN where that is."""
    low, high = interval(samples[1:])
    gap = np.isnan(samples[0])
    return {"low": np.where(gap, np.nan, low), "high": np.where(gap, np.nan, high)}
