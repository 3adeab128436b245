"""A classifier's layers against noise: how alike an image and its U-turn stay, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import one_of
from .style import FAINT, INK, MUTED, PALETTE, WIDTH, brief, clock_name, clocks, direction, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTITIES = ("retention", "kept")
ROW, TALLEST, SHORTEST = 0.2, 5.2, 1.5
"""Inches: of a layer's row, and of all rows together at most and at least."""
SLIM, FRAME = 0.9, 1.15
"""Inches: the panel above, and what the axes' words need."""
NAMED = 26
"""Rows whose names find room; of more layers every second, third, ... is named."""


def layers(
    table: pd.DataFrame,
    schedule: Schedule,
    transition: pd.DataFrame | None = None,
    window: Mapping[Any, Any] | None = None,
    quantity: str = "retention",
    comparison: str = "cosine",
    feature: str = "class",
) -> Figure:
    """A heat map, a row per layer from the first (top) to the last, with the class's transition drawn through it.

    The reader should see the first rows fade slowly from data to noise and, if depth is hierarchy, later rows keep
    their light longer and lose it faster, the last ones within the shaded window of the class above.  The white
    dots are each layer's own half-way point with its 95 % interval.

    Parameters
    ----------
    table : DataFrame
        Of `layers_table`.
    schedule : Schedule
        The clock of the axis on top.
    transition : DataFrame, optional
        The class's curve: ``logsnr, retention, low, high``, or for ``kept``: ``kept, kept_low, kept_high``.
    window : mapping, optional
        The class's window: ``start``, ``centre``, ``end``, ``centre_low``, ``centre_high`` in log-SNR.
    quantity : str
        ``retention``, or ``kept``: the similarity itself.
    comparison : str
        Which similarity of the table to draw.
    feature : str
        What the class is called.

    Raises
    ------
    TurningpointError
        If there is no such quantity, or the table holds nothing of the comparison.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if quantity not in QUANTITIES:
        raise one_of("quantity", quantity, QUANTITIES)
    shown = table[table["comparison"] == comparison]
    if shown.empty:
        raise one_of("comparison", comparison, list(dict.fromkeys(table["comparison"])))
    values = shown.pivot(index="place", columns="logsnr", values=quantity).sort_index().sort_index(axis=1)
    names = shown.drop_duplicates("place").sort_values("place")
    levels = values.columns.to_numpy(float)
    rows = float(np.clip(ROW * len(values), SHORTEST, TALLEST))
    above = transition is not None and len(transition) > 0
    heights = [SLIM, rows] if above else [rows]
    with style():
        figure = Figure(figsize=(WIDTH, sum(heights) + FRAME), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.03, hspace=0.0)  # type: ignore[call-arg,union-attr]
        panels = list(
            figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        )
        axes = panels[-1]
        edges = _edges(levels)
        shades = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
        cells = np.ma.masked_invalid(values.to_numpy(float))
        mesh = axes.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, cells, cmap=shades, vmin=0, vmax=1)
        mesh.set_label(comparison)
        mesh.set_rasterized(True)  # viewers of vectors draw hairlines between cells
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(len(values) - 0.5, -0.5)
        _names(axes, [str(name) for name in names["label"]])
        if quantity == "retention":
            _centres(axes, names, (edges[0], edges[-1]))
        if above and transition is not None:
            _transition(panels[0], transition, quantity, feature)
        if window is not None:
            _window(panels, window, above)
        clocks(panels[0], schedule, (float(levels.min()), float(levels.max())))
        panels[0].set_title(clock_name(schedule), loc="center", size=8, weight="normal", color=MUTED, pad=14)
        if above:
            panels[0].tick_params(axis="x", length=0, labelbottom=False)
            panels[0].spines["bottom"].set_visible(False)
        direction(axes)
        words = {"retention": f"retention of the {comparison}", "kept": f"{comparison} with the start"}
        outside = _extend(cells)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.015, aspect=22, extend=outside)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_ticks([0, 0.5, 1], labels=["0", "½", "1"])
        bar.ax.tick_params(length=0, labelsize=7)
        bar.set_label(words[quantity], size=7.5)
    return figure


def layers_table(curves: pd.DataFrame, windows: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """What `layers` shows, a row per layer, comparison and time.

    Parameters
    ----------
    curves, windows : DataFrame
        Of `turningpoint.run.Run`.
    features : sequence of str
        ``layers.LAYER.COMPARISON``, in the network's order.

    Returns
    -------
    DataFrame
        ``place`` (0 for the first layer), ``layer``, ``label``, ``comparison``, ``feature``, ``t``, ``logsnr``,
        ``kept``, ``kept_low``, ``kept_high``, ``chance``, ``retention``, ``low``, ``high``, ``reason``, and the layer's
        own window: ``start``, ``centre``, ``end``, each with ``_low`` and ``_high``.

    Examples
    --------
    >>> split("layers.features.3.cosine")
    ('features.3', 'cosine')
    """
    order: dict[str, int] = {}
    for feature in features:
        order.setdefault(split(feature)[0], len(order))
    rows = curves[curves["feature"].isin(list(features))].copy()
    parts = [split(str(feature)) for feature in rows["feature"]]
    rows["layer"], rows["comparison"] = [p[0] for p in parts], [p[1] for p in parts]
    rows["place"] = [order[layer] for layer in rows["layer"]]
    rows["label"] = rows["layer"]
    curve = ("t", "logsnr", "kept", "kept_low", "kept_high", "chance", "retention", "low", "high", "reason")
    columns = ["place", "layer", "label", "comparison", "feature", *(c for c in curve if c in rows)]
    ends = [f"{edge}{side}" for edge in ("start", "centre", "end") for side in ("", "_low", "_high")]
    joined = rows[columns].merge(
        windows[["feature", *ends]], on="feature", how="left", validate="many_to_one"
    )
    return joined.sort_values(["comparison", "place", "logsnr"], kind="stable", ignore_index=True)


def split(feature: str) -> tuple[str, str]:
    """A layer's name and the comparison in ``layers.LAYER.COMPARISON``."""
    layer, _, comparison = feature.partition(".")[2].rpartition(".")
    return layer, comparison


