r"""Structural similarity of two batches of images, at one scale (SSIM) and at several (MS-SSIM).

With :math:`\mu, \sigma^2, \sigma_{ab}` means, variances and covariance under a Gaussian window of standard
deviation 1.5 pixels, and :math:`C_1 = (0.01 L)^2`, :math:`C_2 = (0.03 L)^2` for values in a range of :math:`L = 2`,

.. math::

   l = \frac{2 \mu_a \mu_b + C_1}{\mu_a^2 + \mu_b^2 + C_1}, \qquad
   c = \frac{2 \sigma_{ab} + C_2}{\sigma_a^2 + \sigma_b^2 + C_2}, \qquad
   \mathrm{SSIM} = \overline{l c}, \qquad
   \mathrm{MS\text{-}SSIM} = \overline{l_M c_M}^{\,w_M} \prod_{j < M} \overline{c_j}^{\,w_j},

where the bar is the mean over all places at which the window lies wholly in the image, scale :math:`j + 1` is
scale :math:`j` averaged over blocks of 2 x 2 pixels (an odd last row or column is dropped), and
:math:`w = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)`. Each channel has its own value; an image's is their mean.

The window has 11 x 11 pixels. There are as many scales as keep the image at least as large: 5 from 176 pixels on
(the shorter side), 4 from 88, 3 from 44, 2 from 22, else 1; with fewer than 5 the first weights are divided by their
sum. An image of less than 11 pixels has the largest odd window that fits. In MS-SSIM, whose weights are no whole
numbers, a negative mean counts as 0.

Sources: Wang, Bovik, Sheikh and Simoncelli 2004, IEEE Trans. Image Process. 13(4):600, eq. 13; Wang, Simoncelli and
Bovik 2003, Asilomar Conf. Signals Syst. Comput. 2:1398, eq. 7.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

RANGE = 2.0
SIGMA = 1.5
REACH = 5
TILE = 32
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2


def similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and MS-SSIM of pairs of images.

    SSIM is ``skimage.metrics.structural_similarity`` with ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=2`` and a channel axis, and kornia's ``ssim`` with ``padding="valid"``.

    Parameters
    ----------
    a, b : Tensor (B, C, H, W)
        Float images, of a range of about [-1, 1]; nothing is clipped.

    Returns
    -------
    ssim, msssim : Tensor (B,)
        At most 1, which equal images have.

    Examples
    --------
    >>> stripes = torch.tensor([-1.0, 1.0]).repeat(14).expand(1, 1, 28, 28)
    >>> [round(float(value), 2) for value in similarities(stripes, stripes)]
    [1.0, 1.0]
    >>> [round(float(value), 2) for value in similarities(stripes, -stripes)]
    [-1.0, 0.0]
    """
    weights = scales(min(a.shape[2:]))
    found, product = None, torch.ones(a.shape[:2], device=a.device)
    for scale, weight in enumerate(weights):
        similarity, structure = _means(a, b)
        found = similarity if found is None else found
        last = scale == len(weights) - 1
        product = product * (similarity if last else structure).clamp(min=0) ** weight
        if not last:
            a, b = _halved(a), _halved(b)
    assert found is not None
    return found.mean(1), product.mean(1)


def scales(side: int) -> tuple[float, ...]:
    """The weights of the scales that images of this shorter side have; they sum to 1.

    >>> [len(scales(side)) for side in (8, 28, 64, 96, 256)]
    [1, 2, 3, 4, 5]
    """
    count = 1
    while count < len(WEIGHTS) and side // 2**count > 2 * REACH:
        count += 1
    return tuple(weight / sum(WEIGHTS[:count]) for weight in WEIGHTS[:count])


def _means(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the image of l c and of c, each (B, C)."""
    reach = min(REACH, (min(a.shape[2:]) - 1) // 2)
    moments = (a, b, a * b, (a * a).addcmul_(b, b))
    mean_a, mean_b, products, powers = (_averaged(moment, reach) for moment in moments)
    product, power = mean_a * mean_b, mean_a.square().addcmul_(mean_b, mean_b)
    structure = products.sub_(product).mul_(2).add_(_C2).div_(powers.sub_(power).add_(_C2))
    similarity = product.mul_(2).add_(_C1).div_(power.add_(_C1)).mul_(structure)
    return similarity.mean((2, 3)), structure.mean((2, 3))


def _averaged(x: Tensor, reach: int) -> Tensor:
    """Averages (..., H - 2 reach, W - 2 reach) under the window, wherever it lies wholly in x (..., H, W).

    Tile by tile as a product of matrices, which is several times faster than a convolution of one channel.
    """
    window, step = _window(reach).to(x.device), TILE + 2 * reach
    across = [x[..., k : k + step] for k in range(0, x.shape[-1] - 2 * reach, TILE)]
    x = _beside([tile @ window[: (n := tile.shape[-1]), : n - 2 * reach] for tile in across], -1)
    down = [x[..., k : k + step, :] for k in range(0, x.shape[-2] - 2 * reach, TILE)]
    return _beside([window[: (n := tile.shape[-2]), : n - 2 * reach].T @ tile for tile in down], -2)


def _beside(tiles: list[Tensor], axis: int) -> Tensor:
    return tiles[0] if len(tiles) == 1 else torch.cat(tiles, axis)


@lru_cache(maxsize=8)
def _window(reach: int) -> Tensor:
    """The Gaussian window at each of a tile's places, a column (TILE + 2 reach) for each."""
    weights = torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * SIGMA**2))
    weights /= weights.sum()
    place = torch.arange(TILE)
    window = torch.zeros(TILE + 2 * reach, TILE, dtype=torch.float64)
    for offset, weight in enumerate(weights):
        window[place + offset, place] = weight
    return window.float()


def _halved(x: Tensor) -> Tensor:
    """Means of blocks of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in x.shape[2:])
    rows = x[:, :, 0:height:2] + x[:, :, 1:height:2]
    return (rows[..., 0:width:2] + rows[..., 1:width:2]).mul_(0.25)
