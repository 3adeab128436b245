r"""Samplers: one reverse step for a batch whose items may all be at different times.

A step goes from :math:`x_t` to :math:`x_s`, s < t, and asks the denoiser for
:math:`\hat x_0 = D(\cdot)` once or twice.  With :math:`\alpha_{t|s} = \alpha_t / \alpha_s` and
:math:`r = \mathrm{SNR}_t / \mathrm{SNR}_s`:

**ddpm** (ancestral; Ho et al. 2020, eq. 6-7, "fixed small" variance; Kingma et al. 2021, eq. 25-28):

.. math:: x_s = \alpha_{t|s} \frac{\sigma_s^2}{\sigma_t^2} x_t + \alpha_s (1 - r) \hat x_0
          + \sigma_s \sqrt{1 - r} \; z .

That variance is ``small``; ``large`` is the forward step's :math:`\sigma_{t|s}^2` (Ho et al. 2020, section 3.2), and
``learned`` interpolates their logarithms by what a network has learned (Nichol & Dhariwal 2021, eq. 15).

**ddim** (Song et al. 2021, eq. 12 and 16), with :math:`\hat\varepsilon = (x_t - \alpha_t \hat x_0) / \sigma_t`
and :math:`\eta_s = \eta \sigma_s \sqrt{1 - r}`:

.. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \eta_s^2} \; \hat\varepsilon + \eta_s z .

**euler, heun** (Karras et al. 2022, algorithm 2) in the coordinates :math:`\tilde x = x / \alpha`,
:math:`\tilde\sigma = \sigma / \alpha`, where :math:`d \tilde x / d \tilde\sigma = \hat\varepsilon`; *heun*
averages the slopes at both ends, save in the last step; *churn* first raises the noise to
:math:`\tilde\sigma (1 + \gamma)`.  Without churn, euler is ddim with eta = 0.

A sampler is a small state machine: each *phase* says where it wants the denoiser evaluated
(`query`) and what follows from the answer (`update`).  Because all that it remembers lies in tensors
with one row per item, an engine can keep items at different times and phases in one batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from ..registry import Registry
from .denoiser import Denoiser, expand
from .forward import posterior
from .schedule import Schedule


@dataclass
class Step:
    """Where B items stand, each in a reverse step of its own.

    Attributes
    ----------
    x : Tensor (B, *shape)
        The state: at ``t`` in phase 0, what the phase before left in later ones.
    t, s : Tensor (B,)
        The times at the step's two ends, t > s >= 0.
    z : Tensor (B, *shape) or None
        Standard normal noise of this step, if the sampler is stochastic.
    memory : Tensor (B, memory, *shape)
        What an item keeps from phase to phase; written in place.
    clock : Schedule
        The model's schedule.
    v : Tensor (B, *shape) or None
        What the network says of the variance, see `Denoiser.with_variance`, if the sampler wants it.
    """

    x: Tensor
    t: Tensor
    s: Tensor
    z: Tensor | None
    memory: Tensor
    clock: Schedule
    v: Tensor | None = None


SAMPLERS: Registry[type[Sampler]] = Registry("sampler", "turningpoint.diffusion", "turningpoint.samplers")


class Sampler(ABC):
    """One reverse step as a state machine; see the module's docstring.

    Attributes
    ----------
    name : str
        What a user calls it.
    settings : tuple of str
        The names of the settings that its constructor takes from a user.
    phases : int
        Evaluations of the denoiser per step, at most.
    memory : int
        Tensors of an item's shape that an item keeps from one phase to the next.
    grid : str
        The kind of grid it is usually run on.
    wants_variance : bool
        Whether the denoiser is asked for its learned variance too.
    """

    name: str
    settings: tuple[str, ...] = ()
    phases: int = 1
    memory: int = 0
    grid: str = "uniform"
    wants_variance: bool = False

    def suited(self, model: Denoiser) -> Sampler:
        """The sampler with what it leaves to the model settled."""
        return self

    @property
    def stochastic(self) -> bool:
        """Whether a step adds fresh noise."""
        return False

    def query(self, phase: int, at: Step) -> tuple[Tensor, Tensor]:
        """Where the denoiser is to be evaluated: a state (B, *shape) and a time (B,).

        Parameters
        ----------
        phase : int
            0 is the first evaluation of a step.
        at : Step
            Where the items stand.
        """
        return at.x, at.t

    @abstractmethod
    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        """Use the answer: the new state (B, *shape), and which items have finished their step, (B,) bool."""

    def step(
        self,
        denoise: Callable[[Tensor, Tensor], Any],
        x: Tensor,
        t: Tensor,
        s: Tensor,
        clock: Schedule,
        z: Tensor | None = None,
    ) -> Tensor:
        """One whole reverse step from ``t`` to ``s``, both (B,), for a batch (B, *shape).

        Parameters
        ----------
        denoise : callable
            ``denoise(x_t, t) -> x_0``, shapes (B, *shape), (B,), (B, *shape); for a sampler that wants the
            variance ``(x_0, v)``.
        z : Tensor (B, *shape), optional
            Standard normal noise; required by a stochastic sampler.

        Examples
        --------
        >>> from turningpoint.diffusion.schedule import VP
        >>> x_t, t, s = torch.ones(2, 3), torch.tensor([0.5, 0.2]), torch.zeros(2)
        >>> sampler("ddim").step(lambda x, t: 0 * x, x_t, t, s, VP())   # the data is all zeros
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
        """
        if self.stochastic and z is None:
            raise TurningpointError(f"the sampler {self.name!r} is stochastic: give its noise z.")
        memory = x.new_zeros(len(x), self.memory, *x.shape[1:])
        result, going = x.clone(), torch.arange(len(x), device=x.device)
        for phase in range(self.phases):
            noise = None if z is None else z[going]
            here = Step(result[going], t[going], s[going], noise, memory[going], clock)
            x_0 = denoise(*self.query(phase, here))
            if self.wants_variance:
                x_0, here.v = x_0
            result[going], finished = self.update(phase, here, x_0)
            memory[going] = here.memory
            going = going[~finished]
            if len(going) == 0:
                break
        return result

    def config(self) -> dict[str, Any]:
        """The settings that rebuild this sampler."""
        return {"name": self.name}


VARIANCES = ("small", "large", "learned")


@SAMPLERS.add("ddpm")
class DDPM(Sampler):
    """Ancestral sampling from q(x_s | x_t, x_0) with x_0 replaced by its estimate.

    Parameters
    ----------
    variance : str, optional
        ``small``, ``large`` or ``learned``; by default what the model's authors use, else small.

    Raises
    ------
    TurningpointError
        If it is none of these.
    """

    name = "ddpm"
    settings = ("variance",)

    def __init__(self, variance: str | None = None) -> None:
        if variance is not None and variance not in VARIANCES:
            raise one_of("variance", variance, VARIANCES)
        self.variance = variance

    @property
    def wants_variance(self) -> bool:  # type: ignore[override]
        return self.variance == "learned"

    def suited(self, model: Denoiser) -> DDPM:
        if self.variance == "learned" and not model.learned_variance:
            raise TurningpointError(
                f"variance is 'learned', but the model {model.name!r} has learned none; accepted: small, large."
            )
        usual = "learned" if model.learned_variance else model.usual_variance
        return self if self.variance else DDPM(usual)

    @property
    def stochastic(self) -> bool:
        return True

    def log_variance(self, at: Step) -> Tensor:
        """The logarithm of the step's variance, (B, 1, ...), or (B, *shape) if it was learned; s > 0."""
        _, _, small = posterior(at.clock, at.t, at.s)
        lost = (at.clock.alpha(at.t) / at.clock.alpha(at.s) * at.clock.sigma(at.s)).square()
        large = at.clock.sigma(at.t).square() - lost
        if self.variance == "large":
            return expand(large.log(), at.x)
        if self.variance != "learned":
            return expand(small.log(), at.x)
        return interpolated_log_variance(
            expand(small.log(), at.x), expand(large.log(), at.x), cast(Tensor, at.v)
        )

    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        x = at.x
        of_x_0, of_x_t, variance = posterior(at.clock, at.t, at.s)
        mean = expand(of_x_t, x) * x + expand(of_x_0, x) * x_0
        if self.variance in ("large", "learned"):
            spread = (self.log_variance(at) / 2).exp()
            spread = torch.where(expand(at.s, x) > 0, spread, 0.0).to(x.dtype)  # none in the step to the data
        else:
            spread = expand(variance.sqrt(), x)
        return mean + spread * cast(Tensor, at.z), torch.ones_like(at.t, dtype=torch.bool)

    def config(self) -> dict[str, Any]:
        return {"name": self.name} | ({} if self.variance in (None, "small") else {"variance": self.variance})


