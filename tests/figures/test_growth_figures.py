"""Growth in pictures: curves and heat map draw their tables, from one feature to forty, with gaps and open ends."""

import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from turningpoint.diffusion.schedule import EDM, VP
from turningpoint.figures.growth import MOST, TOGETHER, heatmap, heatmap_table, overlay
from turningpoint.figures.save import render, save
from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.growth import Series, curves
from turningpoint.statistics.onset import onsets

LOGSNR = np.linspace(-6, 8, 15)
NAMES = (
    *(f"frequency.energy{k}" for k in range(10)),
    *("structure.ssim", "structure.edges", "color.mean", "class", "clip.distance", "entropy"),
    *(f"texture.{k}" for k in range(24)),
)
COUNTS = weights(12, 50)


def world(names, logsnr=LOGSNR):
    """Logistic growth about middles that stand in no order, as scalars with an absent value."""
    rng = np.random.default_rng(0)
    series = []
    for k, name in enumerate(names):
        middle = -4 + 9 * (7 * k % len(names)) / len(names) + rng.normal(0, 0.7, 12)
        final = rng.lognormal(size=12)
        share = 1 / (1 + np.exp(-(logsnr - middle[:, None])))
        series.append(Series(name, f"the {name}", "scalar", "", final[:, None] * share, final, 0.0))
    return curves(series, logsnr, COUNTS), onsets(series, logsnr, COUNTS)


def drawn(figure):
    """The curves of all panels by feature."""
    return {
        line.get_label(): line for axes in figure.axes for line in axes.lines if line.get_label() in NAMES
    }


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("count", [1, TOGETHER, TOGETHER + 1, 40])
def test_every_curve_is_drawn_from_its_table(count, tmp_path):
    table, times = world(NAMES[:count])
    figure = overlay(table, times, VP())
    read = pd.read_csv(save(figure, table, tmp_path, "growth")[2])
    lines = drawn(figure)
    assert set(lines) == set(NAMES[:count])
    for name, line in lines.items():
        rows = read[read["feature"] == name]
        np.testing.assert_array_equal(line.get_xdata(), rows["logsnr"])
        np.testing.assert_array_equal(line.get_ydata(), rows["growth"])
    panels = [[line.get_label() for line in axes.lines if line.get_label() in NAMES] for axes in figure.axes]
    assert len(panels) == 1 if count <= TOGETHER else all(len(names) <= MOST for names in panels)
    ranked = times.set_index("feature")["onset"]
    for names in panels:
        assert ranked[names].is_monotonic_increasing
        looks = {(str(lines[name].get_color()), lines[name].get_linestyle()) for name in names}
        assert len(looks) == len(names)


def test_groups_of_one_share_a_panel():
    table, times = world(NAMES[:16])
    titles = [axes.get_title(loc="left") for axes in overlay(table, times, VP()).axes]
    assert sorted(titles) == ["frequency (1 of 2)", "frequency (2 of 2)", "others", "structure"]


def test_dots_stand_where_curves_reach_one_half():
    table, times = world(NAMES[:5])
    dots = [line for line in overlay(table, times, VP()).axes[0].lines if line.get_marker() == "o"]
    found = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in dots)
    assert found == sorted((place, 0.5) for place in times["pooled"])


def test_the_map_is_its_table_in_the_order_of_onsets(tmp_path):
    table, times = world(NAMES[:20])
    rows = heatmap_table(table, times)
    figure = heatmap(rows, VP())
    read = pd.read_csv(save(figure, rows, tmp_path, "map")[2])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        f"the {name}" for name in times.sort_values("onset")["feature"]
    ]
    cells = axes.collections[0].get_array()
    expected = read.pivot(index="place", columns="logsnr", values="growth").clip(0, 1)
    np.testing.assert_array_equal(cells, expected)
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
    halves = read.drop_duplicates("place").set_index("place")["pooled"]
    assert dots == halves.to_dict()
    assert figure.axes[-1].get_ylabel() == "growth"


def test_gaps_open_ends_and_wild_values_are_shown_as_such():
    table, times = world(NAMES[:4])
    gone, early, wild = NAMES[:3]
    table.loc[table["feature"] == gone, ["growth", "low", "high"]] = math.nan
    numbers = times.select_dtypes("number").columns
    times.loc[times["feature"] == gone, numbers] = math.nan
    times.loc[
        times["feature"] == early, ["onset", "onset_low", "pooled", "pooled_low", "pooled_high"]
    ] = -math.inf
    table.loc[(table["feature"] == wild) & (table["logsnr"] < -5), ["growth", "high"]] = [30.0, math.inf]
    figure = overlay(table, times, EDM())
    assert any(text.endswith(": none") for text in words(figure))
    assert figure.axes[0].get_ylim()[1] < 1.5
    assert len([line for line in figure.axes[0].lines if line.get_marker() == "o"]) == 2
    picture = heatmap(heatmap_table(table, times), EDM())
    axes = picture.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()][::3] == [f"the {early}", f"the {gone}"]
    assert np.ma.getmaskarray(axes.collections[0].get_array())[-1].all()
    assert picture.axes[-1].get_ylabel() == "growth, cut off at 0 and 1"
    for one in (figure, picture):
        ElementTree.fromstring(render(one, "svg"))


def test_times_without_a_finite_log_snr_are_not_drawn(refuses):
    logsnr = LOGSNR.copy()
    logsnr[0], logsnr[-1] = -np.inf, np.inf
    table, times = world(NAMES[:2], logsnr)
    assert len(drawn(overlay(table, times, VP()))[NAMES[0]].get_xdata()) == 13
    assert heatmap(heatmap_table(table, times), VP()).axes[0].collections[0].get_array().shape == (2, 13)
    none = table[np.isinf(table["logsnr"])]
    for draw in (lambda: overlay(none, times, VP()), lambda: heatmap(heatmap_table(none, times), VP())):
        with refuses("curves is empty; accepted: growth at one finite log-SNR"):
            draw()
    with refuses("curves is empty; accepted: the growth of one feature"):
        heatmap_table(table[:0], times)


def test_one_time_and_one_item_are_pictures_too():
    series = [Series("class", "class", "categorical", "", np.array([[3]]), np.array([3]))]
    table, times = curves(series, np.zeros(1)), onsets(series, np.zeros(1))
    for figure in (overlay(table, times, VP()), heatmap(heatmap_table(table, times), VP())):
        ElementTree.fromstring(render(figure, "svg"))
