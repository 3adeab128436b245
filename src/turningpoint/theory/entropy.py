r"""The label's entropy given a noisy item, the rate at which noise makes it, and posterior variances.

With Z the class, :math:`H(Z \mid x_t)` grows with noise from 0, where classes are distinct, to
:math:`H(Z)`.  Its derivative peaks where the class is decided fastest, **on the clock that it is taken
by**: dH/dt in Ornstein-Uhlenbeck time and dH/d(log-SNR) peak at different places, which merge only if the
peak lies deep in the noise.  Rates come from the I-MMSE relation (see `turningpoint.theory.classes`).

For :math:`N(\pm m, I)` the rate in Ornstein-Uhlenbeck time is :math:`4 r^2 E[p_0 p_1]` and peaks at
:math:`r = |m| e^{-t} = 1.228` for any m long enough.

Variances of the posterior:

.. math:: \sum_c \mathrm{Var}[1_{Z = c} \mid x_t] = 1 - \mathrm{kept}(t), \qquad
          E \, \mathrm{tr} \, \mathrm{Cov}[x_0 \mid x_t] = E |x_0 - E[x_0 \mid x_t]|^2 ,

the second as a share of :math:`\mathrm{tr} \, \mathrm{Cov}[x_0]`; for a Gaussian it is :math:`\sum_k
\lambda_k / (1 + \lambda_k \mathrm{SNR})`, for a `Pair` :math:`d s^2 / (1 + s^2 \mathrm{SNR}) + 4 h^2
E[p_0 p_1] / (1 + s^2 \mathrm{SNR})^2`.

Sources: Guo, Shamai & Verdu 2005 (I-MMSE); Biroli et al. 2024 (arXiv:2402.18491) for the system of two Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import entr
from torch import Tensor

from . import CURVES, DEFINITIONS, PredictedCurve, Prediction
from .classes import ENTROPY, KEPT, RATE_LOGSNR, RATE_OU, WORK, information
from .draws import Draws
from .known import affordable, gaussian, pair, spectrum

SOURCE = "Guo, Shamai & Verdu 2005, eq. 1"
CLOCKS = {"ou": RATE_OU, "logsnr": RATE_LOGSNR}
RATES = {"ou": "dH(Z | x_t)/dt, t in Ornstein-Uhlenbeck time", "logsnr": "-dH(Z | x_t)/d(log-SNR)"}
MOST_ENTRIES = 4096
"""Larger items get no Monte Carlo posterior variance."""


@DEFINITIONS.add("entropy")
def entropy(model: Any) -> Sequence[Prediction]:
    """``entropy.peak.ou``, ``entropy.peak.logsnr`` and ``entropy.half``."""
    known = information(model)
    if known is None:
        return []
    found = []
    for clock, rate in CLOCKS.items():
        at = known.peak(rate)
        law = f"peak of the label-entropy rate {RATES[clock]}"
        found.append(
            Prediction(
                f"entropy.peak.{clock}",
                law,
                at.logsnr,
                SOURCE,
                reason=at.reason and f"the rate has no peak: {at.reason}",
                feature="class",
                error=at.error,
            )
        )
    whole = float(entr(known.weights).sum())
    at = known.crossing(ENTROPY, whole / 2)
    law = f"H(Z | x_t) = H(Z) / 2 = {whole / 2:.4g} nats"
    law += " (1/2 ln 2)" if math.isclose(whole, math.log(2)) else ""
    reason = at.reason and f"H(Z | x_t) would have to be {whole / 2:.3g}, but {at.reason}"
    found.append(
        Prediction("entropy.half", law, at.logsnr, SOURCE, reason=reason, feature="class", error=at.error)
    )
    return found


@CURVES.add("entropy")
def curves(model: Any, logsnr: np.ndarray) -> Sequence[PredictedCurve]:
    """``entropy.class``, ``entropy.rate.ou``, ``entropy.rate.logsnr``, ``variance.class``, ``variance.data``."""
    found = []
    known = information(model)
    if known is not None:
        laws = {
            "entropy.class": ("H(Z | x_t) in nats", ENTROPY),
            "entropy.rate.ou": ("dH(Z | x_t) / dt in nats, t Ornstein-Uhlenbeck time", RATE_OU),
            "entropy.rate.logsnr": ("-dH(Z | x_t) / d(log-SNR) in nats", RATE_LOGSNR),
        }
        for name, (law, quantity) in laws.items():
            value, error = known.curve(quantity, logsnr)
            found.append(PredictedCurve(name, law, logsnr, value, error, SOURCE, feature="class"))
        value, error = known.curve(KEPT, logsnr)
        law = "E sum_c Var[1(Z = c) | x_t] = 1 - kept"
        found.append(PredictedCurve("variance.class", law, logsnr, 1 - value, error, SOURCE, feature="class"))
    variance = posterior_variance(model, logsnr)
    if variance is not None:
        law = "E tr Cov[x_0 | x_t] / tr Cov[x_0]"
        found.append(PredictedCurve("variance.data", law, logsnr, *variance, SOURCE))
    return found


def posterior_variance(
    model: Any, logsnr: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """E tr Cov[x_0 | x_t] / tr Cov[x_0].

    Parameters
    ----------
    model : ExactDenoiser
    logsnr : array (T,)

    Returns
    -------
    value, error : array (T,)
        In closed form, with error 0, for a Gaussian and for a `Pair`; else a Monte Carlo mean. None in place
        of both for a model without samples, with items too large, or whose data have no variance.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> deltas = load("deltas")                        # +-1: E[1 - tanh^2] at SNR 1
    >>> posterior_variance(deltas, [0.0])[0].round(4)
    array([0.4496])
    """
    level = np.atleast_1d(np.asarray(logsnr, dtype=np.float64))
    snr = np.exp(level)
    known, eigenvalues = pair(model), spectrum(model) if gaussian(model) else None
    if known is not None:
        shrunk = 1 + known.std**2 * snr
        confusion = (1 - information(model).curve(KEPT, level)[0]) / 2  # type: ignore[union-attr]
        w_0, w_1 = known.weights
        inside = known.dim * known.std**2
        value = inside / shrunk + 4 * known.half**2 * confusion / shrunk**2
        value /= inside + 4 * known.half**2 * w_0 * w_1
        return value, np.zeros_like(value)
    if eigenvalues is not None and eigenvalues.sum() > 0:
        value = (eigenvalues / (1 + eigenvalues * snr[:, None])).sum(1) / eigenvalues.sum()
        return value, np.zeros_like(value)
    if not affordable(model) or math.prod(model.shape) > MOST_ENTRIES:
        return None
    return _by_monte_carlo(model, level)


def _by_monte_carlo(model: Any, level: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    draws = Draws(model, WORK)
    whole = draws.total_variance
    if whole == 0:
        return None

    def squares(x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
        apart: Tensor = x_0 - model(x_t, t)
        return apart.flatten(1).square().sum(1)

    shares = np.stack([draws.apply(squares, float(one), draws.x_0) / whole for one in level])
    return shares.mean(1), shares.std(1, ddof=1) / math.sqrt(draws.count)
