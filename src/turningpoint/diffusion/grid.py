r"""The grid of times that a sampler visits, as a value.

A grid is a decreasing list :math:`t_0 > t_1 > \dots > t_n = 0`; it has n steps.

=============  ======================================================================
kind           times
=============  ======================================================================
``uniform``    equal steps in t, none below ``t_min`` but the last one to 0; on a DDPM's clock
               this is *trailing* spacing
``logsnr``     equal steps in log-SNR from t = 1 to ``t_min``, then 0
``rho``        equal steps in (sigma / alpha)^(1/rho) from t = 1 to ``t_min``, then 0
               (Karras et al. 2022, eq. 5)
``respaced``,  steps of the network's own, chosen as other programs do (`spacing`); some of these
``leading``,   grids begin below t = 1
``linspace``
``vp``,        noise levels of other programs inside the clock's range (Karras et al. 2022, Table 1;
``ve``,        `discretization`)
``iddpm``
explicit       a list of times
=============  ======================================================================

A walk that starts in the middle, as a U-turn does, uses the part of the grid below its time, with
that time put exactly on it: ``--steps`` always counts the steps of the full grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch

from ..errors import TurningpointError, one_of
from .schedule import DiscreteVP, Schedule
from .spacing import leading_steps, linspace_steps, respaced_steps

LOWEST_LOGSNR = -2 * math.log(160.0)
"""``logsnr`` and ``rho`` spread their steps from here, sigma / alpha = 160, twice EDM's sigma_max.

