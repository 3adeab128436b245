r"""The bootstrap over starting images.

Replicates and times of one starting image are not independent; starting images are.  So a bootstrap
sample draws N of the N starting images with replacement (Efron & Tibshirani 1993, chapter 6): image i is
taken :math:`w_i` times, and every estimator below is written as a function of these weights.  All
features of a run share the same weights, which makes their comparison paired.
"""

from __future__ import annotations

import numpy as np

SAMPLES = 1000
"""Bootstrap samples; the 95 % ends then rest on 25 samples each."""


def weights(items: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """How often each starting image is drawn: (samples + 1, items), the first row being all ones.

    >>> w = weights(5, samples=3)
    >>> w.shape, w[0].tolist(), w.sum(1).tolist()
    ((4, 5), [1.0, 1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0])
    """
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = generator.multinomial(items, np.full(items, 1 / items), size=samples)
    return np.concatenate([np.ones((1, items)), drawn.astype(np.float64)])


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
