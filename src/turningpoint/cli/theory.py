"""``turningpoint theory``: what closed forms predict of a model or of data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import TurningpointError
from ..experiments.starting import starting_images
from ..models import load
from ..theory import table
from ..theory import theory as predictions_of
from ..theory.data import from_data
from .app import Json, app, number, print_json, print_table
from .options import Model


@app.command()
def theory(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Predict from data, not from the model: an .npz, an .npy or a folder.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="An .npy of class indices, one per item; by default those of the .npz."),
    ] = None,
    json: Json = False,
) -> None:
    """Print every prediction of theory that applies to a model that knows itself, or to data."""
    known = load(model)
    if labels is not None and data is None:
        raise TurningpointError(f"--labels is {str(labels)!r} without --data; accepted: both, or none.")
    found = [] if data is not None else predictions_of(known)
    of = f"the model {model}"
    if not found:
        if data is None and known.starting_images() is None:
            raise TurningpointError(
                f"model is {model!r}, which knows nothing of its data and ships none; accepted: an exact model "
                "(deltas, gaussians, ...), or data with --data."
            )
        starting = starting_images(data, known)
        block = starting.block(0, len(starting))
        images = next(x for x in (block.original, block.start, block.latents) if x is not None)
        found = from_data(images, _labels(labels) if labels is not None else starting.labels)
        of = (
            f"{len(images)} items of {data}"
            if data is not None
            else f"{len(images)} starting images of {model}"
        )
    rows = table(found, known.schedule)
    if json:
        print_json({"model": model, "of": of, "native_unit": known.schedule.native_unit,
                    "predictions": rows.to_dict("records")})  # fmt: skip
        return
    unit = known.schedule.native_unit
    columns = ["definition", "log-SNR", "t", *([] if unit == "t" else [unit]), "source", "note"]
    print_table(
        f"Theory of {of}: each value under the name of its definition, from noise to data (± standard error)",
        columns,
        [_cells(row, unit) for row in rows.to_dict("records")],
    )


def _cells(row: dict[Any, Any], unit: str) -> list[str]:
    if row["unit"]:
        level = f"{row['value']:.4g} ({row['unit']})"
    elif row["reason"]:
        level = "none"
    else:
        level = number(round(row["logsnr"], 2) + 0.0) + (
            f" ± {number(row['error'])}" if row["error"] > 0 else ""
        )
    native = [] if unit == "t" else [number(row["native"], 2 if unit == "sigma" else 0)]
    source = re.sub(r" \(arXiv:[^)]*\)", "", row["source"])
    note = row["definition"] + (f"; {row['reason']}" if row["reason"] else "")
    return [row["name"], level, number(row["t"], 3), *native, source, note]


def _labels(path: Path) -> np.ndarray:
    try:
        read = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TurningpointError(
            f"--labels is {str(path)!r}, which cannot be read ({type(error).__name__}); accepted: an .npy of "
            "class indices."
        ) from None
    if not isinstance(read, np.ndarray) or read.ndim != 1 or not np.issubdtype(read.dtype, np.integer):
        raise TurningpointError(
            f"--labels is {str(path)!r}; accepted: an .npy of class indices, whole numbers (N,)."
        )
    return read
