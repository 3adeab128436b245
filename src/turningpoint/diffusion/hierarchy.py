r"""The random hierarchy model: a grammar whose sentences are the leaves of a tree, with exact inference.

A root is one of v symbols.  Each symbol of level l has m production rules, tuples of s symbols of level
l - 1, and takes one of them with equal probability; after L levels there are :math:`s^L` leaves.  The
:math:`mv` tuples of a level are distinct (drawn without replacement among the :math:`v^s`), so that a
tuple has one parent at most and leaves can be parsed; every level has rules of its own (Cagnetta et al.,
Phys. Rev. X 14, 031001, 2024; Sclocchi, Favero & Wyart 2025, section 3).  Level 0 are the leaves.

Inference is sum-product on the tree.  Upwards, in logarithms, each node collects the evidence below it,

.. math:: u_l(a) = \log \frac{1}{m} \sum_{j=1}^{m} \exp \sum_{k=1}^{s} u_{l-1}^{(k)}(r_{ajk}),

with :math:`r_{ajk}` the k-th symbol of rule j of symbol a and :math:`u_0` the log-likelihood of each
leaf.  At the root this is the evidence.  Given the symbol of a node, which rule it took depends on the
evidence below it alone, :math:`q(j \mid a) \propto \exp \sum_k u^{(k)}(r_{ajk})`; so downwards the
marginals are convex combinations,

.. math:: p_{l-1}^{(k)}(b) = \sum_{a, j : r_{ajk} = b} p_l(a) \, q(j \mid a),

in which nothing cancels, and a draw from the posterior takes the root from its marginal and a rule from q at
every node.  The cost is :math:`O(B s^{L-1} v m s)` for B trees.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError

MOST_LEAVES = 2**20
"""Leaves of the largest tree that is accepted."""

IMPOSSIBLE = -1e30
"""The log-likelihood that stands for -inf: contradictory leaves then have a posterior instead of NaN."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A grammar: the rules of every level.

    Parameters
    ----------
    rules : Tensor (L, v, m, s) int64
        ``rules[l, a, j]`` are the symbols of level l that rule j of symbol a of level l + 1 produces.

    Examples
    --------
    >>> grammar = Hierarchy.random(v=4, m=2, s=2, L=3, seed=0)
    >>> latents = grammar.sample(5, torch.Generator().manual_seed(0))
    >>> [tuple(level.shape) for level in latents]
    [(5, 8), (5, 4), (5, 2), (5, 1)]
    >>> all(torch.equal(a, b) for a, b in zip(grammar.parse(latents[0]), latents))
    True
    """

    rules: Tensor

    @classmethod
    def random(cls, v: int, m: int, s: int = 2, L: int = 1, seed: int = 0) -> Hierarchy:
        """Rules drawn without replacement, for each level anew.

        Parameters
        ----------
        v, m, s, L : int
            Symbols of a level, rules of a symbol, symbols of a rule, levels above the leaves.
        seed : int
            Of the rules.

        Raises
        ------
        TurningpointError
            If ``m v`` tuples are not to be had, or the tree is too large.
        """
        for name, value, least in (("v", v, 2), ("m", m, 1), ("s", s, 2), ("L", L, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise TurningpointError(f"{name} is {value!r}; accepted: a whole number of at least {least}.")
        if m > v ** (s - 1):
            raise TurningpointError(
                f"m is {m}; accepted: at most v**(s - 1) = {v ** (s - 1)}, "
                f"since a level has {v}**{s} tuples for its m v rules."
            )
        if s * math.log(v) >= 62 * math.log(2):
            raise TurningpointError(f"v, s are {v}, {s}; accepted: v**s below 2**62.")
        if L * math.log(s) > math.log(MOST_LEAVES) + 1e-9:
            raise TurningpointError(f"L is {L}; accepted: a tree of at most {MOST_LEAVES} leaves, s**L.")
        generator = np.random.Generator(np.random.Philox(int(seed)))
        codes = np.stack([generator.choice(v**s, (v, m), replace=False) for _ in range(L)])
        digits = codes[..., None] // v ** np.arange(s, dtype=np.int64) % v
        return cls(torch.from_numpy(digits.astype(np.int64)))

    @property
    def v(self) -> int:
        """Symbols of a level."""
        return self.rules.shape[1]

    @property
    def m(self) -> int:
        """Rules of a symbol."""
        return self.rules.shape[2]

    @property
    def s(self) -> int:
        """Symbols of a rule."""
        return self.rules.shape[3]

    @property
    def L(self) -> int:  # noqa: N802
        """Levels above the leaves."""
        return self.rules.shape[0]

    @property
    def leaves(self) -> int:
        """Leaves of a tree, s**L."""
        return int(self.s**self.L)

    def sample(self, count: int, generator: torch.Generator, root: Tensor | None = None) -> list[Tensor]:
        """Trees.

        Parameters
        ----------
        count : int
            How many.
        generator : torch.Generator
            On the CPU; the draws do not depend on the device.
        root : Tensor (count,), optional
            Their roots; by default uniform.

        Returns
        -------
        list of L + 1 Tensors int64
            The symbols of level l are (count, s**(L - l)): first the leaves, last the root.
        """
        device = self.rules.device
        if root is None:
            root = torch.randint(self.v, (count,), generator=generator).to(device)
        latents = [root.reshape(count, 1)]
        for rules in self.rules.flip(0):
            taken = torch.randint(self.m, latents[0].shape, generator=generator).to(device)
            latents.insert(0, rules[latents[0], taken].flatten(1))
        return latents

    def parse(self, leaves: Tensor) -> list[Tensor]:
        """The symbols of every level from the leaves, by the rules read backwards.

        Parameters
        ----------
        leaves : Tensor (B, s**L) int64
            Symbols.

        Returns
        -------
        list of L + 1 Tensors int64
            As of `sample`; -1 where a node's children are no rule's, and above it.
        """
        powers = self.v ** torch.arange(self.s, device=self.rules.device)
        latents = [leaves]
        for rules in self.rules:
            codes, order = (rules * powers).sum(-1).flatten().sort()
            children = latents[-1].reshape(len(leaves), -1, self.s)
            wanted = (children * powers).sum(-1)
            place = torch.searchsorted(codes, wanted).clamp_max(len(codes) - 1)
            known = (codes[place] == wanted) & (children >= 0).all(-1)
            latents.append(torch.where(known, order[place] // self.m, -1))
        return latents

    def posterior(self, log_likelihood: Tensor, root: Tensor | None = None) -> TreePosterior:
        """What observed leaves say about all symbols: the upward pass.

        Parameters
        ----------
        log_likelihood : Tensor (B, s**L, v)
            log p(observation of leaf i | its symbol is a), up to a constant that counts in `evidence`
            alone; -inf is allowed.
        root : Tensor (B,), optional
            Roots that are known; -1 is unknown.
        """
        up = [log_likelihood.clamp_min(IMPOSSIBLE)]
        scale = torch.zeros(len(log_likelihood)).to(log_likelihood)
        for level in range(self.L):
            top = up[-1].detach().amax(-1, keepdim=True)  # nodes near 0: no digits are lost in a deep tree
            up[-1] = up[-1] - top
            scale = scale + top.sum((1, 2))
            up.append(self.rule_logits(level, up[-1]).logsumexp(-1) - math.log(self.m))
        prior = torch.full_like(up[-1][:, 0], -math.log(self.v))
        if root is not None:
            told = torch.nn.functional.one_hot(root.clamp_min(0), self.v).bool()
            certain = torch.where(told, 0.0, IMPOSSIBLE).to(prior)
            prior = torch.where(root[:, None] < 0, prior, certain)
        return TreePosterior(self, tuple(up), prior, scale)

    def rule_logits(self, level: int, up: Tensor) -> Tensor:
        """The evidence for each rule of each symbol of level ``level + 1``.

        Parameters
        ----------
        level : int
            Of the children.
        up : Tensor (B, n, v)
            Their messages.

        Returns
        -------
        Tensor (B, n / s, v, m)
            The sum of the messages of a rule's symbols.
        """
        children = up.reshape(len(up), -1, self.s, self.v)
        parts = (children[:, :, k][..., self.rules[level, :, :, k]] for k in range(self.s))
        return torch.stack(list(parts)).sum(0) if self.s > 2 else next(parts) + next(parts)


@dataclass(frozen=True, eq=False)
class TreePosterior:
    """The posterior over all symbols of B trees; made by `Hierarchy.posterior`.

    Attributes
    ----------
    up : tuple of L + 1 Tensors (B, s**(L - l), v)
        Log-evidence of the leaves below each node for each symbol, up to a constant of each node.
    """

    hierarchy: Hierarchy
    up: tuple[Tensor, ...]
    prior: Tensor
    scale: Tensor

    @property
    def evidence(self) -> Tensor:
        """The log-probability of the observation, (B,)."""
        return (self.up[-1][:, 0] + self.prior).logsumexp(-1) + self.scale

    @cached_property
    def log_root(self) -> Tensor:
        """The log-posterior of the root, (B, v)."""
        return (self.up[-1][:, 0] + self.prior).log_softmax(-1)

    def marginals(self) -> list[Tensor]:
        """p(symbol | all leaves) of every node: L + 1 Tensors (B, s**(L - l), v), leaves first."""
        tree = self.hierarchy
        found = [self.log_root.exp()[:, None]]
        for level in reversed(range(tree.L)):
            rule = tree.rule_logits(level, self.up[level]).softmax(-1)
            joint = (found[0][..., None] * rule).flatten(2)
            symbols = tree.rules[level].flatten(0, 1)
            empty = torch.zeros_like(found[0])
            children = [empty.index_add(2, symbols[:, k], joint) for k in range(tree.s)]
            found.insert(0, torch.stack(children, 2).flatten(1, 2))
        return found

    def covariance(self) -> Tensor:
        """Covariance of the one-hot leaves given all leaves, (B, s**L v, s**L v), leaf by leaf.

        Two leaves meet at one node.  Its rule fixes the symbols of the two children above them, and given
        these the leaves are independent.
        """
        tree, marginals = self.hierarchy, self.marginals()
        count, leaves, v = marginals[0].shape
        joint = marginals[0].new_zeros(count, leaves, v, leaves, v)
        place = torch.arange(leaves, device=joint.device)
        joint[:, place, :, place] = marginals[0].diag_embed().transpose(0, 1)
        reach = torch.eye(v).to(joint).expand(count, leaves, v, v)[:, :, :, None]  # p(leaf below | node)
        for level in range(tree.L):
            rule = tree.rule_logits(level, self.up[level]).softmax(-1)
            weight = marginals[level + 1][..., None] * rule
            symbols, children = tree.rules[level], reach.unflatten(1, (-1, tree.s))
            nodes = torch.arange(children.shape[1], device=joint.device)
            grid = joint.view(count, len(nodes), tree.s, -1, v, len(nodes), tree.s, tree.s**level, v)
            for k, other in itertools.combinations(range(tree.s), 2):
                both = _table(weight, symbols[:, :, k] * v + symbols[:, :, other], v)
                near, far = children[:, :, k], children[:, :, other]
                block = torch.einsum("bnxy,bnxic,bnyjd->nbicjd", both, near, far)
                grid[:, nodes, k, :, :, nodes, other] = block
                grid[:, nodes, other, :, :, nodes, k] = block.permute(0, 1, 4, 5, 2, 3)
            own = torch.arange(v, device=joint.device)[:, None] * v
            steps = [_table(rule, own + symbols[:, :, k], v) for k in range(tree.s)]
            parts = [
                torch.einsum("bnax,bnxic->bnaic", step, children[:, :, k]) for k, step in enumerate(steps)
            ]
            reach = torch.cat(parts, 3)
        p = marginals[0].flatten(1)
        return joint.reshape(count, leaves * v, leaves * v) - p[:, :, None] * p[:, None]

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """One tree from each posterior: L + 1 Tensors int64, as of `Hierarchy.sample`.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU; the draws do not depend on the device.
        """
        tree = self.hierarchy
        drawn = [_categorical(self.log_root.exp(), generator)[:, None]]
        for level in reversed(range(tree.L)):
            logits = tree.rule_logits(level, self.up[level])
            index = drawn[0][..., None, None].expand(-1, -1, 1, tree.m)
            taken = _categorical(logits.gather(2, index)[:, :, 0].softmax(-1), generator)
            drawn.insert(0, tree.rules[level][drawn[0], taken].flatten(1))
        return drawn


def _table(weight: Tensor, cell: Tensor, v: int) -> Tensor:
    """Weights (B, n, v, m) of rules, summed into the cells (v, m) of a table: (B, n, v, v)."""
    empty = weight.new_zeros(*weight.shape[:2], v * v)
    return empty.index_add(2, cell.flatten(), weight.flatten(2)).reshape(*weight.shape[:2], v, v)


def _categorical(p: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row of probabilities (..., K), by inversion: (...)."""
    uniform = torch.rand(p.shape[:-1], generator=generator, dtype=torch.float64).to(p)
    total = p.cumsum(-1)
    return (total <= uniform[..., None] * total[..., -1:]).sum(-1).clamp_max(p.shape[-1] - 1)
