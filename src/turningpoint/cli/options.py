"""Options that the simulating commands share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TurningpointError
from ..run import Run
from .app import numbers, place

Sampler = Annotated[
    str, typer.Option(help="ddpm, ddim, euler, heun, euler_vp, heun_vp, euler_ve or heun_ve.")
]
Grid = Annotated[
    str | None,
    typer.Option(
        help="uniform, logsnr, rho, vp, ve, iddpm, respaced, leading, linspace, or times by comma. [the model's "
        "authors', else the sampler's]"
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", help="What a text-to-image model is told; may be given again, for as many parts."
    ),
]
NegativePrompt = Annotated[
    list[str] | None, typer.Option("--negative-prompt", help="What guidance moves away from. [nothing]")
]
Label = Annotated[str | None, typer.Option(help="What the model is told: own, none, or class indices.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option(help="Of all noise.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; the same command again continues.")]
Stored = Annotated[str, typer.Option("--store", help="float32, float16 or uint8.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A sampler's setting, like eta=0.5 or variance=learned; may be given again."),
]
Ask = Annotated[
    list[str] | None,
    typer.Option("--ask", help='A question for clip: "color: red, blue, green"; may be given again.'),
]
Network = Annotated[str | None, typer.Option(help="Which clip or dino: a hub id or a folder.")]
Classifier = Annotated[
    str | None,
    typer.Option(
        help="For classifier and layers: efficientnet-lite0, timm:NAME, transformers:PATH, onnx:FILE, ..."
    ),
]
Statistics = Annotated[
    str | None, typer.Option(help="For layers: what turningpoint statistics wrote. [of the starting images]")
]
Layers = Annotated[
    list[str] | None, typer.Option("--layers", help="Layers' names or patterns; may be given again.")
]
TrustProgram = Annotated[
    bool, typer.Option("--trust-program", help="Run a classifier's file that is a program.")
]
Classes = Annotated[
    str | None, typer.Option(help="Of a data set with labels: these classes, names or numbers by comma.")
]
PerClass = Annotated[int | None, typer.Option(help="Of a data set with labels: so many of each class.")]
Fit = Annotated[
    str, typer.Option(help="Pictures of another size: crop, square, stretch, or exact to refuse them.")
]
Split = Annotated[str | None, typer.Option(help="Of a data set that has several: train, test, ...")]
Model = Annotated[
    str, typer.Argument(help="digits, name?key=value or scheme:where?key=value; see turningpoint models.")
]


def told_measures(
    ask: list[str] | None,
    network: str | None,
    classifier: str | None,
    statistics: str | None,
    layers: list[str] | None,
    trust_program: bool,
) -> dict[str, Any]:
    """What the options for measures give, without those that were not given."""
    given = {
        "ask": ask,
        "network": network,
        "classifier": classifier,
        "statistics": statistics,
        "layers": layers,
    }
    told = {name: value for name, value in given.items() if value}
    return told | ({"trust_program": True} if trust_program else {})


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """A sampler's settings from ``name=value`` pairs.

    >>> settings_of(["eta=0.5", "variance=learned"])
    {'eta': 0.5, 'variance': 'learned'}
    """
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        name, _, value = pair.partition("=")
        if not name or not value:
            raise TurningpointError(f"--set is {pair!r}; accepted: name=value.")
        try:
            settings[name] = float(value)
        except ValueError:
            settings[name] = value
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
    if run.manifest["axes"].get("skipped"):
        summary["skipped"] = run.manifest["axes"]["skipped"]
    if "time" in sizes:
        times = run.images.time
        summary["times"] = [float(t) for t in times]
        summary["logsnr"] = [float(v) for v in times.logsnr]
    return summary
