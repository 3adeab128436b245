"""Schedulers' configurations: tables of betas, spacings, overrides, against diffusers' own schedulers."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tiny_pipelines import STABLE, tiny_sd, tiny_unet

import turningpoint as tp
from turningpoint.models._pipelines.noise_tables import SCHEDULERS, NoiseTable, scheduler_config


def table_of(name="DDPMScheduler", described=None, **given):
    return NoiseTable(scheduler_config(name, described or {}, given))


@pytest.mark.parametrize("family", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_tables(family, rescaled):
    settings = {
        "beta_schedule": family,
        "rescale_betas_zero_snr": rescaled,
        "prediction_type": "v_prediction",
    }
    want = DDPMScheduler(**settings).alphas_cumprod
    clock = table_of(**settings).schedule
    got = clock.alphas_cumprod
    assert torch.allclose(got.float(), want, rtol=2e-6, atol=0)
    assert (float(got[-1]) == 0) == rescaled
    assert np.array_equal(clock.native(clock.t(native=np.arange(1000.0))), np.arange(1000))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler(name):
    """Each class's own defaults, and the table that it makes of them."""
    own = getattr(diffusers, name)()
    got = table_of(name).schedule.alphas_cumprod.float()
    assert torch.allclose(got, own.alphas_cumprod, rtol=2e-6, atol=0)


def test_trained_betas():
    betas = np.linspace(0.01, 0.3, 7)
    for given in (betas, betas.tolist()):
        clock = table_of(trained_betas=given).schedule
        assert clock.steps == 7
        assert np.allclose(clock.alphas_cumprod, np.cumprod(1 - betas), rtol=2e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("offset", [0, 1])
def test_spacings(spacing, offset):
    settings = {"timestep_spacing": spacing, "steps_offset": offset}
    table, own = table_of("DDIMScheduler", **settings), DDIMScheduler(**settings)
    for n in (1, 2, 3, 7, 8, 10, 25, 30, 50, 64, 100, 250, 333, 999):
        own.set_timesteps(n)
        native = table.schedule.native(table.grid("ddim", n).times(table.schedule)).numpy()
        assert native[-1] == -1
        assert np.array_equal(native[:-1], own.timesteps.numpy())


def test_ends_and_numbers():
    table = table_of("DDIMScheduler", set_alpha_to_one=False, steps_offset=1)
    times = table.grid("ddim", 4).times(table.schedule)
    assert table.schedule.native(times).tolist() == [751, 501, 251, 1, 0]
    assert table.schedule.native(table.grid("ddpm", 4).times(table.schedule)).tolist() == [
        751,
        501,
        251,
        1,
        -1,
    ]
    assert table.grid("ddim", None).steps == 50
    assert table.grid("ddpm", None, 1000).steps == 1000
    assert table.grid("heun", 5) is None
    euler = table_of("EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1)
    assert euler.grid("euler", 4).kind == "leading"
    assert table_of("EulerDiscreteScheduler", use_karras_sigmas=True).grid("euler", 4) is None


def test_variances():
    assert table_of().variance == "small"
    assert table_of(variance_type="fixed_large").variance == "large"
    assert table_of("DPMSolverMultistepScheduler").variance == "small"


def test_values_as_text():
    table = table_of(
        rescale_betas_zero_snr="true", prediction_type="v_prediction", beta_end="0.01", steps_offset="1"
    )
    assert float(table.schedule.alphas_cumprod[-1]) == 0
    assert table.config["beta_end"] == 0.01
    assert table.config["steps_offset"] == 1


class TestOverrides:
    @pytest.fixture
    def name(self, tmp_path):
        tiny_unet(tmp_path / "p")
        return f"diffusers:{tmp_path / 'p'}"

    def test_by_name(self, name):
        model = tp.load(
            f"{name}?beta_schedule=scaled_linear&beta_start=0.00085&beta_end=0.012&timestep_spacing=trailing"
        )
        want = DDPMScheduler(**STABLE).alphas_cumprod
        assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=2e-6)
        assert model.usual_grid("ddpm", 10).kind == "uniform"
        assert model.usual_grid("ddpm", None).steps == 1000

    def test_by_mapping_class_and_path(self, name, tmp_path):
        want = DDPMScheduler(**STABLE).alphas_cumprod
        model = tp.load(name, scheduler=STABLE)
        assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=2e-6)
        swapped = tp.load(name, scheduler="DDIMScheduler", set_alpha_to_one=False)
        assert swapped.about["scheduler"] == "DDIMScheduler"
        assert swapped.usual_grid("ddim", 5).end == "first step"
        DDIMScheduler(**STABLE, prediction_type="v_prediction").save_pretrained(tmp_path / "other")
        for path in (tmp_path / "other", tmp_path / "other" / "scheduler_config.json"):
            model = tp.load(name, scheduler=path, timestep_spacing="linspace")
            assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=2e-6)
            assert (model.predicts, model.usual_grid("ddim", 5).kind) == ("v", "linspace")
        text = json.dumps(STABLE)
        model = tp.load(name, scheduler=text)
        assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=2e-6)

    def test_ddpm_with_few_steps(self, tmp_path):
        tiny_unet(tmp_path, scheduler=DDPMScheduler(num_train_timesteps=20, beta_end=0.5, clip_sample=False))
        model = tp.load(f"diffusers:{tmp_path}")
        assert model.schedule.steps == 20
        assert tp.generate(model, 2, sampler="ddpm", progress=None).images.shape == (2, 3, 8, 8)

    def test_gradients_after_sampling(self, tmp_path):
        """Embeddings that were made while sampling can be used where gradients are wanted."""
        tiny_sd(tmp_path)
        model = tp.load(f"diffusers:{tmp_path}")
        tp.generate(model, 2, sampler="ddim", steps=2, prompt="a cat", progress=None)
        x_t = torch.zeros(2, 4, 8, 8, requires_grad=True)
        told = model.conditions([{"prompt": "a cat"}] * 2, torch.device("cpu"))
        model(x_t, torch.full((2,), 0.5), **told).sum().backward()
        assert x_t.grad.abs().max() > 0
