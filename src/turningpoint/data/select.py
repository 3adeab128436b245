"""Some classes of a data set, and as many pictures of each, in an order whose beginnings are balanced."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import TurningpointError
from .imageset import ImageSet


def select(
    images: ImageSet,
    classes: str | int | Iterable[str | int] | None = None,
    per_class: int | None = None,
    items: int | None = None,
) -> ImageSet:
    """Some pictures of a set.

    If classes are selected, or so many of each, the classes take turns: the first of each, by label, then the
    second of each, and so on, so that the first n items are balanced whatever n is. Otherwise the order stays.

    Parameters
    ----------
    images : ImageSet
        The set.
    classes : str, int, or several, optional
        Names or labels: ``"cat,dog"``, ``[3, 5]``, ``"n01440764"``; all by default.
    per_class : int, optional
        The first so many of each class; a class that has fewer is refused.
    items : int, optional
        Of those, the first so many.

    Raises
    ------
    TurningpointError
        If the set has no labels, a class is not there, or a class has fewer pictures than ``per_class``.

    Examples
    --------
    >>> from turningpoint.data import open_images
    >>> from turningpoint.data.arrays import Arrays
    >>> images = Arrays(np.zeros((6, 1, 2, 2)), labels=[4, 4, 4, 7, 7, 9])
    >>> select(images, per_class=2, classes="4,7").names
    ['0', '3', '1', '4']
    """
    if classes is not None or per_class is not None:
        images = images.subset(chosen(images.labels, images.classes, classes, per_class))
    if items is None:
        return images
    return images.subset(range(min(_positive("items", items), len(images))))


def chosen(
    labels: np.ndarray | None,
    names: Sequence[str],
    classes: str | int | Iterable[str | int] | None = None,
    per_class: int | None = None,
) -> np.ndarray:
    """The places of `select`'s items among all, in its order.

    Parameters
    ----------
    labels : array (N,) or None
        A class per item, -1 where unknown.
    names : sequence of str
        What the classes are called; empty if they have no names.
    classes, per_class
        As `select` takes them.
    """
    if labels is None or bool((labels < 0).all()):
        asked = f"classes is {classes!r}" if classes is not None else f"per_class is {per_class!r}"
        raise TurningpointError(
            f"{asked}, but the images have no labels; accepted: folders named by class, a table or an array of labels."
        )
    labels = np.asarray(labels)
    there = np.unique(labels[labels >= 0])
    wanted = there if classes is None else np.array(_wanted(classes, there, names))
    places = np.flatnonzero(np.isin(labels, wanted))
    by_class = places[np.argsort(labels[places], kind="stable")]
    kinds, counts = np.unique(labels[places], return_counts=True)
    turn = np.concatenate([np.arange(count) for count in counts])
    if per_class is not None:
        if _positive("per_class", per_class) > counts.min():
            least, called = counts.min(), _called(kinds[counts.argmin()], names)
            raise TurningpointError(
                f"per_class is {per_class}, but the class {called} has {least} of the images; accepted: at most "
                f"{least}, or other classes."
            )
        by_class, turn = by_class[turn < per_class], turn[turn < per_class]
    return by_class[np.lexsort((labels[by_class], turn))]


def _wanted(classes: str | int | Iterable[str | int], there: np.ndarray, names: Sequence[str]) -> list[int]:
    """Labels for names or labels."""
    if isinstance(classes, str):
        several = [part.strip() for part in classes.split(",") if part.strip()]
        asked: list[str | int] = [classes] if classes in names else list(several)
    else:
        asked = [classes] if isinstance(classes, int | np.integer) else list(classes)
    if not asked:
        raise TurningpointError(f"classes is {classes!r}; accepted: names or labels, one or more.")
    return [_label(one, there, names) for one in asked]


def _label(one: str | int, there: np.ndarray, names: Sequence[str]) -> int:
    """The label of a class that is there.

    >>> _label("cat", np.array([0, 1]), ("cat", "dog")), _label("1", np.array([0, 1]), ())
    (0, 1)
    """
    shortened = [name.split(",")[0].casefold() for name in names]  # ImageNet's "tench, Tinca tinca"
    if one in names:
        label = list(names).index(str(one))
    elif isinstance(one, str) and shortened.count(one.casefold()) == 1:
        label = shortened.index(one.casefold())
    elif isinstance(one, int | np.integer) or one.isdecimal():
        label = int(one)
    else:
        label = -1
    if label in there:
        return label
    present = [names[k] if k < len(names) else str(k) for k in there]
    near = difflib.get_close_matches(str(one), present, n=5, cutoff=0.4) or present[:5]
    more = " and others" if len(near) < len(present) else ""
    raise TurningpointError(
        f"classes names {one!r}, of which there is no image; accepted: {', '.join(near)}{more}."
    )


def _called(label: int, names: Sequence[str]) -> str:
    return repr(names[label]) if label < len(names) else str(label)


def _positive(argument: str, value: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise TurningpointError(f"{argument} is {value!r}; accepted: a whole number of at least 1.")
    return int(value)
