r"""U-turns: noise an image to time t, denoise it back, and see what has survived.

For a starting image :math:`x_0` and a time t (Sclocchi, Favero & Wyart 2025, "forward-backward"; Li & Chen 2024,
"noise and denoise"),

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad x_t \to x_s \to \dots \to x'_0 .

With a stochastic sampler and an exact denoiser :math:`x'_0` is a draw from :math:`p(x_0 \mid x_t)`: what survives
is what the noise has left.  ``times x items x replicates`` walks, each with noise of its own.
"""

from __future__ import annotations

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
from ..simulation.collect import Progress, Unit
from ..simulation.noise import Address, Noise
from ..simulation.progress import shown
from ..simulation.store import Store, packing
from ..simulation.walk import FromImage, Record, Walk
from .generate import generate as generate_images
from .layout import (
    check_guidance,
    conditions_of,
    differing,
    joined_axes,
    lay_out_conditions,
    lay_out_latents,
    lay_out_records,
    lay_out_starts,
    lay_out_times,
    summarised,
)
from .planning import (
    CHUNK,
    Setup,
    check_store,
    digest,
    find_or_create,
    image_dims,
    noise_settings,
    record_settings,
    refuse_another,
    simulate,
)
from .starting import OfRun, Starting, coded, of_run, starting_images
from .times import turn_times

STEPS = 50
"""Steps of the full grid, if neither the user nor the model's authors name a number."""
DEFAULT_GENERATED = 16
"""Starting images generated from a prompt if none are given."""
DEFAULT_ITEMS = 64
"""Starting images taken of the model's own if none are given."""


