"""Options that the simulating commands share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TurningpointError
from ..run import Run
from .app import numbers, place

Sampler = Annotated[str, typer.Option(help="ddpm, ddim, euler or heun.")]
Grid = Annotated[
    str | None, typer.Option(help="uniform, logsnr, rho, or times by comma. [default: the sampler's usual]")
]
Label = Annotated[str | None, typer.Option(help="What the model is told: own, none, or class indices.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option(help="Of all noise.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; the same command again continues.")]
Stored = Annotated[str, typer.Option("--store", help="float32, float16 or uint8.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A sampler's setting, like eta=0.5; may be given again.")
]
Model = Annotated[str, typer.Argument(help="What to simulate: digits, or name?key=value.")]


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """A sampler's settings from ``name=number`` pairs."""
    settings = {}
    for pair in pairs or []:
        name, _, value = pair.partition("=")
        try:
            settings[name] = float(value)
        except ValueError:
            raise TurningpointError(f"--set is {pair!r}; accepted: name=number.") from None
    return settings


def grid_of(text: str | None) -> Any:
    """A grid's kind, or its times."""
    return numbers(text, "--grid") if text and text[0].isdigit() else text


def default_out(out: Path | None, kind: str, model: str, seed: int) -> Path:
    """The folder of a run for which none is given."""
    if out is not None:
        return out
    return Path("runs") / f"{kind}-{''.join(c if c.isalnum() else '-' for c in model)}-{seed}"


def summary_of(run: Run, seconds: float) -> dict[str, Any]:
    """What a command with ``--json`` says of the run it made."""
    sizes = dict(run.images.sizes)
    summary: dict[str, Any] = {
        "run": place(run.folder),
        "kind": run.kind,
        "model": run.settings["model"]["name"],
    }
    summary |= {"seconds": round(seconds, 3), "sizes": sizes, "complete": run.complete}
    if "time" in sizes:
        times = run.images.time
        summary["times"] = [float(t) for t in times]
        summary["logsnr"] = [float(v) for v in times.logsnr]
    return summary
