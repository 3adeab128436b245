"""Pipelines of diffusers in miniature: what they return and what diffusers' own pipelines return."""

import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)
from tiny_pipelines import STABLE, tiny_dit, tiny_sd, tiny_sdxl, tiny_unet

import turningpoint as tp
from turningpoint.models import fingerprint
from turningpoint.simulation.noise import Address, RecordedNoise

CHAIN = 2e-4
PROMPTS = ["a cat", "the dog"]


def error(got, want):
    """The largest difference, in root mean squares of what is expected."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.square(want).mean())


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ending(run):
    """Images as pipelines return them: in [0, 1], clipped."""
    return np.clip(np.asarray(run.images) / 2 + 0.5, 0, 1)


def drawn(z):
    """Recorded draws (n, B, *shape) for B walks from noise."""
    return RecordedNoise({Address(i, stream=1): z[:, i].numpy() for i in range(z.shape[1])})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def sd(folders):
    return tiny_sd(folders / "sd"), f"diffusers:{folders / 'sd'}"


@pytest.fixture(scope="module")
def sdxl(folders):
    return tiny_sdxl(folders / "sdxl"), f"diffusers:{folders / 'sdxl'}"


@pytest.fixture(scope="module")
def dit(folders):
    return tiny_dit(folders / "dit"), f"diffusers:{folders / 'dit'}"


class TestStableDiffusion:
    @pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
    def test_as_the_pipeline(self, tmp_path, prediction):
        pipeline = tiny_sd(tmp_path, prediction=prediction, zero_snr=prediction != "epsilon")
        z = normal(2, 4, 8, 8)
        settings = {"num_inference_steps": 5, "guidance_scale": 7.5, "negative_prompt": ["bad"] * 2}
        want = pipeline(PROMPTS, latents=z, output_type="latent", **settings).images
        given = {
            "noise": z,
            "sampler": "ddim",
            "steps": 5,
            "prompt": PROMPTS,
            "guidance": 7.5,
            "progress": None,
        }
        run = tp.generate(f"diffusers:{tmp_path}", negative_prompt="bad", **given)
        assert error(run.latents, want) < CHAIN
        loaded = tp.load(f"diffusers:{tmp_path}", negative_prompt="bad")
        assert error(tp.generate(loaded, **given).latents, want) < CHAIN
        want = pipeline(PROMPTS, latents=z, output_type="pt", **settings).images
        assert error(ending(run), want) < CHAIN

    def test_conditional_alone(self, sd):
        pipeline, name = sd
        z = normal(2, 4, 8, 8, seed=1)
        want = pipeline(
            PROMPTS, latents=z, output_type="latent", num_inference_steps=4, guidance_scale=1.0
        ).images
        run = tp.generate(name, noise=z, sampler="ddim", steps=4, prompt=PROMPTS, progress=None)
        assert error(run.latents, want) < CHAIN

    def test_nothing_told_is_the_empty_prompt(self, sd):
        model = tp.load(sd[1])
        x_t, t = normal(2, 4, 8, 8), torch.full((2,), 0.5)
        told = model.conditions([{"prompt": ""}] * 2, torch.device("cpu"))
        assert torch.equal(model(x_t, t), model(x_t, t, **told))

    def test_zero_signal_at_the_last_step_only(self, sd):
        clock = tp.load(sd[1]).schedule
        t = clock.t(native=[997.0, 998.0, 999.0])
        for times in (t, t.float()):
            assert (clock.alpha(times) > 0).tolist() == [True, True, False]
        assert torch.allclose(clock.alpha(t.float()).double(), clock.alpha(t), rtol=1e-5, atol=0)

    def test_prompts_are_encoded_once(self, sd):
        model = tp.load(sd[1])
        calls = []
        model.text_encoder.encoder.register_forward_hook(lambda *_: calls.append(1))
        conditions = [{"prompt": p} for p in (*PROMPTS, *PROMPTS)]
        first = model.conditions(conditions, torch.device("cpu"))
        again = model.conditions(conditions[1:], torch.device("cpu"))
        assert len(calls) == 2
        assert torch.equal(first["embedding"][1:], again["embedding"])
        assert torch.equal(first["embedding"][0], first["embedding"][2])

    def test_remembers_but_so_many(self, sd, monkeypatch):
        model = tp.load(sd[1])
        row = model.conditions([{"prompt": "a dog"}], torch.device("cpu"))["embedding"][0]
        monkeypatch.setattr(
            "turningpoint.models._pipelines.text_to_image.REMEMBERED", 3 * row.numel() * row.element_size()
        )
        for k in range(6):
            model.conditions([{"prompt": f"cat {k}"}], torch.device("cpu"))
        assert list(model._embeddings) == ["cat 3", "cat 4", "cat 5"]

    def test_long_prompts_are_cut_with_a_warning(self, sd):
        pipeline, name = sd
        model, long = tp.load(name), "a cat " * 12
        with pytest.warns(UserWarning, match="cut off: 'a cat a cat a cat'"):
            got = model.conditions([{"prompt": long}], torch.device("cpu"))["embedding"]
        want = pipeline.encode_prompt(long, "cpu", 1, False)[0]
        assert torch.equal(got, want)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.conditions([{"prompt": "a cat " * 6}], torch.device("cpu"))

    def test_refuses_what_is_no_text(self, sd, refuses):
        model = tp.load(sd[1])
        with refuses("prompt is 3; accepted: a text"):
            model.check_condition({"prompt": 3})
        with refuses("label is 3"):
            model.check_condition({"label": 3})

    def test_uturn_and_clone_run(self, sd):
        model = tp.load(sd[1])
        images = model.decode(normal(2, 4, 8, 8))
        given = {"steps": 4, "sampler": "ddpm", "prompt": PROMPTS, "guidance": 2.0, "progress": None}
        run = tp.uturn(model, images.clamp(-1, 1), times=[0.25, 0.5], **given)
        assert np.isfinite(np.asarray(run.images)).all()

    def test_other_schedulers_have_the_same_table(self, sd, tmp_path):
        pipeline = sd[0]
        table = {**STABLE, "prediction_type": "v_prediction"}
        pipeline = type(pipeline)(
            **{**pipeline.components, "scheduler": PNDMScheduler(**table, steps_offset=1)},
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(tmp_path)
        model = tp.load(f"diffusers:{tmp_path}")
        want = DDIMScheduler(**table).alphas_cumprod
        assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=1e-6)
        # set_alpha_to_one is False in a PNDM's configuration: DDIM made of it ends at the first step
        assert model.usual_grid("ddim", 10).end == "first step"
        assert model.usual_grid("ddpm", 10).end == "data"
        assert model.usual_grid("heun", 10) is None

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
    def test_euler(self, sd):
        pipeline, name = sd
        table = {
            **STABLE,
            "prediction_type": "v_prediction",
            "timestep_spacing": "leading",
            "steps_offset": 1,
        }
        euler = type(pipeline)(
            **{**pipeline.components, "scheduler": EulerDiscreteScheduler(**table)},
            requires_safety_checker=False,
        )
        euler.set_progress_bar_config(disable=True)
        z = normal(1, 4, 8, 8)
        want = euler(
            "a cat", latents=z, num_inference_steps=6, guidance_scale=3.0, output_type="latent"
        ).images
        model = tp.load(
            name,
            scheduler={"_class_name": "EulerDiscreteScheduler", **table, "rescale_betas_zero_snr": False},
        )
        run = tp.generate(
            model, noise=z, sampler="euler", steps=6, prompt="a cat", guidance=3.0, progress=None
        )
        assert error(run.latents, want) < CHAIN


class TestSDXL:
    @pytest.mark.parametrize("negative", [None, "", "bad"])
    def test_as_the_pipeline(self, sdxl, negative):
        pipeline, name = sdxl
        z = normal(2, 4, 8, 8)
        settings = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "latent"}
        want = pipeline(PROMPTS, negative_prompt=negative and [negative] * 2, latents=z, **settings).images
        if negative == "":  # an empty text is encoded, no text is zeros
            want = pipeline(PROMPTS, negative_prompt=[""] * 2, latents=z, **settings).images
        run = tp.generate(
            name,
            noise=z,
            sampler="ddim",
            steps=5,
            prompt=PROMPTS,
            negative_prompt=negative,
            guidance=5.0,
            progress=None,
        )
        assert error(run.latents, want) < CHAIN

    def test_other_size(self, sdxl):
        pipeline, name = sdxl
        z = normal(1, 4, 12, 4)
        want = pipeline(
            "a cat", latents=z, height=24, width=8, num_inference_steps=3, output_type="latent"
        ).images
        run = tp.generate(
            f"{name}?height=24&width=8",
            noise=z,
            sampler="ddim",
            steps=3,
            prompt="a cat",
            guidance=5.0,
            progress=None,
        )
        assert error(run.latents, want) < CHAIN
        assert run.images.shape == (1, 3, 24, 8)

    def test_latents_with_mean_and_std(self, tmp_path):
        tiny_sdxl(tmp_path, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[2.0, 1.0, 0.5, 3.0])
        model = tp.load(f"diffusers:{tmp_path}")
        images = normal(2, 3, 16, 16).clamp(-1, 1)
        mode = model.vae.encode(images).latent_dist.mode()
        mean = torch.tensor([0.1, -0.2, 0.3, 0.0]).reshape(4, 1, 1)
        std = torch.tensor([2.0, 1.0, 0.5, 3.0]).reshape(4, 1, 1)
        latents = model.encode(images)
        assert torch.allclose(latents, (mode - mean) / std * 0.13025, atol=1e-6)
        assert torch.allclose(model.decode(latents), model.vae.decode(mode).sample, atol=1e-5)


class TestDiT:
    def test_as_the_pipeline(self, dit):
        pipeline, name = dit
        z = normal(2, 4, 8, 8, seed=3)
        want = pipeline(
            [4, 7],
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(3),
            num_inference_steps=6,
            output_type="pt",
        ).images
        run = tp.generate(name, noise=z, sampler="ddim", steps=6, label=[4, 7], guidance=4.0, progress=None)
        assert error(ending(run), torch.as_tensor(want)) < CHAIN

    def test_learned_variance(self, dit):
        model = tp.load(dit[1])
        x_t, t, label = normal(2, 4, 8, 8), torch.full((2,), 0.4), torch.tensor([5, 6])
        x_0, v = model.with_variance(x_t, t, label=label)
        output = model.network(x_t, timestep=model.native(t), class_labels=label).sample
        assert torch.equal(v, output[:, 4:])
        assert torch.equal(x_0, model(x_t, t, label))
        null = model.network(x_t, timestep=model.native(t), class_labels=torch.tensor([1000, 6])).sample
        assert torch.equal(model.raw(x_t, t, torch.tensor([-1, 6])), null)
        assert model.usual_grid("ddpm", None).steps == 250

    def test_without_learned_variance(self, tmp_path):
        tiny_dit(tmp_path, labels=5, learned=False)
        model = tp.load(f"diffusers:{tmp_path}")
        assert (model.n_classes, model.learned_variance) == (5, False)
        assert model(normal(2, 4, 8, 8), torch.full((2,), 0.4)).shape == (2, 4, 8, 8)

    def test_refuses_other_sizes(self, dit, refuses):
        with refuses("latents of 16x16; accepted by this DiT: 8x8"):
            tp.load(f"{dit[1]}?height=32&width=32")


class TestPixels:
    @pytest.mark.parametrize(
        ("learned", "variance"), [(False, "fixed_small"), (False, "fixed_large"), (True, "learned_range")]
    )
    def test_ancestral_as_the_pipeline(self, tmp_path, learned, variance):
        scheduler = DDPMScheduler(clip_sample=False, variance_type=variance)
        pipeline = tiny_unet(tmp_path, learned=learned, size=(8, 12), scheduler=scheduler)
        generator = torch.Generator().manual_seed(3)
        want = pipeline(2, generator=generator, num_inference_steps=7, output_type="np").images
        generator = torch.Generator().manual_seed(3)
        z = torch.stack([torch.randn((2, 3, 8, 12), generator=generator) for _ in range(7)])
        z = torch.cat([z, torch.zeros(1, 2, 3, 8, 12)])
        run = tp.generate(f"diffusers:{tmp_path}", 2, noise=drawn(z), sampler="ddpm", steps=7, progress=None)
        assert error(ending(run), want.transpose(0, 3, 1, 2)) < CHAIN

    def test_clipping_is_asked_for(self, tmp_path):
        pipeline = tiny_unet(tmp_path, scheduler=DDPMScheduler(clip_sample=True))
        x_t, t = normal(4, 3, 8, 8), torch.full((4,), 0.7)
        model = tp.load(f"diffusers:{tmp_path}")
        noise = pipeline.unet(x_t, 699).sample
        bar = pipeline.scheduler.alphas_cumprod[699]
        estimate = (x_t - (1 - bar).sqrt() * noise) / bar.sqrt()
        assert error(model(x_t, t), estimate) < 5e-5
        assert estimate.abs().max() > 1
        assert model.about["clip_sample"] == "true"
        for name in ("clip_sample", "clip_denoised"):
            clipped = tp.load(f"diffusers:{tmp_path}?{name}=True")(x_t, t)
            assert torch.allclose(clipped, estimate.clamp(-1, 1), atol=1e-4)
        generator = torch.Generator().manual_seed(5)
        want = pipeline(2, generator=generator, num_inference_steps=5, output_type="np").images
        generator = torch.Generator().manual_seed(5)
        z = torch.stack([torch.randn((2, 3, 8, 8), generator=generator) for _ in range(5)])
        z = torch.cat([z, torch.zeros(1, 2, 3, 8, 8)])
        model = tp.load(f"diffusers:{tmp_path}", clip_sample=True)
        run = tp.generate(model, 2, noise=drawn(z), sampler="ddpm", steps=5, progress=None)
        assert error(ending(run), want.transpose(0, 3, 1, 2)) < CHAIN

    def test_labels(self, tmp_path, refuses):
        pipeline = tiny_unet(tmp_path, labels=4)
        name, labels = f"diffusers:{tmp_path}", torch.tensor([1, 3])
        x_t, t = normal(2, 3, 8, 8), torch.full((2,), 0.3)
        model = tp.load(name)
        want = pipeline.unet(x_t, 299, class_labels=labels).sample
        assert model.n_classes == 4
        assert error(model.raw(x_t, t, labels), want) < 5e-5
        for call in (lambda: model(x_t, t), lambda: model.check_condition({})):
            with refuses("label is None, but the model .* is always told one; accepted: 0 to 3"):
                call()
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(5)
        x = x_t
        with torch.no_grad():
            for step in scheduler.timesteps:
                x = scheduler.step(pipeline.unet(x, step, class_labels=labels).sample, step, x).prev_sample
        run = tp.generate(model, noise=x_t, sampler="ddim", steps=5, label=[1, 3], progress=None)
        assert error(run.images, x) < CHAIN

    def test_a_label_for_none(self, tmp_path, refuses):
        pipeline = tiny_unet(tmp_path, labels=4)
        x_t, t, labels = normal(2, 3, 8, 8), torch.full((2,), 0.3), torch.tensor([1, 2])
        model = tp.load(f"diffusers:{tmp_path}?null_label=3")
        assert model.n_classes == 3
        want = pipeline.unet(x_t, 299, class_labels=torch.tensor([3, 3])).sample
        assert error(model.raw(x_t, t), want) < 5e-5
        guided = tp.generate(model, 2, sampler="ddim", steps=2, label=labels, guidance=2.0, progress=None)
        plain = tp.generate(model, 2, sampler="ddim", steps=2, label=labels, progress=None)
        assert np.abs(np.asarray(guided.images) - np.asarray(plain.images)).max() > 1e-3
        first = tp.load(f"diffusers:{tmp_path}?null_label=0")
        assert first.n_classes == 4
        with refuses("null_label is 4"):
            tp.load(f"diffusers:{tmp_path}?null_label=4")

    def test_a_network_alone(self, tmp_path):
        pipeline = tiny_unet(tmp_path)
        model = tp.load(
            f"diffusers:{tmp_path / 'unet'}?beta_schedule=squaredcos_cap_v2&prediction_type=v_prediction"
        )
        x_t = normal(2, 3, 8, 8)
        assert model.predicts == "v"
        want = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
        assert torch.allclose(model.schedule.alphas_cumprod.float(), want, rtol=1e-5)
        assert error(model.raw(x_t, torch.full((2,), 0.3)), pipeline.unet(x_t, 299).sample) < 5e-5
        inner = tp.load(f"diffusers:{tmp_path}", subfolder="unet")
        assert fingerprint(inner) == fingerprint(tp.load(f"diffusers:{tmp_path / 'unet'}"))

    def test_size(self, tmp_path, refuses):
        tiny_unet(tmp_path, size=None)
        name = f"diffusers:{tmp_path}"
        assert tp.load(name, height=16, width=8).shape == (3, 16, 8)
        with refuses("height is None, but the model states no size"):
            tp.load(name)
        with refuses("width is 9; accepted by this model: a multiple of 2"):
            tp.load(name, height=16, width=9)


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("kind", ["sd", "sdxl", "dit"])
    def test_half(self, request, kind, dtype):
        name = request.getfixturevalue(kind)[1]
        full, half = tp.load(name), tp.load(name, dtype=dtype)
        x_t, t = normal(2, 4, 8, 8), torch.full((2,), 0.6)
        told = {} if kind == "dit" else {"conditions": [{"prompt": p} for p in PROMPTS]}
        told = (
            full.conditions(told["conditions"], torch.device("cpu"))
            if told
            else {"label": torch.tensor([1, 2])}
        )
        got, want = half.raw(x_t, t, **told), full.raw(x_t, t, **told)
        assert {p.dtype for p in half.network.parameters()} == {getattr(torch, dtype)}
        assert got.dtype == torch.float32
        assert error(got, want) < (0.01 if dtype == "float16" else 0.1)
        # half precision would overflow in the autoencoder, which says so
        assert half.vae.dtype == (torch.float32 if dtype == "float16" else torch.bfloat16)
        images = normal(2, 3, 16, 16).clamp(-1, 1)
        assert half.decode(half.encode(images)).dtype == torch.float32
        assert error(half.encode(images), full.encode(images)) < (1e-6 if dtype == "float16" else 0.1)

    def test_saved_in_half(self, tmp_path, sd):
        pipeline = tiny_sd(tmp_path)
        pipeline.to(torch.bfloat16).save_pretrained(tmp_path)
        model = tp.load(f"diffusers:{tmp_path}")
        assert model.network.dtype == torch.float32
        assert error(model.vae.encoder.conv_in.weight, tp.load(sd[1]).vae.encoder.conv_in.weight) < 0.02

    def test_variant(self, tmp_path, refuses):
        pipeline = tiny_unet(tmp_path)
        pipeline.save_pretrained(tmp_path, variant="ema")
        with torch.no_grad():
            pipeline.unet.conv_in.weight.add_(1.0)
        pipeline.save_pretrained(tmp_path, variant="fp16")
        plain, ema, fp16 = (tp.load(f"diffusers:{tmp_path}", variant=v) for v in (None, "ema", "fp16"))
        assert fingerprint(plain) == fingerprint(ema) != fingerprint(fp16)
        with refuses("variant is 'int8', but no file"):
            tp.load(f"diffusers:{tmp_path}", variant="int8")

    def test_shards(self, tmp_path):
        pipeline = tiny_unet(tmp_path)
        want = fingerprint(tp.load(f"diffusers:{tmp_path}"))
        (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        pipeline.unet.save_pretrained(tmp_path / "unet", max_shard_size="60KB")
        assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 1
        pipeline.unet.save_pretrained(tmp_path / "unet", max_shard_size="60KB", variant="fp16")
        assert fingerprint(tp.load(f"diffusers:{tmp_path}", variant="fp16")) == want
        assert fingerprint(tp.load(f"diffusers:{tmp_path}")) == want

    def test_bin_where_there_is_nothing_else(self, tmp_path):
        pipeline = tiny_unet(tmp_path)
        want = fingerprint(tp.load(f"diffusers:{tmp_path}"))
        (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        pipeline.save_pretrained(tmp_path, safe_serialization=False)
        assert fingerprint(tp.load(f"diffusers:{tmp_path}")) == want


class TestOffload:
    @pytest.mark.parametrize("how", ["model", "sequential"])
    def test_gives_the_same(self, sdxl, how):
        plain, off = tp.load(sdxl[1]), tp.load(sdxl[1], offload=how, device="cpu")
        assert fingerprint(off) == fingerprint(plain)
        assert off.to("meta") is off
        given = {"sampler": "ddim", "steps": 2, "prompt": PROMPTS, "guidance": 3.0, "progress": None}
        images = [np.asarray(tp.generate(model, 2, **given).images) for model in (plain, off)]
        assert error(*images) < 1e-6
        encoded = [model.encode(torch.from_numpy(images[0])) for model in (off, plain)]
        assert error(*encoded) < 1e-6

    def test_refuses(self, sdxl, refuses, monkeypatch):
        with refuses("offload is 'disk'; accepted: model, sequential"):
            tp.load(sdxl[1], offload="disk")
        monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
        with refuses("offload is 'model', which needs accelerate"):
            tp.load(sdxl[1], offload="model")


def test_about(tmp_path):
    tiny_sd(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\ntags: [x]\n---\n# Tiny\n")
    model = tp.load(f"diffusers:{tmp_path}")
    assert model.takes_prompts
    assert model.about["licence"] == "openrail++"
    assert model.about["scheduler"] == "DDIMScheduler"
    assert "text_encoder (CLIPTextModel)" in model.about["components"]
    (tmp_path / "README.md").unlink()
    assert "licence" not in tp.load(f"diffusers:{tmp_path}").about
    (tmp_path / "LICENSE.md").touch()
    assert tp.load(f"diffusers:{tmp_path}").about["licence"] == "see LICENSE.md"


def test_old_names_of_classes(tmp_path):
    """DiT was saved as a Transformer2DModel before diffusers 0.30."""
    tiny_dit(tmp_path, labels=3)
    want = fingerprint(tp.load(f"diffusers:{tmp_path}"))
    for file in (tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"):
        text = file.read_text().replace("DiTTransformer2DModel", "Transformer2DModel")
        file.write_text(json.dumps(json.loads(text)))
    assert fingerprint(tp.load(f"diffusers:{tmp_path}")) == want
    assert UNet2DModel.__name__ not in tp.load(f"diffusers:{tmp_path}").about["components"]
