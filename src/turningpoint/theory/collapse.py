r"""Collapse: when the optimal denoiser of n points turns from their distribution to the points.

The density of n noisy points is a sum of n Gaussians.  While they overlap it is that of the noisy
distribution P_t the points came from; once their own volume :math:`n e^{d s_{noise}}` falls below that of
P_t they are alone, each trajectory at its point.  Per dimension, with :math:`\Delta_t = 1 - e^{-2t}` and
s(t) the entropy of P_t (Biroli et al. 2024, arXiv:2402.18491, eq. 8-10),

.. math:: f(t) = s_{sep}(t) - s(t), \qquad s_{sep}(t) = \frac{\log n}{d} + \frac12 + \frac12 \log (2 \pi \Delta_t),
          \qquad f(t_C) = 0 :

the **excess entropy** is positive at more noise than :math:`t_C`.  As :math:`d (s(t) - s_{noise})` is the
information of a noisy item about its clean one, the criterion says :math:`I(x_0; x_t) = \log n`.  For
Gaussian data with eigenvalues :math:`\lambda_k`

.. math:: f(t) = \frac{\log n}{d} - \frac{1}{2d} \sum_k \log (1 + \lambda_k \mathrm{SNR}),

and if all are :math:`\sigma^2`, :math:`t_C = \frac12 \log \big( 1 + \sigma^2 / (n^{2/d} - 1) \big)`.

In the language of the random energy model, the points other than the own one have the free energy
:math:`\psi_+`, :math:`e^{d \psi_+} = \sum_{\mu > 1} e^{-|x - a_\mu e^{-t}|^2 / 2 \Delta_t}`, and the own
one :math:`-\frac12`; collapse is :math:`\psi_+ < -\frac12`.  For Gaussian data of variance
:math:`\sigma^2`, :math:`\Gamma_t = \sigma^2 e^{-2t} + \Delta_t`,

.. math:: \psi_+ = \frac{\log n}{d} + \frac12 \log \frac{\Delta_t}{\Gamma_t} - \frac12

at :math:`t \ge t_C`.  The level that rules this sum holds :math:`e^{d f}` points, so the sum condenses on
a few points where f = 0: at :math:`t_C` itself.  Below, :math:`\psi_+` is minus the energy at which n
points run out: with the inverse temperature b < 1 at which

.. math:: \frac{\log n}{d} = \frac12 \Big[ \frac{N}{S + N} + \frac{S \, \Gamma_t}{(S + N)^2} - 1
          - \log \frac{N}{S + N} \Big], \qquad S = \sigma^2 e^{-2t}, \; N = \Delta_t / b,

it is :math:`-\frac{1}{2 \Delta_t} \big[ \frac{N^2 \Gamma_t}{(S + N)^2} + \frac{S N}{S + N} \big]` (large
deviations of Gaussian data).

A data set is judged here by the Gaussian of its covariance.  Of all distributions with one covariance it is
the one whose noisy items tell most, so the data themselves reach log n nats, and collapse, at no more noise
than is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from ..errors import TurningpointError
from . import CURVES, DEFINITIONS, PredictedCurve, Prediction
from .known import descending, spectrum

SOURCE = "Biroli et al. 2024 (arXiv:2402.18491), eq. 8-10"


def collapse_time(n: int, dim: int, variance: float = 1.0) -> float:
    """t_C of n points of N(0, variance I) in dim dimensions, in Ornstein-Uhlenbeck time.

    Raises
    ------
    TurningpointError
        If n is below 2, dim below 1, or the variance not positive.

    Examples
    --------
    >>> round(collapse_time(1000, 16), 6), round(collapse_time(20_000, 64), 6)
    (0.273828, 0.661802)
    """
    _check(n, dim, variance)
    return math.log1p(variance / math.expm1(2 * math.log(n) / dim)) / 2


def excess_entropy(n: int, eigenvalues: Any, logsnr: Any) -> np.ndarray:
    """f of n points of Gaussian data, in nats per dimension: 0 at collapse, negative at less noise.

    Parameters
    ----------
    n : int
        How many points.
    eigenvalues : array (d,)
        Of the covariance of the data.
    logsnr : array (T,) or float

    Returns
    -------
    array (T,)

    Examples
    --------
    >>> bool(abs(excess_entropy(4, [1.0, 1.0], np.log(3.0))) < 1e-12)      # (1 + SNR)^2 = n^2 at SNR 3
    True
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    _check(n, values.size, float(values.max(initial=0)))
    level = np.atleast_1d(np.asarray(logsnr, dtype=np.float64))
    with np.errstate(divide="ignore"):
        information = np.logaddexp(0, np.log(values) + level[:, None]).sum(1) / 2
    return np.asarray((math.log(n) - information) / values.size)


