"""U-turns: the closed form, independence of batch, order and sharding, continuing, extending, refusing."""

import json

import numpy as np
import pytest
import torch
from statistics_of_a_mixture import kept_by_quadrature
from worlds import Mixture

import turningpoint as tp
from turningpoint.experiments.times import turn_times


@pytest.fixture(scope="module")
def world():
    means = torch.zeros(2, 8)
    means[0, 0], means[1, 0] = 2.0, -2.0
    return Mixture(means, std=0.5)


def _turn(world, x, **settings):
    return tp.uturn(world, x, **({"times": [0.3, 0.6], "steps": 10, "progress": None} | settings))


def test_kept_agrees_with_quadrature(world):
    """facts: P(class kept) at six times; 4 standard errors of the bootstrap over starting images."""
    times = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    x, _ = world.sample(2000, seed=1)
    run = tp.uturn(world, x, times=times, replicates=2, steps=100, seed=3, batch=500, progress=None)
    c = run.measure("class").curve("class")
    error = c.kept[1:].std(0)
    expected = np.array([kept_by_quadrature(t) for t in times])
    assert (error < 0.02).all()  # the test has power
    np.testing.assert_array_less(np.abs(c.kept[0] - expected), 4 * error)


def test_batch_order_and_shards_do_not_matter(world, tmp_path):
    x, _ = world.sample(20, seed=0)
    whole = _turn(world, x, replicates=2, batch=64).images
    small = _turn(world, x, replicates=2, batch=7).images
    other = _turn(world, x, replicates=2, times=[0.6, 0.3]).images
    np.testing.assert_allclose(small.values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(other.values, whole.values)
    parts = [_turn(world, x[:9], replicates=2), _turn(world, x[9:], replicates=2, first_item=9)]
    merged = tp.merge(parts, tmp_path / "merged")
    np.testing.assert_allclose(merged.images.values, whole.values, atol=1e-5)
    assert merged.complete


def test_merging_seeds_gives_replicates_and_gaps_are_passed_over(world):
    x, _ = world.sample(6)
    a, b = _turn(world, x), _turn(world, x, seed=1, times=[0.3])
    merged = tp.merge([a, b])
    assert dict(merged.images.sizes) == {"item": 6, "replicate": 2, "time": 2, "feature": 8}
    np.testing.assert_array_equal(merged.images.values[:, 1, 0], b.images.values[:, 0, 0])
    assert not merged.complete
    assert np.isnan(merged.images.values[:, 1, 1]).all()
    r = merged.measure("class").retention("class")
    single = a.measure("class").retention("class")
    assert float(r.kept[1]) == float(single.kept[1])
    with pytest.raises(tp.TurningpointError, match=r"grid.steps \(10, now 4\)"):
        tp.merge([a, _turn(world, x, steps=4)])


def test_the_same_call_continues_and_a_larger_one_extends(world, tmp_path, refuses):
    x, _ = world.sample(10)
    out = tmp_path / "run"
    run = _turn(world, x[:6], out=out)
    run.measure("class", "pixels")
    before = run.images.values
    again = _turn(world, x[:6], out=out)
    np.testing.assert_array_equal(again.images.values, before)
    assert again.features() == ["class", "pixels"]
    with refuses("fewer items"):
        _turn(world, x, out=out)
    with refuses("fewer times, replicates"):
        _turn(world, x[:6], out=out, times=[0.3, 0.45, 0.6], replicates=2)
    grown = _turn(world, x, out=out, times=[0.3, 0.45, 0.6], replicates=2, extend=True)
    whole = _turn(world, x, times=[0.3, 0.45, 0.6], replicates=2)
    np.testing.assert_allclose(grown.images.values, whole.images.values, atol=1e-5)
    np.testing.assert_array_equal(grown.images.values[:6, :1, [0, 2]], before)
    np.testing.assert_allclose(grown.images.time, [0.3, 0.45, 0.6])
    with refuses("has gone on since 'class' read it"):
        grown.windows()
    windows = grown.measure("class", "pixels").windows()
    expected = whole.measure("class", "pixels").windows()
    np.testing.assert_allclose(windows.centre, expected.centre, atol=1e-4)
    # the first command again: everything that is there stays
    assert _turn(world, x[:6], out=out).images.sizes["item"] == 10


def test_another_run_in_the_folder_is_refused_with_the_settings_that_differ(world, tmp_path, refuses):
    x, _ = world.sample(3)
    _turn(world, x, out=tmp_path)
    kept = tp.open_run(tmp_path, world).images.values
    for settings, named in [
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"steps": 11}, r"grid.steps \(10, now 11\)"),
        ({"sampler": "ddim"}, "sampler"),
        ({"store": "float16"}, r"store \(float32, now float16\)"),
    ]:
        with refuses(named):
            _turn(world, x, out=tmp_path, **settings)
    with refuses("starting images"):
        _turn(world, x + 1, out=tmp_path)
    with refuses("model.fingerprint"):
        _turn(Mixture(world.means, std=0.4), x, out=tmp_path)
    np.testing.assert_array_equal(tp.open_run(tmp_path, world).images.values, kept)


