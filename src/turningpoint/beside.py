"""What the report lays beside a run: theory through its curves, and another run of the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .diffusion.sampler import sampler
from .errors import TurningpointError
from .theory import predicted_curves, table, theory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Run

Picture = tuple[Any, pd.DataFrame, str]
"""A figure, the tidy table it was drawn from, and what a reader who cannot see it is told."""

LEVELS = 61
"""Noise levels at which a predicted curve is evaluated."""

BANDS = {"kept": ("kept", "kept_low", "kept_high"), "retention": ("retention", "low", "high")}
NOUNS = {"uturn": "U-turns", "clone": "clones"}


def theory_picture(run: Run, beside: Run | None, sweep: tuple[float, float]) -> dict[str, Picture]:
    """Theory beside what was measured, if the run's model knows itself; else nothing."""
    from .figures.theory import theory as draw

    try:
        model = run.model
    except TurningpointError:
        return {}
    definitions = table(theory(model), run.schedule)
    runs = [r for r in (run, beside) if r is not None and draws_from_posterior(r)]
    curves = predicted_curves(model, np.linspace(*sweep, LEVELS)) if runs and sweep[1] > sweep[0] else []
    known = set(run.features())
    predicted = pd.DataFrame(
        [
            {
                "name": c.name,
                "feature": c.feature,
                "quantity": c.quantity,
                "logsnr": x,
                "value": y,
                "error": e,
            }
            for c in curves
            if c.feature in known and c.quantity in BANDS
            for x, y, e in zip(c.logsnr, c.value, c.error, strict=True)
        ],
        columns=["name", "feature", "quantity", "logsnr", "value", "error"],
    )
    if predicted.empty and definitions.empty:
        return {}
    measured = measured_points(runs, predicted)
    figure: Figure = draw(measured, predicted, definitions, run.schedule)
    rows = pd.concat(
        [
            frame.assign(source=source)
            for source, frame in (("measured", measured), ("theory", predicted), ("definition", definitions))
            if not frame.empty
        ],
        ignore_index=True,
    )
    about = "Theory beside measurement: " + "; ".join(
        f"{row['name']} at log-SNR {row['logsnr']:.2f}"
        if np.isfinite(row["logsnr"])
        else f"{row['name']} none"
        for row in definitions.to_dict("records")
    )
    return {"theory": (figure, rows, about)}


def error_picture(error: pd.DataFrame) -> dict[str, Picture]:
    """The difference between U-turns and clones, if there is one to draw."""
    from .figures.difference import difference, spoken

    if not np.isfinite(error["difference"].astype(float)).any():
        return {}
    return {"difference": (difference(error), error, spoken(error))}


def draws_from_posterior(run: Run) -> bool:
    """Whether theory speaks of the run: a stochastic sampler, no condition told, no other noise at the parting."""
    settings = dict(run.settings["sampler"])
    made = sampler(settings.pop("name"), **settings)
    told = run.manifest["axes"].get("condition", {})
    return bool(made.stochastic and not told and not run.settings.get("renoise", 0))


def measured_points(runs: list[Run], predicted: pd.DataFrame) -> pd.DataFrame:
    """What the runs measured of the predicted quantities: a row per run, feature, quantity and time."""
    parts = []
    for run in runs:
        pairs = predicted[["feature", "quantity"]].drop_duplicates().itertuples(index=False)
        for feature, quantity in pairs:
            if feature not in run.features():
                continue
            r = run.retention(feature)
            value, low, high = (r[name].values for name in BANDS[quantity])
            part = {"run": NOUNS.get(run.kind, run.kind), "feature": feature, "quantity": quantity}
            parts.append(
                pd.DataFrame(part | {"logsnr": r.logsnr.values, "value": value, "low": low, "high": high})
            )
    columns = ["run", "feature", "quantity", "logsnr", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
