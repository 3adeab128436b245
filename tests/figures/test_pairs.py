"""Images of one item in several variants: what is measured of them, and what is shown of ugly ones."""

import numpy as np
import pytest

from turningpoint.figures.pairs import MOST, NAMES, pairs, pairs_table
from turningpoint.figures.save import save
from turningpoint.figures.style import WIDTH, inches_wide


def _images(n, shape=(1, 8, 8), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def test_distances_are_measured_against_other_images():
    clean, changed = _images(5), _images(5, seed=1)
    table = pairs_table({"clean": clean, "changed": changed}, range(10, 15))
    own = [np.sqrt(((a - b) ** 2).mean()) for a, b in zip(clean, changed, strict=True)]
    between = [np.sqrt(((clean[i] - clean[j]) ** 2).mean()) for i in range(5) for j in range(5) if i != j]
    np.testing.assert_allclose(table["distance"], own, rtol=1e-5)
    np.testing.assert_allclose(table["share"], own / np.median(between), rtol=1e-5)
    assert table["item"].tolist() == [10, 11, 12, 13, 14]


def test_every_variant_of_every_item_is_drawn_with_its_difference():
    three = {name: _images(3, seed=k) for k, name in enumerate(("clean", "changed", "donor"))}
    axes = pairs(three, [0, 1, 2]).axes[0]
    assert len(axes.images) == 3 * 4
    words = [text.get_text() for text in axes.texts]
    assert {"clean", "changed", "donor", "difference", "distance", "item", "0", "1", "2"} <= set(words)
    up = {"a": np.full((1, 1, 4, 4), -0.5), "b": np.full((1, 1, 4, 4), 0.5)}
    *_, difference = pairs(up, [0]).axes[0].images
    red, _, blue = difference.get_array()[0, 0]
    assert red > blue  # brighter is vermillion


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 300, 200), (5, 8, 8), (3, 2, 64), (1, 1, 1)])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_ugly_images_are_drawn_within_the_page(shape, n, tmp_path):
    n = min(n, 3) if shape[1] > 100 else n
    first = _images(n, shape)
    second = first.copy()
    second[0] = np.nan
    figure = pairs({"runs/a" * 30: first, "runs/b" * 30: second}, range(n))
    assert figure.get_size_inches()[0] <= WIDTH + 0.01
    shown = min(n, MOST)
    assert len(figure.axes[0].images) == 3 * shown
    names = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("…")]
    assert len(names) == 2
    assert all(inches_wide(name, 7) <= NAMES for name in names)
    table = pairs_table({"a": first, "b": second}, range(n))
    assert len(table) == shown
    assert np.isnan(table["share"][0])
    assert save(figure, table, tmp_path, "images")[0].stat().st_size > 1000


def test_what_is_no_pair_of_images_is_refused(refuses):
    with refuses("accepted: two or more of the same"):
        pairs({"clean": _images(2)}, [0, 1])
    with refuses("have shapes"):
        pairs({"clean": _images(2), "changed": _images(3)}, [0, 1])
    with refuses("have shapes"):
        pairs({"clean": np.zeros((2, 5)), "changed": np.zeros((2, 5))}, [0, 1])
    with refuses("for 0 items"):
        pairs({"clean": np.zeros((0, 1, 4, 4)), "changed": np.zeros((0, 1, 4, 4))}, [])
