"""Repeating a run from its manifest alone, and comparing what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..diffusion.grid import Grid
from ..errors import TurningpointError
from ..run import Run
from ..simulation.walk import Record
from .clone import clone
from .generate import generate
from .uturn import uturn

EXPERIMENTS: dict[str, Callable[..., Run]] = {"uturn": uturn, "clone": clone, "generate": generate}


def arguments_of(run: Run) -> dict[str, Any]:
    """The arguments of `uturn`, `clone` or `generate` that make a run's walks, from its manifest and starting images.

    Raises
    ------
    TurningpointError
        If it was made with functions or draws from outside, which a manifest cannot hold.
    """
    settings, axes = run.settings, run.manifest["axes"]
    if isinstance(settings["seed"], list):
        raise TurningpointError("the run was merged from runs of several seeds; repeat those.")
    if settings.get("noise") is not None:
        raise TurningpointError("the run was made with noise from outside, which its manifest does not hold.")
    if any(record["function"] is not None for record in settings["record"]):
        raise TurningpointError("the run records a function, which its manifest does not hold.")
    grid = settings["grid"]
    sampler = dict(settings["sampler"])
    conditions = spelled_out(axes)
    labels = [c.get("label", -1) for c in conditions]
    arguments: dict[str, Any] = {
        "sampler": sampler.pop("name"),
        "steps": grid["steps"],
        "grid": Grid.from_config(grid),
        "seed": settings["seed"],
        "guidance": settings["guidance"],
        "label": labels if any(label >= 0 for label in labels) else None,
        "prompt": _texts(conditions, "prompt"),
        "negative_prompt": _texts(conditions, "negative_prompt"),
        "record": [Record(r["what"], tuple(r["times"]), r["name"]) for r in settings["record"]],
        "store": settings["store"],
        **sampler,
    }
    if run.kind == "uturn":
        arguments |= {"images": run, "times": axes["times"], "replicates": axes["replicates"]}
    else:
        arguments |= {"n": axes["items"]}
    if run.kind == "clone":
        del arguments["record"]
        arguments |= {"times": axes["times"], "copies": axes["replicates"]}
        arguments |= {key: settings[key] for key in ("shared_noise", "renoise")}
        arguments |= {"trajectories": bool(settings["record"])}
    arguments |= {"first_item": axes["first_item"]}
    return arguments


def _texts(conditions: list[dict[str, Any]], name: str) -> list[str | None] | None:
    texts = [condition.get(name) for condition in conditions]
    return texts if any(text is not None for text in texts) else None


def repeat(run: Run, out: str | Path | None = None, **machine: Any) -> tuple[Run, float]:
    """Simulate a run again.

    Parameters
    ----------
    run : Run
        What to repeat; its model must be the same to the last bit (its fingerprint is compared).
    out : path, optional
        The new run's folder.
    **machine
        ``batch``, ``device``, ``progress``, as in `uturn`.

    Returns
    -------
    Run, float
        The new run, and the largest difference between the two runs' images (NaN gaps aside).

    Raises
    ------
    TurningpointError
        If the manifest does not suffice, or the model has changed.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.uturn("digits", items=2, times=[0.5], steps=3, progress=None)
    >>> again, difference = tp.repeat(run, progress=None)
    >>> difference
    0.0
    """
    arguments = arguments_of(run) | machine
    again = EXPERIMENTS[run.kind](run.model, **arguments, out=out)
    apart = np.abs(again.images.values - run.images.values)
    return again, float(np.nanmax(apart)) if np.isfinite(apart).any() else float("nan")
