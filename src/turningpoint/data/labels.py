"""Labels from names: the number of a class is its place among the sorted names.

If every name is one of the 1,000 synsets of ILSVRC 2012 (Russakovsky et al. 2015, arXiv:1409.0575), a
label is the synset's place among all 1,000, 0 to 999, which is what classifiers and class-conditional models
mean by it, even where only a few of the classes are there.  ``imagenet_synsets.txt`` lists the 1,000
WordNet ids, sorted; they are those of the challenge (the same list ships with timm and other libraries).

A label is -1 where it is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import numpy as np

LABELS = ("label", "labels", "fine_label", "coarse_label", "class", "category", "target")
"""Columns of labels, the first of which counts."""

UNKNOWN = -1
_SYNSET = re.compile(r"(?:^|_)(n\d{8})(?=_|$)")


@cache
def synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes, by label.

    >>> len(synsets()), synsets()[281]
    (1000, 'n02123045')
    """
    return tuple(files(__package__).joinpath("imagenet_synsets.txt").read_text("ascii").split())


@cache
def _places() -> dict[str, int]:
    return {synset: place for place, synset in enumerate(synsets())}


def is_synset(name: str) -> bool:
    """Whether a name is the id of one of ImageNet's classes."""
    return name in _places()


def synset_in(name: str) -> str | None:
    """The class that the name of an ImageNet file tells, at its start or at its end.

    >>> synset_in("n01440764_10026.JPEG"), synset_in("val/ILSVRC2012_val_00000001_n01751748.JPEG")
    ('n01440764', 'n01751748')
    >>> synset_in("ILSVRC2012_val_00000001.JPEG") is None
    True
    """
    found = [s for s in _SYNSET.findall(PurePosixPath(name).stem) if is_synset(s)]
    return found[0] if found else None


def numbered(
    names: Sequence[str | None], among: Iterable[str] = ()
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels (N,) for class names, None among them where a class is not known; and the names by label.

    Parameters
    ----------
    names : sequence of str or None
        One per item.
    among : iterable of str
        Names of classes that are there too, though no item has them.

    Examples
    --------
    >>> numbered(["dog", "cat", None, "dog"])
    (array([ 1,  0, -1,  1]), ('cat', 'dog'))
    >>> labels, classes = numbered(["n01751748", "n01440764"])
    >>> labels, len(classes)
    (array([65,  0]), 1000)
    """
    classes = tuple(sorted({name for name in names if name is not None} | set(among)))
    if not classes:
        return None, ()
    if all(is_synset(name) for name in classes):
        classes = synsets()
    place = {name: k for k, name in enumerate(classes)}
    return known([UNKNOWN if name is None else place[name] for name in names]), classes


def labelled(values: Sequence[Any]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels (N,) and names by label, from whole numbers or from names; none if the values are neither.

    >>> labelled([3, None, 0])
    (array([ 3, -1,  0]), ())
    >>> labelled([[0.5, 0.1], [0.2, 0.2]])
    (None, ())
    """
    given = [value for value in values if value is not None]
    if all(isinstance(value, int | np.integer) for value in given):
        return known([UNKNOWN if value is None else int(value) for value in values]), ()
    if all(isinstance(value, str) for value in given):
        return numbered(values)
    return None, ()


def known(labels: Sequence[int]) -> np.ndarray | None:
    """Labels as int64 (N,), negative ones as -1; None if none is known."""
    array = np.maximum(np.asarray(labels, dtype=np.int64), UNKNOWN)
    return array if bool((array >= 0).any()) else None
