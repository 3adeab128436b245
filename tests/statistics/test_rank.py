"""Numerical rank beside its definition, term by term."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.statistics.rank import matrix_rank, numerical_rank


@given(
    values=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20),
    eta=st.sampled_from([0, 0.5, 0.9, 0.99, 0.999]),
)
@settings(max_examples=100, deadline=None)
def test_definition(values, eta):
    falling = sorted(values, reverse=True)
    held = [
        np.sqrt(sum(v**2 for v in falling[:r]) / sum(v**2 for v in values)) for r in range(1, len(values) + 1)
    ]
    if min(abs(h - eta) for h in held) < 1e-9:
        return  # a tie of rounding errors
    assert numerical_rank(np.array(values), eta) == next(r for r, h in enumerate(held, 1) if h > eta)


def test_equal_values():
    """12 equal values: 11 of them hold sqrt(11/12) = 0.957."""
    assert numerical_rank(np.ones(12)) == 12
    assert numerical_rank(np.ones(12), eta=0.95) == 11


def test_batches_and_zeros():
    values = np.array([[0.0, 0, 0], [0, 0, 5], [1, 1, 1]])
    np.testing.assert_array_equal(numerical_rank(values), [0, 1, 3])


def test_of_matrices():
    draw = np.random.default_rng(1)
    left = np.linalg.qr(draw.standard_normal((3, 10, 4)))[0]
    np.testing.assert_array_equal(matrix_rank(left @ left.transpose(0, 2, 1)), [4, 4, 4])


@pytest.mark.parametrize("eta", [-0.1, 1.0])
def test_refusal(refuses, eta):
    with refuses(f"eta is {eta}; accepted: 0 to 1, without 1"):
        numerical_rank(np.ones(2), eta)
