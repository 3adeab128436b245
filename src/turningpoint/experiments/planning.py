"""What all experiments share: identifying a run, continuing it, extending it, simulating it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
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
from ..models.settings import whole
from ..simulation.batches import in_batches
from ..simulation.collect import Progress, Unit, collect
from ..simulation.engine import SMALLEST_BATCH, Engine, Finished
from ..simulation.noise import Noise, SeededNoise
from ..simulation.store import DTYPES, RunAppearedError, Store
from ..simulation.walk import Record

TAKEN = (
    "start",
    "start_latents",
    "original",
    "images",
    "latents",
    "done",
    "t",
    "logsnr",
    "native",
    "condition",
    "label",
    "readings",
)
"""The names of a run's own arrays."""

CHUNK = 64
"""Walks that are stored side by side; what a kill costs at most, per worker."""
LARGEST_CHUNK = 2**22
"""Bytes of a chunk of what is looked up item by item: starting images, paths."""


class Setup:
    """A model with a way to sample it, checked, as every experiment needs it.

    Parameters
    ----------
    model : str or Denoiser
        What is simulated.
    sampler_name : str or Sampler
        With its ``settings`` (``eta``, ``churn``, ...).
    steps : int or None
        Of the full grid; by default the number that the model's authors take, or ``usual_steps``.
    grid : str, Grid, sequence of float or None
        By default the one on which the model's authors run the sampler, or the sampler's usual one.
    seed : int
        Of the run.
    guidance : float, optional
        The guidance scale.
    device : str, optional
        By default where the model is.
    settings : mapping
        The sampler's.
    usual_steps : int
        The experiment's own number of steps.
    """

    def __init__(
        self,
        model: Any,
        sampler_name: str | Sampler,
        steps: int | None,
        grid: str | Grid | Sequence[float] | None,
        seed: int,
        guidance: float | None,
        device: str | None,
        settings: Mapping[str, Any],
        usual_steps: int,
    ) -> None:
        base = load(model)
        self.seed = whole("seed", seed, -(2**63), 2**63 - 1)
        self.guidance = None if guidance is None else float(guidance)
        usual = sampler(sampler_name)
        steps = None if steps is None else Grid(steps).steps
        authors = base.usual_grid(usual.name, steps) if grid is None else None
        self.grid = authors or as_grid(grid, usual_steps if steps is None else steps, usual.grid)
        self.sampler = sampler(sampler_name, steps=self.grid.steps, **settings).suited(base)
        self.grid.times(base.schedule)  # says so now if it does not fit
        self.base = base
        if guidance is not None:
            base.check_condition(base.without({}))  # what guidance moves away from
        self.model: Denoiser = base if guidance is None else Guided(base, guidance)
        self.schedule = base.schedule
        self.device = _device(device, base)
        self.model.to(self.device).eval()

    def settings(self) -> dict[str, Any]:
        """What identifies a run of this setup, as a manifest gives it back: lists, not tuples."""
        known: dict[str, Any] = {"name": self.base.name, "fingerprint": fingerprint(self.base)}
        known |= {"native_unit": self.schedule.native_unit, "config": self.base.fingerprint_config()}
        settings = {
            "model": known,
            "sampler": self.sampler.config(),
            "grid": self.grid.config(),
            "seed": self.seed,
            "guidance": self.guidance,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def engine(self, batch: int, noise: Noise | None) -> Engine:
        """An engine on the setup's device."""
        if noise is None:
            noise = SeededNoise(self.seed)
        elif not hasattr(noise, "draw"):
            raise TurningpointError(
                f"noise is a {type(noise).__name__}; accepted: a Noise, which has a draw method."
            )
        return Engine(self.model, self.sampler, noise, whole("batch", batch), self.device)


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
        elif key == "record":
            if (a or []) == (b or []):  # one kind of run keeps no such list
                continue
            found.append(f"what is recorded ({_recorded(a)}, now {_recorded(b)})")
        elif a != b:
            found.append(f"{name} ({a}, now {b})")
    return found


def _recorded(records: Sequence[Mapping[str, Any]] | None) -> str:
    return ", ".join(str(record["name"]) for record in records or ()) or "nothing"


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
        except RunAppearedError:  # the same command, started at the same moment, was faster
            assert out is not None
            existing = Store.read_manifest(out) or {}
    _refuse_differences(out, existing, kind, settings)
    assert out is not None
    return out if isinstance(out, Store) else Store.open(out), dict(existing["axes"])


def _refuse_differences(
    out: str | Path | Store | None, existing: Mapping[str, Any], kind: str, settings: Mapping[str, Any]
) -> None:
    old, new = (
        {"kind": k, **dict(s)} for k, s in ((existing["kind"], existing["settings"]), (kind, settings))
    )
    if old["model"]["fingerprint"] == new["model"]["fingerprint"]:
        new["model"] = new["model"] | {"name": old["model"]["name"]}  # one model by two names
    differ = differences(old, new)
    if differ:
        place = str(out.folder or "memory") if isinstance(out, Store) else str(out)
        raise TurningpointError(
            f"out is {place!r}, which holds another run; these settings differ: {'; '.join(differ)}."
        )


def refuse_another(out: str | Path | None, kind: str, settings: Mapping[str, Any]) -> None:
    """Raise if ``out`` cannot take a run of these settings, before any work is done for it."""
    if out is None:
        return
    existing = Store.read_manifest(out)
    if existing is not None:
        _refuse_differences(out, existing, kind, settings)
    else:
        Store.check_folder(out)


def check_store(store: str, shape: Sequence[int]) -> str:
    """The dtype in which images are kept, or one sentence."""
    if store not in DTYPES:
        raise one_of("store", store, DTYPES)
    if store == "uint8" and len(shape) != 3:
        raise TurningpointError(
            "store is 'uint8', which is for images in [-1, 1]; accepted here: float32, float16."
        )
    return store


def noise_settings(noise: Any) -> Any:
    """What a manifest says of noise from outside: its kind, and a digest of recorded draws."""
    if noise is None:
        return None
    draws = getattr(noise, "draws", None)
    if not isinstance(draws, Mapping):
        return type(noise).__name__
    return [type(noise).__name__, digest(np.concatenate([np.ravel(z) for z in draws.values()]))]


def record_settings(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as a manifest keeps them.

    Raises
    ------
    TurningpointError
        If two have one name, or one has the name of another array of a run.
    """
    names = [record.name for record in records]
    for name in names:
        if names.count(name) > 1 or name in TAKEN or "." in name or "/" in name:
            raise TurningpointError(
                f"a record is named {name!r}; accepted: a name of its own, not {', '.join(TAKEN)}."
            )
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
    store: Store,
    units: Sequence[Unit],
    engine: Engine,
    records: Sequence[Record],
    progress: Progress | None,
    also: Callable[[Unit, Sequence[int], list[Finished], np.ndarray], None] | None = None,
    flags: Sequence[str] = ("done",),
) -> None:
    """Simulate the units that are not done, writing ``images`` and the records' arrays.

    ``also(unit, offsets, finished, images)`` may write more of each unit, before ``flags`` say that it is there.

    The batch is never larger than the plan can fill for as long as its longest walk takes; the plan does not
    depend on what is done already, so that a run which is continued makes calls of the same shape.
    """
    longest = max((unit.steps for unit in units), default=1)
    filled = math.ceil(sum(unit.steps * unit.size for unit in units) / longest)
    engine.batch = min(engine.batch, max(SMALLEST_BATCH, filled))

    def write(unit: Unit, offsets: Sequence[int], finished: list[Finished]) -> None:
        images = decoded(engine, finished)
        there = np.asarray(store.read("done", unit.region), dtype=bool).reshape(-1)[list(offsets)].all()
        if not there:  # else they are simulated again, for what is read of them on the way
            write_rows(store, "images", unit, offsets, images)
        if store.has("latents") and not there:
            write_rows(store, "latents", unit, offsets, np.stack([f.values["final"] for f in finished]))
        for record in records:
            kept = [f.values.get(record.name) for f in finished]
            known = next((value for value in kept if value is not None), None)
            if known is None:
                continue  # these walks start below every time of the record
            rows = np.stack([np.full_like(known, np.nan) if value is None else value for value in kept])
            sizes, chunks = store.array("done").shape, store.array("done").chunks
            few = max(1, LARGEST_CHUNK // (4 * math.prod(known.shape)))
            chunks = min(chunks[0], few), *chunks[1:]
            inner = image_dims(known.shape[1:]) if record.function is None else range(known.ndim - 1)
            before = "" if record.function is None else f"{record.name}_"
            if record.function is None and engine.model.shape != engine.model.decoded_shape:
                before = "latent_"
            own = [f"{before}{axis}" for axis in inner]
            dims = [*store.dims("done"), f"{record.name}_time", *own]
            store.require(record.name, dims, (*sizes, *known.shape), (*chunks, *known.shape), "float32")
            write_rows(store, record.name, unit, offsets, rows)
        if also is not None:
            also(unit, offsets, finished, images)

    collect(store, units, engine, write, progress, flags=flags)


def decoded(engine: Engine, finished: Sequence[Finished]) -> np.ndarray:
    """The final images of walks, (walks, *decoded_shape), decoded a batch at a time."""
    finals = np.stack([f.values["final"] for f in finished])
    return in_batches(engine.model.decode, finals, engine.device, engine.batch)


def write_rows(store: Store, name: str, unit: Unit, offsets: Sequence[int], rows: np.ndarray) -> None:
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