def test_repeat_gives_the_same_images(world, tmp_path):
    x, _ = world.sample(5)
    run = _turn(world, x, out=tmp_path / "a", sampler="ddim", eta=0.5, grid="logsnr", store="float16")
    again, apart = tp.repeat(run, tmp_path / "b", progress=None)
    assert apart == 0
    assert again.settings == run.settings
    g = tp.generate(world, 5, steps=4, out=tmp_path / "g", progress=None)
    assert tp.repeat(g, progress=None)[1] == 0


def test_a_changed_model_is_not_repeated(tmp_path, refuses):
    run = tp.uturn("digits", items=2, times=[0.3], steps=3, out=tmp_path, progress=None)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["settings"]["model"]["fingerprint"] = "0" * 16
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with refuses("has changed since this run"):
        tp.repeat(tp.open_run(run.folder), progress=None)


def test_records_are_kept(world):
    x, _ = world.sample(4)
    energy = tp.Record("state", (0.5, 0.2), "energy", lambda b: b.square().sum(1, keepdim=True))
    run = _turn(world, x, record=[tp.Record("estimate", (0.6, 0.3)), energy])
    assert run.data.estimate.dims == ("item", "replicate", "time", "estimate_time", "feature")
    assert np.isfinite(run.data.estimate.sel(time=0.6)).all()
    assert np.isnan(run.data.estimate.sel(time=0.3)[..., 0, :]).all()  # 0.6 lies above that walk
    assert run.data.energy.shape == (4, 1, 2, 2, 1)
    assert np.isnan(run.data.energy.sel(time=0.3)[..., 0, :]).all()


def test_stores_read_back_within_their_resolution():
    full = tp.uturn("digits", items=3, times=[0.3], steps=3, progress=None)
    clipped = full.images.values.clip(-1, 1)
    for store, bound in [("float16", 2**-11 * 2), ("uint8", 0.5 / 127.5)]:
        run = tp.uturn("digits", items=3, times=[0.3], steps=3, store=store, progress=None)
        assert run.images.dtype == np.float32
        assert np.abs(run.images.values.clip(-1, 1) - clipped).max() <= bound * (1 + 1e-3)


def test_refine_spends_its_times_where_the_window_is(world):
    """From two times 14 units of log-SNR apart, five more close in on the true centre."""
    x, _ = world.sample(100)
    run = _turn(world, x, times=[0.1, 0.9], steps=20, replicates=2).measure("class")
    refined = tp.refine(run, rounds=5, progress=None)
    assert len(refined.times) == 7
    logsnr = np.sort(world.schedule.logsnr(refined.times).numpy())
    truth = float(world.schedule.logsnr(0.40784))  # where quadrature gives kept = 3/4
    k = np.searchsorted(logsnr, truth)
    assert logsnr[k] - logsnr[k - 1] < 14 / 6  # finer than five evenly spread ones
    plain = _turn(world, x, times=[0.1, 0.9], steps=20, replicates=2).measure("class").windows().iloc[0]
    found = refined.windows().iloc[0]
    assert abs(found.centre - truth) < abs(plain.centre - truth)


def test_step_check_sees_a_step_count_that_does_not_suffice(world):
    """Two steps return the posterior mean of one side: the likelier class is kept too often."""
    x, _ = world.sample(1000)
    times = [0.2, 0.3, 0.4, 0.45, 0.6, 0.8]
    coarse = tp.uturn(world, x, times=times, steps=2, replicates=4, batch=500, progress=None).measure("class")
    assert tp.step_check(coarse, progress=None).verdict.tolist() == ["depends on the step count"]
    fine = tp.uturn(world, x[:100], times=times, steps=40, batch=500, progress=None).measure("class")
    assert tp.step_check(fine, progress=None).verdict.tolist() == ["agrees"]


def test_conditions_of_the_digits_model(refuses):
    run = tp.uturn("digits", items=6, times=[0.3, 0.9], steps=4, label="own", progress=None)
    c = run.measure("class").curve("class")
    assert np.isnan(c.retention).all() or (c.chance[0] < 1).any()
    for settings, named in [
        ({"label": 10}, "label is 10"),
        ({"label": [1, 2]}, "2 classes for 6"),
        ({"label": "mine"}, "label is 'mine'"),
        ({"guidance": 2.0}, "no label or prompt"),
        ({"prompt": "a car"}, "prompt is given"),
        ({"label": 3, "guidance": -1.0}, "guidance is -1"),
    ]:
        with refuses(named):
            tp.uturn("digits", items=6, times=[0.3], steps=2, progress=None, **settings)
    guided = tp.uturn("digits", items=2, times=[0.9], steps=3, label=3, guidance=2.0, progress=None)
    plain = tp.uturn("digits", items=2, times=[0.9], steps=3, label=3, progress=None)
    unguided = tp.uturn("digits", items=2, times=[0.9], steps=3, label=3, guidance=1.0, progress=None)
    assert np.abs(guided.images.values - plain.images.values).max() > 1e-3
    np.testing.assert_allclose(unguided.images.values, plain.images.values, atol=1e-4)


