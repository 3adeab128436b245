r"""The files of an export: their names, and how each is written once, whole and without loss.

PNG (ISO/IEC 15948) holds whole numbers, so that a value :math:`x` in [-1, 1] becomes the nearest of 256 grey values,

.. math:: g = \mathrm{round}\big(127.5 \, (x + 1)\big), \qquad |x - (g / 127.5 - 1)| \le 1 / 255,

and values outside, which decoders give, the nearest end.  What was stored in eight bits is kept exactly.  NPY (NumPy's
format 1.0, without pickles) keeps every bit.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import TurningpointError

SAME_FLOAT = 1e-6
"""The largest difference, in [-1, 1], between two ways to scale an eight-bit value in float32."""
LONGEST_NAME = 60


class Files:
    """A folder in which every file is written once.

    Each is written beside its place and renamed; one that is there already is compared and left as it is.

    Parameters
    ----------
    folder : Path
        Where; made if need be.

    Attributes
    ----------
    written, kept : int
        Pictures and arrays that were made, and that were there.

    Raises
    ------
    TurningpointError
        On writing, if another file has the place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written, self.kept = folder, 0, 0
        folder.mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, values: np.ndarray) -> bool:
        """Write values (C, H, W) in [-1, 1], C 1 or 3, as PNG; whether no value was rounded or cut off."""
        grey = np.clip(np.rint((values.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)
        pixels = grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0))
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="PNG")
        self._count(self.write(name, content.getvalue(), lambda there: _holds(there, pixels)))
        return bool(np.abs(grey / 127.5 - 1 - values).max() < SAME_FLOAT)

    def numbers(self, name: str, values: np.ndarray) -> bool:
        """Write an array as NPY, which is always exact."""
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        self._count(self.write(name, content.getvalue()))
        return True

    def _count(self, new: bool) -> None:
        self.written, self.kept = self.written + new, self.kept + (not new)

    def write(self, name: str, content: bytes, same: Callable[[bytes], bool] | None = None) -> bool:
        """Write a file, unless one is there for which ``same`` holds (by default these very bytes); whether it did."""
        path = self.folder / name
        if not path.exists():
            self.replace(name, content)
            return True
        there = path.read_bytes() if path.is_file() else None
        if there is None or not (there == content if same is None else same(there)):
            raise TurningpointError(
                f"out is {str(self.folder)!r}, where {name!r} is something else; accepted: a new folder, or that of an "
                "earlier export of this run."
            )
        return False

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in whatever stands in its place."""
        partial = self.folder / f".{name}.{os.getpid()}"
        try:
            partial.write_bytes(content)
            partial.replace(self.folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _holds(content: bytes, pixels: np.ndarray) -> bool:
    """Whether a file is a picture of exactly these pixels."""
    try:
        with Image.open(io.BytesIO(content)) as there:
            return np.array_equal(np.asarray(there), pixels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def safe(name: str) -> str:
    """A name of a file without its ending and its folder's slashes, in letters that every file system takes.

    >>> safe("n02124075/ILSVRC2012_val_1.JPEG"), safe("../a b.png")
    ('n02124075-ILSVRC2012-val-1', 'a-b')
    """
    stem = re.sub(r"\.[A-Za-z]{2,5}$", "", name)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", stem).strip("-.")[-LONGEST_NAME:]


def digits(times: np.ndarray) -> int:
    """How many digits tell times apart: four, or as many more as it takes.

    >>> digits(np.array([0.3, 0.5])), digits(np.array([0.00011, 0.00012]))
    (4, 6)
    """
    return next(n for n in (4, 6, 8, 10, 12) if n == 12 or len(np.unique(np.round(times, n))) == len(times))


def decimal(t: float, places: int = 4) -> str:
    """A time with two digits, or with so many where it has more.

    >>> decimal(0.3), decimal(0.4995), decimal(1 / 3)
    ('0.30', '0.4995', '0.3333')
    """
    return f"{t:.{places}f}".removesuffix("0" * (places - 2))
