"""``turningpoint compare`` as a user meets it."""

import json
from pathlib import Path

import pandas as pd
import pytest

from turningpoint.experiments.trace import trace


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {
        "few": {"steps": 3},
        "more": {"steps": 4},
        "seed": {"steps": 3, "seed": 1},
    }.items():
        trace("digits", 5, measures="color", progress=None, out=folder / name, **settings)
    return folder


def test_three_runs_side_by_side(command, runs):
    status, out, _ = command(
        "compare", runs / "few", runs / "more", runs / "seed", "--features", "color.contrast"
    )
    assert status == 0
    assert "more differs from few in grid.steps (3, now 4)." in out
    assert "seed differs from few in seed (0, now 1)." in out
    header = next(line for line in out.splitlines() if line.split()[:1] == ["feature"])
    assert header.split() == ["feature", "few", "more", "seed"]
    assert "(5 samples, pairs with the same noise)" in out
    assert "(5 samples, no noise is shared)" in out
    assert "note: seed is not paired with few: their noise differs in seed (0 and 1)." in out
    assert "Final images: those of more are" in out
    assert "Look at runs/compare-few-more-seed/compare.html." in out
    table = pd.read_csv("runs/compare-few-more-seed/onsets.csv")
    assert table["run"].tolist() == ["few", "more", "seed"]
    cell = next(line for line in out.splitlines() if line.strip().startswith("color.contrast"))
    assert f"{table['onset'][0]:.2f} [{table['onset_low'][0]:.2f}, {table['onset_high'][0]:.2f}]" in cell
    assert Path("runs/compare-few-more-seed/figures/difference-3.svg").exists()


def test_as_json(command, runs):
    arguments = ["compare", runs / "few", runs / "more", "--labels", "a,b", "--out", "there", "--json"]
    status, out, _ = command(*arguments, "--features", "color.contrast")
    assert status == 0
    found = json.loads(out)
    assert found["out"] == "there"
    assert found["labels"] == ["a", "b"]
    assert {row["run"] for row in found["onsets"]} == {"a", "b"}
    assert [row["quantity"] for row in found["shifts"]] == ["onset", "settled"]
    assert all(row["paired"] for row in found["shifts"])
    assert found["settings"] == [{"run": "b", "differs": "grid.steps (3, now 4)"}]
    assert found["images"][0]["items"] == 5
    assert Path("there/figures/difference.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["few"], "runs holds 1; accepted: two or more."),
        (["few", "few"], "is given twice; accepted: different runs."),
        (["few", "few/../few"], "is given twice"),
        (["few", "nowhere"], "accepted: a folder that holds a manifest.json."),
        (["few", "more", "--labels", "a"], "labels is 'a'; accepted: 2 different names"),
        (["few", "more", "--labels", "a,,"], "accepted: 2 different names"),
        (["few", "more", "--features", "class"], "features is 'class'; accepted: color.mean"),
        (["few", "more", "--of", "noise"], "of is 'noise'; accepted: estimate, state."),
        (["few", "more", "--of", "state"], "has no readings of the state"),
        (["few", "more", "--out", "more"], "which holds a run; accepted: another folder."),
    ],
)
def test_mistakes_are_one_sentence(command, runs, arguments, said):
    status, out, complaint = command(
        "compare", *(a if a.startswith("-") else _in(runs, a) for a in arguments)
    )
    assert status == 2
    assert out == ""
    assert complaint.startswith("error: ")
    assert said in complaint
    assert complaint.count("\n") == 1


def _in(runs, argument):
    """A run's folder, or what is given as it is."""
    first = argument.split("/")[0]
    return runs / argument if (runs / first).exists() or first == "nowhere" else argument
