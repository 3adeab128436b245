"""The command line as a user meets it: the main path, bad input, JSON."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import turningpoint as tp

SMALL = ["--items", "4", "--steps", "4", "--times", "0.2:0.8:3"]


def _sentence(err):
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(".")
    return lines[0]


def test_from_a_model_to_a_report(command):
    status, out, _ = command(
        "uturn", "digits", *SMALL, "--replicates", 2, "--seed", 0, "--out", "runs/a", "--json"
    )
    assert status == 0
    summary = json.loads(out)
    assert summary["sizes"] == {"item": 4, "replicate": 2, "time": 3, "channel": 1, "y": 28, "x": 28}
    assert summary["times"] == pytest.approx([0.2, 0.5, 0.8])
    assert summary["complete"]
    status, out, _ = command("measure", "runs/a")
    assert "class" in out
    assert "morphometry.slant" in out
    status, out, _ = command("windows", "runs/a")
    assert status == 0
    assert "Critical windows in log-SNR" in out
    assert "[" in out
    status, out, _ = command("windows", "runs/a", "--json", "--delta", 0.2)
    table = json.loads(out)
    assert {"feature", "start", "centre", "end", "start_low", "end_high"} <= set(table["windows"][0])
    assert "decided_before" in table
    status, out, _ = command("report", "runs/a")
    assert status == 0
    assert os.path.getsize("runs/a/report.html") > 50_000
    figures = set(os.listdir("runs/a/figures"))
    assert {"timeline.svg", "timeline.pdf", "timeline.csv", "retention.csv", "images.csv"} <= figures
    status, out, _ = command("repeat", "runs/a", "--out", "runs/b", "--json")
    assert json.loads(out)["largest_difference"] == 0
    status, out, _ = command("check", "runs/a", "--json")
    assert {row["verdict"] for row in json.loads(out)} <= {"agrees", "open", "depends on the step count"}
    status, out, _ = command("uturn", "digits", *SMALL, "--replicates", 2, "--out", "runs/c", "--seed", 1)
    assert "Next: turningpoint measure runs/c" in out
    status, out, _ = command("merge", "runs/a", "runs/c", "--out", "runs/ac", "--json")
    assert json.loads(out)["sizes"]["replicate"] == 4


def test_the_same_command_continues_and_another_is_refused(command):
    assert command("uturn", "digits", *SMALL, "--out", "a")[0] == 0
    before = tp.open_run("a").images.values
    assert command("uturn", "digits", *SMALL, "--out", "a", "--batch", 5)[0] == 0
    status, _, err = command("uturn", "digits", *SMALL, "--out", "a", "--seed", 3)
    assert status == 2
    assert "seed (0, now 3)" in _sentence(err)
    np.testing.assert_array_equal(tp.open_run("a").images.values, before)
    status, out, _ = command(
        "uturn", "digits", *SMALL, "--out", "a", "--refine", 1, "--with", "pixels", "--extend", "--json"
    )
    assert status == 0
    assert len(json.loads(out)["times"]) == 4


def test_images_from_a_folder_and_an_npz(command, tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    x, _ = tp.load("digits").starting_images()
    pixels = ((x[:3, 0].numpy() + 1) * 127.5).round().astype(np.uint8)
    for k in range(3):
        Image.fromarray(pixels[k]).save(folder / f"{k}.png")
    np.savez(tmp_path / "d.npz", images=pixels)
    for where in ("digits", "d.npz"):
        status, _, err = command(
            "uturn", "digits", "--images", where, "--times", "0.3", "--steps", 3, "--out", f"run-{where}"
        )
        assert status == 0, err
        np.testing.assert_allclose(tp.open_run(f"run-{where}").start.values, x[:3], atol=1e-6)


def _bad_inputs(folder):
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    (folder / "text" / "a.png").write_text("not a picture")
    (folder / "large").mkdir()
    Image.new("L", (32, 32)).save(folder / "large" / "a.png")
    (folder / "coloured").mkdir()
    Image.new("RGB", (28, 28)).save(folder / "coloured" / "a.png")
    (folder / "mixed").mkdir()
    Image.new("L", (28, 28)).save(folder / "mixed" / "a.png")
    (folder / "mixed" / "b.png").write_text("not a picture")
    np.savez(folder / "wrong.npz", pictures=np.zeros((2, 28, 28), np.uint8))
    np.savez(folder / "shape.npz", images=np.zeros((2, 3, 28, 28), np.uint8))
    np.savez(folder / "nan.npz", images=np.full((2, 28, 28), np.nan))
    np.savez(folder / "range.npz", images=np.full((2, 28, 28), 255.0))
    (folder / "cut.npz").write_bytes((folder / "nan.npz").read_bytes()[:100])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "empty"], "holds no picture"),
        (["--images", "text"], "'text/a.png' cannot be read as a picture"),
        (["--images", "mixed"], "--skip-bad"),
        (["--images", "large", "--fit", "exact"], "1 channels of 32x32"),
        (["--images", "coloured", "--fit", "exact"], "3 channels of 28x28"),
        (["--images", "absent"], "not there"),
        (["--images", "wrong.npz"], "holds pictures"),
        (["--images", "shape.npz"], "(2, 3, 28, 28)"),
        (["--images", "nan.npz"], "not finite"),
        (["--images", "range.npz"], "range up to 255"),
        (["--images", "cut.npz"], "cannot be read as arrays"),
        (["--times", "0:1:3"], "times holds 0"),
        (["--times", "1.5"], "times holds 1.5"),
        (["--times", "many"], "--times is 'many'"),
        (["--logsnr", "-40:0:2"], "logsnr holds -40"),
        (["--sampler", "dpm"], "accepted: ddim, ddpm, euler, euler_ve, euler_vp, heun, heun_ve, heun_vp"),
        (["--set", "eta"], "--set is 'eta'"),
        (["--label", "cat"], "--label is 'cat'"),
        (["--with", "colour", "--items", "2", "--times", "0.3", "--steps", "2"], "measure is 'colour'"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--out", "text/a.png"], "where a file stands"),
        (["--out", "text"], "holds no run"),
    ],
)
def test_bad_input_gets_one_sentence(command, tmp_path, arguments, named):
    _bad_inputs(tmp_path)
    status, _, err = command("uturn", "digits", *arguments)
    assert status == 2
    assert named in _sentence(err)


def test_unknown_things_get_one_sentence(command, tmp_path):
    sentence = _sentence(command("uturn", "nope")[2])
    assert "model is 'nope'; accepted: adm, azula, ddpm, deltas" in sentence
    assert "manifest.json" in _sentence(command("windows", "nowhere")[2])
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text('{"format": ')
    assert "cannot be read" in _sentence(command("windows", "torn")[2])


def test_bad_pictures_can_be_left_out(command, tmp_path):
    _bad_inputs(tmp_path)
    status, _, err = command(
        "uturn", "digits", "--images", "mixed", "--skip-bad", "--times", "0.3", "--steps", 2, "--out", "a"
    )
    assert status == 0, err
    assert "warning: left out: the file 'mixed/b.png'" in err
    assert ".py:" not in err
    assert tp.open_run("a").start.sizes["item"] == 1


def test_a_read_only_folder(command, tmp_path, monkeypatch):
    """As the system refuses it to a user; the superuser, as whom tests may run, is refused nothing."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:
        from pathlib import Path

        make = Path.mkdir

        def mkdir(self, *arguments, **settings):
            if locked in self.parents:
                raise PermissionError(13, "Permission denied", str(self))
            make(self, *arguments, **settings)

        monkeypatch.setattr(Path, "mkdir", mkdir)
    status, _, err = command("uturn", "digits", *SMALL, "--out", "locked/run")
    assert status == 2
    assert "cannot be written" in _sentence(err)


