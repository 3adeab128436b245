"""The arrays that runs have in common: times with their three clocks, labels and conditions of items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..simulation.store import Store
from ..simulation.walk import Record
from .planning import CHUNK, LARGEST_CHUNK, image_dims
from .starting import Starting, completed


def lay_out_times(store: Store, prefix: str, dim: str, times: Sequence[float], clock: Schedule) -> None:
    """Write ``t``, ``logsnr`` and ``native`` along ``dim``, with ``prefix`` before their names."""
    t = np.array(times, dtype=np.float64)
    clocks = {"t": t, "logsnr": clock.logsnr(t).numpy(), "native": clock.native(t).numpy()}
    for name, values in clocks.items():
        store.require(f"{prefix}{name}", (dim,), values.shape, values.shape, "float64")
        store.write(f"{prefix}{name}", values)


def lay_out_latents(
    store: Store, name: str, dims: Sequence[str], sizes: Sequence[int], chunks: Sequence[int], model: Denoiser
) -> None:
    """Make the array of what the sampler works on, for models whose pictures are decoded from it."""
    if model.shape != model.decoded_shape:
        axes = [f"latent_{axis}" for axis in image_dims(model.shape)]
        store.require(name, (*dims, *axes), (*sizes, *model.shape), (*chunks, *model.shape), "float32")


def lay_out_starts(store: Store, starting: Starting, model: Denoiser, n: int, batch: int) -> None:
    """Write the starting images, their latents and what they were before the autoencoder, block by block."""
    shape = model.decoded_shape
    # strangers are looked up one by one: small chunks where images are large
    rows = max(1, min(CHUNK, n, LARGEST_CHUNK // (4 * math.prod(shape))))
    for first in range(0, n, CHUNK):
        stop = min(first + CHUNK, n)
        block = completed(starting.block(first, stop), model, batch)
        for name, values in (("start", block.start), ("original", block.original)):
            if values is not None:
                store.require(name, ("item", *image_dims(shape)), (n, *shape), (rows, *shape))
                store.write(name, values, (slice(first, stop),))
        if block.latents is not None:
            lay_out_latents(store, "start_latents", ("item",), (n,), (min(CHUNK, n),), model)
            store.write("start_latents", block.latents, (slice(first, stop),))
    store.annotate("start", {"written": True})


def lay_out_records(store: Store, records: Sequence[Record], clock: Schedule) -> None:
    """Write the clocks of every record's times."""
    for record in records:
        lay_out_times(store, f"{record.name}_", f"{record.name}_time", record.times, clock)


def lay_out_conditions(
    store: Store, conditions: Sequence[Mapping[str, Any]], labels: np.ndarray | None, chunk: int
) -> None:
    """Write ``condition``, equal where items share one, and ``label``, -1 where there is none."""
    told = {str(c): k for k, c in reversed(list(enumerate(conditions)))}
    n = len(conditions)
    values = {"condition": np.array([told[str(c)] for c in conditions])}
    values["label"] = np.full(n, UNCONDITIONAL) if labels is None else np.asarray(labels)
    for name, array in values.items():
        store.require(name, ("item",), (n,), (chunk,), "int64")
        store.write(name, array.astype(np.int64))


def conditions_of(
    label: Any,
    own: np.ndarray | None,
    prompt: Any,
    n: int,
    model: Denoiser,
    negative_prompt: Any = None,
) -> list[dict[str, Any]]:
    """The condition of each of n items, checked against the model.

    Parameters
    ----------
    label : int, sequence of n ints, one-hot (n, K), "own" or None
        "own" is ``own``, the labels (n,) of the starting images; a row of zeros is no label.
    prompt, negative_prompt : str, sequence of str, or None
        k prompts are told to n / k consecutive items each.
    """
    conditions: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        for condition, text in zip(conditions, _dealt(name, texts, n), strict=True):
            condition.update({} if text is None else {name: text})
    for condition, value in zip(conditions, _labels(label, own, n, model.n_classes), strict=True):
        condition.update({} if value == UNCONDITIONAL else {"label": int(value)})
    for condition in conditions:
        model.check_condition(condition)
    return conditions


