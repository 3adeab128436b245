"""Growth: each kind by hand, and worlds whose growth is known in closed form: mean, pooled, heavy tails."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.growth import Series, curves, growth, mean_growth, pooled_growth
from turningpoint.statistics.onset import onset

NAN = np.nan
LOGSNR = np.linspace(-4, 6, 11)
POSTERIOR = 1 / (1 + np.exp(LOGSNR))
"""Posterior variance of a Gaussian number of variance 1: 1 / (1 + snr)."""


def series(values, final, kind="scalar", absent=None):
    return Series("f", "f", kind, "", np.asarray(values), np.asarray(final), absent)


def posterior_means(items, dim, seed=0):
    """E[x_0 | x_t] along trajectories that end in x_0 ~ N(0, 1): independent steps, as of every martingale."""
    rng = np.random.default_rng(seed)
    explained = np.diff(1 - POSTERIOR, prepend=0.0)
    steps = rng.normal(size=(items, len(LOGSNR), dim)) * np.sqrt(explained)[:, None]
    means = steps.cumsum(1)
    return means, means[:, -1] + np.sqrt(POSTERIOR[-1]) * rng.normal(size=(items, dim))


def within_errors(found, expected, errors=4):
    """Row 0 is the estimate; the bootstrap's spread is its standard error (0 where the answer is exact)."""
    error = found[1:].std(0)
    np.testing.assert_array_less(np.abs(found[0] - expected), errors * error + 1e-9)


# ---- the definition, kind by kind


@pytest.mark.parametrize(
    ("kind", "absent", "values", "final", "expected"),
    [
        ("scalar", 0.0, [1.0, 3.0, 8.0, 4.0], 4.0, [0.25, 0.75, 2.0, 1.0]),
        ("scalar", 1.0, [0.0, 3.0, 5.0, 5.0], 5.0, [-0.25, 0.5, 1.0, 1.0]),
        (
            "scalar",
            1.0,
            [1.0, 0.5, 0.0, 0.0],
            0.0,
            [0.0, 0.5, 1.0, 1.0],
        ),  # less than absent: it grows downwards
        ("scalar", None, [1.0, 3.0, 7.0, 5.0], 5.0, [0.0, 0.5, 0.5, 1.0]),
        ("vector", None, [8.0, 10.0, 2.0, 0.0], 0.0, [0.0, -0.25, 0.75, 1.0]),
        ("vector", 3.0, [8.0, 10.0, 2.0, 0.0], 0.0, [0.0, -0.25, 0.75, 1.0]),  # only numbers are absent
        ("comparison", None, [0.5, 0.25, 0.75, 1.0], 1.0, [0.0, -0.5, 0.5, 1.0]),
        ("categorical", None, [3, 7, 3, 7], 7, [0.0, 1.0, 0.0, 1.0]),
        ("categorical", None, [7.0, NAN, 3.0, 7.0], 7.0, [1.0, NAN, 0.0, 1.0]),
    ],
)
def test_growth_is_gain_over_goal(kind, absent, values, final, expected):
    one = series([values], [final], kind, absent)
    np.testing.assert_allclose(growth(one)[0], expected, rtol=1e-15)
    if not np.isnan(expected).any():
        np.testing.assert_allclose(pooled_growth(one, weights(1, 0))[0], expected, rtol=1e-15)


def test_nothing_is_there_until_the_first_reading():
    values = [[NAN, NAN, 2.0, 3.0], [NAN, 1.0, NAN, 3.0]]
    np.testing.assert_array_equal(growth(series(values, [4.0, 3.0], absent=0.0))[0], [0, 0, 0.5, 0.75])
    # without an absent value it goes from its first reading, 2 and 1
    np.testing.assert_array_equal(growth(series(values, [4.0, 3.0])), [[0, 0, 0, 0.5], [0, 0, NAN, 1]])


@pytest.mark.parametrize("kind", ["scalar", "vector", "comparison", "categorical"])
def test_without_a_final_or_any_reading_growth_is_not_known(kind):
    values = np.array([[0.0, 1.0, 1.0], [NAN, NAN, NAN], [0.0, np.inf, 1.0]])
    found = growth(series(values, [NAN, 1.0, 1.0], kind))
    assert np.isnan(found[:2]).all()
    assert np.isnan(found[2]).tolist() == [False, True, False]
    table = curves([series(values, [NAN, 1.0, 1.0], kind)], np.arange(3.0))
    assert table["items"].tolist() == [1, 0, 1]
    assert table[["low", "high"]].isna().all(axis=None)  # one item has no band


