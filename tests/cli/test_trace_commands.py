"""``trace``, ``onset``, ``report`` by commands, on the built-in model and on a tiny text-to-image model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tiny_pipelines import tiny_sd

import turningpoint as tp

TRACE = "trace digits --generate 8 --steps 12 --with frequency,color,class --activations up_blocks.* --out runs/trace"


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The run of `TRACE`, made once."""
    folder = tmp_path_factory.mktemp("traced") / "runs" / "trace"
    tp.trace(
        "digits",
        8,
        measures="frequency,color,class",
        steps=12,
        activations=["up_blocks.*"],
        out=folder,
        progress=None,
    )
    return folder


@pytest.fixture
def desk(traced, tmp_path, command):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "trace").symlink_to(traced)

    def run(line):
        status, out, complaint = command(*line.split())
        assert status == 0, f"{line}: {complaint}"
        return out

    return run


def test_one_command_tells_the_order_of_onsets_the_bands_and_the_drivers(desk, traced):
    out = desk(TRACE)
    assert "8 trajectories x 12 times are in runs/trace" in out
    assert "Onsets in log-SNR" in out
    assert re.search(r"band 4 .* +\S+ \[\S+, \S+\] +\S+ +\S+", out)
    assert "Layers whose activity goes with a feature's growth" in out
    names = {path.stem for path in (traced / "figures").glob("*.csv")}
    assert {"onsets", "growth", "curves", "bands", "activity", "maps", "association", "order"} == names
    page = (traced / "report.html").read_text()
    assert page.count("<svg") == 8
    assert 'src="' not in page
    assert "How features grow in digits" in page


def test_json_holds_what_is_printed(desk):
    found = json.loads(desk(f"{TRACE} --no-report --json"))
    assert found["items"] == 8
    assert len(found["logsnr"]) == 12
    assert len(found["emergence"]) == 5
    assert {"layer", "summary", "feature", "r", "p", "q", "family", "significant"} <= set(
        found["association"][0]
    )
    onsets = [row["onset"] for row in found["onsets"]]
    numbers = [float(value) for value in onsets if value is not None]
    assert numbers == sorted(numbers)


def test_onset_prints_the_order(desk):
    out = desk("onset runs/trace --features class,color.contrast,frequency.band4")
    assert "class" in out
    assert re.search(r"before .* \d\.\d\d \[\d\.\d\d, \d\.\d\d\]", out)
    found = json.loads(desk("onset runs/trace --json"))
    pairs = {(row["before"], row["after"]): row["probability"] for row in found["order"]}
    assert pairs["class", "frequency.band4"] + pairs["frequency.band4", "class"] == pytest.approx(1)


def test_report_is_written_again(desk, traced):
    assert "Look at" in desk("report runs/trace")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("windows runs/trace", "holds a trace"),
        ("measure runs/trace --with color", "holds a trace"),
        ("onset runs/trace --features edges", "feature is 'edges'"),
        ("onset runs/trace --of state", "no readings of the state"),
        ("trace digits --with color --keep all", "keep is 'all'"),
        ("trace digits --activations nothing --out runs/b", "activations is 'nothing'"),
        ("trace digits --images nowhere --from 0.5", "nowhere"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(desk, command, line, sentence):
    status, _, complaint = command(*line.split())
    assert status == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_a_word_of_the_prompt_against_its_absence(tmp_path, command):
    """On the same states: the prompt, a negative prompt without the word, guidance 1."""
    tiny_sd(tmp_path / "sd")
    line = "trace diffusers:sd --generate 2 --steps 3 --with color --guidance 1 --keep state --no-report --out runs/red"
    told = ["--activations", "up_blocks.*", "--prompt", "a red car", "--negative-prompt", "a car"]
    status, _, complaint = command(*line.split(), *told)
    assert status == 0, complaint
    run = tp.open_trace(tmp_path / "runs" / "red")
    values, layers, summaries = run.activation_summaries()
    contrast = values[..., summaries.index("contrast")]
    assert np.isfinite(contrast).all()
    assert (contrast > 0).all()
    # guidance 1 follows the prompt alone
    alone = tp.trace(
        "diffusers:sd", 2, measures="color", steps=3, prompt="a red car", keep="state", progress=None
    )
    np.testing.assert_allclose(run.store.read("state"), alone.store.read("state"), rtol=0, atol=1e-3)
    assert layers == ("up_blocks.0", "up_blocks.1")
