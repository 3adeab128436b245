"""Several runs on one axis of log-SNR: their growth curves over one another, their onsets side by side, differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .heat import diverging, edges
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
    inches_wide,
    number,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 26
"""Letters of a run's name, and of a feature's."""
COLUMNS, HEIGHT = 4, 1.3
"""Panels of growth in a row; inches of a row."""
NEAR, WIDEST = (-0.2, 1.3), (-0.6, 3.0)
"""What a panel of growth shows, and at most if there is growth beyond."""
STEP, BETWEEN, FRAME = 0.105, 0.12, 0.95
"""Inches: of a run's dot, between features, and what axes' words need."""
ROW = 0.2
"""Inches of a feature's row in the map."""
LEAST = 0.1
"""The colour scale of differences of growth reaches at least so far."""
MARKERS = "osD^vP*X"


def growth(table: pd.DataFrame, schedule: Schedule | None = None) -> Figure:
    """A small panel per feature, in it a curve per run with its 95 % band.

    The reader should see in which panels the curves lie on one another, and where they do not, which run is earlier:
    its curve is further to the left.

    Parameters
    ----------
    table : DataFrame
        ``run``, ``feature``, ``label``, ``logsnr``, ``growth``, ``low``, ``high``.
    schedule : Schedule, optional
        The clock of the axis on top, if all runs have it.

    Raises
    ------
    TurningpointError
        If the table has no growth at a finite log-SNR.
    """
    from matplotlib.figure import Figure

    shown = table[np.isfinite(table["logsnr"].astype(float))]
    features, runs = _names(shown, "feature"), _names(shown, "run")
    columns = min(COLUMNS, len(features))
    rows = math.ceil(len(features) / columns)
    low, high = float(shown["logsnr"].min()), float(shown["logsnr"].max())
    colors, key = dict(zip(runs, _colors(len(runs)), strict=True)), _lines(runs)
    with style():
        height = HEIGHT * rows + 0.5 + 0.16 * len(key) + (0.2 if schedule else 0)
        figure = Figure(figsize=(max(WIDTH * columns / COLUMNS, 3.6), height), layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (0.16 * len(key) + 0.06) / height))  # type: ignore[call-arg,union-attr]
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes in grid.flat[len(features) :]:
            axes.remove()
        for k, feature in enumerate(features):
            axes, part = grid.flat[k], shown[shown["feature"] == feature]
            for level, ink in ((0, MUTED), (0.5, FAINT), (1, MUTED)):
                axes.axhline(level, color=ink, linewidth=0.5, zorder=0)
            for run, curve in part.groupby("run", sort=False):
                _curve(axes, curve.sort_values("logsnr"), colors[str(run)])
            if not np.isfinite(part["growth"].astype(float)).any():
                axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", size=7, color=MUTED)
            limits = _limits(part["growth"].to_numpy(float))
            axes.set_ylim(*limits)
            own = k % columns == 0 or limits != NEAR
            axes.set_yticks([0, 0.5, 1], ["0", "½", "1"] if own else [])
            axes.set_xlim(low, high)
            named = brief(part["label"].iloc[0], NAME)
            axes.set_title(named, fontsize=7.5, weight="normal", pad=13 if schedule and k < columns else 3)
            if schedule and k < columns:
                clocks(axes, schedule, (low, high), 0.2)
            if k + columns >= len(features):
                axes.tick_params(axis="x", labelbottom=True)
        figure.supylabel("growth", fontsize=8)
        on_top = f"   (top: {clock_name(schedule)})" if schedule else ""
        figure.supxlabel(f"noise ⟶   log-SNR{on_top}   ⟶ data", fontsize=8, color=MUTED)
        _key(figure, key, colors, height)
    return figure


