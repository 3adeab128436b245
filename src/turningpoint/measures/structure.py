r"""``structure``: edges, sharpness and global shape of images, and how alike those of two images are.

All but ``low`` and the similarities is read from 8-bit levels, as by the libraries that it is checked against:
:math:`g` is OpenCV's grey of 0, ..., 255, and :math:`P` the number of pixels.

==================  =========================================================================================
``edges``           share of the pixels that are edges of ``cv2.Canny(image, low, high)``, of the color image
``gradient``        mean of :math:`|\nabla g| = \sqrt{(g_x^2 + g_y^2) / 2}`, :math:`g_x, g_y` the Sobel derivatives
                    divided by 4: ``skimage.filters.sobel``; a black-white border has 180 on either side
``edge_strength``   mean of the same over the edge pixels; NaN without edges
``sharpness``       variance of the Laplacian :math:`\Delta g` (4 neighbours): ``cv2.Laplacian``
``entropy``         Shannon entropy of the greys in bits: ``skimage.measure.shannon_entropy``
``low``             power of the low frequencies of the luminance :math:`y` in [-1, 1],
                    :math:`\sum_{0 < |k| < r} |\hat y_k|^2`, :math:`\hat y_k = P^{-1} \sum_p y_p e^{-2 \pi i k p}`
``ssim, msssim``    structural similarity at one scale, and at several (`_similarity`)
``silhouette``      intersection over union of silhouettes
``edge_overlap``    F1 score of the edges: harmonic mean of the shares of the edge pixels of either image that
                    have one of the other within one pixel (8 neighbours)
==================  =========================================================================================

:math:`|k|` is in cycles along the shorter side. By Parseval's theorem ``low`` is the variance of the low-passed
luminance: with all frequencies it would be the square of ``color.contrast``. A *silhouette* is what Otsu's
threshold cuts out, each image's own: in the first image of a pair the side, brighter or darker, that has fewer
pixels (the brighter of two equal ones), and the same side in the second.

Sources: Canny 1986, IEEE Trans. Pattern Anal. Mach. Intell. 8(6):679; variance of the Laplacian, Pech-Pacheco et al.
2000, ICPR 3:314; Otsu 1979, IEEE Trans. Syst. Man Cybern. 9(1):62; tolerant edge scores, Martin, Fowlkes and Malik
2004, IEEE Trans. Pattern Anal. Mach. Intell. 26(5):530 (here without matching pixels one to one).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._canny import edges, near, sobel
from ._grey import entropy, grey, histogram, levels, otsu
from ._looking import Look, Looking
from ._similarity import similarities
from .pixels import luminance, pictures, variance

SMALLEST = 3
NUMBERS = ("edges", "edge_strength", "gradient", "sharpness", "entropy", "low")
PART = 2**19
"""How many numbers of a batch are looked at together: some fit a processor's cache, and temporaries stay small."""


def global_shape_metric(images: Tensor, side: int = 10) -> Tensor:
    r"""Sum of :math:`|\hat g_k|` over the frequencies :math:`0 \le k_y, k_x < \text{side}`, of the grey 0, ..., 255.

    It is the first ``side`` x ``side`` numbers of the magnitude of an unshifted Fourier transform (not normalised),
    a score that has been used for "global shape". It is here for comparison with such numbers and is no reading of
    ``structure``: it holds the constant, so that it is mostly the mean brightness; of the low frequencies it holds
    those whose components are both positive, or one of them 0, so that an image and its mirror image differ; it
    grows with the number of pixels; and a magnitude is no energy, so that parts do not add up. ``low`` has none of
    these defects.

    Parameters
    ----------
    images : Tensor (B, C, H, W) in [-1, 1]
        Three channels are red, green and blue.
    side : int
        How many frequencies along each axis.

    Returns
    -------
    Tensor (B,), float64

    Examples
    --------
    >>> global_shape_metric(torch.ones(1, 1, 16, 16)) / 16**2
    tensor([255.], dtype=torch.float64)
    """
    greys = grey(levels(pictures(images, "structure"))).double()
    magnitude: Tensor = torch.fft.fft2(greys)[:, :side, :side].abs()
    return magnitude.sum((1, 2))


