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
import torch

from ..archive import spelled_out
from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.grid import Grid
from ..diffusion.sampler import Sampler
from ..diffusion.schedule import Schedule
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
    joined_axes,
    lay_out_conditions,
    lay_out_latents,
    lay_out_records,
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
from .starting import in_latents, in_pictures, starting_images

DEFAULT_TIMES = tuple(round(0.1 * k, 1) for k in range(1, 10))
DEFAULT_LOGSNR = tuple(-8 + 1.25 * k for k in range(9))
"""Instead of `DEFAULT_TIMES` where these would lie below the smallest time that a sampler visits (EDM)."""
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
    items: int | None = None,
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
    images : array, path or None
        Starting images, see `starting.starting_images`; by default the model's own first 64, or for a model
        that is told a prompt 16 that it generates first.
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
        Start from this many images that the model generates first, instead of ``images``.
    items : int, optional
        Take the first ones of the starting images only.
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
        Leave out pictures that cannot be used.
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
    pictures: np.ndarray | None = None
    if images is None and generate is None and prompt is not None and setup.base.starting_images() is None:
        generate, items = items or DEFAULT_GENERATED, None
    if generate is not None:
        if images is not None:
            raise TurningpointError("images and generate are both given; accepted: one of them.")
        if isinstance(label, str):
            raise TurningpointError(f"label is {label!r}; accepted with generate: class indices, or None.")
        refuse_another(out, "uturn", settings)
        made = generate_images(
            setup.base, generate, sampler=setup.sampler, grid=setup.grid, seed=seed, guidance=guidance, label=label,
            prompt=prompt, negative_prompt=negative_prompt, batch=batch, device=device, progress=progress,
            first_item=first_item, out=None if out is None else Path(out) / f"generated-{generate}",
        )  # fmt: skip
        pictures = made.images.values
        images = made.latents.values if made.store.has("latents") else pictures
    if pictures is not None:
        x_start, own = np.asarray(images)[:items], None
    else:
        limit = items if images is not None else items or DEFAULT_ITEMS
        x_start, own = starting_images(images, setup.base, limit, skip_bad)
    conditions = conditions_of(label, own, prompt, len(x_start), setup.base, negative_prompt)
    axes = _axes(turns, replicates, x_start, conditions, first_item)
    run_store, _ = find_or_create(out if into is None else into.store, "uturn", settings, axes, command)
    with run_store.exclusive():
        axes, x_start, conditions, own = _joined(run_store, axes, x_start, conditions, own, extend)
        _lay_out(run_store, axes, x_start, own, conditions, setup, store, record, pictures, batch)
    run = into or Run(run_store, setup.base)
    run.forget()
    units = _units(run_store, axes, conditions, setup, record, batch)
    with shown(progress, "U-turns") as bar:
        simulate(run_store, units, setup.engine(batch, noise), record, bar)
    return run


def turn_times(
    schedule: Schedule,
    times: Sequence[float] | None = None,
    logsnr: Sequence[float] | None = None,
    native: Sequence[float] | None = None,
) -> list[float]:
    """U-turn times t in (0, 1], ascending, each once, where the model's network knows them.

    Raises
    ------
    TurningpointError
        If several clocks are given, or a time is outside (0, 1].
    """
    clocks = {"times": times, "logsnr": logsnr, "native": native}
    given = {name: value for name, value in clocks.items() if value is not None}
    if len(given) > 1:
        raise TurningpointError(f"{' and '.join(given)} are given; accepted: one of times, logsnr, native.")
    usual = ("times", DEFAULT_TIMES) if schedule.t_min <= DEFAULT_TIMES[0] else ("logsnr", DEFAULT_LOGSNR)
    name, values = next(iter(given.items()), usual)
    asked = decimals(name, values)
    t = asked if name == "times" else schedule.t(**{name: asked}).numpy()
    if t.size == 0:
        raise TurningpointError(f"{name} is empty; accepted: one or more times.")
    for value, time in zip(asked, t, strict=True):
        if not 0 < time <= 1 + 1e-9:
            raise TurningpointError(
                f"{name} holds {value:g}" + ("" if name == "times" else f", which is t = {time:g}")
                + "; accepted: times t with 0 < t <= 1."
            )  # fmt: skip
    snapped = schedule.snap(np.minimum(t, 1.0)).numpy()
    if snapped.min() <= 0:
        raise TurningpointError(
            f"{name} holds {asked[snapped.argmin()]:g}, which is before the model's first step."
        )
    return sorted({round(float(time), 12) for time in snapped})


