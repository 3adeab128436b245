r"""The probability of a start's own category, in what came back of it and in what came back of others.

With :math:`p_{ir}(c)` the probability of category c in copy r of item i, :math:`c_i` the category of its start,

.. math::

   \text{own}_i = \tfrac1R \sum_r p_{ir}(c_i), \qquad
   \text{chance}_i = \tfrac{1}{n - 1} \sum_{j \ne i} \tfrac1R \sum_r p_{jr}(c_i),

at every time, the second sum over the n - 1 other items of one condition.  Where only categories were read,
p is 1 for the category read and 0 for all others, and the means over items are *kept* and *chance* of
`turningpoint.statistics.retention`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .bootstrap import in_blocks, interval

Block = tuple[slice, np.ndarray]
"""Consecutive items with their probabilities, (n, R, T, K)."""


def own_probability(
    own: np.ndarray, blocks: Iterable[Block], condition: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Own and chance of every item, two arrays (N, T); NaN where nothing was read, or an item has no company.

    Parameters
    ----------
    own : array (N,)
        The category of each start, a column of the probabilities; NaN or negative where none was read.
    blocks : iterable of (slice, array)
        Items, and what was read of them, (n, R, T, K), NaN where nothing was; each block is used once, so that no
        more than one need be in memory.
    condition : array (N,), optional
        Items with equal entries share a condition.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]).reshape(3, 1, 1, 2)
    >>> kept, chance = own_probability(np.array([0, 0, 1]), [(slice(0, 3), p)])
    >>> kept.ravel().tolist(), chance.ravel().round(2).tolist()
    ([0.9, 0.8, 0.7], [0.55, 0.6, 0.15])
    """
    own = np.asarray(own, float)
    known = np.isfinite(own) & (own >= 0)
    column = np.where(known, own, 0).astype(int)
    group = (
        np.zeros(len(own), int) if condition is None else np.unique(condition, return_inverse=True)[1].ravel()
    )
    wanted = {int(g): np.unique(column[known & (group == g)]) for g in np.unique(group)}
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, np.ndarray] = {}
    kept: np.ndarray | None = None
    for items, block in blocks:
        p = np.asarray(block, float)
        read = np.isfinite(p).all(-1)  # (n, R, T)
        copies = read.sum(1)
        p = np.where(read[..., None], p, 0).sum(1) / np.maximum(copies, 1)[..., None]  # (n, T, K)
        if kept is None:
            kept = np.full((len(own), p.shape[1]), np.nan)
        if not known.any():
            continue
        kept[items] = np.where(
            copies > 0, np.take_along_axis(p, column[items, None, None], 2)[..., 0], np.nan
        )
        for g in np.unique(group[items]):
            member = group[items] == g
            total = (p[member] * (copies[member] > 0)[..., None]).sum(0)[:, wanted[int(g)]]
            sums[int(g)] = sums.get(int(g), 0.0) + total
            counts[int(g)] = counts.get(int(g), 0) + (copies[member] > 0).sum(0)
    if kept is None:
        return np.empty((len(own), 0)), np.empty((len(own), 0))
    kept[~known] = np.nan
    chance = np.full_like(kept, np.nan)
    for i in np.flatnonzero(known):
        g = int(group[i])
        all_of_it = sums[g][:, int(np.searchsorted(wanted[g], column[i]))]
        there = np.isfinite(kept[i])
        others = counts[g] - there
        rest = all_of_it - np.where(there, kept[i], 0.0)
        chance[i] = np.where(others > 0, rest / np.maximum(others, 1), np.nan)
    return kept, chance


def one_hot(own: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Categories as probabilities: ``own`` (N,) as columns, ``back`` (n, R, T) as (n, R, T, K).

    The K columns are the categories that occur in ``own``; NaN and negative numbers are nothing read.

    >>> own, back = one_hot(np.array([7, 3]), np.array([[[7.0]], [[-1.0]]]))
    >>> own.tolist(), back.ravel().tolist()
    ([1, 0], [0.0, 1.0, nan, nan])
    """
    own, back = np.asarray(own, float), np.asarray(back, float)
    known = np.isfinite(own) & (own >= 0)
    values = np.unique(own[known])
    columns = np.where(known, np.searchsorted(values, np.where(known, own, 0)), -1)
    p = (back[..., None] == values).astype(float)
    p[~np.isfinite(back) | (back < 0)] = np.nan
    return columns, p


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from logits along the last axis; NaN stays NaN."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
    return probabilities


def averaged(
    values: np.ndarray, weights: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over items of (N, T) and the ends of its bootstrap interval; NaN where no item has a value.

    The ends are NaN, too, where items with a value are so few that they are missing from many bootstrap samples.

    Parameters
    ----------
    values : array (N, T)
    weights : array (S + 1, N)
        From `turningpoint.statistics.bootstrap.weights`.
    level : float
        Of the interval.
    """
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = [(w @ np.where(there, values, 0), w @ there.astype(float)) for w in in_blocks(weights)]
        means = np.concatenate([total / count for total, count in sums])
    low, high = interval(means[1:], level)
    gap = np.isnan(means[0]) | np.isinf(low) | np.isinf(high)
    return means[0], np.where(gap, np.nan, low), np.where(gap, np.nan, high)
