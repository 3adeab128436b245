"""Merging runs of equal settings that were made apart.

Two runs belong together if they differ in nothing but the seed and the axes.  Their walks are laid
side by side by their own coordinates: a starting image (with its number and condition), a time,
and a replicate of a seed.  A walk that none of the runs holds leaves a gap, which the statistics pass over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..errors import TurningpointError
from ..run import Run
from ..simulation.store import Store
from .layout import lay_out_conditions, lay_out_times, summarised
from .planning import CHUNK, differences, digest


def merge(runs: Sequence[Run], out: str | Path | None = None) -> Run:
    """One run that holds the walks of several U-turn runs.

    Parameters
    ----------
    runs : sequence of Run
        At least one; of equal settings but for the seed.
    out : path, optional
        The new run's folder; None keeps it in memory.

    Returns
    -------
    Run
        Without readings: measure it.

    Raises
    ------
    TurningpointError
        If their settings differ, or ``out`` holds a run.

    Examples
    --------
    >>> import turningpoint as tp
    >>> x = tp.load("digits").starting_images()[0]
    >>> a = tp.uturn("digits", x[:2], times=[0.5], steps=3, progress=None)
    >>> b = tp.uturn("digits", x[2:4], times=[0.5], steps=3, first_item=2, progress=None)
    >>> tp.merge([a, b]).images.sizes["item"]
    4
    """
    first = _check(runs, out)
    items: dict[tuple[int, str, str], tuple[Run, int]] = {}
    replicates: dict[tuple[int, int], int] = {}
    times: dict[float, int] = {}
    for run in runs:
        for key, index in _items(run).items():
            items.setdefault(key, (run, index))
        for replicate in range(run.store.read("done").shape[1]):
            replicates.setdefault((_seed(run), replicate), len(replicates))
        for t in run.store.read("t"):
            times.setdefault(round(float(t), 12), len(times))
    ordered = sorted(items, key=lambda key: key[0])
    numbers = [key[0] for key in ordered]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise TurningpointError(
            f"the runs hold items of numbers {numbers}; accepted: runs that follow each other without gaps, each "
            "number one image and condition: make the second with first_item=N."
        )
    rows = {key: row for row, key in enumerate(ordered)}
    store = Store.create(out, _manifest(runs, rows, replicates, times, items))
    _lay_out(store, first, rows, replicates, times, items)
    for run in runs:
        here = np.array([rows[key] for key in _items(run)])
        at = [times[round(float(t), 12)] for t in run.store.read("t")]
        done = run.store.read("done")
        for replicate in range(done.shape[1]):
            there = replicates[_seed(run), replicate]
            for k, time in enumerate(at):
                flags = store.read("done", (slice(None), there, time)).astype(bool)
                new = here[done[:, replicate, k]]
                for name in _walk_arrays(run):
                    whole = store.read(name, (slice(None), there, time)).copy()
                    whole[new] = run.store.read(name, (slice(None), replicate, k))[done[:, replicate, k]]
                    store.write(name, whole, (slice(None), there, time))
                flags[new] = True
                store.write("done", flags, (slice(None), there, time))
    return Run(store, first._model)


def _check(runs: Sequence[Run], out: str | Path | None) -> Run:
    if not runs:
        raise TurningpointError("runs is empty; accepted: one or more U-turn runs.")
    for run in runs:
        if run.kind != "uturn" or isinstance(run.settings["seed"], list):
            raise TurningpointError(f"the run in {str(run.folder)!r} is not a U-turn run of one seed.")
        differ = differences({**runs[0].settings, "seed": 0}, {**run.settings, "seed": 0})
        if differ:
            raise TurningpointError(
                f"the run in {str(run.folder)!r} has other settings than the first: {'; '.join(differ)}."
            )
    if out is not None and Store.read_manifest(out) is not None:
        raise TurningpointError(f"out is {str(out)!r}, which holds a run; accepted: a new folder.")
    return runs[0]


def _seed(run: Run) -> int:
    return int(run.settings["seed"])


def _items(run: Run) -> dict[tuple[int, str, str], int]:
    """Every item's identity, number, image and condition, and its place in the run."""
    axes = run.manifest["axes"]
    conditions = spelled_out(axes)
    return {
        (axes["first_item"] + i, axes["image_digests"][i], str(conditions[i])): i
        for i in range(axes["items"])
    }


def _walk_arrays(run: Run) -> list[str]:
    """Arrays with a row per walk, the flags aside."""
    axes = ("item", "replicate", "time")
    names = []
    for name in run.store.arrays():
        if name != "done" and run.store.dims(name)[:3] == axes:
            names.append(name)
    return names


def _manifest(
    runs: Sequence[Run],
    rows: dict[Any, int],
    replicates: dict[Any, int],
    times: dict[float, int],
    items: dict[Any, tuple[Run, int]],
) -> dict[str, Any]:
    first = runs[0].manifest
    seeds = sorted({_seed(run) for run in runs})
    conditions = []
    for key in rows:
        run, index = items[key]
        conditions.append(spelled_out(run.manifest["axes"])[index])
    digests = [key[1] for key in rows]
    axes = {
        "times": list(times),
        "replicates": len(replicates),
        "items": len(rows),
        "first_item": min(key[0] for key in rows),
        "images": digest(np.array(digests)),
        "image_digests": digests,
        "condition": summarised(conditions),
    }
    named = [items[key][0].manifest["axes"].get("names") for key in rows]
    if all(named):
        axes["names"] = [names[items[key][1]] for names, key in zip(named, rows, strict=True)]
    settings = {**first["settings"], "seed": seeds[0] if len(seeds) == 1 else seeds}
    merged = [str(run.folder) for run in runs]
    return {**first, "settings": settings, "axes": axes, "merged": merged}


def _lay_out(
    store: Store,
    first: Run,
    rows: dict[Any, int],
    replicates: dict[Any, int],
    times: dict[float, int],
    items: dict[Any, tuple[Run, int]],
) -> None:
    sizes = len(rows), len(replicates), len(times)
    chunk = min(CHUNK, sizes[0])
    for name in first.store.arrays():
        array, dims, attrs = first.store.array(name), first.store.dims(name), first.store.attrs(name)
        dtype = str(array.dtype)
        if dims[:3] == ("item", "replicate", "time"):
            tail = array.shape[3:]
            store.require(name, dims, (*sizes, *tail), (chunk, 1, 1, *tail), dtype, attrs)
        elif dims[:1] == ("item",) and name not in ("label", "condition"):
            values = np.stack([run.store.read(name)[i] for run, i in (items[key] for key in rows)])
            store.require(name, dims, values.shape, (chunk, *values.shape[1:]), dtype, attrs)
            store.write(name, values)
        elif dims[:1] not in (("time",), ("item",)):
            store.require(name, dims, array.shape, array.shape, dtype, attrs)
            store.write(name, first.store.read(name))
    lay_out_times(store, "", "time", list(times), first.schedule)
    labels = np.array([run.store.read("label")[i] for run, i in (items[key] for key in rows)])
    lay_out_conditions(store, spelled_out(store.manifest["axes"]), labels, chunk)
