"""Bands against noise: which share of its final power each band of the estimate has, and where it has half."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..statistics.emergence import QUANTITIES, Emergence
from .style import INK, MUTED, PALETTE, WIDTH, brief, clock_name, clocks, direction, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, TALLEST, SHORTEST = 0.24, 5.6, 0.42
"""Inches: of a band's row, and of all rows of a panel together at most and at least."""
FRAME, TITLE = 1.2, 0.32
"""Inches: what the axes' words need, and the line above a panel."""
NAMED = 32
"""Rows whose names find room; of more bands every second, third, ... is named."""
TITLES = {
    "power": "Power of the estimate, relative to the final image",
    "amplitude": "Amplitude of the estimate, relative to the final image",
    "gain": "Gain of the denoiser",
}


def emergence(table: pd.DataFrame, schedule: Schedule) -> Figure:
    """A heat map with a row per band, coarse (top) to fine, one panel for each quantity of the table.

    The reader should see the light come on row by row, coarse before fine, and in every row the dot, which is where
    the band has half of its power with its 95 % interval, on the bar, which is where the closed form puts it.  A
    triangle at the edge is a half beyond the range measured.

    Parameters
    ----------
    table : DataFrame
        Of `emergence_table`; tables of several quantities one after the other.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If the table is empty.
    """
    from matplotlib.figure import Figure

    shown = table[np.isfinite(table["logsnr"].astype(float))]
    if shown.empty:
        raise TurningpointError(
            "table is empty; accepted: a row for one band and one finite log-SNR or more."
        )
    there = [quantity for quantity in QUANTITIES if (shown["quantity"] == quantity).any()]
    parts = [shown[shown["quantity"] == quantity] for quantity in there]
    heights = [float(np.clip(ROW * part["band"].nunique(), SHORTEST, TALLEST)) for part in parts]
    edges = _edges(np.unique(shown["logsnr"].to_numpy(float)))
    foreseen = bool(np.isfinite(shown["predicted"].astype(float)).any())
    with style():
        tall = sum(heights) + TITLE * len(parts) + FRAME
        figure = Figure(figsize=(WIDTH, tall), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.04, hspace=0.02)  # type: ignore[call-arg,union-attr]
        panels = list(figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        drawn = [_panel(axes, part) for axes, part in zip(panels, parts, strict=True)]
        for axes, quantity in zip(panels, there, strict=True):
            axes.set_title(TITLES[quantity], pad=27 if axes is panels[0] else 14)
        everything = shown["value"].to_numpy(float)
        bar = figure.colorbar(
            drawn[0], ax=panels, fraction=0.02, pad=0.01, aspect=20, extend=_extend(everything), shrink=0.8
        )
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_ticks([0, 0.5, 1], labels=["0", "½", "1"])
        bar.ax.tick_params(length=0, labelsize=7)
        for axes in panels:
            axes.set_xlim(edges[0], edges[-1])
        clocks(panels[0], schedule, (float(shown["logsnr"].min()), float(shown["logsnr"].max())))
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "color": MUTED}
        panels[0].annotate(clock_name(schedule), (1, 1), (0, 15), ha="right", size=7, **place)
        for axes in panels:
            head = "half ± s.e." + ("  (closed form)" if foreseen else "")
            axes.annotate(head, (1.015, 1), (0, 4), va="bottom", size=6.5, **place)
        direction(panels[-1])
        _key(panels[-1], foreseen)
    return figure


def emergence_table(
    found: Emergence, labels: Sequence[str] | None = None, predicted: ArrayLike | None = None
) -> pd.DataFrame:
    """What `emergence` shows: a row per band and time.

    Parameters
    ----------
    found : Emergence
        Of `turningpoint.statistics.emergence`.
    labels : sequence of B str, optional
        What the bands are called, by default ``band 0``, ``band 1``, ...
    predicted : array (B,), optional
        Half-emergence in closed form; NaN where there is none.

    Returns
    -------
    DataFrame
        ``quantity, band, label, logsnr, value, low, high, half, half_low, half_high, half_error, predicted``.

    Raises
    ------
    TurningpointError
        If there are not as many labels or predictions as bands.

    Examples
    --------
    >>> from turningpoint.statistics.emergence import emergence as measured
    >>> found = measured([[[0.2], [0.8]]], [[1.0]], [-2.0, 2.0])
    >>> emergence_table(found, predicted=[0.1])[["label", "logsnr", "value", "predicted"]].values.tolist()
    [['band 0', -2.0, 0.2, 0.1], ['band 0', 2.0, 0.8, 0.1]]
    """
    bands = found.half.shape[1]
    names = [f"band {b}" for b in range(bands)] if labels is None else [str(label) for label in labels]
    places = np.full(bands, np.nan) if predicted is None else np.asarray(predicted, dtype=float)
    for argument, count in (("labels", len(names)), ("predicted", places.size)):
        if count != bands:
            raise TurningpointError(f"{argument} has {count} entries; accepted: {bands}, one for each band.")
    rows = [
        {**row, "label": names[row["band"]], "predicted": float(places.ravel()[row["band"]])}
        for row in found.table()
    ]
    halves = ["half", "half_low", "half_high", "half_error"]
    return pd.DataFrame(
        rows, columns=["quantity", "band", "label", "logsnr", "value", "low", "high", *halves, "predicted"]
    )


