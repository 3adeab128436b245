r"""Retention of the class, on U-turns and between clones.

A stochastic reverse process samples :math:`p(x_0 \mid x_t)`.  So a U-turn to noise t keeps its class, and
two clones that part at t end in one class, with one and the same probability,

.. math:: \mathrm{kept}(t) = E_{x_t} \sum_c p(c \mid x_t)^2,

which falls from 1 to the probability that two independent items are of one class, :math:`\sum_c w_c^2`;
retention is

.. math:: r(t) = \frac{\mathrm{kept}(t) - \sum_c w_c^2}{1 - \sum_c w_c^2} .

For two Gaussians :math:`N(\pm m, \sigma^2 I)` of equal weight kept is :math:`\phi(t)` of Biroli et al.
2024, eq. 6,

.. math:: \phi(t) = \frac12 \int \frac{G_+^2 + G_-^2}{G_+ + G_-} \, dy, \qquad G_\pm = N(y; \pm |m| e^{-t}, \Gamma_t) .

A deterministic sampler maps instead of sampling: these curves are not about it.  The class is the component that an
item came from.  Components that overlap are confused by a classifier even without noise, and a measured
curve, which knows only the classifier's word, then lies elsewhere; the definition says by how much they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import CURVES, DEFINITIONS, PredictedCurve, Prediction
from .classes import KEPT, Information, information

SOURCE = "Biroli et al. 2024 (arXiv:2402.18491), eq. 6"
EDGES = {"start": 0.1, "centre": 0.5, "end": 0.9}
NO_NOISE = 40.0
"""A log-SNR at which noise is gone, on the scale of any data in use."""


def kept(model: Any, logsnr: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The probability that a U-turn keeps the class, which is also that two clones agree.

    Parameters
    ----------
    model : ExactDenoiser
    logsnr : array (T,)
        Where the U-turns turn, or the clones part.

    Returns
    -------
    value, error : array (T,)
        The probability and its standard error, which is 0 where it is quadrature; None in place of both if
        the model does not know its classes.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> model = load("gaussians", dim=8, distance=2, std=0.5)
    >>> probability, _ = kept(model, model.schedule.logsnr([0.4]))
    >>> probability.round(4)
    array([0.7615])
    """
    known = information(model)
    return None if known is None else known.curve(KEPT, np.atleast_1d(np.asarray(logsnr, dtype=np.float64)))


@CURVES.add("retention")
def curves(model: Any, logsnr: np.ndarray) -> Sequence[PredictedCurve]:
    """``kept.class`` and ``retention.class``."""
    known = information(model)
    if known is None:
        return []
    value, error = known.curve(KEPT, logsnr)
    chance = known.chance
    law = f"E sum_c p(c | x_t)^2, stochastic sampler{_overlap(known)}"
    return [
        PredictedCurve("kept.class", law, logsnr, value, error, SOURCE, quantity="kept", feature="class"),
        PredictedCurve(
            "retention.class",
            f"(kept - sum_c w_c^2) / (1 - sum_c w_c^2), kept = {law}",
            logsnr,
            (value - chance) / (1 - chance),
            error / (1 - chance),
            SOURCE,
            quantity="retention",
            feature="class",
        ),
    ]


@DEFINITIONS.add("retention")
def retention(model: Any) -> Sequence[Prediction]:
    """``retention.start``, ``.centre``, ``.end``: the window at delta 0.1; and ``kept.0.75``, where phi = 3/4."""
    known = information(model)
    if known is None:
        return []
    chance = known.chance
    wanted = [("kept.0.75", "phi(t) = E sum_c p(c | x_t)^2 = 0.75", 0.75)]
    wanted += [
        (f"retention.{edge}", f"retention of the class is {level}", chance + level * (1 - chance))
        for edge, level in EDGES.items()
    ]
    overlap, found = _overlap(known), []
    for name, law, value in wanted:
        at = known.crossing(KEPT, value)
        reason = at.reason and f"kept would have to be {value:.3g}, but {at.reason}"
        found.append(
            Prediction(name, law + overlap, at.logsnr, SOURCE, reason=reason, feature="class", error=at.error)
        )
    return found


def _overlap(known: Information) -> str:
    lost = 1 - float(known.curve(KEPT, np.array([NO_NOISE]))[0][0])
    return f" (of the component; without noise it is {1 - lost:.3g})" if lost > 2e-3 else ""
