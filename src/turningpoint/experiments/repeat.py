"""Repeating a run from its manifest alone, and comparing what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..diffusion.grid import Grid
from ..errors import TurningpointError
from ..measures import Measure, measure, takes
from ..run import Run
from ..simulation.walk import Record
from ..tracing import Trace
from ..trajectories import SIDES
from .clone import clone
from .generate import generate
from .patch import patch
from .trace import trace
from .uturn import uturn

EXPERIMENTS: dict[str, Callable[..., Run | Trace]] = {
    "uturn": uturn,
    "clone": clone,
    "generate": generate,
    "patch": patch,
    "trace": trace,
}


def arguments_of(run: Run | Trace) -> dict[str, Any]:
    """The arguments of the experiment that make a run's walks, from its manifest and starting images.

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
    if any(record["function"] is not None for record in settings.get("record", [])):
        raise TurningpointError("the run records a function, which its manifest does not hold.")
    grid = settings["grid"]
    sampler = dict(settings["sampler"])
    arguments: dict[str, Any] = {
        "sampler": sampler.pop("name"),
        "steps": grid["steps"],
        "grid": Grid.from_config(grid),
        "seed": settings["seed"],
        "guidance": settings["guidance"],
        "store": settings["store"],
        "first_item": axes["first_item"],
        **_told(spelled_out(axes)),
        **sampler,
    }
    if isinstance(run, Trace):
        return arguments | _of_trace(run)
    if run.kind == "patch":
        return arguments | _of_patch(settings["patch"], axes["items"])
    if run.kind == "clone":
        arguments |= {"n": axes["items"], "times": axes["times"], "copies": axes["replicates"]}
        arguments |= {key: settings[key] for key in ("shared_noise", "renoise")}
        return arguments | {"trajectories": bool(settings["record"])}
    arguments["record"] = [Record(r["what"], tuple(r["times"]), r["name"]) for r in settings["record"]]
    if run.kind == "uturn":
        return arguments | {"images": run, "times": axes["times"], "replicates": axes["replicates"]}
    return arguments | {"n": axes["items"]}


def _told(conditions: list[dict[str, Any]]) -> dict[str, Any]:
    """What the items were told."""
    labels = [c.get("label", -1) for c in conditions]
    return {
        "label": labels if any(label >= 0 for label in labels) else None,
        "prompt": _texts(conditions, "prompt"),
        "negative_prompt": _texts(conditions, "negative_prompt"),
    }


def _of_patch(changes: Mapping[str, Any], items: int) -> dict[str, Any]:
    """What was changed, and in what the donor differs."""
    told = changes.get("donor")
    donor = None
    if told is not None:
        donor = _told(spelled_out({"items": items, "condition": told["condition"]}))
        donor |= {} if told["seed"] is None else {"seed": told["seed"]}
    named = {"layer": changes["layers"], "window": changes["window"], "mode": changes["mode"]}
    return named | {"n": items, "donor": donor}


def _of_trace(run: Trace) -> dict[str, Any]:
    """From where trajectories began, and what was read of them."""
    settings, start = run.settings, run.settings["from"]
    read = [run.store.attrs(f"readings/{name}") for name in run.measured()]
    looked = settings["activations"]
    found = {
        "measures": [_measure(attrs, run.model) for attrs in read],
        "of": [side for side in SIDES if any(side in attrs["sides"] for attrs in read)] or ["estimate"],
        "activations": None if looked is None else looked["patterns"],
        "keep": settings["keep"],
        "every": settings["every"],
    }
    if start is None:
        return found | {"generate": run.manifest["axes"]["items"]}
    images = run.start_latents if run.store.has("start_latents") else run.start
    return found | {"images": images.values, "from_time": start}


def _measure(attrs: Mapping[str, Any], model: Any) -> Measure:
    """A measure as it was asked for."""
    asked = str(attrs["asked"])
    try:
        own = {key: value for key, value in attrs["settings"].items() if key in takes(asked)}
        return measure(asked, model, **own)
    except TurningpointError as error:
        raise TurningpointError(
            f"the trace was read by {asked!r}, which cannot be had from its manifest ({str(error).removesuffix('.')})."
        ) from None


def _texts(conditions: list[dict[str, Any]], name: str) -> list[str | None] | None:
    texts = [condition.get(name) for condition in conditions]
    return texts if any(text is not None for text in texts) else None


def repeat(run: Run | Trace, out: str | Path | None = None, **machine: Any) -> tuple[Run | Trace, float]:
    """Simulate a run again.

    Parameters
    ----------
    run : Run or Trace
        What to repeat; its model must be the same to the last bit (its fingerprint is compared).
    out : path, optional
        The new run's folder.
    **machine
        ``batch``, ``device``, ``progress``, as in `uturn`.

    Returns
    -------
    Run or Trace, float
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
