"""The matrices of layers and features: which pair is drawn, its sign, its significance, its words."""

import numpy as np
import pandas as pd
import pytest

from turningpoint.figures.association import association, spoken, strongest
from turningpoint.figures.save import render

COLUMNS = ("layer", "summary", "feature", "r", "logsnr", "family", "significant")


def table(layers=2, features=3):
    """Down drives the first feature up, the next layer the second one down; the last one does not vary."""
    rows = []
    for i in range(layers):
        for j in range(features):
            for summary, weak in (("magnitude", 0.1), ("change", -0.2), ("contrast", np.nan)):
                place = (f"block.{i}", summary, f"color.f{j}")
                found = (weak, -1.0, 0.9, False)
                if i == j == 0 and summary == "magnitude":
                    found = (0.8, -3.0, 0.01, True)
                elif i == j == 0 and summary == "change":
                    found = (-0.85, 2.0, 0.2, False)
                elif i == j == 1 and summary == "change":
                    found = (-0.7, 4.0, 0.02, True)
                elif j == features - 1 > 1:
                    found = (np.nan, np.nan, np.nan, False)
                rows.append((*place, *found))
    return pd.DataFrame(rows, columns=COLUMNS)


def images(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_significant_pair_comes_before_a_stronger_one():
    best = strongest(table())
    assert len(best) == 6
    assert best[["layer", "feature"]].drop_duplicates().shape == (6, 2)
    first = best.iloc[0]
    assert (first["summary"], first["r"]) == ("magnitude", 0.8)
    other = best[(best["layer"] == "block.0") & (best["feature"] == "color.f1")].iloc[0]
    assert other["r"] == -0.2
    assert strongest(table(), "change").iloc[0]["r"] == -0.85


def test_signs_are_colours_and_chance_is_pale():
    r, level = images(association(table()))
    assert r.shape == level.shape == (2, 3, 4)
    assert r[0, 0, 0] > r[0, 0, 2] + 0.3
    assert r[1, 1, 2] > r[1, 1, 0] + 0.3
    assert r[0, 1, :3].min() > 0.75
    assert level[0, 1, :3].min() > 0.9
    assert level[1, 1, :3].sum() > level[0, 0, :3].sum()  # later is lighter
    np.testing.assert_array_equal(r[:, 2], level[:, 2])
    assert np.ptp(r[0, 2, :3]) == 0


def test_letters_and_numbers_where_there_is_room():
    figure = association(table())
    assert {"m", "c", "−3.0", "4.0"} <= set(words(figure))
    key = figure.texts[-1].get_text()
    assert "m magnitude" in key
    assert "c change" in key
    assert "contrast" not in key
    assert "grey" in key
    many = association(table(25, 40))
    assert not any(words(many))
    assert "m magnitude" not in many.texts[-1].get_text()
    alone = association(table(), "change")
    assert set(words(alone)) - {""} == {"4.0"}


@pytest.mark.parametrize(("layers", "features"), [(1, 1), (5, 10), (25, 40), (70, 2), (1, 30)])
def test_everything_stays_on_the_page(layers, features):
    figure = association(
        table(layers, features), labels={"color.f0": "a label that is much longer than there is room"}
    )
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            box = label.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
    shapes = [image.shape for image in images(figure)]
    assert shapes == [(layers, features, 4)] * 2


def test_columns_keep_their_order_and_their_labels():
    mixed = table().sample(frac=1, random_state=0)
    figure = association(mixed, labels={"color.f1": "second"})
    axes = next(axes for axes in figure.axes if axes.images)
    said = [label.get_text() for label in axes.get_xticklabels()]
    order = list(dict.fromkeys(mixed["feature"]))
    assert said == ["second" if name == "color.f1" else name for name in order]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == list(dict.fromkeys(mixed["layer"]))
    r = images(figure)[0]
    spot = r[rows.index("block.0"), order.index("color.f0")]
    assert spot[0] > spot[2] + 0.3


def test_words():
    assert spoken(table()) == (
        "Of 8 pairs of a layer's activity and a feature 2 are significant; the strongest is magnitude of block.0 with "
        "color.f0, r = 0.80 at log-SNR −3.0 (corrected p = 0.01)."
    )
    nothing = table().assign(significant=False)
    assert "None of 8 pairs" in spoken(nothing)
    assert "is 0.01." in spoken(nothing)


def test_the_same_bytes_twice():
    assert render(association(table()), "svg") == render(association(table()), "svg")


def test_what_cannot_be_drawn_is_refused(refuses):
    with refuses("table is empty"):
        association(table().iloc[:0])
    with refuses("summary is 'rank'; accepted: magnitude, change, contrast"):
        association(table(), "rank")
