"""Which layer goes with which feature, and when: two matrices, of the correlation and of where it is strongest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import TurningpointError, one_of
from .heat import ROW, SIZE, brief_layer, diverging, named_rows, tall, title_line
from .style import INK, MUTED, WIDTH, brief, groups, inches_wide, mix, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

BESIDE = 12
"""Features up to which the two matrices stand side by side; of more, one above the other."""
CELL, NARROW = (0.13, 0.32), 2.6
"""Inches: a column's width, at least and at most; what the words above a matrix need."""
TITLE, GAP, KEY = 0.3, 0.22, 0.26
"""Inches: of the words above a matrix, between matrices, of the key below."""
WRITTEN = (0.22, 0.14)
"""Inches: how wide and high a cell must be for a letter or a number in it."""
EMPTY, UNTESTED = "#f4f4f4", "#d4d4d4"
PALE = 0.78
"""How much white is in the colour of what is not significant."""


def association(
    table: pd.DataFrame, summary: str | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Layers (rows) by features (columns): the signed correlation, and the log-SNR at which it is strongest.

    The reader should see which features a layer goes with (vermillion: the more activity, the more increase; blue:
    the less), and in the second matrix at which noise level.  Pairs that are not significant are pale in the first
    matrix and empty in the second; grey ones could not be tested.

    Parameters
    ----------
    table : DataFrame
        Of `turningpoint.statistics.association.Association.table`.
    summary : str, optional
        Which summary of activations to draw; by default, for every layer and feature, that of the significant pair with
        the strongest correlation, by its letter where there is room.
    labels : mapping of str to str, optional
        What features are called.

    Raises
    ------
    TurningpointError
        If the table is empty or has no such summary.
    """
    import matplotlib
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = strongest(table, summary)
    layers, features = (list(dict.fromkeys(shown[name])) for name in ("layer", "feature"))
    called = [brief((labels or {}).get(feature, feature), 30) for feature in features]
    tints = [mix(look[1], "black", 0.35) for look in groups([str(feature) for feature in features]).values()]
    rows, columns = len(layers), len(features)
    r, level = (_matrix(shown, name, layers, features) for name in ("r", "logsnr"))
    sure = _matrix(shown, "significant", layers, features) > 0
    letters = _letters(list(dict.fromkeys(table["summary"]))) if summary is None else {}
    of = dict(zip(zip(shown["layer"], shown["feature"], strict=True), shown["summary"], strict=True))
    named = [
        [
            letters.get(of.get((layer, feature), ""), "") if sure[i, j] else ""
            for j, feature in enumerate(features)
        ]
        for i, layer in enumerate(layers)
    ]
    numbers = [
        [number(value, 1) if there else "" for value, there in zip(*row, strict=True)]
        for row in zip(level, sure, strict=True)
    ]

    beside = columns <= BESIDE
    high = tall(rows) if rows > 2 else ROW[1] * rows
    left = 0.16 + max(inches_wide(brief_layer(str(layer)), SIZE) for layer in layers)
    head = 0.1 + max(inches_wide(name, SIZE) for name in called)
    room = (WIDTH - left - 0.1 - (GAP if beside else 0.0)) / (2 if beside else 1)
    wide = columns * float(np.clip(room / columns, *CELL))
    block = max(wide, NARROW)
    across = left + block + (GAP + block if beside else 0.0) + 0.1
    up = TITLE + head + high + (0.0 if beside else GAP + TITLE + high) + KEY
    legible = wide / columns >= WRITTEN[0] and high / rows >= WRITTEN[1]

    known = np.abs(r[np.isfinite(r)])
    reach = max(0.3, math.ceil(10 * float(known.max(initial=0.0))) / 10)
    levels = level[np.isfinite(level)]
    ends = (float(levels.min()), float(levels.max())) if len(levels) else (0.0, 1.0)
    first = Normalize(-reach, reach), diverging()
    second = (
        Normalize(ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1),
        matplotlib.colormaps["viridis"],
    )
    with style():
        figure = Figure(figsize=(across, up))
        for k, (name, values, (norm, shades)) in enumerate(
            (("correlation", r, first), ("log-SNR of the strongest", level, second))
        ):
            x = left + (block + GAP) * k * beside
            top = TITLE + head + (0.0 if beside else (high + GAP + TITLE) * k)
            axes = figure.add_axes((x / across, 1 - (top + high) / up, wide / across, high / up))
            colors = _colors(values, norm, shades, sure, fade=k == 0)
            axes.imshow(
                colors, aspect="auto", interpolation="none", extent=(-0.5, columns - 0.5, rows - 0.5, -0.5)
            )
            _rows(axes, layers, high, named=k == 0 or not beside)
            axes.set_xticks(
                range(columns), called if k == 0 or beside else [""] * columns, size=SIZE, rotation=90
            )
            axes.tick_params(
                axis="x", length=0, pad=2, top=False, bottom=False, labeltop=True, labelbottom=False
            )
            for tick, tint in zip(axes.get_xticklabels(), tints, strict=True):
                tick.set_color(tint)
            above = head if k == 0 or beside else 0.0
            title_line(figure, (x, up - top + above + 0.1, block), norm, shades, name)
            if legible:
                _write(axes, named if k == 0 else numbers, colors)
        key = ["pale and empty: not significant"]
        if np.isnan(r).any():
            key.append("grey: not known")
        if legible:
            used = {letter for row in named for letter in row}
            key += [f"{letter} {name}" for name, letter in letters.items() if letter in used]
        figure.text(0.08 / across, 0.09 / up, "    ".join(key), size=6.5, color=MUTED)
    return figure


def strongest(table: pd.DataFrame, summary: str | None = None) -> pd.DataFrame:
    """A row for each layer and feature: of one summary, or of the significant pair with the strongest correlation.

    Where no summary is significant it is the strongest of all.

    Raises
    ------
    TurningpointError
        If the table is empty or has no such summary.

    Examples
    --------
    >>> rows = [("mid", "rank", "f", -0.9, False), ("mid", "magnitude", "f", 0.5, True)]
    >>> table = pd.DataFrame(rows, columns=["layer", "summary", "feature", "r", "significant"])
    >>> strongest(table)["summary"].tolist(), strongest(table, "rank")["r"].tolist()
    (['magnitude'], [-0.9])
    """
    if table.empty:
        raise TurningpointError("table is empty; accepted: the associations of one pair or more.")
    if summary is not None:
        known = list(dict.fromkeys(table["summary"]))
        if summary not in known:
            raise one_of("summary", summary, known)
        return table[table["summary"] == summary].reset_index(drop=True)
    ranked = table.assign(size=table["r"].abs().fillna(-1.0), place=np.arange(len(table)))
    ranked = ranked.sort_values(["significant", "size", "place"], ascending=[False, False, True])
    best = ranked.drop_duplicates(["layer", "feature"])
    order = {name: place for place, name in enumerate(dict.fromkeys(table["layer"]))}
    other = {name: place for place, name in enumerate(dict.fromkeys(table["feature"]))}
    best = best.assign(row=best["layer"].map(order), column=best["feature"].map(other))
    best = best.sort_values(["row", "column"], ignore_index=True)
    return best.drop(columns=["size", "place", "row", "column"])


def spoken(table: pd.DataFrame) -> str:
    """The finding in words: how many pairs are significant, and which is the strongest.

    >>> spoken(pd.DataFrame({"r": [np.nan], "significant": [False]}))
    'No layer and feature vary enough to be correlated.'
    """
    tested = table[np.isfinite(table["r"].astype(float))]
    if tested.empty:
        return "No layer and feature vary enough to be correlated."
    called = tested[tested["significant"]]
    if called.empty:
        return (
            f"None of {len(tested)} pairs of a layer's activity and a feature is significant; the smallest p-value "
            f"corrected for all of them is {tested['family'].min():.2g}."
        )
    best = called.iloc[int(called["r"].abs().to_numpy(float).argmax())]
    return (
        f"Of {len(tested)} pairs of a layer's activity and a feature {len(called)} "
        f"{'is' if len(called) == 1 else 'are'} significant; the strongest is {best['summary']} of {best['layer']} "
        f"with {best['feature']}, r = {number(best['r'])} at log-SNR {number(best['logsnr'], 1)} "
        f"(corrected p = {best['family']:.2g})."
    )


def _matrix(shown: pd.DataFrame, name: str, layers: list[str], features: list[str]) -> np.ndarray:
    cells = shown.pivot(index="layer", columns="feature", values=name)
    found: np.ndarray = cells.reindex(index=layers, columns=features).to_numpy(float)
    return found


def _letters(summaries: Sequence[str]) -> dict[str, str]:
    """A letter of its own for each summary, the first of its name that is free.

    >>> _letters(["change", "contrast"])
    {'change': 'c', 'contrast': 'o'}
    """
    letters: dict[str, str] = {}
    for place, name in enumerate(summaries):
        free = [letter for letter in name if letter.isalpha() and letter not in letters.values()]
        letters[name] = free[0] if free else str(place)
    return letters


def _colors(
    values: np.ndarray, norm: Normalize, shades: Colormap, sure: np.ndarray, fade: bool
) -> np.ndarray:
    """Colours (rows, columns, RGBA): of what is not significant pale or none, of what is missing grey."""
    from matplotlib.colors import to_rgba

    colors = shades(norm(np.ma.masked_invalid(values)))
    if fade:
        colors[~sure, :3] = (1 - PALE) * colors[~sure, :3] + PALE
    else:
        colors[~sure] = to_rgba(EMPTY)
    colors[np.isnan(values)] = to_rgba(UNTESTED)
    found: np.ndarray = colors
    return found


def _rows(axes: Axes, layers: Sequence[str], high: float, named: bool) -> None:
    places = named_rows(len(layers), high)
    axes.set_yticks(places, [brief_layer(str(layers[place])) if named else "" for place in places], size=SIZE)
    axes.tick_params(axis="y", length=0 if len(places) == len(layers) else 2.5, pad=3)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(-0.5, axes.get_xlim()[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, len(layers)), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _write(axes: Axes, words: Sequence[Sequence[str]], colors: np.ndarray) -> None:
    """A few letters in each cell, dark on light and light on dark."""
    light = colors[..., :3] @ [0.299, 0.587, 0.114]
    for (i, j), shade in np.ndenumerate(light):
        color = INK if shade > 0.55 else "white"
        axes.text(j, i, words[i][j], ha="center", va="center", size=5.5, color=color)
