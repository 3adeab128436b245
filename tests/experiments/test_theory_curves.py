"""U-turns and clones of three mixtures keep the class as often as theory says, within 4 standard errors."""

import numpy as np
import pytest
from theory_of_mixtures import MIXTURES, deviations


@pytest.mark.parametrize("name", list(MIXTURES))
def test_u_turns_and_clones_agree_with_theory(name):
    """250 items each; the full-size version is in tests/long."""
    apart, value = deviations(name, 250, 200, seed=11)
    assert value.max() - value.min() > 0.4  # the test has power
    assert np.abs(apart).max() < 4
