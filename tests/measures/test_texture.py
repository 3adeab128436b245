"""The measure ``texture`` against scikit-image and SciPy on photographs, and against its definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from natural_images import SIZES, natural_images, natural_tensors
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from turningpoint.measures import _cooccurrence, _jets, measure, texture
from turningpoint.measures._binary_patterns import uniform_patterns
from turningpoint.measures._cooccurrence import PROPERTIES, cooccurrence, cooccurrence_properties
from turningpoint.measures._jets import FILTERS, ORDERS, REACH, SCALES, gram, jets, upper_triangle

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def opencv_greys(size: int) -> np.ndarray:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in natural_images(size)])


def scikit_codes(greys: np.ndarray) -> np.ndarray:
    return np.stack([local_binary_pattern(one, 8, 1, "uniform") for one in greys])


def scikit_matrices(greys: np.ndarray, levels: int) -> np.ndarray:
    """(B, levels, levels, 4)."""
    quantised = (greys.astype(int) * levels // 256).astype(np.uint8)
    return np.stack(
        [graycomatrix(one, [1], ANGLES, levels, symmetric=True, normed=True)[:, :, 0] for one in quantised]
    )


def scikit_properties(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """The means over the four directions; scikit-image calls the correlation of a picture of one level 1."""
    found = {
        name: np.array([graycoprops(one[:, :, None], name).mean() for one in matrices]) for name in PROPERTIES
    }
    found["correlation"][matrices.min(3).max((1, 2)) == 1] = np.nan
    return found


# ---- local binary patterns


@pytest.mark.parametrize("size", SIZES)
def test_codes_of_photographs_are_scikit_images(size):
    greys = opencv_greys(size)
    assert len(greys) >= 20
    expected = scikit_codes(greys)
    np.testing.assert_array_equal(uniform_patterns(torch.from_numpy(greys)), expected)
    shares = np.stack([np.bincount(codes.astype(int).ravel(), minlength=10) / size**2 for codes in expected])
    found = measure("texture").read(natural_tensors(size))["patterns"]
    np.testing.assert_allclose(found, np.sqrt(shares), rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 9, 256])
def test_codes_of_ties(levels):
    # where the interpolated level equals the centre, the last digit decides
    generator = np.random.default_rng(levels)
    for height, width in ((1, 1), (1, 9), (2, 2), (7, 40), (33, 61)):
        greys = generator.integers(0, levels, (3, height, width)).astype(np.uint8) * (255 // (levels - 1))
        np.testing.assert_array_equal(uniform_patterns(torch.from_numpy(greys)), scikit_codes(greys))


def test_codes_of_plains():
    greys = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 5, 160)).copy()
    np.testing.assert_array_equal(uniform_patterns(torch.from_numpy(greys)), scikit_codes(greys))


def test_codes_do_not_see_brightness():
    greys = opencv_greys(64)
    inner = uniform_patterns(torch.from_numpy(greys // 2 + 100))[:, 1:-1, 1:-1]
    np.testing.assert_array_equal(inner, uniform_patterns(torch.from_numpy(greys // 2))[:, 1:-1, 1:-1])


def test_pieces_do_not_show(monkeypatch):
    images = natural_tensors(32)
    whole = measure("texture").read(images)
    monkeypatch.setattr(texture, "PATTERNS_AT_ONCE", 1)
    monkeypatch.setattr(_cooccurrence, "AT_ONCE", 1)
    monkeypatch.setattr(_jets, "AT_ONCE", 1)
    for name, values in measure("texture").read(images).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-7)


# ---- co-occurrence


@pytest.mark.parametrize(("levels", "images"), [(8, 32), (16, 32), (33, 32), (256, 3)])
def test_cooccurrence_of_photographs_is_scikit_images(levels, images):
    greys = opencv_greys(45)[:images]
    expected = scikit_matrices(greys, levels)
    quantised = torch.from_numpy(greys).int() * levels // 256
    np.testing.assert_allclose(cooccurrence(quantised, levels), expected.transpose(0, 3, 1, 2), rtol=1e-14)
    found = cooccurrence_properties(quantised, levels)
    for name, values in scikit_properties(expected).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_readings_of_photographs_are_scikit_images(size):
    found = measure("texture").read(natural_tensors(size))
    for name, values in scikit_properties(scikit_matrices(opencv_greys(size), 16)).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)  # float32


def test_a_picture_of_one_level_has_no_texture():
    found = measure("texture").read(torch.full((2, 3, 9, 8), 0.3))
    for reading in measure("texture").readings:
        if reading.kind == "scalar" and reading.absent is not None:
            np.testing.assert_array_equal(found[reading.name], reading.absent)
    assert np.isnan(found["correlation"]).all()
    # a float32's resolution, times the 1e-6 by which the weights miss zero
    np.testing.assert_allclose(found["gram"], 0, atol=1e-11)


def test_directions_without_contrast_do_not_count():
    corner = torch.full((1, 6, 6), 2)
    corner[0, 0, 0] = 5
    matrices = scikit_matrices(corner.numpy() * 16, 16)
    each = graycoprops(matrices[0][:, :, None], "correlation")[0]
    found = cooccurrence_properties(corner, 16)["correlation"]
    # one diagonal does not see the corner: scikit-image calls that 1
    assert (each == 1).sum() == 1
    np.testing.assert_allclose(found, each[each < 1].mean())


# ---- Gram matrices


@pytest.mark.parametrize("size", SIZES)
def test_derivatives_are_scipys(size):
    images = natural_tensors(size)
    expected = np.stack(
        [
            scale ** (k + m)
            * gaussian_filter(
                images.double().numpy(), scale, (k, m), mode="nearest", truncate=REACH, axes=(2, 3)
            )
            for scale in SCALES
            for k, m in ORDERS
        ],
        2,
    )
    # two sums of values up to 1 times weights whose sizes sum to 1.1 or less, each rounded 2 x size times
    np.testing.assert_allclose(jets(images), expected, rtol=0, atol=2 * 1.1**2 * 2 * size * 2**-24)


def test_gram_matrices_are_mean_products_of_responses():
    images = natural_tensors(32)
    responses = jets(images).double().numpy().reshape(len(images), 3 * FILTERS, -1)
    expected = np.array([one @ one.T / 32**2 for one in responses])
    found = gram(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    grey = measure("texture").read(images)["gram"]
    assert grey.shape == (len(images), FILTERS * (FILTERS + 1) // 2)
    weights = np.kron([[0.2126, 0.7152, 0.0722]], np.eye(FILTERS))  # filters are linear in the channels
    luminance = np.array([weights @ one @ weights.T for one in expected])
    vectors = upper_triangle(torch.from_numpy(luminance)).numpy()
    np.testing.assert_allclose(grey, vectors, rtol=0, atol=1e-6 * np.abs(vectors).max())


def test_distances_of_vectors_are_those_of_matrices():
    matrices = gram(natural_tensors(32)[:, :1]).double()
    apart = [one - one.roll(1, 0) for one in (upper_triangle(matrices), matrices.flatten(1))]
    torch.testing.assert_close(apart[0].norm(dim=1), apart[1].norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_style_is_the_distance_of_gram_matrices(channels):
    images = natural_tensors(32)[:, :channels]
    other = images.roll(1, 0)
    matrices = [gram(one).double().numpy() for one in (images, other)]
    gatys = np.square(matrices[0] - matrices[1]).sum((1, 2)) / (4 * (channels * FILTERS) ** 2)
    compared = measure("texture").compare(images, other)["style"]
    np.testing.assert_allclose(compared, 2 * np.sqrt(gatys), rtol=1e-4)
    np.testing.assert_allclose(measure("texture").compare(other, images)["style"], compared, rtol=1e-6)
    np.testing.assert_array_equal(measure("texture").compare(images, images)["style"], 0)
    with_both = measure("texture").compare_with([images, other], images)
    np.testing.assert_array_equal(with_both[0]["style"], 0)
    np.testing.assert_allclose(with_both[1]["style"], compared, rtol=1e-6)


def test_style_does_not_see_where():
    images = torch.zeros(1, 3, 80, 80)
    patch = natural_tensors(32)[:1]
    images[:, :, 20:52, 20:52] = patch
    moved = images.roll((13, -9), (2, 3))
    changed = images.roll((13, -9), (2, 3)).flip(3).mT  # turned by a quarter: other orientations
    style = [float(measure("texture").compare(images, one)["style"][0]) for one in (moved, changed)]
    assert style[0] < 1e-4 * style[1]


def test_style_grows_with_blur():
    images = natural_tensors(64)
    blurred = [
        torch.from_numpy(gaussian_filter(images.numpy(), sigma, axes=(2, 3))) for sigma in (0.5, 1, 2, 4)
    ]
    styles = np.stack([measure("texture").compare(images, one)["style"] for one in blurred])
    assert (np.diff(styles, axis=0) > 0).all()


def test_textures_are_told_apart():
    # 16 pieces of each of three photographs of textures: the nearest other piece is of the same one
    pieces = [
        torch.from_numpy(getattr(data, name)()).unfold(0, 128, 128).unfold(1, 128, 128).flatten(0, 1)
        for name in ("brick", "grass", "gravel")
    ]
    found = measure("texture").read(torch.cat(pieces)[:, None].float() / 127.5 - 1)
    kind = np.repeat([0, 1, 2], 16)
    for name in ("patterns", "gram"):
        apart = torch.cdist(*[torch.from_numpy(found[name])] * 2).fill_diagonal_(torch.inf)
        assert (kind[apart.argmin(1)] == kind).mean() >= 0.9, name


# ---- the measure


def test_readings_are_as_declared():
    one = measure("texture?levels=8")
    found, compared = one.read(natural_tensors(32)[:4]), one.compare(*natural_tensors(32)[:8].split(4))
    assert not one.by_default
    assert one.settings() == {"levels": 8}
    assert [reading.name for reading in one.readings] == [*found, *compared]
    kinds = {"patterns": "vector", "gram": "vector", "style": "comparison"}
    for reading in one.readings:
        values = (found | compared)[reading.name]
        assert reading.kind == kinds.get(reading.name, "scalar")
        assert values.dtype == np.float32
        assert values.shape[:1] == (4,)
        assert values.ndim == 1 + (reading.kind == "vector")
    assert one.readings[-1].largest == 0


def test_an_image_does_not_depend_on_its_company():
    images = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    together = measure("texture").read(images)
    apart = [measure("texture").read(one[None]) for one in images]
    for name, values in together.items():
        np.testing.assert_allclose(values, np.concatenate([one[name] for one in apart]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 257, 2.5, "many", True])
def test_levels_that_are_none(levels, refuses):
    with refuses("levels is"):
        measure("texture", levels=levels)


@pytest.mark.parametrize(("shape", "said"), [((2, 30), "shape"), ((2, 3, 1, 8), "1 x 8 pixels")])
def test_no_pictures(shape, said, refuses):
    with refuses(said):
        measure("texture").read(torch.zeros(shape))
