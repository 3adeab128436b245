"""U-turns and clones of three mixtures keep the class as often as theory says, within 4 standard errors."""

import numpy as np
import pytest
from theory_of_mixtures import MIXTURES, deviations, deviations_in_64d


@pytest.mark.parametrize("name", list(MIXTURES))
def test_u_turns_and_clones_agree_with_theory(name):
    """250 items each; the full-size version is in tests/long."""
    apart, value = deviations(name, 250, 200, seed=11)
    assert value.max() - value.min() > 0.4  # the test has power
    assert np.abs(apart).max() < 4


def test_speciation_in_64_dimensions():
    """Biroli et al. 2024: theory's five numbers, U-turns and clones on them; at full size in tests/long."""
    assert np.abs(deviations_in_64d(400, 100, seed=5)).max() < 4
