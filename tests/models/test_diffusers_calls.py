"""Pipelines of diffusers called by hand: prompts, labels and times as anyone would write them, or a sentence."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tiny_flow_pipelines import tiny_flux, tiny_sd3
from tiny_pipelines import tiny_dit, tiny_sd, tiny_sdxl, tiny_unet

import turningpoint as tp

SIZE = {"height": 16, "width": 24, "max_sequence_length": 20}
TEXT = {"sd": (tiny_sd, {}), "sdxl": (tiny_sdxl, {}), "sd3": (tiny_sd3, SIZE), "flux": (tiny_flux, SIZE)}
OTHERS = {
    "dit": (tiny_dit, {"labels": 5}),
    "unet": (tiny_unet, {}),
    "labelled": (tiny_unet, {"labels": 4}),
}
HERE = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each kind."""
    root = tmp_path_factory.mktemp("called")
    made = {}
    for kind, (make, settings) in TEXT.items():
        make(root / kind)
        made[kind] = tp.load(f"diffusers:{root / kind}", **settings)
    for kind, (make, settings) in OTHERS.items():
        make(root / kind, **settings)
        made[kind] = tp.load(f"diffusers:{root / kind}")
    return made


def noisy(model, n=2):
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [*TEXT, *OTHERS])
def test_what_identifies_it_is_json(models, kind):
    config = models[kind].fingerprint_config()
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("kind", TEXT)
class TestPrompts:
    def test_are_embedded_as_for_walks(self, models, kind):
        model, t = models[kind], torch.full((2,), 0.5, dtype=torch.float64)
        x = noisy(model)
        prompts = ["a cat", "the dog and a cat"]
        told = model.conditions([{"prompt": prompt} for prompt in prompts], HERE)
        assert torch.equal(model(x, 0.5, prompt=tuple(prompts)), model(x, t, **told))
        told = model.conditions([{"prompt": "a cat"}] * 2, HERE)
        assert torch.equal(model(x, torch.tensor(0.5).double(), prompt="a cat"), model(x, t, **told))
        assert torch.equal(model(x, t, prompt=None), model(x, t))
        assert torch.equal(model.estimate(x, t, label=None, prompt="a cat"), model(x, t, **told))

    def test_refused(self, models, kind, refuses):
        model = models[kind]
        x = noisy(model)
        for wrong in (3, ["a cat", 3], b"cat"):
            with refuses("prompt is .*; accepted: a text, or one for each item"):
                model(x, 0.5, prompt=wrong)
        with refuses("prompt has 1 texts; accepted: a text, or 2 of them"):
            model(x, 0.5, prompt=["a cat"])
        with refuses("negative_prompt is given in a call of the model itself; accepted: prompt"):
            model(x, 0.5, prompt="a cat", negative_prompt="bad")
        with refuses("style is given; accepted by the model .*: prompt, or all of what conditions"):
            model(x, 0.5, style="bad")
        with refuses("is of 1 items; accepted: 2, one for each of x_t"):
            model(x, 0.5, **model.conditions([{"prompt": "a cat"}], HERE))
        with refuses("label is given, but the model .* takes prompts"):
            model(x, 0.5, label=1)

    def test_too_long_give_one_sentence(self, models, kind, caplog, capfd):
        model = models[kind]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.conditions([{"prompt": "a cat " * 300}], HERE)
        assert caught
        for warning in caught:
            assert warning.category is UserWarning
            assert str(warning.message).endswith(".")
            assert len(str(warning.message)) < 300
        printed = capfd.readouterr()
        assert "indexing errors" not in caplog.text + printed.err + printed.out


class TestLabels:
    @pytest.mark.parametrize("kind", ["dit", "labelled"])
    def test_are_anything_that_holds_numbers(self, models, kind, refuses):
        model = models[kind]
        x, t = noisy(model), torch.full((2,), 0.5)
        want = model(x, t, torch.tensor([3, 1]))
        for told in ([3, 1], np.array([3, 1]), torch.eye(model.n_classes)[[3, 1]]):
            assert torch.equal(model(x, 0.5, label=told), want)
        assert torch.equal(model(x, t, label=2), model(x, t, torch.tensor([2, 2])))
        with refuses("label has shape .3,."):
            model(x, t, label=[0, 1, 2])
        with refuses(rf"label is \[0, {model.n_classes}\]; accepted: 0 to {model.n_classes - 1}"):
            model(x, t, label=[0, model.n_classes])

    def test_that_are_none(self, models, refuses):
        model = models["dit"]
        x = noisy(model)
        assert torch.equal(model(x, 0.5, label=torch.zeros(2, 5)), model(x, 0.5))
        with refuses("label is None, but the model .* is always told one"):
            models["labelled"](noisy(models["labelled"]), 0.5, label=torch.zeros(2, 4))
        with refuses("label is given, but the model .* takes no labels"):
            models["unet"](noisy(models["unet"]), 0.5, label=1)


@pytest.mark.parametrize("kind", [*TEXT, *OTHERS])
def test_calls_of_another_shape(models, kind, refuses):
    model = models[kind]
    x, told = noisy(model), {"label": 1} if models[kind].n_classes else {}
    with refuses("t has shape .3,.; accepted: a number, or one for each item, .2,."):
        model(x, torch.zeros(3), **told)
    for wrong in (x[:, :1], x[0], x[..., :4]):
        with refuses("x_t has shape .*; accepted by the model"):
            model(wrong, 0.5, **told)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"beta_start": 2}, "beta_start is 2.0; accepted: a number above 0, 1 at most"),
        ({"beta_end": 5}, "beta_end is 5.0; accepted"),
        ({"beta_start": -1}, "beta_start is -1.0; accepted"),
        ({"beta_start": 1, "beta_end": 0.5}, "beta_start, beta_end are 1.0, 0.5; accepted: betas between"),
        ({"trained_betas": [0.1, 2.0]}, r"trained_betas is \[0.1, 2.0\]; accepted: betas between 0 and 1"),
    ],
)
def test_betas_are_refused_by_name(models, refuses, settings, says):
    with refuses(says):
        tp.load(models["unet"].name, **settings)


def test_betas_that_no_table_heeds(models):
    model = tp.load(models["unet"].name, beta_start=2, beta_schedule="squaredcos_cap_v2")
    assert torch.equal(
        model.schedule.betas, tp.load(models["unet"].name, beta_schedule="squaredcos_cap_v2").schedule.betas
    )


def test_without_a_part_of_diffusers(models):
    """In a process of its own, where nothing of it is imported yet."""
    code = (
        "import sys, turningpoint as tp\n"
        "sys.modules['diffusers.models'] = None\n"
        f"try:\n    tp.load({models['unet'].name!r})\n"
        "except tp.TurningpointError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = (
        "it needs UNet2DModel of diffusers, which is not there whole, or too old: pip install -U diffusers."
    )
    assert done.stdout.strip().endswith(said)


def test_without_the_hub_or_diffusers(monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refuses("diffusers: needs the package huggingface_hub for 'no/such'; accepted: pip install"):
        tp.load("diffusers:no/such")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with refuses("diffusers: needs .* of the package diffusers, which is not there whole, or too old"):
        tp.load("diffusers:no/such")
