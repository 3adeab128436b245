r"""``field``: Gaussian random fields on a torus with a power-law spectrum.

The Fourier modes of an image are independent, with variances

.. math:: \lambda_k = c \, |k|^{-\gamma}, \qquad \lambda_0 = 0,

|k| in cycles per image, and c such that a pixel has the wanted standard deviation: images of natural
scenes have :math:`\gamma \approx 2` (Field 1987).  The posterior mean is the Wiener filter, mode by mode,

.. math:: E[x_0 \mid x_t]_k = \frac{\alpha \lambda_k}{\alpha^2 \lambda_k + \sigma^2} \, x_{t,k},

so a mode emerges, with half of its gain, at :math:`\sigma / \alpha = \sqrt{\lambda_k}`: coarse before fine,
without any transition (Wang & Vastola 2023; Biroli et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.covariance import Covariances
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from . import MODELS
from .gaussians import Gaussians
from .settings import number, whole


class Field(Gaussians):
    r"""Gaussian images of mean 0, stationary and periodic, with independent channels and no classes.

    Parameters
    ----------
    size : int
        Height and width, 2 or more.
    channels : int
        Independent ones of the same spectrum.
    exponent : float
        gamma: the variance of a mode falls as :math:`|k|^{-\gamma}`.
    std : float
        The standard deviation of a pixel, above 0.
    schedule : Schedule or str
        The clock, or its name.

    Raises
    ------
    TurningpointError
        If a setting is out of its range.

    Examples
    --------
    >>> images, _ = Field(16, std=0.5).sample(200)
    >>> images.shape, bool(abs(images.std() - 0.5) < 0.02)
    (torch.Size([200, 1, 16, 16]), True)
    """

    def __init__(
        self,
        size: int = 32,
        channels: int = 1,
        exponent: float = 2.0,
        std: float = 0.5,
        schedule: Schedule | str = "vp",
    ) -> None:
        side, depth = whole("size", size, least=2), whole("channels", channels)
        gamma, spread = number("exponent", exponent), number("std", std)
        if spread <= 0:
            raise TurningpointError(f"std is {std}; accepted: a number above 0.")
        k = frequencies(side)
        power = torch.where(k > 0, k.clamp_min(1) ** -gamma, 0.0)
        # in float32, so that machines whose powers differ in the last digit agree on the model
        variances = (power * (spread**2 / power.mean())).float().double()
        covariances = Covariances.fourier(variances.expand(1, depth, -1, -1))
        super().__init__(torch.zeros(1, depth, side, side), covariances, schedule=schedule)
        self.n_classes = None

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """The variances of the modes by their radial frequency.

        Returns
        -------
        frequency : Tensor (F,)
            The lengths of k that occur, ascending, in cycles per image, without 0.
        variance : Tensor (F,)
            lambda_k; the mode emerges at sigma / alpha = sqrt(lambda_k).
        """
        variances = self.covariances.eigenvalues[0].reshape(self.shape)[0].flatten()
        k = frequencies(self.shape[-1]).flatten().to(variances)
        order = k.argsort(stable=True)
        frequency, counts = k[order].unique_consecutive(return_counts=True)
        first = counts.cumsum(0) - counts
        return frequency[1:], variances[order][first][1:]

    def fourier_variances(self) -> Tensor:
        """The variance of every mode of an orthonormal `torch.fft.fft2`, (channels, size, size)."""
        return self.covariances.eigenvalues[0].reshape(self.shape)


def frequencies(size: int) -> Tensor:
    """The length of the wave vector of every mode of `torch.fft.fft2`, (size, size), in cycles per image.

    >>> frequencies(4)[0]
    tensor([0., 1., 2., 1.], dtype=torch.float64)
    """
    cycles = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64).round()
    squares: Tensor = cycles[:, None].square() + cycles.square()
    return squares.sqrt()


@MODELS.add("field")
def load(
    size: int = 32,
    channels: int = 1,
    exponent: float = 2.0,
    std: float = 0.5,
    schedule: Schedule | str = "vp",
) -> Field:
    """A Gaussian random field; see `Field`.

    Examples
    --------
    >>> load(size=8).spectrum()[0][:3]
    tensor([1.0000, 1.4142, 2.0000], dtype=torch.float64)
    """
    return Field(size, channels, exponent, std, schedule)