def decimals(argument: str, values: Any) -> np.ndarray:
    """Numbers as float64 (n,); those given in float32 become the decimals that were meant.

    >>> decimals("times", np.float32(0.3))
    array([0.3])
    """
    try:
        given = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        flat = np.atleast_1d(given).astype(np.float64)
        if flat.ndim != 1:
            raise ValueError
    except (TypeError, ValueError):
        raise TurningpointError(
            f"{argument} is {values!r}; accepted: a number, or a list of numbers."
        ) from None
    if given.dtype in (np.float32, np.float16):
        flat = np.array([float(f"{value:.7g}") for value in flat])
    return flat


def _axes(
    turns: list[float],
    replicates: int,
    x_start: np.ndarray,
    conditions: list[dict[str, Any]],
    first_item: int,
) -> dict[str, Any]:
    images = [digest(x) for x in x_start]
    return {
        "times": turns,
        "replicates": int(replicates),
        "items": len(images),
        "first_item": first_item,
        "images": digest(np.array(images)),
        "image_digests": images,
        "condition": summarised(conditions),
    }


def _joined(
    store: Store,
    asked: dict[str, Any],
    x_start: np.ndarray,
    conditions: list[dict[str, Any]],
    own: np.ndarray | None,
    extend: bool,
) -> tuple[dict[str, Any], np.ndarray, list[dict[str, Any]], np.ndarray | None]:
    """The axes, images, conditions and labels of a run that holds what it held and what is asked for."""
    known = store.reload()["axes"]
    place = str(store.folder or "memory")
    if known["first_item"] != asked["first_item"]:
        raise TurningpointError(
            f"first_item is {asked['first_item']}; the run in {place!r} begins at {known['first_item']}."
        )
    n = min(known["items"], asked["items"])
    told = spelled_out(known)
    for what, differ in (
        ("images", known["image_digests"][:n] != asked["image_digests"][:n]),
        ("conditions", told[:n] != conditions[:n]),
    ):
        if differ:
            raise TurningpointError(
                f"out is {place!r}, which holds another run; these settings differ: starting {what}."
            )
    joined = joined_axes(store, asked, extend)
    kept = store.read("label") if store.has("label") else None
    if asked["items"] < known["items"]:
        start = "start_latents" if x_start.shape[1:] != store.array("start").shape[1:] else "start"
        return joined, store.read(start), told, kept
    if own is None and kept is not None:
        own = np.concatenate([kept, np.full(joined["items"] - len(kept), UNCONDITIONAL)])
    return joined, x_start, conditions, own


def _lay_out(
    store: Store,
    axes: dict[str, Any],
    x_start: np.ndarray,
    own: np.ndarray | None,
    conditions: list[dict[str, Any]],
    setup: Setup,
    dtype: str,
    records: Sequence[Record],
    pictures: np.ndarray | None,
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
        store.require("start", ("item", *inner), (n, *shape), (chunks[0], *shape))
        if pictures is None or len(pictures) != n:
            pictures = in_pictures(x_start, setup.base, batch)
        store.write("start", pictures)
        lay_out_latents(store, "start_latents", ("item",), (n,), chunks[:1], setup.base)
        if store.has("start_latents"):
            store.write("start_latents", in_latents(x_start, setup.base, batch))
        store.annotate("start", {"written": True})
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
    kept = store.has("start_latents")
    clean = store.read("start_latents") if kept else in_latents(store.read("start"), setup.base, batch)
    for k in np.argsort(axes["times"])[::-1]:
        time = axes["times"][k]
        grid = setup.grid.below(time, setup.schedule)
        for replicate in range(axes["replicates"]):
            for block in range(0, axes["items"], chunk):
                stop = min(block + chunk, axes["items"])
                walks = _walks(block, replicate, time, grid, axes["first_item"], clean, conditions, records)
                region = slice(block, stop), replicate, int(k)
                name = f"{block}.{replicate}.{k}"
                units.append(Unit(name, region, walks, stop - block, len(grid) - 1))
    return units


def _walks(
    block: int,
    replicate: int,
    time: float,
    grid: np.ndarray,
    first_item: int,
    clean: np.ndarray,
    conditions: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
) -> Callable[[Sequence[int]], list[Walk]]:
    def make(offsets: Sequence[int]) -> list[Walk]:
        return [
            Walk(
                Address(first_item + block + i, replicate, time),
                FromImage(clean[block + i]),
                grid,
                conditions[block + i],
                records,
            )
            for i in offsets
        ]

    return make
