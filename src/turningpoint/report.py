"""One page that tells what a run found: figures, tables, settings, and the command to repeat it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .beside import error_picture, theory_picture
from .diffusion.schedule import Schedule
from .errors import TurningpointError
from .figures.answer import answer, native, ranked_by_centre
from .figures.difference import spoken
from .figures.probability import caption
from .figures.style import clock_name, number
from .illustrate import boards, pictures, set_aside, sorted_categories
from .models._names import brief
from .pages import made, render, saved
from .patch_report import patch_report
from .simulation.store import sentences
from .trace_report import trace_report
from .tracing import Trace

if TYPE_CHECKING:
    from .run import Run

EDGES = ("start", "centre", "end")


def report(
    run: Run | Trace,
    folder: str | Path | None = None,
    delta: float = 0.1,
    beside: Run | Trace | None = None,
) -> Path:
    """Write ``report.html`` and, under ``figures/``, every picture with the table it was drawn from.

    The page is self-contained: it loads nothing and opens offline.

    Parameters
    ----------
    run : Run or Trace
        A run of U-turns or clones, or trajectories, with at least one reading; or a patch.
    folder : path, optional
        Where to write; by default the run's own folder.
    delta : float
        A window starts at retention delta and ends at 1 - delta.
    beside : Run or Trace, optional
        Clones to a run of U-turns, or U-turns to one of clones: the page shows their difference, which is
        zero for an exact denoiser (see `turningpoint.model_error`).  To a patch a trace of the same layers: the
        page says which of its predictions have come true.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    TurningpointError
        If the run lives in memory and no folder is given, nothing has been measured, or the folder
        cannot be written.
    """
    if isinstance(run, Trace):
        if beside is not None:
            raise TurningpointError("beside is given with a trace; accepted: see turningpoint.compare.")
        return trace_report(run, folder)
    if run.kind == "patch":
        if beside is not None and not isinstance(beside, Trace):
            raise TurningpointError(f"beside is a run of {beside.kind}; accepted to a patch: a trace.")
        return patch_report(run, folder, beside)
    if isinstance(beside, Trace):
        raise TurningpointError(f"beside is a trace; accepted to a run of {run.kind}: a run.")
    place = run.folder if folder is None else Path(folder)
    if place is None:
        raise TurningpointError("folder is None and the run is in memory; accepted: a folder to write into.")
    with sentences(place):
        return _write(run, place, delta, beside)


def _write(run: Run, place: Path, delta: float, beside: Run | None) -> Path:
    """Draw, fill the template, and write both."""
    measured, curves = run.windows(delta=delta), run.curves()
    aside = set_aside(measured)
    windows = measured[~measured["feature"].isin(aside)]
    order = run.order([str(feature) for feature in windows["feature"]], delta)
    settings = run.manifest.get("settings", {})
    model = settings.get("model", {})
    curves = curves[np.isfinite(curves["logsnr"].astype(float))]  # a clock may begin at no signal at all
    levels = curves["logsnr"].astype(float)
    sweep = (float(levels.min()), float(levels.max()))
    error = None if beside is None else _model_error(run, beside)
    categories = sorted_categories(run, measured)
    drawn = pictures(run, categories, measured, curves, order, sweep, delta)
    drawn |= theory_picture(run, beside, sweep) | ({} if error is None else error_picture(error))
    page = {
        "title": brief(model.get("name", "model")),
        **made(run),
        "answer": answer(windows, order, run.schedule),
        "figures": saved(drawn, place / "figures"),
        "difference": "" if error is None else spoken(error),
        "probability": caption(drawn["probability"][1], measured) if "probability" in drawn else "",
        "clock": clock_name(run.schedule),
        "rows": [_row(row, run.schedule, sweep) for row in ranked_by_centre(windows).to_dict("records")],
        "aside": len(aside),
        "framed": categories[0].label if categories else "",
        "boards": {name: "" if c is None else c.label for name, c in boards(categories).items()},
        "sweep": [number(level) for level in sweep],
        "delta": f"{delta:g}",
        "nearly": f"{1 - delta:g}",
        "kind": run.manifest.get("kind", ""),
        "size": _size(run.manifest.get("axes", {})),
        "check": _step_check(run, delta),
    }
    return render("run.html.j2", page, place)


def _model_error(run: Run, beside: Run) -> pd.DataFrame:
    from .experiments.model_error import model_error

    return model_error(run, beside) if run.kind == "uturn" else model_error(beside, run)


def _step_check(run: Run, delta: float) -> dict[str, Any] | None:
    """What `step_check` found, if it was asked for and has ended."""
    from .experiments.step_check import DOUBLED, compared
    from .run import open_run

    folder = None if run.folder is None else run.folder / DOUBLED
    if folder is None or not (folder / "manifest.json").is_file():
        return None
    doubled = open_run(folder)
    if not doubled.complete or not doubled.features():
        return None
    table = compared(run, doubled, delta)
    rows = [
        {
            "label": dict(run.windows(delta)[["feature", "label"]].values)[r["feature"]],
            "centre": _bound(r["centre"]),
            "doubled": _bound(r["centre_doubled"]),
            "difference": f"{_bound(r['difference'])} [{_bound(r['difference_low'])}, {_bound(r['difference_high'])}]"
            if math.isfinite(r["difference"])
            else "–",
            "verdict": r["verdict"],
        }
        for r in table.to_dict("records")
    ]
    steps = [r.settings["grid"]["steps"] for r in (run, doubled)]
    return {"rows": rows, "steps": steps, "agree": sum(row["verdict"] == "agrees" for row in rows)}


def _row(row: dict[Any, Any], schedule: Schedule, sweep: tuple[float, float]) -> dict[str, Any]:
    """A feature's line of the table: for each edge, its log-SNR, t and native step with intervals."""
    cells = {}
    for edge in EDGES:
        value, low, high = (float(row[f"{edge}{suffix}"]) for suffix in ("", "_low", "_high"))
        if math.isnan(value):
            cells[edge] = ["–"]
        elif math.isinf(value):
            cells[edge] = [f"before {number(sweep[0])}" if value < 0 else f"after {number(sweep[1])}"]
        else:
            cells[edge] = [f"{number(value)} [{_bound(low)}, {_bound(high)}]"]
            t = [
                number(float(schedule.t(logsnr=v)), 3) if math.isfinite(v) else "open"
                for v in (value, high, low)
            ]
            cells[edge].append(f"t {t[0]} [{t[1]}, {t[2]}]")
            if schedule.native_unit != "t":
                n = [native(schedule, v) if math.isfinite(v) else "open" for v in (value, high, low)]
                cells[edge].append(f"{clock_name(schedule)} {n[0]} [{n[1]}, {n[2]}]")
    return {"feature": row["feature"], "label": row["label"], "note": row["note"], **cells}


def _bound(value: float) -> str:
    return number(value) if math.isfinite(value) else "open"


def _size(axes: dict[str, Any]) -> str:
    counts = [("items", "starting image"), ("replicates", "replicate")]
    known = [(axes[name], what) for name, what in counts if isinstance(axes.get(name), int)]
    return " × ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in known)
