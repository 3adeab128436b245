"""Small images and the colours of what is seen in them, alike in every picture that shows both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .style import INK, MUTED, PALETTE, brief, inches_wide, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 12
"""Times shown at most, evenly chosen if there are more."""

UNSEEN = -1
"""In place of a category where none was read."""

COLORS = (*PALETTE.values(), "#332288", "#999933", "#882255")
"""Of categories: the palette, then three of Tol's muted colours; further categories share `OTHER`."""

OTHER = "#9a9a9a"

SIZE, LINE = 7.0, 0.16
"""Of a legend: points of its letters, inches from line to line."""

RIM = 0.018
"""Inches of white between a thumbnail and its frame, so that a dark frame is seen around a dark image."""

_TERMS = {
    "black": "#000000",
    "white": "#cfcfcf",
    "grey": "#8a8a8a",
    "gray": "#8a8a8a",
    "red": "#d62728",
    "green": "#009E73",
    "blue": "#0072B2",
    "yellow": "#f0d000",
    "orange": "#E69F00",
    "brown": "#8c510a",
    "purple": "#7b3294",
    "pink": "#f48fb1",
}


def thumbnail(image: np.ndarray, longest: int) -> np.ndarray:
    """One image as bytes (h, w, 3), shrunk if a side is longer than ``longest`` pixels.

    Parameters
    ----------
    image : array (C, H, W) in [-1, 1]
        1 channel is drawn grey, 3 in colour, of others the mean.
    longest : int
        So that a page of many images stays small.

    Examples
    --------
    >>> thumbnail(np.zeros((1, 200, 100)), 64).shape
    (64, 32, 3)
    """
    from PIL import Image

    image = np.nan_to_num(image.astype(np.float32), nan=-1.0)
    if image.shape[0] not in (1, 3):
        image = image.mean(axis=0, keepdims=True)
    levels = ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    pixels = np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)
    shrink = longest / max(pixels.shape[:2])
    if shrink >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink)))
    resized: np.ndarray = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return resized


def spaced(size: float) -> float:
    """Inches from one thumbnail of a size to the next, with room for both frames."""
    return size + max(0.16 * size, 0.085)


def evenly(times: Sequence[float] | np.ndarray, most: int = COLUMNS) -> list[int]:
    """Places of at most ``most`` times, evenly chosen, from small to large noise.

    >>> evenly([0.9, 0.1, 0.5], 2)
    [1, 0]
    """
    ranked = np.argsort(np.asarray(times, float), kind="stable")
    picked = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int)
    return [int(place) for place in ranked[picked]]


def check_images(start: np.ndarray, images: np.ndarray, times: Sequence[float] | np.ndarray) -> None:
    """Raise unless these are starting images (N, C, H, W) with what came back of each, (N, R, T, C, H, W)."""
    if start.ndim != 4 or images.ndim != 6:
        raise TurningpointError(
            f"start and images have shapes {start.shape} and {images.shape}; "
            "accepted: (N, C, H, W) and (N, R, T, C, H, W)."
        )
    if images.shape[0] != len(start) or images.shape[2] != len(times):
        raise TurningpointError(
            f"images has shape {images.shape}; accepted: {len(start)} items (those of start) "
            f"and {len(times)} times."
        )


def category_name(value: Any, names: Sequence[str] = ()) -> str:
    """What a category is called: its name if it has one, else its number; nothing where none was read.

    >>> category_name(1, ("red", "blue")), category_name(7), category_name(-1)
    ('blue', '7', '')
    """
    if value is None or not np.isfinite(value) or value == UNSEEN:
        return ""
    place = int(value)
    return str(names[place]) if 0 <= place < len(names) else str(place)


def category_colors(values: np.ndarray, names: Sequence[str] = ()) -> dict[int, str]:
    """A colour for every category that occurs, the most frequent first.

    A category named by a basic colour term has that colour if all are; of up to ten known categories each keeps
    its colour in every picture; otherwise the ten most frequent have one and the others are grey.

    Parameters
    ----------
    values : array of int
        Categories in any shape; NaN and `UNSEEN` are passed over.
    names : sequence of str
        Of the categories 0, 1, ...

    Examples
    --------
    >>> category_colors(np.array([1, 1, 0]), ("blue", "red"))
    {1: '#d62728', 0: '#0072B2'}
    """
    flat = np.asarray(values, float).ravel()
    found, counts = np.unique(flat[np.isfinite(flat) & (flat != UNSEEN)].astype(int), return_counts=True)
    ranked = [int(value) for value in found[np.argsort(-counts, kind="stable")]]
    terms = [_TERMS.get(name.strip().lower()) for name in names]
    if terms and all(terms) and len(set(terms)) == len(terms) and max(ranked, default=0) < len(terms):
        return {value: str(terms[value]) for value in ranked}
    if max([len(names) - 1, *ranked]) < len(COLORS):
        return {value: COLORS[value] for value in ranked}
    return {value: COLORS[k] if k < len(COLORS) else OTHER for k, value in enumerate(ranked)}


