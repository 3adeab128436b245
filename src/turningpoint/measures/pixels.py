r"""``pixels``: the image itself, :math:`f(x) = \mathrm{vec}(x) \in \mathbb{R}^{CHW}`.

Its retention is one minus the mean squared pixel error, relative to that of two independent images:
the yardstick beside which the features that a person would name are laid.  All of an image is decided
no earlier than its last band, so this reading closes the timeline.

Here too is what other measures ask of pixels: whether they form a picture at all, its luminance, and how
much numbers vary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Measure, Reading

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in the luma of ITU-R Recommendation BT.709, section 3."""


def pictures(images: Tensor, measure: str) -> Tensor:
    """The batch itself, in float32 and without history, if it holds pictures.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        The batch.
    measure : str
        Who asks, for the error's sentence.

    Raises
    ------
    TurningpointError
        If the batch has another number of dimensions: vectors have no channels and no frequencies.

    Examples
    --------
    >>> pictures(torch.zeros(2, 1, 4, 4), "color").shape
    torch.Size([2, 1, 4, 4])
    """
    if images.ndim != 4:
        raise TurningpointError(
            f"measure is {measure!r}, but the batch has shape {tuple(images.shape)}; accepted: (B, C, H, W)."
        )
    return images.detach().float()


def luminance(images: Tensor) -> Tensor:
    """Luma of three channels (ITU-R BT.709), the mean of any other number; (B, C, H, W) to (B, H, W).

    Examples
    --------
    >>> luminance(torch.ones(1, 3, 2, 2)).allclose(torch.ones(1, 2, 2))
    True
    """
    if images.shape[1] != len(LUMA):
        return images.mean(1)
    red, green, blue = images.unbind(1)
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def variance(values: Tensor) -> Tensor:
    """The variance of each row (B, n), divided by n: `Tensor.var` in a tenth of its time.

    Examples
    --------
    >>> variance(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    tensor([1., 0.])
    """
    return (values - values.mean(1, keepdim=True)).square().mean(1)


@MEASURES.add("pixels")
class Pixels(Measure):
    """All pixels of an image, or all numbers of a vector, as one vector (B, d).

    Examples
    --------
    >>> Pixels().read(torch.zeros(2, 3, 4, 4))[""].shape, Pixels().read(torch.zeros(2, 7))[""].shape
    ((2, 48), (2, 7))
    """

    name = "pixels"
    readings = (Reading("", "vector", "all pixels", label="pixels"),)

    def __init__(self, model: Any = None) -> None:
        del model

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        return {"": images.detach().float().flatten(1).cpu().numpy().copy()}
