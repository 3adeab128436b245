r"""Spectral emergence: at which noise a band of the estimate comes to have half of its power.

Let :math:`P_{ib}(t)` be the power of band :math:`b` in the estimate :math:`\hat x_0(x_t)` of trajectory
:math:`i`, and :math:`F_{ib}` that of its final image.  The **relative power** and the **relative amplitude**
of the band, and the **gain** of the denoiser in VE coordinates (the measure ``gain``), are ratios of means over
trajectories,

.. math::

   R_b(t) = \frac{\sum_i P_{ib}(t)}{\sum_i F_{ib}}, \qquad
   A_b(t) = \sqrt{R_b(t)}, \qquad
   g_b(t) = \alpha_t \frac{\sum_i \text{cross}_{ib}(t)}{\sum_i \text{input}_{ib}(t)},

and **half-emergence** is the log-SNR at which one of them has risen to one half.  They are not the same
place.  For Gaussian modes of variance :math:`\lambda_k`, with :math:`\tau = \sigma / \alpha`,

.. math::

   R_b = \frac{\sum_k \lambda_k^2 / (\lambda_k + \tau^2)}{\sum_k \lambda_k}, \qquad
   g_b = \frac{\sum_k \lambda_k}{\sum_k (\lambda_k + \tau^2)} :

of a single mode, power and gain are both half at :math:`\tau = \sqrt{\lambda}`, and the amplitude only at
:math:`\sqrt{3 \lambda}`, earlier in generation; of a band of several, the gain is half at the mean variance
and the power where `turningpoint.theory.spectrum.band_half_emergence` says.

Where the data have a mean, the estimate shows its power from the start.  ``ground`` is that power; it
is taken off above and below, and what remains is the power of what differs from item to item.

A curve is replaced by its closest non-decreasing one (`turningpoint.statistics.window`) and read on its
logit, :math:`\log R / (1 - R)`, on which a mode is a straight line of slope 1 in log-SNR: between two recorded times
there is then no error of interpolation where a band has one variance, and little where it has several.

Trajectories are independent; the bootstrap draws them again, numerators and denominators together.
The standard error is the standard deviation of half-emergence over the bootstrap samples.

Source: Wang & Vastola 2023, arXiv:2303.02490 (emergence of modes along a trajectory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import TurningpointError, one_of
from .bootstrap import in_blocks, interval
from .window import crossing, monotone

QUANTITIES = ("power", "amplitude", "gain")
STEEPEST = 1e-3
"""A share is kept this far from 0 and from 1 before its logit is taken."""


@dataclass(frozen=True, eq=False)
class Emergence:
    """Curves of bands and where they cross one half; each array's row 0 is the estimate, the others bootstrap samples.

    Attributes
    ----------
    quantity : str
        ``power``, ``amplitude`` or ``gain``: what the curves are.
    logsnr : array (T,)
    curve : array (S + 1, T, B)
        NaN where a band has no power to be compared with.
    half : array (S + 1, B)
        Half-emergence in log-SNR; -inf if the curve is above one half from the first time on, +inf if it never
        is, NaN where there is no curve.
    """

    quantity: str
    logsnr: np.ndarray
    curve: np.ndarray
    half: np.ndarray

    def __repr__(self) -> str:
        halves = ", ".join(f"{half:.2f}" for half in self.half[0])
        return f"<{self.quantity} of {self.half.shape[1]} bands at {len(self.logsnr)} times: half at log-SNR {halves}>"

    def error(self) -> np.ndarray:
        """The standard error of half-emergence, (B,); NaN where an end of the 95 % interval is open."""
        samples = self.half[1:]
        if len(samples) < 2:
            return np.full(self.half.shape[1], np.nan)
        closed = np.isfinite(interval(samples)).all(0) & np.isfinite(self.half[0])
        there = np.isfinite(samples)
        count = np.maximum(there.sum(0), 1)
        known = np.where(there, samples, 0.0)
        mean = known.sum(0) / count
        spread = np.sqrt((np.where(there, known - mean, 0.0) ** 2).sum(0) / np.maximum(count - 1, 1))
        return np.where(closed, spread, np.nan)

    def row(self, band: int, level: float = 0.95) -> dict[str, float]:
        """Half-emergence of a band: ``half``, the ends ``half_low``, ``half_high`` of its interval, ``half_error``."""
        value = float(self.half[0, band])
        low, high = _ends(self.half[:, band], level)
        return {
            "half": value,
            "half_low": float(low),
            "half_high": float(high),
            "half_error": float(self.error()[band]),
        }

    def table(self, level: float = 0.95) -> list[dict[str, Any]]:
        """A row per band and time: ``quantity``, ``band``, ``logsnr``, ``value``, ``low``, ``high``, and `row`."""
        low, high = _ends(self.curve, level)
        order = np.argsort(self.logsnr, kind="stable")
        return [
            {
                "quantity": self.quantity,
                "band": band,
                "logsnr": float(self.logsnr[k]),
                "value": float(self.curve[0, k, band]),
                "low": float(low[k, band]),
                "high": float(high[k, band]),
                **halves,
            }
            for band in range(self.half.shape[1])
            for halves in [self.row(band, level)]
            for k in order
        ]


def emergence(
    power: ArrayLike,
    final: ArrayLike | None,
    logsnr: ArrayLike,
    known: ArrayLike | None = None,
    counts: np.ndarray | None = None,
    ground: ArrayLike | None = None,
    quantity: str = "power",
) -> Emergence:
    """Relative power of bands along trajectories, and where it crosses one half.

    Parameters
    ----------
    power : array (N, T, B)
        Of the estimates, not its logarithm; NaN where nothing was read.
    final : array (N, B), optional
        Of the final images, in the same unit.
    logsnr : array (T,)
        Of the times, in any order; infinite ones are not used for the crossing.
    known : array (B,), optional
        The power of the data, in place of that of the final images, which a sampler's steps may have changed.
    counts : array (S + 1, N), optional
        How often each trajectory is drawn, from `turningpoint.statistics.bootstrap.weights`; without them there are
        no bootstrap samples.
    ground : array (B,) or (N, B), optional
        Power of the mean of the data, or of each trajectory's estimate at pure noise.
    quantity : str
        ``power`` or ``amplitude``.

    Raises
    ------
    TurningpointError
        If shapes do not fit, neither or both of ``final`` and ``known`` are given, or there is no such quantity.

    Examples
    --------
    >>> logsnr = np.array([-6.0, -2.0, 2.0, 6.0])
    >>> power = 4 / (1 + np.exp(-logsnr) / 4)[None, :, None]    # a mode of variance 4
    >>> found = emergence(power, None, logsnr, known=[4.0])
    >>> found.half.round(3).tolist()    # -log 4
    [[-1.386]]
    >>> emergence(power, None, logsnr, known=[4.0], quantity="amplitude").half.round(3).tolist()  # -log 12
    [[-2.485]]
    """
    if quantity not in QUANTITIES[:2]:
        raise one_of("quantity", quantity, QUANTITIES[:2])
    above, axis = _checked("power", power, logsnr)
    items, _, bands = above.shape
    if (final is None) == (known is None):
        raise TurningpointError(
            f"final and known are {'both' if known is not None else 'not'} given; accepted: one of the two."
        )
    argument, given, shape = ("final", final, (items, bands)) if known is None else ("known", known, (bands,))
    whole = _shaped(argument, given, (shape,))
    floor = _shaped("ground", np.zeros(bands) if ground is None else ground, ((bands,), (items, bands)))
    mean = floor.reshape(-1, 1, bands)
    below = np.broadcast_to(whole.reshape(-1, 1, bands) - mean, above.shape)
    ratio = _ratio(above - mean, below, counts)
    # an amplitude is 1/2 where the power is 1/4
    half = _half(ratio, axis, 0.5 if quantity == "power" else 0.25)
    curve = ratio if quantity == "power" else np.sqrt(np.clip(ratio, 0, None))
    return Emergence(quantity, axis, curve, half)


def gain(
    cross: ArrayLike,
    inputs: ArrayLike,
    alpha: ArrayLike,
    logsnr: ArrayLike,
    counts: np.ndarray | None = None,
) -> Emergence:
    """The denoiser's gain per band in VE coordinates, and where it crosses one half.

    Parameters
    ----------
    cross, inputs : array (N, T, B)
        The comparisons of the measure ``gain``; NaN where nothing was read.
    alpha : array (T,)
        Of the schedule, at each time.
    logsnr : array (T,)
        Of the times, in any order.
    counts : array (S + 1, N), optional
        As in `emergence`.

    Raises
    ------
    TurningpointError
        If shapes do not fit.

    Examples
    --------
    >>> logsnr = np.array([-3.0, 0.0, 3.0])
    >>> cross, inputs = np.ones((1, 3, 1)), (1 + np.exp(-logsnr))[None, :, None]    # alpha = 1, variance 1
    >>> gain(cross, inputs, np.ones(3), logsnr).half.tolist()
    [[0.0]]
    """
    above, axis = _checked("cross", cross, logsnr)
    below = _shaped("inputs", inputs, (above.shape,))
    scale = _shaped("alpha", alpha, (axis.shape,))
    ratio = scale[:, None] * _ratio(above, below, counts)
    return Emergence("gain", axis, ratio, _half(ratio, axis, 0.5))


def _ratio(above: np.ndarray, below: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Ratios of weighted sums over items that have both, (S + 1, T, B); NaN where there is nothing below."""
    items, times, bands = above.shape
    weights = np.ones((1, items)) if counts is None else np.asarray(counts)
    if weights.ndim != 2 or weights.shape[1] != items:
        raise TurningpointError(
            f"counts has shape {weights.shape}; accepted: (S + 1, {items}), S samples of all items."
        )
    there = np.isfinite(above) & np.isfinite(below)
    sums = np.where(there, above, 0.0).reshape(items, -1)
    parts = np.where(there, below, 0.0).reshape(items, -1)
    found = np.empty((len(weights), times * bands))
    first = 0
    for block in in_blocks(weights):
        whole = block @ parts
        with np.errstate(divide="ignore", invalid="ignore"):
            found[first : first + len(block)] = np.where(whole > 0, block @ sums / whole, np.nan)
        first += len(block)
    return found.reshape(len(weights), times, bands)


