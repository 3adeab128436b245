r"""Prediction against intervention: did a layer whose activity went with a feature turn out to drive it?

A trace says which features a layer's activity *predicts*: over samples, summaries of the layer at one step correlate
with the feature's increments, with p-values corrected over the table.  Correlation alone does not tell a cause from a
bystander.  A patch *intervenes*: it changes the layer over a window of noise and leaves all else as it is.  Each
feature then falls into one of three verdicts (and most into none),

======================================  ==========================================================================
``predicted and changed``               the correlation was a cause, within this window
``predicted, not changed``              a bystander, or a cause at another time: see whether its step is in the window
``changed, not predicted``              a cause that no summary of the activity has shown
======================================  ==========================================================================

A feature counts as *changed* if it is shifted (q at most the level) or if it has moved: its images have gone at least
a tenth of the way to other images, with the lower end of the interval.  See `turningpoint.statistics.effects`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError

LEVEL = 0.05
"""The largest q-value, of a prediction and of a shift, that counts."""
MOVED = 0.1
"""How far an image must have moved towards another one, at least, to count as changed without a shift."""
BOTH, BYSTANDER, UNSEEN, UNREAD = (
    "predicted and changed",
    "predicted, not changed",
    "changed, not predicted",
    "predicted, not read",
)
VERDICTS = (BOTH, BYSTANDER, UNSEEN, UNREAD)
COLUMNS = (
    "feature",
    "verdict",
    "layer",
    "summary",
    "r",
    "q_predicted",
    "logsnr",
    "inside",
    "standardised",
    "moved",
    "q",
    "outcome",
    "sentence",
)


def verdicts(
    effects: pd.DataFrame, association: pd.DataFrame, layers: Sequence[str], window: tuple[float, float]
) -> pd.DataFrame:
    """What became of each prediction about some layers once they were changed over a window.

    Parameters
    ----------
    effects : DataFrame
        Of `turningpoint.effects`: ``feature``, ``standardised``, ``moved``, their ends ``_low`` and ``_high``, ``q``.
    association : DataFrame
        A trace's layer-feature table: ``layer``, ``summary``, ``feature``, ``logsnr`` (of the largest abs(r)), ``r``,
        ``q``, and perhaps ``significant``, which then says what is a prediction.
    layers : sequence of str
        Those that were changed; what the table says of layers within them counts for them.
    window : tuple of two floats
        The log-SNRs between which they were changed, in either order.

    Returns
    -------
    DataFrame
        A row for each feature that was predicted (by any summary) or changed: ``feature``, ``verdict``,
        the prediction's ``layer``, ``summary``, ``r``, ``q_predicted``, ``logsnr`` and whether that lies ``inside`` the
        window (of several predictions one inside is preferred, and then the largest abs(r)), the effect's
        ``standardised``, ``moved`` and ``q``, the ``outcome`` in words, and a ``sentence``. Predictions come first, the
        largest abs(r) on top.

    Raises
    ------
    TurningpointError
        If the table says nothing of these layers, or lacks a column.

    Examples
    --------
    >>> effects = pd.DataFrame({"feature": ["edges"], "standardised": [-0.8], "standardised_low": [-1.0],
    ...     "standardised_high": [-0.6], "moved": [0.7], "moved_low": [0.5], "moved_high": [0.9], "q": [0.003]})
    >>> table = pd.DataFrame({"layer": ["mid"], "summary": ["rank"], "feature": ["edges"], "logsnr": [-1.0],
    ...     "r": [0.62], "q": [0.01]})
    >>> verdicts(effects, table, ["mid"], (-2.0, 0.0)).sentence[0]
    'edges: predicted (r = 0.62 of its rank, inside the window), shifted by -0.80 sd [-1.00, -0.60], q = 0.003'
    """
    needed = ("layer", "summary", "feature", "logsnr", "r", "q")
    missing = [name for name in needed if name not in association]
    if missing:
        raise TurningpointError(
            f"association has no column {missing[0]!r}; accepted: a trace's table with {', '.join(needed)}."
        )
    ours = check_watched(association, layers)
    low, high = sorted(window)
    sure = (
        association["significant"].astype(bool) if "significant" in association else association["q"] <= LEVEL
    )
    told = association[association["layer"].isin(ours) & sure].copy()
    told["inside"] = told["logsnr"].between(low, high)
    told["size"] = told["r"].abs()
    best = told.sort_values(["inside", "size"], ascending=False, kind="stable").drop_duplicates("feature")
    predicted = {str(row["feature"]): row for row in best.to_dict("records")}
    found = {str(row["feature"]): row for row in effects.to_dict("records")}
    asked = set(association["feature"][association["layer"].isin(ours)].astype(str))
    rows = [
        _row(name, predicted.get(name), found.get(name), len(ours) > 1, name in asked)
        for name in dict.fromkeys([*found, *predicted])
    ]
    table = pd.DataFrame([row for row in rows if row["verdict"]], columns=list(COLUMNS))
    rank = table["verdict"].map({verdict: k for k, verdict in enumerate(VERDICTS)})
    size = table["r"].abs().fillna(table["moved"])
    order = np.lexsort((-size.to_numpy(float), rank.to_numpy(float)))
    return table.iloc[order].reset_index(drop=True)


def check_watched(association: pd.DataFrame, layers: Sequence[str]) -> list[str]:
    """Those layers of a trace's table that are among ``layers`` or in them.

    Raises
    ------
    TurningpointError
        If there are none.
    """
    watched = list(dict.fromkeys(str(name) for name in association["layer"]))
    ours = [name for name in watched if any(_within(name, layer) for layer in layers)]
    if not ours:
        raise TurningpointError(
            f"layer is {', '.join(layers)}, of which the trace's table says nothing; accepted: layers that it has "
            f"watched, such as {', '.join(watched[:3]) or 'none'}."
        )
    return ours


def summary_of_verdicts(table: pd.DataFrame, effects: pd.DataFrame, window: tuple[float, float]) -> str:
    """The outcome in words, and whether what was predicted moved farther than what was not.

    Parameters
    ----------
    table : DataFrame
        Of `verdicts`.
    effects : DataFrame
        From which it was made.
    window : tuple of two floats
        In log-SNR.

    Examples
    --------
    >>> table = pd.DataFrame({"feature": ["a", "b"], "verdict": [BOTH, BYSTANDER]})
    >>> effects = pd.DataFrame({"feature": ["a", "b", "c"], "moved": [0.5, 0.1, 0.2]})
    >>> summary_of_verdicts(table, effects, (-2.0, 0.0))
    'Of 2 features that the layer predicts, 1 changed with it between log-SNR -2.00 and 0.00. The features that it \
predicts moved 0.30 of the way to another image (median), the others 0.20.'
    """
    counts = {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}
    low, high = sorted(window)
    read = counts[BOTH] + counts[BYSTANDER]
    if read:
        words = (
            f"Of {read} feature{'s' * (read != 1)} that the layer predicts, {counts[BOTH] or 'none'} changed with it "
            f"between log-SNR {low:.2f} and {high:.2f}."
        )
    else:
        words = "The layer predicts none of the features that were read."
    if counts[UNSEEN]:
        words += f" {counts[UNSEEN]} changed without a prediction."
    if counts[UNREAD]:
        words += f" {counts[UNREAD]} that it predicts were not read."
    told = effects["feature"].isin(table["feature"][table["verdict"].isin([BOTH, BYSTANDER])])
    with_, without = (effects["moved"][rows].astype(float).median() for rows in (told, ~told))
    if math.isfinite(with_) and math.isfinite(without):
        words += (
            f" The features that it predicts moved {with_:.2f} of the way to another image (median), the others "
            f"{without:.2f}."
        )
    return words


def changed(effects: pd.DataFrame) -> np.ndarray:
    """Whether each feature of a table of effects counts as changed, (F,) of bool.

    >>> changed(pd.DataFrame({"q": [0.2, 0.01, np.nan], "moved_low": [0.02, 0.02, 0.3]})).tolist()
    [False, True, True]
    """
    return np.array([_changed(row) for row in effects.to_dict("records")], dtype=bool)


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _row(
    name: str, prediction: dict[Any, Any] | None, effect: dict[Any, Any] | None, several: bool, asked: bool
) -> dict[str, Any]:
    changed = effect is not None and _changed(effect)
    outcome = _words(effect, changed)
    if prediction is None:
        verdict = UNSEEN if changed else ""
        head = "not predicted" if asked else "not asked of the trace"
    else:
        verdict = UNREAD if effect is None else BOTH if changed else BYSTANDER
        whose = f"{prediction['layer']}'s" if several else "its"
        where = "inside" if prediction["inside"] else "outside"
        head = f"predicted (r = {prediction['r']:.2f} of {whose} {prediction['summary']}, {where} the window)"
    p, e = prediction or {}, effect or {}
    return {
        "feature": name,
        "verdict": verdict,
        "layer": p.get("layer", ""),
        "summary": p.get("summary", ""),
        "r": p.get("r", np.nan),
        "q_predicted": p.get("q", np.nan),
        "logsnr": p.get("logsnr", np.nan),
        "inside": bool(p.get("inside", False)),
        "standardised": e.get("standardised", np.nan),
        "moved": e.get("moved", np.nan),
        "q": e.get("q", np.nan),
        "outcome": outcome,
        "sentence": f"{name}: {head}, {outcome}",
    }


def _changed(effect: dict[Any, Any]) -> bool:
    return bool(effect["q"] <= LEVEL or effect["moved_low"] >= MOVED)  # NaN is neither


def _words(effect: dict[Any, Any] | None, changed: bool) -> str:
    if effect is None:
        return "not read"
    shift, q = float(effect["standardised"]), float(effect["q"])
    ends = f"[{effect['standardised_low']:.2f}, {effect['standardised_high']:.2f}], q = {_p(q)}"
    moved = f"{effect['moved']:.2f} of the way to another image [{effect['moved_low']:.2f}, {effect['moved_high']:.2f}]"
    if changed and q <= LEVEL and math.isfinite(shift):
        return f"shifted by {shift:.2f} sd {ends}"
    if changed and q <= LEVEL:
        return f"shifted, q = {_p(q)}"
    if changed:
        return f"moved {moved}" + (", without a shift" if math.isfinite(shift) else "")
    if math.isfinite(shift):
        return f"not changed ({shift:.2f} sd {ends})"
    if math.isfinite(float(effect["moved"])):
        return f"not changed ({moved})"
    return "not changed as far as can be told" + (f": {effect['note']}" if effect.get("note") else "")


def _p(value: float) -> str:
    """A p-value with as many digits as it has.

    >>> _p(0.00021), _p(0.034), _p(0.62)
    ('0.0002', '0.034', '0.62')
    """
    return "–" if math.isnan(value) else f"{value:.1g}" if value < 0.01 else f"{value:.2g}"
