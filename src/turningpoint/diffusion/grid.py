r"""The grid of times that a sampler visits, as a value.

A grid is a decreasing list :math:`1 = t_0 > t_1 > \dots > t_n = 0`; it has n steps.

=============  ======================================================================
kind           times
=============  ======================================================================
``uniform``    equal steps in t, none below ``t_min`` but the last one to 0; on a DDPM's clock
               this is *trailing* spacing
``logsnr``     equal steps in log-SNR from t = 1 to ``t_min``, then 0
``rho``        equal steps in (sigma / alpha)^(1/rho) from t = 1 to ``t_min``, then 0
               (Karras et al. 2022, eq. 5)
explicit       a list of times
=============  ======================================================================

A walk that starts in the middle, as a U-turn does, uses the part of the grid below its time, with
that time put exactly on it: ``--steps`` always counts the steps of the full grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch

from ..errors import TurningpointError, one_of
from .schedule import Schedule

LOWEST_LOGSNR = -2 * math.log(160.0)
"""``logsnr`` and ``rho`` spread their steps from here, sigma / alpha = 160, twice EDM's sigma_max.

A schedule with (almost) no signal at t = 1, as cosine and flow have, takes its first step from t = 1
to the next time; else most steps would be spent where nothing happens.
"""

KINDS = ("uniform", "logsnr", "rho", "explicit")
SAME_TIME = 1e-9
"""Two times closer than this are one."""


@dataclass(frozen=True)
class Grid:
    """A rule for the times of a walk.

    Parameters
    ----------
    steps : int
        The number of steps from t = 1 to t = 0, at least 1.
    kind : str
        ``uniform``, ``logsnr``, ``rho``, or ``explicit``.
    rho : float
        The exponent of ``rho``.
    explicit_times : tuple of float
        The times of an ``explicit`` grid, see `Grid.explicit`.

    Raises
    ------
    TurningpointError
        If the kind is none of these, or the number of steps is less than 1.

    Examples
    --------
    >>> from turningpoint.diffusion.schedule import VP
    >>> Grid(4).times(VP())
    array([1.  , 0.75, 0.5 , 0.25, 0.  ])
    >>> Grid(4).below(0.6, VP())
    array([0.6 , 0.5 , 0.25, 0.  ])
    """

    steps: int
    kind: str = "uniform"
    rho: float = 7.0
    explicit_times: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise one_of("grid", self.kind, KINDS)
        whole = isinstance(self.steps, Real) and not isinstance(self.steps, bool)
        if not whole or not 1 <= self.steps < math.inf or int(self.steps) != self.steps:
            raise TurningpointError(f"steps is {self.steps}; accepted: a whole number of at least 1.")
        object.__setattr__(self, "steps", int(self.steps))

    @classmethod
    def explicit(cls, times: Sequence[float]) -> Grid:
        """A grid that visits exactly the given times in (0, 1], and then 0.

        >>> Grid.explicit([1.0, 0.3, 0.1]).steps
        3
        """
        ordered = sorted({float(t) for t in times} - {0.0}, reverse=True)
        if not ordered or not 0 < ordered[-1] <= ordered[0] <= 1:
            raise TurningpointError(f"grid is {list(times)}; accepted: times between 0 and 1, not all 0.")
        return cls(len(ordered), "explicit", explicit_times=tuple(ordered))

    def times(self, schedule: Schedule) -> np.ndarray:
        """The full grid, (steps + 1,) float64, decreasing from 1 to 0 (an explicit one as given)."""
        if self.kind == "explicit":
            snapped = schedule.snap(np.array(self.explicit_times)).numpy()
            return np.array([*sorted({float(t) for t in snapped} - {0.0}, reverse=True), 0.0])
        if self.kind == "uniform":
            t = np.linspace(1.0, 0.0, self.steps + 1)
            if self.steps > 1 and t[-2] < schedule.t_min - SAME_TIME:
                t = np.append(np.linspace(1.0, schedule.t_min, self.steps), 0.0)
        elif self.steps == 1:
            t = np.array([1.0, 0.0])
        else:
            first, last = 1.0, schedule.t_min
            u = np.linspace(0.0, 1.0, self.steps)
            low, high = float(schedule.logsnr(first)), float(schedule.logsnr(last))
            low = max(low, LOWEST_LOGSNR)
            if self.kind == "rho":
                ends = np.exp(-low / 2 / self.rho), np.exp(-high / 2 / self.rho)
                logsnr = -2 * self.rho * np.log(ends[0] + u * (ends[1] - ends[0]))
            else:
                logsnr = low + u * (high - low)
            t = np.append(schedule.t(logsnr=logsnr).numpy(), 0.0)
            t[0], t[-2] = first, last
        t[1:-1] = schedule.snap(torch.from_numpy(t[1:-1])).numpy()
        kept: np.ndarray = t[np.append(True, np.diff(t) < -SAME_TIME)]
        return kept

    def below(self, start: float, schedule: Schedule) -> np.ndarray:
        """The grid from ``start`` down: ``start`` itself, then every grid time below it, to 0."""
        grid = self.times(schedule)
        return np.append(start, grid[grid < start - SAME_TIME])

    def config(self) -> dict[str, Any]:
        """The settings that rebuild this grid."""
        config: dict[str, Any] = {"kind": self.kind, "steps": self.steps}
        if self.kind == "rho":
            config["rho"] = self.rho
        if self.kind == "explicit":
            config["times"] = list(self.explicit_times)
        return config


def as_grid(grid: str | Grid | Sequence[float] | None, steps: int, default: str) -> Grid:
    """A grid from what a user gives: its kind, a list of times, a `Grid`, or None for ``default``."""
    if isinstance(grid, Grid):
        return grid
    if grid is None or isinstance(grid, str):
        return Grid(steps, grid or default)
    return Grid.explicit(grid)
