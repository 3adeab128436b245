"""Earlier or later: against the definitions, SciPy's tests and worlds whose answer is known."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from turningpoint.statistics.shift import shift

TIMES = st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 0.5, 3.0, np.inf, np.nan])


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=12))
def test_paired_is_its_definition(pairs):
    a, b = np.array(pairs).T
    found = shift(a, b, paired=True, samples=20)
    known = [(x, y) for x, y in pairs if x == x and y == y]
    assert found.items == len(known)
    if not known:
        assert np.isnan([found.difference, found.later, found.p]).all()
        return
    assert found.later == pytest.approx(np.mean([(y > x) + 0.5 * (y == x) for x, y in known]))
    apart = sorted(y - x for x, y in known if not (np.isinf(x) and x == y))
    middle = [apart[(len(apart) - 1) // 2], apart[len(apart) // 2]] if apart else [np.nan, np.nan]
    with np.errstate(invalid="ignore"):
        wanted = middle[0] if middle[0] == middle[1] else np.mean(middle)
    np.testing.assert_equal(found.difference, wanted)
    untied = sum(x != y for x, y in known)
    smaller = min(sum(y > x for x, y in known), sum(y < x for x, y in known))
    tail = sum(comb(untied, k) for k in range(smaller + 1)) / 2**untied
    assert found.p == pytest.approx(min(1.0, 2 * tail))


@given(st.lists(TIMES, min_size=1, max_size=9), st.lists(TIMES, min_size=1, max_size=9))
def test_unpaired_is_its_definition(first, second):
    found = shift(np.array(first), np.array(second), paired=False, samples=20)
    x, y = ([v for v in values if v == v] for values in (first, second))
    assert found.items == min(len(x), len(y))
    if not found.items:
        return
    assert found.later == pytest.approx(np.mean([(v > u) + 0.5 * (v == u) for u in x for v in y]))
    assert 0 <= found.p <= 1


def test_the_later_run_is_the_second():
    draw = np.random.default_rng(0)
    a = draw.normal(size=200)
    for paired in (True, False):
        found = shift(a, a + 1.0, paired=paired)
        assert found.low <= 1.0 <= found.high
        assert found.p < 1e-9
        back = shift(a + 1.0, a, paired=paired)
        assert back.difference == pytest.approx(-found.difference)
        assert back.later == pytest.approx(1 - found.later)
        assert back.p == pytest.approx(found.p)


def test_pairing_takes_out_what_items_owe_to_their_noise():
    draw = np.random.default_rng(1)
    common = 3 * draw.normal(size=100)
    a, b = common + 0.1 * draw.normal(size=100), common + 0.2 + 0.1 * draw.normal(size=100)
    paired, unpaired = (shift(a, b, paired=how) for how in (True, False))
    assert paired.p < 1e-6
    assert unpaired.p > 0.05
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 5


@pytest.mark.parametrize("paired", [True, False])
def test_on_equal_runs_p_holds(paired):
    """Under the hypothesis p <= 0.05 has at most its probability, and *later* is one half."""
    draw, tries = np.random.default_rng(2), 400
    found = [shift(*draw.normal(size=(2, 40)), paired=paired, samples=200) for _ in range(tries)]
    band = 4 * np.sqrt(0.05 * 0.95 / tries)
    assert np.mean([one.p <= 0.05 for one in found]) < 0.05 + band
    later = np.mean([one.later for one in found])
    assert abs(later - 0.5) < 4 * np.sqrt((1 / (4 * 40) if paired else 81 / (12 * 40 * 40)) / tries)


def test_later_of_two_normals_is_known():
    """P[b > a] = Phi(delta / sqrt 2) for independent unit normals that are delta apart."""
    draw, n = np.random.default_rng(3), 2000
    a, b = draw.normal(size=n), 0.7 + draw.normal(size=n)
    want = norm.cdf(0.7 / np.sqrt(2))
    for paired in (True, False):
        assert abs(shift(a, b, paired=paired).later - want) < 4 * np.sqrt(want * (1 - want) / n)


def test_open_ends():
    inf = np.inf
    found = shift(np.array([inf, inf, 0.0, 0.0]), np.array([inf, 0.0, inf, 1.0]), paired=True)
    assert (found.later, found.difference, found.items) == (0.625, 1.0, 4)
    both = shift(np.full(5, inf), np.full(5, inf), paired=True)
    assert np.isnan(both.difference)
    assert (both.later, both.p) == (0.5, 1.0)
    never = shift(np.zeros(5), np.full(5, inf), paired=False)
    assert never.difference == inf
    assert never.later == 1


def test_one_pair_has_no_interval():
    found = shift(np.array([0.0]), np.array([1.0]), paired=True)
    assert (found.difference, found.p) == (1.0, 1.0)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_what_does_not_fit_is_refused(refuses):
    with refuses("shapes \\(3,\\) and \\(4,\\); accepted: two arrays"):
        shift(np.zeros(3), np.zeros(4), paired=True)
    with refuses("shapes \\(3, 1\\)"):
        shift(np.zeros((3, 1)), np.zeros(4), paired=False)
