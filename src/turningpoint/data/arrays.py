"""Images in an array: one that is given, or that of an ``.npy`` (which stays on disk) or an ``.npz``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TurningpointError
from .fit import MODES, fitted
from .imageset import ImageSet
from .labels import labelled
from .pictures import PictureError, read_arrays

if TYPE_CHECKING:
    from PIL import Image


class Arrays(ImageSet):
    """Images in an array.

    Parameters
    ----------
    array : array, Tensor or nested sequence
        (N, C, H, W), or (N, H, W) for one channel, or (N, d) for vectors: uint8 in 0..255, or floats in [-1, 1].
    labels : array (N,) of whole numbers or of names, optional
        A class for each.
    where : str
        What errors call it.
    argument : str
        The name of the user's argument.

    Attributes
    ----------
    array : array (N, C, H, W) or (N, d)
        The images as they came, a memmap if they lie on disk.

    Raises
    ------
    TurningpointError
        If these are no images, or there is not one label for each.

    Examples
    --------
    >>> images = Arrays(np.zeros((5, 8, 8), np.uint8), labels=[0, 1, 1, 0, 1])
    >>> images, images.pixels(3, (3, 4, 4)).shape
    (<Arrays of 5 images: an array>, (3, 4, 4))
    """

    def __init__(
        self, array: Any, labels: Any = None, where: str = "an array", argument: str = "images"
    ) -> None:
        self.where = where
        given = as_array(array, argument)
        if given.ndim < 2 or 0 in given.shape or not _numbers(given):
            raise TurningpointError(
                f"{argument} is {where} of shape {given.shape} and type {given.dtype}; accepted: numbers of shape "
                "(N, C, H, W), (N, H, W) or (N, d)."
            )
        self.array = given[:, None] if given.ndim == 3 else given
        self.names = [str(i) for i in range(len(given))]
        if labels is not None:
            told = np.asarray(labels)
            if told.dtype.kind == "U" and told.shape == (len(given),):
                self.labels, self.classes = labelled(told.tolist())
                return
            if told.shape != (len(given),) or not _numbers(told) or bool((told != np.floor(told)).any()):
                raise TurningpointError(
                    f"labels have shape {told.shape} and type {told.dtype}; accepted: ({len(given)},), one whole "
                    "number per image."
                )
            self.labels = told.astype(np.int64)

    @classmethod
    def from_file(cls, path: Path, argument: str = "images", split: str | None = None) -> Arrays:
        """The images of an ``.npy``, or ``images`` and ``labels`` (of a split: ``test_images``) of an ``.npz``."""
        array, labels = read_arrays(path, argument, mapped=True, split=split)
        return cls(array, labels, str(path), argument)

    def picture(self, i: int) -> Image.Image:
        from PIL import Image

        x = self.array[i]
        if x.ndim != 3 or x.shape[0] not in MODES:
            raise PictureError(
                f"{self.described(i)} has shape {x.shape}, which is no picture; accepted: (C, H, W) with 1, 3 or 4 "
                "channels."
            )
        if x.dtype != np.uint8:
            if not np.isfinite(x).all():
                raise PictureError(f"{self.described(i)} holds numbers that are not finite.")
            x = np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)))

    def described(self, i: int) -> str:
        return f"item {i} of {self.where}"

    def pixels(self, i: int, shape: Sequence[int] | None = None, fit: str = "crop") -> np.ndarray:
        """The numbers of an item: uint8, or float32; bytes of another size are made to fit, floats are refused."""
        x = np.array(self.array[i])
        x = x if x.dtype == np.uint8 else x.astype(np.float32)
        if shape is None or x.shape == tuple(shape):
            return x
        if x.dtype != np.uint8:
            raise PictureError(
                f"{self.described(i)} has shape {x.shape}; accepted: {tuple(shape)}, for only bytes are resized."
            )
        return fitted(self.picture(i), shape, fit, self.described(i))


def as_array(given: Any, argument: str) -> np.ndarray:
    """An array from whatever holds numbers: an array, a tensor of any device and precision, xarray, lists."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = (given.float() if "bfloat16" in str(given.dtype) else given).numpy()
    elif hasattr(given, "values") and not callable(given.values):
        given = given.values
    try:
        return given if isinstance(given, np.memmap) else np.asarray(given)
    except ValueError:
        raise TurningpointError(f"{argument} is a ragged list; accepted: an array (N, C, H, W).") from None


def _numbers(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
