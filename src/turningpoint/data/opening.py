"""What lies there: the kind of a data set, from its name or, failing that, from its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import TurningpointError
from .arrays import Arrays
from .files import Files, OneFile
from .imageset import ImageSet
from .layout import no_splits
from .pictures import is_picture
from .tables import Tables
from .tree import Archive, Folder

ACCEPTED = "a folder of pictures or of .parquet files, a .zip, a .parquet, an .npz, an .npy, or a picture"
MAGIC = {b"PK": ".zip", b"PAR1": ".parquet"}


def open_images(where: Any, argument: str = "images", split: str | None = None) -> ImageSet:
    """A data set of pictures, by what is there; nothing is decoded yet.

    Parameters
    ----------
    where : path, array, Tensor or ImageSet
        A folder: flat, with class folders, with splits, with a table ``metadata.csv`` or ``metadata.jsonl``, with
        ImageNet's names, or EDM's (`turningpoint.data.layout` says how they are told apart); a zip of one; a
        ``.parquet`` of Hugging Face's ``datasets``, or a folder of them; an ``.npz`` with ``images`` and perhaps
        ``labels``; an ``.npy``; one picture; an array (N, C, H, W) of uint8, or of floats in [-1, 1].
    argument : str
        How errors call what is given.
    split : str, optional
        Which one, of a data set that has several: ``train``, ``validation``, ``test``.

    Raises
    ------
    TurningpointError
        If there is nothing there, no picture in it, or a split is wanting or not there; if a parquet is given and
        pyarrow is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> images = open_images(np.zeros((2, 3, 4, 4), np.uint8))
    >>> len(images), images.names, images.pixels(0).shape
    (2, ['0', '1'], (3, 4, 4))
    """
    if not isinstance(where, str | Path):
        no_splits(split, "what is in memory")
        return where if isinstance(where, ImageSet) else Arrays(where, argument=argument)
    path = Path(where).expanduser()
    if path.is_dir():
        return _folder(path, argument, split)
    if not path.is_file():
        raise TurningpointError(f"{argument} is {str(path)!r}, which is not there; accepted: {ACCEPTED}.")
    kind = _kind(path)
    if kind in (".npy", ".npz"):
        return Arrays.from_file(path, argument, split)
    if kind == ".zip":
        return Files(Archive(path, argument), argument, split)
    if kind == ".parquet":
        return Tables([path], path, argument, split)
    if is_picture(path.name):
        return OneFile(path, split)
    raise TurningpointError(f"{argument} is {str(path)!r}; accepted: {ACCEPTED}.")


def _folder(path: Path, argument: str, split: str | None) -> ImageSet:
    tree = Folder(path)
    tables = [path / name for name in tree.names if name.endswith(".parquet")]
    if tables and not any(is_picture(name) for name in tree.names):
        return Tables(tables, path, argument, split)
    return Files(tree, argument, split)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz", ".zip", ".parquet") or is_picture(path.name):
        return suffix
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return suffix
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), suffix)
