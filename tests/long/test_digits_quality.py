"""The built-in model's quality as stated in its card, on 2,000 samples of each kind."""

import pytest

import turningpoint as tp


@pytest.mark.long
def test_two_thousand_samples():
    found = tp.quality("digits", 2000, batch=100, progress=None)
    print(found)
    assert found["agreement"] >= 0.97
    assert found["sure"] >= 0.90
    assert min(found["shares"]) >= 0.05
    assert max(found["shares"]) <= 0.16
