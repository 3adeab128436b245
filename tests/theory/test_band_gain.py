"""The gain of a band of directions: half at the mean variance, never before the band's power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.theory.spectrum import band_half_emergence, band_half_gain, half_emergence


@settings(max_examples=30, deadline=None)
@given(variances=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), empty=st.integers(0, 3))
def test_half_of_the_gain(variances, empty):
    power = np.array([*variances, *[0.0] * empty])
    noise = math.exp(-band_half_gain(power))
    assert power.sum() / (power + noise).sum() == pytest.approx(0.5, rel=1e-9)
    assert band_half_emergence(power) <= band_half_gain(power) + 1e-9


@pytest.mark.parametrize("variance", [0.02, 1.0, 30.0])
def test_of_equal_variances_it_is_half_emergence(variance):
    assert band_half_gain([variance] * 3) == pytest.approx(float(half_emergence(variance)))


@pytest.mark.parametrize("variances", [[], [0.0, 0.0]])
def test_bad_input(variances, refuses):
    with refuses("variances are all 0; accepted: at least one above 0"):
        band_half_gain(variances)
