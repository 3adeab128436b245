r"""Earlier or later: when the same event happens in two runs, item by item or as a whole.

With :math:`a_i` and :math:`b_j` the log-SNR of the event (an onset) in the items of the first and the second run:

=========  ==========================================  ======================================  ====================
items      difference                                  later                                   p
=========  ==========================================  ======================================  ====================
paired     median of :math:`d_i = b_i - a_i`           :math:`P[d > 0] + P[d = 0] / 2`         sign test, exact
unpaired   median of b less the median of a            :math:`P[b > a] + P[b = a] / 2`         Mann & Whitney's
=========  ==========================================  ======================================  ====================

Items are paired if they grow from the same noise: what an item owes to its noise then cancels.  The sign test
(Conover 1999, section 3.4) and the U test (Mann & Whitney 1947; U / (nm) is *later*) need no more than the order of two
numbers, so events before the first time (-inf) or after the last (+inf) count as what they are.  Where both of a pair
are open at the same end, nothing is known of their order: a tie, which the median leaves out.  Intervals are those of a
bootstrap over items: of pairs, or of either run by itself.  Whether an event is later is judged by *later*, of which
one half is chance, and by p; the difference says how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import TurningpointError
from .bootstrap import SAMPLES, interval, weights
from .onset import quantiles


@dataclass(frozen=True)
class Shift:
    """How much later an event is in the second of two runs.

    Attributes
    ----------
    difference, low, high : float
        In log-SNR, with the ends of its interval; infinite where open, NaN where not known.
    later : float
        The probability that it is later, ties counting one half.
    p : float
        Of the hypothesis that neither is later, two-sided.
    items : int
        Pairs with both events, or known events of the run that has fewer.
    """

    difference: float
    low: float
    high: float
    later: float
    p: float
    items: int


def shift(
    first: np.ndarray,
    second: np.ndarray,
    *,
    paired: bool,
    samples: int = SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Shift:
    """How much later an event is in the second run than in the first.

    Parameters
    ----------
    first, second : array (N,), (M,)
        When it happens, in log-SNR; -inf before the first time, +inf after the last, NaN if it is not known.
    paired : bool
        Item i of both grows from the same noise; N = M.
    samples : int
        Of the bootstrap.
    level : float
        Of the interval.
    seed : int
        Of the bootstrap.

    Raises
    ------
    TurningpointError
        If the arrays are not of that shape.

    Examples
    --------
    >>> first = np.array([0.0, 1.0, 2.0, 3.0, -np.inf])
    >>> found = shift(first, first + 0.5, paired=True)
    >>> found.difference, found.later, found.p, found.items
    (0.5, 0.9, 0.125, 5)
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 1 or b.ndim != 1 or (paired and a.shape != b.shape):
        wanted = "two arrays (N,) of the same items" if paired else "arrays (N,) and (M,)"
        raise TurningpointError(f"first and second have shapes {a.shape} and {b.shape}; accepted: {wanted}.")
    return _paired(a, b, samples, level, seed) if paired else _unpaired(a, b, samples, level, seed)


def _paired(a: np.ndarray, b: np.ndarray, samples: int, level: float, seed: int) -> Shift:
    from scipy.stats import binomtest

    with np.errstate(invalid="ignore"):
        d = b - a  # NaN where both are open at one end
    known = ~(np.isnan(a) | np.isnan(b))
    above, below = int((b > a)[known].sum()), int((b < a)[known].sum())
    items = int(known.sum())
    if not items:
        return Shift(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    later = (above + 0.5 * (items - above - below)) / items
    p = float(binomtest(above, above + below).pvalue) if above + below else 1.0
    medians = quantiles(d, _draws(len(d), samples, seed), (0.5,))[0]
    return Shift(*_ends(medians, level, int((~np.isnan(d)).sum())), later, p, items)


def _unpaired(a: np.ndarray, b: np.ndarray, samples: int, level: float, seed: int) -> Shift:
    from scipy.stats import mannwhitneyu

    x, y = a[~np.isnan(a)], b[~np.isnan(b)]
    items = min(len(x), len(y))
    if not items:
        return Shift(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    found = mannwhitneyu(y, x)
    medians = [
        quantiles(one, _draws(len(one), samples, place), (0.5,))[0]
        for one, place in ((x, seed), (y, seed + 1))
    ]
    with np.errstate(invalid="ignore"):
        apart = medians[1] - medians[0]
    p = float(found.pvalue)
    return Shift(*_ends(apart, level, items), float(found.statistic) / (len(x) * len(y)), p, items)


@lru_cache(maxsize=4)
def _draws(items: int, samples: int, seed: int) -> np.ndarray:
    """The bootstrap's counts; runs are compared feature by feature under the same ones."""
    return weights(items, samples, seed)


def _ends(estimates: np.ndarray, level: float, items: int) -> tuple[float, float, float]:
    """An estimate and its interval from bootstrap samples, of which the first is the estimate."""
    value = float(estimates[0])
    if items < 2 or np.isnan(value):
        return value, np.nan, np.nan
    low, high = interval(estimates[1:], level)
    return value, float(low), float(high)
