r"""Growth: how far a feature of one trajectory has come on its way to the final image.

A trajectory's estimates are read at times of rising log-SNR; f(t) is a reading, f_final the final image's.  Growth
is 0 where the feature begins and 1 where it has its final value:

.. math:: g(t) = \begin{cases}
    \big(f(t) - f_{absent}\big) / \big(f_{final} - f_{absent}\big) & \text{of a number with an absent value} \\
    1 - |f(t) - f_{final}| \,/\, |f(first) - f_{final}| & \text{of every other number} \\
    [f(t) = f_{final}] & \text{of a category.} \end{cases}

A number with an absent value, which it has where there is nothing of it (an energy, a density of edges), grows from
there, whatever its first estimate is: the first row is the relative power whose half is called half-emergence.  A
slant or a mean color is never absent, it only goes from where it begins.  For a vector :math:`|f(t) - f_{final}|` is
a distance; for a comparison with the final image f_final is the largest value s_max, and the second row is
:math:`(s(t) - s(first)) / (s_{max} - s(first))`.

**Gain over goal.**  Each row is a gain over the item's goal: :math:`|f_{final} - f_{absent}|`,
:math:`|f(first) - f_{final}|` or 1.  An item whose goal is 0 to the resolution of its readings has nothing to grow;
its growth is NaN.  An item with a small goal has a growth of heavy tails: where estimates are posterior means of a
Gaussian, 1 - g is the modulus of a Cauchy variable, which has no mean.  So the curve of many items is the ratio
of means

.. math:: G(t) = \frac{\sum_i w_i \, gain_i(t)}{\sum_i w_i \, goal_i},

the mean of growth in which an item counts by its goal.  It has a variance, the small goals keep their small say, and
it is what theory predicts: :math:`E|f(t) - f_{absent}| / E|f_{final} - f_{absent}|` is relative power,
and :math:`1 - \sqrt{v(t) / v(first)}` that of a Gaussian number with posterior variance v.  Growth of single
items serves the times of single items, for which tails do not matter: only where it crosses one half does.

**No reading.**  An estimate that cannot be read yet (an image without a stroke has no slant) has nothing of the
feature: growth is 0 until the item's first reading, from which it then goes.  Later gaps are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import TurningpointError, one_of
from .bootstrap import in_blocks, interval, weights

KINDS = ("categorical", "scalar", "vector", "comparison")
RESOLUTION = 1e-6
"""Of an item's largest reading: eight steps of the 32-bit floats in which readings are kept."""


@dataclass(frozen=True, eq=False)
class Series:
    """One feature along N trajectories at T times, in the order of generation (log-SNR rising).

    Parameters
    ----------
    feature, label : str
        Its full name, as in ``color.contrast``, and its name in figures.
    kind : str
        ``categorical``, ``scalar``, ``vector`` or ``comparison``.
    unit : str
        Of the values.
    values : array (N, T)
        The reading; of a vector its distance to the final image's vector.  NaN where there is no reading.
    final : array (N,)
        The final image's category or number; the largest value of a comparison; 0 for vectors.
    absent : float, optional
        A scalar's value where there is nothing of it.

    Raises
    ------
    TurningpointError
        If the kind is none of these, or the shapes do not fit.
    """

    feature: str
    label: str
    kind: str
    unit: str
    values: np.ndarray
    final: np.ndarray
    absent: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise one_of("kind", self.kind, KINDS)
        shape = np.shape(self.values)
        if len(shape) != 2 or 0 in shape:
            raise TurningpointError(
                f"values of {self.feature!r} has shape {shape}; accepted: (N, T), a row per item, a column per time."
            )
        if np.shape(self.final) != shape[:1]:
            raise TurningpointError(
                f"final of {self.feature!r} has shape {np.shape(self.final)}; accepted: {shape[:1]}, one per item."
            )


def growth(series: Series) -> np.ndarray:
    """Growth of each item: (N, T), 1 at the final value.

    NaN for items whose goal is 0 (see the module's docstring) or that have no final reading, and where a
    reading is missing after the item's first.

    Examples
    --------
    >>> edges = Series("edges", "edges", "scalar", "", np.array([[0.1, 0.2, 0.4]]), np.array([0.4]), absent=0.0)
    >>> growth(edges)
    array([[0.25, 0.5 , 1.  ]])
    >>> slant = Series("slant", "slant", "scalar", "degree", np.array([[3.0, -5.0, -9.0]]), np.array([-9.0]))
    >>> growth(slant).round(2)
    array([[0.  , 0.67, 1.  ]])
    """
    gain, goal = _gain(series)
    some = goal > 0
    share: np.ndarray = gain / np.where(some, goal, 1)[:, None]
    return np.where(some[:, None], share, np.nan)


