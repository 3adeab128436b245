r"""``patch``: a causal check of a layer: what becomes of the final image when the layer is changed for some steps?

Every item is generated twice, in lockstep and with the same noise: clean, and with one layer's activation
replaced while the network is called for times in a window, :math:`x_0^{changed} = x_0 \mid do(a_l(t), \, t \in [a, b])`
(`turningpoint.diffusion.lockstep` names the ways).  Whatever differs between the two final images is the
intervention's effect, and needs no model of what else goes on in the network; see `turningpoint.statistics.effects`
for its size.  With ``patch``, a third image evolves beside them, the donor, under another condition or from other
noise, and its activation at the same time is what is put in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.grid import Grid
from ..diffusion.lockstep import DONOR, Intervention, Lockstep
from ..diffusion.sampler import Sampler
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..models.settings import whole
from ..run import Run
from ..simulation.collect import Progress, Unit, collect
from ..simulation.engine import SMALLEST_BATCH, Finished
from ..simulation.noise import Address, Noise, SeededNoise
from ..simulation.progress import shown
from ..simulation.store import Store, packing
from ..simulation.walk import FromNoise, Walk
from .generate import FROM_NOISE
from .layout import (
    check_guidance,
    conditions_of,
    differing,
    lay_out_conditions,
    lay_out_latents,
    summarised,
)
from .planning import CHUNK, Setup, check_store, decoded, find_or_create, image_dims, write_rows

STEPS = 50
"""Steps from t = 1 to 0, if neither the user nor the model's authors name a number; as `trace`."""
ARRAYS = {"clean": "clean", "changed": "images", "donor": "donor"}
"""Under what name the images of each variant are stored."""
LATENTS = {"clean": "clean_latents", "changed": "latents", "donor": "donor_latents"}
DONORS = ("label", "prompt", "negative_prompt", "seed")
"""What of a donor can be another than the clean image's."""


