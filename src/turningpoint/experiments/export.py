"""Files of a run for other programs: pictures as PNG, exact numbers as NumPy arrays, and an index of both.

Chunk by chunk, so that a run of any size is exported in the memory of one chunk.  No file is ever overwritten: an
export that was interrupted is continued by the same call, and one of more items, times or kinds adds to its folder.
How values become files stands in `export_files`, what the index says of each in `export_index`, and of which run they
are in `export_identity`: a folder takes the files of one run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError, one_of
from ..models.settings import whole
from ..run import Run
from ..simulation.collect import Progress
from ..simulation.progress import shown
from ..simulation.store import Store, sentences
from . import export_identity
from .export_files import Files, decimal, digits, safe
from .export_index import INDEX, described, joined, known_rows

WHAT = ("start", "images", "latents", "original", "records")
FORMATS = ("png", "npy")


def export(
    run: Run,
    folder: str | Path,
    what: str | Sequence[str] | None = None,
    format: str = "png",
    *,
    items: Iterable[int] | None = None,
    times: Iterable[float] | None = None,
    replicates: Iterable[int] | None = None,
    progress: Progress | str | None = "auto",
) -> pd.DataFrame:
    """Write a run's images, latents and recorded states as files, with an ``index.csv`` of them.

    Parameters
    ----------
    run : Run
        U-turns, clones or generated images; walks that have not ended are left out.
    folder : path
        Where to; made if need be. Files that are there already are kept if they are equal. Its ``run.json`` says of
        which run they are.
    what : sequence of str, optional
        ``start``, ``images``, ``latents`` (those of the starting images too), ``original`` (a user's pictures before
        the autoencoder), ``records`` (states that were recorded, and trajectories of generated starting images); by
        default starting images and images.
    format : str
        Of images: ``png``, or ``npy`` for the exact floats. Latents and records are always ``npy``.
    items, replicates : iterable of int, optional
        Their numbers in the run, from 0; by default all.
    times : iterable of float, optional
        Times t of the run, to the digits that file names have; by default all.
    progress : callable, "auto" or None
        By default a bar, if there is a terminal; ``progress(done, total, files)`` counts chunks of items.

    Returns
    -------
    DataFrame
        The index, a row per file: ``file``, ``what`` (the array), ``item``, ``replicate``, ``t``, ``exact`` (False
        where PNG has rounded finer numbers or cut off what lies outside [-1, 1]), ``logsnr``, ``native``; where the
        run knows them ``name``, ``prompt``, ``negative_prompt``, ``told_label``, ``label``, ``label_name``; and every
        categorical reading of the picture. Rows of an earlier export to the same folder are kept; those of
        walks that the run lacks stay as they are. Its ``attrs`` count the files ``written`` and ``kept`` by this call,
        and under ``left_out`` the walks that have not ended.

    Raises
    ------
    TurningpointError
        If the run does not hold what is asked for, the folder cannot be made or holds files of another run, or
        something else has the place of a file.
    SimulationError
        If the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import turningpoint as tp
    >>> run = tp.uturn("digits", items=2, times=[0.3], steps=3, progress=None)
    >>> export(run, tempfile.mkdtemp(), progress=None).file.tolist()
    ['item0000_start.png', 'item0000_t0.30_copy0.png', 'item0001_start.png', 'item0001_t0.30_copy0.png']
    """
    _check_run(run)
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    out = _folder(folder)
    chosen = _Chosen.of(run, items, times, replicates)
    parts = _parts(run, what, format)
    rows: list[tuple[Any, ...]] = []
    with sentences(out), shown(progress, "exporting", "chunks", "files/s") as bar:
        known, lacking = known_rows(out, run)
        whose = export_identity.checked(out, run)
        files = Files(out)
        export_identity.write(files, whose)
        for part in parts:
            _write_clocks(part, files)
        blocks = _blocks(chosen.items, run.store.array("done").chunks[0])
        for k, block in enumerate(blocks):
            for part in parts:
                for place, values in _values(part, block, chosen):
                    name = chosen.stem(place, part.of_walks) + part.ending
                    exact = (files.picture if part.picture else files.numbers)(name, values)
                    rows.append((name, part.array, *chosen.numbers(place, part.of_walks), exact))
            if bar is not None:
                bar(k + 1, len(blocks), len(rows))
        table = described(run, joined(known, rows), lacking)
        files.replace(INDEX, table.to_csv(index=False).encode())
    done = np.asarray(run.store.read("done"), dtype=bool)
    left_out = int((~done[np.ix_(*chosen.places[: done.ndim])]).sum())
    table.attrs = {"written": files.written, "kept": files.kept, "left_out": left_out}
    return table


def _check_run(run: Any) -> None:
    if not isinstance(run, Run):
        given = repr(str(run)) if isinstance(run, str | os.PathLike) else f"a {type(run).__name__}"
        raise TurningpointError(f"run is {given}; accepted: a Run, as open_run gives it.")


def _folder(given: Any) -> Path:
    """Where to write, which is a folder or nothing yet."""
    if not isinstance(given, str | os.PathLike) or not str(given) or "\0" in str(given):
        raise TurningpointError(f"out is {given!r}; accepted: a folder.")
    if os.path.exists(given) and not os.path.isdir(given):
        raise TurningpointError(f"out is {str(given)!r}, where a file stands; accepted: a folder.")
    return Path(given)


# ---- which walks


@dataclass(frozen=True)
class _Chosen:
    """The items, replicates and times to export, as places in the run's arrays, and what these are called."""

    items: list[int]
    replicates: list[int]
    times: list[int]
    first_item: int
    first_replicate: int
    t: list[float]
    spelled: list[str]
    names: list[str]
    width: int

    @classmethod
    def of(cls, run: Run, items: Any, times: Any, replicates: Any) -> _Chosen:
        """Those that a user has named, of a run."""
        axes, shape = run.manifest["axes"], run.store.array("done").shape
        first_item, first_replicate = (int(axes.get(f"first_{axis}", 0)) for axis in ("item", "replicate"))
        t = run.store.read("t") if len(shape) == 3 else np.zeros(0)
        if times is not None and len(shape) != 3:
            raise TurningpointError(f"times are given, but a {run.kind} run has none; accepted: none.")
        places = digits(t)
        return cls(
            _places("items", items, first_item, shape[0]),
            _places("replicates", replicates, first_replicate, shape[1] if len(shape) == 3 else 1),
            _nearest(times, t, places) if len(shape) == 3 else [0],
            first_item,
            first_replicate,
            t.tolist(),
            [decimal(float(time), places) for time in t],
            [safe(str(name)) for name in axes.get("names", [])],
            max(4, len(str(first_item + shape[0] - 1))),
        )

    @property
    def places(self) -> tuple[list[int], list[int], list[int]]:
        return self.items, self.replicates, self.times

    def numbers(self, place: tuple[int, int, int], of_walk: bool) -> tuple[int, float, float]:
        """Item, replicate and time t of a place; the last two NaN for what belongs to an item."""
        item, replicate, time = place
        if not of_walk:
            return self.first_item + item, np.nan, np.nan
        return self.first_item + item, self.first_replicate + replicate, self.t[time]

    def stem(self, place: tuple[int, int, int], of_walk: bool) -> str:
        """How the name of a file of this place begins."""
        item, replicate, time = place
        pieces = [f"item{self.first_item + item:0{self.width}d}"]
        if item < len(self.names) and self.names[item]:
            pieces.append(self.names[item])
        if of_walk:
            pieces += [f"t{self.spelled[time]}", f"copy{self.first_replicate + replicate}"]
        return "_".join(pieces)