def test_two_images_give_open_windows_not_an_error(world):
    x, _ = world.sample(2)
    windows = _turn(world, x).measure("class", "pixels").windows()
    assert len(windows) == 2
    pixels = windows[windows.feature == "pixels"].iloc[0]
    assert np.isinf([pixels.centre_low, pixels.centre_high]).any()
    one = _turn(world, x[:1]).measure("pixels").windows().iloc[0]
    assert np.isnan(one.centre)
    assert "share a condition" in one.note


def test_order_probabilities_are_paired(world):
    x, _ = world.sample(30)
    run = _turn(world, x, times=[0.1, 0.3, 0.5, 0.7]).measure("class", "pixels")
    order = run.order()
    assert order.loc["class", "pixels"] + order.loc["pixels", "class"] == pytest.approx(1)
    assert np.isnan(order.loc["class", "class"])


def test_a_turn_at_t_1_does_not_repeat_the_generation(world):
    """A deterministic path back would give the starting image; fresh noise keeps the class half the time."""
    run = tp.uturn(world, generate=200, times=[1.0], steps=20, progress=None)
    kept = float(run.measure("class").retention("class").kept[0])
    assert abs(kept - 0.5) < 4 * np.sqrt(0.25 / 200)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"times": [0.0, 0.5]}, "times holds 0"),
        ({"times": [1.2]}, "times holds 1.2"),
        ({"times": []}, "times is empty"),
        ({"times": [0.3], "logsnr": [0.0]}, "times and logsnr are given"),
        ({"logsnr": [-30.0], "times": None}, "logsnr holds -30, which is t ="),
        ({"replicates": 0}, "replicates is 0"),
        ({"steps": 0}, "steps is 0"),
        (
            {"sampler": "dpm"},
            "sampler is 'dpm'; accepted: ddim, ddpm, euler, euler_ve",
        ),
        ({"eta": 0.5}, "eta is given, but the sampler 'ddpm' takes variance"),
        ({"grid": "cosine"}, "grid is 'cosine'"),
        ({"store": "int8"}, "store is 'int8'"),
        ({"batch": 0}, "batch is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"items": 0}, "items is 0"),
    ],
)
def test_bad_arguments_get_one_sentence(world, refuses, settings, named):
    x, _ = world.sample(2)
    with refuses(named):
        _turn(world, x, **settings)


def test_clocks_agree():
    clock = tp.VP()
    t = turn_times(clock, times=[0.7, 0.3, 0.3])
    assert t == [0.3, 0.7]
    np.testing.assert_allclose(turn_times(clock, logsnr=clock.logsnr(t)), t, atol=1e-9)
    discrete = tp.DiscreteVP.named("linear")
    assert turn_times(discrete, native=[99, 499]) == [0.1, 0.5]
    assert turn_times(discrete, times=[0.30049]) == [0.3]


def test_any_callable_with_a_schedule_and_a_shape_is_a_model():
    class Zero:
        schedule, shape = tp.VP(), (3,)

        def __call__(self, x_t, t, label=None):
            return torch.zeros_like(x_t)

    run = tp.uturn(Zero(), np.ones((4, 3)), times=[0.5], steps=3, progress=None)
    np.testing.assert_allclose(run.images.values, 0, atol=1e-6)


def test_measures_by_function_name_and_mistake(world, refuses):
    x, _ = world.sample(5)
    run = _turn(world, x)

    def first(batch):
        """The first coordinate."""
        return batch[:, 0]

    run.measure(first, "class")
    assert run.features() == ["class", "first"]
    np.testing.assert_array_equal(run.reading("first")["back"].values, run.images.values[..., 0])
    assert run.data["first"].dims == ("item", "replicate", "time")
    with refuses("measure is 'nope'"):
        run.measure("pixels", "nope")
    with refuses("feature is 'nope'"):
        run.retention("nope")
    assert run.features() == ["class", "first"]


def test_default_times_of_edm_are_where_its_sampler_goes():
    clock = tp.EDM()
    times = np.array(turn_times(clock))
    assert times.min() > clock.t_min
    np.testing.assert_allclose(np.sort(clock.logsnr(times)), np.linspace(-8, 2, 9), atol=1e-6)
    np.testing.assert_allclose(turn_times(tp.VP()), np.linspace(0.1, 0.9, 9))


def test_measuring_reports_its_progress(world):
    seen = []
    run = _turn(world, world.sample(6)[0], replicates=2)
    run.measure("class", progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (24, 24, 24)
    run.measure("class", progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (24, 24, 0)  # nothing was left to read
