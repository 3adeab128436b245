"""Every exact model goes through every sampler and experiment, from its name alone."""

import numpy as np
import pytest
import torch

import turningpoint as tp

MODELS = [
    "deltas?a=1",
    "gaussians?dim=3&distance=2&std=0.5",
    "gaussians?dim=3&distance=2&std=0.5&schedule='flow'",
    "molrg?n=12&classes=2&dim=2",
    "field?size=8",
    "grammar?v=4&m=2&s=2&L=2",
]


def _times(model):
    return [float(model.schedule.t(logsnr=level)) for level in (1.0, -2.0)]


@pytest.mark.parametrize("name", MODELS)
def test_u_turns_clones_generation_and_theory(name):
    model = tp.load(name)
    feature = "class" if model.n_classes else "pixels"
    for sampler in ("ddpm", "ddim", "euler", "heun"):
        run = tp.uturn(name, items=4, times=_times(model), sampler=sampler, steps=6, progress=None)
        assert np.isfinite(run.measure(feature).windows().start).size == 1
        assert np.isfinite(run.images.values).all()
    clones = tp.clone(name, 3, times=_times(model), steps=6, progress=None).measure(feature)
    assert np.isfinite(clones.images.values).all()
    made = tp.generate(name, 3, sampler="heun", steps=6, progress=None)
    assert made.images.shape == (3, *model.shape)


@pytest.mark.parametrize("name", [m for m in MODELS if not m.startswith("field")])
def test_labels_are_obeyed(name):
    model = tp.load(name)
    made = tp.generate(name, 8, sampler="ddpm", steps=40, label=[0, 1] * 4, progress=None)
    seen = model.classifier()(torch.from_numpy(made.images.values))
    assert (seen.argmax(1).numpy() == [0, 1] * 4).mean() >= 0.75


def test_a_data_set_on_disk_is_a_model(tmp_path):
    images, labels = tp.load("digits").starting_images()
    file = tmp_path / "digits.npz"
    np.savez(file, images=((images.numpy() + 1) * 127.5).round().astype(np.uint8), labels=labels.numpy())
    name = f"empirical:{file}"
    run = tp.uturn(name, items=4, times=[0.2, 0.9], steps=10, progress=None).measure("class", "pixels")
    assert run.reading("class").back.values[:, 0, 0].tolist() == labels[:4].tolist()
    # what comes back is one of the images, whatever the noise
    back = run.images.values.reshape(-1, 784)
    apart = np.abs(back[:, None] - images.numpy().reshape(1, -1, 784)).max(2).min(1)
    assert apart.max() < 0.02
