"""Clones: one trunk for all, the closed form, what is refused, and what they say of a model's errors."""

import numpy as np
import pytest
import torch
from statistics_of_a_mixture import kept_by_quadrature
from worlds import Mixture

import turningpoint as tp
from turningpoint.simulation.engine import Engine


@pytest.fixture(scope="module")
def world():
    means = torch.zeros(2, 4)
    means[0, 0], means[1, 0] = 2.0, -2.0
    return Mixture(means, std=0.5)


def _clone(world, n=6, **settings):
    return tp.clone(world, n, **({"times": [0.3, 0.6], "steps": 10, "progress": None} | settings))


def test_agreement_is_the_closed_form_and_equals_what_u_turns_keep(world):
    """kept_by_quadrature at four times, 4 standard errors of the bootstrap over trunks."""
    times = [0.3, 0.4, 0.5, 0.6]
    run = _clone(world, 1500, times=times, steps=100, copies=2, seed=5, batch=500).measure("class")
    c = run.curve("class")
    error = c.kept[1:].std(0)
    assert (error < 0.02).all()
    expected = np.array([kept_by_quadrature(t) for t in times])
    np.testing.assert_array_less(np.abs(c.kept[0] - expected), 4 * error)
    x, _ = world.sample(1500, seed=9)
    turns = tp.uturn(world, x, times=times, steps=100, seed=6, batch=500, progress=None).measure("class")
    table = tp.model_error(turns, run, ["class"], "kept")
    np.testing.assert_array_less(np.abs(table.difference), 4 * table.error)
    assert (table.error < 0.03).all()


def test_a_wrong_model_shows_in_the_difference(world):
    """A denoiser that thinks the components are wider than the data are keeps less of real data."""

    class Wrong(Mixture):
        def forward(self, x_t, t, label=None):
            return 0.8 * super().forward(x_t, t, label)

    wrong = Wrong(world.means, std=0.5)
    x, _ = world.sample(500, seed=1)
    settings = {"times": [0.2], "steps": 20, "batch": 250, "progress": None}
    turns, clones = tp.uturn(wrong, x, **settings), tp.clone(wrong, 500, **settings)
    table = tp.model_error(turns.measure("pixels"), clones.measure("pixels"), quantity="kept")
    assert abs(table.difference[0]) > 4 * table.error[0]


def test_trunks_are_what_generate_makes_and_are_simulated_once(world, monkeypatch):
    engines = []
    init = Engine.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        engines.append(self)

    monkeypatch.setattr(Engine, "__init__", remember)
    run = _clone(world, 4, copies=3, seed=2)
    # 10 steps of each trunk; 3 and 6 of each of three copies
    assert engines[-1].steps == 4 * (10 + 3 * (3 + 6))
    plain = tp.generate(world, 4, sampler="ddpm", steps=10, seed=2, progress=None)
    np.testing.assert_allclose(run.start.values, plain.images.values, atol=1e-5)
    assert len(np.unique(run.images.values[0, :, 0, 0])) == 3


def test_batch_shards_and_extension_do_not_matter(world, tmp_path, refuses):
    whole = _clone(world, 40, copies=2)
    small = _clone(world, 40, copies=2, batch=7)
    np.testing.assert_allclose(small.images.values, whole.images.values, atol=1e-5)
    parts = [_clone(world, 18, copies=2), _clone(world, 22, copies=2, first_item=18)]
    joined = np.concatenate([part.images.values for part in parts])
    np.testing.assert_allclose(joined, whole.images.values, atol=1e-5)
    run = _clone(world, 10, out=tmp_path / "a").measure("class")
    before = run.start.values
    with refuses("fewer times, items, replicates"):
        _clone(world, 40, copies=2, times=[0.3, 0.5, 0.6], out=tmp_path / "a")
    grown = _clone(world, 40, copies=2, times=[0.3, 0.5, 0.6], out=tmp_path / "a", extend=True)
    np.testing.assert_allclose(grown.start.values[:10], before, atol=1e-5)
    np.testing.assert_allclose(grown.images.values[:, :, [0, 2]], whole.images.values, atol=1e-5)
    fresh = _clone(world, 40, copies=2, times=[0.3, 0.5, 0.6]).measure("class")
    again = grown.measure("class")  # the trunks of before are read again, with the new ones
    np.testing.assert_array_equal(again.reading("class").start, fresh.reading("class").start)


