"""Clones as what they are, a tree: one trunk from noise to data, and the branches that part from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from .storyboard import checked_categories
from .style import FAINT, INK, MUTED, WIDTH, brief, clock_name, clocks, direction, fitted, style
from .thumbnails import (
    COLUMNS,
    UNSEEN,
    category_colors,
    category_name,
    check_images,
    evenly,
    inches,
    legend,
    legend_entries,
    place,
    spaced,
    thumbnail,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUNKS, COPIES = 3, 4
"""Trunks and copies drawn at most, the first ones."""
PIXELS = 96
"""Of a larger image's longer side."""
PAGE, SMALLEST, LARGEST = 8.6, 0.28, 0.44
"""Inches: of all rows together, and of a thumbnail's height."""
LEFT, RIGHT, HEAD, FOOT = 0.3, 0.62, 0.5, 0.78
"""Inches around the rows of thumbnails; RIGHT is of the numbers that agree, below them is one line of legend."""
SHADE = 1.75
"""Inches at the right of the legend's first line, for the window's name."""
EDGE = 0.06
"""Of the sweep, drawn on either side of it."""
APART = 0.035
"""Inches between the lines of two copies."""


def tree(
    start: np.ndarray,
    images: np.ndarray,
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    own: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    names: Sequence[str] = (),
    feature: str = "class",
    window: Mapping[Any, Any] | None = None,
) -> Figure:
    """Each trunk as a line from noise to data; below it, from the latest parting to the earliest, its clones.

    The reader should see branches that part late, on the right, end as the trunk does, and branches that part
    before the critical window, shaded, end as anything.  Copies that part at one time run side by side.

    Parameters
    ----------
    start : array (N, C, H, W)
        The trunks' own ends in [-1, 1]; the first `TRUNKS` are drawn.
    images : array (N, R, T, C, H, W)
        The clones' ends; of copies and times as many are drawn as a page holds.
    times : T floats
        ``t`` at which they part.
    schedule : Schedule
        The clock of the axis on top.
    own : array (N,), optional
        What a categorical reading sees in the trunks' ends.
    seen : array (N, R, T), optional
        What it sees in the clones'; NaN or `thumbnails.UNSEEN` where it has read nothing.
    names : sequence of str
        Of the categories 0, 1, ...
    feature : str
        What the reading is called.
    window : mapping, optional
        Its critical window: ``start`` and ``end`` in log-SNR, infinite where open.

    Raises
    ------
    TurningpointError
        If the data are not images, or the shapes do not fit together.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    start, images = np.asarray(start), np.asarray(images)
    check_images(start, images, times)
    own, seen = checked_categories(own, seen, images.shape[:3])
    trunks, copies = min(len(start), TRUNKS), min(images.shape[1], COPIES)
    columns = _partings(times, trunks)
    colors = category_colors(
        np.concatenate([own[:trunks], seen[:trunks, :copies][..., columns].ravel()]), names
    )
    high = float(np.clip(PAGE / (trunks * (len(columns) + 1) * 1.2), SMALLEST, LARGEST))
    wide = high * images.shape[5] / images.shape[4]
    step, fall = spaced(wide), spaced(high)
    right = WIDTH - RIGHT - copies * step
    levels = np.asarray(schedule.logsnr(np.asarray(times, float)[columns]), float)
    sweep = float(levels.min()), float(levels.max())
    margin = EDGE * max(sweep[1] - sweep[0], 1.0)
    block = (len(columns) + 1) * fall
    gap = 0.2
    tall = trunks * block + (trunks - 1) * gap
    shaded = window is not None and math.isfinite(window["centre"])
    entries = legend_entries(colors, names)
    key = legend(entries, feature, LEFT, WIDTH - (SHADE + 0.15 if shaded else 0.1))
    with style():
        foot = FOOT + key.height if entries or shaded else 0.5
        size = WIDTH, HEAD + tall + foot
        figure = Figure(figsize=size)
        clock = figure.add_axes((LEFT / WIDTH, foot / size[1], (right - LEFT) / WIDTH, tall / size[1]))
        _clock(clock, sweep, margin, schedule, window if shaded else None)
        axes = inches(figure)
        scale = (right - LEFT) / (sweep[1] - sweep[0] + 2 * margin)

        def across(level: float) -> float:
            return float(LEFT + (level - sweep[0] + margin) * scale)

        for i in range(trunks):
            top = HEAD + i * (block + gap)
            y = top + high / 2
            color = colors.get(_whole(own[i]), INK)
            axes.plot([LEFT, right], [y, y], color=color, linewidth=2.6, zorder=3)
            place(
                axes, thumbnail(start[i], PIXELS), (right + 0.04, top, wide, high), color if colors else None
            )
            name = f"trunk {brief(category_name(own[i], names), 24)}".strip()
            axes.text(LEFT + 0.03, y - 0.03, name, va="bottom", size=6.5, weight="bold", zorder=6)
            if entries:
                axes.text(WIDTH - 0.08, y, "agree", ha="right", va="center", size=6.5, color=MUTED)
            for row, (c, level) in enumerate(zip(columns, levels, strict=True), start=1):
                shelf = top + row * fall
                x = across(float(level))
                for r in range(copies):
                    shift = (r - (copies - 1) / 2) * APART
                    color = colors.get(_whole(seen[i, r, c]), MUTED)
                    _branch(axes, x - shift, y, right, shelf + high / 2 + shift, color)
                    box = (right + 0.04 + r * step, shelf, wide, high)
                    frame = colors.get(_whole(seen[i, r, c]))
                    place(axes, thumbnail(images[i, r, c], PIXELS), box, frame)
                axes.plot(x, y, "o", color=INK, markersize=2.8, mec="white", mew=0.5, zorder=6)
                note = _agreeing(own[i], seen[i, :copies, c])
                axes.text(
                    WIDTH - 0.08, shelf + high / 2, note, ha="right", va="center", size=6.5, color=MUTED
                )
        base = HEAD + tall + 0.62
        key.write(axes, LEFT, base)
        if shaded:
            axes.add_patch(Rectangle((WIDTH - SHADE, base - 0.05), 0.16, 0.1, color=FAINT, linewidth=0))
            name = fitted(f"window of {feature}", SHADE - 0.3, 7)
            axes.text(WIDTH - SHADE + 0.22, base, name, size=7, color=MUTED, va="center")
    return figure


def tree_table(
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    copies: int,
    items: Sequence[int],
    own: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    names: Sequence[str] = (),
    feature: str = "class",
) -> pd.DataFrame:
    """What `tree` shows, one row per clone drawn, trunk by trunk from the latest parting to the earliest.

    ``feature``, ``item`` (the trunk's number in the run, from ``items``), ``t``, ``logsnr`` (of the parting),
    ``replicate``, ``trunk`` and ``clone`` (categories by name; empty where none was read) and ``kept``.
    """
    own, seen = checked_categories(own, seen, (len(items), copies, len(times)))
    trunks = min(len(items), TRUNKS)
    rows = []
    for i in range(trunks):
        for c in _partings(times, trunks):
            t = float(times[c])
            for r in range(min(copies, COPIES)):
                first, now = category_name(own[i], names), category_name(seen[i, r, c], names)
                where = {
                    "feature": feature,
                    "item": int(items[i]),
                    "t": t,
                    "logsnr": float(schedule.logsnr(t)),
                }
                read = {"trunk": first, "clone": now, "kept": first == now if first and now else None}
                rows.append({**where, "replicate": r, **read})
    return pd.DataFrame(rows)


def _partings(times: Sequence[float] | np.ndarray, trunks: int) -> list[int]:
    """Places of the times for which a page has rows, from the latest parting to the earliest."""
    rows = math.floor(PAGE / (trunks * spaced(SMALLEST))) - 1
    return evenly(times, min(COLUMNS, rows))


def _clock(
    axes: Axes,
    sweep: tuple[float, float],
    margin: float,
    schedule: Schedule,
    window: Mapping[Any, Any] | None,
) -> None:
    """The two clocks, and the window as a shade."""
    axes.set_xlim(sweep[0] - margin, sweep[1] + margin)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    clocks(axes, schedule, sweep)
    axes.set_title(clock_name(schedule), loc="center", size=8, weight="normal", color=MUTED, pad=14)
    direction(axes)
    if window is not None:
        low, high = (float(np.clip(window[edge], *axes.get_xlim())) for edge in ("start", "end"))
        axes.axvspan(low, high, color=FAINT, alpha=0.55, linewidth=0, zorder=0)


def _branch(axes: Axes, x: float, y: float, right: float, level: float, color: str) -> None:
    """A line that leaves the trunk at (x, y), turns, and runs to the right at its own level."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    bend = min(0.1, level - y, right - x)
    points = [(x, y), (x, level - bend), (x, level), (x + bend, level), (right, level)]
    codes = [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO]
    line = PathPatch(Path(points, codes), fill=False, zorder=2)
    line.set(edgecolor=color, linewidth=1.2, capstyle="butt")
    axes.add_patch(line)


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else UNSEEN


def _agreeing(own: float, seen: np.ndarray) -> str:
    """How many copies are seen as the trunk is."""
    read = np.isfinite(seen) & (seen >= 0)
    return f"{int((seen[read] == own).sum())} of {int(read.sum())}" if read.any() and own >= 0 else ""
