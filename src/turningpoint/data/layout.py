"""What the names in a folder or a zip mean: splits, classes, tables of labels.

In the order in which they are looked for, below the one folder that a zip may wrap everything in:

- ``dataset.json`` with ``"labels": [[name, number], ...]`` or null: a set made by the dataset tool of EDM
  (Karras et al. 2022, arXiv:2206.00364);
- splits, if all pictures lie in folders called train, validation, test (or a usual variant of these);
- ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and perhaps a column of labels: an image folder of
  Hugging Face's ``datasets``; pictures that it does not list are left out;
- folders, each of which is a class by its name, as torchvision's ``ImageFolder`` has it;
- ImageNet's file names, which tell the class: ``n01440764_10026.JPEG``, ``ILSVRC2012_val_00000001_n01751748.JPEG``.

Pictures are in the order of their names.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..errors import TurningpointError
from .labels import LABELS, is_synset, labelled, numbered, synset_in
from .pictures import PICTURES, is_picture, reason
from .tree import Archive, Tree

SPLITS = {
    word: split
    for split, words in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for word in words
}
"""Names of splits, as Hugging Face's ``datasets`` knows them, and what each means."""


@dataclass(frozen=True)
class Layout:
    """The pictures among the files of a tree.

    Attributes
    ----------
    files : list of str
        Their names in the tree.
    labels : array (N,) or None
        Their classes, -1 where unknown.
    classes : tuple of str
        What the classes are called.
    root : str
        What all names begin with and says nothing.
    """

    files: list[str]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    root: str = ""


def arranged(tree: Tree, argument: str, split: str | None = None) -> Layout:
    """Find the pictures of a tree, and what is known of them.

    Parameters
    ----------
    tree : Tree
        A folder or a zip.
    argument : str
        The name of the user's argument.
    split : str, optional
        Which one, of several.

    Raises
    ------
    TurningpointError
        If there is no picture, a split is wanting or not there, or a table of labels cannot be read.
    """
    pictures = [name for name in tree.names if is_picture(name)]
    if not pictures:
        raise TurningpointError(
            f"{argument} is {tree.where!r}, which holds no picture; accepted: {', '.join(PICTURES)} files."
        )
    root = _wrapper(tree.names) if isinstance(tree, Archive) else ""
    if (listed := _edm(tree, root, argument)) is not None:
        no_splits(split, tree.where)
        return _listed(tree, root, pictures, listed, argument)
    chosen, several = _split(tree, [name.removeprefix(root) for name in pictures], split, argument)
    inside = [name for name in pictures if name.startswith(root + chosen)]
    for base in dict.fromkeys((root + chosen, root)):
        if (rows := _metadata(tree, base, argument)) is not None:
            return _tabled(tree, base, root, inside, rows, argument)
    labels, classes = _by_name(inside, root + chosen, [n.removeprefix(root) for n in pictures], several)
    return Layout(inside, labels, classes, root)


def split_of(words: Iterable[str], split: str) -> str | None:
    """The word that names a split: the very word, or one that means the same.

    >>> split_of(["train", "val"], "validation")
    'val'
    """
    words = list(words)
    if split in words:
        return split
    meant = SPLITS.get(split.lower())
    same = [word for word in words if meant is not None and SPLITS.get(word.lower()) == meant]
    return same[0] if len(same) == 1 else None


def one_split(words: Sequence[str], split: str | None, where: str, argument: str) -> str | None:
    """The split that is meant, out of those there are; None if there are none and none is asked for."""
    if split is None and len(words) > 1:
        raise TurningpointError(
            f"{argument} is {where!r}, which has several splits; accepted: split {' or '.join(words)}."
        )
    if split is None:
        return words[0] if words else None
    found = split_of(words, split)
    if found is None:
        accepted = ", ".join(words) or "none, for it has no splits"
        raise TurningpointError(f"split is {split!r}; accepted for {where!r}: {accepted}.")
    return found


def no_splits(split: str | None, where: str) -> None:
    """Refuse to look for a split where there are none."""
    one_split((), split, where, "")


# ---- folders


def _wrapper(names: list[str]) -> str:
    """The folders that a zip has around everything, as ``"a/b/"``."""
    root = ""
    while True:
        tops = {name.removeprefix(root).split("/")[0] for name in names}
        top = tops.pop()
        nested = not tops and all("/" in name.removeprefix(root) for name in names)
        if not nested or is_synset(top) or top.lower() in SPLITS:
            return root
        root += top + "/"


