"""Onset and settling: crossings by hand, invariances, medians and order with known laws, coverage, open ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom, norm
from scipy.stats import t as student

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.growth import Series
from turningpoint.statistics.onset import (
    item_times,
    onset,
    onsets,
    order,
    order_matrix,
    quantiles,
    settling,
)

INF, NAN = np.inf, np.nan
AXIS = np.array([-4.0, -2.0, 0.0, 2.0])
GRID = np.linspace(-8, 8, 65)
WIDE = 4.0
"""How long the ramps of `ramps` take; their onset is their middle, their settling 0.4 of it later."""


def ramps(middle):
    """Growth that rises from 0 to 1 in a straight line about each item's middle."""
    return np.clip((GRID - np.asarray(middle)[:, None]) / WIDE + 0.5, 0, 1)


def series(values, final, kind="scalar", absent=0.0, feature="f"):
    return Series(feature, feature.upper(), kind, "", np.asarray(values), np.asarray(final), absent)


def ramp_series(middle, feature="f"):
    return series(ramps(middle), np.ones(len(middle)), feature=feature)


# ---- one item


@pytest.mark.parametrize(
    ("growth", "first", "settled"),
    [
        ([0.0, 0.25, 0.75, 1.0], -1.0, 1.2),
        ([0.0, 1.0, 0.0, 1.0], -3.0, 1.8),  # reached, lost, reached again
        ([0.0, 2.0, 1.0, 1.0], -3.5, -0.2),  # settles from above
        ([0.5, 0.0, 0.75, 1.0], -INF, 1.2),  # there at the first time
        ([1.0, 0.95, 1.05, 1.0], -INF, -INF),
        ([0.0, 0.25, 0.25, 0.25], INF, INF),
        ([0.0, 1.0, 1.0, 0.5], -3.0, INF),  # leaves at the last time
        ([0.0, 0.5, 0.9, 1.1], -2.0, 0.0),  # levels belong to it
        ([NAN, NAN, NAN, NAN], NAN, NAN),
        ([0.0, NAN, 1.0, 1.0], -2.0, -0.4),  # over a gap in a straight line
        ([NAN, 0.0, 1.0, NAN], -1.0, NAN),
        ([NAN, 0.75, 1.0, 1.0], NAN, -0.8),  # half there before the first reading, nobody knows when
        ([0.0, 0.25, 0.25, NAN], NAN, NAN),
        ([NAN, 1.0, 1.0, 1.0], NAN, NAN),
    ],
)
def test_crossings_by_hand(growth, first, settled):
    np.testing.assert_allclose(onset(np.array([growth]), AXIS), [first], atol=1e-15)
    np.testing.assert_allclose(settling(np.array([growth]), AXIS), [settled], atol=1e-15)


@pytest.mark.parametrize(
    ("growth", "axis", "first", "settled"),
    [
        ([0.0, 0.0, 1.0, 1.0], [-INF, -2.0, 0.0, 2.0], -1.0, -0.2),
        ([0.0, 1.0, 1.0, 1.0], [-INF, -2.0, 0.0, 2.0], -INF, -INF),  # below every finite log-SNR
        ([1.0, 0.0, 1.0, 1.0], [-INF, -2.0, 0.0, 2.0], -INF, -0.2),
        ([0.0, 0.0, 0.0, 1.0], [-4.0, -2.0, 0.0, INF], INF, INF),  # above every finite one
        ([0.0, 0.6, 0.8, 1.0], [-4.0, -2.0, 0.0, INF], -4 + 2 * 0.5 / 0.6, INF),
        ([0.0, 1.0, 1.0, 1.0], [-4.0, -2.0, 0.0, INF], -3.0, -2.2),
        ([0.0, 0.0, 0.0, 1.0], [-4.0, -2.0, INF, INF], INF, INF),
        ([0.0, 1.0, 1.0, 1.0], [-INF, -INF, 0.0, 1.0], -INF, -INF),
        ([0.0, 1.0], [-INF, INF], NAN, NAN),  # anywhere
    ],
)
def test_a_clock_may_begin_at_no_signal_and_end_without_noise(growth, axis, first, settled):
    np.testing.assert_allclose(onset(np.array([growth]), np.array(axis)), [first], atol=1e-15)
    np.testing.assert_allclose(settling(np.array([growth]), np.array(axis)), [settled], atol=1e-15)


