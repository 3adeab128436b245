"""Stable Diffusion 3 and FLUX.1 in miniature: what they return and what diffusers' own pipelines return."""

import functools
import itertools
import json
import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from tiny_flow_pipelines import (
    MAX_CLIP,
    T5_WIDTH,
    autoencoder,
    clip_encoder,
    t5_encoder,
    tiny_flux,
    tiny_sd3,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import turningpoint as tp
from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.diffusion.guidance import Guided
from turningpoint.diffusion.sampler import sampler
from turningpoint.diffusion.schedule import RectifiedFlow
from turningpoint.models import fingerprint
from turningpoint.models._pipelines.flow_transformers import flow_times
from turningpoint.simulation.noise import Address, RecordedNoise

ONE_CALL, CHAIN = 5e-5, 2e-4
PROMPTS, NEGATIVE = ["a cat", "the dog and a cat"], ["bad", "dull picture"]
SIZE = {"height": 16, "width": 24, "max_sequence_length": 20}
SHAPE = (16, 8, 12)
HERE = torch.device("cpu")


def error(got, want):
    """The largest difference, in root mean squares of what is expected."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.square(want).mean())


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline of each kind, and a function that loads it with settings (``__wrapped__``: anew)."""
    root = tmp_path_factory.mktemp("flows")
    pipelines = {
        "sd3": tiny_sd3(root / "sd3"),
        "sd3.5": tiny_sd3(root / "sd3.5", medium=True),
        "sd3 without T5": tiny_sd3(root / "sd3 without T5", t5=False),
        "dev": tiny_flux(root / "dev"),
        "schnell": tiny_flux(root / "schnell", dev=False),
    }

    @functools.lru_cache(typed=True)
    def load(name, **settings):
        return tp.load(f"diffusers:{root / name}", **(SIZE | settings))

    return pipelines, load


def call(pipeline, z, prompts=PROMPTS, **settings):
    """The latents (B, *SHAPE) at which a pipeline of diffusers ends; FLUX works on packed ones."""
    given = {"prompt": prompts, "output_type": "latent", **SIZE, **settings}
    if not hasattr(pipeline, "_pack_latents"):
        return pipeline(latents=z, **given).images
    height, width = given["height"], given["width"]
    packed = pipeline._pack_latents(z, *z.shape)
    return pipeline._unpack_latents(pipeline(latents=packed, **given).images, height, width, 2)


def generated(model, z, **settings):
    return tp.generate(
        model, noise=z, **({"sampler": "ddim", "prompt": PROMPTS, "progress": None} | settings)
    )


def velocity(pipeline, x, t, prompts, guidance=3.5, dtype=torch.float32):
    """The transformer of a pipeline, called as its pipeline calls it, with a time per item."""
    length = {"max_sequence_length": SIZE["max_sequence_length"]}
    if hasattr(pipeline, "_pack_latents"):
        tokens, pooled, text_ids = pipeline.encode_prompt(prompts, prompts, **length)
        told = torch.full((len(x),), guidance) if pipeline.transformer.config.guidance_embeds else None
        packed = pipeline.transformer(
            hidden_states=pipeline._pack_latents(x, *x.shape).to(dtype),
            timestep=(1000 * t).to(dtype) / 1000,
            guidance=told,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            txt_ids=text_ids,
            img_ids=pipeline._prepare_latent_image_ids(len(x), x.shape[2] // 2, x.shape[3] // 2, HERE, dtype),
        ).sample
        return pipeline._unpack_latents(packed, 2 * x.shape[2], 2 * x.shape[3], 2)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompts, prompts, prompts, do_classifier_free_guidance=False, **length
    )
    return pipeline.transformer(
        hidden_states=x.to(dtype),
        timestep=1000 * t,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
    ).sample


KINDS = ["sd3", "sd3.5", "sd3 without T5", "dev", "schnell"]


class TestNetwork:
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_call_as_diffusers(self, made, kind):
        pipelines, load = made
        model, x, t = load(kind), normal(2, *SHAPE), torch.tensor([0.9, 0.15])
        with torch.no_grad():
            want = velocity(pipelines[kind], x, t, PROMPTS)
            told = model.conditions([{"prompt": prompt} for prompt in PROMPTS], HERE)
            assert error(model.raw(x, t, **told), want) < ONE_CALL
            assert error(model(x, t, **told), x - t[:, None, None, None] * want) < ONE_CALL
            untold = velocity(pipelines[kind], x, t, ["", ""])
            assert error(model(x, t), x - t[:, None, None, None] * untold) < ONE_CALL
            assert error(untold, want) > 0.1  # the prompt counts

    @pytest.mark.parametrize("kind", ["sd3.5", "dev"])
    def test_every_block_and_encoder_counts(self, made, kind):
        """So that agreement with diffusers says something of each of them."""
        x, t = normal(1, *SHAPE), torch.tensor([0.5])
        told = [{"prompt": "a cat"}]

        def answer(model):
            model.__dict__.pop("_embeddings", None)
            model.__dict__.pop("_last", None)
            return model(x, t, **model.conditions(told, HERE))

        model = made[1].__wrapped__(kind)
        whole, parts = answer(model), [*model.network.transformer_blocks, *model.text_encoders]
        parts += list(getattr(model.network, "single_transformer_blocks", []))
        for part in parts:
            kept = {name: value.clone() for name, value in part.state_dict().items()}
            for parameter in part.parameters():
                parameter.mul_(1.1)
            assert error(answer(model), whole) > 1e-3
            part.load_state_dict(kept)
        assert torch.equal(answer(model), whole)

    @pytest.mark.parametrize("kind", ["sd3", "dev"])
    def test_items_of_a_batch_do_not_see_each_other(self, made, kind):
        model, x, t = made[1](kind), normal(3, *SHAPE), torch.tensor([0.9, 0.5, 0.1])
        conditions = [{"prompt": "a cat"}, {}, {"prompt": "the dog"}]
        together = model(x, t, **model.conditions(conditions, HERE))
        for i in range(3):
            alone = model(x[i : i + 1], t[i : i + 1], **model.conditions([conditions[i]], HERE))
            assert error(alone[0], together[i]) < 1e-5

    @pytest.mark.parametrize("kind", ["sd3", "dev"])
    def test_a_prompt_is_encoded_once(self, made, kind):
        model, calls = made[1].__wrapped__(kind), []
        model.text_encoders[-1].encoder.register_forward_hook(lambda *_: calls.append(1))
        for _ in range(3):
            model.conditions([{"prompt": "a cat"}, {"prompt": "the dog"}, {"prompt": "a cat"}], HERE)
            model.conditions([{"prompt": "the dog"}], HERE)
        assert len(calls) == 2

    def test_guidance_that_is_an_input(self, made):
        pipelines, load = made
        x, t = normal(2, *SHAPE), torch.tensor([0.7, 0.3])
        models = {scale: load("dev", embedded_guidance=scale) for scale in (0.0, 1, 3.5, 7.5)}
        with torch.no_grad():
            for scale, model in models.items():
                told = model.conditions([{"prompt": prompt} for prompt in PROMPTS], HERE)
                want = velocity(pipelines["dev"], x, t, PROMPTS, guidance=scale)
                assert error(model.raw(x, t, **told), want) < ONE_CALL
        assert len({fingerprint(model) for model in models.values()}) == 4
        assert fingerprint(models[3.5]) == fingerprint(load("dev"))

    def test_each_tokenizer_pads_with_its_own_token(self, made):
        ids = [encoder.ids(["a cat"])[0].tolist() for encoder in made[1]("sd3").text_encoders]
        assert [len(row) for row in ids] == [MAX_CLIP, MAX_CLIP, SIZE["max_sequence_length"]]
        assert ids[0][:4] == ids[1][:4]
        assert [row[-1] for row in ids] == [ids[0][3], 0, 0]

    def test_a_long_prompt_is_cut_with_a_warning(self, made):
        pipelines, load = made
        x, t, long = normal(1, *SHAPE), torch.tensor([0.5]), "the dog and a cat " * 5
        model = load("sd3")
        with pytest.warns(UserWarning, match="cut off"):
            told = model.conditions([{"prompt": long}], HERE)
        with torch.no_grad():
            assert error(model.raw(x, t, **told), velocity(pipelines["sd3"], x, t, [long])) < ONE_CALL

    @pytest.mark.parametrize("t5", [True, False])
    def test_clips_wider_than_t5_are_cut(self, tmp_path, t5):
        pipeline = tiny_sd3(tmp_path, width=32, t5=t5)
        model, x, t = tp.load(f"diffusers:{tmp_path}", **SIZE), normal(1, *SHAPE), torch.tensor([0.5])
        with torch.no_grad():
            told = model.conditions([{"prompt": "a cat"}], HERE)
            assert error(model.raw(x, t, **told), velocity(pipeline, x, t, ["a cat"])) < ONE_CALL

    def test_own_lengths_of_prompts(self, made):
        for kind, tokens in (("sd3", MAX_CLIP + 256), ("sd3 without T5", MAX_CLIP + 256), ("dev", 512)):
            told = made[1](kind, max_sequence_length=None).conditions([{"prompt": "a cat"}], HERE)
            assert told["tokens"].shape == (1, tokens, T5_WIDTH)

    @pytest.mark.parametrize("kind", ["sd3.5", "dev"])
    def test_half_precision_as_diffusers(self, made, tmp_path, kind):
        """The same roundings in the same places; states and estimates stay float32."""
        make = tiny_sd3 if kind == "sd3.5" else tiny_flux
        options = {"medium": True} if kind == "sd3.5" else {}
        pipeline = make(tmp_path, **options).to(torch.bfloat16)
        model, x, t = made[1](kind, dtype="bfloat16"), normal(2, *SHAPE), torch.tensor([0.9, 0.15])
        with torch.no_grad():
            told = model.conditions([{"prompt": prompt} for prompt in PROMPTS], HERE)
            got, want = model.raw(x, t, **told), velocity(pipeline, x, t, PROMPTS, dtype=torch.bfloat16)
            exact = made[1](kind).raw(x, t, **told)
        assert got.dtype == torch.float32
        assert torch.equal(got, want.float())
        assert error(got, exact) > 1e-3


class TestChain:
    @pytest.mark.parametrize(
        ("kind", "name"), [("sd3", "ddim"), ("sd3.5", "ddim"), ("sd3 without T5", "ddim"), ("sd3", "euler")]
    )
    def test_stable_diffusion_3(self, made, kind, name):
        pipelines, load = made
        z, n = normal(2, *SHAPE), 6
        want = call(pipelines[kind], z, negative_prompt=NEGATIVE, guidance_scale=3.0, num_inference_steps=n)
        settings = {"sampler": name, "negative_prompt": NEGATIVE, "guidance": 3.0, "steps": n}
        assert error(generated(load(kind), z, **settings).latents, want) < CHAIN

    def test_without_guidance_and_with_the_steps_of_the_pipeline(self, made):
        pipelines, load = made
        z = normal(2, *SHAPE)
        want = call(pipelines["sd3"], z, guidance_scale=1.0)
        run = generated(load("sd3"), z)
        assert error(run.latents, want) < CHAIN

    @pytest.mark.parametrize(
        ("kind", "steps", "name"), [("dev", 28, "ddim"), ("schnell", 4, "ddim"), ("schnell", 4, "euler")]
    )
    def test_flux(self, made, kind, steps, name):
        pipelines, load = made
        z = normal(2, *SHAPE)
        want = call(pipelines[kind], z, num_inference_steps=steps)
        assert error(generated(load(kind), z, sampler=name).latents, want) < CHAIN

    def test_classifier_free_guidance_of_flux(self, made):
        pipelines, load = made
        z = normal(2, *SHAPE)
        settings = {"negative_prompt": NEGATIVE, "true_cfg_scale": 2.5, "guidance_scale": 2.0}
        want = call(pipelines["dev"], z, num_inference_steps=5, **settings)
        model = load("dev", embedded_guidance=2.0)
        got = generated(model, z, negative_prompt=NEGATIVE, guidance=2.5, steps=5)
        assert error(got.latents, want) < CHAIN

    def test_the_negative_prompt_of_a_loader(self, made):
        z = normal(2, *SHAPE)
        told = generated(made[1]("sd3"), z, negative_prompt="bad", guidance=2.0, steps=2)
        own = generated(made[1]("sd3", negative_prompt="bad"), z, guidance=2.0, steps=2)
        empty = generated(made[1]("sd3"), z, guidance=2.0, steps=2)
        assert np.array_equal(told.latents, own.latents)
        assert error(empty.latents, own.latents) > 1e-2

    @pytest.mark.parametrize("kind", ["sd3", "dev"])
    def test_pictures(self, made, kind):
        pipelines, load = made
        z = normal(2, *SHAPE)
        want = pipelines[kind](
            PROMPTS,
            latents=z if kind == "sd3" else pipelines[kind]._pack_latents(z, *z.shape),
            num_inference_steps=3,
            output_type="np",
            guidance_scale=1.0,
            **SIZE,
        ).images
        settings = {} if kind == "sd3" else {"embedded_guidance": 1.0}
        images = generated(load(kind, **settings), z, steps=3).images
        assert images.shape == (2, 3, 16, 24)
        got = np.clip(np.asarray(images) / 2 + 0.5, 0, 1)
        assert error(got.transpose(0, 2, 3, 1), want) < CHAIN


class TestAutoencoder:
    @pytest.mark.parametrize(("kind", "scale", "shift"), [("sd3", 1.5305, 0.0609), ("dev", 0.3611, 0.1159)])
    def test_scale_and_shift(self, made, kind, scale, shift):
        vae, model, images = made[0][kind].vae, made[1](kind), normal(2, 3, 16, 24).clamp(-1, 1)
        with torch.no_grad():
            latents = model.encode(images)
            mode = vae.encode(images).latent_dist.mode()
            assert latents.shape == (2, *SHAPE)
            assert error(latents, (mode - shift) * scale) < ONE_CALL
            assert error(model.decode(latents), vae.decode(mode).sample) < ONE_CALL


class TestTimes:
    """The grid on which the authors sample, from the schedulers and from the formula."""

    def push(self, u, kappa):
        return kappa * u / (1 + (kappa - 1) * u)

    @pytest.mark.parametrize("kind", ["sd3", "dev", "schnell"])
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_those_of_the_pipeline(self, made, kind, steps):
        pipelines, load = made
        call(pipelines[kind], normal(1, *SHAPE), ["a"], num_inference_steps=steps)
        sigmas = pipelines[kind].scheduler.sigmas
        model = load(kind)
        for name in ("ddim", "euler", "ddpm", "heun"):
            times = model.usual_grid(name, steps).times(model.schedule)
            assert np.array_equal(times, sigmas.double().numpy())

    def test_own_numbers_of_steps(self, made):
        steps = {kind: made[1](kind).usual_grid("ddim", None).steps for kind in KINDS}
        assert steps == {"sd3": 28, "sd3.5": 28, "sd3 without T5": 28, "dev": 28, "schnell": 4}

    def test_stable_diffusion_3_shifts_twice(self, made):
        model, n = made[1]("sd3"), 28
        u = np.linspace(1, self.push(0.001, 3.0), n)
        assert np.allclose(
            model.usual_grid("ddim", n).times(model.schedule)[:-1], self.push(u, 3.0), atol=1e-6
        )

    def test_the_shift_is_a_setting(self, made):
        model = made[1]("sd3", shift=1.0)
        assert np.allclose(
            model.usual_grid("ddim", 4).times(model.schedule)[:2], [1.0, 1 - 0.999 / 3], atol=1e-6
        )

    @pytest.mark.parametrize(
        ("side", "mu"), [(256, 0.5), (1024, 1.15), (640, 0.5 + 0.65 * (1600 - 256) / 3840)]
    )
    def test_dynamic_shift_of_flux(self, side, mu):
        """The published constants, for square images of that many pixels."""
        times = flow_times({"use_dynamic_shifting": True, "shift": 3.0}, 10, (side // 16) ** 2, plain=True)
        assert np.allclose(times, self.push(np.linspace(1, 0.1, 10), math.exp(mu)), atol=1e-6)

    def test_dynamic_shift_of_stable_diffusion_3(self, tmp_path):
        shifting = {
            "use_dynamic_shifting": True,
            "base_shift": 0.4,
            "max_shift": 1.3,
            "base_image_seq_len": 16,
        }
        pipeline = tiny_sd3(tmp_path, **shifting)
        z = normal(1, *SHAPE)
        want = call(pipeline, z, ["a cat"], num_inference_steps=5, guidance_scale=1.0)
        model = tp.load(f"diffusers:{tmp_path}", **SIZE)
        run = generated(model, z, prompt="a cat", steps=5)
        assert error(run.latents, want) < CHAIN
        kappa = math.exp(0.4 + 0.9 * (24 - 16) / (4096 - 16))
        last = self.push(np.linspace(1, 0.001, 5), kappa)
        assert np.allclose(model.usual_grid("ddim", 5).times(model.schedule)[:-1], last, atol=1e-6)

    @pytest.mark.parametrize(
        "settings",
        [
            {"shift_terminal": 0.1},
            {"use_karras_sigmas": True},
            {"use_beta_sigmas": True},
            {"time_shift_type": "linear", "use_dynamic_shifting": True},
        ],
    )
    def test_other_settings_of_a_scheduler(self, made, settings):
        model = made[1]("dev", **{"use_dynamic_shifting": False} | settings)
        scheduler = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | settings)
        mu = 0.5 + 0.65 * (24 - 256) / (4096 - 256)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=mu)
        assert np.allclose(model.usual_grid("ddim", 5).times(model.schedule), scheduler.sigmas, atol=1e-6)

    def test_heun_of_diffusers_stops_at_the_same_times(self, made):
        model = made[1]("sd3", scheduler="FlowMatchHeunDiscreteScheduler")
        scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(5)
        want = sorted(set(scheduler.sigmas.tolist()), reverse=True)
        assert np.allclose(model.usual_grid("heun", 5).times(model.schedule), want, atol=1e-6)

    def test_ddim_is_eulers_step_along_the_flow(self):
        r"""x_s = x_t + (s - t) v, whatever the network."""

        class Anything(nn.Module):
            def __init__(self):
                super().__init__()
                self.factor = nn.Parameter(torch.tensor(3.0, dtype=torch.float64), requires_grad=False)

            def forward(self, x, native):
                return torch.sin(self.factor * x) + native[:, None] / 1000

        model = NetworkDenoiser(Anything(), RectifiedFlow(), (5,), predicts="flow")
        x, generator = normal(4, 5).double(), torch.Generator().manual_seed(1)
        t, part = torch.rand(2, 4, generator=generator, dtype=torch.float64).clamp(0.01, 1)
        t[0] = 1.0  # all noise
        s = t * part
        s[1] = 0.0  # to the data
        want = x + (s - t)[:, None] * model.network(x, 1000 * t)
        for name in ("ddim", "euler"):
            got = sampler(name).step(model, x, t, s, model.schedule)
            assert torch.allclose(got, want, rtol=0, atol=1e-12)


class TestUTurn:
    @pytest.mark.parametrize(("kind", "guidance"), [("sd3", 2.0), ("dev", None), ("schnell", None)])
    def test_as_written_out(self, made, kind, guidance):
        """Encode, noise to t, Euler's steps along the rest of the authors' grid, decode."""
        model, images = made[1](kind), normal(2, 3, 16, 24, seed=3).clamp(-1, 1)
        turns, steps = [0.35, 0.8], 6
        z = normal(2, 2, *SHAPE, seed=4)
        draws = {Address(i, 0, t): z[i, k : k + 1].numpy() for i in range(2) for k, t in enumerate(turns)}
        run = tp.uturn(
            model,
            images,
            times=turns,
            sampler="ddim",
            steps=steps,
            noise=RecordedNoise(draws),
            prompt=PROMPTS,
            guidance=guidance,
            progress=None,
        )
        guided = model if guidance is None else Guided(model, guidance)
        x_0, grid = model.encode(images), model.usual_grid("ddim", steps).times(model.schedule)
        for i in range(2):
            told = guided.conditions([{"prompt": PROMPTS[i]}], HERE)
            for k, turn in enumerate(turns):
                x = (1 - turn) * x_0[i : i + 1] + turn * z[i, k]
                times = [turn, *grid[grid < turn]]
                for t, s in itertools.pairwise(times):
                    v = (x - guided(x, torch.tensor([t], dtype=torch.float32), **told)) / t
                    x = x + (s - t) * v
                got = run.latents.isel(item=i, time=k).values.reshape(SHAPE)
                assert error(got, x[0]) < CHAIN
                assert (
                    error(run.images.isel(item=i, time=k).values.reshape(3, 16, 24), model.decode(x)[0])
                    < CHAIN
                )

    def test_from_images_that_it_makes_first(self, made):
        run = tp.uturn(
            made[1]("schnell"), generate=2, times=[0.5], prompt=PROMPTS, sampler="ddpm", progress=None
        )
        assert np.isfinite(run.images).all()
        assert run.images.shape[-3:] == (3, 16, 24)

    def test_offloaded(self, made):
        z = normal(2, *SHAPE)
        plain = generated(made[1]("dev"), z, steps=2)
        waiting = generated(made[1]("dev", offload="sequential", device="cpu"), z, steps=2)
        assert error(waiting.latents, plain.latents) < 1e-5


class TestRefusals:
    def test_sizes(self, made, refuses):
        for kind in ("sd3", "dev"):
            with refuses("height is 18; accepted by this model: a multiple of 4"):
                made[1](kind, height=18)
        with refuses("height, width are too large for this model; accepted: 48 pixels at most"):
            made[1]("sd3", width=52)
        assert made[1]("sd3", height=48, width=48).shape == (16, 24, 24)
        assert made[1]("sd3", height=None, width=None).shape == (16, 8, 8)
        assert made[1]("dev", height=None, width=None).decoded_shape == (3, 256, 256)

    @pytest.mark.parametrize("length", [0, 513, "many", 2.5, True])
    def test_lengths(self, made, refuses, length):
        for kind in ("sd3", "schnell"):
            with refuses(f"max_sequence_length is {length!r}; accepted"):
                made[1](kind, max_sequence_length=length)

    def test_guidance_where_it_is_no_input(self, made, refuses):
        with refuses("embedded_guidance is 3.5, but this FLUX is told no guidance"):
            made[1]("schnell", embedded_guidance=3.5)
        with refuses("embedded_guidance is given, but a StableDiffusion3Pipeline takes no such setting"):
            made[1]("sd3", embedded_guidance=3.5)
        for wrong in (-1, "strong", float("nan"), True):
            with refuses("embedded_guidance is"):
                made[1]("dev", embedded_guidance=wrong)

    def test_schedulers(self, made, refuses):
        with refuses("the scheduler is DDPMScheduler; accepted by a flow"):
            made[1]("sd3", scheduler="DDPMScheduler")
        with refuses("with invert_sigmas; accepted by a flow"):
            made[1]("sd3", invert_sigmas=True)
        with refuses("the scheduler's settings make the times"):
            made[1]("sd3", shift=-1.0)
        with refuses("the scheduler's settings make no times"):
            made[1]("dev", base_image_seq_len=4096)
        with refuses("steps is 0"):
            made[1]("sd3").usual_grid("ddim", 0)
        with refuses("num_train_timesteps is 2000000000; accepted: 1 to 100000"):
            made[1]("dev", num_train_timesteps=2 * 10**9)

    def test_labels_and_other_conditions(self, made, refuses):
        model = made[1]("sd3")
        with refuses("label is 3"):
            model.check_condition({"label": 3})
        with refuses("prompt is 7; accepted: a text"):
            model.check_condition({"prompt": 7})

    @pytest.mark.parametrize(
        ("part", "key", "value", "sentence"),
        [
            ("transformer", "pooled_projection_dim", 12, "cannot be loaded"),
            ("transformer", "in_channels", 8, "cannot be loaded"),
            ("transformer", "pos_embed_max_size", 10**9, "pos_embed_max_size"),
            ("text_encoder_3", "d_model", 12, "cannot be loaded"),
        ],
    )
    def test_broken_folders(self, tmp_path, refuses, part, key, value, sentence):
        tiny_sd3(tmp_path)
        file = tmp_path / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        with refuses(sentence):
            tp.load(f"diffusers:{tmp_path}", **SIZE)

    def test_parts_that_do_not_fit(self, tmp_path, refuses):
        whole = {"sd3": tiny_sd3(tmp_path / "sd3"), "flux": tiny_flux(tmp_path / "flux")}
        projected, few = (
            clip_encoder(CLIPTextModelWithProjection, 16, 0),
            autoencoder(1.0, None, 0, channels=8),
        )
        cases = [
            ("sd3", "text_encoder_2", projected, "pooled is 32, .* takes 40"),
            ("sd3", "text_encoder_3", t5_encoder(0, width=40), "tokens is 40, .* takes 48"),
            ("sd3", "vae", few, "latent_channels is 8, .* takes 16"),
            ("flux", "text_encoder", clip_encoder(CLIPTextModel, 24, 0), "pooled is 24, .* takes 16"),
            ("flux", "text_encoder_2", t5_encoder(0, width=40), "tokens is 40, .* takes 48"),
            ("flux", "vae", few, "latent_channels is 32, .* takes 64"),
        ]
        for kind, part, other, sentence in cases:
            other.save_pretrained(tmp_path / kind / part)
            with refuses(f"do not fit: {sentence}"):
                tp.load(f"diffusers:{tmp_path / kind}", **SIZE)
            getattr(whole[kind], part).save_pretrained(tmp_path / kind / part)
