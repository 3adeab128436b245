"""Parquet tables of Hugging Face's datasets: columns, splits, classes, and what is kept of them."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from picture_sets import files, folder, noise, png, table

from turningpoint.data import PictureError, open_images, select


def rows(first, count, paths=True):
    return [
        {"bytes": png(noise(k)), "path": f"{k}.png" if paths else None} for k in range(first, first + count)
    ]


def test_a_table_is_read_row_by_row(tmp_path):
    where = table(tmp_path / "a.parquet", rows(0, 10), names=["cat", "dog"], label=[0, 1] * 5)
    images = open_images(where)
    assert (len(images), images.names[3], images.classes) == (10, "3.png", ("cat", "dog"))
    assert images.labels.tolist() == [0, 1] * 5
    for i in (9, 0, 5, 3, 4):  # across groups of 4 rows
        np.testing.assert_array_equal(images.pixels(i), noise(i))
    assert select(images, "dog", per_class=2).names == ["1.png", "3.png"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).pixels(8), noise(8))


@pytest.mark.parametrize("column", ["image", "img", "photo"])
@pytest.mark.parametrize("bare", [False, True])
def test_columns_of_pictures(tmp_path, column, bare):
    content = [row["bytes"] for row in rows(0, 3)] if bare else rows(0, 3, paths=False)
    images = open_images(
        table(tmp_path / "a.parquet", content, column=column, fine_label=[7, 5, 7], text=["a", "b", "c"])
    )
    assert images.names == ["a.parquet:0", "a.parquet:1", "a.parquet:2"]
    assert (images.labels.tolist(), images.classes) == ([7, 5, 7], ())
    np.testing.assert_array_equal(images.pixels(2), noise(2))


def test_the_image_is_the_one_that_is_called_so(tmp_path):
    masks = [{"bytes": b"", "path": None}] * 2
    images = open_images(table(tmp_path / "a.parquet", masks, column="mask", image=rows(0, 2)))
    np.testing.assert_array_equal(images.pixels(1), noise(1))


@pytest.mark.parametrize(
    ("labels", "expected", "classes"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        ([2, None, 0], [2, -1, 0], ()),
        ([-1, -1, -1], None, ()),
        ([0.5, 1.5, 2.5], None, ()),
        ([[1, 2], [3], []], None, ()),
        (["n01440764", "n15075141", "n01440764"], [0, 999, 0], None),
    ],
)
def test_columns_of_labels(tmp_path, labels, expected, classes):
    images = open_images(table(tmp_path / "a.parquet", rows(0, 3), label=labels))
    assert (images.labels is None) == (expected is None)
    if expected is not None:
        assert images.labels.tolist() == expected
    assert len(images.classes) == 1000 if classes is None else images.classes == classes


@pytest.mark.parametrize(
    "pattern",
    [
        "data/{}-{:05}-of-00002.parquet",
        "default/{}/{:04}.parquet",
        "{}_{}.parquet",
        "plain_text/{}-{}.parquet",
    ],
)
def test_files_of_splits(tmp_path, refuses, pattern):
    for split, start in (("train", 0), ("test", 10)):
        for k in range(2):
            table(tmp_path / "set" / pattern.format(split, k), rows(start + 3 * k, 3), label=[k, 0, 1])
    images = open_images(tmp_path / "set", split="test")
    assert images.names == [f"{k}.png" for k in range(10, 16)]
    assert images.labels.tolist() == [0, 0, 1, 1, 0, 1]
    np.testing.assert_array_equal(images.pixels(4), noise(14))
    with refuses("has several splits; accepted: split test or train"):
        open_images(tmp_path / "set")
    with refuses("split is 'validation'; accepted for .*: test, train"):
        open_images(tmp_path / "set", split="validation")


def test_files_without_splits_are_one_set(tmp_path, refuses):
    for k in range(2):
        table(tmp_path / f"{k:04}.parquet", rows(3 * k, 3))
    assert open_images(tmp_path).names == [f"{k}.png" for k in range(6)]
    with refuses("split is 'test'; accepted for .*: none"):
        open_images(tmp_path, split="test")
    with refuses("split is 'test'"):
        open_images(tmp_path / "0000.parquet", split="test")
    one = table(tmp_path / "cifar-test.parquet", rows(0, 2))
    assert len(open_images(one)) == len(open_images(one, split="test")) == 2


def test_pictures_beside_a_table_go_first(tmp_path):
    folder(tmp_path, files(["a.png"]))
    table(tmp_path / "a.parquet", rows(0, 2))
    assert open_images(tmp_path).names == ["a.png"]


def test_few_row_groups_are_kept(tmp_path, monkeypatch):
    """Reading all of a table keeps as little as reading some of it, and decodes each picture once."""
    import turningpoint.data.tables as module

    images = open_images(table(tmp_path / "a.parquet", rows(0, 64), group=4))
    groups = []
    read = images._read

    def counted(i, file, group):
        groups.append(group)
        return read(i, file, group)

    monkeypatch.setattr(images, "_read", counted)
    size = sum(len(row["bytes"]) for row in rows(0, 4))
    monkeypatch.setattr(module, "KEPT", int(2.5 * size))
    most = 0
    for i in range(64):
        np.testing.assert_array_equal(images.pixels(i), noise(i))
        most = max(most, sum(column.nbytes for column in images._groups.values()))
        assert all(len(column) == 4 for column in images._groups.values())
    assert groups == list(range(16))
    assert size < most <= 2.5 * size
    monkeypatch.setattr(module, "KEPT", 0)
    images.pixels(0)
    assert list(images._groups) == [(0, 0)]


def test_a_damaged_row_is_named_with_its_file(tmp_path, refuses):
    content = [*rows(0, 5), {"bytes": b"words", "path": "5.png"}, {"bytes": None, "path": "6.png"}]
    images = open_images(table(tmp_path / "a.parquet", content))
    with refuses("row 5 of '.*a.parquet' cannot be read as a picture", PictureError):
        images.pixels(5)
    with refuses("row 6 of '.*a.parquet' holds no bytes of a picture", PictureError):
        images.pixels(6)


def test_a_damaged_group_is_named(tmp_path, refuses):
    from pyarrow import parquet

    where = table(tmp_path / "a.parquet", rows(0, 8))
    images = open_images(where)
    start = parquet.read_metadata(where).row_group(1).column(0).data_page_offset
    data = bytearray(where.read_bytes())
    data[start : start + 100] = bytes(100)
    where.write_bytes(data)
    np.testing.assert_array_equal(images.pixels(3), noise(3))
    with refuses("row 5 of '.*a.parquet' cannot be read", PictureError):
        images.pixels(5)
    where.unlink()
    with refuses("row 6 of '.*a.parquet' cannot be read", PictureError):
        images.pixels(6)


def test_what_is_no_table_of_pictures_is_one_sentence(tmp_path, refuses):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    table(tmp_path / "words.parquet", ["a", "b"], column="text", label=[0, 1])
    table(tmp_path / "empty.parquet", [], label=[])
    for name, named in [
        ("cut", "cannot be read as a parquet of pictures"),
        ("words", "whose columns are text, label; accepted: a column 'image'"),
        ("empty", "whose columns are image, label; accepted"),
    ]:
        with refuses(f"images is '.*{name}.parquet', .*{named}"):
            open_images(tmp_path / f"{name}.parquet")
    (tmp_path / "two").mkdir()
    table(tmp_path / "two" / "a.parquet", rows(0, 2), label=[0, 1])
    table(tmp_path / "two" / "b.parquet", rows(0, 2))
    with refuses("b.parquet', which cannot be read as a parquet of pictures"):
        open_images(tmp_path / "two")


def test_pyarrow_is_asked_for_by_name(tmp_path, refuses, monkeypatch):
    where = table(tmp_path / "a.parquet", rows(0, 1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refuses("needs pyarrow; accepted: pip install 'turningpoint\\[data\\]'"):
        open_images(where)
