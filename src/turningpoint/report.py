"""One page that tells what a run found: figures, tables, settings, and the command to repeat it."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .diffusion.schedule import Schedule
from .errors import TurningpointError
from .figures.style import clock_name, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Run

ROWS = 8  # starting images in the grid
CERTAIN = 0.95  # P(before) from which an order counts as resolved
EDGES = ("start", "centre", "end")


def report(run: Run, folder: str | Path | None = None, delta: float = 0.1) -> Path:
    """Write ``report.html`` and, under ``figures/``, every picture with the table it was drawn from.

    The page is self-contained: it loads nothing and opens offline.

    Parameters
    ----------
    run : Run
        A U-turn run with at least one reading.
    folder : path, optional
        Where to write; by default the run's own folder.
    delta : float
        A window starts at retention delta and ends at 1 - delta.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    TurningpointError
        If the run lives in memory and no folder is given, or nothing has been measured.
    """
    from jinja2 import Environment, StrictUndefined

    place = run.folder if folder is None else Path(folder)
    if place is None:
        raise TurningpointError("folder is None and the run is in memory; accepted: a folder to write into.")
    windows, curves, order = run.windows(delta=delta), run.curves(), run.order()
    settings = run.manifest.get("settings", {})
    model = settings.get("model", {})
    levels = curves["logsnr"].astype(float)
    sweep = (float(levels.min()), float(levels.max()))
    page = {
        "model": model.get("name", "model"),
        "answer": answer(windows, order, run.schedule),
        "figures": _figures(run, windows, curves, order, sweep, delta, place / "figures"),
        "clock": clock_name(run.schedule),
        "rows": [_row(row, run.schedule, sweep) for row in _ranked(windows).to_dict("records")],
        "sweep": [number(level) for level in sweep],
        "delta": f"{delta:g}",
        "nearly": f"{1 - delta:g}",
        "kind": run.manifest.get("kind", ""),
        "axes": {name: _axis(value) for name, value in run.manifest.get("axes", {}).items()},
        "settings": _flat({name: value for name, value in settings.items() if name != "model"}),
        "details": _flat({name: value for name, value in model.items() if name != "fingerprint"}),
        "fingerprint": model.get("fingerprint", "unknown"),
        "versions": run.manifest.get("versions", {}),
        "command": run.manifest.get("command", ""),
        "papers": run.papers(),
    }
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    place.mkdir(parents=True, exist_ok=True)
    path = place / "report.html"
    path.write_text(environment.from_string(template).render(page), encoding="utf-8")
    return path


def answer(windows: pd.DataFrame, order: pd.DataFrame, schedule: Schedule) -> str:
    """What the run found, in a sentence or two: when the class is decided, what comes first and last."""
    ranked = _ranked(windows).dropna(subset=["centre"])
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
        row = ranked.iloc[0]
        where = _at(float(row["centre"]), schedule)
        said.append(f"{row['label']} is half decided {where}.")
    return " ".join(sentence[:1].upper() + sentence[1:] for sentence in said)


def _class_sentence(row: dict[Any, Any], schedule: Schedule) -> str:
    start, end = float(row["start"]), float(row["end"])
    if math.isnan(float(row["centre"])):
        return f"the class has no window: {str(row['note']).rstrip('.') or 'its retention says nothing'}."
    if math.isfinite(start) and math.isfinite(end):
        times = ", ".join(_native(schedule, level) for level in (start, end))
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


def _ranked(windows: pd.DataFrame) -> pd.DataFrame:
    return windows.sort_values(["centre", "start", "end"], kind="stable", na_position="last")


def _native(schedule: Schedule, level: float) -> str:
    value = float(schedule.native(schedule.t(logsnr=level)))
    return number(value, 0 if abs(value) >= 100 else 1 if schedule.native_unit == "step" else 3)


def _at(level: float, schedule: Schedule) -> str:
    if not math.isfinite(level):
        return f"{'before' if level < 0 else 'after'} the sweep"
    return f"at log-SNR {number(level)} ({clock_name(schedule)} {_native(schedule, level)})"


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
                n = [_native(schedule, v) if math.isfinite(v) else "open" for v in (value, high, low)]
                cells[edge].append(f"{clock_name(schedule)} {n[0]} [{n[1]}, {n[2]}]")
    return {"feature": row["feature"], "label": row["label"], "note": row["note"], **cells}


def _bound(value: float) -> str:
    return number(value) if math.isfinite(value) else "open"


def _figures(
    run: Run,
    windows: pd.DataFrame,
    curves: pd.DataFrame,
    order: pd.DataFrame,
    sweep: tuple[float, float],
    delta: float,
    folder: Path,
) -> dict[str, str]:
    """Draw, save and inline every picture that the run has material for."""
    from .figures.grid import grid_table, image_grid
    from .figures.order import order as order_matrix
    from .figures.order import order_rows
    from .figures.retention import retention
    from .figures.save import inline, save
    from .figures.timeline import timeline

    ranked = _ranked(windows)
    drawn: dict[str, tuple[Figure, pd.DataFrame, str]] = {}
    about = "Critical windows along log-SNR, earliest first: " + "; ".join(
        _spoken(r) for r in ranked.to_dict("records")
    )
    drawn["timeline"] = (timeline(ranked, run.schedule, sweep, delta), ranked, about)
    about = f"Retention against log-SNR for {len(ranked)} features, with bootstrap bands; the numbers are in retention.csv."
    drawn["retention"] = (retention(curves, windows, run.schedule, delta=delta), curves, about)
    images = run.images
    if {"item", "replicate", "time", "y", "x"} <= set(images.dims):
        shown = images.isel(item=slice(ROWS), replicate=slice(1))
        times = np.asarray(images["t"].values, dtype=float)
        labels, seen = _classes(run)
        start = run.start.isel(item=slice(ROWS)).values
        grid = image_grid(start, shown.values, times, run.schedule, ROWS, labels, seen)
        about = "Starting images and what came back from U-turns through growing noise."
        drawn["images"] = (grid, grid_table(times, run.schedule, len(start), labels, seen), about)
    if len(order) > 1:
        about = (
            "Matrix of the probability that the row's feature is decided before the column's; see order.csv."
        )
        drawn["order"] = (order_matrix(order, windows), order_rows(order), about)
    for name, (figure, table, _) in drawn.items():
        save(figure, table, folder, name)
    return {name: inline(figure, name, about) for name, (figure, _, about) in drawn.items()}


def _spoken(row: dict[Any, Any]) -> str:
    if math.isnan(float(row["centre"])):
        return f"{row['label']} none"
    return f"{row['label']} {number(float(row['start']), 1)} to {number(float(row['end']), 1)}"


def _classes(run: Run) -> tuple[np.ndarray | None, np.ndarray | None]:
    try:
        reading = run.reading("class")
    except TurningpointError:
        return None, None
    return reading["start"].values, reading["back"].transpose("item", "replicate", "time").values


def _axis(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray) and len(value) > 6:
        return f"{len(value)} from {min(value):.4g} to {max(value):.4g}"
    return (
        ", ".join(f"{v:.4g}" for v in value) if isinstance(value, list | tuple | np.ndarray) else str(value)
    )


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = "none" if value is None else _axis(value) if _numbers(value) else str(value)
    return flat


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, int | float) for v in value)
