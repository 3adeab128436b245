r"""``spectrum``: how an image's power lies in the plane of wave vectors, by length and by direction.

With :math:`p_k = \sum_c |\hat x_{ck}|^2 / C` the power of the wave vector :math:`k` in the orthonormal 2-D
DFT, mean over the channels, and :math:`|k|` in cycles per image (per shorter side, where sides differ), up to
Nyquist's :math:`N`,

.. math::

   \text{power}_f = \big\langle p_k \big\rangle_{f - 1/2 \le |k| < f + 1/2}, \quad f = 0, \dots, N, \qquad
   \text{slope} = \arg\min_s \min_a \sum_{f \ge 1} (\log \text{power}_f - a - s \log f)^2 .

Images of natural scenes have slopes about -2 (Field 1987, J. Opt. Soc. Am. A 4:2379).  Rings without power,
below `FLOOR`, are left out of the line, and the corners beyond Nyquist out of the rings.  ``energy`` is the
mean power of a band of `frequency`, not its logarithm.

**Direction.**  :math:`\theta_k` in [0, 180) degrees is the angle of the wave vector, counted from the
horizontal counter-clockwise as one sees the picture: 0 for vertical stripes, 90 for horizontal ones, 45 for
stripes that fall to the right.  Sector :math:`s` of :math:`n` is centred on :math:`180 s / n` degrees and 180
/ n wide.  Without the constant,

.. math::

   \text{orientation}_s = \frac{\sum_{\theta_k \in s} p_k}{\sum_{k \ne 0} p_k}, \qquad
   \text{anisotropy} = \frac{\big| \sum_{k \ne 0} p_k e^{2 i \theta_k} \big|}{\sum_{k \ne 0} p_k},

the resultant length of the doubled angles, weighted by power (Mardia & Jupp 2000, "Directional Statistics",
2.3 and 9.1): 1 for one grating, 0 for a picture without any preferred direction.  At Nyquist a wave and its
mirror image are the same pixels; each direction gets half of their power.

**Phase against amplitude.**  Two pictures are compared in a band :math:`K` (without the constant) by

.. math::

   \text{amplitude} = \frac{2 \sum_K |\hat x_k| |\hat y_k|}{\sum_K |\hat x_k|^2 + |\hat y_k|^2}, \qquad
   \text{phase} = \frac{\mathrm{Re} \sum_K \hat x_k \hat y_k^*}{\sum_K |\hat x_k| |\hat y_k|}, \qquad
   \text{amplitude} \cdot \text{phase} = 1 - \frac{\sum_K |\hat x_k - \hat y_k|^2}
                                                   {\sum_K |\hat x_k|^2 + |\hat y_k|^2} .

Amplitude is 1 where all amplitudes agree, and 0 where only one of the two pictures has any; phase is that of
`frequency`.  Their product is the agreement of the band's content (the overlap of Dice 1945, Ecology 26:297,
for numbers in place of sets), so the two say what a difference is made of.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._looking import Look
from .frequency import (
    BANDS,
    FLOOR,
    Banded,
    Places,
    by_band,
    image_size,
    layout,
    phase_agreement,
    radial_bands,
)

SECTORS = 8


class Plane(NamedTuple):
    """The half plane of ``rfft2``, flat, K wave vectors.

    Attributes
    ----------
    share : Tensor (K,)
        How many wave vectors of the whole plane each stands for: 2, 1, or 0.
    ring : Tensor (K,)
        The nearest integer to the length, -1 beyond Nyquist.
    sectors : Tensor (K, n)
        To which sector a wave vector belongs, in parts that sum to 1; 0 for the constant.
    doubled : Tensor (K, 2)
        Cosine and sine of twice its angle; 0 for the constant.
    """

    share: Tensor
    ring: Tensor
    sectors: Tensor
    doubled: Tensor


@lru_cache(maxsize=32)
def plane(height: int, width: int, sectors: int = SECTORS) -> Plane:
    """Lengths and directions of the wave vectors of images of one size.

    Examples
    --------
    >>> flat = plane(8, 8, 4)
    >>> int(flat.share.sum()), flat.ring.reshape(8, 5)[0].tolist()
    (64, [0, 1, 2, 3, 4])
    >>> flat.sectors.reshape(8, 5, 4)[1, 1].tolist()   # a wave that runs down to the right
    [0.0, 0.0, 0.0, 1.0]
    """
    down, right = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    shorter = min(height, width)
    ring = np.floor(shorter * np.hypot(down, right) + 0.5 + 1e-9).astype(int)
    angle = np.arctan2(-down, right) % np.pi
    middle = (down == 0) & (right == 0)
    at_nyquist = (down == -0.5) | (right == 0.5)
    parts = np.zeros((*angle.shape, sectors))
    for one in (angle, np.where(at_nyquist, -angle, angle)):
        index = np.floor(one / (np.pi / sectors) + 0.5 + 1e-9).astype(int) % sectors
        parts += 0.5 * (index[..., None] == np.arange(sectors))
    doubled = np.stack([np.cos(2 * angle), np.where(at_nyquist, 0.0, np.sin(2 * angle))], -1)
    parts[middle], doubled[middle] = 0, 0
    ring[ring > shorter // 2] = -1
    share = layout(height, width, 1).weight.double().square().round().flatten()
    return Plane(
        share,
        torch.from_numpy(ring.ravel()),
        torch.from_numpy(parts.reshape(-1, sectors)),
        torch.from_numpy(doubled.reshape(-1, 2)),
    )


def amplitudes(images: Tensor) -> Tensor:
    """The absolute values of all modes of an orthonormal `torch.fft.fft2`, unshifted, (B, C, H, W).

    They have the precision of the images.

    Examples
    --------
    >>> amplitudes(torch.ones(1, 1, 2, 2)).flatten().tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    if images.ndim != 4:
        raise TurningpointError(f"images have shape {tuple(images.shape)}; accepted: (B, C, H, W).")
    found: Tensor = torch.fft.fft2(images.detach(), norm="ortho").abs()
    return found


