"""``turningpoint compare``: several traces on one axis of log-SNR."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ..experiments.compare import Comparison
from ..experiments.compare import compare as run_compare
from .app import Json, app, listed, number, place, print_json, print_table


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of trace; the others are compared with the first.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder for tables and figures. [runs/compare-NAMES]")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="What to call them, by comma. [their folders' names]")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Which, by comma. [all that they share]")] = None,
    of: Annotated[str, typer.Option(help="Of the estimate or of the state.")] = "estimate",
    json: Json = False,
) -> None:
    """Print when features have grown in several runs, and how much later than in the first; draw them together."""
    found = run_compare(
        *runs, labels=None if labels is None else labels.split(","), features=listed(features) or None, of=of
    )
    folder = _default_out(found.labels) if out is None else out
    found.save(folder)
    if json:
        tables = {name: table.to_dict("records") for name, table in found.tables().items()}
        short = {
            name: rows for name, rows in tables.items() if name in ("onsets", "shifts", "settings", "images")
        }
        print_json({"out": folder, "labels": found.labels} | short | {"notes": found.notes})
        return
    _print_settings(found)
    _print_onsets(found)
    for label in found.labels[1:]:
        _print_shifts(found.shifts[found.shifts["run"] == label], label, found.labels[0])
    for row in found.images.to_dict("records"):
        typer.echo(
            f"Final images: those of {row['run']} are {row['distance']:.3g} from their partners, strangers "
            f"{row['strangers']:.3g}; the partner is the nearest for {row['nearest']:.0%} of {row['items']}."
        )
    for note in found.notes:
        typer.echo(f"note: {note}.")
    typer.echo(f"Look at {place(folder.absolute())}: figures, each with its table, and CSV.")


def _default_out(labels: tuple[str, ...]) -> Path:
    """The folder of a comparison for which none is given.

    >>> _default_out(("few", "1/more")).as_posix()
    'runs/compare-few-1-more'
    """
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(["compare", *labels]))[:80]


def _print_settings(found: Comparison) -> None:
    for label in found.labels[1:]:
        rows = found.settings[found.settings["run"] == label] if len(found.settings) else found.settings
        told = "; ".join(_brief(text) for text in rows["differs"]) if len(rows) else "nothing that is kept"
        typer.echo(f"{label} differs from {found.labels[0]} in {told}.")


def _brief(text: str, width: int = 100) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _print_onsets(found: Comparison) -> None:
    """The onsets side by side, by the first run's."""
    known = found.onsets.set_index(["run", "feature"])
    first = known.loc[found.labels[0]].sort_values(["onset", "settled"], kind="stable")
    rows = [
        [str(feature), *(_interval(known.loc[(label, feature)], "onset") for label in found.labels)]
        for feature in first.index
    ]
    title = "Half grown, in log-SNR: medians over samples [95 % interval]"
    print_table(title, ["feature", *found.labels], rows)


def _print_shifts(table: pd.DataFrame, label: str, first: str) -> None:
    """How much later a run is, feature by feature."""
    half, settled = (table[table["quantity"] == quantity] for quantity in ("onset", "settled"))
    rows = []
    for a, b in zip(half.to_dict("records"), settled.to_dict("records"), strict=True):
        cells = [str(a["feature"])]
        for one in (a, b):
            cells += [_interval(one, "difference", ""), number(one["later"]), _small(one["q"])]
        rows.append(cells)
    paired = "pairs with the same noise" if bool(table["paired"].all()) else "no noise is shared"
    items = int(table["items"].max())
    title = (
        f"How much later in {label} than in {first}, in log-SNR ({items} samples, {paired}); q: corrected p"
    )
    columns = ["feature", "half grown", "P[later]", "q", "settled", "P[later] ", "q "]
    print_table(title, columns, rows)


def _interval(row: object, column: str, stem: str | None = None) -> str:
    """A number with its interval; the ends' columns are ``stem_low`` or, of no stem, ``low``."""
    before = f"{column}_" if stem is None else stem
    value, low, high = (number(float(row[name])) for name in (column, f"{before}low", f"{before}high"))  # type: ignore[index]
    return value if value in ("open", "–") and low == high == "–" else f"{value} [{low}, {high}]"


def _small(p: float) -> str:
    """A p-value in few letters.

    >>> _small(0.12345), _small(0.00001234)
    ('0.12', '1.2e-05')
    """
    return "–" if math.isnan(p) else f"{p:.2g}"