def _places(name: str, given: Any, first: int, size: int) -> list[int]:
    """Places along an axis, ascending, of entries that are called by their numbers."""
    if given is None:
        return list(range(size))
    accepted, numbers = f"{first} to {first + size - 1}", set()
    for value in _entries(name, given, accepted):
        try:
            numbers.add(whole(name, value, first, first + size - 1))
        except TurningpointError:
            raise TurningpointError(f"{name} hold {value!r}; accepted, of this run: {accepted}.") from None
    return [number - first for number in sorted(numbers)]


def _nearest(given: Any, t: np.ndarray, places: int) -> list[int]:
    """Places along the axis of times, by time ascending, of those that are given to so many digits."""
    order = [int(k) for k in np.argsort(t)]
    if given is None:
        return order
    accepted, near = ", ".join(decimal(known, places) for known in np.sort(t)), 0.5 * 10**-places
    chosen: set[int] = set()
    for value in _entries("times", given, accepted):
        try:
            asked = np.nan if isinstance(value, bool | str) else float(value)
        except (TypeError, ValueError):
            asked = np.nan
        found = np.flatnonzero(np.abs(t - asked) <= near).tolist()
        if not found:
            text = f"{asked:g}" if np.isfinite(asked) else repr(value)
            raise TurningpointError(f"times hold {text}; accepted, of this run: {accepted}.")
        chosen.update(found)
    return [k for k in order if k in chosen]


def _entries(name: str, given: Any, accepted: str) -> list[Any]:
    """What a list holds, which is not nothing."""
    try:
        entries = None if isinstance(given, str) else list(given)
    except TypeError:
        entries = None
    if entries is None:
        raise TurningpointError(f"{name} is {given!r}; accepted, of this run: a list of {accepted}.")
    if not entries:
        raise TurningpointError(f"{name} hold nothing; accepted, of this run: {accepted}.")
    return entries


# ---- which arrays