def test_one_time_is_there_or_not():
    growth = np.array([[1.0], [0.6], [0.2], [NAN]])
    assert onset(growth, np.zeros(1)).tolist()[:3] == [-INF, -INF, INF]
    assert settling(growth, np.zeros(1)).tolist()[:3] == [-INF, INF, INF]
    assert np.isnan([onset(growth, np.zeros(1))[3], settling(growth, np.zeros(1))[3]]).all()


def test_a_ramp_begins_in_its_middle_and_settles_later():
    middle = np.random.default_rng(0).normal(0, 1.5, 50)
    np.testing.assert_allclose(onset(ramps(middle), GRID), middle, atol=1e-12)
    np.testing.assert_allclose(onset(ramps(middle), GRID, 0.75), middle + WIDE / 4, atol=1e-12)
    np.testing.assert_allclose(settling(ramps(middle), GRID), middle + 0.4 * WIDE, atol=1e-12)
    np.testing.assert_allclose(settling(ramps(middle), GRID, 0.25), middle + 0.25 * WIDE, atol=1e-12)


def test_straight_lines_miss_a_smooth_curve_by_the_square_of_the_step():
    """Linear interpolation of a curve with second derivative f'' errs by at most h^2 |f''| / 8 |f'|."""
    middle, worst = np.random.default_rng(0).normal(0, 1, 400), []
    for step in (0.5, 0.25):
        grid = np.arange(-8, 8 + step, step)
        worst.append(np.abs(onset(norm.cdf(grid - middle[:, None]), grid) - middle).max())
        # within h of its middle, |f''| <= h |f'| up to a factor exp(h^2 / 2)
        assert worst[-1] <= step**2 / 8 * step * np.exp(step**2 / 2)
    assert worst[1] < worst[0] / 4


def test_a_category_begins_and_settles_between_two_times():
    values = [[1, 7, 7, 7], [1, 7, 1, 7], [7, 7, 7, 7], [1, 1, 1, 1]]
    started, settled = item_times(series(values, [7, 7, 7, 7], "categorical"), AXIS)
    assert started.tolist() == [-3.0, -3.0, -INF, INF]
    assert settled.tolist() == [-3.0, 1.0, -INF, INF]


def test_what_cannot_be_read_yet_has_not_begun():
    one = series([[NAN, NAN, 2.0, 2.0], [NAN, 1.0, 2.0, 3.0]], [2.0, 3.0])
    started, settled = item_times(one, AXIS)
    np.testing.assert_allclose(started, [-1.0, -2 + 2 * (0.5 - 1 / 3) * 3])
    np.testing.assert_allclose(settled, [-0.2, 2 - 2 * 0.3])


@pytest.mark.parametrize("function", [onset, settling])
def test_log_snrs_are_checked(function, refuses):
    with refuses(r"logsnr has shape \(3,\) for growth of shape \(1, 4\)"):
        function(np.zeros((1, 4)), np.zeros(3))
    with refuses(r"for growth of shape \(4,\)"):
        function(np.zeros(4), np.zeros(4))
    with refuses("accepted"):
        function(np.zeros((2, 0)), np.zeros(0))
    with refuses("logsnr falls or is NaN"):
        function(np.zeros((1, 2)), np.array([1.0, 0.0]))
    with refuses("logsnr falls or is NaN"):
        function(np.zeros((1, 2)), np.array([1.0, NAN]))


def test_within_is_checked(refuses):
    with refuses("within is 0"):
        settling(np.zeros((1, 4)), AXIS, 0)


# ---- properties; sixteenths and halves are exact in floats, so that levels are met or not without rounding

GROWTHS = hnp.arrays(
    float, (4, 6), elements=st.one_of(st.integers(-8, 24).map(lambda k: k / 16), st.just(NAN))
)
STEPS = hnp.arrays(float, 6, elements=st.integers(0, 16).map(lambda k: k / 4))
BOTH = (onset, lambda growth, axis: settling(growth, axis, 0.125))


@given(GROWTHS, STEPS, st.sampled_from([0.25, 1.0, 3.0]), st.integers(-20, 20))
def test_times_follow_an_affine_map_of_log_snr(growth, steps, slope, shift):
    axis = steps.cumsum()
    for find in BOTH:
        np.testing.assert_allclose(
            find(growth, slope * axis + shift), slope * find(growth, axis) + shift, atol=1e-12
        )


@given(GROWTHS, STEPS)
def test_times_do_not_change_where_a_line_is_given_more_points(growth, steps):
    known = np.where(np.isnan(growth), 0.0, growth)
    axis = steps.cumsum()
    finer, points = np.empty((4, 11)), np.empty(11)
    finer[:, ::2], points[::2] = known, axis
    finer[:, 1::2], points[1::2] = (known[:, 1:] + known[:, :-1]) / 2, (axis[1:] + axis[:-1]) / 2
    for find in BOTH:
        np.testing.assert_allclose(find(finer, points), find(known, axis), atol=1e-12)