def test_a_clone_run_continues_where_it_was_stopped(world, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, evaluations):
        if done > total / 2:
            raise Stop

    with pytest.raises(Stop):
        _clone(world, 40, out=tmp_path, batch=4, progress=stop)
    half = tp.open_run(tmp_path, world)
    flags = half.store.read("done")
    assert flags.any()
    assert not flags.all()
    run = _clone(world, 40, out=tmp_path, batch=4)
    assert run.complete
    np.testing.assert_array_equal(run.images.values, _clone(world, 40, batch=4).images.values)


def test_times_are_moved_to_the_grid_that_the_trunk_visits(world):
    run = _clone(world, 2, times=[0.31, 0.33, 0.6], steps=10)
    np.testing.assert_allclose(run.times, [0.3, 0.6])


def test_identical_clones_are_refused(world, refuses):
    with refuses("sampler is 'ddim' without noise, whose clones are identical"):
        _clone(world, sampler="ddim")
    with refuses("sampler is 'heun' without noise"):
        _clone(world, sampler="heun")
    with refuses("shared_noise is given without renoise"):
        _clone(world, shared_noise=True)
    with refuses("times hold 1, above which the grid has 0 steps"):
        _clone(world, times=[0.3, 1.0], renoise=2)
    assert _clone(world, sampler="ddim", eta=0.5).complete


@pytest.mark.parametrize(("sampler", "shared"), [("ddim", False), ("heun", False), ("ddpm", True)])
def test_renoise_makes_clones_of_deterministic_samplers_differ(world, sampler, shared):
    run = _clone(world, 3, sampler=sampler, copies=2, renoise=2, shared_noise=shared)
    assert len(np.unique(run.images.values[:, :, 0, 0])) == 6


def test_renoise_leaves_the_distribution_what_it_is():
    """A Gaussian's clones have its variance, and the correlation with the trunk that noise from s to t leaves."""
    world = Mixture(torch.zeros(1, 1), std=1.0)
    n, steps, s, up = 4000, 20, 0.3, 2
    run = tp.clone(world, n, times=[s], sampler="ddim", steps=steps, renoise=up, batch=2000, progress=None)
    trunk, copy = run.start.values[:, 0], run.images.values[:, 0, 0, 0]
    clock = world.schedule
    t = s + up / steps
    # for data N(0, 1) under VP every marginal is N(0, 1), and a deterministic path keeps x as it is
    rho = float(clock.alpha(t)) / float(clock.alpha(s))
    np.testing.assert_allclose(copy.std(), trunk.std(), atol=4 / np.sqrt(2 * n) * 2)
    np.testing.assert_allclose(np.corrcoef(trunk, copy)[0, 1], rho, atol=4 * (1 - rho**2) / np.sqrt(n))


def test_shared_noise_after_the_parting_is_the_trunks(world):
    """With no distance to go back (t = 0.3, one step) shared clones stay closer to their trunk than own ones."""
    own = _clone(world, 200, times=[0.5], renoise=1)
    shared = _clone(world, 200, times=[0.5], renoise=1, shared_noise=True)
    far = [np.square(r.images.values[:, 0, 0] - r.start.values).mean() for r in (shared, own)]
    assert far[0] < 0.8 * far[1]


def test_repeat_and_labels(tmp_path):
    run = tp.clone("digits", 3, times=[0.4], steps=5, label=[1, 2, 3], out=tmp_path, progress=None)
    assert run.store.read("label").tolist() == [1, 2, 3]
    assert tp.repeat(run, progress=None)[1] == 0
    assert "Biroli" in run.papers()[0]


def test_model_error_refuses_what_cannot_be_compared(world, refuses):
    clones = _clone(world, 4).measure("class")
    x, _ = world.sample(4)
    turns = tp.uturn(world, x, times=[0.3, 0.45], steps=10, progress=None)
    with refuses("uturns is a clone run"):
        tp.model_error(clones, turns)
    with refuses("no reading in common"):
        tp.model_error(turns, clones)
    turns.measure("class")
    assert tp.model_error(turns, clones).t.tolist() == [0.3]
    late = tp.uturn(world, x, times=[0.45], steps=10, progress=None).measure("class")
    with refuses("no time in common"):
        tp.model_error(late, clones)
    other = Mixture(world.means, std=0.4)
    with refuses("accepted: one model"):
        tp.model_error(tp.uturn(other, x, times=[0.3], steps=10, progress=None), clones)
    with refuses("quantity is 'lost'"):
        tp.model_error(turns, clones, quantity="lost")
