"""Named files in a folder or a zip: what their names are, and a file of bytes for each.

A zip is never unpacked: a member is read into memory, alone, and a member's path is a name and nothing else.
Hidden files, and what macOS adds to zips, are not seen.
"""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Any

from ..errors import TurningpointError
from .pictures import PictureError, reason

LARGEST = 2**30
"""Bytes that a member of a zip may have."""


class Tree(ABC):
    """Files below one place.

    Attributes
    ----------
    where : str
        The place, as the user wrote it.
    names : list of str
        Paths below it with ``/`` between their parts, sorted part by part.
    """

    where: str
    names: list[str]

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from its start; it can be closed.

        Raises
        ------
        PictureError
            If it cannot be read.
        """

    @abstractmethod
    def described(self, name: str) -> str:
        """A file as an error names it."""


class Folder(Tree):
    """The files of a folder and of the folders below it, through links too."""

    def __init__(self, path: Path) -> None:
        self.where, self._path = str(path), path
        self.names = in_order(self._walk())

    def _walk(self) -> list[str]:
        found: list[str] = []
        seen: set[str] = set()
        for folder, below, files in os.walk(self._path, followlinks=True):
            real = os.path.realpath(folder)
            below[:] = sorted(name for name in below if not name.startswith(".") and real not in seen)
            if real not in seen:  # no link to a folder above it
                inside = Path(folder).relative_to(self._path)
                found += [(inside / name).as_posix() for name in files]
            seen.add(real)
        return found

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._path / name).open("rb")
        except OSError as error:
            raise PictureError(f"{self.described(name)} cannot be read ({reason(error)}).") from None

    def described(self, name: str) -> str:
        return f"the file {str(self._path / name)!r}"


class Archive(Tree):
    """The members of a zip."""

    def __init__(self, path: Path, argument: str) -> None:
        self.where, self._path = str(path), path
        self._zip: zipfile.ZipFile | None = None
        try:
            members = self._opened().infolist()
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise TurningpointError(
                f"{argument} is {self.where!r}, which cannot be read as a zip ({reason(error)})."
            ) from None
        if any(member.flag_bits & 1 for member in members):
            raise TurningpointError(
                f"{argument} is {self.where!r}, which is encrypted; accepted: a zip without a password."
            )
        self.names = in_order(list(dict.fromkeys(m.filename for m in members if not m.is_dir())))

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:
            self._zip = zipfile.ZipFile(self._path)
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zip": None}

    def open(self, name: str) -> IO[bytes]:
        try:
            archive = self._opened()
            size = archive.getinfo(name).file_size
            if size > LARGEST:
                raise PictureError(f"{self.described(name)} has {size} bytes; accepted: at most {LARGEST}.")
            return io.BytesIO(archive.read(name))
        except PictureError:
            raise
        except Exception as error:  # a damaged zip fails in many ways: checksum, zlib, method
            raise PictureError(f"{self.described(name)} cannot be read ({reason(error)}).") from None

    def described(self, name: str) -> str:
        return f"the member {name!r} of {self.where!r}"


def in_order(names: list[str]) -> list[str]:
    """Names that are seen, sorted part by part: a folder's files are together.

    >>> in_order(["a-b/1.png", "a/2.png", "a/.hidden.png", "__MACOSX/a/2.png"])
    ['a/2.png', 'a-b/1.png']
    """
    seen = [parts for parts in (name.split("/") for name in names) if "__MACOSX" not in parts]
    return [
        "/".join(parts) for parts in sorted(seen) if not any(p.startswith(".") and p != ".." for p in parts)
    ]