@dataclass(frozen=True)
class SharedNoise:
    """The same draws for all variants of an item, except for a donor with a seed of its own.

    Parameters
    ----------
    noise : Noise
        What a run of single images would draw from.
    variants : int
        How many are stacked.
    donor : Noise, optional
        What the last variant draws from instead.

    Examples
    --------
    >>> z = SharedNoise(SeededNoise(0), 2).draw(Address(0), 0, (2, 3))
    >>> bool((z[0] == z[1]).all()), bool((z[:1] == SeededNoise(0).draw(Address(0), 0, (1, 3))).all())
    (True, True)
    """

    noise: Noise
    variants: int
    donor: Noise | None = None

    def draw(self, address: Address, index: int, shape: Sequence[int]) -> np.ndarray:
        """See `turningpoint.simulation.noise.Noise.draw`; the first axis holds the variants."""
        own = (shape[0] // self.variants, *shape[1:])
        draws = [self.noise.draw(address, index, own)] * self.variants
        if self.donor is not None:
            draws[-1] = self.donor.draw(address, index, own)
        return np.concatenate(draws)


def patch(
    model: str | Denoiser,
    layer: str | Sequence[str],
    window: Sequence[float] | None = None,
    n: int = 64,
    *,
    logsnr_window: Sequence[float] | None = None,
    mode: str = "ablate",
    donor: Mapping[str, Any] | None = None,
    sampler: str | Sampler = "heun",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    seed: int = 0,
    label: int | Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    first_item: int = 0,
    out: str | Path | None = None,
    store: str = "float32",
    batch: int = 64,
    device: str | None = None,
    progress: Progress | str | None = "auto",
    command: str = "",
    **sampler_settings: Any,
) -> Run:
    """Generate images with and without a change of a layer in a window of times, all else being the same.

    Parameters
    ----------
    model : str or Denoiser
        What `turningpoint.load` takes; it must have a network.
    layer : str or sequence of str
        Names or patterns of layers (``"mid_block"``, ``"up_blocks.*"``), all of which are changed.
    window : (a, b)
        The times t, 0 <= a < b <= 1, at which the network's calls are changed.
    n : int
        How many images.
    logsnr_window : (low, high)
        Instead of ``window``: the same as log-SNR.
    mode : str
        ``ablate`` (zeros), ``mean`` (each channel's mean over positions), ``skip`` (the layer's input),
        ``scale:NUMBER``, or ``patch`` (the donor's activation at the same time).
    donor : mapping, for ``patch``
        In what the donor differs from the clean image: ``{"label": 3}``, ``{"prompt": "a bus"}``, ``{"seed": 1}``, also
        several; a label of None is none, and what is not named is the clean image's.
    sampler, steps, grid, seed, label, prompt, negative_prompt, guidance, first_item, out, store, device, progress,
    command
        As in `generate`.
    batch : int
        Rows of a call of the network, of which an item takes two, or three with a donor.

    Returns
    -------
    Run
        ``run.images`` are the changed images (item, channel, y, x), or (item, feature) for vectors; ``run.data.clean``
        the unchanged ones, those of `generate` with the same seed; ``run.data.donor`` the donors. `effects` compares
        them.

    Raises
    ------
    TurningpointError
        For bad arguments, a layer that the network does not have or that cannot be changed in this way, or if ``out``
        holds another run.
    SimulationError
        If the network returns NaN, or memory or disk do not suffice.

    Examples
    --------
    >>> import turningpoint as tp
    >>> from turningpoint.experiments.patch import patch
    >>> run = patch("digits", "mid_block", (0.3, 0.6), 2, steps=4, progress=None)
    >>> run.images.shape, bool((run.images == run.data.clean).all())
    ((2, 1, 28, 28), False)
    >>> bool(abs(run.data.clean - tp.generate("digits", 2, steps=4, progress=None).images).max() < 1e-4)
    True
    """
    setup = Setup(model, sampler, steps, grid, seed, guidance, device, sampler_settings, STEPS)
    check_store(store, setup.base.decoded_shape)
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    pair = Lockstep(setup.model, Intervention(layers, _window(window, logsnr_window, setup.schedule), mode))
    n, batch, first_item = whole("n", n), whole("batch", batch), whole("first_item", first_item, 0)
    check_guidance(guidance, label, prompt, negative_prompt)
    conditions = conditions_of(label, None, prompt, n, setup.base, negative_prompt)
    told, source = _donor(donor, pair, label, prompt, negative_prompt, n, setup.base)
    both = conditions if told is None else [c | {DONOR: d} for c, d in zip(conditions, told, strict=True)]
    times = setup.grid.times(setup.schedule)
    pair.rehearse((both * 2)[:2], setup.device)
    low, high = pair.intervention.window
    changes = {"layers": list(pair.layers), "window": [low, high], "mode": pair.intervention.mode}
    if told is not None:
        changes["donor"] = {"condition": summarised(told), "seed": None if source is None else source.seed}
    settings = setup.settings() | {"store": store, "record": [], "noise": None, "patch": changes}
    axes = {"items": n, "first_item": first_item, "condition": summarised(conditions)}
    run_store, known = find_or_create(out, "patch", settings, axes, command)
    if known != axes:
        differ = differing(spelled_out(known), conditions) or ["first_item"]
        raise TurningpointError(
            f"out is {str(out)!r}, which holds another run; these settings differ: {', '.join(differ)}."
        )
    if not _count(times, (low, high)):
        warnings.warn(
            f"window is {low:g}:{high:g}, in which no step begins: more steps, or a wider window, change something.",
            stacklevel=2,
        )
    chunk = min(CHUNK, n)
    with run_store.exclusive():
        _lay_out(run_store, setup.base, pair, conditions, chunk, store)
    units = [
        Unit(str(block), (slice(block, stop),), make, stop - block, len(times) - 1)
        for block in range(0, n, chunk)
        for stop in [min(block + chunk, n)]
        for make in [_walks(first_item, block, times, both)]
    ]
    setup.model = pair
    engine = setup.engine(batch, SharedNoise(SeededNoise(setup.seed), pair.k, source))
    engine.batch = max(SMALLEST_BATCH, min(batch // pair.k, n))

    def write(unit: Unit, offsets: Sequence[int], finished: list[Finished]) -> None:
        finals = np.stack([f.values["final"] for f in finished])
        for names, values in ((ARRAYS, decoded(engine, finished)), (LATENTS, finals)):
            for variant, part in zip(pair.intervention.variants, np.split(values, pair.k, 1), strict=True):
                if run_store.has(names[variant]):
                    write_rows(run_store, names[variant], unit, offsets, part)

    with shown(progress, "pairs of images") as bar:
        collect(run_store, units, engine, write, bar)
    return Run(run_store, setup.base)


def window_of(run: Run) -> tuple[float, float]:
    """Between which log-SNRs a patch has changed its layers, the lower one first."""
    low, high = run.settings["patch"]["window"]
    return float(run.schedule.logsnr(high)), float(run.schedule.logsnr(low))


def steps_inside(run: Run) -> tuple[int, int]:
    """How many steps of a patch begin in its window, and how many it has in all."""
    times = Grid.from_config(run.settings["grid"]).times(run.schedule)
    return _count(times, run.settings["patch"]["window"]), len(times) - 1


def _count(times: np.ndarray, window: Sequence[float]) -> int:
    return int(((times[:-1] >= window[0]) & (times[:-1] <= window[1])).sum())


def _window(
    window: Sequence[float] | None, logsnr: Sequence[float] | None, clock: Schedule
) -> tuple[float, float]:
    """The window in t, from either clock."""
    if (window is None) == (logsnr is None):
        given = "neither is given" if window is None else "both are given"
        raise TurningpointError(f"window and logsnr_window: {given}; accepted: one of them.")
    if window is not None:
        return tuple(window)  # type: ignore[return-value]
    assert logsnr is not None
    try:
        low, high = (float(end) for end in logsnr)
        ordered = low < high
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        raise TurningpointError(f"logsnr_window is {logsnr!r}; accepted: a:b with a < b.")
    ends = [float(clock.t(logsnr=np.float64(end))) for end in (high, low)]
    return ends[0], ends[1]


def _donor(
    donor: Mapping[str, Any] | None,
    pair: Lockstep,
    label: Any,
    prompt: Any,
    negative_prompt: Any,
    n: int,
    model: Denoiser,
) -> tuple[list[dict[str, Any]] | None, SeededNoise | None]:
    """The donors' conditions, and their noise if it is another."""
    takes = pair.intervention.mode == "patch"
    if takes != bool(donor):
        given = "no donor is given" if takes else f"a donor is given, {dict(donor or {})}"
        raise TurningpointError(
            f"mode is {pair.intervention.mode!r}, but {given}; accepted: a donor with mode 'patch', and with no other."
        )
    if donor is None or not takes:
        return None, None
    unknown = sorted(set(donor) - set(DONORS))
    if unknown:
        raise TurningpointError(f"donor has {unknown[0]!r}; accepted: {', '.join(DONORS)}.")
    same = {"label": label, "prompt": prompt, "negative_prompt": negative_prompt}
    told = {**same, **donor}
    conditions = conditions_of(told["label"], None, told["prompt"], n, model, told["negative_prompt"])
    seed = donor.get("seed")
    return conditions, None if seed is None else SeededNoise(whole("donor seed", seed, -(2**63), 2**63 - 1))


def _lay_out(
    store: Store,
    model: Denoiser,
    pair: Lockstep,
    conditions: Sequence[Mapping[str, Any]],
    chunk: int,
    dtype: str,
) -> None:
    n, shape = len(conditions), model.decoded_shape
    attrs = {**packing(dtype), "range": "[-1, 1]"}
    for variant in pair.intervention.variants:
        store.require(
            ARRAYS[variant], ("item", *image_dims(shape)), (n, *shape), (chunk, *shape), dtype, attrs
        )
        lay_out_latents(store, LATENTS[variant], ("item",), (n,), (chunk,), model)
    store.require("done", ("item",), (n,), (chunk,), "bool")
    lay_out_conditions(
        store, conditions, np.array([c.get("label", UNCONDITIONAL) for c in conditions]), chunk
    )


def _walks(
    first_item: int, block: int, times: np.ndarray, conditions: Sequence[Mapping[str, Any]]
) -> Callable[[Sequence[int]], list[Walk]]:
    def make(offsets: Sequence[int]) -> list[Walk]:
        return [
            Walk(
                Address(first_item + block + i, stream=FROM_NOISE), FromNoise(), times, conditions[block + i]
            )
            for i in offsets
        ]

    return make
