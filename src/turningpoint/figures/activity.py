"""What the layers of a denoiser do at every step: a map of layer by step for each summary of their activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .style import INK, MUTED, PALETTE, WIDTH, clock_name, clocks, direction, inches_wide, mix, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

ABSOLUTE = ("sparsity", "change", "contrast")
"""Summaries that mean the same in every layer; of the others a layer is compared with its own largest value."""
SAYS = {
    "magnitude": "magnitude",
    "rank": "effective rank",
    "change": "change since the step before",
    "entropy": "entropy of attention",
    "contrast": "contrast of conditions",
}
"""What a panel is called, if not by its summary's name."""
ROW, LEAST, MOST = (0.115, 0.2), 0.5, 3.6
"""Inches: of a layer's row, at least (its name must be legible) and at most; of a panel."""
TITLE, CLOCK, FOOT, ASIDE, GAP = 0.27, 0.33, 0.46, 0.36, 0.16
"""Inches: of a panel's title, the clock on top, the axis below, the numbers aside, between panels."""
WIDE = 30
"""A colour scale is logarithmic if its largest value is more than so many times the smallest."""
MISSING = "#dddddd"
LETTERS = 24
"""Of a layer's name."""


def activity(table: pd.DataFrame, schedule: Schedule) -> Figure:
    """A panel per summary: layers from the first (top) to the last, steps from noise (left) to data.

    The reader should see at which noise level each layer is at work, and whether deep layers come before shallow
    ones.  Sparsity, change and contrast mean the same in every layer and share a scale.  Magnitude, rank and
    entropy are shares of the layer's own largest value, which is written at its right.

    Parameters
    ----------
    table : DataFrame
        Of `activity_table`.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If no layer has a number at a finite log-SNR.
    """
    import matplotlib

    shades = matplotlib.colormaps["viridis"].with_extremes(bad=MISSING)

    def paint(rows: pd.DataFrame) -> tuple[np.ndarray, Normalize, Colormap, str]:
        own = rows["summary"].iloc[0] not in ABSOLUTE
        cells = _cells(rows, "relative" if own else "mean")
        return shades(_norm(cells)(np.ma.masked_invalid(cells))), _norm(cells), shades, "of largest" if own else ""

    def aside(row: pd.DataFrame) -> str:
        return _short(float(row["largest"].iloc[0]))

    return _panels(table, schedule, "mean", paint, aside, "largest")


def activity_difference(table: pd.DataFrame, schedule: Schedule, called: tuple[str, str] = ("a", "b")) -> Figure:
    """The same map for the difference of two conditions, in standard deviations over items.

    The reader should see where, in depth and in noise level, the network tells the conditions apart: there the cells
    are strong, vermillion where the first has more and blue where the second has.  Pale cells are not significant.

    Parameters
    ----------
    table : DataFrame
        Of `turningpoint.statistics.paired.difference`.
    schedule : Schedule
        The clock of the axis on top.
    called : two strings
        What the conditions are called.

    Raises
    ------
    TurningpointError
        If no layer has a number at a finite log-SNR.
    """
    from matplotlib.colors import Normalize

    shades = diverging()
    finite = np.abs(table["standardised"].to_numpy(float))
    reach = float(np.quantile(finite[np.isfinite(finite)], 0.99)) if np.isfinite(finite).any() else 1.0
    norm = Normalize(-max(reach, 0.2), max(reach, 0.2), clip=True)

    def paint(rows: pd.DataFrame) -> tuple[np.ndarray, Normalize, Colormap, str]:
        cells = np.ma.masked_invalid(_cells(rows, "standardised"))
        colors = shades(norm(cells))
        sure = _cells(rows.assign(sure=rows["significant"].astype(float)), "sure") > 0
        faded = ~sure & ~np.ma.getmaskarray(cells)
        colors[faded, :3] = 0.25 * colors[faded, :3] + 0.75
        return colors, norm, shades, "s.d."

    def aside(row: pd.DataFrame) -> str:
        values = row["standardised"].to_numpy(float)
        known = values[np.isfinite(values)]
        return number(float(known[np.abs(known).argmax()]), 1) if len(known) else "–"

    words = f"difference: {called[0]} less {called[1]}.  Pale: not significant"
    return _panels(table, schedule, "standardised", paint, aside, "largest", words)


def activity_table(
    activations: np.ndarray, logsnr: np.ndarray, layers: Sequence[str], summaries: Sequence[str]
) -> pd.DataFrame:
    """What `activity` shows, a row per summary, layer and time.

    Parameters
    ----------
    activations : array (N, T, L, S)
        Summaries of N items; NaN where there is none.
    logsnr : array (T,)
    layers, summaries : sequences of L and S str
        In the network's order.

    Returns
    -------
    DataFrame
        ``summary``, ``place`` (0 for the first layer), ``layer``, ``step``, ``logsnr``, ``mean`` and standard
        deviation ``sd`` over items, how many ``items`` have a number, the ``largest`` mean of the layer, and
        ``relative``, the share of it.

    Raises
    ------
    TurningpointError
        If the shapes do not fit together.

    Examples
    --------
    >>> table = activity_table(np.ones((4, 2, 1, 1)), np.array([-1.0, 1.0]), ["mid"], ["rank"])
    >>> table[["summary", "layer", "logsnr", "mean", "largest", "relative"]].values.tolist()
    [['rank', 'mid', -1.0, 1.0, 1.0, 1.0], ['rank', 'mid', 1.0, 1.0, 1.0, 1.0]]
    """
    activations = np.asarray(activations, dtype=np.float64)
    named = (np.size(logsnr), len(layers), len(summaries))
    if activations.shape[1:] != named:
        raise TurningpointError(
            f"activations has shape {activations.shape}; accepted: {named} after the items, as logsnr, layers and "
            "summaries say."
        )
    there = np.isfinite(activations)
    items = there.sum(0)
    known = np.where(items > 0, items, np.nan)
    filled = np.where(there, activations, 0.0)
    mean = filled.sum(0) / known
    spread = np.sqrt((there * (filled - mean) ** 2).sum(0) / np.where(items > 1, items - 1, np.nan))
    largest = np.where(np.isnan(mean), -np.inf, mean).max(0, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, np.nan)
    summary, layer, step = np.indices((named[2], named[1], named[0])).reshape(3, -1)
    at = (step, layer, summary)
    own = largest[layer, summary]
    return pd.DataFrame(
        {
            "summary": np.array(list(summaries), object)[summary],
            "place": layer,
            "layer": np.array(list(layers), object)[layer],
            "step": step,
            "logsnr": np.asarray(logsnr, float)[step],
            "mean": mean[at],
            "sd": spread[at],
            "items": items[at],
            "largest": own,
            "relative": mean[at] / np.where(own > 0, own, np.nan),
        }
    )


