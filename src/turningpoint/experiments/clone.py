r"""Clones: several copies of one trajectory that part at time t; do they end alike?

One trunk is generated from pure noise, :math:`x_1 \to \dots \to x_0`.  Where it passes t a copy parts from it
and goes on with noise of its own (Biroli et al. 2024; Li & Chen 2024, "cloned trajectories").  The trunk's own
end is the starting image of the run, its clones are what came back, so that retention and windows mean what they
mean for U-turns.  With an exact denoiser and a stochastic sampler trunk and clone are two draws from
:math:`p(x_0 \mid x_t)`: they agree on their class with probability

.. math:: E \Big[ \sum_c p(c \mid x_t)^2 \Big],

which is also what a U-turn keeps (`model_error` shows the difference).  All copies of a trunk at all times branch
from one simulation of it; it is the image that ``generate`` makes with the same settings.

A deterministic sampler's clones are identical, and so are clones that share their noise.  ``renoise`` gives them
fresh noise at the parting: the copy is first noised up by that many steps of the grid, which leaves its
distribution what it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.grid import Grid
from ..diffusion.sampler import Sampler
from ..errors import TurningpointError
from ..models.settings import whole
from ..run import Run
from ..simulation.collect import Progress, Unit, collect
from ..simulation.engine import SMALLEST_BATCH, Engine, Finished
from ..simulation.noise import Address, Noise
from ..simulation.progress import shown
from ..simulation.store import Store, packing
from ..simulation.walk import FromNoise, FromTrunk, Record, Walk
from .generate import FROM_NOISE
from .layout import (
    check_guidance,
    conditions_of,
    differing,
    joined_axes,
    lay_out_conditions,
    lay_out_latents,
    lay_out_records,
    lay_out_times,
    summarised,
)
from .planning import (
    LARGEST_CHUNK,
    Setup,
    check_store,
    decoded,
    find_or_create,
    image_dims,
    noise_settings,
    record_settings,
)
from .times import turn_times
from .uturn import STEPS

CLONE = 2
"""The stream of noise of clones."""

TRUNKS = 16
"""Trunks that are stored side by side, with all their clones."""


def clone(
    model: str | Denoiser,
    n: int = 64,
    *,
    times: Sequence[float] | None = None,
    logsnr: Sequence[float] | None = None,
    native: Sequence[float] | None = None,
    copies: int = 1,
    sampler: str | Sampler = "ddpm",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    seed: int = 0,
    label: int | Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    shared_noise: bool = False,
    renoise: int = 0,
    trajectories: bool = False,
    first_item: int = 0,
    noise: Noise | None = None,
    out: str | Path | None = None,
    store: str = "float32",
    extend: bool = False,
    batch: int = 64,
    device: str | None = None,
    progress: Progress | str | None = "auto",
    command: str = "",
    **sampler_settings: Any,
) -> Run:
    """Generate trunks from noise and clones of them that part at several times.

    Parameters
    ----------
    model : str or Denoiser
        What `turningpoint.load` takes.
    n : int
        How many trunks.
    times, logsnr, native : sequence of float
        When clones part, in one of the three clocks; each is moved to the nearest time of the grid, which
        the trunk visits. By default as in `uturn`.
    copies : int
        Clones of each trunk at each time, besides the trunk's own continuation.
    sampler, steps, grid, seed, guidance, prompt, negative_prompt, first_item, noise, out, store, batch, device,
    progress, command
        As in `uturn`.
    label : int or sequence of n ints, optional
        The classes to generate.
    shared_noise : bool
        After the parting, use the trunk's draws instead of own ones; needs ``renoise``.
    renoise : int
        Steps of the grid by which a copy is noised up at the parting, with a draw of its own.
    trajectories : bool
        Keep the states through which the trunks come, in the array ``trajectory`` (item, trajectory_time, ...).
    extend : bool
        Allow a run in ``out`` to grow by more times, trunks or copies.

    Returns
    -------
    Run
        ``run.start`` (item, ...) are the trunks' ends, ``run.images`` (item, replicate, time, ...) the clones'.

    Raises
    ------
    TurningpointError
        For bad arguments, if clones would be identical, or if ``out`` holds another run.
    SimulationError
        If the network returns NaN, or memory or disk do not suffice.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.clone("digits", 2, times=[0.2, 0.6], copies=3, steps=5, progress=None)
    >>> dict(run.images.sizes)["replicate"], run.start.shape
    (3, (2, 1, 28, 28))
    """
    setup = Setup(model, sampler, steps, grid, seed, guidance, device, sampler_settings, STEPS)
    renoise = whole("renoise", renoise, 0)
    _refuse_identical(setup.sampler, renoise, shared_noise)
    visited = setup.grid.times(setup.schedule)
    parting = _on_grid(turn_times(setup.schedule, times, logsnr, native), visited, renoise)
    check_store(store, setup.base.decoded_shape)
    n, copies, first_item = whole("n", n), whole("copies", copies), whole("first_item", first_item, 0)
    check_guidance(guidance, label, prompt, negative_prompt)
    path = (Record("state", tuple(visited), "trajectory"),) if trajectories else ()
    settings = setup.settings() | {"store": store, "record": record_settings(path)}
    settings["noise"] = noise_settings(noise)
    settings |= {"shared_noise": bool(shared_noise), "renoise": renoise}
    conditions = conditions_of(label, None, prompt, n, setup.base, negative_prompt)
    axes = {"times": parting, "replicates": copies, "items": n, "first_item": first_item}
    axes["condition"] = summarised(conditions)
    run_store, _ = find_or_create(out, "clone", settings, axes, command)
    with run_store.exclusive():
        axes, conditions = _joined(run_store, axes, conditions, extend)
        _lay_out(run_store, axes, conditions, setup, store)
        lay_out_records(run_store, path, setup.schedule)
    units = _units(run_store, axes, conditions, visited, renoise, bool(shared_noise), path)
    with shown(progress, "clones") as bar:
        _simulate(run_store, units, setup.engine(batch, noise), n, bar)
    return Run(run_store, setup.base)


def _refuse_identical(sampler: Sampler, renoise: int, shared_noise: bool) -> None:
    if not renoise and not sampler.stochastic:
        raise TurningpointError(
            f"sampler is {sampler.name!r} without noise, whose clones are identical; accepted: ddpm, ddim with "
            "eta above 0, heun with churn, or renoise of at least 1."
        )
    if not renoise and shared_noise:
        raise TurningpointError(
            "shared_noise is given without renoise, so clones would be identical; accepted: renoise of at least 1."
        )


def _on_grid(times: Sequence[float], visited: np.ndarray, renoise: int) -> list[float]:
    """The grid's times nearest to the given ones, ascending, each once."""
    places = sorted({int(np.abs(visited[:-1] - t).argmin()) for t in times}, reverse=True)
    if len(places) < len(times):
        warnings.warn(
            f"times are {len(times)}, which fall on {len(places)} of the {len(visited) - 1} steps of the grid: some "
            "part at the same time; more steps keep them apart.",
            stacklevel=3,
        )
    if places[-1] < renoise:
        raise TurningpointError(
            f"times hold {visited[places[-1]]:g}, above which the grid has {places[-1]} steps; accepted with "
            f"renoise {renoise}: times up to {visited[min(renoise, len(visited) - 2)]:g}."
        )
    return [float(visited[place]) for place in places]


