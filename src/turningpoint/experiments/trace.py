r"""``trace``: how features grow along whole trajectories, read while these are simulated.

A trajectory visits the times :math:`t_0 > t_1 > \dots > t_n = 0` of a sampler's grid.  At each of them but the last
the sampler asks the denoiser for its estimate :math:`\hat x_0(x_{t_k}) = E[x_0 \mid x_{t_k}]`; what is read of the
estimates, against what is read of the final image :math:`x_{t_n}`, says when a feature has grown.  Estimates are read
when their trajectory ends and go; what the network's layers do is summarised while it is called.

With the noise of `generate` for trajectories from noise, and of `uturn` for those from noised images: a trace ends in
the images that these would make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.grid import Grid
from ..diffusion.sampler import Sampler
from ..errors import TurningpointError
from ..measures import Measure
from ..models.settings import whole
from ..simulation.batches import in_batches
from ..simulation.collect import Progress, Unit
from ..simulation.engine import Finished
from ..simulation.noise import Address, Noise
from ..simulation.probe import Probe
from ..simulation.progress import shown
from ..simulation.store import Store, packing
from ..simulation.walk import FromImage, FromNoise, Record, Walk
from ..tracing import Trace
from ..trajectories import SIDES
from .along import Along, measures_along, read_along
from .generate import FROM_NOISE
from .inside import lay_out_activations, records_of, write_activations
from .layout import (
    check_guidance,
    conditions_of,
    lay_out_conditions,
    lay_out_latents,
    lay_out_starts,
    lay_out_times,
    summarised,
)
from .planning import (
    CHUNK,
    Setup,
    check_store,
    find_or_create,
    image_dims,
    noise_settings,
    simulate,
    write_rows,
)
from .starting import Starting, starting_images
from .times import turn_times

STEPS = 50
"""Steps of the full grid, if neither the user nor the model's authors name a number."""
GENERATED = 64
"""Trajectories from noise, if neither their number nor images are given."""
KEPT = (*SIDES, "activations")
"""What can be kept whole."""
IN_MEMORY = 2**29
"""Bytes of trajectories under way that are held in memory; more of them wait on disk."""
UNIT = 2**27
"""Bytes of trajectories that are read at once, where an item is not larger than that."""


