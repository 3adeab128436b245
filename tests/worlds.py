"""Worlds whose answers are known in closed form, as denoisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from turningpoint.diffusion.denoiser import Denoiser, expand
from turningpoint.diffusion.schedule import VP, Schedule


class Mixture(Denoiser):
    r"""A mixture of isotropic Gaussians: p(x_0) = sum_c w_c N(m_c, std^2 I), which takes no labels.

    With v_t = alpha_t^2 std^2 + sigma_t^2,

    .. math:: p(c | x_t) \propto w_c \exp(-|x_t - \alpha_t m_c|^2 / 2 v_t), \qquad
              E[x_0 | x_t] = \sum_c p(c | x_t) \, (m_c + \alpha_t std^2 / v_t \, (x_t - \alpha_t m_c)).

    Parameters
    ----------
    means : array (K, *shape)
        One centre per component; one component is a Gaussian.
    std : float
        The standard deviation of every component, 0 or more.
    weights : sequence of K floats, optional
        Equal by default.
    schedule : Schedule, optional
        `VP` by default.
    """

    n_classes = None

    def __init__(
        self,
        means: Tensor | Sequence,
        std: float = 0.5,
        weights: Sequence[float] | None = None,
        schedule: Schedule | None = None,
        name: str = "mixture",
    ) -> None:
        super().__init__()
        centres = torch.as_tensor(means, dtype=torch.float64)
        share = torch.ones(len(centres)) if weights is None else torch.as_tensor(weights)
        share = share.to(torch.float64)
        self.register_buffer("means", centres)
        self.register_buffer("weights", share / share.sum())
        self.std, self.name = float(std), name
        self.schedule, self.shape = schedule or VP(), tuple(centres.shape[1:])

    def _scores(self, x_t: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """log w_c N(x_t; alpha m_c, variance) up to a constant of each row, (B, K)."""
        means = self.means.to(x_t).flatten(1)
        gap = x_t.flatten(1)[:, None] - alpha[:, None, None] * means
        return self.weights.to(x_t).log() - gap.square().sum(-1) / (2 * variance[:, None])

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(c | x_t), (B, K)."""
        alpha, sigma = self.schedule.alpha(t).to(x_t), self.schedule.sigma(t).to(x_t)
        return self._scores(x_t, alpha, alpha**2 * self.std**2 + sigma**2).softmax(1)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t]."""
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        centre = (self.posterior(x_t, t) @ self.means.to(x_t).flatten(1)).reshape(x_t.shape)
        return centre + gain * (x_t - alpha * centre)

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """log p(c | x) up to a constant of each row, (B, K), for clean items (B, *shape)."""
        variance = self.std**2 or 1.0  # any variance orders the classes of point masses alike

        def logits(x: Tensor) -> Tensor:
            one = torch.ones(len(x)).to(x)
            return self._scores(x, one, variance * one)

        return logits

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Fresh data (count, *shape) float32, and their components (count,)."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.shape, generator=generator, dtype=torch.float64)
        return (self.means[labels] + self.std * noise).float(), labels
