"""The measure ``layers``: the published numbers, the definition written out, and a run from end to end."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import turningpoint as tp
from turningpoint.measures import measure
from turningpoint.measures._classifiers import ImageClassifier, image_classifier
from turningpoint.measures._layer_statistics import LayerStatistics
from turningpoint.measures._moments import EPSILON, moments_of
from turningpoint.measures.layers import Layers, change

GOLDEN = Path(__file__).parent / "golden" / "forward-backward-classifier"


class Tokens(nn.Module):
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(c), nn.Linear(c, d)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.fc(self.norm(x.flatten(2).transpose(1, 2))))


class Tiny(nn.Module):
    """The network of the golden files: two convolutions, tokens, a head."""

    def __init__(self, channels: int = 3, c1: int = 8, c2: int = 16, d: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, c1, 3, padding=1)
        self.conv2 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.tok = Tokens(c2, d)
        self.classifier = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.conv1(x))
        x = nn.functional.relu(self.conv2(x))
        return self.classifier(self.tok(x).mean(1))


NAMES = ["conv1", "conv2", "tok", "classifier"]


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    return Tiny(1, 3, 4, 5, 6).eval()


def images(n: int, seed: int = 0, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def layers(network, *, x=None, **settings):
    made = Layers(classifier=network, **{"layers": NAMES, "shape": (1, 8, 8)} | settings)
    if x is not None:
        made.study(lambda: iter(x.split(3)))
    return made


# ---- against the published scripts


@pytest.fixture(scope="module")
def golden():
    net = Tiny()
    net.load_state_dict(torch.load(GOLDEN / "tiny_classifier.pt", weights_only=True))
    folders = [GOLDEN / "images" / name for name in ("start", "t_12_25_images")]
    start, sample = (torch.stack([_picture(file) for file in sorted(folder.iterdir())]) for folder in folders)
    with np.load(GOLDEN / "classifier_expected.npz") as file:
        return image_classifier(net, levels="truncated"), start, sample, dict(file)


def _picture(file: Path) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1


def test_published_statistics(golden):
    classifier, start, _, expected = golden
    known = Layers(classifier=classifier, layers=NAMES, shape=start.shape[1:])
    found = moments_of(classifier, known.layers, iter(start.split(5)), 5)
    for k, name in enumerate(NAMES):
        mean, second = found.mean(name), found.second_moment(name)
        values = int(found.counts[k])
        if name == "classifier":
            mean, second, values = mean.mean(), second.mean(), values * 10
        for ours, key in ((mean, "mean"), (second, "second_moment")):
            theirs = expected[f"stat/{name}/{key}"].ravel()
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
        assert values == expected[f"stat/{name}/size"]


def test_published_similarities(golden):
    classifier, start, sample, expected = golden
    one = measure(
        "layers", classifier=classifier, layers=NAMES, whiten="second-moment", batch=5, shape=start.shape[1:]
    )
    one.study(lambda: iter(start.split(5)))
    found = one.compare(start, sample)
    for name in NAMES:
        for ours, theirs in (("l2", "L2"), ("l2_normalised", "L2_normalized"), ("cosine", "cosine")):
            values = expected[f"diff/{name}/{theirs}"]
            np.testing.assert_allclose(found[f"{name}.{ours}"], values, rtol=1e-4, atol=1e-4)


def test_where_the_mean_is_far_from_zero_only_the_standard_deviation_whitens():
    # Layer a_c = x_c + shift_c of two independent channels of variance 1/3: whitened, each has variance 1, so that
    # strangers are 2 x 2 apart on average and 2 x (2 / 101) if the second one is divided by its root second moment.
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)[..., None, None])
        net[0].bias.copy_(torch.tensor([0.0, 10 / 3**0.5]))
    n = 4000
    x = images(n, channels=2, size=1)

    def apart(whiten):
        one = layers(net, x=x, layers="0", shape=(2, 1, 1), whiten=whiten, batch=n)
        return one.compare(x[: n // 2], x[n // 2 :])["0.l2"].astype(float)

    # of a uniform variable of variance 1, (x - y)^2 has variance 7.6; 4 standard errors of the sum of two
    error = 4 * np.sqrt(2 * 7.6 / (n // 2))
    assert abs(apart("variance").mean() - 4) < error
    assert abs(apart("second-moment").mean() - (2 + 2 / 101)) < error
    assert error < 1


# ---- against the definition


def whitened_by_hand(net, x, data):
    """Every layer's activations (n, values) in float64, whitened by those of the data."""
    with torch.inference_mode():
        found = []
        for batch in (x, data):
            a1 = net.conv1(batch)
            a2 = net.conv2(a1.relu())
            a3 = net.tok(a2.relu())
            found.append([a.double() for a in (a1, a2, a3, net.classifier(a3.mean(1)))])
    for name, a, known in zip(NAMES, *found, strict=True):
        axes = {4: (0, 2, 3), 3: (0, 1), 2: (0,)}[a.ndim]
        variance, mean = torch.var_mean(known, axes, correction=0, keepdim=True)
        yield name, (a - mean) / (variance + EPSILON).sqrt()


