"""The bars from onset to settling draw their table: order, open ends, predictions, features without an onset."""

import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from turningpoint.diffusion.schedule import EDM, VP
from turningpoint.figures.onset import onset
from turningpoint.figures.order import order as order_figure
from turningpoint.figures.save import render, save
from turningpoint.statistics.onset import order, order_matrix

INF, NAN = math.inf, math.nan
SWEEP = (-6.0, 8.0)


def row(feature, begins, settles=NAN, note="", **others):
    """A row of the table of onsets, with intervals of 0.4 and quartiles of 1 on either side."""
    made = {"feature": feature, "label": feature.replace(".", " of "), "kind": "scalar", "note": note}
    for name, at in (("onset", begins), ("settled", settles)):
        made |= {name: at, f"{name}_low": at - 0.4, f"{name}_high": at + 0.4}
        made |= {f"{name}_q25": at - 1, f"{name}_q75": at + 1}
    return made | others


def bars(figure):
    return {bar.get_label(): bar.patches[0] for bar in figure.axes[0].containers}


def words(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("count", [1, 20, 40])
def test_bars_reach_from_onset_to_settling(count, tmp_path):
    rng = np.random.default_rng(0)
    begins = rng.uniform(-5, 4, count)
    table = pd.DataFrame(
        [row(f"group{k % 9}.f{k}", at, at + rng.uniform(0, 3)) for k, at in enumerate(begins)]
    )
    figure = onset(table, VP(), SWEEP)
    read = pd.read_csv(save(figure, table, tmp_path, "onset")[2]).set_index("feature")
    drawn = bars(figure)
    assert set(drawn) == set(read.index)
    for name, bar in drawn.items():
        assert bar.get_x() == pytest.approx(read.loc[name, "onset"])
        assert bar.get_x() + bar.get_width() == pytest.approx(read.loc[name, "settled"])
    from_the_top = sorted(drawn, key=lambda name: drawn[name].get_y())
    assert read.loc[from_the_top, "onset"].is_monotonic_increasing


def lines_at(axes, y):
    """The ends of the horizontal lines drawn at a height."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == y]
    return [tuple(sorted(line.get_xdata())) for line in lines]


def test_intervals_and_quartiles_are_lines_beside_the_ticks():
    figure = onset(pd.DataFrame([row("class", -2.0, 1.0)]), VP(), SWEEP)
    above, below = -0.17, 0.17
    np.testing.assert_allclose(sorted(lines_at(figure.axes[0], above)), [(-3.0, -1.0), (-2.4, -1.6)])
    np.testing.assert_allclose(sorted(lines_at(figure.axes[0], below)), [(0.0, 2.0), (0.6, 1.4)])
    assert "−2.00  (−2.40, −1.60)" in words(figure.axes[0])


def test_open_ends_are_arrows_and_words():
    plain = onset(pd.DataFrame([row("class", -2.0, 1.0), row("edges", 0.0, 1.0)]), VP(), SWEEP)
    rows = [row("class", -INF, 1.0), row("edges", INF, INF), row("ssim", 0.0, INF), row("hue", -INF, -INF)]
    figure = onset(pd.DataFrame(rows), EDM(), SWEEP)
    assert len(figure.axes[0].patches) > len(plain.axes[0].patches) + 2
    drawn = bars(figure)
    assert (drawn["class"].get_x(), drawn["class"].get_width()) == (-6.0, 7.0)
    assert (drawn["edges"].get_x(), drawn["edges"].get_width()) == (8.0, 0.0)
    assert (drawn["ssim"].get_x(), drawn["ssim"].get_width()) == (0.0, 8.0)
    assert words(figure.axes[0]).count("before −6.0") == 2
    assert "after 8.0" in words(figure.axes[0])
    notes = [text.get_text() for text in figure.texts]
    assert "fading arrow: beyond the times recorded" in notes
    assert not any("fading" in text.get_text() for text in plain.texts)
    ElementTree.fromstring(render(figure, "svg"))


def test_features_without_an_onset_stand_below_with_their_reason():
    rows = [row("slant", NAN, note="nothing to grow or no reading: 3 of 3 items"), row("class", 1.0, 2.0)]
    figure = onset(pd.DataFrame(rows), VP(), SWEEP)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["class", "slant"]
    assert set(bars(figure)) == {"class"}
    assert "no onset: nothing to grow or no reading: 3 of 3 items" in words(figure.axes[0])
    nothing = onset(pd.DataFrame([row("slant", NAN)]), VP(), SWEEP)
    assert words(nothing.axes[0])[0] == "no onset"
    assert "onset (95 % interval)" not in words(nothing.axes[0])


def test_a_feature_that_settles_nobody_knows_when_and_one_item():
    figure = onset(pd.DataFrame([row("class", 1.0, NAN)]), VP(), SWEEP)
    assert bars(figure)["class"].get_width() == 0
    single = row("class", 1.0, 2.0) | {
        f"{name}_{end}": NAN for name in ("onset", "settled") for end in ("low", "high")
    }
    assert "1.00" in words(onset(pd.DataFrame([single]), VP(), SWEEP).axes[0])


def test_predictions_are_diamonds_in_their_rows():
    rows = [
        row("a", -2.0, 1.0, theory=-1.5),
        row("b", 0.0, 1.0, theory=NAN),
        row("c", 1.0, 2.0, theory=-50.0),
    ]
    figure = onset(pd.DataFrame(rows), VP(), SWEEP)
    diamonds = [line for line in figure.axes[0].lines if line.get_label() == "theory"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in diamonds] == [(-1.5, 0)]
    assert "diamond: predicted" in [text.get_text() for text in figure.texts]


def test_the_order_of_onsets_is_drawn_by_the_figure_of_order():
    """Its windows are the onsets by another name."""
    times = {"edges": np.array([1.0, 2.0, 3.0]), "class": np.array([0.0, 1.0, 4.0])}
    table = pd.DataFrame([row("edges", 2.0, 3.0), row("class", 1.0, 2.0)])
    square = order_matrix(order(times))
    figure = order_figure(square, table.rename(columns={"onset": "centre", "settled": "start"}))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["class", "edges"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["67", "33"]
