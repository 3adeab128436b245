r"""The forward process between two times: how a state at s is noised on to a later t.

.. math:: x_t = \alpha_{t|s} x_s + \sigma_{t|s} z, \qquad \alpha_{t|s} = \alpha_t / \alpha_s, \qquad
          \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2

(Kingma et al. 2021, eq. 2-3).  It leaves every marginal what it is.  The way back, for a known :math:`x_0`, is

.. math:: q(x_s \mid x_t, x_0) = N(a x_0 + b x_t, \; v), \qquad a = \alpha_s (1 - r), \quad
          b = \alpha_{t|s} \sigma_s^2 / \sigma_t^2, \quad v = \sigma_s^2 (1 - r), \quad
          r = \mathrm{SNR}_t / \mathrm{SNR}_s

(Ho et al. 2020, eq. 6-7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .clock import Times, as_times
from .schedule import Schedule


def transition(schedule: Schedule, s: float, t: float) -> tuple[float, float]:
    """alpha_{t|s} and sigma_{t|s} for s <= t.

    >>> from turningpoint.diffusion.schedule import EDM
    >>> clock = EDM()
    >>> alpha_ts, sigma_ts = transition(clock, float(clock.t(sigma=3.0)), float(clock.t(sigma=5.0)))
    >>> alpha_ts, round(sigma_ts, 9)
    (1.0, 4.0)
    """
    alpha_ts = float(schedule.alpha(t)) / float(schedule.alpha(s))
    variance = float(schedule.sigma(t)) ** 2 - (alpha_ts * float(schedule.sigma(s))) ** 2
    return alpha_ts, math.sqrt(max(variance, 0.0))


def posterior(schedule: Schedule, t: Times, s: Times) -> tuple[Tensor, Tensor, Tensor]:
    """The coefficients of x_0 and x_t in the mean of q(x_s | x_t, x_0), and its variance, for s < t.

    Parameters
    ----------
    schedule : Schedule
        The clock.
    t, s : Times
        Of one shape.

    Examples
    --------
    >>> from turningpoint.diffusion.schedule import EDM
    >>> clock = EDM()
    >>> [round(float(v), 9) for v in posterior(clock, clock.t(sigma=2.0), clock.t(sigma=1.0))]
    [0.75, 0.25, 0.75]
    """
    t, s = as_times(t), as_times(s)
    one_minus_r = -torch.expm1(schedule.logsnr(t) - schedule.logsnr(s))
    sigma_s = schedule.sigma(s)
    of_x_t = schedule.alpha(t) / schedule.alpha(s) * (sigma_s / schedule.sigma(t)).square()
    return schedule.alpha(s) * one_minus_r, of_x_t, sigma_s.square() * one_minus_r


def forward_path(
    schedule: Schedule, x_0: Tensor, times: Sequence[float], generator: torch.Generator
) -> Tensor:
    """One path of the forward process for each item.

    Parameters
    ----------
    schedule : Schedule
        The clock.
    x_0 : Tensor (B, *shape)
        Where paths start, at t = 0.
    times : sequence of T floats
        Ascending, above 0.
    generator : torch.Generator
        Of the noise.

    Returns
    -------
    Tensor (B, T, *shape)
    """
    x, s, states = x_0, 0.0, []
    for t in times:
        alpha_ts, sigma_ts = transition(schedule, s, float(t))
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x, s = alpha_ts * x + sigma_ts * z, float(t)
        states.append(x)
    return torch.stack(states, 1)
