r"""Critical windows: where, in log-SNR, a feature is decided.

Generation runs from low to high log-SNR :math:`\lambda`, and retention rises from 0 to 1 with it.  The
measured curve is replaced by its closest non-decreasing one (isotonic regression), joined by straight
lines in :math:`\lambda`, and read where it crosses

.. math:: r = \delta \; (\text{start}), \qquad r = 1/2 \; (\text{centre}), \qquad r = 1 - \delta \; (\text{end}).

Every bootstrap sample goes through the same fit; the central 95 % of the crossings is the interval.
An end that the sweep does not bracket is open: -inf if the curve is above the threshold from the
sweep's lowest log-SNR on, +inf if it stays below it to the highest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import TurningpointError
from .bootstrap import interval

EDGES = ("start", "centre", "end")


@dataclass(frozen=True)
class Window:
    """A critical window; each array's row 0 is the estimate, the others are bootstrap samples.

    Attributes
    ----------
    start, centre, end : array (S + 1,)
        Log-SNR; +-inf where open, NaN where the retention says nothing.
    """

    start: np.ndarray
    centre: np.ndarray
    end: np.ndarray

    def row(self, level: float = 0.95) -> dict[str, float]:
        """Estimates and interval ends: ``start``, ``start_low``, ``start_high``, ``centre``, ..."""
        row: dict[str, float] = {}
        for edge in EDGES:
            samples = getattr(self, edge)
            low, high = interval(samples[1:], level) if len(samples) > 1 else (np.nan, np.nan)
            if np.isnan(samples[0]):
                low = high = np.nan
            row |= {edge: float(samples[0]), f"{edge}_low": float(low), f"{edge}_high": float(high)}
        return row


def window(retention: np.ndarray, logsnr: np.ndarray, delta: float = 0.1) -> Window:
    """The critical window of a retention curve and of its bootstrap samples.

    Parameters
    ----------
    retention : array (S + 1, T)
        As in `turningpoint.statistics.retention.Curve`.
    logsnr : array (T,)
        Of the times, in any order.
    delta : float
        Where a window starts and, mirrored, ends; in (0, 1/2).

    Raises
    ------
    TurningpointError
        If delta is not between 0 and 1/2.

    Examples
    --------
    >>> row = window(np.array([[0.0, 0.2, 0.9, 1.0]]), np.array([-4.0, -2.0, 0.0, 2.0])).row()
    >>> round(row["start"], 3), round(row["centre"], 3), row["end"]
    (-3.0, -1.143, 0.0)
    """
    if not 0 < delta < 0.5:
        raise TurningpointError(f"delta is {delta}; accepted: between 0 and 0.5.")
    order = np.argsort(logsnr)
    order = order[np.isfinite(logsnr[order]) & np.isfinite(retention[0][order])]
    if len(order) == 0:
        nothing = np.full(len(retention), np.nan)
        return Window(nothing, nothing, nothing)
    fitted = monotone(retention[:, order])
    return Window(*(crossing(fitted, logsnr[order], level) for level in (delta, 0.5, 1 - delta)))


def monotone(curves: np.ndarray) -> np.ndarray:
    """The least-squares non-decreasing fit of each row of (S, T), by pooling adjacent violators.

    Rows with a NaN come back as NaN.

    >>> monotone(np.array([[0.0, 0.6, 0.4, 1.0]]))
    array([[0. , 0.5, 0.5, 1. ]])
    """
    from scipy.optimize import isotonic_regression

    fitted = np.array(curves, dtype=float)
    for row in range(len(fitted)):
        if np.isnan(fitted[row]).any():
            fitted[row] = np.nan
        elif (np.diff(fitted[row]) < 0).any():
            fitted[row] = isotonic_regression(fitted[row]).x
    return fitted


def crossing(curves: np.ndarray, axis: np.ndarray, level: float) -> np.ndarray:
    """Where each non-decreasing row of (S, T) crosses ``level``: (S,), +-inf beyond the axis's ends.

    A stretch that lies on the level is read at its middle.

    >>> crossing(np.array([[0.0, 1.0], [0.6, 1.0], [0.0, 0.4]]), np.array([0.0, 2.0]), 0.5)
    array([  1., -inf,  inf])
    """
    rows = np.arange(len(curves))
    unknown = np.isnan(curves).any(1)
    filled = np.where(unknown[:, None], 0.0, curves)
    ends = []
    for below in (filled < level, filled <= level):
        k = below.sum(1)  # the first k points lie below
        left, right = np.clip(k - 1, 0, None), np.clip(k, None, len(axis) - 1)
        low, high = filled[rows, left], filled[rows, right]
        gap = np.where(high > low, high - low, 1.0)
        at = axis[left] + (level - low) / gap * (axis[right] - axis[left])
        at = np.where(k == 0, np.where(filled[:, 0] > level, -np.inf, axis[0]), at)
        ends.append(np.where(k == len(axis), np.where(filled[:, -1] < level, np.inf, axis[-1]), at))
    with np.errstate(invalid="ignore"):
        middle = np.where(ends[0] == ends[1], ends[0], (ends[0] + ends[1]) / 2)
    return np.where(unknown, np.nan, middle)


def decided_before(a: np.ndarray, b: np.ndarray) -> float:
    """P[A is decided before B] from paired bootstrap samples of two centres; a tie counts one half.

    Both in log-SNR (S,); NaN if either says nothing in every sample.

    >>> decided_before(np.array([0.0, 1.0, 3.0, 1.0]), np.array([2.0, 2.0, 2.0, 1.0]))
    0.625
    """
    known = ~(np.isnan(a) | np.isnan(b))
    if not known.any():
        return float("nan")
    a, b = a[known], b[known]
    return float(((a < b) + 0.5 * (a == b)).mean())
