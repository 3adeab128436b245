r"""Gram matrices of derivatives: which filters answer together, wherever that is in the picture.

The filters are the derivatives of first and second order of a Gaussian, at two scales :math:`s`, in units of the
scale (the local jet),

.. math:: F_{s,kl} = s^{k+l} \, \partial_y^k \partial_x^l \, (G_s * x), \qquad 1 \le k + l \le 2, \quad s \in \{1, 2\},

which is ten for a channel.  Their Gram matrix over the :math:`P` pixels,

.. math:: G_{ij} = \frac1P \sum_p F_{ip} F_{jp},

holds the energies of edges and ridges of all orientations (turning the picture mixes a jet's entries, so no
orientation is favoured), and how scales and channels go together.  Derivatives of a plain are zero: it has no texture.
Beyond its border the picture goes on with its last pixel.

Sources: Gram matrices of filter responses, Gatys, Ecker & Bethge 2015 (arXiv:1505.07376), eq. 1, here divided by P;
local jets, Koenderink & van Doorn 1987, Biol. Cybern. 55:367; the factor :math:`s^{k+l}`, Lindeberg 1998, IJCV
30(2):79.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .pixels import luminance

SCALES = (1.0, 2.0)
"""Standard deviations of the Gaussians in pixels."""
ORDERS = ((0, 1), (1, 0), (0, 2), (1, 1), (2, 0))
"""How often along y and along x."""
FILTERS = len(SCALES) * len(ORDERS)
REACH = 6.0
"""Standard deviations at which a filter ends: there a second derivative's weights sum to zero but for 1e-6."""
AT_ONCE = 2**20
"""Responses that are held at once: 4 MB."""


def jets(channels: Tensor) -> Tensor:
    """Responses of the ten filters.

    Parameters
    ----------
    channels : Tensor (B, C, H, W)
        Any batch of pictures.

    Returns
    -------
    Tensor (B, C, 10, H, W)
        Scale by scale, in each the orders of `ORDERS`; those of `scipy.ndimage.gaussian_filter`.

    Examples
    --------
    >>> ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    >>> jets(ramp)[0, 0, :, 16, 16].round(decimals=3).abs().tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    """
    height, width = channels.shape[2:]
    found = []
    for scale in SCALES:
        down, along = (_operators(size, scale).to(channels) for size in (height, width))
        rows = [channels @ along[order].mT for order in range(3)]
        found += [down[k] @ rows[m] for k, m in ORDERS]
    return torch.stack(found, 2)


def gram(channels: Tensor) -> Tensor:
    """Gram matrices over all channels and filters.

    Parameters
    ----------
    channels : Tensor (B, C, H, W)
        Any batch of pictures.

    Returns
    -------
    Tensor (B, 10 C, 10 C)
        Channel by channel, in each the filters of `jets`.

    Examples
    --------
    >>> gram(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 30, 30])
    """
    pixels = channels.shape[2] * channels.shape[3]
    parts = channels.split(max(AT_ONCE // (channels.shape[1] * FILTERS * pixels), 1))
    responses = (jets(part).flatten(1, 2).flatten(2) for part in parts)
    return torch.cat([f @ f.mT / pixels for f in responses])


def gram_of_luminance(matrices: Tensor) -> Tensor:
    r"""Gram matrices of the luminance, from those of the channels; (B, 10 C, 10 C) to (B, 10, 10).

    Filters are linear: with :math:`l = \sum_c w_c x_c` it is :math:`\sum_{cd} w_c w_d G_{ci,dj}`.

    Examples
    --------
    >>> image = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(gram_of_luminance(gram(image)), gram(luminance(image)[:, None]), atol=1e-6)
    True
    """
    channels = matrices.shape[1] // FILTERS
    if channels == 1:
        return matrices
    weights = luminance(torch.eye(channels, device=matrices.device)[..., None, None])[:, 0, 0]
    return torch.einsum(
        "bcidj,c,d->bij", matrices.unflatten(1, (-1, FILTERS)).unflatten(3, (-1, FILTERS)), weights, weights
    )


def upper_triangle(matrices: Tensor) -> Tensor:
    r"""Symmetric matrices (B, n, n) as vectors (B, n (n + 1) / 2) with the same distances.

    What is off the diagonal stands for two entries and counts :math:`\sqrt 2`, so that Euclidean distances of vectors
    are the Frobenius distances of matrices.

    Examples
    --------
    >>> upper_triangle(torch.tensor([[[1.0, 2.0], [2.0, 3.0]]])).square()
    tensor([[1.0000, 8.0000, 9.0000]])
    """
    i, j = torch.triu_indices(*matrices.shape[1:], device=matrices.device)
    return matrices[:, i, j] * torch.where(i == j, 1.0, 2**0.5)


@lru_cache(maxsize=64)
def _operators(size: int, scale: float) -> Tensor:
    """Smoothing and the first two derivatives along so many pixels, in units of the scale; (3, size, size)."""
    from scipy.ndimage import gaussian_filter1d

    pixels = np.eye(size)
    matrices = [
        scale**order * gaussian_filter1d(pixels, scale, 0, order, mode="nearest", truncate=REACH)
        for order in range(3)
    ]
    return torch.from_numpy(np.stack(matrices))
