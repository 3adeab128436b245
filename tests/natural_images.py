"""Crops of the photographs that scikit-image and scikit-learn bring along, for tests against reference libraries.

Nothing is downloaded. Every photograph gives two square crops, so that edges, textures and spectra are not all
of one kind: its middle as it is, and its largest central square reduced to the size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

COLOR = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
GREY = ("brick", "camera", "coins", "grass", "gravel", "moon")
SIZES = (32, 45, 64, 96)


def natural_images(size: int = 64) -> np.ndarray:
    """Square crops, uint8 (N, size, size, 3); those of grey photographs have three equal channels.

    Parameters
    ----------
    size : int
        Pixels a side, at most 303, the shorter side of the smallest photograph.
    """
    return _crops(size).copy()


def natural_tensors(size: int = 64) -> torch.Tensor:
    """The same crops as measures get them, float32 (N, 3, size, size) in [-1, 1]; in 8 bit they are exact again."""
    return torch.from_numpy(_crops(size).transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1


@lru_cache(maxsize=8)
def _crops(size: int) -> np.ndarray:
    found = []
    for photograph in _photographs():
        found.append(_middle(photograph, size))
        square = _middle(photograph, min(photograph.shape[:2]))
        found.append(np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BOX)))
    return np.stack(found)


@lru_cache(maxsize=1)
def _photographs() -> tuple[np.ndarray, ...]:
    color = [getattr(data, name)() for name in COLOR] + [data.stereo_motorcycle()[0]]
    color += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    grey = [np.repeat(getattr(data, name)()[..., None], 3, 2) for name in GREY]
    return tuple(np.ascontiguousarray(image[..., :3]) for image in color + grey)


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
