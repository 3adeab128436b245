"""The built-in model's quality as stated in its card, on 2,000 samples of each kind."""

import pytest

import turningpoint as tp


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "steps"), [("heun", 18), ("ddpm", 50)])
def test_two_thousand_samples(sampler, steps):
    found = tp.quality("digits", 2000, sampler=sampler, steps=steps, batch=100, progress=None)
    print(sampler, found)
    assert found["agreement"] >= 0.97
    assert found["sure"] >= 0.90
    assert min(found["shares"]) >= 0.05
    assert max(found["shares"]) <= 0.16
