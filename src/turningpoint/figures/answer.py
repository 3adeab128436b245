"""The answer in words: when the class is decided, and which features come first and last."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..diffusion.schedule import Schedule
from .style import clock_name, number

CERTAIN = 0.95  # P(before) from which an order counts as resolved


def answer(windows: pd.DataFrame, order: pd.DataFrame, schedule: Schedule) -> str:
    """What the run found, in a sentence or two: when the class is decided, what comes first and last."""
    ranked = ranked_by_centre(windows).dropna(subset=["centre"])
    said = []
    for row in windows[windows["feature"] == "class"].to_dict("records"):
        said.append(_class_sentence(row, schedule))
    if ranked.empty:
        said.append("No feature that was measured has a critical window in this sweep.")
    elif len(ranked) > 1:
        first = _extreme(ranked, order, "first")
        last = _extreme(ranked, order, "last")
        said.append(f"Of the {len(ranked)} features with a window, {first} and {last}.")
    elif not said or ranked["feature"].iloc[0] != "class":
        alone = ranked.iloc[0]
        said.append(f"{alone['label']} is half decided {_at(float(alone['centre']), schedule)}.")
    return " ".join(sentence[:1].upper() + sentence[1:] for sentence in said)


def _class_sentence(row: dict[Any, Any], schedule: Schedule) -> str:
    start, end = float(row["start"]), float(row["end"])
    if math.isnan(float(row["centre"])):
        return f"the class has no window: {str(row['note']).rstrip('.') or 'its retention says nothing'}."
    if math.isfinite(start) and math.isfinite(end):
        times = " to ".join(native(schedule, level) for level in (start, end))
        unit = clock_name(schedule)
        return f"the class is decided between log-SNR {number(start)} and {number(end)} ({unit} {times})."
    if start == end:
        side = "before the first" if start < 0 else "after the last"
        return f"the class is decided {side} noise level of this sweep."
    begins = f"begins {_at(start, schedule)}" if math.isfinite(start) else "has begun before the sweep does"
    ends = f"ends {_at(end, schedule)}" if math.isfinite(end) else "has not ended where the sweep does"
    return f"the decision on the class {begins} and {ends}."


def _extreme(ranked: pd.DataFrame, order: pd.DataFrame, which: str) -> str:
    """The feature decided first or last, and how many cannot be told apart from it."""
    at = 0 if which == "first" else -1
    row = ranked.iloc[at]
    rivals = []
    for other in ranked.drop(ranked.index[at]).to_dict("records"):
        pair = (row["feature"], other["feature"]) if which == "first" else (other["feature"], row["feature"])
        before = float(order.loc[pair[0], pair[1]]) if set(pair) <= set(order.index) else math.nan
        tied = row["centre"] == other["centre"]
        if tied or not (before >= CERTAIN or math.isnan(before)):
            rivals.append(str(other["label"]))
    words = f"{row['label']} comes {which}"
    if rivals:
        these = rivals[0] if len(rivals) == 1 else f"{len(rivals)} others"
        words += f" (not told apart from {these})"
    return words


def ranked_by_centre(windows: pd.DataFrame) -> pd.DataFrame:
    """The windows from the earliest centre to the latest; those without one at the end."""
    return windows.sort_values(["centre", "start", "end"], kind="stable", na_position="last")


def native(schedule: Schedule, level: float) -> str:
    """The native clock at a log-SNR, rounded for readers."""
    value = float(schedule.native(schedule.t(logsnr=level)))
    return number(value, 0 if abs(value) >= 100 else 1 if schedule.native_unit == "step" else 3)


def _at(level: float, schedule: Schedule) -> str:
    if not math.isfinite(level):
        return f"{'before' if level < 0 else 'after'} the sweep"
    return f"at log-SNR {number(level)} ({clock_name(schedule)} {native(schedule, level)})"
