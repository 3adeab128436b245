"""Open sets: a new model, measure or experiment is a new file that registers itself.

A registry knows the modules of one package of the project, which it imports when it is first asked,
and what other installed packages offer as Python entry points of its group.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import TurningpointError, one_of

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind.

    Parameters
    ----------
    kind : str
        What they are, for error messages: ``"measure"``.
    package : str
        The package whose modules register some.
    group : str, optional
        The entry-point group under which other packages offer more; by default ``package``.

    Examples
    --------
    >>> colours = Registry("colour", "turningpoint.errors")
    >>> colours.add("red")("#f00"), colours["red"]
    ('#f00', '#f00')
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind, self.package, self.group = kind, package, group or package
        self._known: dict[str, T] = {}
        self._searched = False

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that registers what it decorates under ``name``."""

        def register(thing: T) -> T:
            self._known[name] = thing
            return thing

        return register

    def names(self) -> list[str]:
        """All names, sorted."""
        self._search()
        return sorted(self._known)

    def __getitem__(self, name: str) -> T:
        self._search()
        if name not in self._known:
            raise one_of(self.kind, name, self.names())
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._search()
        return name in self._known

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        for point in importlib.metadata.entry_points(group=self.group):
            try:
                self._known.setdefault(point.name, point.load())
            except ImportError as error:
                raise TurningpointError(
                    f"the {self.kind} {point.name!r} of {point.value!r} cannot be imported: {error}."
                ) from None
