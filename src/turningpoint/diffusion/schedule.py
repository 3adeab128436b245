r"""The clock of a diffusion process.

A schedule is a pair of functions of ``t`` in [0, 1], where 0 is data and 1 is (nearly) pure noise:

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad \varepsilon \sim N(0, I),

and everything else follows from it, first of all the log signal-to-noise ratio

.. math:: \lambda_t = \log(\alpha_t^2 / \sigma_t^2),

which falls from :math:`+\infty` at the data to large negative values at the noise and is the one
clock on which different models can be compared.  Every clock converts both ways: ``alpha(t)``,
``sigma(t)``, ``logsnr(t)`` and ``native(t)`` one way, ``t(logsnr=...)``, ``t(sigma=...)``,
``t(alpha=...)`` and ``t(native=...)`` back.

=================  ==============================  =====================  ===========================
class              alpha, sigma                    native clock           source
=================  ==============================  =====================  ===========================
`VP`               log alpha = -t^2 (b1-b0)/4      ``t``                  Song et al. 2021, eq. 32-33
                   - t b0/2, alpha^2+sigma^2 = 1
`DiscreteVP`       alpha_n^2 = prod (1 - beta_n)   step ``n = tT - 1``    Ho et al. 2020, eq. 4;
                                                                          Nichol & Dhariwal 2021, eq. 17
`EDM`              1, sigma_max t^rho              sigma                  Karras et al. 2022, eq. 5
`RectifiedFlow`    1 - t, t                        ``1000 t``             Liu et al. 2023
=================  ==============================  =====================  ===========================

Between two integer steps of a discrete schedule, beta is constant: log alpha^2 is linear in t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from .clock import Schedule, Times, VariancePreserving, as_times
from .tabulated import Tabulated

__all__ = ["DiscreteVP", "EDM", "RectifiedFlow", "Schedule", "VP", "schedule_from", "schedule_named"]


def schedule_from(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a `Schedule.config`.

    >>> schedule_from(DiscreteVP.named("cosine", 10).config())
    ddpm(family=cosine, steps=10)
    """
    settings = {key: value for key, value in config.items() if key != "kind"}
    if config["kind"] == "ddpm":
        family = settings.pop("family")
        return (
            DiscreteVP(settings["betas"], family)
            if "betas" in settings
            else DiscreteVP.named(family, **settings)
        )
    kinds: dict[str, Callable[..., Schedule]] = {
        "vp": VP, "edm": EDM, "flow": RectifiedFlow, "table": Tabulated,
    }  # fmt: skip
    if config["kind"] not in kinds:
        raise one_of("schedule", config["kind"], [*kinds, "ddpm"])
    return kinds[config["kind"]](**settings)


def schedule_named(schedule: str | Schedule) -> Schedule:
    """A schedule as it is, or by its name: vp, edm, flow, linear, scaled_linear or cosine.

    Parameters
    ----------
    schedule : str or Schedule
        ``vp``, ``edm`` and ``flow`` are `VP`, `EDM` and `RectifiedFlow`; the others are families of
        `DiscreteVP` of 1000 steps.

    Raises
    ------
    TurningpointError
        If there is no such schedule.

    Examples
    --------
    >>> schedule_named("cosine")
    ddpm(family=cosine, steps=1000)
    """
    if isinstance(schedule, Schedule):
        return schedule
    kinds: dict[Any, Callable[[], Schedule]] = {"vp": VP, "edm": EDM, "flow": RectifiedFlow}
    if isinstance(schedule, str) and schedule in kinds:
        return kinds[schedule]()
    if schedule in DiscreteVP.FAMILIES:
        return DiscreteVP.named(schedule)
    raise one_of("schedule", schedule, [*kinds, *DiscreteVP.FAMILIES])


