"""What one file holds: a picture, or arrays of images.

A picture is PNG, JPEG, WebP, BMP, TIFF or GIF (its first frame), and nothing else is tried: other formats that Pillow
knows are handed to other programs.  It is turned the way its Exif orientation says, and is otherwise what the file
holds.  Whoever asks says under which argument, so that an error names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import TurningpointError

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""How the name of a picture's file ends."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class PictureError(TurningpointError):
    """One picture among many that cannot be used."""


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture.

    >>> is_picture("cat/0001.JPEG"), is_picture("labels.csv")
    (True, False)
    """
    return name.lower().endswith(PICTURES)


def decoded(file: str | Path | IO[bytes], what: str) -> Image.Image:
    """A picture, read to its end and turned upright.

    Parameters
    ----------
    file : path or binary file
        Where it is.
    what : str
        How an error names it: ``"the file 'a.png'"``.

    Raises
    ------
    PictureError
        If it is not there, is no picture, is damaged or cut off, or would have more pixels than Pillow thinks safe.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise PictureError(
            f"{what} cannot be read as a picture (it is none of {', '.join(FORMATS)})."
        ) from None
    except Exception as error:  # a damaged picture fails in many ways: struct, zlib, index
        raise PictureError(f"{what} cannot be read as a picture ({reason(error)}).") from None


def reason(error: Exception) -> str:
    r"""What an error of another library says, as part of a sentence.

    >>> reason(ValueError("broken data stream. Sorry.\nMore"))
    'broken data stream'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__


def read_arrays(
    path: Path, argument: str, mapped: bool = False, split: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images of an ``.npy``, or ``images`` and ``labels`` (None if there are none) of an ``.npz``.

    Parameters
    ----------
    path : Path
        The file.
    argument : str
        The name of the user's argument.
    mapped : bool
        Leave an ``.npy`` on disk, as a read-only memmap.
    split : str, optional
        Of an ``.npz``: ``train`` takes ``train_images`` and ``train_labels``.

    Raises
    ------
    TurningpointError
        If the file is not there, cannot be read, or does not hold the array.
    """
    where = f"{argument} is {str(path)!r}"
    if not path.is_file():
        raise TurningpointError(f"{where}, which is not there; accepted: a folder or an .npz.")
    if path.suffix not in (".npz", ".npy"):
        raise TurningpointError(f"{where}; accepted: a folder, an .npz or an .npy.")
    try:
        loaded: Any = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if split is not None:
                raise TurningpointError(f"split is {split!r}, but {str(path)!r} has no splits.")
            return loaded, None
        prefix = f"{split}_" if split else ""
        with loaded:
            if f"{prefix}images" not in loaded:
                held = ", ".join(loaded) or "nothing"
                raise TurningpointError(
                    f"{where}, which holds {held}; accepted: an array '{prefix}images'{_hint(loaded, split)}."
                )
            return loaded[f"{prefix}images"], loaded.get(f"{prefix}labels")
    except TurningpointError:
        raise
    except Exception as error:  # a damaged file fails in many ways: zip, zlib, header
        raise TurningpointError(
            f"{where}, which cannot be read as arrays of numbers ({type(error).__name__})."
        ) from error


def _hint(names: Any, split: str | None) -> str:
    known = [name.removesuffix("_images") for name in names if name.endswith("_images")]
    return f", or split {' or '.join(known)}" if known and split is None else ""
