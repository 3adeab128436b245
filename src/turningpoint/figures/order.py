"""Which feature comes first: the probability that one is decided before another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .style import INK, MUTED, PALETTE, brief, mix, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANNOTATED = 30  # features; beyond, the cells are too small for numbers


def order(
    order_table: pd.DataFrame, windows: pd.DataFrame | None = None, happens: str = "is decided"
) -> Figure:
    """The matrix P(row is decided before column), in per cent.

    The reader should see one blue triangle where the order is certain, and pale cells (near 50) beside
    the diagonal where neighbouring features cannot be told apart.

    Parameters
    ----------
    order_table : DataFrame
        Square; index and columns are the same features.  NaN where the two cannot be compared.
    windows : DataFrame, optional
        The windows of `timeline`: features are then sorted by centre and named by their labels.
    happens : str
        What one feature does before another.

    Raises
    ------
    TurningpointError
        If index and columns differ.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    table, labels = _sorted(order_table, windows)
    n = len(table)
    values = table.to_numpy(float)
    cell = float(np.clip(5.2 / max(n, 1), 0.14, 0.3))
    font = 5.5 if n > 20 else 6.5
    with style():
        figure = Figure(figsize=(cell * n + 1.9, cell * n + 2.0), layout="constrained")
        axes = figure.add_subplot()
        ends = (mix(PALETTE["vermillion"], "white", 0.3), "#ffffff", mix(PALETTE["blue"], "white", 0.3))
        shades = LinearSegmentedColormap.from_list("order", ends)
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1, aspect="equal")
        for i, j in np.ndindex(values.shape) if n <= ANNOTATED else ():
            if i != j and math.isfinite(values[i, j]):
                text = f"{100 * values[i, j]:.0f}"
                axes.text(j, i, text, ha="center", va="center", size=font, color=INK)
        size = 7.5 if cell > 0.17 else 6.5
        axes.set_yticks(range(n), labels, size=size)
        axes.set_xticks(range(n), labels, size=size, rotation=90)
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(f"this feature {happens} …", color=MUTED)
        axes.set_xlabel("… before this one", color=MUTED, labelpad=6)
        axes.xaxis.set_label_position("top")
        bar = figure.colorbar(
            image, ax=axes, location="bottom", fraction=0.03, aspect=22, shrink=0.45, pad=0.02
        )
        bar.set_ticks([0, 0.5, 1], labels=["never", "50 %", "always"])
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(length=0, labelsize=7)
    return figure


def order_rows(order_table: pd.DataFrame) -> pd.DataFrame:
    """The matrix as a tidy table: one row per pair, with ``feature``, ``other``, ``probability``."""
    names = [str(name) for name in order_table.index]
    i, j = np.indices(order_table.shape)
    pairs = {"feature": np.array(names, object)[i.ravel()], "other": np.array(names, object)[j.ravel()]}
    rows = pd.DataFrame({**pairs, "probability": order_table.to_numpy(float).ravel()})
    return rows[rows["feature"] != rows["other"]].reset_index(drop=True)


def _sorted(table: pd.DataFrame, windows: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str]]:
    names = [str(name) for name in table.index]
    if names != [str(name) for name in table.columns]:
        raise TurningpointError(
            "order_table has other columns than rows; accepted: the same features in both."
        )
    table = table.set_axis(names, axis=0).set_axis(names, axis=1)
    labels = {name: name for name in names}
    if windows is not None:
        ranked = windows.dropna(subset=["centre"]).sort_values(["centre", "start"], kind="stable")
        first = [str(name) for name in ranked["feature"] if str(name) in labels]
        names = first + [name for name in names if name not in first]
        labels |= dict(zip(windows["feature"].astype(str), windows["label"].astype(str), strict=True))
        table = table.loc[names, names]
    return table, [brief(labels[name], 26) for name in names]
