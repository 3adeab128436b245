"""What the layers of a denoiser do at every step: a map of layer by step for each summary of their activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from .heat import MISSING, SIZE, brief_layer, diverging, edges, named_rows, short, tall, title_line
from .style import MUTED, WIDTH, brief, clock_name, clocks, direction, inches_wide, number, style

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

ABSOLUTE = ("sparsity", "change", "contrast")
"""Summaries that mean the same in every layer; of the others a layer is compared with its own largest value."""
SAYS = {
    "rank": "effective rank",
    "change": "change per step",
    "entropy": "attention entropy",
}
"""What a panel is called, if not by its summary's name."""
WIDEST = 4.6
"""Inches: a panel."""
WORDS, TITLE, CLOCK, FOOT, ASIDE, GAP = 0.24, 0.26, 0.2, 0.46, 0.4, 0.16
"""Inches: of the line on top, a panel's title, the clock on top, the axis below, the numbers aside, between panels."""
FAR = 30
"""A colour scale goes by powers if its largest value is more than so many times the smallest."""
_ABOVE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}


class Painted(NamedTuple):
    """The cells of a panel (layers, times, RGBA), the scale of their colours, and what it is called."""

    colors: np.ndarray
    norm: Normalize
    shades: Colormap
    note: str


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
    from matplotlib.colors import LogNorm

    shades = matplotlib.colormaps["viridis"].with_extremes(bad=MISSING)

    def paint(rows: pd.DataFrame) -> Painted:
        own = rows["summary"].iloc[0] not in ABSOLUTE
        cells = _cells(rows, "relative" if own else "mean")
        norm = _norm(cells)
        notes = ["of max"] * own + ["log"] * isinstance(norm, LogNorm)
        return Painted(shades(norm(np.ma.masked_invalid(cells))), norm, shades, ", ".join(notes))

    def aside(row: pd.DataFrame) -> str:
        return short(float(row["largest"].iloc[0]))

    return _panels(table, schedule, "mean", paint, aside)


def activity_difference(
    table: pd.DataFrame, schedule: Schedule, called: tuple[str, str] = ("a", "b")
) -> Figure:
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

    def paint(rows: pd.DataFrame) -> Painted:
        cells = np.ma.masked_invalid(_cells(rows, "standardised"))
        colors = shades(norm(cells))
        sure = _cells(rows.assign(sure=rows["significant"].astype(float)), "sure") > 0
        faded = ~sure & ~np.ma.getmaskarray(cells)
        colors[faded, :3] = 0.25 * colors[faded, :3] + 0.75
        return Painted(colors, norm, shades, "in s.d.")

    def aside(row: pd.DataFrame) -> str:
        values = row["standardised"].to_numpy(float)
        known = values[np.isfinite(values)]
        return number(float(known[np.abs(known).argmax()]), 1) if len(known) else "–"

    words = f"{brief(called[0], 50)} less {brief(called[1], 50)}; pale: not significant"
    return _panels(table, schedule, "standardised", paint, aside, words)


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


def _panels(
    table: pd.DataFrame,
    schedule: Schedule,
    value: str,
    paint: Callable[[pd.DataFrame], Painted],
    aside: Callable[[pd.DataFrame], str],
    words: str = "",
) -> Figure:
    """A panel for each summary that has a finite ``value``, in two columns, with a colour bar of its own."""
    from matplotlib.figure import Figure

    shown = table[np.isfinite(table["logsnr"].astype(float))]
    known = set(shown["summary"][np.isfinite(shown[value].astype(float))])
    summaries = [name for name in dict.fromkeys(shown["summary"]) if name in known]
    if not summaries:
        raise TurningpointError(
            "table has no number at a finite log-SNR; accepted: those of one layer or more."
        )
    layers = list(dict.fromkeys(shown["layer"]))
    levels = np.unique(shown["logsnr"].to_numpy(float))
    side = edges(levels)
    columns, count = min(2, len(summaries)), len(layers)
    rows = math.ceil(len(summaries) / columns)
    high = tall(count)
    left = 0.16 + max(inches_wide(brief_layer(layer), SIZE) for layer in layers)
    wide = min((WIDTH - left - columns * ASIDE - (columns - 1) * GAP) / columns, WIDEST)
    head = (WORDS if words else 0.0) + TITLE + CLOCK
    height = head + rows * high + (rows - 1) * (GAP + TITLE) + FOOT
    size = (left + columns * (wide + ASIDE) + (columns - 1) * GAP, height)
    named = named_rows(count, high)
    with style():
        figure = Figure(figsize=size)
        if words:
            figure.text(0.08 / size[0], 1 - 0.14 / height, words, size=7.5, color=MUTED, va="center")
        for k, summary in enumerate(summaries):
            row, column = divmod(k, columns)
            x = left + column * (wide + ASIDE + GAP)
            y = height - head - row * (high + GAP + TITLE)  # inches from below to the panel's top
            axes = figure.add_axes((x / size[0], (y - high) / height, wide / size[0], high / height))
            part = shown[shown["summary"] == summary]
            painted = paint(part)
            mesh = axes.pcolormesh(side, np.arange(count + 1) - 0.5, painted.colors)
            mesh.set_label(str(summary))
            mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
            axes.set_xlim(side[0], side[-1])
            axes.set_ylim(count - 0.5, -0.5)
            axes.spines[:].set_visible(False)
            axes.set_yticks(
                named, [brief_layer(layers[place]) for place in named] if column == 0 else [""] * len(named)
            )
            axes.tick_params(axis="y", labelsize=SIZE, length=0 if len(named) == count else 2.5)
            place = axes.get_yaxis_transform()
            for at in named:
                text = aside(part[part["layer"] == layers[at]])
                axes.text(1.02, at, text, transform=place, va="center", size=6, color=MUTED)
            axes.annotate("max", (1, 1), (72 * ASIDE - 3, 3), **_ABOVE, ha="right", size=6, color=MUTED)
            above = 0.07 + (CLOCK if row == 0 else 0.0)
            says = SAYS.get(str(summary), str(summary))
            title_line(figure, (x, y + above, wide), painted.norm, painted.shades, says, painted.note)
            if row == 0:
                clocks(axes, schedule, (float(levels[0]), float(levels[-1])), 0.13)
                if column == 0:
                    axes.annotate(clock_name(schedule), (0, 1), (-6, 5), **_ABOVE, ha="right", color=MUTED)
            if k + columns >= len(summaries):
                direction(axes)
            else:
                axes.tick_params(axis="x", labelbottom=False)
    return figure


def _cells(rows: pd.DataFrame, value: str) -> np.ndarray:
    """Values by layer (in the order in which they come) and log-SNR."""
    order = list(dict.fromkeys(rows["layer"]))
    cells = rows.pivot(index="layer", columns="logsnr", values=value).reindex(order).sort_index(axis=1)
    found: np.ndarray = cells.to_numpy(float)
    return found


def _norm(cells: np.ndarray) -> Normalize:
    """From 0, from the least value if that is far from 0, or by powers if values range widely."""
    from matplotlib.colors import LogNorm, Normalize

    known = cells[np.isfinite(cells)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low > 0 and high > FAR * low:
        return LogNorm(low, high)
    if 0 <= low < 0.3 * high:
        low = 0.0
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    return Normalize(low, high)