class VP(VariancePreserving):
    """Continuous variance-preserving schedule with beta linear in t (Song et al. 2021, eq. 32-33).

    Parameters
    ----------
    beta_min, beta_max : float
        The rate of noising at t = 0 and at t = 1.

    Examples
    --------
    >>> VP().t(alpha=(2 ** 0.5 - 1) ** 0.5)   # where two deltas lose their stability
    tensor(0.2926, dtype=torch.float64)
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise TurningpointError(
                f"beta_min, beta_max are {beta_min}, {beta_max}; accepted: 0 < beta_min <= beta_max."
            )
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def _log_alpha_sq(self, t: Tensor) -> Tensor:
        return -t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def _t_from_log_alpha_sq(self, log_alpha_sq: Tensor) -> Tensor:
        # the positive root of (b1 - b0) t^2 / 2 + b0 t + L = 0, in the form that does not cancel
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 - 2 * slope * log_alpha_sq).sqrt()
        return -2 * log_alpha_sq / (self.beta_min + root)

    def config(self) -> dict[str, Any]:
        return {"kind": "vp", "beta_min": self.beta_min, "beta_max": self.beta_max}


class DiscreteVP(VariancePreserving):
    """A DDPM's table of T betas; native step ``n`` in 0..T-1 is the time ``t = (n + 1) / T``.

    Data (t = 0) is the native step -1.  Build one from a named family with `DiscreteVP.named`.

    Parameters
    ----------
    betas : sequence of T floats in (0, 1)
        The variance added at each step; the last may be 1, so that nothing of the signal is left (zero
        terminal signal-to-noise ratio; Lin et al. 2024).
    name : str, optional
        The family's name, for the manifest.

    Examples
    --------
    >>> clock = DiscreteVP.named("linear")
    >>> clock.t(native=499), clock.native(0.5), round(float(clock.logsnr(0.5)), 2)
    (tensor(0.5000, dtype=torch.float64), tensor(499., dtype=torch.float64), -2.46)
    """

    native_unit = "step"
    FAMILIES = ("linear", "scaled_linear", "cosine")

    def __init__(self, betas: Times, name: str = "table") -> None:
        table = as_times(betas).to(torch.float64).flatten()
        inside = (table > 0) & (table < 1)
        if len(table) < 1 or not bool(inside[:-1].all()) or not 0 < float(table[-1]) <= 1:
            raise TurningpointError("betas must be one or more numbers between 0 and 1.")
        self.betas, self.name, self.steps = table, name, len(table)
        self.t_min = 1 / self.steps
        zero = torch.zeros(1, dtype=torch.float64)
        self._table = torch.cat([zero, torch.log1p(-table).cumsum(0)])  # L at t = k / T, k = 0..T

    @classmethod
    def named(
        cls,
        family: str,
        steps: int = 1000,
        beta_start: float | None = None,
        beta_end: float | None = None,
    ) -> DiscreteVP:
        """``linear`` (Ho et al. 2020), ``scaled_linear`` (Stable Diffusion) or ``cosine``.

        Parameters
        ----------
        family : str
            One of `FAMILIES`.
        steps : int
            T, the number of native steps.
        beta_start, beta_end : float, optional
            The first and last beta; by default 1e-4 to 0.02, for ``scaled_linear`` 8.5e-4 to 0.012.
        """
        if family not in cls.FAMILIES:
            raise one_of("schedule", family, cls.FAMILIES)
        if family == "cosine":
            u = torch.arange(steps + 1, dtype=torch.float64) / steps
            alpha_sq = ((u + 0.008) / 1.008 * math.pi / 2).cos().square()
            return cls((1 - alpha_sq[1:] / alpha_sq[:-1]).clamp_max(0.999), family)
        default = (1e-4, 0.02) if family == "linear" else (8.5e-4, 0.012)
        first = default[0] if beta_start is None else beta_start
        last = default[1] if beta_end is None else beta_end
        if family == "linear":
            return cls(torch.linspace(first, last, steps, dtype=torch.float64), family)
        roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64)
        return cls(roots.square(), family)

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Times, name: str = "table") -> DiscreteVP:
        """The schedule of a table of alpha_n^2, falling, whose last entry may be 0.

        >>> DiscreteVP.from_alphas_cumprod([0.5, 0.25, 0.0]).betas
        tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
        """
        table = as_times(alphas_cumprod).to(torch.float64).flatten()
        return cls(1 - table / torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]]), name)

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_n^2 at the native steps n = 0..T-1, (T,) float64."""
        return self._table[1:].exp()

    def _log_alpha_sq(self, t: Tensor) -> Tensor:
        table = self._table.to(t.device)
        position = t.to(torch.float64) * self.steps
        whole = position.round()  # a float32 time a little past its step would be on the way to -inf
        position = torch.where(
            (position - whole).abs() <= position * torch.finfo(t.dtype).eps, whole, position
        )
        k = position.floor().clamp(0, self.steps - 1).long()
        value = torch.lerp(table[k], table[k + 1], position - k)
        # a last entry of -inf belongs to its own step alone: 0 * inf is no number
        value = torch.where(position <= k, table[k], torch.where(position >= k + 1, table[k + 1], value))
        return value.to(t.dtype)

    def _t_from_log_alpha_sq(self, log_alpha_sq: Tensor) -> Tensor:
        table = self._table.to(log_alpha_sq.device)
        value = log_alpha_sq.to(torch.float64)
        k = (torch.searchsorted(-table, (-value).contiguous(), right=True) - 1).clamp(0, self.steps - 1)
        part = (value - table[k]) / (table[k + 1] - table[k])
        part = torch.where(value == table[k + 1], 1.0, part)  # a last entry of -inf too
        return ((k + part) / self.steps).to(log_alpha_sq.dtype)

    def native(self, t: Times) -> Tensor:
        time = as_times(t)
        step = time.to(torch.float64) * self.steps - 1
        whole = step.round()  # a float32 time misses its step by up to 2^-24 T: give it the step
        rounding = self.steps * torch.finfo(time.dtype).eps
        return torch.where((step - whole).abs() <= rounding, whole, step).to(time.dtype)

    def _t_from_native(self, native: Tensor) -> Tensor:
        return (native + 1) / self.steps

    def snap(self, t: Times) -> Tensor:
        return (as_times(t) * self.steps).round().clamp(0, self.steps) / self.steps

    def config(self) -> dict[str, Any]:
        if self.name not in self.FAMILIES:
            return {"kind": "ddpm", "family": self.name, "betas": self.betas.tolist()}
        config: dict[str, Any] = {"kind": "ddpm", "family": self.name, "steps": self.steps}
        if self.name != "cosine":
            config |= {"beta_start": float(self.betas[0]), "beta_end": float(self.betas[-1])}
        return config