def test_similarities_are_those_of_the_definition(tiny):
    data, a, b = images(11, 1), images(5, 2), images(5, 3)
    found = layers(tiny, x=data, maps=4).compare(a, b)
    pairs = zip(whitened_by_hand(tiny, a, data), whitened_by_hand(tiny, b, data), strict=True)
    for (name, u), (_, v) in pairs:
        apart = (u - v).square()
        if name != "classifier":
            # 8 x 8 by cells of 2 x 2; 4 x 4 positions, and 16 tokens on a square, as they are
            squares = apart.sum(2).reshape(5, 4, 4) if u.ndim == 3 else apart.sum(1)
            cell = squares.shape[1] // 4
            places = squares.unfold(1, cell, cell).unfold(2, cell, cell).mean((3, 4)).flatten(1)
            # float32: rounding of 1.2e-7 of activations that whitening can magnify some ten times
            np.testing.assert_allclose(found[f"{name}.change"], places, rtol=1e-4, atol=1e-5)
        norms = u.flatten(1).norm(dim=1) * v.flatten(1).norm(dim=1)
        dot, l2 = (u * v).flatten(1).sum(1), apart.flatten(1).sum(1)
        np.testing.assert_allclose(found[f"{name}.cosine"], dot / norms, atol=1e-5)
        np.testing.assert_allclose(found[f"{name}.l2"], l2, rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}.l2_normalised"], l2 / norms, rtol=1e-5)
    assert "classifier.change" not in found


def test_an_image_is_as_like_itself_as_can_be(tiny):
    x = images(4)
    one = layers(tiny, x=x)
    found = one.compare(x, x.clone())
    for reading in one.readings:
        assert (found[reading.name] == reading.largest).all()


@pytest.mark.parametrize(
    ("form", "shape", "maps", "cells"),
    [
        ("map", (2, 3, 14, 14), 8, 49),
        ("map", (2, 3, 7, 5), 8, 35),
        ("map", (2, 3, 9, 5), 4, 9),
        ("tokens", (2, 49, 3), 4, 16),
        ("tokens", (2, 50, 3), 4, 13),
        ("tokens", (2, 50, 3), 8, 50),
    ],
)
def test_cells_do_not_overlap_and_none_is_left_out(form, shape, maps, cells):
    found = change(torch.ones(shape), form, maps)
    assert found.shape == (2, cells)
    torch.testing.assert_close(found, torch.full((2, cells), 3.0))
    # each position moves one cell
    flat = torch.eye(shape[-1] * shape[-2] if form == "map" else shape[1])
    alone = flat.reshape(-1, 1, *shape[2:]) if form == "map" else flat[..., None]
    assert ((change(alone, form, maps) > 0).sum(1) == 1).all()


# ---- streaming


