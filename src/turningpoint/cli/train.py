"""``turningpoint train digits``: the recipe that made the built-in model, as a command."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TurningpointError, one_of
from ..training.digits import Recipe
from ..training.digits import train as train_digits
from .app import Json, app, print_json


@app.command()
def train(
    what: Annotated[str, typer.Argument(help="digits")],
    data: Annotated[
        Path, typer.Option(help="mnist.npz: train_images, train_labels, test_images, test_labels.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the weights.")] = Path("runs/train-digits"),
    seed: Annotated[int, typer.Option(help="Of initialisation, order and noise.")] = Recipe.seed,
    scale: Annotated[float, typer.Option(help="Multiplies the steps of all stages.")] = 1.0,
    json: Json = False,
) -> None:
    """Train a built-in model again; interrupted, the same command continues."""
    if what != "digits":
        raise one_of("model to train", what, ["digits"])
    if not 0 < scale < float("inf"):
        raise TurningpointError(f"--scale is {scale}; accepted: a number above 0.")
    usual = Recipe()
    stages = tuple(replace(stage, steps=max(1, round(stage.steps * scale))) for stage in usual.stages)
    epochs = max(1, round(usual.classifier_epochs * scale))
    recipe = replace(usual, seed=seed, stages=stages, classifier_epochs=epochs)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[int, object] = {}

        def progress(step: int, total: int, figures: dict[str, float]) -> None:
            task = tasks.setdefault(total, bar.add_task("", total=total) if total not in tasks else None)
            bar.update(task, completed=step, description=f"loss {figures['loss']:.4f}")  # type: ignore[arg-type]

        figures = train_digits(data, out, recipe, progress)
    if json:
        print_json({"folder": out, "recipe": asdict(recipe), **figures})
    else:
        typer.echo(f"{out} holds the model: {figures}")
