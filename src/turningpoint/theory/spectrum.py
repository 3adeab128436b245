r"""Spectral emergence: at which noise a direction of the data comes to be seen.

The best linear denoiser shrinks a direction of variance :math:`\lambda_k` by its gain; with :math:`\tau =
\sigma / \alpha`,

.. math:: g_k = \frac{\lambda_k}{\lambda_k + \tau^2} .

It is one half at :math:`\tau = \sqrt{\lambda_k}`, log-SNR :math:`-\log \lambda_k`: **half-emergence**.
For Gaussian data the gain is also the relative power of the denoised image, :math:`E |\hat x_{0,k}|^2 /
\lambda_k`, and the retention of the direction on a U-turn,

.. math:: 1 - \frac{E |x_k - x'_k|^2}{E |x_k - y_k|^2} = 1 - \frac{2 \lambda_k \tau^2 /
          (\lambda_k + \tau^2)}{2 \lambda_k} = g_k,

since x and x' are two draws from one posterior.  The relative *amplitude*, :math:`\sqrt{g_k}`, falls to
one half only at :math:`\tau = \sqrt{3 \lambda_k}`.  A band of directions retains :math:`\sum_k \lambda_k
g_k / \sum_k \lambda_k`, which is also its relative power; the denoiser's gain over the band, the slope of the best
line from all of its :math:`x_k / \alpha` to all :math:`\hat x_{0,k}`, is

.. math:: \frac{\sum_k \lambda_k}{\sum_k (\lambda_k + \tau^2)} ,

half where :math:`\tau^2` is the band's mean variance.

The probability-flow ODE of a Gaussian moves each direction by itself, in VE coordinates from
:math:`\tau_T` to :math:`\tau` as

.. math:: x_k(\tau) = x_k(\tau_T) \sqrt{\frac{\tau^2 + \lambda_k}{\tau_T^2 + \lambda_k}} .

(Wang & Vastola 2023, arXiv:2303.02490, and 2024; the gain is Wiener's filter.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from ..errors import TurningpointError
from ..measures.frequency import radial_bands
from . import CURVES, DEFINITIONS, PredictedCurve, Prediction
from .draws import PARTS
from .known import array, samples, spectrum

SOURCE = "Wang & Vastola 2023 (arXiv:2303.02490)"
BANDS = 5
"""As many radial bands as the measure ``frequency`` has."""
IMAGES = 1024
"""Samples from which the spectrum of bands is read."""
SMALLEST = 8
"""Images with a shorter side than this have no bands."""
SAME = 1e-6
"""Two variances that differ by less than this fraction are one, and one that is this share of the first is none."""


def gain(eigenvalue: ArrayLike, logsnr: ArrayLike) -> np.ndarray:
    """lambda / (lambda + tau^2): gain, relative power, and retention of a Gaussian direction.

    >>> gain([4.0, 1.0], 0.0)
    array([0.8, 0.5])
    """
    power = np.asarray(eigenvalue, dtype=np.float64)
    return power / (power + np.exp(-np.asarray(logsnr, dtype=np.float64)))


def half_emergence(eigenvalue: ArrayLike) -> np.ndarray:
    """Log-SNR at which the gain is one half, -log lambda; +inf where lambda is 0.

    >>> float(half_emergence(1.0))
    0.0
    """
    with np.errstate(divide="ignore"):
        return 0.0 - np.log(np.asarray(eigenvalue, dtype=np.float64))


def half_amplitude(eigenvalue: ArrayLike) -> np.ndarray:
    """Log-SNR at which the relative amplitude is one half, tau = sqrt(3 lambda).

    >>> round(float(np.sqrt(gain(2.0, half_amplitude(2.0)))), 12)
    0.5
    """
    return half_emergence(3 * np.asarray(eigenvalue, dtype=np.float64))


def mode(eigenvalue: ArrayLike, tau: ArrayLike, tau_start: ArrayLike) -> np.ndarray:
    """x_k(tau) / x_k(tau_start) along the probability-flow ODE of a Gaussian, in VE coordinates.

    >>> round(float(mode(1.0, 0.0, np.sqrt(3.0))), 12)
    0.5
    """
    power = np.asarray(eigenvalue, dtype=np.float64)
    return np.sqrt((np.square(tau) + power) / (np.square(tau_start) + power))


def band_half_emergence(variances: Any) -> float:
    """Log-SNR at which a band of directions has half of its power: sum lambda g = 1/2 sum lambda.

    Parameters
    ----------
    variances : array (k,)
        The band's eigenvalues, not all 0.

    Raises
    ------
    TurningpointError
        If all are 0.

    Examples
    --------
    >>> round(math.exp(-band_half_emergence([2.0, 2.0, 0.0])), 9)
    2.0
    """
    power = array(variances).ravel()
    power = power[power > 0]
    if not len(power):
        raise TurningpointError("variances are all 0; accepted: at least one above 0.")
    ends = -math.log(power.max()), -math.log(power.min())
    if ends[1] - ends[0] < 1e-12:
        return ends[0]
    total = power.sum() / 2
    return float(brentq(lambda level: (power * gain(power, level)).sum() - total, *ends, xtol=1e-12))


def band_half_gain(variances: Any) -> float:
    """Log-SNR at which the gain of a band of directions is one half: tau^2 is the mean variance.

    Half of the band's power is there no later: lambda^2 / (lambda + tau^2) is convex in lambda.

    Parameters
    ----------
    variances : array (k,)
        The band's eigenvalues, not all 0; those that are 0 count in the mean.

    Raises
    ------
    TurningpointError
        If all are 0.

    Examples
    --------
    >>> round(math.exp(-band_half_gain([2.0, 1.0, 0.0])), 9)
    1.0
    """
    mean = float(array(variances).mean()) if np.size(variances) else 0.0
    if not mean > 0:
        raise TurningpointError("variances are all 0; accepted: at least one above 0.")
    return float(half_emergence(mean))


def bands(power: Any, count: int = BANDS, edges: Any = None) -> list[np.ndarray]:
    """The variances of Fourier modes, band by band.

    Parameters
    ----------
    power : array (C, H, W)
        The variance of every mode of an orthonormal ``fft2``: `power_spectrum` of images.
    count : int
        How many radial bands, as in the measure ``frequency``.
    edges : str or sequence of float, optional
        Edges of one's own in place of their number, as in the measure ``frequency``.

    Returns
    -------
    list of arrays
        Per band, one variance for each real coefficient.

    Examples
    --------
    >>> [len(band) for band in bands(np.ones((1, 8, 8)), 2)]
    [9, 55]
    """
    variances = array(power)
    if variances.ndim != 3:
        raise TurningpointError(f"power has shape {variances.shape}; accepted: (C, H, W).")
    height, width = variances.shape[1:]
    which = radial_bands(count, edges)
    _, band, weight = which.layout(height, width)
    times = np.rint(array(weight) ** 2).astype(int)  # a mode and its conjugate are one complex coefficient
    half_plane, where = variances[:, :, : width // 2 + 1], array(band)
    return [
        np.repeat(half_plane[:, where == b], times[where == b], axis=1).ravel() for b in range(which.count)
    ]


def power_spectrum(images: Any) -> np.ndarray:
    """The variance of every Fourier mode of images (N, C, H, W): (C, H, W), in the order of ``fft2``.

    They are eigenvalues of the covariance if the images are stationary on a torus.

    >>> noise = np.random.default_rng(0).standard_normal((400, 1, 8, 8))
    >>> bool(abs(power_spectrum(noise).mean() - 1) < 0.02)
    True
    """
    x = array(images)
    if x.ndim != 4 or len(x) < 2:
        raise TurningpointError(f"images have shape {x.shape}; accepted: (N, C, H, W), two or more.")
    return np.asarray((np.abs(np.fft.fft2(x - x.mean(0), norm="ortho")) ** 2).mean(0))


@DEFINITIONS.add("spectrum")
def half(model: Any) -> Sequence[Prediction]:
    """``spectrum.mode1``, 2, 4, 8, ...: half-emergence of eigenvalues; ``spectrum.band0``, ...: of radial bands."""
    eigenvalues = spectrum(model)
    found, last = [], math.inf
    ranks = [] if eigenvalues is None else [2**k for k in range(len(eigenvalues).bit_length())]
    for rank in ranks:
        value = float(eigenvalues[rank - 1])  # type: ignore[index]
        if value <= SAME * float(eigenvalues[0]):  # type: ignore[index]
            break
        if value < last * (1 - SAME):
            law = f"gain of eigenvalue {rank} is 1/2: sigma / alpha = sqrt(lambda), lambda = {value:.4g}"
            found.append(Prediction(f"spectrum.mode{rank}", law, float(half_emergence(value)), SOURCE))
            last = value
    return [*found, *_of_bands(model)]


@CURVES.add("spectrum")
def curves(model: Any, logsnr: np.ndarray) -> Sequence[PredictedCurve]:
    """``retention.frequency.band0``, ...: what a U-turn keeps of the bands of a stationary Gaussian field."""
    if not hasattr(model, "fourier_variances"):
        return []
    found = []
    for b, variances in enumerate(bands(model.fourier_variances())):
        if not variances.sum() > 0:
            continue
        value = (variances * gain(variances, logsnr[:, None])).sum(1) / variances.sum()
        found.append(
            PredictedCurve(
                f"retention.frequency.band{b}",
                f"sum lambda g / sum lambda over radial band {b} of {BANDS}, stochastic sampler",
                logsnr,
                value,
                np.zeros_like(value),
                SOURCE,
                quantity="retention",
                feature=f"frequency.band{b}",
            )
        )
    return found


def _of_bands(model: Any) -> list[Prediction]:
    shape = tuple(getattr(model, "shape", ()))
    if len(shape) != 3 or min(shape[1:]) < SMALLEST:
        return []
    if hasattr(model, "fourier_variances"):
        levels, errors, kind = _levels(array(model.fourier_variances())), np.zeros(BANDS), ""
    elif samples(model) or hasattr(model, "images"):
        images = array(model.images if hasattr(model, "images") else model.sample(IMAGES, seed=0)[0])
        levels, errors, kind = *_estimated(images), ", best linear denoiser"
    else:
        return []
    law = "half of the power of radial band {} of {} is seen{}"
    return [
        Prediction(
            f"spectrum.band{b}",
            law.format(b, BANDS, kind),
            float(levels[b]),
            SOURCE,
            feature=f"frequency.band{b}",
            error=float(errors[b]),
        )
        for b in range(BANDS)
        if math.isfinite(levels[b])
    ]


def _levels(power: np.ndarray) -> np.ndarray:
    """Half-emergence of each band, NaN where it is empty."""
    return np.array([band_half_emergence(v) if v.sum() > 0 else math.nan for v in bands(power)])


def _estimated(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half-emergence of each band of images, and its standard error by the jackknife over `PARTS` parts."""
    if len(images) < 2 * PARTS:
        return _levels(power_spectrum(images)), np.full(BANDS, math.nan)
    parts = np.stack([power_spectrum(part) for part in np.array_split(images - images.mean(0), PARTS)])
    without = np.stack([_levels((parts.sum(0) - part) / (PARTS - 1)) for part in parts])
    return _levels(power_spectrum(images)), np.sqrt((PARTS - 1) * without.var(0))
