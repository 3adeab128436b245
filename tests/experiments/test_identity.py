"""A run is what it says: other models, other draws, other functions are never taken for the same."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn
from worlds import Mixture

import turningpoint as tp


def _world(schedule=None, std=0.5):
    means = torch.zeros(2, 8)
    means[0, 0], means[1, 0] = 2.0, -2.0
    return Mixture(means, std=std, schedule=schedule)


def _turn(world, x, **settings):
    return tp.uturn(world, x, **({"times": [0.3, 0.6], "steps": 6, "progress": None} | settings))


@pytest.mark.parametrize(
    "schedule",
    [tp.VP(), tp.EDM(), tp.RectifiedFlow(), *map(tp.DiscreteVP.named, ("linear", "scaled_linear", "cosine"))],
    ids=repr,
)
def test_default_generation_samples_a_gaussian_on_every_schedule(schedule):
    """std 0.5; Heun's 18 steps widen it by up to 5 % (facts), 1,000 draws of 4 numbers by 4 x 1.1 %."""
    gaussian = Mixture(torch.zeros(1, 4), std=0.5, schedule=schedule)
    images = tp.generate(gaussian, 1000, batch=500, progress=None).images.values
    assert images.std() == pytest.approx(0.5, rel=0.05 + 4 / np.sqrt(2 * 4000) + 0.03)
    ancestral = tp.generate(gaussian, 1000, sampler="ddpm", steps=100, batch=500, progress=None).images.values
    assert ancestral.std() == pytest.approx(0.5, rel=0.05 + 4 / np.sqrt(2 * 4000))


def test_units_do_not_straddle_chunks_after_an_extension(tmp_path):
    world = _world()
    x, _ = world.sample(130)
    _turn(world, x[:50], out=tmp_path)
    grown = _turn(world, x, out=tmp_path, extend=True)
    assert grown.store.array("done").chunks[0] == 50
    from turningpoint.experiments.uturn import _units  # the plan itself is what is tested

    class Plan:
        base, grid, schedule = world, tp.Grid(6), world.schedule

    units = _units(grown.store, grown.manifest["axes"], [{}] * 130, Plan, (), 64)
    assert {unit.region[0].start % 50 for unit in units} == {0}
    np.testing.assert_allclose(grown.images.values, _turn(world, x).images.values, atol=1e-5)


def test_a_measure_that_fails_loses_nothing(refuses):
    world = _world()
    run = _turn(world, world.sample(6)[0]).measure("class")

    def broken(batch):
        """Fails on real images."""
        if len(batch) > 2:
            raise ValueError("no")
        return batch[:, 0]

    with pytest.raises(ValueError, match="no"):
        run.measure(broken)
    with refuses("vectors|shape"):
        run.measure("morphometry")
    assert run.features() == ["class"]
    assert len(run.windows()) == 1


def test_another_function_of_the_same_name_reads_anew(refuses):
    world = _world()
    run = _turn(world, world.sample(6)[0])

    def make(k):
        def coordinate(batch):
            """One coordinate."""
            return batch[:, k]

        return coordinate

    first = run.measure(make(0)).reading("coordinate")["back"].values
    second = run.measure(make(1)).reading("coordinate")["back"].values
    np.testing.assert_array_equal(first, run.images.values[..., 0])
    np.testing.assert_array_equal(second, run.images.values[..., 1])
    with refuses("a measure is named '<lambda>'"):
        run.measure(lambda batch: batch[:, 0])
    named = tp.measure(lambda batch: batch[:, 2], name="third", shape=(8,))
    np.testing.assert_array_equal(
        run.measure(named).reading("third")["back"].values, run.images.values[..., 2]
    )


def test_fingerprints_see_what_changes_the_answers():
    from turningpoint.models import adopt, fingerprint

    class Constant:
        schedule, shape = tp.VP(), (3,)

        def __init__(self, c):
            self.c = np.full(3, c)

        def __call__(self, x_t, t):
            return torch.from_numpy(self.c).to(x_t).expand_as(x_t)

    assert fingerprint(adopt(Constant(1.0))) == fingerprint(adopt(Constant(1.0)))
    assert fingerprint(adopt(Constant(1.0))) != fingerprint(adopt(Constant(2.0)))
    tables = [tp.DiscreteVP([0.1, b, 0.3]) for b in (0.2, 0.01)]
    assert fingerprint(_world(tables[0])) != fingerprint(_world(tables[1]))
    digits = tp.load("digits")
    assert fingerprint(tp.Guided(digits, 2.0)) != fingerprint(tp.Guided(digits, 7.0))
    trained = nn.Linear(3, 3)
    trained.schedule, trained.shape = tp.VP(), (3,)
    assert fingerprint(adopt(trained.train())) == fingerprint(adopt(trained.eval()))


def test_other_draws_are_another_run(tmp_path, refuses):
    world = _world()
    x, _ = world.sample(2)
    draws = [
        tp.RecordedNoise({tp.Address(i, 0, t): np.full((9, 8), k) for i in range(2) for t in (0.3, 0.6)})
        for k in (0.1, 0.2)
    ]
    _turn(world, x, noise=draws[0], out=tmp_path)
    _turn(world, x, noise=draws[0], out=tmp_path)
    with refuses("noise"):
        _turn(world, x, noise=draws[1], out=tmp_path)
    with refuses("noise is a ndarray"):
        _turn(world, x, noise=np.zeros((2, 8)))


