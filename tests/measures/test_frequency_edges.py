"""Bands with edges of one's own, in ``frequency`` and in what shares its bands, against ``numpy.fft``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from turningpoint.measures import divided, measure
from turningpoint.measures.frequency import band_pass, layout, radial_bands
from turningpoint.theory.spectrum import bands

SIZES = [(32, 32), (15, 15), (16, 24), (33, 20)]
EDGES = (0.0, 2.0, 3.0, 5.5, 7.5)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def radius(height: int, width: int) -> np.ndarray:
    """Cycles per shorter side, of every mode of fft2."""
    rows, columns = np.abs(np.fft.fftfreq(height)), np.abs(np.fft.fftfreq(width))
    return min(height, width) * np.sqrt(rows[:, None] ** 2 + columns**2)


@pytest.mark.parametrize("size", SIZES)
def test_a_band_holds_what_lies_between_its_edges(size):
    images = noise(0, 3, 2, *size)
    spectrum = np.fft.fft2(images.double().numpy(), norm="ortho")
    found = measure("frequency", edges=EDGES).read(images)
    passed = band_pass(images, edges=EDGES).double().numpy()
    for b, (low, high) in enumerate(pairwise(EDGES)):
        inside = (radius(*size) >= low - 1e-9) & (radius(*size) < high - 1e-9)
        power = (np.abs(spectrum[..., inside]) ** 2).mean((1, 2))
        np.testing.assert_allclose(found[f"energy{b}"], np.log10(power), atol=1e-5)
        np.testing.assert_allclose(
            (found[f"band{b}"].astype(float) ** 2).sum(1), 2 * inside.sum() * power, rtol=1e-5
        )
        np.testing.assert_allclose(passed[b], np.fft.ifft2(spectrum * inside, norm="ortho").real, atol=1e-5)


@pytest.mark.parametrize("wave", [0, 1, 2, 3, 4, 5, 7, 8])
def test_below_the_first_and_from_the_last_edge_on_nothing_is_read(wave):
    image = torch.cos(2 * torch.pi * wave * torch.arange(16) / 16).expand(1, 1, 16, 16)
    found = measure("frequency", edges="2,4,8").read(image)
    shares = [float((found[f"band{b}"] ** 2).sum() / image.square().sum()) for b in range(2)]
    assert shares == pytest.approx([float(2 <= wave < 4), float(4 <= wave < 8)], abs=1e-6)


def test_without_gaps_the_bands_sum_to_the_image():
    images = noise(1, 2, 3, 16, 16)
    torch.testing.assert_close(band_pass(images, edges="0,3,inf").sum(0), images, atol=1e-5, rtol=0)
    rest = band_pass(images, edges="1,inf")[0] + images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(rest, images, atol=1e-5, rtol=0)


def test_the_default_edges_given_as_edges_are_the_default():
    images, other = noise(2, 2, 1, 28, 28), noise(3, 2, 1, 28, 28)
    usual = measure("frequency")
    edges = (*layout(28, 28, 5).edges[:-1], float("inf"))
    same = measure("frequency", edges=edges)
    pairs = [(m.read(images), m.compare(images, other)) for m in (usual, same)]
    for one, two in zip(*pairs, strict=True):
        assert one.keys() == two.keys()
        assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize("name", ["frequency", "spectrum", "gain"])
@pytest.mark.parametrize("text", ["0,2,4.5,8", "0:2:4.5:8", "0 2 4.5 8", " 0, 2, 4.5, 8 "])
def test_edges_are_said_in_a_query_and_named(name, text):
    asked = measure(f"{name}?edges={text}")
    assert asked.settings()["edges"] == "0,2,4.5,8"
    assert "bands" not in asked.settings()
    said = [r.description for r in asked.readings if r.name.endswith(("energy1", "phase1", "cross1"))]
    assert said
    assert all("radial band 1 (2–4.5 cycles)" in text for text in said)


def test_edges_said_one_by_one_are_a_list():
    assert divided("frequency?edges=0&edges=2&edges=4")[1] == {"edges": [0, 2, 4]}
    assert radial_bands(edges=[0, 2, 4]) == radial_bands(2, "0,2,4")
    assert [b.partition(" ")[2] for b in radial_bands(edges="2,inf").names()] == ["(2–∞ cycles)"]


def test_readings_follow_the_edges_and_the_default_says_as_before():
    names = [reading.name for reading in measure("frequency", edges="0,2,4").readings]
    assert names == ["band0", "band1", "energy0", "energy1", "phase0", "phase1"]
    assert measure("frequency").settings() == {"bands": 5}


def test_theory_has_the_same_bands():
    variances = np.random.default_rng(0).random((2, 16, 16))
    variances += variances[:, -np.arange(16)][:, :, -np.arange(16)]  # a mode has its conjugate's variance
    for b, (low, high) in enumerate(((1.0, 2.5), (2.5, 6.0))):
        found = bands(variances, edges="1,2.5,6")[b]
        inside = (radius(16, 16) >= low) & (radius(16, 16) < high)
        assert len(found) == 2 * inside.sum()
        assert found.mean() == pytest.approx(variances[:, inside].mean())


@pytest.mark.parametrize(
    "edges", ["", "3", "0,2,2", "4,2", "-1,2", "0,two", "nan,2", 4, [0], [0, None], "0,inf,inf"]
)
def test_edges_that_do_not_ascend_get_a_sentence(edges, refuses):
    with refuses(r"edges is .*; accepted: two or more ascending numbers from 0 on, in cycles per image"):
        measure("frequency", edges=edges)


def test_edges_that_disagree_get_a_sentence(refuses):
    with refuses(r"bands is 8, but edges '0,2,4' divide 2; accepted: one of the two"):
        measure("frequency?bands=8&edges=0,2,4")
    asked = measure("frequency", edges="0,0.5,0.7,4")
    with refuses(
        r"images of 16 x 16 pixels have no frequency from 0.5 to below 0.7 cycles; .* up to 11.31 cycles"
    ):
        asked.read(torch.zeros(1, 1, 16, 16))
    with refuses(r"have no frequency from 12 to below 14 cycles"):
        measure("gain", edges="0,12,14").compare(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
