r"""The effect of a change on a feature of paired images: how far, which way, and whether by chance.

Image i is made twice, clean and changed, all else being equal; a feature reads :math:`f_i` and :math:`f'_i`.  In the
feature's own units the *effect* is

=============  ====================================================  ================================================
kind           effect e                                              scale s: the same of different clean images
=============  ====================================================  ================================================
scalar         :math:`\overline{f'_i - f_i}`                         :math:`\sqrt{E_{i \ne j} (f_i - f_j)^2 / 2}`
vector         :math:`\sqrt{\overline{\|f'_i - f_i\|^2}}`            :math:`\sqrt{E_{i \ne j} \|f_i - f_j\|^2}`
categorical    :math:`P[f'_i \ne f_i]`                               :math:`P_{i \ne j}[f_i \ne f_j]`
comparison     :math:`s_{max} - \overline{s(x_i, x'_i)}`             :math:`s_{max} - E_{i \ne j} \, s(x_i, x_j)`
=============  ====================================================  ================================================

and two numbers make features comparable.  The *shift* of a scalar is Glass's delta :math:`e / s`, the paired mean
difference in standard deviations of the clean images (Glass 1976); the standard deviation of the differences (Cohen's
:math:`d_z`) is not used, since a faithful pairing makes any trifle large by it.  What *moved* is without a sign and is
there for every kind,

.. math:: m = e / s, \qquad \text{for scalars} \quad m = \sqrt{\overline{(f'_i - f_i)^2} / 2 s^2},

0 where nothing changed and 1 where a changed image is as far from its clean one as another clean image is.  It is the
root of 1 - r, for categories and comparisons 1 - r itself, with r the retention of `turningpoint.statistics.retention`
whose strangers are clean images.  A feature that every image loses in a direction of its own moves without a shift.

Intervals are percentiles of a bootstrap over items.  The null hypothesis that a scalar has no shift is tested by
flipping the signs of the differences (Fisher 1935, section 21): all ways of doing so where they are few, else random
ones.  For kinds without a sign there is no such test: untouched, the two images are equal to the last bit, so *any*
difference is the change's work, and what is asked is how large it is.  Over features, p-values are corrected for the
false discovery rate (Benjamini & Hochberg 1995).

Where the change puts in what a *donor* g has, *towards* is how far the feature has come to the donor's, as a share of
the way: :math:`\sum_i (f'_i - f_i) \cdot (g_i - f_i) / \sum_i \|g_i - f_i\|^2`, the slope of one difference against the
other; of categories :math:`P[f'_i = g_i \mid g_i \ne f_i]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bootstrap import in_blocks, interval
from .retention import CHANCE_LIMIT

FLIPS = 9999
"""Sign flips of a test; the smallest p-value is then 0.0002, two-sided."""


@dataclass(frozen=True)
class Pair:
    """One feature of N clean images and of the same images changed.

    Parameters
    ----------
    kind : str
        ``scalar``, ``vector``, ``categorical`` or ``comparison``.
    clean, changed : array (N,), or (N, d) for vectors
        What was read; NaN where an image has no such reading.  Of a comparison ``changed`` is the similarity of each
        clean image with its changed one, and ``clean`` is not looked at.
    other : array (N, M), optional
        Of a comparison: the similarity of each clean image with M other clean ones.
    partner : array (N, M), optional
        Which items these are, -1 for none.
    largest : float
        A comparison's value for equal images.
    """

    kind: str
    clean: np.ndarray
    changed: np.ndarray
    other: np.ndarray | None = None
    partner: np.ndarray | None = None
    largest: float = 1.0


@dataclass(frozen=True)
class Effect:
    """The effect on one feature; row 0 of each array is the estimate, the others are bootstrap samples.

    Attributes
    ----------
    effect, moved : array (S + 1,)
        See the module's docstring.
    shift : array (S + 1,)
        Glass's delta; NaN for what has no sign.
    clean, changed : float
        The means of a scalar; NaN for other kinds.
    items : int
        On how many images it rests.
    reason : str
        What keeps a number from being known, or images from being counted; empty if nothing does.
    """

    effect: np.ndarray
    shift: np.ndarray
    moved: np.ndarray
    clean: float
    changed: float
    items: int
    reason: str

    def row(self, level: float = 0.95) -> dict[str, float]:
        """The estimates with the ends of their intervals, NaN where an estimate is."""
        row = {"items": self.items, "clean": self.clean, "changed": self.changed}
        names = {"effect": ("low", "high")}
        names |= {name: (f"{name}_low", f"{name}_high") for name in ("standardised", "moved")}
        for name, ends in names.items():
            samples = getattr(self, "shift" if name == "standardised" else name)
            low, high = interval(samples[1:], level) if len(samples) > 1 else (np.nan, np.nan)
            unknown = bool(np.isnan(samples[0]))
            row[name] = float(samples[0])
            row |= {end: np.nan if unknown else float(v) for end, v in zip(ends, (low, high), strict=True)}
        return row


def effect(pair: Pair, weights: np.ndarray) -> Effect:
    """The effect on one feature.

    Parameters
    ----------
    pair : Pair
        Of N items.
    weights : array (S + 1, N)
        From `turningpoint.statistics.bootstrap.weights`.

    Examples
    --------
    >>> clean = np.array([0.0, 1.0, 2.0, 3.0])
    >>> found = effect(Pair("scalar", clean, clean + 1), np.ones((1, 4)))
    >>> found.effect.item(), round(found.shift.item(), 3)          # the standard deviation is 1.291
    (1.0, 0.775)
    >>> turned = effect(Pair("categorical", np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])), np.ones((1, 4)))
    >>> turned.effect.item(), round(turned.moved.item(), 3)        # two of three other images differ
    (0.25, 0.375)
    """
    if pair.kind == "comparison":
        return _of_comparison(pair, weights)
    values = [np.asarray(side, dtype=float).reshape(len(side), -1) for side in (pair.clean, pair.changed)]
    there, after = (np.isfinite(side).all(1) for side in values)
    both = there & after
    clean, changed = (side[both] for side in values)
    reason = _counted(both, there & ~after)
    if not len(clean):
        return _unknown(len(weights), "no image has this reading")
    parts = [_of_values(pair.kind, clean, changed, block) for block in in_blocks(weights[:, both])]
    e, square, shifted = (np.concatenate([part[k] for part in parts]) for k in range(3))
    scalar = pair.kind == "scalar"
    means = (float(clean.mean()), float(changed.mean())) if scalar else (np.nan, np.nan)
    why = _not_comparable(pair.kind, clean, float(square[0]))
    if why:
        nothing = np.full(len(e), np.nan)
        return Effect(e, nothing, nothing, *means, len(clean), "; ".join(filter(None, (reason, why))))
    if scalar:
        shift, moved = e / np.sqrt(_known(square) / 2), np.sqrt(shifted / _known(square))
    else:
        scale = square if pair.kind == "categorical" else np.sqrt(square)
        shift, moved = np.full(len(e), np.nan), e / _known(scale)
    return Effect(e, shift, moved, *means, len(clean), reason)


def towards(pair: Pair, donor: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How far a feature has come to a donor's, as a share of the way: (S + 1,), NaN where there is no way to go.

    Parameters
    ----------
    pair : Pair
        Of N items, no comparison.
    donor : array (N,), or (N, d) for vectors
        What was read of the donors.
    weights : array (S + 1, N)

    Examples
    --------
    >>> clean, donor = np.array([0.0, 1.0]), np.array([2.0, 4.0])
    >>> towards(Pair("scalar", clean, clean + np.array([1.0, 1.5])), donor, np.ones((1, 2))).item()
    0.5
    """
    sides = [np.asarray(x, dtype=float).reshape(len(x), -1) for x in (pair.clean, pair.changed, donor)]
    there = np.logical_and.reduce([np.isfinite(x).all(1) for x in sides])
    clean, changed, goal = (np.where(there[:, None], x, 0) for x in sides)
    if pair.kind == "categorical":
        whole = (there & (goal != clean).any(1)).astype(float)
        gone = whole * (changed == goal).all(1)
    else:
        whole = np.square(goal - clean).sum(1)
        gone = ((changed - clean) * (goal - clean)).sum(1)
    return np.concatenate([w @ gone / _known(w @ whole) for w in in_blocks(weights)])