@given(GROWTHS, STEPS, st.permutations(range(4)))
def test_items_do_not_know_each_other(growth, steps, places):
    axis = steps.cumsum()
    for find in BOTH:
        np.testing.assert_array_equal(find(growth[places], axis), find(growth, axis)[places])


@given(GROWTHS, STEPS)
def test_nothing_settles_before_its_onset(growth, steps):
    axis = steps.cumsum()
    started, settled = onset(growth, axis), settling(growth, axis)
    both = ~(np.isnan(started) | np.isnan(settled))
    assert (started[both] <= settled[both]).all()


@given(GROWTHS, STEPS)
def test_the_curve_is_as_said_at_and_around_the_times_found(growth, steps):
    known, axis = np.where(np.isnan(growth), 0.0, growth), (steps + 0.25).cumsum()
    dense = np.linspace(axis[0], axis[-1], 200)
    curves = np.stack([np.interp(dense, axis, row) for row in known])
    for row, first, settled in zip(curves, onset(known, axis), settling(known, axis), strict=True):
        assert (row[dense < first - 1e-9] < 0.5).all()
        assert (np.abs(row[dense > settled + 1e-9] - 1) <= 0.1 + 1e-9).all()


# ---- medians over items


@given(
    hnp.arrays(
        float, 7, elements=st.one_of(st.integers(-4, 4).map(float), st.sampled_from([INF, -INF, NAN]))
    ),
    st.integers(0, 100),
)
def test_quantiles_are_those_of_the_items_drawn(values, seed):
    counts = weights(7, 5, seed)
    found = quantiles(values, counts)
    for row, count in enumerate(counts):
        drawn = np.repeat(values, count)
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn):
            assert np.isnan(found[:, row]).all()
        elif np.isfinite(drawn).all():
            expected = np.quantile(drawn, [0.25, 0.5, 0.75], method="averaged_inverted_cdf")
            np.testing.assert_allclose(found[:, row], expected)
            assert found[1, row] == np.median(drawn)
        else:
            ordered, half = np.sort(drawn), len(drawn) / 2
            low, high = ordered[int(np.ceil(half)) - 1], ordered[int(half)]
            expected = low if low == high else NAN if low == -high == -INF else (low + high) / 2
            np.testing.assert_array_equal(found[1, row], expected)


def test_the_bootstrap_of_a_median_is_binomial():
    """Of 25 items, P[median of a sample <= k-th item] = P[Bin(25, k / 25) >= 13]."""
    medians = quantiles(np.arange(1.0, 26), weights(25, 4000), [0.5])[0, 1:]
    k = np.arange(1, 26)
    expected = binom.sf(12, 25, k / 25)
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs((medians[:, None] <= k).mean(0) - expected) <= 4 * error).all()


