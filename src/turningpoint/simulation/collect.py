"""Collecting: from units of walks to arrays in a store, by one worker or many.

A unit is the walks that share a chunk.  Units are claimed as the engine's batch has room, so that
the batch stays full across them, and written as their last walk ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from filelock import FileLock

from .engine import Engine, Finished
from .noise import Address
from .store import Index, Store
from .walk import Walk


class Progress(Protocol):
    """Told of the work: reverse steps done, reverse steps in all, rows the network has evaluated."""

    def __call__(self, done: int, total: int, evaluations: int) -> None: ...


@dataclass
class Unit:
    """Walks that are stored side by side.

    Attributes
    ----------
    name : str
        Its name among the run's units, for its lock.
    region : tuple of int and slice
        Its place in every array of the run, such as the slice along which its walks lie.
    walks : callable
        Makes the walks at the given offsets (places in the region, counted row by row), when they are
        needed.  They may have branches: a trunk with a branch for every offset, say.
    size : int
        How many walks the region holds.
    steps : float
        The reverse steps of one walk, for the progress; with trunks, their share in it.
    """

    name: str
    region: tuple[Index, ...]
    walks: Callable[[Sequence[int]], list[Walk]]
    size: int
    steps: float
    lock: FileLock | None = field(default=None, repr=False)
    pending: list[int] = field(default_factory=list, repr=False)
    addresses: list[Address] = field(default_factory=list, repr=False)
    results: dict[Address, Finished] = field(default_factory=dict, repr=False)


def collect(
    store: Store,
    units: Sequence[Unit],
    engine: Engine,
    write: Callable[[Unit, Sequence[int], list[Finished]], None],
    progress: Progress | None = None,
    patience: float = 1.0,
    flags: Sequence[str] = ("done",),
) -> None:
    """Simulate what is not done yet, and return when all units are done, by whichever worker.

    Parameters
    ----------
    store : Store
        Holds the array ``done`` (bool), which says of each walk whether it is there.
    units : sequence of Unit
        In the order in which they are to be begun: longest walks first keeps the batch full.
    engine : Engine
        Simulates.
    write : callable
        ``write(unit, offsets, finished)`` puts the arrays of the given walks in place; their flags
        are raised afterwards.  ``finished`` are the walks that the unit made for these offsets, in its
        order, each followed by its branches.
    progress : Progress, optional
        Told after every walk that ends.
    patience : float
        Seconds between looks at units that other workers hold.
    flags : sequence of str
        Instead of ``done`` alone: arrays of which all must say that a walk is there.
    """
    done = {unit.name: _flags(store, unit, flags) for unit in units}
    total = int(sum(unit.steps * unit.size for unit in units))
    elsewhere = sum(unit.steps * int(done[unit.name].sum()) for unit in units)
    report = progress or (lambda done, total, evaluations: None)
    report(int(elsewhere), total, 0)
    held: dict[str, Unit] = {}
    owner: dict[Address, Unit] = {}
    left = [unit for unit in units if not done[unit.name].all()]

    def claimed() -> Iterator[Walk]:
        nonlocal left, elsewhere
        busy_elsewhere = []
        for unit in left:
            unit.lock = store.claim(unit.name)
            if unit.lock is None:
                busy_elsewhere.append(unit)
                continue
            now = _flags(store, unit, flags)
            elsewhere += unit.steps * int(now.sum() - done[unit.name].sum())
            unit.pending = [int(i) for i in np.flatnonzero(~now)]
            if not unit.pending:
                unit.lock.release()
                continue
            held[unit.name] = unit
            walks = unit.walks(unit.pending)
            unit.addresses = [member.address for walk in walks for member in walk.tree()]
            owner.update(dict.fromkeys(unit.addresses, unit))
            yield from walks
        left = busy_elsewhere

    try:
        while left:
            for finished in engine.simulate(claimed()):
                unit = owner.pop(finished.walk.address)
                unit.results[finished.walk.address] = finished
                if len(unit.results) == len(unit.addresses):
                    write(unit, unit.pending, [unit.results[address] for address in unit.addresses])
                    _raise_flags(store, unit, flags)
                    unit.results.clear()
                    held.pop(unit.name)
                    _release(unit)
                report(min(total, int(elsewhere) + engine.steps), total, engine.evaluations)
            if left:
                time.sleep(patience)
        report(total, total, engine.evaluations)
    finally:
        for unit in held.values():
            _release(unit)


def _flags(store: Store, unit: Unit, names: Sequence[str]) -> np.ndarray:
    """Of each walk of a unit, whether all flags say that it is there."""
    there = [np.asarray(store.read(name, unit.region), dtype=bool) for name in names]
    return np.asarray(np.logical_and.reduce(there))


def _raise_flags(store: Store, unit: Unit, names: Sequence[str]) -> None:
    for name in names:
        flags = np.array(store.read(name, unit.region), dtype=bool)
        flags.reshape(-1)[unit.pending] = True
        store.write(name, flags, unit.region)


def _release(unit: Unit) -> None:
    with contextlib.suppress(OSError):
        if unit.lock is not None:
            unit.lock.release()
    unit.lock = None


def placed(finished: Sequence[Finished], name: str) -> np.ndarray:
    """One value of several walks as an array (walks, ...)."""
    return np.stack([f.values[name] for f in finished])
