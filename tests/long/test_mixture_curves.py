"""The curves of three mixtures against theory, with enough items to see a deviation of one per cent."""

import numpy as np
import pytest
from theory_of_mixtures import MIXTURES, deviations, deviations_in_64d


@pytest.mark.long
@pytest.mark.parametrize("name", list(MIXTURES))
def test_u_turns_and_clones_agree_with_theory_at_full_size(name):
    apart, _ = deviations(name, 3000, 200, seed=12)
    print(name, "largest deviation in standard errors:", np.abs(apart).max(1).round(2))
    assert np.abs(apart).max() < 4


@pytest.mark.long
def test_speciation_in_64_dimensions_at_full_size():
    """3,000 items and 400 steps."""
    apart = deviations_in_64d(3000, 400, seed=6)
    print("in 64 dimensions, largest deviation in standard errors:", np.abs(apart).max(1).round(2))
    assert np.abs(apart).max() < 4
