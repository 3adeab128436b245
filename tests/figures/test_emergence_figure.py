"""The map of emergence draws its table: cells, halves, closed forms, open ends, from one band to forty."""

import io
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, QuadMesh

from turningpoint.diffusion.schedule import EDM, VP
from turningpoint.figures.emergence import emergence, emergence_table
from turningpoint.figures.save import render, save
from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.emergence import emergence as measured
from turningpoint.statistics.emergence import gain

LOGSNR = np.linspace(-6, 6, 17)


def found(variances, quantity="power", items=40):
    rng = np.random.default_rng(0)
    spread = rng.gamma(4, 0.25, size=(items, 1, len(variances))) * variances
    noise = np.exp(-LOGSNR)[:, None]
    counts = weights(items, 50)
    if quantity == "gain":
        return gain(spread + 0 * noise, spread + noise, np.ones(len(LOGSNR)), LOGSNR, counts)
    power = spread * variances / (variances + noise)
    return measured(
        power * rng.gamma(50, 0.02, power.shape), spread[:, 0], LOGSNR, counts=counts, quantity=quantity
    )


def meshes(figure):
    return {mesh.get_label(): mesh for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)
            and mesh.get_label() in ("power", "amplitude", "gain")}  # fmt: skip


def dots(axes):
    halves = [line for line in axes.lines if line.get_marker() == "o"]
    return {round(float(line.get_ydata()[0])): float(line.get_xdata()[0]) for line in halves}


def bars(axes):
    found = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    return [path.vertices[0].tolist() for lines in found for path in lines.get_paths()]


def test_it_draws_its_table(tmp_path):
    variances = np.array([20.0, 3.0, 1.0, 0.2])
    truth = -np.log(variances)
    names = [f"band {b} ({b}–{b + 1} cycles)" for b in range(4)]
    tables = [emergence_table(found(variances, quantity), names, truth) for quantity in ("gain", "power")]
    figure = emergence(pd.concat(tables), VP())
    table = pd.read_csv(save(figure, pd.concat(tables), tmp_path, "emergence")[2])
    assert list(table["quantity"].unique()) == ["gain", "power"]
    drawn = meshes(figure)
    assert set(drawn) == {"gain", "power"}
    for quantity, mesh in drawn.items():
        rows = table[table["quantity"] == quantity]
        cells = rows.pivot(index="band", columns="logsnr", values="value").to_numpy()
        np.testing.assert_allclose(mesh.get_array(), cells)
        axes = mesh.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == names
        halves = rows.drop_duplicates("band").set_index("band")
        assert dots(axes) == pytest.approx(halves["half"].to_dict())
        assert sorted({x for x, _ in bars(axes)}) == pytest.approx(sorted(truth))
        low, high = axes.get_ylim()
        assert low > high  # the coarsest band stands at the top
        corners = mesh.get_coordinates()[0, :, 0]
        assert (corners[:-1] < LOGSNR).all()
        assert (corners[1:] > LOGSNR).all()
    assert figure.axes[0].get_title(loc="left").startswith("Power")  # whatever the order of the table


def test_amplitude_says_so():
    figure = emergence(emergence_table(found(np.array([1.0]), "amplitude")), VP())
    assert set(meshes(figure)) == {"amplitude"}
    assert figure.axes[0].get_title(loc="left").startswith("Amplitude of the estimate")
    assert not bars(figure.axes[0])  # no closed form was given
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "half ± s.e." in texts
    assert any(text.startswith("−1.") and " ± " in text for text in texts)  # -log 3


def test_numbers_show_their_error():
    table = emergence_table(found(np.array([2.0])), predicted=[-0.7])
    table = table.assign(half=-0.70123, half_error=0.0021, half_low=-0.71, half_high=-0.69)
    assert "−0.701 ± 0.002  (−0.700)" in [text.get_text() for text in emergence(table, VP()).axes[0].texts]
    table = table.assign(half_error=math.nan)
    assert "−0.70  (−0.70)" in [text.get_text() for text in emergence(table, VP()).axes[0].texts]


def test_open_ends_empty_bands_and_gaps():
    variances = np.array([1e5, 1.0, 0.0, 1e-5])
    table = emergence_table(found(variances), predicted=[-math.log(1e5), 0, math.nan, math.log(1e5)])
    table.loc[(table["band"] == 1) & (table["logsnr"] == 6), "value"] = math.nan
    axes = emergence(table, VP()).axes[0]
    assert list(dots(axes)) == [1]
    edges = {
        line.get_marker(): float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in (4, 5)
    }
    assert edges == pytest.approx({4: -6.375, 5: 6.375})
    texts = [text.get_text() for text in axes.texts]
    assert {"before the first  (−11.51)", "no power", "after the last  (11.51)"} <= set(texts)
    assert {x for x, _ in bars(axes)} == {0.0}
    cells = meshes(axes.figure)["power"].get_array()
    assert cells.mask[2].all()
    assert cells.mask[1].sum() == 1


@pytest.mark.parametrize(("count", "schedule"), [(1, VP()), (30, EDM()), (40, VP())])
def test_it_holds_any_number_of_bands(count, schedule):
    names = [
        f"band {b}, said at great length and with no end in sight ({b}–{b + 1} cycles)" for b in range(count)
    ]
    table = emergence_table(found(np.geomspace(300, 1e-2, count)), names)
    figure = emergence(table, schedule)
    figure.savefig(io.BytesIO())  # which lays it out
    axes = figure.axes[0]
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert len(labels) == (count if count <= 32 else 20)
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 + 1 for one, other in pairwise(boxes))
    whole = figure.get_window_extent()
    numbers = [text.get_window_extent() for text in axes.texts]
    assert all(box.x1 <= whole.x1 + 1 and box.x0 >= whole.x0 - 1 for box in [*boxes, *numbers])


def test_it_is_the_same_bytes_twice():
    table = emergence_table(found(np.array([1.0, 0.1])))
    assert render(emergence(table, VP()), "svg") == render(emergence(table, VP()), "svg")


def test_one_time_and_infinite_log_snr():
    table = emergence_table(found(np.array([1.0, 0.1])))
    table = pd.concat([table, table[table["logsnr"] == 0].assign(logsnr=math.inf)])
    assert meshes(emergence(table, VP()))["power"].get_array().shape == (2, 17)
    assert meshes(emergence(table[table["logsnr"] == 0], VP()))["power"].get_array().shape == (2, 1)


def test_bad_input(refuses):
    with refuses("table is empty"):
        emergence(emergence_table(found(np.array([1.0]))).iloc[:0], VP())
    with refuses("labels has 1 entries; accepted: 2, one for each band"):
        emergence_table(found(np.array([1.0, 2.0])), ["one"])
    with refuses("predicted has 3 entries; accepted: 2, one for each band"):
        emergence_table(found(np.array([1.0, 2.0])), predicted=[1, 2, 3])
