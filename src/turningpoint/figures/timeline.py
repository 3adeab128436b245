"""The signature picture: the critical window of every feature, from coarse to fine, along log-SNR."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from .style import FAINT, INK, MUTED, WIDTH, brief, clock_name, clocks, direction, groups, mix, number, style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, HEADER, FOOTER = 0.205, 0.66, 0.95  # inches
BAR = 0.62  # of a row
EDGE = 0.06  # of the sweep, drawn on either side of it


def timeline(
    windows: pd.DataFrame, schedule: Schedule, sweep: tuple[float, float], delta: float = 0.1
) -> Figure:
    """One bar per feature, from where its decision begins to where it is decided.

    The reader should see generation run from left (noise) to right (data) and the features fall into
    place one after the other, the earliest at the top.  The dark tick in a bar is the window's centre
    with its 95 % interval, the whiskers at its ends are the 95 % intervals of start and end.  A faded
    arrow is an open end: the sweep stops there, the window does not.  Features without a window stand
    in grey at the bottom with the reason.

    Parameters
    ----------
    windows : DataFrame
        One row per feature: ``feature``, ``label``, ``note`` and, in log-SNR, ``start``, ``centre``,
        ``end``, each with ``_low`` and ``_high``; infinite where open, NaN where there is no window.
    schedule : Schedule
        The clock of the axis on top.
    sweep : (float, float)
        The lowest and the highest log-SNR measured.
    delta : float
        The window lies between the retentions delta and 1 - delta; for the key.
    """
    from matplotlib.figure import Figure

    empty = windows["centre"].isna()
    table = pd.concat(
        [windows[~empty].sort_values(["centre", "start", "end"], kind="stable"), windows[empty]]
    )
    look = groups([str(feature) for feature in table["feature"]])
    low, high = float(sweep[0]), float(sweep[1])
    margin = EDGE * max(high - low, 1e-6)
    with style():
        height = HEADER + FOOTER + ROW * max(len(table), 1)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(rect=(0.005, 0.0, 0.99, 1 - HEADER / height))  # type: ignore[call-arg,union-attr]
        axes = figure.add_subplot()
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(max(len(table), 1) - 0.4, -0.6)
        for side, edge in ((low - margin, low), (high, high + margin)):
            axes.axvspan(side, edge, color="#f3f3f3", linewidth=0, zorder=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        open_end = False
        for y, row in enumerate(table.to_dict("records")):
            if math.isnan(row["centre"]):
                reason = f"no window: {row['note']}" if row["note"] else "no window"
                axes.text(
                    low + margin / 4, y, brief(reason, 82), va="center", size=7, style="italic", color=MUTED
                )
            else:
                open_end |= _bar(axes, y, row, (low, high), look[str(row["feature"])][1])
                _column(axes, y, _centre(row, low, high), INK)
        if not empty.all():
            _column(axes, -0.95, "centre (95 % interval)", MUTED)
        axes.set_yticks(range(len(table)), [brief(label, 34) for label in table["label"]])
        axes.tick_params(axis="y", length=0)
        for tick, row in zip(axes.get_yticklabels(), table.to_dict("records"), strict=True):
            gone = math.isnan(row["centre"])
            tick.set_color(MUTED if gone else mix(look[str(row["feature"])][1], "black", 0.35))
        axes.spines["left"].set_visible(False)
        clocks(axes, schedule, (low, high))
        axes.set_title(clock_name(schedule), loc="center", size=8, weight="normal", color=MUTED, pad=14)
        direction(axes)
        _header(figure, height, dict(look[str(feature)] for feature in table["feature"]), open_end)
        _key(figure, height, delta)
    return figure


def _bar(axes: Axes, y: int, row: dict[Any, Any], sweep: tuple[float, float], color: str) -> bool:
    """One feature's window; whether it runs out of the sweep."""
    low, high = sweep
    start, end = (float(np.clip(row[name], low, high)) for name in ("start", "end"))
    fill, dark = mix(color, "white", 0.5), mix(color, "black", 0.35)
    bar = axes.barh(y, end - start, left=start, height=BAR, color=fill, linewidth=0, zorder=2)
    bar.set_label(str(row["feature"]))
    before, after = row["start"] < low or row["end"] < low, row["end"] > high or row["start"] > high
    if before:
        arrow(axes, y, low, -1, sweep, fill)
    if after:
        arrow(axes, y, high, +1, sweep, fill)
    crowded = row["start_high"] > row["centre_low"] or row["centre_high"] > row["end_low"]
    for name, aside in (("start", -0.2), ("end", 0.2)):
        if math.isfinite(row[name]):
            cap, place = (0.09, y + aside) if crowded else (0.16, y)
            whisker(axes, place, row, name, sweep, color=dark, width=0.7, cap=cap)
    if math.isfinite(row["centre"]):
        whisker(axes, y, row, "centre", sweep, color=INK, width=1.3, cap=0.0)
        axes.vlines(row["centre"], y - BAR / 2, y + BAR / 2, color=INK, linewidth=2.0, zorder=5)
    return bool(before or after)


