"""Effects: measures read the clean and the changed images of a patch, and their differences become a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import TurningpointError
from ..measures import Measure, Reading, divided, measure, takes
from ..run import Run
from ..statistics.bootstrap import interval, weights
from ..statistics.effects import Pair, corrected, effect, flipped, towards

USUAL = ("frequency", "structure", "color", "class")
"""What is read if nothing is named, where it applies."""
ROWS = 64
"""Images that are read at a time."""
STRANGERS = 4
"""Other clean images with which a comparison compares each, at most."""


def effects(
    run: Run,
    measures: str | Measure | Callable[[Tensor], Any] | Sequence[Any] | None = None,
    *,
    told: Mapping[str, Any] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """What a patch has done to each feature of the final images.

    Parameters
    ----------
    run : Run
        Of `patch`.
    measures : measure or sequence of them, optional
        Names, ``"name?setting=value"``, functions of an image batch. By default ``frequency``, ``structure``,
        ``color`` and ``class``, as far as they apply to the model.
    told : mapping, optional
        Settings for the measures that take them.
    level : float
        Of the intervals.
    seed : int
        Of the bootstrap and of the sign flips.

    Returns
    -------
    DataFrame
        A row per feature: ``feature, label, kind, unit, items``; of scalars the means ``clean`` and ``changed``;
        ``effect`` in the feature's unit with ``low`` and ``high`` (a scalar's mean difference, a vector's root mean
        square distance, the share of categories that changed, the lost similarity); of scalars ``standardised``,
        Glass's delta, with ``_low`` and ``_high``, and ``p`` and ``q`` of its shift; ``moved`` with ``_low`` and
        ``_high``, 0 where nothing changed and 1 where images are as far from themselves as from others; with a donor
        ``towards`` with ``_low`` and ``_high``; ``note``. Definitions stand in `turningpoint.statistics.effects`.

    Raises
    ------
    TurningpointError
        If the run is no patch or has not ended, or a measure does not apply to its images.

    Examples
    --------
    >>> import turningpoint as tp
    >>> from turningpoint.experiments.patch import patch
    >>> run = patch("digits", "mid_block", (0.2, 0.9), 4, steps=4, progress=None)
    >>> effects(run, "color").feature.tolist()
    ['color.mean', 'color.contrast', 'color.histogram']
    """
    if run.kind != "patch":
        raise TurningpointError(f"run is of {run.kind}; accepted: a run of patch.")
    if not run.complete:
        raise TurningpointError(
            "run has not ended; accepted: a whole one, which the same command makes of it."
        )
    if not 0 < level < 1:
        raise TurningpointError(f"level is {level}; accepted: between 0 and 1.")
    found = [feature for one in measures_of(measures, run.model, told or {}) for feature in _read(run, one)]
    if not found:
        raise TurningpointError(
            "measures hold none that reads final images; accepted: others, such as color."
        )
    counts = weights(len(found[0].pair.changed), seed=seed)
    rows = []
    for one in found:
        about = {"feature": one.name, "label": one.reading.label or one.name, "kind": one.reading.kind}
        estimate = effect(one.pair, counts)
        row: dict[str, Any] = about | {"unit": one.reading.unit} | estimate.row(level)
        if one.donor is not None:
            share = towards(one.pair, one.donor, counts)
            low, high = interval(share[1:], level)
            known = bool(np.isfinite(share[0]))
            row |= {"towards": share[0], "towards_low": low if known else np.nan}
            row |= {"towards_high": high if known else np.nan}
        rows.append(row | {"note": estimate.reason})
    table = pd.DataFrame(rows)
    differences = np.stack([one.difference() for one in found], 1)
    place = list(table.columns).index("moved")
    table.insert(place, "p", flipped(differences, seed=seed))
    table.insert(place + 1, "q", corrected(table["p"].to_numpy()))
    return table[[name for name in table if name != "note"] + ["note"]]


@dataclass(frozen=True)
class _Feature:
    """One reading of all pairs of images, and of the donors if there are any."""

    name: str
    reading: Reading
    pair: Pair
    donor: np.ndarray | None

    def difference(self) -> np.ndarray:
        """Changed less clean (N,), NaN for what has no sign."""
        if self.pair.kind != "scalar":
            return np.full(len(self.pair.changed), np.nan)
        apart: np.ndarray = np.asarray(self.pair.changed, dtype=float) - np.asarray(
            self.pair.clean, dtype=float
        )
        return apart


def measures_of(named: Any, model: Any, told: Mapping[str, Any]) -> list[Measure]:
    """The measures that are named, or those of the usual ones that apply, as `effects` takes them."""
    usual = named is None
    listed = USUAL if usual else [named] if isinstance(named, str | Measure) or callable(named) else named
    asked: list[Any] = []
    for what in listed:
        asked += what.split(",") if isinstance(what, str) and "?" not in what else [what]
    for key in told:
        if not any(key in takes(what) for what in asked):
            raise TurningpointError(f"{key} is given, but none of the measures takes it.")
    found = []
    for what in dict.fromkeys(asked):
        known, own = divided(what) if isinstance(what, str) else (what, {})
        own |= {key: value for key, value in told.items() if key in takes(what)}
        try:
            found.append(measure(known, model, **own))
        except TurningpointError:
            if not usual:
                raise
    return found


def _read(run: Run, one: Measure) -> Iterator[_Feature]:
    """All readings by one measure."""
    store = run.store
    n = int(store.array("done").shape[0])
    names = {"clean": "clean", "changed": "images"} | ({"donor": "donor"} if store.has("donor") else {})
    blocks = [slice(first, min(first + ROWS, n)) for first in range(0, n, ROWS)]

    def images(name: str, rows: slice) -> Tensor:
        return torch.from_numpy(store.read(name, (rows,)))

    one.study(lambda: (images("clean", rows) for rows in blocks))
    parts: dict[str, list[np.ndarray]] = {}
    for rows in blocks:
        sides = {side: images(name, rows) for side, name in names.items()}
        for side, batch in sides.items():
            for name, values in one.read(batch).items():
                parts.setdefault(f"{side}.{name}", []).append(values)
        if any(reading.kind == "comparison" for reading in one.readings):
            for name, values in _compared(one, sides["clean"], sides["changed"], rows.start).items():
                parts.setdefault(name, []).append(values)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    for reading in one.readings:
        if reading.kind == "map" or (reading.kind == "comparison" and one.against != "final"):
            continue
        changed = whole[f"changed.{reading.name}"]
        pair = Pair(
            reading.kind, whole.get(f"clean.{reading.name}", changed), changed, largest=reading.largest
        )
        if reading.kind == "comparison":
            pair = replace(pair, other=whole[f"other.{reading.name}"], partner=whole["partner"])
        yield _Feature(one.feature(reading), reading, pair, whole.get(f"donor.{reading.name}"))


def _compared(one: Measure, clean: Tensor, changed: Tensor, first: int) -> dict[str, np.ndarray]:
    """Comparisons of clean images with their changed ones, and with other clean ones of the same block."""
    n = len(clean)
    turns = range(1, min(STRANGERS, n - 1) + 1)
    (own,) = one.compare_with([clean], changed)
    others = one.compare_with([clean.roll(-m, 0) for m in turns], clean) if turns else []
    found = {}
    for name in (reading.name for reading in one.readings if reading.kind == "comparison"):
        found[f"changed.{name}"] = own[name]
        columns = [other[name] for other in others] + [np.full(n, np.nan)] * (STRANGERS - len(turns))
        found[f"other.{name}"] = np.stack(columns, 1)
    partners = [first + (np.arange(n) + m) % n for m in turns] + [np.full(n, -1)] * (STRANGERS - len(turns))
    return found | {"partner": np.stack(partners, 1)}
