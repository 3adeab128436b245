"""``turningpoint export`` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import turningpoint as tp

SMALL = ["uturn", "digits", "--items", 4, "--times", "0.3,0.6", "--replicates", 2, "--steps", 3, "--out", "a"]


def _names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_from_a_run_to_files(command):
    assert command(*SMALL, "--with", "class")[0] == 0
    status, out, _ = command("export", "a", "--out", "files")
    assert status == 0
    assert "20 files are in files, 20 of them new; index.csv says what each is." in out
    assert "16 of them round finer numbers to 8 bits; --format npy keeps these." in out
    assert len(_names("files")) == 22
    index = pd.read_csv("files/index.csv")
    run = tp.open_run("a")
    assert index["class"][index.what == "start"].tolist() == run.reading("class").start.values.tolist()
    status, out, _ = command("export", "a", "--out", "files", "--json")
    summary = json.loads(out)
    assert summary == {
        "out": "files",
        "index": "files/index.csv",
        "files": 20,
        "written": 0,
        "kept": 20,
        "left_out": 0,
        "rounded": 16,
    }


def test_some_of_a_run(command):
    command(*SMALL)
    arguments = ["export", "a", "--items", "1:3", "--times", "0.6", "--replicates", "1", "--what", "images"]
    assert command(*arguments, "--out", "png")[0] == 0
    assert _names("png") == ["index.csv", "item0001_t0.60_copy1.png", "item0002_t0.60_copy1.png", "run.json"]
    status, out, _ = command(*arguments, "--out", "npy", "--format", "npy")
    assert status == 0
    assert "round" not in out
    want = tp.open_run("a").images.values[2, 1, 1]
    np.testing.assert_array_equal(np.load("npy/item0002_t0.60_copy1.npy"), want)
    assert command("export", "a", "--what", "start", "--items", "0,3", "--out", "s")[0] == 0
    assert _names("s") == ["index.csv", "item0000_start.png", "item0003_start.png", "run.json"]


def test_two_runs_into_one_folder(command):
    command(*SMALL)
    command(*SMALL[:-1], "b", "--label", 7)
    assert command("export", "a", "--out", "files", "--what", "images", "--times", 0.3)[0] == 0
    index = Path("files/index.csv").read_bytes()
    status, _, err = command("export", "b", "--out", "files", "--what", "images", "--times", 0.6)
    assert status == 2
    both = f"files of the run in '{Path('a').absolute()}', not of the run in '{Path('b').absolute()}'"
    assert both in err
    assert Path("files/index.csv").read_bytes() == index
    assert not list(Path("files").glob("*t0.60*"))


def test_a_run_that_is_not_finished(command):
    command(*SMALL)
    run = tp.open_run("a")
    flags = run.store.read("done").copy()
    flags[3] = False
    run.store.write("done", flags)
    assert "4 walks have not ended and are left out." in command("export", "a", "--out", "files")[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--items", "3:1"], "--items is '3:1'; accepted: a:b with a below b"),
        (["--items", "all"], "--items is 'all'"),
        (["--items", "0:5"], "items hold 4; accepted, of this run: 0 to 3"),
        (["--replicates", "0.5"], "--replicates is '0.5'"),
        (["--times", "0.5"], "times hold 0.5; accepted, of this run: 0.30, 0.60"),
        (["--what", "start,pixels"], "what is 'pixels'"),
        (["--what", "latents"], "what holds 'latents', which this run does not"),
        (["--what", "records"], "what holds 'records'"),
        (["--format", "jpg"], "format is 'jpg'"),
        (["--times", ""], "--times is ''"),
        (["--out", "a/manifest.json"], "where a file stands"),
        (["--out", ""], "out is ''; accepted: a folder"),
        (["--out", "/proc/x"], "which is not there and cannot be made"),
        (["--out", "n" * 300], "a name too long for the disk"),
    ],
)
def test_mistakes_get_one_sentence(command, arguments, named):
    command(*SMALL)
    status, _, err = command("export", "a", "--out", "files", *arguments)
    lines = [line for line in err.splitlines() if line]
    assert status == 2
    assert len(lines) == 1
    assert named in lines[0]
    assert [p.name for p in Path().iterdir()] == ["a"]


def test_there_must_be_a_run(command):
    status, _, err = command("export", "nowhere", "--out", "files")
    assert status == 2
    assert "holds a manifest.json" in err


@pytest.mark.parametrize(
    ("out", "named"), [("n" * 300, "a name too long for the disk"), ("/proc/x", "cannot be made")]
)
def test_u_turns_into_a_folder_that_cannot_be(command, out, named):
    status, _, err = command(*SMALL[:-1], out)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert named in err
    status, _, err = command("export", out, "--out", "files")
    assert status == 2
    assert "accepted: a folder that holds a manifest.json" in err
