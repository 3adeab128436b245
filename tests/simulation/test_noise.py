"""Noise belongs to the walk: addresses, independence, and draws handed in from outside."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.simulation.noise import Address, RecordedNoise, SeededNoise

COUNT = 40_000
BOUND = 4 / math.sqrt(COUNT)  # four standard errors of a correlation


def draws(seed=0, item=0, replicate=0, time=1.0, index=0, count=COUNT):
    return SeededNoise(seed).draw(Address(item, replicate, time), index, (count,)).astype(np.float64)


class TestSeeded:
    def test_neighbouring_addresses_are_independent(self):
        streams = [
            draws(),
            draws(seed=1),
            draws(item=1),
            draws(replicate=1),
            draws(time=0.5),
            draws(time=1.0 - 1e-9),
            draws(index=1),
            draws(index=2),
            draws(item=1, replicate=1),
            draws(item=2**40),
        ]
        for a, b in itertools.combinations(streams, 2):
            assert abs((a * b).mean()) < BOUND
            assert abs((a[1:] * b[:-1]).mean()) < BOUND  # nor shifted copies
            assert abs((a**2 * b**2).mean() - 1) < 4 * math.sqrt(8 / COUNT)  # var(a^2 b^2) = 8

    def test_standard_normal(self):
        z = draws()
        assert abs(z.mean()) < BOUND
        assert abs(z.var() - 1) < 4 * math.sqrt(2 / COUNT)
        assert abs((z**3).mean()) < 4 * math.sqrt(15 / COUNT)
        assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / COUNT)

    def test_one_number_of_many_addresses_is_normal(self):
        # across walks, not along one stream: what an experiment averages over
        z = np.array([draws(item=i, replicate=r, count=1)[0] for i in range(60) for r in range(60)])
        assert abs(z.mean()) < 4 / 60
        assert abs(z.var() - 1) < 4 * math.sqrt(2) / 60
        by_item = z.reshape(60, 60)
        assert abs((by_item[1:] * by_item[:-1]).mean()) < 4 / math.sqrt(59 * 60)
        assert abs((by_item[:, 1:] * by_item[:, :-1]).mean()) < 4 / math.sqrt(59 * 60)

    @given(
        order=st.permutations(list(itertools.product([0, 1], [0, 3], [0.25, 1.0], [0, 5]))),
        shape=st.sampled_from([(3,), (2, 2), (1, 2, 3)]),
    )
    @settings(max_examples=20, deadline=None)
    def test_order_does_not_matter(self, order, shape):
        noise = SeededNoise(3)
        alone = {k: SeededNoise(3).draw(Address(*k[:3]), k[3], shape) for k in sorted(order)}
        for key in order:
            np.testing.assert_array_equal(noise.draw(Address(*key[:3]), key[3], shape), alone[key])

    def test_shape_and_type(self):
        z = SeededNoise(0).draw(Address(0), 0, [2, 3, 4])
        assert z.shape == (2, 3, 4)
        assert z.dtype == np.float32
        flat = SeededNoise(0).draw(Address(0), 0, (24,))
        np.testing.assert_array_equal(z.ravel(), flat)  # a shape reads the same stream

    def test_times_that_differ_by_rounding_are_one(self):
        np.testing.assert_array_equal(draws(time=0.3, count=4), draws(time=0.1 + 0.2, count=4))

    def test_the_bits_are_fixed(self):
        # stored runs are continued with these: changing them would mix two noises in one run
        z = SeededNoise(7).draw(Address(2, 1, 0.5), 3, (3,))
        np.testing.assert_array_equal(z, np.array(FIXED, dtype=np.float32))


FIXED = [2.0011980533599854, -0.201188325881958, 1.733458161354065]


class TestRecorded:
    address = Address(2, 1, 0.5)

    def test_recorded_draws_come_back(self):
        rows = np.arange(6, dtype=np.float64).reshape(3, 2)
        noise = RecordedNoise({self.address: rows})
        for k in range(3):
            z = noise.draw(self.address, k, (2,))
            np.testing.assert_array_equal(z, rows[k])
            assert z.dtype == np.float32

    def test_the_rest_comes_from_elsewhere(self):
        seeded = SeededNoise(4)
        noise = RecordedNoise({self.address: np.zeros((1, 2))}, otherwise=seeded)
        np.testing.assert_array_equal(noise.draw(self.address, 0, (2,)), [0, 0])
        for address, index in ((self.address, 1), (Address(0), 0)):
            np.testing.assert_array_equal(noise.draw(address, index, (2,)), seeded.draw(address, index, (2,)))

    def test_times_that_differ_by_rounding_are_one(self):
        noise = RecordedNoise({Address(0, 0, 0.3): np.ones((1, 2))})
        np.testing.assert_array_equal(noise.draw(Address(0, 0, 0.1 + 0.2), 0, (2,)), [1, 1])

    def test_errors(self, refuses):
        noise = RecordedNoise({self.address: np.zeros((1, 2))})
        with refuses("noise holds no draw 1 for"):
            noise.draw(self.address, 1, (2,))
        with refuses("noise holds no draw 0 for"):
            noise.draw(Address(0), 0, (2,))
        with refuses(r"noise has shape \(2,\)"):
            noise.draw(self.address, 0, (3,))


def test_addresses_are_values():
    assert Address(1, 2, 0.5) == Address(1, 2, 0.5)
    assert len({Address(0), Address(0, 0, 1.0), Address(0, 1)}) == 2
    with pytest.raises(AttributeError):
        Address(0).item = 3


def test_recorded_draws_need_no_stream():
    rows = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    noise = RecordedNoise({Address(4): rows, Address(5): rows, Address(5, stream=1): -rows})
    np.testing.assert_array_equal(noise.draw(Address(4, stream=1), 1, (3,)), rows[1])
    np.testing.assert_array_equal(noise.draw(Address(5, stream=1), 1, (3,)), -rows[1])
    np.testing.assert_array_equal(noise.draw(Address(5), 1, (3,)), rows[1])
