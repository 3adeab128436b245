r"""What a model knows of its own data, as the theories need it.

An exact model may offer any of these, all flat over an item's d entries and in float64.  A theory that
needs what a model does not offer does not apply to it.

==========================  =================================================================================
``eigenvalues()``           (d,), of the covariance of the data, in any order
``covariance()``            (d, d), the covariance itself, in place of its eigenvalues
``fourier_variances()``     (C, H, W), the variance of every mode of `torch.fft.fft2`, orthonormal, where images
                            are a stationary Gaussian field
``class_means()``           (K, d), where the classes' means are known
``class_variance()``        the variance of every entry of every class, if all are Gaussians of that one
                            isotropic covariance; else None
``prior()``                 (K,), the classes' weights
``sample``, ``posterior``   as in `ExactDenoiser`
``n_points``                how many points the data are, where they are a finite set
==========================  =================================================================================

Two classes that are Gaussians of one isotropic covariance :math:`s^2 I` are a `Pair`: all that noise does
to them happens along the line between their means.  With h half the distance of the means and :math:`v =
\alpha^2 s^2 + \sigma^2`, the coordinate along it, divided by :math:`\sqrt v`, is

.. math:: z \sim w_0 N(-r, 1) + w_1 N(r, 1), \qquad r = \frac{\alpha h}{\sqrt v}
          = h \sqrt{\frac{\mathrm{SNR}}{1 + s^2 \mathrm{SNR}}} .
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..errors import TurningpointError

MOST_WORK = 10_000_000
"""Points times entries of a data set whose exact denoiser is asked hundreds of times."""


@dataclass(frozen=True)
class Mixture:
    """Classes that are Gaussians of one isotropic covariance.

    Attributes
    ----------
    means : array (K, d)
    std : float
        Of every entry, 0 or more.
    weights : array (K,)
        They sum to 1.
    """

    means: np.ndarray
    std: float
    weights: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two Gaussians of one isotropic covariance; see the module's docstring.

    Attributes
    ----------
    half : float
        Half the distance between the means, above 0.
    std : float
        The standard deviation of every entry, 0 or more.
    weights : tuple of 2 floats
        They sum to 1.
    dim : int
        Entries of an item.

    Examples
    --------
    >>> deltas = Pair(half=1.0, std=0.0)
    >>> float(deltas.separation(0.0)), deltas.logsnr(1.0)
    (1.0, 0.0)
    """

    half: float
    std: float
    weights: tuple[float, float] = (0.5, 0.5)
    dim: int = 1

    def separation(self, logsnr: ArrayLike) -> np.ndarray:
        """r, of the shape of ``logsnr``."""
        level = np.asarray(logsnr, dtype=np.float64)
        return np.asarray(self.half / np.sqrt(np.exp(-level) + self.std**2))

    def logsnr(self, separation: float) -> float:
        """Where r has a given value; NaN if it is smaller even without noise."""
        rest = (self.half / separation) ** 2 - self.std**2 if separation > 0 else math.nan
        return 0.0 - math.log(rest) if rest > 0 else math.nan


def array(value: Any) -> np.ndarray:
    """A tensor or an array as a float64 array."""
    plain = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return np.asarray(plain, dtype=np.float64)


def class_means(model: Any) -> np.ndarray | None:
    """The classes' means, (K, d), or None if the model does not offer them."""
    if not hasattr(model, "class_means"):
        return None
    means = array(model.class_means())
    return np.asarray(np.nan_to_num(means.reshape(len(means), -1)))  # a class without items has the weight 0


def class_weights(model: Any) -> np.ndarray:
    """The classes' weights, (K,), which sum to 1; equal unless the model says otherwise."""
    if hasattr(model, "prior"):
        weights = array(model.prior())
        return np.asarray(weights / weights.sum())
    return np.full(model.n_classes, 1 / model.n_classes)


def mixture(model: Any) -> Mixture | None:
    """The model as Gaussians of one isotropic covariance, or None if it is not."""
    means = class_means(model)
    variance = model.class_variance() if hasattr(model, "class_variance") else None
    if means is None or variance is None:
        return None
    return Mixture(means, math.sqrt(float(variance)), class_weights(model))


def pair(model: Any) -> Pair | None:
    """The model as two Gaussians of one isotropic covariance, or None if it is not."""
    known = mixture(model)
    if known is None or len(known.means) != 2 or known.weights.min() <= 0:
        return None
    half = float(np.linalg.norm(known.means[1] - known.means[0])) / 2
    if half == 0:
        return None
    first, second = known.weights.tolist()
    return Pair(half, known.std, (first, second), known.means.shape[1])


def spectrum(model: Any) -> np.ndarray | None:
    """Eigenvalues of the covariance of the data, largest first, (d,), or None if the model does not say."""
    known = mixture(model)
    if known is not None:
        found = np.zeros(known.means.shape[1])
        apart = np.sqrt(known.weights)[:, None] * (known.means - known.weights @ known.means)
        between = np.linalg.svd(apart, compute_uv=False) ** 2
        found[: len(between)] = between
        return found + known.std**2
    if hasattr(model, "eigenvalues"):
        return descending(array(model.eigenvalues()).ravel())
    if hasattr(model, "covariance"):
        return descending(np.linalg.eigvalsh(array(model.covariance())))
    return None


def descending(eigenvalues: np.ndarray) -> np.ndarray:
    """Eigenvalues of a covariance, largest first; those below 0 by rounding are 0.

    >>> descending(np.array([-1e-17, 2.0, 3.0]))
    array([3., 2., 0.])
    """
    return np.asarray(np.clip(np.sort(eigenvalues)[::-1], 0, None))


def items(data: Any) -> np.ndarray:
    """Data (N, ...) as a float64 array; numbers (N,) become (N, 1).

    Raises
    ------
    TurningpointError
        If there are fewer than two items, or numbers that are not finite.
    """
    x = array(data)
    if x.ndim < 1 or len(x) < 2 or not np.isfinite(x).all():
        raise TurningpointError(f"data has shape {x.shape}; accepted: two or more items, of finite numbers.")
    return x[:, None] if x.ndim == 1 else x


def eigenvalues_of(data: Any) -> np.ndarray:
    """Eigenvalues of the covariance (divided by N) of data (N, ...), flattened, largest first: (d,).

    >>> eigenvalues_of([[-2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    array([4., 0., 0.])
    """
    x = items(data)
    x = x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0)
    n, d = x.shape
    found = np.zeros(d)
    found[: min(n, d)] = descending(np.linalg.eigvalsh(x.T @ x if d <= n else x @ x.T) / n)
    return found


def gaussian(model: Any) -> bool:
    """Whether the data are one Gaussian of known covariance: a single class, with a mean and a spectrum."""
    means = class_means(model)
    return means is not None and len(means) == 1 and samples(model) and spectrum(model) is not None


def samples(model: Any) -> bool:
    """Whether the model denoises and gives data of its own."""
    return callable(model) and hasattr(model, "sample") and hasattr(model, "schedule")


def affordable(model: Any) -> bool:
    """Whether Monte Carlo over the model's answers takes no more than minutes: not if it has too many points."""
    return samples(model) and getattr(model, "n_points", 1) * math.prod(model.shape) <= MOST_WORK


def device(model: Any) -> torch.device:
    """Where the model's tensors are."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")


def fraction(name: str, value: float) -> float:
    """A number strictly between 0 and 1.

    Raises
    ------
    TurningpointError
        If it is not.
    """
    if not 0 < value < 1:
        raise TurningpointError(f"{name} is {value}; accepted: a number between 0 and 1.")
    return float(value)