def uturn(
    model: str | Denoiser,
    images: Any = None,
    *,
    times: Sequence[float] | None = None,
    logsnr: Sequence[float] | None = None,
    native: Sequence[float] | None = None,
    replicates: int = 1,
    sampler: str | Sampler = "ddpm",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    seed: int = 0,
    label: int | str | Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    generate: int | None = None,
    trajectories: bool = False,
    items: int | None = None,
    classes: Any = None,
    per_class: int | None = None,
    fit: str = "crop",
    split: str | None = None,
    first_item: int = 0,
    record: Sequence[Record] = (),
    noise: Noise | None = None,
    out: str | Path | None = None,
    store: str = "float32",
    extend: bool = False,
    skip_bad: bool = False,
    batch: int = 64,
    device: str | None = None,
    progress: Progress | str | None = "auto",
    command: str = "",
    into: Run | None = None,
    **sampler_settings: Any,
) -> Run:
    """Noise starting images to several times and denoise them back.

    Parameters
    ----------
    model : str or Denoiser
        What `turningpoint.load` takes.
    images : array, path, ImageSet, Run or None
        Starting images, see `starting.starting_images`; by default the model's own first 64, or for a model
        that is told a prompt 16 that it generates first. Those of a run are taken as they are, with its latents.
    times, logsnr, native : sequence of float
        When to turn, in one of the three clocks: t in (0, 1]; by default t = 0.1, 0.2, ..., 0.9 (EDM:
        log-SNR from -8 to 2).
    replicates : int
        U-turns of each image at each time.
    sampler : str
        ``ddpm``, ``ddim``, ``euler``, ``heun``; its settings (``eta=``, ``churn=``) as further arguments.
    steps : int
        Steps of the full grid from t = 1 to 0; a U-turn uses the part at or below its time. By default the
        number that the model's authors take, or 50.
    grid : str, Grid or sequence of float, optional
        ``uniform``, ``logsnr``, ``rho``, ``vp``, ``ve``, ``iddpm``, ``respaced``, ``leading``, ``linspace``, or the
        times themselves; by default
        the one on which the model's authors run the sampler, or the sampler's usual one.
    seed : int
        Of the run's noise.
    label : int, sequence of N ints, or "own", optional
        The class that the model is told; "own" tells each image's own. None is unconditional.
    prompt, negative_prompt : str or sequence of str, optional
        For text-to-image models; k of them are told to N / k consecutive images each.
    guidance : float, optional
        The guidance scale; needs a label or a prompt.
    generate : int, optional
        Start from this many images that the model generates first, instead of ``images``; they are kept in
        the run's folder, under ``generated-N``.
    trajectories : bool
        Keep the states through which generated images came, in the array ``trajectory`` of that run.
    items : int, optional
        Take the first ones of the starting images only.
    classes, per_class, fit, split
        Of a data set: which classes, how many of each, how pictures of another size are made to fit
        (``crop``, ``square``, ``stretch``, ``exact``), and which split.
    first_item : int
        The number of the first starting image; gives a part of a larger run, made elsewhere, the
        noise it has there (see `merge`).
    record : sequence of Record
        What else to keep: states or estimates on the way.
    noise : Noise, optional
        Draws from outside instead of those of the seed.
    out : path, optional
        The run's folder; None keeps all in memory. A run of equal settings there is continued.
    store : str
        ``float32``, ``float16`` or ``uint8``: how images are kept.
    extend : bool
        Allow a run in ``out`` to grow by more times, images or replicates.
    skip_bad : bool
        Leave out pictures that cannot be used; they are listed under ``skipped`` in the manifest's axes.
    batch : int
        Rows of a network call; does not change the noise.
    device : str, optional
        ``cpu``, ``cuda``, ``mps``.
    progress : callable, "auto" or None
        By default a bar, if there is a terminal.
    command : str
        Written into the manifest.
    into : Run, optional
        Continue or extend this run, which need not have a folder.

    Returns
    -------
    Run

    Raises
    ------
    TurningpointError
        For bad arguments, or if ``out`` holds another run.
    SimulationError
        If the network returns NaN, or memory or disk do not suffice.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.uturn("digits", items=3, times=[0.2, 0.4], replicates=2, steps=5, progress=None)
    >>> dict(run.images.sizes)
    {'item': 3, 'replicate': 2, 'time': 2, 'channel': 1, 'y': 28, 'x': 28}
    """
    setup = Setup(model, sampler, steps, grid, seed, guidance, device, sampler_settings, STEPS)
    turns = turn_times(setup.schedule, times, logsnr, native)
    check_store(store, setup.base.decoded_shape)
    replicates, first_item = whole("replicates", replicates), whole("first_item", first_item, 0)
    items, batch = None if items is None else whole("items", items), whole("batch", batch)
    check_guidance(guidance, label, prompt, negative_prompt)
    settings = setup.settings() | {"store": store, "record": record_settings(record)}
    settings["noise"] = noise_settings(noise)
    if images is None and generate is None and prompt is not None and setup.base.starting_images() is None:
        generate, items = items or DEFAULT_GENERATED, None
    if generate is None and trajectories:
        raise TurningpointError("trajectories is given, but no image is generated; accepted: generate=N.")
    if generate is not None:
        if images is not None:
            raise TurningpointError("images and generate are both given; accepted: one of them.")
        if isinstance(label, str):
            raise TurningpointError(f"label is {label!r}; accepted with generate: class indices, or None.")
        refuse_another(out, "uturn", settings)
        visited = tuple(setup.grid.times(setup.schedule))
        images = generate_images(
            setup.base, generate, sampler=setup.sampler, grid=setup.grid, seed=seed, guidance=guidance, label=label,
            prompt=prompt, negative_prompt=negative_prompt, batch=batch, device=device, progress=progress,
            first_item=first_item, out=None if out is None else Path(out) / f"generated-{generate}",
            record=(Record("state", visited, "trajectory"),) if trajectories else (),
        )  # fmt: skip
    if isinstance(images, Run):
        starting: Starting = of_run(images.store, setup.base, settings["model"]["fingerprint"], items)
    else:
        limit = items if images is not None else items or DEFAULT_ITEMS
        with shown(progress, "reading pictures", "pictures", "pictures/s") as bar:
            starting = starting_images(
                images, setup.base, limit, skip_bad, classes=classes, per_class=per_class, fit=fit, split=split,
                progress=bar,
            )  # fmt: skip
    conditions = conditions_of(label, starting.labels, prompt, len(starting), setup.base, negative_prompt)
    axes = _axes(turns, replicates, starting, conditions, first_item)
    run_store, _ = find_or_create(out if into is None else into.store, "uturn", settings, axes, command)
    with run_store.exclusive():
        axes, starting, conditions, own = _joined(run_store, axes, starting, conditions, extend)
        _lay_out(run_store, axes, starting, own, conditions, setup, store, record, batch)
    run = into or Run(run_store, setup.base)
    run.forget()
    units = _units(run_store, axes, conditions, setup, record, batch)
    with shown(progress, "U-turns") as bar:
        simulate(run_store, units, setup.engine(batch, noise), record, bar)
    return run


def _axes(
    turns: list[float],
    replicates: int,
    starting: Starting,
    conditions: list[dict[str, Any]],
    first_item: int,
) -> dict[str, Any]:
    about = {"names": starting.names, "classes": starting.classes, "skipped": starting.skipped}
    return {
        "times": turns,
        "replicates": int(replicates),
        "items": len(starting),
        "first_item": first_item,
        "images": digest(np.array(starting.digests)),
        "image_digests": starting.digests,
        "condition": summarised(conditions),
    } | {name: list(values) for name, values in about.items() if len(values)}


