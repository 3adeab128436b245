"""Patches as runs: the clean images are those of generate, the changed ones what one works out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import turningpoint as tp
from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.experiments.effects import effects
from turningpoint.experiments.patch import patch, steps_inside, window_of
from turningpoint.statistics.effects import corrected

QUIET = {"progress": None}


class Linear(nn.Module):
    """x_0 = outer(inner(x) + table(label)), a vector or with ``out=2`` a vector and a variance."""

    def __init__(self, classes=4, out=1):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3 * out)
        self.table = nn.Embedding(classes + 1, 3)
        self.calls = 0

    def forward(self, x, native, label):
        self.calls += 1
        return self.outer(0.3 * self.inner(x) + self.table(label))


def _model(**settings):
    torch.manual_seed(0)
    out = 2 if settings.get("learned_variance") else 1
    return NetworkDenoiser(
        Linear(out=out), tp.VP(), (3,), predicts="x0", n_classes=4, name="linear", **settings
    ).eval()


def _picture_network():
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body
            self.extra = nn.Identity()

        def forward(self, x, native):
            return self.extra(self.body(x)).tanh()

    return NetworkDenoiser(Net(), tp.VP(), (1, 8, 8), predicts="x0", name="pictures").eval()


SAMPLERS = [("heun", {}), ("euler", {}), ("ddpm", {}), ("ddim", {"eta": 1.0}), ("heun", {"churn": 8.0})]


@pytest.mark.parametrize(("sampler", "settings"), SAMPLERS, ids=str)
def test_the_clean_images_are_those_of_generate(sampler, settings):
    model, told = (
        _model(),
        {"label": [0, 1, 2, 3, 0], "seed": 7, "steps": 8, "sampler": sampler, **settings, **QUIET},
    )
    run = patch(model, "inner", (0.2, 0.7), 5, batch=6, **told)
    plain = tp.generate(model, 5, batch=3, **told).images.values
    # each of 16 evaluations may round differently in a batch of another size
    np.testing.assert_allclose(run.data["clean"].values, plain, atol=1e-5)
    assert np.abs(run.images.values - plain).max() > 1e-3
    assert run.images.dims == ("item", "feature")


def test_with_guidance_and_with_a_learned_variance_too():
    told = {"label": 2, "steps": 6, "guidance": 2.5, **QUIET}
    model = _model()
    clean = patch(model, "inner", (0.2, 0.7), 4, **told).data["clean"].values
    np.testing.assert_allclose(clean, tp.generate(model, 4, **told).images.values, atol=1e-5)
    model, told = (
        _model(learned_variance=True),
        {"sampler": "ddpm", "variance": "learned", "steps": 6, **QUIET},
    )
    run = patch(model, "inner", (0.2, 0.7), 4, **told)
    np.testing.assert_allclose(
        run.data["clean"].values, tp.generate(model, 4, **told).images.values, atol=1e-5
    )
    assert np.isfinite(run.images.values).all()


def test_the_changed_images_are_what_one_works_out_by_hand():
    """Two Euler steps of which the second, at t = 0.5, is ablated: then x_0 = outer(table)."""
    model = _model()
    net, clock = model.network, model.schedule
    run = patch(model, "inner", (0.4, 0.6), 3, sampler="euler", grid=[1.0, 0.5, 0.0], label=1, **QUIET)
    with torch.no_grad():
        fixed = net.outer(net.table(torch.tensor([1])))
    np.testing.assert_allclose(run.images.values, fixed.expand(3, 3).numpy(), atol=1e-6)

    # of Heun's evaluations in the step from 1 to 0.5, the second is made at 0.5: it is ablated, the first is not
    run = patch(model, "inner", (0.4, 0.6), 3, sampler="heun", grid=[1.0, 0.5, 0.25, 0.0], label=1, **QUIET)
    z = np.stack([tp.SeededNoise(0).draw(tp.Address(i, stream=1), 0, (3,)) for i in range(3)])
    x, told = torch.from_numpy(z) * float(clock.start_std(1.0)), torch.ones(3, dtype=torch.long)

    def step(x, t, s, second):
        def slope(x, t, x_0):
            return (x - clock.alpha(t) * x_0) / clock.sigma(t)

        t, s = torch.tensor(t), torch.tensor(s)
        eps = slope(x, t, net(x, t, told) if float(t) > 0.6 or float(t) < 0.4 else fixed)
        ratio = clock.sigma(s) / clock.alpha(s) - clock.sigma(t) / clock.alpha(t)
        euler = clock.alpha(s) * (x / clock.alpha(t) + ratio * eps)
        if not second:
            return euler
        end = slope(euler, s, fixed if 0.4 < float(s) < 0.6 else net(euler, s, told))
        return clock.alpha(s) * (x / clock.alpha(t) + ratio * (eps + end) / 2)

    with torch.no_grad():
        for t, s in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.0)):
            x = step(x, t, s, second=s > 0)
    np.testing.assert_allclose(run.images.values, x.numpy(), atol=2e-5)


def test_a_window_without_a_step_changes_nothing_to_the_last_bit():
    for model in (_model(), _picture_network()):
        layer = "inner" if model.name == "linear" else "body.0"
        with pytest.warns(UserWarning, match="in which no step begins"):
            run = patch(model, layer, (0.51, 0.59), 5, steps=10, grid="uniform", sampler="ddpm", **QUIET)
        assert steps_inside(run) == (0, 10)
        np.testing.assert_array_equal(run.images.values, run.data["clean"].values)
        run = patch(model, layer, (0.49, 0.59), 5, steps=10, grid="uniform", sampler="ddpm", **QUIET)
        assert steps_inside(run) == (1, 10)
        assert (run.images.values != run.data["clean"].values).any()


def test_a_donor_like_the_clean_image_changes_nothing_and_another_is_generate_s():
    model, told = _model(), {"steps": 8, "sampler": "ddpm", **QUIET}
    run = patch(model, "inner,table", (0.0, 1.0), 4, mode="patch", label=1, donor={"label": 1}, **told)
    for other in (run.images, run.data["donor"]):
        np.testing.assert_allclose(other.values, run.data["clean"].values, atol=1e-5)
    run = patch(model, "inner", (0.3, 0.6), 4, mode="patch", label=1, donor={"label": 3, "seed": 9}, **told)
    donors = tp.generate(model, 4, label=3, seed=9, **told).images.values
    np.testing.assert_allclose(run.data["donor"].values, donors, atol=1e-5)
    clean = tp.generate(model, 4, label=1, **told).images.values
    np.testing.assert_allclose(run.data["clean"].values, clean, atol=1e-5)


def test_a_patch_of_all_that_tells_conditions_apart_makes_the_donor():
    """Where the label enters through one layer, that layer's donor is the donor's condition."""
    told = {"steps": 8, "sampler": "ddpm", "label": [0, 1, 2], **QUIET}
    run = patch(_model(), "table", (0.0, 1.0), 3, mode="patch", donor={"label": [3, 0, -1]}, **told)
    np.testing.assert_allclose(run.images.values, run.data["donor"].values, atol=1e-5)
    table = effects(run, tp.measure(lambda x: x[:, 0], run.model, name="first"))
    assert table.towards[0] == pytest.approx(1, abs=1e-4)


class _Stop(Exception):
    pass


def test_it_goes_on_where_it_was_stopped(tmp_path):
    model, told = _model(), {"steps": 6, "sampler": "ddpm"}
    whole = patch(model, "inner", (0.3, 0.6), 150, **told, **QUIET)

    def stop(done, total, evaluations):
        if done > 0.6 * total:
            raise _Stop

    with pytest.raises(_Stop):
        patch(model, "inner", (0.3, 0.6), 150, out=tmp_path, progress=stop, **told)
    part = tp.open_run(tmp_path, model)
    assert 0 < part.store.read("done").sum() < 150
    calls, model.network.calls = model.network.calls, 0
    run = patch(model, "inner", (0.3, 0.6), 150, out=tmp_path, **told, **QUIET)
    assert run.complete
    assert model.network.calls < calls
    for name in ("images", "clean"):
        np.testing.assert_allclose(run.data[name].values, whole.data[name].values, atol=1e-5)
    model.network.calls = 0
    patch(model, "inner", (0.3, 0.6), 150, out=tmp_path, **told, **QUIET)
    assert model.network.calls == 1  # the rehearsal
    assert json.loads((tmp_path / "manifest.json").read_text())["kind"] == "patch"


def test_a_run_is_known_by_its_change(tmp_path, refuses):
    model, told = _model(), {"steps": 4, "label": 1, **QUIET}
    patch(model, "inner", (0.3, 0.6), 2, out=tmp_path, **told)
    patch(model, "inn*", (0.3, 0.6), 2, out=tmp_path, **told)  # the same layer
    others = [
        ("outer", (0.3, 0.6), {}, "patch.layers"),
        ("inner", (0.3, 0.7), {}, "patch.window"),
        ("inner", (0.3, 0.6), {"mode": "scale:2"}, "patch.mode"),
        ("inner", (0.3, 0.6), {"mode": "patch", "donor": {"seed": 1}}, "patch.donor"),
        ("inner", (0.3, 0.6), {"seed": 3}, "seed"),
    ]
    for layer, window, settings, said in others:
        with refuses(said):
            patch(model, layer, window, 2, out=tmp_path, **(told | settings))
    with refuses("these settings differ: label"):
        patch(model, "inner", (0.3, 0.6), 2, out=tmp_path, **(told | {"label": 2}))


def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, refuses):
    model, out = _model(), tmp_path / "run"

    def wrong(said, *arguments, **settings):
        with refuses(said):
            patch(model, *arguments, **({"n": 2, "steps": 4, "out": out} | QUIET | settings))

    wrong("layer is 'iner', .*nearest being inner", "iner", (0.3, 0.6))
    wrong("window is 0.6:0.3; accepted", "inner", (0.6, 0.3))
    wrong("window and logsnr_window: neither is given", "inner")
    wrong("window and logsnr_window: both are given", "inner", (0.3, 0.6), logsnr_window=(-1, 0))
    wrong("logsnr_window is \\(1, 0\\); accepted: a:b with a < b", "inner", logsnr_window=(1, 0))
    wrong("mode is 'patch', but no donor is given", "inner", (0.3, 0.6), mode="patch")
    wrong("mode is 'ablate', but a donor is given", "inner", (0.3, 0.6), donor={"seed": 1})
    wrong("donor has 'sampler'; accepted: label", "inner", (0.3, 0.6), mode="patch", donor={"sampler": 1})
    wrong("donor seed is 'x'", "inner", (0.3, 0.6), mode="patch", donor={"seed": "x"})
    wrong("label is 9; accepted: 0 to 3", "inner", (0.3, 0.6), mode="patch", donor={"label": 9})
    wrong("mode is 'mean', but the layer 'inner'", "inner", (0.3, 0.6), mode="mean")
    assert not out.exists()
    with refuses("has no layers"):
        patch("gaussians", "inner", (0.3, 0.6), 2)


def test_a_window_in_either_clock_is_one(tmp_path):
    model = _model()
    low, high = (float(model.schedule.logsnr(t)) for t in (0.6, 0.3))
    run = patch(model, "inner", n=2, logsnr_window=(low, high), steps=4, **QUIET)
    assert run.settings["patch"]["window"] == pytest.approx([0.3, 0.6])
    assert window_of(run) == pytest.approx((low, high))


def test_effects_are_those_of_the_stored_images(tmp_path):
    model = _picture_network()
    told = {"steps": 6, "sampler": "ddpm", "store": "float32", **QUIET}
    run = patch(model, "body.0", (0.2, 0.9), 70, mode="scale:0.5", **told)
    table = effects(run, ["color", "frequency?bands=2"]).set_index("feature")
    clean, changed = run.data["clean"].values, run.images.values
    d = changed.std((1, 2, 3)) - clean.std((1, 2, 3))
    one = tp.measure("color", model)
    reading = next(r for r in one.readings if r.name == "contrast")
    before, after = (one.read(torch.from_numpy(x))[reading.name] for x in (clean, changed))
    assert table.clean["color.contrast"] == pytest.approx(before.mean(), rel=1e-6)
    assert table.effect["color.contrast"] == pytest.approx((after - before).mean(), rel=1e-4)
    assert np.sign(table.standardised["color.contrast"]) == np.sign(d.mean())
    shift = (after - before).mean() / before.std(ddof=1)
    assert table.standardised["color.contrast"] == pytest.approx(shift, rel=1e-4)
    assert table.low["color.contrast"] <= table.effect["color.contrast"] <= table.high["color.contrast"]
    np.testing.assert_allclose(table.q, corrected(table.p.to_numpy()))
    assert table.p[table.kind != "scalar"].isna().all()
    phases = table[table.kind == "comparison"]
    assert len(phases) == 2
    assert phases.moved.between(0, 1.5).all()
    assert (table["items"] == 70).all()


def test_measures_that_do_not_apply_are_left_out_unless_named(refuses):
    run = patch(_model(), "inner", (0.2, 0.9), 3, steps=4, **QUIET)
    with refuses("measure is .class.|class"):
        effects(run, "class")
    with refuses("none of the measures takes it"):
        effects(run, lambda x: x[:, 0], told={"ask": ["a"]})
    with refuses("run is of generate; accepted: a run of patch"):
        effects(tp.generate(_model(), 2, steps=2, **QUIET), "color")
    with refuses("level is 1.5"):
        effects(run, lambda x: x[:, 0], level=1.5)

    def first(x):
        """The first number."""
        return x[:, 0]

    table = effects(run, first)
    assert isinstance(table, pd.DataFrame)
    assert table.feature.tolist() == ["first"]
    assert table.columns[-1] == "note"


def test_a_latent_transformer_with_guidance_and_a_learned_variance(tmp_path):
    """A DiT: tokens, an autoencoder, both halves of guidance, ddpm with its own variance, a donor."""
    from tiny_pipelines import tiny_dit

    tiny_dit(tmp_path)
    model = tp.load(f"diffusers:{tmp_path}")
    told = {"label": 3, "guidance": 2.0, "sampler": "ddpm", "steps": 3, **QUIET}
    run = patch(model, "transformer_blocks.*", (0.2, 0.9), 2, mode="patch", donor={"label": 5}, **told)
    plain = tp.generate(model, 2, **told)
    np.testing.assert_allclose(run.data["clean"].values, plain.images.values, atol=1e-4)
    np.testing.assert_allclose(run.data["clean_latents"].values, plain.latents.values, atol=1e-4)
    donors = tp.generate(model, 2, **(told | {"label": 5})).images.values
    np.testing.assert_allclose(run.data["donor"].values, donors, atol=1e-4)
    assert run.images.shape == plain.images.shape
    assert np.abs(run.images.values - plain.images.values).max() > 0.01
    assert run.latents.shape == plain.latents.shape
