"""The published experiments of Li & Chen on a tiny Stable Diffusion, by the verbs that a user calls.

`test_diffusers_golden` holds the same latents against the engine; here they come out of `generate`, `uturn` and
`clone`, with the published draws handed in.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import turningpoint as tp
from turningpoint.experiments.clone import CLONE
from turningpoint.experiments.generate import FROM_NOISE
from turningpoint.simulation.noise import Address, RecordedNoise

GOLDEN = Path(__file__).parent / "golden" / "critical-windows"
TOLD = json.loads((GOLDEN / "experiments.json").read_text())
SAME = {"prompt": TOLD["prompt"], "guidance": TOLD["guidance"], "steps": 8, "progress": None}
CHAIN = 2e-4
DEPTH, PARTING = 5, 3


def error(got, want):
    """The largest difference, in root mean squares of what is expected."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.square(want).mean())


def check_picture(got, want):
    """Grey values (H, W, C), truncated as published: one off in at most 1 % of the bytes."""
    grey = (np.clip(got / 2 + 0.5, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
    off = np.abs(grey.astype(int) - want)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


@pytest.fixture(scope="module")
def expected():
    found = {}
    for name in ("experiments", "noise_pictures"):
        with np.load(GOLDEN / f"{name}.npz") as file:
            found |= dict(file)
    return found


@pytest.fixture(params=TOLD["schedulers"])
def setting(request, expected):
    """A model with one of the published schedulers, the sampler's name, and the arrays of both."""
    model = tp.load(f"diffusers:{GOLDEN / 'tiny_sd'}", scheduler=TOLD["schedulers"][request.param])
    sampler = request.param.partition("_")[0]

    def want(key):
        return expected[f"{request.param}/{key}"]

    def draws(key, walks):
        return np.split(expected[f"{sampler}/{key}/draws"], walks)

    return model, sampler, want, draws


def test_noise_and_denoise(setting, tmp_path):
    model, sampler, want, draws = setting
    native = float(want("timesteps")[-DEPTH])
    t = float(model.schedule.t(native=native))
    below = model.usual_grid(sampler, 8).below(t, model.schedule)
    recorded = {Address(i, 0, t): drawn for i, drawn in enumerate(draws("noise", 2))}
    run = tp.uturn(
        model,
        np.stack([want(f"path/{i}")[-1] for i in range(2)]),
        native=[native],
        sampler=sampler,
        noise=RecordedNoise(recorded),
        record=[tp.Record("state", below)],
        out=tmp_path,
        **SAME,
    )
    for i in range(2):
        assert error(run.store.read("state")[i, 0, 0], want(f"noise/{i}_0")) < CHAIN
        assert error(run.latents[i, 0, 0], want(f"noise/{i}_0")[-1]) < CHAIN
        assert error(run.start_latents[i], want(f"path/{i}")[-1]) == 0
        check_picture(run.start[i].values, want(f"path/{i}_png"))
    check_picture(run.images[0, 0, 0].values, want("noise/0_0_png"))


def test_a_base_set_with_its_trajectories(setting):
    model, sampler, want, draws = setting
    visited = model.usual_grid(sampler, 8).times(model.schedule)
    recorded = {Address(i, stream=FROM_NOISE): drawn for i, drawn in enumerate(draws("path", 2))}
    run = tp.generate(
        model,
        2,
        noise=RecordedNoise(recorded),
        sampler=sampler,
        record=[tp.Record("state", visited, "trajectory")],
        **SAME,
    )
    for i in range(2):
        assert error(run.store.read("trajectory")[i], want(f"path/{i}")) < CHAIN
        check_picture(run.images[i].values, want(f"path/{i}_png"))


def test_clones(setting, refuses):
    model, sampler, want, draws = setting
    t = float(model.usual_grid(sampler, 8).times(model.schedule)[PARTING])
    if sampler == "ddim":
        # the published clones of a deterministic sampler are their originals again
        assert error(want("clone/clone")[1:], want("path/0")[PARTING + 1 :]) < CHAIN
        with refuses("clones are identical"):
            tp.clone(model, 1, times=[t], sampler=sampler, **SAME)
        return
    trunk, clone = Address(0, stream=FROM_NOISE), Address(0, 0, t, CLONE)
    (own,) = draws("clone", 1)
    recorded = {trunk: draws("path", 2)[0], clone: np.concatenate([np.zeros_like(own[:1]), own])}
    run = tp.clone(
        model, 1, times=[t], sampler=sampler, noise=RecordedNoise(recorded), trajectories=True, **SAME
    )
    assert error(run.store.read("trajectory")[0], want("path/0")) < CHAIN
    # the published file begins with the end of the original in place of the state that was cloned
    assert error(run.start_latents[0], want("clone/clone")[0]) < CHAIN
    assert error(run.latents[0, 0, 0], want("clone/clone")[-1]) < CHAIN
    check_picture(run.start[0].values, want("path/0_png"))
