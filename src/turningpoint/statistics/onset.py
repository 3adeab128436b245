r"""Onset and settling: when, in log-SNR, a feature of a trajectory is half there, and when it stays.

With growth g of `turningpoint.statistics.growth`, joined by straight lines in the log-SNR :math:`\lambda`, an item's

.. math:: \lambda_{onset} = \min \{ \lambda : g(\lambda) \ge 1/2 \}, \qquad
          \lambda_{settled} = \min \{ \lambda : |g(\lambda') - 1| \le 0.1 \text{ for all } \lambda' \ge \lambda \}.

Growth need not be monotone: onset is the first time through one half, settling the end of the last excursion.  Open
ends stay open: -inf if it is there at the first time, +inf if it is not at the last.  Where the clock begins at no
signal (:math:`\lambda = -\infty`) or ends without noise, a crossing beside that time lies beyond all finite
log-SNRs, and is the infinity.  Times without a reading are passed over; where a missing first or last reading leaves
the answer open, it is NaN.  A category jumps from 0 to 1: it begins and settles in the middle between the two times.

A feature's onset is the **median over items**: an open end is then a large number like any other, and half of the
items may have one.  The quartiles are the band over items; the interval of the median is the percentile
bootstrap's, over items.  The probability that A comes before B is a share of items,

.. math:: P[A < B] = \frac1N \sum_i [ \lambda^A_i < \lambda^B_i ] + \tfrac12 [ \lambda^A_i = \lambda^B_i ],

with its bootstrap interval.  Items that all say the same give every bootstrap sample the same value; yet with
confidence :math:`1 - \alpha/2` no more than :math:`e = 1 - (\alpha/2)^{1/N}` of all items say otherwise (Clopper &
Pearson 1934, Biometrika 26, 404), and the interval is what p becomes if a share e says anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .bootstrap import in_blocks, interval, weights
from .growth import Series, checked_counts, growth, pooled_growth

HALF, WITHIN = 0.5, 0.1
"""Growth at onset, and how far from 1 it may be once it has settled."""
QUARTILES = (0.25, 0.5, 0.75)


def onset(growth: np.ndarray, logsnr: np.ndarray, level: float = HALF) -> np.ndarray:
    """Where growth first reaches a level.

    Parameters
    ----------
    growth : array (N, T)
        Along T times in the order of generation; NaN where it is not known.
    logsnr : array (T,)
        Of the times, rising; may begin with -inf and end with +inf.
    level : float
        Of growth.

    Returns
    -------
    array (N,)
        Log-SNR; -inf if it is there at the first time, +inf if it never is, NaN if that is not known.

    Raises
    ------
    TurningpointError
        If log-SNRs fall, or their number is not that of the times.

    Examples
    --------
    >>> onset(np.array([[0.0, 0.4, 0.6, 0.2], [0.7, 0.4, 0.8, 1.0], [0.0, 0.1, 0.2, 0.3]]), np.array([-4, -2, 0, 2]))
    array([ -1., -inf,  inf])
    """
    curves, axis = _checked(growth, logsnr)
    known = np.isfinite(curves)
    rows, last = np.arange(len(curves)), len(axis) - 1
    there = known & (curves >= level)
    k = there.argmax(1)
    before = _known_before(known)[rows, k]
    at = _between(curves, axis, before.clip(0), k, np.full(len(curves), level))
    at = np.where(before >= 0, at, np.where(k == 0, -np.inf, np.nan))
    return np.where(there.any(1), at, np.where(known[:, last], np.inf, np.nan))


def settling(growth: np.ndarray, logsnr: np.ndarray, within: float = WITHIN) -> np.ndarray:
    """After which log-SNR growth stays close to 1 for good.

    Parameters
    ----------
    growth, logsnr
        As in `onset`.
    within : float
        How close.

    Returns
    -------
    array (N,)
        Log-SNR; -inf if growth is close at all times, +inf if it is not at the last, NaN if that is not known.

    Raises
    ------
    TurningpointError
        As in `onset`, or if ``within`` is not positive.

    Examples
    --------
    >>> settling(np.array([[0.0, 1.0, 0.8, 1.0], [1.0, 1.0, 1.0, 1.5]]), np.array([-4.0, -2.0, 0.0, 2.0]))
    array([ 1., inf])
    """
    if not within > 0:
        raise TurningpointError(f"within is {within}; accepted: a number above 0.")
    curves, axis = _checked(growth, logsnr)
    known = np.isfinite(curves)
    rows, last = np.arange(len(curves)), len(axis) - 1
    low, high = 1 - within, 1 + within
    outside = known & ((curves < low) | (curves > high))
    k = last - outside[:, ::-1].argmax(1)
    after = last - _known_before(known[:, ::-1])[rows, last - k]  # T if there is none
    bound = np.where(curves[rows, k] < low, low, high)
    at = _between(curves, axis, k, after.clip(None, last), bound)
    at = np.where(outside.any(1), at, np.where(known[:, 0], -np.inf, np.nan))
    return np.where(known[:, last], np.where(outside[:, last], np.inf, at), np.nan)


def item_times(series: Series, logsnr: np.ndarray, within: float = WITHIN) -> tuple[np.ndarray, np.ndarray]:
    """Onset and settling of each item: two arrays (N,) of log-SNR.

    >>> label = Series("class", "class", "categorical", "", np.array([[1, 7, 1, 7]]), np.array([7]))
    >>> item_times(label, np.array([-4.0, -2.0, 0.0, 2.0]))
    (array([-3.]), array([1.]))
    """
    g = growth(series)
    return onset(g, logsnr), settling(g, logsnr, HALF if series.kind == "categorical" else within)


def quantiles(values: np.ndarray, counts: np.ndarray, shares: Sequence[float] = QUARTILES) -> np.ndarray:
    """Quantiles over items, for each bootstrap sample; NaN items are left out, infinite ones are not.

    They are those of a list in which item i stands ``counts[s, i]`` times; a quantile that falls between two of
    its values is their mean (of half at -inf and half at +inf: NaN).

    Parameters
    ----------
    values : array (N,)
    counts : array (S + 1, N)
        Of `turningpoint.statistics.bootstrap.weights`.
    shares : sequence of float
        Which quantiles, each between 0 and 1.

    Returns
    -------
    array (len(shares), S + 1)
        NaN where a sample holds no known item.

    Examples
    --------
    >>> quantiles(np.array([3.0, 1.0, np.nan, np.inf]), np.array([[1, 1, 1, 1], [1, 1, 2, 0]]), [0.5])
    array([[3., 2.]])
    """
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    if not len(order):
        return np.full((len(shares), len(counts)), np.nan)
    ordered, parts = values[order], []
    for block in in_blocks(counts):
        held = np.cumsum(block[:, order], axis=1)
        rows = []
        for share in shares:
            wanted = share * held[:, -1:]
            below, above = ((held < wanted).sum(1), (held <= wanted).sum(1))
            ends = [ordered[np.minimum(k, len(ordered) - 1)] for k in (below, above)]
            with np.errstate(invalid="ignore"):
                middle = np.where(ends[0] == ends[1], ends[0], (ends[0] + ends[1]) / 2)
            rows.append(np.where(held[:, -1] > 0, middle, np.nan))
        parts.append(np.stack(rows))
    return np.concatenate(parts, axis=1)


def onsets(
    series: Sequence[Series],
    logsnr: np.ndarray,
    counts: np.ndarray | None = None,
    level: float = 0.95,
    within: float = WITHIN,
) -> pd.DataFrame:
    """When each feature begins and settles: medians over items with bootstrap intervals, a row per feature.

    Parameters
    ----------
    series : sequence of Series
        Of the same items and times.
    logsnr : array (T,)
        Of the times, as in `onset`.
    counts : array (S + 1, N), optional
        The bootstrap's; by default `turningpoint.statistics.bootstrap.weights` of N items.
    level : float
        Of the intervals.
    within : float
        As in `settling`; a category has settled when it does not change any more.

    Returns
    -------
    DataFrame
        ``feature``, ``label``, ``kind``; ``onset`` and ``settled`` (log-SNR, infinite where open, NaN where not
        known), each with ``_low`` and ``_high`` (interval of the median; NaN for fewer than 2 items), ``_q25`` and
        ``_q75`` (quartiles over items); ``items`` that have an onset, ``open`` (the share of these whose onset or
        settling is open); ``pooled``, ``pooled_low``, ``pooled_high``, where the pooled growth reaches one half;
        ``note``, which says what is open and why.

    Raises
    ------
    TurningpointError
        If a series has other items or times, log-SNRs fall or ``within`` is not positive.

    Examples
    --------
    >>> label = Series("class", "class", "categorical", "", np.array([[1, 7, 7], [1, 1, 7]]), np.array([7, 7]))
    >>> onsets([label], np.array([-2.0, 0.0, 3.0])).loc[0, ["onset", "onset_low", "onset_high"]].tolist()
    [0.25, -1.0, 1.5]
    """
    counts = checked_counts(series, logsnr, counts)
    table = []
    for one in series:
        started, settled = item_times(one, logsnr, within)
        items = int(np.count_nonzero(~np.isnan(started)))
        is_open = np.isinf(started) | (np.isinf(settled) & ~np.isnan(started))
        row: dict[str, Any] = {"feature": one.feature, "label": one.label, "kind": one.kind}
        for name, times in (("onset", started), ("settled", settled)):
            median = quantiles(times, counts, (0.5,))[0]
            first, third = quantiles(times, counts[:1], (QUARTILES[0], QUARTILES[2]))[:, 0].tolist()
            row |= _with_interval(name, median, level, int(np.count_nonzero(~np.isnan(times))))
            row |= {f"{name}_q25": first, f"{name}_q75": third}
        row |= {"items": items, "open": float(is_open.sum() / items) if items else np.nan}
        row |= _with_interval("pooled", onset(pooled_growth(one, counts), logsnr), level, items)
        table.append(row | {"note": _note(started, settled)})
    return pd.DataFrame(table)


def order(
    onset_by_feature: Mapping[str, np.ndarray], counts: np.ndarray | None = None, level: float = 0.95
) -> pd.DataFrame:
    """The probability that one feature's onset precedes another's, over items, for every pair.

    Parameters
    ----------
    onset_by_feature : mapping of arrays (N,)
        Log-SNR of each item, as from `item_times`; of the same items in the same order.
    counts : array (S + 1, N), optional
        The bootstrap's; by default `turningpoint.statistics.bootstrap.weights` of N items.
    level : float
        Of the intervals.

    Returns
    -------
    DataFrame
        ``before``, ``after``, ``probability``, ``low``, ``high``, ``items`` (in which both are known), a row for each
        ordered pair of two features.  Equal onsets, open ends among them, count one half.

    Raises
    ------
    TurningpointError
        If there is no feature, or the arrays differ in their number of items.

    Examples
    --------
    >>> table = order({"class": np.array([-1.0, 0.0, np.inf]), "edges": np.array([1.0, 0.0, np.nan])})
    >>> table[["before", "after", "probability", "items"]].values.tolist()
    [['class', 'edges', 0.75, 2], ['edges', 'class', 0.25, 2]]
    """
    shapes = {np.shape(times) for times in onset_by_feature.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        raise TurningpointError(
            "onset_by_feature holds no onsets, or onsets of different items; accepted: arrays (N,) of equal length."
        )
    names = list(onset_by_feature)
    times = np.stack([np.asarray(onset_by_feature[name], dtype=float) for name in names], axis=1)  # (N, F)
    counts = weights(len(times)) if counts is None else counts
    if counts.ndim != 2 or counts.shape[1] != len(times):
        raise TurningpointError(f"counts has shape {counts.shape}; accepted: (S + 1, {len(times)}).")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for a, first in enumerate(names[:-1]):
        found = _precedence(times[:, [a]], times[:, a + 1 :], counts, level)
        for second, (p, low, high, items) in zip(names[a + 1 :], found, strict=True):
            rows[first, second] = {"probability": p, "low": low, "high": high, "items": items}
            rows[second, first] = {"probability": 1 - p, "low": 1 - high, "high": 1 - low, "items": items}
    pairs = [(a, b) for a in names for b in names if a != b]
    table = [{"before": a, "after": b, **rows[a, b]} for a, b in pairs]
    return pd.DataFrame(table, columns=["before", "after", "probability", "low", "high", "items"])


def order_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `order` as a square: P[row comes before column], NaN on the diagonal.

    >>> table = order({"class": np.array([-1.0, 0.0]), "edges": np.array([1.0, 0.0])})
    >>> order_matrix(table).loc["class"].tolist()
    [nan, 0.75]
    """
    names = list(dict.fromkeys(table["before"]))
    square = table.pivot(index="before", columns="after", values="probability")
    return square.reindex(index=names, columns=names).rename_axis(index=None, columns=None)


