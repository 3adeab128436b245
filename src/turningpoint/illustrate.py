"""What a report draws of a run: which pictures there is material for, and the rows of the run that they show.

Nothing here reads more images than are drawn, so that memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .beside import Picture
from .figures.answer import ranked_by_centre
from .figures.style import number
from .figures.thumbnails import category_name
from .statistics.bootstrap import weights
from .statistics.probability import Block, one_hot, own_probability, softmax

if TYPE_CHECKING:
    from .run import Run

ROWS = 8
"""Starting images in the grid."""
SHOWN = 2
"""Starting images in the storyboard, trunks in the tree."""
BOARDS = 3
"""Storyboards at most: one for each question asked in words."""
FEW = 12
"""More readings of layers than these stand in the heat map alone."""
BLOCK = 64
"""Items whose probabilities are in memory at a time."""

_FIRST = ("class", "classifier.top1")


@dataclass(frozen=True)
class Category:
    """A categorical reading: what it sees in the starts (N,) and in what came back (N, R, T), times ascending."""

    feature: str
    label: str
    start: np.ndarray
    back: np.ndarray
    names: tuple[str, ...]


def pictures(
    run: Run,
    categories: Sequence[Category],
    windows: pd.DataFrame,
    curves: pd.DataFrame,
    order: pd.DataFrame,
    sweep: tuple[float, float],
    delta: float,
) -> dict[str, Picture]:
    """Draw every picture that the run has material for.

    Parameters
    ----------
    run : Run
        Of U-turns or clones.
    categories : sequence of Category
        Of `sorted_categories`; images are framed by the first.
    windows, curves : DataFrame
        Of all its features.
    order : DataFrame
        Of those that are not set aside.
    sweep : (float, float)
        The lowest and the highest log-SNR measured.
    delta : float
        A window starts at retention delta and ends at 1 - delta.
    """
    aside = set_aside(windows)
    own, lines = (table[~table["feature"].isin(aside)] for table in (windows, curves))
    drawn = _analysed(run, own, lines, order, sweep, delta)
    drawn |= _probabilities(run, categories, windows)
    drawn |= _layers(run, categories, windows, curves)
    if {"item", "replicate", "time", "y", "x"} <= set(run.store.dims("images")):
        drawn |= _images(run, categories, windows)
    return drawn


def set_aside(windows: pd.DataFrame) -> list[str]:
    """Readings of layers that stand in the heat map alone: all if they are many, but something must be left.

    >>> names = [f"layers.{k}.{s}" for k in range(9) for s in ("cosine", "l2")]
    >>> len(set_aside(pd.DataFrame({"feature": ["class", *names]})))
    18
    >>> set_aside(pd.DataFrame({"feature": names}))[:2]
    ['layers.0.l2', 'layers.1.l2']
    """
    features = [str(feature) for feature in windows["feature"]]
    layered = [feature for feature in features if feature.startswith("layers.")]
    if len(layered) <= FEW:
        return []
    if len(layered) < len(features):
        return layered
    return [feature for feature in layered if not feature.endswith(".cosine")]


def sorted_categories(run: Run, windows: pd.DataFrame) -> list[Category]:
    """The categorical readings of a run: first its class, then what was asked of CLIP, then all others."""
    rows = windows[windows["kind"] == "categorical"]
    labels = dict(zip(rows["feature"].astype(str), rows["label"].astype(str), strict=True))
    found, times = [], len(_drawn_times(run))
    for feature in sorted(labels, key=_rank):
        reading = run.reading(feature)
        names = tuple(str(name) for name in reading.attrs.get("values") or ())
        back = reading["back"].transpose("item", "replicate", "time").values
        label = labels[feature] if feature in _FIRST else feature
        found.append(Category(feature, label, reading["start"].values, back[:, :, :times], names))
    return found


def _rank(feature: str) -> tuple[int, str]:
    if feature in _FIRST:
        return _FIRST.index(feature), feature
    return 2 if feature.startswith("clip.") else 3, feature


def _analysed(
    run: Run,
    windows: pd.DataFrame,
    curves: pd.DataFrame,
    order: pd.DataFrame,
    sweep: tuple[float, float],
    delta: float,
) -> dict[str, Picture]:
    """Windows, curves and their order."""
    from .figures.order import order as order_matrix
    from .figures.order import order_rows
    from .figures.retention import retention
    from .figures.timeline import timeline

    ranked = ranked_by_centre(windows)
    about = "Critical windows along log-SNR, earliest first: " + "; ".join(
        _spoken(r) for r in ranked.to_dict("records")
    )
    drawn: dict[str, Picture] = {"timeline": (timeline(ranked, run.schedule, sweep, delta), ranked, about)}
    about = f"Retention against log-SNR for {len(ranked)} features with 95 % bands; numbers in retention.csv."
    drawn["retention"] = (retention(curves, windows, run.schedule, delta=delta), curves, about)
    if len(order) > 1:
        about = (
            "Matrix of the probability that the row's feature is decided before the column's; see order.csv."
        )
        drawn["order"] = (order_matrix(order, windows), order_rows(order), about)
    return drawn


def _probabilities(run: Run, categories: Sequence[Category], windows: pd.DataFrame) -> dict[str, Picture]:
    """The probability of the start's own category, of every categorical reading."""
    from .figures.probability import probability, probability_table

    if not categories:
        return {}
    ranked = _drawn_times(run)
    t = run.store.read("t")[ranked]
    logsnr = np.asarray(run.schedule.logsnr(t), float)
    counts, condition = weights(len(categories[0].start)), _conditions(run)
    tables = []
    for category in categories:
        quantity, columns, read = _read(run, category)
        own, chance = own_probability(columns, read("back"), condition)
        if np.nanmin(own, initial=1.0) == 1 and np.nanmin(chance, initial=1.0) == 1:
            continue  # the same in all images
        before = own_probability(columns, read("original"), condition)[0]
        reference = float(np.nanmean(before)) if np.isfinite(before).any() else math.nan
        means = (category.start, own[:, ranked], chance[:, ranked], t, logsnr, counts, category.names)
        tables.append(probability_table(category.feature, category.label, quantity, *means, reference))
    if not tables:
        return {}
    table = pd.concat(tables, ignore_index=True)
    about = f"Probability of the start's own category against log-SNR, of {len(tables)} readings."
    return {"probability": (probability(table, windows, run.schedule), table, about)}


