"""Measuring runs: settings that reach their measures, maps and susceptibilities, the autoencoder's own losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_latent_runs import Letters

import turningpoint as tp
from turningpoint.measures import MEASURES, Measure, Reading, takes
from turningpoint.statistics.susceptibility import susceptibility

QUICK = {"steps": 3, "progress": None}


class Quiz(Measure):
    """Whether the mean exceeds each of some thresholds, and how far each quarter has moved."""

    name = "quiz"
    adds_up = ("ask",)

    def __init__(self, model=None, ask=(), unit=1.0):
        asked = [ask] if isinstance(ask, str | float) else list(ask)
        self.thresholds, self.unit = [float(a) for a in asked], unit
        self.readings = (
            *(Reading(f"q{k}", "categorical", "above", values=("no", "yes")) for k in range(len(asked))),
            Reading("moved", "map", "by how much each quarter has moved"),
        )

    def read(self, images):
        mean = images.flatten(1).mean(1)
        return {f"q{k}": (mean > at * self.unit).numpy().astype(int) for k, at in enumerate(self.thresholds)}

    def compare(self, a, b):
        moved = (b - a).unfold(2, 14, 14).unfold(3, 14, 14).mean((1, 4, 5)).flatten(1)
        return {"moved": moved.numpy()}

    def settings(self):
        return {"thresholds": self.thresholds, "unit": self.unit}


@pytest.fixture
def quiz(monkeypatch):
    MEASURES.names()
    monkeypatch.setitem(MEASURES._known, "quiz", Quiz)


@pytest.fixture(scope="module")
def digits():
    return tp.uturn("digits", items=12, times=[0.3, 0.7], replicates=2, **QUICK)


def test_settings_go_to_the_measures_that_take_them(quiz, digits, refuses):
    assert takes("quiz") == {"ask", "unit"}
    digits.measure("quiz", "color", ask=[-0.9, -0.8], bins=4, progress=None)
    assert "quiz.q1" in digits.features()
    assert digits.reading("color.histogram")["start"].shape == (12, 4)
    assert digits.reading("quiz.q0").attrs["values"] == ["no", "yes"]
    with refuses("bins is given, but none of the measures pixels takes it"):
        digits.measure("pixels", bins=4)
    with refuses("none is named"):
        digits.measure(bins=4)


def test_questions_add_up_and_other_settings_stay(quiz):
    run = tp.uturn("digits", items=4, times=[0.3], **QUICK)
    run.measure("quiz", ask=-0.9, unit=0.5, progress=None)
    run.measure("quiz", ask=-0.8, progress=None)
    assert run.store.attrs("readings/quiz")["settings"] == {"thresholds": [-0.9, -0.8], "unit": 0.5}
    ((what, told),) = run.measured_as()
    assert (what, told) == ("quiz", {"ask": [-0.9, -0.8], "unit": 0.5})
    other = tp.uturn("digits", items=4, times=[0.5], **QUICK).measure_as(run, progress=None)
    assert other.features() == run.features()


def test_what_a_query_says_is_told_as_what_an_argument_says(quiz):
    run = tp.uturn("digits", items=4, times=[0.3], **QUICK)
    run.measure("quiz?unit=0.5", ask=-0.9, progress=None)
    run.measure("quiz?ask=-0.8", progress=None)
    assert run.store.attrs("readings/quiz")["settings"] == {"thresholds": [-0.9, -0.8], "unit": 0.5}
    run.measure("quiz?unit=0.25", progress=None)
    assert run.store.attrs("readings/quiz")["settings"] == {"thresholds": [-0.9, -0.8], "unit": 0.25}
    run.measure("quiz", ask=[-0.8], progress=None)
    assert run.store.attrs("readings/quiz")["told"]["ask"] == [-0.9, -0.8]


class Program(Quiz):
    """A measure that has to be trusted."""

    def __init__(self, model=None, trust_program=False):
        super().__init__()
        if not trust_program:
            raise tp.TurningpointError("trust_program is False; accepted: True.")


def test_trust_is_not_kept_in_a_run(monkeypatch, tmp_path, refuses):
    MEASURES.names()
    monkeypatch.setitem(MEASURES._known, "quiz", Program)
    run = tp.uturn("digits", items=2, times=[0.3], out=tmp_path, **QUICK)
    run.measure("quiz", trust_program=True, progress=None)
    assert "trust" not in (tmp_path / "data.zarr" / "readings" / "quiz" / "zarr.json").read_text()
    run.measure_as(run, progress=None)  # who has said so is taken at his word, as long as the program lasts
    with refuses("trust_program is False"):
        run.measure_as(tp.open_run(tmp_path), progress=None)


class Failing(Quiz):
    """Fails on the n-th batch, or does something else then."""

    def __init__(self, at, then=None, **settings):
        super().__init__(**settings)
        self.left, self.then = at, then

    def read(self, images):
        self.left -= 1
        if self.left == 0 and self.then is None:
            raise tp.TurningpointError("the measure fails.")
        if self.left == 0:
            self.then()
        return super().read(images)


@pytest.mark.parametrize("folder", [True, False])
def test_readings_stay_until_others_are_whole(folder, tmp_path, refuses):
    run = tp.uturn("digits", items=4, times=[0.2, 0.4, 0.6], out=tmp_path if folder else None, **QUICK)
    run.measure(Quiz(ask=-0.9), progress=None)
    before = run.reading("quiz.q0")["back"].values
    with refuses("the measure fails"):
        run.measure(Failing(3, ask=-0.5), progress=None)
    np.testing.assert_array_equal(run.reading("quiz.q0")["back"].values, before)
    read = []
    run.measure(Quiz(ask=-0.5), progress=lambda done, total, seen: read.append(seen))
    assert read[-1] == 8  # what the failing one has read is kept: one time of three
    assert run.store.groups("pending") == []
    wanted = tp.uturn("digits", items=4, times=[0.2, 0.4, 0.6], **QUICK).measure(
        Quiz(ask=-0.5), progress=None
    )
    np.testing.assert_array_equal(run.reading("quiz.q0")["back"], wanted.reading("quiz.q0")["back"])
    np.testing.assert_array_equal(run.reading("quiz.moved")["back"], wanted.reading("quiz.moved")["back"])


def test_two_measures_of_a_name_at_a_time_do_not_mix(tmp_path, refuses):
    """While one process reads, another reads the same run with other settings, to its end."""
    run = tp.uturn("digits", items=4, times=[0.2, 0.4, 0.6], out=tmp_path, **QUICK)

    def meanwhile():
        tp.open_run(tmp_path).measure(Quiz(ask=-0.5), progress=None)

    with refuses("another process has replaced"):
        run.measure(Failing(3, meanwhile, ask=-0.9), progress=None)
    run = tp.open_run(tmp_path)
    assert run.store.attrs("readings/quiz")["settings"]["thresholds"] == [-0.5]
    wanted = tp.uturn("digits", items=4, times=[0.2, 0.4, 0.6], **QUICK).measure(
        Quiz(ask=-0.5), progress=None
    )
    np.testing.assert_array_equal(run.reading("quiz.q0")["back"], wanted.reading("quiz.q0")["back"])


def test_susceptibility_where_items_are_missing(quiz):
    run = tp.uturn("digits", items=4, times=[0.3, 0.7], **QUICK)
    flags = run.store.read("done").copy()
    flags[:, :, 1] = False
    run.store.write("done", flags)
    found = run.measure("quiz", progress=None).susceptibility("quiz.moved")
    assert np.isfinite(found.susceptibility.values[0])
    assert np.isnan(found.susceptibility.values[1])
    alone = tp.uturn("digits", items=3, times=[0.3], label=[1, 2, 3], **QUICK).measure("quiz", progress=None)
    assert np.isnan(alone.susceptibility("quiz.moved").susceptibility.values).all()


def test_settings_of_a_query_may_be_given_again():
    made = tp.measure("color?bins=4")
    assert made.bins == 4
    assert tp.measure("color?bins=4", bins=5).bins == 5


def test_a_map_is_kept_for_every_place_and_has_no_window(quiz, digits, refuses):
    digits.measure("quiz", ask=-0.9, progress=None)
    assert "quiz.moved" not in digits.features()
    assert digits.maps() == ["quiz.moved"]
    kept = digits.reading("quiz.moved")["back"]
    assert kept.shape == (12, 2, 2, 4)
    moved = (digits.images.values[3, 1, 1] - digits.start.values[3])[0]
    quarters = [moved[:14, :14], moved[:14, 14:], moved[14:, :14], moved[14:, 14:]]
    np.testing.assert_allclose(kept.values[3, 1, 1], [q.mean() for q in quarters], atol=1e-5)
    assert "quiz.moved" in digits.data
    with refuses("a map, which has no retention"):
        digits.retention("quiz.moved")


def test_susceptibility_of_a_map_is_that_of_its_values(quiz, digits, refuses):
    digits.measure("quiz", ask=-0.9, progress=None)
    found = digits.susceptibility("quiz.moved")
    assert found.susceptibility.dims == ("time",)
    field = digits.reading("quiz.moved")["back"].values
    for k in range(2):
        wanted = susceptibility([field[:, 0, k], field[:, 1, k]])
        np.testing.assert_allclose(found.susceptibility.values[k], wanted[0])
        assert found.low.values[k] <= wanted[0] <= found.high.values[k]
    with refuses("no map"):
        digits.susceptibility("quiz.q0")


def test_what_the_autoencoder_loses_is_no_change_of_mind():
    """Through no noise a U-turn of a latent model gives its reference, whatever the autoencoder lost before."""
    letters = Letters()
    pictures = np.random.default_rng(0).uniform(-1, 1, (6, 1, 4, 4)).astype(np.float32)
    run = tp.uturn(letters, pictures, prompt="aa", times=[0.001, 0.5], **QUICK)

    def corner(images):
        return (images[:, 0, 0, 1] > 0).int()

    run.measure(corner, "pixels", progress=None)
    original = torch.from_numpy(pictures)
    kept = (corner(letters.decode(letters.encode(original))) == corner(original)).float().mean().item()
    assert 0 < kept < 1
    assert run.round_trip("corner") == pytest.approx(kept)
    assert f"the autoencoder alone keeps {kept:.2f}" in run.windows(features=["corner"]).note[0]
    assert run.retention("corner").attrs["round_trip"] == pytest.approx(kept)
    assert run.retention("corner").kept.values[0] == 1
    lost = np.square(letters.decode(letters.encode(original)).numpy() - pictures).sum((1, 2, 3)).mean()
    assert run.round_trip("pixels") == pytest.approx(lost, rel=1e-5)
    repeated, apart = tp.repeat(run, progress=None)
    assert apart == 0
    np.testing.assert_array_equal(repeated.original, run.original)


def test_a_report_of_a_clock_that_begins_at_no_signal(tmp_path):
    """Zero terminal signal-to-noise ratio: t = 1 has log-SNR -inf, which no axis can show."""
    letters = Letters()
    betas = np.append(np.linspace(1e-3, 0.3, 19), 1.0)
    letters.schedule = tp.DiscreteVP(betas)
    run = tp.clone(
        letters, 4, times=[0.2, 0.5, 0.8, 1.0], prompt="aa", copies=2, out=tmp_path, **QUICK | {"steps": 10}
    )
    assert np.isneginf(run.images.logsnr.values[-1])

    def corner(images):
        return (images[:, 0, 0, 1] > 0.05).int()

    page = tp.report(run.measure(corner, "pixels", progress=None)).read_text()
    assert "The tree" in page
    assert "inf" not in (tmp_path / "figures" / "storyboard.csv").read_text()


def test_clones_that_would_part_at_one_step_are_warned_of():
    with pytest.warns(UserWarning, match="times are 3, which fall on 2 of the 4 steps"):
        tp.clone("digits", 1, times=[0.48, 0.5, 0.75], steps=4, progress=None)


def test_another_models_run_gives_its_pictures_and_not_its_latents(refuses):
    letters, other = Letters(), Letters()
    other.schedule = tp.EDM()
    assert other.shape == letters.shape
    base = tp.generate(letters, 3, prompt="aa", steps=3, progress=None)
    own = tp.uturn(letters, base, prompt="aa", times=[0.5], **QUICK)
    np.testing.assert_array_equal(own.start_latents, base.latents)
    run = tp.uturn(other, base, prompt="aa", logsnr=[0.0], **QUICK)
    np.testing.assert_array_equal(run.original, base.images)
    start = other.decode(other.encode(torch.from_numpy(base.images.values)))
    np.testing.assert_array_equal(run.start, start)
    with refuses("images is a run of 'letters', whose images have shape \\(1, 4, 4\\)"):
        tp.uturn("digits", base, times=[0.5], **QUICK)


def test_another_prompt_is_named(tmp_path, refuses):
    settings = {"times": [0.5], "out": tmp_path / "u", **QUICK}
    latents = np.zeros((2, 1, 2, 2), np.float32)
    tp.uturn(Letters(), latents, prompt="aa", **settings)
    with refuses("these settings differ: prompt"):
        tp.uturn(Letters(), latents, prompt="bb", **settings)
    settings["out"] = tmp_path / "c"
    tp.clone(Letters(), 2, prompt="aa", **settings)
    with refuses("these settings differ: prompt"):
        tp.clone(Letters(), 2, prompt="bb", **settings)


def test_a_latent_run_of_pictures_can_be_refined():
    pictures = np.random.default_rng(0).uniform(-1, 1, (6, 1, 4, 4)).astype(np.float32)
    run = tp.uturn(Letters(), pictures, prompt="aa", times=[0.1, 0.9], **QUICK).measure(
        "pixels", progress=None
    )
    assert len(tp.refine(run, rounds=1, progress=None).times) == 3


def test_trajectories_of_generated_starts_and_of_trunks(tmp_path, refuses):
    run = tp.uturn("digits", generate=3, trajectories=True, times=[0.5], out=tmp_path / "u", **QUICK)
    base = tp.open_run(tmp_path / "u" / "generated-3")
    path = base.data["trajectory"]
    assert path.dims == ("item", "trajectory_time", "channel", "y", "x")
    assert path.sizes["trajectory_time"] == 4
    np.testing.assert_allclose(path.values[:, -1], run.start.values, atol=1e-6)
    clones = tp.clone("digits", 3, times=[0.5], trajectories=True, out=tmp_path / "c", **QUICK)
    states = clones.data["trajectory"]
    np.testing.assert_allclose(states.values[:, -1], clones.start.values, atol=1e-6)
    np.testing.assert_allclose(states.trajectory_t.values, [1, 2 / 3, 1 / 3, 0], atol=1e-9)
    plain = tp.clone("digits", 3, times=[0.5], **QUICK)
    np.testing.assert_array_equal(plain.images, clones.images)
    assert tp.repeat(clones, progress=None)[1] == 0
    with refuses("trajectories is given"):
        tp.uturn("digits", trajectories=True, times=[0.5], **QUICK)