def _checked(growth: np.ndarray, logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    curves, axis = np.asarray(growth, dtype=float), np.asarray(logsnr, dtype=float)
    if curves.ndim != 2 or axis.shape != curves.shape[1:] or not len(axis):
        raise TurningpointError(
            f"logsnr has shape {axis.shape} for growth of shape {curves.shape}; accepted: (T,) for (N, T)."
        )
    if np.isnan(axis).any() or (axis[1:] < axis[:-1]).any():
        raise TurningpointError(
            "logsnr falls or is NaN; accepted: log-SNRs in the order of generation, rising."
        )
    return curves, axis


def _known_before(known: np.ndarray) -> np.ndarray:
    """For each place of (N, T) the last known place before it; -1 if there is none."""
    place = np.where(known, np.arange(known.shape[1]), -1)
    return np.concatenate(
        [np.full((len(known), 1), -1), np.maximum.accumulate(place, axis=1)[:, :-1]], axis=1
    )


def _between(
    curves: np.ndarray, axis: np.ndarray, left: np.ndarray, right: np.ndarray, bound: np.ndarray
) -> np.ndarray:
    """Where the line between two places of each row has the value ``bound``: (N,)."""
    rows = np.arange(len(curves))
    low, high = curves[rows, left], curves[rows, right]
    share = (bound - low) / np.where(high != low, high - low, 1)
    with np.errstate(invalid="ignore"):
        at = axis[left] + share * (axis[right] - axis[left])
        at = np.where(np.isneginf(axis[left]), -np.inf, np.where(np.isposinf(axis[right]), np.inf, at))
    return np.where(np.isneginf(axis[left]) & np.isposinf(axis[right]), np.nan, at)


def _with_interval(name: str, samples: np.ndarray, level: float, items: int) -> dict[str, float]:
    """An estimate and its bootstrap interval; one item has none."""
    low = high = np.nan
    if items > 1 and len(samples) > 1 and not np.isnan(samples[0]):
        low, high = (float(end) for end in interval(samples[1:], level))
    return {name: float(samples[0]), f"{name}_low": low, f"{name}_high": high}


def _note(started: np.ndarray, settled: np.ndarray) -> str:
    """Which items have open ends or no onset, in words."""
    parts = {
        "half there at the first time": np.isneginf(started),
        "never half there": np.isposinf(started),
        "not settled at the last time": np.isposinf(settled) & ~np.isposinf(started),
        "nothing to grow or no reading": np.isnan(started),
    }
    return "; ".join(
        f"{words}: {int(who.sum())} of {len(started)} items" for words, who in parts.items() if who.any()
    )


def _precedence(
    first: np.ndarray, others: np.ndarray, counts: np.ndarray, level: float
) -> Iterator[tuple[float, float, float, int]]:
    """For each column of ``others`` (N, F): the probability that ``first`` (N, 1) precedes it, its interval, items."""
    known = ~(np.isnan(first) | np.isnan(others))
    with np.errstate(invalid="ignore"):
        wins = np.where(known, (first < others) + 0.5 * (first == others), 0.0)
    sums = [(block @ wins, block @ known.astype(float)) for block in in_blocks(counts)]
    won, held = (np.concatenate(part) for part in zip(*sums, strict=True))
    share = np.where(held > 0, won / np.where(held > 0, held, 1), np.nan)
    low, high = interval(share[1:], level) if len(share) > 1 else (np.full(share.shape[1], np.nan),) * 2
    for column, items in enumerate(known.sum(0).tolist()):
        p = float(share[0, column])
        ends = (float(np.clip(low[column], 0, 1)), float(np.clip(high[column], 0, 1)))
        votes = wins[known[:, column], column]
        if not items:
            ends = (np.nan, np.nan)
        elif (votes == votes[0]).all():
            otherwise = 1 - ((1 - level) / 2) ** (1 / items)
            ends = (p * (1 - otherwise), p * (1 - otherwise) + otherwise)
        yield p, *ends, items