def _panel(axes: Axes, part: pd.DataFrame) -> Any:
    """Cells, names, halves and predictions of one quantity; returns the mesh."""
    import matplotlib

    values = part.pivot(index="band", columns="logsnr", values="value").sort_index().sort_index(axis=1)
    rows = part.drop_duplicates("band").sort_values("band").to_dict("records")
    cells = np.ma.masked_invalid(values.to_numpy(float))
    edges = _edges(values.columns.to_numpy(float))
    shades = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
    mesh = axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, cells, cmap=shades, vmin=0, vmax=1)
    mesh.set_label(str(part["quantity"].iloc[0]))
    mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
    axes.set_ylim(len(rows) - 0.5, -0.5)
    every = math.ceil(len(rows) / NAMED)
    named = range(0, len(rows), every)
    axes.set_yticks(list(named), [brief(rows[place]["label"], 26) for place in named], size=7)
    axes.tick_params(axis="y", length=0 if every == 1 else 2.5)
    axes.spines[:].set_visible(False)
    for place, row in enumerate(rows):
        _marks(axes, place, row, (float(edges[0]), float(edges[-1])))
    column: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 6.5}
    for place in named:
        axes.text(1.015, place, _written(rows[place]), color=INK, **column)
    return mesh


def _marks(axes: Axes, place: int, row: dict[Any, Any], sweep: tuple[float, float]) -> None:
    """Measured half with its interval, and the closed form's, in the row at ``place``."""
    foreseen, half = float(row["predicted"]), float(row["half"])
    if sweep[0] <= foreseen <= sweep[1]:
        axes.vlines(foreseen, place - 0.46, place + 0.46, color="white", linewidth=3.0, zorder=4)
        axes.vlines(
            foreseen, place - 0.46, place + 0.46, color=PALETTE["vermillion"], linewidth=1.6, zorder=5
        )
    if math.isnan(half):
        return
    if math.isinf(half):
        left = half < 0
        at = sweep[0] if left else sweep[1]
        look: dict[str, Any] = {"markersize": 5, "mec": INK, "mew": 0.5, "clip_on": False, "zorder": 7}
        axes.plot(at, place, marker=4 if left else 5, color="white", **look)  # CARETLEFT, CARETRIGHT
        return
    ends = np.array([row["half_low"], row["half_high"]], dtype=float)
    if not np.isnan(ends).any():
        for color, width in ((INK, 2.4), ("white", 1.2)):
            axes.plot(np.clip(ends, *sweep), [place] * 2, color=color, linewidth=width, zorder=6)
    axes.plot(half, place, "o", color="white", markersize=4, mec=INK, mew=0.7, zorder=7)


def _written(row: dict[Any, Any]) -> str:
    """A band's half in words: ``−1.23 ± 0.05``."""
    half, error, foreseen = (float(row[name]) for name in ("half", "half_error", "predicted"))
    digits = 2 if not error < 0.01 else 3
    closed = f"  ({number(foreseen, digits)})" if math.isfinite(foreseen) else ""
    if math.isnan(half):
        return f"no power{closed}"
    if math.isinf(half):
        return ("before the first" if half < 0 else "after the last") + closed
    spread = f" ± {number(error, digits)}" if math.isfinite(error) else ""
    return f"{number(half, digits)}{spread}{closed}"


def _key(axes: Axes, foreseen: bool) -> None:
    """What dot and bar are, below the axis."""
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {
        "color": INK,
        "mfc": "white",
        "mec": INK,
        "mew": 0.7,
        "markersize": 4,
        "linewidth": 1.2,
    }
    handles = [Line2D([], [], marker="o", label="half of the final value, with its 95 % interval", **dot)]
    if foreseen:
        bar: dict[str, Any] = {
            "color": PALETTE["vermillion"],
            "linestyle": "none",
            "mew": 1.6,
            "markersize": 8,
        }
        handles.append(Line2D([], [], marker="|", label="closed form", **bar))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=3.8, ncols=2, frameon=False,
        fontsize=6.8, labelcolor=MUTED, handlelength=1.6, columnspacing=2.5,
    )  # fmt: skip


def _extend(values: np.ndarray) -> str:
    """Which ends of the colour bar values run out of."""
    below, over = bool((values < -0.005).any()), bool((values > 1.005).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        below, over
    ]


def _edges(levels: np.ndarray) -> np.ndarray:
    """Between the noise levels, and half a step beyond the outer ones."""
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[2 * levels[0] - middle[0]], middle, [2 * levels[-1] - middle[-1]]])
