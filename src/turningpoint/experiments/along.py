r"""Reading trajectories as they end: measures of every estimate, so that the estimates need not be kept.

A trajectory passes states :math:`x_{t_0}, \dots, x_{t_{T-1}}` with estimates :math:`\hat x_0(x_{t_k})` and ends in an
image :math:`x`.  A measure reads each of these *sides* (``estimate``, ``state``) at every recorded time, and ``final``,
the image.  In the group ``readings/MEASURE`` of a run stand, for a reading R,

==================  ===================  =======================================================================
array               dimensions           for
==================  ===================  =======================================================================
``final.R``         (item, ...)          categories, numbers, and vectors of at most `SHORT` numbers
``SIDE.R``          (item, time, ...)    the same; and comparisons of the final image with the side
``SIDE_away.R``     (item, time)         vectors of any length: the distance :math:`\| f(\cdot) - f(x) \|`
``done``            (item,)              flags, raised last
==================  ===================  =======================================================================

A long vector, such as the content of a frequency band, is as large as the images themselves: only its distance stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError
from ..measures import Measure, divided, measure, takes
from ..simulation.store import Store

SHORT = 64
"""Vectors of at most so many numbers are kept."""
ROWS = 512
"""Images that a measure reads at a time, at most."""
BYTES = 2**25
"""Bytes of images that a measure reads at a time."""


USUAL = ("frequency", "gain", "structure", "color", "class")
"""What is read if nothing is named, where it applies."""


class Along:
    """One measure along trajectories.

    Parameters
    ----------
    one : Measure
        What reads.
    sides : sequence of str
        Of ``estimate`` and ``state``. A measure whose comparisons are with the state reads pairs of both: it
        has one side, ``estimate``.
    shape : tuple of int
        Of an image.

    Raises
    ------
    TurningpointError
        If it cannot read images of this shape.
    """

    def __init__(self, one: Measure, sides: Sequence[str], shape: tuple[int, ...]) -> None:
        self.one = one
        self.paired = one.against == "state"
        self.sides = ("estimate",) if self.paired else tuple(sides)
        self.group = f"readings/{one.name}"
        blank = torch.zeros(2, *shape)
        known = {**one.read(blank), **one.compare(blank, blank)}
        self.readings = [r for r in one.readings if r.kind != "map" and r.name in known]
        self._like = {name: values[0] for name, values in known.items()}

    def identity(self) -> dict[str, Any]:
        """What makes two readings the same: another identity is read anew."""
        described = [
            {**vars(r), "feature": self.one.feature(r), "label": r.label or self.one.feature(r)}
            for r in self.readings
        ]
        known = {"readings": described, "settings": self.one.settings(), "sides": list(self.sides)}
        plain: dict[str, Any] = json.loads(json.dumps(known))
        return plain

    def lay_out(self, store: Store, items: int, times: int, chunk: int, about: Mapping[str, Any]) -> None:
        """Make the arrays, unless they are there; those of other settings go."""
        identity = self.identity()
        known = store.attrs(self.group) if store.has(self.group) else {}
        if known.get("read") and all(known.get(key) == value for key, value in identity.items()):
            return
        if store.has(self.group):
            store.remove(self.group)
        for name, (axes, like) in self._arrays().items():
            reading = name.partition(".")[2]
            dims = ["item", *axes, *([f"feature_{reading}"] if like.ndim else [])]
            sizes = [items, *([times] if axes else []), *like.shape]
            chunks = [chunk, *sizes[1:]]
            store.require(f"{self.group}/{name}", dims, sizes, chunks, str(like.dtype))
        store.require(f"{self.group}/done", ("item",), (items,), (chunk,), "bool")
        store.annotate(self.group, {**identity, **about, "read": True})

    def _arrays(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """For every array its axes after ``item``, and an example of its last ones."""
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        number = np.float32(0)
        for r in self.readings:
            like = np.int64(0) if r.kind == "categorical" else np.zeros(self._like[r.name].shape, np.float32)
            short = r.kind != "vector" or like.size <= SHORT
            if short and r.kind != "comparison":
                found[f"final.{r.name}"] = (), np.asarray(like)
            for side in self.sides:
                if short:
                    found[f"{side}.{r.name}"] = ("time",), np.asarray(like)
                if r.kind == "vector":
                    found[f"{side}_away.{r.name}"] = ("time",), np.asarray(number)
        return found

    def begin(self, finals: Tensor, times: int) -> _Reading:
        """Begin to read trajectories that end in ``finals`` (n, *shape)."""
        return _Reading(self, finals, times)


class _Reading:
    """The values of one measure for some trajectories, filled block by block of times."""

    def __init__(self, along: Along, finals: Tensor, times: int) -> None:
        self._along, self._final = along, along.one.read(finals)
        self._compares = any(r.kind == "comparison" for r in along.readings)
        self._known = along.one.look(finals) if self._compares and not along.paired else {}
        self.values = {
            name: np.full((len(finals), *((times,) if axes else ()), *like.shape), _gap(like), like.dtype)
            for name, (axes, like) in along._arrays().items()
        }
        for name in self.values:
            side, _, reading = name.partition(".")
            if side == "final":
                self.values[name][...] = self._final[reading]

    def add(self, side: str, first: int, images: Tensor, states: Tensor | None) -> None:
        """Read a block of times: images (n, k, *shape), and the states that they are estimated from."""
        n, k = images.shape[:2]
        found = self._read(images.flatten(0, 1), k, states)
        for r in self._along.readings:
            values = np.asarray(found[r.name]).reshape(n, k, *np.shape(found[r.name])[1:])
            times = slice(first, first + k)
            if r.kind == "vector":
                self.values[f"{side}_away.{r.name}"][:, times] = _apart(values, self._final[r.name])
            if f"{side}.{r.name}" in self.values:
                self.values[f"{side}.{r.name}"][:, times] = values

    def _read(self, rows: Tensor, times: int, states: Tensor | None) -> dict[str, np.ndarray]:
        one = self._along.one
        if not self._compares:
            return one.read(rows)
        if states is not None and self._along.paired:
            return one.read_beside(one.look(states.flatten(0, 1)), rows)
        known = {
            name: seen.repeat_interleave(times, 0) if isinstance(seen, Tensor) else seen
            for name, seen in self._known.items()
        }
        return one.read_beside(known, rows)


def _apart(values: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Distances of vectors (n, k, d) from (n, d): (n, k)."""
    apart = torch.from_numpy(values) - torch.from_numpy(np.asarray(final))[:, None]
    distances: np.ndarray = torch.linalg.vector_norm(apart, dim=2, dtype=torch.float64).numpy()
    return distances


