"""Maps of layer by step: every cell is the number it stands for, and ugly input is drawn or refused."""

import itertools
import math

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.collections import QuadMesh

from turningpoint.diffusion.schedule import VP
from turningpoint.figures.activity import activity, activity_difference, activity_table
from turningpoint.figures.activity_maps import activity_maps, activity_maps_table
from turningpoint.figures.heat import brief_layer, diverging, named_rows
from turningpoint.figures.save import render, save
from turningpoint.statistics.paired import difference

CLOCK = VP()
SUMMARIES = ("magnitude", "sparsity", "rank", "change", "entropy", "contrast")
LAYERS = ("down_blocks.0", "mid_block", "up_blocks.1.attentions.0.transformer_blocks.0")


def seen(times=8, layers=3, items=6, seed=0):
    """Summaries with a wide range of change, no attention, and no step before the first."""
    rng = np.random.default_rng(seed)
    values = np.exp(0.1 * rng.normal(size=(items, times, layers, 6)))
    values[..., 0] *= 10.0 ** np.arange(layers)
    values[..., 1] *= 0.5
    values[..., 3] *= 10.0 ** np.linspace(-3, 0, times)[:, None]
    values[:, 0, :, 3] = np.nan
    values[..., 4] = np.nan
    return values, np.linspace(-8, 5, times)


def names(layers):
    return [LAYERS[k] if k < 3 else f"up_blocks.{k}" for k in range(layers)]


def panels(figure):
    """The maps of a figure by their summary."""
    found = {}
    for axes in figure.axes:
        for shape in axes.collections:
            if isinstance(shape, QuadMesh) and not shape.get_label().startswith("_"):
                found[shape.get_label()] = (axes, shape)
    return found


def cells(mesh, rows):
    return np.asarray(mesh.get_array()).reshape(rows, -1, 4)


class TestTable:
    def test_it_holds_means_over_items(self):
        values, logsnr = seen()
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        assert len(table) == 8 * 3 * 6
        at = table[(table["summary"] == "rank") & (table["layer"] == "mid_block")]
        np.testing.assert_allclose(at["mean"], values[:, :, 1, 2].mean(0))
        np.testing.assert_allclose(at["sd"], values[:, :, 1, 2].std(0, ddof=1))
        np.testing.assert_allclose(at["relative"], at["mean"] / at["mean"].max())
        assert set(at["items"]) == {6}
        assert at["place"].unique().tolist() == [1]
        np.testing.assert_array_equal(at["logsnr"], logsnr)

    def test_items_without_a_number_are_left_out(self):
        values, logsnr = seen()
        values[:2, 3, 0, 2] = np.nan
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        row = table[(table["summary"] == "rank") & (table["place"] == 0) & (table["step"] == 3)].iloc[0]
        assert row["items"] == 4
        assert row["mean"] == pytest.approx(values[2:, 3, 0, 2].mean())
        gone = table[table["summary"] == "entropy"]
        assert gone[["mean", "sd", "largest", "relative"]].isna().all().all()

    def test_shapes_are_checked(self, refuses):
        values, logsnr = seen()
        with refuses(r"activations has shape \(6, 8, 3, 6\); accepted: \(8, 2, 6\)"):
            activity_table(values, logsnr, LAYERS[:2], SUMMARIES)


