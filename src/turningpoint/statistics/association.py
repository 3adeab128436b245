r"""Which layer and step goes with which feature: correlations across items, judged by permuting the items.

At the recorded times :math:`t_1, \dots, t_T` of a trajectory (in generation order) the network is called, and its
activations are summed up in numbers :math:`a(t_s)`; the step that follows takes a feature from :math:`f(t_s)` to
:math:`f(t_{s+1})`.  Steps are joined to W windows of equally many steps.  With A the mean of a over the calls of a
window, and F the increment of f from its first time to the time that follows its last,

.. math:: r_w = \mathrm{corr}_i (A_{iw}, F_{iw}), \qquad M = \max_w |r_w|,

Spearman's correlation over items i (average ranks for ties), or Pearson's, and M the statistic of a pair: a layer's
summary and a feature.  Few windows mean few tests and less noise in each; they hold equally many steps, because
every call of the network then counts alike and because log-SNR may be infinite at either end.

**p.**  The items of all features are permuted together, P times: the same permutation for every pair and window, so
the dependence of layers, summaries, windows and features among each other is kept, and only what joins activations
to features is broken.  ``p`` is :math:`(1 + \#\{M^* \ge M\}) / (P + 1)` (Phipson & Smyth 2010, SAGMB 9:39).

**Corrected.**  ``family`` is Westfall & Young's adjusted p-value by the step-down maximum (Resampling-Based Multiple
Testing, 1993; maxT in Ge, Dudoit & Speed 2003, TEST 12:1): it bounds the chance of *one* false call anywhere.  ``q``
is Benjamini & Hochberg's (1995): it bounds the expected share of false calls among the calls.

**Significant**, at the level 0.05, is a pair with ``family`` at most 0.05; and, if there is one, so is every pair with
``q`` at most 0.05.  The first condition is also a test of the whole table, exact whatever the dependence: where
nothing goes with anything, at most 5 % of tables call anything.  It finds a single true pair among many more readily;
of many true pairs the second finds more.  Benjamini & Hochberg's procedure alone would not do: its level is not proved
for two-sided statistics of any dependence, and as p is never below 1 / (P + 1), one pair alone among m has a q of
m / (P + 1) or more.  By default P brings this down to 0.05, within `LEAST` and `MOST`.

**Groups.**  A feature and an activation that both follow the class are correlated through it.  With groups, ranks
are taken within each group and divided by its size plus one (van Elteren 1960), so that what differs between groups
does not count, and items are permuted within their group.

A correlation is no cause: an activation may only *show* where the feature stands, and what stands high tends to
fall.  `turningpoint patch` asks for causes.  Items must be independent draws, as those of a trace are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import TurningpointError, one_of

METHODS = ("spearman", "pearson")
WINDOWS = 10
FEWEST = 5
"""Items: of fewer there are less than 120 permutations, and of a column less is known."""
LEAST, MOST = 999, 9999
"""Permutations by default: at least, and at most."""
BLOCK = 2**21
"""Permuted correlations held at a time: 16 MB."""
ROUNDING = 1e-10
"""Correlations closer than this are equal: far above a float's resolution, below the steps of ranks."""


