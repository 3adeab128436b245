"""Runs of many images: strangers by blocks, readings block by block, memory that does not grow with the images."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import turningpoint as tp
from turningpoint import readings
from turningpoint.statistics.bootstrap import SAMPLES, in_blocks, weights
from turningpoint.statistics.susceptibility import susceptibility

QUICK = {"steps": 3, "progress": None}


# ---- strangers


def test_strangers_are_other_items_of_the_same_condition():
    condition = np.repeat([0, 1, 2], [700, 650, 3])
    partner = readings.partners(condition, 64, 64)
    assert partner.shape == (1353, 1)
    assert (partner[:, 0] != np.arange(1353)).all()
    assert (condition[partner[:, 0]] == condition).all()


def test_strangers_by_blocks_lie_side_by_side():
    partner = readings.partners(np.zeros(600, int), 20, 40)
    assert partner.shape == (600, 2)
    for column in partner.T:
        blocks = column.reshape(30, 20) // 20
        assert (blocks == blocks[:, :1]).all()
        assert sorted(blocks[:, 0]) == list(range(30))
        assert sorted(column) == list(range(600))


def test_strangers_by_blocks_meet_their_own_class_as_often_as_chance_says():
    """Sorted by class, neighbours are alike; a stranger's class must be independent of one's own all the same."""
    n, classes, chunk = 64_000, 10, 8
    label = np.arange(n) * classes // n
    partner = readings.partners(np.zeros(n, int), chunk, 1)[:, 0]
    same = (
        (label[partner] == label).reshape(-1, chunk).mean(1)
    )  # a block meets one block: that is what is drawn
    error = np.sqrt(0.1 * 0.9 / len(same))
    assert abs(same.mean() - 0.1) < 4 * error


def test_few_strangers_suffice_where_there_are_many_items():
    assert readings.partners(np.zeros(100, int), 64, 1000).shape[1] == 4
    assert readings.partners(np.zeros(400, int), 64, 1000).shape[1] == 3
    assert readings.partners(np.zeros(5000, int), 64, 10000).shape[1] == 1


def test_comparisons_with_strangers_are_what_they_say_wherever_these_lie(monkeypatch):
    monkeypatch.setattr(readings, "IN_MEMORY", 1)  # nothing is kept: every stranger is looked up
    for module in ("uturn", "layout"):
        monkeypatch.setattr(f"turningpoint.experiments.{module}.CHUNK", 8)
    run = tp.uturn("digits", items=40, times=[0.4], **QUICK).measure("frequency")
    group, measure = "readings/frequency", tp.measure("frequency", run.model)
    start, back = run.start.values, run.images.values[:, 0, 0]
    partner = run.store.read(f"{group}/partner")
    assert run.store.array("start").chunks[0] == 8
    for m in range(partner.shape[1]):
        wanted = measure.compare(torch.from_numpy(start[partner[:, m]]), torch.from_numpy(back))
        for name, values in wanted.items():
            found = run.store.read(f"{group}/other.{name}")[:, 0, 0, m]
            np.testing.assert_allclose(found, values, atol=1e-6)


# ---- statistics in blocks


def test_weights_in_blocks_are_the_weights():
    known = weights(30)
    assert known.dtype == np.uint16
    assert (known.sum(1) == 30).all()
    generator = np.random.Generator(np.random.Philox(0))
    np.testing.assert_array_equal(known[1:], generator.multinomial(30, np.full(30, 1 / 30), size=SAMPLES))
    np.testing.assert_array_equal(np.concatenate(list(in_blocks(known))), known)


@pytest.mark.parametrize("measure", ["class", "pixels", "frequency"])
def test_curves_do_not_depend_on_the_size_of_blocks(measure, monkeypatch):
    run = tp.uturn("digits", items=12, times=[0.3, 0.6], replicates=2, **QUICK).measure(measure)
    whole = {feature: run.curve(feature) for feature in run.features()}
    monkeypatch.setattr("turningpoint.statistics.bootstrap.BLOCK", 12 * 7)
    run.forget()
    for feature, curve in whole.items():
        again = run.curve(feature)
        np.testing.assert_allclose(again.retention, curve.retention, atol=1e-9)
        np.testing.assert_allclose(again.kept, curve.kept, rtol=1e-9)


def test_replicates_are_drawn_alike():
    rng = np.random.default_rng(0)
    field = rng.normal(size=(40, 6))
    once = susceptibility(field, 200)
    np.testing.assert_allclose(susceptibility([field, field], 200, alike=[0, 0]), once)
    apart = susceptibility([field, field], 200)
    assert np.std(apart[1:]) < 0.9 * np.std(once[1:])  # draws that are taken for independent


# ---- data sets


@pytest.fixture
def cats_and_dogs(tmp_path):
    """Twelve pictures of 40x30 in two class folders, one of which is broken."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(6):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{k}.png")
    broken = tmp_path / "set" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "set"


