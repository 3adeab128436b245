"""The measure ``structure`` against OpenCV and scikit-image on photographs, against golden numbers and closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from natural_images import SIZES, natural_images, natural_tensors
from scipy.ndimage import binary_dilation
from skimage.filters import sobel, threshold_otsu
from skimage.measure import shannon_entropy
from skimage.metrics import structural_similarity

from turningpoint.measures import measure, structure
from turningpoint.measures.structure import edge_overlap, global_shape_metric, low_power, silhouette_overlap

GOLDEN = Path(__file__).parent / "golden" / "denoisefeat"
SCALARS = json.loads((GOLDEN / "denoisefeat.json").read_text())["scalars"]
FLOAT32 = 1e-5
"""Sums over some thousand numbers of float32, relative."""


def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = natural_tensors(size)
    return a, a + 0.15 * torch.randn(a.shape, generator=torch.Generator().manual_seed(size))


def eight_bit(images: torch.Tensor) -> np.ndarray:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """8-bit pixels (H, W) or (H, W, C) as a batch of one."""
    return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1


@pytest.mark.parametrize("size", SIZES)
def test_readings_of_photographs_are_the_libraries(size):
    found = measure("structure").read(natural_tensors(size))
    images = natural_images(size)
    edges = [cv2.Canny(image, 100, 200) == 255 for image in images]
    np.testing.assert_allclose(found["edges"], [edge.mean() for edge in edges], rtol=2**-23)
    slopes = [sobel(grey(image).astype(float)) for image in images]
    np.testing.assert_allclose(found["gradient"], [slope.mean() for slope in slopes], rtol=FLOAT32)
    on_edges = [
        slope[edge].mean() if edge.any() else np.nan for slope, edge in zip(slopes, edges, strict=True)
    ]
    np.testing.assert_allclose(found["edge_strength"], on_edges, rtol=FLOAT32)
    laplacians = [cv2.Laplacian(grey(image), cv2.CV_64F) for image in images]
    np.testing.assert_allclose(found["sharpness"], [one.var() for one in laplacians], rtol=FLOAT32)
    expected = [shannon_entropy(grey(image), base=2) for image in images]
    np.testing.assert_allclose(found["entropy"], expected, rtol=FLOAT32)


@pytest.mark.parametrize("size", SIZES)
def test_comparisons_of_photographs_are_the_libraries(size):
    a, b = pair(size)
    found = measure("structure").compare(a, b)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2}
    for k, (first, second) in enumerate(zip(eight_bit(a), eight_bit(b), strict=True)):
        pixels = a[k].double().numpy(), b[k].double().numpy()
        expected = structural_similarity(*pixels, channel_axis=0, **settings)
        assert found["ssim"][k] == pytest.approx(expected, abs=1e-4)
        above = [grey(image) > threshold_otsu(grey(image)) for image in (first, second)]
        if above[0].mean() > 0.5:
            above = [~one for one in above]
        expected = (above[0] & above[1]).sum() / (above[0] | above[1]).sum()
        assert found["silhouette"][k] == pytest.approx(expected, rel=2**-22)
        edges = [cv2.Canny(image, 100, 200) == 255 for image in (first, second)]
        assert edges[1].any()
        wide = [binary_dilation(edge, np.ones((3, 3), bool)) for edge in edges]
        shares = [edges[0][wide[1]].sum() / max(edges[0].sum(), 1), edges[1][wide[0]].sum() / edges[1].sum()]
        expected = 2 * shares[0] * shares[1] / max(sum(shares), 1e-9)
        assert found["edge_overlap"][k] == pytest.approx(expected, rel=2**-20)


@pytest.mark.parametrize("name", sorted(SCALARS))
def test_golden_numbers(name):
    with np.load(GOLDEN / "denoisefeat_expected.npz") as golden:
        image, hundredth = golden[f"{name}/image"], float(golden[f"{name}/gray01_fourier_sum10"])
    shape = global_shape_metric(as_images(image)).item()
    expected = SCALARS[name].get("global_shape_metric", SCALARS[name].get("global_shape_metric_gray"))
    assert shape == pytest.approx(expected, rel=1e-9)
    assert shape / 255 == pytest.approx(hundredth, rel=1e-9)
    density = measure("structure").read(as_images(image))["edges"][0]
    assert 255 * float(density) == pytest.approx(SCALARS[name]["edge_density"], rel=2**-23)


def test_global_shape_metric_sees_the_brightness_and_which_way_an_image_faces():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    wave = 0.5 * torch.cos(2 * torch.pi * (3 * x + 2 * y) / 32)[None, None]
    there, back = global_shape_metric(wave), global_shape_metric(wave.flip(3))
    constant, amplitude = 127.5 * 32**2, 0.5 * 127.5 * 32**2 / 2
    assert back.item() == pytest.approx(constant, rel=0.01)  # but for rounding to 8 bit
    assert there.item() == pytest.approx(constant + amplitude, rel=0.01)
    np.testing.assert_allclose(low_power(wave, 5), low_power(wave.flip(3), 5), rtol=FLOAT32)


@pytest.mark.parametrize("size", [(32, 32), (33, 28), (28, 45), (31, 31)])
def test_low_is_its_definition(size):
    images = natural_tensors(45)[:, :, : size[0], : size[1]]
    found = measure("structure", radius=5).read(images)["low"]
    luminance = np.einsum("bchw,c->bhw", images.double().numpy(), [0.2126, 0.7152, 0.0722])
    spectrum = np.fft.fft2(luminance) / np.prod(size)
    cycles = min(size) * np.hypot(*np.meshgrid(*map(np.fft.fftfreq, size), indexing="ij"))
    power = (np.abs(spectrum) ** 2 * ((cycles > 0) & (cycles < 5 - 1e-9))).sum((1, 2))
    np.testing.assert_allclose(found, power, rtol=FLOAT32)


def test_low_of_all_frequencies_is_the_variance():
    images = natural_tensors(45)
    contrast = measure("color").read(images)["contrast"]
    np.testing.assert_allclose(low_power(images, 999.0), contrast**2, rtol=FLOAT32)


@pytest.mark.parametrize(("cycles", "power"), [(0, 0), (1, 0.5), (3, 0.5), (4, 0), (5, 0)])
def test_low_of_a_wave(cycles, power):
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(24) / 24).expand(1, 3, 24, 24)
    assert measure("structure").read(wave)["low"][0] == pytest.approx(power, abs=1e-6)


def test_a_border_between_black_and_white():
    half = torch.ones(1, 1, 20, 20)
    half[..., :10] = -1
    found = measure("structure").read(half)
    assert found["edges"][0] == pytest.approx(1 / 20)
    assert found["edge_strength"][0] == pytest.approx(255 / np.sqrt(2))
    assert found["gradient"][0] == pytest.approx(2 / 20 * 255 / np.sqrt(2))
    assert found["sharpness"][0] == pytest.approx(2 / 20 * 255**2)
    assert found["entropy"][0] == pytest.approx(1)


def test_a_flat_image_has_nothing():
    flat = torch.full((2, 3, 16, 16), 0.3)
    found = measure("structure").read(flat)
    absent = {reading.name: reading.absent for reading in measure("structure").readings}
    for name in ("edges", "gradient", "sharpness", "entropy", "low"):
        assert absent[name] == 0
        np.testing.assert_allclose(found[name], 0, atol=1e-12, err_msg=name)
    assert absent["edge_strength"] is None
    assert np.isnan(found["edge_strength"]).all()
    compared = measure("structure").compare(flat, flat)
    assert np.isnan(compared["silhouette"]).all()
    assert np.isnan(compared["edge_overlap"]).all()
    np.testing.assert_allclose(compared["ssim"], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_images_are_alike(channels):
    images = natural_tensors(32)[:, :channels]
    compared = measure("structure").compare(images, images.clone())
    readings = {r.name: r for r in measure("structure").readings if r.kind == "comparison"}
    assert set(compared) == set(readings)
    for name, values in compared.items():
        some = values[np.isfinite(values)]
        assert len(some) >= 20
        np.testing.assert_allclose(some, readings[name].largest, rtol=0, atol=1e-4)


def test_a_silhouette_is_the_lesser_side_of_the_first_image():
    disc = (torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)) - 7.5).norm(dim=1).reshape(
        1, 16, 16
    ) < 4
    bright, dark = 255.0 * disc, 255.0 * ~disc
    assert silhouette_overlap(bright, bright * 0.4 + 20) == 1  # each has its own threshold
    assert silhouette_overlap(dark, dark * 0.4 + 20) == 1
    assert silhouette_overlap(bright, dark) == 0
    shifted = silhouette_overlap(bright, bright.roll(2, 2))
    both, either = (disc & disc.roll(2, 2)).sum(), (disc | disc.roll(2, 2)).sum()
    assert shifted.item() == pytest.approx((both / either).item())
    np.testing.assert_allclose(silhouette_overlap(dark, dark.roll(2, 2)), shifted)
    assert silhouette_overlap(torch.full((1, 16, 16), 9.0), bright) == 0
    assert silhouette_overlap(bright, torch.full((1, 16, 16), 9.0)) == 0


def test_edges_a_pixel_apart_are_the_same():
    line = torch.zeros(1, 12, 12, dtype=torch.bool)
    line[:, :, 4] = True
    assert edge_overlap(line, line.roll(1, 2)) == 1
    assert edge_overlap(line, line.roll(2, 2)) == 0
    assert edge_overlap(line, torch.zeros_like(line)) == 0
    assert edge_overlap(torch.zeros_like(line), line) == 0
    two = line | line.roll(6, 2)
    assert edge_overlap(line, two).item() == pytest.approx(2 / 3)


def test_thresholds_and_radius_are_settings():
    images = natural_tensors(45)
    sensitive = measure("structure?low=50&high=100&radius=3")
    assert sensitive.settings() == {"low": 50, "high": 100, "radius": 3}
    found = sensitive.read(images)
    expected = [(cv2.Canny(image, 50, 100) == 255).mean() for image in natural_images(45)]
    np.testing.assert_allclose(found["edges"], expected, rtol=2**-23)
    assert (found["low"] < measure("structure").read(images)["low"]).all()


def test_it_reads_only_if_it_is_named():
    assert measure("structure").by_default is False
    features = [measure("structure").feature(reading) for reading in measure("structure").readings]
    assert features[0] == "structure.edges"
    assert list(measure("structure").read(natural_tensors(32))) == [
        reading.name for reading in measure("structure").readings if reading.kind == "scalar"
    ]


@pytest.mark.parametrize("numbers", [1, 3 * 45 * 45 * 7])
def test_an_image_does_not_depend_on_its_company(numbers, monkeypatch):
    a, b = pair(45)
    together = measure("structure").read(a) | measure("structure").compare(a, b)
    monkeypatch.setattr(structure, "PART", numbers)
    apart = measure("structure").read(a) | measure("structure").compare(a, b)
    for name, values in together.items():
        np.testing.assert_allclose(apart[name], values, rtol=FLOAT32, err_msg=name)


def test_estimates_may_stick_out_and_need_not_be_contiguous():
    a = natural_tensors(32)
    inside, outside = measure("structure").read(a.clamp(-0.5, 0.5) * 2), measure("structure").read(a * 2)
    for name in ("edges", "edge_strength", "gradient", "sharpness", "entropy"):
        np.testing.assert_array_equal(inside[name], outside[name])
    strided = a.to(memory_format=torch.channels_last)
    for name, values in measure("structure").read(a).items():
        np.testing.assert_array_equal(measure("structure").read(strided)[name], values)


def test_mistakes_get_a_sentence(refuses):
    with refuses("low and high are 200 and 100; accepted: two numbers, 0 <= low <= high"):
        measure("structure?low=200&high=100")
    with refuses("low and high are 'some' and 200"):
        measure("structure", low="some")
    with refuses("low and high are nan and 200"):
        measure("structure", low=float("nan"))
    with refuses(r"radius is 1; accepted: a number of cycles above 1\."):
        measure("structure?radius=1")
    with refuses(r"measure is 'structure', but the batch has shape \(2, 7\)"):
        measure("structure").read(torch.zeros(2, 7))
    with refuses("the images have 2 x 9 pixels; accepted: at least 3 x 3"):
        measure("structure").compare(torch.zeros(1, 1, 2, 9), torch.zeros(1, 1, 2, 9))