def _split(tree: Tree, pictures: list[str], split: str | None, argument: str) -> tuple[str, list[str]]:
    """The folder of the split that is meant, as ``"train/"`` or empty; and the folders of all splits."""
    tops = sorted({name.split("/")[0] for name in pictures if "/" in name})
    loose = any("/" not in name for name in pictures)
    several = tops if tops and not loose and all(top.lower() in SPLITS for top in tops) else []
    if split is not None and not several:
        if split in tops:
            return split + "/", [split]
        if split_of([PurePosixPath(tree.where).stem], split):
            return "", []
    chosen = one_split(several, split, tree.where, argument)
    return ("" if chosen is None else chosen + "/"), several


def _by_name(
    files: list[str], base: str, pictures: list[str], splits: list[str]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Classes from the folders below ``base``, or from ImageNet's file names."""
    inside = [name.removeprefix(base) for name in files]
    folders = [name.split("/")[0] if "/" in name else None for name in inside]
    if any(folders):
        elsewhere = [name.split("/") for name in pictures]
        return numbered(folders, [parts[1] for parts in elsewhere if parts[0] in splits and len(parts) > 2])
    return numbered([synset_in(name) for name in inside])


# ---- tables of labels


def _edm(tree: Tree, root: str, argument: str) -> dict[str, Any] | None:
    """Labels by name from EDM's dataset.json, empty if it has none; None if there is no such file."""
    if root + "dataset.json" not in tree.names:
        return None
    try:
        content = json.loads(_text(tree, root + "dataset.json"))
        if not isinstance(content, dict) or "labels" not in content:
            return None  # another program's
        return {str(name).replace("\\", "/"): label for name, label in content["labels"] or []}
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(tree, root + "dataset.json", argument, error) from None


def _listed(tree: Tree, root: str, pictures: list[str], labels: dict[str, Any], argument: str) -> Layout:
    """All pictures of a tree, with what EDM's table says about each."""
    if not labels:
        return Layout(pictures, None, (), root)
    missing = [name for name in pictures if name.removeprefix(root) not in labels]
    if missing:
        raise TurningpointError(
            f"{argument} is {tree.where!r}, whose dataset.json has no label for {missing[0]!r}; accepted: one for each."
        )
    return Layout(pictures, *labelled([labels[name.removeprefix(root)] for name in pictures]), root)


def _metadata(tree: Tree, base: str, argument: str) -> dict[str, Any] | None:
    """Labels, None where there are none, by the file names of an image folder's table; None if there is no table."""
    for name, read in (("metadata.csv", _csv), ("metadata.jsonl", _jsonl)):
        if base + name not in tree.names:
            continue
        try:
            rows = read(_text(tree, base + name))
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line is no object")
        except (ValueError, csv.Error, RecursionError) as error:
            raise _unreadable(tree, base + name, argument, error) from None
        if all("file_name" in row for row in rows):
            column = next((c for c in LABELS if any(row.get(c) is not None for row in rows)), None)
            told = [None if column is None else row.get(column) for row in rows]
            names = [posixpath.normpath(str(row["file_name"]).replace("\\", "/")) for row in rows]
            return dict(zip(names, told, strict=True))
    return None


def _csv(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    for column in LABELS:
        given = [row[column] for row in rows if row.get(column)]
        whole = all(value.removeprefix("-").isdecimal() for value in given)
        for row in rows if given else []:
            row[column] = None if not row.get(column) else int(row[column]) if whole else row[column]
    return rows


def _jsonl(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _tabled(
    tree: Tree, base: str, root: str, pictures: list[str], labels: dict[str, Any], argument: str
) -> Layout:
    """The pictures that a table beside them, in ``base``, lists."""
    there = set(tree.names)
    absent = [name for name in labels if base + name not in there]
    if absent:
        raise TurningpointError(
            f"{argument} is {tree.where!r}, whose metadata lists {absent[0]!r}; accepted: files that are there."
        )
    files = [name for name in pictures if name.removeprefix(base) in labels]
    if not files:
        raise TurningpointError(
            f"{argument} is {tree.where!r}, whose metadata lists no picture; accepted: a file_name, one or more."
        )
    if all(label is None for label in labels.values()):
        return Layout(files, *_by_name(files, base, [], []), root)
    found, classes = labelled(list(labels.values()))
    places = {name: k for k, name in enumerate(labels)}
    chosen = [places[name.removeprefix(base)] for name in files]
    return Layout(files, None if found is None else found[chosen], classes, root)


def _text(tree: Tree, name: str) -> str:
    with tree.open(name) as file:
        return file.read().decode("utf-8-sig")


def _unreadable(tree: Tree, name: str, argument: str, error: Exception) -> TurningpointError:
    return TurningpointError(
        f"{argument}: {tree.described(name)} cannot be read as a table ({reason(error)})."
    )
