"""One starting image in many copies: what comes back, time by time and copy by copy, and what is seen in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .style import FAINT, INK, MUTED, WIDTH, fitted, style
from .thumbnails import (
    UNSEEN,
    category_colors,
    category_name,
    check_images,
    evenly,
    heads,
    inches,
    legend,
    legend_entries,
    place,
    spaced,
    thumbnail,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPIES = 6
"""Copies shown at most, the first ones."""
PIXELS = 112
"""Of a larger image's longer side."""
LARGEST, MARGIN, LEAD = 0.85, 0.1, 0.42
"""Inches: a thumbnail's width, the figure's edge, and the room between the start and what came back."""


def storyboard(
    start: np.ndarray,
    images: np.ndarray,
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    own: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    names: Sequence[str] = (),
    feature: str = "class",
    called: tuple[str, str] = ("start", "U-turns"),
) -> Figure:
    """For every starting image a block: columns are times, noise growing to the right, rows are copies.

    The reader should see the copies agree with the start on the left, part from one another as the noise grows,
    and the frames take other colours where the feature is decided anew.

    Parameters
    ----------
    start : array (N, C, H, W)
        Starting images in [-1, 1], all of which are drawn; 1 channel is drawn grey, 3 in colour.
    images : array (N, R, T, C, H, W)
        What came back; at most `COPIES` copies and `thumbnails.COLUMNS` times are drawn.
    times : T floats
        ``t`` of each.
    schedule : Schedule
        For the log-SNR in the column heads.
    own : array (N,), optional
        What a categorical reading sees in the starting images.
    seen : array (N, R, T), optional
        What it sees in the images; NaN or `thumbnails.UNSEEN` where it has read nothing.
    names : sequence of str
        Of the categories 0, 1, ...
    feature : str
        What the reading is called.
    called : two strings
        What the starts and what came back are called; for clones, ``("trunk", "clones")``.

    Raises
    ------
    TurningpointError
        If the data are not images, or the shapes do not fit together.
    """
    from matplotlib.figure import Figure

    start, images = np.asarray(start), np.asarray(images)
    check_images(start, images, times)
    own, seen = checked_categories(own, seen, images.shape[:3])
    columns = evenly(times)
    copies = min(images.shape[1], COPIES)
    colors = category_colors(np.concatenate([own, seen[:, :copies, columns].ravel()]), names)
    first, width, height = _sizes(images.shape, copies, len(columns))
    step, fall = spaced(width), spaced(height)
    block = copies * fall - (fall - height)
    head, gap = 0.62, 0.26
    entries = legend_entries(colors, names)
    left = MARGIN + first + LEAD
    wide = max(left + step * len(columns), 4.6)
    key, indent, drop = legend(entries, feature, left, wide - MARGIN), left, 0.2
    if key.lines > 2:  # fewer if they begin below the start
        key, indent, drop = legend(entries, feature, MARGIN, wide - MARGIN), MARGIN, 0.34
    foot = drop + 0.14 + key.height if entries else MARGIN
    tall = head + len(start) * block + (len(start) - 1) * gap + foot
    with style():
        figure = Figure(figsize=(wide, tall))
        axes = inches(figure)
        centres = [left + k * step + width / 2 for k in range(len(columns))]
        size = min(7.0, 19 * step)
        heads(axes, centres, [float(times[c]) for c in columns], head, schedule, size)
        axes.text(left - 0.09, head - 0.05 - 1.3 * size / 72, "t", ha="right", va="bottom", size=size)
        axes.text(left - 0.09, head - 0.05, "λ", ha="right", va="bottom", size=size, color=MUTED)
        title = f"{called[1]}, from little noise to much ⟶"
        axes.text(left, head - 0.16 - 2.7 * size / 72, title, va="bottom", size=7.5, color=INK)
        axes.text(
            MARGIN + first / 2, head - 0.05, called[0], ha="center", va="bottom", size=size, weight="bold"
        )
        for i in range(len(start)):
            top = head + i * (block + gap)
            if i:
                axes.plot([MARGIN, centres[-1] + width / 2], [top - gap / 2] * 2, color=FAINT, linewidth=0.6)
            big = first * height / width
            box = (MARGIN, top + (block - big) / 2, first, big)
            place(axes, thumbnail(start[i], 2 * PIXELS), box, _color(own[i], colors))
            name = fitted(category_name(own[i], names), first + 2 * MARGIN - 0.04, 7)
            axes.text(MARGIN + first / 2, box[1] + big + 0.05, name, ha="center", va="top", size=7)
            for r in range(copies):
                for k, c in enumerate(columns):
                    cell = (left + k * step, top + r * fall, width, height)
                    place(axes, thumbnail(images[i, r, c], PIXELS), cell, _color(seen[i, r, c], colors))
        key.write(axes, indent, tall - foot + drop)
    return figure


def storyboard_table(
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    copies: int,
    items: Sequence[int],
    own: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    names: Sequence[str] = (),
    feature: str = "class",
) -> pd.DataFrame:
    """What `storyboard` shows, one row per image drawn besides the starts.

    ``feature``, ``item`` (its number in the run, from ``items``), ``replicate``, ``column``, ``t``, ``logsnr``,
    ``start`` and ``seen`` (categories by name; empty where none was read) and ``kept`` (empty likewise).
    """
    own, seen = checked_categories(own, seen, (len(items), copies, len(times)))
    rows = []
    for i, item in enumerate(items):
        for r in range(min(copies, COPIES)):
            for column, c in enumerate(evenly(times)):
                t = float(times[c])
                first, now = category_name(own[i], names), category_name(seen[i, r, c], names)
                where = {"feature": feature, "item": int(item), "replicate": r, "column": column, "t": t}
                read = {"start": first, "seen": now, "kept": first == now if first and now else None}
                rows.append({**where, "logsnr": float(schedule.logsnr(t)), **read})
    return pd.DataFrame(rows)


def checked_categories(
    own: np.ndarray | None, seen: np.ndarray | None, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Categories as floats, (N,) and (N, R, T), all `UNSEEN` if none are given.

    Raises
    ------
    TurningpointError
        If only one of the two is given, or their shapes are others.
    """
    if (own is None) != (seen is None):
        raise TurningpointError("only one of own and seen is given; accepted: both, or neither.")
    if own is None or seen is None:
        return np.full(shape[0], UNSEEN, float), np.full(shape, UNSEEN, float)
    own, seen = np.asarray(own, float), np.asarray(seen, float)
    if own.shape != shape[:1] or seen.shape != tuple(shape):
        raise TurningpointError(
            f"own and seen have shapes {own.shape} and {seen.shape}; accepted: {shape[:1]} and {tuple(shape)}."
        )
    return own, seen


def _color(value: float, colors: dict[int, str]) -> str | None:
    """A frame's colour; nothing where no category was read."""
    return colors.get(int(value)) if np.isfinite(value) else None


def _sizes(shape: tuple[int, ...], copies: int, columns: int) -> tuple[float, float, float]:
    """Inches: the start's width, a thumbnail's width and height."""
    ratio = shape[4] / shape[5]
    scale = 1.5 if copies > 1 else 1.0  # of the start
    room = WIDTH - 2 * MARGIN - LEAD
    width = min(LARGEST, room / (scale + 1.16 * columns), (room - 0.085 * columns) / (scale + columns))
    return scale * width, width, width * ratio
