r"""Speciation: when the data's largest direction stands out of the noise, and when the density parts in two.

**Speciation** (Biroli et al. 2024, eq. 3-4).  In Ornstein-Uhlenbeck time the largest eigenvalue
:math:`\Lambda` of the covariance of the data has shrunk to the size of the noise where :math:`\Lambda
e^{-2 t_S} = 1`,

.. math:: t_S = \tfrac12 \log \Lambda, \qquad \frac{\alpha^2}{\sigma^2} = \frac{1}{\Lambda - 1},

and there is none if :math:`\Lambda \le 1`.  The condition compares with noise of variance 1, so it
belongs to the VP form; the log-SNR is then the same under any schedule of the same data.  With labels,
:math:`\Lambda_B`, the largest eigenvalue of the covariance of the class means, takes the place of
:math:`\Lambda` in ``speciation.classes``: the spread between classes alone.

**Bimodal density.**  A `Pair` of equal weights has two modes where :math:`r > 1`, that is :math:`\alpha^2
h^2 > \alpha^2 s^2 + \sigma^2`; for :math:`N(\pm m, I)`, :math:`|m|^2 = d`, at :math:`t = \tfrac12 \ln
d`.  With unequal weights the critical points of the density solve :math:`z = r \tanh(r z + b)`, :math:`b
= \tfrac12 \ln (w_1 / w_0)`, and there are three where

.. math:: |b| < r \sqrt{r^2 - 1} - \mathrm{arcosh} \, r

(the extrema of :math:`u - r^2 \tanh u`, at :math:`\cosh u = r`; Robertson & Fryer 1969).

Other settings have other scalings, which are not predicted here: for N points whose classes differ in their means
:math:`\tfrac12 \log N`, and where only the covariances differ :math:`\tfrac14 \log N` (arXiv:2602.04404).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from . import DEFINITIONS, Prediction
from .clock import logsnr_from_ou
from .known import class_means, class_weights, eigenvalues_of, pair, spectrum

SOURCE = "Biroli et al. 2024 (arXiv:2402.18491), eq. 3-4"
ROUNDING = 1e-9
"""An eigenvalue this close to 1 counts as 1."""


def speciation_time(eigenvalue: float) -> float:
    """t_S = 1/2 log Lambda in Ornstein-Uhlenbeck time; NaN if Lambda <= 1.

    >>> round(speciation_time(1025.0), 3)
    3.466
    """
    return math.log(eigenvalue) / 2 if eigenvalue > 1 + ROUNDING else math.nan


def speciation_from_data(data: Any) -> Prediction:
    """Speciation by the covariance of a data set.

    Parameters
    ----------
    data : array (N, ...)
        On the scale that the model sees; images are flattened.

    Raises
    ------
    TurningpointError
        If there are fewer than two items, or numbers that are not finite.

    Examples
    --------
    >>> at = speciation_from_data(np.array([[-2.0, 0.0], [2.0, 0.0]]))       # Lambda = 4
    >>> round(at.logsnr, 4) == round(-math.log(3), 4)
    True
    """
    return _speciation("speciation", "Lambda", float(eigenvalues_of(data)[0]), SOURCE)


@DEFINITIONS.add("speciation")
def speciation(model: Any) -> Sequence[Prediction]:
    """``speciation``, ``speciation.classes`` and ``bimodal``."""
    found = []
    eigenvalues = spectrum(model)
    if eigenvalues is not None and len(eigenvalues):
        found.append(_speciation("speciation", "Lambda", float(eigenvalues[0]), SOURCE))
    means = class_means(model)
    if means is not None and len(means) > 1:
        weights = class_weights(model)
        spread = np.sqrt(weights)[:, None] * (means - weights @ means)
        between = float(np.linalg.svd(spread, compute_uv=False)[0] ** 2)
        if between > 0:
            source = f"{SOURCE}, of class means"
            found.append(_speciation("speciation.classes", "Lambda_B of the class means", between, source))
    return [*found, *_bimodal(model)]


def bimodal_separation(weight: float) -> float:
    """The r above which a pair's density has two modes, given the weight of one of the two; 1 if equal.

    >>> bimodal_separation(0.5), round(bimodal_separation(0.9), 3)
    (1.0, 1.657)
    """
    b = abs(math.log(weight / (1 - weight))) / 2
    if b < 1e-12:
        return 1.0
    return float(brentq(lambda r: r * math.sqrt(r * r - 1) - math.acosh(r) - b, 1.0, 2.0 + b, xtol=1e-13))


def _speciation(name: str, symbol: str, eigenvalue: float, source: str) -> Prediction:
    law = f"alpha^2 / sigma^2 = 1 / (Lambda - 1), OU time 1/2 log Lambda; {symbol} = {eigenvalue:.4g}"
    level = float(logsnr_from_ou(speciation_time(eigenvalue)))
    reason = "" if math.isfinite(level) else f"Lambda = {eigenvalue:.4g} is not above 1"
    return Prediction(name, law, level, source, reason=reason)


def _bimodal(model: Any) -> list[Prediction]:
    known = pair(model)
    if known is None:
        return []
    r = bimodal_separation(known.weights[0])
    level = known.logsnr(r)
    law = f"the density has two modes: r = alpha h / sqrt(alpha^2 s^2 + sigma^2) > {r:.4g}, h half the means' distance"
    most = math.inf if known.std == 0 else known.half / known.std
    reason = "" if math.isfinite(level) else f"r = {most:.4g} at most: the density of the data has one mode"
    return [Prediction("bimodal", law, level, "Robertson & Fryer 1969", reason=reason, feature="class")]
