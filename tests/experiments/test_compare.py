"""Comparing traces: worlds whose answer is known, the rule of pairing, and real runs of digits."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from turningpoint.diffusion.schedule import EDM, VP
from turningpoint.experiments.apart import (
    activations_apart,
    growth_apart,
    images_apart,
    on_grid,
    times_of_both,
)
from turningpoint.experiments.compare import compare
from turningpoint.experiments.generate import generate
from turningpoint.experiments.subjects import Subject, labelled, shared, subject
from turningpoint.experiments.trace import trace
from turningpoint.simulation.noise import Address, RecordedNoise, SeededNoise
from turningpoint.simulation.store import Store
from turningpoint.statistics.growth import Series

NOISE = {"seed": 0, "shape": (1, 4, 4)}
N = 30


def run(label, later=0.0, times=None, items=range(N), noise=NOISE, seed=0, **more):
    """A run whose feature ``a`` is half grown at c_i + later, item by item known, and ``b`` at 2 in all of them."""
    axis = np.linspace(-9, 9, 181) if times is None else times
    centres = np.random.default_rng(seed).normal(-1, 1, size=1000)[list(items)]
    series = [
        Series(name, name, "scalar", "", 1 / (1 + np.exp(-4 * (axis - at[:, None]))), np.ones(len(at)), 0.0)
        for name, at in (("a", centres + later), ("b", np.full(len(centres), 2.0)))
    ]
    known = {"schedule": VP(), "settings": {"steps": len(axis)}, "noise": noise, "items": list(items)}
    return Subject(label, axis, series, **(known | more))


def row(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_known_delay_is_found_pair_by_pair():
    found = compare(run("x"), run("y", 0.7), run("z", -0.2))
    assert found.labels == ("x", "y", "z")
    for label, delay in (("y", 0.7), ("z", -0.2)):
        one = row(found.shifts, run=label, feature="a", quantity="onset")
        assert one["paired"]
        assert one["items"] == N
        # a straight line over a step h is off by at most h^2 / 8 * |g''| / g' < 0.01 / 8 * 4 = 0.005
        assert one["difference"] == pytest.approx(delay, abs=0.005)
        assert one["low"] == pytest.approx(one["high"], abs=0.01)
        assert one["later"] == (delay > 0)
        assert one["p"] == pytest.approx(2 * 0.5**N)
        same = row(found.shifts, run=label, feature="b", quantity="settled")
        assert (same["difference"], same["later"], same["p"]) == (0.0, 0.5, 1.0)
    assert (found.shifts["q"] >= found.shifts["p"]).all()


def test_without_shared_noise_runs_are_compared_as_wholes():
    other = run("y", 0.7, noise=NOISE | {"seed": 1}, seed=5)
    found = compare(run("x"), other)
    one = row(found.shifts, run="y", feature="a", quantity="onset")
    assert not one["paired"]
    assert one["low"] < 0.7 < one["high"]
    assert one["high"] - one["low"] > 0.3  # the items' own spread is in it
    assert any("not paired with x: their noise differs in seed (0 and 1)" in note for note in found.notes)
    assert found.images.empty


def test_the_pairs_are_those_of_equal_numbers():
    a, b = run("x", items=range(0, 20)), run("y", 0.7, items=range(10, 40))
    pairs = shared(a, b)
    assert pairs.first.tolist() == list(range(10, 20))
    assert pairs.second.tolist() == list(range(10))
    one = row(compare(a, b).shifts, feature="a", quantity="onset")
    assert one["items"] == 10
    assert one["difference"] == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise": NOISE | {"seed": 3}}, "seed \\(0 and 3\\)"),
        ({"noise": NOISE | {"shape": (3, 8, 8)}}, "shape"),
        ({"noise": None}, "handed in from outside"),
        ({"items": range(100, 130)}, "fewer than two items"),
    ],
)
def test_why_there_are_no_pairs(change, reason):
    pairs = shared(run("x"), run("y", **change))
    assert not pairs
    assert re.search(reason, pairs.reason)


def test_growth_lies_on_the_range_that_all_runs_cover():
    wide, narrow = run("x", times=np.linspace(-9, 9, 91)), run("y", times=np.linspace(-5, 11, 81))
    found = compare(wide, narrow)
    for table in (found.growth, found.apart):
        assert (table["logsnr"].min(), table["logsnr"].max()) == (-5, 9)
    assert found.growth.groupby(["run", "feature"]).size().unique().tolist() == [101]
    assert any(
        "grow from where a run begins, in log-SNR x at -9.00, y at -5.00" in note for note in found.notes
    )


def test_times_without_a_place_are_left_out():
    axis = np.concatenate([[-np.inf], np.linspace(-8, 8, 81), [np.inf]])
    found = compare(run("x", times=axis), run("y", 0.5, times=axis))
    assert np.isfinite(found.growth["logsnr"]).all()
    assert (found.apart["logsnr"].min(), found.apart["logsnr"].max()) == (-8, 8)
    assert row(found.shifts, feature="a", quantity="onset")["difference"] == pytest.approx(0.5, abs=0.02)


def test_coarse_times_are_no_difference():
    """The same growth recorded at few times: between them a straight line is wrong, at them nothing differs."""
    few = run("y", times=np.linspace(-9, 9, 7))
    found = compare(run("x"), few)
    assert sorted(set(found.apart["logsnr"])) == np.linspace(-9, 9, 7).tolist()
    np.testing.assert_allclose(found.apart["difference"], 0, atol=1e-12)
    assert any("apart in log-SNR x 0.10, y 3.00" in note for note in found.notes)
    both = found.growth.pivot(index=["feature", "logsnr"], columns="run", values="growth")
    assert (both["x"] - both["y"]).abs().max() > 0.1


def test_on_a_grid_of_its_own_times_a_curve_is_itself():
    draw = np.random.default_rng(0)
    axis, curves = np.sort(draw.normal(size=12)), draw.normal(size=(3, 12))
    curves[1, 4] = np.nan
    np.testing.assert_array_equal(on_grid(curves, axis, axis), curves)
    middle = (axis[1:] + axis[:-1]) / 2
    np.testing.assert_allclose(
        on_grid(curves, axis, middle), (curves[:, 1:] + curves[:, :-1]) / 2, atol=1e-12
    )


def test_the_band_of_a_paired_difference_is_that_of_pairs():
    """Items differ by their noise alone; paired, nothing is left of it, and unpaired, the band holds zero."""
    first, other = run("x"), run("y")
    pairs = shared(first, other)
    paired = growth_apart(first, first.series, other, other.series, pairs)
    assert (paired[["difference", "low", "high"]] == 0).all(axis=None)
    apart = growth_apart(first, first.series, other, other.series, shared(first, run("z", noise=None)))
    wide = apart[apart["feature"] == "a"]
    assert (wide["high"] - wide["low"]).max() > 0.1
    assert ((wide["low"] <= 0) & (wide["high"] >= 0)).all()


def test_only_what_all_runs_have_read_alike_is_compared(refuses):
    first, other = run("x"), run("y")
    relabelled = [replace(other.series[0], label="another band"), other.series[1]]
    found = compare(first, replace(other, series=relabelled))
    assert found.features == ("b",)
    assert any("a is left out: it is not the same in all runs (a and another band)" in n for n in found.notes)
    otherwise = [replace(other.series[0], absent=2.5), other.series[1]]
    found = compare(first, replace(other, series=otherwise))
    assert found.features == ("b",)
    assert any("a is left out" in n and "absent at 2.5" in n for n in found.notes)
    with refuses("no feature in common: a is left out: it is not the same in all runs"):
        compare(replace(first, series=first.series[:1]), replace(other, series=relabelled[:1]))
    more = replace(other, series=[*other.series, replace(other.series[0], feature="c")])
    assert "not read in all runs: c" in compare(first, more).notes
    assert compare(first, other, features=["b", "b"]).features == ("b",)
    with refuses("the runs have no feature in common: x has a, b; y has c"):
        compare(first, replace(other, series=[replace(other.series[0], feature="c")]))
    with refuses("features is 'c'; accepted: a, b"):
        compare(first, other, features=["c"])


def test_what_cannot_be_compared_is_refused(refuses):
    with refuses("runs holds 1; accepted: two or more"):
        compare(run("x"))
    with refuses("of is 'both'; accepted: estimate, state"):
        compare(run("x"), run("y"), of="both")
    with refuses("share no range of log-SNR: x -9.00 to -3.00, y -2.00 to 4.00"):
        compare(run("x", times=np.linspace(-9, -3, 9)), run("y", times=np.linspace(-2, 4, 9)))
    with refuses("run is 'nowhere'"):
        compare("nowhere", "elsewhere")


def test_images_of_partners():
    draw = np.random.default_rng(0)
    pictures = draw.normal(size=(N, 1, 4, 4)).astype(np.float32)
    first = run("x", images=lambda places: pictures[places])
    near = run("y", images=lambda places: pictures[places] + 0.1)
    found = images_apart(first, near, shared(first, near)).iloc[0]
    assert found["distance"] == pytest.approx(0.1, rel=1e-5)  # float32
    assert found["nearest"] == 1
    assert found["items"] == N
    x, y = pictures.reshape(N, -1), pictures.reshape(N, -1) + np.float32(0.1)
    others = [np.sqrt(np.mean((y[i] - x[j]) ** 2)) for i in range(N) for j in range(N) if i != j]
    assert found["strangers"] == pytest.approx(np.median(others), rel=1e-5)
    turned = run("y", images=lambda places: pictures[(places + 1) % N])
    assert images_apart(first, turned, shared(first, turned)).iloc[0]["nearest"] == 0
    larger = run("y", images=lambda places: np.zeros((len(places), 1, 8, 8)))
    assert images_apart(first, larger, shared(first, larger)).empty


def activations(steps, offset=0.0, layers=("down", "up"), summaries=("magnitude", "change")):
    noise = np.random.default_rng(1).normal(size=(N, 1, len(layers), len(summaries)))
    line = np.linspace(0, 1, steps)[None, :, None, None]
    return noise + line + offset, layers, summaries


def test_activations_of_pairs():
    first = run("x", activations=activations(181))
    other = run("y", activations=activations(181, 0.25))
    found, reason = activations_apart(first, other, shared(first, other))
    assert reason == ""
    np.testing.assert_allclose(found["difference"], 0.25)  # the run less the first
    assert set(found["summary"]) == {"magnitude", "change"}
    few = run("y", times=np.linspace(-9, 9, 10), activations=activations(10, 0.25))
    found, _ = activations_apart(first, few, shared(first, few))
    assert set(found["summary"]) == {"magnitude"}  # a change from step to step is not one of other steps
    assert sorted(set(found["logsnr"])) == times_of_both(first, few).tolist()
    np.testing.assert_allclose(found["difference"], 0.25, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"activations": activations(181, layers=("down", "mid"))},
            "the runs have looked at different layers",
        ),
        ({"items": range(26, 56)}, "fewer than 5 items share their noise"),
        ({"noise": None}, "fewer than 5 items share their noise"),
    ],
)
def test_why_activations_are_not_compared(change, reason):
    first = run("x", activations=activations(181))
    found = compare(first, run("y", **({"activations": activations(181)} | change)))
    assert found.activations.empty
    assert f"activations of y are not compared: {reason}" in found.notes


def test_the_clock_is_shown_only_if_it_is_shared():
    assert compare(run("x"), run("y")).one_clock
    assert not compare(run("x"), run("y", schedule=EDM())).one_clock


def test_names_of_runs(refuses, tmp_path):
    assert labelled([tmp_path / "a", tmp_path / "b"], None) == ["a", "b"]
    assert labelled([tmp_path / "a" / "trace", tmp_path / "b" / "trace"], None) == ["a/trace", "b/trace"]
    assert labelled(["a", "b"], ["one", " two"]) == ["one", "two"]
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    with refuses("is given twice; accepted: different runs"):
        labelled([tmp_path / "a", tmp_path / "link"], None)
    with refuses("labels is 'a, a'; accepted: 2 different names"):
        labelled(["x", "y"], ["a", "a"])
    with refuses("labels is 'a'; accepted: 2 different names"):
        labelled(["x", "y"], ["a"])


def digits(**settings):
    known = {"measures": "color", "steps": 4, "progress": None}
    return trace("digits", settings.pop("n", 6), **(known | settings))


@pytest.fixture(scope="module")
def base():
    return digits(activations="up_blocks.*")


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 7},
        {"sampler": "ddpm", "grid": "uniform"},
        {"label": 3, "guidance": 2.0},
        {"n": 4, "first_item": 2},
        {"every": 2},
        {"store": "uint8"},
    ],
)
def test_runs_of_one_seed_are_paired(base, settings):
    other = digits(**settings)
    found = compare(base, other, labels=["base", "other"])
    assert found.shifts["paired"].all()
    assert found.shifts["items"].max() == settings.get("n", 6)


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"first_item": 6}, {"noise": SeededNoise(0)}, {"model": "gaussians?means=-1,1"}],
)
def test_runs_of_other_noise_are_not(base, settings):
    model = settings.pop("model", "digits")
    known = {"measures": "color" if model == "digits" else "pixels", "steps": 4, "progress": None}
    other = trace(model, 6, **(known | settings))
    assert not shared(subject(base, "base"), subject(other, "other"))


def test_the_rule_is_that_of_the_noise(base):
    """Paired items do begin with the same draw, and the same seed elsewhere does not."""
    source = SeededNoise(base.settings["seed"])
    draws = [source.draw(Address(i, 0, 1.0, 1), 0, (1, 28, 28)) for i in range(6)]
    recorded = RecordedNoise(
        {Address(i, stream=1): draw[None] for i, draw in enumerate(draws)}, SeededNoise(9)
    )
    again = trace("digits", 6, measures="color", steps=4, progress=None, noise=recorded)
    np.testing.assert_array_equal(again.images.values, base.images.values)  # Heun's steps draw nothing


def test_noised_images_are_paired_by_what_they_are():
    images = np.random.default_rng(0).uniform(-1, 1, size=(4, 1, 28, 28)).astype(np.float32)

    def noised(pictures, **settings):
        known = {"measures": "color", "steps": 3, "progress": None, "from_time": 0.6}
        return trace("digits", images=pictures, **(known | settings))

    first = noised(images)
    found = compare(first, noised(images, sampler="ddim"), labels=["a", "b"])
    assert found.shifts["paired"].all()
    assert "sampler.name (heun, now ddim)" in set(found.settings["differs"])
    mixed = compare(first, noised(images[[0, 2, 1, 3]]), labels=["a", "b"])  # two keep their place
    assert mixed.shifts["items"].max() == 2
    later = compare(first, noised(images, from_time=0.8), labels=["a", "b"])
    assert not later.shifts["paired"].any()
    assert any("beginning (t = 0.6 and t = 0.8)" in note for note in later.notes)


def test_what_differs_is_named(base):
    other = digits(label=3, guidance=2.0, store="uint8", n=5)
    found = compare(base, other, labels=["base", "three"])
    told = set(found.settings["differs"])
    assert told == {"guidance (None, now 2.0)", "items (6, now 5)", "label (None, now 3)"}


def test_a_run_with_itself_shows_nothing(base):
    again = digits(activations="up_blocks.*")
    found = compare(base, again, labels=["base", "again"])
    assert found.settings.empty
    assert (found.shifts["difference"].dropna() == 0).all()
    assert (found.shifts["p"].dropna() == 1).all()
    assert (found.apart["difference"].dropna() == 0).all()
    assert found.images.iloc[0]["distance"] == 0
    assert not found.activations["significant"].any()
    assert set(found.activations["run"]) == {"again"}


def test_other_runs_are_refused(refuses, tmp_path, base):
    generate("digits", 2, steps=2, out=tmp_path / "pictures", progress=None)
    with refuses("holds a run of generate; accepted: a run of trace"):
        compare(base, tmp_path / "pictures")
    digits(out=tmp_path / "whole", n=4)
    store = Store.open(tmp_path / "whole")
    store.write("done", np.array([True, False, True, False]))
    with refuses("lacks 2 of 4 trajectories"):
        compare(base, tmp_path / "whole")
    with refuses("has no readings of the state"):
        compare(base, digits(), of="state", labels=["a", "b"])


def test_tables_and_figures_are_written(refuses, tmp_path, base):
    found = compare(base, digits(steps=6, activations="up_blocks.*"), labels=["five", "six"])
    paths = found.save(tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    assert {"onsets.csv", "shifts.csv", "growth.csv", "apart.csv", "settings.csv", "images.csv"} <= names
    for name in ("onsets", "growth", "difference", "activity"):
        assert {f"figures/{name}.{kind}" for kind in ("svg", "pdf", "csv")} <= names
    assert all(path.stat().st_size > 0 for path in paths)
    read = pd.read_csv(tmp_path / "out" / "shifts.csv")
    np.testing.assert_allclose(read["difference"], found.shifts["difference"])
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "a" / "run" / "manifest.json").write_text("{}")
    with refuses("which holds a run; accepted: another folder"):
        found.save(tmp_path / "a" / "run")
    (tmp_path / "file").write_text("")
    with refuses("where a file stands"):
        found.save(tmp_path / "file")
