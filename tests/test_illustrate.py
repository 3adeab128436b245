"""What a report draws of a run: each picture where there is material for it, and no more rows than are shown."""

import numpy as np
import pandas as pd
import pytest
import torch

import turningpoint as tp
from turningpoint.illustrate import ROWS, first_rows, pictures, set_aside, sorted_categories
from turningpoint.measures import Reading
from turningpoint.report import report


def tables(run):
    """The tables of all pictures of a run, by name."""
    windows = run.windows()
    own = windows[~windows["feature"].isin(set_aside(windows))]
    order, sweep = run.order(list(own["feature"])), (-5.0, 1.0)
    drawn = pictures(run, sorted_categories(run, windows), windows, run.curves(), order, sweep, 0.1)
    return {name: table for name, (_, table, _) in drawn.items()}


@pytest.mark.parametrize("kept", ["float32", "float16", "uint8"])
def test_only_the_rows_that_are_shown_are_read(monkeypatch, kept):
    settings = {"items": 20, "steps": 2, "store": kept, "progress": None}
    run = tp.uturn("digits", times=[0.5], **settings)
    run = tp.uturn("digits", times=[0.2, 0.7], extend=True, into=run, **settings)  # not stored in their order
    run.measure("class")
    expected = run.images[:3].values
    largest = {}
    read = type(run.store).read

    def counting(store, name, region=()):
        piece = read(store, name, region)
        largest[name] = max(largest.get(name, 0), len(piece))
        return piece

    monkeypatch.setattr(type(run.store), "read", counting)
    monkeypatch.setattr(tp.Run, "images", property(lambda self: pytest.fail("all images were asked for")))
    np.testing.assert_array_equal(first_rows(run, 3, None), expected)
    tables(run)
    assert largest["images"] == largest["start"] == ROWS


def test_clones_are_drawn_as_a_tree(tmp_path):
    run = tp.clone(
        "digits", 3, times=[0.3, 0.5, 0.7], copies=2, steps=6, first_item=5, out=tmp_path, progress=None
    )
    text = report(run.measure("class")).read_text(encoding="utf-8")
    assert "The tree" in text
    assert "Thick: the fraction of what came back" in text
    assert "Thin: " not in text  # three trunks are too few for lines of their own
    assert "frame is the class that is read" in text
    table = pd.read_csv(tmp_path / "figures" / "tree.csv")
    reading = run.reading("class")
    assert list(dict.fromkeys(table["item"])) == [5, 6]
    for row in table.to_dict("records"):
        here = row["item"] - 5
        k = int(np.abs(run.times - row["t"]).argmin())
        assert row["trunk"] == reading["start"].values[here]
        assert row["clone"] == reading["back"].values[here, row["replicate"], k]
    board = pd.read_csv(tmp_path / "figures" / "storyboard.csv")
    assert len(board) == len(table) == 2 * 2 * 3


class Asked(tp.Measure):
    """Which third of [-1, 1] the mean lies in, with probabilities, as `clip` answers a question."""

    name = "clip"
    readings = (
        Reading("tone", "categorical", "tone", values=("black", "grey", "white")),
        Reading("tone.probability", "vector", "probabilities"),
        Reading("embedding", "vector", "pixels"),
    )

    def read(self, images):
        mean = images.flatten(1).mean(1)
        p = torch.softmax(-20 * (mean[:, None] + torch.tensor([0.9, 0.7, 0.5])).abs(), 1).numpy()
        return {"tone": p.argmax(1), "tone.probability": p, "embedding": images.flatten(1).numpy()}


def test_probabilities_are_drawn_where_a_measure_has_read_them():
    settings = {"items": 9, "replicates": 2, "steps": 4, "progress": None}
    run = tp.uturn("digits", times=[0.4], **settings)
    run = tp.uturn("digits", times=[0.2, 0.6], extend=True, into=run, **settings)  # not stored in their order
    found = tables(run.measure(Asked(), "class"))
    table = found["probability"]
    everything = table[table["category"] == -1]
    assert dict(everything[["feature", "quantity"]].values) == {
        "class": "fraction",
        "clip.tone": "probability",
    }
    own = run.reading("clip.tone")["start"].values
    p = run.reading("clip.tone.probability")["back"].values
    expected = np.mean([p[i, :, :, own[i]].mean(0) for i in range(9)], 0)
    shown = everything[everything["feature"] == "clip.tone"].sort_values("t")
    np.testing.assert_allclose(shown["value"], expected, rtol=1e-6)  # float32 readings
    kept = everything[everything["feature"] == "class"].sort_values("t")
    np.testing.assert_allclose(kept["value"], run.retention("class").kept, rtol=1e-12)
    alternatives = set(table[table["feature"] == "clip.tone"]["alternative"])
    assert alternatives == {"", *(("black", "grey", "white")[value] for value in own)}
    assert set(found["storyboard"]["feature"]) == {"class"}  # the class comes before what was asked


class Layered(tp.Measure):
    """Cosines of growing patches, as `layers` reads them of a network."""

    name = "layers"

    def __init__(self, count):
        self.sides = range(2, 2 + count)
        kinds = (("cosine", 1.0), ("l2", 0.0))
        self.readings = tuple(
            Reading(f"block{side}.{kind}", "comparison", kind, "", largest)
            for side in self.sides
            for kind, largest in kinds
        )

    def read(self, images):
        return {}

    def compare(self, a, b):
        found = {}
        for side in self.sides:
            x, y = (image[..., :side, 10 : 10 + side].flatten(1) + 1.1 for image in (a, b))
            found[f"block{side}.cosine"] = torch.cosine_similarity(x, y).numpy()
            found[f"block{side}.l2"] = (x - y).square().sum(1).numpy()
        return found


@pytest.mark.parametrize(("count", "left"), [(3, 7), (8, 1)])
def test_many_readings_of_layers_stand_in_the_heat_map(count, left):
    run = tp.uturn("digits", items=6, times=[0.2, 0.5], steps=4, progress=None).measure(
        Layered(count), "class"
    )
    found = tables(run)
    table = found["layers"]
    assert len(table) == count * 2 * 2
    assert list(dict.fromkeys(table["layer"])) == [f"block{side}" for side in range(2, 2 + count)]
    np.testing.assert_allclose(
        table[table["feature"] == "layers.block3.cosine"].sort_values("t")["retention"],
        run.retention("layers.block3.cosine").retention,
    )
    for name in ("timeline", "retention"):
        assert found[name]["feature"].nunique() == left
    assert ("order" in found) == (left > 1)


def test_a_run_of_layers_alone_keeps_the_cosines_and_says_so(tmp_path):
    run = tp.uturn("digits", items=6, times=[0.2, 0.5], steps=4, out=tmp_path, progress=None)
    text = report(run.measure(Layered(8))).read_text(encoding="utf-8")
    windows = pd.read_csv(tmp_path / "figures" / "timeline.csv")
    assert len(windows) == 8
    assert windows["feature"].str.endswith(".cosine").all()
    assert "Layer by layer" in text
    assert "The 8 readings of layers that were made besides these" in text
    assert 'id="layers"' in text
