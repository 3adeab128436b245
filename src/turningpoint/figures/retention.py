"""The curves behind the windows: how much of each feature survives a U-turn."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError, one_of
from .style import FAINT, INK, MUTED, PALETTE, WIDTH, brief, clock_name, clocks, direction, groups, style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 7  # curves in one panel
COLUMNS, HEIGHT = 2, 2.25  # panels in a row, inches of a row


def retention(
    curves: pd.DataFrame,
    windows: pd.DataFrame,
    schedule: Schedule,
    features: Sequence[str] | None = None,
    delta: float = 0.1,
) -> Figure:
    """Retention against log-SNR, one panel per group of features.

    The reader should see curves rise from 0 (a fresh draw) to 1 (nothing changed) and, within a group,
    which rises first: labels stand in that order.  Bands are 95 % intervals over starting images, the
    dot is the window's centre with its interval, and the lines at delta and 1 - delta are where a
    window starts and ends.

    Parameters
    ----------
    curves : DataFrame
        One row per feature and time: ``feature``, ``label``, ``logsnr``, ``retention``, ``low``,
        ``high``, ``reason`` (why retention is NaN).
    windows : DataFrame
        The windows of `timeline`.
    schedule : Schedule
        The clock of the axis on top.
    features : sequence of str, optional
        Which features to draw; all by default.
    delta : float
        The window's thresholds.

    Raises
    ------
    TurningpointError
        If a feature is not among the curves, or none is left to draw.
    """
    from matplotlib.figure import Figure

    measured = list(dict.fromkeys(str(name) for name in curves["feature"]))
    chosen = measured if features is None else list(features)
    for name in chosen:
        if name not in measured:
            raise one_of("features", name, measured)
    if not chosen:
        raise TurningpointError("curves is empty; accepted: the curves of one feature or more.")
    panels = _panels(_by_centre(chosen, windows))
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    low, high = float(curves["logsnr"].min()), float(curves["logsnr"].max())
    margin = 0.02 * max(high - low, 1e-6)
    with style():
        figure = Figure(
            figsize=(WIDTH if columns > 1 else 0.62 * WIDTH, 0.35 + HEIGHT * rows), layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg,union-attr]
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for place, (title, names) in enumerate(panels.items()):
            axes = grid.flat[place]
            axes.set_xlim(low - margin, high + margin)
            _frame(axes, delta, title)
            axes.set_title(
                f"top: {clock_name(schedule)}", loc="right", color=MUTED, pad=17, size=7, weight="normal"
            )
            for k, name in enumerate(names):
                color = _colors(names)[k]
                curve = curves[curves["feature"] == name].sort_values("logsnr")
                window = windows[windows["feature"] == name].to_dict("records")
                _label(
                    axes, k, str(curve["label"].iloc[0]), MUTED if curve["retention"].isna().all() else color
                )
                _curve(axes, curve, window[0] if window else None, color)
            _floor(axes, curves[curves["feature"].isin(names)])
            clocks(axes, schedule, (low, high), gap=0.13)
            if place + columns >= len(panels):
                direction(axes)
            if place % columns == 0:
                axes.set_ylabel("retention r")
    return figure


def _by_centre(features: list[str], windows: pd.DataFrame) -> list[str]:
    centre = dict(zip(windows["feature"].astype(str), windows["centre"], strict=True))
    place = {name: centre.get(name, math.nan) for name in features}
    return sorted(features, key=lambda name: math.inf if math.isnan(place[name]) else place[name])


def _panels(features: list[str]) -> dict[str, list[str]]:
    """At most `MOST` features per panel: by group, a crowded group by the name before its number."""
    look = groups(features)
    panels: dict[str, list[str]] = {}
    for group in dict.fromkeys(look[name][0] for name in sorted(features)):
        members = [name for name in features if look[name][0] == group]
        parts = {group: members}
        if len(members) > MOST:
            parts = {}
            for name in members:
                stem = _stem(name).partition(".")[2]
                parts.setdefault(f"{group}: {stem}" if stem else group, []).append(name)
        for title, names in sorted(parts.items()):
            for k in range(0, len(names), MOST):
                panels[title if k == 0 else f"{title} ({k // MOST + 1})"] = names[k : k + MOST]
    return panels


def _stem(feature: str) -> str:
    return re.sub(r"[._ ]?\d+$", "", feature)


def _colors(names: list[str]) -> list[Any]:
    """Shades in order for numbered features (bands, layers), distinct colours for all others."""
    if len(names) > 2 and len({_stem(name) for name in names}) == 1:
        import matplotlib

        numbers = [int(match.group()) if (match := re.search(r"\d+$", name)) else 0 for name in names]
        ranks = np.argsort(np.argsort(numbers)) / (len(names) - 1)
        return [matplotlib.colormaps["viridis"](0.85 * rank) for rank in ranks]
    return list(PALETTE.values())[: len(names)]


def _frame(axes: Axes, delta: float, title: str) -> None:
    axes.set_title(title, pad=17)
    axes.set_ylim(-0.16, 1.12)
    levels = [0.0, delta, 0.5, 1 - delta, 1.0]
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    for level, color in zip(levels, (MUTED, FAINT, FAINT, FAINT, MUTED), strict=True):
        axes.axhline(level, color=color, linewidth=0.6, zorder=0)
    axes.tick_params(axis="y", labelsize=7)


def _label(axes: Axes, k: int, label: str, color: Any) -> None:
    y = 1.0 - 0.145 * k
    place = axes.get_yaxis_transform()
    if color != MUTED:
        axes.plot([1.02, 1.07], [y, y], transform=place, color=color, clip_on=False, linewidth=2)
    ink = MUTED if color == MUTED else INK
    axes.text(1.09, y, brief(label, 20), transform=place, va="center", size=7, color=ink)


def _curve(axes: Axes, curve: pd.DataFrame, window: dict[Any, Any] | None, color: Any) -> None:
    x = curve["logsnr"].to_numpy(float)
    axes.fill_between(x, curve["low"], curve["high"], color=color, alpha=0.18, linewidth=0, zorder=1)
    (line,) = axes.plot(x, curve["retention"], color=color, zorder=2)
    line.set_label(str(curve["feature"].iloc[0]))
    if window is not None and math.isfinite(window["centre"]):
        bounds = np.clip([window["centre_low"], window["centre_high"]], *axes.get_xlim())
        axes.plot(bounds, [0.5, 0.5], color=color, linewidth=1.0, zorder=3)
        axes.plot(window["centre"], 0.5, "o", color=color, markersize=3.6, mew=0.5, mec="white", zorder=4)


def _floor(axes: Axes, curves: pd.DataFrame) -> None:
    """Room for the lowest curve and, below it, for why a feature of this panel has none."""
    lost = curves.groupby("feature", sort=False).filter(lambda curve: bool(curve["retention"].isna().all()))
    lines: list[str] = []
    for reason, rows in lost.groupby("reason", sort=False):
        names = ", ".join(dict.fromkeys(rows["label"].astype(str)))
        lines += textwrap.wrap(" ".join(f"{names}: {reason}".split()), 50)[:3]
    lowest = float(np.nan_to_num(curves["retention"].min(), nan=0.0))
    floor = float(np.clip(lowest - 0.04, -0.6, -0.1))
    axes.set_ylim(floor - 0.06 - 0.1 * len(lines), None)
    if lines:
        place = axes.get_yaxis_transform()
        text = "\n".join(lines)
        axes.text(0.03, floor, text, transform=place, va="top", size=6.2, style="italic", color=MUTED)