def covering(items, level=0.95, samples=1000):
    """Least and most coverage of a percentile interval of the median of ``items`` (odd) independent draws.

    Its ends are the items at which the binomial law passes 2.5 % and 97.5 %; of ``samples`` bootstrap samples
    these shares are met with 4 standard errors.
    """
    k, outside = np.arange(1, items + 1), (1 - level) / 2
    cumulated = binom.sf(items // 2, items, k / items)
    error = 4 * np.sqrt(outside * (1 - outside) / samples)
    found = []
    for shift in (error, -error):  # narrow, wide
        low, high = (1 + np.searchsorted(cumulated, tail) for tail in (outside + shift, 1 - outside - shift))
        found.append(binom.cdf(high - 1, items, 0.5) - binom.cdf(low - 1, items, 0.5))
    return found


def test_intervals_of_onset_and_settling_cover_the_medians():
    """400 repetitions of 31 ramps about normal middles, whose median onset is 0 and settling 1.6."""
    counts, repetitions, covered = weights(31), 400, np.zeros(3)
    for repetition in range(repetitions):
        middle = np.random.default_rng(repetition).normal(size=31)
        row = onsets([ramp_series(middle)], GRID, counts).loc[0]
        covered += [
            row["onset_low"] <= 0 <= row["onset_high"],
            row["settled_low"] <= 0.4 * WIDE <= row["settled_high"],
            row["pooled_low"] <= 0 <= row["pooled_high"],  # of the mean curve: by symmetry at 0 too
        ]
    low, high = covering(31)
    assert 0.9 < low < high < 0.99
    error = 4 * np.sqrt(low * (1 - low) / repetitions)
    assert (covered[:2] / repetitions >= low - error).all()
    assert (covered[:2] / repetitions <= high + error).all()
    # a percentile interval of a mean has normal quantiles and divides by n where Student's has t and n - 1
    expected = 2 * student.cdf(norm.ppf(0.975) * np.sqrt(30 / 31), 30) - 1
    assert abs(covered[2] / repetitions - expected) < 4 * np.sqrt(expected * (1 - expected) / repetitions)


def test_a_table_of_ramps():
    middle = np.random.default_rng(3).normal(-1, 1, 200)
    table = onsets([ramp_series(middle, "a.b"), ramp_series(middle + 2, "c")], GRID)
    assert table["feature"].tolist() == ["a.b", "c"]
    assert table["label"].tolist() == ["A.B", "C"]
    row, later = table.loc[0], table.loc[1]
    np.testing.assert_allclose(row["onset"], np.median(middle))
    np.testing.assert_allclose(row["settled"], np.median(middle) + 0.4 * WIDE)
    expected = np.quantile(middle, [0.25, 0.75], method="averaged_inverted_cdf")
    np.testing.assert_allclose(row[["onset_q25", "onset_q75"]].astype(float), expected)
    np.testing.assert_allclose(row[["settled_q25", "settled_q75"]].astype(float), expected + 0.4 * WIDE)
    assert (row["items"], row["open"], row["note"]) == (200, 0.0, "")
    ends = ["onset", "onset_low", "onset_high", "settled_low", "settled_high", "pooled", "pooled_low"]
    np.testing.assert_allclose((later[ends] - row[ends]).astype(float), 2.0, atol=1e-12)  # the same samples
    # the sample median's standard error is 1.2533 / sqrt(200); the interval is about 3.92 of them wide
    assert row["onset_high"] - row["onset_low"] == pytest.approx(3.92 * 1.2533 / np.sqrt(200), rel=0.35)


def test_open_ends_and_missing_items_are_counted_and_said():
    values = np.array([[1.0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0.25], [0, 1, 1, 0], [NAN] * 4])
    row = onsets([series(values, np.ones(6))], AXIS).loc[0]
    assert row["items"] == 5
    assert row["open"] == 3 / 5
    assert row["onset"] == -3.0  # of -inf, -3, -3, -1, +inf
    assert row["settled"] == pytest.approx(-0.2)  # of -inf, -2.2, -0.2, +inf, +inf
    assert row["settled_q75"] == INF
    assert row["onset_low"] == -INF
    assert row["onset_high"] == INF
    assert row["note"] == (
        "half there at the first time: 1 of 6 items; never half there: 1 of 6 items; not settled at the last time: 1 "
        "of 6 items; nothing to grow or no reading: 1 of 6 items"
    )


def test_features_without_onset_and_single_items_have_no_interval():
    still = series(np.ones((3, 4)), np.ones(3), absent=None)
    row = onsets([still], AXIS).loc[0]
    assert row["items"] == 0
    assert row["note"] == "nothing to grow or no reading: 3 of 3 items"
    assert row.drop(["feature", "label", "kind", "items", "note"]).isna().all()
    row = onsets([series([[0.0, 0.25, 0.75, 1.0]], [1.0])], AXIS).loc[0]
    assert (row["onset"], row["onset_q25"], row["onset_q75"], row["pooled"]) == (-1.0, -1.0, -1.0, -1.0)
    assert row[["onset_low", "onset_high", "settled_low", "settled_high", "pooled_low"]].isna().all()


@given(st.permutations(range(9)))
def test_the_table_does_not_know_the_order_of_items(places):
    middle = np.random.default_rng(0).normal(size=9)
    counts = weights(9, 50)
    here = onsets([ramp_series(middle)], GRID, counts)
    there = onsets([ramp_series(middle[places])], GRID, counts[:, places])
    numbers = here.select_dtypes("number").columns
    np.testing.assert_allclose(here[numbers], there[numbers], rtol=1e-12)


# ---- order


def test_order_of_shifted_ramps_is_a_normal_probability():
    """Middles N(m, s^2) of correlation r: P[A before B] = Phi((m_B - m_A) / sqrt(s_A^2 + s_B^2 - 2 r s_A s_B))."""
    rng, items = np.random.default_rng(0), 3000
    common, a, b = rng.normal(size=(3, items))
    middles = {"a": common + 0.5 * a, "b": 0.3 + common + b, "c": 1.0 - common}
    table = order({name: onset(ramps(middle), GRID) for name, middle in middles.items()})
    found = table.set_index(["before", "after"])
    for pair, mean, variance in (("ab", 0.3, 1.25), ("ac", 1.0, 4.25), ("bc", 0.7, 5.0)):
        expected = norm.cdf(mean / np.sqrt(variance))
        error = np.sqrt(expected * (1 - expected) / items)
        row, back = found.loc[tuple(pair)], found.loc[tuple(pair[::-1])]
        assert abs(row["probability"] - expected) < 4 * error
        assert row["high"] - row["low"] == pytest.approx(3.92 * error, rel=0.15)
        np.testing.assert_allclose(back[["low", "high"]], 1 - row[["high", "low"]])
        assert back["probability"] == pytest.approx(1 - row["probability"])
    square = order_matrix(table)
    assert list(square.index) == list(square.columns) == ["a", "b", "c"]
    assert square.loc["c", "a"] == found.loc[("c", "a"), "probability"]
    assert np.isnan(np.diag(square)).all()


def test_intervals_of_a_probability_cover_it():
    """Onsets N(0, 1) and N(0.74, 1), paired: P = Phi(0.523) = 0.70; its percentile interval's exact law is binomial."""
    items, repetitions, counts = 100, 400, weights(100)
    truth, covered = norm.cdf(0.74 / np.sqrt(2)), 0
    for repetition in range(repetitions):
        a, b = np.random.default_rng(repetition).normal(size=(2, items))
        row = order({"a": a, "b": b + 0.74}, counts).loc[0]
        covered += row["low"] <= truth <= row["high"]
    k = np.arange(items + 1)
    ends = [
        [binom.ppf(tail, items, k / items) / items for tail in (0.025 + shift, 0.975 - shift)]
        for shift in (4 * np.sqrt(0.025 * 0.975 / 1000), -4 * np.sqrt(0.025 * 0.975 / 1000))
    ]
    least, most = (binom.pmf(k, items, truth) @ ((low <= truth) & (truth <= high)) for low, high in ends)
    error = 4 * np.sqrt(least * (1 - least) / repetitions)
    assert least - error <= covered / repetitions <= most + error


@pytest.mark.parametrize("truth", [0.97, 0.995])
def test_items_that_all_agree_leave_room_for_doubt(truth):
    """Where every one of 20 items says the same, a bootstrap's interval would be a point and cover nothing."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        first = np.where(rng.random(20) < truth, -1.0, 1.0)
        row = order({"a": first, "b": np.zeros(20)}, weights(20, 200)).loc[0]
        if row["probability"] == 1:
            covered.append(row["low"] <= truth <= row["high"])
            assert row["low"] == pytest.approx(0.025 ** (1 / 20))  # Clopper and Pearson's
    assert len(covered) > 100
    assert all(covered)


def test_ties_are_half_and_unknown_items_are_left_out():
    a = np.array([-INF, -INF, 0.0, 0.0, INF, NAN, 1.0, NAN])
    b = np.array([-INF, 0.0, 0.0, INF, INF, 0.0, NAN, NAN])
    row = order({"a": a, "b": b}).loc[0]
    assert row["items"] == 5
    assert row["probability"] == (0.5 + 1 + 0.5 + 1 + 0.5) / 5
    all_ties = order({"a": np.zeros(3), "b": np.zeros(3)}).loc[0]
    assert all_ties["probability"] == 0.5
    assert 0 < all_ties["low"] < 0.5 < all_ties["high"] < 1
    assert all_ties["low"] + all_ties["high"] == pytest.approx(1)
    never = order({"a": a * NAN, "b": b}).loc[0]
    assert never["items"] == 0
    assert never[["probability", "low", "high"]].isna().all()


def test_one_item_says_little_and_one_feature_nothing():
    row = order({"a": np.zeros(1), "b": np.ones(1)}).loc[0]
    assert (row["probability"], row["high"], row["items"]) == (1.0, 1.0, 1)
    assert row["low"] == pytest.approx(0.025)
    lonely = order({"a": np.zeros(4)})
    assert len(lonely) == 0
    assert order_matrix(lonely).empty
    assert "probability" in lonely


def test_order_is_checked(refuses):
    for wrong in ({}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.zeros((2, 2))}, {"a": np.zeros(0)}):
        with refuses("onset_by_feature holds no onsets, or onsets of different items"):
            order(wrong)
    with refuses(r"counts has shape \(11, 3\); accepted: \(S \+ 1, 2\)"):
        order({"a": np.zeros(2)}, weights(3, 10))
