"""The measure ``lab`` against scikit-image and SciPy on photographs, and against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from natural_images import SIZES, natural_images, natural_tensors
from scipy.stats import wasserstein_distance
from skimage.color import deltaE_cie76, deltaE_ciede2000, lab2rgb, rgb2lab

from turningpoint.measures import measure
from turningpoint.measures.lab import cielab, colorfulness, hues

CLOSE = 2e-4
"""Float32 resolves 6e-8; CIELAB's two cube roots have slopes up to 500 / 3, and there are ten roundings before them."""


def scikit_lab(size: int) -> np.ndarray:
    return rgb2lab(natural_images(size).astype(float) / 255)


def plain(*colors: str) -> torch.Tensor:
    """One image of 4 x 5 pixels for each color."""
    rgb = torch.tensor([to_rgb(color) for color in colors]) * 2 - 1
    return rgb[:, :, None, None].expand(-1, 3, 4, 5)


# ---- one image


@pytest.mark.parametrize("size", SIZES)
def test_photographs_are_scikit_images(size):
    expected, found = scikit_lab(size), measure("lab").read(natural_tensors(size))
    assert len(expected) >= 20
    np.testing.assert_allclose(
        cielab(natural_tensors(size)).permute(0, 2, 3, 1), expected, rtol=0, atol=CLOSE
    )
    np.testing.assert_allclose(found["mean"], expected.mean((1, 2)), rtol=0, atol=CLOSE)
    chroma = np.hypot(expected[..., 1], expected[..., 2])
    np.testing.assert_allclose(found["chroma"], chroma.mean((1, 2)), rtol=0, atol=CLOSE)
    np.testing.assert_allclose(found["contrast"], expected[..., 0].std((1, 2)), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("sectors", [1, 7, 12])
def test_hues_of_photographs_are_numpys(sectors):
    expected = scikit_lab(45)
    found = measure("lab", hues=sectors).read(natural_tensors(45))["hue"]
    a, b = expected[..., 1], expected[..., 2]
    chroma, turn = np.hypot(a, b), np.arctan2(b, a) % (2 * np.pi) / (2 * np.pi) * sectors
    # what lies so near the end of a sector that float32 may count it in the next
    undecided = np.abs(turn - np.round(turn)) * chroma < CLOSE * sectors
    for k, values in enumerate(found):
        histogram = np.histogram(turn[k], sectors, (0, sectors), weights=chroma[k])[0] / 45**2
        slack = (undecided[k] * chroma[k]).sum() / 45**2 + CLOSE
        np.testing.assert_allclose(values, histogram, rtol=0, atol=slack)
        np.testing.assert_allclose(values.sum(), chroma[k].mean(), rtol=0, atol=CLOSE)
    assert undecided[chroma > 1].mean() < 1e-3


def test_colorfulness_of_photographs_is_hasler_and_suesstrunks():
    red, green, blue = np.moveaxis(natural_images(64).astype(float), 3, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = np.sqrt(rg.var((1, 2)) + yb.var((1, 2)))
    expected = spread + 0.3 * np.sqrt(rg.mean((1, 2)) ** 2 + yb.mean((1, 2)) ** 2)
    found = measure("lab").read(natural_tensors(64))["colorfulness"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert found.max() > 40  # "averagely colorful" is 45 in their table
    assert (expected[20:] == 0).any()


def test_hues_of_colors_with_a_name():
    found = measure("lab").read(plain("red", "yellow", "lime", "cyan", "blue"))["hue"]
    expected = rgb2lab([to_rgb(c) for c in ("red", "yellow", "lime", "cyan", "blue")])
    angle = np.degrees(np.arctan2(expected[:, 2], expected[:, 1])) % 360
    assert found.argmax(1).tolist() == (angle // 30).astype(int).tolist()
    assert len(set(found.argmax(1))) == 5
    assert ((found > 0).sum(1) == 1).all()


@pytest.mark.parametrize("lab", [[50.0, 10.0, 0.0], [50.0, 10.0, -1e-12], [50.0, -1e-30, -1e-38]])
def test_hues_close_the_circle(lab):
    found = hues(torch.tensor(lab).reshape(1, 3, 1, 1), 12)
    assert float(found.sum()) == pytest.approx(np.hypot(*lab[1:]), rel=1e-6)


def test_grey_images_have_no_color():
    grey = natural_tensors(32)[:, :1]
    found, compared = measure("lab").read(grey), measure("lab").compare(grey, -grey)
    for reading in measure("lab").readings:
        if reading.name in ("chroma", "colorfulness"):
            np.testing.assert_array_equal(found[reading.name], reading.absent)
    np.testing.assert_array_equal(found["hue"], 0)
    np.testing.assert_array_equal(found["mean"][:, 1:], 0)
    np.testing.assert_array_equal(compared["palette"], 0)
    in_color = measure("lab").read(grey.expand(-1, 3, -1, -1))
    np.testing.assert_allclose(found["mean"][:, 0], in_color["mean"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(found["contrast"], in_color["contrast"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(
        in_color["chroma"], 0, atol=6e-3
    )  # rounded constants of sRGB, scikit-image too
    assert (colorfulness(grey) == 0).all()


# ---- two images


@pytest.mark.parametrize(("formula", "reference"), [("cie76", deltaE_cie76), ("ciede2000", deltaE_ciede2000)])
def test_differences_of_photographs_are_scikit_images(formula, reference):
    images, lab = natural_tensors(32), scikit_lab(32)
    found = measure(f"lab?formula={formula}").compare(images, images.roll(1, 0))
    other = np.roll(lab, 1, 0)
    # twice the error of a color; CIEDE2000 stretches differences next to black and grey at most twice
    near = {"rtol": 1e-5, "atol": 4 * CLOSE}
    np.testing.assert_allclose(found["distance"], reference(lab, other).mean((1, 2)), **near)
    means = reference(lab.mean((1, 2)), other.mean((1, 2)))
    np.testing.assert_allclose(found["mean_distance"], means, **near)


def test_palettes_of_photographs_are_scipys():
    images, lab = natural_tensors(32), scikit_lab(32).reshape(-1, 32 * 32, 3)
    found = measure("lab").compare(images, images.roll(1, 0))["palette"]
    angles = np.radians([0, 45, 90, 135])
    along = lab[..., 1:] @ np.stack([np.cos(angles), np.sin(angles)])
    for k, distance in enumerate(found):
        expected = [wasserstein_distance(along[k, :, d], along[k - 1, :, d]) for d in range(4)]
        np.testing.assert_allclose(distance, np.mean(expected), rtol=0, atol=2 * CLOSE)


def test_equal_images_are_not_apart():
    images = natural_tensors(32)
    for formula in ("cie76", "ciede2000"):
        for name, values in measure("lab", formula=formula).compare(images, images).items():
            np.testing.assert_array_equal(values, 0, err_msg=name)


def test_only_the_distance_sees_where():
    images = natural_tensors(32)
    order = torch.randperm(32 * 32, generator=torch.Generator().manual_seed(0))
    found = measure("lab").compare(images, images.flatten(2)[:, :, order].reshape(images.shape))
    np.testing.assert_allclose(found["mean_distance"], 0, atol=2 * CLOSE)
    np.testing.assert_array_equal(found["palette"], 0)
    assert (found["distance"] > 1).all()


def test_a_shift_of_all_colors_is_seen_by_all():
    # within the gamut: lightness and both opponent colors move by (3, 4, 0) from a cloud round a grey
    cloud = np.random.default_rng(0).normal([50, 5, -3], [5, 2, 2], (2, 40, 40, 3))
    images = [
        torch.from_numpy(lab2rgb(one)).permute(0, 3, 1, 2).float() * 2 - 1
        for one in (cloud, cloud + np.array([3, 4, 0]))
    ]
    found = measure("lab").compare(*images)
    np.testing.assert_allclose(found["distance"], 5, atol=4 * CLOSE)
    np.testing.assert_allclose(found["mean_distance"], 5, atol=4 * CLOSE)
    np.testing.assert_allclose(found["palette"], 4 * (1 + np.sqrt(2)) / 4, atol=4 * CLOSE)


def test_several_starts_are_compared_as_each():
    images = natural_tensors(32)
    starts = [images.roll(k, 0) for k in (0, 1, 5)]
    together = measure("lab").compare_with(starts, images)
    for start, found in zip(starts, together, strict=True):
        for name, values in measure("lab").compare(start, images).items():
            np.testing.assert_array_equal(found[name], values)


# ---- the measure


def test_readings_are_as_declared():
    one = measure("lab?hues=6&formula=ciede2000")
    found, compared = one.read(plain("red", "green", "blue")), one.compare(plain("red"), plain("blue"))
    assert not one.by_default
    assert one.settings() == {"formula": "ciede2000", "hues": 6}
    assert [reading.name for reading in one.readings] == [*found, *compared]
    for reading in one.readings:
        values = (found | compared)[reading.name]
        assert values.dtype == np.float32
        assert reading.kind == (
            "comparison" if reading.name in compared else ("scalar", "vector")[values.ndim - 1]
        )
        assert reading.kind != "comparison" or reading.largest == 0
    assert found["mean"].shape == (3, 3)
    assert found["hue"].shape == (3, 6)


def test_what_sticks_out_is_cut_off():
    images = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    one, clamped = measure("lab"), images.clamp(-1, 1)
    for name, values in (one.read(images) | one.compare(images, -images)).items():
        np.testing.assert_array_equal(values, (one.read(clamped) | one.compare(clamped, -clamped))[name])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"formula": "cie94"}, "formula is 'cie94'; accepted: cie76"),
        ({"hues": 0}, "hues is 0"),
        ({"hues": True}, "hues"),
    ],
)
def test_settings_that_are_none(settings, said, refuses):
    with refuses(said):
        measure("lab", **settings)


@pytest.mark.parametrize(("shape", "said"), [((2, 30), "shape"), ((2, 4, 8, 8), "4 channels")])
def test_no_pictures(shape, said, refuses):
    with refuses(said):
        measure("lab").read(torch.zeros(shape))
