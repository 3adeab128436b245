"""Folders and zips: what their names mean, what they hold, and what is said of those that hold nothing."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from picture_sets import archive, files, folder, noise
from PIL import Image

from turningpoint.data import PictureError, open_images

GOLDEN = "golden/edm"


@pytest.fixture(params=["folder", "zip", "wrapped zip"])
def made(request, tmp_path):
    """A set of files as a folder, a zip, or a zip of a folder."""

    def make(content):
        if request.param == "folder":
            return folder(tmp_path / "set", content)
        around = "set/" if request.param == "wrapped zip" else ""
        return archive(tmp_path / "set.zip", {around + name: data for name, data in content.items()})

    return make


# ---- what EDM's tool makes


@pytest.mark.parametrize("unpacked", [False, True])
def test_edm_data_sets_are_read_exactly(request, tmp_path, unpacked):
    golden = request.path.parent / GOLDEN
    where = golden / "tiny_dataset.zip"
    expected = np.load(golden / "tiny_dataset_expected.npz")
    if unpacked:
        import zipfile

        zipfile.ZipFile(where).extractall(tmp_path)
        where = tmp_path
    images = open_images(where)
    np.testing.assert_array_equal([images.pixels(i) for i in range(len(images))], expected["images"])
    np.testing.assert_array_equal(
        [images.pixels(i, (3, 16, 16)) for i in range(len(images))], expected["images"]
    )
    np.testing.assert_array_equal(images.labels, expected["raw_labels"])
    assert images.labels.dtype == np.int64
    assert (images.classes, images.names[3]) == ((), "00000/img00000003.png")


@pytest.mark.parametrize("labels", [None, []])
def test_edm_data_sets_without_labels_have_no_classes(made, labels):
    content = files(["00000/img00000000.png", "00001/img00001000.png"])
    images = open_images(made(content | {"dataset.json": json.dumps({"labels": labels}).encode()}))
    assert (images.labels, images.classes, len(images)) == (None, (), 2)


def test_another_programs_dataset_json_is_ignored(made):
    images = open_images(made(files(["cat/a.png", "dog/a.png"]) | {"dataset.json": b'[{"name": "pets"}]'}))
    assert images.classes == ("cat", "dog")


# ---- folders, splits and tables


def test_flat_sets_are_in_the_order_of_their_names(made):
    names = ["b.png", "a-1.png", "a.PNG", "a-10.png"]
    images = open_images(
        made(files(names) | {"notes.txt": b"no picture", ".hidden.png": b"", "__MACOSX/b.png": b""})
    )
    assert images.names == sorted(names)
    assert (images.labels, images.classes) == (None, ())
    np.testing.assert_array_equal(images.pixels(0), noise(names.index("a-1.png")))
    assert images.picture(0).size == (8, 6)


def test_folders_are_classes(made):
    images = open_images(
        made(files(["dog/1.png", "cat/sub/2.png", "cat-like/0.png", "dog/0.png", "loose.png"]))
    )
    assert images.names == ["cat/sub/2.png", "cat-like/0.png", "dog/0.png", "dog/1.png", "loose.png"]
    assert images.classes == ("cat", "cat-like", "dog")
    assert images.labels.tolist() == [0, 1, 2, 2, -1]
    part = images.subset([3, 0])
    assert (part.names, part.classes, part.labels.tolist()) == (
        ["dog/1.png", "cat/sub/2.png"],
        images.classes,
        [2, 0],
    )
    np.testing.assert_array_equal(part.subset([1]).pixels(0), noise(1))
    assert part.where == images.where


def test_splits_share_their_classes(made, refuses):
    where = made(files(["train/cat/0.png", "train/dog/0.png", "val/dog/1.png", "train/cat/1.png"]))
    for split in ("val", "validation", "dev"):
        images = open_images(where, split=split)
        assert (images.names, images.labels.tolist(), images.classes) == (
            ["val/dog/1.png"],
            [1],
            ("cat", "dog"),
        )
    assert len(open_images(where, split="training")) == 3
    with refuses("images is '.*set.*', which has several splits; accepted: split train or val"):
        open_images(where)
    with refuses("split is 'test'; accepted for '.*': train, val"):
        open_images(where, split="test")


def test_a_lone_split_needs_no_name(made, refuses):
    where = made(files(["test/0.png", "test/1.png"]))
    assert (len(open_images(where)), open_images(where).labels) == (2, None)
    with refuses("split is 'train'; accepted for .*: test"):
        open_images(where, split="train")


def test_any_folder_can_be_named_as_a_split(made):
    where = made(files(["holdout/cat/0.png", "usual/cat/0.png", "usual/dog/0.png"]))
    assert open_images(where).classes == ("holdout", "usual")
    assert open_images(where, split="usual").classes == ("cat", "dog")


def test_the_folder_of_a_split_is_that_split(tmp_path):
    where = folder(tmp_path / "train", files(["cat/0.png", "dog/0.png"]))
    assert open_images(where, split="train").classes == ("cat", "dog")


@pytest.mark.parametrize("lines", ["csv", "jsonl"])
def test_tables_of_an_image_folder(made, lines):
    rows = [("b.png", "dog"), ("deep/a.png", "cat"), ("c.png", "dog")]
    if lines == "csv":
        text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
    else:
        text = "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in rows)
    content = files(["b.png", "c.png", "deep/a.png", "unlisted.png"])
    images = open_images(made(content | {f"metadata.{lines}": text.encode()}))
    assert images.names == ["b.png", "c.png", "deep/a.png"]
    assert (images.labels.tolist(), images.classes) == ([1, 1, 0], ("cat", "dog"))


def test_numbers_in_a_table_are_labels(made):
    text = b"file_name,text,fine_label\na.png,one,7\nb.png,two,\n"
    images = open_images(made(files(["a.png", "b.png"]) | {"metadata.csv": text}))
    assert (images.labels.tolist(), images.classes) == ([7, -1], ())


def test_a_table_without_labels_leaves_the_folders(made):
    text = b'{"file_name": "cat/a.png", "text": "a cat"}\n{"file_name": "dog/a.png", "text": "a dog"}\n'
    images = open_images(made(files(["cat/a.png", "dog/a.png"]) | {"metadata.jsonl": text}))
    assert images.classes == ("cat", "dog")


def test_a_table_for_all_splits_numbers_classes_once(made):
    text = b"file_name,label\ntrain/a.png,cat\ntrain/b.png,dog\ntest/c.png,dog\n"
    where = made(files(["train/a.png", "train/b.png", "test/c.png"]) | {"metadata.csv": text})
    images = open_images(where, split="test")
    assert (images.names, images.labels.tolist(), images.classes) == (["test/c.png"], [1], ("cat", "dog"))


def test_a_table_inside_a_split(made):
    content = files(["train/a.png", "test/a.png"])
    where = made(content | {"train/metadata.csv": b"file_name,label\na.png,cat\n"})
    assert open_images(where, split="train").classes == ("cat",)
    assert open_images(where, split="test").labels is None


def test_links_are_followed_and_circles_are_not(tmp_path):
    folder(tmp_path / "elsewhere", files(["a.png"]))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "set")
    assert open_images(tmp_path / "set").names == ["cat/a.png"]


# ---- one picture, arrays


def test_one_picture_is_a_set_of_one(tmp_path):
    images = open_images(str(folder(tmp_path, files(["a.png"])) / "a.png"))
    assert (len(images), images.names, images.labels) == (1, ["a.png"], None)
    np.testing.assert_array_equal(images.pixels(0), noise(0))


def test_arrays_are_sets(tmp_path):
    pixels = np.stack([noise(k) for k in range(3)])
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([1, 0, 1]), test_images=pixels[2:])
    mapped, zipped = open_images(tmp_path / "a.npy"), open_images(tmp_path / "a.npz")
    assert isinstance(mapped.array, np.memmap)
    for images in (mapped, zipped, open_images(pixels), open_images(pixels.tolist())):
        assert (len(images), images.names) == (3, ["0", "1", "2"])
        np.testing.assert_array_equal(images.pixels(2).astype(np.uint8), noise(2))
    np.testing.assert_array_equal(np.asarray(mapped.picture(1)), noise(1).transpose(1, 2, 0))
    assert (mapped.labels, zipped.labels.tolist()) == (None, [1, 0, 1])
    assert len(open_images(tmp_path / "a.npz", split="test")) == 1
    assert mapped.pixels(0, (1, 3, 4)).shape == (1, 3, 4)


def test_tensors_of_any_kind_are_arrays():
    import torch
    import xarray

    floats = np.linspace(-1, 1, 24, dtype=np.float64).reshape(2, 3, 4)
    for given in (floats, torch.tensor(floats, requires_grad=True), xarray.DataArray(floats)):
        images = open_images(given)
        assert (images.pixels(1).shape, images.pixels(1).dtype) == ((1, 3, 4), np.float32)
        np.testing.assert_array_equal(images.pixels(1, (1, 3, 4))[0], floats[1].astype(np.float32))
    np.testing.assert_array_equal(np.asarray(images.picture(1)), np.round((floats[1] + 1) * 127.5))
    assert open_images(torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16)).pixels(0).dtype == np.float32
    assert open_images(np.zeros((5, 7))).pixels(0).shape == (7,)
    assert open_images(images) is images


# ---- what is read when, and where


def test_sets_can_be_sent_to_another_process(made):
    images = open_images(made(files(["cat/a.png", "dog/b.png"])))
    images.pixels(0)
    again = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(again.pixels(1), noise(1))
    assert again.labels.tolist() == [0, 1]


def test_nothing_is_decoded_before_it_is_asked_for(made, monkeypatch):
    import gc

    decoded, alive = [], []
    opened = Image.open

    def counted(*arguments, **settings):
        decoded.append(1)
        return opened(*arguments, **settings)

    monkeypatch.setattr(Image, "open", counted)
    images = open_images(made(files([f"{k % 5}/{k:03}.png" for k in range(200)]))).subset(range(100))
    assert not decoded
    gc.collect()
    before = sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects())
    for i in range(100):
        images.pixels(i, (3, 4, 4))
        if i % 25 == 0:
            alive.append(sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects()) - before)
    assert len(decoded) == 100
    assert max(alive) <= 3


# ---- a user's mistakes


def test_what_cannot_be_opened_is_one_sentence(tmp_path, refuses):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    archive(tmp_path / "words.zip", {"words.txt": b"words"})
    for where, named in [
        ("empty", "which holds no picture; accepted: .png"),
        ("nowhere", "which is not there; accepted: a folder"),
        ("words.txt", "words.txt'; accepted: a folder"),
        ("cut.zip", "which cannot be read as a zip"),
        ("words.zip", "which holds no picture"),
    ]:
        with refuses(f"data is '.*{named}"):
            open_images(tmp_path / where, "data")
    with refuses("split is 'test'; accepted for 'what is in memory': none"):
        open_images(np.zeros((2, 1, 3, 3)), split="test")
    folder(tmp_path / "flat", files(["a.png"]))
    with refuses("split is 'test'; accepted for '.*flat': none, for it has no splits"):
        open_images(tmp_path / "flat", split="test")
    with refuses("split is 'test'; accepted for '.*a.png': none"):
        open_images(tmp_path / "flat" / "a.png", split="test")
    with refuses("indices reach from 0 to 1; accepted: 0 to 0"):
        open_images(tmp_path / "flat").subset([0, 1])


def test_a_zip_is_known_by_its_first_bytes(tmp_path):
    assert len(open_images(archive(tmp_path / "images", files(["a.png"])))) == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (np.zeros((0, 3, 4, 4)), "of shape \\(0, 3, 4, 4\\)"),
        (np.zeros(3), "of shape \\(3,\\)"),
        (np.array([["a"]]), "type <U1"),
        ([[1], [1, 2]], "ragged"),
    ],
)
def test_what_is_no_array_of_images_is_one_sentence(given, named, refuses):
    with refuses(named):
        open_images(given)


def test_arrays_that_do_not_fit_are_one_sentence(tmp_path, refuses):
    images = open_images(np.zeros((2, 3, 4, 4), np.float32))
    with refuses("item 1 of an array has shape \\(3, 4, 4\\); accepted: \\(3, 8, 8\\)", PictureError):
        images.pixels(1, (3, 8, 8))
    with refuses("no picture", PictureError):
        open_images(np.zeros((2, 5))).picture(0)
    with refuses("not finite", PictureError):
        open_images(np.full((2, 1, 3, 3), np.nan)).picture(0)
    for labels in (np.zeros(3, int), np.zeros((2, 2)), np.array([0.5, 1])):
        np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4)), labels=labels)
        with refuses("labels have shape"):
            open_images(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4)), labels=np.array(["b", "a"]))
    assert open_images(tmp_path / "a.npz").classes == ("a", "b")
    np.savez(tmp_path / "b.npz", test_images=np.zeros((2, 4, 4)))
    with refuses("holds test_images; accepted: an array 'images', or split test"):
        open_images(tmp_path / "b.npz")
    np.save(tmp_path / "b.npy", np.zeros((2, 4, 4)))
    with refuses("split is 'test'"):
        open_images(tmp_path / "b.npy", split="test")


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("dataset.json", '{"labels": [["a.png", 1]]}', "no label for '.*b.png'"),
        ("dataset.json", '{"labels": 3}', "dataset.json.* cannot be read as a table"),
        ("dataset.json", '{"labels": [[', "dataset.json.* cannot be read as a table"),
        ("metadata.csv", "file_name,label\nc.png,1\n", "metadata lists 'c.png'"),
        ("metadata.csv", "file_name,label\n../secret.png,1\n", "metadata lists '../secret.png'"),
        ("metadata.csv", "file_name,label\n", "lists no picture"),
        ("metadata.jsonl", '"a.png"\n', "metadata.jsonl.* cannot be read as a table"),
        ("metadata.jsonl", "{", "metadata.jsonl.* cannot be read as a table"),
        ("metadata.csv", "file_name\xff", "metadata.csv.* cannot be read as a table"),
    ],
)
def test_bad_tables_are_one_sentence(made, refuses, name, text, named):
    where = made(files(["a.png", "b.png"]) | {name: text.encode("latin-1")})
    with refuses(named):
        open_images(where)
