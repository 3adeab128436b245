"""Effects against closed forms, against sums over pairs written out, and p-values against all flips."""

import itertools

import numpy as np
import pytest
from scipy import stats

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.effects import Pair, corrected, effect, flipped, towards

ONE = np.ones((1, 1))


def _ones(n):
    return np.ones((1, n))


def test_a_shift_is_the_mean_difference_in_standard_deviations():
    rng = np.random.default_rng(0)
    n = 4000
    clean = rng.normal(7, 2, n)
    found = effect(Pair("scalar", clean, clean + rng.normal(1, 0.5, n)), weights(n, 200))
    # standard errors: 0.5 / sqrt(n) of the mean, 1 / sqrt(2 n) relative of the deviation
    assert abs(found.effect[0] - 1) < 4 * 0.5 / np.sqrt(n)
    assert abs(found.shift[0] - 0.5) < 4 * (0.25 / np.sqrt(n) + 0.5 / np.sqrt(2 * n))
    assert found.shift[0] == pytest.approx(found.effect[0] / clean.std(ddof=1))
    assert (found.clean, found.changed) == pytest.approx((clean.mean(), clean.mean() + found.effect[0]))
    assert found.effect[1:].std() == pytest.approx(0.5 / np.sqrt(n), rel=0.2)  # four times 1 / sqrt(2 * 200)
    row = found.row()
    assert row["low"] < found.effect[0] < row["high"]
    assert row["standardised_low"] < row["standardised"] < row["standardised_high"]


@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2, np.pi])
def test_what_has_moved_runs_from_nothing_to_another_image(kind, angle):
    """cos x + sin y with y an independent draw: E|x' - x|^2 = 2 (1 - cos) var, between images 2 var."""
    rng = np.random.default_rng(1)
    n, d = 2000, 1 if kind == "scalar" else 6
    x, y = rng.normal(size=(2, n, d))
    found = effect(Pair(kind, x, np.cos(angle) * x + np.sin(angle) * y), weights(n, 300))
    expected = np.sqrt(1 - np.cos(angle))
    assert abs(found.moved[0] - expected) < 4 * found.moved[1:].std() + 1e-12
    if kind == "vector":
        assert np.isnan(found.shift).all()
        assert abs(found.effect[0] - expected * np.sqrt(2 * d)) < 4 * found.effect[1:].std() + 1e-12


def test_a_category_drawn_anew_has_moved_as_far_as_another_image():
    rng = np.random.default_rng(2)
    n, share = 3000, (0.5, 0.3, 0.2)
    clean, other = rng.choice(3, (2, n), p=share)
    kept = rng.random(n) < 0.75
    found = effect(Pair("categorical", clean, np.where(kept, clean, other)), weights(n, 300))
    differ = 1 - np.square(share).sum()
    assert abs(found.effect[0] - differ / 4) < 4 * np.sqrt(differ / 4 / n)
    assert abs(found.moved[0] - 0.25) < 4 * found.moved[1:].std()