def _joined(
    store: Store,
    asked: dict[str, Any],
    starting: Starting,
    conditions: list[dict[str, Any]],
    extend: bool,
) -> tuple[dict[str, Any], Starting, list[dict[str, Any]], np.ndarray | None]:
    """The axes, images, conditions and labels of a run that holds what it held and what is asked for."""
    known = store.reload()["axes"]
    place = str(store.folder or "memory")
    if known["first_item"] != asked["first_item"]:
        raise TurningpointError(
            f"first_item is {asked['first_item']}; the run in {place!r} begins at {known['first_item']}."
        )
    n = min(known["items"], asked["items"])
    told = spelled_out(known)
    differ = differing(told[:n], conditions[:n])
    if known["image_digests"][:n] != asked["image_digests"][:n]:
        differ = ["starting images", *differ]
    if differ:
        raise TurningpointError(
            f"out is {place!r}, which holds another run; these settings differ: {', '.join(differ)}."
        )
    joined = joined_axes(store, asked, extend)
    kept = store.read("label") if store.has("label") else None
    if asked["items"] < known["items"]:
        return joined, OfRun(store), told, kept
    own = starting.labels
    if own is None and kept is not None:
        own = np.concatenate([kept, np.full(joined["items"] - len(kept), UNCONDITIONAL)])
    return joined, starting, conditions, own


def _lay_out(
    store: Store,
    axes: dict[str, Any],
    starting: Starting,
    own: np.ndarray | None,
    conditions: list[dict[str, Any]],
    setup: Setup,
    dtype: str,
    records: Sequence[Record],
    batch: int,
) -> None:
    """Make the arrays that are missing, and enlarge those that are too small."""
    n = axes["items"]
    sizes = n, axes["replicates"], len(axes["times"])
    chunks = min(CHUNK, n) if not store.has("done") else store.array("done").chunks[0], 1, 1
    shape = setup.base.decoded_shape
    dims, inner = ("item", "replicate", "time"), image_dims(shape)
    attrs = {**packing(dtype), "range": "[-1, 1]"}
    if not store.has("start") or store.array("start").shape[0] < n or not store.attrs("start").get("written"):
        lay_out_starts(store, starting, setup.base, n, batch)
    lay_out_latents(store, "latents", dims, sizes, chunks, setup.base)
    lay_out_times(store, "", "time", axes["times"], setup.schedule)
    lay_out_conditions(store, conditions, own, chunks[0])
    lay_out_records(store, records, setup.schedule)
    store.require("images", (*dims, *inner), (*sizes, *shape), (*chunks, *shape), dtype, attrs)
    store.require("done", dims, sizes, chunks, "bool")


def _units(
    store: Store,
    axes: dict[str, Any],
    conditions: list[dict[str, Any]],
    setup: Setup,
    records: Sequence[Record],
    batch: int,
) -> list[Unit]:
    """The run's units, those with the longest walks first."""
    units = []
    chunk = store.array("done").chunks[0]  # not that of today's size: units must not straddle chunks

    def clean(rows: slice) -> np.ndarray:
        if store.has("start_latents"):
            return store.read("start_latents", (rows,))
        return coded(setup.base.encode, store.read("start", (rows,)), setup.base, batch)

    for k in np.argsort(axes["times"])[::-1]:
        time = axes["times"][k]
        grid = setup.grid.below(time, setup.schedule)
        for replicate in range(axes["replicates"]):
            for block in range(0, axes["items"], chunk):
                stop = min(block + chunk, axes["items"])
                region = slice(block, stop), replicate, int(k)
                walks = _walks(region, time, grid, axes["first_item"], clean, conditions, records)
                name = f"{block}.{replicate}.{k}"
                units.append(Unit(name, region, walks, stop - block, len(grid) - 1))
    return units


def _walks(
    region: tuple[slice, int, int],
    time: float,
    grid: np.ndarray,
    first_item: int,
    clean: Callable[[slice], np.ndarray],
    conditions: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
) -> Callable[[Sequence[int]], list[Walk]]:
    """Makes the U-turns of a unit, whose images are read when they are begun."""
    rows, replicate, _ = region
    block = rows.start

    def make(offsets: Sequence[int]) -> list[Walk]:
        x_0 = clean(rows)
        return [
            Walk(
                Address(first_item + block + i, replicate, time),
                FromImage(x_0[i]),
                grid,
                conditions[block + i],
                records,
            )
            for i in offsets
        ]

    return make