def test_generate_and_list_measures(command):
    _, out, _ = command("generate", "digits", 3, "--steps", 2, "--label", "1,2,3", "--out", "g", "--json")
    assert json.loads(out)["sizes"] == {"item": 3, "channel": 1, "y": 28, "x": 28}
    _, out, _ = command("measures", "--json")
    features = {row["feature"]: row["kind"] for row in json.loads(out)["measures"]}
    assert features["class"] == "categorical"
    assert features["frequency.band3"] == "vector"
    assert features["frequency.phase0"] == "comparison"
    assert features["morphometry.slant"] == "scalar"
    assert {"pixels", "color.mean"} <= set(features)


def test_start_from_generated_images(command):
    arguments = ["uturn", "digits", "--generate", 3, "--times", "0.4", "--steps", 3, "--out", "a"]
    assert command(*arguments)[0] == 0
    assert command(*arguments)[0] == 0  # the generated images are kept, and found again
    assert tp.open_run("a").start.sizes["item"] == 3


def test_clones_their_difference_and_a_report_of_both(command, tmp_path):
    times = ("--times", "0.3,0.6", "--steps", "10")
    model = "gaussians?dim=2&distance=2&std=0.5"
    status, out, _ = command("uturn", model, "--items", "6", *times, "--with", "class", "--out", "a")
    assert status == 0
    status, out, _ = command("clone", model, "--n", "6", *times, "--with", "class", "--out", "c", "--json")
    assert status == 0
    assert json.loads(out)["sizes"]["time"] == 2
    table = json.loads(command("difference", "a", "c", "--json")[1])
    assert [row["t"] for row in table] == [0.3, 0.6]
    assert "Retention of U-turns and of clones" in command("difference", "a", "c")[1]
    assert command("report", "a", "--beside", "c")[0] == 0
    assert "U-turns against clones" in (tmp_path / "a" / "report.html").read_text()
    assert "clones are identical" in _sentence(command("clone", model, "--sampler", "ddim")[2])
    assert "accepted by clone" in _sentence(command("clone", "digits", "--label", "own")[2])


def test_demos(command, tmp_path):
    status, out, _ = command("demo", "symmetry", "--items", "3", "--out", "tour")
    assert status == 0
    assert "-0.347" in out
    assert (tmp_path / "tour" / "symmetry-diagrams.svg").is_file()
    assert "demo is 'nothing'; accepted: digits, symmetry" in _sentence(command("demo", "nothing")[2])