class EDM(Schedule):
    """Variance-exploding schedule in the clock of Karras et al. 2022: alpha = 1, sigma = sigma_max t^rho.

    Equal steps in ``t`` are equal steps in sigma^(1/rho): EDM's grid of n noise levels is uniform
    in t between ``t_min = t(sigma=sigma_min)`` and 1.  The clock itself is not clamped: it answers
    for every sigma >= 0, and sigma(0) = 0 is data.

    Parameters
    ----------
    sigma_min, sigma_max : float
        The range of a sampler's grid.
    rho : float
        The exponent of the grid.
    levels : sequence of float, optional
        The only noise levels that the network knows, if it knows but some (iDDPM's table).

    Examples
    --------
    >>> EDM().t(sigma=80.0), EDM().t(sigma=0.0)
    (tensor(1., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """

    native_unit = "sigma"

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        levels: Times | None = None,
    ) -> None:
        if not (0 < sigma_min < sigma_max and rho > 0):
            raise TurningpointError(
                f"sigma_min, sigma_max, rho are {sigma_min}, {sigma_max}, {rho}; "
                "accepted: 0 < sigma_min < sigma_max and rho > 0."
            )
        self.sigma_min, self.sigma_max, self.rho = float(sigma_min), float(sigma_max), float(rho)
        self.t_min = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        self.levels = None if levels is None else as_times(levels).to(torch.float64).flatten().sort().values

    def snap(self, t: Times) -> Tensor:
        time = as_times(t)
        if self.levels is None:
            return time
        levels = self.levels.to(time.device)
        sigma = self.sigma(time).to(torch.float64)
        k = torch.searchsorted(levels, sigma.contiguous()).clamp(1, len(levels) - 1)
        nearest = torch.where(sigma - levels[k - 1] <= levels[k] - sigma, levels[k - 1], levels[k])
        return self._t_from_sigma(nearest).to(time.dtype)

    def alpha(self, t: Times) -> Tensor:
        return torch.ones_like(as_times(t))

    def sigma(self, t: Times) -> Tensor:
        return self.sigma_max * as_times(t) ** self.rho

    def native(self, t: Times) -> Tensor:
        return self.sigma(t)

    def _t_from_sigma(self, sigma: Tensor) -> Tensor:
        return (sigma / self.sigma_max) ** (1 / self.rho)

    def _t_from_logsnr(self, logsnr: Tensor) -> Tensor:
        return self._t_from_sigma((-logsnr / 2).exp())

    def _t_from_alpha(self, alpha: Tensor) -> Tensor:
        raise TurningpointError("t(alpha=...) has no answer here: alpha is 1 at every time.")

    def _t_from_native(self, native: Tensor) -> Tensor:
        return self._t_from_sigma(native)

    def config(self) -> dict[str, Any]:
        config = {"kind": "edm", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "rho": self.rho}
        return config if self.levels is None else config | {"levels": self.levels.tolist()}


class RectifiedFlow(Schedule):
    """x_t = (1 - t) x_0 + t eps (Liu et al. 2023); native steps run from 0 to ``steps``.

    Examples
    --------
    >>> RectifiedFlow().t(logsnr=0.0), RectifiedFlow().native(0.5)
    (tensor(0.5000, dtype=torch.float64), tensor(500., dtype=torch.float64))
    """

    native_unit = "step"

    def __init__(self, steps: int = 1000) -> None:
        self.steps = int(steps)

    def alpha(self, t: Times) -> Tensor:
        return 1 - as_times(t)

    def sigma(self, t: Times) -> Tensor:
        return as_times(t)

    def native(self, t: Times) -> Tensor:
        return as_times(t) * self.steps

    def _t_from_logsnr(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(-logsnr / 2)

    def _t_from_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def _t_from_alpha(self, alpha: Tensor) -> Tensor:
        return 1 - alpha

    def _t_from_native(self, native: Tensor) -> Tensor:
        return native / self.steps

    def config(self) -> dict[str, Any]:
        return {"kind": "flow", "steps": self.steps}
