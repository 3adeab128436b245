"""Susceptibility against the matrix of pairs, its known ends, and its bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.susceptibility import susceptibility


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), signs=st.booleans())
def test_it_is_the_sum_over_pairs(seed, n, signs):
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(30, n)) + rng.normal(size=(30, 1))
    field = np.sign(field) if signs else field
    pairs = np.atleast_2d(np.cov(field, rowvar=False))
    np.testing.assert_allclose(susceptibility(field)[0], pairs.sum() / np.trace(pairs), rtol=1e-10)


def test_known_ends():
    """1 for independent places (4 standard errors), n for one block, n / b blocks of b, 0 for a fixed sum."""
    rng = np.random.default_rng(0)
    independent = rng.choice([-1, 1], (4000, 50))
    one, *samples = susceptibility(independent, samples=300)
    assert abs(one - 1) < 4 * np.std(samples)
    assert np.std(samples) == pytest.approx(np.sqrt(2 / 4000), rel=0.2)  # a variance's relative error
    blocks = np.repeat(rng.choice([-1, 1], (2000, 1)), 7, axis=1)
    assert susceptibility(blocks)[0] == pytest.approx(7)
    assert susceptibility(np.array([[1, -1], [-1, 1], [1, -1]]))[0] == pytest.approx(0)


def test_groups_have_means_of_their_own():
    """Two groups that differ in their means alone: pooled they seem to move as one."""
    rng = np.random.default_rng(1)
    groups = [rng.normal(shift, 1, (500, 20)) for shift in (-3, 3)]
    assert susceptibility(np.concatenate(groups))[0] > 10
    found = susceptibility(groups, samples=200)
    assert abs(found[0] - 1) < 4 * found[1:].std()
    total = sum(np.var(g.sum(1), ddof=1) for g in groups)
    single = sum(np.var(g, axis=0, ddof=1).sum() for g in groups)
    assert found[0] == pytest.approx(total / single)


def test_a_bootstrap_sample_is_the_estimate_of_what_was_drawn():
    rng = np.random.default_rng(2)
    field = np.sign(rng.normal(size=(12, 5)) + rng.normal(size=(12, 1)))
    found = susceptibility(field, samples=20, seed=4)
    for row, value in zip(weights(12, 20, 4), found, strict=True):
        drawn = np.repeat(field, row.astype(int), axis=0)
        assert value == pytest.approx(np.var(drawn.sum(1)) / np.var(drawn, axis=0).sum())


def test_nothing_varies():
    assert np.isnan(susceptibility(np.ones((5, 3)))[0])
    mixed = susceptibility([np.ones((5, 3)), np.array([[1, 1, 1], [-1, -1, -1]])])
    assert mixed[0] == pytest.approx(3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [([], "no group"), (np.ones(4), r"shape \(4,\)"), (np.ones((1, 4)), r"shape \(1, 4\)")],
)
def test_too_little_is_refused(refuses, changes, sentence):
    with refuses(sentence):
        susceptibility(changes)


def test_samples_in_which_nothing_varies_say_nothing():
    """Of forty items one has changed: many bootstrap samples leave it out, and what is left of them is rounding."""
    field = np.full((40, 6), 0.3)
    field[7] += np.arange(6) / 7
    found = susceptibility(field, 300)
    assert np.isnan(found[1:]).sum() > 50
    assert np.nanmin(found) > 0
