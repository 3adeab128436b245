"""P[own] and its chance are the double sums that define them; for categories they are kept and chance."""

import numpy as np
import pytest

import turningpoint as tp
from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.probability import averaged, one_hot, own_probability, softmax


def blocks_of(p, size):
    return [(slice(k, min(k + size, len(p))), p[k : k + size]) for k in range(0, len(p), size)]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_own_and_chance_are_their_double_sums(size):
    rng = np.random.default_rng(0)
    n, copies, times, k = 11, 3, 2, 4
    p = rng.dirichlet(np.ones(k), (n, copies, times))
    own, condition = rng.integers(0, k, n).astype(float), rng.integers(0, 3, n)
    condition[3] = 9  # alone
    p[5, 1], p[6], own[7] = np.nan, np.nan, -1
    kept, chance = own_probability(own, blocks_of(p, size), condition)
    mean = np.array(
        [
            [np.nanmean(p[i, :, t], 0) if i != 6 else np.full(k, np.nan) for t in range(times)]
            for i in range(n)
        ]
    )
    for i in range(n):
        others = [j for j in range(n) if j != i and condition[j] == condition[i] and j != 6]
        for t in range(times):
            expected = np.nan if own[i] < 0 else mean[i, t, int(own[i])]
            np.testing.assert_allclose(kept[i, t], expected, rtol=1e-12)
            strangers = [mean[j, t, int(own[i])] for j in others]
            expected = np.mean(strangers) if strangers and own[i] >= 0 else np.nan
            np.testing.assert_allclose(chance[i, t], expected, rtol=1e-12)
    assert np.isnan(chance[3]).all()


def test_of_categories_it_is_what_retention_calls_kept_and_chance():
    run = tp.uturn("digits", items=12, times=[0.4, 0.6], replicates=3, steps=4, progress=None).measure(
        "class"
    )
    reading, known = run.reading("class"), run.retention("class")
    start, back = reading["start"].values, reading["back"].values
    columns, p = one_hot(start, back)
    own, chance = own_probability(columns, blocks_of(p, 5))
    value, low, high = averaged(own, weights(12))
    for found, name in ((value, "kept"), (low, "kept_low"), (high, "kept_high"), (chance.mean(0), "chance")):
        np.testing.assert_allclose(found, known[name], rtol=1e-12)


def test_what_was_not_read_is_left_out():
    own, p = one_hot(np.array([2, 5, -1]), np.array([[[2, 5.0]], [[-1, 2]], [[5, 5]]]))
    assert own.tolist() == [0, 1, -1]
    kept, chance = own_probability(own, [(slice(0, 3), p)])
    np.testing.assert_array_equal(kept, [[1, 0], [np.nan, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(chance, [[0, 0.5], [0.5, 1], [np.nan, np.nan]])
    nothing, p = one_hot(np.array([-1, -1]), np.zeros((2, 1, 3)))
    assert np.isnan(own_probability(nothing, [(slice(0, 2), p)])[0]).all()
    assert np.isnan(averaged(np.full((2, 3), np.nan), weights(2))[0]).all()


def test_softmax_holds_for_large_logits():
    p = softmax(np.array([1000.0, 1000.0 + np.log(3), -1000.0]))
    np.testing.assert_allclose(
        p, [0.25, 0.75, 0.0], rtol=1e-12
    )  # the float of 1000 + log 3 is exact to 1e-13
