r"""What every clock of a diffusion process can do; the schedules themselves are in `schedule`.

With :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`, a clock converts between t in [0, 1], alpha, sigma,
:math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)` and the model's native time, both ways.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import TurningpointError

Times = float | Sequence[float] | np.ndarray | Tensor
"""What a clock accepts: a number, or numbers of any shape; one time per item is ``(B,)``."""


def as_times(value: Times) -> Tensor:
    """A floating tensor: numbers and integers become float64, floating tensors stay as they are."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


class Schedule(ABC):
    """The noise schedule of one model; all methods act elementwise on tensors of any shape.

    Attributes
    ----------
    t_min : float
        The smallest positive time that a sampler's grid visits (the last step goes from there to 0).
    native_unit : str
        What ``native`` counts, for the labels of axes.
    """

    t_min: float = 1e-3
    native_unit: str = "t"

    @abstractmethod
    def alpha(self, t: Times) -> Tensor:
        """The signal's factor alpha_t, of the shape of ``t``."""

    @abstractmethod
    def sigma(self, t: Times) -> Tensor:
        """The noise's standard deviation sigma_t, of the shape of ``t``."""

    def logsnr(self, t: Times) -> Tensor:
        """lambda_t = log(alpha_t^2 / sigma_t^2), of the shape of ``t``; +inf at the data."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def native(self, t: Times) -> Tensor:
        """The model's own time at ``t`` (see `native_unit`), of the shape of ``t``."""
        return as_times(t)

    def start_std(self, t: Times) -> Tensor:
        """The standard deviation of the noise from which sampling starts at ``t``; sigma_t unless overridden."""
        return self.sigma(t)

    def t(
        self,
        *,
        logsnr: Times | None = None,
        sigma: Times | None = None,
        alpha: Times | None = None,
        native: Times | None = None,
    ) -> Tensor:
        """The time at which one clock shows the given value; exactly one clock is given.

        Raises
        ------
        TurningpointError
            If none or several clocks are given, or there is no such time.

        Examples
        --------
        >>> from turningpoint.diffusion.schedule import VP
        >>> clock = VP()
        >>> round(float(clock.t(logsnr=clock.logsnr(0.3))), 6)
        0.3
        """
        clocks = {"logsnr": logsnr, "sigma": sigma, "alpha": alpha, "native": native}
        given = {name: value for name, value in clocks.items() if value is not None}
        if len(given) != 1:
            raise TurningpointError(
                f"t() takes exactly one of logsnr, sigma, alpha, native; {len(given)} were given."
            )
        ((name, value),) = given.items()
        inverse: Tensor = getattr(self, f"_t_from_{name}")(as_times(value))
        if bool(inverse.isnan().any()):
            raise TurningpointError(f"{name} is {value}, which this clock shows at no time.")
        return inverse

    @abstractmethod
    def _t_from_logsnr(self, logsnr: Tensor) -> Tensor: ...

    @abstractmethod
    def _t_from_sigma(self, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def _t_from_alpha(self, alpha: Tensor) -> Tensor: ...

    def _t_from_native(self, native: Tensor) -> Tensor:
        return native

    def snap(self, t: Times) -> Tensor:
        """The nearest time that the model's network knows: ``t`` itself unless steps are discrete."""
        return as_times(t)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings that rebuild this schedule, with its class under ``"kind"``."""

    def __repr__(self) -> str:
        config = self.config()
        settings = ", ".join(
            f"{k}={f'{len(v)} numbers' if isinstance(v, list) else v}"
            for k, v in config.items()
            if k != "kind"
        )
        return f"{config['kind']}({settings})"


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, given through L(t) = log alpha_t^2 and its inverse."""

    @abstractmethod
    def _log_alpha_sq(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _t_from_log_alpha_sq(self, log_alpha_sq: Tensor) -> Tensor: ...

    def alpha(self, t: Times) -> Tensor:
        return (self._log_alpha_sq(as_times(t)) / 2).exp()

    def sigma(self, t: Times) -> Tensor:
        return (-torch.expm1(self._log_alpha_sq(as_times(t)))).clamp_min(0).sqrt()

    def start_std(self, t: Times) -> Tensor:
        return torch.ones_like(as_times(t))  # that of x_t for data of unit variance, at every t

    def logsnr(self, t: Times) -> Tensor:
        log_alpha_sq = self._log_alpha_sq(as_times(t))
        return log_alpha_sq - (-torch.expm1(log_alpha_sq)).clamp_min(0).log()

    def _t_from_logsnr(self, logsnr: Tensor) -> Tensor:
        return self._t_from_log_alpha_sq(F.logsigmoid(logsnr))

    def _t_from_sigma(self, sigma: Tensor) -> Tensor:
        return self._t_from_log_alpha_sq(torch.log1p(-sigma.square()))

    def _t_from_alpha(self, alpha: Tensor) -> Tensor:
        return self._t_from_log_alpha_sq(2 * alpha.log())