def _gap(like: np.ndarray) -> Any:
    return np.nan if np.issubdtype(like.dtype, np.floating) else -1


def read_along(
    measures: Sequence[Along],
    finals: np.ndarray,
    paths: Mapping[str, Sequence[np.ndarray]],
    decode: Callable[[np.ndarray], np.ndarray],
) -> dict[str, dict[str, np.ndarray]]:
    """Read trajectories with every measure, a block of times after another.

    Parameters
    ----------
    measures : sequence of Along
        What reads them.
    finals : array (n, *decoded_shape)
        The images in which they end.
    paths : mapping
        For each side that is read, the n trajectories, (T, *shape) each.
    decode : callable
        Maps what the sampler works on, (m, *shape), to images.

    Returns
    -------
    dict
        For every measure its arrays, see above, without the first axis's ``done``.
    """
    ends = torch.from_numpy(finals)
    times = len(next(iter(paths.values()))[0])
    reading = {along.one.name: along.begin(ends, times) for along in measures}
    block = max(1, min(ROWS, BYTES // (4 * int(np.prod(finals.shape[1:])))) // len(finals))
    for first in range(0, times, block):
        stop = min(first + block, times)
        images = {}
        for side, rows in paths.items():
            some = np.stack([path[first:stop] for path in rows])
            flat = decode(some.reshape(-1, *some.shape[2:]))
            images[side] = torch.from_numpy(flat.reshape(*some.shape[:2], *flat.shape[1:]))
        for along in measures:
            for side in along.sides:
                reading[along.one.name].add(side, first, images[side], images.get("state"))
    return {name: one.values for name, one in reading.items()}


def measures_along(
    named: Any, sides: Sequence[str], model: Denoiser, told: dict[str, Any]
) -> list[tuple[Along, dict[str, Any]]]:
    """Measures by name, ready to read trajectories of a model, each with what is kept of how it was asked for.

    Parameters
    ----------
    named : measure, sequence of them, or None
        As `turningpoint.trace` takes them; None for those of `USUAL` that apply. With ``frequency`` comes ``gain``.
    sides : sequence of str
        Of ``estimate`` and ``state``.
    model : Denoiser
        Whose trajectories they are.
    told : mapping
        Settings for the measures that take them.

    Raises
    ------
    TurningpointError
        If there is no such measure, it cannot read the model's images, or none takes a setting.
    """
    usual = named is None
    listed = USUAL if usual else [named] if isinstance(named, str | Measure) or callable(named) else named
    asked: list[Any] = []
    for what in listed:
        asked += what.split(",") if isinstance(what, str) and "?" not in what else [what]
    latent = model.shape != model.decoded_shape
    names = [what.partition("?") if isinstance(what, str) else ("", "", "") for what in asked]
    if "gain" not in [name for name, _, _ in names] and not latent:
        # both tell of bands: what is there, and what passes
        asked += [f"gain{mark}{query}" for name, mark, query in names if name == "frequency"]
    for key in told:
        if not any(key in takes(what) for what in asked):
            raise TurningpointError(f"{key} is given, but none of the measures takes it.")
    found: list[tuple[Along, dict[str, Any]]] = []
    for what in dict.fromkeys(asked):
        own = {key: value for key, value in told.items() if key in takes(what)}
        try:
            known, settings = divided(what) if isinstance(what, str) else (what, {})
            along = Along(measure(known, model, **settings | own), sides, model.decoded_shape)
            if along.paired and latent:
                raise TurningpointError(
                    f"measure is {along.one.name!r}, which compares estimates with states; accepted for models whose "
                    "states are images, not latents."
                )
        except TurningpointError:
            if usual:
                continue
            raise
        found.append((along, {"asked": what if isinstance(what, str) else along.one.name}))
    return found
