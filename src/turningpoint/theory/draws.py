r"""Noisy items for Monte Carlo: one draw of data and of noise, seen at any noise level.

At every log-SNR level :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` is made of the same :math:`x_0` and the same
:math:`\varepsilon` (common random numbers), so that a mean over the draws is a smooth function of the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .known import array, device

PARTS = 16
"""Into how many equal parts draws are split for the standard error of a crossing or a peak."""
FEWEST, MOST = 512, 4096
AT_ONCE = 1_000_000
"""Samples times classes times entries that the model is asked at once."""


class Draws:
    """Data of an exact model, its labels and noise.

    Parameters
    ----------
    model : ExactDenoiser
    work : int
        How many samples times entries (or a quarter of the points of a data set, if they are more), which sets
        how many samples are drawn: 512 to 4096.
    seed : int
        Of data and noise.

    Attributes
    ----------
    count : int
        N, a multiple of `PARTS`.
    x_0, noise : Tensor (N, *shape)
    label : Tensor (N,)
    """

    def __init__(self, model: Any, work: int, seed: int = 0) -> None:
        each = max(math.prod(model.shape), getattr(model, "n_points", 0) // 4)
        affordable = int(np.clip(work // each, FEWEST, MOST))
        self.count = PARTS * (affordable // PARTS)
        self._model = model
        where = device(model)
        wide = torch.float32 if where.type == "mps" else torch.float64
        x_0, label = model.sample(self.count, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
        self.x_0, self.label, self.noise = x_0.to(where, wide), label.to(where), noise.to(where, wide)

    @property
    def total_variance(self) -> float:
        """tr Cov[x_0] of the draws."""
        x_0 = self.x_0.flatten(1)
        return float((x_0 - x_0.mean(0)).square().sum(1).mean())

    @torch.no_grad()
    def apply(self, f: Callable[..., Tensor], logsnr: float, *more: Tensor) -> np.ndarray:
        """``f(x_t, t, *more)`` of all draws at a log-SNR level: (N, ...)."""
        clock = self._model.schedule
        t = clock.t(logsnr=torch.full((self.count,), logsnr, dtype=torch.float64)).to(self.x_0)
        x_t = float(clock.alpha(t[0])) * self.x_0 + float(clock.sigma(t[0])) * self.noise
        rows = max(
            1, AT_ONCE // (math.prod(self._model.shape) * (getattr(self._model, "n_classes", None) or 1))
        )
        parts = zip(*(v.split(rows) for v in (x_t, t, *more)), strict=True)
        return array(torch.cat([f(*part) for part in parts]))
