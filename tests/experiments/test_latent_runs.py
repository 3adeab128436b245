"""Runs of latent models that are told prompts: a closed-form one, whose pictures are its latents doubled and halved.

Latents are N(mu, 0.3^2) in every entry, mu = the number of letters of the prompt / 10 (0 if there is none).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.diffusion.denoiser import Denoiser, expand
from turningpoint.models import MODELS

STD = 0.3


class Letters(Denoiser):
    """The posterior mean of latents (1, 2, 2); pictures (1, 4, 4) repeat each entry, halved."""

    takes_prompts = True

    def __init__(self):
        super().__init__()
        self.schedule, self.shape, self.name = tp.VP(), (1, 2, 2), "letters"

    @property
    def decoded_shape(self):
        return (1, 4, 4)

    def decode(self, x_0):
        return x_0.repeat_interleave(2, 2).repeat_interleave(2, 3) / 2

    def encode(self, images):
        return images[:, :, ::2, ::2] * 2

    def conditions(self, conditions, device):
        return {"mu": torch.tensor([len(c.get("prompt") or "") / 10 for c in conditions], device=device)}

    def without(self, condition):
        return {"prompt": condition.get("negative_prompt", "")}

    def forward(self, x_t, t, mu=None):
        mean = torch.zeros(len(x_t)) if mu is None else mu
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return expand(mean, x_t) + expand(gain, x_t) * (x_t - expand(alpha * mean, x_t))


@pytest.fixture
def letters(monkeypatch):
    MODELS.names()
    monkeypatch.setitem(MODELS._known, "letters", Letters)
    return tp.load("letters")


QUICK = {"steps": 40, "progress": None}


def test_one_run_holds_many_prompts(letters):
    run = tp.generate(letters, 900, prompt=["aa", "bbbb", "cccccc"], **QUICK, sampler="ddpm")
    means = run.latents.values.reshape(3, 300, -1).mean((1, 2))
    np.testing.assert_allclose(means, [0.2, 0.4, 0.6], atol=4 * STD / np.sqrt(1200) + 0.01)
    assert run.latents.dims == ("item", "latent_channel", "latent_y", "latent_x")
    np.testing.assert_array_equal(run.images.values[:, :, ::2, ::2] * 2, run.latents.values)
    assert np.unique(run.store.read("condition")).size == 3


def test_guidance_moves_away_from_the_negative_prompt(letters):
    """D is linear in mu here, so D_w is the posterior mean of N(mu_- + w (mu - mu_-), STD^2)."""
    run = tp.generate(
        letters, 400, prompt="aaaa", negative_prompt="aa", guidance=2.0, **QUICK, sampler="ddpm"
    )
    assert run.latents.values.mean() == pytest.approx(0.6, abs=4 * STD / np.sqrt(1600) + 0.01)


def test_u_turns_start_from_the_latents_that_were_generated(letters):
    fine = {"steps": 400, "progress": None}  # fewer steps of the small variance spread too little
    run = tp.uturn(letters, generate=60, prompt=["aa", "bbbb"], times=[0.05, 0.8], replicates=2, **fine)
    base = tp.generate(letters, 60, prompt=["aa", "bbbb"], sampler="ddpm", **fine)
    np.testing.assert_array_equal(run.start_latents.values, base.latents.values)
    np.testing.assert_array_equal(run.start.values, base.images.values)
    assert run.latents.dims[:3] == ("item", "replicate", "time")
    # start and return are two draws of one posterior: their difference has twice its variance
    apart = np.abs(run.latents.values - run.start_latents.values[:, None, None]).mean((0, 1, 3, 4, 5))
    snr = np.exp(letters.schedule.logsnr(run.times).numpy())
    wanted = np.sqrt(2 / (1 / STD**2 + snr)) * np.sqrt(2 / np.pi)
    band = 4 * np.sqrt(np.pi / 2 - 1) / np.sqrt(60 * 4)  # replicates share their start
    np.testing.assert_allclose(apart, wanted, rtol=band)


def test_a_prompt_alone_generates_a_base_set(letters):
    run = tp.uturn(letters, prompt="aa", times=[0.5], **QUICK)
    assert run.images.sizes["item"] == 16


def test_pictures_are_encoded_and_latents_taken_as_they_are(letters):
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 1, 4, 4)).astype(np.float32)
    run = tp.uturn(letters, pictures, prompt="aa", times=[0.3], **QUICK)
    np.testing.assert_array_equal(run.original.values, pictures)
    round_trip = letters.decode(letters.encode(torch.from_numpy(pictures)))
    np.testing.assert_array_equal(run.start.values, round_trip)
    np.testing.assert_array_equal(run.start_latents.values, pictures[:, :, ::2, ::2] * 2)
    latents = np.random.default_rng(1).normal(size=(3, 1, 2, 2)).astype(np.float32) * 7
    run = tp.uturn(letters, latents, prompt="aa", times=[0.3], **QUICK)
    np.testing.assert_array_equal(run.start_latents.values, latents)


def test_clones_keep_latents_of_trunks_and_copies(letters):
    run = tp.clone(letters, 3, prompt="aaa", times=[0.3], copies=2, **QUICK)
    np.testing.assert_array_equal(run.images.values[..., ::2, ::2] * 2, run.latents.values)
    np.testing.assert_array_equal(run.start.values[..., ::2, ::2] * 2, run.start_latents.values)


def test_states_on_the_way_are_latents(letters):
    record = tp.Record("state", (0.5, 0.2))
    run = tp.generate(letters, 2, prompt="aa", record=[record], **QUICK)
    assert run.data["state"].dims == ("item", "state_time", "latent_channel", "latent_y", "latent_x")


def test_a_run_is_continued_extended_and_repeated(letters, tmp_path):
    settings = {"generate": 4, "prompt": ["aa", "bbbb"], "guidance": 1.5, "sampler": "ddpm", **QUICK}
    run = tp.uturn("letters", times=[0.3], **settings, out=tmp_path / "run")
    again = tp.uturn("letters", times=[0.3, 0.6], **settings, out=tmp_path / "run", extend=True)
    np.testing.assert_array_equal(again.latents.values[:, :, 0], run.latents.values[:, :, 0])
    _, apart = tp.repeat(tp.open_run(tmp_path / "run"), tmp_path / "again", progress=None)
    assert apart == 0
    clones = tp.clone("letters", 2, prompt=["a", "bb"], negative_prompt="c", guidance=2, times=[0.5], **QUICK)
    assert tp.repeat(clones, progress=None)[1] == 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"prompt": ["a", "b"], "generate": 3}, "prompt holds 2 texts for 3 images"),
        ({"prompt": 3, "generate": 2}, "prompt is 3"),
        ({"label": 1, "generate": 2}, "label is 1"),
        ({"guidance": 3.0, "generate": 2}, "no label or prompt"),
        ({"images": np.zeros((2, 1, 3, 3), np.float32)}, r"or latents \(N, 1, 2, 2\)"),
    ],
)
def test_errors(letters, refuses, settings, match):
    with refuses(match):
        tp.uturn(letters, times=[0.5], **settings, **QUICK)


def test_others_take_no_prompt(refuses):
    with refuses("prompt is given, but the model 'digits' takes none"):
        tp.generate("digits", 1, prompt="a seven", **QUICK)


def test_the_step_check_doubles_the_grid_of_the_models_authors(monkeypatch, refuses):
    class Authored(Letters):
        def usual_grid(self, sampler, steps):
            n = steps or 10
            return tp.Grid.explicit(np.linspace(1, 0, n, endpoint=False) ** 2)

    MODELS.names()
    monkeypatch.setitem(MODELS._known, "authored", Authored)
    run = tp.uturn("authored", np.zeros((6, 1, 2, 2), np.float32), times=[0.1, 0.4, 0.9], progress=None)
    assert run.settings["grid"]["steps"] == 10
    assert set(tp.step_check(run.measure("pixels"), progress=None).verdict) <= {
        "agrees", "depends on the step count", "open",
    }  # fmt: skip
    own = tp.uturn(
        "authored", np.zeros((6, 1, 2, 2), np.float32), times=[0.1], grid=[0.5, 0.2], progress=None
    )
    with refuses("explicit list of times"):
        tp.step_check(own.measure("pixels"), progress=None)


def test_prompts_are_coordinates_of_the_data(letters):
    run = tp.generate(letters, 2, prompt=["a", "bb"], negative_prompt="c", guidance=2.0, **QUICK)
    assert run.data["prompt"].values.tolist() == ["a", "bb"]
    assert run.data["negative_prompt"].values.tolist() == ["c", "c"]


def test_a_negative_prompt_needs_guidance(letters, refuses):
    with refuses("negative_prompt is 'c' without guidance"):
        tp.generate(letters, 2, prompt="a", negative_prompt="c", **QUICK)


def test_generated_starts_use_the_grid_of_the_run(tmp_path):
    tp.uturn("digits", generate=2, times=[0.5], out=tmp_path / "run", progress=None)
    made = tp.open_run(tmp_path / "run" / "generated-2")
    assert made.settings["grid"] == tp.open_run(tmp_path / "run").settings["grid"]
    assert made.settings["sampler"]["name"] == "ddpm"


def test_labels_may_be_one_hot():
    hot = np.eye(10)[[3, 5]]
    hot[1] = 0
    run = tp.generate("digits", 2, label=hot, steps=2, progress=None)
    assert run.store.read("label").tolist() == [3, -1]


def test_start_noise_may_come_with_the_draws_of_the_steps():
    z = np.random.default_rng(0).normal(size=(2, 5, 1, 28, 28)).astype(np.float32)
    run = tp.generate("digits", noise=z, sampler="ddpm", steps=4, seed=1, progress=None)
    again = tp.generate("digits", noise=z, sampler="ddpm", steps=4, seed=2, progress=None)
    np.testing.assert_array_equal(run.images.values, again.images.values)
    start = tp.generate("digits", noise=z[:, 0], sampler="ddpm", steps=4, seed=2, progress=None)
    assert np.abs(start.images.values - run.images.values).max() > 0.1


def test_a_state_at_zero_is_the_end_wherever_that_lies():
    grid = tp.Grid(4, "leading", end="first step")
    network = torch.nn.Identity()
    network.forward = lambda x, step: 0.1 * x
    model = tp.NetworkDenoiser(network, tp.DiscreteVP.named("linear"), (3,))
    run = tp.generate(model, 2, sampler="ddim", grid=grid, record=[tp.Record("state", (0.0,))], progress=None)
    np.testing.assert_array_equal(run.data["state"].values[:, 0], run.images.values)


class TestTraces:
    """The estimates of latents are pictures where measures read them, and latents where they are kept."""

    def test_estimates_are_decoded_for_measures(self, letters):
        def mean(images):
            """The mean of a picture."""
            assert images.shape[1:] == (1, 4, 4)
            return images.mean((1, 2, 3))

        run = tp.trace(
            letters,
            3,
            measures=[mean],
            of=("estimate", "state"),
            keep=("estimate", "state"),
            prompt="abcde",
            **QUICK,
        )
        assert run.images.shape == (3, 1, 4, 4)
        for side in ("estimate", "state"):
            latents = run.store.read(side)
            assert latents.shape == (3, 40, 1, 2, 2)
            assert run.store.dims(side)[2:] == ("latent_channel", "latent_y", "latent_x")
            found = run.reading("mean", side)["along"].values
            np.testing.assert_allclose(found, latents.mean((2, 3, 4)) / 2, rtol=1e-4, atol=1e-6)
        # at pure noise the estimate is the mean of the data: five letters, halved by the decoder
        np.testing.assert_allclose(run.reading("mean")["along"].values[:, 0], 0.25, atol=0.02)

    def test_it_ends_where_generate_ends(self, letters):
        run = tp.trace(letters, 3, measures=(), prompt="ab", **QUICK)
        other = tp.generate(letters, 3, prompt="ab", **QUICK)
        np.testing.assert_allclose(run.latents.values, other.latents.values, atol=1e-6)
        assert run.features() == []
