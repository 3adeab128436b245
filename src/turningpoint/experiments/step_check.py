r"""Do the windows depend on the sampler's step count?  The same run with twice the steps answers.

For every feature the centre :math:`\lambda_n` found with n steps is compared with :math:`\lambda_{2n}`, on the same
starting images, by the paired bootstrap: a difference whose 95 % interval excludes 0 says that n
steps do not suffice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..diffusion.grid import Grid
from ..errors import TurningpointError
from ..run import Run
from ..statistics.bootstrap import interval
from .repeat import arguments_of
from .uturn import uturn

DOUBLED = "doubled"
"""The folder, within the run's own, of the run with twice the steps."""


def step_check(run: Run, delta: float = 0.1, **machine: Any) -> pd.DataFrame:
    """Simulate a U-turn run again with twice the steps and compare the windows.

    The second run is kept in ``RUN/doubled`` and continued if interrupted.

    Parameters
    ----------
    run : Run
        With readings.
    delta : float
        As in `Run.windows`.
    **machine
        ``batch``, ``device``, ``progress``, as in `uturn`.

    Returns
    -------
    DataFrame
        ``feature, centre, centre_doubled, difference, difference_low, difference_high`` in log-SNR, and
        ``verdict``: ``agrees``, ``depends on the step count``, or ``open`` where a centre is.

    Raises
    ------
    TurningpointError
        If the grid is an explicit list of times, which has no double, or nothing was measured.
    """
    arguments = arguments_of(run)
    grid: Grid = arguments["grid"]
    authors = run.model.usual_grid(arguments["sampler"], grid.steps) == grid
    if grid.kind == "explicit" and not authors:
        raise TurningpointError("the run's grid is an explicit list of times; its steps cannot be doubled.")
    if not run.features():
        raise TurningpointError("the run has no readings yet; call run.measure(...) first.")
    twice = run.model.usual_grid(arguments["sampler"], 2 * grid.steps) if authors else None
    arguments["grid"] = twice or replace(grid, steps=2 * grid.steps, sections="")
    arguments["steps"] = 2 * grid.steps
    folder = None if run.folder is None else run.folder / DOUBLED
    doubled = uturn(run.model, **arguments, **machine, out=folder, extend=True)
    return compared(run, doubled.measure_as(run, machine.get("progress", "auto")), delta)


def compared(run: Run, doubled: Run, delta: float = 0.1) -> pd.DataFrame:
    """The centres of a run's windows beside those of the same run with twice the steps; see `step_check`."""
    rows, known = [], doubled.features()
    for feature in [f for f in run.windows(delta).feature if f in known]:
        a, b = run.window(feature, delta).centre, doubled.window(feature, delta).centre
        with np.errstate(invalid="ignore"):
            apart = b - a
        low, high = interval(apart[1:])
        verdict = "agrees" if low <= 0 <= high else "depends on the step count"
        verdict = verdict if np.isfinite(apart[0]) else "open"
        row: dict[str, Any] = {"feature": feature, "centre": a[0], "centre_doubled": b[0]}
        row |= {"difference": apart[0], "difference_low": float(low), "difference_high": float(high)}
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)