def test_a_data_set_goes_on_a_uturn_with_its_labels_and_names(cats_and_dogs, refuses):
    with refuses("3.png"):
        tp.uturn("digits", cats_and_dogs, times=[0.4], **QUICK)
    with pytest.warns(UserWarning, match="left out"):
        run = tp.uturn(
            "digits", cats_and_dogs, per_class=5, classes="dog,cat", skip_bad=True, times=[0.4], **QUICK
        )
    assert run.images.sizes["item"] == 10  # the next picture of its class has taken the broken one's place
    assert run.data.label.values.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 1]
    assert str(run.images.coords["name"].values[1]).endswith("dog/0.png")
    assert run.manifest["axes"]["classes"] == ["cat", "dog"]
    (skipped,) = run.manifest["axes"]["skipped"]
    assert "3.png" in skipped
    assert run.start.shape == (10, 1, 28, 28)
    with pytest.warns(UserWarning, match="left out"), refuses("only 5 pictures of the class 'dog'"):
        tp.uturn("digits", cats_and_dogs, per_class=6, skip_bad=True, times=[0.4], **QUICK)
    with refuses("accepted: 1 channels of 28x28"):
        tp.uturn("digits", cats_and_dogs / "cat", fit="exact", times=[0.4], **QUICK)


def test_arrays_in_files_are_made_to_fit_and_bring_their_labels(tmp_path, refuses):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "named.npz", images=pictures, labels=np.array(["dog", "cat", "dog", "cat"]))
    run = tp.uturn("digits", tmp_path / "named.npz", times=[0.4], **QUICK)
    assert run.start.shape == (4, 1, 28, 28)
    assert run.manifest["axes"]["classes"] == ["cat", "dog"]
    assert run.data.label.values.tolist() == [1, 0, 1, 0]
    with refuses("accepted: 1 channels of 28x28"):
        tp.uturn("digits", tmp_path / "named.npz", fit="exact", times=[0.4], **QUICK)
    right = rng.integers(0, 256, (2, 28, 28), dtype=np.uint8)
    for labels in (["b", "a"], [1, 0]):
        np.savez(tmp_path / "right.npz", images=right, labels=np.array(labels))
        run = tp.uturn("digits", tmp_path / "right.npz", times=[0.4], **QUICK)
        assert run.data.label.values.tolist() == [1, 0]
    np.savez(tmp_path / "half.npz", images=right, labels=np.array([0.5, 1]))
    with refuses("a whole number or a name per image"):
        tp.uturn("digits", tmp_path / "half.npz", times=[0.4], **QUICK)
    np.savez(tmp_path / "one.npz", images=right, labels=np.array([-1, 1]))
    with refuses("1 of 2 starting images come without labels"):
        tp.uturn("digits", tmp_path / "one.npz", label="own", times=[0.4], **QUICK)


def test_pictures_left_out_are_counted_on_the_command_line(cats_and_dogs, command):
    arguments = ["uturn", "digits", "--images", cats_and_dogs, "--times", "0.4", "--steps", "2", "--out", "r"]
    status, _, said = command(*arguments)
    assert status
    assert "3.png" in said
    status, printed, said = command(*arguments, "--skip-bad")
    assert not status, said
    assert "1 of 12 pictures were left out." in printed
    status, printed, _ = command(*arguments, "--skip-bad", "--json")
    assert '"skipped": [' in printed


def test_a_run_of_a_data_set_continues_and_grows(cats_and_dogs, tmp_path):
    settings = {"times": [0.4], "out": tmp_path / "run", "fit": "stretch", **QUICK}
    first = tp.uturn("digits", cats_and_dogs / "cat", items=3, **settings).images.values
    again = tp.uturn("digits", cats_and_dogs / "cat", items=3, **settings)
    np.testing.assert_array_equal(first, again.images)
    grown = tp.uturn("digits", cats_and_dogs / "cat", items=5, extend=True, **settings)
    assert grown.images.sizes["item"] == 5
    np.testing.assert_array_equal(first, grown.images[:3])


# ---- memory


MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back to the system: counted is what is in use, not what an allocator keeps for another time."""

PEAK = """
import sys
from pathlib import Path
import torch
import turningpoint as tp
from turningpoint import readings

torch.set_num_threads(1)
readings.IN_MEMORY = 2**20


class Still(torch.nn.Module):
    schedule, shape = tp.VP(), (3, 128, 128)

    def forward(self, x_t, t):
        return self.schedule.alpha(t)[:, None, None, None] * x_t


stem = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 16, 16), torch.nn.ReLU())
network = torch.nn.Sequential(stem, torch.nn.Flatten(), torch.nn.Linear(256, 5))
run = tp.uturn(Still(), sys.argv[1], items=int(sys.argv[2]), times=[0.5], steps=2, store="uint8", out=sys.argv[3],
               progress=None)
run.measure("layers", "color", classifier=network, layers=["0", "2"], progress=None).windows()
assert run.images.sizes["item"] == int(sys.argv[2])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # kB, since this program began
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """1,000 images more take less memory than a quarter of what they would take once, as floats."""
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for k in range(1200):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{k:04}.png")
    peaks = []
    for n in (200, 1200):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "set"), str(n), str(tmp_path / f"run{n}")],
            capture_output=True, text=True, check=False, env=os.environ | MALLOC,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 1000 * 3 * 128 * 128 * 4 / 4, peaks
