r"""Clocks that are known by their values alone.

Where alpha and sigma are given as functions and their inverses are not, t is found by bisection, since
:math:`\lambda` falls with t.  `Tabulated` holds such a clock as numbers, so that a run can be read without the program
that it came from: :math:`\alpha` and :math:`\log \sigma` at some times, between them cubic splines in :math:`\log t`,
below the first of them straight lines to the data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..errors import TurningpointError
from .clock import Schedule, Times, as_times

HALVINGS = 64
NEARLY_ONE = 0.01
"""How far alpha^2 + sigma^2 may be from 1 in a clock that preserves the variance."""


class Bisected(Schedule):
    """A clock given by alpha and sigma at times of at least ``t_min``; a subclass says them in `scales`.

    Below ``t_min``, where a clock of noise may end without having reached the data, alpha and sigma go on in straight
    lines to 1 and 0 at t = 0.
    """

    @abstractmethod
    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times in [t_min, 1], float64."""

    def _both(self, t: Times) -> tuple[Tensor, Tensor]:
        time = as_times(t)
        precise = time.to(torch.float64)
        alpha, sigma = self.scales(precise.clamp(self.t_min, 1.0))
        part = (precise / self.t_min).clamp(0.0, 1.0)
        alpha = torch.where(part < 1, 1 + (alpha - 1) * part, alpha)
        return alpha.to(time.dtype), (sigma * part).to(time.dtype)

    def alpha(self, t: Times) -> Tensor:
        return self._both(t)[0]

    def sigma(self, t: Times) -> Tensor:
        return self._both(t)[1]

    def logsnr(self, t: Times) -> Tensor:
        time = as_times(t)
        alpha, sigma = self._both(time.to(torch.float64))
        return (2 * (alpha.log() - sigma.log())).to(time.dtype)

    def start_std(self, t: Times) -> Tensor:
        return torch.ones_like(as_times(t)) if self._preserves_variance() else self.sigma(t)

    def _preserves_variance(self) -> bool:
        alpha, sigma = self._both(torch.linspace(0, 1, 33, dtype=torch.float64))
        return bool(((alpha.square() + sigma.square() - 1).abs() < NEARLY_ONE).all())

    def _t_from_logsnr(self, logsnr: Tensor) -> Tensor:
        return self._where(lambda t: -self.logsnr(t), -logsnr)

    def _t_from_sigma(self, sigma: Tensor) -> Tensor:
        return self._where(self.sigma, sigma)

    def _t_from_alpha(self, alpha: Tensor) -> Tensor:
        if float(self.alpha(0.0)) == float(self.alpha(1.0)):
            raise TurningpointError("t(alpha=...) has no answer here: alpha is 1 at every time.")
        return self._where(lambda t: -self.alpha(t), -alpha)

    @staticmethod
    def _where(rising: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        """The time in [0, 1] at which a rising function has a value; the nearer end where it has not."""
        target = value.to(torch.float64)
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = rising(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.where(target <= rising(torch.zeros_like(target)), 0.0, high).to(value.dtype)


class Tabulated(Bisected):
    """A clock from a table.

    Parameters
    ----------
    t : sequence of n floats
        Rising, above 0, to 1.
    alpha, sigma : sequence of n floats
        At these times; sigma positive, alpha not negative.
    name : str
        Of the family that it was taken from.

    Examples
    --------
    >>> t = np.linspace(0.01, 1, 200)
    >>> clock = Tabulated(t, np.cos(1.5 * t), np.sin(1.5 * t))
    >>> float(clock.sigma(0.5).round(decimals=6)), float(clock.t(logsnr=0.0).round(decimals=6))
    (0.681639, 0.523599)
    """

    def __init__(self, t: Times, alpha: Times, sigma: Times, name: str = "table") -> None:
        table = np.array(
            [as_times(values).to(torch.float64).flatten().numpy() for values in (t, alpha, sigma)]
        )
        rises = table.shape[1] > 1 and (np.diff(table[0]) > 0).all() and table[0, -1] == 1
        if not rises or not (table[[0, 2]] > 0).all() or not (table[1] >= 0).all():
            raise TurningpointError(
                "t, alpha, sigma are no table of a clock; accepted: positive numbers at rising times up to 1."
            )
        self.table, self.name, self.t_min = table, name, float(table[0, 0])
        self._curve = CubicSpline(np.log(table[0]), np.stack([table[1], np.log(table[2])]), axis=1)

    @classmethod
    def of(cls, clock: Schedule, name: str, points: int = 257) -> Tabulated:
        """The table of another clock between its ``t_min`` and 1.

        >>> from turningpoint.diffusion.schedule import VP
        >>> Tabulated.of(VP(), "vp", points=9)
        table(family=vp, points=9)
        """
        half = points // 2
        late, early = (
            np.linspace(clock.t_min, 1.0, points - half + 1),
            np.geomspace(clock.t_min, 1.0, half + 1),
        )
        t = np.unique([*early[:-1], *late[1:]])
        return cls(t, clock.alpha(t), clock.sigma(t), name)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, log_sigma = torch.from_numpy(np.asarray(self._curve(t.log().cpu().numpy()))).to(t.device)
        return alpha.clamp_min(0.0), log_sigma.exp()

    def config(self) -> dict[str, Any]:
        t, alpha, sigma = self.table.tolist()
        return {"kind": "table", "name": self.name, "t": t, "alpha": alpha, "sigma": sigma}

    def __repr__(self) -> str:
        return f"table(family={self.name}, points={self.table.shape[1]})"