def onsets(table: pd.DataFrame, schedule: Schedule | None = None) -> Figure:
    """A row per feature, in it a dot per run: onsets on the left, settling on the right, with 95 % intervals.

    The reader should see at once which features keep their place in all runs, and which move.  Features stand in the
    order of the first run's onsets; a dot on the edge with an arrow is open: it lies beyond the recorded times.

    Parameters
    ----------
    table : DataFrame
        ``run``, ``feature``, ``label``, and ``onset`` and ``settled``, each with ``_low`` and ``_high``.
    schedule : Schedule, optional
        The clock of the axes on top, if all runs have it.

    Raises
    ------
    TurningpointError
        If the table is empty.
    """
    from matplotlib.figure import Figure

    runs, features = _names(table, "run"), _ordered(table)
    labels = dict(zip(table["feature"].astype(str), table["label"], strict=True))
    colors, key = dict(zip(runs, _colors(len(runs)), strict=True)), _lines(runs)
    tall = BETWEEN + STEP * len(runs)
    with style():
        height = tall * len(features) + FRAME + 0.16 * len(key)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (0.16 * len(key) + 0.06) / height))  # type: ignore[call-arg,union-attr]
        panels = figure.subplots(1, 2, sharey=True)
        for axes, quantity in zip(panels, ("onset", "settled"), strict=True):
            sweep = _sweep(table, quantity)
            for y, feature in enumerate(features):
                if y % 2 == 0:
                    axes.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
                part = table[table["feature"].astype(str) == feature]
                for row in part.to_dict("records"):
                    place = runs.index(str(row["run"]))
                    at = y + ((place + 0.5) / len(runs) - 0.5) * STEP * len(runs) / tall
                    _dot(
                        axes, at, row, quantity, sweep, colors[str(row["run"])], MARKERS[place % len(MARKERS)]
                    )
            axes.set_xlim(*sweep)
            axes.set_ylim(len(features) - 0.5, -0.5)
            axes.grid(axis="x", color=FAINT, linewidth=0.5)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            words = {"onset": "half grown", "settled": "settled"}[quantity]
            axes.set_title(words, fontsize=8, pad=17 if schedule else 5)
            if schedule:
                clocks(axes, schedule, sweep, 0.13)
                axes.set_title(
                    f"top: {clock_name(schedule)}",
                    loc="right",
                    fontsize=7,
                    weight="normal",
                    color=MUTED,
                    pad=17,
                )
            direction(axes)
        panels[0].set_yticks(range(len(features)), [brief(labels[name], NAME) for name in features], size=7)
        _key(figure, key, colors, height)
    return figure


def difference(table: pd.DataFrame, called: tuple[str, str], schedule: Schedule | None = None) -> Figure:
    """A heat map of feature by log-SNR: growth in one run less growth in another.

    The reader should see where a run is ahead (vermillion) or behind (blue); where it is only early, its row is
    vermillion on the rise and white after it.  Pale cells are those whose 95 % interval holds zero.

    Parameters
    ----------
    table : DataFrame
        Of two runs: ``feature``, ``label``, ``logsnr``, ``difference``, ``low``, ``high``; rows in this order.
    called : two strings
        The run, and that with which it is compared.
    schedule : Schedule, optional
        The clock of the axis on top, if both runs have it.

    Raises
    ------
    TurningpointError
        If the table has no difference at a finite log-SNR.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = table[np.isfinite(table["logsnr"].astype(float))]
    features, labels = (
        _names(shown, "feature"),
        dict(zip(shown["feature"].astype(str), shown["label"], strict=True)),
    )
    squares = {
        column: shown.pivot(index="feature", columns="logsnr", values=column).loc[features].sort_index(axis=1)
        for column in ("difference", "low", "high")
    }
    levels = squares["difference"].columns.to_numpy(float)
    cells, low, high = (squares[column].to_numpy(float) for column in ("difference", "low", "high"))
    size = np.abs(cells[np.isfinite(cells)])
    reach = max(LEAST, min(1.0, float(np.quantile(size, 0.98)) if len(size) else LEAST))
    norm, shades = Normalize(-reach, reach, clip=True), diverging()
    colors = shades(norm(np.ma.masked_invalid(cells)))
    with np.errstate(invalid="ignore"):
        pale = np.isfinite(cells) & ~((low > 0) | (high < 0))
    colors[pale, :3] = 0.2 * colors[pale, :3] + 0.8
    side = edges(levels)
    with style():
        tall = max(ROW * len(features), 4 * ROW)
        figure = Figure(figsize=(WIDTH, tall + (1.35 if schedule else 1.1)), layout="constrained")
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(side, np.arange(len(features) + 1) - 0.5, colors)
        mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
        axes.set_xlim(side[0], side[-1])
        axes.set_ylim(len(features) - 0.5, -0.5)
        axes.spines[:].set_visible(False)
        axes.set_yticks(range(len(features)), [brief(labels[name], NAME) for name in features], size=7)
        axes.tick_params(axis="y", length=0)
        if schedule:
            clocks(axes, schedule, (float(levels[0]), float(levels[-1])))
            axes.set_title(
                f"top: {clock_name(schedule)}", loc="right", fontsize=7, weight="normal", color=MUTED, pad=16
            )
        direction(axes)
        words = f"{_end(called[0])} less {_end(called[1])}"
        axes.set_title(words, fontsize=8, pad=16 if schedule else 5)
        outside = bool((size > reach).any())
        bar = figure.colorbar(
            ScalarMappable(norm, shades), ax=axes, fraction=0.03, pad=0.015, aspect=22,
            extend="both" if outside else "neither",
        )  # fmt: skip
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_ticks([-reach, 0, reach], labels=[number(v) for v in (-reach, 0, reach)])
        bar.ax.tick_params(length=0, labelsize=7)
        bar.set_label("difference of growth", size=7.5)
    return figure


def _names(table: pd.DataFrame, column: str) -> list[str]:
    """The different entries of a column, in their order."""
    names = list(dict.fromkeys(table[column].astype(str)))
    if not names:
        raise TurningpointError("table is empty; accepted: one run and feature or more, at finite log-SNR.")
    return names


def _ordered(table: pd.DataFrame) -> list[str]:
    """The features by the first run's onset, those without one last."""
    names = _names(table, "feature")
    first = table[table["run"].astype(str) == _names(table, "run")[0]]
    ranked = first.sort_values(["onset", "settled"], kind="stable")["feature"].astype(str).tolist()
    return [*ranked, *(name for name in names if name not in ranked)]