def _read(run: Run, category: Category) -> tuple[str, np.ndarray, Callable[[str], Iterator[Block]]]:
    """What is known of a category, the column of each start in it, and how to read it, a few items at a time.

    Its probabilities where a measure has read them or the logits, else 1 for what was read and 0 for all others.
    """
    measure, _, name = category.feature.partition(".")
    known = set(run.features())
    stem = "" if category.feature in _FIRST else f"{name}."
    found = [f"{stem}{kind}" for kind in ("probability", "logits") if f"{measure}.{stem}{kind}" in known]
    quantity = "probability" if found else "fraction"
    columns = category.start if found else one_hot(category.start, category.back[:0])[0]

    def read(side: str) -> Iterator[Block]:
        array = f"readings/{measure}/{side}.{found[0] if found else name}"
        if not run.store.has(array):
            return
        for first in range(0, len(category.start), BLOCK):
            rows = slice(first, min(first + BLOCK, len(category.start)))
            values = run.store.read(array, (rows,)).astype(float)
            values = values[:, None, None] if side == "original" else values
            if not found:
                values = one_hot(category.start, values)[1]
            yield rows, softmax(values) if found and found[0].endswith("logits") else values

    return quantity, columns, read


def _conditions(run: Run) -> np.ndarray | None:
    return run.store.read("condition") if run.store.has("condition") else None


def _layers(
    run: Run, categories: Sequence[Category], windows: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Picture]:
    """The heat map of layers, with the class through it."""
    from .figures.layers import layers, layers_table

    known = set(windows["feature"].astype(str))
    layered = [name for name in run.features() if name.startswith("layers.") and name in known]
    cosines = [name for name in layered if name.endswith(".cosine")]
    if not cosines:
        return {}
    table = layers_table(curves, windows, layered)
    shown = table[table["comparison"] == "cosine"]
    quantity = "retention" if np.isfinite(shown["retention"].astype(float)).any() else "kept"
    transition = window = None
    feature = "class"
    for category in categories[:1]:
        if _rank(category.feature)[0] < 3:
            transition, feature = curves[curves["feature"] == category.feature], category.label
            window = _window(category, windows)
    figure = layers(table, run.schedule, transition, window, quantity, feature=feature)
    about = f"Heat map of the similarity of {len(cosines)} layers against log-SNR, first layer on top; see layers.csv."
    return {"layers": (figure, table, about)}