def check_guidance(guidance: float | None, label: Any, prompt: Any, negative_prompt: Any) -> None:
    """One sentence if there is nothing to be guided by, or no guidance that a negative prompt is for."""
    if guidance is not None and label is None and prompt is None:
        raise TurningpointError(
            f"guidance is {guidance}, but no label or prompt is given to be guided by; accepted: with one of them."
        )
    if guidance is None and negative_prompt is not None:
        raise TurningpointError(
            f"negative_prompt is {negative_prompt!r} without guidance, which moves away from it; accepted: both."
        )


def _dealt(name: str, texts: Any, n: int) -> list[str | None]:
    """One text for each of n items."""
    if texts is None:
        return [None] * n
    known = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else []
    if not known or not all(text is None or isinstance(text, str) for text in known):
        raise TurningpointError(f"{name} is {texts!r}; accepted: a text, or a list of texts.")
    if n % len(known):
        raise TurningpointError(
            f"{name} holds {len(known)} texts for {n} images; accepted: a number of images that they divide."
        )
    return [text for text in known for _ in range(n // len(known))]


def _labels(label: Any, own: np.ndarray | None, n: int, n_classes: int | None) -> np.ndarray:
    """One label for each of n items, -1 where there is none."""
    if isinstance(label, str):
        if label != "own":
            raise TurningpointError(f"label is {label!r}; accepted: a class index, one per image, or 'own'.")
        without = n if own is None else int((np.asarray(own) < 0).sum())
        if without:
            which = "the starting images come" if without == n else f"{without} of {n} starting images come"
            raise TurningpointError(f"label is 'own', but {which} without labels.")
        label = own
    if label is None:
        return np.full(n, UNCONDITIONAL)
    try:
        values = np.asarray(label.cpu() if isinstance(label, torch.Tensor) else label)
        if values.ndim == 2 and values.shape == (n, n_classes) and (np.sort(values)[:, :-1] == 0).all():
            values = np.where(values.any(1), values.argmax(1), UNCONDITIONAL)
        whole = values.astype(np.int64)
        if values.ndim > 1 or not np.array_equal(whole, values):
            raise ValueError
    except (TypeError, ValueError):
        raise TurningpointError(f"label is {label!r}; accepted: a class index, or one per image.") from None
    if values.size not in (1, n):
        raise TurningpointError(f"label holds {values.size} classes for {n} images; accepted: one, or {n}.")
    return np.broadcast_to(whole.ravel(), n)


def differing(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """In what two lists of conditions differ: ``label``, ``prompt``, ``negative_prompt``.

    >>> differing([{"prompt": "car"}], [{"prompt": "bus"}])
    ['prompt']
    """
    keys = sorted(
        {key for a, b in zip(old, new, strict=False) for key in {*a, *b} if a.get(key) != b.get(key)}
    )
    return keys or (["the number of images"] if len(old) != len(new) else [])


def summarised(conditions: list[dict[str, Any]]) -> Any:
    """Conditions as a manifest keeps them: one for all, or a list."""
    return conditions[0] if all(c == conditions[0] for c in conditions) else conditions


def joined_axes(store: Store, asked: Mapping[str, Any], extend: bool) -> dict[str, Any]:
    """The axes of a run that holds what it held and what is asked for, which its manifest then says.

    Raises
    ------
    TurningpointError
        If it would have to grow and may not.
    """
    known = store.manifest["axes"]
    joined = dict(asked if asked["items"] >= known["items"] else known)
    joined["times"] = known["times"] + [t for t in asked["times"] if t not in known["times"]]
    joined["replicates"] = max(known["replicates"], asked["replicates"])
    grown = [key for key in ("times", "items", "replicates") if joined[key] != known[key]]
    if grown and not extend:
        raise TurningpointError(
            f"out is {str(store.folder or 'memory')!r}, which holds a run with fewer {', '.join(grown)}; "
            "accepted: another folder, or --extend (extend=True) to let it grow."
        )
    if grown:
        store.manifest["axes"] = joined
        store.save_manifest()
    return joined
