"""Scratch: room on disk for arrays that memory should not hold.

Arrays lie side by side in files without a name, a quarter of a gigabyte or more each, because every file that is open
costs a process one of its few handles, and a walk may keep an array for each of a hundred layers.  A file goes when the
last array in it has gone, or with the process, whatever ends that.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FILE = 2**28
"""Bytes of a file; of those that are never written the disk keeps nothing."""
ALIGNED = 64


class Scratch:
    """Makes arrays that lie in files.

    Parameters
    ----------
    folder : Path
        Where.

    Examples
    --------
    >>> scratch = Scratch(Path(tempfile.gettempdir()))
    >>> a, b = scratch.full((2, 3), np.nan, np.float32), scratch.full((2,), 0, np.int64)
    >>> a[:] = 1
    >>> float(a.sum()), b.tolist()
    (6.0, [0, 0])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: np.memmap | None = None
        self._used = 0

    def full(self, shape: Sequence[int], value: float, kind: np.dtype | type) -> np.ndarray:
        """An array of this shape and type that holds ``value`` everywhere."""
        kind = np.dtype(kind)
        size = kind.itemsize * math.prod(shape)
        if self._file is None or self._used + size > len(self._file):
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self._file = np.memmap(file, np.uint8, "w+", shape=(max(FILE, size),))
            self._used = 0
        part: np.ndarray = self._file[self._used : self._used + size].view(kind).reshape(tuple(shape))
        self._used += -(-size // ALIGNED) * ALIGNED
        part[...] = value
        return part
