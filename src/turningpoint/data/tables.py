"""Parquet tables of pictures, as Hugging Face's ``datasets`` writes them.

A column ``image`` (or ``img``) holds, for every row, the bytes of a picture's file, alone or as
``struct(bytes, path)``; a column ``label`` (or ``labels``, ``fine_label``, ...) a class, as a number or a name.  The
schema's metadata ``huggingface`` says what the features are, with the names of the classes:
``{"info": {"features": {"label": {"names": [...], "_type": "ClassLabel"}}}}``.  A large table is cut into files,
``data/train-00000-of-00002.parquet``, and a file into groups of rows.

A row group is the least that can be read: the files in it, not the pictures, are kept for the rows that are
asked for next.
"""

from __future__ import annotations

import io
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TurningpointError
from .imageset import ImageSet
from .labels import LABELS, labelled
from .layout import SPLITS, one_split, split_of
from .pictures import PictureError, decoded, reason

if TYPE_CHECKING:
    from PIL import Image

IMAGES = ("image", "img")
KEPT = 2**25
"""Bytes of row groups that are kept; the one last read is kept whatever its size."""


class Tables(ImageSet):
    """The pictures of one or several parquet files, row after row.

    Parameters
    ----------
    files : sequence of Path
        In their order.
    where : Path
        The file or the folder that was opened.
    argument : str
        The name of the user's argument.
    split : str, optional
        Which one, of several: a word in a file's path, ``data/test-00000-of-00001.parquet``.

    Raises
    ------
    TurningpointError
        If pyarrow is not installed, a file is no parquet or holds no pictures, or a split is wanting or not there.
    """

    def __init__(
        self, files: Sequence[Path], where: Path, argument: str = "images", split: str | None = None
    ) -> None:
        self.where, self._argument = str(where), argument
        self._files = _of_split(files, where, argument, split)
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        with self._opened(self._files[0]) as opened:
            schema = opened.schema_arrow
        features, column = _features(schema), _label_column(schema)
        self._column = self._image_column(schema, features)
        self._starts: list[np.ndarray] = []
        paths: list[str | None] = []
        values: list[Any] = []
        for file in self._files:
            with self._opened(file) as opened:
                lengths = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
                self._starts.append(np.cumsum([0, *lengths]))
                try:
                    paths += self._paths(opened)
                    if column is not None:
                        values += opened.read(columns=[column], use_threads=False).column(0).to_pylist()
                except (
                    Exception
                ) as error:  # pyarrow's own kinds of error, of a column that is missing or damaged
                    raise self._unreadable(file, error) from None
        self._firsts = np.cumsum([0, *(starts[-1] for starts in self._starts)])
        if not self._firsts[-1]:
            raise TurningpointError(
                f"{argument} is {self.where!r}, which holds no picture; accepted: one or more rows."
            )
        self.names = [path for path in paths if path is not None]
        if len(set(self.names)) < len(paths):
            self.names = [self._row(i) for i in range(len(paths))]
        if column is not None:
            told = features.get(column, {}).get("names")
            self.labels, self.classes = labelled(values)
            if told and not self.classes:
                self.classes = tuple(str(name) for name in told)

    # ---- what a row holds

    def picture(self, i: int) -> Image.Image:
        content = self._content(i)
        if content is None:
            raise PictureError(f"{self.described(i)} holds no bytes of a picture.")
        return decoded(io.BytesIO(content), self.described(i))

    def described(self, i: int) -> str:
        file, row = self._place(i)
        return f"row {row} of {str(self._files[file])!r}"

    def _content(self, i: int) -> bytes | None:
        file, row = self._place(i)
        group = int(np.searchsorted(self._starts[file], row, side="right")) - 1
        if (file, group) not in self._groups:
            self._groups[file, group] = self._read(i, file, group)
            while len(self._groups) > 1 and sum(column.nbytes for column in self._groups.values()) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end((file, group))
        content: bytes | None = self._groups[file, group][row - int(self._starts[file][group])].as_py()
        return content

    def _read(self, i: int, file: int, group: int) -> Any:
        """The files of pictures in a row group."""
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self._files[file]) as opened:
                table = opened.read_row_group(group, columns=[self._column], use_threads=False)
            return (table.flatten() if "." in self._column else table).column(0)
        except Exception as error:  # pyarrow's own kinds of error
            raise PictureError(f"{self.described(i)} cannot be read ({reason(error)}).") from None

    def _place(self, i: int) -> tuple[int, int]:
        """The file of an item, and its row there."""
        file = int(np.searchsorted(self._firsts, i, side="right")) - 1
        return file, i - int(self._firsts[file])

    def _row(self, i: int) -> str:
        file, row = self._place(i)
        return f"{self._files[file].name}:{row}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict()}

    # ---- what a file holds

    def _opened(self, file: Path) -> Any:
        try:
            from pyarrow import parquet
        except ImportError:
            raise TurningpointError(
                f"{self._argument} is {self.where!r}, which needs pyarrow; accepted: pip install 'turningpoint[data]'."
            ) from None
        try:
            return parquet.ParquetFile(file)
        except Exception as error:  # pyarrow's own kinds of error
            raise self._unreadable(file, error) from None

    def _unreadable(self, file: Path, error: Exception) -> TurningpointError:
        return TurningpointError(
            f"{self._argument} is {str(file)!r}, which cannot be read as a parquet of pictures ({reason(error)})."
        )

    def _image_column(self, schema: Any, features: dict[str, Any]) -> str:
        """The column of the files' bytes: ``"image.bytes"``, or ``"image"`` if it holds nothing else."""
        named = [name for name, kind in features.items() if kind.get("_type") == "Image"]
        for name in dict.fromkeys((*IMAGES, *named, *schema.names)):
            kind = schema.field(name).type if name in schema.names else None
            if kind is not None and _is_bytes(kind):
                return str(name)
            if kind is not None and "bytes" in _parts(kind):
                return f"{name}.bytes"
        raise TurningpointError(
            f"{self._argument} is {self.where!r}, whose columns are {', '.join(schema.names)}; accepted: a column "
            "'image' of the bytes of pictures."
        )

    def _paths(self, opened: Any) -> list[str | None]:
        name = self._column.removesuffix(".bytes")
        if "." not in self._column or "path" not in _parts(opened.schema_arrow.field(name).type):
            return [None] * int(opened.metadata.num_rows)
        return list(opened.read(columns=[f"{name}.path"], use_threads=False).flatten().column(0).to_pylist())


