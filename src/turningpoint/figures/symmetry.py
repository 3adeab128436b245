"""Symmetry breaking in pictures: potentials, the curvature through zero, branches, and paths by where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from .style import FAINT, INK, MUTED, PALETTE, WIDTH, clock_name, clocks, direction, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = {"before": "sky", "at": "black", "after": "vermillion"}
SIDES = {-1: "blue", 1: "orange"}


def diagrams(
    potentials: pd.DataFrame,
    curvature: pd.DataFrame,
    branches: pd.DataFrame,
    breaking: float,
    schedule: Schedule,
) -> Figure:
    """Three panels: the potential at three times, its curvature at 0, and the fixed points.

    The reader should see one well become two where the curvature at 0 passes through zero, at one and the
    same noise level in all three panels.

    Parameters
    ----------
    potentials, curvature, branches, breaking
        As in `turningpoint.experiments.symmetry.Tour`.
    schedule : Schedule
        The clock of the axes on top.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        first, second, third = figure.subplots(1, 3)
        for stage, color in STAGES.items():
            curve = potentials[potentials["stage"] == stage]
            label = f"{stage}: λ {number(float(curve['logsnr'].iloc[0]), 1)}"
            first.plot(curve["x"], curve["potential"], color=PALETTE[color], label=label)
        inside = potentials[potentials["x"].abs() < 0.8 * potentials["x"].max()]
        first.set_ylim(-0.05, 1.35 * float(inside["potential"].max()))
        first.set_title("potential u(x)")
        first.set_xlabel("x")
        first.legend(frameon=False, fontsize=6.5, handlelength=1.4, loc="upper center")
        level = curvature["logsnr"].to_numpy(float)
        bend = curvature["curvature"].to_numpy(float)
        second.axhline(0, color=FAINT, linewidth=0.8)
        second.plot(level, bend, color=INK)
        second.set_ylim(-4 * abs(bend.max()), 1.3 * abs(bend.max()))
        second.set_title("curvature at x = 0", pad=17)
        third.set_title("fixed points", pad=17)
        _branches(third, branches)
        for axes in (second, third):
            axes.set_xlim(level.min(), level.max())
            _mark(axes, breaking)
            clocks(axes, schedule, (float(level.min()), float(level.max())), gap=0.2)
            axes.set_xlabel("log-SNR")
        note = {"xytext": (4, -9), "textcoords": "offset points", "fontsize": 6.5, "color": MUTED}
        if np.isfinite(breaking):
            second.annotate(f"λ = {number(breaking)}", (breaking, second.get_ylim()[1]), **note)  # type: ignore[arg-type]
        third.set_ylabel("x")
        third.set_title(
            f"top: {clock_name(schedule)}", loc="right", color=MUTED, pad=17, size=7, weight="normal"
        )
    return figure


def trajectories(paths: pd.DataFrame, branches: pd.DataFrame, breaking: float, schedule: Schedule) -> Figure:
    """Paths of the forward process and of generation, coloured by the side of the data that they belong to.

    The reader should see that colours are mixed before the symmetry breaks and apart after it, in both
    directions alike.

    Parameters
    ----------
    paths, branches, breaking
        As in `turningpoint.experiments.symmetry.Tour`.
    schedule : Schedule
        The clock of the axes on top.
    """
    from matplotlib.figure import Figure

    low, high = float(branches["logsnr"].min()) - 2, float(branches["logsnr"].max())
    names = {
        "forward": "forward: coloured by where it starts",
        "backward": "generation: coloured by where it ends",
    }
    with style():
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (way, title) in zip(panels, names.items(), strict=True):
            for (_, end), path in paths[paths["direction"] == way].groupby(["path", "end"]):
                color = PALETTE[SIDES.get(int(str(end)), "black")]
                axes.plot(path["logsnr"], path["x"], color=color, linewidth=0.5, alpha=0.6)
            _mark(axes, breaking)
            axes.set_xlim(low, high)
            axes.set_title(title, pad=17)
            clocks(axes, schedule, (low, high), gap=0.12)
            direction(axes)
        panels[0].set_ylabel("x")
    return figure


def _branches(axes: Axes, branches: pd.DataFrame) -> None:
    """Stable branches as lines, unstable ones dashed; a branch is followed by its side."""
    for stable, look in ((True, "-"), (False, (0, (3, 2)))):
        chosen = branches[branches["stable"] == stable]
        for side in (-1, 0, 1):
            line = chosen[np.sign(chosen["x"]) == side].sort_values("logsnr")
            label = {True: "stable", False: "unstable"}[stable] if side == 0 else None
            axes.plot(line["logsnr"], line["x"], linestyle=look, color=INK, linewidth=1.3, label=label)
    axes.legend(frameon=False, fontsize=6.5, loc="upper left", handlelength=2.2)


def _mark(axes: Axes, breaking: float) -> None:
    if np.isfinite(breaking):
        axes.axvline(breaking, color=PALETTE["vermillion"], linewidth=0.8, zorder=0)