@pytest.mark.parametrize(("first", "grows"), [(1.0, False), (np.float32(1 + 1e-7), False), (1 + 1e-5, True)])
def test_an_item_with_nothing_to_grow_is_left_out(first, grows):
    moving, still = [0.0, 0.5, 1.0], [first, 1.5, 1.0]
    for found in (growth(series([moving, still], [1.0, 1.0])), growth(series([still], [1.0], "comparison"))):
        assert np.isfinite(found[-1]).all() == grows
    tiny = series([[0.5, 1.0, first - 1]], [first - 1], absent=0.0)
    assert np.isfinite(growth(tiny)).all() == grows
    pooled = pooled_growth(series([moving, still], [1.0, 1.0]), weights(2, 0))[0]
    # the mean still counts what wanders: 1 - (|1.5 - 1| + |0.5 - 1|) / 1
    np.testing.assert_allclose(pooled, [0.0, 0.0, 1.0], atol=4e-5)


def test_a_constant_feature_has_no_curve():
    table = curves([series(np.ones((5, 3)), np.ones(5))], np.arange(3.0))
    assert table["items"].tolist() == [0, 0, 0]
    assert table[["growth", "low", "high"]].isna().all(axis=None)


@given(
    hnp.arrays(float, (3, 5), elements=st.integers(-8, 8)),
    st.sampled_from([None, -9.0, 9.0]),
    st.sampled_from([-4.0, -0.5, 0.25, 2.0]),
    st.integers(-64, 64),
)
def test_growth_has_no_unit_and_no_origin(values, absent, scale, shift):
    one = series(values, values[:, -1], absent=absent)
    moved = None if absent is None else scale * absent + shift
    other = series(scale * values + shift, scale * values[:, -1] + shift, absent=moved)
    np.testing.assert_allclose(growth(other), growth(one), rtol=1e-14, atol=1e-14)
    end = growth(one)[:, -1]
    assert (np.isnan(end) | (end == 1)).all()


# ---- the bootstrap


def test_bootstrap_rows_are_the_estimate_of_the_items_drawn():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((7, 4)) < 0.1, NAN, rng.normal(size=(7, 4)))
    one, counts = series(values, rng.normal(size=7)), weights(7, 20)
    pooled, mean = pooled_growth(one, counts), mean_growth(growth(one), counts)
    for row, count in enumerate(counts):
        drawn = np.repeat(np.arange(7), count)
        again = dataclasses.replace(one, values=one.values[drawn], final=one.final[drawn])
        single = weights(len(drawn), 0)
        np.testing.assert_allclose(pooled[row], pooled_growth(again, single)[0], rtol=1e-12)
        np.testing.assert_allclose(mean[row], np.nanmean(growth(again), 0), rtol=1e-12)


def test_the_band_is_the_interval_of_the_pooled_curve():
    rng = np.random.default_rng(1)
    label = series(rng.integers(0, 2, (60, 3)), np.ones(60, int), "categorical")
    table = curves([label], np.array([-1.0, 0.0, 1.0]))
    share = (label.values == 1).mean(0)
    np.testing.assert_allclose(table["growth"], share)
    # a share's normal interval; 1000 samples and steps of 1/60 leave its ends uncertain by about one step
    half = 1.96 * np.sqrt(share * (1 - share) / 60)
    np.testing.assert_allclose(table["low"], share - half, atol=1.5 / 60)
    np.testing.assert_allclose(table["high"], share + half, atol=1.5 / 60)


# ---- worlds in closed form


def test_along_a_deterministic_path_every_item_grows_alike():
    """Probability-flow ODE of a Gaussian: x0(x_t) = x_0 sqrt(lambda / (lambda + sigma^2)), in power lambda / (...)."""
    sigma, spectrum = np.exp(-LOGSNR / 2), np.array([0.2, 1.0, 5.0])
    x_0 = np.random.default_rng(0).normal(size=(16, 3)) * np.sqrt(spectrum)
    for k, power in enumerate(spectrum):
        share = power / (power + sigma**2)
        energy = series(x_0[:, [k]] ** 2 * share, x_0[:, k] ** 2, absent=0.0)
        for found in (
            growth(energy),
            pooled_growth(energy, weights(16)),
            mean_growth(growth(energy), weights(16)),
        ):
            np.testing.assert_allclose(found, np.broadcast_to(share, found.shape), rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 4])
def test_pooled_power_of_posterior_means_is_relative_power(dim):
    """E |E[x_0 | x_t]|^2 / E |x_0|^2 = snr / (1 + snr): half of it where sigma = sqrt(lambda), at log-SNR 0."""
    means, x_0 = posterior_means(1500, dim)
    energy = series(np.square(means).sum(-1), np.square(x_0).sum(-1), absent=0.0)
    pooled = pooled_growth(energy, weights(1500))
    within_errors(pooled, 1 - POSTERIOR)
    # straight lines between times one apart miss a logistic curve's middle by nothing: 0 is one of the times
    half = onset(pooled, LOGSNR)
    assert abs(half[0]) < 4 * half[1:].std()


