r"""Preconditioning: what a network of EDM's checkpoints is given, and what its answer says of the data.

With :math:`x = x_0 + \sigma \varepsilon` and the network F (Karras et al. 2022, eq. 7 and Table 1),

.. math:: D(x; \sigma) = c_{skip} \, x + c_{out} \, F(c_{in} \, x; \, c_{noise}) .

=====  =====================  =============================  ========================  =============================
class  c_skip                 c_out                          c_in                      c_noise
=====  =====================  =============================  ========================  =============================
VP     1                      -sigma                         1 / sqrt(sigma^2 + 1)     (M - 1) t(sigma)
VE     1                      sigma                          1                         ln(sigma / 2)
iDDPM  1                      -sigma                         1 / sqrt(sigma^2 + 1)     M - 1 - argmin \|u - sigma\|
EDM    sd^2 / (sigma^2+sd^2)  sigma sd / sqrt(sigma^2+sd^2)  1 / sqrt(sigma^2 + sd^2)  ln(sigma) / 4
=====  =====================  =============================  ========================  =============================

where :math:`\sigma(t)^2 = e^{\beta_d t^2 / 2 + \beta_{min} t} - 1` for VP, sd is sigma_data, and u is iDDPM's table of
noise levels (`discretization.iddpm_levels`).  All of it is float32 in the order of the table, as the networks were
trained: VP's c_noise reaches 999, where the order of operations shows in the fifth digit of D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.discretization import iddpm_levels

SMALLEST = 1e-12
"""Below this sigma the logarithm of sigma is held, so that D(x; 0) = x instead of NaN."""


class Coefficients(NamedTuple):
    """What surrounds the network, each of the shape of sigma."""

    c_skip: Tensor | float
    c_out: Tensor
    c_in: Tensor | float
    c_noise: Tensor


class Preconditioning(nn.Module, ABC):
    """One row of the table.

    Attributes
    ----------
    sigma_min, sigma_max : float
        The noise levels that the network was trained for.
    settings : tuple of str
        The names of its constants.
    """

    sigma_min: float
    sigma_max: float
    settings: tuple[str, ...] = ()

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The row's four functions at sigma (B,), float32 or float64, in its type."""

    def output_channels(self, img_channels: int) -> int:
        """How many channels the network returns for images of ``img_channels``."""
        return img_channels

    def levels(self) -> Tensor | None:
        """The only noise levels that the network knows, if they are but some."""
        return None

    def config(self) -> dict[str, float]:
        """The constants by name."""
        return {name: getattr(self, name) for name in self.settings}


class VPPrecond(Preconditioning):
    """That of Song et al. 2021, ddpm++; see the module's docstring.

    >>> round(VPPrecond().sigma_max, 2)
    152.17
    """

    settings = ("beta_d", "beta_min", "M", "epsilon_t")

    def __init__(
        self, beta_d: float = 19.9, beta_min: float = 0.1, M: float = 1000, epsilon_t: float = 1e-5
    ) -> None:
        super().__init__()
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_t
        self.sigma_min, self.sigma_max = self._sigma(epsilon_t), self._sigma(1.0)

    def _sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(self.beta_d * t**2 / 2 + self.beta_min * t))

    def coefficients(self, sigma: Tensor) -> Coefficients:
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        t = (root - self.beta_min) / self.beta_d
        return Coefficients(1.0, -sigma, (sigma.square() + 1).rsqrt(), (self.M - 1) * t)


class VEPrecond(Preconditioning):
    """That of Song et al. 2021, ncsn++; see the module's docstring."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma, 1.0, (sigma.clamp_min(SMALLEST) / 2).log())


class iDDPMPrecond(Preconditioning):  # noqa: N801 (the name in the files)
    """That of Nichol & Dhariwal 2021; the network's estimate of the variance is left out.

    Parameters
    ----------
    C_1, C_2, M : float
        The constants of the table.
    u : Tensor (M + 1,), optional
        The table itself, where a file holds it.
    """

    settings = ("C_1", "C_2", "M")
    u: Tensor

    def __init__(
        self, C_1: float = 0.001, C_2: float = 0.008, M: int = 1000, u: Tensor | None = None
    ) -> None:
        super().__init__()
        self.C_1, self.C_2, self.M = C_1, C_2, M
        table = torch.from_numpy(iddpm_levels(M, C_1, C_2)) if u is None else u
        self.register_buffer("u", table.to(torch.float32))
        self.sigma_min, self.sigma_max = float(self.u[M - 1]), float(self.u[0])

    def coefficients(self, sigma: Tensor) -> Coefficients:
        nearest = (sigma[:, None] - self.u.to(sigma)).abs().argmin(1)
        c_noise = (self.M - 1 - nearest).to(sigma.dtype)
        return Coefficients(1.0, -sigma, (sigma.square() + 1).rsqrt(), c_noise)

    def output_channels(self, img_channels: int) -> int:
        return 2 * img_channels

    def levels(self) -> Tensor:
        return self.u


class EDMPrecond(Preconditioning):
    """That of Karras et al. 2022, section 5; for every sigma."""

    settings = ("sigma_data",)

    def __init__(self, sigma_min: float = 0, sigma_max: float = math.inf, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        variance = sigma.square() + self.sigma_data**2
        c_noise = sigma.clamp_min(SMALLEST).log() / 4
        c_skip, c_out = self.sigma_data**2 / variance, sigma * self.sigma_data * variance.rsqrt()
        return Coefficients(c_skip, c_out, variance.rsqrt(), c_noise)