@dataclass(frozen=True, eq=False)
class Association:
    """Correlations of L layers' S summaries with the increments of F features in W windows of steps.

    Attributes
    ----------
    layers, summaries, features : tuples of str
    steps : array (W, 2) of int
        Of each window, the place of its first call among the recorded times, and of the time that follows its last.
    logsnr : array (W,)
        Mean log-SNR of its calls; NaN if all are infinite.
    r : array (W, L, S, F)
        NaN where activations or increments do not vary, or are there for fewer than `FEWEST` items.
    strongest : array (L, S, F) of int
        The window with the largest ``|r|``; -1 if there is none.
    p, q, family : arrays (L, S, F)
        As in the module's text; NaN where there is no r.
    significant : array (L, S, F) of bool
    items : array (W, L, S, F) of int
        With both numbers.  One that is missing counts as the middle of its column, which draws r towards 0.
    permutations : int
    level : float
    """

    layers: tuple[str, ...]
    summaries: tuple[str, ...]
    features: tuple[str, ...]
    steps: np.ndarray
    logsnr: np.ndarray
    r: np.ndarray
    strongest: np.ndarray
    p: np.ndarray
    q: np.ndarray
    family: np.ndarray
    significant: np.ndarray
    items: np.ndarray
    permutations: int
    level: float

    def __repr__(self) -> str:
        tested = int(np.isfinite(self.p).sum())
        return (
            f"<{len(self.layers)} layers x {len(self.summaries)} summaries x {len(self.features)} features: "
            f"{int(self.significant.sum())} of {tested} pairs are significant>"
        )

    @property
    def chance(self) -> float:
        """The p-value of the whole table: that nothing goes with anything; NaN if nothing could be tested."""
        return float(np.nanmin(self.family)) if np.isfinite(self.family).any() else math.nan

    def table(self) -> pd.DataFrame:
        """A row per pair.

        ``layer``, ``summary``, ``feature``; at the window with the largest ``|r|`` its ``r``, ``step`` (the place of
        its first call), ``until`` (of the time that its last step leads to), ``logsnr`` and ``items``; then ``p``,
        ``q``, ``family``, ``significant``.
        """
        layer, summary, feature = (axis.ravel() for axis in np.indices(self.p.shape))
        known = self.strongest.ravel() >= 0
        window = np.maximum(self.strongest.ravel(), 0)
        at = (window, layer, summary, feature)
        return pd.DataFrame(
            {
                "layer": np.array(self.layers, object)[layer],
                "summary": np.array(self.summaries, object)[summary],
                "feature": np.array(self.features, object)[feature],
                "r": self.r[at],
                "step": np.where(known, self.steps[window, 0], -1),
                "until": np.where(known, self.steps[window, 1], -1),
                "logsnr": np.where(known, self.logsnr[window], np.nan),
                "p": self.p.ravel(),
                "q": self.q.ravel(),
                "family": self.family.ravel(),
                "significant": self.significant.ravel(),
                "items": np.where(known, self.items[at], 0),
            }
        )


