"""Image classifiers by name, from one's own code and from the model; and the measure that reads them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from plain_classifier import RGB, Net, photograph
from published_classifier import network
from torch import nn

import turningpoint as tp
from turningpoint.measures import MEASURES, measure
from turningpoint.measures._classifiers import CLASSIFIERS, ImageClassifier, image_classifier
from turningpoint.measures._classifiers._layers import default_layers
from turningpoint.measures._classifiers._preprocessing import pixels
from turningpoint.models.digits import load as digits

# ---- the model's own, and one's own code


def test_the_reference_is_the_models_own_and_stays_where_it_is():
    model = digits()
    own = model.classifier()
    own.train()
    found = image_classifier(None, model, device="cpu")
    x = model.starting_images()[0][:6]
    assert found.name == "reference"
    assert found.module is not own
    assert own.training
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    with torch.no_grad():
        assert torch.equal(found(found.prepare(x)), own.eval()(x))
    assert found.layers == ("features.2", "features.5", "features.9", "features.12", "head.2")


def test_a_model_without_a_classifier_says_what_there_is(refuses):
    with refuses("offers none; accepted with it: efficientnet-lite0"):
        image_classifier("reference", SimpleNamespace(name="bare", classifier=lambda: None))
    with refuses("the model None offers none"):
        image_classifier("reference")


def test_a_network_takes_images_as_they_are():
    net = Net().train()
    found = image_classifier(net, device="cpu")
    assert torch.equal(found.prepare(RGB), RGB)
    with torch.no_grad():
        assert torch.equal(found(RGB), net.eval()(RGB))
    assert found.module is not net


def test_a_function_is_a_classifier_without_layers():
    found = image_classifier(lambda x: torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1))
    assert found.module is None
    assert found.layers == ()
    assert found(found.prepare(RGB)).shape == (5, 2)


def test_weights_and_preprocessing_tell_classifiers_apart():
    one, other = Net(), Net()
    with torch.no_grad():
        other.head.bias[0] += 1e-6
    settings = [image_classifier(net).settings() for net in (one, Net(), other)]
    assert settings[0] == settings[1] != settings[2]
    assert image_classifier(one, size=8).settings() != image_classifier(one).settings()
    assert (
        image_classifier(one, levels="truncated").settings()
        != image_classifier(one, levels="rounded").settings()
    )
    assert json.loads(json.dumps(settings[0])) == settings[0]


def test_an_image_classifier_is_taken_as_it_is(refuses):
    given = ImageClassifier("mine", lambda z: z, lambda x: x.mean((2, 3)), classes=("red", "green", "blue"))
    assert image_classifier(given) is given
    assert given(given.prepare(RGB)).shape == (5, 3)


MODULE = """
import torch
from torch import nn

def logits(images):
    return images.mean((2, 3))

def network(width=3):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width) if width > 9 else nn.Identity())

made = nn.Flatten()
wrong = 3

def fails():
    raise OSError("No disk. Sorry")