def _joined(
    store: Store, asked: dict[str, Any], conditions: list[dict[str, Any]], extend: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The axes and conditions of a run that holds what it held and what is asked for."""
    known = store.reload()["axes"]
    place = str(store.folder or "memory")
    n = min(known["items"], asked["items"])
    told = spelled_out(known)[:n]
    differ = differing(told, conditions[:n]) + ["first_item"] * (known["first_item"] != asked["first_item"])
    if differ:
        raise TurningpointError(
            f"out is {place!r}, which holds another run; these settings differ: {', '.join(differ)}."
        )
    joined = joined_axes(store, asked, extend)
    return joined, spelled_out(joined)


def _lay_out(
    store: Store, axes: dict[str, Any], conditions: list[dict[str, Any]], setup: Setup, dtype: str
) -> None:
    """Make the arrays that are missing, and enlarge those that are too small."""
    n = axes["items"]
    sizes = n, axes["replicates"], len(axes["times"])
    chunks = min(TRUNKS, n) if not store.has("done") else store.array("done").chunks[0], 1, 1
    shape = setup.base.decoded_shape
    inner, attrs = image_dims(shape), {**packing(dtype), "range": "[-1, 1]"}
    store.require("start", ("item", *inner), (n, *shape), (chunks[0], *shape), "float32")
    lay_out_latents(store, "start_latents", ("item",), (n,), chunks[:1], setup.base)
    lay_out_times(store, "", "time", axes["times"], setup.schedule)
    labels = np.array([condition.get("label", UNCONDITIONAL) for condition in conditions])
    lay_out_conditions(store, conditions, labels, chunks[0])
    dims = ("item", "replicate", "time")
    store.require("images", (*dims, *inner), (*sizes, *shape), (*chunks, *shape), dtype, attrs)
    lay_out_latents(store, "latents", dims, sizes, chunks, setup.base)
    store.require("done", dims, sizes, chunks, "bool")


def _units(
    store: Store,
    axes: dict[str, Any],
    conditions: Sequence[Mapping[str, Any]],
    visited: np.ndarray,
    renoise: int,
    shared_noise: bool,
    path: Sequence[Record],
) -> list[Unit]:
    chunk, units = store.array("done").chunks[0], []
    copies, times = axes["replicates"], axes["times"]
    places = [int(np.abs(visited - t).argmin()) for t in times]
    branches = sum(len(visited) - 1 - place + renoise for place in places) * copies
    share = (len(visited) - 1 + branches) / (copies * len(times))
    for block in range(0, axes["items"], chunk):
        stop = min(block + chunk, axes["items"])
        region = slice(block, stop), slice(0, copies), slice(0, len(times))
        plant = _trees(
            block, axes["first_item"], copies, visited, places, conditions, renoise, shared_noise, path
        )
        units.append(Unit(str(block), region, plant, (stop - block) * copies * len(times), share))
    return units


def _trees(
    block: int,
    first_item: int,
    copies: int,
    visited: np.ndarray,
    places: Sequence[int],
    conditions: Sequence[Mapping[str, Any]],
    renoise: int,
    shared_noise: bool,
    path: Sequence[Record],
) -> Callable[[Sequence[int]], list[Walk]]:
    """Makes the trunks of a block with a branch for every clone that is missing."""

    def make(offsets: Sequence[int]) -> list[Walk]:
        grown: dict[int, list[Walk]] = {}
        for offset in offsets:
            i, rest = divmod(offset, copies * len(places))
            copy, k = divmod(rest, len(places))
            item, place = first_item + block + i, places[k]
            address = Address(item, copy, float(visited[place]), CLONE)
            trunk = Address(item, stream=FROM_NOISE)
            begin = place - renoise
            grown.setdefault(i, []).append(
                Walk(
                    address,
                    FromTrunk(float(visited[place])),
                    visited[begin:],
                    conditions[block + i],
                    noise_of=(trunk, begin) if shared_noise else None,
                )
            )
        return [
            Walk(
                Address(first_item + block + i, stream=FROM_NOISE),
                FromNoise(),
                visited,
                conditions[block + i],
                path,
                branches=branches,
            )
            for i, branches in grown.items()
        ]

    return make


def _simulate(
    store: Store, units: Sequence[Unit], engine: Engine, trunks: int, progress: Progress | None
) -> None:
    """Simulate the units that are not done, writing the trunks' ends and the clones'."""
    # all at once at most: with few trunks slots stand empty at first, but no walk waits for one
    engine.batch = min(engine.batch, max(SMALLEST_BATCH, trunks + sum(unit.size for unit in units)))

    def write(unit: Unit, offsets: Sequence[int], finished: list[Finished]) -> None:
        trunks = [f for f in finished if f.walk.branches]
        clones = [f for f in finished if not f.walk.branches]
        block = unit.region[0]
        assert isinstance(block, slice)
        first = store.manifest["axes"]["first_item"] + block.start
        rows = [f.walk.address.item - first for f in trunks]
        pairs = [("start", "images", decoded(engine, trunks), decoded(engine, clones))]
        if store.has("latents"):
            pairs.append(("start_latents", "latents", _finals(trunks), _finals(clones)))
        if "trajectory" in trunks[0].values:
            states = np.stack([f.values["trajectory"] for f in trunks])
            _write_path(store, states, engine.model, block, rows)
        for of_trunks, of_clones, ends, copies in pairs:
            start = store.read(of_trunks, (block,)).copy()
            start[rows] = ends
            store.write(of_trunks, start, (block,))
            images = np.array(store.read(of_clones, unit.region))
            images.reshape(-1, *images.shape[3:])[list(offsets)] = copies
            store.write(of_clones, images, unit.region)

    collect(store, units, engine, write, progress)


def _write_path(store: Store, states: np.ndarray, model: Denoiser, block: slice, rows: Sequence[int]) -> None:
    """Write the states through which some trunks of a block came, (trunks, times, *shape)."""
    before = "" if model.shape == model.decoded_shape else "latent_"
    dims = ("item", "trajectory_time", *(f"{before}{axis}" for axis in image_dims(model.shape)))
    sizes, chunk = store.array("start").shape[0], store.array("start").chunks[0]
    chunk = min(chunk, max(1, LARGEST_CHUNK // (4 * math.prod(states.shape[1:]))))
    store.require("trajectory", dims, (sizes, *states.shape[1:]), (chunk, *states.shape[1:]))
    kept = store.read("trajectory", (block,)).copy()
    kept[list(rows)] = states
    store.write("trajectory", kept, (block,))


def _finals(finished: Sequence[Finished]) -> np.ndarray:
    return np.stack([f.values["final"] for f in finished])