def low_power(images: Tensor, radius: float) -> Tensor:
    """Variance of the luminance that frequencies above 0 and below a radius make up.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        Nothing is clipped.
    radius : float
        Cycles along the shorter side.

    Returns
    -------
    Tensor (B,)

    Examples
    --------
    >>> wave = torch.cos(torch.arange(16) * 2 * torch.pi * 3 / 16).expand(1, 1, 16, 16)
    >>> [round(float(low_power(wave, radius)), 3) for radius in (3, 4)]
    [0.0, 0.5]
    """
    height, width = images.shape[2:]
    weights = _low(height, width, radius).to(images.device)
    spectrum = torch.fft.rfft2(luminance(images), norm="forward")
    power: Tensor = torch.view_as_real(spectrum).square().sum(3)
    return (power * weights).sum((1, 2))


def silhouette_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of silhouettes; NaN where neither image has one.

    Parameters
    ----------
    a, b : Tensor (B, H, W)
        Whole numbers 0, ..., 255; ``a`` tells whether the brighter or the darker side counts.

    Returns
    -------
    Tensor (B,)

    Examples
    --------
    >>> a = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]])
    >>> b = torch.tensor([[[50.0, 50.0, 90.0], [50.0, 90.0, 90.0]]])
    >>> silhouette_overlap(a, b), silhouette_overlap(255 - a, 255 - b)
    (tensor([0.6667]), tensor([0.6667]))
    """
    return _shared(*(_bright(x, histogram(x)) for x in (a, b)))


def edge_overlap(a: Tensor, b: Tensor) -> Tensor:
    """F1 score of edges that may be one pixel apart; NaN where neither image has any.

    Parameters
    ----------
    a, b : Tensor (B, H, W)
        Truth values.

    Returns
    -------
    Tensor (B,)

    Examples
    --------
    >>> a, b = torch.zeros(2, 1, 4, 8, dtype=torch.bool)
    >>> a[0, :, 2] = b[0, :, 3] = b[0, :, 7] = True
    >>> edge_overlap(a, b)
    tensor([0.6667])
    """
    found_a, found_b = (a & near(b)).sum((1, 2)), (b & near(a)).sum((1, 2))
    count_a, count_b = a.sum((1, 2)), b.sum((1, 2))
    share_a, share_b = found_a / count_a.clamp(min=1), found_b / count_b.clamp(min=1)
    score = 2 * share_a * share_b / (share_a + share_b)
    return torch.where((count_a + count_b > 0) & (found_a == 0), 0.0, score)


@MEASURES.add("structure")
class Structure(Looking):
    """Edges, gradients, sharpness, entropy and low-frequency power; similarity, silhouettes and edges of pairs.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    low, high : float
        Canny's thresholds of the gradient's L1 norm (Sobel, not normalised) in 8-bit levels.
    radius : float
        Below how many cycles along the shorter side a frequency is low.

    Raises
    ------
    TurningpointError
        If the settings are out of range or, on reading, if the batch holds vectors or images below 3 x 3 pixels.

    Examples
    --------
    >>> half = torch.ones(1, 3, 16, 16)
    >>> half[..., :8] = -1
    >>> found = Structure().read(half)
    >>> {name: round(float(values[0]), 2) for name, values in found.items()}
    {'edges': 0.06, 'edge_strength': 180.31, 'gradient': 22.54, 'sharpness': 8128.12, 'entropy': 1.0, 'low': 0.92}
    >>> {name: round(float(values[0]), 2) for name, values in Structure().compare(half, half).items()}
    {'ssim': 1.0, 'msssim': 1.0, 'silhouette': 1.0, 'edge_overlap': 1.0}
    """

    name = "structure"
    by_default = False

    def __init__(self, model: Any = None, low: float = 100, high: float = 200, radius: float = 4) -> None:
        del model
        if not (_number(low) and _number(high) and 0 <= low <= high):
            raise TurningpointError(
                f"low and high are {low!r} and {high!r}; accepted: two numbers, 0 <= low <= high, in 8-bit levels."
            )
        if not (_number(radius) and radius > 1):
            raise TurningpointError(f"radius is {radius!r}; accepted: a number of cycles above 1.")
        self.low, self.high, self.radius = low, high, radius
        self.readings = (
            Reading("edges", "scalar", "share of Canny's edge pixels", label="edge density", absent=0.0),
            Reading(
                "edge_strength", "scalar", "mean gradient on the edges", "grey level", label="edge strength"
            ),
            Reading("gradient", "scalar", "mean gradient", "grey level", label="gradient", absent=0.0),
            Reading(
                "sharpness",
                "scalar",
                "variance of the Laplacian",
                "grey level²",
                label="sharpness",
                absent=0.0,
            ),
            Reading("entropy", "scalar", "entropy of the greys", "bit", label="entropy", absent=0.0),
            Reading(
                "low",
                "scalar",
                f"variance of the luminance below {radius:g} cycles per image",
                label="low frequencies",
                absent=0.0,
            ),
            Reading("ssim", "comparison", "structural similarity", label="SSIM"),
            Reading("msssim", "comparison", "multi-scale structural similarity", label="MS-SSIM"),
            Reading("silhouette", "comparison", "intersection over union of silhouettes", label="silhouette"),
            Reading("edge_overlap", "comparison", "F1 score of edges within a pixel", label="edge overlap"),
        )

    def look(self, images: Tensor) -> dict[str, Any]:
        """The numbers that are read, the images, their edges, and what is brighter than Otsu's threshold."""
        images = _large_enough(images)
        return _joined([self._look(part) for part in images.split(_at_once(images))])

    def told(self, seen: Look) -> dict[str, Tensor]:
        return dict(zip(NUMBERS, seen["numbers"].unbind(1), strict=True))

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """Similarities (B,), 1 for equal images; NaN where both images have no silhouette, or no edges."""
        names = ("images", "bright", "edges")
        parts = zip(
            *(one[name].split(_at_once(one["images"])) for one in (first, second) for name in names),
            strict=True,
        )
        return _joined([_compared(*part) for part in parts])

    def settings(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "radius": self.radius}

    def _look(self, images: Tensor) -> dict[str, Tensor]:
        pixels = levels(images)
        greys = grey(pixels)
        dx, dy = sobel(pixels)
        edge = edges(dx, dy, self.low, self.high)
        across, down = (dx, dy) if len(dx[0]) == 1 else sobel(greys[:, None])
        gradient = torch.hypot(across[:, 0], down[:, 0]) / (4 * np.sqrt(2))
        counts = histogram(greys)
        numbers = {
            "edges": edge.float().mean((1, 2)),
            "edge_strength": (gradient * edge).sum((1, 2)) / edge.sum((1, 2)),
            "gradient": gradient.mean((1, 2)),
            "sharpness": variance(_laplacian(greys).flatten(1)),
            "entropy": entropy(counts),
            "low": low_power(images, self.radius),
        }
        told = torch.stack([numbers[name] for name in NUMBERS], 1)
        return {"numbers": told, "images": images, "edges": edge, "bright": _bright(greys, counts)}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _large_enough(images: Tensor) -> Tensor:
    images = pictures(images, "structure")
    if min(images.shape[2:]) < SMALLEST:
        raise TurningpointError(
            f"measure is 'structure', but the images have {images.shape[2]} x {images.shape[3]} pixels; "
            f"accepted: at least {SMALLEST} x {SMALLEST}."
        )
    return images.contiguous()


