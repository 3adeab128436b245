"""The page of a trace: when features have grown and settled, band by band, layer by layer, and what goes with what."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .beside import Picture
from .diffusion.schedule import Schedule
from .errors import TurningpointError
from .figures.answer import native
from .figures.style import clock_name, number
from .models._names import brief
from .pages import joined, made, render, saved, small
from .simulation.store import sentences
from .statistics.onset import order_matrix
from .tracing import Trace

DRIVERS = 20
"""Pairs of layer and feature in the page's table; the CSV has all."""
EDGES = ("onset", "settled")
NAMED = 4
"""Features named in one sentence of the answer, at most."""


def trace_report(run: Trace, folder: str | Path | None = None, within: str | None = None) -> Path:
    """Write ``report.html`` of a trace and, under ``figures/``, every picture with the table it was drawn from.

    Parameters
    ----------
    run : Trace
        With at least one reading.
    folder : path, optional
        Where to write; by default the trace's own folder.
    within : str, optional
        A category within which layers and features are compared; see `Trace.association`.

    Raises
    ------
    TurningpointError
        If the trace lives in memory and no folder is given, nothing was read, or the folder cannot be written.
    """
    place = run.folder if folder is None else Path(folder)
    if place is None:
        raise TurningpointError(
            "folder is None and the trace is in memory; accepted: a folder to write into."
        )
    with sentences(place):
        return _write(run, place, within)


def _write(run: Trace, place: Path, within: str | None) -> Path:
    table, drawn = run.onsets(), pictures(run, within)
    model = run.settings["model"]["name"]
    levels = run.logsnr[np.isfinite(run.logsnr)]
    bands, drivers = _bands(run), _drivers(run, within)
    page = {
        "title": brief(model),
        **made(run),
        "answer": answer(table, run.schedule),
        "figures": saved(drawn, place / "figures"),
        "size": f"{run.items} trajectories × {len(run.t)} times",
        "sweep": [number(levels.min()), number(levels.max())],
        "clock": clock_name(run.schedule),
        "rows": [_row(row, run.schedule) for row in table[_known(table)].to_dict("records")],
        "without": without(table),
        "bands": bands,
        "drivers": drivers,
        "said": drawn["association"][2] if "association" in drawn else "",
        "within": within or "",
    }
    return render("trace.html.j2", page, place)


def pictures(run: Trace, within: str | None = None) -> dict[str, Picture]:
    """Draw every picture that the trace has material for."""
    from .figures.growth import heatmap, heatmap_table, overlay
    from .figures.onset import onset
    from .figures.order import order as order_figure
    from .figures.order import order_rows

    table, curves = run.onsets(), run.curves()
    levels = run.logsnr[np.isfinite(run.logsnr)]
    sweep, schedule = (float(levels.min()), float(levels.max())), run.schedule
    grown = heatmap_table(curves, table)
    drawn: dict[str, Picture] = {
        "onsets": (onset(table, schedule, sweep), table, "Onset and settling of each feature along log-SNR."),
        "growth": (heatmap(grown, schedule), grown, "Growth of each feature against log-SNR, as a heat map."),
        "curves": (
            overlay(curves, table, schedule),
            curves,
            "Growth of each feature against log-SNR with bands.",
        ),
    }
    before = run.order([str(feature) for feature in table["feature"]])
    square = order_matrix(before)
    if len(square) > 1:
        ranked = table.assign(centre=table["onset"], start=table["onset"], end=table["settled"])
        about = "Matrix of the share of trajectories in which the row's feature comes before the column's."
        drawn["order"] = (order_figure(square, ranked, "has grown by half"), order_rows(square), about)
    return drawn | _of_bands(run) | _of_layers(run, within)


def _of_bands(run: Trace) -> dict[str, Picture]:
    from .figures.emergence import emergence, emergence_table

    if not run.bands():
        return {}
    labels = run.bands()
    tables = [emergence_table(run.emergence(), labels, run.predicted_emergence())]
    if "gain" in run.measured():
        tables.append(emergence_table(run.gain(), labels, run.predicted_gain()))
    table = pd.concat(tables, ignore_index=True)
    about = "Relative power and gain of each frequency band against log-SNR, with half-emergence."
    return {"bands": (emergence(table, run.schedule), table, about)}


def _of_layers(run: Trace, within: str | None) -> dict[str, Picture]:
    from .figures.activity import activity, activity_table
    from .figures.activity_maps import activity_maps, activity_maps_table
    from .figures.association import association, spoken

    known = run.activation_summaries()
    if known is None:
        return {}
    values, layers, summaries = known
    table = activity_table(values, run.logsnr, layers, summaries)
    about = "What each layer does at each step, a panel per summary."
    drawn: dict[str, Picture] = {"activity": (activity(table, run.schedule), table, about)}
    maps = run.activation_maps()
    if maps is not None and np.isfinite(maps).any():
        rows = activity_maps_table(maps, run.logsnr, layers)
        about = "Where in the image each layer is at work, from noise to data."
        drawn["maps"] = (activity_maps(maps, run.logsnr, layers, run.schedule), rows, about)
    if run.drivers:
        pairs = run.association(within=within).table()
        labels = {one.feature: one.label for one in run.all_series()}
        drawn["association"] = (association(pairs, labels=labels), pairs, spoken(pairs))
    return drawn


