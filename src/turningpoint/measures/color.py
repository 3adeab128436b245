r"""``color``: how bright, how contrasted and how coloured, wherever that is in the image.

With :math:`x_{cp}` the value of channel :math:`c` at pixel :math:`p` of :math:`P`, :math:`l_p` the
luminance and :math:`h_{cb}` the share of the channel's pixels in bin :math:`b`,

.. math::

   \text{mean}_c = \tfrac1P \sum_p x_{cp}, \qquad
   \text{contrast} = \Big(\tfrac1P \sum_p (l_p - \bar l)^2\Big)^{1/2}, \qquad
   \text{histogram}_{cb} = \sqrt{h_{cb}}.

The square root makes the Euclidean distance of two histograms :math:`\sqrt 2` times their Hellinger
distance, :math:`H^2(h, g) = \tfrac12 \sum_b (\sqrt{h_b} - \sqrt{g_b})^2`, added in squares over the channels;
a distance of shares themselves would count little but the fullest bin.

Sources: RMS contrast, Peli 1990, J. Opt. Soc. Am. A 7(10):2032 (here of values in [-1, 1], so
that half black, half white has contrast 1); Hellinger distance of histograms, Bhattacharyya 1943.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Measure, Reading
from .pixels import luminance, pictures, variance


def root_histogram(images: Tensor, bins: int) -> Tensor:
    """Square roots of each channel's histogram over [-1, 1], as shares of its pixels.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        Values outside [-1, 1] count in the end bins.
    bins : int
        How many bins of equal width; a value on an edge counts in the upper bin.

    Returns
    -------
    Tensor (B, C, bins)
        Every row has Euclidean norm 1.

    Examples
    --------
    >>> root_histogram(torch.tensor([-5.0, -1.0, -0.6, 0.9]).reshape(1, 1, 2, 2), 4) ** 2
    tensor([[[0.7500, 0.0000, 0.0000, 0.2500]]])
    """
    values = images.flatten(2).flatten(0, 1)
    index = values.clamp(-1, 1).add_(1).mul_(bins / 2).int().clamp_(max=bins - 1)
    index += bins * torch.arange(len(values), dtype=torch.int32, device=values.device)[:, None]
    counts = torch.bincount(index.flatten(), minlength=bins * len(values)).to(values)
    return (counts / values.shape[1]).sqrt().reshape(*images.shape[:2], bins)


@MEASURES.add("color")
class Color(Measure):
    """Mean per channel, RMS contrast of the luminance, and histograms per channel.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    bins : int
        Bins of a channel's histogram over [-1, 1].

    Raises
    ------
    TurningpointError
        If ``bins`` is not a positive integer or, on reading, if the batch holds vectors.

    Examples
    --------
    >>> checkerboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(1, 3, 2, 2)
    >>> found = Color().read(checkerboard)
    >>> found["mean"].tolist(), found["contrast"].round(3).tolist(), found["histogram"].shape
    ([[0.0, 0.0, 0.0]], [1.0], (1, 48))
    """

    name = "color"

    def __init__(self, model: Any = None, bins: int = 16) -> None:
        del model
        if not isinstance(bins, int) or bins < 1:
            raise TurningpointError(f"bins is {bins!r}; accepted: a positive integer.")
        self.bins = bins
        self.readings = (
            Reading("mean", "vector", "mean of each channel", label="mean color"),
            Reading(
                "contrast",
                "scalar",
                "RMS contrast: standard deviation of luminance",
                label="contrast",
                absent=0.0,
            ),
            Reading(
                "histogram",
                "vector",
                f"square roots of {bins}-bin channel histograms",
                label="color histogram",
            ),
        )

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        images = pictures(images, self.name)
        return {
            "mean": images.mean((2, 3)).cpu().numpy(),
            "contrast": variance(luminance(images).flatten(1)).sqrt().cpu().numpy(),
            "histogram": root_histogram(images, self.bins).flatten(1).cpu().numpy(),
        }

    def settings(self) -> dict[str, Any]:
        return {"bins": self.bins}
