r"""Exact denoisers: models that know their own data distribution.

Where :math:`p(x_0)` is known, so is everything else: the density of every noisy marginal
:math:`p_t(x)`, the posterior mean, the score by Tweedie's formula (Efron 2011)

.. math:: \nabla \log p_t(x) = (\alpha_t E[x_0 \mid x_t = x] - x) / \sigma_t^2,

the class posterior by Bayes' rule, and the posterior's covariance by its second-order form

.. math:: \mathrm{Cov}[x_0 \mid x_t] = \frac{\sigma_t^2}{\alpha_t} \, \frac{\partial E[x_0 \mid x_t]}{\partial x_t} .

What is exact is computed in float64 wherever the device has it, and returned in the dtype that was asked.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, expand

STARTING_IMAGES = 1000
"""How many samples stand in for the starting images that a trained model ships with."""

LEAST_SIGMA = 1e-12
"""The noise at which t = 0 is answered: closed forms divide by sigma, and have a limit there."""


class ExactDenoiser(Denoiser):
    """A denoiser in closed form, with samples, score, class posterior and Jacobian.

    Classes, where there are any, are numbered 0 to ``n_classes - 1``; with a label the distribution is
    that of the class alone.
    """

    @abstractmethod
    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Data, on the model's device.

        Returns
        -------
        x_0 : Tensor (count, *shape) float32
        label : Tensor (count,) int64
            Class indices, all 0 where there are no classes.
        """

    @abstractmethod
    def log_density(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """log p_t(x_t | label), (B,), float64 on devices that have it."""

    def prior(self) -> Tensor:
        """p(class), (K,) float64; equal unless the model says otherwise, (1,) without classes."""
        count = self.n_classes or 1
        return torch.full((count,), 1 / count, dtype=torch.float64)

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(class | x_t), (B, K), by Bayes' rule; zeros (B, 1) without classes."""
        x = precise(x_t)
        if self.n_classes is None:
            return x.new_zeros(len(x), 1)
        labels = torch.arange(self.n_classes, device=x.device)
        likelihoods = [self.log_density(x, t, label.expand(len(x))) for label in labels]
        return (torch.stack(likelihoods, 1) + self.prior().to(x).log()).log_softmax(1)

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(class | x_t), (B, K), float64 on devices that have it; ones (B, 1) without classes."""
        return self.log_posterior(x_t, t).exp()

    def score(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The gradient of log p_t at x_t, (B, *shape); Tweedie's formula.

        t must be above 0.
        """
        x = precise(x_t)
        alpha_t, sigma_t = self.clocks(x, t)
        x_0: Tensor = self(x, t, label)
        return ((alpha_t * x_0 - x) / sigma_t**2).to(x_t.dtype)

    def jacobian(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """dE[x_0 | x_t] / dx_t, (B, d, d) with d the number of an item's entries.

        By automatic differentiation, a row at a time, unless the model has a closed form.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = precise(x_t).clone().requires_grad_()
            total = self(x, t.clone(), label).flatten(1).sum(0)  # rows of a batch do not mix
            rows = [torch.autograd.grad(entry, x, retain_graph=True)[0].flatten(1) for entry in total]
        return torch.stack(rows, 1).to(x_t.dtype)

    def clocks(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t in the precision of ``x_t``, shaped to broadcast against it.

        sigma_t is at least `LEAST_SIGMA`, so that t = 0 is answered by the limit.
        """
        time = t.to(x_t)
        alpha_t, sigma_t = self.schedule.alpha(time), self.schedule.sigma(time).clamp_min(LEAST_SIGMA)
        return expand(alpha_t, x_t), expand(sigma_t, x_t)

    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        """log p(class | x_0) at the smallest noise that the schedule knows, (B, K); None without classes.

        At that noise data that lies on a subspace or on points may miss them by a rounding error.
        """
        if self.n_classes is None:
            return None

        def logits(images: Tensor) -> Tensor:
            x = precise(images.to(next(self.buffers(), images).device))
            t = x.new_full((len(x),), self.schedule.t_min)
            return self.log_posterior(self.clocks(x, t)[0] * x, t)

        return logits

    def starting_images(self) -> tuple[Tensor, Tensor | None] | None:
        """Fresh samples with their labels."""
        x_0, label = self.sample(STARTING_IMAGES, seed=0)
        return x_0.cpu(), (None if self.n_classes is None else label.cpu())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def narrowed(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except TypeError:  # a device without float64
                return fn(tensor.float())

        return super()._apply(narrowed, recurse)


def precise(x: Tensor) -> Tensor:
    """``x`` in float64, or as it is on devices without it (MPS).

    >>> precise(torch.zeros(2)).dtype
    torch.float64
    """
    return x if x.device.type == "mps" else x.double()
