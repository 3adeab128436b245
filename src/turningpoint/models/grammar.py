r"""``grammar``: the random hierarchy model with Gaussian noise on one-hot leaves.

The data are the sentences of a random grammar (`turningpoint.diffusion.hierarchy`): :math:`s^L` leaves, each
one of v symbols, written as one-hot rows, so that an item has shape (leaves, v).  Given
:math:`x_t = \alpha x_0 + \sigma z`, the likelihood of symbol a at leaf i is

.. math:: \log p(x_{t,i} \mid a) = \alpha x_{t,ia} / \sigma^2 - (|x_{t,i}|^2 + \alpha^2) / 2 \sigma^2
          - \tfrac v2 \log 2 \pi \sigma^2,

and belief propagation over the tree gives the rest without approximation: the posterior mean are the
marginals of the leaves, the class is the root, the density is the evidence, and the Jacobian of the mean is
:math:`\alpha / \sigma^2` times the leaves' covariance.

This is one of four processes that hide leaves; the others (belief in the true leaf, masking, real
corruption) have clocks of their own and are found in `turningpoint.experiments.hierarchy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.exact import ExactDenoiser, precise
from ..diffusion.hierarchy import Hierarchy, TreePosterior
from ..diffusion.schedule import VP, Schedule
from . import MODELS

SMALLEST_VARIANCE = 1e-20
"""Below it noise counts as this small: at t = 0 the posterior is that of the nearest sentence."""


class Grammar(ExactDenoiser):
    """The exact denoiser of a random grammar's sentences; see the module's docstring.

    Parameters
    ----------
    v, m, s, L : int
        Symbols of a level, rules of a symbol, symbols of a rule, levels above the leaves.
    seed : int
        Of the rules.
    schedule : Schedule, optional
        `VP` by default.

    Raises
    ------
    TurningpointError
        If there is no such grammar.

    Examples
    --------
    >>> model = Grammar(v=4, m=2, L=3)
    >>> x_0, root = model.sample(2)
    >>> model.shape, bool((model.latents(x_0)[3][:, 0] == root).all())
    ((8, 4), True)
    """

    rules: Tensor

    def __init__(
        self, v: int = 16, m: int = 4, s: int = 2, L: int = 7, seed: int = 0, schedule: Schedule | None = None
    ) -> None:
        super().__init__()
        tree = Hierarchy.random(v, m, s, L, seed)
        self.register_buffer("rules", tree.rules)
        self.seed, self.schedule = int(seed), schedule or VP()
        self.shape, self.n_classes, self.name = (tree.leaves, tree.v), tree.v, "grammar"

    @property
    def hierarchy(self) -> Hierarchy:
        """The tree itself."""
        return Hierarchy(self.rules)

    def inferred(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> TreePosterior:
        """The posterior over the symbols of every level.

        Parameters
        ----------
        x_t : Tensor (B, s**L, v)
            Noisy one-hot leaves.
        t : Tensor (B,)
            One time per item.
        label : Tensor (B,), optional
            Known roots; -1 is unknown.
        """
        x = precise(x_t)
        alpha_t, sigma_t = self.clocks(x, t)
        return self.hierarchy.posterior(alpha_t * x / (sigma_t**2).clamp_min(SMALLEST_VARIANCE), label)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The marginals of the leaves."""
        return self.inferred(x_t, t, label).marginals()[0].to(x_t.dtype)

    def jacobian(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """dE[x_0 | x_t] / dx_t, (B, d, d) with d = s**L v: alpha / sigma^2 times the leaves' covariance."""
        alpha_t, sigma_t = self.clocks(precise(x_t), t)
        factor = alpha_t / (sigma_t**2).clamp_min(SMALLEST_VARIANCE)
        return (factor * self.inferred(x_t, t, label).covariance()).to(x_t.dtype)

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(root | x_t), (B, v)."""
        return self.inferred(x_t, t).log_root.exp().to(x_t.dtype)

    def log_density(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """log p_t(x_t | label), (B,), in float64; t must be above 0, where the density of points is none."""
        x = precise(x_t)
        alpha_t, sigma_t = (clock.flatten() for clock in self.clocks(x, t))
        leaves, v = self.shape
        square = x.square().sum((1, 2)) + leaves * alpha_t**2
        norm = leaves * v / 2 * (2 * math.pi * sigma_t**2).log()
        return self.inferred(x_t, t, label).evidence - square / (2 * sigma_t**2) - norm

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Sentences as one-hot leaves (count, s**L, v) float32, and their roots (count,)."""
        latents = self.hierarchy.sample(count, torch.Generator().manual_seed(seed))
        return self.one_hot(latents[0]), latents[-1][:, 0]

    def one_hot(self, leaves: Tensor) -> Tensor:
        """Symbols (B, s**L) as an item's one-hot rows, (B, s**L, v) float32."""
        return torch.nn.functional.one_hot(leaves, self.shape[1]).float()

    def latents(self, images: Tensor) -> list[Tensor]:
        """The symbols of every level, by the rules read backwards.

        Parameters
        ----------
        images : Tensor (B, s**L, v)
            Clean items; each leaf is its largest entry.

        Returns
        -------
        list of L + 1 Tensors int64
            Level l is (B, s**(L - l)); -1 where a node's children are no rule's, and above it.
        """
        return self.hierarchy.parse(images.to(self.rules.device).argmax(-1))

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """log p(root | x_0) at the smallest noise that the schedule knows, (B, v)."""

        def logits(images: Tensor) -> Tensor:
            t = torch.full((len(images),), self.schedule.t_min, dtype=torch.float64, device=images.device)
            x = precise(images)
            return self.inferred(self.clocks(x, t)[0] * x, t).log_root

        return logits


@MODELS.add("grammar")
def load(v: int = 16, m: int = 4, s: int = 2, L: int = 7, seed: int = 0) -> Grammar:
    """A random grammar of v symbols a level, m rules a symbol, s symbols a rule and L levels."""
    return Grammar(v, m, s, L, seed)
