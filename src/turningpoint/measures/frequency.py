r"""``frequency``: radial bands of the Fourier transform, from coarse to fine.

Let :math:`\hat x_k` be the orthonormal 2-D DFT of a channel and :math:`|k|` its radial frequency in cycles
per image (per shorter side, where sides differ).  With :math:`N` the Nyquist frequency, half the shorter
side, band :math:`b` of :math:`n` holds

.. math:: N^{b/n} \le |k| < N^{(b+1)/n},

where the first also holds everything below, down to the constant, and the last everything above, up to the
corner.  The edges thus divide the way from 1, a square image's lowest frequency but zero, to Nyquist into
equal ratios: octaves where :math:`N = 2^n`.  Edges of one's own, :math:`e_0 < \dots < e_n`, make bands of

.. math:: e_b \le |k| < e_{b+1},

and what lies below the first or from the last edge on is in none of them: ``edges="0,2,4,8"`` leaves out 8 cycles and
all above, ``"1,2,4,inf"`` only the constant and what else is below 1.  With :math:`K_b` the coefficients of a band, all
channels together,

.. math::

   \text{content} = (\hat x_k)_{k \in K_b}, \qquad
   \text{energy} = \log_{10} \frac{1}{|K_b|} \sum_{k \in K_b} |\hat x_k|^2, \qquad
   \text{phase}(x, y) = \frac{\sum_{k \in K_b} |\hat x_k| |\hat y_k| \cos(\phi_k - \psi_k)}
                             {\sum_{k \in K_b} |\hat x_k| |\hat y_k|}.

An image is real, so :math:`\hat x_{-k}` is the conjugate of :math:`\hat x_k`: of each such pair one is
kept, times :math:`\sqrt 2`.  By Parseval the distance of two contents is then that of the band-passed
images, and bands that leave nothing out hold as many numbers as the image has pixels (and at most four zeros more).
The phase leaves out the constant, :math:`k = 0`, which has a sign but no phase, and would otherwise
outweigh the rest of the first band.

Sources: bands of a diffusion model's images, Rissanen et al. 2023 (arXiv 2206.13397), Dieleman 2024,
"Diffusion is spectral autoregression"; phase agreement is the Fourier ring correlation (Saxton & Baumeister
1982, J. Microsc. 127:127) with the product of amplitudes as its normalisation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._looking import Look, Looking
from .pixels import pictures

BANDS = 5
"""Bands for whom nothing else is said."""
FLOOR = 1e-8
"""Mean power that counts as none: far above float32 rounding, far below that of 8-bit pixels, 5e-6."""


class Layout(NamedTuple):
    """Where the bands lie in the half plane of ``rfft2``."""

    edges: tuple[float, ...]
    band: Tensor
    weight: Tensor


class Places(NamedTuple):
    """Where the bands of images of one size lie in the flat half plane of ``rfft2``, P coefficients.

    Attributes
    ----------
    members : Tensor (P, bands)
        How many coefficients of the whole plane each stands for in each band: 2, 1 or 0.
    content : list of Tensor (K,)
        By band, the coefficients of which one stands for each pair of conjugates.
    weights : list of Tensor (K,)
        Their weights, the root of 2 where they stand for two.
    """

    members: Tensor
    content: list[Tensor]
    weights: list[Tensor]

    def sums(self, values: Tensor, constant: bool = True) -> Tensor:
        """Sums of values (B, P) over the whole of each band, (B, bands), with or without k = 0."""
        first = 0 if constant else 1
        return values[:, first:] @ self.members[first:]

    @property
    def counts(self) -> Tensor:
        """How many coefficients of the whole plane are in each band, (bands,)."""
        return self.members.sum(0)


@dataclass(frozen=True)
class Bands:
    """How the radial frequencies are divided; made by `radial_bands`.

    Attributes
    ----------
    count : int
        How many bands.
    edges : tuple of count + 1 floats, optional
        In cycles per image; None for equal ratios up to Nyquist.

    Examples
    --------
    >>> radial_bands(edges="0,2,4.5,inf").names()
    ['0 (0–2 cycles)', '1 (2–4.5 cycles)', '2 (4.5–∞ cycles)']
    """

    count: int
    edges: tuple[float, ...] | None = None

    def layout(self, height: int, width: int) -> Layout:
        """Where the bands lie in images of one size; see `layout`."""
        return layout(height, width, self.count, self.edges)

    def names(self, size: tuple[int, int] | None = None) -> list[str]:
        """``2 (2.9–4.9 cycles)``, or ``2`` where neither the edges nor an image's size are known."""
        if self.edges is not None:
            written = [f"{edge:g}".replace("inf", "∞") for edge in self.edges]
        elif size is not None:
            own = self.layout(*size).edges
            written = [f"{edge:.1f}".removesuffix(".0") if edge < 10 else f"{edge:.0f}" for edge in own]
        else:
            return [str(b) for b in range(self.count)]
        return [f"{b} ({written[b]}–{written[b + 1]} cycles)" for b in range(self.count)]

    def settings(self) -> dict[str, Any]:
        """What identifies them: ``bands``, or ``edges`` as text."""
        if self.edges is None:
            return {"bands": self.count}
        return {"edges": ",".join(f"{edge:.12g}" for edge in self.edges)}

    def places(self, height: int, width: int, device: torch.device) -> Places:
        """Where they lie in the half plane of images of one size."""
        return _places(self, height, width, device)


