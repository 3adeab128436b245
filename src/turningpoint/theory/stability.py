r"""Loss of stability: where the fixed point that noise begins with stops attracting.

Four reverse drifts, in the rate of noising (beta in VP, :math:`d\tau^2` in VE), with the score of the
marginal in the same coordinates:

===========  ===============  ====================================  =======================================
name         coordinates      reverse process                       drift
===========  ===============  ====================================  =======================================
``sde.vp``   x, variance      SDE :math:`dx = \beta b \, ds + ..`   :math:`b = x / 2 + \nabla \log p_t(x)`
             preserving
``ode.vp``   the same         probability-flow ODE                  :math:`b = (x + \nabla \log p_t(x)) / 2`
``sde.ve``   y = x / alpha,   SDE                                   :math:`b = \nabla \log p_\tau(y)`
             noise tau
``ode.ve``   the same         probability-flow ODE                  :math:`b = \nabla \log p_\tau(y) / 2`
===========  ===============  ====================================  =======================================

By Tweedie's formula, :math:`\nabla \log p_t = (\alpha D - x) / \sigma^2` with D the posterior mean, each
drift vanishes where, with :math:`\alpha^2 + \sigma^2 = 1` and :math:`y = x / \alpha`,

.. math:: y = g D(y), \qquad g = \frac{1}{1 - \sigma^2 / 2} \; (\text{sde.vp}), \quad
          g = \frac{1}{\alpha^2} \; (\text{ode.vp}), \quad g = 1 \; (\text{VE}),

and as :math:`\partial D / \partial y = \mathrm{SNR} \, C` with :math:`C = \mathrm{Cov}[x_0 \mid x_t]` at
the fixed point, the largest eigenvalue of the drift's Jacobian there has the sign of :math:`\mu - 1`,

.. math:: \mu = g \, \mathrm{SNR} \, \lambda_{\max}(C) .

**Stability is lost** at the first level, from pure noise on, where :math:`\mu` crosses 1 at the fixed
point that is followed from there.  For ``sde.vp`` this is :math:`\tfrac12 a^2 - (1 + \lambda) a + \lambda
= 0` for :math:`a = \sigma^2 = 1 - \theta^2`; two deltas at +-1 (:math:`\lambda = 1`) give
:math:`\theta_c^2 = \sqrt 2 - 1`, log-SNR :math:`-\tfrac12 \ln 2` (Raya & Ambrogioni 2023, section 4).  In
VE coordinates it is :math:`\tau^2 = \lambda`, for deltas log-SNR 0: where the density itself grows a
second mode.  For ``ode.vp`` it is :math:`\lambda = \sigma^2`: there deltas are unstable at every noise
level, and have nothing to lose.

So the definition knows its coordinates, the origin among them.  A fixed point without a symmetry, as that of
two deltas of unequal weights, is followed and stays stable: the branches part elsewhere, by a fold.  A single
Gaussian loses the stability of ``sde.vp`` if its variance is above 2 (at :math:`\alpha^2 (\Lambda - 1) = 1`),
although nothing is decided; and where wide components make the fixed point of ``sde.vp`` run away before it
loses stability, the answer is none, and says how far it was followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit, softmax

from ..errors import one_of
from . import DEFINITIONS, Prediction
from .known import Mixture, affordable, array, class_means, class_weights, device, gaussian, mixture, spectrum

SOURCE = "Raya & Ambrogioni 2023 (arXiv:2305.19693), section 4"
GAINS: dict[str, Callable[[float], float]] = {
    "sde.vp": lambda level: 1 / (1 - float(expit(-level)) / 2),
    "ode.vp": lambda level: 1 / float(expit(level)),
    "sde.ve": lambda level: 1.0,
    "ode.ve": lambda level: 1.0,
}
"""g of each drift at a log-SNR."""
DRIFTS = {
    "sde.vp": "the reverse SDE, VP coordinates",
    "ode.vp": "the probability-flow ODE, VP coordinates",
    "sde.ve": "the reverse SDE, VE coordinates",
    "ode.ve": "the probability-flow ODE, VE coordinates",
}
STEP, SHORTEST = 1.0, 1e-3
"""In log-SNR, by which the fixed point is followed."""
BRANCH = 0.02
"""How far, in standard deviations of the data, a fixed point may lie from where its branch was heading."""
SETTLED, NEWTON = 1e-7, 30
"""The last step of Newton's method, as a share of that distance; and its most steps."""
MOST_ENTRIES = 128
"""A denoiser of larger items is not followed, unless it is a mixture of isotropic Gaussians or one Gaussian."""


