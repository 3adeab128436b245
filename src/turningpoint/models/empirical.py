r"""``empirical``: the exact denoiser of a data set, the one that remembers all of it.

If data is one of N points with probabilities :math:`w_n` (equal unless told otherwise), then with
:math:`p(n \mid x_t) \propto w_n \, N(x_t; \alpha y_n, \sigma^2)`

.. math::

    D = E[x_0 \mid x_t] &= \textstyle\sum_n p(n \mid x_t) \, y_n, \\
    p(c \mid x_t) &= \textstyle\sum_{n \,:\, \text{label } c} p(n \mid x_t), \\
    \frac{\partial D}{\partial x_t} &= \frac{\alpha}{\sigma^2} \, \mathrm{Cov}_{p(n \mid x_t)}(y_n) .

It minimises the training loss of a diffusion model, so it is what a network of unlimited capacity would learn;
along the probability-flow ODE it ends on a training point (Karras et al. 2022, appendix B.3; Biroli et
al. 2024, arXiv:2402.18491; Zhang et al. 2024, arXiv:2310.05264).  How the sums are made, and how precisely, is said
in `turningpoint.diffusion.attention`.

A million points fit: an ``.npy`` stays on disk, mapped into memory, and is read in chunks; eight-bit
pixels are scaled chunk by chunk.  What is held per point is a number or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.attention import RunningSoftmax, Scores, scores
from ..diffusion.denoiser import UNCONDITIONAL
from ..diffusion.exact import STARTING_IMAGES, ExactDenoiser, precise
from ..diffusion.points import Points
from ..diffusion.schedule import Schedule, schedule_named
from ..errors import TurningpointError
from . import MODELS
from ._data_points import labels_of, points_and_labels
from .settings import array as numbers
from .settings import whole


class Empirical(ExactDenoiser):
    """The empirical distribution of N points.

    With a label the data is the points that carry it; -1, or no label, is all of them. Queries in float64
    are answered in float64 throughout, others to float32's precision (see `forward`).

    Parameters
    ----------
    data : Tensor or memmap (N, *shape)
        Floats of any range, or uint8 for pixels in [-1, 1]. Kept, not copied: do not change it afterwards.
    labels : Tensor (N,) of int64, optional
        A class per point, from 0; there are as many classes as the largest says.
    weights : Tensor (N,), optional
        Positive probabilities, up to a factor; equal by default.
    schedule : Schedule or str
        The clock, or its name (see `schedule_named`).
    chunk : int, optional
        Points per chunk, by default what suits the device. It changes results by rounding only.

    Attributes
    ----------
    digest : str
        A hash of points, labels and weights (see `Points.digest`), which stands for them in the fingerprint.
    n_points : int
        N, where all weights are equal.
    class_means : method
        The classes' means (K, d), where there are labels; NaN for a class without points.

    Raises
    ------
    TurningpointError
        If there is no point, a number is not finite, or labels or weights do not fit.

    Examples
    --------
    >>> model = Empirical(torch.tensor([[-1.0], [1.0]]))
    >>> t = model.schedule.t(logsnr=0.0)[None]            # alpha = sigma
    >>> x_t = model.schedule.alpha(t)[:, None]
    >>> bool(torch.isclose(model(x_t, t), torch.tensor(1.0).double().tanh()))
    True
    >>> model.weights(x_t, t)                             # the nearest point, and how likely it is the one
    (tensor([[0.8808]], dtype=torch.float64), tensor([[1]]))
    """

    labels: Tensor | None
    log_weights: Tensor
    _shares: Tensor

    def __init__(
        self,
        data: Tensor | np.memmap,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        schedule: Schedule | str = "vp",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if data.ndim < 2 or 0 in data.shape:
            raise TurningpointError(f"data has shape {tuple(data.shape)}; accepted: (N, C, H, W) or (N, d).")
        count, device = len(data), data.device if isinstance(data, Tensor) else torch.device("cpu")
        share = torch.ones(count) if weights is None else weights
        if share.shape != (count,) or not bool((share > 0).all() and share.isfinite().all()):
            raise TurningpointError(
                f"weights have shape {tuple(share.shape)}; accepted: {count} positive numbers."
            )
        share = precise(share.to(device))
        share = share / share.sum()
        if labels is not None:
            if labels.shape != (count,) or int(labels.min()) < 0:
                raise TurningpointError(
                    f"labels have shape {tuple(labels.shape)} and a least value of {int(labels.min())}; accepted: "
                    f"({count},), whole numbers from 0."
                )
            labels = labels.to(device)
            self.n_classes = int(labels.max()) + 1
            self.register_buffer(
                "_shares", share.new_zeros(self.n_classes).index_add(0, labels, share), persistent=False
            )
        self.points = Points(data)
        self.shape, self.schedule = self.points.shape, schedule_named(schedule)
        self.digest = self.points.digest(labels, weights)
        self._chunk = None if chunk is None else whole("chunk", chunk)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("log_weights", share.log(), persistent=False)
        self._eigenvalues: Tensor | None = None
        if weights is None:
            self.n_points = count
        if labels is not None:
            self.class_means = self._class_means

    # ---- what an ExactDenoiser offers

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t, label], (B, *shape).

        A query in float64 is answered in float64. For others, products whose error does not show in a float32
        answer are made in float32, unless torch is allowed to make those in less (TF32, bfloat16).
        """
        narrow = x_t.dtype != torch.float64 and torch.get_float32_matmul_precision() == "highest"
        running = RunningSoftmax()
        for part in self._scores(x_t, t, label, screened=narrow):
            kind = torch.float32 if narrow else part.logits.dtype
            weights = running.weigh(part.logits)
            running.add((weights.to(kind) @ part.raw.to(kind)).to(weights.dtype))
        return self.points.scaled(running.mean()).reshape(x_t.shape).to(x_t.dtype)

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Points of the data set, drawn with replacement, and their labels."""
        generator = torch.Generator().manual_seed(seed)
        steps = self.log_weights.cpu().double().exp().cumsum(0)
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * steps[-1]
        index = torch.searchsorted(steps, drawn, right=True).clamp_max(self.points.count - 1)
        return self._items(index.to(self.log_weights.device))

    def log_density(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x, alpha_t, sigma_t = self._query(x_t, t)
        joint, told = self._log_joint(x_t, t), self._told(label)
        total = joint.logsumexp(1)
        if told is not None:
            given_class = joint - self.prior().to(joint).log()
            known = given_class.gather(1, told.clamp_min(0)[:, None])[:, 0]
            total = torch.where(told == UNCONDITIONAL, total, known)
        apart = (x - alpha_t * self.points.mean.to(x)).square().sum(1) / sigma_t[:, 0] ** 2
        return total - apart / 2 - self.points.dim * (sigma_t[:, 0].log() + math.log(2 * math.pi) / 2)

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._log_joint(x_t, t).log_softmax(1)

    def prior(self) -> Tensor:
        """p(class), (K,): the weights of its points; (1,) without classes."""
        return super().prior() if self.n_classes is None else self._shares

    def jacobian(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """dE[x_0 | x_t] / dx_t in closed form, (B, d, d), symmetric; costs N d^2 for each query."""
        _, alpha_t, sigma_t = self._query(x_t, t)
        running = RunningSoftmax()
        for part in self._scores(x_t, t, label):
            y = self.points.centred(part.raw)
            y = torch.cat([y, torch.ones_like(y[:, :1])], 1)  # second moments with a one hold the first
            running.add(torch.stack([(y * w[:, None]).T @ y for w in running.weigh(part.logits)]))
        moments = running.mean()
        mean = moments[:, :-1, -1]
        covariance = moments[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
        return ((alpha_t / sigma_t**2)[..., None] * covariance).to(x_t.dtype)

    def starting_images(self) -> tuple[Tensor, Tensor | None]:
        """The first 1,000 points themselves, float32, and their labels."""
        first = torch.arange(min(STARTING_IMAGES, self.points.count), device=self.log_weights.device)
        images, labels = self._items(first)
        return images.cpu(), (None if self.n_classes is None else labels.cpu())

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        super().check_condition(condition)
        label = condition.get("label")
        if label is not None and label >= 0 and float(self.prior()[label]) == 0:
            raise TurningpointError(f"label is {label}, which no point has; accepted: a label of the data.")

    # ---- what only a data set has

    def eigenvalues(self) -> Tensor:
        """Of the covariance of the data, (d,), ascending; computed once."""
        if self._eigenvalues is None:
            self._eigenvalues = self.points.eigenvalues(self.log_weights.exp())
        return self._eigenvalues

    def _class_means(self) -> Tensor:
        """The classes' means, (K, d); NaN for a class without points."""
        assert self.labels is not None
        return self.points.class_means(self.log_weights.exp(), self.labels, self.n_classes or 1)

    def weights(
        self, x_t: Tensor, t: Tensor, top: int = 1, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The most likely points, and their posterior weights.

        Parameters
        ----------
        x_t, t, label : Tensor
            As in `forward`.
        top : int
            How many.

        Returns
        -------
        weight : Tensor (B, top)
            p(n | x_t), the largest first, float64 on devices that have it.
        index : Tensor (B, top) int64
            Which points; with equal prior weights the first is the nearest to x_t / alpha_t.
        """
        if whole("top", top) > self.points.count:
            raise TurningpointError(
                f"top is {top}; accepted: 1 to {self.points.count}, the number of points."
            )
        running, best = RunningSoftmax(), None
        for part in self._scores(x_t, t, label):
            running.weigh(part.logits)
            logits, index = part.logits, part.index.expand_as(part.logits)
            if best is not None:
                logits, index = torch.cat([best[0], logits], 1), torch.cat([best[1], index], 1)
            largest = logits.topk(min(top, logits.shape[1]), 1)
            best = largest.values, index.gather(1, largest.indices)
        assert best is not None
        return (best[0] - running.log_total()[:, None]).exp(), best[1]

    def variance(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The posterior variance of every entry of x_0, (B, *shape)."""
        running = RunningSoftmax()
        for part in self._scores(x_t, t, label):
            y = self.points.centred(part.raw)
            running.add(running.weigh(part.logits) @ torch.cat([y, y.square()], 1))
        mean, square = running.mean().chunk(2, 1)
        return (square - mean.square()).clamp_min(0).reshape(x_t.shape).to(x_t.dtype)

    # ---- parts of the formulas

    def _query(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t (B, d), alpha_t and sigma_t (B, 1), all in float64 where there is such a thing."""
        x = precise(x_t).flatten(1)
        x = x if x.dtype == torch.float64 else x.float()
        return x, *self.clocks(x, t)

    def _scores(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, screened: bool = False
    ) -> Iterator[Scores]:
        return scores(self.points, *self._query(x_t, t), self._log_prior(label), self._chunk, screened)

    def _told(self, label: Tensor | None) -> Tensor | None:
        """The labels (B,), checked; None where nothing is told."""
        if label is None or bool((label == UNCONDITIONAL).all()):
            return None
        for value in label[label != UNCONDITIONAL].unique().tolist():
            self.check_condition({"label": value})
        return label

    def _log_prior(self, label: Tensor | None) -> Callable[[Tensor], Tensor]:
        """log w_n for an index (n,), and -inf where a query (B,) has another label."""
        told = self._told(label)

        def log_prior(index: Tensor) -> Tensor:
            share = self.log_weights[index.to(self.log_weights.device)].to(index.device)
            if told is None:
                return share
            other = (told[:, None] >= 0) & (self._label(index) != told[:, None])
            return share.masked_fill(other, -math.inf)

        return log_prior

    def _label(self, index: Tensor) -> Tensor:
        """The labels of an index (n,), 0 where there are no classes."""
        if self.labels is None:
            return torch.zeros_like(index)
        return self.labels[index.to(self.labels.device)].to(index.device)

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The logarithm of the sum of e^l over each class, (B, K), each relative to its own largest."""
        total: Tensor | None = None
        for part in self._scores(x_t, t):
            logits, place = part.logits, self._label(part.index).expand_as(part.logits)
            lowest = torch.finfo(logits.dtype).min
            peak = logits.new_full((len(logits), self.n_classes or 1), lowest)
            peak = peak.scatter_reduce(1, place, logits.detach(), "amax")
            mass = torch.zeros_like(peak).scatter_add(1, place, (logits - peak.gather(1, place)).exp())
            logarithm = peak + mass.clamp_min(1).log()  # the largest counts 1; no point, no mass
            total = logarithm if total is None else torch.logaddexp(total, logarithm)
        assert total is not None
        return total.masked_fill(total <= lowest, -math.inf)

    def _items(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.points.take(index).float(), self._label(index)


@MODELS.add("empirical")
def load(
    data: Any = None,
    labels: Any = None,
    weights: Any = None,
    schedule: Schedule | str = "vp",
    chunk: int | None = None,
    skip_bad: bool = False,
    size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fit: str = "crop",
    split: str | None = None,
) -> Empirical:
    """The exact denoiser of a data set.

    Parameters
    ----------
    data : array, Tensor, path or ImageSet
        (N, C, H, W), or (N, d) for vectors; (N, H, W) is N images of one channel, (N,) is N numbers. Floats of
        any range (latents), or uint8 for pixels in [-1, 1]. A memmap stays on disk. A path is an ``.npy``,
        which stays on disk, an ``.npz`` with ``images`` (and ``labels``), or pictures that
        `turningpoint.data.open_images` opens (a folder, a zip, a parquet), all of which are held in memory.
    labels : array (N,) of whole numbers, optional
        A class per point, from 0; by default those that the data set has.
    weights : array (N,), optional
        Positive; they need not sum to 1. Equal by default.
    schedule : Schedule or str
        The clock, or one of vp, edm, flow, linear, scaled_linear, cosine.
    chunk : int, optional
        How many points to look at at a time.
    skip_bad : bool
        Leave out pictures that cannot be used, with a warning for each, instead of refusing.
    size : int, optional
        Make all pictures so many pixels high and wide, in colour if one of them is. Pictures that share one size and
        number of channels need none; others are refused without it.
    height, width : int, optional
        The same, for pictures that are not square.
    fit : str
        How a picture of another size is made to fit: ``crop``, ``square``, ``stretch`` or ``exact``
        (`turningpoint.data.fit`).
    split : str, optional
        Which one, of a data set that has several.

    Raises
    ------
    TurningpointError
        If there are no points, a file cannot be read, or a shape does not fit.

    Examples
    --------
    >>> import turningpoint as tp
    >>> model = tp.load("empirical", data=[[0.0, 0.0], [1.0, 1.0]], labels=[0, 1], schedule="edm")
    >>> tp.generate(model, 1, steps=4, label=1, progress=None).images.values.round(6)
    array([[1., 1.]], dtype=float32)
    """
    if data is None:
        raise TurningpointError(
            "data is not given; accepted: an array (N, C, H, W) or (N, d), an .npy, an .npz, or a set of pictures."
        )
    points, found = points_and_labels(data, size, height, width, fit, split, skip_bad)
    known = found if labels is None else labels_of(labels)
    shares = None if weights is None else numbers("weights", weights, "(N,)", axes=(1,))
    return Empirical(points, known, shares, schedule, chunk)
