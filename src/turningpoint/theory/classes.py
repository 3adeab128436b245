r"""What a noisy item tells about its class: the quantities from which several theories are read.

All are means over :math:`x_t` of functions of the class posterior :math:`p_c = p(c \mid x_t)`:

.. math::

   \text{kept} &= E \sum_c p_c^2, \qquad  H(Z \mid x_t) = -E \sum_c p_c \ln p_c, \\
   \mathrm{TV}(p^A, p^B) &= \tfrac12 \int |p_t^A - p_t^B| \, dx
      = 1 - E \min \Big( \frac{p_A}{w_A}, \frac{p_B}{w_B} \Big),
      \qquad p_A = \sum_{c \in A} p_c, \; w_A = \sum_{c \in A} w_c,

since a part of the mixture has the density :math:`p_t^A(x) = p_t(x) \, p_A(x) / w_A`.  The entropy falls
at the rate given by the I-MMSE relation (Guo, Shamai & Verdu 2005, applied with and without the class),

.. math:: -\frac{dH(Z \mid x_t)}{d \, \mathrm{SNR}} = \tfrac12 \, E \big| E[x_0 \mid x_t] - E[x_0 \mid x_t, Z] \big|^2,

so that no difference of noisy entropies is taken.  In log-SNR the rate is SNR times that; in
Ornstein-Uhlenbeck time, :math:`\mathrm{SNR} = 1 / (e^{2t} - 1)`, it is :math:`2 \, \mathrm{SNR} (1 +
\mathrm{SNR})` times that.

Where the model is a `Pair`, with :math:`z` as there, the log odds are :math:`2 r z + \ln (w_1 / w_0)`, the squared
difference above is :math:`4 h^2 p_0 p_1 / (1 + s^2 \mathrm{SNR})^2` in the mean, a total variation is a multiple of
:math:`2 \Phi(r) - 1`, and all is quadrature over z.  Elsewhere it is a Monte Carlo mean over :math:`x_t`, with
the same data and the same noise at all levels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.optimize import brentq, minimize_scalar
from scipy.special import entr, expit, ndtr
from torch import Tensor

from .draws import PARTS, Draws
from .known import Pair, affordable, class_weights, pair

LEVEL_STEP = 0.5
"""The distance in log-SNR of the knots between which Monte Carlo means are interpolated."""
WORK = 2_000_000
"""Samples times classes times entries of a Monte Carlo mean, which sets how many samples are taken."""
MOST_CLASSES = 1000
RANGE = 40.0
"""How far in log-SNR classes that overlap without noise are followed."""
REACH = 12.0
"""Half the range of quadrature over a standard normal variable: what lies beyond is 1e-32."""
NODES = np.linspace(-REACH, REACH, 601)
"""For the trapezoidal rule, exact to rounding here: the integrand is analytic within pi / 2r of the real line."""


@dataclass(frozen=True)
class Quantity:
    """One of the means of the module's docstring.

    Parameters
    ----------
    kind : str
        ``kept``, ``entropy``, ``rate.logsnr``, ``rate.ou`` or ``variation``.
    a, b : tuple of int
        The classes of A and of B, for ``variation``.
    """

    kind: str
    a: tuple[int, ...] = ()
    b: tuple[int, ...] = ()


KEPT, ENTROPY = Quantity("kept"), Quantity("entropy")
RATE_LOGSNR, RATE_OU = Quantity("rate.logsnr"), Quantity("rate.ou")


class Found(NamedTuple):
    """A level, its standard error, and why there is none."""

    logsnr: float
    error: float = 0.0
    reason: str = ""


class Information(ABC):
    """What noisy items tell about their classes.

    Attributes
    ----------
    weights : array (K,)
        The classes' weights.
    """

    weights: np.ndarray

    @property
    def chance(self) -> float:
        """sum_c w_c^2: the probability that two independent items are of one class."""
        return float((self.weights**2).sum())

    @abstractmethod
    def curve(self, quantity: Quantity, logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The quantity and its standard error at log-SNR levels (T,): two arrays (T,)."""

    @abstractmethod
    def crossing(self, quantity: Quantity, value: float) -> Found:
        """Where a monotone quantity has a value."""

    @abstractmethod
    def peak(self, quantity: Quantity) -> Found:
        """Where a quantity is largest."""


