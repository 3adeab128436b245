r"""Retention: one number for "is this feature decided yet?"

For a starting image :math:`x_i`, its U-turns :math:`x'_{ir}` at one time, and a reading f:

=============  =========================================================  ==========================================
kind           kept (raw)                                                 chance
=============  =========================================================  ==========================================
categorical    :math:`k = P[f(x_i) = f(x'_{ir})]`                         :math:`c = P[f(x_i) = f(x'_{jr})], j \ne i`
scalar,        :math:`k = E \|f(x_i) - f(x'_{ir})\|^2`                    :math:`c = E \|f(x_i) - f(x'_{jr})\|^2`
vector
comparison     :math:`k = E s(x_i, x'_{ir})`                              :math:`c = E s(x_i, x'_{jr})`
=============  =========================================================  ==========================================

.. math:: r = \frac{k - c}{b - c},

with b the value for equal images: 1, 0 and :math:`s_{max}`; for categories this is Cohen's kappa form, for
numbers it is :math:`1 - k / c`.  1: nothing has changed; 0: the image that came back is a fresh draw.
Chance is estimated from the U-turns of *other* items under the same condition and at the same time,
so that a model's own errors cancel; for categories and numbers all pairs are used, through sums over
items alone, so the cost is linear in their number.

With bootstrap weights :math:`w_i` (see `bootstrap`), :math:`k = \sum_i w_i k_i / \sum_i w_i` and, within one condition,
:math:`c = \sum_{i \ne j} w_i w_j c_{ij} / \sum_{i \ne j} w_i w_j`: an item drawn twice is never its own stranger.
Several conditions are averaged with the weight of their items, in k as in c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import in_blocks, interval

CHANCE_LIMIT = 0.95
"""Where other items' U-turns agree more often than this, retention of a category is not defined."""


@dataclass(frozen=True)
class Readings:
    """One reading of all images of a run.

    Parameters
    ----------
    kind : str
        ``categorical``, ``scalar``, ``vector`` or ``comparison``.
    start : array
        Of the starting images: (N,), or (N, d) for vectors; unused for comparisons.
    back : array
        Of what came back: (N, R, T), or (N, R, T, d); for a comparison, of each image with its start.
    condition : array (N,)
        Items with equal entries were simulated under the same condition.
    other : array (N, R, T, M), optional
        A comparison of each image with the starts of M other items of its condition.
    partner : array (N, M), optional
        Which items these are, -1 for none.
    largest : float
        A comparison's value for equal images.
    """

    kind: str
    start: np.ndarray
    back: np.ndarray
    condition: np.ndarray
    other: np.ndarray | None = None
    partner: np.ndarray | None = None
    largest: float = 1.0


