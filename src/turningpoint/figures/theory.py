"""Theory beside measurement: predicted curves through measured points, and where each definition puts its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .style import FAINT, INK, MUTED, PALETTE, WIDTH, brief, clock_name, clocks, direction, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"kept": "kept: P[same as at the start]", "retention": "retention r"}
PANEL, ROW = 2.4, 0.185
"""Inches: the height of the curves' panel, and of a definition's row."""


def theory(
    measured: pd.DataFrame, predicted: pd.DataFrame, definitions: pd.DataFrame, schedule: Schedule
) -> Figure:
    """Measured points with 95 % intervals, the predicted curve through them, the definitions' places below.

    The reader should see whether the points lie on the line, and that definitions of "the" critical
    time are apart from one another.

    Parameters
    ----------
    measured : DataFrame
        ``run`` (U-turns or clones), ``feature, quantity, logsnr, value, low, high``; may be empty.
    predicted : DataFrame
        ``name, feature, quantity, logsnr, value, error``; may be empty.
    definitions : DataFrame
        ``name, logsnr, reason``, see `turningpoint.theory.table`.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If there is nothing to draw.
    """
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(zip(predicted["feature"], predicted["quantity"], strict=True)))
    placed = definitions[np.isfinite(definitions["logsnr"].astype(float))]
    if not pairs and placed.empty:
        raise TurningpointError("predicted and definitions are empty; accepted: one prediction or more.")
    sweep = _sweep(measured, predicted, placed)
    margin = 0.02 * (sweep[1] - sweep[0])
    heights = [PANEL] * len(pairs) + [ROW * max(2, len(definitions)) + 0.1] * (not definitions.empty)
    with style():
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.75), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (feature, quantity) in zip(panels, pairs, strict=False):
            _curves(axes, feature, quantity, measured, predicted)
        if not definitions.empty:
            _definitions(panels[-1], definitions, [*panels[: len(pairs)]])
        for axes in panels:
            axes.set_xlim(sweep[0] - margin, sweep[1] + margin)
            axes.spines["top"].set_visible(axes is panels[0])
        clocks(panels[0], schedule, sweep)
        panels[0].set_title(
            f"top: {clock_name(schedule)}", loc="right", color=MUTED, pad=17, size=7, weight="normal"
        )
        direction(panels[-1])
    return figure


def _sweep(measured: pd.DataFrame, predicted: pd.DataFrame, placed: pd.DataFrame) -> tuple[float, float]:
    """What was measured; where nothing was, the room that the predictions need."""
    source = measured if len(measured) else predicted if len(predicted) else placed
    levels = source["logsnr"].astype(float)
    low, high = float(levels.min()), float(levels.max())
    return (low, high) if high > low else (low - 1, high + 1)


def _curves(axes: Axes, feature: str, quantity: str, measured: pd.DataFrame, predicted: pd.DataFrame) -> None:
    wanted = (predicted["feature"] == feature) & (predicted["quantity"] == quantity)
    for k, (name, curve) in enumerate(predicted[wanted].groupby("name", sort=False)):
        ordered = curve.sort_values("logsnr")
        x, y, error = (ordered[column].to_numpy(float) for column in ("logsnr", "value", "error"))
        color = INK if k == 0 else PALETTE["sky"]
        if (error > 0).any():
            axes.fill_between(x, y - 2 * error, y + 2 * error, color=color, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=color, linewidth=1.1, label=f"theory ({name})", zorder=2)
    runs = ("U-turns", "clones")
    levels = measured["logsnr"].to_numpy(float)
    aside = 0.004 * np.ptp(levels) if measured["run"].nunique() > 1 else 0.0
    for side, run, color in zip((-1, 1), runs, (PALETTE["vermillion"], PALETTE["blue"]), strict=True):
        rows = measured[(measured["feature"] == feature) & (measured["quantity"] == quantity)]
        rows = rows[rows["run"] == run]
        if rows.empty:
            continue
        y = rows["value"].to_numpy(float)
        apart = np.abs(np.stack([y - rows["low"], rows["high"] - y]))
        x = rows["logsnr"].to_numpy(float) + side * aside  # so that both runs' bars are seen
        look: dict[str, Any] = {"fmt": "o", "markersize": 3.4, "elinewidth": 1.0, "mec": "white", "mew": 0.4}
        axes.errorbar(x, y, yerr=apart, color=color, label=f"measured, {run}", zorder=3, **look)
    axes.set_ylabel(NAMES.get(quantity, quantity))
    axes.set_title(feature, pad=17)
    axes.legend(frameon=False, fontsize=7, loc="upper left", handlelength=1.6)


def _definitions(axes: Axes, definitions: pd.DataFrame, above: list[Axes]) -> None:
    """A row per definition: its name to the left, a tick where it is, or why there is none."""
    rows = definitions.to_dict("records")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [brief(row["name"], 34) for row in rows], fontsize=6.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for y, row in enumerate(rows):
        axes.axhline(y, color=FAINT, linewidth=0.5, zorder=0)
        place = float(row["logsnr"])
        text: dict[str, Any] = {"va": "center", "fontsize": 6.5, "clip_on": True}
        if np.isfinite(place):
            axes.plot(place, y, "|", color=INK, markersize=8, mew=1.6, clip_on=True)
            axes.annotate(number(place), (place, y), (5, 0), textcoords="offset points", **text)
            for panel in above:
                panel.axvline(place, color=FAINT, linewidth=0.5, zorder=0)
        else:
            why = brief(f"none: {row['reason']}", 90)
            axes.text(0.01, y, why, transform=axes.get_yaxis_transform(), color=MUTED, style="italic", **text)
