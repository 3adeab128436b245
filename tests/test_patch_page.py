"""The page of a patch says what changed and what did not, is complete in itself, and can be written again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from self_contained import page_of

import turningpoint as tp
from turningpoint.diffusion.schedule import VP
from turningpoint.experiments.patch import patch
from turningpoint.experiments.trace import trace
from turningpoint.experiments.verdicts import verdicts
from turningpoint.patch_report import Findings, answer, findings, patch_report, remember
from turningpoint.report import report
from turningpoint.tracing import open_trace

LAYER = ["--layer", "mid_block", "--window", "0.3:0.9"]
SMALL = ["--generate", 6, "--steps", 4, "--with", "color,class"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A trace, and beside it a patch of its layer, which remembers it."""
    folder = tmp_path_factory.mktemp("study")
    trace("digits", 12, measures="color", activations="mid_block", steps=6, out=folder / "t", progress=None)
    run = patch("digits", "mid_block", (0.3, 0.9), 6, steps=4, out=folder / "p", progress=None)
    remember(run, ["color", "class"], {}, folder / "t")
    return folder


def test_the_page_is_complete_in_itself_and_tells_the_answer(study):
    path = report(tp.open_run(study / "p"))
    assert path == study / "p" / "report.html"
    page = page_of(path)
    assert "Setting mid_block to zero in 2 of 4 steps, log-SNR" in page.text
    assert "Was it predicted?" in page.text
    assert "changed" in page.text
    for shown in ("color.contrast", "patch.layers", "mid_block", "6 images, each with and without"):
        assert shown in page.text
    table = pd.read_csv(study / "p" / "effects.csv")
    assert table["feature"].tolist() == ["color.mean", "color.contrast", "color.histogram", "class"]
    pd.testing.assert_frame_equal(table, pd.read_csv(study / "p" / "figures" / "effects.csv"))
    assert set(pd.read_csv(study / "p" / "verdicts.csv")["feature"]) <= set(table["feature"])
    pairs = pd.read_csv(study / "p" / "figures" / "images.csv")
    run = tp.open_run(study / "p")
    apart = run.images.values - run.data["clean"].values
    np.testing.assert_allclose(pairs["distance"], np.sqrt((apart**2).mean((1, 2, 3))), rtol=1e-5)


def test_the_command_writes_the_same_page_again_and_a_study_may_be_moved(study, command, tmp_path):
    first = report(tp.open_run(study / "p")).read_bytes()
    shutil.copytree(study, tmp_path / "moved")
    (tmp_path / "moved" / "p" / "report.html").unlink()
    status, out, _ = command("report", tmp_path / "moved" / "p")
    assert status == 0
    assert out == "Look at moved/p/report.html.\n"
    assert (tmp_path / "moved" / "p" / "report.html").read_bytes() == first


def test_a_trace_that_is_gone_is_said_and_another_one_can_be_given(study, command, tmp_path):
    shutil.copytree(study / "p", tmp_path / "alone" / "p")
    status, _, _ = command("report", "alone/p")
    assert status == 0
    assert "cannot be read now" in page_of(tmp_path / "alone" / "p" / "report.html").text
    status, _, _ = command("report", "alone/p", "--beside", study / "t")
    assert status == 0
    assert (
        "At no time" in (text := page_of(tmp_path / "alone" / "p" / "report.html").text) or "predicts" in text
    )


def test_what_cannot_stand_beside_a_patch_is_refused(study, refuses, tmp_path):
    run = tp.open_run(study / "p")
    with refuses("accepted to a patch: a trace"):
        report(run, beside=run)
    uturns = tp.uturn("digits", items=2, times=[0.5], steps=2, progress=None).measure("color")
    with refuses("beside is a trace; accepted to a run of uturn"):
        report(uturns, folder=tmp_path, beside=open_trace(study / "t"))
    other = open_trace(study / "t")
    other.store.manifest["settings"]["model"]["fingerprint"] = "another"
    with refuses("a trace of the model 'digits' of fingerprint another"):
        findings(run, other)
    with refuses("folder is None and the run is in memory"):
        patch_report(patch("digits", "mid_block", (0.3, 0.9), 2, steps=4, progress=None))


def test_what_was_asked_is_remembered_with_the_run(study, command):
    status, out, _ = command(
        "patch", "digits", *LAYER, *SMALL, "--out", "a", "--beside", study / "t", "--json"
    )
    assert status == 0
    assert json.loads(out)["report"] == "a/report.html"
    asked = tp.open_run("a").manifest["effects"]
    assert asked["measures"] == ["color", "class"]
    assert (tp.open_run("a").folder / asked["beside"]).resolve() == (study / "t").resolve()
    status, _, _ = command("patch", "digits", *LAYER, *SMALL[:-1], "color", "--out", "a")
    assert status == 0
    again = tp.open_run("a").manifest["effects"]
    assert again == {"measures": ["color"], "told": {}, "beside": asked["beside"]}
    assert findings(tp.open_run("a")).effects["feature"].str.startswith("color.").all()


def test_a_donor_has_its_row_of_images_and_its_column(tmp_path):
    donor = {"mode": "patch", "donor": {"seed": 3}, "steps": 3, "progress": None}
    run = patch("digits", "mid_block", (0.3, 0.9), 3, **donor)
    remember(run, ["color"], {}, None)
    text = page_of(patch_report(run, tmp_path)).text
    assert "Putting the donor’s activation into mid_block" in text
    assert "to the donor" in text
    assert "The first 3 pairs, not the best ones" in text
    assert "Was it predicted?" not in text


