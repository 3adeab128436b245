"""Images that differ in one thing only, one below the other, and their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .heat import diverging, short
from .style import FAINT, MUTED, WIDTH, inches_wide, number, style
from .thumbnails import inches, place, spaced, thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12
"""Columns."""
PIXELS = 112
"""Of a larger image's longer side."""
LARGEST, MARGIN, NAMES, HEAD, FOOT = 0.62, 0.08, 1.3, 0.24, 0.4
"""Inches: an image's longer side, the figure's edge, room for rows' names at most, and above and below the images."""
FAINTEST = 0.1
"""A difference of so many units of the range [-1, 1] has full colour at the least."""


def pairs(variants: Mapping[str, np.ndarray], items: Sequence[int]) -> Figure:
    """A column per item: its variants, and below them how the second differs from the first.

    The reader should see at a glance whether the change has made other images or the same ones a little otherwise.
    Below each column stands its distance, see `pairs_table`.

    Parameters
    ----------
    variants : mapping of name to array (N, C, H, W)
        Two or more, in [-1, 1]; 1 channel is drawn grey, 3 in colour, of others the mean.
    items : sequence of N int
        The items' numbers in the run.

    Raises
    ------
    TurningpointError
        If there are fewer than two variants, they are no images, or their shapes differ.
    """
    from matplotlib.figure import Figure

    table = pairs_table(variants, items)
    names = list(variants)
    n, size = len(table), next(iter(variants.values())).shape[2:]
    first, second = (np.asarray(variants[name], dtype=float)[:n] for name in names[:2])
    apart = (second - first).mean(1)
    known = np.abs(apart[np.isfinite(apart)])
    reach = max(FAINTEST, float(np.quantile(known, 0.99)) if len(known) else FAINTEST)
    shades = diverging()
    rows = [*names, "difference", "distance"]
    side = max(inches_wide(_named(name), 7) for name in rows) + 0.1
    room = (WIDTH - side - 2 * MARGIN) / max(n, 6)
    longest = min(LARGEST, room / 1.16, room - 0.085)  # see `spaced`
    width, height = (longest * pixels / max(size) for pixels in (size[1], size[0]))
    step, fall = spaced(width), spaced(height)
    across = max(2 * MARGIN + side + step * n, 3.4)
    down = HEAD + fall * (len(names) + 1) + FOOT
    with style():
        figure = Figure(figsize=(across, down))
        axes = inches(figure)
        for k, row in enumerate(table.to_dict("records")):
            left = MARGIN + side + k * step
            middle = left + width / 2
            axes.text(middle, HEAD - 0.06, str(row["item"]), ha="center", va="bottom", size=6.5, color=MUTED)
            for r, name in enumerate(names):
                pixels = thumbnail(np.asarray(variants[name][k]), PIXELS)
                place(axes, pixels, (left, HEAD + r * fall, width, height), None)
            colors = shades(np.ma.masked_invalid(0.5 + 0.5 * np.clip(apart[k] / reach, -1, 1)))
            box = (left, HEAD + len(names) * fall, width, height)
            place(axes, (255 * colors[..., :3]).round().astype(np.uint8), box, FAINT)
            below = HEAD + (len(names) + 1) * fall
            axes.text(middle, below, short(float(row["share"])), ha="center", va="top", size=6.5)
        for r, name in enumerate(rows[:-1]):
            y = HEAD + r * fall + height / 2
            axes.text(MARGIN + side - 0.09, y, _named(name), ha="right", va="center", size=7)
        axes.text(MARGIN + side - 0.09, HEAD - 0.06, "item", ha="right", va="bottom", size=6.5, color=MUTED)
        below = HEAD + (len(names) + 1) * fall
        axes.text(MARGIN + side - 0.09, below, "distance", ha="right", va="top", size=7)
        note = f"difference: blue darker, vermillion brighter, full colour at ±{number(reach, 1)} of [−1, 1]"
        axes.text(MARGIN + side, down - MARGIN, note, ha="left", va="bottom", size=6.5, color=MUTED)
    return figure


def pairs_table(variants: Mapping[str, np.ndarray], items: Sequence[int]) -> pd.DataFrame:
    """What `pairs` shows: how far the second variant of each item is from the first.

    Returns
    -------
    DataFrame
        ``item``; ``distance``, the root mean square over pixels and channels, in units of the range [-1, 1]; and
        ``share``, the distance over the median one between first variants of the items shown: 1 is as far as another
        image.  NaN for a single item.

    Raises
    ------
    TurningpointError
        If there are fewer than two variants, they are no images, or their shapes differ.

    Examples
    --------
    >>> clean = np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1) * np.ones((1, 1, 4, 4))
    >>> pairs_table({"clean": clean, "changed": clean + 0.5}, [0, 1, 2]).share.tolist()
    [0.5, 0.5, 0.5]
    """
    shapes = [np.shape(images) for images in variants.values()]
    if (
        len(shapes) < 2
        or len(set(shapes)) > 1
        or len(shapes[0]) != 4
        or len(items) != shapes[0][0]
        or not len(items)
    ):
        raise TurningpointError(
            f"variants have shapes {', '.join(map(str, shapes)) or 'none'} for {len(items)} items; accepted: two or "
            "more of the same (N, C, H, W)."
        )
    n = min(len(items), MOST)
    first, second = (
        np.asarray(images, dtype=float)[:n].reshape(n, -1) for images in list(variants.values())[:2]
    )
    distance = np.sqrt(((second - first) ** 2).mean(1))
    others = [float(np.sqrt(((first[i] - first[j]) ** 2).mean())) for i in range(n) for j in range(i)]
    strangers = float(np.median(others)) if others else np.nan
    share = distance / strangers if strangers > 0 else np.full(n, np.nan)
    return pd.DataFrame({"item": [int(item) for item in items[:n]], "distance": distance, "share": share})


def _named(name: str) -> str:
    """A variant's name, or the end of one that is too long: that is where runs' names differ."""
    line = " ".join(name.split())
    kept = line
    while inches_wide(kept, 7) > NAMES and len(line) > 1:
        line = line[1:]
        kept = f"…{line}"
    return kept
