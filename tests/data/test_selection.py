"""Some classes, so many of each, taking turns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_sets import files, folder

from turningpoint.data import open_images, select
from turningpoint.data.arrays import Arrays
from turningpoint.data.select import chosen


@pytest.fixture
def pets(tmp_path):
    counts = {"bird": 2, "cat": 4, "dog": 3}
    return open_images(folder(tmp_path, files([f"{c}/{k}.png" for c, n in counts.items() for k in range(n)])))


def test_classes_take_turns(pets):
    assert select(pets, per_class=2).names == [
        "bird/0.png", "cat/0.png", "dog/0.png", "bird/1.png", "cat/1.png", "dog/1.png"
    ]  # fmt: skip
    assert select(pets, "dog,cat").names == [
        "cat/0.png", "dog/0.png", "cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png", "cat/3.png"
    ]  # fmt: skip
    assert select(pets, "dog", per_class=2, items=1).names == ["dog/0.png"]


def test_without_a_selection_the_order_stays(pets):
    assert select(pets) is pets
    assert select(pets, items=3).names == pets.names[:3]
    assert len(select(pets, items=1000)) == 9


@pytest.mark.parametrize(
    "classes",
    ["cat,dog", " cat , dog ", ["dog", "cat"], [1, 2], "1,2", (1, "dog"), ["cat", "cat", 2], "CAT,Dog"],
)
def test_classes_are_names_or_labels(pets, classes):
    assert sorted(set(select(pets, classes).labels.tolist())) == [1, 2]
    assert select(pets, classes).classes == ("bird", "cat", "dog")


def test_a_name_goes_before_a_number():
    images = Arrays(np.zeros((3, 1, 2, 2)), [0, 1, 2])
    images.classes = ("2", "1", "0")
    assert select(images, "2").labels.tolist() == [0]
    assert select(images, 2).labels.tolist() == [2]


def test_names_with_commas_are_known_by_their_first_word():
    images = Arrays(np.zeros((3, 1, 2, 2)), [0, 1, 1])
    images.classes = ("tench, Tinca tinca", "great white shark, white shark")
    for classes in ("tench, Tinca tinca", "tench", ["tench, Tinca tinca"], "Tench,tench"):
        assert select(images, classes).labels.tolist() == [0]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.integers(1, 3))
def test_every_beginning_is_balanced(labels, per_class):
    labels = np.array(labels)
    counts = np.bincount(labels[labels >= 0], minlength=5)
    there = np.flatnonzero(counts >= per_class)
    if not len(there):
        return
    places = chosen(labels, (), there, per_class)
    assert len(places) == per_class * len(there)
    for n in range(1, len(places) + 1):
        begun = np.bincount(labels[places[:n]], minlength=5)[there]
        assert begun.max() - begun.min() <= 1
    for label in there:  # the first of each, in their order
        np.testing.assert_array_equal(
            places[labels[places] == label], np.flatnonzero(labels == label)[:per_class]
        )


def test_mistakes_are_one_sentence(pets, refuses):
    for arguments, named in [
        ({"classes": "fish"}, "classes names 'fish', of which there is no image; accepted: bird, cat, dog"),
        ({"classes": "cta"}, "classes names 'cta', of which there is no image; accepted: cat"),
        ({"classes": [7]}, "classes names 7, of which"),
        ({"classes": " , "}, "accepted: names or labels, one or more"),
        ({"per_class": 3}, "per_class is 3, but the class 'bird' has 2 of the images; accepted: at most 2"),
        ({"per_class": 4, "classes": "cat,dog"}, "the class 'dog' has 3"),
        ({"per_class": 0}, "per_class is 0; accepted: a whole number of at least 1"),
        ({"per_class": 1.5}, "per_class is 1.5"),
        ({"items": 0}, "items is 0"),
    ]:
        with refuses(named):
            select(pets, **arguments)
    for labels in (None, [-1, -1]):
        plain = Arrays(np.zeros((2, 1, 2, 2)), labels)
        with refuses("per_class is 1, but the images have no labels"):
            select(plain, per_class=1)
        with refuses("classes is 'cat', but the images have no labels"):
            select(plain, "cat")
    with refuses("the class 7 has 1 of the images"):
        select(Arrays(np.zeros((3, 1, 2, 2)), [4, 4, 7]), per_class=2)
    with refuses("of which there is no image; accepted: 4, 7"):
        select(Arrays(np.zeros((3, 1, 2, 2)), [4, 4, 7]), "5")
