"""``trace``, ``onset``, ``report`` by commands, on the built-in model and on a tiny text-to-image model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tiny_pipelines import tiny_sd

import turningpoint as tp
from turningpoint.cli.app import print_table

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


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_table_in_a_narrow_terminal_loses_no_digit(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    columns = [
        "feature",
        "half grown",
        "half of the samples",
        "settled",
        "half of the samples",
        "onset (t)",
        "note",
    ]
    interval, spread, note = (
        "-5.61 [-5.85, -5.41]",
        "-6.11 to -5.15",
        "half there at the first time: 31 of 64 items",
    )
    rows = [["structure.edge_strength", interval, spread, interval, spread, "0.746", note]]
    print_table("Onsets", columns, rows, spare=["half of the samples"])
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "…" not in printed
    assert max(map(len, printed.partition("structure.edge_strength: ")[0].splitlines())) <= width
    assert printed.count("-5.85,") == printed.count("-5.41]") == 2
    assert width == 80 or printed.count(interval) == 2  # there cells are broken
    assert ("half of the samples" in printed) == (width == 200)
    assert {word for word in note.split() if word not in printed} == set()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trace digits --generate 2 --steps 2 --within class --out a", "within is 'class', but no layers"),
        (
            "trace digits --generate 2 --steps 2 --with color --activations mid_block --within class --out a",
            "within is 'class', which is not read; accepted: a category of one of color",
        ),
        ("trace digits --steps 2 --images b --from 0 --out a", "from_time is 0; accepted"),
    ],
)
def test_what_follows_the_simulation_is_checked_before_it(line, said, command, tmp_path):
    status, _, complaint = command(*line.split())
    assert status == 2
    assert said in complaint
    assert not (tmp_path / "a").exists()


def test_a_side_that_there_is_not_is_one_of_two(command, traced):
    status, _, complaint = command("onset", traced, "--of", "final")
    assert status == 2
    assert "of is 'final'; accepted: estimate, state." in complaint


def test_a_feature_named_twice_has_one_row(command, traced):
    status, out, _ = command("onset", traced, "--features", "class,class")
    assert status == 0
    assert len(re.findall(r"^ class\b", out, re.MULTILINE)) == 1


def test_who_interrupts_is_told_that_what_is_done_is_kept(command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("turningpoint.cli.trace.run_trace", interrupted)
    status, _, complaint = command("trace", "digits", "--generate", 2, "--steps", 2, "--out", "a")
    assert status == 130
    assert "the same command continues" in complaint