class TestActivity:
    def test_a_panel_for_every_summary_that_is_there(self):
        values, logsnr = seen()
        found = panels(activity(activity_table(values, logsnr, names(3), SUMMARIES), CLOCK))
        assert list(found) == [name for name in SUMMARIES if name != "entropy"]

    def test_colours_are_the_numbers(self):
        """Magnitudes by their layer's largest, sparsity as it is: equal numbers have equal colours, larger lighter."""
        values, logsnr = seen()
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        found = panels(activity(table, CLOCK))
        light = np.array([0.299, 0.587, 0.114, 0])
        for summary, column in (("magnitude", "relative"), ("sparsity", "mean"), ("change", "mean")):
            shown = cells(found[summary][1], 3) @ light
            wanted = table[table["summary"] == summary][column].to_numpy().reshape(3, 8)
            known = np.isfinite(wanted)
            order = np.argsort(wanted[known])
            assert (np.diff(shown[known][order]) > -1e-9).all()
            assert np.ptp(shown[known]) > 0.5

    def test_a_wide_range_goes_by_powers_and_a_missing_step_is_grey(self):
        values, logsnr = seen()
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        figure = activity(table, CLOCK)
        mesh = panels(figure)["change"][1]
        grey = cells(mesh, 3)[:, 0, :3]
        assert np.ptp(grey) == 0
        assert [text.get_text() for text in figure.texts].count("log") == 1
        middle = cells(mesh, 3)[:, 4]  # the geometric mean of steps 1 to 7, up to the noise of means
        np.testing.assert_allclose(middle, [colormaps["viridis"](0.5)] * 3, atol=0.06)

    def test_each_layers_largest_value_stands_beside_it(self):
        values, logsnr = seen()
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        axes = panels(activity(table, CLOCK))["magnitude"][0]
        said = [text.get_text() for text in axes.texts]
        largest = table[table["summary"] == "magnitude"].groupby("place")["largest"].first()
        assert f"{largest[0]:.3g}" in said
        assert f"{largest[2]:.0f}" in said

    @pytest.mark.parametrize("layers", [1, 5, 25, 70])
    def test_names_do_not_touch(self, layers):
        values, logsnr = seen(layers=layers)
        figure = activity(activity_table(values, logsnr, names(layers), SUMMARIES), CLOCK)
        figure.canvas.draw()
        axes = panels(figure)["magnitude"][0]
        boxes = [tick.get_window_extent() for tick in axes.get_yticklabels()]
        assert len(boxes) > 20 or layers < 20
        for above, below in itertools.pairwise(boxes):
            assert above.y0 >= below.y0 + 0.5 * below.height  # letters, not the room for their tails
        assert min(box.x0 for box in boxes) >= 0

    def test_one_summary_one_step_and_open_ends(self):
        values, logsnr = seen(times=3)
        logsnr[[0, 2]] = -math.inf, math.inf
        found = panels(activity(activity_table(values[..., :1], logsnr, names(3), ["magnitude"]), CLOCK))
        assert cells(found["magnitude"][1], 3).shape == (3, 1, 4)

    def test_nothing_to_draw_is_refused(self, refuses):
        values, logsnr = seen()
        with refuses("table has no number at a finite log-SNR"):
            activity(activity_table(np.full_like(values, np.nan), logsnr, names(3), SUMMARIES), CLOCK)

    def test_it_is_saved_with_its_table_the_same_bytes_twice(self, tmp_path):
        values, logsnr = seen()
        table = activity_table(values, logsnr, names(3), SUMMARIES)
        figure = activity(table, CLOCK)
        assert {path.suffix for path in save(figure, table, tmp_path, "activity")} == {".svg", ".pdf", ".csv"}
        assert render(activity(table, CLOCK), "svg") == (tmp_path / "activity.svg").read_bytes()


class TestDifference:
    def test_the_sign_is_the_colour_and_what_is_not_significant_is_pale(self):
        values, logsnr = seen(items=30)
        other = values.copy()
        noise = np.random.default_rng(1).normal(size=values.shape)
        other += 0.01 * noise
        other[:, 4, 0] += 0.03
        other[:, 5, 1] -= 0.03
        table = difference(other, values, logsnr, names(3), SUMMARIES, samples=20)
        figure = activity_difference(table, CLOCK, ("with", "without"))
        colors = cells(panels(figure)["magnitude"][1], 3)
        more, less, nothing = colors[0, 4], colors[1, 5], colors[2, 2]
        assert more[0] > more[2] + 0.3
        assert less[2] > less[0] + 0.3
        assert nothing[:3].min() > 0.75
        assert any("with less without" in text.get_text() for text in figure.texts)

    def test_conditions_that_are_the_same(self):
        values, logsnr = seen()
        table = difference(values, values, logsnr, names(3), SUMMARIES, samples=5)
        colors = cells(panels(activity_difference(table, CLOCK))["magnitude"][1], 3)
        np.testing.assert_allclose(colors, 1, atol=0.01)


