"""The app, and what its commands share: parsing of times, tables, JSON, interruption."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import TurningpointError

app = typer.Typer(
    help="Find when a diffusion model makes up its mind: critical windows with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Batch = Annotated[int, typer.Option(help="Rows of a network call; does not change the noise.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]
With = Annotated[
    str | None,
    typer.Option("--with", help="Measures, by comma: class,frequency?bands=8. [default: all that apply]"),
]
Delta = Annotated[float, typer.Option(help="A window starts at retention delta and ends at 1 - delta.")]


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """Turn Ctrl-C into a sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes the one into the other
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        typer.echo("\nInterrupted. What is done is kept; the same command continues.", err=True)
        sys.exit(130)


def numbers(text: str | None, option: str) -> list[float] | None:
    """Numbers from ``a:b:n`` (n evenly spaced, both ends included) or ``a,b,c``.

    >>> numbers("0.1:0.9:5", "--times"), numbers("0.3,0.5", "--times")
    ([0.1, 0.3, 0.5, 0.7, 0.9], [0.3, 0.5])
    """
    if text is None:
        return None
    wrong = TurningpointError(f"{option} is {text!r}; accepted: a:b:n, or numbers separated by commas.")
    try:
        if ":" in text:
            first, last, count = text.split(":")
            if int(count) < 1 or (int(count) == 1 and float(first) != float(last)):
                raise wrong
            return [round(float(v), 12) for v in np.linspace(float(first), float(last), int(count))]
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise wrong from None


def label_of(text: str | None) -> int | str | list[int] | None:
    """A label from ``own``, ``none``, ``3`` or ``3,4,5``."""
    if text is None or text == "none":
        return None
    if text == "own":
        return text
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise TurningpointError(
            f"--label is {text!r}; accepted: own, none, a class index, or several by comma."
        )
    labels = [int(part) for part in text.split(",")]
    return labels[0] if len(labels) == 1 else labels


def listed(text: str | None) -> list[str]:
    """The parts of a list separated by commas; a setting's numbers, which commas separate too, stay together.

    >>> listed("class, frequency?edges=0,2,4,color")
    ['class', 'frequency?edges=0,2,4', 'color']
    """
    parts: list[str] = []
    for part in (text or "").split(","):
        if parts and "?" in parts[-1] and re.fullmatch(r"\s*([\d.]+|inf)\s*", part):
            parts[-1] += f",{part.strip()}"
        elif part.strip():
            parts.append(part.strip())
    return parts


def place(path: Path | None) -> Path | None:
    """A path as a user would type it here: relative to the working directory if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path is not None and path.is_relative_to(here) else path


def print_json(content: Any) -> None:
    """One JSON object on one line; infinities become strings, NaN null."""
    typer.echo(json.dumps(_plain(content)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return str(value) if isinstance(value, Path) else value


def number(value: float, digits: int = 2) -> str:
    """A number for a table, or that the end is open.

    >>> number(-1.2345), number(float("inf"))
    ('-1.23', 'open')
    """
    return "–" if math.isnan(value) else "open" if math.isinf(value) else f"{value:.{digits}f}"


def print_table(title: str, columns: list[str], rows: list[list[str]], spare: Sequence[str] = ()) -> None:
    """A plain table, its first column and the notes to the left and the others to the right.

    Where the terminal is too narrow, columns that are ``spare`` are left out, then the notes follow the table, then
    cells are broken; nothing is cut off.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    notes: dict[str, list[str]] = {}
    if _wide(columns, rows) > console.width:
        columns, rows = _without(spare, columns, rows)
    if _wide(columns, rows) > console.width and columns[-1] == "note":
        for row in rows:
            notes.setdefault(row[-1], []).append(row[0])
        columns, rows = _without(["note"], columns, rows)
    whole = _wide(columns, rows) <= console.width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(columns):
        left = k == 0 or column == "note"
        table.add_column(
            column, justify="left" if left else "right", no_wrap=whole and column != "note", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # brackets are intervals, not markup
    typer.echo(title)
    console.print(table)
    for note, names in notes.items():
        if note:
            typer.echo(f"{', '.join(names)}: {note}")
    if notes:
        typer.echo("")


def _wide(columns: Sequence[str], rows: Sequence[Sequence[str]], note: int = 24) -> int:
    """The width of a table whose notes are broken at ``note`` letters and nothing else is."""
    cells = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return sum(
        min(w, note) if name == "note" else w for name, w in zip(columns, cells, strict=True)
    ) + 3 * len(cells)


def _without(
    names: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    kept = [k for k, column in enumerate(columns) if column not in names]
    return [columns[k] for k in kept], [[row[k] for k in kept] for row in rows]


def print_windows(windows: Any, native_unit: str) -> None:
    """The table of critical windows."""
    rows = []
    for _, w in windows.iterrows():
        cells = [str(w["feature"])]
        for edge in ("start", "centre", "end"):
            cells.append(f"{number(w[edge])} [{number(w[edge + '_low'])}, {number(w[edge + '_high'])}]")
        t, native = w["centre_t"], w["centre_native"]
        cells.append(number(t, 3))
        if native_unit != "t":
            cells.append(number(native, 1))
        rows.append([*cells, str(w["note"])])
    columns = ["feature", "start", "centre", "end", "centre (t)"]
    columns += [] if native_unit == "t" else [f"centre ({native_unit})"]
    title = (
        "Critical windows in log-SNR [95 % interval]; decided from top to bottom as noise becomes an image"
    )
    print_table(title, [*columns, "note"], rows)
