"""The measure ``wavelet`` against PyWavelets on photographs, and against published coefficients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from natural_images import natural_tensors

from turningpoint.measures import measure
from turningpoint.measures.wavelet import subbands

GOLDEN = Path(__file__).parent / "golden" / "denoisefeat" / "denoisefeat_expected.npz"
WAVELETS = ["haar", "db2", "db8", "sym4", "coif1", "bior2.2", "rbio3.1"]


def photographs(height: int, width: int) -> torch.Tensor:
    return natural_tensors(max(height, width))[:, :, :height, :width].contiguous()


def flat(coefficients) -> list[np.ndarray]:
    """All sub-bands in one list: approximation, H, V and D of the coarsest level, ..."""
    first, *details = coefficients
    return [np.asarray(part) for part in (first, *(part for level in details for part in level))]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Model:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


@pytest.mark.filterwarnings("ignore:Level value of")  # PyWavelets says that all is boundary there
@pytest.mark.parametrize("mode", ["symmetric", "periodization"])
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 32)])
def test_on_photographs_it_is_pywavelets(wavelet, mode, height, width):
    images = photographs(height, width)
    assert len(images) >= 20
    levels = 3
    double = flat(subbands(images.double(), wavelet, levels, mode))
    single = flat(subbands(images, wavelet, levels, mode))
    taps = pywt.Wavelet(wavelet).dec_len
    for i, image in enumerate(images.double().numpy()):
        for c, channel in enumerate(image):
            expected = flat(pywt.wavedec2(channel, wavelet, mode, levels))
            assert len(expected) == len(double) == 1 + 3 * levels
            for found, rounded, reference in zip(double, single, expected, strict=True):
                np.testing.assert_allclose(found[i, c], reference, atol=1e-9, rtol=0)
                # two sums over the filter's taps a level, in float32
                error = 2 * levels * taps * 2**-23 * max(np.abs(expected[0]).max(), 1)
                np.testing.assert_allclose(rounded[i, c], reference, atol=error, rtol=0)


@pytest.mark.parametrize("mode", pywt.Modes.modes)
def test_every_boundary_mode(mode):
    images = photographs(33, 20)[:2].double()
    for found, expected in zip(
        flat(subbands(images, "db3", 2, mode)),
        flat(pywt.wavedec2(images.numpy(), "db3", mode, 2, axes=(2, 3))),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Level value of")  # PyWavelets says that all is boundary there
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (7, 7)])
def test_sizes_are_those_of_pywavelets_however_small(size):
    images = noise(0, 2, 1, *size).double()
    for wavelet in ("haar", "db4"):
        for found, expected in zip(
            flat(subbands(images, wavelet, 2)),
            flat(pywt.wavedec2(images.numpy(), wavelet, level=2)),
            strict=True,
        ):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=1e-9)


def test_published_coefficients():
    golden = np.load(GOLDEN)
    seen = set()
    for name in {key.partition("/")[0] for key in golden.files}:
        image = torch.from_numpy(golden[f"{name}/image"]).double()
        image = image.permute(2, 0, 1)[None] if image.ndim == 3 else image[None, None]
        suffix = "_perchannel" if image.shape[1] == 3 else ""
        for what, found in zip(("cA", "cH", "cV", "cD"), flat(subbands(image)), strict=True):
            expected = golden[f"{name}/{what}{suffix}"]
            np.testing.assert_allclose(found[0] if suffix else found[0, 0], expected, atol=1e-9, rtol=0)
            seen.add(f"{name}/{what}{suffix}")
    assert seen == {key for key in golden.files if key.partition("/")[2].startswith(("cA", "cH", "cV", "cD"))}
    assert len(seen) == 32


@pytest.mark.parametrize(
    ("wavelet", "mode"), [("haar", "symmetric"), ("db2", "symmetric"), ("sym4", "periodization")]
)
def test_readings_are_mean_squares_of_pywavelets(wavelet, mode):
    images = photographs(45, 45)
    wavelets = measure("wavelet", wavelet=wavelet, levels=2, mode=mode)
    found = wavelets.read(images)
    approximation, *details = pywt.wavedec2(
        images.double().numpy(), wavelet, mode, wavelets.levels, axes=(2, 3)
    )
    sums = []
    for level, parts in enumerate(details[::-1], 1):
        for letter, part in zip("HVD", parts, strict=True):
            np.testing.assert_allclose(
                found[f"energy{level}{letter}"], (part**2).mean((1, 2, 3)), rtol=1e-4, atol=1e-9
            )
        sums.append(sum((part**2).sum((1, 2, 3)) for part in parts))
    np.testing.assert_allclose(found["approximation"], approximation.var((2, 3)).mean(1), rtol=1e-5)
    np.testing.assert_allclose(found["shares"], np.stack(sums, 1) / sum(sums)[:, None], rtol=1e-4)
    names = [f"energy{level}{letter}" for level in (1, 2) for letter in "HVD"]
    np.testing.assert_allclose(
        found["profile"], np.log10(np.maximum(np.stack([found[name] for name in names], 1), 1e-8)), atol=1e-5
    )


def test_haar_of_even_sizes_keeps_all_energy():
    images = photographs(64, 48)
    found = measure("wavelet", levels=3).read(images)
    each = [3 * (64 >> level) * (48 >> level) for level in (1, 2, 3)]
    details = sum(
        found[f"energy{level}{letter}"].astype(float) * size
        for level, size in enumerate(each, 1)
        for letter in "HVD"
    )
    coarse = found["approximation"].astype(float) * each[2]
    mean = images.double().mean((2, 3)).square().sum(1).numpy() * 64 * 48
    np.testing.assert_allclose(details + coarse + mean, images.double().square().sum((1, 2, 3)), rtol=1e-5)


def test_white_noise_has_its_variance_in_every_sub_band():
    items, sigma = 300, 0.3
    found = measure("wavelet", levels=3).read(sigma * noise(1, items, 1, 32, 32))
    for level in (1, 2, 3):
        for letter in "HVD":
            independent = items * (32 >> level) ** 2
            mean = found[f"energy{level}{letter}"].astype(float).mean()
            assert abs(mean - sigma**2) < 4 * sigma**2 * np.sqrt(2 / independent)


def test_orientations():
    rows = torch.tensor([1.0, -1.0]).repeat(8)
    down, right = rows[:, None].expand(1, 1, 16, 16), rows.expand(1, 1, 16, 16)
    for image, letter in ((down, "H"), (right, "V"), (down * right, "D")):
        found = measure("wavelet", levels=2).read(image)
        for other in "HVD":
            assert found[f"energy1{other}"][0] == pytest.approx(4.0 * (other == letter), abs=1e-6)
        np.testing.assert_allclose(found["shares"], [[1, 0]], atol=1e-6)


def test_nothing_in_a_grey_picture():
    found = measure("wavelet", levels=2).read(torch.full((2, 3, 16, 16), 0.7))
    for name, values in found.items():
        if name == "shares":
            assert np.isnan(values).all()
        elif name == "profile":
            np.testing.assert_allclose(values, -8)
        else:
            np.testing.assert_allclose(values, 0, atol=1e-10)
    absent = {
        reading.name: reading.absent for reading in measure("wavelet").readings if reading.kind == "scalar"
    }
    assert set(absent.values()) == {0.0}


def test_levels_suit_the_model():
    assert measure("wavelet").levels == 3
    assert measure("wavelet", model=Model(1, 28, 28)).levels == 3
    assert measure("wavelet", model=Model(1, 4, 64)).levels == 2
    assert measure("wavelet?wavelet=db4", model=Model(1, 8, 8)).levels == 1
    names = [reading.name for reading in measure("wavelet?levels=1").readings]
    assert names == ["energy1H", "energy1V", "energy1D", "approximation", "shares", "profile"]
    assert names == list(measure("wavelet?levels=1").read(noise(0, 1, 1, 8, 8)))
    asked = measure("wavelet?wavelet=db2&levels=2&mode=periodization")
    assert asked.settings() == {"wavelet": "db2", "levels": 2, "mode": "periodization"}
    assert not asked.by_default


def test_bad_input(refuses):
    with refuses(r"wavelet is 'harr'; accepted: a discrete wavelet of PyWavelets, such as haar"):
        measure("wavelet?wavelet=harr")
    with refuses(r"wavelet is 3; accepted: .* such as haar, db2"):
        subbands(torch.zeros(1, 1, 8, 8), 3)
    with refuses(r"wavelet is 'morl'"):
        measure("wavelet", wavelet="morl")
    with refuses(r"mode is 'mirror'; accepted: zero, constant, symmetric, "):
        measure("wavelet", mode="mirror")
    for levels in (0, -1, 2.5, True):
        with refuses(rf"levels is {levels}; accepted: a positive integer"):
            measure("wavelet", levels=levels)
        with refuses(rf"levels is {levels}; accepted: a positive integer"):
            subbands(torch.zeros(1, 1, 8, 8), levels=levels)
    sentence = r"levels is 3, but beyond level 1 all coefficients of db2 in images of 8 x 8 pixels .* accepted: 1 to 1"
    with refuses(sentence):
        measure("wavelet?wavelet=db2&levels=3", model=Model(1, 8, 8))
    with refuses(sentence):
        measure("wavelet?wavelet=db2&levels=3").read(torch.zeros(1, 1, 8, 8))
    with refuses(r"measure is 'wavelet', but the batch has shape \(2, 9\)"):
        measure("wavelet").read(torch.zeros(2, 9))
    with refuses(r"measure is 'wavelet', but the batch has shape \(2, 9\)"):
        subbands(torch.zeros(2, 9).double())
