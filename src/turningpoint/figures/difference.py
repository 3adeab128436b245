"""What U-turns keep less what clones agree on: a model's errors, feature by feature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from .style import INK, MUTED, WIDTH, brief, groups, number, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, HEIGHT = 4, 1.35  # panels in a row, inches of a row


def difference(table: pd.DataFrame) -> Figure:
    """One small panel per feature: the difference over log-SNR with its 95 % band, and the line of zero.

    The reader should see at once which panels leave zero: there, and at that noise level, the model
    is not the posterior of its data.

    Parameters
    ----------
    table : DataFrame
        Of `turningpoint.model_error`.

    Raises
    ------
    TurningpointError
        If the table is empty.
    """
    from matplotlib.figure import Figure

    known = table[np.isfinite(table["difference"].astype(float))]
    names = list(dict.fromkeys(known["feature"]))
    if not names:
        raise TurningpointError("table is empty; accepted: the differences of one feature or more.")
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    look = groups(names)
    seen = np.abs(known[["difference", "low", "high"]].to_numpy(float))
    reach = max(1.05 * float(seen[np.isfinite(seen)].max()), 0.05)
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(names) :]:
            axes.remove()
        for axes, name in zip(grid.flat, names, strict=False):
            rows_of = known[known["feature"] == name].sort_values("logsnr")
            x, y = rows_of["logsnr"].to_numpy(float), rows_of["difference"].to_numpy(float)
            low, high = rows_of["low"].to_numpy(float), rows_of["high"].to_numpy(float)
            color = look[name][1]
            axes.axhline(0, color=INK, linewidth=0.6, zorder=0)
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(x, y, "o-", color=color, markersize=2.4, linewidth=1.0)
            off = _bounded(rows_of) & ((low > 0) | (high < 0))
            axes.plot(x[off], y[off], "o", color=INK, markersize=3.6, mfc="none", mew=0.8)
            axes.set_ylim(-reach, reach)
            axes.set_title(brief(rows_of["label"].iloc[0], 24), fontsize=7.5, weight="normal", pad=3)
        for axes in grid[:, 0]:
            axes.set_ylabel("difference", fontsize=7)
        figure.supxlabel("log-SNR    (circled: the 95 % interval leaves zero)", fontsize=7.5, color=MUTED)
    return figure


def spoken(table: pd.DataFrame) -> str:
    """The finding in words: how many intervals leave zero, and where the difference is largest.

    A difference without an interval, of too few starting images, is neither counted nor compared.
    """
    known = table[np.isfinite(table["difference"].astype(float))]
    if known.empty:
        return "U-turns and clones share no reading that can be compared."
    sure = known[_bounded(known)]
    if sure.empty:
        return "The starting images are too few for a 95 % interval of any difference."
    off = int(((sure["low"] > 0) | (sure["high"] < 0)).sum())
    worst = sure.iloc[int(sure["difference"].abs().to_numpy(float).argmax())]
    without = len(known) - len(sure)
    return (
        f"Of {len(sure)} differences {off} leave zero with their 95 % interval ({0.05 * len(sure):.0f} would by "
        f"chance); the largest is {number(worst['difference'])} [{number(worst['low'])}, {number(worst['high'])}], of "
        f"{worst['label']} at log-SNR {number(worst['logsnr'])}."
    ) + (f" For {without} more the starting images are too few for an interval." if without else "")


def _bounded(rows: pd.DataFrame) -> np.ndarray:
    """Which differences have an interval with two ends."""
    ends: np.ndarray = np.isfinite(rows[["low", "high"]].to_numpy(float)).all(1)
    return ends