def _at_once(images: Tensor) -> int:
    return max(1, PART // images[0].numel())


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return (
        parts[0]
        if len(parts) == 1
        else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    )


def _compared(
    a: Tensor, bright_a: Tensor, edges_a: Tensor, b: Tensor, bright_b: Tensor, edges_b: Tensor
) -> dict[str, Tensor]:
    ssim, msssim = similarities(a, b)
    silhouette, edge = _shared(bright_a, bright_b), edge_overlap(edges_a, edges_b)
    return {"ssim": ssim, "msssim": msssim, "silhouette": silhouette, "edge_overlap": edge}


def _bright(greys: Tensor, counts: Tensor) -> Tensor:
    """What is brighter than Otsu's threshold of each image's histogram."""
    return greys > otsu(counts)[:, None, None]


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (B,) of bright parts, or of dark ones where those are the smaller ones of the first."""
    darker = first.float().mean((1, 2)) > 0.5
    first, second = first ^ darker[:, None, None], second ^ darker[:, None, None]
    return (first & second).sum((1, 2)) / (first | second).sum((1, 2))


def _laplacian(greys: Tensor) -> Tensor:
    """Sum of the four neighbours less four times the pixel, borders mirrored at the outermost pixel."""
    around = F.pad(greys[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    beside = around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    return (beside + around[:, :-2, 1:-1]).add_(around[:, 2:, 1:-1]).sub_(greys, alpha=4)


@lru_cache(maxsize=64)
def _low(height: int, width: int, radius: float) -> Tensor:
    """How often each coefficient of half a plane (H, W // 2 + 1) counts: 2 with its conjugate, 0 if it is not low."""
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    cycles = min(height, width) * np.hypot(rows[:, None], columns)
    weights = np.where((cycles > 0) & (cycles < radius * (1 - 1e-9)), 2.0, 0.0)
    alone = [0, width // 2] if width % 2 == 0 else [0]
    weights[:, alone] /= 2
    return torch.from_numpy(weights).float()
