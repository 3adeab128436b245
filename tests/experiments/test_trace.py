"""``trace``: it ends where other experiments end, and reads on the way what could be read of what it passes."""

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.experiments import along
from turningpoint.experiments import trace as tracing
from turningpoint.measures import measure

QUIET = {"progress": None}


@pytest.fixture(scope="module")
def model():
    return tp.load("digits")


@pytest.fixture(scope="module")
def kept(model):
    """A small trace with all that it passed."""
    return tp.trace(
        model, 5, measures=["color", "class", "frequency?bands=3"], of=("estimate", "state"), steps=6, seed=3,
        keep=("state", "estimate", "activations"), activations="mid_block, up_blocks.*", **QUIET,
    )  # fmt: skip


class TestWhereItEnds:
    def test_from_noise_it_ends_in_the_images_of_generate(self, model, kept):
        other = tp.generate(model, 5, steps=6, seed=3, **QUIET)
        np.testing.assert_allclose(kept.images.values, other.images.values, rtol=0, atol=1e-5)

    def test_from_noised_images_it_ends_in_the_images_of_uturn(self, model):
        images = model.starting_images()[0][:3]
        run = tp.trace(
            model, images=images, from_time=0.6, measures="color", sampler="ddpm", steps=8, seed=1, **QUIET
        )
        other = tp.uturn(model, images, times=[0.6], steps=8, seed=1, **QUIET)
        np.testing.assert_allclose(run.images.values, other.images.values[:, 0, 0], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(run.start.values, images.numpy())
        assert run.t[0] == pytest.approx(0.6)

    def test_a_stochastic_sampler_a_label_and_guidance_too(self, model):
        told = {"sampler": "ddpm", "steps": 5, "seed": 2, "label": [1, 2, 3], "guidance": 2.0}
        run = tp.trace(model, 3, measures="color", **told, **QUIET)
        other = tp.generate(model, 3, **told, **QUIET)
        np.testing.assert_allclose(run.images.values, other.images.values, rtol=0, atol=1e-5)
        assert run.data.label.values.tolist() == [1, 2, 3]

    def test_vectors_are_followed_too(self):
        def first(x):
            """The first coordinate."""
            return x[:, 0]

        run = tp.trace("gaussians", 6, measures=[first], steps=12, **QUIET)
        np.testing.assert_allclose(run.reading("first")["final"].values, run.images.values[:, 0], rtol=1e-6)


class TestWhatItPasses:
    def test_estimates_are_the_denoisers_of_the_states(self, model, kept):
        states, estimates = (torch.from_numpy(kept.store.read(side)) for side in ("state", "estimate"))
        for k, t in enumerate(kept.t):
            with torch.inference_mode():
                answer = model(states[:, k], torch.full((5,), float(t)))
            np.testing.assert_allclose(estimates[:, k].numpy(), answer.numpy(), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("side", ["estimate", "state"])
    @pytest.mark.parametrize("name", ["color", "class", "frequency?bands=3"])
    def test_what_is_read_on_the_fly_is_what_is_read_of_what_was_kept(self, model, kept, side, name):
        one = measure(name, model)
        final = torch.from_numpy(kept.images.values)
        of_final = one.read(final)
        seen = torch.from_numpy(kept.store.read(side))
        for k in range(len(kept.t)):
            values = {**one.read(seen[:, k]), **one.compare(final, seen[:, k])}
            for reading in one.readings:
                found = kept.reading(one.feature(reading), side)
                if reading.kind == "vector":
                    away = np.linalg.norm(values[reading.name] - of_final[reading.name], axis=1)
                    np.testing.assert_allclose(found["away"].values[:, k], away, rtol=1e-4, atol=1e-4)
                if "along" in found:
                    np.testing.assert_allclose(
                        found["along"].values[:, k], values[reading.name], rtol=1e-4, atol=1e-4
                    )
                if "final" in found:
                    np.testing.assert_allclose(
                        found["final"].values, of_final[reading.name], rtol=1e-5, atol=1e-5
                    )

    def test_a_feature_is_named_alone_or_twice_and_a_side_is_one_of_two(self, kept, refuses):
        feature = kept.features()[0]
        for named in (feature, [feature, feature]):
            assert [one.feature for one in kept.all_series(named)] == [feature]
        with refuses("side is 'final'; accepted: estimate, state"):
            kept.onsets(side="final")

    def test_long_vectors_leave_their_distance_only(self, kept):
        arrays = set(kept.store.dataset("readings/frequency").data_vars)
        assert {"estimate_away.band2", "state_away.band2"} <= arrays
        assert not {"estimate.band2", "final.band2"} & arrays
        assert "estimate.mean" in kept.store.dataset("readings/color").data_vars

    def test_activations_are_those_of_the_states(self, model, kept):
        """Hooks of our own on the network, for one recorded time."""
        network = model.network.unet
        k, states = 2, torch.from_numpy(kept.store.read("state"))
        found = {}
        hooks = [
            network.mid_block.register_forward_hook(lambda m, i, o: found.update(mid_block=o)),
            network.up_blocks[0].register_forward_hook(lambda m, i, o: found.update({"up_blocks.0": o})),
        ]
        with torch.inference_mode():
            model(states[:, k], torch.full((5,), float(kept.t[k])))
        for hook in hooks:
            hook.remove()
        values, layers, summaries = kept.activation_summaries()
        assert layers == ("mid_block", "up_blocks.0", "up_blocks.1")
        for name, whole in found.items():
            stored = kept.store.read(f"activations/full/{name}")
            np.testing.assert_allclose(stored[:, k], whole.numpy(), rtol=0, atol=2e-4)
            magnitude = whole.double().square().mean((1, 2, 3)).sqrt().numpy()
            mine = values[:, k, layers.index(name), summaries.index("magnitude")]
            np.testing.assert_allclose(mine, magnitude, rtol=1e-4)
        change = values[:, :, 0, summaries.index("change")]
        assert np.isnan(change[:, 0]).all()
        assert np.isfinite(change[:, 1:]).all()

    def test_every_second_step(self, kept):
        model = tp.load("digits")
        run = tp.trace(model, 5, measures="color", steps=6, seed=3, every=2, **QUIET)
        np.testing.assert_array_equal(run.t, kept.t[::2])
        np.testing.assert_allclose(
            run.reading("color.contrast")["along"].values,
            kept.reading("color.contrast")["along"].values[:, ::2],
            rtol=1e-4,
        )

    def test_nothing_large_is_stored_unless_asked(self):
        run = tp.trace("digits", 3, measures="color", steps=4, **QUIET)
        assert {"state", "estimate"}.isdisjoint(run.store.arrays())
        assert run.layers == ()

    def test_trajectories_that_wait_on_disk_are_read_alike(self, model, kept, tmp_path, monkeypatch):
        monkeypatch.setattr(tracing, "IN_MEMORY", 0)
        monkeypatch.setattr(tracing, "UNIT", 1)  # a trajectory at a time
        monkeypatch.setattr(along, "BYTES", 2 * 4 * 28 * 28)  # two images at a time
        run = tp.trace(model, 5, measures="color", steps=6, seed=3, out=tmp_path / "run", **QUIET)
        for name in ("along", "final"):
            np.testing.assert_allclose(
                run.reading("color.contrast")[name].values,
                kept.reading("color.contrast")[name].values,
                rtol=1e-4,
            )
        assert {p.name for p in (tmp_path / "run").iterdir()} <= {"manifest.json", "data.zarr", "locks"}


class TestGoingOn:
    def test_a_trace_that_was_stopped_goes_on(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(tracing, "CHUNK", 2)
        told = {"measures": ["color"], "activations": "mid_block", "steps": 4, "batch": 2}

        def stop(done, total, evaluations):
            if done > total / 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tp.trace(model, 6, out=tmp_path / "a", progress=stop, **told)
        partial = tp.open_trace(tmp_path / "a")
        assert 0 < partial.items < 6
        assert partial.series("color.contrast").values.shape == (partial.items, 4)
        assert (partial.onsets()["items"] <= partial.items).all()
        whole = tp.trace(model, 6, out=tmp_path / "a", **told, **QUIET)
        other = tp.trace(model, 6, **told, **QUIET)
        for array in ("readings/color/estimate.contrast", "activations/summaries", "images"):
            np.testing.assert_array_equal(whole.store.read(array), other.store.read(array))

    def test_another_measure_is_added_with_the_same_noise(self, model, tmp_path):
        run = tp.trace(model, 4, measures="color", steps=4, out=tmp_path / "a", **QUIET)
        before = run.images.values
        again = tp.trace(model, 4, measures="class", steps=4, out=tmp_path / "a", **QUIET)
        assert sorted(again.measured()) == ["class", "color"]
        np.testing.assert_array_equal(again.images.values, before)
        both = tp.trace(model, 4, measures="color,class", steps=4, **QUIET)
        for array in ("class/estimate.", "color/estimate.contrast"):
            np.testing.assert_array_equal(
                again.store.read(f"readings/{array}"), both.store.read(f"readings/{array}")
            )

    def test_what_was_read_is_not_simulated_again(self, model, tmp_path):
        told = {"measures": "color", "steps": 4, "out": tmp_path / "a"}
        tp.trace(model, 4, **told, **QUIET)
        calls = []
        tp.trace(model, 4, **told, progress=lambda done, total, evaluations: calls.append(evaluations))
        assert max(calls) == 0

    def test_a_measure_with_other_settings_is_read_anew(self, model, tmp_path):
        tp.trace(model, 3, measures="frequency?bands=3", steps=3, out=tmp_path / "a", **QUIET)
        run = tp.trace(model, 3, measures="frequency?bands=4", steps=3, out=tmp_path / "a", **QUIET)
        assert len(run.bands()) == 4
        assert len(run.gain().half[0]) == 4

    def test_another_side_is_added_to_the_one_that_was_read(self, model, tmp_path):
        first = tp.trace(model, 2, measures="color", steps=3, out=tmp_path / "a", **QUIET)
        before = first.series("color.contrast").values
        both = tp.trace(model, 2, measures="color", of="state", steps=3, out=tmp_path / "a", **QUIET)
        assert both.sides("color.contrast") == ("estimate", "state")
        np.testing.assert_allclose(both.series("color.contrast").values, before, rtol=1e-4)
        again = tp.trace(model, 2, measures="color", steps=3, out=tmp_path / "a", **QUIET)
        assert again.sides("color.contrast") == ("estimate", "state")

    def test_a_measure_that_was_stopped_says_how_to_go_on(self, model, tmp_path, monkeypatch, refuses):
        monkeypatch.setattr(tracing, "CHUNK", 2)
        told = {"steps": 3, "batch": 2, "out": tmp_path / "a"}
        tp.trace(model, 4, measures="color", **told, **QUIET)

        def stop(done, total, evaluations):
            if evaluations > 10:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tp.trace(model, 4, measures="class", **told, progress=stop)
        run = tp.open_trace(tmp_path / "a")
        assert "class" not in run.features()
        with refuses("trajectories that 'class' has not read; give the same command of trace again"):
            run.series("class")

    def test_workers_that_read_other_sides_write_the_same_chunks(self, model, tmp_path, monkeypatch):
        told = {"measures": "color", "steps": 3, "out": tmp_path / "a"}
        tp.trace(model, 6, **told, **QUIET)
        monkeypatch.setattr(tracing, "UNIT", 1)  # would be a trajectory at a time
        run = tp.trace(model, 6, of=("estimate", "state"), **told, **QUIET)
        locks = {path.stem for path in (tmp_path / "a" / "locks").iterdir()}
        assert locks == {"run", "0"}
        assert run.store.array("readings/color/done").chunks == run.store.array("done").chunks

    def test_a_measure_that_another_process_reads_otherwise_is_left_to_it(
        self, model, tmp_path, monkeypatch, refuses
    ):
        monkeypatch.setattr(tracing, "CHUNK", 2)
        told = {"steps": 3, "batch": 2, "out": tmp_path / "a"}

        def disturb(done, total, evaluations):
            if evaluations:  # a walk has ended, and is not written
                store = tp.open_trace(tmp_path / "a").store
                store.annotate("readings/color", {"settings": {"bins": 8}})

        with refuses("measure is 'color', which another process now reads with other settings"):
            tp.trace(model, 4, measures="color", **told, progress=disturb)
        assert not tp.open_trace(tmp_path / "a").store.read("readings/color/done").any()

        ended = []

        def remove(done, total, evaluations):
            ended.extend([evaluations] if evaluations else [])
            if len(ended) == 2:  # the first two are written, and the flags of others are looked for
                tp.open_trace(tmp_path / "a").store.remove("readings/color")

        with refuses("measure is 'color', which another process now reads with other settings"):
            tp.trace(model, 4, measures="color", **told, progress=remove)

    def test_another_run_in_the_folder_is_refused(self, model, tmp_path, refuses):
        tp.trace(model, 3, measures="color", steps=3, out=tmp_path / "a", **QUIET)
        for other in ({"steps": 4}, {"seed": 1}, {"every": 2}, {"activations": "mid_block"}):
            with refuses("holds another run; these settings differ"):
                tp.trace(model, 3, measures="color", out=tmp_path / "a", **({"steps": 3} | other), **QUIET)
        with refuses("these settings differ: items"):
            tp.trace(model, 4, measures="color", steps=3, out=tmp_path / "a", **QUIET)


class TestOpening:
    def test_each_kind_of_run_has_its_opener(self, tmp_path, refuses):
        tp.trace("digits", 2, measures="color", steps=2, out=tmp_path / "a", **QUIET)
        tp.generate("digits", 2, steps=2, out=tmp_path / "b", **QUIET)
        assert tp.open_trace(tmp_path / "a", "digits").items == 2
        with refuses("holds a trace"):
            tp.open_run(tmp_path / "a")
        with refuses("holds a run of generate"):
            tp.open_trace(tmp_path / "b")

    def test_data_is_labelled(self, kept):
        data = kept.data
        assert data["color.contrast"].dims == ("item", "time")
        np.testing.assert_array_equal(data.time.values, np.sort(kept.t))
        np.testing.assert_array_equal(
            data["color.contrast"].sel(time=kept.t[0]).values,
            kept.reading("color.contrast")["along"].values[:, 0],
        )
        inside = kept.activations
        assert inside.summaries.sel(layer="mid_block", summary="magnitude").dims == ("item", "time")
        assert inside.maps.dims == ("item", "time", "layer", "row", "column")


def test_predictions_of_what_was_not_read_are_refused(refuses):
    run = tp.trace("digits", 2, measures="color", steps=2, **QUIET)
    for predicted, name in ((run.predicted_emergence, "frequency"), (run.predicted_gain, "gain")):
        with refuses(f"the trace has not read '{name}'; give measures='{name}'"):
            predicted()


BAD = [
    ({"of": "middle"}, "of is 'middle'; accepted: estimate, state"),
    ({"of": ()}, "of is ()"),
    ({"keep": "everything"}, "keep is 'everything'"),
    ({"keep": "activations"}, "no layers are named"),
    ({"every": 0}, "every is 0"),
    ({"generate": 0}, "generate is 0"),
    ({"from_time": 0.5}, "no images are given"),
    ({"items": 3}, "no images are given"),
    ({"generate": 2, "images": np.zeros((2, 1, 28, 28), np.float32)}, "images and generate are both given"),
    ({"images": np.zeros((2, 1, 28, 28), np.float32)}, "without from_time"),
    ({"images": np.zeros((2, 1, 28, 28), np.float32), "from_time": 0.0}, "from_time is 0; accepted"),
    ({"label": "own"}, "label is 'own'"),
    ({"measures": "colour"}, "measure is 'colour'"),
    ({"activations": "mid_blok"}, "activations is 'mid_blok'.*mid_block"),
    ({"sampler": "heun", "churn": 20}, "churn is 20, with which the estimate"),
    ({"told": {"classifier": "x"}, "measures": "color"}, "classifier is given"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_arguments_end_in_a_sentence_and_leave_no_folder(arguments, sentence, refuses, tmp_path):
    with refuses(sentence.replace("(", r"\(").replace(")", r"\)")):
        tp.trace("digits", **({"steps": 2, "out": tmp_path / "a"} | QUIET | arguments))
    assert not (tmp_path / "a").exists()


def test_a_world_without_layers_says_so(refuses):
    with refuses("layers"):
        tp.trace("field", 2, steps=2, activations="mid_block", **QUIET)
