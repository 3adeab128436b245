"""The images themselves: what a U-turn through more and more noise does to a few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from .style import INK, MUTED, PALETTE, WIDTH, brief, number, style
from .thumbnails import check_images, evenly, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

REPLICATE = 0  # the one shown
PIXELS = 64  # of a larger image's longer side, so that a report stays small


def image_grid(
    start: np.ndarray,
    images: np.ndarray,
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    rows: int = 8,
    labels: Sequence[Any] | np.ndarray | None = None,
    seen: np.ndarray | None = None,
    called: tuple[str, str] = ("start", "U-turns"),
) -> Figure:
    """Starting images and their U-turns, one row per image, noise growing to the right.

    The reader should see details change first and the class last: an image whose class is no longer
    that of its start has a vermillion frame.

    Parameters
    ----------
    start : array (N, C, H, W)
        Starting images in [-1, 1]; 1 channel is drawn grey, 3 in colour, of others the mean.
    images : array (N, R, T, C, H, W)
        Their U-turns; the first replicate is drawn.
    times : T floats
        ``t`` of each U-turn.
    schedule : Schedule
        For the log-SNR in the column heads.
    rows : int
        How many starting images to draw.
    labels : N classes, optional
        The class of each starting image.
    seen : array (N, R, T), optional
        The class of each U-turn.
    called : two strings
        What the starts and what came back are called; for clones, ``("trunk", "clones")``.

    Raises
    ------
    TurningpointError
        If the data are not images, or the shapes do not fit together.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    start, images = np.asarray(start), np.asarray(images)
    check_images(start, images, times)
    table = grid_table(times, schedule, min(rows, len(start)), labels, seen)
    columns = evenly(times)
    n, m = min(rows, len(start)), len(columns)
    cells = {(i, -1): thumbnail(start[i], PIXELS) for i in range(n)}
    cells |= {
        (i, k): thumbnail(images[i, REPLICATE, c], PIXELS) for i in range(n) for k, c in enumerate(columns)
    }
    height, width = cells[0, -1].shape[:2]
    gap = max(1, round(0.08 * width))
    lead = 3 * gap  # between the starts and their U-turns
    canvas = np.full((n * (height + gap) - gap, (m + 1) * (width + gap) - gap + lead, 3), 255, np.uint8)

    def corner(i: int, k: int) -> tuple[int, int]:
        return i * (height + gap), (k + 1) * (width + gap) + (lead if k >= 0 else 0)

    for (i, k), pixels in cells.items():
        top, left = corner(i, k)
        canvas[top : top + height, left : left + width] = pixels
    names = [] if labels is None else [brief(labels[i], 18) for i in range(n)]
    side = 0.12 + (0.07 * max(5, *map(len, names)) if names else 0.0)  # inches, for the names
    head, foot = 0.62, 0.28 if names and seen is not None else 0.08
    unit = min(WIDTH - side - 0.1, 0.62 * canvas.shape[1] / width) / canvas.shape[1]  # inches per pixel
    wide, tall = canvas.shape[1] * unit, canvas.shape[0] * unit
    words = side + corner(0, 0)[1] * unit + 2.8
    size = (max(wide + side + 0.1, words), tall + head + foot)
    with style():
        figure = Figure(figsize=size)
        axes = figure.add_axes((side / size[0], foot / size[1], wide / size[0], tall / size[1]))
        extent = (0, canvas.shape[1], canvas.shape[0], 0)
        axes.imshow(canvas, interpolation="none", extent=extent, aspect="auto")
        axes.set_axis_off()
        points = 72 * unit  # per pixel
        small = min(7.0, 0.23 * (width + gap) * points)
        up = 4 / points
        axes.text(width / 2, -up, called[0], ha="center", va="bottom", size=small, weight="bold")
        for k, c in enumerate(columns):
            t = float(times[c])
            x = corner(0, k)[1] + width / 2
            level = number(float(schedule.logsnr(t)), 1)
            axes.text(x, -up - 1.35 * small / points, f"{t:.2f}", ha="center", va="bottom", size=small)
            axes.text(x, -up, level, ha="center", va="bottom", size=small, color=MUTED)
        x = corner(0, 0)[1] - gap / 2 - lead / 2
        axes.text(x, -up - 1.35 * small / points, "t", ha="center", va="bottom", size=small)
        axes.text(x, -up, "λ", ha="center", va="bottom", size=small, color=MUTED)
        note = f"{called[1]} through more and more noise ⟶"
        left = corner(0, 0)[1]
        axes.text(left, -up - 3.0 * small / points, note, va="bottom", size=7.5, color=INK)
        if names:
            axes.text(-up, -up, "class", ha="right", va="bottom", size=small, color=MUTED)
        for i, name in enumerate(names):
            axes.text(-up, corner(i, 0)[0] + height / 2, name, ha="right", va="center", size=7)
        if names and seen is not None:
            note = f"framed: read as another class than its {called[0]}"
            color = PALETTE["vermillion"]
            axes.text(left, canvas.shape[0] + up, note, va="top", size=7.5, color=color)
        for row in table[table["changed"]].to_dict("records"):
            top, left = corner(int(row["item"]), int(row["column"]))
            frame = Rectangle((left, top), width, height, fill=False, clip_on=False)
            frame.set(edgecolor=PALETTE["vermillion"], linewidth=1.4)
            axes.add_patch(frame)
    return figure


def grid_table(
    times: Sequence[float] | np.ndarray,
    schedule: Schedule,
    rows: int,
    labels: Sequence[Any] | np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> pd.DataFrame:
    """What `image_grid` shows, one row per U-turn drawn.

    ``item``, ``column``, ``t``, ``logsnr``, ``replicate``, ``class_start``, ``class_seen`` (empty where
    classes were not read) and ``changed``.
    """
    cells = []
    for i in range(rows):
        for k, c in enumerate(evenly(times)):
            t = float(times[c])
            first = None if labels is None else labels[i]
            now = None if seen is None else np.asarray(seen)[i, REPLICATE, c]
            changed = labels is not None and seen is not None and bool(first != now)
            where = {"item": i, "column": k, "t": t, "logsnr": float(schedule.logsnr(t))}
            read = {"class_start": first, "class_seen": now, "changed": changed}
            cells.append({**where, "replicate": REPLICATE, **read})
    return pd.DataFrame(cells)
