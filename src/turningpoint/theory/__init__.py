"""Theory: what closed forms predict, each under the name of its definition.

"The critical time" has many definitions, which differ by half a unit of time in one and the same
system.  So nothing here is called that: a `Prediction` is a value under its definition's name with
its source, and "there is none" is an answer with a reason.  A definition is a function of a model
that returns predictions, in a file of its system; it registers itself with ``@DEFINITIONS.add``.

Predictions that are functions of noise (the probability that a class is kept, a label's entropy)
are `PredictedCurve`: ``quantity`` says which measured quantity they stand beside, and they register
themselves with ``@CURVES.add``.  What is predicted of data alone is `turningpoint.theory.data.from_data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..registry import Registry


@dataclass(frozen=True)
class Prediction:
    """A point on the clock that a theory singles out.

    Parameters
    ----------
    name : str
        Of the definition, unique: ``"speciation"``, ``"stability.sde.vp"``.
    definition : str
        One line that a reader can check: the condition that holds at this point.
    logsnr : float
        Where it is, in log-SNR; NaN if there is none.
    source : str
        Paper and equation.
    reason : str
        Why there is none; empty if there is one.
    feature : str
        The feature of a run that it speaks of (``"class"``), or empty.
    value : float
        Where it is on a clock that is not log-SNR; NaN unless ``unit`` is given, and then ``logsnr`` is NaN.
    unit : str
        That clock: ``"epsilon"``, ``"masked fraction"``.
    error : float
        The standard error of ``logsnr`` where it was read from Monte Carlo means, else 0.

    Examples
    --------
    >>> Prediction("speciation", "alpha^2 Lambda = sigma^2 + alpha^2", -1.0, "Biroli et al. 2024").exists
    True
    """

    name: str
    definition: str
    logsnr: float
    source: str
    reason: str = ""
    feature: str = ""
    value: float = math.nan
    unit: str = ""
    error: float = 0.0

    @property
    def exists(self) -> bool:
        """Whether there is such a point in log-SNR."""
        return not math.isnan(self.logsnr)


@dataclass(frozen=True, eq=False)
class PredictedCurve:
    """A quantity that a theory predicts at every noise level.

    Parameters
    ----------
    name : str
        Of the definition, unique: ``"kept.class"``.
    definition : str
        One line that a reader can check.
    logsnr : array (T,)
        Where.
    value, error : array (T,)
        The prediction, and its standard error: 0 where it is not a Monte Carlo mean.
    source : str
        Paper and equation.
    quantity : str
        The measured quantity beside which it is drawn: ``"kept"``, ``"retention"``, or empty.
    feature : str
        Of which feature of a run.
    """

    name: str
    definition: str
    logsnr: np.ndarray
    value: np.ndarray
    error: np.ndarray
    source: str
    quantity: str = ""
    feature: str = ""


Definition = Callable[[Any], Sequence[Prediction]]
"""Takes a model; returns nothing where it does not apply to the model, at least one prediction where it does."""

CurveDefinition = Callable[[Any, np.ndarray], Sequence[PredictedCurve]]
"""Takes a model and log-SNR levels (T,); returns nothing where it does not apply."""

DEFINITIONS: Registry[Definition] = Registry("definition", "turningpoint.theory")
CURVES: Registry[CurveDefinition] = Registry("predicted curve", "turningpoint.theory", "turningpoint.curves")


def theory(model: Any) -> list[Prediction]:
    """Every definition that applies to a model, in the order of log-SNR, those without a point last.

    Parameters
    ----------
    model : Denoiser
        One that knows itself (an `ExactDenoiser`); of others nothing is known.
    """
    found = [prediction for name in DEFINITIONS.names() for prediction in DEFINITIONS[name](model)]
    return sorted(found, key=lambda p: (not p.exists, p.logsnr if p.exists else 0.0, p.name))


def predicted_curves(model: Any, logsnr: Sequence[float] | np.ndarray) -> list[PredictedCurve]:
    """Every curve that applies to a model, at the given log-SNR levels."""
    levels = np.atleast_1d(np.asarray(logsnr, dtype=np.float64))
    return [curve for name in CURVES.names() for curve in CURVES[name](model, levels)]


def table(predictions: Sequence[Prediction], schedule: Schedule) -> pd.DataFrame:
    """Predictions on all three clocks: name, definition, logsnr, t, native, source, reason."""
    rows = []
    for p in predictions:
        t = float(schedule.t(logsnr=p.logsnr)) if p.exists else math.nan
        native = float(schedule.native(t)) if p.exists and 0 <= t <= 1 else math.nan
        rows.append(
            {
                "name": p.name,
                "definition": p.definition,
                "logsnr": p.logsnr,
                "t": t,
                "native": native,
                "source": p.source,
                "reason": p.reason,
                "feature": p.feature,
                "value": p.value,
                "unit": p.unit,
                "error": p.error,
            }
        )
    columns = [
        "name",
        "definition",
        "logsnr",
        "t",
        "native",
        "source",
        "reason",
        "feature",
        "value",
        "unit",
        "error",
    ]
    return pd.DataFrame(rows, columns=columns)
