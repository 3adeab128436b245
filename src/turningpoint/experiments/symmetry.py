r"""A tour of symmetry breaking in one dimension: where generation must choose, seen from every side.

Two points at +-1 are the data.  At high noise the reverse drift has one well, at 0; as noise falls the well's
curvature passes through zero and it parts into two (Raya & Ambrogioni 2023): before that point every trajectory
may still end on either side, after it hardly any crosses.  The tour collects

- the potential of the reverse drift before, at, and after that point,
- its second derivative at the fixed point 0 over the noise level,
- the bifurcation diagram: wells and hills over the noise level,
- paths of the forward process, and of generation, with the side on which they end.

Every number comes from `turningpoint.theory.potential` and `turningpoint.theory.stability`; trajectories are those
of `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..diffusion.denoiser import Denoiser
from ..diffusion.forward import forward_path
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..models import load
from ..simulation.walk import Record
from ..theory.potential import bifurcation, curvature_at, potential
from ..theory.stability import stability
from .generate import generate

LEVELS = 81
"""Noise levels of the diagrams."""


@dataclass(frozen=True)
class Tour:
    """What `symmetry` found.

    Attributes
    ----------
    schedule : Schedule
        The model's clock.
    breaking : float
        The log-SNR at which the reverse SDE's drift (VP coordinates) loses its stability at 0; NaN if never.
    potentials : DataFrame
        ``stage`` (before, at, after), ``t``, ``logsnr``, ``x``, ``potential``, which is 0 at its lowest.
    curvature : DataFrame
        ``t``, ``logsnr``, ``curvature`` at x = 0.
    branches : DataFrame
        ``t``, ``logsnr``, ``x``, ``stable``, ``curvature`` of all fixed points.
    paths : DataFrame
        ``direction`` (forward, backward), ``path``, ``t``, ``logsnr``, ``x``, ``end`` (the side, -1 or 1, of the
        data that a forward path starts from, or that a backward one ends on).
    """

    schedule: Schedule
    breaking: float
    potentials: pd.DataFrame
    curvature: pd.DataFrame
    branches: pd.DataFrame
    paths: pd.DataFrame


def symmetry(model: str | Denoiser = "deltas", paths: int = 60, steps: int = 200, seed: int = 0) -> Tour:
    """Collect the tour of a symmetric system in one dimension.

    Parameters
    ----------
    model : str or ExactDenoiser
        One whose items have one entry and are symmetric about 0.
    paths : int
        Trajectories in each direction.
    steps : int
        Steps of each.
    seed : int
        Of their noise.

    Raises
    ------
    TurningpointError
        If the model's items have several entries, or it is not an exact model.

    Examples
    --------
    >>> tour = symmetry("deltas?a=1", paths=2, steps=10)
    >>> round(tour.breaking, 3), sorted(set(tour.paths.direction))
    (-0.347, ['backward', 'forward'])
    """
    exact = load(model)
    if exact.shape != (1,) or not hasattr(exact, "log_density"):
        raise TurningpointError(
            f"model is {exact.name!r} with items of shape {exact.shape}; accepted: an exact model of one entry, "
            "such as deltas, or gaussians?dim=1."
        )
    breaking = next(p.logsnr for p in stability(exact) if p.name == "stability.sde.vp")
    clock = exact.schedule
    centre = 0.0 if np.isnan(breaking) else breaking
    stages = {"before": centre - 2, "at": centre, "after": centre + 2}
    u = np.linspace(-1, 1, LEVELS)
    levels = centre + 4 * u * np.abs(u)  # dense where the wells part
    times = clock.t(logsnr=levels).numpy()
    reach = 1.9 * float(np.abs(exact.sample(256)[0].numpy()).max())  # type: ignore[operator]
    x = np.linspace(-reach, reach, 201)
    wells = []
    for stage, level in stages.items():
        t = float(clock.t(logsnr=level))
        u = potential(exact, x, t)
        wells.append(
            pd.DataFrame({"stage": stage, "t": t, "logsnr": level, "x": x, "potential": u - u.min()})
        )
    bend = [float(curvature_at(exact, [0.0], float(t))[0]) for t in times]
    return Tour(
        schedule=clock,
        breaking=breaking,
        potentials=pd.concat(wells, ignore_index=True),
        curvature=pd.DataFrame({"t": times, "logsnr": levels, "curvature": bend}),
        branches=bifurcation(exact, times),
        paths=pd.concat(
            [_forward(exact, paths, steps, seed), _backward(exact, paths, steps, seed)], ignore_index=True
        ),
    )


def _forward(model: Denoiser, paths: int, steps: int, seed: int) -> pd.DataFrame:
    times = np.linspace(0, 1, steps + 1)[1:]
    x_0, _ = model.sample(paths, seed=seed)  # type: ignore[operator]
    states = forward_path(model.schedule, x_0.double(), times.tolist(), torch.Generator().manual_seed(seed))
    return _table("forward", times, states.numpy()[..., 0], x_0.numpy()[:, 0], model.schedule)


def _backward(model: Denoiser, paths: int, steps: int, seed: int) -> pd.DataFrame:
    times = np.linspace(0, 1, steps + 1)[1:]
    record = Record("state", tuple(times))
    run = generate(model, paths, sampler="ddpm", steps=steps, seed=seed, record=[record], progress=None)
    states = run.data.state.transpose("item", "state_time", "feature").values[..., 0]
    return _table("backward", run.data.state_t.values, states, run.images.values[:, 0], model.schedule)


def _table(
    direction: str, times: np.ndarray, states: np.ndarray, ends: np.ndarray, clock: Schedule
) -> pd.DataFrame:
    """A row per path and time, x in VP coordinates."""
    n, m = states.shape
    scale = np.hypot(clock.alpha(times).numpy(), clock.sigma(times).numpy())  # 1 unless the clock is not VP's
    columns = {
        "direction": direction,
        "path": np.repeat(np.arange(n), m),
        "t": np.tile(times, n),
        "logsnr": np.tile(clock.logsnr(times).numpy(), n),
        "x": (states / scale).ravel(),
        "end": np.repeat(np.sign(ends), m).astype(int),
    }
    return pd.DataFrame(columns)


def draw(tour: Tour, folder: str | Path) -> list[Path]:
    """Write the tour's pictures, each with its table, into ``folder``."""
    from ..figures.save import save
    from ..figures.symmetry import diagrams, trajectories

    tables = [tour.potentials.assign(panel="potential"), tour.curvature.assign(panel="curvature")]
    tables.append(tour.branches.assign(panel="branches"))
    left = diagrams(tour.potentials, tour.curvature, tour.branches, tour.breaking, tour.schedule)
    files = save(left, pd.concat(tables, ignore_index=True), folder, "symmetry-diagrams")
    right = trajectories(tour.paths, tour.branches, tour.breaking, tour.schedule)
    return [*files, *save(right, tour.paths, folder, "symmetry-trajectories")]
