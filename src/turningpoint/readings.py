"""Reading a run: images in the store become readings beside them, chunk by chunk.

The readings of a measure stand in the group ``readings/NAME``: ``start.R`` (item, ...) of the starting images,
``original.R`` of what these were before an autoencoder, if the run has such, ``back.R`` (item, replicate, time, ...)
of what came back; a comparison has ``back.R`` of each image with its own start and ``other.R`` (..., stranger)
with the starts of other items, which ``partner`` names.  As with walks, flags in ``done`` are raised last: a
measure that is interrupted, or a run that has grown since, is read on from there.

Readings with other settings are written into ``pending/NAME``, and take the place of the earlier ones when they are
whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import TurningpointError
from .measures import Measure
from .simulation.collect import Progress
from .simulation.store import Store

PENDING = "pending"
"""The group of readings that are to replace others."""
STRANGERS = 4
"""Other items with which a comparison compares each image, for its chance level; fewer where there are many items."""
ENOUGH = 1024
"""Pairs of strangers that suffice for a chance level."""
IN_MEMORY = 2**26
"""Bytes of starting images that are kept in memory to look up strangers."""


def read(
    store: Store,
    one: Measure,
    condition: np.ndarray,
    asked: str,
    progress: Progress | None = None,
    told: Mapping[str, Any] | None = None,
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
    told : mapping, optional
        More settings that the user gave, kept beside ``asked``.
    """
    sizes = store.read("done").shape
    starts = _Starts(store)
    one.study(starts.batches)
    described = [
        {**vars(reading), "feature": one.feature(reading), "label": reading.label or one.feature(reading)}
        for reading in one.readings
    ]
    identity = {"readings": described, "settings": one.settings(), "start": starts.digest()}
    identity = json.loads(json.dumps(identity))
    pairs = [reading for reading in one.readings if reading.kind in ("comparison", "map")]
    compared = [reading for reading in pairs if reading.kind == "comparison"]
    partner = partners(condition, starts.chunk, starts.fit)
    flags = ("item", "replicate", "time"), sizes, store.array("done").chunks, "bool"
    group = _group(store, one.name, identity)
    if group is None:
        values = _of_starts(store, one, starts, pairs)  # all of them before anything is written: it may fail
        with store.exclusive():
            # what was read before stays until it is replaced by something whole
            kept = store.has(f"readings/{one.name}") and store.attrs(f"readings/{one.name}").get("read")
            group = f"{PENDING if kept else 'readings'}/{one.name}"
            if store.has(group):
                store.remove(group)
            store.require(f"{group}/done", *flags)
            if compared:
                store.require(f"{group}/partner", ("item", "stranger"), partner.shape, partner.shape, "int64")
                store.write(f"{group}/partner", partner)
            _write(store, group, ("item",), sizes[:1], sizes[:1], values, ())
            store.annotate(group, {**identity, "asked": asked, "told": dict(told or {}), "read": True})
    store.require(f"{group}/done", *flags)
    step = store.array("done").chunks[0]
    total, done, seen = int(np.prod(sizes)), 0, 0
    for block in range(0, sizes[0], step):
        for replicate in range(sizes[1]):
            for k in range(sizes[2]):
                region = slice(block, min(block + step, sizes[0])), replicate, k
                seen += _read_unit(store, one, identity, region, starts, partner, pairs)
                done += region[0].stop - region[0].start
                if progress is not None:
                    progress(done, total, seen)
    with store.exclusive():
        group = _group(store, one.name, identity)
        if group is not None and group.startswith(PENDING):
            store.replace(f"readings/{one.name}", group)


def _group(store: Store, name: str, identity: Mapping[str, Any]) -> str | None:
    """Where the readings of a measure with these settings are, if they have been begun."""
    for group in (f"readings/{name}", f"{PENDING}/{name}"):
        known = store.attrs(group) if store.has(group) else {}
        if known.get("read") and all(known.get(key) == value for key, value in identity.items()):
            return group
    return None


