r"""Four processes that hide the leaves of a tree, which must never be confused.

Each turns true leaves :math:`x_i` into a log-likelihood of every symbol a, which
`Hierarchy.posterior` takes.  With v symbols:

============  =============================================  ==========================================
process       what is observed                               likelihood of symbol a at leaf i
============  =============================================  ==========================================
`epsilon`     nothing: a belief is put on the *true* leaf    :math:`(1 - \epsilon) 1[a = x_i] + \epsilon / v`
`masking`     a leaf, or with probability p nothing at all   :math:`1[a = x_i]`, or 1
`corruption`  :math:`y_i`: with probability epsilon a        :math:`(1 - \epsilon) 1[a = y_i] + \epsilon / v`
              uniform symbol in place of the leaf
`gaussian`    :math:`\alpha e_{x_i} + \sigma z_i`, with e    :math:`\exp(\alpha y_{ia} / \sigma^2)`
              one-hot                                        up to a constant
============  =============================================  ==========================================

The last three are channels: the truth is a draw from the posterior too, so a U-turn keeps a symbol with
probability :math:`E \sum_a p(a)^2`.  The epsilon-process is none.  Its belief knows the truth, and points at
it from every leaf at once, as the mean field of Sclocchi, Favero & Wyart (2025) has it; what it hides is far less
than what corruption by the same epsilon hides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def epsilon(leaves: Tensor, v: int, level: float) -> Tensor:
    """The epsilon-process: belief 1 - epsilon + epsilon/v in each true leaf, epsilon/v in other symbols.

    No noise is drawn and no leaf is replaced; the process is not a channel.

    Parameters
    ----------
    leaves : Tensor (B, n) int64
        The true symbols.
    v : int
        How many symbols there are.
    level : float
        epsilon in [0, 1]: 0 is certainty, 1 is no belief.

    Returns
    -------
    Tensor (B, n, v) float64
        Log-beliefs.

    Examples
    --------
    >>> epsilon(torch.tensor([[2]]), 4, 0.4).exp()
    tensor([[[0.1000, 0.1000, 0.7000, 0.1000]]], dtype=torch.float64)
    """
    wrong = torch.full((*leaves.shape, v), level / v, dtype=torch.float64, device=leaves.device)
    right = torch.full_like(wrong[..., :1], 1 - level + level / v)
    return wrong.scatter(2, leaves[..., None], right).log()


def masking(leaves: Tensor, v: int, level: float, generator: torch.Generator) -> Tensor:
    """Masking: each leaf is hidden with probability ``level``, and known exactly otherwise.

    Parameters
    ----------
    leaves, v
        As of `epsilon`.
    level : float
        The masked fraction in [0, 1].
    generator : torch.Generator
        On the CPU; it draws which leaves are hidden, at a higher level a superset of those at a lower one.

    Returns
    -------
    Tensor (B, n, v) float64
        Log-likelihoods, all 0 at a hidden leaf.
    """
    hidden = _uniform(leaves, generator) < level
    return epsilon(leaves, v, 0.0).masked_fill(hidden[..., None], 0.0)


def corruption(leaves: Tensor, v: int, level: float, generator: torch.Generator) -> Tensor:
    """Real corruption: each leaf is replaced with probability ``level`` by a uniform symbol.

    The new symbol may be the old one.  The likelihood is that of what is seen under this channel.

    Parameters
    ----------
    leaves, v
        As of `epsilon`.
    level : float
        epsilon in [0, 1].
    generator : torch.Generator
        On the CPU; it draws which leaves are replaced, and by what.

    Returns
    -------
    Tensor (B, n, v) float64
        Log-likelihoods.
    """
    replaced = _uniform(leaves, generator) < level
    others = torch.randint(v, leaves.shape, generator=generator).to(leaves)
    return epsilon(torch.where(replaced, others, leaves), v, level)


def gaussian(leaves: Tensor, v: int, logsnr: float, generator: torch.Generator) -> Tensor:
    r"""Gaussian noise on one-hot leaves, :math:`\alpha e_x + \sigma z`; the diffusion process proper.

    The likelihood depends on the clock through :math:`\lambda = \log(\alpha^2 / \sigma^2)` alone, so none is
    asked for.

    Parameters
    ----------
    leaves, v
        As of `epsilon`.
    logsnr : float
        The noise level.
    generator : torch.Generator
        On the CPU; it draws z.

    Returns
    -------
    Tensor (B, n, v) float64
        Log-likelihoods up to a constant of each leaf.
    """
    z = torch.randn((*leaves.shape, v), generator=generator, dtype=torch.float64).to(leaves.device)
    ratio = math.exp(logsnr / 2)
    noisy = ratio * torch.nn.functional.one_hot(leaves, v) + z  # x_t / sigma
    return ratio * noisy


def _uniform(leaves: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(leaves.shape, generator=generator, dtype=torch.float64).to(leaves.device)
