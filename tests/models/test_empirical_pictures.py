"""The exact denoiser of pictures: from folders, zips and tables, of one size or of many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from picture_sets import archive, files, folder, noise, picture, png, table

import turningpoint as tp
from turningpoint.data import open_images, select
from turningpoint.data.fit import fitted


def points(model):
    return model.points.read(slice(None), torch.device("cpu")).reshape(-1, *model.shape).numpy()


def test_folders_zips_and_tables_are_one_data_set(tmp_path):
    content = files(["cat/0.png", "cat/1.png", "dog/2.png"])
    expected = np.stack([noise(k) for k in range(3)])
    rows = [{"bytes": data, "path": name} for name, data in content.items()]
    for where in (
        folder(tmp_path / "set", content),
        archive(tmp_path / "set.zip", content),
        table(tmp_path / "set.parquet", rows, names=["cat", "dog"], label=[0, 0, 1]),
    ):
        model = tp.load(f"empirical:{where}")
        np.testing.assert_array_equal(points(model), expected)
        assert (model.labels.tolist(), model.n_classes) == ([0, 0, 1], 2)
        assert points(model).dtype == np.uint8
    assert tp.load(f"empirical:{where}", labels=[0, 1, 2]).n_classes == 3
    chosen = tp.load("empirical", data=select(open_images(where), per_class=1))
    np.testing.assert_array_equal(points(chosen), expected[[0, 2]])


def test_pictures_of_several_sizes_are_made_to_fit(tmp_path, refuses):
    sizes = [(40, 30), (16, 16), (9, 20)]
    given = [picture(noise(k, *size)) for k, size in enumerate(sizes)]
    where = tmp_path / "set"
    where.mkdir()
    for k, one in enumerate(given):
        one.save(where / f"{k}.png")
    for settings, shape in (({"size": 16}, (3, 16, 16)), ({"height": 8, "width": 12}, (3, 8, 12))):
        for fit in ("crop", "square", "stretch"):
            model = tp.load(f"empirical:{where}", **settings, fit=fit)
            expected = [fitted(one, shape, fit) for one in given]
            np.testing.assert_array_equal(points(model), expected)
    assert tp.load(f"empirical:{where}?size=16").shape == (3, 16, 16)
    with refuses("1.png' has 3 channels of 16x16; accepted: 3 channels of 40x30"):
        tp.load(f"empirical:{where}")
    with pytest.warns(UserWarning, match="left out: the file '.*png' has 3 channels"):
        assert len(points(tp.load(f"empirical:{where}?size=16&fit=exact&skip_bad=True"))) == 1


def test_grey_among_coloured_pictures_becomes_coloured(tmp_path):
    grey = png(noise(0, channels=1))
    for names in (("a", "b"), ("b", "a")):
        where = folder(tmp_path / names[0], {f"{names[0]}.png": grey, f"{names[1]}.png": png(noise(1))})
        found = points(tp.load(f"empirical:{where}", height=6, width=8))[names.index(min(names))]
        np.testing.assert_array_equal(found, np.repeat(noise(0, channels=1), 3, 0))
    assert tp.load(f"empirical:{folder(tmp_path / 'grey', {'a.png': grey})}?size=4").shape == (1, 4, 4)


def test_bad_pictures_are_left_out_with_their_labels(tmp_path, refuses):
    content = files(["cat/0.png", "cat/1.png", "dog/2.png"]) | {"cat/1.png": b"words"}
    where = archive(tmp_path / "set.zip", content)
    with refuses("the member 'cat/1.png' of '.*set.zip' cannot be read as a picture"):
        tp.load(f"empirical:{where}")
    with pytest.warns(UserWarning, match="left out: the member 'cat/1.png'"):
        model = tp.load(f"empirical:{where}?skip_bad=True")
    np.testing.assert_array_equal(points(model), [noise(0), noise(2)])
    assert model.labels.tolist() == [0, 1]


def test_arrays_of_bytes_are_resized_too(tmp_path, refuses):
    pixels = np.stack([noise(k, 8, 8) for k in range(2)])
    np.savez(tmp_path / "a.npz", test_images=pixels, test_labels=[1, 0])
    model = tp.load(f"empirical:{tmp_path / 'a.npz'}?split=test&size=4")
    np.testing.assert_array_equal(points(model), [fitted(picture(x), (3, 4, 4)) for x in pixels])
    assert model.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(points(tp.load("empirical", data=pixels, size=4)), points(model))
    assert tp.load(f"empirical:{tmp_path / 'a.npz'}?split=test").shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 8, "width": 4}, "width is given beside size"),
        ({"width": 4}, "height is None"),
        ({"size": 4, "fit": "pad"}, "fit is 'pad'; accepted: crop"),
        ({"split": "test"}, "split is 'test'; accepted for"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, refuses, settings, named):
    where = folder(tmp_path / "set", files(["0.png"]))
    with refuses(named):
        tp.load(f"empirical:{where}", **settings)