def _features(schema: Any) -> dict[str, Any]:
    """The features that Hugging Face's metadata describe, by column."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in info.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _label_column(schema: Any) -> str | None:
    """The first column of labels whose values are whole numbers or names."""
    from pyarrow import types

    for name in LABELS:
        if name in schema.names:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind):
                return name
    return None


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _parts(kind: Any) -> list[str]:
    """The names of a struct's parts, none if it is something else."""
    from pyarrow import types

    return [kind.field(k).name for k in range(kind.num_fields)] if types.is_struct(kind) else []


def _of_split(files: Sequence[Path], where: Path, argument: str, split: str | None) -> list[Path]:
    """The files of the split that is meant."""
    words: dict[Path, str | None] = {}
    for file in files:
        inside = file.relative_to(where).as_posix() if file != where else file.name
        told = re.split(r"[^a-zA-Z0-9]+", inside.removesuffix(".parquet"))
        own = split_of(told, split) if split is not None else None
        words[file] = own or next((word for word in told if word.lower() in SPLITS), None)
    splits = list(dict.fromkeys(word for word in words.values() if word is not None))
    if len(files) == 1 and split is None:
        return list(files)
    if None in words.values() and split is None:
        splits = []
    chosen = one_split(splits, split, str(where), argument)
    return list(files) if chosen is None else [file for file in files if words[file] == chosen]