def radial_bands(bands: int = BANDS, edges: Any = None) -> Bands:
    """Bands by their number, or by edges of one's own.

    Parameters
    ----------
    bands : int
        How many, of equal ratios up to Nyquist.
    edges : str or sequence of float, optional
        Two or more, ascending, in cycles per image; in a text, between commas, colons or spaces.

    Raises
    ------
    TurningpointError
        If ``bands`` is not a positive integer, ``edges`` do not ascend from 0 or more, or both are given and
        disagree.

    Examples
    --------
    >>> radial_bands(edges="0:2:4:8")
    Bands(count=3, edges=(0.0, 2.0, 4.0, 8.0))
    """
    _check(bands)
    if edges is None:
        return Bands(bands)
    parts = re.split(r"[,:;\s]+", edges.strip()) if isinstance(edges, str) else edges
    try:
        found = tuple(float(part) for part in parts) if isinstance(parts, Iterable) else ()
    except (TypeError, ValueError):
        found = ()
    if len(found) < 2 or not found[0] >= 0 or not all(a < b for a, b in pairwise(found)):
        raise TurningpointError(
            f"edges is {edges!r}; accepted: two or more ascending numbers from 0 on, in cycles per image, "
            "such as '0,2,4,8'."
        )
    if bands not in (BANDS, len(found) - 1):
        raise TurningpointError(
            f"bands is {bands}, but edges {edges!r} divide {len(found) - 1}; accepted: one of the two."
        )
    return Bands(len(found) - 1, found)


