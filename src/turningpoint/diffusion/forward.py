r"""The forward process between two times: how a state at s is noised on to a later t.

.. math:: x_t = \alpha_{t|s} x_s + \sigma_{t|s} z, \qquad \alpha_{t|s} = \alpha_t / \alpha_s, \qquad
          \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2

(Kingma et al. 2021, eq. 2-3).  It leaves every marginal what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