def association(
    activations: np.ndarray,
    features: Mapping[str, np.ndarray],
    logsnr: np.ndarray,
    layers: Sequence[str],
    summaries: Sequence[str],
    *,
    windows: int | None = WINDOWS,
    method: str = "spearman",
    groups: np.ndarray | Sequence[Any] | None = None,
    permutations: int | None = None,
    level: float = 0.05,
    seed: int = 0,
) -> Association:
    """Correlate activations with the increments of features, and say what chance would do.

    Parameters
    ----------
    activations : array (N, T, L, S)
        Summaries of N items at T times in generation order; what is not finite is missing.
    features : mapping of str to array (N, T)
        Readings along the trajectory; of vectors and comparisons the distance from the final image.
    logsnr : array (T,)
    layers, summaries : sequences of L and S str
    windows : int or None
        How many windows the T - 1 steps are joined to; None, or as many as there are steps: every step alone.
    method : str
        ``spearman``, or ``pearson``.
    groups : sequence of N, optional
        Classes or conditions, of any kind; what differs between them is not counted.
    permutations : int, optional
        P; by default the number of pairs over the level, within `LEAST` and `MOST`.
    level : float
        For ``significant``.
    seed : int
        Of the permutations.

    Raises
    ------
    TurningpointError
        If shapes do not fit together, there are fewer than `FEWEST` items (in groups of two or more) or two times, or
        an option is out of its range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=(40, 4, 1, 1))  # items, times, layers, summaries
    >>> f = np.zeros((40, 4))
    >>> f[:, 2:] = a[:, 1, 0]  # the step after time 1 adds what the layer says at time 1
    >>> found = association(a, {"f": f}, np.arange(4.0), ["mid"], ["magnitude"])
    >>> found.table()[["layer", "feature", "r", "step", "significant"]].values.tolist()
    [['mid', 'f', 1.0, 1, True]]
    """
    activations, series = _checked(activations, features, logsnr, layers, summaries)
    if method not in METHODS:
        raise one_of("method", method, METHODS)
    for argument, value in (("windows", windows), ("permutations", permutations)):
        if value is not None and value < 1:
            raise TurningpointError(f"{argument} is {value}; accepted: 1 or more.")
    if not 0 < level < 1:
        raise TurningpointError(f"level is {level}; accepted: between 0 and 1.")
    n, times = activations.shape[:2]
    members = _members(groups, n)
    parts = np.array_split(np.arange(times - 1), min(windows or times - 1, times - 1))
    steps = np.array([[part[0], part[-1] + 1] for part in parts])
    a = np.stack([_mean(activations[:, part], 1).reshape(n, -1).T for part in parts])
    f = series[:, :, steps[:, 1]] - series[:, :, steps[:, 0]]  # of (F, N, T)
    a, a_there = _standardised(a, members, method)
    f, f_there = _standardised(f.transpose(2, 0, 1), members, method)
    shape = (len(layers), len(summaries), len(series))
    items = a_there.astype(float) @ f_there.astype(float).swapaxes(1, 2)
    varies = (a != 0).any(2)[:, :, None] & (f != 0).any(2)[:, None]
    r = np.where(varies, (a @ f.swapaxes(1, 2)).clip(-1, 1), np.nan)
    size = np.where(np.isnan(r), -1.0, np.abs(r))
    strongest = np.where(size.max(0) >= 0, size.argmax(0), -1)
    tested = np.flatnonzero(strongest.ravel() >= 0)
    if permutations is None:
        permutations = int(np.clip(math.ceil(len(tested) / level) - 1, LEAST, MOST))
    p, q, family = (np.full(strongest.size, np.nan) for _ in range(3))
    if len(tested):
        from scipy.stats import false_discovery_control

        reached = size.max(0).ravel()[tested]
        p[tested], family[tested] = _permuted(a, f, tested, reached, members, permutations, seed)
        q[tested] = false_discovery_control(p[tested])
    sure = family <= level
    return Association(
        layers=tuple(layers),
        summaries=tuple(summaries),
        features=tuple(features),
        steps=steps,
        logsnr=np.array([_mean(np.asarray(logsnr, float)[part], 0) for part in parts]),
        r=r.reshape(-1, *shape),
        strongest=strongest.reshape(shape),
        p=p.reshape(shape),
        q=q.reshape(shape),
        family=family.reshape(shape),
        significant=(sure | ((q <= level) & sure.any())).reshape(shape),
        items=items.astype(int).reshape(-1, *shape),
        permutations=permutations,
        level=level,
    )


