"""Measuring a run: measures by name read its images; what they were told is kept beside what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from .archive import Archive
from .diffusion.denoiser import Denoiser
from .errors import TurningpointError
from .measures import Measure, adds_up, divided, measure, takes
from .readings import read
from .simulation.collect import Progress
from .simulation.progress import shown
from .simulation.store import Store

NOT_KEPT = ("trust_program",)
"""Said by a user each time: a run from a stranger must not say it."""


class Measured(Archive):
    """An archive that can be measured.

    Parameters
    ----------
    store : Store
        Its manifest and arrays.
    model : Denoiser, optional
        The model that was simulated.
    """

    def __init__(self, store: Store, model: Denoiser | None = None) -> None:
        super().__init__(store, model)
        self._used: dict[str, Measure | Callable[[Tensor], Any]] = {}

    def measure(
        self,
        *measures: str | Measure | Callable[[Tensor], Any],
        progress: Progress | str | None = "auto",
        **settings: Any,
    ) -> Self:
        """Read all images with each measure and keep what was read; returns the run.

        Parameters
        ----------
        *measures : str, Measure or callable
            Names, ``"name?setting=value"``, functions of an image batch.
        progress : callable, "auto" or None
            By default a bar, if there is a terminal; ``progress(done, total, read)`` counts images.
        **settings
            ``ask=``, ``classifier=``, ``statistics=``, ...: each goes to those of the measures that take it.

        Raises
        ------
        TurningpointError
            If there is no such measure, or none takes a setting; readings made before are kept.
        """
        self._need("start")
        model = self._model_for_measures()
        given = {key: value for key, value in settings.items() if value is not None}
        for key in given:
            if not any(key in takes(what) for what in measures):
                names = ", ".join(what if isinstance(what, str) else "a function" for what in measures)
                raise TurningpointError(
                    f"{key} is given, but none of the measures {names or '(none is named)'} takes it."
                )
        named = [divided(what) if isinstance(what, str) else (what, {}) for what in measures]
        told = [
            self._adding(what, own | {key: given[key] for key in given if key in takes(what)})
            for what, own in named
        ]
        made = [measure(what, model, **own) for (what, _), own in zip(named, told, strict=True)]
        for one in made:
            if one.against == "state":
                raise TurningpointError(
                    f"measure is {one.name!r}, which compares estimates with states on the way; accepted here: "
                    "measures of images (for this one, see trace)."
                )
        for (what, _), one, own in zip(named, made, told, strict=True):
            asked, plain = what if isinstance(what, str) else one.name, _writable(own)
            with shown(progress, f"reading {one.name}", "images", "images/s") as bar:
                read(self.store, one, self._conditions(), asked, bar, plain)
            if not isinstance(what, str) or len(plain) < len(own):
                self._used[one.name] = one if isinstance(what, str) else what
        self.forget()
        return self

    def _adding(
        self, what: str | Measure | Callable[[Tensor], Any], told: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a measure is told, with what it was told before where that adds up, as questions do."""
        adding = adds_up(what) if isinstance(what, str) else ()
        if not adding or what not in self.measured():
            return dict(told)
        # a question more is asked of the same network, unless another one is named
        before: dict[str, Any] = self.store.attrs(f"readings/{what}").get("told", {})
        joined = before | dict(told)
        for key in adding:
            asked = [*_listed(before.get(key)), *_listed(told.get(key))]
            joined |= {key: list(dict.fromkeys(asked))} if asked else {}
        return joined

    def forget(self) -> None:
        """Forget what was computed from the arrays, after they have changed."""

    def _model_for_measures(self) -> Any:
        """The model; where it cannot be loaded, what measures need besides a classifier: its shape."""
        try:
            return self.model
        except TurningpointError as error:
            return _Absent(self.store.array("images").shape[3:], str(error))

    def measured_as(self) -> list[tuple[str | Measure | Callable[[Tensor], Any], dict[str, Any]]]:
        """For every measure that has read this run, what to hand to `measure` so that another run is read alike."""
        known = [(name, self.store.attrs(f"readings/{name}")) for name in self.measured()]
        return [
            (self._used[name], {}) if name in self._used else (attrs["asked"], attrs.get("told", {}))
            for name, attrs in known
        ]

    def measure_as(self, other: Measured, progress: Progress | str | None = "auto") -> Self:
        """Read all images by the measures that have read another run, or this one before it grew."""
        for what, told in other.measured_as():
            self.measure(what, progress=progress, **told)
        return self


def _writable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a measure's settings that a manifest can hold."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return {key: value for key, value in plain.items() if _is_plain(value) and key not in NOT_KEPT}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return isinstance(value, str | int | float | bool)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


class _Absent:
    """Stands for a model that cannot be loaded."""

    def __init__(self, shape: tuple[int, ...], why: str) -> None:
        self.shape = self.decoded_shape = shape
        self._why = why

    def classifier(self) -> None:
        raise TurningpointError(self._why)

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0