class PairInformation(Information):
    """Two Gaussians of one isotropic covariance, by quadrature.

    Examples
    --------
    >>> pair = PairInformation(Pair(half=4.0, std=1.0, dim=16))     # |m|^2 = d = 16
    >>> kept, _ = pair.curve(KEPT, np.array([-np.log(16)]))         # at t = 1/2 log(1 + d)
    >>> kept.round(4)
    array([0.7657])
    """

    def __init__(self, known: Pair) -> None:
        self.known, self.weights = known, np.array(known.weights)

    def curve(self, quantity: Quantity, logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level = np.asarray(logsnr, dtype=np.float64)
        r = self.known.separation(level)
        if quantity.kind == "kept":
            value = 1 - 2 * self._mean(_confusion, r)
        elif quantity.kind == "entropy":
            value = self._mean(lambda odds: entr(expit(odds)) + entr(expit(-odds)), r)
        elif quantity.kind == "variation":
            share = [
                self.weights[1] * (1 in s) / self.weights[list(s)].sum() for s in (quantity.a, quantity.b)
            ]
            value = abs(share[1] - share[0]) * (2 * ndtr(r) - 1)
        else:  # (2 r)^2 / (1 + s^2 SNR) is SNR times 4 h^2 / (1 + s^2 SNR)^2
            snr = np.exp(level)
            rate = 2 * r**2 / (1 + self.known.std**2 * snr) * self._mean(_confusion, r)
            value = rate * (2 * (1 + snr) if quantity.kind == "rate.ou" else 1.0)
        return value, np.zeros_like(value)

    def crossing(self, quantity: Quantity, value: float) -> Found:
        knots = self._knots
        rest = self.curve(quantity, knots)[0] - value
        change = np.flatnonzero(np.diff(np.sign(rest)))
        if not len(change):
            return Found(math.nan, reason=_range(rest + value))
        k = int(change[0])

        def gap(level: float) -> float:
            return float(self.curve(quantity, np.array([level]))[0][0]) - value

        return Found(float(brentq(gap, knots[k], knots[k + 1], xtol=1e-12)))

    def peak(self, quantity: Quantity) -> Found:
        knots = self._knots
        values = self.curve(quantity, knots)[0]
        k = int(values.argmax())
        if k == len(knots) - 1 or values[k] <= values[-1] * (1 + 1e-9):
            return Found(math.nan, reason="it grows down to no noise")
        bounds = knots[max(k - 1, 0)], knots[k + 1]
        found = minimize_scalar(
            lambda level: -self.curve(quantity, np.array([level]))[0][0],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        return Found(float(found.x))

    @cached_property
    def _knots(self) -> np.ndarray:
        """Levels from where the classes are one to where noise has no effect any more."""
        first, second = self.known.half, self.known.std or self.known.half
        ends = -2 * math.log(max(first, second)) - 20, -2 * math.log(min(first, second)) + 20
        return np.linspace(*ends, math.ceil((ends[1] - ends[0]) / LEVEL_STEP) + 1)

    def _mean(self, f: Callable[[np.ndarray], np.ndarray], r: np.ndarray) -> np.ndarray:
        """E f(log odds), of the shape of r."""
        w_0, w_1 = self.weights
        r, prior = np.minimum(r, 2 * REACH), math.log(w_1 / w_0)  # further apart nothing is confused
        y = NODES[:, None]
        density = np.exp(-(NODES**2) / 2) / math.sqrt(2 * math.pi)
        mean = w_1 * f(2 * r * (r + y) + prior) + w_0 * f(2 * r * (y - r) + prior)
        return np.asarray(np.trapezoid(density[:, None] * mean, NODES, axis=0))


class SampledInformation(Information):
    """Any model with samples and a class posterior, by Monte Carlo.

    Parameters
    ----------
    model : ExactDenoiser
    seed : int
        Of the data and the noise.
    """

    def __init__(self, model: Any, seed: int = 0) -> None:
        self.weights = class_weights(model)
        self._model, self._draws = model, Draws(model, WORK // model.n_classes, seed)
        self._posteriors: dict[float, np.ndarray] = {}
        self._gaps: dict[float, np.ndarray] = {}

    def curve(self, quantity: Quantity, logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._values(quantity, float(level)) for level in np.asarray(logsnr)]
        scale = self._draws.count**-0.5
        return np.array([row.mean() for row in rows]), np.array([row.std(ddof=1) * scale for row in rows])

    def crossing(self, quantity: Quantity, value: float) -> Found:
        def root(curve: np.ndarray) -> float:
            roots = PchipInterpolator(self._knots, curve).solve(value, extrapolate=False)
            return float(roots.min()) if len(roots) else math.nan

        found = self._jackknife(quantity, root, self._knots)
        return found or Found(math.nan, reason=_range(self.curve(quantity, self._knots)[0]))

    def peak(self, quantity: Quantity) -> Found:
        knots = np.array([level for level in self._knots if 5e-3 < self._uncertainty(level) < 0.995])

        def top(curve: np.ndarray) -> float:
            k = int(curve.argmax())
            if not 0 < k < len(knots) - 1:
                return math.nan
            shape = CubicSpline(knots, curve)
            flat = shape.derivative().roots(extrapolate=False)
            near = flat[np.abs(flat - knots[k]) <= LEVEL_STEP]
            return float(near[shape(near).argmax()])

        found = self._jackknife(quantity, top, knots) if len(knots) > 2 else None
        return found or Found(math.nan, reason="it grows down to no noise")

    def _jackknife(
        self, quantity: Quantity, read: Callable[[np.ndarray], float], knots: np.ndarray
    ) -> Found | None:
        """A reading of the curve over knots, with its standard error; None if there is none."""
        rows = np.stack([self._values(quantity, float(level)) for level in knots], 1)
        parts = rows.reshape(PARTS, -1, len(knots)).mean(1)
        whole = parts.mean(0)
        estimate = read(whole)
        if math.isnan(estimate):
            return None
        without = np.array([read((PARTS * whole - part) / (PARTS - 1)) for part in parts])
        without = without[np.isfinite(without)]
        error = math.sqrt((PARTS - 1) * without.var()) if len(without) > 1 else math.inf
        return Found(estimate, error)

    def _values(self, quantity: Quantity, level: float) -> np.ndarray:
        """One number per sample, (N,)."""
        if quantity.kind.startswith("rate"):
            snr = math.exp(level)
            clock = 2 * snr * (1 + snr) if quantity.kind == "rate.ou" else snr
            return self._gap(level) * clock / 2
        p = self.posterior(level)
        if quantity.kind == "kept":
            return np.asarray((p**2).sum(1))
        if quantity.kind == "entropy":
            return np.asarray(entr(p).sum(1))
        a, b = (p[:, list(s)].sum(1) / self.weights[list(s)].sum() for s in (quantity.a, quantity.b))
        return np.asarray(1 - np.minimum(a, b))

    def posterior(self, level: float) -> np.ndarray:
        """p(c | x_t) of every sample at a log-SNR level, (N, K)."""
        if level not in self._posteriors:
            self._posteriors[level] = self._draws.apply(self._model.posterior, level)
        return self._posteriors[level]

    def _gap(self, level: float) -> np.ndarray:
        """|E[x_0 | x_t] - E[x_0 | x_t, own class]|^2 of every sample, (N,)."""

        def squares(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            apart: Tensor = self._model(x, t) - self._model(x, t, label)
            return apart.flatten(1).square().sum(1)

        if level not in self._gaps:
            self._gaps[level] = self._draws.apply(squares, level, self._draws.label)
        return self._gaps[level]

    @cached_property
    def _knots(self) -> np.ndarray:
        """Levels from where noise hides the classes to where it has no effect any more."""
        level = -math.log(max(self._draws.total_variance, 1e-300)) - 12
        highest = level + RANGE
        while level < highest and np.abs(self.posterior(level + 2) - self.weights).sum(1).mean() < 1e-3:
            level += 2  # nothing is known of the classes here
        knots = [level]
        while len(knots) < RANGE / LEVEL_STEP and self._uncertainty(knots[-1]) > 1e-3:
            knots.append(knots[-1] + LEVEL_STEP)
        return np.array([*knots, knots[-1] + LEVEL_STEP])

    def _uncertainty(self, level: float) -> float:
        """H(Z | x_t) / H(Z)."""
        return float(self._values(ENTROPY, level).mean() / entr(self.weights).sum())


def information(model: Any) -> Information | None:
    """What noisy items tell about their classes, or None for a model that does not know its classes."""
    known = pair(model)
    if known is not None:
        return PairInformation(known)
    several = 2 <= (getattr(model, "n_classes", None) or 1) <= MOST_CLASSES
    return _sampled(model) if several and affordable(model) and hasattr(model, "posterior") else None


@lru_cache(maxsize=2)
def _sampled(model: Any) -> SampledInformation:
    return SampledInformation(model)  # kept, as several theories read the same draws


def _confusion(odds: np.ndarray) -> np.ndarray:
    """p_0 p_1 at log odds."""
    return np.asarray(expit(odds) * expit(-odds))


def _range(curve: np.ndarray) -> str:
    return f"it stays between {curve.min():.3g} and {curve.max():.3g}"