def collapse_logsnr(n: int, eigenvalues: Any) -> float:
    """Where the excess entropy of n points of Gaussian data is 0, in log-SNR.

    Parameters
    ----------
    n : int
        How many points, at least 2.
    eigenvalues : array (d,)
        Of the covariance of the data, not all 0.

    Examples
    --------
    >>> round(float(np.exp(collapse_logsnr(4, [1.0, 1.0]))), 9)
    3.0
    """
    values = descending(np.asarray(eigenvalues, dtype=np.float64).ravel())
    _check(n, values.size, float(values[0]) if values.size else 0.0)
    high = 2 * math.log(n) - math.log(values[0])  # where the first eigenvalue alone would do
    low = math.log(math.expm1(2 * math.log(n) / values.size)) - math.log(values[0]) - 1e-9
    return float(brentq(lambda level: excess_entropy(n, values, level)[0], low, high + 1e-9, xtol=1e-12))


def rem_free_energy(n: int, dim: int, t: float, variance: float = 1.0) -> float:
    """psi_+ of n points of N(0, variance I), seen from a typical noisy point: -1/2 at t_C.

    Parameters
    ----------
    n, dim, variance
        As in `collapse_time`.
    t : float
        Ornstein-Uhlenbeck time, above 0.

    Returns
    -------
    float
        In nats per dimension: condensed below t_C, annealed above.

    Examples
    --------
    >>> round(rem_free_energy(1000, 16, collapse_time(1000, 16)), 9)
    -0.5
    """
    _check(n, dim, variance)
    if not t > 0:
        raise TurningpointError(f"t is {t}; accepted: a time above 0.")
    entropy = math.log(n) / dim
    signal, noise = variance * math.exp(-2 * t), -math.expm1(-2 * t)
    gamma = signal + noise
    if t >= collapse_time(n, dim, variance):
        return entropy + math.log(noise / gamma) / 2 - 0.5

    def missing(log_b: float) -> float:
        spread = noise / math.exp(log_b)
        share = spread / (signal + spread)
        return (share + signal * gamma / (signal + spread) ** 2 - 1 - math.log(share)) / 2 - entropy

    spread = noise / math.exp(brentq(missing, -200.0, 0.0, xtol=1e-13))
    share = spread / (signal + spread)
    return -(share**2 * gamma + signal * share) / (2 * noise)


@DEFINITIONS.add("collapse")
def collapse(model: Any) -> Sequence[Prediction]:
    """``collapse``, of a model whose data are n points."""
    known = _points(model)
    if known is None:
        return []
    n, eigenvalues = known
    law = f"excess entropy 0: log n = I(x_0; x_t) of the Gaussian of the data's covariance, n = {n}"
    if n < 2 or eigenvalues[0] <= 0:
        return [Prediction("collapse", law, math.nan, SOURCE, reason="all points are one")]
    return [Prediction("collapse", law, collapse_logsnr(n, eigenvalues), SOURCE)]


@CURVES.add("collapse")
def curves(model: Any, logsnr: np.ndarray) -> Sequence[PredictedCurve]:
    """``excess_entropy``, of a model whose data are n points."""
    known = _points(model)
    if known is None or known[0] < 2 or known[1][0] <= 0:
        return []
    law = "excess entropy s_sep - s in nats per dimension, of the Gaussian of the data's covariance"
    value = excess_entropy(*known, logsnr)
    return [PredictedCurve("excess_entropy", law, logsnr, value, np.zeros_like(value), SOURCE)]


def _points(model: Any) -> tuple[int, np.ndarray] | None:
    n = getattr(model, "n_points", None)
    eigenvalues = None if n is None else spectrum(model)
    return None if n is None or eigenvalues is None else (int(n), eigenvalues)


def _check(n: int, dim: int, variance: float) -> None:
    if n < 2:
        raise TurningpointError(f"n is {n}; accepted: a whole number of at least 2.")
    if dim < 1:
        raise TurningpointError(f"dim is {dim}; accepted: a whole number of at least 1.")
    if not 0 < variance < math.inf:
        raise TurningpointError(f"the largest variance is {variance}; accepted: above 0.")
