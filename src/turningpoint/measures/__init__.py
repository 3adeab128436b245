"""Measures: one file per reading of an image, each of which registers itself.

A measure turns a batch of images into named *readings*, or compares two batches.  It knows nothing of
time, runs or models of diffusion; the kind of a reading decides how its retention is defined:

===============  ==========================  ==========================================================
kind             one image, or pair, gives   example
===============  ==========================  ==========================================================
``categorical``  an integer                  the class that a classifier sees
``scalar``       a number                    stroke thickness in pixels
``vector``       d numbers                   the content of a frequency band
``comparison``   a similarity of two images  phase agreement; ``largest`` is its value for equal images
``map``          P numbers of two images     how far each place of a layer has moved; it has no retention
===============  ==========================  ==========================================================

A feature is named ``measure.reading``; a measure with one reading lends it its own name.  NaN says that
an image has no such reading (the slant of an empty picture); it is left out of averages.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from ..registry import Registry

KINDS = ("categorical", "scalar", "vector", "comparison", "map")


@dataclass(frozen=True)
class Reading:
    """What a measure reads.

    Parameters
    ----------
    name : str
        Short, without the measure's name; empty for a measure's only reading.
    kind : str
        One of ``categorical``, ``scalar``, ``vector``, ``comparison``, ``map``.
    description : str
        Half a sentence for tables and figures.
    unit : str
        ``pixel``, ``degree``, ...; empty for pure numbers.
    largest : float
        A comparison's value for two equal images: 1 for a cosine, 0 for a distance.
    label : str
        What figures write; by default the feature's name.
    values : tuple of str
        What the values 0, 1, ... of a category are called, if they have names.
    absent : float, optional
        A scalar's value where there is nothing of it: 0 for a density of edges. Along a trajectory it grows from there
        to its final value; without one (a slant, a mean color) it goes from where it begins.
    """

    name: str
    kind: str
    description: str
    unit: str = ""
    largest: float = 1.0
    label: str = ""
    values: tuple[str, ...] = ()
    absent: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise one_of("kind", self.kind, KINDS)


class Measure(ABC):
    """One way of looking at images.

    Attributes
    ----------
    name : str
        What a user calls it.
    readings : tuple of Reading
        What it reads; fixed once the measure is made.
    by_default : bool
        Whether it reads a run for which no measure is named; False where that is costly.
    adds_up : tuple of str
        Settings whose lists grow from call to call, such as questions: what was asked before is asked again.
    against : str
        With what its comparisons compare a trajectory's estimate: ``"final"``, the final image, or ``"state"``, x_t.
    """

    name: str
    readings: tuple[Reading, ...]
    by_default = True
    adds_up: tuple[str, ...] = ()
    against = "final"

    @abstractmethod
    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """The readings of a batch of images.

        Parameters
        ----------
        images : Tensor (B, C, H, W) in [-1, 1], or (B, d) for vectors

        Returns
        -------
        dict
            By reading's name, without comparisons and maps: (B,) integers, (B,) floats, or (B, d) floats.
        """

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        """The comparisons (B,) and maps (B, P) of two batches of images, by reading's name."""
        return {}

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        """Comparisons of ``images`` with several batches, their own starts first and strangers' after them.

        A measure for which looking at an image is costly looks at ``images`` once for all of them. Maps are
        wanted of the first ones only.
        """
        return [self.compare(start, images) for start in starts]

    def look(self, images: Tensor) -> Mapping[str, Any]:
        """What `read_beside` needs to know of images; tensors have a row for each. By default the images themselves."""
        return {"images": images}

    def read_beside(self, known: Mapping[str, Any], images: Tensor) -> dict[str, np.ndarray]:
        """The readings of images, and their comparisons with others that were looked at before, row by row.

        A measure for which looking at an image is costly derives from `_looking.Looking`, which looks once for both.
        """
        return self.read(images) | self.compare(known["images"], images)

    def study(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Told of all starting images before anything is read, for what needs a data set's statistics.

        Parameters
        ----------
        batches : callable
            Gives the starting images from the first, batch by batch, as often as it is called.
        """
        del batches

    def feature(self, reading: Reading) -> str:
        """The reading's full name, ``measure.reading``."""
        return f"{self.name}.{reading.name}" if reading.name else self.name

    def settings(self) -> dict[str, Any]:
        """What else identifies this measure: its settings, a hash of its weights."""
        return {}


MEASURES: Registry[Callable[..., Measure]] = Registry("measure", "turningpoint.measures")
"""Factories ``(model=None, **settings) -> Measure``; ``model`` is the diffusion model under study."""


class FunctionMeasure(Measure):
    """Any Python function of an image batch as a measure.

    Parameters
    ----------
    function : callable
        Maps images (B, C, H, W) in [-1, 1] to (B,) integers, (B,) floats or (B, d) floats.
    name : str, optional
        By default the function's own name.
    kind : str, optional
        By default ``categorical`` for integers, ``scalar`` for (B,) floats, ``vector`` for (B, d).

    Examples
    --------
    >>> brightness = FunctionMeasure(lambda images: images.mean((1, 2, 3)), "brightness")
    >>> brightness.readings[0].kind, brightness.read(torch.ones(2, 1, 4, 4))[""]
    ('scalar', array([1., 1.], dtype=float32))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        name: str = "",
        kind: str = "",
        shape: tuple[int, ...] = (1, 8, 8),
    ) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        if not self.name.isidentifier():
            raise TurningpointError(
                f"a measure is named {self.name!r}; accepted: a name like a variable's, as in "
                "tp.measure(function, name='width')."
            )
        if not kind:
            kind = self._kind_of(self._call(torch.zeros(2, *shape)))
        self.readings = (Reading("", kind, (function.__doc__ or self.name).strip().split("\n")[0]),)

    def settings(self) -> dict[str, Any]:
        """A hash of the function's code and of the plain values it closes over: another function reads anew."""
        code = getattr(self.function, "__code__", None)
        if code is None:
            return {"function": repr(type(self.function))}
        closed = [repr(cell.cell_contents) for cell in self.function.__closure__ or ()]
        parts = [
            code.co_code.hex(),
            repr(code.co_consts),
            repr(code.co_names),
            repr(self.function.__defaults__),
        ]
        text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(parts + closed))
        return {"function": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        values = self._call(images)
        if values.ndim == 0 or len(values) != len(images):
            raise TurningpointError(
                f"the measure {self.name!r} returned {len(values)} values for {len(images)} images."
            )
        return {"": values}

    def _call(self, images: Tensor) -> np.ndarray:
        values = self.function(images)
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)

    def _kind_of(self, values: np.ndarray) -> str:
        if values.ndim == 2:
            return "vector"
        if values.ndim != 1:
            raise TurningpointError(
                f"the measure {self.name!r} returned shape {values.shape}; accepted: (B,) or (B, d)."
            )
        return "scalar" if np.issubdtype(values.dtype, np.floating) else "categorical"


