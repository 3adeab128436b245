r"""A picture of any size, as the pixels that a model takes.

``crop``
    the picture is halved (mean of 2x2 pixels) while it is at least twice as large as wanted, then resized
    (bicubic, antialiased) so that it just covers what is wanted, then cut at its centre: the preprocessing of
    Dhariwal & Nichol 2021 (arXiv:2105.05233), the ``center-crop-dhariwal`` of Karras et al. 2022;
``square``
    the largest centred part with the wanted proportions, resized with Lanczos' filter: the ``center-crop``
    of Karras et al. 2022 (arXiv:2206.00364);
``stretch``
    all of the picture, resized in both directions (bicubic, antialiased);
``exact``
    the picture itself; one of another size or number of channels is refused.

A picture that has the wanted size keeps every pixel, whatever the fit.  Channels: colour becomes grey as its luma
(ITU-R BT.601), grey becomes colour three times over, palettes and CMYK become RGB, and 16-bit grey v becomes
v / 257, rounded.  What is transparent is laid over white, unless four channels are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TurningpointError, one_of
from .pictures import PictureError, reason

if TYPE_CHECKING:
    from PIL import Image

FITS = ("crop", "square", "stretch", "exact")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LARGEST = 2**28
"""Pixels to which a picture is resized at most: a long thin one would be many times what is cut out of it."""


def fitted(
    picture: Image.Image, shape: Sequence[int] | None = None, fit: str = "crop", what: str = "the picture"
) -> np.ndarray:
    """A picture as uint8 (C, H, W).

    Parameters
    ----------
    picture : PIL.Image.Image
        Of any mode and size.
    shape : (C, H, W), optional
        What is wanted, with 1, 3 or 4 channels; by default what the picture has: 1 channel if it is grey, else 3.
    fit : str
        ``crop``, ``square``, ``stretch`` or ``exact``.
    what : str
        How an error names the picture.

    Raises
    ------
    PictureError
        If the picture has another size and ``fit`` is ``exact``, is too long and thin to be resized, or holds
        numbers of more than 16 bits.
    TurningpointError
        If there is no such fit, or the shape is none of a picture.

    Examples
    --------
    >>> from PIL import Image
    >>> fitted(Image.new("L", (40, 20), 7), (3, 8, 8)).shape
    (3, 8, 8)
    """
    if fit not in FITS:
        raise one_of("fit", fit, FITS)
    channels = channels_of(picture)
    if shape is None:
        return _pixels(_converted(picture, channels, what))
    if len(shape) != 3 or shape[0] not in MODES or min(shape) < 1:
        raise TurningpointError(
            f"shape is {tuple(shape)}; accepted for pictures: (C, H, W) with 1, 3 or 4 channels."
        )
    wanted, height, width = shape
    if wanted == 4 and picture.mode in ("LA", "PA", "RGBA"):
        channels = 4
    if fit == "exact" and (channels, picture.height, picture.width) != tuple(shape):
        raise PictureError(
            f"{what} has {channels} channels of {picture.height}x{picture.width}; accepted: {wanted} channels of "
            f"{height}x{width}."
        )
    image = _converted(picture, wanted, what)
    if image.size != (width, height):
        image = {"crop": _cover, "square": _square, "stretch": _stretch}[fit](image, width, height, what)
    return _pixels(image)


def channels_of(picture: Image.Image) -> int:
    """1 for a grey picture, 3 for any other; transparency is not counted."""
    return 1 if picture.mode[0] in "1LIF" and picture.mode != "LAB" else 3


def _pixels(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _converted(picture: Image.Image, channels: int, what: str) -> Image.Image:
    """The picture in 8 bits and as many channels."""
    from PIL import Image

    if picture.mode[0] in "IF":
        picture = _in_eight_bits(picture, what)
    try:
        if channels != 4 and picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert(MODES[channels])
    except ValueError as error:
        raise PictureError(
            f"{what} is of the kind {picture.mode}, which cannot be shown ({reason(error)})."
        ) from None


def _in_eight_bits(picture: Image.Image, what: str) -> Image.Image:
    """Grey of 16 bits, divided by 257."""
    from PIL import Image

    values = np.array(picture)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise PictureError(
            f"{what} holds numbers from {values.min():.4g} to {values.max():.4g} of type {values.dtype}; accepted: 8 "
            "or 16 bits."
        )
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


def _cover(image: Image.Image, width: int, height: int, what: str) -> Image.Image:
    from PIL import Image

    while min(image.width / width, image.height / height) >= 2:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    size = max(round(image.width * scale), width), max(round(image.height * scale), height)
    if size[0] * size[1] > LARGEST:
        raise PictureError(
            f"{what} is too long and thin to cover {height}x{width}; accepted: at most {LARGEST} pixels when it does."
        )
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _square(image: Image.Image, width: int, height: int, what: str) -> Image.Image:
    from PIL import Image

    del what
    across = min(image.width, max(1, round(image.height * width / height)))
    down = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - across) // 2, (image.height - down) // 2
    part = image.crop((left, top, left + across, top + down))
    return part.resize((width, height), Image.Resampling.LANCZOS)


def _stretch(image: Image.Image, width: int, height: int, what: str) -> Image.Image:
    from PIL import Image

    del what
    return image.resize((width, height), Image.Resampling.BICUBIC)