class TestMaps:
    def test_greys_are_shares_of_the_mean_and_run_over_a_row(self):
        maps = (
            np.random.default_rng(0).uniform(1, 3, size=(4, 3, 5, 5))
            * 10.0 ** np.arange(4)[:, None, None, None]
        )
        maps[:, 1] = np.nan
        maps[0, 2] = np.nan
        figure = activity_maps(maps, np.linspace(-5, 5, 4), LAYERS, CLOCK)
        images = figure.axes[0].images
        assert len(images) == 8
        row = np.stack([image.get_array()[..., 0] for image in images[:4]]).astype(float)
        share = maps[:, 0] / maps[:, 0].mean((1, 2), keepdims=True)
        wanted = (share - share.min()) / (share.max() - share.min())
        np.testing.assert_allclose(row, wanted, atol=1 / 128)  # a step of 256 greys, and rounding
        table = activity_maps_table(maps, np.linspace(-5, 5, 4), LAYERS)
        np.testing.assert_allclose(table[table["place"] == 0]["share"], share.ravel())

    def test_many_layers_and_steps_are_chosen_evenly(self):
        maps = np.ones((50, 60, 2, 2))
        maps[0] = np.nan
        logsnr = np.linspace(-5, 5, 50)
        logsnr[-1] = math.inf
        layers = [f"blocks.{k}" for k in range(60)]
        table = activity_maps_table(maps, logsnr, layers)
        assert table["place"].nunique() == 24
        assert table["step"].nunique() == 10
        assert (table["step"].min(), table["step"].max()) == (1, 48)
        figure = activity_maps(maps, logsnr, layers, CLOCK)
        assert len(figure.axes[0].images) == 240
        assert figure.get_size_inches()[1] < 10
        assert any(text.get_text() == "24 of 60 layers" for text in figure.axes[0].texts)

    def test_what_cannot_be_drawn_is_refused(self, refuses):
        with refuses(r"maps has shape \(4, 3, 5\); accepted: \(4, 3, m, m\)"):
            activity_maps(np.ones((4, 3, 5)), np.zeros(4), LAYERS, CLOCK)
        with refuses("maps holds no number"):
            activity_maps_table(np.full((4, 3, 5, 5), np.nan), np.zeros(4), LAYERS)


class TestHeat:
    def test_long_names_stay_apart(self):
        long = [
            f"up_blocks.{i}.attentions.{j}.transformer_blocks.{k}"
            for i in range(3)
            for j in range(3)
            for k in range(3)
        ]
        cut = [brief_layer(name) for name in long]
        assert len(set(cut)) == 27
        assert max(map(len, cut)) <= 24
        assert brief_layer("mid_block.resnets.0") == "mid_block.resnets.0"
        assert len(brief_layer(".".join("0123456789" * 3))) == 24

    @pytest.mark.parametrize("rows", [1, 2, 7, 30, 100])
    def test_the_first_and_the_last_row_are_named(self, rows):
        places = named_rows(rows, 2.0)
        assert (places[0], places[-1]) == (0, rows - 1)
        gaps = np.diff(places) * 2.0 / rows
        assert (gaps >= 0.115 - 1e-9).all()

    def test_zero_is_white_and_the_ends_are_blue_and_vermillion(self):
        shades = diverging()
        np.testing.assert_allclose(shades(0.5), 1, atol=0.01)
        assert shades(0.0)[2] > shades(0.0)[0] + 0.3
        assert shades(1.0)[0] > shades(1.0)[2] + 0.3
