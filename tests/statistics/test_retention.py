"""Retention against brute force over all pairs, its two ends, and what it does with too little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.retention import Readings, curve


def _pairwise(score, start, back, condition, w):
    """Kept and chance of one weight vector by the definition, pair by pair: two arrays (T,)."""
    n, r, t = back.shape[:3]
    kept, chance = np.full(t, np.nan), np.full(t, np.nan)
    groups = [np.flatnonzero(condition == c) for c in np.unique(condition)]
    company = [i for g in groups for i in g if len(g) > 1] or list(range(n))
    for k in range(t):
        per_item, per_group = [], []
        for i in company:
            own = [score(start[i], back[i, a, k]) for a in range(r)]
            own = [s for s in own if not np.isnan(s)]
            if own:
                per_item.append((w[i], np.mean(own)))
        for group in groups:
            total, count = 0.0, 0.0
            for i in group:
                for j in group:
                    for a in range(r) if i != j else ():
                        s = score(start[i], back[j, a, k])
                        if not np.isnan(s):
                            total, count = total + w[i] * w[j] * s, count + w[i] * w[j]
            if count > 0:
                per_group.append((w[group].sum(), total / count))
        if sum(a for a, _ in per_item) > 0:
            kept[k] = sum(a * b for a, b in per_item) / sum(a for a, _ in per_item)
        if per_group:
            chance[k] = sum(a * b for a, b in per_group) / sum(a for a, _ in per_group)
    return kept, chance


def _equal(a, b):
    return np.nan if np.isnan(a) or np.isnan(b) else float(a == b)


def _distance(a, b):
    return float(np.sum((np.atleast_1d(a) - np.atleast_1d(b)) ** 2))


@pytest.mark.parametrize("kind", ["categorical", "scalar", "vector", "wide"])
@given(seed=st.integers(0, 10_000), gaps=st.booleans())
def test_sums_over_items_equal_the_definition_pair_by_pair(kind, seed, gaps):
    rng = np.random.default_rng(seed)
    n, r, t = rng.integers(2, 7), rng.integers(1, 4), 3
    condition = rng.integers(0, 3, n)
    d = {"vector": (2,), "wide": (9,)}.get(kind, ())
    if kind == "categorical":
        start, back = rng.integers(0, 3, n).astype(float), rng.integers(0, 3, (n, r, t)).astype(float)
    else:
        start, back = rng.normal(5, 1, (n, *d)), rng.normal(5, 1, (n, r, t, *d))
    if gaps:
        start[0] = np.nan
        back[1, 0] = np.nan
    w = weights(n, samples=3, seed=seed)
    score = _equal if kind == "categorical" else _distance
    c = curve(Readings({"wide": "vector"}.get(kind, kind), start, back, condition), w)
    for row in range(len(w)):
        kept, chance = _pairwise(score, start, back, condition, w[row])
        np.testing.assert_allclose(c.kept[row], kept, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(c.chance[row], chance, rtol=1e-9, atol=1e-9)


def test_comparison_weighs_pairs():
    rng = np.random.default_rng(0)
    n, r, t, m = 5, 2, 3, 2
    back, other = rng.random((n, r, t)), rng.random((n, r, t, m))
    partner = np.stack([np.roll(np.arange(n), -k - 1) for k in range(m)], 1)
    w = weights(n, samples=4)
    c = curve(Readings("comparison", np.zeros(n), back, np.zeros(n), other, partner, largest=2.0), w)
    for row in range(len(w)):
        pair = w[row][:, None] * w[row][partner]
        expected = (pair[:, None, None] * other).sum((0, 1, 3)) / (pair.sum() * r)
        np.testing.assert_allclose(c.chance[row], expected, rtol=1e-12)
    np.testing.assert_allclose(c.retention[0], (c.kept[0] - c.chance[0]) / (2.0 - c.chance[0]), rtol=1e-12)


@pytest.mark.parametrize("kind", ["categorical", "scalar", "vector"])
def test_the_two_ends(kind):
    """Nothing changed: 1.  A fresh draw: 0 within 4 bootstrap standard errors."""
    rng = np.random.default_rng(1)
    n, r = 400, 2
    shape = {"vector": (4,)}.get(kind, ())
    draw = (
        (lambda *s: rng.integers(0, 5, s))
        if kind == "categorical"
        else (lambda *s: rng.normal(size=(*s, *shape)))
    )
    start = draw(n)
    same = np.repeat(start[:, None, None], r, 1)
    fresh = draw(n, r, 1)
    back = np.concatenate([same, fresh], 2)
    c = curve(Readings(kind, start, back, np.zeros(n)), weights(n, 500))
    assert c.retention[0, 0] == pytest.approx(1, abs=1e-12)
    assert abs(c.retention[0, 1]) < 4 * c.retention[1:, 1].std()


def test_unequal_conditions_do_not_bias_chance():
    """40 items of one condition and 8 of another at ten times the scale, all fresh draws: retention 0."""
    rng = np.random.default_rng(4)
    condition = np.repeat([0, 1], [40, 8])
    scale = np.where(condition, 10.0, 1.0)
    found = []
    for _ in range(200):
        start, back = scale * rng.normal(size=48), scale * rng.normal(size=48)
        found.append(
            curve(
                Readings("scalar", start, back[:, None, None], condition), np.ones((1, 48))
            ).retention.item()
        )
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)


def test_lone_items_are_left_out_of_both():
    start = np.array([0.0, 1.0, 5.0])
    back = np.array([0.0, 1.0, 9.0])[:, None, None]  # the third has no stranger
    c = curve(Readings("scalar", start, back, np.array([0, 0, 1])), np.ones((1, 3)))
    assert c.retention.item() == 1.0


def test_signal_plus_noise_has_the_retention_of_its_correlation():
    """f' = rho f + sqrt(1 - rho^2) e: 1 - E|f - f'|^2 / E|f - y|^2 = rho."""
    rng = np.random.default_rng(2)
    n, rho = 2000, 0.6
    f = rng.normal(size=n)
    back = (rho * f + np.sqrt(1 - rho**2) * rng.normal(size=n))[:, None, None]
    c = curve(Readings("scalar", f, back, np.zeros(n)), weights(n, 300))
    assert abs(c.retention[0, 0] - rho) < 4 * c.retention[1:, 0].std()


def test_nan_with_the_reason():
    n = 6
    start, ones = np.arange(n) % 2, np.zeros((n, 1, 2))
    told = curve(Readings("categorical", start, start[:, None, None] + ones, start), weights(n, 50))
    assert np.isnan(told.retention).all()
    assert "chance agreement is already 1.00" in told.reason
    np.testing.assert_array_equal(told.kept[0], 1.0)
    alone = curve(Readings("scalar", np.arange(n) * 1.0, ones, np.arange(n)), weights(n, 50))
    assert "no two starting images share a condition" in alone.reason
    flat = curve(Readings("scalar", np.ones(n), ones + 1, np.zeros(n)), weights(n, 50))
    assert "same in all images" in flat.reason
    single = curve(Readings("scalar", np.ones(1), np.ones((1, 2, 3)), np.zeros(1)), weights(1, 50))
    assert np.isnan(single.retention).all()


def test_two_items_are_no_error():
    c = curve(
        Readings("scalar", np.array([0.0, 1.0]), np.array([[[0.1]], [[0.8]]]), np.zeros(2)), weights(2, 200)
    )
    assert np.isfinite(c.retention[0]).all()
    low, high = c.band()
    assert low[0] < c.retention[0, 0] < high[0]


def test_large_offsets_lose_no_digits():
    rng = np.random.default_rng(3)
    start, back = rng.normal(size=(8, 3)), rng.normal(size=(8, 2, 2, 3))
    a = curve(Readings("vector", start, back, np.zeros(8)), weights(8, 5))
    b = curve(Readings("vector", start + 1e6, back + 1e6, np.zeros(8)), weights(8, 5))
    np.testing.assert_allclose(a.retention, b.retention, atol=1e-7)
