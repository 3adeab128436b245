"""``turningpoint compare``: several traces on one axis of log-SNR."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..comparison_report import comparison_report
from ..experiments.compare import QUANTITIES, Comparison
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
    page = comparison_report(found, folder)
    if json:
        tables = {name: table.to_dict("records") for name, table in found.tables().items()}
        short = {
            name: rows for name, rows in tables.items() if name in ("onsets", "shifts", "settings", "images")
        }
        about = {"out": folder, "report": place(page.absolute()), "labels": found.labels}
        print_json(about | short | {"notes": found.notes})
        return
    _print_settings(found)
    _print_onsets(found)
    for label in found.labels[1:]:
        _print_shifts(found, label)
    for row in found.images.to_dict("records"):
        typer.echo(
            f"Final images: those of {row['run']} are {row['distance']:.3g} from their partners, strangers "
            f"{row['strangers']:.3g}; the partner is the nearest for {row['nearest']:.0%} of {row['items']}."
        )
    for note in found.notes:
        typer.echo(f"note: {note}.")
    typer.echo(f"Look at {place(page.absolute())}.")


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
    known = {(row["run"], row["feature"]): row for row in found.onsets.to_dict("records")}
    rows = [
        [name, *(_interval(known[label, name], "onset", ("before", "after")) for label in found.labels)]
        for name in found.by_onset()
    ]
    title = "Half grown, in log-SNR: medians over samples [95 % interval]; before, after: beyond the recorded times"
    print_table(title, ["feature", *found.labels], rows)


def _print_shifts(found: Comparison, label: str) -> None:
    """How much later a run is than the first, feature by feature."""
    table = found.shifts[found.shifts["run"] == label]
    known = {(row["feature"], row["quantity"]): row for row in table.to_dict("records")}
    rows = []
    for name in found.by_onset():
        cells = [name]
        for quantity in QUANTITIES:
            one = known[name, quantity]
            cells += [
                _interval(one, "difference", ("earlier", "later")),
                number(one["later"]),
                _small(one["q"]),
            ]
        rows.append(cells)
    paired = "pairs with the same noise" if bool(table["paired"].all()) else "no noise is shared"
    title = (
        f"Later in {label} than in {found.labels[0]}: by how much in log-SNR, in which share of samples, corrected p "
        f"({int(table['items'].max())} samples, {paired})"
    )
    print_table(title, ["feature", "half grown", "share", "q", "settled", "share ", "q "], rows)


def _interval(row: Mapping[Hashable, Any], column: str, ends: tuple[str, str]) -> str:
    """A number with its interval, or a word for one that is open."""
    value = float(row[column])
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ends[value > 0]
    stem = "" if column == "difference" else f"{column}_"
    return f"{number(value)} [{number(row[f'{stem}low'])}, {number(row[f'{stem}high'])}]"


def _small(p: float) -> str:
    """A p-value in few letters.

    >>> _small(0.12345), _small(0.00001234)
    ('0.12', '1.2e-05')
    """
    return "–" if math.isnan(p) else f"{p:.2g}"
