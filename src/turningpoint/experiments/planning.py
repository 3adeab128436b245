"""What all experiments share: identifying a run, continuing it, extending it, simulating it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..diffusion.denoiser import Denoiser
from ..diffusion.grid import Grid, as_grid
from ..diffusion.guidance import Guided
from ..diffusion.sampler import Sampler, sampler
from ..errors import TurningpointError, one_of
from ..models import fingerprint, load
from ..simulation.collect import Progress, Unit, collect
from ..simulation.engine import SMALLEST_BATCH, Engine, Finished
from ..simulation.noise import Noise, SeededNoise
from ..simulation.store import DTYPES, Store
from ..simulation.walk import Record

CHUNK = 64
"""Walks that are stored side by side; what a kill costs at most, per worker."""


class Setup:
    """A model with a way to sample it, checked, as every experiment needs it.

    Parameters
    ----------
    model : str or Denoiser
        What is simulated.
    sampler_name : str or Sampler
        With its ``settings`` (``eta``, ``churn``, ...).
    steps : int
        Of the full grid.
    grid : str, Grid, sequence of float or None
        By default the sampler's usual one.
    seed : int
        Of the run.
    guidance : float, optional
        The guidance scale.
    device : str, optional
        By default where the model is.
    """

    def __init__(
        self,
        model: Any,
        sampler_name: str | Sampler,
        steps: int,
        grid: str | Grid | Sequence[float] | None,
        seed: int,
        guidance: float | None,
        device: str | None,
        settings: Mapping[str, float],
    ) -> None:
        base = load(model)
        if isinstance(seed, bool) or int(seed) != seed:
            raise TurningpointError(f"seed is {seed!r}; accepted: a whole number.")
        if not isinstance(grid, Grid) and not isinstance(grid, str | type(None)):
            steps = as_grid(grid, 1, "uniform").steps
        chosen = sampler(sampler_name, steps=max(1, int(steps)), **settings)
        self.sampler, self.grid = chosen, as_grid(grid, steps, chosen.grid)
        self.seed, self.guidance = int(seed), guidance
        self.base = base
        self.model: Denoiser = base if guidance is None else Guided(base, guidance)
        self.schedule = base.schedule
        self.device = _device(device, base)

    def settings(self) -> dict[str, Any]:
        """What identifies a run of this setup."""
        known: dict[str, Any] = {"name": self.base.name, "fingerprint": fingerprint(self.base)}
        known |= {"native_unit": self.schedule.native_unit, "config": self.base.fingerprint_config()}
        return {
            "model": known,
            "sampler": self.sampler.config(),
            "grid": self.grid.config(),
            "seed": self.seed,
            "guidance": self.guidance,
        }

    def engine(self, batch: int, noise: Noise | None) -> Engine:
        """An engine on the setup's device."""
        if isinstance(batch, bool) or int(batch) != batch or batch < 1:
            raise TurningpointError(f"batch is {batch}; accepted: a whole number of at least 1.")
        self.model.to(self.device)
        return Engine(self.model, self.sampler, noise or SeededNoise(self.seed), int(batch), self.device)


def _device(device: str | None, model: Denoiser) -> torch.device:
    parameter = next(iter(model.parameters()), None)
    if device is None:
        return parameter.device if parameter is not None else torch.device("cpu")
    available = ["cpu"]
    available += ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    if str(device).partition(":")[0] not in available:
        raise one_of("device", device, available)
    return torch.device(device)


def versions() -> dict[str, str]:
    """The versions that a run's numbers may depend on."""
    packages = ("turningpoint", "torch", "numpy", "diffusers", "scikit-image", "scipy", "zarr")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def digest(array: np.ndarray) -> str:
    """A hash of an array's numbers: 16 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two runs differ, as ``name (old, now new)``.

    >>> differences({"seed": 0, "grid": {"steps": 5}}, {"seed": 0, "grid": {"steps": 9}})
    ['grid.steps (5, now 9)']
    """
    found = []
    for key in sorted(set(old) | set(new)):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name} ({a}, now {b})")
    return found


