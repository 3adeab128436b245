"""``turningpoint demo``: the main job on the built-in model, and the tour of symmetry breaking."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import one_of
from ..experiments.symmetry import draw, symmetry
from ..experiments.uturn import uturn as run_uturn
from .analyse import measure_all
from .app import Batch, Device, Json, app, place, print_json, print_windows
from .options import summary_of

DEMOS = ("digits", "symmetry")


@app.command()
def demo(
    what: Annotated[
        str, typer.Argument(help="digits, or symmetry: one dimension, in closed form.")
    ] = "digits",
    out: Annotated[Path | None, typer.Option(help="Where it is kept. [runs/demo, runs/symmetry]")] = None,
    items: Annotated[int, typer.Option(help="Starting images.")] = 64,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """When are a handwritten digit's class, slant, stroke and frequencies decided? The built-in model's answer."""
    if what not in DEMOS:
        raise one_of("demo", what, DEMOS)
    (_digits if what == "digits" else _symmetry)(out, items, batch, device, json)


def _digits(out: Path | None, items: int, batch: int, device: str | None, json: bool) -> None:
    from ..report import report as write_report

    begun = time.monotonic()
    folder = out or Path("runs/demo")
    run = run_uturn("digits", replicates=2, items=items, out=folder, batch=batch, device=device)
    measure_all(run, [])
    page = write_report(run)
    seconds = time.monotonic() - begun
    if json:
        windows = run.windows().to_dict("records")
        print_json(summary_of(run, seconds) | {"report": place(page), "windows": windows})
        return
    print_windows(run.windows(), run.schedule.native_unit)
    typer.echo(f"Look at {place(page)} ({seconds:.0f} s in all).")


def _symmetry(out: Path | None, items: int, batch: int, device: str | None, json: bool) -> None:
    del batch, device  # one dimension, in closed form
    tour = symmetry(paths=items)
    files = draw(tour, out or Path("runs/symmetry"))
    shown = [place(file) for file in files if file.suffix == ".svg"]
    if json:
        print_json({"breaking_logsnr": tour.breaking, "figures": shown})
        return
    t = float(tour.schedule.t(logsnr=tour.breaking))
    typer.echo(
        "Two points at +-1: the reverse SDE's drift (VP coordinates) loses its stability at log-SNR "
        f"{tour.breaking:.3f}, t = {t:.3f}."
    )
    typer.echo(f"Look at {', '.join(str(file) for file in shown)}.")