def measure(
    what: str | Measure | Callable[[Tensor], Any], model: Any = None, *, name: str = "", **settings: Any
) -> Measure:
    """A measure from its name, a `Measure`, or a function of an image batch.

    Parameters
    ----------
    what : str, Measure or callable
        ``"frequency"``, ``"frequency?bands=8"``, ``"python:module:function"``, or the thing itself.
    model : Denoiser, optional
        The model under study, for measures that use its own classifier or shape.
    name : str, optional
        What a function is called, by default its own name.

    Raises
    ------
    TurningpointError
        If there is no such measure, or the model offers no classifier for ``class``.
    """
    if isinstance(what, Measure):
        return what
    shape: Mapping[str, Any] = (
        {"shape": tuple(model.decoded_shape)} if hasattr(model, "decoded_shape") else {}
    )
    if callable(what):
        return FunctionMeasure(what, name, **shape, **settings)
    if not isinstance(what, str):
        raise TurningpointError(
            f"measure is {what!r}; accepted: a name, a Measure, or a function of an image batch."
        )
    if what.startswith("python:"):
        module, _, attribute = what.removeprefix("python:").partition(":")
        try:
            return FunctionMeasure(getattr(importlib.import_module(module), attribute), attribute, **shape)
        except (ImportError, AttributeError, ValueError) as error:
            raise TurningpointError(f"measure is {what!r}, which cannot be imported: {error}.") from None
    known, asked = divided(what)
    factory, settings = MEASURES[known], asked | settings
    try:
        return factory(model=model, **settings)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise TurningpointError(f"measure is {what!r} with settings {sorted(settings)}: {error}.") from None


def divided(what: str) -> tuple[str, dict[str, Any]]:
    """A measure's name, and the settings behind its question mark; one that is given again is a list.

    >>> divided("frequency?bands=8&sharp=True")
    ('frequency', {'bands': 8, 'sharp': True})
    """
    if what.startswith("python:"):
        return what, {}
    known, _, query = what.partition("?")
    asked: dict[str, list[Any]] = {}
    for key, value in parse_qsl(query):
        asked.setdefault(key, []).append(_literal(value))
    return known, {key: values[0] if len(values) == 1 else values for key, values in asked.items()}


def takes(what: str | Measure | Callable[[Tensor], Any]) -> frozenset[str]:
    """The settings that a named measure takes; none of a measure that is made already.

    >>> sorted(takes("color"))
    ['bins']
    """
    if not isinstance(what, str) or what.startswith("python:"):
        return frozenset()
    return frozenset(inspect.signature(MEASURES[what.partition("?")[0]]).parameters) - {"model"}


def adds_up(name: str) -> tuple[str, ...]:
    """The settings of a named measure whose lists grow from call to call."""
    known: tuple[str, ...] = getattr(MEASURES[name], "adds_up", ()) if name in MEASURES else ()
    return known


def _literal(text: str) -> Any:
    """A setting from a query: a number, True or False, or text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text
