"""ImageNet's folders and files: labels are places among the 1,000 synsets, whatever is there of them."""

from __future__ import annotations

import pytest
from picture_sets import archive, files, folder

from turningpoint.data import open_images, select
from turningpoint.data.labels import synsets

KNOWN = {"n01440764": 0, "n01795545": 80, "n02127052": 287, "n03018349": 495, "n15075141": 999}
"""Tench, black grouse, lynx, china cabinet, toilet tissue: indices of ILSVRC 2012 as every classifier has them."""


def test_the_synsets_are_the_thousand():
    assert len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert {s: synsets().index(s) for s in KNOWN} == KNOWN


@pytest.mark.parametrize(
    "name",
    [
        "{}/ILSVRC2012_val_0000000{k}.JPEG",
        "{}_1002{k}.JPEG",
        "{}_000{k}_t0480.png",
        "ILSVRC2012_val_0000000{k}_{}.JPEG",
        "val/{}/{k}.png",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_labels_are_imagenets_indices(tmp_path, name, zipped):
    content = files([name.format(synset, k=k) for k, synset in enumerate(KNOWN)])
    images = open_images(
        archive(tmp_path / "set.zip", content) if zipped else folder(tmp_path / "set", content)
    )
    found = {
        next(synset for synset in KNOWN if synset in name): label
        for name, label in zip(images.names, images.labels.tolist(), strict=True)
    }
    assert found == KNOWN
    assert images.classes == synsets()
    assert select(images, "n02127052").labels.tolist() == [287]


@pytest.mark.parametrize("zipped", [False, True])
def test_one_class_is_enough(tmp_path, zipped):
    content = files(["n15075141/a.JPEG", "n15075141/b.JPEG"])
    where = archive(tmp_path / "set.zip", content) if zipped else folder(tmp_path / "set", content)
    assert open_images(where).labels.tolist() == [999, 999]


def test_plain_validation_files_have_no_label(tmp_path):
    images = open_images(
        folder(tmp_path, files(["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]))
    )
    assert (images.labels, images.classes) == (None, ())


def test_a_file_without_a_synset_has_no_label_among_others(tmp_path):
    images = open_images(folder(tmp_path, files(["n01440764_1.png", "holiday.png"])))
    assert (images.names, images.labels.tolist()) == (["holiday.png", "n01440764_1.png"], [-1, 0])


def test_other_synsets_are_numbered_among_themselves(tmp_path):
    images = open_images(folder(tmp_path, files(["n00000001/a.png", "n15075141/a.png"])))
    assert (images.labels.tolist(), images.classes) == ([0, 1], ("n00000001", "n15075141"))
