"""What `empirical` is given, as points: an array, a map of one on disk, or a set of pictures in one shape."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data import ImageSet, PictureError, open_images
from ..data.fit import channels_of, fitted
from ..data.pictures import read_arrays
from ..errors import TurningpointError
from .settings import exclusive, whole

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def points_and_labels(
    data: Any,
    size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fit: str = "crop",
    split: str | None = None,
    skip_bad: bool = False,
) -> tuple[Tensor | np.memmap, Tensor | None]:
    """Points (N, *shape), and their labels (N,) where the data set has some.

    Parameters
    ----------
    data, size, height, width, fit, split, skip_bad
        As `turningpoint.models.empirical.load` takes them.

    Raises
    ------
    TurningpointError
        If the data cannot be read, or its pictures are not alike and no size is given.
    """
    found, wanted = None, _size(size, height, width)
    if isinstance(data, str | Path) and Path(data).suffix in (".npy", ".npz") and wanted is None:
        data, found = read_arrays(Path(data), "data", mapped=True, split=split)
    elif isinstance(data, str | Path | ImageSet) or wanted is not None or split is not None:
        data, found = _pictures(open_images(data, "data", split), wanted, fit, skip_bad)
    return _points(data), None if found is None else labels_of(found)


def _size(size: int | None, height: int | None, width: int | None) -> tuple[int, int] | None:
    """Height and width that pictures are to have, if any."""
    exclusive("size", size, height=height, width=width)
    if size is not None:
        return whole("size", size), whole("size", size)
    if height is None and width is None:
        return None
    return whole("height", height), whole("width", width)


def _pictures(
    images: ImageSet, size: tuple[int, int] | None, fit: str, skip_bad: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """All pictures of a set, in one shape, and their labels."""
    read: list[np.ndarray] = []
    places: list[int] = []
    for i in range(len(images)):
        try:
            if size is None:
                pixels = images.pixels(i, read[0].shape if read else None, "exact")
            else:
                picture = images.picture(i)
                pixels = fitted(picture, (channels_of(picture), *size), fit, images.described(i))
        except PictureError as error:
            if not skip_bad:
                raise
            warnings.warn(f"left out: {error}", stacklevel=3)
        else:
            read.append(pixels)
            places.append(i)
    if not read:
        raise TurningpointError(f"data is {images.where!r}, which holds no picture that can be used.")
    channels = max(len(pixels) for pixels in read)
    stacked = np.stack([np.broadcast_to(pixels, (channels, *pixels.shape[1:])) for pixels in read])
    return stacked, None if images.labels is None else images.labels[places]


def _points(data: Any) -> Tensor | np.memmap:
    """What `Empirical` takes: a tensor of floats or bytes, or a memmap of them, with a channel axis."""
    mapped = isinstance(data, np.memmap)
    try:
        given = data.detach() if isinstance(data, Tensor) else data if mapped else np.asarray(data)
    except ValueError:
        raise TurningpointError("data is a ragged list; accepted: an array (N, C, H, W) or (N, d).") from None
    if given.ndim in (1, 3):
        given = given[:, None]
    if isinstance(given, Tensor) or mapped:
        kinds = [np.dtype(kind) for kind in ("u1", "f2", "f4", "f8")] if mapped else [torch.uint8, *FLOATS]
        if given.dtype not in kinds:
            raise TurningpointError(f"data is of type {given.dtype}; accepted: floats, or uint8.")
        return cast(Tensor | np.memmap, given)
    if not np.issubdtype(given.dtype, np.floating) and not np.issubdtype(given.dtype, np.integer):
        raise TurningpointError(f"data is of type {given.dtype}; accepted: floats, or uint8.")
    if given.dtype not in (np.uint8, np.float16, np.float32):
        given = given.astype(np.float64, copy=False)
    return torch.from_numpy(given if given.flags.writeable else given.copy())


def labels_of(labels: Any) -> Tensor:
    """Labels as int64 (N,)."""
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if not np.issubdtype(given.dtype, np.integer):
        raise TurningpointError(f"labels are of type {given.dtype}; accepted: whole numbers from 0.")
    return torch.from_numpy(given.astype(np.int64))
