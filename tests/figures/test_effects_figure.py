"""The forest plot: what it shows of realistic and of ugly tables."""

import numpy as np
import pandas as pd
import pytest

from turningpoint.figures.effects import MOST, REACH, effects, shown_of, spoken
from turningpoint.figures.save import save


def _table(n, **columns):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"feature": [f"color.f{k}" for k in range(n)], "label": [f"feature {k}" for k in range(n)]}
    )
    for name in ("standardised", "moved", "towards"):
        value = rng.normal(0, 0.5, n) if name == "standardised" else rng.uniform(0, 1, n)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = value, value - 0.1, value + 0.1
    table["q"] = rng.uniform(0, 0.2, n)
    return table.assign(**columns)


def _drawn(axes):
    """The dots of a panel: (place, row, whether it is filled)."""
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    return [(d.get_xdata()[0], d.get_ydata()[0], d.get_markerfacecolor() != "white") for d in dots]


def test_every_feature_is_a_dot_in_each_panel_and_the_sure_ones_are_filled():
    table = _table(6, q=[0.01, 0.2, 0.04, np.nan, 0.06, 0.05])
    panels = effects(table, ["color.f2"]).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["shift", "moved", "towards the donor"]
    dots = _drawn(panels[0])
    np.testing.assert_allclose([x for x, _, _ in dots], table.standardised)
    assert [filled for *_, filled in dots] == [True, False, True, False, False, True]
    assert all(filled for *_, filled in _drawn(panels[1]))
    names = [tick.get_text() for tick in panels[0].get_yticklabels()]
    assert names == ["feature 0", "feature 1", "◆ feature 2", *(f"feature {k}" for k in (3, 4, 5))]
    assert len([p for axes in panels for p in axes.patches]) == 3  # a shaded row in each panel


def test_what_lies_beyond_is_an_arrow_with_its_number():
    table = _table(20)
    table.loc[0, "standardised"] = 40.0
    axes = effects(table).axes[0]
    assert axes.get_xlim()[1] < 1.1 * REACH["standardised"]
    assert len(_drawn(axes)) == 19
    assert [text.get_text() for text in axes.texts] == ["40.0"]


def test_gaps_open_ends_and_missing_panels():
    table = _table(3).drop(columns=["towards", "towards_low", "towards_high"])
    table.loc[0, ["standardised", "standardised_low", "standardised_high"]] = np.nan
    table.loc[1, ["moved_low", "moved_high"]] = [-np.inf, np.inf]
    shift, moved = effects(table).axes
    assert [row for _, row, _ in _drawn(shift)] == [1, 2]
    for line in moved.lines:
        assert np.isfinite(np.asarray(line.get_xdata(), float)).all()
    (only,) = effects(table.assign(standardised=np.nan)).axes
    assert only.get_title(loc="left") == "moved"
    (nothing,) = effects(table.assign(standardised=np.nan, moved=np.nan)).axes
    assert [text.get_text() for text in nothing.texts] == ["no effect is known"]


def test_of_many_features_those_that_moved_most(refuses):
    table = _table(MOST + 15)
    table.loc[3, "moved"] = np.nan
    shown = shown_of(table)
    assert len(shown) == MOST
    assert shown.feature.tolist() == [f for f in table.feature if f in set(shown.feature)]
    assert "color.f3" not in set(shown.feature)
    assert shown.moved.min() >= table.moved[~table.feature.isin(shown.feature)].max()
    figure = effects(table)
    assert f"the {MOST} of {MOST + 15} features" in figure.get_supxlabel()
    with refuses("table is empty"):
        effects(table.iloc[:0])


def test_it_is_saved_with_its_table(tmp_path):
    table = _table(2, label=["a long label that says much, (with brackets) and more than fits here", "$x_1$"])
    files = save(effects(table), table, tmp_path, "effects")
    assert [file.suffix for file in files] == [".svg", ".pdf", ".csv"]
    pd.testing.assert_frame_equal(pd.read_csv(files[2]), table)


def test_the_words():
    table = _table(3, q=[0.01, 0.5, np.nan], moved=[0.2, np.nan, 0.9])
    assert spoken(table) == (
        "Of 2 features with a sign, 1 is shifted (q at most 0.05). Farthest moved feature 2: 0.90 of the way to "
        "another image."
    )
    assert spoken(table.assign(q=np.nan, moved=np.nan)).startswith("No feature that was read has a sign")


@pytest.mark.parametrize("n", [1, 30])
def test_its_height_goes_with_its_rows(n):
    assert effects(_table(n)).get_size_inches()[1] == pytest.approx(0.17 * n + 1.0)
