"""The page of a patch: what the change of a layer did to each feature, and whether that had been predicted.

What is shown is read anew from the stored images.  Which measures were asked for, and the trace beside which its
predictions stand, are remembered in the run's manifest, under ``effects``: they are no part of the run's identity.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .beside import Picture
from .errors import TurningpointError
from .experiments.effects import effects
from .experiments.patch import ARRAYS, steps_inside, window_of
from .experiments.verdicts import BOTH, BYSTANDER, UNREAD, UNSEEN, VERDICTS, changed, verdicts
from .figures.effects import spoken
from .figures.heat import short
from .figures.style import number
from .models._names import brief
from .pages import joined, made, render, saved, small
from .run import Run
from .simulation.store import sentences
from .tracing import Trace, open_trace

REMEMBERED = "effects"
"""The manifest's key."""
SHOWN = 12
"""Pairs of images on the page."""
NAMED = 6
"""Features named in the answer, at most."""
OTHER = re.compile(r"(?:moved )?([\d.]+) of the way to another image")
"""What a table need not say in each row."""
VERBS = {
    "ablate": "Setting {} to zero",
    "mean": "Replacing {} by its mean over positions",
    "skip": "Skipping {}",
    "patch": "Putting the donor’s activation into {}",
}


@dataclass(frozen=True, eq=False)
class Findings:
    """What a patch did.

    Attributes
    ----------
    effects : DataFrame
        Of `turningpoint.effects`.
    verdicts : DataFrame, optional
        Of `turningpoint.experiments.verdicts.verdicts`, if there is a trace beside.
    beside : str
        Which trace; if it is remembered but not to be had, why.
    """

    effects: pd.DataFrame
    verdicts: pd.DataFrame | None = None
    beside: str = ""


def remember(
    run: Run, measures: Sequence[str] | None, told: Mapping[str, Any], beside: str | Path | None
) -> None:
    """Keep in a patch's manifest what was asked of it, for its page.

    Parameters
    ----------
    run : Run
        Of `patch`.
    measures : sequence of str, optional
        Their names; None stands for the usual ones.
    told : mapping
        Settings for them.
    beside : path, optional
        A trace's folder; one remembered before stays if none is given.
    """
    with run.store.exclusive():
        known = run.store.reload().get(REMEMBERED, {})
        asked = {"measures": None if measures is None else list(measures), "told": dict(told)}
        place = known.get("beside")
        if beside is not None:
            place = _relative(Path(beside), run.folder)
        run.manifest[REMEMBERED] = asked | {"beside": place}
        run.store.save_manifest()


def _relative(place: Path, folder: Path | None) -> str:
    """A trace's folder as seen from the run's, so that a study that is moved as a whole stays one."""
    try:
        return str(place.resolve()) if folder is None else os.path.relpath(place.resolve(), folder.resolve())
    except ValueError:  # another drive
        return str(place.resolve())


def predictions(beside: Trace, model: str, fingerprint: str) -> pd.DataFrame:
    """What a trace of the same model says of its layers and features.

    Raises
    ------
    TurningpointError
        If it is of another model, or has looked at no layer.
    """
    traced = beside.settings["model"]
    if traced["fingerprint"] != fingerprint:
        raise TurningpointError(
            f"beside is {str(beside.folder or 'in memory')!r}, a trace of the model {traced['name']!r} of fingerprint "
            f"{traced['fingerprint']}; accepted: one of {model!r}, {fingerprint}."
        )
    return beside.association().table()


