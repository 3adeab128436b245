r"""How sharply a network attends: the entropy of its attention, whatever network it is.

A query attends to n keys with probabilities :math:`p = \mathrm{softmax}(s)`; its entropy relative to the largest
possible one,

.. math:: h = -\frac{1}{\log n} \sum_k p_k \log p_k, \qquad
          -\sum_k p_k \log p_k = \log \sum_k e^{s_k} - \sum_k p_k s_k ,

is 0 where it looks at one key and 1 where at all alike (Zhai et al. 2023 follow this entropy through training,
before the division).  A layer's number is the mean over queries, heads and the attentions in it.  Keys that are masked
do not count among the n, and a query with one key left is left out.

Attention is seen where it is computed: torch hands every call of its functions to a `TorchFunctionMode`, which looks
out for `scaled_dot_product_attention` (probabilities are computed a second time from queries, keys, mask and
scale, a slab of queries at a time), for softmax over the last axis of scores (..., queries, keys), and for
`torch.nn.MultiheadAttention`.  Kernels of other packages (xformers, flash-attn) and flex attention pass unseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SLAB = 2**24
"""Scores that are held at a time."""
SHUT_OUT = -5000.0
"""A key whose score is so far below the largest has probability 0 in every floating type: it is masked."""

SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax)
LOOKED_AT = (*SOFTMAX, F.scaled_dot_product_attention, F.multi_head_attention_forward)
SCALED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
"""The arguments of `scaled_dot_product_attention`, in their order."""


class AttentionSeen(TorchFunctionMode):
    """While it is entered, hands the entropy of every attention on.

    Parameters
    ----------
    rows : int
        Of the batch whose entropies are wanted: the first of those that the network is given.
    batch : callable
        How many rows the network is given, ``rows`` or more; it tells which of a leading axis are heads.
    found : callable
        Called with the entropies (rows,) float32.
    wanted : callable
        Whether anybody wants to know now.
    """

    def __init__(
        self,
        rows: int,
        batch: Callable[[], int],
        found: Callable[[Tensor], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self.rows, self.batch, self.found, self.wanted = rows, batch, found, wanted

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        told = dict(kwargs or {})
        if func in LOOKED_AT and self.wanted():
            with torch.no_grad():
                entropy = self._entropy(func, args, told)
            if entropy is not None:
                self.found(entropy)
        return func(*args, **told)

    def _entropy(self, func: Any, args: Sequence[Any], told: dict[str, Any]) -> Tensor | None:
        if func is F.scaled_dot_product_attention:
            return self._of_queries(**dict(zip(SCALED, args, strict=False)) | told)
        if func is F.multi_head_attention_forward:
            return self._of_heads(func, args, told)
        return self._of_softmax(*args, **told)

    def _per_row(self, x: Tensor) -> Tensor | None:
        """``x`` (L, ...) as (rows, heads, ...), its leading axis being that of rows, or of rows and heads."""
        batch = self.batch()
        if x.ndim < 3 or x.shape[0] % batch:
            return None
        split: Tensor = x.unflatten(0, (batch, -1))
        return split[: self.rows]

    def _of_queries(
        self,
        query: Tensor,
        key: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **_: Any,
    ) -> Tensor | None:
        (queries, width), keys = query.shape[-2:], key.shape[-2]
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        q, k = (self._per_row(x.expand(*lead, *x.shape[-2:])) for x in (query, key))
        mask = None if attn_mask is None else self._per_row(attn_mask.expand(*lead, queries, keys))
        if q is None or k is None:
            return None
        factor = width**-0.5 if scale is None else scale
        total = _Mean(self.rows, query.device)
        step = max(1, SLAB // max(1, k[..., 0].numel()))
        for first in range(0, queries, step):
            scores = (q[..., first : first + step, :].float() * factor) @ k.float().mT
            if is_causal:
                rank = torch.arange(first, first + scores.shape[-2], device=scores.device)
                scores.masked_fill_(rank[:, None] < torch.arange(keys, device=scores.device), -torch.inf)
            if mask is not None:
                part = mask[..., first : first + step, :]
                scores = scores.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else scores + part
            total.add(scores)
        return total.mean()

    def _of_softmax(self, input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor | None:
        if dim is None or input.ndim < 3 or dim % input.ndim != input.ndim - 1:
            return None
        scores = self._per_row(input.detach())
        if scores is None:
            return None
        total = _Mean(self.rows, input.device)
        step = max(1, SLAB // max(1, scores[..., 0, :].numel()))
        for part in scores.split(step, -2):
            total.add(part.float())
        return total.mean()

    def _of_heads(self, func: Any, args: Sequence[Any], told: Mapping[str, Any]) -> Tensor | None:
        """Of `torch.nn.MultiheadAttention`, which tells its probabilities if asked."""
        told = inspect.signature(func).bind(*args, **told).arguments
        told |= {"need_weights": True, "average_attn_weights": False}
        weights = self._per_row(func(**told)[1])
        if weights is None:
            return None
        total = _Mean(self.rows, weights.device)
        total.add(weights.float().log())
        return total.mean()


class _Mean:
    """The mean relative entropy of each row over queries that come in slabs."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.sums, self.counts = torch.zeros(rows, device=device), torch.zeros(rows, device=device)

    def add(self, scores: Tensor) -> None:
        """Scores (rows, ..., queries, keys) float32 before the softmax, in any unit of their sum."""
        s = (scores - scores.amax(-1, keepdim=True)).clamp_min(SHUT_OUT)
        weights = s.exp()
        total = weights.sum(-1)
        entropy = total.log() - (weights * s).sum(-1) / total
        keys = (s > SHUT_OUT).sum(-1)
        relative = (entropy / keys.log()).flatten(1)
        counts = (keys > 1).flatten(1)
        self.sums += torch.where(counts, relative, 0).sum(1)
        self.counts += counts.sum(1)

    def mean(self) -> Tensor:
        return self.sums / self.counts