def arrow(axes: Axes, y: float, edge: float, sign: int, sweep: tuple[float, float], fill: Any) -> None:
    """A bar that fades as it leaves the sweep, to the left (``sign`` -1) or to the right (1)."""
    length = sign * EDGE * (sweep[1] - sweep[0])
    half, slices = BAR / 2, 12
    for k in range(slices):
        left = edge + length * 0.62 * k / slices
        step = length * 0.62 / slices
        axes.fill(
            [left, left + step, left + step, left],
            [y - half, y - half, y + half, y + half],
            color=fill,
            alpha=0.75 - 0.4 * k / slices,
            linewidth=0,
            zorder=2,
        )
    neck, tip = edge + length * 0.62, edge + length * 0.97
    axes.fill([neck, tip, neck], [y - half, y, y + half], color=fill, alpha=0.35, linewidth=0, zorder=2)


def whisker(
    axes: Axes,
    y: float,
    row: dict[Any, Any],
    name: str,
    sweep: tuple[float, float],
    *,
    color: Any,
    width: float,
    cap: float,
) -> None:
    """A 95 % interval as a line; where it runs out of the sweep, it ends in a small arrow head."""
    bounds = (float(row[f"{name}_low"]), float(row[f"{name}_high"]))
    if math.isnan(bounds[0]) or math.isnan(bounds[1]):
        return
    ends = np.clip(bounds, *sweep)
    axes.plot(ends, [y, y], color=color, linewidth=width, zorder=4, solid_capstyle="butt")
    for bound, end, marker in zip(bounds, ends, (4, 5), strict=True):  # CARETLEFT, CARETRIGHT
        if bound != end:
            out = end + math.copysign(EDGE / 2 * (sweep[1] - sweep[0]), bound - end)
            axes.plot([end, out], [y, y], color=color, linewidth=width, zorder=4)
            axes.plot(out, y, marker=marker, color=color, markersize=4, markeredgewidth=0, zorder=4)
        elif cap:
            axes.vlines(end, y - cap, y + cap, color=color, linewidth=width, zorder=4)


def _centre(row: dict[Any, Any], low: float, high: float) -> str:
    if not math.isfinite(row["centre"]):
        return f"before {number(low, 1)}" if row["centre"] < 0 else f"after {number(high, 1)}"
    bounds = f"{number(row['centre_low'])}, {number(row['centre_high'])}"
    return f"{number(row['centre'])}  ({bounds})"


def _column(axes: Axes, y: float, text: str, color: str) -> None:
    place = axes.get_yaxis_transform()
    axes.text(1.012, y, text, transform=place, va="center", size=6.8, color=color)


def _header(figure: Figure, height: float, names: dict[str, str], open_end: bool) -> None:
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    figure.text(0.012, 1 - 0.1 / height, "When each feature is decided", size=10, weight="bold", va="top")
    if open_end:
        note = "fading arrow: the window runs out of the range measured"
        figure.text(0.012, 1 - 0.51 / height, note, size=6.8, color=MUTED, va="top")
    words: list[Artist] = [
        TextArea(name, textprops={"color": mix(color, "black", 0.25), "size": 8, "weight": "bold"})
        for name, color in names.items()
    ]
    packed = HPacker(children=words, sep=9, pad=0, align="baseline")
    anchored = AnchoredOffsetbox(
        "upper left",
        child=packed,
        frameon=False,
        pad=0,
        borderpad=0,
        bbox_to_anchor=(0.012, 1 - 0.33 / height),
        bbox_transform=figure.transFigure,
    )
    figure.add_artist(anchored)


def _key(figure: Figure, height: float, delta: float) -> None:
    """A bar that names its parts."""
    wide, tall = 2.35, 0.5
    axes = figure.add_axes(
        (1 - (wide + 0.05) / WIDTH, 1 - (tall + 0.06) / height, wide / WIDTH, tall / height)
    )
    axes.set_in_layout(False)
    axes.set_axis_off()
    axes.set_xlim(0, wide)
    axes.set_ylim(-1.35, 1.35)
    row: dict[str, Any] = {"feature": "key"}
    for name, at, spread in (("start", 0.55, 0.1), ("centre", 1.0, 0.13), ("end", 1.6, 0.12)):
        row |= {name: at, f"{name}_low": at - spread, f"{name}_high": at + spread}
    _bar(axes, 0, row, (0.0, wide), MUTED)
    small: dict[str, Any] = {"size": 6.5, "color": MUTED, "ha": "center"}
    axes.text(0.55, 0.5, "begins", va="bottom", **small)
    axes.text(1.0, 0.5, "half", va="bottom", **small)
    axes.text(0.55, -0.5, f"r = {delta:g}", va="top", **small)
    axes.text(1.0, -0.5, "r = ½", va="top", **small)
    axes.text(1.6, 0.5, "decided", va="bottom", **small)
    axes.text(1.6, -0.5, f"r = {1 - delta:g}", va="top", **small)
    del small["ha"]
    axes.text(1.8, 0, "lines: 95 %", va="center", **small)