def test_the_page_trusts_no_string_and_bears_what_is_ugly(tmp_path):
    run = patch("digits", "mid_block", (0.3, 0.9), 1, steps=4, progress=None)
    evil = "<script>alert(1)</script>"
    run.manifest["settings"]["patch"]["layers"] = [f"<b>{'blocks.' * 30}</b>", evil]
    table = _effects(["color.a", evil, "x" * 200], q=[np.nan, 0.001, 0.5])
    table[["standardised", "moved"]] = table[["standardised", "moved"]].astype(float)
    table.loc[0, [c for c in table if c.startswith(("standardised", "moved", "clean", "effect"))]] = np.nan
    table.loc[1, ["moved_low", "moved_high"]] = [-np.inf, np.inf]
    predicted = _association([(evil, 0.9, -1.0), ("y" * 150, 0.8, 3.0)], layer=evil)
    said = verdicts(table, predicted, [evil], (-2.0, 0.0))
    page = page_of(patch_report(run, tmp_path, found=Findings(table, said, evil)))
    assert evil in page.text
    assert "The only pair" in page.text
    assert not [tag for tag, _ in page.tags if tag == "b"]


def test_one_feature_and_vectors(tmp_path):
    run = patch("digits", "mid_block", (0.3, 0.9), 2, steps=4, progress=None)
    page = page_of(patch_report(run, tmp_path, found=Findings(_effects(["color.contrast"], q=[0.3]))))
    assert "changes nothing of contrast of the final images" in page.text


def _effects(names, q, moved=0.05, shift=0.4):
    table = pd.DataFrame({"feature": names, "label": [name.rpartition(".")[2] for name in names]})
    table = table.assign(
        kind="scalar", unit="", items=24, clean=1.0, changed=1.2, effect=0.2, low=0.1, high=0.3
    )
    for name, value in (("standardised", shift), ("moved", moved)):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = value, value - 0.04, value + 0.04
        if name == "standardised":
            table["p"] = table["q"] = q
    return table.assign(note="")


def _association(rows, layer="mid_block"):
    table = pd.DataFrame(rows, columns=["feature", "r", "logsnr"])
    return table.assign(layer=layer, summary="rank", q=0.001)


def _run(mode="ablate", layers=("mid_block",)):
    settings = {
        "patch": {"layers": list(layers), "window": [0.3, 0.6], "mode": mode},
        "grid": {"kind": "uniform", "steps": 10},
    }
    return SimpleNamespace(settings=settings, schedule=VP())


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        ([("s.a", 0.9, -2.0), ("s.b", 0.8, -2.0)], "2 that # at these times, 1 does change, 1 does not: b."),
        ([("s.b", 0.8, -2.0), ("s.c", 0.7, -1.0)], "2 that # at these times, none changes: b and c."),
        ([("s.b", 0.8, -2.0)], "1 that # at these times, it does not change: b."),
        ([("s.a", 0.8, -2.0)], "1 that # at these times, it does change."),
        ([("s.b", 0.8, 5.0)], "1 that # at other times, it does not change: b."),
        ([("s.z", 0.8, -2.0)], "The layer’s activity predicts none of them."),
    ],
)
def test_the_answer_says_what_was_predicted_and_did_not_change(predicted, said):
    table = _effects(["s.a", "s.b", "s.c"], q=[0.001, 0.7, 0.7])
    run = _run()
    window = (float(VP().logsnr(0.6)), float(VP().logsnr(0.3)))
    found = Findings(table, verdicts(table, _association(predicted), ["mid_block"], window), "t")
    words = answer(run, found)
    assert words.startswith("Setting mid_block to zero in ")
    assert "changes 1 of 3 features of the final images." in words
    assert said.replace("#", "the layer’s activity predicts") in words


def test_the_answer_says_whether_what_was_predicted_moved_farther():
    table = _effects(["s.a", "s.b"], q=[np.nan, np.nan]).assign(moved=[0.5, 0.2], moved_low=[0.4, 0.1])
    found = Findings(
        table, verdicts(table, _association([("s.a", 0.9, -2.0)]), ["mid_block"], (-9.0, 9.0)), "t"
    )
    assert "What it predicts moved farther than the others: 0.50 against 0.20" in answer(_run(), found)
    found = Findings(
        table, verdicts(table, _association([("s.b", 0.9, -2.0)]), ["mid_block"], (-9.0, 9.0)), "t"
    )
    assert "moved no farther than the others: 0.20 against 0.50" in answer(_run(), found)


@pytest.mark.parametrize(
    ("mode", "layers", "said"),
    [
        ("mean", ("a",), "Replacing a by its mean over positions in"),
        ("skip", ("a", "b"), "Skipping a and b in"),
        ("scale:0.5", ("a", "b", "c"), "Scaling a, b and c by 0.5 in"),
        ("patch", ("a", "b", "c", "d"), "Putting the donor’s activation into a and 3 other layers in"),
    ],
)
def test_the_answer_says_what_was_done(mode, layers, said):
    assert answer(_run(mode, layers), Findings(_effects(["s.a"], q=[0.01]))).startswith(said)
