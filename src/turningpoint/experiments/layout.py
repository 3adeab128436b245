"""The arrays that runs have in common: times with their three clocks, labels and conditions of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..diffusion.denoiser import UNCONDITIONAL, Denoiser
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..simulation.store import Store
from ..simulation.walk import Record


def lay_out_times(store: Store, prefix: str, dim: str, times: Sequence[float], clock: Schedule) -> None:
    """Write ``t``, ``logsnr`` and ``native`` along ``dim``, with ``prefix`` before their names."""
    t = np.array(times, dtype=np.float64)
    clocks = {"t": t, "logsnr": clock.logsnr(t).numpy(), "native": clock.native(t).numpy()}
    for name, values in clocks.items():
        store.require(f"{prefix}{name}", (dim,), values.shape, values.shape, "float64")
        store.write(f"{prefix}{name}", values)


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
    label: Any, own: np.ndarray | None, prompt: str | None, n: int, model: Denoiser
) -> list[dict[str, Any]]:
    """The condition of each of n items, checked against the model.

    Parameters
    ----------
    label : int, sequence of n ints, "own" or None
        "own" is ``own``, the labels (n,) of the starting images.
    prompt : str or None
        Told to all.
    """
    shared: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if isinstance(label, str):
        if label != "own":
            raise TurningpointError(f"label is {label!r}; accepted: a class index, one per image, or 'own'.")
        if own is None or (np.asarray(own) < 0).any():
            raise TurningpointError("label is 'own', but the starting images come without labels.")
        label = own
    if label is None:
        conditions = [dict(shared) for _ in range(n)]
    else:
        try:
            values = np.asarray(label.cpu() if isinstance(label, torch.Tensor) else label)
            whole = values.astype(np.int64)
            if values.ndim > 1 or not np.array_equal(whole, values):
                raise ValueError
        except (TypeError, ValueError):
            raise TurningpointError(
                f"label is {label!r}; accepted: a class index, or one per image."
            ) from None
        if values.size not in (1, n):
            raise TurningpointError(f"label holds {values.size} classes for {n} images.")
        conditions = [
            shared | ({} if v == UNCONDITIONAL else {"label": int(v)})
            for v in np.broadcast_to(whole.ravel(), n)
        ]
    for condition in conditions:
        model.check_condition(condition)
    return conditions


def summarised(conditions: list[dict[str, Any]]) -> Any:
    """Conditions as a manifest keeps them: one for all, or a list."""
    return conditions[0] if all(c == conditions[0] for c in conditions) else conditions


def spelled_out(axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The condition of every item from a manifest's axes."""
    told = axes["condition"]
    return list(told) if isinstance(told, list) else [told] * axes["items"]


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