def test_repeat_with_churn_and_grids_of_ones_own():
    world = _world()
    x, _ = world.sample(3)
    for settings in (
        {"sampler": "heun", "grid": tp.Grid(10, "rho"), "churn": 3.0},
        {"sampler": tp.sampler("heun", steps=5, churn=3.0), "steps": 20},
        {"sampler": "ddim", "eta": 1.0, "grid": [1.0, 0.5, 0.2]},
    ):
        run = _turn(world, x, **settings)
        json.dumps(run.manifest, allow_nan=False)
        assert tp.repeat(run, progress=None)[1] == 0


def test_networks_run_in_evaluation_mode():
    class Dropping(tp.Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.shape, self.drop = tp.VP(), (4,), nn.Dropout(0.5)

        def forward(self, x_t, t, label=None):
            return self.drop(x_t)

    run = _turn(Dropping().train(), np.ones((3, 4)))
    assert tp.repeat(run, progress=None)[1] == 0


def test_a_network_of_another_shape_is_refused(refuses):
    class Narrow(Mixture):
        def forward(self, x_t, t, label=None):
            return super().forward(x_t, t)[:, :1]

    world = _world()
    with refuses(r"returned shape \(\d+, 1\)", tp.SimulationError):
        _turn(Narrow(world.means), world.sample(2)[0])


def test_records_have_names_of_their_own(refuses, tmp_path):
    world = _world()
    x, _ = world.sample(2)
    with refuses("a record is named 'images'"):
        _turn(world, x, record=[tp.Record("state", (0.3,), "images")], out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with refuses("a record is named 'state'"):
        _turn(world, x, record=[tp.Record("state", (0.3,)), tp.Record("state", (0.2,))])
    data = _turn(world, x, record=[tp.Record("state", 0.25)]).data
    assert {"state_t", "state_logsnr", "state_native"} <= set(data.coords)
    assert data.state.dims[-1] == "feature"


def test_a_run_opens_without_its_model(tmp_path, refuses):
    world = _world()
    x, _ = world.sample(8)
    made = _turn(world, x, out=tmp_path).measure("class")
    run = tp.open_run(tmp_path)
    assert run.windows().equals(made.windows())
    assert run.schedule.config() == world.schedule.config()
    run.measure("pixels", lambda_free)
    with refuses("cannot be loaded"):
        run.measure("class")
    with refuses("fingerprint"):
        tp.open_run(tmp_path, _world(std=0.4))


def lambda_free(batch):
    """The last coordinate, which probing with another shape would not find."""
    return batch[:, 7]


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    world = _world()
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    run = _turn(world, world.sample(2)[0], out="run")
    monkeypatch.chdir(tmp_path)
    assert run.images.shape == (2, 1, 2, 8)
    os.rename(tmp_path / "a" / "run", tmp_path / "moved")
    assert tp.open_run("moved", world).complete


def test_merging_needs_numbers_that_follow_each_other(refuses):
    world = _world()
    x, _ = world.sample(6)
    with refuses("first_item=N"):
        tp.merge([_turn(world, x[:3]), _turn(world, x[3:])])
    with refuses("first_item=N"):
        tp.merge([_turn(world, x[:2]), _turn(world, x[2:4], first_item=10)])
    merged = tp.merge([_turn(world, x[:3]), _turn(world, x[3:], first_item=3)])
    assert tp.repeat(merged, progress=None)[1] < 1e-5


def test_labels_may_be_missing_for_some():
    x, _ = tp.load("digits").starting_images()
    settings = {"times": [0.3], "steps": 2, "progress": None}
    known = tp.uturn("digits", items=3, **settings)
    unknown = tp.uturn("digits", x[3:5], first_item=3, **settings)
    merged = tp.merge([known, unknown])
    assert (merged.data.label.values >= 0).tolist() == [True] * 3 + [False] * 2


def test_growing_with_images_without_labels(tmp_path):
    x, _ = tp.load("digits").starting_images()
    settings = {"times": [0.3], "steps": 2, "progress": None, "out": tmp_path}
    tp.uturn("digits", items=3, **settings)
    grown = tp.uturn("digits", x[:5], extend=True, **settings)
    assert grown.images.sizes["item"] == 5
    assert (grown.data.label.values[:3] >= 0).all()


def test_step_check_follows_a_run_that_has_grown(tmp_path):
    world = _world()
    x, _ = world.sample(6)
    run = _turn(world, x, out=tmp_path).measure("pixels")
    tp.step_check(run, progress=None)
    grown = _turn(world, x, out=tmp_path, times=[0.3, 0.45, 0.6], extend=True).measure("pixels")
    assert len(tp.step_check(grown, progress=None)) == 1


def test_times_in_float32_are_their_decimals():
    world = _world()
    x, _ = world.sample(2)
    a = _turn(world, x, times=[0.3]).images
    for times in (torch.tensor([0.3]), np.float32([0.3]), np.array([0.3]), 0.3):
        b = _turn(world, x, times=times).images
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.time, b.time)


def test_interval_ends_are_ordered_on_every_clock():
    world = _world()
    run = _turn(world, world.sample(40)[0], times=[0.1, 0.3, 0.5, 0.7]).measure("class")
    row = run.windows().iloc[0]
    for edge in ("start", "centre", "end"):
        assert row[f"{edge}_low"] <= row[edge] <= row[f"{edge}_high"]
        assert row[f"{edge}_low_t"] <= row[f"{edge}_t"] <= row[f"{edge}_high_t"]
    assert {"t", "logsnr", "native"} <= set(run.retention("class").coords)
    assert run.data["class"].attrs["kind"] == "categorical"


def test_uint8_is_for_images(refuses):
    world = _world()
    with refuses("store is 'uint8'"):
        _turn(world, world.sample(2)[0], store="uint8")