def legend_entries(
    colors: dict[int, str], names: Sequence[str] = (), width: int = 24
) -> list[tuple[str, str]]:
    """Name and colour of every category, those without a colour of their own as one.

    >>> legend_entries({3: "#000000", 1: OTHER, 2: OTHER})
    [('3', '#000000'), ('2 others', '#9a9a9a')]
    """
    own = sorted(value for value, color in colors.items() if color != OTHER)
    entries = [(brief(category_name(value, names), width), colors[value]) for value in own]
    others = len(colors) - len(own)
    return entries + [(f"{others} other{'s' * (others != 1)}", OTHER)] * (others > 0)


@dataclass(frozen=True)
class Legend:
    """Frames with their names, laid out in lines that end before ``right``.

    Attributes
    ----------
    title : str
    entries : tuple of (float, int, str, str)
        Inches from the left of the page, line, name and colour of each.
    lines : int
        How many there are; none without entries.
    """

    title: str
    entries: tuple[tuple[float, int, str, str], ...]
    lines: int

    @property
    def height(self) -> float:
        """Inches from the middle of the first line to the middle of the last."""
        return LINE * max(self.lines - 1, 0)

    def write(self, axes: Axes, x: float, y: float) -> None:
        """Write it into axes whose unit is an inch, y downwards; ``y`` is the middle of the first line."""
        if not self.entries:
            return
        axes.text(x, y, self.title, size=SIZE, color=MUTED, va="center")
        for at, line, name, color in self.entries:
            here = y + LINE * line
            axes.plot([at], [here], "s", markersize=5, mfc="none", mec=color, mew=1.5, clip_on=False)
            axes.text(at + 0.08, here, name, size=SIZE, color=INK, va="center")


def legend(entries: Sequence[tuple[str, str]], feature: str, x: float, right: float) -> Legend:
    """Lay out a legend between ``x`` and ``right``, in inches: entries stand beside its title, or else below it.

    >>> legend([("red", "#d62728"), ("a city by the sea", "#0072B2")], "color", 0.3, 2.0).lines
    2
    """
    title = f"{brief(feature, 24)} seen:"
    wide = [0.12 + inches_wide(name, SIZE) for name, _ in entries]
    left, line = x + inches_wide(title, SIZE) + 0.2, 0
    if entries and left + max(wide) > right:
        left, line = x + 0.06, 1
    at = left
    placed = []
    for (name, color), w in zip(entries, wide, strict=True):
        if at + w > right and at > left:
            at, line = left, line + 1
        placed.append((at, line, name, color))
        at += w + 0.18
    return Legend(title, tuple(placed), line + 1 if entries else 0)


def place(axes: Axes, pixels: np.ndarray, box: tuple[float, float, float, float], color: str | None) -> None:
    """Lay a thumbnail into axes whose unit is an inch, y downwards: ``box`` is left, top, width, height."""
    from matplotlib.patches import Rectangle

    left, top, width, height = box
    extent = (left, left + width, top + height, top)
    axes.imshow(pixels, interpolation="none", extent=extent, aspect="auto", zorder=4)
    if color is not None:
        corner = left - RIM, top - RIM
        frame = Rectangle(corner, width + 2 * RIM, height + 2 * RIM, fill=False, clip_on=False, zorder=5)
        frame.set(edgecolor=color, linewidth=1.5)
        axes.add_patch(frame)


def heads(
    axes: Axes, centres: Sequence[float], times: Sequence[float], y: float, schedule: Schedule, size: float
) -> None:
    """Over every column its t and, below that, its log-SNR; ``y`` is where the columns begin, in inches."""
    line = 1.3 * size / 72
    for x, t in zip(centres, times, strict=True):
        axes.text(x, y - 0.05 - line, f"{t:.2f}", ha="center", va="bottom", size=size)
        level = number(float(schedule.logsnr(t)), 1)
        axes.text(x, y - 0.05, level, ha="center", va="bottom", size=size, color=MUTED)


def inches(figure: Any) -> Axes:
    """Axes over the whole figure whose unit is an inch, y downwards, without a frame."""
    wide, tall = figure.get_size_inches()
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, wide)
    axes.set_ylim(tall, 0)
    axes.set_autoscale_on(False)
    return axes