def _images(run: Run, categories: Sequence[Category], windows: pd.DataFrame) -> dict[str, Picture]:
    """The grid of first copies, the storyboard of the first starts, and for clones their trees."""
    from .figures.grid import grid_table, image_grid
    from .figures.storyboard import storyboard, storyboard_table
    from .figures.tree import tree, tree_table

    words = ("trunk", "clones") if run.kind == "clone" else ("start", "U-turns")
    times = run.store.read("t")[_drawn_times(run)]
    start = run.store.read("start", (slice(ROWS),)).astype(np.float32)
    labels, seen = _labels(categories, len(start))
    grid = image_grid(start, first_rows(run, len(start), 1), times, run.schedule, ROWS, labels, seen, words)
    about = f"The {words[0]} images and what came back from {words[1]} through growing noise."
    drawn = {"images": (grid, grid_table(times, run.schedule, len(start), labels, seen), about)}
    shown = first_rows(run, min(SHOWN, len(start)), None)
    n, copies = shown.shape[:2]
    items = range(run.manifest.get("axes", {}).get("first_item", 0), 10**9)[:n]
    for name, category in boards(categories).items():
        how: dict[str, Any] = {"own": None, "seen": None}
        window = None
        if category is not None:
            how = {"own": category.start[:n], "seen": category.back[:n], "names": category.names}
            how["feature"], window = category.label, _window(category, windows)
        board = storyboard(start[:n], shown, times, run.schedule, called=words, **how)
        about = f"{n} {words[0]} images with {copies} copies of what came back at each time."
        drawn[name] = (board, storyboard_table(times, run.schedule, copies, items, **how), about)
        if run.kind == "clone":
            figure = tree(start[:n], shown, times, run.schedule, window=window, **how)
            about = f"{n} trunks from noise to data, with the clones that part from them and where these end."
            drawn[name.replace("storyboard", "tree")] = (
                figure,
                tree_table(times, run.schedule, copies, items, **how),
                about,
            )
    return drawn


def boards(categories: Sequence[Category]) -> dict[str, Category | None]:
    """The storyboards of a run and what frames each: its first category, and further questions asked in words."""
    asked = [category for category in categories[1:] if category.feature.startswith("clip.")][: BOARDS - 1]
    first = categories[0] if categories else None
    return {"storyboard": first} | {f"storyboard-{c.feature.partition('.')[2]}": c for c in asked}


def _drawn_times(run: Run) -> np.ndarray:
    """The places of a run's times, ascending, without one at which no signal is left: it is not on the axis."""
    t = run.store.read("t")
    ranked = np.argsort(t)
    finite: np.ndarray = ranked[np.isfinite(np.asarray(run.schedule.logsnr(t[ranked])))]
    return finite


def first_rows(run: Run, items: int, copies: int | None) -> np.ndarray:
    """What came back of the first items in the first copies, (n, R, T, C, H, W), times ascending.

    Nothing else is read, however the images are kept.
    """
    ranked = _drawn_times(run)
    values = run.store.read("images", (slice(items), slice(copies)))
    return np.asarray(values[:, :, ranked], np.float32)


def _labels(categories: Sequence[Category], n: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The classes of the first images, by name if they have names."""
    if not categories or categories[0].feature not in _FIRST:
        return None, None
    start, seen = categories[0].start[:n], categories[0].back[:n]
    if not categories[0].names:
        return start, seen
    called = np.frompyfunc(lambda value: category_name(value, categories[0].names), 1, 1)
    return np.asarray(called(start)), np.asarray(called(seen))


def _window(category: Category, windows: pd.DataFrame) -> dict[Any, Any] | None:
    rows = windows[windows["feature"] == category.feature].to_dict("records")
    return rows[0] if rows else None


def _spoken(row: dict[Any, Any]) -> str:
    if math.isnan(float(row["centre"])):
        return f"{row['label']} none"
    return f"{row['label']} {number(float(row['start']), 1)} to {number(float(row['end']), 1)}"
