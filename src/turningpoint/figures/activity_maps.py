"""Where in the image a denoiser's layers are active: a small map for each layer at a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .heat import MISSING, SIZE, brief_layer
from .style import MUTED, WIDTH, inches_wide, style
from .thumbnails import heads, inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS, LAYERS = 10, 24
"""Columns and rows at most, evenly chosen of more."""
CELL, GAP, HEAD, TALL = (0.26, 0.62), 0.05, 0.62, 8.0
"""Inches: of a map, at least and at most; between maps; above them; of all."""


def activity_maps(maps: np.ndarray, logsnr: np.ndarray, layers: Sequence[str], schedule: Schedule) -> Figure:
    """A row of maps per layer, from noise (left) to data (right).

    The reader should see where a layer is at work, and from which step on: at the object, at its border, everywhere.
    How much it is at work is told by `turningpoint.figures.activity`: each map is divided by its mean, so that a flat
    one is of one grey.  The greys of a row run from its least share (black) to its largest (white).

    Parameters
    ----------
    maps : array (T, L, m, m)
        Means over items, 0 or more, in generation order; NaN where a layer has no map.
    logsnr : array (T,)
    layers : sequence of L str
        In the network's order.
    schedule : Schedule
        For the times in the heads of columns.

    Raises
    ------
    TurningpointError
        If the shapes do not fit together, or no layer has a map at a finite log-SNR.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows, columns = _chosen(maps, logsnr, layers)
    left = 0.16 + max(inches_wide(brief_layer(layers[row]), SIZE) for row in rows)
    cell = float(np.clip(min((WIDTH - left - 0.1) / len(columns), TALL / len(rows)) - GAP, *CELL))
    side = cell + GAP
    right = left + side * len(columns) + 0.1
    note = f"{len(rows)} of {np.shape(maps)[1]} layers" if len(rows) < np.shape(maps)[1] else ""
    words = "share of a map's mean: black the least of a row, white the largest"
    size = (max(right, left + inches_wide(words, 7) + 0.1), HEAD + side * len(rows) + 0.06)
    shades = matplotlib.colormaps["gray"].with_extremes(bad=MISSING)
    with style():
        figure = Figure(figsize=size)
        axes = inches(figure)
        axes.text(left, 0.13, words, size=7, color=MUTED, va="center")
        centres = [left + side * k + cell / 2 for k in range(len(columns))]
        times = [float(schedule.t(logsnr=float(logsnr[column]))) for column in columns]
        heads(axes, centres, times, HEAD, schedule, 6.5)
        axes.text(left - 0.08, HEAD - 0.05 - 1.3 * 6.5 / 72, "t", ha="right", va="bottom", size=6.5)
        axes.text(left - 0.08, HEAD - 0.05, "log-SNR", ha="right", va="bottom", size=6.5, color=MUTED)
        for k, row in enumerate(rows):
            top = HEAD + side * k
            own = _shares(np.asarray(maps, float)[columns, row])
            low, high = np.nanmin(own), np.nanmax(own)
            for x, pixels in zip(centres, own, strict=True):
                grey = np.ma.masked_invalid((pixels - low) / (high - low if high > low else 1.0))
                extent = (x - cell / 2, x + cell / 2, top + cell, top)
                axes.imshow(shades(grey), interpolation="none", extent=extent, aspect="auto")
            name = brief_layer(layers[row])
            axes.text(left - 0.08, top + cell / 2, name, ha="right", va="center", size=SIZE)
        if note:
            axes.text(0.08, 0.13, note, size=7, color=MUTED, va="center")
    return figure


def activity_maps_table(maps: np.ndarray, logsnr: np.ndarray, layers: Sequence[str]) -> pd.DataFrame:
    """What `activity_maps` shows, a row per cell: ``place``, ``layer``, ``step``, ``logsnr``, ``y``, ``x``, ``value``,
    ``share`` of the map's mean.

    >>> activity_maps_table(np.ones((1, 1, 2, 2)), np.zeros(1), ["mid"]).shape
    (4, 8)
    """
    rows, columns = _chosen(maps, logsnr, layers)
    shown = np.asarray(maps, float)[np.ix_(columns, rows)].swapaxes(0, 1)
    k, s, y, x = np.indices(shown.shape).reshape(4, -1)
    place, step = np.array(rows)[k], np.array(columns)[s]
    return pd.DataFrame(
        {
            "place": place,
            "layer": np.array(list(layers), object)[place],
            "step": step,
            "logsnr": np.asarray(logsnr, float)[step],
            "y": y,
            "x": x,
            "value": shown.ravel(),
            "share": _shares(shown).ravel(),
        }
    )


def _shares(maps: np.ndarray) -> np.ndarray:
    """Maps (..., m, m) divided by their means."""
    mean = maps.mean((-2, -1), keepdims=True)
    return maps / np.where(mean > 0, mean, 1.0)


def _chosen(maps: np.ndarray, logsnr: np.ndarray, layers: Sequence[str]) -> tuple[list[int], list[int]]:
    """Layers with a map, and steps at a finite log-SNR at which one has it; evenly of more than find room."""
    maps = np.asarray(maps, float)
    if maps.ndim != 4 or maps.shape[:2] != (np.size(logsnr), len(layers)):
        raise TurningpointError(
            f"maps has shape {maps.shape}; accepted: ({np.size(logsnr)}, {len(layers)}, m, m), as logsnr and "
            "layers say."
        )
    there = np.isfinite(maps).any((2, 3)) & np.isfinite(np.asarray(logsnr, float))[:, None]
    if not there.any():
        raise TurningpointError(
            "maps holds no number at a finite log-SNR; accepted: a map of one layer or more."
        )
    rows, columns = (np.flatnonzero(there.any(axis)) for axis in (0, 1))
    return _evenly(rows, LAYERS), _evenly(columns, STEPS)


def _evenly(places: np.ndarray, most: int) -> list[int]:
    picked = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
    return [int(place) for place in places[picked]]