@pytest.mark.parametrize(("kind", "dim"), [("scalar", 1), ("vector", 1), ("vector", 6)])
def test_pooled_distance_of_posterior_means_is_the_root_of_their_variance(kind, dim):
    """E |E[x_0 | x_t] - x_0| is proportional to the posterior standard deviation, in every dimension."""
    means, x_0 = posterior_means(1500, dim)
    if kind == "vector":
        one = series(np.linalg.norm(means - x_0[:, None], axis=-1), np.zeros(1500), kind)
    else:
        one = series(means[..., 0], x_0[:, 0])
    within_errors(pooled_growth(one, weights(1500)), 1 - np.sqrt(POSTERIOR / POSTERIOR[0]))


def test_growth_of_one_item_has_cauchy_tails_which_the_pooled_curve_has_not():
    """With q = v(t) / v(first): (f(t) - f_final) / (f(first) - f_final) is Cauchy about q with scale sqrt(q(1 - q))."""
    means, x_0 = posterior_means(4000, 1)
    found = growth(series(means[..., 0], x_0[:, 0]))
    q = POSTERIOR[1:] / POSTERIOR[0]
    scale = np.sqrt(q * (1 - q))
    for level in (0.5, 0.9, -1.0):  # growth of at least this
        reach = 1 - level
        expected = (np.arctan((reach - q) / scale) + np.arctan((reach + q) / scale)) / np.pi
        error = np.sqrt(expected * (1 - expected) / 4000)
        np.testing.assert_array_less(np.abs((found[:, 1:] >= level).mean(0) - expected), 4 * error)
    # forty draws of 100 items: where most is still to come, plain means scatter wildly, pooled ones do not
    groups = [series(m[..., 0], x[:, 0]) for m, x in (posterior_means(100, 1, seed) for seed in range(1, 41))]
    plain = np.array([mean_growth(growth(group), weights(100, 0))[0] for group in groups])[:, 4]
    pooled = np.array([pooled_growth(group, weights(100, 0))[0] for group in groups])[:, 4]
    assert pooled.std() < 0.1 < plain.std()


def test_mean_and_pooled_growth_agree_where_goals_say_nothing_of_times():
    """Growth Phi(logsnr - s) with s ~ N(0, 1) is Phi(logsnr / sqrt(2)) on the average, whatever the goals are."""
    rng = np.random.default_rng(0)
    shift, final = rng.normal(size=2000), rng.lognormal(size=2000)
    logsnr = np.linspace(
        -3, 3, 7
    )  # farther out a mean hangs on the few largest shifts, and has no normal error
    one = series(final[:, None] * norm.cdf(logsnr - shift[:, None]), final, absent=0.0)
    expected, counts = norm.cdf(logsnr / np.sqrt(2)), weights(2000)
    within_errors(mean_growth(growth(one), counts), expected)
    within_errors(pooled_growth(one, counts), expected)


def test_the_pooled_curve_counts_an_item_by_its_goal():
    early, late = norm.cdf(LOGSNR + 2), norm.cdf(LOGSNR - 2)
    one = series([10 * early, late], [10.0, 1.0], absent=0.0)
    np.testing.assert_allclose(pooled_growth(one, weights(2, 0))[0], (10 * early + late) / 11, rtol=1e-12)
    np.testing.assert_allclose(mean_growth(growth(one), weights(2, 0))[0], (early + late) / 2, rtol=1e-12)


# ---- what is refused


def test_series_and_their_company_are_checked(refuses):
    with refuses("kind is 'map'"):
        series(np.zeros((2, 3)), np.zeros(2), "map")
    with refuses(r"values of 'f' has shape \(3,\)"):
        series(np.zeros(3), np.zeros(3))
    with refuses(r"values of 'f' has shape \(0, 3\)"):
        series(np.zeros((0, 3)), np.zeros(0))
    with refuses(r"final of 'f' has shape \(3,\)"):
        series(np.zeros((2, 3)), np.zeros(3))
    with refuses("series is empty"):
        curves([], LOGSNR)
    two = series(np.zeros((2, 3)), np.zeros(2))
    with refuses(r"accepted: \(2, 2\)"):
        curves([two], np.zeros(2))
    with refuses(r"accepted: \(2, 3\)"):
        curves([two, series(np.zeros((4, 3)), np.zeros(4))], np.zeros(3))
    with refuses(r"counts has shape \(11, 3\); accepted: \(S \+ 1, 2\)"):
        curves([two], np.zeros(3), weights(3, 10))
