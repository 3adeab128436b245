"""A set of pictures: names, labels, and pictures that are read when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TurningpointError
from .fit import fitted

if TYPE_CHECKING:
    from PIL import Image


class ImageSet(ABC):
    """Pictures that lie somewhere.

    No picture is kept once it has been handed out, so a pass over any number of them needs the memory of one.

    Attributes
    ----------
    where : str
        What was opened.
    names : sequence of str
        One per item: a file's path inside its folder or zip, a row of a table, a number of an array.
    labels : array (N,) of int64, or None
        A class per item, -1 where it is unknown; None if none is known.
    classes : tuple of str
        What the labels 0, 1, ... are called; empty if they have no names.
    """

    where: str
    names: Sequence[str]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} images: {self.where}>"

    @abstractmethod
    def picture(self, i: int) -> Image.Image:
        """The picture of an item, as it is.

        Raises
        ------
        PictureError
            If it cannot be read; the sentence names its file.
        """

    @abstractmethod
    def described(self, i: int) -> str:
        """An item as an error names it: ``"the file 'cats/1.png'"``."""

    def pixels(self, i: int, shape: Sequence[int] | None = None, fit: str = "crop") -> np.ndarray:
        """The pixels of an item: uint8 (C, H, W), or what an array of floats holds, float32 in [-1, 1].

        Parameters
        ----------
        i : int
            Which item.
        shape : (C, H, W), optional
            What is wanted; by default what the item has.
        fit : str
            How a picture of another size is made to fit: see `turningpoint.data.fit`.

        Raises
        ------
        PictureError
            If the item cannot be read or cannot be made to fit; the sentence names its file.
        """
        return fitted(self.picture(i), shape, fit, self.described(i))

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """The items of some indices, in their order; labels and classes keep their meaning.

        Raises
        ------
        TurningpointError
            If an index is not among the items.
        """
        chosen = np.asarray(list(indices), dtype=np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise TurningpointError(
                f"indices reach from {chosen.min()} to {chosen.max()}; accepted: 0 to {len(self) - 1}."
            )
        return Subset(self, chosen)


class Subset(ImageSet):
    """Some items of another set."""

    def __init__(self, images: ImageSet, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices
        self.where, self.classes = images.where, images.classes
        self.names = [images.names[i] for i in indices]
        self.labels = None if images.labels is None else images.labels[indices]

    def picture(self, i: int) -> Image.Image:
        return self._images.picture(int(self._indices[i]))

    def described(self, i: int) -> str:
        return self._images.described(int(self._indices[i]))

    def pixels(self, i: int, shape: Sequence[int] | None = None, fit: str = "crop") -> np.ndarray:
        return self._images.pixels(int(self._indices[i]), shape, fit)