def answer(onsets: pd.DataFrame, schedule: Schedule) -> str:
    """What the trace found, in a sentence or two.

    >>> from turningpoint.diffusion.schedule import VP
    >>> rows = {"feature": ["class", "edges"], "label": ["class", "edges"], "onset": [-2.0, 1.0], "settled": [0.0, 3.0]}
    >>> print(answer(pd.DataFrame(rows), VP()).replace("\N{NO-BREAK SPACE}", " "))
    Class has grown by half first, at log-SNR −2.00 (t 0.457), and edges last, at log-SNR 1.00 (t 0.172).
    """
    times = onsets["onset"].astype(float)
    known = onsets[np.isfinite(times)].sort_values("onset", kind="stable")
    there = onsets["label"][np.isneginf(times)].astype(str).tolist()
    if known.empty:
        return "No feature that was read grows by half within the times recorded."
    first, last = known.iloc[0], known.iloc[-1]
    said = f"{first['label']} has grown by half first, {_at(float(first['onset']), schedule)}"
    if len(known) > 1:
        said += f", and {last['label']} last, {_at(float(last['onset']), schedule)}"
    said = f"{said[:1].upper()}{said[1:]}."
    if there:
        named = joined(there) if len(there) <= NAMED else f"{len(there)} features"
        named += " is" if len(there) == 1 else " are"
        said += f" {named[:1].upper()}{named[1:]} half there at the first time already."
    return said


def without(onsets: pd.DataFrame) -> list[str]:
    """The features that have neither onset nor settling, those for the same reason in one sentence.

    >>> rows = {"label": ["hue", "chroma", "class"], "onset": [np.nan, np.nan, 1.0], "settled": [np.nan, np.nan, 1.0]}
    >>> without(pd.DataFrame(rows).assign(note=["no reading", "no reading", ""]))
    ['hue and chroma: no reading.']
    """
    rows = onsets[~_known(onsets)].fillna({"note": ""})
    return [
        f"{joined([str(label) for label in part['label']])}: {str(note) or 'not known'}."
        for note, part in rows.groupby("note", sort=False)
    ]


def _known(onsets: pd.DataFrame) -> pd.Series:
    return onsets["onset"].notna() | onsets["settled"].notna()


def _at(level: float, schedule: Schedule) -> str:
    clock = f"{clock_name(schedule)} {native(schedule, level)}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"at log-SNR\N{NO-BREAK SPACE}{number(level)} ({clock})"


def _row(row: dict[Any, Any], schedule: Schedule) -> dict[str, Any]:
    """A feature's line of the table: of each edge the median with its interval, and on the native clock."""
    cells = {edge: _cell(row, edge, schedule) for edge in EDGES}
    return {"feature": row["feature"], "label": row["label"], "note": row["note"], **cells}


def _cell(row: dict[Any, Any], edge: str, schedule: Schedule) -> list[str]:
    value = float(row[edge])
    if not math.isfinite(value):
        return [_end(value), ""]
    low, high = (_end(float(row[f"{edge}_{part}"])) for part in ("low", "high"))
    return [f"{number(value)} [{low}, {high}]", native(schedule, value)]


def _end(value: float) -> str:
    return number(value) if math.isfinite(value) else "before" if value < 0 else "after" if value > 0 else "–"


def _bands(run: Trace) -> list[dict[str, str]]:
    """Half-emergence of each band beside theory."""
    if not run.bands():
        return []
    found, predicted = run.emergence(), run.predicted_emergence()
    rows = []
    for k, label in enumerate(run.bands()):
        one = found.row(k)
        ends = f"[{_end(one['half_low'])}, {_end(one['half_high'])}]"
        theory = number(predicted[k]) if math.isfinite(predicted[k]) else "–"
        rows.append({"label": label, "half": f"{_end(one['half'])} {ends}", "theory": theory})
    return rows


def _drivers(run: Trace, within: str | None) -> list[dict[str, str]]:
    """The pairs of layer and feature that go together most surely."""
    if not run.drivers:
        return []
    table = run.association(within=within).table()
    strong = table[table["significant"]].sort_values("r", key=abs, ascending=False).head(DRIVERS)
    labels = {one.feature: one.label for one in run.all_series()}
    return [
        {
            "layer": str(one["layer"]),
            "summary": str(one["summary"]),
            "feature": str(one["feature"]),
            "label": labels[str(one["feature"])],
            "r": number(one["r"]),
            "at": number(one["logsnr"]),
            "q": small(one["q"]),
            "family": small(one["family"]),
        }
        for one in strong.to_dict("records")
    ]