"""


@pytest.fixture
def own_module(tmp_path):
    file = tmp_path / "own_classifiers.py"
    file.write_text(MODULE)
    return f"python:{file}"


def test_python_functions_factories_and_networks(own_module):
    assert torch.equal(image_classifier(f"{own_module}:logits")(RGB), RGB.mean((2, 3)))
    assert image_classifier(f"{own_module}:network?width=4")(RGB).shape == (5, 3 * 40 * 48)
    assert image_classifier(f"{own_module}:made").module is not None
    assert image_classifier(f"{own_module}:logits?size=8&mean=0.5").prepare(RGB).shape == (5, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("logit", "accepted: logits"),
        ("wrong", "type int"),
        ("fails", "raised OSError: No disk; Sorry"),
        ("logits?width=3", "width is given"),
        ("network?depth=3", "accepted: width"),
    ],
)
def test_python_says_what_is_wrong(own_module, name, sentence, refuses):
    with refuses(sentence):
        image_classifier(f"{own_module}:{name}")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("efficientnet-lite1", "accepted: efficientnet-lite0, onnx, program"),
        ("efficientnet-lite0:b", "accepted: efficientnet-lite0\\."),
        ("reference:b", "accepted: reference\\."),
        ("efficientnet-lite0?size=9", "size is given to the classifier .*accepted there: crop, levels"),
        ("python:nothing", "accepted: python:module:factory"),
        (3, "of type int; accepted: a name"),
    ],
)
def test_names_that_are_none(what, sentence, refuses):
    with refuses(sentence):
        image_classifier(what)


def test_a_device_that_is_not_there(refuses):
    with refuses("device is 'cuda:99'"):
        image_classifier(Net(), device="cuda:99")


def test_a_network_that_cannot_take_the_images_says_so(refuses):
    with refuses("cannot take a batch of shape \\(5, 1, 40, 48\\)"):
        found = image_classifier(Net())
        found(found.prepare(RGB[:, :1]))
    with refuses("made \\(5, 3, 40, 48\\) of a batch .*accepted: logits \\(B, K\\)"):
        image_classifier(nn.Identity())(RGB)


# ---- layers to look at


def test_blocks_are_found_in_networks_of_every_house():
    class ConvNeXtBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(2, 2), nn.GELU())

    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.downsample = nn.Sequential(nn.Conv2d(1, 2, 2))
            self.blocks = nn.Sequential(ConvNeXtBlock(), ConvNeXtBlock())

    net = nn.ModuleDict(
        {"stem": nn.Conv2d(1, 2, 1), "stages": nn.Sequential(Stage(), Stage()), "fc": nn.Linear(2, 2)}
    )
    assert default_layers(net) == (*(f"stages.{s}.blocks.{b}" for s in (0, 1) for b in (0, 1)), "fc")
    assert default_layers(network()) == ("conv1", "conv2", "tok", "classifier")
    assert default_layers(nn.Linear(2, 2)) == default_layers(None) == ()


# ---- other packages


def test_another_package_offers_a_source(monkeypatch):
    made = []

    def source(request, level=1):
        made.append((request.where, level))
        return ImageClassifier("theirs", lambda z: z, lambda x: x.mean((2, 3)))

    CLASSIFIERS.names()
    monkeypatch.setitem(CLASSIFIERS._known, "theirs", source)
    assert image_classifier("theirs:a:b?level=7").name == "theirs"
    assert made == [("a:b", 7)]


# ---- the measure


def counting(calls):
    def classify(images):
        calls.append(len(images))
        return torch.cat([images.mean((2, 3)), -images.mean((2, 3))], 1)

    return classify


def test_the_measure_looks_at_every_image_once():
    calls = []
    one = measure("classifier", classifier=counting(calls), batch=2)
    found = one.read(RGB)
    one.compare_with([RGB, RGB.flip(0)], RGB)
    one.read(RGB[:3])
    assert calls == [2, 2, 1]
    means = RGB.mean((2, 3))
    np.testing.assert_allclose(found["logits"], torch.cat([means, -means], 1), atol=1e-6)
    np.testing.assert_array_equal(found["top1"], torch.cat([means, -means], 1).argmax(1))


def test_top5_counts_the_classes_that_are_ahead():
    def ranks(images):
        return images[:, 0, 0]

    rows = torch.arange(7.0)
    start = rows.roll(3).reshape(1, 1, 1, 7)  # its first class is 2
    back = torch.stack([rows.flip(0), rows, rows.roll(1)]).reshape(
        3, 1, 1, 7
    )  # class 2 is third, fifth, sixth
    one = measure("classifier", classifier=ranks)
    assert one.compare(start.expand(3, -1, -1, -1), back)["top5"].tolist() == [1.0, 1.0, 0.0]
    asked = one.compare_with([start.expand(3, -1, -1, -1), back], back)
    assert [row["top5"].tolist() for row in asked] == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]


def test_the_measure_is_asked_for_by_name_and_class_stays():
    assert not MEASURES["classifier"].by_default
    model = digits()
    x = model.starting_images()[0][:8]
    own, other = measure("class", model), measure("classifier?classifier=reference", model)
    np.testing.assert_array_equal(own.read(x)[""], other.read(x)["top1"])
    assert [reading.kind for reading in other.readings] == ["categorical", "comparison", "vector"]


def test_the_classes_of_efficientnet_name_the_readings():
    one = measure("classifier")
    assert one.readings[0].values[285] == "Egyptian cat"
    assert one.settings()["classifier"] == "efficientnet-lite0"


def test_a_run_is_read_by_a_classifier(tmp_path):
    run = tp.uturn("digits", items=4, times=[0.2, 0.9], steps=3, out=tmp_path / "run", progress=None)
    run.measure("class")
    run.measure("classifier", classifier="reference", progress=None)
    for feature in ("top1", "top5", "logits"):
        assert run.retention(f"classifier.{feature}").sizes["time"] == 2
    np.testing.assert_array_equal(
        run.store.read("readings/classifier/back.top1"), run.store.read("readings/class/back.")
    )
    assert run.store.attrs("readings/classifier")["settings"]["classifier"] == "reference"


def test_photographs_are_read_by_efficientnet(tmp_path):
    """U-turns of the exact denoiser over four photographs: close to data each comes back as what it is."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        Image.fromarray(pixels(photograph(name, 96))[0]).save(folder / f"{name}.png")
    run = tp.uturn(
        f"empirical:{folder}", images=folder, times=[0.1, 1.0], steps=4, out=tmp_path / "run", progress=None
    )
    run.measure("classifier", progress=None)
    start = run.store.read("readings/classifier/start.top1")
    back = run.store.read("readings/classifier/back.top1")
    first = int(run.retention("classifier.top1")["t"].values.argmin())
    assert len(set(start.tolist())) == 4
    np.testing.assert_array_equal(back[:, 0, first], start)