def _edges(levels: np.ndarray) -> np.ndarray:
    """Between the noise levels, and half a step beyond the outer ones."""
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[2 * levels[0] - middle[0]], middle, [2 * levels[-1] - middle[-1]]])


def _names(axes: Axes, names: Sequence[str]) -> None:
    every = math.ceil(len(names) / NAMED)
    places = list(range(0, len(names), every))
    if len(names) - 1 not in places:
        places = [place for place in places if len(names) - 1 - place >= every] + [len(names) - 1]
    axes.set_yticks(places, [_end_of(names[place]) for place in places], size=7)
    axes.tick_params(axis="y", length=0 if every == 1 else 2.5)
    axes.spines[:].set_visible(False)


def _end_of(name: str, width: int = 22) -> str:
    """A layer's name, its end if it is long: that is where layers differ."""
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _centres(axes: Axes, names: pd.DataFrame, sweep: tuple[float, float]) -> None:
    """Each layer's own centre, on its row."""
    for row in names.to_dict("records"):
        if not math.isfinite(row["centre"]):
            continue
        ends = np.clip([row["centre_low"], row["centre_high"]], *sweep)
        axes.plot(ends, [row["place"]] * 2, color="white", linewidth=1.0, zorder=4)
    there = names[np.isfinite(names["centre"].astype(float))]
    dots: dict[str, Any] = {"color": "white", "markersize": 3.4, "mec": INK, "mew": 0.5, "zorder": 5}
    axes.plot(there["centre"], there["place"], "o", label="centres", **dots)


def _transition(axes: Axes, curve: pd.DataFrame, quantity: str, feature: str) -> None:
    """The class's curve in the slim panel."""
    ends = ("low", "high") if quantity == "retention" else ("kept_low", "kept_high")
    ordered = curve.sort_values("logsnr")
    x, color = ordered["logsnr"].to_numpy(float), PALETTE["vermillion"]
    axes.fill_between(x, ordered[ends[0]], ordered[ends[1]], color=color, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(x, ordered[quantity], color=color, label=feature, zorder=3)
    lowest = float(np.nan_to_num(ordered[ends[0]].min(), nan=0.0))
    axes.set_ylim(min(-0.08, max(lowest, -0.3)), 1.1)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    words = {"retention": "retention", "kept": "kept"}
    axes.set_ylabel(f"{brief(feature, 16)}\n{words[quantity]}", size=7.5)


def _window(panels: Sequence[Axes], window: Mapping[Any, Any], above: bool) -> None:
    """The class's window through all panels: shaded above, its edges and its centre as lines below."""
    centre = float(window["centre"])
    if math.isnan(centre):
        return
    axes = panels[-1]
    low, high = axes.get_xlim()
    if above:
        start, end = (float(np.clip(window[edge], low, high)) for edge in ("start", "end"))
        panels[0].axvspan(start, end, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
    for edge in ("start", "end"):
        if math.isfinite(window[edge]):
            axes.axvline(window[edge], color="white", linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    if math.isfinite(centre):
        bounds = np.clip([window["centre_low"], window["centre_high"]], low, high)
        axes.axvspan(*bounds, color="white", alpha=0.28, linewidth=0, zorder=2)
        axes.axvline(centre, color="white", linewidth=1.4, zorder=3)
        if above:
            panels[0].axvspan(*bounds, color=MUTED, alpha=0.3, linewidth=0, zorder=1)
            panels[0].axvline(centre, color=INK, linewidth=0.9, zorder=1)
            said = f"centre {number(centre)}"
            left = centre > (low + high) / 2
            place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            panels[0].annotate(
                said, (centre, 1), (-5 if left else 5, -3), ha="right" if left else "left", va="top", size=6.5,
                color=MUTED, **place,
            )  # fmt: skip


def _extend(cells: Any) -> str:
    """Which ends of the colour bar values run out of."""
    below, over = bool((cells < -0.005).any()), bool((cells > 1.005).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        below, over
    ]
