r"""Samplers of the probability-flow ODE in other coordinates than sigma / alpha.

With :math:`\hat x = x / \alpha`, :math:`\sigma` for :math:`\sigma / \alpha`, a time :math:`\tau`, a scale
:math:`s`, and :math:`y = s \hat x`, the ODE is (Karras et al. 2022, eq. 4)

.. math:: \frac{dy}{d\tau} = \Bigl(\frac{\sigma'}{\sigma} + \frac{s'}{s}\Bigr) y
          - \frac{\sigma' s}{\sigma} D(y / s; \sigma) .

Solvers step along straight lines in y over :math:`\tau`, so their errors depend on the choice (Table 1):

==========================  =============================  =======================  ===============================
sampler                     :math:`\sigma(\tau)`           :math:`s(\tau)`          :math:`dy / d\tau`
==========================  =============================  =======================  ===============================
``euler``, ``heun``         :math:`\tau`                   1                        (y - D) / sigma
``euler_ve``, ``heun_ve``   :math:`\sqrt\tau`              1                        (y - D) / (2 sigma^2)
``euler_vp``, ``heun_vp``   :math:`\sqrt{e^{B(\tau)}-1}`   :math:`e^{-B(\tau)/2}`   B' (y - D / s) / (2 sigma^2)
==========================  =============================  =======================  ===============================

:math:`B(\tau) = \beta_d \tau^2 / 2 + \beta_{min} \tau` is fitted to the model's range of noise levels
(`discretization.vp_betas`).  The first row is `sampler`'s.  The state of a walk stays in the model's own coordinates;
only the step is straight in these.  From alpha = 0, where sigma / alpha is infinite, and to t = 0 the *heun*
samplers take Euler's step; from alpha = 0 it is that of ``ddim``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TurningpointError
from .denoiser import Denoiser, expand
from .discretization import Range, range_of, vp_betas
from .sampler import SAMPLERS, Sampler, Step
from .schedule import Schedule


class _Place(NamedTuple):
    """Where items stand, each (B,): tau, s, and p, q of dy / dtau = p y - q D."""

    tau: Tensor
    s: Tensor
    p: Tensor
    q: Tensor


class _Straight(Sampler):
    """Euler's method, or Heun's if there are two phases, in y over tau."""

    memory = 2
    grid = "rho"

    @abstractmethod
    def _place(self, sigma: Tensor, clock: Schedule) -> _Place:
        """The place at sigma / alpha (B,) float64."""

    def query(self, phase: int, at: Step) -> tuple[Tensor, Tensor]:
        return at.x, at.s if phase else at.t

    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        x, clock = at.x, at.clock
        t, s = at.t.to(torch.float64), at.s.to(torch.float64)
        alpha_t, alpha_s, sigma_t, sigma_s = clock.alpha(t), clock.alpha(s), clock.sigma(t), clock.sigma(s)
        here, there = self._place(sigma_t / alpha_t, clock), self._place(sigma_s / alpha_s, clock)
        step, back = there.tau - here.tau, alpha_s / there.s
        if phase == 0:
            y = expand(here.s / alpha_t, x) * x
            rise = expand(step * here.p, x) * y - expand(step * here.q, x) * x_0
            at.memory[:, 0], at.memory[:, 1] = y, rise
            x_s = expand(back, x) * (y + rise)
            infinite = alpha_t <= 0
            ddim = expand(alpha_s, x) * x_0 + expand(sigma_s / sigma_t, x) * x
            x_s = torch.where(expand(infinite, x) > 0, ddim, x_s)
            return x_s, infinite | (at.s <= 0) if self.phases > 1 else torch.ones_like(infinite)
        y, rise = at.memory[:, 0], at.memory[:, 1]
        y_s = expand(there.s / alpha_s, x) * x
        rise_s = expand(step * there.p, x) * y_s - expand(step * there.q, x) * x_0
        return expand(back, x) * (y + (rise + rise_s) / 2), torch.ones_like(at.t, dtype=torch.bool)


@SAMPLERS.add("euler_ve")
class EulerVE(_Straight):
    """Euler's method with tau = sigma^2 and s = 1, as Song et al. 2021 integrate their VE process."""

    name = "euler_ve"

    def _place(self, sigma: Tensor, clock: Schedule) -> _Place:
        tau = sigma.square()
        return _Place(tau, torch.ones_like(tau), 0.5 / tau, 0.5 / tau)


@SAMPLERS.add("heun_ve")
class HeunVE(EulerVE):
    """Heun's method in the coordinates of `EulerVE`."""

    name = "heun_ve"
    phases = 2


@SAMPLERS.add("euler_vp")
class EulerVP(_Straight):
    """Euler's method in the coordinates of the VP process of Song et al. 2021.

    Parameters
    ----------
    sigma_min, sigma_max : float, optional
        The range of sigma / alpha that tau is fitted to; by default that in which the model is sampled.

    Raises
    ------
    TurningpointError
        If one is given without the other, or tau cannot be fitted to them.
    """

    name = "euler_vp"
    settings = ("sigma_min", "sigma_max")

    def __init__(self, sigma_min: float | None = None, sigma_max: float | None = None) -> None:
        if (sigma_min is None) != (sigma_max is None):
            raise TurningpointError(
                f"sigma_min, sigma_max are {sigma_min}, {sigma_max}; accepted by {self.name}: both or none."
            )
        self.ends: Range | None = None
        if sigma_min is not None and sigma_max is not None:
            self.ends = float(sigma_min), float(sigma_max)
            vp_betas(*self.ends)

    def suited(self, model: Denoiser) -> Sampler:
        return self if self.ends else type(self)(*getattr(model, "sigma_range", range_of(model.schedule)))

    def _place(self, sigma: Tensor, clock: Schedule) -> _Place:
        beta_d, beta_min = vp_betas(*(self.ends or range_of(clock)))
        variance = sigma.square()
        total = variance.log1p()  # = B(tau)
        root = (beta_min**2 + 2 * beta_d * total).clamp_min(0).sqrt()  # = B'(tau)
        # the root that does not cancel; with beta_min < 0 small sigma lie at tau near -2 beta_min / beta_d
        rising = 2 * total / (root + beta_min) if beta_min > 0 else (root - beta_min) / beta_d
        tau = torch.where(total > 0, rising, 0.0)
        s = (-total / 2).exp()
        return _Place(tau, s, root / (2 * variance), root / (2 * variance * s))

    def config(self) -> dict[str, Any]:
        ends = {} if self.ends is None else {"sigma_min": self.ends[0], "sigma_max": self.ends[1]}
        return {"name": self.name} | ends


@SAMPLERS.add("heun_vp")
class HeunVP(EulerVP):
    """Heun's method in the coordinates of `EulerVP`."""

    name = "heun_vp"
    phases = 2
