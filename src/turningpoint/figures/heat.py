"""What maps with a row per layer share: colours, rows' names, edges of cells, a panel's title with its colour bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import INK, MUTED, PALETTE, fitted, inches_wide, mix

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

ROW, LEAST, MOST = (0.115, 0.2), 0.5, 3.6
"""Inches: of a row, at least (or its name is not legible) and at most; of all rows."""
SIZE, LETTERS = 6.5, 24
"""Points and letters of a row's name."""
BAR = 0.5
"""Inches: of a colour bar."""
MISSING = "#dddddd"


def tall(rows: int) -> float:
    """Inches that so many rows take.

    >>> tall(1), tall(10), tall(100)
    (0.5, 2.0, 3.6)
    """
    return float(np.clip(rows * np.clip(3.0 / rows, *ROW), LEAST, MOST))


def diverging() -> Colormap:
    """Blue for negative, white for none, vermillion for positive; grey for nothing known."""
    from matplotlib.colors import LinearSegmentedColormap

    blue, red = PALETTE["blue"], PALETTE["vermillion"]
    colors = [mix(blue, "black", 0.25), mix(blue, "white", 0.35), (1.0, 1.0, 1.0)]
    colors += [mix(red, "white", 0.35), mix(red, "black", 0.25)]
    return LinearSegmentedColormap.from_list("diverging", colors).with_extremes(bad=MISSING)


def brief_layer(name: str, width: int = LETTERS) -> str:
    """A layer's name; of a long one the words are cut, since layers differ in their numbers.

    >>> brief_layer("up_blocks.1.attentions.0.transformer_blocks.2")
    'up_bl.1.atten.0.trans.2'
    """
    kept = max(map(len, name.split(".")), default=0)
    cut = name
    while len(cut) > width and kept > 1:
        kept -= 1
        cut = ".".join(part if part.isdigit() else part[:kept] for part in name.split("."))
    return tail(cut, width)


def tail(name: str, width: int = LETTERS) -> str:
    """A name, or the end of one that is too long.

    >>> tail("runs/digits/with_the_word_red", 12)
    '…he_word_red'
    """
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def named_rows(rows: int, height: float, least: float = ROW[0]) -> list[int]:
    """Which of so many rows in so many inches are named so that names do not touch, the first and the last among them.

    >>> named_rows(5, 1.0), named_rows(9, 0.6)
    ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])
    """
    every = max(1, math.ceil(least * rows / height - 1e-6))
    places = list(range(0, rows, every))
    if places[-1] != rows - 1:
        places = [place for place in places if rows - 1 - place >= every] + [rows - 1]
    return places


def edges(levels: np.ndarray) -> np.ndarray:
    """Between the noise levels, and half a step beyond the outer ones.

    >>> edges(np.array([0.0, 2.0, 3.0])).tolist()
    [-1.0, 1.0, 2.5, 3.5]
    """
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[2 * levels[0] - middle[0]], middle, [2 * levels[-1] - middle[-1]]])


def title_line(
    figure: Figure,
    place: tuple[float, float, float],
    norm: Normalize,
    shades: Colormap,
    says: str,
    note: str = "",
) -> None:
    """A panel's name at the left of a line and its colour bar at the right; ``place``: left, up, width in inches."""
    from matplotlib.cm import ScalarMappable

    x, y, wide = place
    across, up = figure.get_size_inches()
    low, high = (short(float(end)) for end in (norm.vmin or 0.0, norm.vmax or 0.0))
    right = x + wide - inches_wide(high, 6) - 0.04
    begins = right - BAR - inches_wide(low, 6) - 0.04
    bar = figure.add_axes(((right - BAR) / across, (y + 0.015) / up, BAR / across, 0.075 / up))
    figure.colorbar(ScalarMappable(norm, shades), cax=bar, orientation="horizontal")
    bar.set_axis_off()
    small: dict[str, Any] = {"size": 6, "color": MUTED, "va": "baseline"}
    figure.text(begins / across, (y + 0.02) / up, low, ha="left", **small)
    figure.text((right + 0.04) / across, (y + 0.02) / up, high, ha="left", **small)
    title = fitted(says, begins - x - 0.05, 8.5)
    figure.text(x / across, (y + 0.01) / up, title, size=8, weight="bold", color=INK, va="baseline")
    after = x + inches_wide(title, 8, "bold") + 0.06
    if after + inches_wide(note, 6) < begins - 0.05:
        figure.text(after / across, (y + 0.015) / up, note, ha="left", **small)


def short(value: float) -> str:
    """A number in five characters or so.

    >>> [short(value) for value in (1234.5, 12.34, 0.01234, 0.0000321, float("nan"), -0.5)]
    ['1234', '12.3', '0.012', '3e-05', '–', '−0.5']
    """
    if math.isnan(value):
        return "–"
    size = abs(value)
    if size < 1e-9:
        return "0"
    plain = 0.001 <= size < 99999.5
    text = (
        f"{value:.0f}"
        if 100 <= size < 99999.5
        else f"{value:.{3 if size >= 1 else 2}g}"
        if plain
        else f"{value:.0e}"
    )
    return text.replace("-", "−", 1) if text.startswith("-") else text