class Denoise(Protocol):
    """The denoiser in VE coordinates at one log-SNR: D(y) (d,), and its symmetric Jacobian (d, d)."""

    def __call__(self, y: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """D and dD/dy at y."""


def loss_of_stability(model: Any, drift: str) -> tuple[float, str] | None:
    """Where the fixed point that noise begins with stops attracting.

    Parameters
    ----------
    model : ExactDenoiser
        With items of at most 128 entries, or a mixture of isotropic Gaussians of one variance, or a Gaussian.
    drift : str
        ``sde.vp``, ``ode.vp``, ``sde.ve`` or ``ode.ve``.

    Returns
    -------
    logsnr : float
        NaN if there is no such point.
    reason : str
        Why there is none. None in place of both for a model that is not followed.

    Raises
    ------
    TurningpointError
        If there is no such drift.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> logsnr, _ = loss_of_stability(load("deltas"), "sde.vp")
    >>> round(logsnr, 6) == round(-math.log(2) / 2, 6)
    True
    >>> loss_of_stability(load("deltas"), "ode.vp")[1]
    'it is unstable at every noise level, from pure noise on'
    """
    if drift not in GAINS:
        raise one_of("drift", drift, GAINS)
    if gaussian(model):
        return _of_a_gaussian(float(spectrum(model)[0]), drift)  # type: ignore[index]
    known = mixture(model)
    if known is not None:
        reduced = _reduced(known)
        variance = reduced.weights @ (reduced.means**2).sum(1) + reduced.std**2
        return _follow(_of_a_mixture(reduced), reduced.weights @ reduced.means, float(variance), drift)
    if not affordable(model) or math.prod(model.shape) > MOST_ENTRIES or not hasattr(model, "jacobian"):
        return None
    x_0 = array(model.sample(1024, seed=0)[0]).reshape(1024, -1)
    means = class_means(model)
    centre = x_0.mean(0) if means is None else class_weights(model) @ means
    return _follow(_of_a_model(model), centre, float((x_0**2).sum(1).mean()), drift)


@DEFINITIONS.add("stability")
def stability(model: Any) -> Sequence[Prediction]:
    """``stability.sde.vp``, ``stability.ode.vp``, ``stability.sde.ve``, ``stability.ode.ve``."""
    found = []
    at = {drift: loss_of_stability(model, drift) for drift in ("sde.vp", "ode.vp", "sde.ve")}
    at["ode.ve"] = at["sde.ve"]  # half the drift
    for drift, words in DRIFTS.items():
        if (answer := at[drift]) is not None:
            law = f"the fixed point that noise begins with loses stability in {words}"
            found.append(Prediction(f"stability.{drift}", law, answer[0], SOURCE, reason=answer[1]))
    return found


def critical_alpha(variance: float) -> float:
    r"""theta_c of ``sde.vp`` for a posterior variance at the fixed point that noise does not change.

    With :math:`\lambda` the variance, :math:`\theta_c^2 = 1 - a` for the root :math:`a = 1 + \lambda - \sqrt{1 +
    \lambda^2}` of :math:`\tfrac12 a^2 - (1 + \lambda) a + \lambda = 0`; towards :math:`1 / (2 \lambda)` for large ones.

    >>> round(critical_alpha(1.0), 6)
    0.643594
    """
    return math.sqrt(1 / (math.hypot(1, variance) + variance))


def _of_a_gaussian(largest: float, drift: str) -> tuple[float, str]:
    if drift == "sde.vp" and largest > 2:
        return -math.log(largest - 2), ""
    if drift == "ode.vp" and largest > 1:
        return math.nan, _ALWAYS
    return math.nan, "it is stable at every noise level: the data are one Gaussian"


_ALWAYS = "it is unstable at every noise level, from pure noise on"
_NEVER = "it stays stable down to no noise"


def _follow(denoise: Denoise, start: np.ndarray, variance: float, drift: str) -> tuple[float, str]:
    """Follow the fixed point from pure noise on, in steps as short as it takes to stay on its branch."""
    gain, scale = GAINS[drift], math.log(max(variance, 1e-300))

    def near(level: float) -> float:
        return BRANCH * gain(level) * math.exp(scale / 2)

    def settle(level: float, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """The fixed point close to y by Newton's method, the Jacobian of g D there, and whether it settled."""
        g = gain(level)
        for _ in range(NEWTON):
            d, jacobian = denoise(y, level)
            move = np.linalg.lstsq(np.eye(len(y)) - g * jacobian, g * d - y)[0]
            if np.linalg.norm(move) <= SETTLED * near(level):
                return y, g * jacobian, True
            y = y + move
        return y, g * denoise(y, level)[1], False

    level, last, step = -scale - 12, -scale + 12, STEP
    y, slope, _ = settle(level, gain(level) * start)
    if _largest(slope) > 1:
        return math.nan, _ALWAYS
    speed = np.zeros_like(y)
    while level < last:
        ahead = level + step
        guess = y + step * speed
        found, slope, settled = settle(ahead, guess)
        if not settled or np.linalg.norm(found - guess) > near(ahead):
            step /= 2
            if step < SHORTEST:
                return (
                    math.nan,
                    f"its branch is stable down to log-SNR {level:.4g}, and cannot be followed further",
                )
            continue
        speed = (found - y) / step
        if _largest(slope) > 1:

            def excess(at: float, before: Any = (level, y, speed)) -> float:
                return _largest(settle(at, before[1] + (at - before[0]) * before[2])[1]) - 1

            return float(brentq(excess, level, ahead, xtol=1e-12)), ""
        level, y, step = ahead, found, min(2 * step, STEP)
    return math.nan, _NEVER


def _largest(symmetric: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(symmetric)[-1])


def _reduced(known: Mixture) -> Mixture:
    """The mixture in coordinates of the span of its means; at right angles to it the fixed point is 0."""
    _, values, axes = np.linalg.svd(known.means, full_matrices=False)
    kept = values > 1e-12 * values.max()
    kept[0] = True
    return Mixture(known.means @ axes[kept].T, known.std, known.weights)


def _of_a_mixture(known: Mixture) -> Denoise:
    """In closed form: D = sum_c p_c mu_c, dD/dy = SNR Cov[x_0 | y]."""

    def denoise(y: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        tau_sq = math.exp(-level)
        v = known.std**2 + tau_sq
        gap = y - known.means
        p = softmax(np.log(known.weights) - (gap**2).sum(1) / (2 * v))
        centres = known.means + known.std**2 / v * gap
        d = p @ centres
        between = (centres - d).T @ (p[:, None] * (centres - d))
        return d, known.std**2 / v * np.eye(len(y)) + between / tau_sq

    return denoise


def _of_a_model(model: Any) -> Denoise:
    """From the model's own answers, at x_t = alpha y."""

    @torch.no_grad()
    def denoise(y: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        t = model.schedule.t(logsnr=torch.tensor([level], dtype=torch.float64)).to(device(model))
        alpha_t = float(model.schedule.alpha(t)[0])
        x_t = torch.as_tensor(alpha_t * y, dtype=torch.float64, device=t.device).reshape(1, *model.shape)
        jacobian = alpha_t * array(model.jacobian(x_t, t)[0])
        return array(model(x_t, t)[0]).ravel(), (jacobian + jacobian.T) / 2

    return denoise
