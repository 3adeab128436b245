"""Pictures of several runs: what they show is what the tables hold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from turningpoint.diffusion.schedule import VP
from turningpoint.figures.compare import difference, growth, onsets
from turningpoint.figures.save import render

AXIS = np.linspace(-8, 6, 15)
FEATURES = {
    "color.mean": "mean color",
    "class": "class",
    "pixels.wild": "a label of more than twenty-six letters",
}


def curves(runs=("few", "more")):
    parts = []
    for k, run in enumerate(runs):
        for j, (feature, label) in enumerate(FEATURES.items()):
            y = 1 / (1 + np.exp(-(AXIS - j - 0.5 * k)))
            y = {"class": np.full_like(y, np.nan), "pixels.wild": 2.5 * y}.get(feature, y)
            parts.append(
                pd.DataFrame({"run": run, "feature": feature, "label": label, "logsnr": AXIS, "growth": y,
                              "low": y - 0.1, "high": y + 0.1})
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def times(runs=("few", "more")):
    rows = []
    for k, run in enumerate(runs):
        for j, (feature, label) in enumerate(FEATURES.items()):
            at = {"class": np.inf, "pixels.wild": np.nan}.get(feature, j + 0.5 * k)
            row = {"run": run, "feature": feature, "label": label}
            for quantity, value in (("onset", at), ("settled", at + 1)):
                row |= {quantity: value, f"{quantity}_low": value - 0.5, f"{quantity}_high": value + 0.5}
            rows.append(row)
    return pd.DataFrame(rows)


def panel(figure, title):
    return next(axes for axes in figure.axes if title in (axes.get_title(), axes.get_title(loc="left")))


def test_a_curve_per_run_in_a_panel_per_feature():
    table = curves()
    figure = growth(table, VP())
    axes = panel(figure, "mean color")
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["few", "more"]
    for run, line in lines.items():
        want = table[(table["run"] == run) & (table["feature"] == "color.mean")]
        np.testing.assert_array_equal(line.get_xdata(), want["logsnr"])
        np.testing.assert_array_equal(line.get_ydata(), want["growth"])
    assert len({to_hex(line.get_color()) for line in lines.values()}) == 2
    assert [text.get_text() for text in figure.texts][-2:] == ["few", "more"]
    assert "not known" in [text.get_text() for text in panel(figure, "class").texts]
    assert (
        panel(figure, "a label of more than…").get_ylim()[1] > 2.5
    )  # wider where curves leave the usual frame
    assert panel(figure, "mean color").get_ylim() == (-0.2, 1.3)


def test_a_dot_per_run_and_an_arrow_for_what_is_open():
    figure = onsets(times(), VP())
    for title, quantity in (("half grown", "onset"), ("settled", "settled")):
        axes = panel(figure, title)
        dots = [line for line in axes.get_lines() if line.get_marker() in ("o", "s")]
        table = times()
        assert sorted(dot.get_xdata()[0] for dot in dots) == sorted(
            table[quantity][np.isfinite(table[quantity])]
        )
        arrows = [line for line in axes.get_lines() if line.get_marker() == 5]
        assert len(arrows) == 2  # the class, in both runs
        assert {line.get_xdata()[0] for line in arrows} == {axes.get_xlim()[1]}
    names = [tick.get_text() for tick in panel(figure, "half grown").get_yticklabels()]
    assert names == ["mean color", "class", "a label of more than…"]  # without an onset: last


def test_cells_are_pale_where_zero_is_in_the_interval():
    table = pd.DataFrame(
        {"feature": ["a", "a", "a", "b", "b", "b"], "label": list("aaabbb"), "logsnr": [-1.0, 0.0, 1.0] * 2,
         "difference": [0.4, 0.4, -0.4, 0.0, np.nan, 0.4], "low": [0.3, -0.1, -0.5, -0.1, np.nan, 0.3],
         "high": [0.5, 0.9, -0.3, 0.1, np.nan, 0.5]}
    )  # fmt: skip
    figure = difference(table, ("run", "other"), VP())
    axes = panel(figure, "run less other")
    (mesh,) = axes.collections
    colors = np.asarray(mesh.get_array()).reshape(2, 3, 4)[..., :3]
    assert colors[0, 0, 0] > colors[0, 0, 2]  # more: vermillion
    assert colors[0, 2, 2] > colors[0, 2, 0]  # less: blue
    np.testing.assert_allclose(colors[0, 1], 0.2 * colors[0, 0] + 0.8)
    np.testing.assert_allclose(colors[1, 0], 1.0, atol=2 / 256)  # a colour map has 256 steps
    assert to_hex(colors[1, 1]) == "#dddddd"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    "runs", [("one",), tuple(f"a study with $a_b$ & <names>, number {k}" for k in range(9))]
)
@pytest.mark.parametrize("schedule", [None, VP()])
def test_any_number_of_runs_is_drawn(runs, schedule):
    for figure in (growth(curves(runs), schedule), onsets(times(runs), schedule)):
        assert render(figure, "svg").startswith(b"<?xml")
        names = [
            text.get_text() for text in figure.texts if not text.get_text().startswith(("growth", "noise"))
        ]
        assert len(set(names)) == len(runs)  # cut names still differ


def test_only_open_ends():
    table = times()
    table[["onset", "onset_low", "onset_high"]] = -np.inf
    axes = panel(onsets(table), "half grown")
    assert len([line for line in axes.get_lines() if line.get_marker() == 4]) == len(table)


def test_nothing_to_draw_is_refused(refuses):
    for draw in (
        growth,
        lambda table: difference(table.rename(columns={"growth": "difference"}), ("a", "b")),
    ):
        with refuses("table is empty"):
            draw(curves().assign(logsnr=-np.inf))
    with refuses("table is empty"):
        onsets(times().head(0))
