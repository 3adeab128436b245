"""Generation from pure noise: the plainest experiment, and where starting images can come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..archive import spelled_out
from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.grid import Grid
from ..diffusion.sampler import Sampler
from ..errors import TurningpointError
from ..models.settings import whole
from ..run import Run
from ..simulation.collect import Progress, Unit
from ..simulation.noise import Address, Noise, RecordedNoise, SeededNoise
from ..simulation.progress import shown
from ..simulation.store import packing
from ..simulation.walk import FromNoise, Record, Walk
from .layout import (
    check_guidance,
    conditions_of,
    differing,
    lay_out_conditions,
    lay_out_latents,
    lay_out_records,
    summarised,
)
from .planning import (
    CHUNK,
    Setup,
    check_store,
    find_or_create,
    image_dims,
    noise_settings,
    record_settings,
    simulate,
)

STEPS = 18
"""Steps from t = 1 to 0, if neither the user nor the model's authors name a number."""
FROM_NOISE = 1
"""The stream of noise of walks that start from pure noise."""


def generate(
    model: str | Denoiser,
    n: int | None = None,
    *,
    noise: Any = None,
    sampler: str | Sampler = "heun",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    seed: int = 0,
    label: int | Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    first_item: int = 0,
    record: Sequence[Record] = (),
    out: str | Path | None = None,
    store: str = "float32",
    batch: int = 64,
    device: str | None = None,
    progress: Progress | str | None = "auto",
    command: str = "",
    **sampler_settings: Any,
) -> Run:
    """Generate images from pure noise at t = 1.

    Parameters
    ----------
    model : str or Denoiser
        What `turningpoint.load` takes.
    n : int
        How many images; not needed if ``noise`` is an array.
    noise : array (B, *shape) or (B, 1 + steps, *shape), or Noise, optional
        Standard normal start noise z in place of the seed's (EDM: x_1 = sigma_max z), and after it the draws of a
        stochastic sampler's steps, which otherwise still come from the seed.  Or a `Noise` that answers every draw.
    steps : int, optional
        By default the number that the model's authors take, or 18.
    sampler, grid, seed, prompt, negative_prompt, guidance, first_item, out, store, batch, device, progress, command
        As in `uturn`.
    label : int or sequence of n ints, optional
        The classes to generate.
    record : sequence of Record
        What else to keep: states or estimates on the way.

    Returns
    -------
    Run
        ``run.images`` is (item, channel, y, x), or (item, feature) for vectors.

    Raises
    ------
    TurningpointError
        For bad arguments, or if ``out`` holds another run.

    Examples
    --------
    >>> import turningpoint as tp
    >>> tp.generate("digits", 3, steps=2, label=[1, 2, 3], progress=None).images.shape
    (3, 1, 28, 28)
    """
    setup = Setup(model, sampler, steps, grid, seed, guidance, device, sampler_settings, STEPS)
    check_store(store, setup.base.decoded_shape)
    shape, source, given = setup.base.shape, SeededNoise(setup.seed), None
    if noise is None or hasattr(noise, "draw"):
        draws: Noise = source if noise is None else noise
    else:
        given = np.asarray(noise.detach().cpu() if isinstance(noise, Tensor) else noise, dtype=np.float32)
        rows = given[:, None] if given.ndim == 1 + len(shape) else given  # (B, draws, *shape)
        if rows.shape[2:] != shape or rows.ndim != 2 + len(shape) or n not in (None, len(given)):
            sizes, wanted = ", ".join(map(str, shape)), "B" if n is None else n
            raise TurningpointError(
                f"noise has shape {given.shape}; accepted: ({wanted}, {sizes}), or with the draws of the steps "
                f"({wanted}, 1 + steps, {sizes})."
            )
        n = len(given)
        recorded = {Address(first_item + i, stream=FROM_NOISE): draws for i, draws in enumerate(rows)}
        draws = RecordedNoise(recorded, otherwise=source)
    n = whole("n", n)
    check_guidance(guidance, label, prompt, negative_prompt)
    conditions = conditions_of(label, None, prompt, n, setup.base, negative_prompt)
    settings = setup.settings() | {"store": store, "record": record_settings(record)}
    settings["noise"] = noise_settings(draws if given is not None else noise)
    axes = {"items": n, "first_item": first_item, "condition": summarised(conditions)}
    run_store, known = find_or_create(out, "generate", settings, axes, command)
    if known != axes:
        differ = differing(spelled_out(known), conditions) or ["first_item"]
        raise TurningpointError(
            f"out is {str(out)!r}, which holds another run; these settings differ: {', '.join(differ)}."
        )
    chunk, inner = min(CHUNK, n), setup.base.decoded_shape
    with run_store.exclusive():
        attrs = {**packing(store), "range": "[-1, 1]"}
        run_store.require("images", ("item", *image_dims(inner)), (n, *inner), (chunk, *inner), store, attrs)
        run_store.require("done", ("item",), (n,), (chunk,), "bool")
        lay_out_latents(run_store, "latents", ("item",), (n,), (chunk,), setup.base)
        lay_out_records(run_store, record, setup.schedule)
        told = np.array([c.get("label", UNCONDITIONAL) for c in conditions])
        lay_out_conditions(run_store, conditions, told, chunk)
    times = setup.grid.times(setup.schedule)
    units = []
    for block in range(0, n, chunk):
        size = min(chunk, n - block)
        walks = _walks(first_item, block, times, conditions, record)
        units.append(Unit(str(block), (slice(block, block + size),), walks, size, len(times) - 1))
    run = Run(run_store, setup.base)
    with shown(progress, "images") as bar:
        simulate(run_store, units, setup.engine(batch, draws), record, bar)
    return run


def _walks(
    first: int, block: int, times: np.ndarray, conditions: Sequence[dict[str, Any]], records: Sequence[Record]
) -> Callable[[Sequence[int]], list[Walk]]:
    def make(offsets: Sequence[int]) -> list[Walk]:
        return [
            Walk(
                Address(first + block + i, stream=FROM_NOISE),
                FromNoise(),
                times,
                conditions[block + i],
                records,
            )
            for i in offsets
        ]

    return make