@dataclass(frozen=True)
class _Part:
    """One array of a run: where it is, how the names of its files end, and whether they are PNG."""

    store: Store
    array: str
    ending: str
    picture: bool = False

    @property
    def of_walks(self) -> bool:
        """Whether it has a row for every walk, and not only for every item."""
        return "replicate" in self.store.dims(self.array)


def _parts(run: Run, what: str | Sequence[str] | None, format: str) -> list[_Part]:
    """The arrays that are asked for, each once."""
    asked = [what] if isinstance(what, str) else what
    if asked is None:
        asked = ["start", "images"]
    if not isinstance(asked, Iterable) or not (asked := list(asked)):
        raise one_of("what", what, WHAT)
    for name in asked:
        if name not in WHAT:
            raise one_of("what", name, WHAT)
    parts: list[_Part] = []
    for name in WHAT:
        found = list(_arrays(run, name, format)) if name in asked else []
        if name in asked and not found and what is not None:
            held = ", ".join(kind for kind in WHAT if any(_arrays(run, kind, format)))
            raise TurningpointError(f"what holds {name!r}, which this run does not; it holds {held}.")
        parts += found
    for part in parts:
        shape, dims = part.store.array(part.array).shape, part.store.dims(part.array)
        if part.picture and ("channel" not in dims or shape[-3] not in (1, 3)):
            raise TurningpointError(
                f"format is 'png', but the {part.array} are no pictures of 1 or 3 channels; accepted: npy."
            )
    return parts


def _arrays(run: Run, name: str, format: str) -> Iterator[_Part]:
    """The arrays of one kind that a run holds."""
    store, start = run.store, "" if run.kind == "generate" else "_start"
    if name == "latents":
        known = (("start_latents", "_start_latents.npy"), ("latents", "_latents.npy"))
        yield from (_Part(store, array, ending) for array, ending in known if store.has(array))
    elif name == "records":
        for base in _generated(run):
            yield from (_Part(base, array, f"_start_{array}.npy") for array in _recorded(base))
        for array in _recorded(store):
            middle = "" if "replicate" in store.dims(array) else start
            yield _Part(store, array, f"{middle}_{array}.npy")
    elif store.has(name):
        middle = "" if name == "images" else f"_{name}"
        yield _Part(store, name, f"{middle}.{format}", format == "png")


def _recorded(store: Store) -> list[str]:
    names = [record["name"] for record in store.manifest["settings"].get("record", [])]
    return [name for name in names if store.has(name)]


def _generated(run: Run) -> list[Store]:
    """The run in which the starting images were generated; the largest one, if the run has grown."""
    if run.folder is None:
        return []
    folders = [path for path in run.folder.glob("generated-*") if (path / "manifest.json").is_file()]
    folders.sort(key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    return [Store.open(path, writable=False) for path in folders[-1:]]


def _write_clocks(part: _Part, files: Files) -> None:
    """Beside the files of a record, the times at which its rows stand."""
    if part.store.has(f"{part.array}_t"):
        clocks = {clock: part.store.read(f"{part.array}_{clock}") for clock in ("t", "logsnr", "native")}
        name = f"{part.ending.removeprefix('_').removesuffix('.npy')}_times.csv"
        files.write(name, pd.DataFrame(clocks).to_csv(index=False).encode())


# ---- their values


def _blocks(items: Sequence[int], chunk: int) -> list[list[int]]:
    """Items that are read together: those of one chunk."""
    found: dict[int, list[int]] = {}
    for item in items:
        found.setdefault(item // chunk, []).append(item)
    return list(found.values())


def _values(
    part: _Part, block: Sequence[int], chosen: _Chosen
) -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
    """What one array holds for the items of a block: the place and the values of everything that is done."""
    rows = slice(block[0], block[-1] + 1)
    if not part.of_walks:
        values = part.store.read(part.array, (rows,))  # fewer, of a base set that has fewer items
        flags = _written(part.store, values, rows)
        yield from (
            ((i, 0, 0), values[i - block[0]])
            for i in block
            if i - block[0] < len(flags) and flags[i - block[0]]
        )
        return
    for replicate in chosen.replicates:
        for time in chosen.times:
            there = np.asarray(part.store.read("done", (rows, replicate, time)), dtype=bool)
            if there.any():
                values = part.store.read(part.array, (rows, replicate, time))
                yield from (
                    ((i, replicate, time), values[i - block[0]]) for i in block if there[i - block[0]]
                )


def _written(store: Store, values: np.ndarray, rows: slice) -> np.ndarray:
    """Which rows of an array without walks are there: by their flags, or because they are not empty."""
    if store.array("done").ndim == 1:
        return np.asarray(store.read("done", (rows,)), dtype=bool)
    return np.asarray(~np.isnan(values.reshape(len(values), -1)).all(1))