def _checked(
    activations: np.ndarray,
    features: Mapping[str, np.ndarray],
    logsnr: np.ndarray,
    layers: Sequence[str],
    summaries: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Activations as floats, and features as (F, N, T)."""
    activations = np.asarray(activations, dtype=np.float64)
    if activations.ndim != 4:
        raise TurningpointError(f"activations has shape {activations.shape}; accepted: (N, T, L, S).")
    n, times = activations.shape[:2]
    expected = (np.size(logsnr), len(layers), len(summaries))
    if activations.shape[1:] != expected:
        raise TurningpointError(
            f"activations has shape {activations.shape}; accepted: {expected} after the items, as logsnr has "
            f"{expected[0]} times and {expected[1]} layers and {expected[2]} summaries are named."
        )
    if n < FEWEST:
        raise TurningpointError(f"activations holds {n} items; accepted: {FEWEST} or more.")
    if times < 2:
        raise TurningpointError(f"activations holds {times} times; accepted: 2 or more, for a step between.")
    if not features:
        raise TurningpointError("features is empty; accepted: one feature or more.")
    for name, values in features.items():
        if np.shape(values) != (n, times):
            raise TurningpointError(
                f"feature {name!r} has shape {np.shape(values)}; accepted: ({n}, {times}), as activations has."
            )
    series = np.stack([np.asarray(values, dtype=np.float64) for values in features.values()])
    return activations, np.where(np.isfinite(series), series, np.nan)


def _members(groups: np.ndarray | Sequence[Any] | None, n: int) -> list[np.ndarray]:
    """The places of each group's items; groups of one say nothing."""
    if groups is None:
        return [np.arange(n)]
    if np.shape(groups) != (n,):
        raise TurningpointError(f"groups has shape {np.shape(groups)}; accepted: ({n},), one for each item.")
    codes = pd.factorize(np.asarray(groups))[0]
    members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    alike = sum(len(group) for group in members if len(group) > 1)
    if alike < FEWEST:
        raise TurningpointError(
            f"groups leaves {alike} items in groups of two or more; accepted: {FEWEST} such items or more."
        )
    return members


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is finite; NaN if nothing is."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(there, values, 0.0).sum(axis) / there.sum(axis)
    return mean


def _standardised(
    values: np.ndarray, members: list[np.ndarray], method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (..., N) of mean 0 in every group and length 1, and where values are finite.

    Missing items have 0; so has a whole row that does not vary or has fewer than `FEWEST` items.
    """
    from scipy.stats import rankdata

    there = np.isfinite(values)
    scores = np.zeros_like(values)
    for group in members:
        x, known = np.where(there, values, np.nan)[..., group], there[..., group]
        if method == "spearman":
            whole, filled = known.all(-1), np.full_like(x, np.nan)
            if whole.any():
                filled[whole] = rankdata(x[whole], axis=-1)
            broken = ~whole & known.any(-1)
            if broken.any():
                filled[broken] = rankdata(x[broken], axis=-1, nan_policy="omit")
            x = filled / (known.sum(-1, keepdims=True) + 1)
        scores[..., group] = np.where(known, x - _mean(x, -1)[..., None], 0.0)
    length = np.sqrt((scores**2).sum(-1, keepdims=True))
    scale = np.abs(np.where(there, values, 0.0)).max(-1, keepdims=True) if method == "pearson" else 1.0
    enough = (length > 1e-12 * math.sqrt(values.shape[-1]) * scale) & (there.sum(-1, keepdims=True) >= FEWEST)
    return np.divide(scores, length, out=np.zeros_like(scores), where=enough), there


def _permuted(
    a: np.ndarray,
    f: np.ndarray,
    tested: np.ndarray,
    reached: np.ndarray,
    members: list[np.ndarray],
    permutations: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """p and the step-down adjusted p of the tested pairs, from scores (W, LS, N) and (W, F, N)."""
    (windows, rows, n), columns = a.shape, f.shape[1]
    order = np.argsort(-reached, kind="stable")
    falling = (reached[order] - ROUNDING)[:, None]
    own, largest = np.zeros(len(tested)), np.zeros(len(tested))
    codes = np.zeros(n)
    for code, group in enumerate(members):
        codes[group] = code
    places = np.concatenate(members)
    generator = np.random.default_rng(seed)
    chunk = max(1, BLOCK // max(rows * columns, n * min(rows, columns)))
    for first in range(0, permutations, chunk):
        count = min(chunk, permutations - first)
        drawn = np.empty((count, n), dtype=np.intp)
        drawn[:, places] = np.argsort(generator.random((count, n)) + codes, axis=1)
        if rows < columns:  # a moved one way is f moved the other way, and there is less of it to move
            drawn = np.argsort(drawn, axis=1)
        best = np.zeros((rows, columns, count))
        for w in range(windows):
            fixed, moved = (f[w], a[w]) if rows < columns else (a[w], f[w])
            shuffled = moved.take(drawn, axis=1).reshape(len(moved) * count, n)
            found = np.abs(fixed @ shuffled.T).reshape(len(fixed), len(moved), count)
            np.maximum(best, found.swapaxes(0, 1) if rows < columns else found, out=best)
        ranked = best.reshape(-1, count)[tested[order]]
        own += (ranked >= falling).sum(1)
        largest += (np.maximum.accumulate(ranked[::-1], axis=0)[::-1] >= falling).sum(1)
    back = np.argsort(order)
    family = np.maximum.accumulate((1 + largest) / (permutations + 1))
    return ((1 + own) / (permutations + 1))[back], family[back]