class Counting(nn.Module):
    """Counts the images that went through, and lets nobody see a tensor twice."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows, self.calls = network, 0, 0

    def forward(self, x):
        self.rows += len(x)
        self.calls += 1
        return self.network(x)

    def __deepcopy__(self, memo):
        return self


def counting(tiny):
    net = Counting(tiny)
    return net, layers(net, whiten="none", layers=[f"network.{name}" for name in NAMES], batch=12)


def test_every_image_goes_through_once_for_all_that_it_is_compared_with(tiny):
    net, one = counting(tiny)
    x, own, strangers = images(7), images(7, 1), [images(7, seed) for seed in (2, 3)]
    expected = [one.compare(start, x) for start in (own, *strangers)]
    net.rows = net.calls = 0
    found = one.compare_with([own, *strangers], x)
    assert net.rows == 7 * 4
    assert net.calls == 3  # three images and their nine starts fill a batch of twelve
    for k, values in enumerate(expected):
        for name, array in found[k].items():
            # another batch: float32 sums in another order
            np.testing.assert_allclose(array, values[name], rtol=1e-4, atol=1e-5)
    assert [name for name in expected[0] if name not in found[1]] == [
        f"network.{name}.change" for name in NAMES[:3]
    ]


def test_starts_that_are_equal_go_through_once(tiny):
    net, one = counting(tiny)
    x, own = images(6), images(6, 1)
    net.rows = net.calls = 0
    one.compare_with([own, own.roll(1, 0), own.roll(2, 0)], x)
    assert (net.rows, net.calls) == (12, 1)


def test_one_image_with_more_starts_than_a_batch_has_rows(tiny):
    net, one = counting(tiny)
    starts = [images(2, seed) for seed in range(1, 15)]
    net.rows = net.calls = 0
    found = one.compare_with(starts, images(2))
    assert (net.rows, net.calls) == (30, 2)
    assert len(found) == 14


def test_no_activation_outlives_its_batch(tiny, monkeypatch):
    from turningpoint.measures import layers as module

    seen: list[weakref.ref] = []
    alive: list[int] = []
    whitened = module.whitened

    def watched(activations, *rest):
        alive.append(sum(ref() is not None for ref in seen))
        found = whitened(activations, *rest)
        seen.extend([weakref.ref(activations), weakref.ref(found)])
        return found

    monkeypatch.setattr(module, "whitened", watched)
    one = layers(tiny, x=images(9), batch=2)
    one.compare_with([images(5, 1), images(5, 2)], images(5))
    gc.collect()
    assert len(seen) == 2 * len(NAMES) * 5
    assert not any(ref() is not None for ref in seen)
    # while one layer is looked at, at most the layer before is there, which the network works on
    assert max(alive) <= 1


# ---- settings


def test_readings_come_in_the_order_of_execution(tiny):
    one = layers(tiny, layers=["classifier", "tok", "conv*"])
    assert [reading.name for reading in one.readings if reading.name.endswith("cosine")] == [
        f"{name}.cosine" for name in NAMES
    ]
    kinds = {reading.name: (reading.kind, reading.largest) for reading in one.readings}
    assert kinds["conv1.cosine"] == ("comparison", 1.0)
    assert kinds["conv1.l2"] == kinds["conv1.l2_normalised"] == ("comparison", 0.0)
    assert kinds["conv1.change"][0] == "map"
    assert "classifier.change" not in kinds
    assert not any(reading.kind == "map" for reading in layers(tiny, maps=0).readings)
    assert one.read(images(2)) == {}
    assert not one.by_default


def test_settings_tell_what_the_readings_depend_on(tiny):
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.conv1.bias += 1
    made = [
        layers(tiny),
        layers(tiny, batch=3),
        layers(other),
        layers(tiny, maps=2),
        layers(tiny, whiten="none"),
    ]
    told = [one.settings() for one in made]
    assert told[0] == told[1]
    assert all(one != told[0] for one in told[2:])


def test_statistics_of_a_file(tiny, tmp_path, refuses):
    data, x, y = images(11, 1), images(4), images(4, 5)
    own = layers(tiny, x=data)
    moments = moments_of(own.classifier, own.layers, iter([data]), 4)
    known = LayerStatistics(moments, own.classifier.settings(), {"count": 11, "digest": "0"}, [(0, 11)])
    path = tmp_path / "stats.zarr"
    known.save(path)
    given = layers(tiny, statistics=path, layers=None)
    given.study(lambda: iter([x]))
    for name, values in own.compare(x, y).items():
        # the moments of calls of another shape differ by float32 rounding
        np.testing.assert_allclose(given.compare(x, y)[name], values, rtol=1e-4, atol=1e-5)
    assert [layer.name for layer in given.layers] == NAMES
    assert given.settings()["statistics"] == moments.digest(NAMES)
    some = layers(tiny, statistics=path, layers="tok")
    assert some.settings()["layers"] == ["tok"]
    assert some.settings()["statistics"] != moments.digest(NAMES)
    with refuses("holds no 'logits'"):
        layers(tiny, statistics=path, layers="tok,logits")
    with refuses("holds no 'tok.norm' of this form; accepted: layers among conv1, conv2, tok, classifier"):
        layers(tiny, statistics=str(path), layers="tok.*")
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.conv1.bias += 1
    with refuses("statistics is '.*stats.zarr', where the classifier is 'Tiny' with weights"):
        layers(other, statistics=path)
    with refuses("statistics is 'nowhere', where no statistics are"):
        layers(tiny, statistics="nowhere")
    empty = LayerStatistics(
        moments_of(own.classifier, own.layers, iter([]), 4), own.classifier.settings(), {}
    )
    with refuses("statistics are given, over no images"):
        layers(tiny, statistics=empty)


def test_wrong_settings(tiny, refuses):
    with refuses("whiten is 'std'; accepted: variance, second-moment, none"):
        layers(tiny, whiten="std")
    with refuses("maps is -1; accepted: an integer from 0"):
        layers(tiny, maps=-1)
    with refuses("batch is 0; accepted: an integer from 1"):
        layers(tiny, batch=0)
    with refuses("layers is 'conv9', which no layer of the network is called; .*conv2"):
        layers(tiny, layers="conv9")
    with refuses("which has no layers to look at"):
        layers(ImageClassifier("graph", lambda x: x.flatten(1), lambda x: x))
    with refuses("measure is 'layers', but the batch has shape"):
        layers(tiny, shape=(7,))
    with refuses("measure is 'layers', but the batch has shape"):
        layers(tiny, x=images(2)).compare(images(2), torch.zeros(2, 64))
    with refuses("whiten is 'variance', but it has no statistics"):
        layers(tiny).compare(images(2), images(2))


def test_without_a_classifier_of_its_own_convnext_is_asked_for(refuses, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with refuses("torchvision:convnext_base"):
        measure("layers", tp.load("gaussians?dim=4"))


# ---- end to end


def test_a_run_of_digits_is_read_layer_by_layer():
    run = tp.uturn("digits", items=12, times=[0.2, 0.5, 0.9], steps=6, replicates=2, progress=None)
    run.measure("class", "layers", progress=None)
    table = run.curves([f for f in run.features() if f.endswith("cosine")])
    similar = table.pivot_table(index="feature", columns="logsnr", values="kept", sort=False)
    assert len(similar) == 5
    assert similar.notna().all(axis=None)
    similar = similar.sort_index(axis=1)
    assert (similar.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)  # the less noise, the more alike
    assert (run.retention("layers.head.2.l2").retention.values <= 1).all()
    change = run.reading("layers.features.2.change")["back"]
    assert change.shape == (12, 2, 3, 49)
    assert bool((change >= 0).all())
    assert "layers.features.2.change" not in run.windows().feature.tolist()


def test_a_run_is_read_once_and_anew_with_other_settings(monkeypatch):
    run = tp.uturn("digits", items=4, times=[0.3, 0.7], steps=3, progress=None)
    looked: list[int] = []
    call = ImageClassifier.__call__

    def counted(self, prepared):
        looked.append(len(prepared))
        return call(self, prepared)

    monkeypatch.setattr(ImageClassifier, "__call__", counted)
    run.measure("layers?layers=features.5&maps=0", progress=None)
    assert run.features() == [f"layers.features.5.{kind}" for kind in ("cosine", "l2", "l2_normalised")] + [
        f"layers.logits.{kind}" for kind in ("cosine", "l2", "l2_normalised")
    ]
    looked.clear()
    run.measure("layers?layers=features.5&maps=0", progress=None)
    assert looked == [2]  # to find the layers
    run.measure("layers?layers=features.5&maps=0&whiten=none", progress=None)
    assert sum(looked) > 8
