r"""``frequency``: radial bands of the Fourier transform, from coarse to fine.

Let :math:`\hat x_k` be the orthonormal 2-D DFT of a channel and :math:`|k|` its radial frequency in cycles
per image (per shorter side, where sides differ).  With :math:`N` the Nyquist frequency, half the shorter
side, band :math:`b` of :math:`n` holds

.. math:: N^{b/n} \le |k| < N^{(b+1)/n},

where the first also holds everything below, down to the constant, and the last everything above, up to the
corner.  The edges thus divide the way from 1, a square image's lowest frequency but zero, to Nyquist into
equal ratios: octaves where :math:`N = 2^n`.  With :math:`K_b` the coefficients of a band, all channels together,

.. math::

   \text{content} = (\hat x_k)_{k \in K_b}, \qquad
   \text{energy} = \log_{10} \frac{1}{|K_b|} \sum_{k \in K_b} |\hat x_k|^2, \qquad
   \text{phase}(x, y) = \frac{\sum_{k \in K_b} |\hat x_k| |\hat y_k| \cos(\phi_k - \psi_k)}
                             {\sum_{k \in K_b} |\hat x_k| |\hat y_k|}.

An image is real, so :math:`\hat x_{-k}` is the conjugate of :math:`\hat x_k`: of each such pair one is
kept, times :math:`\sqrt 2`.  By Parseval the distance of two contents is then that of the band-passed
images, and all bands together hold as many numbers as the image has pixels (and at most four zeros more).
The phase leaves out the constant, :math:`k = 0`, which has a sign but no phase, and would otherwise
outweigh the rest of the first band.

Sources: bands of a diffusion model's images, Rissanen et al. 2023 (arXiv 2206.13397), Dieleman 2024,
"Diffusion is spectral autoregression"; phase agreement is the Fourier ring correlation (Saxton & Baumeister
1982, J. Microsc. 127:127) with the product of amplitudes as its normalisation.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Measure, Reading
from .pixels import pictures

FLOOR = 1e-8
"""Mean power that counts as none: far above float32 rounding, far below that of 8-bit pixels, 5e-6."""


class Layout(NamedTuple):
    """Where the bands lie in the half plane of ``rfft2``."""

    edges: tuple[float, ...]
    band: Tensor
    weight: Tensor


@lru_cache(maxsize=64)
def layout(height: int, width: int, bands: int) -> Layout:
    """The bands of images of one size.

    Returns
    -------
    Layout
        ``edges``, bands + 1 numbers in cycles per image; ``band`` (H, W // 2 + 1), to which band a
        coefficient belongs; ``weight`` (H, W // 2 + 1), 1 where it is its own conjugate, else the square
        root of 2, or 0 if its conjugate stands for it.

    Raises
    ------
    TurningpointError
        If ``bands`` is not a positive integer, or so large that a band would be empty.

    Examples
    --------
    >>> [round(edge, 2) for edge in layout(64, 64, 5).edges]
    [0.0, 2.0, 4.0, 8.0, 16.0, 45.25]
    """
    _check(bands)
    shorter = min(height, width)
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    radius = shorter * np.hypot(rows[:, None], columns)
    inner = max(shorter / 2, 1.0) ** (np.arange(1, bands) / bands)
    band = np.searchsorted(inner * (1 - 1e-9), radius, side="right")
    empty = np.flatnonzero(np.bincount(band.ravel(), minlength=bands) == 0)
    if len(empty):
        raise TurningpointError(
            f"bands is {bands}, but band {empty[0]} of images of {height} x {width} pixels would be empty; "
            "accepted: fewer."
        )
    weight = np.full(radius.shape, math.sqrt(2))
    row = np.arange(height)
    partner = -row % height
    for column in {0, width // 2} if width % 2 == 0 else {0}:
        weight[row > partner, column] = 0
        weight[row == partner, column] = 1
    edges = (0.0, *inner.tolist(), float(radius.max()))
    return Layout(edges, torch.from_numpy(band), torch.from_numpy(weight).float())


def band_pass(images: Tensor, bands: int) -> Tensor:
    """The images of each band alone; they sum to the images.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        The batch.
    bands : int
        How many bands.

    Returns
    -------
    Tensor (bands, B, C, H, W)

    Raises
    ------
    TurningpointError
        If the batch holds vectors, or ``bands`` does not suit its size.

    Examples
    --------
    >>> images = torch.rand(2, 3, 16, 16)
    >>> torch.allclose(band_pass(images, 4).sum(0), images, atol=1e-5)
    True
    """
    images = pictures(images, "frequency")
    height, width = images.shape[2:]
    band = layout(height, width, bands).band.to(images.device)
    spectrum = torch.fft.rfft2(images, norm="ortho")
    masked = torch.stack([spectrum * (band == b) for b in range(bands)])
    passed: Tensor = torch.fft.irfft2(masked, s=(height, width), norm="ortho")
    return passed


@MEASURES.add("frequency")
class Frequency(Measure):
    """Content, energy and phase agreement of radial frequency bands.

    Parameters
    ----------
    model : Denoiser, optional
        If given, descriptions state the bands' edges for its images.
    bands : int
        How many.

    Raises
    ------
    TurningpointError
        If the images are vectors, or ``bands`` does not suit their size.

    Examples
    --------
    >>> wave = torch.cos(torch.arange(16) * 2 * torch.pi * 3 / 16).expand(1, 1, 16, 16)
    >>> measure = Frequency(bands=3)
    >>> found = measure.read(wave)
    >>> [round(float((found[f"band{b}"] ** 2).sum())) for b in range(3)]
    [0, 128, 0]
    >>> measure.compare(wave, -wave)["phase1"].tolist()
    [-1.0]
    """

    name = "frequency"

    def __init__(self, model: Any = None, bands: int = 5) -> None:
        _check(bands)
        self.bands = bands
        edges = layout(*_image_size(model), bands).edges if model is not None else None
        self.readings = tuple(
            Reading(f"{stem}{b}", kind, f"{what} of radial band {where}", unit, label=f"{short}{where}")
            for stem, kind, what, unit, short in (
                ("band", "vector", "content", "", "band "),
                ("energy", "scalar", "log10 of the mean power", "decade", "energy of band "),
                ("phase", "comparison", "phase agreement", "", "phase of band "),
            )
            for b, where in enumerate(_names(bands, edges))
        )

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        images = pictures(images, self.name)
        content, energy = {}, {}
        for b, (coefficients, count) in enumerate(self._coefficients(images)):
            values = torch.view_as_real(coefficients).flatten(1)
            power = values.square().sum(1) / (count * images.shape[1])
            content[f"band{b}"] = values.cpu().numpy()
            energy[f"energy{b}"] = power.clamp(min=FLOOR).log10().cpu().numpy()
        return content | energy

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        """Phase agreement per band, each (B,) in [-1, 1]; NaN where a band of either image is empty."""
        a, b = pictures(a, self.name), pictures(b, self.name)
        found = {}
        pairs = zip(self._coefficients(a, constant=False), self._coefficients(b, constant=False), strict=True)
        for index, ((first, count), (second, _)) in enumerate(pairs):
            agreement = (first * second.conj()).real.sum((1, 2))
            largest = (first.abs() * second.abs()).sum((1, 2))
            some = largest > FLOOR * count * a.shape[1]
            found[f"phase{index}"] = torch.where(some, agreement / largest, torch.nan).cpu().numpy()
        return found

    def settings(self) -> dict[str, Any]:
        return {"bands": self.bands}

    def _coefficients(self, images: Tensor, constant: bool = True) -> list[tuple[Tensor, float]]:
        """Per band, the weighted coefficients (B, C, K), and how many of the whole plane they stand for."""
        _, band, weight = layout(images.shape[2], images.shape[3], self.bands)
        spectrum = torch.fft.rfft2(images, norm="ortho").flatten(2)
        if not constant:
            spectrum[:, :, 0] = 0
        found = []
        for b in range(self.bands):
            index = torch.nonzero(((band == b) & (weight > 0)).flatten()).flatten()
            chosen = weight.flatten()[index]
            part = spectrum[:, :, index.to(spectrum.device)] * chosen.to(spectrum.device)
            found.append((part, float(chosen.square().sum())))
        return found


def _check(bands: int) -> None:
    if not isinstance(bands, int) or bands < 1:
        raise TurningpointError(f"bands is {bands!r}; accepted: a positive integer.")


def _image_size(model: Any) -> tuple[int, int]:
    """Height and width of what the model's decoder gives."""
    weights = next(model.parameters(), None) if hasattr(model, "parameters") else None
    example = torch.zeros(1, *model.shape, device=None if weights is None else weights.device)
    with torch.no_grad():
        example = pictures(model.decode(example) if hasattr(model, "decode") else example, "frequency")
    return example.shape[2], example.shape[3]


def _names(bands: int, edges: tuple[float, ...] | None) -> list[str]:
    """``2 (2.9–4.9 cycles)``, or ``2`` while the edges are unknown."""
    if edges is None:
        return [str(b) for b in range(bands)]
    written = [f"{edge:.1f}".removesuffix(".0") if edge < 10 else f"{edge:.0f}" for edge in edges]
    return [f"{b} ({written[b]}–{written[b + 1]} cycles)" for b in range(bands)]
