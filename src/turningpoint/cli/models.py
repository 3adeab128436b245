"""``turningpoint models``, ``inspect``: what can be loaded, and what a model is."""

from __future__ import annotations

import inspect as python_inspect
from typing import Annotated

import typer

from ..models import MODELS, load
from ..models._describe import describe
from .app import Json, app, print_json, print_table

FORMS = {
    "edm": "edm:network-snapshot.pkl",
    "adm": "adm:256x256_diffusion_uncond.pt",
    "ddpm": "ddpm:workdir",
    "diffusers": "diffusers:FOLDER or diffusers:org/name",
    "azula": "azula:module:factory",
    "python": "python:module:factory",
    "empirical": "empirical:images.npz",
    "molrg": "molrg:FILE",
}
"""How families that lie somewhere are called; others are called by their name."""


@app.command()
def models(json: Json = False) -> None:
    """List the families of models, each with how it is called."""
    rows = []
    for name in MODELS.names():
        text = python_inspect.getdoc(MODELS[name]) or ""
        rows.append(
            {"family": name, "call": FORMS.get(name, name), "what": text.partition("\n")[0].rstrip(".")}
        )
    if json:
        print_json(rows)
        return
    print_table(
        "Models: MODEL in every command; settings follow as ?key=value&key=value",
        ["family", "call", "note"],
        [list(row.values()) for row in rows],
    )


@app.command()
def inspect(
    where: Annotated[str, typer.Argument(help="A file, a folder, or a model as in the other commands.")],
    json: Json = False,
) -> None:
    """Say what a model is: parameters, schedule, shape, conditioning, licence if stated; nothing in it is run."""
    told = describe(load(where))
    if json:
        print_json(told)
        return
    width = max(map(len, told))
    for name, value in told.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, list | tuple):
            shown = " x ".join(map(str, value))
        if isinstance(value, dict):
            shown = ", ".join(f"{key}={setting}" for key, setting in value.items())
        typer.echo(f"{name:<{width}}  {shown}")
