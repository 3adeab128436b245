"""A forest plot of what a change did: each feature's shift, and how far its images have moved, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .style import FAINT, INK, MUTED, WIDTH, brief, fitted, groups, mix, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "standardised": ("shift", "sd of the clean images"),
    "moved": ("moved", "0: nothing, 1: another image"),
    "towards": ("towards the donor", "0: clean, 1: the donor"),
}
"""Columns that are drawn if the table has them: a panel's title, and what its axis says."""
REACH = {"standardised": 5.0, "moved": 2.0, "towards": 2.0}
"""The farthest that an axis goes; what lies beyond is an arrow with a number."""
LEAST = {"standardised": 0.5, "moved": 1.0, "towards": 1.0}
ROW, FRAME, ROOM = 0.17, 1.0, 2.0
"""Inches: of a row, of the axes' words, and of a feature's name at most."""
MOST = 60
"""Features that find room; of more, those that moved most."""
LEVEL = 0.05


def effects(table: pd.DataFrame, predicted: Sequence[str] = (), elsewhere: Sequence[str] = ()) -> Figure:
    """A row per feature, coloured by its group; shift on the left, moved beside it, and with a donor how far to it.

    The reader should see which features the change drives (dots away from zero; a hollow one has q above 0.05), which
    way it shifts them, and whether these are the ones that were predicted: their names have a mark and their rows a
    shade.

    Parameters
    ----------
    table : DataFrame
        Of `turningpoint.effects`.
    predicted : sequence of str
        Features that a correlation at times within the window has predicted.
    elsewhere : sequence of str
        Features that one at other times has predicted: their mark is hollow.

    Raises
    ------
    TurningpointError
        If the table is empty.
    """
    from matplotlib.figure import Figure

    shown = shown_of(table)
    if shown.empty:
        raise TurningpointError("table is empty; accepted: the effects on one feature or more.")
    names = [str(name) for name in shown["feature"]]
    look, n = groups(names), len(names)
    panels = [
        column for column in PANELS if column in shown and np.isfinite(shown[column].astype(float)).any()
    ]
    with style():
        figure = Figure(figsize=(WIDTH, ROW * n + FRAME), layout="constrained")
        grid = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
        for axes, column in zip(grid, panels, strict=False):
            for k in (k for k, name in enumerate(names) if name in predicted):
                axes.axhspan(k - 0.5, k + 0.5, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
            _panel(axes, shown, column, [look[name][1] for name in names])
        marks = ["◆ " if name in predicted else "◇ " if name in elsewhere else "" for name in names]
        labels = [f"{mark}{fitted(x, ROOM, 7.0)}" for mark, x in zip(marks, shown["label"], strict=True)]
        grid[0].set_yticks(range(n), labels, size=7)
        for tick, name in zip(grid[0].get_yticklabels(), names, strict=True):
            tick.set_color(mix(look[name][1], "black", 0.3))
        grid[0].set_ylim(n - 0.4, -0.6)
        for axes in grid:
            axes.tick_params(axis="y", length=0)
            axes.spines[["left", "top"]].set_visible(False)
        if not panels:
            grid[0].set_xticks([])
            grid[0].text(0.5, n / 2 - 0.5, "no effect is known", ha="center", va="center", color=MUTED)
        notes = ["◆ predicted by the layer's activity"] if "◆ " in marks else []
        notes += ["◇ predicted at other times"] if "◇ " in marks else []
        notes += [f"the {n} of {len(table)} features that moved most"] if n < len(table) else []
        notes += ["bars: 95 % intervals"] + ["filled: q ≤ 0.05"] * ("standardised" in panels)
        figure.supxlabel("    ".join(notes), fontsize=7, color=MUTED)
    return figure


def shown_of(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the picture has room for, in the table's order."""
    if len(table) <= MOST:
        return table.reset_index(drop=True)
    far = table["moved"].astype(float).fillna(-1.0).to_numpy()
    kept = np.sort(np.argsort(-far, kind="stable")[:MOST])
    return table.iloc[kept].reset_index(drop=True)


def _panel(axes: Axes, table: pd.DataFrame, column: str, colors: Sequence[str]) -> None:
    values = table[column].to_numpy(float)
    ends = table[[f"{column}_low", f"{column}_high"]].to_numpy(float)
    signed = column != "moved"
    reach = _reach(values, ends, column)
    low, high = (-reach if column == "standardised" else min(0.0, _floor(values, ends, reach))), reach
    axes.axvline(0, color=INK, linewidth=0.6, zorder=1)
    if column != "standardised":
        axes.axvline(1, color=FAINT, linewidth=0.8, zorder=1)
    tested = column == "standardised" and "q" in table
    sure = table["q"].to_numpy(float) <= LEVEL if tested else np.ones(len(table), dtype=bool)
    for k, (value, (left, right), color) in enumerate(zip(values, ends, colors, strict=True)):
        if math.isnan(value):
            continue
        bar = np.clip(np.nan_to_num([left, right], nan=value), low, high)
        axes.plot(bar, [k, k], color=color, linewidth=1.1, zorder=2, clip_on=False)
        if low <= value <= high:
            face: Any = color if sure[k] else "white"
            axes.plot(value, k, "o", color=color, markersize=3.6, mfc=face, mew=0.9, zorder=3, clip_on=False)
            continue
        over = value > high
        place: dict[str, Any] = {
            "xytext": (-7 if over else 7, 0),
            "textcoords": "offset points",
            "va": "center",
        }
        axes.plot(
            high if over else low, k, ">" if over else "<", color=color, markersize=4, zorder=3, clip_on=False
        )
        axes.annotate(number(value, 1), (high if over else low, k), ha="right" if over else "left", size=6.5,
                      color=color, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4}, **place)  # fmt: skip
    span = high - low
    axes.set_xlim(low - 0.03 * span * signed, high + 0.03 * span)
    title, words = PANELS[column]
    axes.set_title(title)
    axes.set_xlabel(words, size=7)


def _reach(values: np.ndarray, ends: np.ndarray, column: str) -> float:
    """How far an axis goes from 0."""
    seen = np.abs(np.concatenate([values, ends.ravel()]))
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        return LEAST[column]
    wanted = min(
        1.05 * float(seen.max()), 2 * float(np.quantile(seen, 0.9))
    )  # few are not to flatten the others
    return float(np.clip(wanted, LEAST[column], REACH[column]))


def _floor(values: np.ndarray, ends: np.ndarray, reach: float) -> float:
    """How far an axis goes below 0."""
    seen = np.concatenate([values, ends[:, 0]])
    seen = seen[np.isfinite(seen)]
    return max(-reach, 1.05 * float(seen.min())) if len(seen) else 0.0


def spoken(table: pd.DataFrame) -> str:
    """The finding in words: how many features are shifted, and which moved farthest.

    >>> spoken(pd.DataFrame({"label": ["edges"], "standardised": [0.5], "q": [0.001], "moved": [0.4]}))
    'Of 1 feature with a sign, 1 is shifted (q at most 0.05). Farthest moved edges: 0.40 of the way to another image.'
    """
    tested = table[np.isfinite(table["q"].astype(float))]
    count = int((tested["q"] <= LEVEL).sum())
    words = (
        f"Of {len(tested)} feature{'s' * (len(tested) != 1)} with a sign, {count or 'none'} "
        f"{'is' if count <= 1 else 'are'} shifted (q at most {LEVEL})."
        if len(tested)
        else "No feature that was read has a sign, so none can be shifted."
    )
    moved = table["moved"].to_numpy(float)
    if not np.isfinite(moved).any():
        return words
    far = int(np.nanargmax(moved))
    name = brief(table["label"].iloc[far], 40)
    return f"{words} Farthest moved {name}: {number(moved[far])} of the way to another image."