def interpolated_log_variance(small: Tensor, large: Tensor, v: Tensor) -> Tensor:
    """Between two log-variances by a network's v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15).

    >>> interpolated_log_variance(torch.tensor(-2.0), torch.tensor(0.0), torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-2., -1.,  0.])
    """
    return small + (v + 1) / 2 * (large - small)


@SAMPLERS.add("ddim")
class DDIM(Sampler):
    """Deterministic for eta = 0; eta = 1 is ancestral sampling.

    Parameters
    ----------
    eta : float
        The share of the ancestral sampler's noise, 0 to 1.
    """

    name = "ddim"
    settings = ("eta",)

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise TurningpointError(f"eta is {eta}; accepted: 0 to 1.")
        self.eta = float(eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        x, t, s, clock = at.x, at.t, at.s, at.clock
        eps = (x - expand(clock.alpha(t), x) * x_0) / expand(clock.sigma(t), x)
        sigma_s = clock.sigma(s)
        fresh = self.eta * posterior(clock, t, s)[2].sqrt()
        x_s = expand(clock.alpha(s), x) * x_0
        x_s = x_s + expand((sigma_s.square() - fresh.square()).clamp_min(0).sqrt(), x) * eps
        if self.stochastic:
            x_s = x_s + expand(fresh, x) * cast(Tensor, at.z)
        return x_s, torch.ones_like(t, dtype=torch.bool)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "eta": self.eta}


