"""How sure one still is of a start's own category: its probability in what came back, through the noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..statistics.probability import averaged
from .style import FAINT, INK, MUTED, WIDTH, brief, clock_name, clocks, direction, groups, number, style
from .thumbnails import UNSEEN, category_colors, category_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, HEIGHT = 2, 2.4
"""Panels in a row, inches of a row."""
ALTERNATIVES, FEWEST = 6, 4
"""A line for each alternative is drawn if there are at most so many, each with so many starts."""
BAR = 0.035
"""Of a panel's height: the bar at its foot that is the interval of the window's centre."""
WORDS = {"probability": "probability of the start’s own", "fraction": "fraction that keep the start’s own"}


def probability(table: pd.DataFrame, windows: pd.DataFrame, schedule: Schedule) -> Figure:
    """One panel per feature: the probability of the start's own category against log-SNR, its window shaded.

    The reader should see the line fall, towards noise, from nearly 1 to the dashed line of chance, and that it
    falls within the shaded critical window.  The band is the 95 % interval over starting images; the upright line in
    the window is its centre, the dark bar at the foot the centre's interval, which may be wider than the window.
    Thin lines are starts of one alternative each.

    Parameters
    ----------
    table : DataFrame
        Of `probability_table`, of one feature or several.
    windows : DataFrame
        The windows of `timeline.timeline`; features without a window have no shade.
    schedule : Schedule
        The clock of the axis on top.

    Raises
    ------
    TurningpointError
        If the table is empty.
    """
    from matplotlib.figure import Figure

    features = list(dict.fromkeys(table["feature"].astype(str)))
    if not features:
        raise TurningpointError("table is empty; accepted: the probabilities of one feature or more.")
    columns = min(COLUMNS, len(features))
    rows = math.ceil(len(features) / columns)
    low, high = float(table["logsnr"].min()), float(table["logsnr"].max())
    margin = 0.02 * max(high - low, 1e-6)
    look = groups(features)
    with style():
        wide = WIDTH if columns > 1 else 0.62 * WIDTH
        figure = Figure(figsize=(wide, 0.35 + HEIGHT * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg,union-attr]
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(features) :]:
            axes.remove()
        for place, feature in enumerate(features):
            axes = grid.flat[place]
            shown = table[table["feature"] == feature].sort_values("logsnr", kind="stable")
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylim(-0.02, 1.02)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "½", "", "1"])
            axes.set_title(brief(shown["label"].iloc[0], 26), pad=17)
            top = f"top: {clock_name(schedule)}"
            axes.set_title(top, loc="right", color=MUTED, pad=17, size=7, weight="normal")
            row = windows[windows["feature"] == feature].to_dict("records")
            lines = _window(axes, row[0], (low, high)) if row else []
            _lines(axes, shown, look[feature][1], lines)
            clocks(axes, schedule, (low, high), gap=0.13)
            if place + columns >= len(features):
                direction(axes)
            axes.set_ylabel(WORDS[str(shown["quantity"].iloc[0])], size=7.5)
    return figure


def caption(table: pd.DataFrame, windows: pd.DataFrame) -> str:
    """What the lines and shades of `probability` are, of those that it draws for a table and windows."""
    said = {
        "probability": "the probability of the start’s own category in what came back",
        "fraction": "the fraction of what came back that keeps the start’s own category",
    }
    quantities = [word for name, word in said.items() if (table["quantity"] == name).any()]
    parts = [
        f"Thick: {', or, where only categories were read, '.join(quantities)}, with its 95 % band over starting images."
    ]
    everything = table[table["category"] == UNSEEN]
    if everything["chance"].notna().any():
        parts.append("Dashed: the same category in what came back of other images, which is chance.")
    if any(_alternatives(shown) for _, shown in table.groupby("feature")):
        parts.append("Thin: the images that start with one alternative.")
    if everything["reference"].notna().any():
        parts.append("Diamond: what is left of a picture’s own when it has passed the autoencoder alone.")
    rows = windows[windows["feature"].isin(table["feature"]) & windows["centre"].notna()]
    if ((rows["start"] < math.inf) & (rows["end"] > -math.inf)).any():
        parts.append("Light grey: the critical window, as far as it lies in the sweep.")
    if np.isfinite(rows["centre"].astype(float)).any():
        parts.append("Upright: its centre; the dark bar at the foot is the centre’s 95 % interval.")
    return " ".join(parts)


def probability_table(
    feature: str,
    label: str,
    quantity: str,
    start: np.ndarray,
    own: np.ndarray,
    chance: np.ndarray,
    t: np.ndarray,
    logsnr: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str] = (),
    reference: float = math.nan,
) -> pd.DataFrame:
    """Means over starting images with their 95 % intervals, as a tidy table.

    Parameters
    ----------
    feature, label : str
        The categorical reading, and what figures call it.
    quantity : str
        ``probability``, or ``fraction`` where only categories were read.
    start : array (N,)
        What it sees in the starting images.
    own, chance : array (N, T)
        Of `turningpoint.statistics.probability.own_probability`.
    t, logsnr : array (T,)
        The times.
    weights : array (S + 1, N)
        From `turningpoint.statistics.bootstrap.weights`.
    names : sequence of str
        Of the categories 0, 1, ...
    reference : float
        The same in a user's pictures before an autoencoder made the starting images of them; NaN if none did.

    Returns
    -------
    DataFrame
        ``feature, label, quantity, alternative, category, items, t, logsnr, value, low, high, chance, reference``;
        ``alternative`` is empty in the rows of all starting images, and a category's name in the rows of those
        that start with it; ``low`` and ``high`` are NaN where these are too few for an interval.
    """
    start = np.asarray(start, float)
    known = np.isfinite(start) & (start != UNSEEN)
    values = [int(value) for value in np.unique(start[known])]
    alternatives: list[tuple[str, int, np.ndarray]] = [("", UNSEEN, known)]
    if len(values) > 1:
        alternatives += [(category_name(value, names), value, start == value) for value in values]
    head = {"feature": feature, "label": label, "quantity": quantity}
    tables = []
    for name, value, member in alternatives:
        mean, low, high = averaged(own[member], weights[:, member])
        by_chance, *_ = averaged(chance[member], weights[:1, member].repeat(2, 0))
        columns = {
            "alternative": name,
            "category": value,
            "items": int(member.sum()),
            "t": t,
            "logsnr": logsnr,
        }
        columns |= {"value": mean, "low": low, "high": high, "chance": by_chance}
        columns["reference"] = reference if name == "" else math.nan
        tables.append(pd.DataFrame(head | columns))
    return pd.concat(tables, ignore_index=True)


def _lines(axes: Axes, shown: pd.DataFrame, color: str, notes: list[str]) -> None:
    """The curve with its band, chance, and the alternatives if they are few; each is named on the right."""
    from matplotlib.patheffects import withStroke

    everything = shown[shown["category"] == UNSEEN]
    x = everything["logsnr"].to_numpy(float)
    axes.fill_between(
        x, everything["low"], everything["high"], color=color, alpha=0.22, linewidth=0, zorder=3
    )
    (line,) = axes.plot(x, everything["value"], color=color, linewidth=2.2, zorder=5)
    line.set_label(str(everything["feature"].iloc[0]))
    named: list[tuple[str, dict[str, Any]]] = [("all starts", {"color": color, "linewidth": 2.2})]
    if everything["chance"].notna().any():
        edge = [withStroke(linewidth=1.5, foreground="white")]  # to be seen where it runs along the curve
        dashed: dict[str, Any] = {
            "color": INK,
            "linewidth": 0.9,
            "linestyle": (0, (3, 3)),
            "path_effects": edge,
        }
        axes.plot(x, everything["chance"], zorder=6, label="chance", **dashed)
        named.append(("in other images", dashed))
    reference = float(everything["reference"].iloc[0])
    if math.isfinite(reference):
        dot: dict[str, Any] = {
            "color": INK,
            "marker": "D",
            "markersize": 3.5,
            "linestyle": "none",
            "clip_on": False,
        }
        axes.plot([axes.get_xlim()[1]], [reference], zorder=7, label="reference", **dot)
        named.append(("autoencoder alone", dot))
    parts = _alternatives(shown)
    names = {value: str(part["alternative"].iloc[0]) for value, part in parts.items()}
    known = [names[v] for v in range(len(names))] if list(names) == list(range(len(names))) else []
    colors = category_colors(np.array(list(names)), known)
    for value, part in parts.items():
        thin: dict[str, Any] = {"color": colors[value], "linewidth": 0.8}
        axes.plot(part["logsnr"], part["value"], zorder=2, label=f"start {names[value]}", **thin)
        named.append((names[value], thin))
    y = 1.0
    place = axes.get_yaxis_transform()
    for name, how in named:  # clear of the diamond on the axes' edge
        at = [1.1] if "marker" in how else [1.07, 1.13]
        axes.plot(at, [y] * len(at), transform=place, **{"clip_on": False} | how)
        axes.text(1.15, y, brief(name, 18), transform=place, va="center", size=7, color=INK)
        y -= 0.095
    for k, note in enumerate(notes):
        axes.text(
            1.07,
            0.03 + 0.085 * (len(notes) - 1 - k),
            note,
            transform=place,
            va="center",
            size=6.5,
            color=MUTED,
        )


def _alternatives(shown: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of each alternative of a feature that has a line of its own."""
    values = [int(value) for value in np.unique(shown["category"]) if value != UNSEEN]
    parts = {value: shown[shown["category"] == value] for value in values}
    enough = all(part["items"].iloc[0] >= FEWEST for part in parts.values())
    return parts if 1 < len(parts) <= ALTERNATIVES and enough else {}


def _window(axes: Axes, row: dict[Any, Any], sweep: tuple[float, float]) -> list[str]:
    """Shade a window, mark its centre, and lay the centre's interval on the foot; what is to be said of it."""
    centre = float(row["centre"])
    if math.isnan(centre):
        return []
    low, high = axes.get_xlim()
    start, end = (float(np.clip(row[edge], low, high)) for edge in ("start", "end"))
    if row["end"] == -math.inf or row["start"] == math.inf:
        return ["window", f"before {number(sweep[0])}" if row["end"] < 0 else f"after {number(sweep[1])}"]
    axes.axvspan(start, end, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
    said = ["window", f"{_end(row['start'])} to {_end(row['end'])}"]
    if math.isfinite(centre):
        bounds = np.clip([row["centre_low"], row["centre_high"]], low, high)
        axes.axvspan(bounds[0], bounds[1], 0, BAR, color=MUTED, linewidth=0, zorder=1)
        axes.axvline(centre, color=INK, linewidth=0.8, zorder=1)
        said += [f"centre {number(centre)}", f"({_end(row['centre_low'])}, {_end(row['centre_high'])})"]
    return said


def _end(level: float) -> str:
    return number(float(level)) if math.isfinite(level) else "open"
