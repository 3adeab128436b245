r"""Grey-level co-occurrence: how often two levels are neighbours.

For each of the four directions, 0, 45, 90 and 135 degrees, :math:`P_{ij}` is the share of neighbouring pairs of pixels
with the levels :math:`i` and :math:`j`, each pair counted both ways.  With :math:`\mu` and :math:`\sigma^2` the mean
and variance of the levels in its pairs,

.. math::

   \text{contrast} &= \sum_{ij} (i - j)^2 P_{ij}, &
   \text{homogeneity} &= \sum_{ij} \frac{P_{ij}}{1 + (i - j)^2}, &
   \text{energy} &= \Big(\sum_{ij} P_{ij}^2\Big)^{1/2}, \\
   \text{entropy} &= - \sum_{ij} P_{ij} \log P_{ij}, &
   \text{correlation} &= \sum_{ij} \frac{(i - \mu) (j - \mu)}{\sigma^2} P_{ij}, &

the last of which is :math:`1 - \text{contrast} / 2 \sigma^2`, since :math:`P` is symmetric.  Each is averaged over the
directions; one in which all levels are equal has no correlation, and a picture of one level has NaN.

Source: Haralick, Shanmugam & Dinstein 1973, IEEE SMC 3(6):610, features 1 (of which the energy is the root), 2, 3, 5
and 9; names, root and natural logarithm are those of ``skimage.feature.graycoprops``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import TurningpointError

PROPERTIES = ("contrast", "homogeneity", "energy", "correlation", "entropy")
AT_ONCE = 2**22
"""Entries of matrices that are held at once."""


def cooccurrence(levels: Tensor, count: int) -> Tensor:
    """The four matrices of each image.

    Parameters
    ----------
    levels : Tensor (B, H, W)
        Integers from 0 to count - 1, of two pixels or more each way.
    count : int
        How many levels there are.

    Returns
    -------
    Tensor (B, 4, count, count)
        float64, symmetric, each with the sum 1; directions in the order 0, 45, 90, 135 degrees
        downwards from a row, as in scikit-image.

    Raises
    ------
    TurningpointError
        If the images are one pixel high or wide, and so have no neighbours in some direction.

    Examples
    --------
    >>> cooccurrence(torch.tensor([[[0, 1], [0, 1]]]), 2)[0, 0].tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    if min(levels.shape[1:]) < 2:
        raise TurningpointError(
            f"measure is 'texture', but the images have {levels.shape[1]} x {levels.shape[2]} pixels; accepted: 2 or "
            "more each way."
        )
    second = levels.int()
    image = torch.arange(len(levels), dtype=torch.int32, device=levels.device)[:, None, None]
    first = image * count**2 + second * count
    pairs = (
        first[:, :, :-1] + second[:, :, 1:],
        first[:, :-1, :-1] + second[:, 1:, 1:],
        first[:, :-1, :] + second[:, 1:, :],
        first[:, :-1, 1:] + second[:, 1:, :-1],
    )
    counted = [torch.bincount(pair.flatten(), minlength=len(levels) * count**2) for pair in pairs]
    matrices = torch.stack([one.reshape(-1, count, count) for one in counted], 1).double()
    matrices = matrices + matrices.mT
    return matrices / matrices.sum((2, 3), keepdim=True)


def cooccurrence_properties(levels: Tensor, count: int) -> dict[str, Tensor]:
    """What the matrices say, by the names in `PROPERTIES`, each (B,) in float64.

    Parameters
    ----------
    levels, count
        As in `cooccurrence`.

    Examples
    --------
    >>> found = cooccurrence_properties(torch.tensor([[[0, 1], [0, 1]]]), 2)
    >>> {name: round(float(value), 3) for name, value in found.items()}
    {'contrast': 0.75, 'homogeneity': 0.625, 'energy': 0.707, 'correlation': -0.5, 'entropy': 0.693}
    """
    parts = [_properties(part, count) for part in levels.split(max(AT_ONCE // (4 * count**2), 1))]
    return {name: torch.cat([part[k] for part in parts]) for k, name in enumerate(PROPERTIES)}


def _properties(levels: Tensor, count: int) -> list[Tensor]:
    p = cooccurrence(levels, count)
    i = torch.arange(count, dtype=p.dtype, device=p.device)
    apart = (i[:, None] - i).square()
    marginal = p.sum(3)
    mean = marginal @ i
    variance = (marginal * (i - mean[..., None]).square()).sum(2)
    contrast = (p * apart).sum((2, 3))
    correlation = torch.where(variance > 0, 1 - contrast / (2 * variance), torch.nan)
    return [
        contrast.mean(1),
        (p / (1 + apart)).sum((2, 3)).mean(1),
        p.square().sum((2, 3)).sqrt().mean(1),
        correlation.nanmean(1),
        -torch.special.xlogy(p, p).sum((2, 3)).mean(1),
    ]
