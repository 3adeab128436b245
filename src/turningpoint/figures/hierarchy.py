"""U-turns on a random grammar: what each level of the tree keeps, and how changes of leaves hang together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError, one_of
from .style import FAINT, INK, MUTED, WIDTH, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 2.9  # inches
QUANTITIES = ("kept", "belief")


def hierarchy(
    table: pd.DataFrame, transition: float = math.nan, quantity: str = "kept", chance: float = math.nan
) -> Figure:
    """Two panels against noise: the symbols that each level keeps, and the susceptibility of the leaves.

    On the left the reader should see the leaves, the palest line, fade slowly, and higher levels hold out
    longer and then fall more steeply, the root from nearly 1 to chance about the transition.  Where there
    is a mean field, its lines run through the measured points with their intervals of 95 %; otherwise the
    points are joined and the intervals are bands.  On the right the susceptibility has its peak where the
    root is lost.

    Parameters
    ----------
    table : DataFrame
        Of `turningpoint.experiments.hierarchy.hierarchy`, of one process; rows of the quantity ``mean field``
        (`turningpoint.experiments.hierarchy.mean_field`) are the thin lines.
    transition : float
        Where the mean field loses the root, marked in both panels; NaN for none.
    quantity : str
        ``kept``, or ``belief``, which has smaller errors.
    chance : float
        What a root keeps by chance, 1/v; NaN for no such line.

    Raises
    ------
    TurningpointError
        If the table is empty or holds several processes, or there is no such quantity.
    """
    from matplotlib.figure import Figure

    if quantity not in QUANTITIES:
        raise one_of("quantity", quantity, QUANTITIES)
    if table["process"].nunique() != 1:
        raise TurningpointError(
            f"table holds {table['process'].nunique()} processes; accepted: the rows of one."
        )
    shown, field = table[table["quantity"] == quantity], table[table["quantity"] == "mean field"]
    if shown.empty:
        raise TurningpointError(f"table holds no rows of {quantity!r}; accepted: one or more.")
    noise = shown["noise"].to_numpy(float)
    margin = 0.03 * max(np.ptp(noise), 1e-6)
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)  # type: ignore[call-arg,union-attr]
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        for axes in (left, right):
            axes.set_xlim(noise.min() - margin, noise.max() + margin)
            axes.set_xlabel(_axis(str(table["process"].iloc[0]), str(table["unit"].iloc[0])))
        _levels(left, shown, field, quantity, chance)
        _susceptibility(right, table[table["quantity"] == "susceptibility"])
        if math.isfinite(transition):
            for axes in (left, right):
                axes.axvline(transition, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
            right.annotate(
                f"mean field ε* = {transition:.3g}",
                (transition, 1),
                (-3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if transition > noise.mean() else "left",
                va="top",
                size=7,
                color=MUTED,
            )
    return figure


def _axis(process: str, unit: str) -> str:
    """The x axis by the name of its process, so that no two are taken for one another."""
    if process == "epsilon":
        return "ε (belief in the true leaf: 1 − ε + ε/v)"
    return {"gaussian": "log-SNR (Gaussian noise on one-hot leaves)"}.get(process, f"{unit} of leaves")


def _levels(axes: Axes, rows: pd.DataFrame, field: pd.DataFrame, quantity: str, chance: float) -> None:
    import matplotlib

    top = int(rows["level"].max())
    gap = min(0.092, 0.75 / (top + 1.4))
    words = {"kept": "symbols kept by a U-turn", "belief": "posterior belief in the true symbol"}
    axes.set_title(words[quantity])
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("fraction" if quantity == "kept" else "probability")
    if math.isfinite(chance):
        axes.axhline(chance, color=FAINT, linewidth=0.8, zorder=0)
        axes.annotate(
            "chance", (0, chance), (3, -8), xycoords=("axes fraction", "data"), textcoords="offset points",
            size=6.5, color=MUTED,
        )  # fmt: skip
    for level, curve in rows.sort_values("noise").groupby("level"):
        place = int(str(level))
        color = matplotlib.colormaps["viridis_r"](0.12 + 0.88 * place / max(top, 1))
        name = "root" if place == top else "leaves" if place == 0 else f"level {place}"
        measured: dict[str, Any] = {"color": color, "marker": "o", "markersize": 2.8, "zorder": 3}
        line = "-" if field.empty else "none"
        axes.plot(curve["noise"], curve["value"], linestyle=line, linewidth=1.0, label=name, **measured)
        if field.empty:
            _band(axes, curve, color)
        else:  # a band between coarse levels would leave the line
            axes.vlines(curve["noise"], curve["low"], curve["high"], color=color, linewidth=0.9, zorder=3)
        expected = field[field["level"] == place].sort_values("noise")
        axes.plot(expected["noise"], expected["value"], color=color, linewidth=0.9, zorder=2)
        y = 0.98 - gap * (top - place)
        axes.plot([1.02, 1.06], [y, y], transform=axes.transAxes, color=color, linewidth=2, clip_on=False)
        axes.text(1.08, y, name, transform=axes.transAxes, va="center", size=7, color=INK)
    if not field.empty:
        y = 0.98 - gap * (top + 1.4)
        axes.text(
            1.02, y, "points: measured\nlines: mean field", transform=axes.transAxes, va="top", size=6.5,
            color=MUTED,
        )  # fmt: skip


def _susceptibility(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.sort_values("noise")
    axes.set_title("susceptibility of the leaves")
    axes.set_ylabel("χ")
    _band(axes, rows, INK)
    axes.plot(rows["noise"], rows["value"], color=INK, marker="o", markersize=2.8, linewidth=1.0, zorder=3)
    axes.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    largest = float(np.nan_to_num(rows["high"].to_numpy(float), nan=1.0, posinf=1.0).max())
    axes.set_ylim(0.6, 1 + 1.15 * max(largest - 1, 0.5))
    axes.annotate(
        "leaves change independently", (0, 1), (3, -8), xycoords=("axes fraction", "data"),
        textcoords="offset points", size=6.5, color=MUTED,
    )  # fmt: skip


def _band(axes: Axes, rows: pd.DataFrame, color: Any) -> None:
    low, high = (rows[end].to_numpy(float) for end in ("low", "high"))
    axes.fill_between(rows["noise"], low, high, color=color, alpha=0.2, linewidth=0, zorder=1)
