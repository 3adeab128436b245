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
===============  ==========================  ==========================================================

A feature is named ``measure.reading``; a measure with one reading lends it its own name.  NaN says that
an image has no such reading (the slant of an empty picture); it is left out of averages.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from ..registry import Registry

KINDS = ("categorical", "scalar", "vector", "comparison")


@dataclass(frozen=True)
class Reading:
    """What a measure reads.

    Parameters
    ----------
    name : str
        Short, without the measure's name; empty for a measure's only reading.
    kind : str
        One of ``categorical``, ``scalar``, ``vector``, ``comparison``.
    description : str
        Half a sentence for tables and figures.
    unit : str
        ``pixel``, ``degree``, ...; empty for pure numbers.
    largest : float
        A comparison's value for two equal images.
    label : str
        What figures write; by default the feature's name.
    """

    name: str
    kind: str
    description: str
    unit: str = ""
    largest: float = 1.0
    label: str = ""

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
    """

    name: str
    readings: tuple[Reading, ...]

    @abstractmethod
    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """The readings of a batch of images.

        Parameters
        ----------
        images : Tensor (B, C, H, W) in [-1, 1], or (B, d) for vectors

        Returns
        -------
        dict
            By reading's name, without the comparisons: (B,) integers, (B,) floats, or (B, d) floats.
        """

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        """The comparisons of two batches of images, by reading's name, each (B,)."""
        return {}

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
    known, _, query = what.partition("?")
    factory = MEASURES[known]
    for key, value in parse_qsl(query):
        settings.setdefault(key, float(value) if "." in value else int(value) if value.isdigit() else value)
    try:
        return factory(model=model, **settings)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise TurningpointError(f"measure is {what!r} with settings {sorted(settings)}: {error}.") from None