@MEASURES.add("spectrum")
class Spectrum(Banded):
    """Power by frequency and direction, its slope and anisotropy; agreement of amplitudes and of phases by band.

    Parameters
    ----------
    model : Denoiser, optional
        If given, descriptions state the bands' edges for its images.
    bands : int
        How many radial bands, as in `frequency`.
    edges : str or sequence of float, optional
        Edges of one's own in place of their number: ``spectrum?edges=0,2,4,8``.
    sectors : int
        Directions that are told apart.

    Raises
    ------
    TurningpointError
        If ``sectors`` is not an integer of 2 or more, the images are vectors, or ``bands`` or ``edges`` do
        not suit their size.

    Examples
    --------
    >>> wave = torch.cos(torch.arange(16) * 2 * torch.pi * 3 / 16).expand(1, 1, 16, 16)
    >>> found = Spectrum().read(wave)
    >>> found["orientation"].round(3).tolist(), found["anisotropy"].round(3).tolist()
    ([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], [1.0])
    >>> Spectrum(bands=1).compare(wave, 2 * wave)["amplitude0"]
    array([0.8], dtype=float32)
    """

    name = "spectrum"
    by_default = False

    def __init__(
        self, model: Any = None, bands: int = BANDS, edges: Any = None, sectors: int = SECTORS
    ) -> None:
        if not isinstance(sectors, int) or isinstance(sectors, bool) or sectors < 2:
            raise TurningpointError(f"sectors is {sectors!r}; accepted: an integer of 2 or more.")
        self.bands, self.sectors = radial_bands(bands, edges), sectors
        names = self.bands.names(None if model is None else image_size(model))
        self.readings = (
            Reading("power", "vector", "mean power at each whole number of cycles", label="power spectrum"),
            Reading("slope", "scalar", "slope of log power over log frequency", label="spectral slope"),
            Reading(
                "orientation", "vector", f"share of the power in {sectors} directions", label="orientation"
            ),
            Reading(
                "anisotropy",
                "scalar",
                "resultant length of the directions of the power",
                label="anisotropy",
                absent=0.0,
            ),
            *(
                Reading(
                    f"energy{b}",
                    "scalar",
                    f"mean power of radial band {where}",
                    label=f"power of band {where}",
                    absent=0.0,
                )
                for b, where in enumerate(names)
            ),
            *(
                Reading(
                    f"{what}{b}",
                    "comparison",
                    f"agreement of {what}s in radial band {where}",
                    label=f"{what} of band {where}",
                )
                for what in ("amplitude", "phase")
                for b, where in enumerate(names)
            ),
        )

    def look(self, images: Tensor) -> dict[str, Any]:
        return {**super().look(images), "size": tuple(images.shape[2:])}

    def told(self, seen: Look) -> dict[str, Tensor]:
        share, ring, sectors, doubled = (
            part.to(seen["amplitudes"].device) for part in plane(*seen["size"], self.sectors)
        )
        power = seen["amplitudes"].square().mean(1)
        counted = share * power.double()
        rings = _by_group(counted, ring) / _by_group(share[None], ring)
        all_of_it = (counted.sum(1) - counted[:, 0])[:, None]
        some = all_of_it > FLOOR * share.sum()
        divisor = torch.where(some, all_of_it, 1.0)
        orientation = torch.where(some, counted @ sectors / divisor, torch.nan)
        resultant = torch.where(some, counted @ doubled / divisor, 0.0)
        found = {
            "power": rings,
            "slope": _slope(rings),
            "orientation": orientation,
            "anisotropy": resultant.norm(dim=1).clamp(max=1),
        }
        places: Places = seen["places"]
        found |= by_band("energy", places.sums(power) / places.counts)
        return {name: values.float() for name, values in found.items()}

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """Agreement of amplitudes, in [0, 1], and of phases, in [-1, 1], per band.

        An amplitude is NaN where a band of both images is empty, a phase where it is of either.
        """
        places: Places = first["places"]
        phase, shared = phase_agreement(first, second)
        of_first, of_second = first["amplitudes"], second["amplitudes"]
        both = torch.addcmul(of_first.square(), of_second, of_second).sum(1) / 2
        power, floor = places.sums(both, constant=False), FLOOR * of_first.shape[1] * places.counts
        amplitude = torch.where(power > floor, shared / power, torch.nan)
        return by_band("amplitude", amplitude) | by_band("phase", phase)

    def settings(self) -> dict[str, Any]:
        return {**self.bands.settings(), "sectors": self.sectors}


def _by_group(values: Tensor, group: Tensor) -> Tensor:
    """Sums of (B, K) over those with the group 0, 1, ... of K, (B, G); -1 is none."""
    members = group[:, None] == torch.arange(int(group.max()) + 1, device=group.device)
    return values @ members.to(values)


def _slope(rings: Tensor) -> Tensor:
    """The slope of the line through the logarithms of power (B, F) and frequency; NaN with fewer than two rings."""
    power = rings[:, 1:]
    there = (power > FLOOR).to(rings)
    log_power = power.clamp(min=FLOOR).log()
    log_f = torch.arange(1, rings.shape[1], device=rings.device).to(rings).log()
    count = there.sum(1).clamp(min=1)
    x = (log_f - ((there * log_f).sum(1) / count)[:, None]) * there
    spread = x.square().sum(1)
    return torch.where(spread > math.ulp(1.0), (x * log_power).sum(1) / spread, torch.nan)
