r"""What is told of a layer's activation: a few numbers and a small map for each item of a batch.

The activation of an item is a matrix :math:`A` of T positions and C channels: (C, H, W) has T = HW, tokens (T, C) are
one already, of more axes the first is the channels'; a vector has one position.  With n = TC,

=============  =====================================================================================================
magnitude      :math:`\sqrt{\sum_{tc} A_{tc}^2 / n}`, the root mean square
sparsity       :math:`\frac{\sqrt n - |A|_1 / |A|_2}{\sqrt n - 1}`, 0 where all entries are equally large, 1 where
               only one is not 0 (Hoyer 2004, section 3)
rank           :math:`\exp(-\sum_k p_k \log p_k)` with :math:`p_k = s_k / \sum_j s_j` and the singular values s of
               A: the effective rank, from 1 to min(T, C) (Roy & Vetterli 2007, definition 1)
change         :math:`|A - A'|_2 / |A'|_2` with :math:`A'` that of the same walk's step before
contrast       :math:`|A - B|_2 / |A|_2` with :math:`B` that of the same item without its condition
=============  =====================================================================================================

and the map is :math:`\sqrt{\sum_c A_{tc}^2 / C}` at every position, averaged over the cells of an m x m grid.

Sums are made in float32, whatever the network's type.  Singular values are the roots of the eigenvalues of the smaller
one of :math:`A A^T` and :math:`A^T A`, which costs a third of a decomposition of A; since a root turns a rounding error
:math:`\epsilon` into :math:`\sqrt\epsilon`, these products are made in float64 where the device has it.  If T
and C both exceed 256, neighbouring positions are averaged first, to at most 16 x 16.

What is not defined is NaN: anything of an activation that is 0 but its magnitude, sparsity of a single number, rank
and map of a vector, and a map of tokens that are not laid out on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WIDEST = 256
"""Of the smaller side of a matrix whose singular values are computed."""


@dataclass(frozen=True, eq=False)
class Activation:
    """A layer's activation for a batch, as matrices.

    Parameters
    ----------
    matrix : Tensor (B, T, C) float32
        Positions and channels.
    grid : pair of int, optional
        Height and width that the T positions have.
    vector : bool
        Whether it has no positions.
    """

    matrix: Tensor
    grid: tuple[int, int] | None
    vector: bool

    @classmethod
    def of(cls, output: Tensor, item: Sequence[int] = ()) -> Activation:
        """From a layer's output (B, C), (B, T, C), (B, C, H, W) or (B, C, ...).

        Parameters
        ----------
        output : Tensor
            The output.
        item : sequence of int
            The shape of what the network works on, (C, H, W), from which the grid of tokens follows; a square one
            otherwise.
        """
        a = output.float()
        if a.ndim < 3:
            return cls(a.reshape(len(a), 1, -1), None, True)
        if a.ndim == 3:
            return cls(a, token_grid(a.shape[1], item), False)
        return cls(a.flatten(2).mT, (a.shape[2], a.shape[3]) if a.ndim == 4 else None, False)


def token_grid(tokens: int, item: Sequence[int] = ()) -> tuple[int, int] | None:
    """How tokens lie on an image: square patches of it if there are as many, a square, or None.

    >>> token_grid(32, (4, 16, 8)), token_grid(16), token_grid(17)
    ((8, 4), (4, 4), None)
    """
    if len(item) == 3:
        height, width = item[1:]
        for patch in range(1, min(height, width) + 1):
            if height % patch == width % patch == 0 and height * width == tokens * patch**2:
                return height // patch, width // patch
    side = math.isqrt(tokens)
    return (side, side) if side**2 == tokens else None


def magnitude(a: Activation) -> Tensor:
    """The root mean square, (B,)."""
    return a.matrix.square().mean((1, 2)).sqrt()


def sparsity(a: Activation) -> Tensor:
    """Hoyer's sparsity in [0, 1], (B,).

    >>> sparsity(Activation.of(torch.tensor([[1.0, -1, 1, 1], [0, 2, 0, 0]])))
    tensor([0., 1.])
    """
    root = math.sqrt(a.matrix[0].numel())
    if root <= 1:
        return a.matrix.new_full((len(a.matrix),), torch.nan)
    ratio = a.matrix.abs().sum((1, 2)) / _unit(a.matrix)
    return ((root - ratio) / (root - 1)).clamp(0, 1)


def rank(a: Activation) -> Tensor:
    """The effective rank of the matrix, (B,).

    >>> rank(Activation.of(torch.stack([torch.eye(4), torch.ones(4, 4)])))
    tensor([4.0000, 1.0000])
    """
    if a.vector:
        return a.matrix.new_full((len(a.matrix),), torch.nan)
    x = _narrowed(a)
    largest = x.abs().amax((1, 2), keepdim=True)
    usable = (largest.isfinite() & (largest > 0))[:, 0, 0]
    x = torch.where(usable[:, None, None], x / largest, 0)
    x = x.float() if x.device.type == "mps" else x.double()
    gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
    s = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = s / s.sum(1, keepdim=True)
    found: Tensor = torch.special.entr(p).sum(1).exp().to(a.matrix.dtype)
    return found.where(usable, torch.nan)


def relative_distance(a: Activation, b: Activation, of: Activation) -> Tensor:
    """The norm of a - b in units of the norm of ``of``, (B,)."""
    return _norm(a.matrix - b.matrix) / _unit(of.matrix)


def mapped(a: Activation, size: int) -> Tensor:
    """The root mean square over channels on a grid of ``size`` x ``size`` cells, (B, size, size).

    A cell's value is the mean over the positions that it overlaps.
    """
    if a.grid is None:
        return a.matrix.new_full((len(a.matrix), size, size), torch.nan)
    at_positions = a.matrix.square().mean(2).sqrt().unflatten(1, a.grid)
    return F.adaptive_avg_pool2d(at_positions[:, None], size)[:, 0]


def _norm(x: Tensor) -> Tensor:
    return x.square().sum((1, 2)).sqrt()


def _unit(x: Tensor) -> Tensor:
    """Frobenius norms (B,) to divide by: NaN instead of 0."""
    norm = _norm(x)
    return norm.where(norm > 0, torch.nan)


def _narrowed(a: Activation) -> Tensor:
    """The matrix, its positions averaged if there are more than `WIDEST` of them and of channels."""
    positions, channels = a.matrix.shape[1:]
    if min(positions, channels) <= WIDEST:
        return a.matrix
    if a.grid is None:
        return F.adaptive_avg_pool1d(a.matrix.mT, WIDEST).mT
    sides = min(a.grid[0], math.isqrt(WIDEST)), min(a.grid[1], math.isqrt(WIDEST))
    return F.adaptive_avg_pool2d(a.matrix.mT.unflatten(2, a.grid), sides).flatten(2).mT
