"""The measure ``palette`` against scikit-image: conversion, and nearest prototypes by its own colour difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from skimage import data
from skimage.color import deltaE_cie76, rgb2lab

from turningpoint.measures import measure
from turningpoint.measures import palette as module
from turningpoint.measures.palette import TERMS, prototypes


def plain(*colors: str) -> torch.Tensor:
    """One image of 4 x 5 pixels for each color."""
    rgb = torch.tensor([to_rgb(color) for color in colors]) * 2 - 1
    return rgb[:, :, None, None].expand(-1, 3, 4, 5)


def photograph(name: str) -> torch.Tensor:
    """A photograph of scikit-image, every third pixel, (1, 3, H, W)."""
    pixels = torch.from_numpy(np.ascontiguousarray(getattr(data, name)()[::3, ::3]))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def named(images: torch.Tensor) -> list[str]:
    return [TERMS[k] for k in measure("palette").read(images)["dominant"]]


def test_eleven_terms_with_their_shades():
    lab, term = prototypes()
    assert sorted(TERMS) == sorted(
        ["black", "white", "red", "green", "yellow", "blue", "brown", "purple", "pink", "orange", "grey"]
    )  # Berlin & Kay 1969
    assert lab.shape == (29, 3)
    assert np.bincount(term).tolist() == [1, 1, *[3] * 9]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("shade", ["", "light ", "dark "])
def test_a_color_that_people_call_so(term, shade):
    if shade and term in ("black", "white"):
        shade = ""
    assert named(plain(f"xkcd:{shade}{term}")) == [term]


def test_colors_of_the_web():
    # CSS names that are a basic term, and six whose term nobody doubts
    assert named(
        plain("black", "white", "grey", "red", "green", "yellow", "blue", "purple", "pink", "orange")
    ) == (["black", "white", "grey", "red", "green", "yellow", "blue", "purple", "pink", "orange"])
    assert named(plain("skyblue", "navy", "lime", "darkgreen", "gold", "silver")) == (
        ["blue", "blue", "green", "green", "yellow", "grey"]
    )


def test_a_pure_image_is_one_share():
    found = measure("palette").read(plain("red", "blue"))
    np.testing.assert_array_equal(
        found["shares"], np.eye(len(TERMS))[[TERMS.index("red"), TERMS.index("blue")]]
    )
    lab = rgb2lab([to_rgb("red"), to_rgb("blue")])
    # float32: 1e-7 of channels in [0, 1], times at most 500 / 3 by the slope of CIELAB's cube roots
    np.testing.assert_allclose(found["mean"], lab, atol=2e-4)


def test_greys_are_black_grey_or_white():
    ramp = torch.linspace(-1, 1, 256).reshape(256, 1, 1, 1).expand(256, 1, 2, 2)
    terms = measure("palette").read(ramp)
    colored = measure("palette").read(ramp.expand(-1, 3, -1, -1))
    for name, values in terms.items():
        np.testing.assert_array_equal(values, colored[name])
    order = np.array(named(ramp))
    black, grey, white = ((order == term).sum() for term in ("black", "grey", "white"))
    assert black + grey + white == 256
    assert min(black, grey, white) > 10
    assert list(order) == ["black"] * black + ["grey"] * grey + ["white"] * white


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_photographs_pixel_by_pixel(name):
    image = photograph(name)
    found = measure("palette").read(image)
    lab = rgb2lab(((image[0].permute(1, 2, 0) + 1) / 2).numpy())
    centre, term = prototypes()
    distance = np.stack([deltaE_cie76(lab, np.broadcast_to(one, lab.shape)) for one in centre], -1)
    # a pixel as far from two prototypes as float32 can tell may go to either
    first, second = np.sort(distance, -1)[..., :2].reshape(-1, 2).T
    undecided = (second - first < 1e-3).sum()
    counts = np.bincount(term[distance.argmin(-1)].ravel(), minlength=len(TERMS))
    pixels = lab.shape[0] * lab.shape[1]
    np.testing.assert_allclose(found["shares"][0] * pixels, counts, atol=undecided + 0.1)
    assert undecided < 1e-3 * pixels
    assert TERMS[found["dominant"][0]] == TERMS[counts.argmax()]
    np.testing.assert_allclose(found["mean"][0], lab.reshape(-1, 3).mean(0, dtype=np.float64), rtol=1e-5)


def test_what_photographs_show():
    assert named(photograph("coffee")) == named(photograph("chelsea")) == ["brown"]  # a table; a cat
    assert named(torch.tensor([0.1, 0.55, 0.9]).reshape(1, 3, 1, 1) * 2 - 1) == ["blue"]


def test_an_image_does_not_depend_on_its_company():
    images = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    together = measure("palette").read(images)
    apart = [measure("palette").read(one[None]) for one in images.flip(0)]
    for name, values in together.items():
        np.testing.assert_array_equal(values[::-1], np.concatenate([one[name] for one in apart]))
        assert np.isfinite(values).all()
    clipped = measure("palette").read(images.clamp(-1, 1))
    np.testing.assert_array_equal(together["mean"], clipped["mean"])


def test_pieces_do_not_show(monkeypatch):
    image = photograph("astronaut")
    whole = measure("palette").read(image)
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    np.testing.assert_array_equal(measure("palette").read(image)["shares"], whole["shares"])


def test_readings_are_as_declared():
    palette = measure("palette")
    found = palette.read(plain("red", "green", "blue"))
    assert not palette.by_default
    assert [reading.name for reading in palette.readings] == list(found) == ["dominant", "shares", "mean"]
    assert palette.readings[0].values == TERMS
    assert found["dominant"].dtype == np.int64
    assert found["shares"].shape == (3, 11)
    np.testing.assert_allclose(found["shares"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(("shape", "said"), [((2, 30), "shape"), ((2, 4, 8, 8), "4 channels")])
def test_no_pictures(shape, said, refuses):
    with refuses(said):
        measure("palette").read(torch.zeros(shape))
