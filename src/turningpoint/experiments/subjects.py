r"""What a comparison needs of a run, as plain arrays, and the rule by which two runs share their noise.

**The rule.**  A trajectory's noise is a function of the run's seed, the number of the item and the time at which it
begins (see `turningpoint.simulation.noise`).  So item n of two runs begins with the same noise if

- the seeds are equal, and so is noise from outside, where it was given;
- what the sampler works on has the same shape: one draw fills one array;
- both begin at pure noise, or at the same noised image and time.

Such items are *paired*, by their numbers, whatever the model, the sampler, the steps, the guidance and the prompt are.
A deterministic sampler then differs in nothing else; a stochastic one shares its later draws step by step only if the
number of steps is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import spelled_out
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from ..statistics.growth import Series
from ..tracing import Trace, open_trace

UNTOLD = ("model", "store", "keep", "activations", "seed")
"""Settings that are shown otherwise, or on which no reading depends."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A run that is compared: N trajectories at T times, in the order of generation.

    Parameters
    ----------
    label : str
        What it is called.
    logsnr : array (T,)
        Rising.
    series : sequence of Series
        Its readings.
    schedule : Schedule
        Its clock.
    settings : mapping
        What may differ between runs, by name.
    noise : mapping, optional
        What the noise of all items is drawn from; None if that is not known.
    items : sequence of N
        What tells the trajectories apart that grow from that noise.
    images : callable, optional
        Gives the final images (n, ...) of the items at n places.
    activations : (array (N, T, L, S), layers, summaries), optional
        What the network's layers did.
    about : mapping, optional
        For readers: its ``folder`` and the ``command`` that made it.
    """

    label: str
    logsnr: np.ndarray
    series: Sequence[Series]
    schedule: Schedule
    settings: Mapping[str, Any]
    noise: Mapping[str, Any] | None
    items: Sequence[Hashable]
    images: Callable[[np.ndarray], np.ndarray] | None = None
    activations: tuple[np.ndarray, Sequence[str], Sequence[str]] | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Shared:
    """The items of two runs that grow from the same noise.

    Attributes
    ----------
    first, second : array (n,) of int
        Their places in either run; empty if there are none.
    reason : str
        Why there are none.
    """

    first: np.ndarray
    second: np.ndarray
    reason: str = ""

    def __bool__(self) -> bool:
        return len(self.first) > 0


def shared(a: Subject, b: Subject) -> Shared:
    """The items of two runs that grow from the same noise, by the rule of this module.

    Parameters
    ----------
    a, b : Subject
        The runs.

    Returns
    -------
    Shared
        At least two pairs, or none and the reason.
    """
    none = np.array([], dtype=np.int64)
    if a.noise is None or b.noise is None:
        return Shared(none, none, "noise was handed in from outside, and its draws were not recorded")
    differ = sorted(key for key in {*a.noise, *b.noise} if a.noise.get(key) != b.noise.get(key))
    if differ:
        told = "; ".join(f"{key} ({a.noise.get(key)} and {b.noise.get(key)})" for key in differ)
        return Shared(none, none, f"their noise differs in {told}")
    places = {item: place for place, item in enumerate(b.items)}
    pairs = [(k, places[item]) for k, item in enumerate(a.items) if item in places]
    if len(pairs) < 2:
        return Shared(none, none, "fewer than two items have the same number and image")
    first, second = np.array(pairs).T
    return Shared(first, second)


def subject(run: Trace | str | Path, label: str, side: str = "estimate") -> Subject:
    """A run of `trace` as a comparison needs it.

    Parameters
    ----------
    run : Trace or path
        The run, or its folder.
    label : str
        What to call it.
    side : str
        Readings of what: ``estimate`` or ``state``.

    Raises
    ------
    TurningpointError
        If the folder holds no trace, trajectories are missing, or nothing was read of the side.
    """
    opened = run if isinstance(run, Trace) else open_trace(run)
    if not opened.complete:
        done = opened.store.read("done").astype(bool)
        raise TurningpointError(
            f"run {str(opened.folder or label)!r} lacks {int((~done).sum())} of {len(done)} trajectories; accepted: "
            "whole runs, which the command that began it makes of it."
        )
    features = opened.features(side)
    if not features:
        raise TurningpointError(
            f"run {str(opened.folder or label)!r} has no readings of the {side}; accepted: a run of trace --with."
        )
    axes, settings = opened.manifest["axes"], opened.settings
    states = opened.store.array("latents" if opened.store.has("latents") else "images")
    numbers = range(axes["first_item"], axes["first_item"] + opened.items)
    noise = {
        "seed": settings["seed"],
        "shape": tuple(states.shape[1:]),
        "noise from outside": json.dumps(settings.get("noise")),
        "beginning": "noise" if settings.get("from") is None else f"t = {settings['from']:g}",
    }
    return Subject(
        label,
        opened.logsnr,
        opened.all_series(features, side),
        opened.schedule,
        _told(settings, axes, opened.items),
        noise if settings.get("noise") is None or isinstance(settings["noise"], list) else None,
        list(zip(numbers, axes.get("image_digests", [""] * opened.items), strict=True)),
        lambda places: np.asarray(opened.images.isel(item=places).values),
        opened.activation_summaries(),
        {"folder": str(opened.folder or ""), "command": str(opened.manifest.get("command") or "")},
    )


def described(one: Subject) -> dict[str, object]:
    """A run's line in a comparison's table of runs."""
    known = one.logsnr[np.isfinite(one.logsnr)]
    return {
        "run": one.label,
        "model": one.settings.get("model", ""),
        "fingerprint": one.settings.get("fingerprint", ""),
        "items": len(one.items),
        "times": len(one.logsnr),
        "low": float(known.min()),
        "high": float(known.max()),
        "folder": one.about.get("folder", ""),
        "command": one.about.get("command", ""),
    }


def _told(settings: Mapping[str, Any], axes: Mapping[str, Any], items: int) -> dict[str, Any]:
    """The settings in which runs may differ, and what their items were told."""
    model = settings["model"]
    found = {key: value for key, value in settings.items() if key not in UNTOLD}
    found |= {"model": model["name"], "fingerprint": model["fingerprint"], "seed": settings["seed"]}
    found |= {"items": items, "first item": axes["first_item"]}
    conditions = spelled_out(axes)
    for key in sorted({key for condition in conditions for key in condition}):
        values = list(dict.fromkeys(condition.get(key) for condition in conditions))
        found[key] = values[0] if len(values) == 1 else values
    return found


def labelled(runs: Sequence[Trace | str | Path], labels: Sequence[str] | None) -> list[str]:
    """A name for each run: as given, or the shortest end of its path that no other has.

    >>> labelled(["runs/a", "runs/b"], None), labelled(["1/a", "2/a"], None)
    (['a', 'b'], ['1/a', '2/a'])
    """
    if labels is not None:
        names = [str(label).strip() for label in labels]
        if len(names) != len(runs) or len(set(names)) != len(names) or not all(names):
            raise TurningpointError(
                f"labels is {', '.join(names)!r}; accepted: {len(runs)} different names, one for each run."
            )
        return names
    folders = [run.folder if isinstance(run, Trace) else Path(run).absolute() for run in runs]
    parts = [() if folder is None else folder.resolve().parts for folder in folders]
    for k, part in enumerate(parts):
        if part and part in parts[:k]:
            raise TurningpointError(f"run {str(folders[k])!r} is given twice; accepted: different runs.")
    for length in range(1, max((len(part) for part in parts), default=1) + 1):
        names = ["/".join(part[-length:]) or f"run {k}" for k, part in enumerate(parts, 1)]
        if len(set(names)) == len(names):
            break
    return names