def _by_pairs(pair, counts):
    """Effect and scale of a bootstrap sample, item by item; an item is never its own stranger."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    x, y = (np.asarray(v, float).reshape(len(v), -1) for v in (pair.clean, pair.changed))
    others = [(i, j) for i, j in itertools.product(drawn, drawn) if i != j]
    if pair.kind == "categorical":
        return np.mean([x[i] != y[i] for i in drawn]), np.mean([x[i] != x[j] for i, j in others])
    if pair.kind == "comparison":
        kept = np.mean([pair.changed[i] for i in drawn])
        known = [
            (w, pair.other[i, m])
            for i, m in np.ndindex(pair.other.shape)
            if pair.partner[i, m] >= 0 and (w := counts[i] * counts[pair.partner[i, m]])
        ]
        return pair.largest - kept, pair.largest - np.average(
            [v for _, v in known], weights=[w for w, _ in known]
        )
    apart = np.mean([np.square(x[i] - x[j]).sum() for i, j in others])
    d = y[drawn] - x[drawn]
    if pair.kind == "scalar":
        return d.mean(), np.sqrt(apart / 2)
    return np.sqrt(np.square(d).sum(1).mean()), np.sqrt(apart)


@pytest.mark.parametrize("kind", ["scalar", "vector", "long", "categorical", "comparison"])
def test_bootstrap_samples_are_the_sums_over_pairs(kind):
    rng = np.random.default_rng(3)
    n = 8
    pair = {
        "scalar": Pair("scalar", 5 + rng.normal(size=n), 5 + rng.normal(size=n)),
        "vector": Pair("vector", rng.normal(size=(n, 3)), rng.normal(size=(n, 3))),
        "long": Pair("vector", rng.normal(size=(n, 20)), rng.normal(size=(n, 20))),
        "categorical": Pair("categorical", rng.integers(0, 3, n), rng.integers(0, 3, n)),
        "comparison": Pair(
            "comparison",
            ONE,
            rng.uniform(size=n),
            rng.uniform(-1, 0.5, size=(n, 2)),
            np.stack(
                [np.roll(np.arange(n), -1), np.where(np.arange(n) < 4, np.roll(np.arange(n), -3), -1)], 1
            ),
        ),
    }[kind]
    w = weights(n, 25, seed=4)
    found = effect(pair, w)
    for k, counts in enumerate(w):
        e, scale = _by_pairs(pair, counts.astype(int))
        assert found.effect[k] == pytest.approx(e)
        of_scale = found.shift[k] if pair.kind == "scalar" else found.moved[k]
        assert of_scale == pytest.approx(e / scale)


def test_what_has_no_scale_says_why():
    same = np.full(4, 0.1, np.float32)
    found = effect(Pair("scalar", same, same + 1), _ones(4))
    assert found.effect[0] == pytest.approx(1)
    assert np.isnan(found.moved[0])
    assert found.reason == "it is the same in all clean images"
    assert np.isnan(found.row()["standardised"])
    found = effect(Pair("categorical", np.zeros(4, int), np.ones(4, int)), _ones(4))
    assert found.effect[0] == 1
    assert "agree in 1.00" in found.reason
    assert "no others" in effect(Pair("scalar", np.ones(1), np.ones(1)), _ones(1)).reason
    assert (
        effect(Pair("scalar", np.full(3, np.nan), np.ones(3)), _ones(3)).reason == "no image has this reading"
    )
    alone = Pair("comparison", ONE, np.ones(1), np.full((1, 2), np.nan), np.full((1, 2), -1))
    assert "no others" in effect(alone, _ones(1)).reason
    equal = Pair("comparison", ONE, np.ones(2), np.ones((2, 1)), np.array([[1], [0]]))
    assert "the same in all" in effect(equal, _ones(2)).reason


def test_images_without_the_reading_are_left_out_and_counted():
    clean = np.array([1.0, 2.0, np.nan, 4.0, 6.0])
    changed = np.array([2.0, np.nan, 1.0, 5.0, 7.0])
    found = effect(Pair("scalar", clean, changed), _ones(5))
    whole = effect(Pair("scalar", clean[[0, 3, 4]], changed[[0, 3, 4]]), _ones(3))
    assert found.items == 3
    assert (found.effect[0], found.shift[0]) == (whole.effect[0], whole.shift[0])
    assert found.reason == "3 of 5 images have it clean and changed; 1 lost it"


def test_p_values_are_the_share_of_all_flips():
    rng = np.random.default_rng(5)
    d = rng.normal(0.4, 1, (9, 3))
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    means = np.abs(signs @ d / 9)
    expected = (means >= np.abs(d.mean(0)) - 1e-12).mean(0)
    np.testing.assert_allclose(flipped(d), expected)
    gap = np.vstack([d, np.full(3, np.nan)])
    np.testing.assert_allclose(flipped(gap), expected)
    assert flipped(np.zeros((30, 1))).item() == 1
    assert np.isnan(flipped(np.full((3, 1), np.nan))).all()
    many = rng.normal(0.3, 1, (60, 1))
    t = stats.ttest_1samp(many[:, 0], 0).pvalue  # of 60 normal numbers the two tests nearly agree
    assert flipped(many).item() == pytest.approx(t, abs=4 * np.sqrt(t / 9999) + 0.005)


def test_nothing_is_found_where_nothing_is():
    """400 features without a shift: 5 % lie below 0.05, and the discoveries among them vanish once corrected."""
    rng = np.random.default_rng(6)
    p = flipped(rng.standard_t(3, (20, 400)), flips=999)
    assert abs((p <= 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 400)
    q = corrected(p)
    assert (q <= 0.05).sum() == 0
    assert (q >= p).all()


def test_towards_a_donor_is_the_slope_and_the_share():
    rng = np.random.default_rng(7)
    clean, donor = rng.normal(size=(2, 500, 4))
    for share in (0.0, 0.3, 1.0):
        pair = Pair("vector", clean, clean + share * (donor - clean))
        np.testing.assert_allclose(towards(pair, donor, weights(500, 5)), share, atol=1e-12)
    x, g = np.array([0, 1, 2, 0]), np.array([1, 1, 1, 2])
    pair = Pair("categorical", x, np.array([1, 0, 2, 2]))
    assert towards(pair, g, _ones(4)).item() == pytest.approx(2 / 3)
    assert np.isnan(towards(Pair("scalar", x, x), x, _ones(4))).all()
