"""The page of a comparison tells what differs, is complete in itself, and bears what is ugly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from self_contained import page_of

from turningpoint.comparison_report import answer, comparison_report
from turningpoint.diffusion.schedule import VP
from turningpoint.experiments.compare import compare
from turningpoint.experiments.subjects import Subject
from turningpoint.experiments.trace import trace
from turningpoint.statistics.growth import Series

AXIS = np.linspace(-8, 8, 33)
EVIL = "<script>alert(1)</script>"
N = 12


def subject(label, later=0.0, features=("edges", "mass"), items=range(N), **more):
    """A run whose first feature is half grown item by item at -1 + noise + later, the others always at 2."""
    noise = np.random.default_rng(0).normal(0, 0.3, N)
    series = []
    for k, name in enumerate(features):
        centres = -1 + noise + later if k == 0 else np.full(N, 2.0)
        values = 1 / (1 + np.exp(-4 * (AXIS - centres[:, None])))
        series.append(Series(f"s.{name}", name, "scalar", "", values, np.ones(N), 0.0))
    known = {
        "schedule": VP(),
        "settings": {"grid": {"steps": 33}},
        "noise": {"seed": 0},
        "items": list(items),
    }
    return Subject(label, AXIS, series, **(known | more))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three traces: as it is, with more steps, and with another seed."""
    folder = tmp_path_factory.mktemp("runs")
    look = {"measures": "color,class", "activations": "mid_block", "progress": None}
    for name, settings in {"few": {}, "more": {"steps": 5}, "seed": {"seed": 1}}.items():
        trace("digits", 8, out=folder / name, **({"steps": 4} | look | settings))
    return folder


def test_the_page_is_complete_in_itself_and_tells_the_answer(digits, tmp_path):
    found = compare(digits / "few", digits / "more", digits / "seed")
    path = comparison_report(found, tmp_path / "deep" / "er")
    assert path == tmp_path / "deep" / "er" / "compare.html"
    text = page_of(path).text
    assert "Growth of features in few, more and seed" in text
    assert answer(found) in text
    for shown in (
        "grid.steps (4, now 5)",
        "seed (0, now 1)",
        "seed is not paired with few",
        "color.contrast",
        "The final images of more are",
        "summaries of a layer at a time",
        "Growth in seed less growth in few",
        str(digits / "more"),
    ):
        assert shown in text, shown
    names = {file.stem for file in (path.parent / "figures").iterdir()}
    assert names == {"onsets", "growth", "difference-2", "difference-3", "activity-2", "images-2"}
    onsets = pd.read_csv(path.parent / "onsets.csv")
    assert onsets["run"].unique().tolist() == ["few", "more", "seed"]
    assert pd.read_csv(path.parent / "runs.csv")["times"].tolist() == [4, 5, 4]


def test_the_command_writes_the_same_page_twice(digits, command, tmp_path):
    for _ in range(2):
        status, out, _ = command("compare", digits / "few", digits / "more", "--out", "c")
        assert status == 0
        assert out.endswith("Look at c/compare.html.\n")
        first = (tmp_path / "c" / "compare.html").read_bytes()
    assert (tmp_path / "c" / "compare.html").read_bytes() == first


def test_a_run_is_not_written_into(digits, refuses):
    found = compare(subject("a"), subject("b"))
    with refuses("which holds a run"):
        comparison_report(found, digits / "few")


def test_the_answer_names_what_is_shifted_most_and_by_how_much():
    found = compare(subject("a"), subject("b", later=1.5), subject("c"), subject("d", later=-0.5))
    b, c, d = answer(found).split("In run ")[1:]
    assert (
        b
        == "b, 1 of 2 features grows by half at another time than in a (q ≤ 0.05): edges, 1.50 later in log-SNR. "
    )
    assert c == "c, none of 2 features grows by half at another time than in a (q ≤ 0.05). "
    assert d.endswith("edges, 0.50 earlier in log-SNR.")
    many = compare(*(subject(f"run {k}") for k in range(6)))
    assert answer(many).endswith("2 more runs stand below.")


def test_open_ends_are_said_in_words():
    late = subject("late", later=20.0)  # never half grown
    found = compare(subject("a"), late)
    assert "some of them beyond the recorded times" in answer(found)


def test_the_page_trusts_no_string_and_bears_what_is_ugly(tmp_path):
    names = ("<b>x</b>", "long " * 40)
    images = np.random.default_rng(0).uniform(-1, 1, (N, 3, 8, 8))
    layers = (np.random.default_rng(1).normal(size=(N, 33, 2, 1)), ("<b>up</b>", "mid." * 30), ("magnitude",))
    more = {"images": lambda places: images[places], "activations": layers}
    one = subject(EVIL, features=names, **more)
    two = subject("runs/" * 40, later=20.0, features=names, settings={"prompt": EVIL * 20}, **more)
    two = replace(two, about={"folder": EVIL, "command": EVIL})
    blank = [replace(series, values=np.full_like(series.values, np.nan)) for series in two.series]
    found = compare(one, two, replace(two, label="gaps", series=blank))
    page = page_of(comparison_report(found, tmp_path))
    assert EVIL in page.text
    assert not [attributes for tag, attributes in page.tags if tag == "b" and attributes]
    assert "<b>x</b>" in page.text
    assert "no onset can be compared" in page.text


def test_one_feature_without_images_or_layers(tmp_path):
    found = compare(subject("a", features=("edges",)), subject("b", features=("edges",)))
    text = page_of(comparison_report(found, tmp_path)).text
    assert "The final images" not in text
    assert "What the layers do otherwise" not in text
    assert "in memory" in text
