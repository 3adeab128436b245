"""Encoding and decoding go on with smaller batches where memory does not suffice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from turningpoint.errors import SimulationError
from turningpoint.simulation.batches import in_batches

CPU = torch.device("cpu")
ITEMS = np.arange(23, dtype=np.float32)[:, None]


@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_every_item_once_in_order(most):
    sizes = []

    def function(x):
        if len(x) > most:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(x))
        return x + 1

    np.testing.assert_array_equal(in_batches(function, ITEMS, CPU, batch=16), ITEMS + 1)
    assert max(sizes) <= most
    assert sum(sizes) == 23


def test_one_item_too_large(refuses):
    def function(x):
        raise torch.OutOfMemoryError("out of memory")

    with refuses("one item", SimulationError):
        in_batches(function, ITEMS, CPU)


def test_other_errors_are_not_hidden():
    def function(x):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        in_batches(function, ITEMS, CPU)
