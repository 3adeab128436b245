"""Walks: the paths to simulate, as values.

A walk says how it starts, which times it visits, under which condition, and what it records on the
way.  Walks may part from another one: a trunk is simulated once, however many branches it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..diffusion.grid import SAME_TIME
from ..errors import TurningpointError, one_of
from .noise import Address


@dataclass(frozen=True)
class FromNoise:
    """Start at the first time from pure noise: x = z times the clock's `start_std`."""


@dataclass(frozen=True, eq=False)
class FromImage:
    """Start from a clean item noised to the first time: x = alpha x_0 + sigma z.

    Parameters
    ----------
    x_0 : array (*shape)
        What the sampler works on: an image, or a latent.
    """

    x_0: np.ndarray


@dataclass(frozen=True, eq=False)
class FromState:
    """Start from a given state at the first time.

    Parameters
    ----------
    x_t : array (*shape)
        The state.
    """

    x_t: np.ndarray


@dataclass(frozen=True)
class FromTrunk:
    r"""Start as a copy of the walk that this one is a branch of, where that passes a time.

    Parameters
    ----------
    time : float
        Where the branch parts.  If its own first time t is later in noise than this time s, the copy is
        noised on to it with a draw of its own, :math:`x_t = \alpha_{t|s} x_s + \sigma_{t|s} z` with
        :math:`\alpha_{t|s} = \alpha_t / \alpha_s` and :math:`\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2
        \sigma_s^2`, which leaves the distribution of :math:`x_t` what it is.
    """

    time: float


Start = FromNoise | FromImage | FromState | FromTrunk

RECORDED = ("state", "estimate", "activation")


@dataclass(frozen=True, eq=False)
class Record:
    """Something to keep on the way, besides the final item which is always kept.

    Parameters
    ----------
    what : str
        ``state``, x_t as the walk reaches a time; ``estimate``, the denoiser's x_0 at that time; or ``activation``,
        what the engine's probe sees in the network at that time under this record's name.
    times : sequence of float
        Where; they are put on the grid of every walk that passes them.
    name : str, optional
        The array's name in the run; by default ``what``.
    function : callable, optional
        Maps a batch (B, *shape) to (B, ...) before it is kept, so that nothing large is stored.

    Raises
    ------
    TurningpointError
        If ``what`` is neither, or a time is outside [0, 1].
    """

    what: str
    times: tuple[float, ...]
    name: str = ""
    function: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.what not in RECORDED:
            raise one_of("record", self.what, RECORDED)
        times = tuple(float(t) for t in np.atleast_1d(np.asarray(self.times, dtype=np.float64)))
        lowest = 0.0 if self.what == "state" else SAME_TIME
        if not times or min(times) < lowest or max(times) > 1:
            raise TurningpointError(f"times of a record are {times}; accepted: times in [0, 1].")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "name", self.name or self.what)


@dataclass(frozen=True, eq=False)
class Walk:
    """One path.

    Parameters
    ----------
    address : Address
        Its coordinates, which are the key of its noise and of its place in the run.
    start : FromNoise, FromImage, FromState or FromTrunk
        How it starts.
    times : array (n + 1,)
        The times it visits, decreasing; the last is 0, or where what the walk has reached is taken for its end.
    condition : mapping
        What the model is told: ``{"label": 3}``, ``{}``.
    records : sequence of Record
        What is kept on the way.
    branches : sequence of Walk
        Walks that start ``FromTrunk`` at one of this walk's times.
    noise_of : tuple of Address and int, optional
        Another walk whose draws the steps use, and at which of its steps the first one stands; by default
        a walk's noise is its own.
    """

    address: Address
    start: Start
    times: np.ndarray
    condition: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Record] = ()
    branches: Sequence[Walk] = ()
    noise_of: tuple[Address, int] | None = None

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=np.float64)
        if len(times) < 2 or times[-1] < 0 or times[0] > 1 or not bool((np.diff(times) < 0).all()):
            raise TurningpointError(
                f"times of a walk are {times.tolist()}; accepted: two or more that fall, from at most 1 to at least 0."
            )
        for record in self.records:
            object.__setattr__(self, "times", with_times(self.times, record.times))
        for branch in self.branches:
            start = branch.start
            if not isinstance(start, FromTrunk) or not _is_among(start.time, self.times):
                raise TurningpointError("a branch starts at a time that its trunk does not visit.")
            if branch.times[0] < start.time - SAME_TIME:
                raise TurningpointError(
                    f"a branch parts at t = {start.time:g} and starts at {branch.times[0]:g}; accepted: at least that."
                )

    def draw(self, position: int) -> tuple[Address, int]:
        """The address and the number of the draw for the step from the given position of the grid."""
        address, first = self.noise_of or (self.address, 0)
        return address, first + position + 1

    def tree(self) -> Iterator[Walk]:
        """The walk itself and all that branch from it."""
        yield self
        for branch in self.branches:
            yield from branch.tree()

    def steps(self) -> int:
        """The reverse steps of this walk and of all its branches."""
        return len(self.times) - 1 + sum(branch.steps() for branch in self.branches)


def with_times(grid: np.ndarray, times: Sequence[float]) -> np.ndarray:
    """``grid`` with those of ``times`` that it passes put on it.

    >>> with_times(np.array([0.5, 0.25, 0.0]), [0.9, 0.4, 0.25])
    array([0.5 , 0.4 , 0.25, 0.  ])
    """
    for t in times:
        if grid[-1] <= t <= grid[0] and not _is_among(t, grid):
            grid = np.array(sorted([*grid, t], reverse=True))
    return grid


def _is_among(time: float, grid: np.ndarray) -> bool:
    return bool(np.any(np.abs(grid - time) < SAME_TIME))
