r"""The bootstrap over starting images.

Replicates and times of one starting image are not independent; starting images are.  So a bootstrap
sample draws N of the N starting images with replacement (Efron & Tibshirani 1993, chapter 6): image i is
taken :math:`w_i` times, and every estimator below is written as a function of these weights.  All
features of a run share the same weights, which makes their comparison paired.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SAMPLES = 1000
"""Bootstrap samples; the 95 % ends then rest on 25 samples each."""
BLOCK = 2**20
"""Numbers of which estimates are made at a time."""


def weights(items: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """How often each starting image is drawn: (samples + 1, items), the first row being all ones.

    They are counts of two bytes: for 10,000 images they take 20 MB.

    >>> w = weights(5, samples=3)
    >>> w.shape, w[0].tolist(), w.sum(1).tolist()
    ((4, 5), [1, 1, 1, 1, 1], [5, 5, 5, 5])
    """
    generator = np.random.Generator(np.random.Philox(seed))
    counts = np.ones((samples + 1, items), dtype=np.uint16)
    for row in counts[1:]:
        row[:] = generator.multinomial(items, np.full(items, 1 / items))
    return counts


def in_blocks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of bootstrap weights as floats, as many at a time as take 8 MB.

    >>> [block.shape for block in in_blocks(weights(5, samples=3))]
    [(4, 5)]
    """
    rows = max(1, BLOCK // max(1, counts.shape[1]))
    for first in range(0, len(counts), rows):
        yield counts[first : first + rows].astype(np.float64)


def interval(samples: np.ndarray, level: float = 0.95, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the central ``level`` of bootstrap samples along ``axis``.

    Infinite samples (open ends) are kept as what they are; a NaN sample says nothing and counts as
    -inf for the lower end and as +inf for the upper one.

    >>> low, high = interval(np.array([1.0, 2.0, np.inf, np.nan]))
    >>> float(low), float(high)
    (-inf, inf)
    """
    outside = (1 - level) / 2
    low = np.quantile(np.where(np.isnan(samples), -np.inf, samples), outside, axis, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(samples), np.inf, samples), 1 - outside, axis, method="inverted_cdf")
    return low, high