@SAMPLERS.add("euler")
class Euler(Sampler):
    """Euler's method on the probability-flow ODE in sigma / alpha, with optional churn.

    Parameters
    ----------
    churn : float
        S_churn; the noise is raised by gamma = min(churn / steps, sqrt(2) - 1) in each step.
    churn_min, churn_max : float
        The range of sigma / alpha in which there is churn.
    churn_noise : float
        S_noise, the standard deviation of the added noise.
    churn_steps : int
        The steps of the full grid, which divide ``churn``.
    """

    name = "euler"
    settings = ("churn", "churn_min", "churn_max", "churn_noise", "churn_steps")
    memory = 1
    grid = "rho"

    def __init__(
        self,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        churn_steps: int = 1,
    ) -> None:
        if not 0 <= churn < math.inf:
            raise TurningpointError(f"churn is {churn}; accepted: 0 or more.")
        self.churn, self.churn_min, self.churn_max = float(churn), float(churn_min), float(churn_max)
        self.churn_noise, self.steps = float(churn_noise), int(churn_steps)

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def _raised(self, t: Tensor, clock: Schedule) -> Tensor:
        """The time t_hat >= t to which churn raises the noise, (B,)."""
        if not self.stochastic:
            return t
        ratio = clock.sigma(t) / clock.alpha(t)
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        inside = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        raised = clock.snap(clock.t(logsnr=-2 * (ratio * (1 + gamma)).log()))
        return torch.where(inside, raised, t)

    def query(self, phase: int, at: Step) -> tuple[Tensor, Tensor]:
        x, t, s, clock = at.x, at.t, at.s, at.clock
        if phase == 1:
            return x, s
        t_hat = self._raised(t, clock)
        if self.stochastic:
            alpha_hat, ratio = clock.alpha(t_hat), clock.sigma(t) / clock.alpha(t)
            added = ((clock.sigma(t_hat) / alpha_hat).square() - ratio.square()).clamp_min(0).sqrt()
            scaled = x / expand(clock.alpha(t), x) + expand(added * self.churn_noise, x) * cast(Tensor, at.z)
            x = torch.where(expand(t_hat > t, x) > 0, scaled * expand(alpha_hat, x), x)
        at.memory[:, 0] = x
        return x, t_hat

    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        x, t, s, clock = at.x, at.t, at.s, at.clock
        t_hat, x_hat = self._raised(t, clock), at.memory[:, 0]
        eps = (x_hat - expand(clock.alpha(t_hat), x) * x_0) / expand(clock.sigma(t_hat), x)
        x_s = expand(clock.alpha(s), x) * x_0 + expand(clock.sigma(s), x) * eps
        return x_s, torch.ones_like(t, dtype=torch.bool)

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"name": self.name}
        if self.stochastic:
            config |= {"churn": self.churn, "churn_min": self.churn_min, "churn_noise": self.churn_noise}
            config |= {"churn_max": self.churn_max} if math.isfinite(self.churn_max) else {}
            config |= {"churn_steps": self.steps}
        return config


