"""The built-in model: what ships, what it weighs, and that it knows its digits."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.models.digits import save_weights
from turningpoint.training.digits import Recipe, Stage, read_mnist, train

STAGES = (Stage(3, 1e-3, 0.2), Stage(2, 1e-3, 0.5, 0.3, 0.9))


def _folder():
    return Path(str(resources.files("turningpoint.models") / "weights" / "digits"))


def test_what_ships_is_light():
    weights = [file.stat().st_size for file in _folder().glob("*.safetensors")]
    assert len(weights) == 2
    assert sum(weights) <= 6_000_000


def test_starting_images_are_a_thousand_digits():
    x, labels = tp.load("digits").starting_images()
    assert x.shape == (1000, 1, 28, 28)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert np.bincount(labels).min() > 70


def test_classifier_knows_the_shipped_test_images():
    """At least 99 % on the 10,000 of MNIST (model card); of 1,000 of them at least 98.1 % (3 s.e. less)."""
    model = tp.load("digits")
    x, labels = model.starting_images()
    with torch.inference_mode():
        hits = (model.classifier()(x).argmax(1) == labels).float().mean()
    assert hits >= 0.99 - 3 * np.sqrt(0.99 * 0.01 / 1000)
    card = json.loads((_folder() / "training.json").read_text())
    assert card["classifier_accuracy"] >= 0.99


def test_samples_are_digits():
    """150 of each kind with the bands of the model card less 3 standard errors; 2,000 in make check-all."""
    found = tp.quality("digits", 150, steps=12, batch=75, progress=None)
    assert found["agreement"] >= 0.97 - 3 * np.sqrt(0.97 * 0.03 / 150)
    assert found["sure"] >= 0.90 - 3 * np.sqrt(0.9 * 0.1 / 150)


def test_denoising_error_falls_with_the_noise():
    model = tp.load("digits")
    x, labels = model.starting_images()
    x, labels = x[:64], labels[:64]
    clock = model.schedule
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for t in (0.05, 0.2, 0.4, 0.6, 0.9):
        time = torch.full((64,), t)
        x_t = clock.alpha(t).float() * x + clock.sigma(t).float() * z
        with torch.inference_mode():
            free, told = model(x_t, time), model(x_t, time, labels)
        errors.append(float((free - x).square().mean()))
        if t >= 0.6:
            assert float((told - x).square().mean()) < errors[-1]  # knowing the digit helps
    assert errors == sorted(errors)
    assert errors[-1] < float(x.var()) * 1.2  # at high noise: no worse than the mean image


@pytest.fixture
def tiny_mnist(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (300, 28, 28), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 300, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (1000, 28, 28), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 1000, dtype=np.uint8),
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    return tmp_path / "mnist.npz"


def test_training_makes_a_model_that_loads(tiny_mnist, tmp_path):
    recipe = Recipe(channels=(32, 32), layers=1, batch=4, stages=STAGES[:1], warmup=1, classifier_epochs=1)
    figures = train(tiny_mnist, tmp_path / "out", recipe, lambda *_: None)
    assert 0 <= figures["classifier_accuracy"] <= 1
    model = tp.load(f"digits?folder={tmp_path / 'out'}")
    x = torch.zeros(2, 1, 28, 28)
    assert torch.isfinite(model(x, torch.tensor([0.1, 0.9]), torch.tensor([3, -1]))).all()
    assert not list((tmp_path / "out").glob("*.pt"))


def test_interrupted_training_ends_with_the_same_weights(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("turningpoint.training.digits.SAVED_EVERY", 2)
    recipe = Recipe(channels=(32, 32), layers=1, batch=4, stages=STAGES, warmup=1, classifier_epochs=1)
    train(tiny_mnist, tmp_path / "whole", recipe, lambda *_: None)

    def stop(step, steps, figures):
        if steps == 5 and step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_mnist, tmp_path / "parts", recipe, stop)
    train(tiny_mnist, tmp_path / "parts", recipe, lambda *_: None)
    a, b = (tp.load(f"digits?folder={tmp_path / name}").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_bad_training_data_is_a_sentence(tmp_path, refuses):
    (tmp_path / "bad.npz").write_text("no")
    with refuses("data is"):
        read_mnist(tmp_path / "bad.npz")
    np.savez(tmp_path / "few.npz", train_images=np.zeros((1, 28, 28), np.uint8))
    with refuses("data is"):
        read_mnist(tmp_path / "few.npz")


def test_weights_travel_in_half_precision(tmp_path):
    layer = torch.nn.Linear(3, 3)
    save_weights(layer, tmp_path / "a.safetensors", {})
    assert (tmp_path / "a.safetensors").stat().st_size < 200