def trace(
    model: str | Denoiser,
    generate: int | None = None,
    images: Any = None,
    *,
    measures: str | Measure | Callable[[Tensor], Any] | Sequence[Any] | None = None,
    of: str | Sequence[str] = ("estimate",),
    activations: str | Sequence[str] | None = None,
    keep: str | Sequence[str] = (),
    every: int = 1,
    from_time: float | None = None,
    sampler: str | Sampler = "heun",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    seed: int = 0,
    label: int | str | Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    items: int | None = None,
    first_item: int = 0,
    noise: Noise | None = None,
    out: str | Path | None = None,
    store: str = "float32",
    batch: int = 64,
    device: str | None = None,
    progress: Progress | str | None = "auto",
    command: str = "",
    told: dict[str, Any] | None = None,
    **sampler_settings: Any,
) -> Trace:
    """Simulate whole trajectories and read them on the way.

    Parameters
    ----------
    model : str or Denoiser
        What `turningpoint.load` takes.
    generate : int, optional
        How many trajectories from noise, by default 64.
    images : array, path, ImageSet, optional
        Instead: start from these, noised to ``from_time``; see `starting.starting_images`.
    measures : measure or sequence of them, optional
        Names, ``"name?setting=value"``, functions of an image batch. By default ``frequency``, ``gain``, ``structure``,
        ``color`` and ``class``, as far as they apply to the model. The same call with other measures simulates the
        trajectories again, with the same noise, and adds what they read.
    of : "estimate", "state" or both
        What is read: x_0 as the denoiser estimates it, the noisy x_t.
    activations : str or sequence of str, optional
        Names or patterns of layers (``"up_blocks.*"``): what they do is summarised at each step, see
        `turningpoint.simulation.probe`.
    keep : sequence of str
        What is kept whole besides: ``state``, ``estimate``, ``activations``.
    every : int
        Record each so-many-th step only.
    from_time : float, optional
        With ``images``: the time t to which they are noised.
    sampler, steps, grid, seed, label, prompt, negative_prompt, guidance, items, first_item, noise, out, store, batch,
    device, progress, command
        As in `uturn`, without churn: with it estimates are made at more noise than the step's time has.
    told : dict, optional
        Settings for the measures that take them: ``{"ask": [...], "classifier": "efficientnet-lite0"}``.

    Returns
    -------
    Trace

    Raises
    ------
    TurningpointError
        For bad arguments, layers that the model does not have, or if ``out`` holds another run.
    SimulationError
        If the network returns NaN, or memory or disk do not suffice.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.trace("digits", 4, measures="color", steps=5, progress=None)
    >>> run.logsnr.shape, run.features()
    ((5,), ['color.mean', 'color.contrast', 'color.histogram'])
    """
    setup = Setup(model, sampler, steps, grid, seed, guidance, device, sampler_settings, STEPS)
    check_store(store, setup.base.decoded_shape)
    _check_sampler(setup.sampler)
    sides, kept = _among("of", of, SIDES), _among("keep", keep, KEPT)
    if not sides:
        raise TurningpointError(f"of is {of!r}; accepted: estimate, state, or both.")
    every, batch, first_item = (
        whole("every", every),
        whole("batch", batch),
        whole("first_item", first_item, 0),
    )
    check_guidance(guidance, label, prompt, negative_prompt)
    start, starting, n = _beginning(generate, images, from_time, items, setup)
    times = setup.grid.times(setup.schedule)
    times = times if start is None else setup.grid.below(start, setup.schedule)
    recorded = tuple(float(t) for t in times[:-1:every])
    if len(recorded) < 2 < len(times):
        raise TurningpointError(
            f"every is {every}, of {len(times) - 1} steps; accepted: at most {len(times) - 2}."
        )
    own = None if starting is None else starting.labels
    if isinstance(label, str) and starting is None:
        raise TurningpointError(f"label is {label!r}; accepted without images: class indices, or None.")
    conditions = conditions_of(label, own, prompt, n, setup.base, negative_prompt)
    reading, probe = measures_along(measures, sides, setup.base, told or {}), _probe(setup, activations, kept)
    settings = setup.settings() | {
        "store": store,
        "noise": noise_settings(noise),
        "from": start,
        "every": every,
    }
    settings["activations"] = None if probe is None else probe.settings()
    settings["keep"] = list(kept)
    axes = {"items": n, "first_item": first_item, "condition": summarised(conditions)}
    if starting is not None:
        axes["image_digests"] = list(starting.digests)
        axes |= {"names": list(starting.names), "classes": list(starting.classes)}
    run_store, known = find_or_create(out, "trace", settings, axes, command)
    if known != axes:
        differ = [key for key in axes if known.get(key) != axes[key]]
        raise TurningpointError(
            f"out is {str(out)!r}, which holds another run; these settings differ: {', '.join(differ)}."
        )
    alongs = [along for along, _ in reading]
    _keep_sides(run_store, alongs)
    records = _records(alongs, kept, recorded, probe)
    followed = sum(record.what in SIDES for record in records)
    item = 4 * len(recorded) * math.prod(setup.base.shape) * max(1, followed)
    chunk = max(1, min(CHUNK, n, UNIT // item))
    with run_store.exclusive():
        if run_store.has("done"):  # workers that read other things share the arrays, and their chunks
            chunk = run_store.array("done").chunks[0]
        _lay_out(run_store, setup, n, recorded, chunk, store, kept)
        lay_out_conditions(run_store, conditions, _told(conditions, own), chunk)
        if starting is not None and not (run_store.has("start") and run_store.attrs("start").get("written")):
            lay_out_starts(run_store, starting, setup.base, n, batch)
        if probe is not None:
            lay_out_activations(run_store, probe, n, len(recorded), chunk)
        for along, about in reading:
            along.lay_out(run_store, n, len(recorded), chunk, about)
    engine = setup.engine(batch, noise)
    engine.probe = probe
    engine.scratch = _scratch(run_store, item * (min(batch, n) + chunk) > IN_MEMORY or "activations" in kept)
    units = [
        Unit(str(block), (slice(block, stop),), make, stop - block, len(times) - 1)
        for block in range(0, n, chunk)
        for stop in [min(block + chunk, n)]
        for make in [_walks(first_item, block, start, times, conditions, records, run_store)]
    ]

    def also(unit: Unit, offsets: Sequence[int], finished: list[Finished], finals: np.ndarray) -> None:
        _write(run_store, setup, unit, offsets, finished, finals, alongs, kept, batch)
        if probe is not None:
            write_activations(run_store, probe, unit, offsets, finished)

    flags = ["done", *(f"{along.group}/done" for along in alongs)]
    with shown(progress, "trajectories") as bar:
        try:
            simulate(run_store, units, engine, (), bar, also, flags)
        except KeyError:
            _check_undisturbed(run_store, alongs)
            raise
    return Trace(run_store, setup.base)


def _check_sampler(sampler: Sampler) -> None:
    """Raise if the denoiser is asked at other times than those of the grid, under which estimates are kept."""
    churn = getattr(sampler, "churn", 0)
    if churn:
        raise TurningpointError(
            f"churn is {churn:g}, with which the estimate at a time is made at more noise than that; accepted for a "
            "trace: 0."
        )


def _keep_sides(store: Store, alongs: Sequence[Along]) -> None:
    """Read a side that a measure has been read of before once more, with the new one: else it would go."""
    for along in alongs:
        known = store.attrs(along.group) if store.has(along.group) else {}
        before = known.get("sides", [])
        if all(known.get(key) == value for key, value in (along.identity() | {"sides": before}).items()):
            along.sides = tuple(side for side in SIDES if side in {*along.sides, *before})


def _check_undisturbed(store: Store, alongs: Sequence[Along]) -> None:
    """Raise if another process has begun to read a measure of ours with other settings, and removed what we read."""
    for along in alongs:
        known = store.attrs(along.group) if store.has(along.group) else {}
        if any(known.get(key) != value for key, value in along.identity().items()):
            raise TurningpointError(
                f"measure is {along.one.name!r}, which another process now reads with other settings in the same "
                "folder; accepted: one after the other, or another folder."
            )


def _among(argument: str, given: str | Sequence[str], accepted: Sequence[str]) -> tuple[str, ...]:
    """What was asked for, in the order of ``accepted``."""
    asked = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given)
    for name in asked:
        if name not in accepted:
            raise TurningpointError(f"{argument} is {name!r}; accepted: {', '.join(accepted)}.")
    return tuple(name for name in accepted if name in asked)


def _beginning(
    generate: int | None, images: Any, from_time: float | None, items: int | None, setup: Setup
) -> tuple[float | None, Starting | None, int]:
    """The time from which noised images start, these images, and how many trajectories there are."""
    if images is None:
        for name, value in (("from_time", from_time), ("items", items)):
            if value is not None:
                raise TurningpointError(
                    f"{name} is {value!r}, but no images are given; accepted: with images."
                )
        return None, None, whole("generate", GENERATED if generate is None else generate)
    if generate is not None:
        raise TurningpointError("images and generate are both given; accepted: one of them.")
    if from_time is None:
        raise TurningpointError("images are given without from_time; accepted: a time t in (0, 1].")
    if not 0 < from_time <= 1:
        raise TurningpointError(f"from_time is {from_time:g}; accepted: a time t in (0, 1].")
    (start,) = turn_times(setup.schedule, [float(from_time)])
    starting = starting_images(images, setup.base, None if items is None else whole("items", items))
    return start, starting, len(starting)


def _probe(setup: Setup, activations: Any, kept: Sequence[str]) -> Probe | None:
    """What looks into the network."""
    if activations is None:
        if "activations" in kept:
            raise TurningpointError(
                "keep is 'activations', but no layers are named; accepted: with activations=."
            )
        return None
    return Probe(setup.base, activations, keep="activations" in kept)


def _told(conditions: Sequence[dict[str, Any]], own: np.ndarray | None) -> np.ndarray:
    if own is not None:
        return own
    return np.array([c.get("label", UNCONDITIONAL) for c in conditions])


def _records(
    alongs: Sequence[Along], kept: Sequence[str], times: tuple[float, ...], probe: Probe | None
) -> tuple[Record, ...]:
    """What walks hold until they end."""
    wanted = {side for along in alongs for side in along.sides} | {side for side in SIDES if side in kept}
    wanted |= {"state"} if any(along.paired for along in alongs) else set()
    found = [Record(side, times) for side in SIDES if side in wanted]
    return (*found, *(() if probe is None else records_of(probe, times)))


def _lay_out(
    store: Store, setup: Setup, n: int, times: tuple[float, ...], chunk: int, dtype: str, kept: Sequence[str]
) -> None:
    shape = setup.base.decoded_shape
    attrs = {**packing(dtype), "range": "[-1, 1]"}
    store.require("images", ("item", *image_dims(shape)), (n, *shape), (chunk, *shape), dtype, attrs)
    store.require("done", ("item",), (n,), (chunk,), "bool")
    lay_out_latents(store, "latents", ("item",), (n,), (chunk,), setup.base)
    lay_out_times(store, "", "time", times, setup.schedule)
    own = image_dims(setup.base.shape)
    axes = own if setup.base.shape == shape else [f"latent_{axis}" for axis in own]
    for side in SIDES:
        if side in kept:
            sizes = n, len(times), *setup.base.shape
            store.require(side, ("item", "time", *axes), sizes, (1, *sizes[1:]))


def _scratch(store: Store, wanted: bool) -> Path | None:
    """Where trajectories wait that memory should not hold."""
    if not wanted:
        return None
    import tempfile

    return store.folder or Path(tempfile.gettempdir())


def _walks(
    first_item: int,
    block: int,
    start: float | None,
    times: np.ndarray,
    conditions: Sequence[dict[str, Any]],
    records: Sequence[Record],
    store: Store,
) -> Callable[[Sequence[int]], list[Walk]]:
    def make(offsets: Sequence[int]) -> list[Walk]:
        walks = []
        for i in offsets:
            number, told = first_item + block + i, conditions[block + i]
            if start is None:
                walks.append(Walk(Address(number, stream=FROM_NOISE), FromNoise(), times, told, records))
                continue
            name = "start_latents" if store.has("start_latents") else "start"
            begin = FromImage(store.read(name, (block + i,)))
            walks.append(Walk(Address(number, 0, start), begin, times, told, records))
        return walks

    return make


def _write(
    store: Store,
    setup: Setup,
    unit: Unit,
    offsets: Sequence[int],
    finished: list[Finished],
    finals: np.ndarray,
    alongs: Sequence[Along],
    kept: Sequence[str],
    batch: int,
) -> None:
    """Read the trajectories of a unit, and write what was read and what is kept."""
    _check_undisturbed(store, alongs)
    needed = {side for along in alongs for side in (*along.sides, *(("state",) if along.paired else ()))}
    paths = {side: [f.values[side] for f in finished] for side in SIDES if side in needed}

    def decode(rows: np.ndarray) -> np.ndarray:
        if setup.base.shape == setup.base.decoded_shape:
            return rows
        return in_batches(setup.base.decode, rows, torch.device(setup.device), batch)

    if paths:
        for name, arrays in read_along(alongs, finals, paths, decode).items():
            for array, values in arrays.items():
                write_rows(store, f"readings/{name}/{array}", unit, offsets, values)
    for side in SIDES:
        if side in kept:
            for offset, one in zip(offsets, finished, strict=True):
                store.write(side, one.values[side], (unit.region[0].start + offset,))  # type: ignore[union-attr]
