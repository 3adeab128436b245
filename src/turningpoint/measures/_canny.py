r"""Canny edges of a batch of 8-bit images, as OpenCV finds them.

With :math:`\partial_x u, \partial_y u` the Sobel derivatives (3 x 3, borders replicated) of the channel in which
:math:`m = |\partial_x u| + |\partial_y u|` is largest, a pixel is

- a *candidate* if :math:`m > \text{low}` and :math:`m` is a maximum along the gradient: compared with the two
  neighbours left and right if :math:`|\partial_y u| < \tan(22.5°)\,|\partial_x u|`, above and below if
  :math:`|\partial_y u| > \tan(67.5°)\,|\partial_x u|`, else on the diagonal that the signs tell; outside the
  image :math:`m = 0`;
- *strong* if moreover :math:`m > \text{high}`;
- an *edge* if it is a candidate that a chain of neighbouring candidates (8 neighbours) links to a strong one.

The rule for equal neighbours (larger than the one left, above; at least as large as the one right, below; larger
than both on a diagonal) and the tangent, :math:`13573 / 2^{15}`, are OpenCV's, so that edge maps are those of
``cv2.Canny`` bit for bit. The numbers are whole and below :math:`2^{24}`, or such a number times a power of two,
which float32 holds exactly. kornia's Canny smooths first and thresholds floats: it finds other edges.

Sources: Canny 1986, IEEE Trans. Pattern Anal. Mach. Intell. 8(6):679; OpenCV's documentation of ``Canny`` and
``Sobel``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

_TAN = 13573
_ONE = 2**15
_NEIGHBOURS = np.zeros((3, 3, 3), bool)
_NEIGHBOURS[1] = True


def sobel(pixels: Tensor) -> tuple[Tensor, Tensor]:
    r"""Horizontal and vertical Sobel derivatives, borders replicated: ``cv2.Sobel`` with ``BORDER_REPLICATE``.

    The weights :math:`(1, 2, 1) \otimes (-1, 0, 1)` are not normalised: a slope of one level per pixel gives 8.

    Parameters
    ----------
    pixels : Tensor (B, C, H, W)
        Of any floats; whole numbers give whole numbers.

    Returns
    -------
    dx, dy : Tensor (B, C, H, W)

    Examples
    --------
    >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    >>> dx, dy = sobel(ramp)
    >>> dx[0, 0, 2], dy.abs().max()
    (tensor([4., 8., 8., 8., 4.]), tensor(0.))
    """
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    down = padded[:, :, :-2] + padded[:, :, 2:]
    down = down.add_(padded[:, :, 1:-1], alpha=2)
    across = padded[..., :-2] + padded[..., 2:]
    across = across.add_(padded[..., 1:-1], alpha=2)
    return down[..., 2:] - down[..., :-2], across[:, :, 2:] - across[:, :, :-2]


def edges(dx: Tensor, dy: Tensor, low: float, high: float) -> Tensor:
    """The edges of images whose Sobel derivatives are given.

    Parameters
    ----------
    dx, dy : Tensor (B, C, H, W)
        Of `sobel`, of 8-bit levels.
    low, high : float
        Thresholds of the L1 norm of the gradient, at most 2040.

    Returns
    -------
    Tensor (B, H, W)
        Truth values: where ``cv2.Canny(image, low, high)`` is 255.

    Examples
    --------
    >>> step = torch.zeros(1, 1, 4, 6)
    >>> step[..., 3:] = 60
    >>> edges(*sobel(step), 100, 200)[0].int()
    tensor([[0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0, 0]], dtype=torch.int32)
    """
    dx, dy, norm = _steepest(dx, dy)
    candidates = _maxima(dx, dy, norm) & (norm > low)
    return _linked(candidates, candidates & (norm > high))


def near(truth: Tensor) -> Tensor:
    """Where an image has a true pixel among the 3 x 3 around; (B, H, W) to (B, H, W)."""
    around = F.pad(truth, (1, 1, 1, 1))
    row = around[..., :-2] | around[..., 1:-1] | around[..., 2:]
    return row[:, :-2] | row[:, 1:-1] | row[:, 2:]


def _steepest(dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel the derivatives (B, H, W) in the first channel with the largest L1 norm, and that norm."""
    norms = dx.abs().add_(dy.abs())
    x, y, norm = dx[:, 0], dy[:, 0], norms[:, 0]
    for channel in range(1, dx.shape[1]):
        steeper = (norms[:, channel] > norm).float()
        x = torch.addcmul(x, steeper, dx[:, channel] - x)
        y = torch.addcmul(y, steeper, dy[:, channel] - y)
        norm = torch.maximum(norm, norms[:, channel])
    return x, y, norm


def _maxima(dx: Tensor, dy: Tensor, norm: Tensor) -> Tensor:
    """Where the norm is a maximum along the gradient's direction, one of four.

    Truth values are joined by "and" and "or", which is faster than `torch.where` on floats.
    """
    height, width = norm.shape[1:]
    around = F.pad(norm, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = dx.abs(), dy.abs()
    limit = _TAN * x
    flat, steep = y * _ONE < limit, (y - 2 * x) * _ONE > limit  # tan 67.5° = 2 + tan 22.5°
    falling = dx * dy > 0
    across = (norm > at(0, -1)) & (norm >= at(0, 1))
    upright = (norm > at(-1, 0)) & (norm >= at(1, 0))
    down = falling & (norm > torch.maximum(at(-1, -1), at(1, 1)))
    up = ~falling & (norm > torch.maximum(at(-1, 1), at(1, -1)))
    return (flat & across) | (steep & upright) | (~(flat | steep) & (down | up))


def _linked(candidates: Tensor, strong: Tensor) -> Tensor:
    """The candidates that others link to a strong one, in the same image."""
    labels, count = ndimage.label(candidates.cpu().numpy(), _NEIGHBOURS)
    kept = np.zeros(count + 1, bool)
    kept[labels[strong.cpu().numpy()]] = True
    return torch.from_numpy(kept[labels]).to(candidates.device)
