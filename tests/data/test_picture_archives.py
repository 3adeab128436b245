"""Zips that are damaged, locked or sly: each is a sentence, and nothing is ever written."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from picture_sets import archive, files, noise, png

from turningpoint.data import PictureError, open_images


def test_paths_that_lead_out_of_a_zip_are_only_names(tmp_path):
    names = ["../../out.png", "/absolute.png", "in/a.png"]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    where = archive(tmp_path / "deep" / "er" / "set.zip", files(names))
    before = sorted(tmp_path.rglob("*"))
    images = open_images(where)
    assert sorted(images.names) == sorted(names)
    for i, name in enumerate(images.names):
        np.testing.assert_array_equal(images.pixels(i), noise(names.index(name)))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_member_is_named_with_its_zip(tmp_path, refuses):
    content = files(["a.png", "b.png"]) | {"c.png": b"words"}
    where = archive(tmp_path / "set.zip", content)
    data = bytearray(where.read_bytes())
    data[data.index(content["b.png"]) + 60] ^= 255  # its checksum is wrong now
    where.write_bytes(data)
    images = open_images(where)
    np.testing.assert_array_equal(images.pixels(0), noise(0))
    with refuses("the member 'b.png' of '.*set.zip' cannot be read \\(Bad CRC-32", PictureError):
        images.pixels(1)
    with refuses("the member 'c.png' of '.*set.zip' cannot be read as a picture", PictureError):
        images.pixels(2)


def test_a_locked_zip_is_refused(tmp_path, refuses):
    where = archive(tmp_path / "set.zip", files(["a.png"]))
    data = bytearray(where.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + place] |= 1
    where.write_bytes(data)
    with refuses("which is encrypted; accepted: a zip without a password"):
        open_images(where)


def test_a_member_that_would_fill_memory_is_refused(tmp_path, refuses, monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", png(noise(0)) + bytes(10**6))
    (tmp_path / "set.zip").write_bytes(file.getvalue())
    monkeypatch.setattr("turningpoint.data.tree.LARGEST", 10**5)
    with refuses("the member 'a.png' of '.*' has 1000... bytes; accepted: at most 100000", PictureError):
        open_images(tmp_path / "set.zip").picture(0)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_zips_are_read(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", compression) as made:
        made.mkdir("cat")
        made.writestr("cat/a.png", png(noise(7)))
        made.writestr("dog/a.png", png(noise(8)))
    images = open_images(tmp_path / "set.zip")
    assert images.classes == ("cat", "dog")
    np.testing.assert_array_equal(images.pixels(1), noise(8))