def diverging() -> Colormap:
    """Blue for negative, white for none, vermillion for positive; grey for nothing known."""
    from matplotlib.colors import LinearSegmentedColormap

    blue, red = PALETTE["blue"], PALETTE["vermillion"]
    ends = [mix(blue, "black", 0.25), mix(blue, "white", 0.35), "#ffffff", mix(red, "white", 0.35), mix(red, "black", 0.25)]  # fmt: skip
    return LinearSegmentedColormap.from_list("diverging", ends).with_extremes(bad=MISSING)


def tail(name: str, width: int = LETTERS) -> str:
    """A layer's name, its end if it is long: that is where layers differ.

    >>> tail("up_blocks.1.attentions.0.transformer_blocks.0", 12)
    '…er_blocks.0'
    """
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def named_rows(rows: int, height: float, least: float = ROW[0]) -> list[int]:
    """Which of so many rows in so many inches are named so that names do not touch, the first and the last among them.

    >>> named_rows(5, 1.0), named_rows(9, 0.5)
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


def _panels(
    table: pd.DataFrame,
    schedule: Schedule,
    value: str,
    paint: Callable[[pd.DataFrame], tuple[np.ndarray, Normalize, Colormap, str]],
    aside: Callable[[pd.DataFrame], str],
    heading: str,
    words: str = "",
) -> Figure:
    """A panel for each summary that has a finite ``value``, in two columns, with a colour bar of its own."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    shown = table[np.isfinite(table["logsnr"].astype(float))]
    known = shown[np.isfinite(shown[value].astype(float))]
    summaries = [name for name in dict.fromkeys(shown["summary"]) if name in set(known["summary"])]
    if not summaries:
        raise TurningpointError("table has no number at a finite log-SNR; accepted: one layer's or more.")
    layers = list(dict.fromkeys(shown["layer"]))
    levels = np.unique(shown["logsnr"].to_numpy(float))
    side = edges(levels)
    columns, count = min(2, len(summaries)), len(layers)
    rows = math.ceil(len(summaries) / columns)
    tall = float(np.clip(count * np.clip(3.0 / count, *ROW), LEAST, MOST))
    left = 0.14 + max(inches_wide(tail(layer), 6.5) for layer in layers)
    wide = (WIDTH - left - 0.06 - columns * ASIDE - (columns - 1) * GAP) / columns
    head = CLOCK + (0.24 if words else 0.0)
    size = (WIDTH, head + rows * (tall + TITLE) + (rows - 1) * GAP + FOOT)
    names = named_rows(count, tall)
    with style():
        figure = Figure(figsize=size)
        if words:
            figure.text(0.06 / size[0], 1 - 0.16 / size[1], words, size=7.5, color=MUTED, va="center")
        for k, summary in enumerate(summaries):
            row, column = divmod(k, columns)
            x = left + column * (wide + ASIDE + GAP)
            top = head + (row + 1) * TITLE + row * (tall + GAP) + (0 if row else -CLOCK + TITLE - TITLE)
            top += CLOCK if row == 0 else 0.0
            box = (x / size[0], 1 - (top + tall) / size[1], wide / size[0], tall / size[1])
            axes = figure.add_axes(box)
            part = shown[shown["summary"] == summary]
            colors, norm, shades, unit = paint(part)
            mesh = axes.pcolormesh(side, np.arange(count + 1) - 0.5, colors)
            mesh.set_label(summary)
            mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
            axes.set_xlim(side[0], side[-1])
            axes.set_ylim(count - 0.5, -0.5)
            axes.spines[:].set_visible(False)
            axes.set_yticks(names, [tail(layers[place]) for place in names] if column == 0 else [], size=6.5)
            axes.tick_params(axis="y", length=0 if len(names) == count or column else 2.5)
            for place in names:
                text = aside(part[part["layer"] == layers[place]])
                axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", size=6, color=MUTED)
            _title(figure, axes, ScalarMappable(norm, shades), SAYS.get(summary, summary), unit, row == 0, heading)
            if row == 0:
                clocks(axes, schedule, (float(levels[0]), float(levels[-1])), 0.12)
            if k + columns >= len(summaries):
                direction(axes)
            else:
                axes.tick_params(axis="x", labelbottom=False)
    return figure


def _title(
    figure: Figure, axes: Axes, colors: Any, says: str, unit: str, first: bool, heading: str
) -> None:
    raise AssertionError
