"""The measure ``perceptual``: its definition in NumPy, distortions of photographs, and a stand-in for LPIPS."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from natural_images import natural_tensors
from plain_classifier import Net
from scipy.ndimage import gaussian_filter
from torch import nn

import turningpoint as tp
from turningpoint.measures import measure
from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures.perceptual import USUAL, unit

LAYERS = ["features.0", "features.1", "features.2", "features.3"]


def perceptual(classifier, **settings):
    return measure("perceptual", classifier=classifier, **{"shape": (3, 32, 32)} | settings)


def definition(net: Net, x: np.ndarray, y: np.ndarray) -> float:
    """The mean over layers of the mean over positions, one position after the other, in double precision."""
    a, b = (torch.from_numpy(one)[None].double() for one in (x, y))
    layers = []
    for layer in net.features:
        a, b = layer(a), layer(b)
        first, second = (one[0].detach().numpy() for one in (a, b))
        apart = []
        for place in np.ndindex(first.shape[1:]):
            u, v = first[:, *place], second[:, *place]
            u, v = (one / max(np.linalg.norm(one), 1e-300) for one in (u, v))
            apart.append(((u - v) ** 2).sum())
        layers.append(np.mean(apart))
    return float(np.mean(layers))


# ---- by the layers of a classifier


def test_photographs_by_the_definition():
    images = natural_tensors(32)
    other = images.roll(1, 0)
    found = perceptual(Net(), layers="features.*").compare(images, other)["distance"]
    net = Net().double()
    expected = [definition(net, x, y) for x, y in zip(images.numpy(), other.numpy(), strict=True)]
    assert len(expected) >= 20
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # float32, of differences of numbers near 1
    assert found.dtype == np.float32


@pytest.mark.parametrize("form", ["map", "tokens", "vector"])
def test_activations_of_length_one(form):
    a = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    a[0, :, 1, 2] = 0
    given = {"map": a, "tokens": a.flatten(2).mT, "vector": a[:, :, 0, 0]}[form]
    found = unit(given, form)
    expected = a.flatten(2) if form != "vector" else a[:, :, :1, 0]
    expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(found, expected.nan_to_num())


def test_the_usual_layers_are_those_with_positions():
    known = perceptual(Net()).settings()
    assert known["layers"] == ["features.1", "features.3"]
    assert known["network"] == "classifier"
    assert len(known["weights"]) == 16
    assert perceptual(Net(), layers="features.0,logits").settings()["layers"] == ["features.0", "logits"]
    assert perceptual(Net(), layers=["features.0", "head"]).settings()["layers"] == ["features.0", "head"]
    stack = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert perceptual(stack, shape=(1, 2, 2)).settings()["layers"] == ["2", "3"]  # it has no others


def test_equal_images_and_both_ways():
    images = natural_tensors(32)
    one = perceptual(Net())
    np.testing.assert_array_equal(one.compare(images, images.clone())["distance"], 0)
    there, back = (
        one.compare(*pair)["distance"] for pair in ((images, images.flip(0)), (images.flip(0), images))
    )
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert (there > 0).all()


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_several_starts_and_any_batch(batch):
    images = natural_tensors(32)[:12]
    starts = [images, images.roll(1, 0), -images]
    together = perceptual(Net(), batch=batch).compare_with(starts, images)
    for start, found in zip(starts, together, strict=True):
        expected = perceptual(Net()).compare(start, images)["distance"]
        np.testing.assert_allclose(found["distance"], expected, rtol=1e-5, atol=1e-7)


def test_an_image_is_looked_at_once():
    seen = []

    class Watched(Net):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    one = perceptual(Watched(), batch=4)
    seen.clear()
    images = natural_tensors(32)[:8]
    one.compare_with([images, images.flip(0), images.roll(1, 0)], images)
    assert len(seen) == 2
    assert sum(seen) <= 2 * 8  # 4 images and all others at most, of the 16 that are compared


@pytest.fixture(scope="module")
def usual():
    return measure("perceptual", classifier=image_classifier(USUAL), batch=8)


def test_photographs_grow_apart_with_noise_and_blur(usual):
    images = natural_tensors(64)[::5]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(images + level * noise).clamp(-1, 1) for level in (0.05, 0.2, 0.8)]
    blurred = [torch.from_numpy(gaussian_filter(images.numpy(), sigma, axes=(2, 3))) for sigma in (0.5, 1, 3)]
    found = np.stack([one["distance"] for one in usual.compare_with(noisy + blurred, images)])
    for distances in (found[:3], found[3:]):
        assert (distances[0] > 0).all()
        assert (np.diff(distances, axis=0) > 0).all()
        assert (distances < 4).all()


def test_a_step_aside_is_nearer_than_another_image(usual):
    images = natural_tensors(96)[::4]
    aside, others = images.roll(2, 3), images.roll(1, 0)
    found = [usual.compare(images, one)["distance"] for one in (aside, others)]
    assert (found[0] < found[1]).all()


def test_all_of_the_picture_counts(usual):
    images = natural_tensors(64)[:2]
    edge = images.clone()
    edge[:, :, 0] = 1
    assert (usual.compare(images, edge)["distance"] > 0).all()


def test_the_models_own_classifier():
    known = measure("perceptual", tp.load("digits")).settings()
    assert known["classifier"] == "reference"
    assert measure("perceptual", object(), shape=(1, 28, 28)).settings()["classifier"] == "efficientnet-lite0"


# ---- LPIPS, by a stand-in


class Standin(nn.Module):
    """Squared differences of two pictures, per net, and what it was given."""

    def __init__(self, net="alex", verbose=True):
        super().__init__()
        assert not verbose
        self.weight = nn.Parameter(torch.tensor({"alex": 1.0, "vgg": 2.0, "squeeze": 3.0}[net]))
        self.forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        self.given = []

    def forward(self, in0, in1):
        self.given.append((in0, in1))
        return self.weight * (in0 - in1).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def lpips(monkeypatch):
    module = ModuleType("lpips")
    module.LPIPS = Standin
    monkeypatch.setitem(sys.modules, "lpips", module)
    return module


@pytest.mark.parametrize(("net", "factor"), [("alex", 1), ("vgg", 2), ("squeeze", 3)])
def test_lpips_is_asked(lpips, net, factor):
    one = measure(f"perceptual?network=lpips&net={net}&batch=7", device="cpu")
    images = natural_tensors(96)
    found = one.compare(images, images.roll(1, 0))["distance"]
    expected = factor * (images - images.roll(1, 0)).square().mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32
    assert one.settings()["net"] == net
    assert one.settings()["network"] == "lpips"
    assert len({str(measure("perceptual", network="lpips", net=n).settings()) for n in ("alex", "vgg")}) == 2


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 8, 8), (64, 64)), ((3, 20, 30), (64, 96)), ((3, 64, 80), (64, 80)), ((1, 90, 70), (90, 70))],
)
def test_lpips_gets_color_of_some_size_within_bounds(lpips, shape, size):
    one = measure("perceptual?network=lpips")
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)) * 2
    one.compare_with([images.flip(0), -images], images)
    (in0, in1), *rest = one._apart.network.given
    assert not rest
    assert in0.shape == in1.shape == (10, 3, *size)
    assert in0.abs().max() <= 1
    if shape[0] == 1:
        assert torch.equal(in0[:, 0], in0[:, 2])


def test_lpips_unpickles_tensors_only(lpips, monkeypatch, tmp_path, refuses):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    assert measure("perceptual?network=lpips")._apart.network.forced == "1"
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    file = tmp_path / "program.pth"
    torch.save({"weight": print}, file)

    class Unpickling(Standin):
        def __init__(self, **settings):
            super().__init__(**settings)
            torch.load(file, weights_only=False)

    lpips.LPIPS = Unpickling
    with refuses("net is 'alex', whose weights cannot be loaded"):
        measure("perceptual?network=lpips")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_lpips_is_missing(monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with refuses("pip install lpips"):
        measure("perceptual?network=lpips")


# ---- the measure


def test_readings_are_as_declared():
    one = perceptual(Net())
    assert not one.by_default
    assert one.read(torch.zeros(2, 3, 32, 32)) == {}
    (reading,) = one.readings
    assert (one.feature(reading), reading.kind, reading.largest) == ("perceptual.distance", "comparison", 0)
    assert "uncalibrated" in reading.description


def test_a_run_is_read():
    run = tp.uturn("digits", items=4, times=[0.2, 0.6], steps=2, progress=None)
    run.measure("texture", "lab", "perceptual", progress=None)
    for feature in (
        "texture.style",
        "lab.distance",
        "lab.palette",
        "perceptual.distance",
        "texture.patterns",
    ):
        assert len(run.retention(feature).to_dataframe()) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "dists"}, "network is 'dists'; accepted: classifier, lpips"),
        ({"net": "resnet"}, "net is 'resnet'; accepted: alex, vgg, squeeze"),
        ({"batch": 0}, "batch is 0"),
        ({"layers": "feature.0"}, "features.0"),
        ({"shape": (12,)}, "shape"),
    ],
)
def test_settings_that_are_none(settings, said, refuses):
    with refuses(said):
        perceptual(Net(), **settings)


def test_no_pictures(lpips, refuses):
    with refuses("shape"):
        perceptual(Net()).compare(torch.zeros(2, 30), torch.zeros(2, 30))
    latents = torch.zeros(2, 4, 8, 8)
    with refuses("4 channels"):
        measure("perceptual?network=lpips").compare(latents, latents)
