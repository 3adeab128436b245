"""Images from files: arrays in an .npy or .npz, and folders of pictures.

Whoever asks says under which argument, so that an error names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import TurningpointError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class PictureError(TurningpointError):
    """One file among many that cannot be used."""


def read_arrays(path: Path, argument: str, mapped: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Images of an ``.npy``, or ``images`` and ``labels`` (None if there are none) of an ``.npz``.

    Parameters
    ----------
    path : Path
        The file.
    argument : str
        The name of the user's argument.
    mapped : bool
        Leave an ``.npy`` on disk, as a read-only memmap.

    Raises
    ------
    TurningpointError
        If the file is not there, cannot be read, or holds no array ``images``.
    """
    where = f"{argument} is {str(path)!r}"
    if not path.is_file():
        raise TurningpointError(f"{where}, which is not there; accepted: a folder or an .npz.")
    if path.suffix not in (".npz", ".npy"):
        raise TurningpointError(f"{where}; accepted: a folder, an .npz or an .npy.")
    try:
        loaded = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        if "images" not in loaded:
            raise TurningpointError(
                f"{where}, which holds {', '.join(loaded) or 'nothing'}; accepted: an array 'images'."
            )
        return loaded["images"], loaded.get("labels")
    except TurningpointError:
        raise
    except Exception as error:  # a damaged file fails in many ways: zip, zlib, header
        raise TurningpointError(
            f"{where}, which cannot be read as arrays of numbers ({type(error).__name__})."
        ) from error


def picture_files(folder: Path, argument: str) -> list[Path]:
    """The pictures in a folder and below it, in the order of their names.

    Raises
    ------
    TurningpointError
        If there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not files:
        raise TurningpointError(
            f"{argument} is {str(folder)!r}, which holds no picture; accepted: a folder with "
            f"{', '.join(PICTURES)} files."
        )
    return files


def read_pictures(
    files: Sequence[Path], shape: Sequence[int] | None = None, skip_bad: bool = False
) -> np.ndarray | None:
    """Pictures as uint8 (N, C, H, W).

    Parameters
    ----------
    files : sequence of Path
        Where they are.
    shape : (C, H, W), optional
        What each must have; by default what the first one has.
    skip_bad : bool
        Leave out what cannot be used, with a warning for each; None is returned if nothing is left.

    Raises
    ------
    PictureError
        If a file cannot be read, or has another shape.
    """
    read: list[np.ndarray] = []
    for file in files:
        try:
            picture = _picture(file, shape or (read[0].shape if read else None))
        except PictureError as error:
            if not skip_bad:
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
        else:
            read.append(picture)
    return np.stack(read) if read else None


def _picture(file: Path, shape: Sequence[int] | None) -> np.ndarray:
    """One picture as uint8 (C, H, W)."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            opened = picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode))
            pixels = np.asarray(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"the file {str(file)!r} cannot be read as a picture ({error}).") from None
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if shape is None and pixels.dtype == np.uint8:
        return pixels
    if shape is None or pixels.shape != tuple(shape) or pixels.dtype != np.uint8:
        wanted = f"{shape[0]} channels of {shape[1]}x{shape[2]} in 8 bits" if shape else "8 bits"
        raise PictureError(
            f"the picture {str(file)!r} has {pixels.shape[0]} channels of {pixels.shape[1]}x{pixels.shape[2]} "
            f"({pixels.dtype}); accepted: {wanted}."
        )
    return pixels
