r"""U-turns against clones: a diagnostic of a model's errors that needs no truth to compare with.

A U-turn noises *data* to t and denoises; a clone continues a *generated* trajectory from t.  With an exact
denoiser and a stochastic sampler both states have the distribution :math:`p_t` and both ends are draws from
:math:`p(x_0 \mid x_t)`, so whatever a U-turn keeps, clones agree on with the same probability:

.. math:: \Delta(t) = k^{U}(t) - k^{C}(t) = 0 \quad \text{for all } t.

Where the model errs, it shows in two ways: generated trajectories are not where noised data are, and what is
drawn is not the posterior.  The two runs have different items, so their bootstraps are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError
from ..run import Run
from ..statistics.bootstrap import interval

SAME_TIME = 1e-6
"""Times of two runs closer than this are one."""


def model_error(
    uturns: Run, clones: Run, features: Sequence[str] | None = None, quantity: str = "retention"
) -> pd.DataFrame:
    """What U-turns keep less what clones agree on, at the times that both runs have.

    Parameters
    ----------
    uturns, clones : Run
        A U-turn run and a clone run of one model, measured.
    features : sequence of str, optional
        By default all that both runs have.
    quantity : str
        ``"retention"``, or ``"kept"``: the raw probability, distance or similarity.

    Returns
    -------
    DataFrame
        ``feature, label, t, logsnr, uturn, clone, difference, error, low, high``; error is the standard
        error of the difference, low and high are the ends of its 95 % interval.

    Raises
    ------
    TurningpointError
        If the runs are of other kinds or models, or share no time or feature.

    Examples
    --------
    >>> import turningpoint as tp
    >>> kind = {"times": [0.4, 0.6], "steps": 5, "progress": None}
    >>> a = tp.uturn("digits", items=3, **kind).measure("pixels")
    >>> b = tp.clone("digits", 3, **kind).measure("pixels")
    >>> tp.model_error(a, b).columns.tolist()[:6]
    ['feature', 'label', 't', 'logsnr', 'uturn', 'clone']
    """
    for argument, run, kind in (("uturns", uturns, "uturn"), ("clones", clones, "clone")):
        if run.kind != kind:
            raise TurningpointError(f"{argument} is a {run.kind} run; accepted: a {kind} run.")
    known = [run.settings["model"]["fingerprint"] for run in (uturns, clones)]
    if known[0] != known[1]:
        raise TurningpointError(
            f"the runs are of models {known[0]} and {known[1]} (fingerprints); accepted: one model."
        )
    if quantity not in ("retention", "kept"):
        raise TurningpointError(f"quantity is {quantity!r}; accepted: retention, kept.")
    shared = [f for f in uturns.features() if f in clones.features()]
    chosen = list(features or shared)
    if not chosen:
        raise TurningpointError(
            "the runs have no reading in common; call run.measure(...) with the same measures."
        )
    apart = np.abs(uturns.times[:, None] - clones.times[None])
    pairs = [(int(i), int(row.argmin())) for i, row in enumerate(apart) if row.min() < SAME_TIME]
    if not pairs:
        raise TurningpointError(
            "the runs have no time in common; give both the same times, on the sampler's grid."
        )
    i, j = np.array(pairs).T
    rows = []
    for feature in chosen:
        a, b = getattr(uturns.curve(feature), quantity)[:, i], getattr(clones.curve(feature), quantity)[:, j]
        label = uturns.reading(feature).attrs["label"]
        rows += _rows(feature, label, uturns, uturns.times[i], a, b)
    return pd.DataFrame(rows)


def _rows(
    feature: str, label: str, run: Run, times: np.ndarray, a: np.ndarray, b: np.ndarray
) -> list[dict[str, Any]]:
    """A row per time from the estimates (row 0) and bootstrap samples of both runs, (S + 1, T) each."""
    with np.errstate(invalid="ignore"):
        samples = a[1:] - b[1:]
        low, high = interval(samples)
        error = samples.std(0)
    return [
        {
            "feature": feature,
            "label": label,
            "t": float(t),
            "logsnr": float(run.schedule.logsnr(t)),
            "uturn": a[0, k],
            "clone": b[0, k],
            "difference": a[0, k] - b[0, k],
            "error": error[k],
            "low": low[k],
            "high": high[k],
        }
        for k, t in enumerate(times)
    ]
