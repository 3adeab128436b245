"""The page of a comparison: in what runs differ, and what grows earlier or later for it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .experiments.compare import QUANTITIES, Comparison
from .figures.heat import short
from .figures.style import number
from .pages import joined, render, saved, small
from .simulation.store import sentences

PAGE = "compare.html"
LEVEL = 0.05
"""The largest q that counts."""
TOLD = 3
"""Other runs of which the answer speaks."""
LONG = 120
"""Letters of a setting's values."""


def comparison_report(found: Comparison, folder: str | Path) -> Path:
    """Write ``compare.html``, the tables as CSV and, under ``figures/``, every picture with its table.

    Parameters
    ----------
    found : Comparison
        Of `turningpoint.compare`.
    folder : path
        Made if it does not exist; it must not be a run's.

    Returns
    -------
    Path
        The page; it is self-contained.

    Raises
    ------
    TurningpointError
        If the folder is a run's, or cannot be written.
    """
    place = Path(folder)
    found.save_tables(place)
    with sentences(place):
        drawn = found.pictures()
        page = {
            "title": joined(found.labels),
            "answer": answer(found),
            "figures": saved(drawn, place / "figures"),
            "abouts": {name: about for name, (_, _, about) in drawn.items()},
            "labels": found.labels,
            "first": found.labels[0],
            "size": f"{len(found.labels)} runs · {len(found.features)} features",
            "runs": [_run(found, label) for label in found.labels],
            "rows": [_row(found, name) for name in found.by_onset()],
            "images": [_images(row) for row in found.images.to_dict("records")],
            "layers": [_layers(found, label) for label in found.labels[1:]],
            "notes": found.notes,
        }
        return render("compare.html.j2", page, place, PAGE)


def answer(found: Comparison) -> str:
    """What is earlier or later, run by run, and how much."""
    told = [_shifted(found, label) for label in found.labels[1 : TOLD + 1]]
    more = len(found.labels) - 1 - len(told)
    if more > 0:
        told.append(f"{more} more run{'s' * (more > 1)} stand below.")
    return " ".join(told)


def _shifted(found: Comparison, label: str) -> str:
    """Which onsets are shifted in a run."""
    rows = found.shifts[(found.shifts["run"] == label) & (found.shifts["quantity"] == "onset")]
    tested = rows[np.isfinite(rows["q"].astype(float))]
    head = f"In run {label}, "
    if tested.empty:
        return f"{head}no onset can be compared with {found.labels[0]}’s."
    sure = tested[tested["q"] <= LEVEL]
    if sure.empty:
        return (
            f"{head}none of {len(tested)} features grows by half at another time than in {found.labels[0]} "
            "(q ≤ 0.05)."
        )
    words = (
        f"{head}{len(sure)} of {len(tested)} features {'grows' if len(sure) == 1 else 'grow'} by half at another time "
        f"than in {found.labels[0]} (q ≤ 0.05)"
    )
    known = sure[np.isfinite(sure["difference"].astype(float))]
    if known.empty:
        return f"{words}, some of them beyond the recorded times."
    most = known.iloc[int(known["difference"].abs().to_numpy(float).argmax())]
    by = float(most["difference"])
    far = f"{most['label']}, {number(abs(by))} {'later' if by > 0 else 'earlier'} in log-SNR"
    return f"{words}{', most of all' if len(sure) > 1 else ':'} {far}."


def _run(found: Comparison, label: str) -> dict[str, Any]:
    """A run's line: what it is, and in what it differs from the first."""
    about = next((row for row in found.runs.to_dict("records") if row["run"] == label), {})
    rows = found.settings[found.settings["run"] == label] if "differs" in found.settings else pd.DataFrame()
    differs = [_short(str(text)) for text in rows["differs"]] if len(rows) else []
    sweep = f"{number(about['low'])} to {number(about['high'])}" if about else "–"
    return {"label": label, "sweep": sweep, "differs": differs} | {
        str(key): value for key, value in about.items()
    }


def _short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def _row(found: Comparison, name: str) -> dict[str, Any]:
    """A feature's line: its onset and settling in every run, and how much later they are than in the first."""
    known = found.onsets[found.onsets["feature"] == name].set_index("run")
    label = str(known["label"].iloc[0])
    cells = []
    for run in found.labels:
        row = known.loc[run].to_dict()
        cells.append([_interval(row, quantity, ("before", "after")) for quantity in QUANTITIES])
    shifts = []
    table = found.shifts[found.shifts["feature"] == name]
    for run in found.labels[1:]:
        one = table[table["run"] == run].set_index("quantity")
        both = [one.loc[quantity].to_dict() for quantity in QUANTITIES]
        shifts.append(
            {
                "by": [_interval(row, "difference", ("earlier", "later")) for row in both],
                "q": [small(float(row["q"])) for row in both],
                "sure": [bool(row["q"] <= LEVEL) for row in both],
            }
        )
    return {"feature": name, "label": label, "cells": cells, "shifts": shifts}


def _interval(row: Mapping[Hashable, Any], column: str, ends: tuple[str, str]) -> str:
    """A number with its interval, or a word for one that is open."""
    value = float(row[column])
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ends[value > 0]
    stem = "" if column == "difference" else f"{column}_"
    sides = [float(row[f"{stem}{side}"]) for side in ("low", "high")]
    low, high = (
        "–" if math.isnan(side) else ends[side > 0] if math.isinf(side) else number(side) for side in sides
    )
    return f"{number(value)} [{low}, {high}]"


def _images(row: Mapping[Hashable, Any]) -> str:
    """How far a run's final images are from the first run's, as a sentence."""
    share = f"{100 * float(row['nearest']):.0f} %"
    return (
        f"The final images of {row['run']} are {float(row['distance']):.3g} from their partners (median root mean "
        f"square, in [−1, 1]), strangers {float(row['strangers']):.3g}; the partner is the nearest for {share} of "
        f"{row['items']} items, by chance {100 / int(row['items']):.0f} %."
    )


def _layers(found: Comparison, label: str) -> str:
    """What layers do otherwise, as a sentence; empty if they were not compared."""
    table = found.activations
    rows = table[table["run"] == label] if len(table) else table
    if rows.empty:
        return ""
    sure = rows[rows["significant"].astype(bool)]
    counted = f"Of {len(rows)} summaries of a layer at a time {len(sure) or 'none'} differ in {label}"
    if sure.empty:
        return f"{counted}."
    far = sure.iloc[int(sure["standardised"].abs().to_numpy(float).argmax())]
    return (
        f"{counted}; most surely the {far['summary']} of {far['layer']} at log-SNR {number(float(far['logsnr']))}, by "
        f"{short(float(far['difference']))} from {short(float(far['a']))} in {found.labels[0]}."
    )
