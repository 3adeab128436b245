"""How features grow along trajectories: curves over one another, and a heat map of feature by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .style import (
    FAINT,
    INK,
    MUTED,
    PALETTE,
    WIDTH,
    brief,
    clock_name,
    clocks,
    direction,
    groups,
    inches_wide,
    mix,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOGETHER = 12
"""Curves that one panel can hold apart; more are drawn in a panel for each group."""
MOST = 7
"""Curves in one of several panels."""
COLUMNS, HEIGHT, LABEL = 2, 2.3, 0.145
"""Panels in a row; inches of a row of panels and of a curve's name."""
BESIDE = 1.5
"""Inches of a panel's title that leave room for the clock's name beside it."""
ROW, FRAME = 0.2, 1.15
"""Inches: of a feature's row in the map, and what its axes' words need."""
NEAR = (-0.2, 1.3)
"""Growth beyond these is cut off, lest one wild curve presses all others flat."""

_SMALL: dict[str, Any] = {"ha": "right", "va": "bottom", "size": 6.5, "color": MUTED, "linespacing": 1.3}


def overlay(curves: pd.DataFrame, onsets: pd.DataFrame, schedule: Schedule) -> Figure:
    """Growth against log-SNR, all features in one panel or, of more than twelve, a panel per group.

    The reader should see curves rise from 0 to 1, the final image's value, one after the other: names stand in the
    order of onsets.  Bands are 95 % intervals over items; the dot is where a curve reaches one half, with its
    interval.

    Parameters
    ----------
    curves : DataFrame
        Of `turningpoint.statistics.growth.curves`.
    onsets : DataFrame
        Of `turningpoint.statistics.onset.onsets`.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If there is no curve, or no finite log-SNR.
    """
    from matplotlib.figure import Figure

    shown = _finite(curves)
    features = _ordered(shown, onsets)
    panels = {"": features} if len(features) <= TOGETHER else _panels(features)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    low, high = float(shown["logsnr"].min()), float(shown["logsnr"].max())
    margin = 0.02 * (high - low) or 0.5
    tall = HEIGHT if len(panels) > 1 else max(HEIGHT + 0.5, LABEL * len(features) + 1.0)
    with style():
        figure = Figure(figsize=(WIDTH, 0.35 + tall * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg,union-attr]
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for place, (title, names) in enumerate(panels.items()):
            axes = grid.flat[place]
            axes.set_xlim(low - margin, high + margin)
            _frame(axes, title, shown[shown["feature"].isin(names)])
            clock = f"top: {clock_name(schedule)}"
            if columns == 1 or inches_wide(title, 8.5, "bold") < BESIDE:
                axes.set_title(clock, loc="right", color=MUTED, pad=17, size=7, weight="normal")
            inches = tall - 0.75
            for k, name in enumerate(names):
                _curve(axes, k, shown[shown["feature"] == name], onsets[onsets["feature"] == name], inches)
            clocks(axes, schedule, (low, high), gap=0.2 if columns > 1 else 0.08)
            if place + columns >= len(panels):
                direction(axes)
            if place % columns == 0:
                axes.set_ylabel("growth")
    return figure


def heatmap(table: pd.DataFrame, schedule: Schedule) -> Figure:
    """Growth as a heat map, a row per feature, the earliest onset at the top.

    The reader should see light spread from the right (data) to the left, less far in each lower row.  The white
    dots are where a row's growth reaches one half, with their 95 % intervals; the black ticks are the median onsets of
    single items, by which the rows are ordered.  Grey is unknown.

    Parameters
    ----------
    table : DataFrame
        Of `heatmap_table`.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If there is no curve, or no finite log-SNR.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = _finite(table)
    values = shown.pivot(index="place", columns="logsnr", values="growth").sort_index().sort_index(axis=1)
    rows = shown.drop_duplicates("place").sort_values("place").to_dict("records")
    look = groups([str(row["feature"]) for row in rows])
    levels = values.columns.to_numpy(float)
    with style():
        figure = Figure(figsize=(WIDTH, max(ROW * len(rows), 3 * ROW) + FRAME), layout="constrained")
        axes = figure.add_subplot()
        edges = _edges(levels)
        shades = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
        growth = values.to_numpy(float)
        cells = np.ma.masked_invalid(growth.clip(0, 1))
        mesh = axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, cells, cmap=shades, vmin=0, vmax=1)
        mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [brief(row["label"], 34) for row in rows])
        axes.tick_params(axis="y", length=0)
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            gone = math.isnan(row["pooled"]) and math.isnan(row["onset"])
            tick.set_color(MUTED if gone else mix(look[str(row["feature"])][1], "black", 0.35))
        axes.spines[:].set_visible(False)
        _halves(axes, rows)
        key = "dot: growth is ½ (line: 95 %)\ntick: median onset of items"
        axes.annotate(key, (0, 1), (-4, 5), xycoords="axes fraction", textcoords="offset points", **_SMALL)
        clocks(axes, schedule, (float(levels.min()), float(levels.max())))
        axes.set_title(clock_name(schedule), loc="center", size=8, weight="normal", color=MUTED, pad=14)
        direction(axes)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.015, aspect=22)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_ticks([0, 0.5, 1], labels=["0", "½", "1"])
        bar.ax.tick_params(length=0, labelsize=7)
        beyond = bool(((growth < -0.005) | (growth > 1.005)).any())
        bar.set_label("growth, cut off at 0 and 1" if beyond else "growth", size=7.5)
    return figure


def heatmap_table(curves: pd.DataFrame, onsets: pd.DataFrame) -> pd.DataFrame:
    """What `heatmap` shows: the curves with their features' places and half-way points, a row per feature and time.

    Parameters
    ----------
    curves : DataFrame
        Of `turningpoint.statistics.growth.curves`.
    onsets : DataFrame
        Of `turningpoint.statistics.onset.onsets`.

    Returns
    -------
    DataFrame
        ``place`` (0 for the earliest onset), the columns of the curves, and of the onsets ``onset``, ``pooled``,
        ``pooled_low``, ``pooled_high``.

    Raises
    ------
    TurningpointError
        If there is no curve.
    """
    places = {name: place for place, name in enumerate(_ordered(curves, onsets))}
    columns = ["feature", "onset", "pooled", "pooled_low", "pooled_high"]
    joined = curves.merge(onsets[columns], on="feature", how="left", validate="many_to_one")
    joined.insert(0, "place", [places[str(name)] for name in joined["feature"]])
    return joined.sort_values(["place", "logsnr"], kind="stable", ignore_index=True)


def _finite(curves: pd.DataFrame) -> pd.DataFrame:
    """Where there is a place on the axis."""
    shown = curves[np.isfinite(curves["logsnr"].astype(float))]
    if shown.empty:
        raise TurningpointError("curves is empty; accepted: growth at one finite log-SNR or more.")
    return shown


def _ordered(curves: pd.DataFrame, onsets: pd.DataFrame) -> list[str]:
    """The features by onset, those without one last."""
    names = list(dict.fromkeys(str(name) for name in curves["feature"]))
    if not names:
        raise TurningpointError("curves is empty; accepted: the growth of one feature or more.")
    ranked = onsets.sort_values(["onset", "settled"], kind="stable")["feature"].astype(str)
    first = [name for name in ranked if name in names]
    return first + [name for name in names if name not in first]


def _panels(features: Sequence[str]) -> dict[str, list[str]]:
    """At most `MOST` features to a panel, by group, by their first onset; groups of one come together at the end."""
    look = groups(list(features))
    members: dict[str, list[str]] = {}
    for name in features:
        members.setdefault(look[name][0], []).append(name)
    alone = [name for name in features if len(members[look[name][0]]) == 1]
    if len(alone) > 1:
        members = {group: names for group, names in members.items() if len(names) > 1} | {"others": alone}
    panels: dict[str, list[str]] = {}
    for group, names in members.items():
        parts = math.ceil(len(names) / MOST)
        for k, part in enumerate(np.array_split(np.arange(len(names)), parts)):
            panels[group if parts == 1 else f"{group} ({k + 1} of {parts})"] = [names[i] for i in part]
    return panels


def _frame(axes: Axes, title: str, curves: pd.DataFrame) -> None:
    axes.set_title(title, pad=17)
    ends = curves[["growth", "low", "high"]].to_numpy(float)
    known = ends[np.isfinite(ends)].clip(*NEAR)
    axes.set_ylim(min(-0.05, known.min(initial=0) - 0.03), max(1.05, known.max(initial=1) + 0.03))
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    for level, color in ((0.0, MUTED), (0.5, FAINT), (1.0, MUTED)):
        axes.axhline(level, color=color, linewidth=0.6, zorder=0)


def _curve(axes: Axes, k: int, curve: pd.DataFrame, onset: pd.DataFrame, inches: float) -> None:
    """The k-th curve of a panel ``inches`` tall, with its name on the right."""
    color, dashes = list(PALETTE.values())[k % len(PALETTE)], "-" if k < len(PALETTE) else (0, (3, 1.2))
    ordered = curve.sort_values("logsnr")
    x, y = ordered["logsnr"].to_numpy(float), ordered["growth"].to_numpy(float)
    low, high = (ordered[end].to_numpy(float).clip(-9, 9) for end in ("low", "high"))
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0, zorder=1)
    single = np.isfinite(y).sum() == 1
    (line,) = axes.plot(x, y, color=color, linestyle=dashes, marker="." if single else "", zorder=2)
    line.set_label(str(ordered["feature"].iloc[0]))
    for row in onset.to_dict("records"):
        if math.isfinite(row["pooled"]):
            bounds = np.clip([row["pooled_low"], row["pooled_high"]], *axes.get_xlim())
            axes.plot(bounds, [0.5, 0.5], color=color, linewidth=1.0, zorder=3)
            axes.plot(row["pooled"], 0.5, "o", color=color, markersize=3.6, mew=0.5, mec="white", zorder=4)
    place = axes.transAxes
    height, known = 1.0 - LABEL * k / inches, bool(np.isfinite(y).any())
    if known:
        look: dict[str, Any] = {"transform": place, "color": color, "linestyle": dashes, "clip_on": False}
        axes.plot([1.02, 1.07], [height, height], linewidth=2, **look)
    name = brief(ordered["label"].iloc[0], 22) + ("" if known else ": none")
    axes.text(1.09, height, name, transform=place, va="center", size=7, color=INK if known else MUTED)


def _edges(levels: np.ndarray) -> np.ndarray:
    """Between the log-SNRs, and half a step beyond the outer ones."""
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[2 * levels[0] - middle[0]], middle, [2 * levels[-1] - middle[-1]]])


def _halves(axes: Axes, rows: Sequence[dict[Any, Any]]) -> None:
    """Where each row reaches one half, and the median of its items."""
    sweep = axes.get_xlim()
    for row in rows:
        place = row["place"]
        if math.isfinite(row["onset"]):
            axes.vlines(row["onset"], place - 0.42, place + 0.42, color=INK, linewidth=1.2, zorder=3)
        if math.isfinite(row["pooled"]):
            bounds = np.clip([row["pooled_low"], row["pooled_high"]], *sweep)
            axes.plot(bounds, [place, place], color="white", linewidth=1.2, zorder=4)
            dot: dict[str, Any] = {"color": "white", "markersize": 3.6, "mec": INK, "mew": 0.5, "zorder": 5}
            axes.plot(row["pooled"], place, "o", **dot)
