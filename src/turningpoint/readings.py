"""Reading a run: images in the store become readings beside them, chunk by chunk.

The readings of a measure stand in the group ``readings/NAME``: ``start.R`` (item, ...) of the starting images,
``back.R`` (item, replicate, time, ...) of what came back; a comparison has ``back.R`` of each image with its own
start and ``other.R`` (..., stranger) with the starts of other items, which ``partner`` names.  As with
walks, flags in ``done`` are raised last: a measure that is interrupted, or a run that has grown since,
is read on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .measures import Measure
from .simulation.collect import Progress
from .simulation.store import Store

STRANGERS = 4
"""Other items with which a comparison compares each image, for its chance level."""


def read(
    store: Store, one: Measure, condition: np.ndarray, asked: str, progress: Progress | None = None
) -> None:
    """Read the images of a run that have not been read by this measure yet.

    Parameters
    ----------
    store : Store
        With ``start``, ``images`` and ``done``.
    one : Measure
        What reads them; readings by the same measure with other settings, or of other starting images, are replaced.
    condition : array (N,)
        Items with equal entries share a condition: only they are strangers to one another.
    asked : str
        What the user called the measure, with its settings; kept, so that another run can be read alike.
    progress : callable, optional
        ``progress(done, total, read)``, in images: ``read`` are those of this call.
    """
    group = f"readings/{one.name}"
    sizes = store.read("done").shape
    described = [
        {**vars(reading), "feature": one.feature(reading), "label": reading.label or one.feature(reading)}
        for reading in one.readings
    ]
    start = torch.from_numpy(store.read("start"))
    seen_start = hashlib.sha256(start.numpy().tobytes()).hexdigest()[
        :16
    ]  # trunks end while clones are simulated
    identity = {"readings": described, "settings": one.settings(), "start": seen_start}
    comparisons = [reading for reading in one.readings if reading.kind == "comparison"]
    partner = _partners(condition, STRANGERS)
    known = store.attrs(group) if store.has(group) else {}
    if {key: known.get(key) for key in identity} != identity or not known.get("read"):
        values = one.read(start)  # before anything is written: it may fail
        if comparisons:
            one.compare(start[:1], start[:1])
        with store.exclusive():
            if store.has(group):
                store.remove(group)  # read with other settings, or for fewer items
            _lay_out(store, group, sizes, values, partner if comparisons else None)
            store.annotate(group, {**identity, "asked": asked, "read": True})
    store.require(f"{group}/done", ("item", "replicate", "time"), sizes, store.array("done").chunks, "bool")
    chunks = store.array("done").chunks
    total, done, seen = int(np.prod(sizes)), 0, 0
    for block in range(0, sizes[0], chunks[0]):
        for replicate in range(sizes[1]):
            for k in range(sizes[2]):
                region = slice(block, min(block + chunks[0], sizes[0])), replicate, k
                seen += _read_unit(store, one, group, region, start, partner, comparisons, chunks)
                done += region[0].stop - region[0].start
                if progress is not None:
                    progress(done, total, seen)


def _lay_out(
    store: Store, group: str, sizes: Sequence[int], values: dict[str, np.ndarray], partner: np.ndarray | None
) -> None:
    """Write what was read of the starting images, and make the flags."""
    store.require(f"{group}/done", ("item", "replicate", "time"), sizes, store.array("done").chunks, "bool")
    if partner is not None:
        store.require(f"{group}/partner", ("item", "stranger"), partner.shape, partner.shape, "int64")
        store.write(f"{group}/partner", partner)
    for name, array in values.items():
        dims = ("item", f"feature_{name}")[: array.ndim]
        store.require(f"{group}/start.{name}", dims, array.shape, array.shape, str(array.dtype))
        store.write(f"{group}/start.{name}", array)


def _read_unit(
    store: Store,
    one: Measure,
    group: str,
    region: tuple[slice, int, int],
    start: Tensor,
    partner: np.ndarray,
    comparisons: Sequence[Any],
    chunks: tuple[int, ...],
) -> int:
    """Read the images of one chunk, if walks in it have ended since it was last read; how many it read."""
    there = np.asarray(store.read("done", region), dtype=bool)
    if not there.any() or np.array_equal(store.read(f"{group}/done", region), there):
        return 0
    sizes = store.array("done").shape
    images = torch.from_numpy(store.read("images", region))[torch.from_numpy(there)]
    values = {f"back.{name}": array for name, array in one.read(images).items()}
    if comparisons:
        items = np.arange(sizes[0])[region[0]][there]
        kept = one.compare(start[items], images)
        values |= {f"back.{name}": array for name, array in kept.items()}
        strangers: dict[str, list[np.ndarray]] = {reading.name: [] for reading in comparisons}
        for m in range(partner.shape[1]):
            chance = one.compare(start[np.maximum(partner[items, m], 0)], images)
            for name, array in chance.items():
                strangers[name].append(np.where(partner[items, m] >= 0, array, np.nan))
        values |= {f"other.{name}": np.stack(arrays, 1) for name, arrays in strangers.items()}
    dims = ("item", "replicate", "time")
    for name, array in values.items():
        tail = array.shape[1:]
        last = "stranger" if name.startswith("other.") else f"feature_{name.removeprefix('back.')}"
        extra = (last,) if tail else ()
        integer = np.issubdtype(array.dtype, np.integer)
        dtype = "int64" if integer else "float32" if array.dtype == np.float32 else "float64"
        store.require(f"{group}/{name}", (*dims, *extra), (*sizes, *tail), (*chunks[:3], *tail), dtype)
        whole = np.full((len(there), *tail), -1 if integer else np.nan, dtype)
        whole[there] = array
        store.write(f"{group}/{name}", whole, region)
    store.write(f"{group}/done", there, region)
    return int(there.sum())


def _partners(condition: np.ndarray, strangers: int) -> np.ndarray:
    """For every item, other items of its condition, (N, strangers), -1 where there are too few."""
    partner = np.full((len(condition), strangers), -1, dtype=np.int64)
    generator = np.random.Generator(np.random.Philox(0))
    for value in np.unique(condition):
        ring = generator.permutation(np.flatnonzero(condition == value))
        for m in range(min(strangers, len(ring) - 1)):
            partner[ring, m] = np.roll(ring, -(m + 1))
    return partner