def _half(ratio: np.ndarray, logsnr: np.ndarray, level: float) -> np.ndarray:
    """Where the monotone fit of each curve of (S + 1, T, B) crosses a level, (S + 1, B)."""
    half = np.full((ratio.shape[0], ratio.shape[2]), np.nan)
    for band in range(ratio.shape[2]):
        curves, order = ratio[:, :, band], np.argsort(logsnr, kind="stable")
        order = order[np.isfinite(logsnr[order]) & np.isfinite(curves[0, order])]
        if len(order) == 0:
            continue
        fitted = np.clip(monotone(curves[:, order]), STEEPEST, 1 - STEEPEST)
        half[:, band] = crossing(_logit(fitted), logsnr[order], float(_logit(np.array(level))))
    return half


def _logit(share: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(share / (1 - share)))


def _ends(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval ends of bootstrap samples (S + 1, ...); NaN where there are none, or no estimate."""
    if len(samples) < 2:
        return np.full(samples.shape[1:], np.nan), np.full(samples.shape[1:], np.nan)
    low, high = interval(samples[1:], level)
    unknown = np.isnan(samples[0])
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def _checked(argument: str, values: ArrayLike, logsnr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, T, B) and the log-SNR of their times."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 3 or len(found) == 0:
        raise TurningpointError(
            f"{argument} has shape {found.shape}; accepted: (items, times, bands), one item or more."
        )
    return found, _shaped("logsnr", logsnr, ((found.shape[1],),))


def _shaped(argument: str, values: Any, accepted: tuple[tuple[int, ...], ...]) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape not in accepted:
        shapes = " or ".join(str(shape) for shape in accepted)
        raise TurningpointError(f"{argument} has shape {found.shape}; accepted: {shapes}.")
    return found