def mean_growth(growth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The plain mean of growth over items, for each bootstrap sample; NaN items are left out.

    Fit for growth that is bounded, as of categories; for heavy tails see `pooled_growth`.

    Parameters
    ----------
    growth : array (N, T)
    counts : array (S + 1, N)
        Of `turningpoint.statistics.bootstrap.weights`.

    Returns
    -------
    array (S + 1, T)
        NaN where a sample holds no item with growth.

    Examples
    --------
    >>> mean_growth(np.array([[0.0, 1.0], [0.5, np.nan]]), weights(2, samples=0))
    array([[0.25, 1.  ]])
    """
    known = np.isfinite(growth)
    return _ratio(np.where(known, growth, 0.0), known.astype(float), counts)


def pooled_growth(series: Series, counts: np.ndarray) -> np.ndarray:
    """The ratio of the mean gain to the mean goal, for each bootstrap sample: what curves and maps show.

    Parameters
    ----------
    series : Series
        Of N items and T times.
    counts : array (S + 1, N)
        Of `turningpoint.statistics.bootstrap.weights`.

    Returns
    -------
    array (S + 1, T)
        NaN where a sample holds no item that grows.

    Examples
    --------
    >>> values, final = np.array([[0.0, 2.0, 4.0], [1.0, 1.0, 1.0]]), np.array([4.0, 1.0])
    >>> edges = Series("edges", "edges", "scalar", "", values, final, absent=0.0)
    >>> pooled_growth(edges, weights(2, samples=0))  # (0 + 1) / 5, (2 + 1) / 5, 1
    array([[0.2, 0.6, 1. ]])
    """
    gain, goal = _gain(series)
    known = np.isfinite(gain)
    return _ratio(np.where(known, gain, 0.0), np.where(known, goal[:, None], 0.0), counts)


def curves(
    series: Sequence[Series], logsnr: np.ndarray, counts: np.ndarray | None = None, level: float = 0.95
) -> pd.DataFrame:
    """The pooled growth of each feature with its bootstrap band, a row per feature and time.

    Parameters
    ----------
    series : sequence of Series
        Of the same items and times.
    logsnr : array (T,)
        Of the times.
    counts : array (S + 1, N), optional
        The bootstrap's; by default `turningpoint.statistics.bootstrap.weights` of N items.
    level : float
        Of the band.

    Returns
    -------
    DataFrame
        ``feature``, ``label``, ``kind``, ``logsnr``, ``growth``, ``low``, ``high``, ``items`` (that grow and have a
        reading at this time; with fewer than 2 there is no band).

    Raises
    ------
    TurningpointError
        If a series has other items or times.

    Examples
    --------
    >>> label = Series("class", "class", "categorical", "", np.array([[1, 7], [7, 7]]), np.array([7, 7]))
    >>> curves([label], np.array([-2.0, 3.0]))[["logsnr", "growth", "items"]].values.tolist()
    [[-2.0, 0.5, 2.0], [3.0, 1.0, 2.0]]
    """
    counts = checked_counts(series, logsnr, counts)
    tables = []
    for one in series:
        pooled = pooled_growth(one, counts)
        items = np.isfinite(growth(one)).sum(0)
        low, high = interval(pooled[1:], level) if len(pooled) > 1 else (pooled[0] * np.nan,) * 2
        bounded = np.isfinite(pooled[0]) & (items > 1)
        columns = {
            "feature": one.feature,
            "label": one.label,
            "kind": one.kind,
            "logsnr": np.asarray(logsnr, dtype=float),
            "growth": pooled[0],
            "low": np.where(bounded, low, np.nan),
            "high": np.where(bounded, high, np.nan),
            "items": items,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def checked_counts(series: Sequence[Series], logsnr: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """The bootstrap's counts for series that share their items and the times ``logsnr``.

    Raises
    ------
    TurningpointError
        If there is no series, or one has other items or times than the first, the counts or ``logsnr`` have.
    """
    if not len(series):
        raise TurningpointError("series is empty; accepted: one feature or more.")
    items = len(series[0].values)
    for one in series:
        if one.values.shape != (items, len(logsnr)):
            raise TurningpointError(
                f"values of {one.feature!r} has shape {one.values.shape}; accepted: ({items}, {len(logsnr)}), the "
                "items of the first series and a column per log-SNR."
            )
    if counts is None:
        return weights(items)
    if counts.ndim != 2 or counts.shape[1] != items:
        raise TurningpointError(f"counts has shape {counts.shape}; accepted: (S + 1, {items}).")
    return counts


def _gain(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Gain (N, T), with NaN where it is unknown, and goal (N,), 0 where there is nothing to grow."""
    values, final = _numbers(series.values), _numbers(series.final)
    known = ~np.isnan(values)
    far = np.fmax.reduce(np.abs(values), axis=1, initial=0.0)
    far = np.fmax(far, np.abs(final))
    if series.kind == "categorical":
        gain, goal, far = (values == final[:, None]) * 1.0, np.ones_like(final), np.ones_like(final)
    elif series.kind == "scalar" and series.absent is not None:
        way = final - series.absent
        gain, goal = np.where(way < 0, -1.0, 1.0)[:, None] * (values - series.absent), np.abs(way)
        far = np.fmax(far, abs(series.absent))
    else:
        first = values[np.arange(len(values)), known.argmax(1)]
        goal = np.abs(first - final)
        gain = goal[:, None] - np.abs(values - final[:, None])
    unread = ~np.logical_or.accumulate(known, axis=1)
    gain = np.where(unread, 0.0, np.where(known, gain, np.nan))
    answered = known.any(1) & ~np.isnan(final)
    return np.where(answered[:, None], gain, np.nan), np.where(
        answered & (goal > RESOLUTION * far), goal, 0.0
    )


def _numbers(values: np.ndarray) -> np.ndarray:
    """As 64-bit floats, NaN where not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _ratio(above: np.ndarray, below: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ratio of two weighted sums over items: (S + 1, T), NaN where the lower one is 0."""
    blocks = [(block @ above, block @ below) for block in in_blocks(counts)]
    upper, lower = (np.concatenate(part) for part in zip(*blocks, strict=True))
    some = lower > 0
    return np.where(some, upper / np.where(some, lower, 1), np.nan)