def flipped(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of the null hypothesis that differences are as often up as down by any amount.

    Parameters
    ----------
    differences : array (N, F)
        Of F features; NaN where an item has none.
    flips : int
        All 2^n flips of n items' signs are taken if they are not more; else so many random ones, the observed one
        being counted with them (Phipson & Smyth 2010).
    seed : int
        Of the random ones.

    Returns
    -------
    array (F,)
        NaN for a feature that no item has.

    Examples
    --------
    >>> flipped(np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 0.5]]), flips=100).tolist()
    [0.25, 1.0]
    """
    from scipy.stats import permutation_test

    differences = np.asarray(differences, dtype=float)
    there = np.isfinite(differences)
    p = np.full(differences.shape[1], np.nan)

    def mean(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        found: np.ndarray = (a - b).mean(axis)
        return found

    # features that lack the same items are tested together
    for pattern in np.unique(there.T, axis=0):
        columns = (pattern == there.T).all(1)
        if not pattern.any():
            continue
        one = differences[pattern][:, columns]
        found = permutation_test(
            (one, np.zeros_like(one)),
            mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=flips,
            batch=max(1, 2**21 // one.size),
            rng=np.random.default_rng(seed),
        )
        p[columns] = found.pvalue
    return p


def corrected(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's q-values of those p-values that are known, NaN for the others.

    >>> corrected(np.array([0.01, np.nan, 0.04])).tolist()
    [0.02, nan, 0.04]
    """
    from scipy.stats import false_discovery_control

    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def _of_values(
    kind: str, clean: np.ndarray, changed: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of values (n, d) under weights (S, n): the effect, then the mean squares between different clean images and
    between clean and changed (of categories, the shares that differ), each (S,).
    """
    total = w.sum(1)
    pairs = _known(total**2 - (w**2).sum(1))
    if kind == "categorical":
        agree = np.zeros(len(w))
        for value in np.unique(clean):
            has = (clean[:, 0] == value).astype(float)
            agree += (w @ has) ** 2 - w**2 @ has
        differs = (clean != changed).any(1).astype(float)
        with np.errstate(invalid="ignore"):
            share = w @ differs / _known(total)
        return share, 1 - agree / pairs, share
    d = changed - clean
    with np.errstate(invalid="ignore"):
        square = w @ np.square(d).sum(1) / _known(total)
    centred = clean - clean.mean(0)
    apart = 2 * (total * (w @ np.square(centred).sum(1)) - _square_of_sum(centred, w))
    e = w @ d[:, 0] / _known(total) if kind == "scalar" else np.sqrt(square)
    return e, np.maximum(apart, 0) / pairs, square


def _not_comparable(kind: str, clean: np.ndarray, square: float) -> str:
    """Why different clean images (n, d) give no scale, or nothing."""
    if len(clean) < 2:
        return "one image has no others to be compared with"
    if kind == "categorical" and 1 - square > CHANCE_LIMIT:
        return f"different clean images already agree in {1 - square:.2f} of all pairs"
    if square <= (np.finfo(np.float32).eps * np.abs(clean).max()) ** 2:
        return "it is the same in all clean images"
    return ""


def _square_of_sum(f: np.ndarray, w: np.ndarray) -> np.ndarray:
    """|sum_i w_i f_i|^2 for f (n, d), w (S, n): (S,), by the cheaper of two ways."""
    if f.shape[1] <= len(f):
        squares: np.ndarray = np.square(w @ f).sum(1)
        return squares
    squares = (w @ (f @ f.T) * w).sum(1)
    return squares


def _of_comparison(pair: Pair, weights: np.ndarray) -> Effect:
    assert pair.other is not None
    assert pair.partner is not None
    there = np.isfinite(pair.changed)
    if not there.any():
        return _unknown(len(weights), "no image has this reading")
    places = np.maximum(pair.partner, 0)
    usable = np.isfinite(pair.other) & (pair.partner >= 0)
    kept, strange = [], []
    for w in in_blocks(weights):
        kept.append(w @ np.where(there, pair.changed, 0) / _known(w @ there.astype(float)))
        both = w[:, :, None] * w[:, places]
        count = _known((both * usable).sum((1, 2)))
        strange.append((both * np.where(usable, pair.other, 0)).sum((1, 2)) / count)
    e = pair.largest - np.concatenate(kept)
    scale = pair.largest - np.concatenate(strange)
    nothing = np.full(len(e), np.nan)
    reason = _counted(there, np.zeros(0, dtype=bool))
    moved = nothing
    if np.isnan(scale[0]):
        reason = "one image has no others to be compared with"
    elif scale[0] < 1e-12:
        reason = "it is the same in all clean images"
    else:
        moved = e / _known(scale)
    return Effect(e, nothing, moved, np.nan, np.nan, int(there.sum()), reason)


def _known(values: np.ndarray) -> np.ndarray:
    """Denominators, NaN where they are not positive: such a sample says nothing."""
    return np.where(values > 0, values, np.nan)


def _counted(both: np.ndarray, lost: np.ndarray) -> str:
    parts = [] if both.all() else [f"{int(both.sum())} of {len(both)} images have it clean and changed"]
    parts += [f"{int(lost.sum())} lost it"] if lost.any() else []
    return "; ".join(parts)


def _unknown(samples: int, reason: str) -> Effect:
    nothing = np.full(samples, np.nan)
    return Effect(nothing, nothing, nothing, np.nan, np.nan, 0, reason)
