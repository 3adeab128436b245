"""``turningpoint hierarchy``: U-turns on a random grammar, level by level."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import pandas as pd
import typer

from ..errors import TurningpointError
from ..experiments.hierarchy import PROCESSES, mean_field
from ..experiments.hierarchy import hierarchy as run_hierarchy
from ..figures.hierarchy import hierarchy as draw
from ..figures.save import save
from ..models import load
from ..models.grammar import Grammar
from ..theory.hierarchy import MeanField
from .app import Json, app, number, numbers, place, print_json, print_table


@app.command()
def hierarchy(
    model: Annotated[str, typer.Argument(help="grammar?v=16&m=4&s=2&L=7")] = "grammar",
    process: Annotated[str, typer.Option(help=", ".join(PROCESSES) + ".")] = "epsilon",
    levels: Annotated[
        str | None, typer.Option(help="Noise levels of the process: a:b:n, or by comma.")
    ] = None,
    trees: Annotated[int, typer.Option(help="Of each grammar.")] = 400,
    grammars: Annotated[int, typer.Option(help="With the model's v, m, s and L.")] = 3,
    seed: Annotated[int, typer.Option(help="Of trees, noise and draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The table, FILE.csv; the picture is written beside it.")
    ] = None,
    json: Json = False,
) -> None:
    """Which levels of a random grammar's trees survive a U-turn, and how changes of leaves hang together."""
    if out is not None and out.suffix != ".csv":
        raise TurningpointError(f"--out is {str(out)!r}; accepted: a file whose name ends in .csv.")
    table = run_hierarchy(model, process, numbers(levels, "--levels"), trees, grammars, seed)
    tree = cast(Grammar, load(model)).hierarchy
    field = MeanField(tree.v, tree.m, tree.s)
    transition = field.epsilon if process == "epsilon" else math.nan
    written = []
    if out is not None:
        drawn = table
        if process == "epsilon":
            fine = np.linspace(table["noise"].min(), table["noise"].max(), 101)
            drawn = pd.concat([table, mean_field(tree, fine)], ignore_index=True)
        figure = draw(drawn, transition, chance=1 / tree.v)
        written = [place(path.absolute()) for path in save(figure, drawn, out.parent, out.stem)]
    if json:
        content = {"model": model, "process": process, "unit": PROCESSES[process].unit, "trees": trees}
        content |= {"grammars": grammars, "seed": seed, "epsilon": field.epsilon, "exponent": field.exponent}
        print_json(content | {"rows": table.to_dict("records"), "written": written})
        return
    _print(table, tree.L, PROCESSES[process].unit)
    if process == "epsilon":
        known = f"epsilon* = {field.epsilon:.4g}, exponent {field.exponent:.4g}"
        typer.echo(f"Mean field: {field.reason or known}.")
    if written:
        typer.echo(f"Look at {written[0]}.")


def _print(table: pd.DataFrame, depth: int, unit: str) -> None:
    names = ["leaves", *(f"level {level}" for level in range(1, depth)), "root"]
    rows = []
    for noise, part in table.groupby("noise"):
        kept = part[part["quantity"] == "kept"].sort_values("level")
        chi = part[part["quantity"] == "susceptibility"].iloc[0]
        cells = [f"{v:.3f} ± {e:.3f}" for v, e in zip(kept["value"], kept["error"], strict=True)]
        rows.append([f"{noise:g}", *cells, f"{number(chi['value'])} ± {number(chi['error'])}"])
    title = "Fraction of symbols kept by a U-turn, and susceptibility of the leaves (± standard error)"
    print_table(title, [unit, *names, "chi"], rows)
