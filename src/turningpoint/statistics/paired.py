r"""Two conditions on the same noise: what differs in the activations, layer by layer and step by step.

Item i is simulated twice from the same noise, with the word *red* and without.  With :math:`d_i = a_i - b_i` at one
layer and step, the difference is the mean of d over items, its interval a bootstrap over items, its standardised
size the mean over the standard deviation of d (Cohen's :math:`d_z`), and p that of the paired t-test.  A map has
thousands of cells; ``q`` is Benjamini & Hochberg's (1995) over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .association import FEWEST
from .bootstrap import BLOCK, SAMPLES, in_blocks, interval, weights


def difference(
    a: np.ndarray,
    b: np.ndarray,
    logsnr: np.ndarray,
    layers: Sequence[str],
    summaries: Sequence[str],
    *,
    samples: int = SAMPLES,
    level: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Activations under two conditions, item by item: the mean of :math:`d_i = a_i - b_i` per layer and step.

    Parameters
    ----------
    a, b : arrays (N, T, L, S)
        Summaries under either condition; item i of both shares its noise.
    logsnr : array (T,)
    layers, summaries : sequences of L and S str
    samples : int
        Of the bootstrap over items.
    level : float
        For ``significant``: q at most this.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        A row per layer, summary and time: ``layer``, ``summary``, ``step``, ``logsnr``, the means ``a`` and ``b``,
        ``difference`` with its 95 % interval ``low``, ``high``; ``standardised``, the mean of d over its standard
        deviation; ``p`` of the paired t-test, ``q`` by Benjamini & Hochberg over all rows, ``significant``, and
        ``items``, those with both numbers (rows of fewer than two have NaN).

    Raises
    ------
    TurningpointError
        If shapes do not fit together, or there are fewer than `FEWEST` items.

    Examples
    --------
    >>> b = np.random.default_rng(0).normal(size=(20, 2, 1, 1))
    >>> a = b + np.array([0.0, 1.0])[:, None, None] + 0.1 * b[::-1]
    >>> difference(a, b, np.arange(2.0), ["mid"], ["magnitude"])["significant"].tolist()
    [False, True]
    """
    from scipy.stats import false_discovery_control, t

    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    named = (np.size(logsnr), len(layers), len(summaries))
    if a.shape != b.shape or a.shape[1:] != named:
        raise TurningpointError(
            f"a and b have shapes {a.shape} and {b.shape}; accepted: equal ones, with {named} after the items, as "
            "logsnr, layers and summaries say."
        )
    if len(a) < FEWEST:
        raise TurningpointError(f"a and b hold {len(a)} items; accepted: {FEWEST} or more.")
    first, second = (
        x.transpose(0, 2, 3, 1).reshape(len(a), -1) for x in (a, b)
    )  # a column per row of the table
    there = np.isfinite(first) & np.isfinite(second)
    items = there.sum(0)
    known = np.where(items > 1, items, np.nan)
    first, second = (np.where(there, x, 0.0) for x in (first, second))
    d = first - second
    mean = d.sum(0) / known
    spread = np.sqrt((there * (d - mean) ** 2).sum(0) / (known - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised = np.where((spread == 0) & (mean == 0), 0.0, mean / spread)
    p = np.asarray(2 * t.sf(np.abs(standardised) * np.sqrt(known), known - 1))
    q = np.full_like(p, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    low, high = _intervals(d, there, samples, seed)
    layer, summary, step = np.indices((*named[1:], named[0])).reshape(3, -1)
    return pd.DataFrame(
        {
            "layer": np.array(list(layers), object)[layer],
            "summary": np.array(list(summaries), object)[summary],
            "step": step,
            "logsnr": np.asarray(logsnr, float)[step],
            "a": first.sum(0) / known,
            "b": second.sum(0) / known,
            "difference": mean,
            "low": np.where(tested, low, np.nan),
            "high": np.where(tested, high, np.nan),
            "standardised": standardised,
            "p": p,
            "q": q,
            "significant": q <= level,
            "items": items,
        }
    )


def _intervals(d: np.ndarray, there: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % bootstrap intervals of the columns' means, a block of columns at a time."""
    counts = weights(len(d), samples, seed)[1:]
    ends = []
    for columns in np.array_split(np.arange(d.shape[1]), d.shape[1] * samples // BLOCK + 1):
        with np.errstate(invalid="ignore"):
            means = [(w @ d[:, columns]) / (w @ there[:, columns]) for w in in_blocks(counts)]
        ends.append(interval(np.concatenate(means)))
    return np.concatenate([low for low, _ in ends]), np.concatenate([high for _, high in ends])
