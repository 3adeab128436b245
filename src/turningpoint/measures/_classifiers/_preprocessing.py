r"""From images in [-1, 1] to what a network takes, through pixels, as photographs come to it.

Networks are trained on pictures of 256 levels, and their own preprocessing starts from such pictures.  So an
image becomes one first,

.. math:: u = \mathrm{round}\big(127.5\,(\min(\max(x, -1), 1) + 1)\big) \in \{0, \dots, 255\},

grey images on three channels, and then goes through the network's own steps.  ``levels="truncated"`` cuts
the fraction off instead, which makes every value that is not a level already darker by half a level on
average; the published forward-backward scripts (`Sclocchi et al. 2025 <https://arxiv.org/abs/2402.16991>`_) do so.

`Steps` are the usual ones for networks that come without any, named as in torchvision: the shorter edge is
resized to ``resize`` pixels, the middle of ``size`` is cut out, and channel c becomes
:math:`(u_c / 255 - \text{mean}_c) / \text{std}_c`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import TurningpointError, one_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels in [0, 1], for red, green and blue."""
MARGIN = 0.875
"""The share of the shorter edge that is kept by default: 224 of 256 pixels, as is usual for ImageNet."""
LEVELS = ("rounded", "truncated")
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def pixels(images: Tensor, levels: str = "rounded") -> np.ndarray:
    """Images as bytes, (B, C, H, W) in [-1, 1] to (B, H, W, 3) in 0..255.

    Parameters
    ----------
    images : Tensor (B, 1 or 3, H, W)
        Values that stick out are cut off.
    levels : str
        ``rounded`` or ``truncated``.

    Raises
    ------
    TurningpointError
        If these are no pictures, or hold numbers that are not finite.

    Examples
    --------
    >>> pixels(torch.tensor([-2.0, 0.0, 1.0]).reshape(1, 1, 1, 3))[0, 0, :, 0]
    array([  0, 128, 255], dtype=uint8)
    """
    if levels not in LEVELS:
        raise one_of("levels", levels, LEVELS)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise TurningpointError(
            f"a classifier of pictures is given a batch of shape {tuple(images.shape)}; "
            "accepted: (B, 1, H, W) or (B, 3, H, W)."
        )
    if not bool(images.isfinite().all()):
        raise TurningpointError(
            "a classifier of pictures is given numbers that are not finite; accepted: finite ones."
        )
    values = (images.clamp(-1, 1) + 1) * 127.5
    values = values.round() if levels == "rounded" else values.trunc()
    return values.to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def pictures(images: Tensor, levels: str = "rounded") -> list[Image.Image]:
    """Images (B, C, H, W) in [-1, 1] as RGB pictures."""
    return [Image.fromarray(array) for array in pixels(images, levels)]


@dataclass(frozen=True)
class ByPicture:
    """Preprocessing that treats pictures one by one.

    Parameters
    ----------
    step : callable
        A picture to a tensor (C, h, w).
    levels : str
        How images become pixels.
    """

    step: Callable[[Image.Image], Any]
    levels: str = "rounded"

    def __post_init__(self) -> None:
        if self.levels not in LEVELS:
            raise one_of("levels", self.levels, LEVELS)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack(
            [torch.as_tensor(self.step(picture)).float() for picture in pictures(images, self.levels)]
        )


@dataclass(frozen=True)
class Steps:
    """Resize, cut out the middle, normalise.

    Parameters
    ----------
    size : tuple of int or None
        Height and width of the cut; None keeps images in their own size.
    resize : int or None
        The shorter edge before that, in pixels.
    mean, std : tuple of 3 float
        Of values in [0, 1].
    interpolation : str
        ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
    levels : str
        ``rounded`` or ``truncated``.

    Examples
    --------
    >>> Steps.given(size=2).resize, Steps.given(size=2, mean=0, std=1)(torch.ones(1, 1, 9, 5)).shape
    (2, torch.Size([1, 3, 2, 2]))
    """

    size: tuple[int, int] | None
    resize: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    levels: str

    @classmethod
    def given(
        cls,
        size: Any = None,
        resize: Any = None,
        mean: Any = None,
        std: Any = None,
        interpolation: str = "bilinear",
        levels: str = "rounded",
    ) -> Steps:
        """From a user's settings; without them those that are usual for ImageNet.

        Parameters
        ----------
        size : int or pair of int, optional
            Side, or height and width; by default images keep their own size.
        resize : int, optional
            The shorter edge before the middle is cut out; by default ``size / 0.875``, rounded, if there is a size.
        mean, std : float or 3 floats, optional
            ImageNet's by default.
        interpolation, levels : str
            As in the class.

        Raises
        ------
        TurningpointError
            If one of them is not as described, or ``resize`` is smaller than ``size``.
        """
        cut = None if size is None else _sides("size", size)
        if interpolation not in FILTERS:
            raise one_of("interpolation", interpolation, FILTERS)
        if levels not in LEVELS:
            raise one_of("levels", levels, LEVELS)
        edge = None if cut is None else round(max(cut) / MARGIN)
        if resize is not None:
            edge = _sides("resize", resize)[0]
            if cut is not None and edge < max(cut):
                raise TurningpointError(f"resize is {resize!r}; accepted: at least the size, {max(cut)}.")
        deviation = _channels("std", IMAGENET_STD if std is None else std)
        if min(deviation) <= 0:
            raise TurningpointError(
                f"std is {std!r}; accepted: positive numbers, of one channel or of three."
            )
        return cls(
            cut,
            edge,
            _channels("mean", IMAGENET_MEAN if mean is None else mean),
            deviation,
            interpolation,
            levels,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to (B, 3, h, w)."""
        found = pictures(images, self.levels)
        values = torch.from_numpy(np.stack([np.asarray(self._fitted(picture)) for picture in found]))
        values = values.permute(0, 3, 1, 2).float() / 255
        return (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def _fitted(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if self.resize is not None:
            short = min(width, height)
            width, height = self.resize * width // short, self.resize * height // short
            picture = picture.resize((width, height), FILTERS[self.interpolation])
        if self.size is None:
            return picture
        rows, columns = self.size
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        return picture.crop((left, top, left + columns, top + rows))

    def settings(self) -> dict[str, Any]:
        """As JSON writes them."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def asked(settings: Mapping[str, Any]) -> bool:
    """Whether any of a user's settings asks for `Steps`."""
    return any(settings.get(key) is not None for key in Steps.__dataclass_fields__)


def _sides(argument: str, value: Any) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or any(
        not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides
    ):
        accepted = "a positive whole number" + (", or height and width" if argument == "size" else "")
        raise TurningpointError(f"{argument} is {value!r}; accepted: {accepted}.")
    return sides[0], sides[1]


def _channels(argument: str, value: Any) -> tuple[float, float, float]:
    channels = tuple(value) if isinstance(value, tuple | list) else (value,) * 3
    if len(channels) != 3 or any(not isinstance(c, int | float) or isinstance(c, bool) for c in channels):
        raise TurningpointError(
            f"{argument} is {value!r}; accepted: a number, or one for each of three channels."
        )
    return float(channels[0]), float(channels[1]), float(channels[2])