@dataclass(frozen=True)
class Curve:
    """Retention over time; row 0 of each array is the estimate, the others are bootstrap samples.

    Attributes
    ----------
    kept, chance, retention : array (S + 1, T)
        See the module's docstring.
    reason : str
        Why retention is NaN somewhere; empty if it is nowhere.
    """

    kept: np.ndarray
    chance: np.ndarray
    retention: np.ndarray
    reason: str

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The bootstrap band of the retention, two arrays (T,); NaN where the retention is."""
        low, high = interval(self.retention[1:], level)
        gap = np.isnan(self.retention[0])
        return np.where(gap, np.nan, low), np.where(gap, np.nan, high)


def curve(readings: Readings, weights: np.ndarray) -> Curve:
    """The retention of one reading at every time.

    Parameters
    ----------
    readings : Readings
        Of N items, R replicates, T times.
    weights : array (S + 1, N)
        From `turningpoint.statistics.bootstrap.weights`.

    Examples
    --------
    >>> start = np.array([0, 0, 1, 1])
    >>> back = start.reshape(4, 1, 1)                       # every class came back
    >>> c = curve(Readings("categorical", start, back, np.zeros(4)), np.ones((1, 4)))
    >>> c.kept.item(), round(c.chance.item(), 3), c.retention.item()
    (1.0, 0.333, 1.0)
    """
    blocks = [_estimates(readings, block) for block in in_blocks(weights)]
    kept, chance = (np.concatenate([block[side] for block in blocks]) for side in (0, 1))
    best = {"categorical": 1.0, "comparison": readings.largest}.get(readings.kind, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        reason = _undefined(readings, chance[0], best)
        retention = (kept - chance) / (best - chance)
    undefined = np.array([bool(r) for r in reason])
    retention = np.where(undefined | ~np.isfinite(retention), np.nan, retention)
    return Curve(kept, chance, retention, next((r for r in reason if r), ""))


def joined(curves: Sequence[Curve]) -> Curve:
    """Curves at times that follow one another as one."""
    if len(curves) == 1:
        return curves[0]
    kept, chance, retention = (
        np.concatenate([getattr(c, name) for c in curves], axis=1) for name in ("kept", "chance", "retention")
    )
    return Curve(kept, chance, retention, next((c.reason for c in curves if c.reason), ""))


def _estimates(readings: Readings, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept and chance (S, T) under bootstrap weights (S, N)."""
    moments: dict[str, Callable[[Readings, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
        "categorical": _categorical,
        "scalar": _squared_distance,
        "vector": _squared_distance,
        "comparison": _comparison,
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        kept, chance = moments[readings.kind](readings, weights)
        company = _in_company(readings.condition)
        if company.any() and not company.all():  # who has no stranger cannot be set against chance
            kept = moments[readings.kind](_only(readings, company), weights[:, company])[0]
    return kept, chance


def _only(r: Readings, items: np.ndarray) -> Readings:
    """The readings of some items, for what they keep."""
    partner = None if r.partner is None else np.full_like(r.partner[items], -1)
    other = None if r.other is None else r.other[items]
    start = r.start[items] if len(r.start) else r.start
    return Readings(r.kind, start, r.back[items], r.condition[items], other, partner, r.largest)


def _undefined(readings: Readings, chance: np.ndarray, best: float) -> list[str]:
    """For every time, why there is no retention, or nothing."""
    reasons = []
    for c in chance:
        if np.isnan(c) and not _read_at_all(readings):
            reasons.append("no image has this reading")
        elif np.isnan(c):
            reasons.append("no two starting images share a condition, so chance cannot be estimated")
        elif readings.kind == "categorical" and c > CHANCE_LIMIT:
            reasons.append(f"chance agreement is already {c:.2f}; look at what is kept")
        elif np.isclose(c, best, rtol=0, atol=1e-12):
            reasons.append("the feature is the same in all images")
        else:
            reasons.append("")
    return reasons


def _read_at_all(readings: Readings) -> bool:
    seen = np.isfinite(np.asarray(readings.back, dtype=float)).any()
    return bool(seen and (readings.kind == "comparison" or np.isfinite(readings.start.astype(float)).any()))


def _pairs(
    condition: np.ndarray,
    weights: np.ndarray,
    term: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """The chance level (S, T): within each condition sum c_ij / sum n_ij over pairs i != j, then over conditions.

    A condition weighs as many items as it has, as it does in what is kept; ``term`` gives both sums
    for one group.  Items that are alone with their condition have no strangers and are left out.
    """
    total, weight = np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    for value in np.unique(condition):
        group = np.flatnonzero(condition == value)
        if len(group) < 2:
            continue
        c, n = term(group, weights[:, group])
        share = weights[:, group].sum(1)[:, None] * (n > 1e-9)
        total = total + share * np.where(n > 1e-9, c / np.where(n > 1e-9, n, 1), 0)
        weight = weight + share
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)


def _in_company(condition: np.ndarray) -> np.ndarray:
    """Which items share their condition with another one, (N,) bool."""
    _, group, sizes = np.unique(condition, return_inverse=True, return_counts=True)
    company: np.ndarray = sizes[group] > 1
    return company


def _mean(values: np.ndarray, valid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over items of ``values`` (N, R, T), averaged over valid replicates: (S, T)."""
    n = valid.sum(1)
    per_item = np.where(valid, values, 0).sum(1) / np.maximum(n, 1)
    seen = (n > 0).astype(float)
    mean: np.ndarray = (weights @ (per_item * seen)) / (weights @ seen)
    return mean


def _categorical(r: Readings, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start, back = r.start.astype(float), r.back.astype(float)
    valid = ~np.isnan(back) & ~np.isnan(start)[:, None, None]
    kept = _mean(back == start[:, None, None], valid, weights)
    values = np.unique(start[~np.isnan(start)])

    def term(group: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = start[group], back[group]
        u, m = (~np.isnan(x)).astype(float), (~np.isnan(y)).sum(1).astype(float)  # (n,), (n, T)
        count = (w @ u)[:, None] * (w @ m) - w**2 @ (u[:, None] * m)
        total = np.zeros_like(count)
        for value in values:
            a, b = (x == value).astype(float), (y == value).sum(1).astype(float)
            total += (w @ a)[:, None] * (w @ b) - w**2 @ (a[:, None] * b)
        return total, count

    return kept, np.broadcast_to(_pairs(r.condition, weights, term), kept.shape)


def _squared_distance(r: Readings, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = r.start.astype(float).reshape(len(r.start), -1)  # (N, d)
    back = r.back.astype(float).reshape(*r.back.shape[:3], -1)  # (N, R, T, d)
    known = start[np.isfinite(start).all(1)]
    centre = known.mean(0) if len(known) else 0.0
    start, back = start - centre, back - centre  # differences of large numbers lose digits
    u: np.ndarray = np.asarray(np.isfinite(start).all(1))
    v: np.ndarray = np.asarray(np.isfinite(back).all(-1))
    start, back = np.where(u[:, None], start, 0), np.where(v[..., None], back, 0)
    kept = _mean(np.square(back - start[:, None, None]).sum(-1), v & u[:, None, None], weights)

    def term(group: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f, g = start[group], back[group].sum(1)  # (n, d), (n, T, d)
        uu, m = u[group].astype(float), v[group].sum(1).astype(float)
        f2, g2 = np.square(f).sum(1) * uu, np.square(back[group]).sum((1, 3))
        count = (w @ uu)[:, None] * (w @ m) - w**2 @ (uu[:, None] * m)
        cross = _bilinear(f, g, w)
        total = (w @ f2)[:, None] * (w @ m) + (w @ uu)[:, None] * (w @ g2) - 2 * cross
        own = f2[:, None] * m + uu[:, None] * g2 - 2 * np.einsum("nd,ntd->nt", f, g)
        return total - w**2 @ own, count

    return kept, np.broadcast_to(_pairs(r.condition, weights, term), kept.shape)


def _bilinear(f: np.ndarray, g: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sum_ij w_i w_j f_i . g_jt for f (n, d), g (n, T, d), w (S, n): (S, T), by the cheaper of two ways."""
    columns = []
    for t in range(g.shape[1]):
        if len(f) <= f.shape[1]:
            columns.append((w @ (f @ g[:, t].T) * w).sum(1))
        else:
            columns.append(((w @ f) * (w @ g[:, t])).sum(1))
    return np.stack(columns, 1)


def _comparison(r: Readings, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert r.other is not None
    assert r.partner is not None
    other, partner = r.other, r.partner
    kept = _mean(r.back, np.isfinite(r.back), weights)

    def term(group: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.zeros(len(partner), dtype=np.int64)
        place[group] = np.arange(len(group))
        total = np.zeros((len(w), other.shape[2]))
        count = np.zeros_like(total)
        for m in range(partner.shape[1]):
            j = partner[group, m]
            values = other[group][..., m]
            valid = np.isfinite(values) & (j >= 0)[:, None, None]
            # strangers of i are other items; both ends of a pair carry their weights
            pair = w * w[:, place[np.maximum(j, 0)]]
            total += pair @ np.where(valid, values, 0).sum(1)
            count += pair @ valid.sum(1)
        return total, count

    return kept, _pairs(r.condition, weights, term)
