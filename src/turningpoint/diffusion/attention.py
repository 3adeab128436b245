r"""Softmax attention over the points of a data set, in chunks.

If data is one of :math:`y_1 \dots y_N` with probabilities :math:`w_n`, then given :math:`x_t = \alpha x_0 +
\sigma \varepsilon` it was :math:`y_n` with a probability proportional to :math:`e^{l_n}`,

.. math:: l_n = \log w_n + \frac{\alpha \, q \cdot (y_n - m) - \alpha^2 |y_n - m|^2 / 2}{\sigma^2},
          \qquad q = x_t - \alpha m,

for any :math:`m`: attention with one query per noisy item, the points being keys and values.  All of
it is matrix products.  A softmax over a stream needs one pass: sums are kept relative to the largest
logit so far and scaled down when a larger one comes (Milakov & Gimelshein 2018, algorithm 3; Rabe &
Staats 2021).

**Precision.** At small noise logits are millions, and it is their differences that matter.  A product of
float32 is off by about :math:`2^{-24} |q \cdot y|`, which :math:`\alpha / \sigma^2` multiplies to the error
:math:`e` of a logit; the weighted mean is then off by :math:`e (\sum_n p_n^2)^{1/2}` times the spread of the points.
So where a float32 answer is wanted, products of float32 only *screen*: points :math:`e^{-40}` below the
largest are dropped, and where that error of the mean could pass :data:`TOLERANCE`, the logits of the others
are computed again in float64.  Hence an answer depends on its company in a batch to rounding error, not exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import expand
from .points import Points

NEGLIGIBLE = 40.0
"""A logit so far below the largest counts for nothing: e^-40 is 4e-18, and a million points make 4e-12."""

TOLERANCE = 8e-6
"""The bound on a mean's error, in units of the spread of the points, up to which float32 suffices; what was
seen is three to ten times less."""

TRUSTED = 0.01
"""The error of a logit up to which it tells a weight well enough to judge by."""

ROUNDING = 2.0**-23
"""A product of float32 has at most this standard error, relative to the largest ones of its query."""


@dataclass(frozen=True)
class Scores:
    """Some of the points, and the logits with which each query attends to them.

    Attributes
    ----------
    index : Tensor (n,)
        Which points.
    raw : Tensor (n, d)
        As `Points.read` gives them, or the same in float32.
    logits : Tensor (B, n)
        l_n; -inf where a point is excluded.
    """

    index: Tensor
    raw: Tensor
    logits: Tensor


def scores(
    points: Points,
    x_t: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    log_prior: Callable[[Tensor], Tensor],
    size: int | None = None,
    screened: bool = False,
) -> Iterator[Scores]:
    """The logits of all points, a chunk at a time.

    Parameters
    ----------
    points : Points
        The data.
    x_t : Tensor (B, d)
        Queries, in float64 where there is such a thing.
    alpha_t, sigma_t : Tensor (B, 1)
        Signal and noise of each.
    log_prior : callable
        log w_n for an index (n,): (n,) or (B, n).
    size : int, optional
        Points in a chunk; by default what suits the device.
    screened : bool
        Drop points of negligible weight after products in float32; logits are then good to float32.
    """
    q = x_t - alpha_t * points.mean.to(x_t)
    gain, curb = alpha_t / sigma_t**2, alpha_t**2 / (2 * sigma_t**2)
    screen = _Screen(points, q, gain) if screened else None
    for rows in points.chunks(size or points.chunk_size(len(q), q.device)):
        raw = points.read(rows, q.device)
        index = torch.arange(rows.start, rows.stop, device=q.device)
        offset = log_prior(index) - curb * points.squares[rows].to(q)
        if screen is None:
            yield Scores(index, raw, gain * points.products(q, raw) + offset)
            continue
        part = screen(Scores(index, raw, offset))
        if part is not None:
            yield part


class _Screen:
    """Products in float32 first, and in float64 for what they leave."""

    def __init__(self, points: Points, q: Tensor, gain: Tensor) -> None:
        self.points, self.q, self.gain = points, q, gain
        self.narrow, self.shift = q.float(), points.shift(q)
        self.scale = q.norm(dim=1, keepdim=True) * points.reach / points.dim**0.5
        self.so_far = RunningSoftmax()

    def __call__(self, part: Scores) -> Scores | None:
        """From a chunk whose ``logits`` are without their products, the points that count; None if none does."""
        raw, logits, error = self._narrow(part)
        weights = self.so_far.weigh(logits)
        peak, total = self.so_far.peak[:, None], self.so_far.total[:, None]
        counting = ~((logits < peak - (NEGLIGIBLE + 32 * error)) | logits.isneginf())
        shows = (error > TRUSTED) | (error * weights.norm(dim=1, keepdim=True) > TOLERANCE * total)
        unsure = (shows & counting.any(1, keepdim=True))[:, 0].nonzero()[:, 0]
        if len(unsure) and self.q.dtype == torch.float64:
            again = counting[unsure].any(0).nonzero()[:, 0]
            products = self.points.products(self.q[unsure], part.raw[again])
            exact = self.gain[unsure] * products + part.logits[unsure][:, again]
            logits = logits.index_put((unsure[:, None], again), exact)
        kept = counting.any(0).nonzero()[:, 0]
        if 2 * len(kept) > len(part.index):
            return Scores(part.index, raw, logits)
        return Scores(part.index[kept], raw[kept], logits[:, kept]) if len(kept) else None

    def _narrow(self, part: Scores) -> tuple[Tensor, Tensor, Tensor]:
        """What was read in float32, logits (B, n) from it, and their standard error (B, 1)."""
        raw = part.raw.float()
        products = (self.narrow @ raw.T).to(self.q)
        size = products.abs().amax(1, keepdim=True) + self.scale
        logits = self.gain * (products - self.shift) / self.points.unit + part.logits
        return raw, logits, ROUNDING * self.gain * size / self.points.unit


class RunningSoftmax:
    r"""Sums under softmax weights, over logits that come in chunks.

    After all chunks ``mean()`` is :math:`\sum_n p_n v_n` for :math:`p = \mathrm{softmax}(l)`, and
    ``log_total()`` is :math:`\log \sum_n e^{l_n}`, (B,).

    Examples
    --------
    >>> logits, values = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    >>> running = RunningSoftmax()
    >>> for n in (slice(0, 2), slice(2, 3)):
    ...     running.add(running.weigh(logits[:, n]) @ values[n])
    >>> running.mean(), logits.softmax(1) @ values
    (tensor([[2.1547]]), tensor([[2.1547]]))
    """

    peak: Tensor
    """The largest logit so far, (B,)."""
    total: Tensor
    """The sum of the weights relative to it, (B,)."""

    def __init__(self) -> None:
        self._begun = False
        self._sum: Tensor | None = None

    def weigh(self, logits: Tensor) -> Tensor:
        """Weights (B, n) of a chunk of logits (B, n), relative to the largest so far; -inf is weight 0."""
        top = logits.detach().amax(1).clamp_min(torch.finfo(logits.dtype).min)  # -inf - -inf is NaN
        peak = torch.maximum(self.peak, top) if self._begun else top
        weights = (logits - peak[:, None]).exp()
        total = weights.sum(1)
        if self._begun:
            faded = (self.peak - peak).exp()
            total = total + faded * self.total
            self._sum = None if self._sum is None else expand(faded, self._sum) * self._sum
        self.peak, self.total, self._begun = peak, total, True
        return weights

    def add(self, weighted: Tensor) -> None:
        """The sum of weight times value over the chunk that was weighed last, (B, ...)."""
        self._sum = weighted if self._sum is None else self._sum + weighted

    def mean(self) -> Tensor:
        """The weighted mean, (B, ...); NaN where no logit was finite."""
        assert self._sum is not None
        return self._sum / expand(self.total, self._sum)

    def log_total(self) -> Tensor:
        """The logarithm of the sum of exponentials, (B,)."""
        return self.peak + self.total.log()