def judged(run: Run, table: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on what was predicted of the layers that a patch has changed."""
    return verdicts(table, predicted, run.settings["patch"]["layers"], window_of(run))


def findings(run: Run, beside: Trace | None = None) -> Findings:
    """Read a patch anew, as it was last asked for.

    Parameters
    ----------
    run : Run
        Of `patch`.
    beside : Trace, optional
        By default the one that is remembered; if that is gone, there are no verdicts.

    Raises
    ------
    TurningpointError
        If the run has not ended, a measure cannot be had any more, or the trace that is given says nothing of the
        layers.
    """
    asked = run.manifest.get(REMEMBERED, {})
    told = asked.get("told") or {}
    table = effects(run, asked.get("measures"), told=told)
    model = run.settings["model"]
    place = asked.get("beside")
    if beside is not None:
        said = judged(run, table, predictions(beside, model["name"], model["fingerprint"]))
        place = None if beside.folder is None else _relative(beside.folder, run.folder)
        return Findings(table, said, place or "in memory")
    if place is None:
        return Findings(table)
    try:
        trace = open_trace(place if run.folder is None else run.folder / place)
        return Findings(
            table, judged(run, table, predictions(trace, model["name"], model["fingerprint"])), place
        )
    except TurningpointError as error:
        return Findings(table, None, f"The trace beside which it was last read cannot be read now: {error}")


def patch_report(
    run: Run,
    folder: str | Path | None = None,
    beside: Trace | None = None,
    found: Findings | None = None,
) -> Path:
    """Write ``report.html`` of a patch, the tables ``effects.csv`` and ``verdicts.csv``, and figures with theirs.

    Parameters
    ----------
    run : Run
        Of `patch`.
    folder : path, optional
        Where to write; by default the run's own folder.
    beside : Trace, optional
        Of the same model, which has looked at the layers: what it predicts is compared with what changed.
    found : Findings, optional
        By default they are read from the images.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    TurningpointError
        If the run lives in memory and no folder is given, has not ended, or the folder cannot be written.
    """
    place = run.folder if folder is None else Path(folder)
    if place is None:
        raise TurningpointError("folder is None and the run is in memory; accepted: a folder to write into.")
    known = findings(run, beside) if found is None else found
    with sentences(place):
        return _write(run, place, known)


def _write(run: Run, place: Path, found: Findings) -> Path:
    table, said = found.effects, found.verdicts
    labels = {str(row["feature"]): str(row["label"]) for row in table.to_dict("records")}
    drawn = pictures(run, found)
    inside, steps = steps_inside(run)
    page = {
        "title": f"{_layers(run)} in {brief(run.settings['model']['name'])}",
        **made(run),
        "answer": answer(run, found),
        "figures": saved(drawn, place / "figures"),
        "size": f"{len(run.images)} images, each with and without the change",
        "change": _change(run),
        "steps": f"{inside} of {steps} steps",
        "about": spoken(table),
        "rows": [_row(row) for row in table.to_dict("records")],
        "towards": "towards" in table,
        "judged": said is not None,
        "verdicts": [] if said is None else _verdicts(said, labels),
        "summary": "" if said is None else _counted(said),
        "beside": found.beside,
        "donor": "donor" in run.settings["patch"],
        "pairs": min(SHOWN, len(run.images)),
    }
    path = render("patch.html.j2", page, place)
    for name, content in (("effects", table), ("verdicts", said)):
        if content is not None:
            content.to_csv(place / f"{name}.csv", index=False, lineterminator="\n")
    return path


def pictures(run: Run, found: Findings) -> dict[str, Picture]:
    """The forest plot, and some of the images if the model makes images."""
    from .figures.effects import effects as forest
    from .figures.pairs import pairs, pairs_table

    predicted: tuple[list[str], list[str]] = [], []
    if found.verdicts is not None:
        told = found.verdicts[found.verdicts["r"].notna()]
        inside = told["inside"].astype(bool)
        predicted = told["feature"][inside].tolist(), told["feature"][~inside].tolist()
    drawn: dict[str, Picture] = {
        "effects": (forest(found.effects, *predicted), found.effects, spoken(found.effects))
    }
    images = some_images(run)
    if images["clean"].ndim == 4:
        first = run.manifest["axes"]["first_item"]
        items = range(first, first + len(images["clean"]))
        about = "Images without and with the change, from the same noise, and their difference."
        drawn["images"] = (pairs(images, items), pairs_table(images, items), about)
    return drawn


def some_images(run: Run) -> dict[str, np.ndarray]:
    """The first images of each variant, (n, ...): clean, changed and perhaps donor."""
    there = {name: array for name, array in ARRAYS.items() if run.store.has(array)}
    return {
        name: run.store.read(array, (slice(0, SHOWN),)).astype(np.float32) for name, array in there.items()
    }


def answer(run: Run, found: Findings) -> str:
    """What the change did, in a few sentences: what changed, and what was predicted and did not."""
    table, said = found.effects, found.verdicts
    inside, steps = steps_inside(run)
    low, high = window_of(run)
    count, n = int(changed(table).sum()), len(table)
    where = f"in {inside} of {steps} steps, log-SNR {number(low)} to {number(high)},"
    some = f"{'none' if not count else 'all' if count == n else count} of {n} features"
    if n == 1:
        some = f"{table['label'].iloc[0]}" if count else f"nothing of {table['label'].iloc[0]}"
    words = f"{_change(run)} {where} changes {some} of the final images."
    if said is None:
        return words
    labels = {str(row["feature"]): str(row["label"]) for row in table.to_dict("records")}
    read = said[said["verdict"].isin([BOTH, BYSTANDER])]
    told, at_times = read[read["inside"]], "at these times"
    if told.empty:
        told, at_times = read, "at other times"
    if told.empty:
        return f"{words} The layer’s activity predicts none of them."
    kept = [labels.get(str(name), str(name)) for name in told["feature"][told["verdict"] == BYSTANDER]]
    words += f" Of {len(told)} that the layer’s activity predicts {at_times}, {_kept(kept, len(told))}."
    return words + _farther(read, table)


def _kept(kept: Sequence[str], n: int) -> str:
    if not kept:
        return "all do change" if n > 1 else "it does change"
    shown = kept if len(kept) <= NAMED else [*kept[: NAMED - 1], f"{len(kept) - NAMED + 1} others"]
    if len(kept) == n:
        return f"{'none changes' if n > 1 else 'it does not change'}: {joined(shown)}"
    does, do_not = (f"{count} {'does' if count == 1 else 'do'}" for count in (n - len(kept), len(kept)))
    return f"{does} change, {do_not} not: {joined(shown)}"


def _farther(read: pd.DataFrame, table: pd.DataFrame) -> str:
    """Whether what was predicted moved farther than what was not."""
    told = table["feature"].isin(read["feature"])
    ours, others = (table["moved"][rows].astype(float).median() for rows in (told, ~told))
    if not (math.isfinite(ours) and math.isfinite(others)):
        return ""
    than = "farther than the others" if ours > others else "no farther than the others"
    return (
        f" What it predicts moved {than}: {number(ours)} against {number(others)} of the way to another image "
        "(medians)."
    )


def _layers(run: Run) -> str:
    names = [str(name) for name in run.settings["patch"]["layers"]]
    if len(names) <= 3:
        return joined(names)
    return f"{names[0]} and {len(names) - 1} other layers"


def _change(run: Run) -> str:
    """What was done to the layers, as the beginning of a sentence."""
    mode = str(run.settings["patch"]["mode"])
    if mode.startswith("scale:"):
        return f"Scaling {_layers(run)} by {mode.partition(':')[2]}"
    return VERBS.get(mode, f"{mode} of {{}}").format(_layers(run))


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A feature's line of the table."""
    found = {
        "label": row["label"],
        "feature": row["feature"],
        "unit": row["unit"],
        "note": row["note"],
        "means": [short(float(row["clean"])), short(float(row["changed"]))],
        "effect": _cell(row, "effect", ("low", "high"), short),
        "q": small(float(row["q"])),
        "sure": bool(row["q"] <= 0.05),
    }
    for name in ("standardised", "moved", "towards"):
        if name in row:
            found[name] = _cell(row, name, (f"{name}_low", f"{name}_high"), number)
    return found


def _cell(row: Mapping[Any, Any], name: str, ends: tuple[str, str], said: Any) -> list[str]:
    """A number, and below it its interval."""
    value, low, high = (float(row[key]) for key in (name, *ends))
    return ["–"] if math.isnan(value) else [said(value), f"{said(low)} to {said(high)}"]


def _counted(said: pd.DataFrame) -> str:
    """How many features there are of each verdict, whatever the times of the predictions."""
    counts = {verdict: int((said["verdict"] == verdict).sum()) for verdict in VERDICTS}
    read = counts[BOTH] + counts[BYSTANDER]
    words = "At no time does the layer’s activity predict a feature that was read"
    if read:
        words = f"The layer’s activity predicts {read} feature{'s' * (read != 1)} at some time"
        words += f", of which {counts[BOTH] or 'none'} changed"
    words += f"; {counts[UNSEEN]} changed without a prediction" if counts[UNSEEN] else ""
    return words + (f"; {counts[UNREAD]} that it predicts were not read." if counts[UNREAD] else ".")


def _minus(text: str) -> str:
    """With true minus signs."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def _verdicts(said: pd.DataFrame, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The verdicts, those of a kind together."""
    several = said["layer"].replace("", np.nan).nunique() > 1
    groups = []
    for verdict in VERDICTS:
        rows = []
        for row in said[said["verdict"] == verdict].to_dict("records"):
            predicted = math.isfinite(float(row["r"]))
            what = f"{row['layer']} {row['summary']}" if several else row["summary"]
            rows.append(
                {
                    "label": labels.get(str(row["feature"]), str(row["feature"])),
                    "feature": row["feature"],
                    "r": number(float(row["r"])) if predicted else "–",
                    "what": what if predicted else "",
                    "at": number(float(row["logsnr"])) if predicted else "–",
                    "inside": ("inside" if row["inside"] else "outside") if predicted else "",
                    "outcome": _minus(OTHER.sub(r"moved \1", row["outcome"])),
                }
            )
        if rows:
            groups.append({"title": verdict, "rows": rows})
    return groups
