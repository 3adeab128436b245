"""``turningpoint export``: a run's images, latents and trajectories as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TurningpointError
from ..experiments.export import export as run_export
from ..experiments.export_index import INDEX
from ..run import open_run
from .app import Json, RunFolder, app, listed, numbers, place, print_json


@app.command()
def export(
    run: RunFolder,
    out: Annotated[
        str, typer.Option(metavar="PATH", help="The folder for the files; the same command again continues.")
    ],
    what: Annotated[
        str | None,
        typer.Option(help="start, images, latents, original, records, by comma. [start,images]"),
    ] = None,
    format: Annotated[str, typer.Option(help="Of images: png, or npy for the exact floats.")] = "png",
    items: Annotated[str | None, typer.Option(help="a:b, to before b, or by comma. [all]")] = None,
    times: Annotated[str | None, typer.Option(help="Times t of the run: a:b:n, or by comma. [all]")] = None,
    replicates: Annotated[str | None, typer.Option(help="a:b, to before b, or by comma. [all]")] = None,
    json: Json = False,
) -> None:
    """Write a run's images as lossless files, with an index of what each is."""
    table = run_export(
        open_run(run),
        out,
        listed(what) or None,
        format,
        items=_whole(items, "--items"),
        times=numbers(times, "--times"),
        replicates=_whole(replicates, "--replicates"),
    )
    there = Path(out).absolute()
    rounded = int((~table["exact"].astype(bool)).sum())
    if json:
        counts = {"files": len(table), **table.attrs, "rounded": rounded}
        print_json({"out": place(there), "index": place(there / INDEX), **counts})
        return
    new = table.attrs["written"]
    typer.echo(f"{len(table)} files are in {place(there)}, {new} of them new; {INDEX} says what each is.")
    if rounded:
        typer.echo(f"{rounded} of them round finer numbers to 8 bits; --format npy keeps these.")
    if table.attrs["left_out"]:
        typer.echo(f"{table.attrs['left_out']} walks have not ended and are left out.")


def _whole(text: str | None, option: str) -> list[int] | None:
    """Whole numbers from ``a:b``, to before b, or ``a,b,c``.

    >>> _whole("0:3", "--items"), _whole("4,7", "--items")
    ([0, 1, 2], [4, 7])
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        found = list(range(int(match[1]), int(match[2])))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        found = [int(part) for part in text.split(",")]
    else:
        found = []
    if not found:
        raise TurningpointError(
            f"{option} is {text!r}; accepted: a:b with a below b, or numbers separated by commas."
        )
    return found
