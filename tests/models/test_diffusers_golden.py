"""The published experiments on a tiny Stable Diffusion: components, paths, noise-denoise and clones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.diffusion.guidance import Guided
from turningpoint.diffusion.sampler import sampler
from turningpoint.simulation.engine import Engine
from turningpoint.simulation.noise import Address, RecordedNoise
from turningpoint.simulation.walk import FromImage, FromNoise, FromTrunk, Record, Walk

GOLDEN = Path(__file__).parent / "golden" / "critical-windows"
TOLD = json.loads((GOLDEN / "experiments.json").read_text())
CONDITION = {"prompt": TOLD["prompt"]}
ONE_CALL, CHAIN = 5e-5, 2e-4
STEPS, DEPTH, PARTING = 8, 5, 3


def error(got, want):
    """The largest difference, in root mean squares of what is expected."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.square(want).mean())


@pytest.fixture(scope="module")
def components():
    with np.load(GOLDEN / "components.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "experiments.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    return tp.load(f"diffusers:{GOLDEN / 'tiny_sd'}")


def test_tokens_and_embeddings(model, components):
    encoder = model.text_encoder
    assert np.array_equal(encoder.ids([TOLD["prompt"]]), components["input_ids"])
    assert np.array_equal(encoder.ids([""]), components["uncond_ids"])
    told = model.conditions([{}, CONDITION], torch.device("cpu"))
    assert error(told["embedding"], components["text_embeddings"]) < ONE_CALL


def test_autoencoder(model, components):
    images = 2 * torch.from_numpy(components["pixels01"]) - 1
    assert model.decoded_shape == (3, 32, 32)
    assert model.shape == (4, 16, 16)
    scaling = float(components["scaling_factor"])
    assert error(model.encode(images) / scaling, components["vae_mean"]) < ONE_CALL
    posterior = model.vae.encode(images).latent_dist
    assert error(posterior.logvar, components["vae_logvar"]) < ONE_CALL
    assert error(model.decode(torch.from_numpy(components["latents"])), components["vae_decoded"]) < ONE_CALL


def test_network(model, components):
    told = model.conditions([{}, CONDITION], torch.device("cpu"))
    x_t = torch.from_numpy(components["latents"])
    for native, want in zip(components["unet_t"], components["unet_out"], strict=True):
        t = model.schedule.t(native=float(native)).expand(2)
        assert error(model.raw(x_t, t, **told), want) < ONE_CALL
        bare = model.network(x_t, int(native), encoder_hidden_states=told["embedding"]).sample
        assert error(bare, want) < ONE_CALL
        # the U-Net of tiny_sd predicts v
        alpha, sigma = float(model.schedule.alpha(t[0])), float(model.schedule.sigma(t[0]))
        assert error(model(x_t, t, **told), alpha * components["latents"] - sigma * want) < ONE_CALL


@pytest.mark.parametrize("name", TOLD["schedulers"])
class TestExperiment:
    @pytest.fixture
    def setting(self, name, expected):
        model = tp.load(f"diffusers:{GOLDEN / 'tiny_sd'}", scheduler=TOLD["schedulers"][name])
        kind = name.partition("_")[0]
        grid = model.usual_grid(kind, STEPS)

        def want(key, shared=False):
            return expected[f"{kind if shared else name}/{key}"]

        return model, kind, grid, want

    @staticmethod
    def simulate(model, kind, walks, draws):
        engine = Engine(
            Guided(model, TOLD["guidance"]), sampler(kind).suited(model), RecordedNoise(draws), batch=2
        )
        return {finished.walk.address: finished.values for finished in engine.simulate(walks)}

    def test_schedule(self, setting):
        model, _, grid, want = setting
        native = model.schedule.native(grid.times(model.schedule)).numpy()
        assert np.array_equal(native[:-1], want("timesteps"))
        table = model.schedule.alphas_cumprod[[0, 1, 250, 500, 998, 999]].numpy()
        assert np.allclose(table, want("alphas_cumprod"), rtol=2e-6, atol=0)

    def test_paths(self, setting):
        model, kind, grid, want = setting
        draws = np.split(want("path/draws", shared=True), 2)
        run = tp.generate(
            model,
            2,
            noise=RecordedNoise({Address(i, stream=1): draws[i] for i in range(2)}),
            sampler=kind,
            steps=STEPS,
            guidance=TOLD["guidance"],
            record=[Record("state", grid.times(model.schedule))],
            progress=None,
            **CONDITION,
        )
        for i in range(2):
            assert error(run.store.read("state", (i,)), want(f"path/{i}")) < CHAIN
            assert error(run.latents[i], want(f"path/{i}")[-1]) < CHAIN
            grey = np.clip(np.asarray(run.images[i]) / 2 + 0.5, 0, 1).transpose(1, 2, 0) * 255
            off = np.abs(grey.astype(np.uint8).astype(int) - want(f"path/{i}_png"))
            assert off.max() <= 1
            assert (off > 0).mean() < 0.01

    def test_noise_denoise(self, setting):
        model, kind, grid, want = setting
        start = float(model.schedule.t(native=float(want("timesteps")[-DEPTH])))
        times = grid.below(start, model.schedule)
        draws = dict(enumerate(np.split(want("noise/draws", shared=True), 2)))
        walks = [
            Walk(
                Address(i, 0, start),
                FromImage(want(f"path/{i}")[-1]),
                times,
                CONDITION,
                [Record("state", times)],
            )
            for i in draws
        ]
        done = self.simulate(model, kind, walks, {walk.address: draws[walk.address.item] for walk in walks})
        for walk in walks:
            got = done[walk.address]["state"]
            assert len(got) == DEPTH + 1
            assert error(got, want(f"noise/{walk.address.item}_0")) < CHAIN

    def test_clone(self, setting):
        model, kind, grid, want = setting
        times = grid.times(model.schedule)
        trunk, clone = Address(0, stream=1), Address(0, 0, float(times[PARTING]))
        draws = {trunk: np.split(want("path/draws", shared=True), 2)[0]}
        if kind == "ddpm":  # a branch has a draw for its start, which it does not use
            own = want("clone/draws", shared=True)
            draws[clone] = np.concatenate([np.zeros_like(own[:1]), own])
        branch = Walk(
            clone, FromTrunk(clone.time), times[PARTING:], CONDITION, [Record("state", times[PARTING:])]
        )
        walk = Walk(trunk, FromNoise(), times, CONDITION, [Record("state", times)], [branch])
        done = self.simulate(model, kind, [walk], draws)
        assert error(done[trunk]["state"], want("path/0")) < CHAIN
        # the published file begins with the end of the original in place of the state that was cloned
        assert error(done[trunk]["final"], want("clone/clone")[0]) < CHAIN
        assert error(done[clone]["state"][1:], want("clone/clone")[1:]) < CHAIN


def test_other_size(expected):
    model = tp.load(f"diffusers:{GOLDEN / 'tiny_sd'}?height=128&width=128&prediction_type=v_prediction")
    assert (model.shape, model.decoded_shape) == ((4, 64, 64), (3, 128, 128))
    grid = model.usual_grid("ddpm", 3)
    assert np.array_equal(
        model.schedule.native(grid.times(model.schedule))[:-1], expected["hardcoded64/timesteps"]
    )
    generator = torch.Generator().manual_seed(61)
    draws = torch.cat([torch.randn((1, 4, 64, 64), generator=generator) for _ in range(4)]).numpy()
    assert np.array_equal(draws[0], expected["hardcoded64/first"])
    run = tp.generate(
        model,
        1,
        noise=RecordedNoise({Address(0, stream=1): draws}),
        sampler="ddpm",
        steps=3,
        guidance=TOLD["guidance"],
        progress=None,
        **CONDITION,
    )
    assert error(run.latents[0], expected["hardcoded64/last"]) < CHAIN
