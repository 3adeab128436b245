"""Exports: files hold what the run does, the index says what each is, nothing is overwritten, mixed or done twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from worlds import Mixture

import turningpoint as tp
from turningpoint.experiments.export import export
from turningpoint.measures import Measure, Reading
from turningpoint.simulation.store import Store

TINY_SD = Path(__file__).parent.parent / "models" / "golden" / "critical-windows" / "tiny_sd"
QUICK = {"progress": None}


class Ink(Measure):
    """Whether there is more or less ink, by name."""

    name = "ink"
    readings = (Reading("", "categorical", "the amount of ink", values=("little", "much")),)

    def read(self, images):
        return {"": (images.mean((1, 2, 3)) > -0.8).numpy().astype(np.int64)}


def _digits(**settings):
    return tp.uturn(
        "digits", **({"items": 3, "times": [0.3, 0.65], "replicates": 2, "steps": 3} | QUICK | settings)
    )


def _png(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def run():
    return _digits().measure(Ink())


def test_png_of_eight_bits_is_exact(tmp_path):
    run = _digits(store="uint8")
    table = export(run, tmp_path, **QUICK)
    assert table.exact.all()
    for row in table[table.what == "images"].itertuples():
        stored = np.asarray(run.images.sel(item=row.item, replicate=row.replicate, time=row.t))
        np.testing.assert_array_equal(_png(tmp_path / row.file), np.rint((stored[0] + 1) * 127.5))


def test_png_of_floats_is_the_nearest_grey_and_npy_every_bit(run, tmp_path):
    png = export(run, tmp_path / "png", **QUICK)
    npy = export(run, tmp_path / "npy", format="npy", **QUICK)
    assert not png.exact[png.what == "images"].any()
    assert png.exact[png.what == "start"].all(), "MNIST's own grey values are whole"
    assert npy.exact.all()
    for a, b in zip(png.file, npy.file, strict=True):
        exact = np.load(tmp_path / "npy" / b, allow_pickle=False)
        assert exact.dtype == np.float32
        back = _png(tmp_path / "png" / a) / 127.5 - 1
        assert np.abs(back - np.clip(exact[0], -1, 1)).max() <= 1 / 255 + 1e-6
    start = npy[npy.what == "start"].file
    np.testing.assert_array_equal(np.stack([np.load(tmp_path / "npy" / f) for f in start]), run.start.values)


def test_colours_and_what_lies_outside_the_range(tmp_path):
    class Bright(tp.Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.shape, self.name = tp.VP(), (3, 4, 5), "bright"

        def forward(self, x_t, t):
            return torch.tensor([1.2, 0.0, -1.0])[:, None, None].expand(x_t.shape)

    run = tp.uturn(Bright(), np.zeros((1, 3, 4, 5), np.uint8), times=[0.5], steps=2, store="float16", **QUICK)
    table = export(run, tmp_path, "images", **QUICK)
    assert _png(tmp_path / table.file[0]).tolist() == [[[255, 128, 0]] * 5] * 4
    assert not table.exact[0]


def test_the_index(run, tmp_path):
    table = export(run, tmp_path, **QUICK)
    assert sorted(table.file) == table.file.tolist()
    assert table.file[:5].tolist() == [
        "item0000_start.png",
        "item0000_t0.30_copy0.png",
        "item0000_t0.30_copy1.png",
        "item0000_t0.65_copy0.png",
        "item0000_t0.65_copy1.png",
    ]
    written = pd.read_csv(tmp_path / "index.csv")
    pd.testing.assert_frame_equal(
        written.astype({"replicate": "Int64"}), table, check_dtype=False, check_names=False
    )
    ink, place = run.reading("ink"), {t: k for k, t in enumerate(run.times)}
    for row in table.itertuples():
        side = ink.start[row.item] if row.what == "start" else ink.back[row.item, row.replicate, place[row.t]]
        assert row.ink == ("little", "much")[int(side)]
        assert row.label == run.store.read("label")[row.item]
        if row.what == "images":
            assert row.logsnr == pytest.approx(float(run.schedule.logsnr(row.t)))
    assert set(table.ink) == {"little", "much"}


def test_names_labels_and_prompts(tmp_path):
    folder = tmp_path / "photos"
    for k, name in enumerate(["cat/A 1.png", "cat/a-2.png", "dog/b.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * k + 20, np.uint8)).save(folder / name)
    model = tp.load(f"diffusers:{TINY_SD}")
    told = {"prompt": ["a cat", "a dog", "a car"], "negative_prompt": "blue", "guidance": 2.0}
    run = tp.uturn(model, str(folder), times=[0.4], steps=2, **told, **QUICK)
    what = ["start", "images", "latents", "original"]
    table = export(run, tmp_path / "out", what, **QUICK)
    assert table.file[:5].tolist() == [
        "item0000_cat-A-1_original.png",
        "item0000_cat-A-1_start.png",
        "item0000_cat-A-1_start_latents.npy",
        "item0000_cat-A-1_t0.40_copy0.png",
        "item0000_cat-A-1_t0.40_copy0_latents.npy",
    ]
    first = table.set_index("what").loc["original"].iloc[2]
    assert (first["name"], first.prompt, first.negative_prompt) == ("dog/b.png", "a car", "blue")
    assert (first.label, first.label_name) == (1, "dog")
    assert table.exact[table.what == "original"].all()
    assert _png(tmp_path / "out" / first.file).tolist() == np.full((32, 32, 3), 100).tolist()
    latent = np.load(tmp_path / "out" / "item0002_dog-b_t0.40_copy0_latents.npy")
    np.testing.assert_array_equal(latent, run.latents.values[2, 0, 0])
    start = np.load(tmp_path / "out" / "item0002_dog-b_start_latents.npy")
    np.testing.assert_array_equal(start, run.start_latents.values[2])


def _tree(folder):
    about = ("index.csv", "run.json")
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.name not in about}


def test_files_that_are_there_are_left_and_new_ones_added(run, tmp_path):
    first = export(run, tmp_path, items=[0, 2], times=[0.3], **QUICK)
    assert first.attrs == {"written": 6, "kept": 0, "left_out": 0}
    before = _tree(tmp_path)
    again = export(run, tmp_path, replicates=[1], what="images", **QUICK)
    assert again.attrs == {"written": 4, "kept": 2, "left_out": 0}
    after = _tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(again) == len(after) == 10
    assert again.ink.notna().all(), "rows of before are described too"
    (tmp_path / "item0000_start.png").unlink()
    assert "item0000_start.png" not in export(run, tmp_path, "images", **QUICK).file.tolist()


def test_an_interrupted_export_is_continued(run, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    write, calls = Path.write_bytes, []

    def fragile(self, data):
        if self.parent == tmp_path / "torn":
            calls.append(self)
            if len(calls) == 6:
                write(self, data[: len(data) // 2])
                raise Stop
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fragile)
    with pytest.raises(Stop):
        export(run, tmp_path / "torn", **QUICK)
    assert len(list((tmp_path / "torn").iterdir())) == 5, "no torn file is left, not even a hidden one"
    table = export(run, tmp_path / "torn", **QUICK)
    assert table.attrs == {"written": 11, "kept": 4, "left_out": 0}
    export(run, tmp_path / "whole", **QUICK)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "torn" / path.name).read_bytes()


def test_another_content_is_never_overwritten(run, tmp_path, refuses):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "item0000_start.png").write_bytes(b"a user's")
    with refuses("where 'item0000_start.png' is something else; accepted: a new folder"):
        export(run, tmp_path / "own", **QUICK)
    assert (tmp_path / "own" / "item0000_start.png").read_bytes() == b"a user's"
    export(run, tmp_path / "a", **QUICK)
    torn = tmp_path / "a" / "item0000_start.png"
    torn.write_bytes(torn.read_bytes()[:50])
    with refuses("'item0000_start.png' is something else"):
        export(run, tmp_path / "a", **QUICK)
    export(run, tmp_path / "n", format="npy", **QUICK)
    (tmp_path / "n" / "item0000_start.npy").unlink()
    (tmp_path / "n" / "item0000_start.npy").mkdir()
    with refuses("'item0000_start.npy' is something else"):
        export(run, tmp_path / "n", format="npy", **QUICK)
    (tmp_path / "b").mkdir()
    words = "file,what,item,replicate,t,exact\nindex.csv,images,a,b,c,d\n"
    for text in ("country,size\nfr,3\n", "", "\x00", words, words.replace("a,b,c,d", ",0,0.3,True")):
        (tmp_path / "b" / "index.csv").write_text(text)
        with refuses("'index.csv' is not that of an export"):
            export(run, tmp_path / "b", **QUICK)
    (tmp_path / "c").write_text("")
    with refuses("where a file stands"):
        export(run, tmp_path / "c", **QUICK)


# ---- of which run a folder is


def _all(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def _told(prompt=None, **settings):
    """A run of one image: what it holds follows from its settings."""
    return _digits(**({"items": 1, "times": [0.3], "replicates": 1, "label": prompt} | settings))


@pytest.mark.parametrize(
    ("other", "differ"),
    [
        ({"seed": 1}, "seed"),
        ({"steps": 4}, "grid.steps"),
        ({"prompt": 3}, "starting images, labels or prompts"),
        ({"images": np.zeros((1, 1, 28, 28), np.float32)}, "starting images, labels or prompts"),
        ({"first_item": 1}, "first_item"),
        ({"store": "uint8"}, "store"),
    ],
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_folder_takes_the_files_of_one_run(tmp_path, refuses, other, differ, interrupted):
    export(_told(), tmp_path / "out", "images", **QUICK)
    if interrupted:
        (tmp_path / "out" / "index.csv").unlink()
    before = _all(tmp_path / "out")
    run = _told(**other, times=[0.6], out=tmp_path / "second")
    match = f"files of a run in memory, not of the run in '{tmp_path / 'second'}'; these differ: {differ}; accepted"
    with refuses(match):
        export(run, tmp_path / "out", "images", **QUICK)
    assert _all(tmp_path / "out") == before


def test_another_kind_of_run_and_runs_merged_in_another_order(tmp_path, refuses):
    export(_told(), tmp_path / "a", **QUICK)
    with refuses("these differ: .*kind"):
        export(tp.generate("digits", 1, steps=3, **QUICK), tmp_path / "a", **QUICK)
    runs = [_told(seed=seed, out=tmp_path / f"seed{seed}") for seed in (0, 1)]
    export(tp.merge(runs), tmp_path / "b", replicates=[0], **QUICK)
    with refuses("these differ: merged; accepted"):
        export(tp.merge(runs[::-1]), tmp_path / "b", replicates=[1], **QUICK)


def test_a_run_stays_the_same_as_it_grows_is_measured_moved_and_copied(tmp_path):
    images = tp.load("digits").starting_images()[0][:3]
    small = {"images": images[:2], "items": None, "times": [0.3], "replicates": 1, "label": 4}
    export(_digits(**small, out=tmp_path / "run"), tmp_path / "out", **QUICK)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    grown = {"images": images, "label": [4, 4, 5], "times": [0.3, 0.6], "replicates": 2, "extend": True}
    run = _digits(**(small | grown), out=tmp_path / "run").measure(Ink())
    table = export(run, tmp_path / "out", **QUICK)
    assert table.attrs == {"written": 1 + 2 * 4 - 2 + 4, "kept": 2 + 2, "left_out": 0}
    (tmp_path / "run").rename(tmp_path / "moved")
    before = _tree(tmp_path / "out")
    run = tp.open_run(tmp_path / "moved")
    again = export(run, tmp_path / "out", **QUICK)
    assert again.attrs["kept"] == len(again) == 3 + 3 * 4
    assert _tree(tmp_path / "out") == before
    assert json.loads((tmp_path / "out" / "run.json").read_text())["run"] == str(tmp_path / "moved")

    # the copy lacks an item, a time and a replicate of files that are there
    copied = export(tp.open_run(tmp_path / "copy"), tmp_path / "out", **QUICK)
    assert copied.attrs == {"written": 0, "kept": 4, "left_out": 0}
    columns = ["file", "what", "item", "replicate", "t", "exact", "logsnr", "told_label"]
    pd.testing.assert_frame_equal(copied[columns], again[columns], check_dtype=False)
    lacking = ~copied.file.isin([f"item000{k}_{end}.png" for k in (0, 1) for end in ("start", "t0.30_copy0")])
    assert copied.ink[lacking].tolist() == again.ink[lacking].tolist()
    last = export(run, tmp_path / "out", **QUICK)
    pd.testing.assert_frame_equal(last, again)
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["items"]) == 3


def test_one_model_by_two_names_is_one_run(tmp_path):
    run = _told()
    export(run, tmp_path, **QUICK)
    run.manifest["settings"]["model"]["name"] = "digits-by-another-name"
    assert export(run, tmp_path, **QUICK).attrs["kept"] == 2


def test_folders_that_do_not_say_of_which_run_they_are(run, tmp_path, refuses):
    export(run, tmp_path / "a", "start", **QUICK)
    whose = tmp_path / "a" / "run.json"
    for text in ("{", "[]", '{"run": "fast"}', "[" * 100_000, "\xff"):
        whose.write_text(text, encoding="latin-1")
        with refuses("'run.json' is not that of an export; accepted: a new folder"):
            export(run, tmp_path / "a", **QUICK)
    whose.unlink()
    with refuses("'index.csv' stands there without the 'run.json'"):
        export(run, tmp_path / "a", **QUICK)
    for name in ("run.json", "index.csv"):
        (tmp_path / name / name).mkdir(parents=True)
        with refuses(f"'{name}' is not that of an export"):
            export(run, tmp_path / name, **QUICK)


def test_folders_that_cannot_be(run, tmp_path, refuses, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for folder, match in {
        "n" * 300: "a name too long for the disk; accepted: a shorter one",
        "a/" + "n" * 300: "a name too long",
        "/proc/x": "which is not there and cannot be made; accepted: a folder you may write to",
        "loop/x": "which is not there and cannot be made",
        "": "out is ''; accepted: a folder",
        "a\0b": "accepted: a folder",
        None: "out is None; accepted: a folder",
        7: "out is 7; accepted: a folder",
    }.items():
        with refuses(match):
            export(run, folder, "start", **QUICK)
    assert not {p.name for p in tmp_path.iterdir()} - {"loop", "a"}
    assert export(run, ".", "start", **QUICK).attrs["written"] == 3, "the working directory, if it is named"


@pytest.mark.parametrize("given", ["runs/car", Path("runs/car"), None, 3])
def test_what_is_no_run(tmp_path, refuses, given):
    with refuses("run is .*; accepted: a Run, as open_run gives it"):
        export(given, tmp_path / "out", **QUICK)


def test_a_picture_saved_by_another_program_is_the_same(run, tmp_path):
    export(run, tmp_path, **QUICK)
    path = tmp_path / "item0001_start.png"
    Image.open(path).save(path, format="PNG", compress_level=0)
    assert export(run, tmp_path, **QUICK).attrs["kept"] == 15


def test_walks_that_have_not_ended_are_left_out_and_counted(tmp_path):
    run = _digits()
    flags = run.store.read("done").copy()
    flags[1, 0, 1] = flags[2] = False
    run.store.write("done", flags)
    table = export(run, tmp_path, **QUICK)
    assert table.attrs == {"written": 3 + 7, "kept": 0, "left_out": 5}
    assert export(run, tmp_path, items=[0], **QUICK).attrs["left_out"] == 0
    assert "item0001_t0.30_copy0.png" in table.file.tolist()
    assert "item0001_t0.65_copy0.png" not in table.file.tolist()


def test_clones_with_trunks_that_are_not_simulated(tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, evaluations):
        if done > total / 2:
            raise Stop

    world = Mixture(torch.zeros(1, 2), std=1.0)
    settings = {"times": [0.3, 0.6], "steps": 10, "trajectories": True, "batch": 4, "out": tmp_path / "run"}
    with pytest.raises(Stop):
        tp.clone(world, 40, **settings, progress=stop)
    half = tp.open_run(tmp_path / "run", world)
    done = half.store.read("done")
    assert 0 < done.sum() < done.size
    table = export(half, tmp_path / "out", ["start", "images", "records"], format="npy", **QUICK)
    assert table.attrs["left_out"] == int((~done).sum())
    assert set(table.item[table.what == "start"]) == set(np.flatnonzero(done.any((1, 2))))
    run = tp.clone(world, 40, **settings, **QUICK)
    table = export(run, tmp_path / "out", ["start", "images", "records"], format="npy", **QUICK)
    assert len(table) == 40 * (1 + 2 + 1)
    path = np.load(tmp_path / "out" / "item0007_start_trajectory.npy")
    clock = pd.read_csv(tmp_path / "out" / "start_trajectory_times.csv")
    assert path.shape == (11, 2)
    assert clock.t.tolist() == pytest.approx(np.linspace(1, 0, 11))
    np.testing.assert_array_equal(path[-1], run.start.values[7])


def test_records_of_u_turns_and_of_the_base_set(tmp_path):
    record = [tp.Record("estimate", (0.3, 0.1))]
    run = _digits(generate=3, items=None, trajectories=True, record=record, out=tmp_path / "run", label=4)
    table = export(run, tmp_path / "out", "records", replicates=[1], times=[0.65], **QUICK)
    assert table.file.tolist()[:2] == [
        "item0000_start_trajectory.npy",
        "item0000_t0.65_copy1_estimate.npy",
    ]
    assert table.told_label.eq(4).all()
    base = tp.open_run(tmp_path / "run" / "generated-3")
    got = np.load(tmp_path / "out" / "item0002_start_trajectory.npy")
    np.testing.assert_array_equal(got, base.store.read("trajectory")[2])
    np.testing.assert_array_equal(got[-1], run.start.values[2])
    got = np.load(tmp_path / "out" / "item0002_t0.65_copy1_estimate.npy")
    np.testing.assert_array_equal(got, run.store.read("estimate")[2, 1, 1])
    assert {p.name for p in (tmp_path / "out").glob("*_times.csv")} == {
        "estimate_times.csv",
        "start_trajectory_times.csv",
    }


def test_generated_images_and_vectors(tmp_path, refuses):
    run = tp.generate("digits", 3, steps=2, label=[1, 2, 3], first_item=9998, **QUICK)
    table = export(run, tmp_path / "a", **QUICK)
    assert table.file.tolist() == ["item09998.png", "item09999.png", "item10000.png"]
    assert table.told_label.tolist() == [1, 2, 3]
    with refuses("times are given, but a generate run has none"):
        export(run, tmp_path / "a", times=[0.3], **QUICK)
    world = Mixture(torch.zeros(1, 2), std=1.0)
    vectors = tp.uturn(world, torch.zeros(2, 2), times=[0.5], steps=2, **QUICK)
    with refuses("format is 'png', but the start are no pictures"):
        export(vectors, tmp_path / "b", **QUICK)
    table = export(vectors, tmp_path / "b", format="npy", **QUICK)
    np.testing.assert_array_equal(np.load(tmp_path / "b" / table.file[1]), vectors.images.values[0, 0, 0])


def test_times_close_to_each_other_have_names_of_their_own(tmp_path):
    world = Mixture(torch.zeros(1, 2), std=1.0)
    run = tp.uturn(world, torch.zeros(1, 2), times=[0.30001, 0.30002, 0.5], steps=2, **QUICK)
    table = export(run, tmp_path, "images", format="npy", **QUICK)
    assert table.file.tolist() == [f"item0000_t{t}_copy0.npy" for t in ("0.300010", "0.300020", "0.50")]
    one = export(run, tmp_path / "one", "images", format="npy", times=[0.30002], **QUICK)
    assert one.t.tolist() == [0.30002]


def test_one_chunk_is_read_at_a_time(tmp_path, monkeypatch):
    world = Mixture(torch.zeros(1, 2), std=1.0)
    run = tp.uturn(world, torch.zeros(150, 2), times=[0.3, 0.6], replicates=2, steps=2, **QUICK)
    sizes, read = [], Store.read

    def watched(self, name, region=()):
        values = read(self, name, region)
        if name in ("start", "images"):
            sizes.append(values.size // 2)
        return values

    monkeypatch.setattr(Store, "read", watched)
    table = export(run, tmp_path, format="npy", **QUICK)
    assert len(table) == 150 * 5
    assert max(sizes) == run.store.array("done").chunks[0] == 64
    assert sum(sizes) == len(table)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"format": "jpg"}, "format is 'jpg'; accepted: png, npy"),
        ({"what": "pictures"}, "what is 'pictures'; accepted: start, images, latents, original, records"),
        (
            {"what": ["start", "latents"]},
            "what holds 'latents', which this run does not; it holds start, images",
        ),
        ({"items": [0, 3]}, "items hold 3; accepted, of this run: 0 to 2"),
        ({"items": []}, "items hold nothing"),
        ({"replicates": [-1]}, "replicates hold -1; accepted, of this run: 0 to 1"),
        ({"items": ["a"]}, "items hold 'a'; accepted, of this run: 0 to 2"),
        ({"items": [0.5]}, "items hold 0.5; accepted"),
        ({"items": [True]}, "items hold True; accepted"),
        ({"items": [float("nan")]}, "items hold nan; accepted"),
        ({"items": [None]}, "items hold None; accepted"),
        ({"items": 0}, "items is 0; accepted, of this run: a list of 0 to 2"),
        ({"items": "12"}, "items is '12'; accepted, of this run: a list of 0 to 2"),
        ({"replicates": 1}, "replicates is 1; accepted, of this run: a list of 0 to 1"),
        ({"times": [0.3, 0.5]}, "times hold 0.5; accepted, of this run: 0.30, 0.65"),
        ({"times": 0.3}, "times is 0.3; accepted, of this run: a list of 0.30, 0.65"),
        ({"times": ["x"]}, "times hold 'x'; accepted, of this run: 0.30, 0.65"),
        ({"times": ["0.3"]}, "times hold '0.3'"),
        ({"times": [float("nan")]}, "times hold nan"),
        ({"times": [None]}, "times hold None"),
        ({"times": []}, "times hold nothing; accepted, of this run: 0.30, 0.65"),
        ({"what": 3}, "what is 3; accepted: start, images"),
        ({"what": []}, r"what is \[\]; accepted: start, images"),
    ],
)
def test_errors(run, tmp_path, refuses, settings, match):
    with refuses(match):
        export(run, tmp_path / "out", **settings, **QUICK)
    assert not (tmp_path / "out").exists()


def test_numbers_of_any_kind_are_taken(run, tmp_path):
    chosen = {"items": np.array([2, 0]), "times": (np.float32(v) for v in [0.3]), "replicates": [1.0]}
    table = export(run, tmp_path, "images", **chosen, **QUICK)
    assert table.file.tolist() == ["item0000_t0.30_copy1.png", "item0002_t0.30_copy1.png"]
    table = export(run, tmp_path / "t", "images", items={1}, times=torch.tensor([0.65]), **QUICK)
    assert table.t.tolist() == [0.65] * 2