@lru_cache(maxsize=64)
def layout(height: int, width: int, bands: int, edges: tuple[float, ...] | None = None) -> Layout:
    """The bands of images of one size.

    Parameters
    ----------
    height, width : int
        Of the images, in pixels.
    bands : int
        How many.
    edges : tuple of bands + 1 floats, optional
        Their edges, by default of equal ratios up to Nyquist.

    Returns
    -------
    Layout
        ``edges``, bands + 1 numbers in cycles per image; ``band`` (H, W // 2 + 1), to which band a
        coefficient belongs, -1 if to none; ``weight`` (H, W // 2 + 1), 1 where it is its own conjugate, else the
        square root of 2, or 0 if its conjugate stands for it.

    Raises
    ------
    TurningpointError
        If ``bands`` is not a positive integer, or a band would be empty.

    Examples
    --------
    >>> [round(edge, 2) for edge in layout(64, 64, 5).edges]
    [0.0, 2.0, 4.0, 8.0, 16.0, 45.25]
    """
    _check(bands)
    shorter = min(height, width)
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    radius = shorter * np.hypot(rows[:, None], columns)
    inner = max(shorter / 2, 1.0) ** (np.arange(1, bands) / bands) if edges is None else np.array(edges[1:-1])
    band = np.searchsorted(inner * (1 - 1e-9), radius, side="right")
    if edges is not None:
        band[(radius < edges[0] * (1 - 1e-9)) | (radius >= edges[-1] * (1 - 1e-9))] = -1
    empty = np.flatnonzero(np.bincount(band[band >= 0], minlength=bands) == 0)
    if len(empty) and edges is None:
        raise TurningpointError(
            f"bands is {bands}, but band {empty[0]} of images of {height} x {width} pixels would be empty; "
            "accepted: fewer."
        )
    if len(empty):
        low, high = edges[empty[0]], edges[empty[0] + 1]  # type: ignore[index]
        raise TurningpointError(
            f"edges are {edges}, but images of {height} x {width} pixels have no frequency from {low:g} to "
            f"below {high:g} cycles; accepted: bands that hold some, up to {radius.max():.4g} cycles."
        )
    weight = np.full(radius.shape, math.sqrt(2))
    row = np.arange(height)
    partner = -row % height
    for column in {0, width // 2} if width % 2 == 0 else {0}:
        weight[row > partner, column] = 0
        weight[row == partner, column] = 1
    all_edges = (0.0, *inner.tolist(), float(radius.max())) if edges is None else edges
    return Layout(all_edges, torch.from_numpy(band), torch.from_numpy(weight).float())


@lru_cache(maxsize=64)
def _places(bands: Bands, height: int, width: int, device: torch.device) -> Places:
    _, band, weight = (torch.as_tensor(part).flatten() for part in bands.layout(height, width))
    content = [((band == b) & (weight > 0)).nonzero().flatten() for b in range(bands.count)]
    share = torch.full((height, width // 2 + 1), 2.0)
    share[:, [0, width // 2] if width % 2 == 0 else [0]] = 1
    members = (band[:, None] == torch.arange(bands.count)) * share.flatten()[:, None]
    weights = [weight[index].to(device) for index in content]
    return Places(members.to(device), [index.to(device) for index in content], weights)


def band_pass(images: Tensor, bands: int = BANDS, edges: Any = None) -> Tensor:
    """The images of each band alone; they sum to the images if the edges leave nothing out.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        The batch.
    bands : int
        How many bands.
    edges : str or sequence of float, optional
        As in `radial_bands`.

    Returns
    -------
    Tensor (bands, B, C, H, W)

    Raises
    ------
    TurningpointError
        If the batch holds vectors, or ``bands`` or ``edges`` do not suit its size.

    Examples
    --------
    >>> images = torch.rand(2, 3, 16, 16)
    >>> torch.allclose(band_pass(images, 4).sum(0), images, atol=1e-5)
    True
    """
    images = pictures(images, "frequency")
    height, width = images.shape[2:]
    which = radial_bands(bands, edges)
    band = which.layout(height, width).band.to(images.device)
    spectrum = torch.fft.rfft2(images, norm="ortho")
    masked = torch.stack([spectrum * (band == b) for b in range(which.count)])
    passed: Tensor = torch.fft.irfft2(masked, s=(height, width), norm="ortho")
    return passed


class Banded(Looking):
    """A measure of the amplitudes and phases in radial bands."""

    bands: Bands

    def look(self, images: Tensor) -> dict[str, Any]:
        """``spectrum`` and ``amplitudes`` of all coefficients (B, C, P), and the `Places` of the bands among them."""
        images = pictures(images, self.name)
        spectrum = torch.fft.rfft2(images, norm="ortho").flatten(2)
        amplitudes = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).sqrt_()
        places = self.bands.places(images.shape[2], images.shape[3], images.device)
        return {"spectrum": spectrum, "amplitudes": amplitudes, "places": places}


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """The real part of x times the conjugate of y, of coefficients (B, C, P), summed over channels, (B, P)."""
    products = (torch.view_as_real(first) * torch.view_as_real(second)).sum(1)
    return products[..., 0] + products[..., 1]


def phase_agreement(first: Look, second: Look) -> tuple[Tensor, Tensor]:
    """Agreement of phases in each band of pairs of images, and the sums of the products of amplitudes.

    Parameters
    ----------
    first, second : Look
        Of a `Banded`.

    Returns
    -------
    phase, shared : Tensor (B, bands)
        Both without the constant; a phase is NaN where a band of either image is empty.
    """
    places: Places = first["places"]
    shared = places.sums((first["amplitudes"] * second["amplitudes"]).sum(1), constant=False)
    agreeing = places.sums(inner_products(first["spectrum"], second["spectrum"]), constant=False)
    floor = FLOOR * first["amplitudes"].shape[1] * places.counts
    return torch.where(shared > floor, agreeing / shared, torch.nan), shared


def by_band(stem: str, values: Tensor) -> dict[str, Tensor]:
    """Numbers (B, bands) as a reading for each band."""
    return {f"{stem}{b}": value for b, value in enumerate(values.unbind(1))}


@MEASURES.add("frequency")
class Frequency(Banded):
    """Content, energy and phase agreement of radial frequency bands.

    Parameters
    ----------
    model : Denoiser, optional
        If given, descriptions state the bands' edges for its images.
    bands : int
        How many.
    edges : str or sequence of float, optional
        Edges of one's own in place of their number: ``frequency?edges=0,2,4,8``; what they leave out is not read.

    Raises
    ------
    TurningpointError
        If the images are vectors, or ``bands`` or ``edges`` do not suit their size.

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

    def __init__(self, model: Any = None, bands: int = BANDS, edges: Any = None) -> None:
        self.bands = radial_bands(bands, edges)
        names = self.bands.names(None if model is None else image_size(model))
        self.readings = tuple(
            Reading(f"{stem}{b}", kind, f"{what} of radial band {where}", unit, label=f"{short}{where}")
            for stem, kind, what, unit, short in (
                ("band", "vector", "content", "", "band "),
                ("energy", "scalar", "log10 of the mean power", "decade", "energy of band "),
                ("phase", "comparison", "phase agreement", "", "phase of band "),
            )
            for b, where in enumerate(names)
        )

    def told(self, seen: Look) -> dict[str, Tensor]:
        places: Places = seen["places"]
        power = seen["amplitudes"].square().mean(1)
        energies = (places.sums(power) / places.counts).clamp(min=FLOOR).log10()
        content = {
            f"band{b}": torch.view_as_real(seen["spectrum"][:, :, index] * weight).flatten(1)
            for b, (index, weight) in enumerate(zip(places.content, places.weights, strict=True))
        }
        return content | by_band("energy", energies)

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """Phase agreement per band, each (B,) in [-1, 1]; NaN where a band of either image is empty."""
        return by_band("phase", phase_agreement(first, second)[0])

    def settings(self) -> dict[str, Any]:
        return self.bands.settings()


def _check(bands: int) -> None:
    if not isinstance(bands, int) or bands < 1:
        raise TurningpointError(f"bands is {bands!r}; accepted: a positive integer.")


def image_size(model: Any) -> tuple[int, int]:
    """Height and width of what the model's decoder gives."""
    weights = next(model.parameters(), None) if hasattr(model, "parameters") else None
    example = torch.zeros(1, *model.shape, device=None if weights is None else weights.device)
    with torch.no_grad():
        example = pictures(model.decode(example) if hasattr(model, "decode") else example, "frequency")
    return example.shape[2], example.shape[3]