def find_or_create(
    out: str | Path | Store | None,
    kind: str,
    settings: Mapping[str, Any],
    axes: Mapping[str, Any],
    command: str,
) -> tuple[Store, dict[str, Any]]:
    """The run in ``out`` if it has equal settings, or a new one; and the axes it has.

    Raises
    ------
    TurningpointError
        If ``out`` holds another run, with the settings that differ.
    """
    if not command:
        import sys

        command = " ".join(["turningpoint", *sys.argv[1:]]) if sys.argv[0].endswith("turningpoint") else ""
    if isinstance(out, Store):
        existing: dict[str, Any] | None = out.manifest
    else:
        existing = None if out is None else Store.read_manifest(out)
    if existing is None:
        assert not isinstance(out, Store)
        manifest = {"kind": kind, "settings": dict(settings), "axes": dict(axes)}
        try:
            created = Store.create(out, manifest | {"versions": versions(), "command": command})
            return created, dict(axes)
        except FileExistsError:  # the same command, started at the same moment, was faster
            assert out is not None
            existing = Store.read_manifest(out) or {}
    differ = differences({"kind": existing["kind"], **existing["settings"]}, {"kind": kind, **settings})
    if differ:
        raise TurningpointError(
            f"out is {str(out)!r}, which holds another run; these settings differ: {'; '.join(differ)}."
        )
    assert out is not None
    return out if isinstance(out, Store) else Store.open(out), dict(existing["axes"])


def check_store(store: str) -> str:
    """The dtype in which images are kept, or one sentence."""
    if store not in DTYPES:
        raise one_of("store", store, DTYPES)
    return store


def record_settings(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as a manifest keeps them."""
    return [
        {
            "name": r.name,
            "what": r.what,
            "times": list(r.times),
            "function": None if r.function is None else getattr(r.function, "__qualname__", repr(r.function)),
        }
        for r in records
    ]


def simulate(
    store: Store, units: Sequence[Unit], engine: Engine, records: Sequence[Record], progress: Progress | None
) -> None:
    """Simulate the units that are not done, writing ``images`` and the records' arrays.

    The batch is never larger than the plan; the plan's size does not depend on what is done already, so
    that a run which is continued makes calls of the same shape.
    """
    engine.batch = min(engine.batch, max(SMALLEST_BATCH, sum(unit.size for unit in units)))

    def write(unit: Unit, offsets: Sequence[int], finished: list[Finished]) -> None:
        finals = torch.from_numpy(np.stack([f.values["final"] for f in finished]))
        with torch.inference_mode():
            parts = finals.split(engine.batch)
            images = torch.cat([engine.model.decode(x.to(engine.device)).cpu() for x in parts])
        _write_rows(store, "images", unit, offsets, images.numpy())
        for record in records:
            kept = [f.values.get(record.name) for f in finished]
            known = next((value for value in kept if value is not None), None)
            if known is None:
                continue  # these walks start below every time of the record
            rows = np.stack([np.full_like(known, np.nan) if value is None else value for value in kept])
            sizes, chunks = store.array("done").shape, store.array("done").chunks
            dims = [*store.dims("done"), f"{record.name}_time"]
            dims += [f"{record.name}_{axis}" for axis in range(known.ndim - 1)]
            store.require(record.name, dims, (*sizes, *known.shape), (*chunks, *known.shape), "float32")
            _write_rows(store, record.name, unit, offsets, rows)

    collect(store, units, engine, write, progress)


def _write_rows(store: Store, name: str, unit: Unit, offsets: Sequence[int], rows: np.ndarray) -> None:
    """Write rows at their offsets along the unit's slice, leaving the others as they are."""
    if len(offsets) == unit.size:
        store.write(name, rows, unit.region)
        return
    whole = store.read(name, unit.region).copy()
    whole[list(offsets)] = rows
    store.write(name, whole, unit.region)


def image_dims(shape: Sequence[int]) -> tuple[str, ...]:
    """The names of an item's own axes.

    >>> image_dims((3, 8, 8)), image_dims((5,))
    (('channel', 'y', 'x'), ('feature',))
    """
    return (
        ("channel", "y", "x")
        if len(shape) == 3
        else ("feature",)
        if len(shape) == 1
        else tuple(f"axis{k}" for k in range(len(shape)))
    )
