"""``turningpoint measure``, ``windows``, ``report``, ``merge``, ``measures``: commands that ask stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TurningpointError
from ..experiments.merge import merge as run_merge
from ..measures import MEASURES
from ..measures import measure as make_measure
from ..run import Run, open_run
from ..tracing import Trace, is_trace, open_trace
from .app import (
    Delta,
    Device,
    Json,
    RunFolder,
    With,
    app,
    listed,
    place,
    print_json,
    print_table,
    print_windows,
)
from .options import Ask, Classifier, Layers, Network, Statistics, TrustProgram, told_measures


def measure_all(run: Run, names: list[str], told: dict[str, Any] | None = None) -> Run:
    """Measure with the named measures, or with all light ones that apply to the run's model if none is named."""
    if names or told:
        return run.measure(*names, **(told or {}))
    for name in MEASURES.names():
        if not getattr(MEASURES[name], "by_default", True):
            continue
        try:
            run.measure(name)
        except TurningpointError as error:
            typer.echo(f"left out: {error}", err=True)
    return run


@app.command()
def measure(
    run: RunFolder,
    with_: With = None,
    ask: Ask = None,
    network: Network = None,
    classifier: Classifier = None,
    statistics: Statistics = None,
    layers: Layers = None,
    trust_program: TrustProgram = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Read a run's images; what is read is kept beside them."""
    told = told_measures(ask, network, classifier, statistics, layers, trust_program)
    told |= {} if device is None else {"device": device}
    opened = measure_all(asked_of_starts(run), listed(with_), told)
    if json:
        print_json({"run": place(opened.folder), "features": opened.features()})
        return
    typer.echo(f"{place(opened.folder)} holds: {', '.join(opened.features())}.")
    typer.echo(f"Next: turningpoint windows {run}, turningpoint report {run}")


@app.command()
def windows(run: RunFolder, delta: Delta = 0.1, json: Json = False) -> None:
    """Print the critical window of every feature, earliest first."""
    asked_of_starts(run)
    opened = _measured(run)
    table = opened.windows(delta)
    if json:
        order = opened.order(delta=delta)
        print_json({"run": place(opened.folder), "delta": delta, "windows": table.to_dict("records"),
                    "decided_before": order.to_dict("index")})  # fmt: skip
    else:
        print_windows(table, opened.schedule.native_unit)


@app.command()
def report(
    run: RunFolder,
    delta: Delta = 0.1,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Clones to a run of U-turns, or the reverse: show their difference. A trace to a patch."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write RUN/report.html and the figures, each with its table."""
    from ..report import report as write_report

    page = write_report(_opened(run), delta=delta, beside=None if beside is None else _opened(beside))
    if json:
        print_json({"report": place(page)})
    else:
        typer.echo(f"Look at {place(page)}.")


def _opened(folder: Path) -> Run | Trace:
    """A run with what its page needs; a patch is read by its page."""
    return open_trace(folder) if is_trace(folder) else _measured(folder)


def asked_of_starts(folder: Path) -> Run:
    """A run whose images are compared with those that they began as; those of a patch are with one another."""
    run = open_run(folder)
    if run.kind == "patch":
        raise TurningpointError(
            f"run is {str(folder)!r}, which holds a patch; accepted for it: the commands patch, report and repeat, and "
            "in Python effects."
        )
    return run


def _measured(folder: Path) -> Run:
    run = open_run(folder)
    return run if run.features() or run.kind == "patch" else measure_all(run, [])


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Runs of equal settings.")],
    out: Annotated[Path, typer.Option(help="The new run's folder.")],
    json: Json = False,
) -> None:
    """Lay runs of equal settings side by side: more images, times or seeds."""
    merged = run_merge([asked_of_starts(folder) for folder in runs], out)
    sizes = dict(merged.images.sizes)
    if json:
        print_json({"run": place(merged.folder), "sizes": sizes})
    else:
        typer.echo(f"{len(runs)} runs are one in {place(merged.folder)}: {sizes}.")


@app.command()
def measures(
    model: Annotated[str, typer.Option(help="Whose classifier and image size count.")] = "digits",
    json: Json = False,
) -> None:
    """List the measures and what each reads."""
    from ..models import load

    rows, known = [], load(model)
    for name in MEASURES.names():
        if not getattr(MEASURES[name], "by_default", True):
            about = (MEASURES[name].__doc__ or "").strip().split("\n")[0]
            rows.append([name, "–", "", f"if it is named: {about}"])
            continue
        try:
            made = make_measure(name, known)
        except TurningpointError as error:
            rows.append([name, "–", "", f"does not apply: {error}"])
            continue
        rows += [[made.feature(r), r.kind, r.unit, r.description] for r in made.readings]
    if json:
        keys = ("feature", "kind", "unit", "description")
        print_json({"measures": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        print_table("Measures", ["feature", "kind", "unit", "note"], rows)