class _Starts:
    """The starting images, read as they are needed: a block at a time, or strangers one by one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._array = store.array("start")
        self.n: int = self._array.shape[0]
        self.step: int = store.array("done").chunks[0]
        self.chunk: int = min(self.step, self.n)
        bytes_each = 4 * math.prod(self._array.shape[1:])
        self.fit = max(1, IN_MEMORY // bytes_each)
        self._stored = self._array.chunks[0]
        self._most = max(2, self.fit // self._stored)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def rows(self, rows: slice) -> Tensor:
        return torch.from_numpy(self._store.read("start", (rows,)))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, self.n, self.chunk):
            rows = slice(first, min(first + self.chunk, self.n))
            yield rows, self.rows(rows)

    def batches(self) -> Iterator[Tensor]:
        for _, batch in self.blocks():
            yield batch

    def digest(self) -> str:
        """A hash of all of them: trunks end while clones are simulated."""
        seen = hashlib.sha256()
        for batch in self.batches():
            seen.update(batch.numpy().tobytes())
        return seen.hexdigest()[:16]

    def some(self, places: np.ndarray) -> Tensor:
        """The images at any places, (len(places), ...), each stored chunk being read once."""
        found = np.empty((len(places), *self._array.shape[1:]), np.float32)
        for chunk in np.unique(places // self._stored):
            if chunk not in self._kept:
                first = int(chunk) * self._stored
                self._kept[chunk] = self._store.read(
                    "start", (slice(first, min(first + self._stored, self.n)),)
                )
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            here = places // self._stored == chunk
            found[here] = self._kept[chunk][places[here] - chunk * self._stored]
        return torch.from_numpy(found)


def _of_starts(store: Store, one: Measure, starts: _Starts, pairs: Sequence[Any]) -> dict[str, np.ndarray]:
    """What is read of the starting images, and of what they were before the autoencoder."""
    whole: dict[str, np.ndarray] = {}
    for rows, batch in starts.blocks():
        values = {f"start.{name}": array for name, array in one.read(batch).items()}
        if store.has("original"):
            original = torch.from_numpy(store.read("original", (rows,)))
            values |= {f"original.{name}": array for name, array in one.read(original).items()}
            if pairs:
                (kept,) = one.compare_with([original], batch)
                values |= {f"original.{name}": array for name, array in kept.items()}
        elif pairs and rows.start == 0:
            one.compare_with([batch[:1]], batch[:1])  # it may fail
        for name, array in values.items():
            # made once: small arrays between large ones that come and go would keep the memory of these
            if name not in whole:
                whole[name] = np.empty((starts.n, *array.shape[1:]), array.dtype)
            whole[name][rows] = array
    return whole


def _read_unit(
    store: Store,
    one: Measure,
    identity: Mapping[str, Any],
    region: tuple[slice, int, int],
    starts: _Starts,
    partner: np.ndarray,
    pairs: Sequence[Any],
) -> int:
    """Read the images of one chunk, if walks in it have ended since it was last read; how many it read."""
    there = np.asarray(store.read("done", region), dtype=bool)
    group = _group(store, one.name, identity)
    if group is not None and (not there.any() or np.array_equal(store.read(f"{group}/done", region), there)):
        return 0
    sizes, chunks = store.array("done").shape, store.array("done").chunks
    images = torch.from_numpy(store.read("images", region))[torch.from_numpy(there)]
    values = {f"back.{name}": array for name, array in one.read(images).items()}
    if pairs:
        items = np.arange(sizes[0])[region[0]][there]
        strangers = partner[items] if any(reading.kind == "comparison" for reading in pairs) else partner[:0]
        own = starts.rows(region[0])[torch.from_numpy(there)]
        others = [starts.some(np.maximum(column, 0)) for column in strangers.T] if len(strangers) else []
        kept, *chance = one.compare_with([own, *others], images)
        values |= {f"back.{name}": array for name, array in kept.items()}
        for reading in pairs:
            if reading.kind == "comparison" and chance:
                columns = [
                    np.where(strangers[:, m] >= 0, c[reading.name], np.nan) for m, c in enumerate(chance)
                ]
                values[f"other.{reading.name}"] = np.stack(columns, 1)
    with store.exclusive():
        group = _group(store, one.name, identity)
        if group is None:
            raise TurningpointError(
                f"measure is {one.name!r}, whose readings another process has replaced by those of other settings "
                "meanwhile; accepted: one measure of a name at a time."
            )
        _write(store, group, ("item", "replicate", "time"), sizes, chunks[:3], values, region, there)
        store.write(f"{group}/done", there, region)
    return int(there.sum())


def _write(
    store: Store,
    group: str,
    dims: tuple[str, ...],
    sizes: Sequence[int],
    chunks: Sequence[int],
    values: Mapping[str, np.ndarray],
    region: tuple[Any, ...],
    there: np.ndarray | None = None,
) -> None:
    """Write values of a region's images, at those that are ``there``."""
    for name, array in values.items():
        side, _, reading = name.partition(".")
        tail = array.shape[1:]
        extra = (("stranger" if side == "other" else f"feature_{reading}"),) if tail else ()
        integer = np.issubdtype(array.dtype, np.integer)
        dtype = str(array.dtype)
        if len(dims) > 1:
            dtype = "int64" if integer else "float32" if array.dtype == np.float32 else "float64"
        store.require(f"{group}/{name}", (*dims, *extra), (*sizes, *tail), (*chunks, *tail), dtype)
        whole = array
        if there is not None:
            whole = np.full((len(there), *tail), -1 if integer else np.nan, dtype)
            whole[there] = array
        store.write(f"{group}/{name}", whole, region)


def partners(condition: np.ndarray, chunk: int, fit: int) -> np.ndarray:
    """For every item, other items of its condition, (N, strangers), -1 where there are too few.

    Any item is as likely as any other. Where more items share a condition than ``fit`` in memory, strangers are drawn
    by blocks of ``chunk`` items, so that a block's strangers lie side by side: each block gets a block at random,
    perhaps itself, and within it each item another one.

    >>> partners(np.array([0, 0, 1]), 64, 1024).tolist()
    [[1, -1, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]
    """
    strangers = int(np.clip(-(-ENOUGH // max(len(condition), 1)), 1, STRANGERS))
    partner = np.full((len(condition), strangers), -1, dtype=np.int64)
    generator = np.random.Generator(np.random.Philox(0))
    for value in np.unique(condition):
        group = np.flatnonzero(condition == value)
        if len(group) <= max(fit, 2 * chunk):
            ring = generator.permutation(group)
            for m in range(min(strangers, len(ring) - 1)):
                partner[ring, m] = np.roll(ring, -(m + 1))
            continue
        blocks = np.array_split(group, -(-len(group) // chunk))
        for m in range(strangers):
            for here, other in enumerate(generator.permutation(len(blocks))):
                ring = generator.permutation(len(blocks[here]))
                found = np.roll(ring, -1) if other == here else generator.permutation(len(blocks[other]))
                partner[blocks[here][ring], m] = blocks[other][np.resize(found, len(ring))]
    return partner
