r"""Local binary patterns: which of the eight neighbours of a pixel are at least as bright as it is.

With :math:`g_c` the level of a pixel and :math:`g_k` that at angle :math:`2 \pi k / 8` and distance 1 from it, the
pattern is the circle of bits :math:`s_k = [g_k \ge g_c]`, and its code

.. math::

   \text{LBP} = \begin{cases} \sum_k s_k & \text{if } \sum_k |s_k - s_{k-1}| \le 2 \\ 9 & \text{else.} \end{cases}

So a code does not change when the picture is turned by a quarter, nor when its levels are stretched: 0 is a bright
spot, 8 a dark spot or a plain, 4 a straight edge, and 9 is whatever changes more often along the circle.

Source: Ojala, Pietikäinen & Mäenpää 2002, IEEE PAMI 24(7):971, eq. 9.  The conventions are those of
``skimage.feature.local_binary_pattern(P=8, R=1, method="uniform")``, to the bit: neighbours on the diagonals lie at
0.70711 of a row and a column, their levels are interpolated in double precision, first along the row and then across
rows, and outside of the picture all is black.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODES = 10
DIAGONAL = 0.70711
"""The cosine of 45 degrees as scikit-image rounds it: with another last digit codes of smooth pictures differ."""


def uniform_patterns(levels: Tensor) -> Tensor:
    """The code of every pixel.

    Parameters
    ----------
    levels : Tensor (B, H, W)
        Grey levels, integers from 0.

    Returns
    -------
    Tensor (B, H, W)
        uint8, 0 to 9.

    Examples
    --------
    >>> spot = torch.zeros(1, 3, 3, dtype=torch.uint8)
    >>> spot[0, 1, 1] = 255
    >>> uniform_patterns(spot)[0].tolist()
    [[8, 8, 8], [8, 0, 8], [8, 8, 8]]
    """
    codes: Tensor = _CODE.to(levels.device)[patterns(levels).int()]
    return codes


def patterns(levels: Tensor) -> Tensor:
    """The pattern of every pixel, (B, H, W) to uint8 (B, H, W): bit k says whether neighbour k is as bright.

    Examples
    --------
    >>> int(patterns(torch.ones(1, 3, 3))[0, 1, 1])
    255
    """
    height, width = levels.shape[1:]
    g = nn.functional.pad(levels, (1, 1, 1, 1)).double()
    left = _between(g[..., :-2], g[..., 1:-1], _share(width, -DIAGONAL))
    right = _between(g[..., 1:-1], g[..., 2:], _share(width, DIAGONAL))
    up, down = _share(height, -DIAGONAL)[:, None], _share(height, DIAGONAL)[:, None]
    circle = (
        g[:, 1:-1, 2:],
        _between(right[:, :-2], right[:, 1:-1], up),
        g[:, :-2, 1:-1],
        _between(left[:, :-2], left[:, 1:-1], up),
        g[:, 1:-1, :-2],
        _between(left[:, 1:-1], left[:, 2:], down),
        g[:, 2:, 1:-1],
        _between(right[:, 1:-1], right[:, 2:], down),
    )
    centre = g[:, 1:-1, 1:-1]
    bits = torch.zeros(levels.shape, dtype=torch.uint8, device=levels.device)
    for k, neighbour in enumerate(circle):
        bits |= (neighbour >= centre).view(torch.uint8) << k
    return bits


def one_hot_codes(device: torch.device) -> Tensor:
    """Which code each of the 256 patterns has: float32 (256, 10), a 1 in every row."""
    return nn.functional.one_hot(_CODE.long(), CODES).float().to(device)


def _share(length: int, step: float) -> Tensor:
    """How much of the way from one pixel to the next lies at ``step`` from each of a row."""
    at = torch.arange(length, dtype=torch.float64) + step
    return at - at.floor()


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    share = share.to(first.device)
    return ((1 - share) * first).add_(share * second)


def _code(bits: int) -> int:
    circle = [bits >> k & 1 for k in range(8)]
    changes = sum(circle[k] != circle[k - 1] for k in range(8))
    return sum(circle) if changes <= 2 else CODES - 1


_CODE = torch.tensor([_code(bits) for bits in range(256)], dtype=torch.uint8)
