"""The signature picture of a trace: when each feature of a trajectory is half there, and when it stays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from .style import (
    FAINT,
    INK,
    MUTED,
    WIDTH,
    brief,
    clock_name,
    clocks,
    direction,
    groups,
    inches_wide,
    mix,
    number,
    style,
)
from .timeline import BAR, EDGE, FOOTER, arrow, whisker

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, HEADER, LINE, EDGES = 0.225, 0.66, 0.16, 0.09
"""Inches: of a feature, of title and key, of a line of words below them, of the page's left and right margin."""
ASIDE = {"onset": -0.17, "settled": 0.17}
"""Of a row: how far above and below its middle the intervals of the two ends lie."""


def onset(
    onsets: pd.DataFrame, schedule: Schedule, sweep: tuple[float, float], within: float = 0.1
) -> Figure:
    """One bar per feature, from its onset to its settling, the earliest onset at the top.

    The reader should see the features of a trajectory come one after the other from left (noise) to right (data),
    and which of them still change long after they have begun.  A dark tick is the median onset over items, a
    lighter one the median settling.  A strong line is the 95 % interval of a median, a thin one holds the middle
    half of the items.  A faded arrow is an open end.  A white diamond is a prediction.  Features without an onset
    stand in grey at the bottom with the reason.

    Parameters
    ----------
    onsets : DataFrame
        Of `turningpoint.statistics.onset.onsets`; a column ``theory`` (log-SNR, NaN for none) adds the diamonds.
    schedule : Schedule
        The clock of the axis on top.
    sweep : (float, float)
        The lowest and the highest finite log-SNR recorded.
    within : float
        How close to its final value a settled feature is; for the key.
    """
    from matplotlib.figure import Figure

    empty = onsets["onset"].isna()
    table = pd.concat([onsets[~empty].sort_values(["onset", "settled"], kind="stable"), onsets[empty]])
    rows = table.to_dict("records")
    look = groups([str(feature) for feature in table["feature"]])
    low, high = float(sweep[0]), float(sweep[1])
    margin = EDGE * max(high - low, 1e-6)
    with style():
        words = _lines(dict(look[str(feature)] for feature in table["feature"]))
        top = HEADER + LINE * (len(words) + 1)
        height = top + FOOTER + ROW * max(len(table), 1)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(rect=(0.005, 0.0, 0.99, 1 - top / height))  # type: ignore[call-arg,union-attr]
        axes = figure.add_subplot()
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(max(len(table), 1) - 0.4, -0.6)
        for side, edge in ((low - margin, low), (high, high + margin)):
            axes.axvspan(side, edge, color="#f3f3f3", linewidth=0, zorder=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        colors = [look[str(row["feature"])][1] for row in rows]
        drawn = [_row(axes, y, row, (low, high), colors[y]) for y, row in enumerate(rows)]
        if not empty.all():
            _column(axes, -0.95, "onset (95 % interval)", MUTED)
        axes.set_yticks(range(len(rows)), [brief(row["label"], 34) for row in rows])
        axes.tick_params(axis="y", length=0)
        for tick, row, color in zip(axes.get_yticklabels(), rows, colors, strict=True):
            tick.set_color(MUTED if math.isnan(row["onset"]) else mix(color, "black", 0.35))
        axes.spines["left"].set_visible(False)
        clocks(axes, schedule, (low, high))
        axes.set_title(clock_name(schedule), loc="center", size=8, weight="normal", color=MUTED, pad=14)
        direction(axes)
        notes = ["fading arrow: beyond the times recorded"] * any(open_end for open_end, _ in drawn)
        notes += ["diamond: predicted"] * any(predicted for _, predicted in drawn)
        _header(figure, height, words, "; ".join(notes))
        _key(figure, height, within)
    return figure


def _row(
    axes: Axes, y: int, row: Mapping[Hashable, Any], sweep: tuple[float, float], color: str
) -> tuple[bool, bool]:
    """One feature; whether its bar runs out of the sweep, and whether it has a prediction."""
    low, high = sweep
    if math.isnan(row["onset"]):
        reason = f"no onset: {row['note']}" if row["note"] else "no onset"
        room = low + EDGE / 4 * (high - low)
        axes.text(room, y, brief(reason, 82), va="center", size=7, style="italic", color=MUTED)
        return False, False
    is_open = _bar(axes, y, row, sweep, color)
    _column(axes, y, _spoken(row, low, high), INK)
    theory = float(row.get("theory", math.nan))
    predicted = low <= theory <= high
    if predicted:
        look: dict[str, Any] = {"marker": "D", "markersize": 4.2, "mec": INK, "mew": 0.8, "color": "white"}
        axes.plot(theory, y, linestyle="", zorder=6, label="theory", **look)
    return is_open, predicted


def _bar(axes: Axes, y: int, row: Mapping[Hashable, Any], sweep: tuple[float, float], color: str) -> bool:
    """From onset to settling; whether it runs out of the sweep."""
    low, high = sweep
    settled = row["onset"] if math.isnan(row["settled"]) else row["settled"]
    start, end = (float(np.clip(at, low, high)) for at in (row["onset"], settled))
    fill, dark = mix(color, "white", 0.55), mix(color, "black", 0.35)
    bar = axes.barh(y, end - start, left=start, height=BAR, color=fill, linewidth=0, zorder=2)
    bar.set_label(str(row["feature"]))
    before, after = row["onset"] < low, row["onset"] > high or settled > high
    if before:
        arrow(axes, y, low, -1, sweep, fill)
    if after:
        arrow(axes, y, high, +1, sweep, fill)
    for name, shade in (("onset", INK), ("settled", dark)):
        place = y + ASIDE[name]
        _quartiles(axes, place, row, name, sweep, shade)
        if np.isfinite([row[f"{name}_low"], row[f"{name}_high"], row[name]]).any():  # else the arrow says it
            whisker(axes, place, dict(row), name, sweep, color=shade, width=1.9, cap=0.0)
        if math.isfinite(row[name]):
            heavy = 2.0 if name == "onset" else 1.1
            axes.vlines(row[name], y - BAR / 2, y + BAR / 2, color=shade, linewidth=heavy, zorder=5)
    return bool(before or after)


def _quartiles(
    axes: Axes, y: float, row: Mapping[Hashable, Any], name: str, sweep: tuple[float, float], color: Any
) -> None:
    """A thin line that holds the middle half of the items, with ticks at its ends where these are in the sweep."""
    quartiles = [float(row[f"{name}_q25"]), float(row[f"{name}_q75"])]
    if math.isnan(quartiles[0]) or math.isnan(quartiles[1]):
        return
    beyond = EDGE / 2 * (sweep[1] - sweep[0])
    ends = np.clip(quartiles, sweep[0] - beyond, sweep[1] + beyond)
    axes.plot(ends, [y, y], color=color, linewidth=0.6, zorder=3)
    inside = [end for end in quartiles if sweep[0] <= end <= sweep[1]]
    axes.vlines(inside, y - 0.09, y + 0.09, color=color, linewidth=0.6, zorder=3)


def _spoken(row: Mapping[Hashable, Any], low: float, high: float) -> str:
    if not math.isfinite(row["onset"]):
        return f"before {number(low, 1)}" if row["onset"] < 0 else f"after {number(high, 1)}"
    if math.isnan(row["onset_low"]):
        return number(row["onset"])
    return f"{number(row['onset'])}  ({number(row['onset_low'])}, {number(row['onset_high'])})"


def _column(axes: Axes, y: float, text: str, color: str) -> None:
    axes.text(1.012, y, text, transform=axes.get_yaxis_transform(), va="center", size=6.8, color=color)


def _lines(names: Mapping[str, str]) -> list[list[tuple[str, str]]]:
    """The names of groups with their colours, as many in a line as the page is wide."""
    lines: list[list[tuple[str, str]]] = [[]]
    room = WIDTH - 2 * EDGES
    for name, color in names.items():
        wide = inches_wide(name, 8, "bold") + LINE
        if lines[-1] and wide > room:
            lines.append([])
            room = WIDTH - 2 * EDGES
        lines[-1].append((name, color))
        room -= wide
    return lines


def _header(figure: Figure, height: float, lines: list[list[tuple[str, str]]], note: str) -> None:
    title = "When each feature appears, and when it stays"
    left = EDGES / WIDTH
    figure.text(left, 1 - 0.1 / height, title, size=10, weight="bold", va="top")
    for k, line in enumerate(lines):
        x = left
        for name, color in line:
            look: dict[str, Any] = {
                "size": 8,
                "weight": "bold",
                "va": "top",
                "color": mix(color, "black", 0.25),
            }
            figure.text(x, 1 - (HEADER + k * LINE) / height, name, **look)
            x += (inches_wide(name, 8, "bold") + LINE) / WIDTH
    figure.text(left, 1 - (HEADER + len(lines) * LINE) / height, note, size=6.8, color=MUTED, va="top")


def _key(figure: Figure, height: float, within: float) -> None:
    """A bar that names its parts."""
    wide, tall = 3.05, 0.56
    axes = figure.add_axes(
        (1 - (wide + 0.05) / WIDTH, 1 - (tall + 0.04) / height, wide / WIDTH, tall / height)
    )
    axes.set_in_layout(False)
    axes.set_axis_off()
    axes.set_xlim(0, wide)
    axes.set_ylim(1.55, -1.55)
    row: dict[Hashable, Any] = {"feature": "key"}
    for name, at in (("onset", 0.42), ("settled", 1.07)):
        row |= {name: at, f"{name}_low": at - 0.09, f"{name}_high": at + 0.09}
        row |= {f"{name}_q25": at - 0.27, f"{name}_q75": at + 0.27}
    _bar(axes, 0, row, (0.0, wide), MUTED)
    small: dict[str, Any] = {"size": 6.5, "color": MUTED}
    axes.text(0.42, -0.45, "onset: half there", va="bottom", ha="center", **small)
    axes.text(1.07, 0.45, f"settled: within {100 * within:g} %", va="top", ha="center", **small)
    axes.text(
        1.68,
        -0.05,
        "ticks: medians\nstrong: their 95 % intervals\nthin: the middle half of items",
        va="center",
        **small,
    )
