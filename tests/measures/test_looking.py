"""Looking once: readings and comparisons from one look are those of `read` and `compare`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from natural_images import natural_tensors

from turningpoint.measures import measure
from turningpoint.measures._looking import Looking

LOOKING = ("frequency", "gain", "structure", "texture", "lab", "spectrum")


def pairs(size=45):
    images = natural_tensors(size)
    return images, 0.5 * images + 0.3 * images.roll(1, 0)


@pytest.mark.parametrize("name", [*LOOKING, "color", "wavelet", "pixels", "palette"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_look_reads_the_same(name, channels):
    a, b = (images[:, :channels] for images in pairs())
    one = measure(name)
    found = one.read_beside(one.look(a), b)
    expected = one.read(b) | one.compare(a, b)
    assert sorted(found) == sorted(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)


@pytest.mark.parametrize("name", LOOKING)
def test_strangers_are_compared_with_one_look(name, monkeypatch):
    a, b = pairs(32)
    one = measure(name)
    expected = [one.compare(start, b) for start in (a, a.flip(0))]
    looks = []
    look = type(one).look
    monkeypatch.setattr(type(one), "look", lambda self, images: looks.append(images) or look(self, images))
    found = one.compare_with([a, a.flip(0)], b)
    assert sum(images is b for images in looks) == 1
    for ours, theirs in zip(found, expected, strict=True):
        for key, values in theirs.items():
            np.testing.assert_array_equal(ours[key], values)


def test_rows_of_a_look_are_those_of_the_images():
    """Finals that are repeated for several estimates each are looked at once, and their rows repeated."""
    a, b = pairs(32)
    for name in LOOKING:
        one = measure(name)
        assert isinstance(one, Looking)
        seen = one.look(a[:4])
        again = {k: v.repeat_interleave(3, 0) if isinstance(v, torch.Tensor) else v for k, v in seen.items()}
        found = one.read_beside(again, b[:12])
        expected = one.compare(a[:4].repeat_interleave(3, 0), b[:12])
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-5, err_msg=f"{name}.{key}")