A schedule with (almost) no signal at t = 1, as cosine and flow have, takes its first step from t = 1
to the next time; else most steps would be spent where nothing happens.
"""

DISCRETE = ("respaced", "leading", "linspace")
KARRAS = ("vp", "ve", "iddpm")
KINDS = ("uniform", "logsnr", "rho", "explicit", *KARRAS, *DISCRETE)
ENDS = ("data", "first step")
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
        ``uniform``, ``logsnr``, ``rho``, ``vp``, ``ve``, ``iddpm``, ``respaced``, ``leading``, ``linspace``
        or ``explicit``.
    rho : float, optional
        The exponent of ``rho``; by default the clock's own, or 7.
    explicit_times : tuple of float
        The times of an ``explicit`` grid, see `Grid.explicit`.
    sections : str
        What a ``respaced`` grid keeps, see `Grid.respaced`; by default ``steps`` steps.
    offset : int
        Added to the steps of ``leading``.
    end : str
        ``data``, t = 0; or ``first step``, the first of a network's own steps, whose state is then taken for
        the end (`diffusers`' ``set_alpha_to_one=False``).

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
    rho: float | None = None
    explicit_times: tuple[float, ...] = field(default=(), repr=False)
    sections: str = ""
    offset: int = 0
    end: str = "data"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise one_of("grid", self.kind, KINDS)
        if self.end not in ENDS:
            raise one_of("end", self.end, ENDS)
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
            held = f"{ordered[-1]:g} to {ordered[0]:.6g}" if ordered else "no time above 0"
            raise TurningpointError(
                f"grid is {held}; accepted: times between 0 and 1, not all 0 (for more noise than at t = 1 an edm "
                "model takes a larger sigma_max)."
            )
        return cls(len(ordered), "explicit", explicit_times=tuple(ordered))

    @classmethod
    def respaced(cls, sections: str | int) -> Grid:
        """The steps of guided-diffusion's ``timestep_respacing``: "250", "10,15,20" or "ddim25".

        >>> Grid.respaced("10,15,20").steps
        45
        """
        text = str(sections).replace(" ", "")
        counts = re.findall(r"\d+", text)
        return cls(sum(int(count) for count in counts), "respaced", sections=text)

    def times(self, schedule: Schedule) -> np.ndarray:
        """The full grid, (steps + 1,) float64, decreasing from 1 to 0 (an explicit one as given).

        Raises
        ------
        TurningpointError
            If the kind is one of steps, and the clock is not that of a network with steps.
        """
        times = self._from_one(schedule)
        if self.end == "data":
            return times
        above = times[times > schedule.t_min + SAME_TIME]
        return np.append(above, schedule.t_min) if len(above) else times

    def _steps(self, schedule: Schedule) -> list[int]:
        if not isinstance(schedule, DiscreteVP):
            others = [kind for kind in KINDS if kind not in DISCRETE]
            raise TurningpointError(
                f"grid is {self.kind!r}, which is for models with discrete steps; accepted here: {', '.join(others)}."
            )
        if self.kind == "respaced":
            return respaced_steps(schedule.steps, self.sections or self.steps)
        if self.steps > schedule.steps:
            raise TurningpointError(
                f"steps is {self.steps}; accepted by this model: at most {schedule.steps}."
            )
        if self.kind == "leading":
            return leading_steps(schedule.steps, self.steps, self.offset)
        return linspace_steps(schedule.steps, self.steps)

    def _from_one(self, schedule: Schedule) -> np.ndarray:
        if self.kind in KARRAS:
            from .discretization import karras_grid

            return karras_grid(schedule, self.kind, self.steps).times(schedule)
        if self.kind in DISCRETE:
            return np.append(schedule.t(native=self._steps(schedule)[::-1]).numpy(), 0.0)
        if self.kind == "explicit":
            snapped = schedule.snap(np.array(self.explicit_times)).numpy()
            return np.array([*sorted({float(t) for t in snapped} - {0.0}, reverse=True), 0.0])
        if self.kind == "uniform" and isinstance(schedule, DiscreteVP) and self.steps <= schedule.steps:
            steps = np.arange(schedule.steps, 0, -schedule.steps / self.steps)[: self.steps]
            t = np.append(steps.round() / schedule.steps, 0.0)
        elif self.kind == "uniform":
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
                rho = float(getattr(schedule, "rho", 7.0) if self.rho is None else self.rho)
                ends = np.exp(-low / 2 / rho), np.exp(-high / 2 / rho)
                logsnr = -2 * rho * np.log(ends[0] + u * (ends[1] - ends[0]))
            else:
                logsnr = low + u * (high - low)
            t = np.append(schedule.t(logsnr=logsnr).numpy(), 0.0)
            t[0], t[-2] = first, last
        t[:-1] = schedule.snap(torch.from_numpy(t[:-1])).numpy()
        kept: np.ndarray = t[np.append(True, np.diff(t) < -SAME_TIME)]
        return kept

    def below(self, start: float, schedule: Schedule) -> np.ndarray:
        """The grid from ``start`` down: ``start`` itself, then every grid time below it, to 0."""
        grid = self.times(schedule)
        lower = grid[grid < start - SAME_TIME]
        return np.append(start, lower if len(lower) else [0.0])

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Grid:
        """The grid of a `Grid.config`.

        >>> Grid.from_config(Grid(8, "leading", offset=1).config())
        Grid(steps=8, kind='leading', rho=None, sections='', offset=1, end='data')
        """
        settings = {key: value for key, value in config.items() if key != "times"}
        return cls(**settings, explicit_times=tuple(config.get("times", ())))

    def config(self) -> dict[str, Any]:
        """The settings that rebuild this grid."""
        config: dict[str, Any] = {"kind": self.kind, "steps": self.steps}
        if self.rho is not None:
            config["rho"] = self.rho
        if self.kind == "explicit":
            config["times"] = list(self.explicit_times)
        extra = {"sections": self.sections, "offset": self.offset}
        config |= {name: value for name, value in extra.items() if value}
        return config if self.end == "data" else config | {"end": self.end}


def as_grid(grid: str | Grid | Sequence[float] | None, steps: int, default: str) -> Grid:
    """A grid from what a user gives: its kind, a list of times, a `Grid`, or None for ``default``."""
    if isinstance(grid, Grid):
        return grid
    if grid is None or isinstance(grid, str):
        return Grid(steps, grid or default)
    return Grid.explicit(grid)
