"""``turningpoint patch`` as a user meets it."""

import json

import pandas as pd
import pytest

import turningpoint as tp
from turningpoint.experiments.trace import trace

SMALL = ["--generate", 6, "--steps", 4, "--with", "color,class"]
LAYER = ["--layer", "mid_block", "--window", "0.3:0.9"]


def _sentence(err):
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(".")
    return lines[0]


def test_from_a_layer_to_a_table_and_a_picture(command, tmp_path):
    status, out, _ = command("patch", "digits", *LAYER, *SMALL, "--out", "a")
    assert status == 0
    assert "Effects of ablate on mid_block for t in 0.3:0.9" in out
    assert "color.contrast" in out
    assert "Of 1 feature with a sign" in out
    assert "Look at a/report.html." in out
    table = pd.read_csv(tmp_path / "a" / "effects.csv")
    assert table.feature.tolist() == ["color.mean", "color.contrast", "color.histogram", "class"]
    assert (tmp_path / "a" / "figures" / "effects.pdf").stat().st_size > 1000
    run = tp.open_run("a")
    assert run.kind == "patch"
    assert run.images.shape == run.data["clean"].shape == (6, 1, 28, 28)


def test_a_donor_and_json(command):
    donor = ["--mode", "patch", "--label", 1, "--donor-label", "none", "--donor-seed", 4]
    status, out, _ = command("patch", "digits", *LAYER, *SMALL, *donor, "--out", "a", "--json")
    assert status == 0
    said = json.loads(out)
    assert said["layers"] == ["mid_block"]
    assert said["donor"] == {"condition": {}, "seed": 4}
    assert said["steps_inside"] == [2, 4]
    assert {"towards", "moved", "standardised", "p", "q"} <= set(said["effects"][0])
    assert said["report"] == "a/report.html"
    status, out, _ = command("patch", "digits", *LAYER, *SMALL, *donor, "--out", "a")
    assert "towards donor" in out


def test_beside_a_trace_each_prediction_gets_its_verdict(command, tmp_path):
    trace("digits", 12, measures="color", activations="mid_block", steps=6, out=tmp_path / "t", progress=None)
    status, out, _ = command("patch", "digits", *LAYER, *SMALL, "--out", "a", "--beside", "t")
    assert status == 0
    assert "that the layer predicts" in out or "The layer predicts none of the features" in out
    assert (tmp_path / "a" / "verdicts.csv").is_file()
    status, out, _ = command("patch", "digits", *LAYER, *SMALL, "--out", "a", "--beside", "t", "--json")
    verdicts = json.loads(out)["verdicts"]
    assert {row["verdict"] for row in verdicts} <= {
        "predicted and changed",
        "predicted, not changed",
        "changed, not predicted",
    }
    up = ["--layer", "up_blocks.0", "--window", "0.3:0.9"]
    status, _, err = command("patch", "digits", *up, *SMALL, "--out", "b", "--beside", "t")
    assert status == 2
    assert "the trace's table says nothing" in _sentence(err)
    status, _, err = command("patch", "gaussians", *LAYER, *SMALL, "--out", "c", "--beside", "t")
    assert status == 2
    assert "a trace of the model 'digits'" in _sentence(err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "mid_blok", "--window", "0.3:0.6"], "the nearest being mid_block"),
        (["--layer", "mid_block", "--window", "0.6:0.3"], "window is 0.6:0.3; accepted: a:b"),
        (["--layer", "mid_block", "--window", "0.3"], "--window is '0.3'; accepted: a:b"),
        (["--layer", "mid_block", "--window", "x:y"], "--window is 'x:y'"),
        (["--layer", "mid_block"], "neither is given"),
        ([*LAYER, "--mode", "zero"], "mode is 'zero'; accepted: ablate"),
        ([*LAYER, "--mode", "patch"], "no donor is given"),
        ([*LAYER, "--donor-seed", 1], "but a donor is given"),
        ([*LAYER, "--label", "own"], "--label is 'own'"),
        ([*LAYER, "--mode", "patch", "--donor-label", "own"], "--donor-label is 'own'"),
        ([*LAYER, "--with", "colour"], "measure is 'colour'"),
        ([*LAYER, "--with", "gain"], "--with is 'gain', which reads no final images"),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments, said):
    status, _, err = command("patch", "digits", *arguments, "--generate", 2, "--steps", 2, "--out", "a")
    assert status == 2
    assert said in _sentence(err)


def test_one_image_has_no_others_and_leaves_no_folder(command, tmp_path):
    status, _, err = command("patch", "digits", *LAYER, "--generate", 1, "--steps", 2, "--out", "a")
    assert status == 2
    assert "generate is 1; accepted: at least 2" in _sentence(err)
    assert not (tmp_path / "a").exists()


def test_a_layer_that_the_trace_has_not_watched_is_told_before_the_patch_is_made(command, tmp_path):
    tp.trace(
        "digits", 8, measures="color", steps=3, activations="mid_block", out=tmp_path / "t", progress=None
    )
    arguments = [
        "--layer",
        "up_blocks.0",
        "--window",
        "0.1:0.9",
        "--generate",
        2,
        "--steps",
        2,
        "--beside",
        "t",
    ]
    status, _, err = command("patch", "digits", *arguments, "--out", "a")
    assert status == 2
    assert "layer is up_blocks.0, of which the trace's table says nothing" in _sentence(err)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("line", ["windows a", "measure a", "check a", "merge a a --out b"])
def test_commands_for_images_that_came_back_refuse_a_patch(line, command):
    assert (
        command("patch", "digits", *LAYER, "--generate", 2, "--steps", 2, "--with", "color", "--out", "a")[0]
        == 0
    )
    status, _, err = command(*line.split())
    assert status == 2
    assert "run is 'a', which holds a patch" in _sentence(err)