def _colors(count: int) -> list[Any]:
    """As many colours as there are runs."""
    if count <= len(PALETTE):
        return list(PALETTE.values())[:count]
    import matplotlib

    return [matplotlib.colormaps["viridis"](0.92 * k / (count - 1)) for k in range(count)]


def _limits(values: np.ndarray) -> tuple[float, float]:
    """What a panel of growth shows: wider where curves would leave it."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else NEAR
    return (
        NEAR[0] if low >= NEAR[0] else max(1.05 * low, WIDEST[0]),
        NEAR[1] if high <= NEAR[1] else min(1.05 * high, WIDEST[1]),
    )


def _curve(axes: Axes, curve: pd.DataFrame, color: Any) -> None:
    x = curve["logsnr"].to_numpy(float)
    axes.fill_between(x, curve["low"], curve["high"], color=color, alpha=0.18, linewidth=0, zorder=1)
    (line,) = axes.plot(x, curve["growth"], color=color, linewidth=1.1, zorder=2)
    line.set_label(str(curve["run"].iloc[0]))


def _sweep(table: pd.DataFrame, quantity: str) -> tuple[float, float]:
    """The finite times of all runs, with room on either side."""
    values = table[[quantity, f"{quantity}_low", f"{quantity}_high"]].to_numpy(float)
    known = values[np.isfinite(values)]
    if not len(known):
        return -1.0, 1.0
    room = 0.08 * float(known.max() - known.min()) or 0.5
    return float(known.min()) - room, float(known.max()) + room


def _dot(
    axes: Axes,
    y: float,
    row: Mapping[Hashable, Any],
    quantity: str,
    sweep: tuple[float, float],
    color: Any,
    marker: str,
) -> None:
    """A run's time with its interval; on the edge, with an arrow, if it is open."""
    value, low, high = (float(row[f"{quantity}{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return
    if math.isfinite(low) or math.isfinite(high):
        axes.plot(np.clip([low, high], *sweep), [y, y], color=color, linewidth=1.0, zorder=3)
    if math.isfinite(value):
        axes.plot(value, y, marker, color=color, markersize=3.6, mec="white", mew=0.4, zorder=4)
        return
    edge, caret = (sweep[0], 4) if value < 0 else (sweep[1], 5)  # with the tip on the edge
    axes.plot(edge, y, marker=caret, color=color, markersize=5, mew=0, clip_on=False, zorder=4)


def _lines(runs: Sequence[str]) -> list[list[str]]:
    """The runs' names, as many in a line as the page is wide."""
    lines: list[list[str]] = [[]]
    for run in runs:
        if lines[-1] and sum(_room(name) for name in [*lines[-1], run]) > WIDTH - 0.4:
            lines.append([])
        lines[-1].append(run)
    return lines


def _room(name: str) -> float:
    return inches_wide(_end(name), 7.5) + 0.38


def _end(name: str) -> str:
    """A run's name, its end if it is long: that is where the runs of a study differ."""
    return name if len(name) <= NAME else "…" + name[-(NAME - 1) :]


def _key(figure: Figure, lines: Sequence[Sequence[str]], colors: Mapping[str, Any], height: float) -> None:
    """The runs' names above the panels, each with its colour and mark."""
    from matplotlib.lines import Line2D

    wide, place = float(figure.get_size_inches()[0]), 0
    for k, line in enumerate(lines):
        x, y = 0.08, 1 - (0.1 + 0.16 * k) / height
        for name in line:
            marker = MARKERS[place % len(MARKERS)]
            ends = [x / wide, (x + 0.12) / wide]
            figure.add_artist(Line2D(ends, [y, y], color=colors[name], linewidth=1.4))
            figure.add_artist(
                Line2D(
                    [sum(ends) / 2],
                    [y],
                    color=colors[name],
                    marker=marker,
                    markersize=3.6,
                    mec="white",
                    mew=0.4,
                )
            )
            figure.text((x + 0.17) / wide, y, _end(name), size=7.5, color=INK, va="center_baseline")
            x, place = x + _room(name), place + 1