@SAMPLERS.add("heun")
class Heun(Euler):
    """EDM's second-order sampler; two evaluations a step, one in the step to 0 (and from alpha = 0)."""

    name = "heun"
    phases = 2
    memory = 2

    def update(self, phase: int, at: Step, x_0: Tensor) -> tuple[Tensor, Tensor]:
        x, t, s, clock = at.x, at.t, at.s, at.clock
        t_hat = self._raised(t, clock)
        if phase == 0:
            x_s, _ = super().update(phase, at, x_0)
            at.memory[:, 1] = x_0
            return x_s, (s <= 0) | (clock.alpha(t_hat) <= 0)
        # x here is the Euler step's end; slopes in sigma / alpha at both ends
        x_hat, first = at.memory[:, 0], at.memory[:, 1]
        alpha_hat, sigma_hat = expand(clock.alpha(t_hat), x), expand(clock.sigma(t_hat), x)
        alpha_s, sigma_s = expand(clock.alpha(s), x), expand(clock.sigma(s), x)
        eps_hat = (x_hat - alpha_hat * first) / sigma_hat
        eps_s = (x - alpha_s * x_0) / sigma_s
        # the change of slope times the step, both seen in the coordinates of s
        correction = (sigma_s - alpha_s * sigma_hat / alpha_hat) / 2 * (eps_s - eps_hat)
        return x + correction, torch.ones_like(t, dtype=torch.bool)


def sampler(name: str | Sampler, steps: int = 1, **settings: Any) -> Sampler:
    """A sampler by its name, with its settings.

    ``variance`` for ddpm; ``eta`` for ddim; ``churn``, ``churn_min``, ``churn_max``, ``churn_noise`` for euler and
    heun.

    Raises
    ------
    TurningpointError
        If there is no such sampler, or it has no such setting.
    """
    if isinstance(name, Sampler):
        return name
    kind = SAMPLERS[name]
    unknown = sorted(set(settings) - set(kind.settings))
    if unknown:
        accepted = ", ".join(kind.settings) or "no settings"
        raise TurningpointError(f"{unknown[0]} is given, but the sampler {name!r} takes {accepted}.")
    if issubclass(kind, Euler):
        settings.setdefault("churn_steps", steps)
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        if isinstance(error, TurningpointError):
            raise
        raise TurningpointError(
            f"settings of the sampler {name!r} are {settings}; accepted: numbers."
        ) from None
