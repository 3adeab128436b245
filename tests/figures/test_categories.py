"""Probability, storyboard, tree and layers: each draws exactly its table, of any size, the same bytes twice."""

import math
import os
import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from turningpoint.diffusion.schedule import VP, RectifiedFlow
from turningpoint.figures.layers import layers, layers_table, split
from turningpoint.figures.probability import caption, probability, probability_table
from turningpoint.figures.save import render, save
from turningpoint.figures.storyboard import storyboard, storyboard_table
from turningpoint.figures.thumbnails import (
    COLORS,
    OTHER,
    category_colors,
    category_name,
    evenly,
    legend_entries,
    thumbnail,
)
from turningpoint.figures.tree import TRUNKS, tree, tree_table
from turningpoint.statistics.bootstrap import weights

CLOCK = VP()
TIMES = np.linspace(0.1, 0.9, 9)
LOGSNR = CLOCK.logsnr(TIMES).numpy()
NAMES = ("red", "blue", "green")


def window(feature, centre, half=1.5):
    row = {"feature": feature}
    for edge, level in {"start": centre - half, "centre": centre, "end": centre + half}.items():
        row |= {edge: level, f"{edge}_low": level - 0.2, f"{edge}_high": level + 0.2}
    return row


def pictures(items=2, copies=3, times=9, channels=1, size=8, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.uniform(-1, 1, (items, channels, size, size))
    images = rng.uniform(-1, 1, (items, copies, times, channels, size, size))
    own = rng.integers(0, 3, items)
    return start, images, own, rng.integers(0, 3, (items, copies, times))


def probabilities(feature="clip.color", starts=(0, 1, 2) * 8, seed=0, **how):
    rng = np.random.default_rng(seed)
    start = np.array(starts)
    own = np.clip(1 / (1 + np.exp(-(LOGSNR + 3))) + rng.normal(0, 0.05, (len(start), 9)), 0, 1)
    head = (feature, feature, "probability", start)
    return probability_table(
        *head, own, np.full_like(own, 0.3), TIMES, LOGSNR, weights(len(start)), NAMES, **how
    )


def layered(names, centre=-2.0):
    """Curves and windows of logistic similarities, of two comparisons."""
    curves, windows = [], []
    for k, name in enumerate(names):
        for comparison in ("cosine", "l2"):
            feature = f"layers.{name}.{comparison}"
            r = 1 / (1 + np.exp(-(LOGSNR - centre - 0.1 * k)))
            band = {"low": r - 0.05, "high": r + 0.05, "kept_low": r, "kept_high": r}
            columns = {
                "t": TIMES,
                "logsnr": LOGSNR,
                "kept": 0.2 + 0.8 * r,
                "chance": 0.2,
                "retention": r,
                "reason": "",
            }
            curves.append(pd.DataFrame({"feature": feature, "label": feature} | columns | band))
            windows.append(window(feature, centre + 0.1 * k))
    return pd.concat(curves, ignore_index=True), pd.DataFrame(windows)


def frames(axes):
    """The corner of every frame with its colour."""
    known = [p for p in axes.patches if hasattr(p, "get_xy") and not p.get_fill()]
    return {tuple(np.round(p.get_xy(), 3)): to_hex(p.get_edgecolor()) for p in known}


# ---- probability


def test_probability_draws_its_table(tmp_path):
    table = probabilities(reference=0.9)
    windows = pd.DataFrame([window("clip.color", -3.0)])
    figure = probability(table, windows, CLOCK)
    read = pd.read_csv(save(figure, table, tmp_path, "p")[2], keep_default_na=False, na_values=["", "nan"])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    everything = read[read["category"] == -1].sort_values("logsnr")
    np.testing.assert_array_equal(lines["clip.color"].get_ydata(), everything["value"])
    np.testing.assert_array_equal(lines["clip.color"].get_xdata(), everything["logsnr"])
    np.testing.assert_array_equal(lines["chance"].get_ydata(), everything["chance"])
    assert lines["reference"].get_ydata() == [0.9]
    for k, name in enumerate(NAMES):
        rows = read[read["category"] == k].sort_values("logsnr")
        assert set(rows["alternative"]) == {name}
        assert set(rows["items"]) == {8}
        np.testing.assert_array_equal(lines[f"start {name}"].get_ydata(), rows["value"])
    assert to_hex(lines["start blue"].get_color()) == "#0072b2"  # a colour's name is drawn in that colour
    spans = [p.get_extents().transformed(figure.axes[0].transData.inverted()) for p in figure.axes[0].patches]
    assert (spans[0].x0, spans[0].x1) == pytest.approx((-4.5, -1.5))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"−4.50 to −1.50", "centre −3.00", "(−3.20, −2.80)"} <= set(texts)


def test_probability_means_are_over_the_starts_that_are_named():
    start, own = np.array([0, 0, 2]), np.array([[1.0], [0.5], [0.0]])
    table = probability_table("f", "f", "fraction", start, own, own / 2, [0.5], [-2.0], weights(3), NAMES)
    assert table["value"].tolist() == [0.5, 0.75, 0.0]
    assert table["chance"].tolist() == [0.25, 0.375, 0.0]
    assert table["alternative"].tolist() == ["", "red", "green"]
    assert table["low"][0] == 0.0  # the bootstrap has drawn the third start alone
    assert table["high"][0] == 1.0


def test_probability_holds_without_windows_chance_and_for_many_features(refuses):
    tables = pd.concat([probabilities(f"clip.{k}", seed=k) for k in range(7)])
    nothing = pd.DataFrame(
        [window("clip.0", math.nan), window("clip.1", math.inf), window("clip.2", -math.inf)]
    )
    figure = probability(tables.assign(chance=math.nan), nothing, RectifiedFlow())
    ElementTree.fromstring(render(figure, "svg"))
    assert [axes.get_title("left") for axes in figure.axes] == [f"clip.{k}" for k in range(7)]
    assert not figure.axes[0].patches
    crowd = probabilities(starts=(0, 1, 2, 2, 2, 2, 2))
    assert "start red" not in [line.get_label() for line in probability(crowd, nothing, CLOCK).axes[0].lines]
    with refuses("table is empty"):
        probability(tables[:0], nothing, CLOCK)


def test_a_window_outside_the_sweep_is_said_to_be_there():
    table = pd.concat([probabilities("clip.0"), probabilities("clip.1"), probabilities("clip.2")])
    far = [window("clip.0", math.inf), window("clip.1", -math.inf), window("clip.2", math.inf)]
    far[2]["start"] = -1.0
    figure = probability(table, pd.DataFrame(far), CLOCK)
    said = [[text.get_text() for text in axes.texts] for axes in figure.axes[:3]]
    assert f"after {LOGSNR.max():.2f}" in said[0]
    assert f"before −{-LOGSNR.min():.2f}" in said[1]
    assert "−1.00 to open" in said[2]
    assert [len(axes.patches) for axes in figure.axes[:3]] == [0, 0, 1]
    assert "grey" not in caption(table, pd.DataFrame(far[:2]))
    assert "Light grey" in caption(table, pd.DataFrame(far))
    assert "Upright" not in caption(table, pd.DataFrame(far))


def test_only_the_window_is_shaded_over_the_height_of_a_panel():
    wide = window("clip.color", -3.0) | {"centre_low": -7.0, "centre_high": math.inf}
    axes = probability(probabilities(), pd.DataFrame([wide]), CLOCK).axes[0]
    back = axes.transData.inverted()
    shades = [patch.get_extents().transformed(back) for patch in axes.patches]
    assert [(s.x0, s.x1) for s in shades if s.height > 1] == [pytest.approx((-4.5, -1.5))]
    bars = [(s.x0, s.x1) for s in shades if s.height < 0.1]
    assert bars == [pytest.approx((-7.0, axes.get_xlim()[1]))]


def test_chance_and_the_autoencoder_are_seen_where_they_meet_others():
    table = probabilities(reference=1.0)
    table["chance"] = table["value"]
    figure = probability(table, pd.DataFrame([window("clip.color", -3.0)]), CLOCK)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["chance"].get_zorder() > lines["clip.color"].get_zorder()
    render(figure, "svg")
    diamond, *handles = (
        line.get_window_extent() for line in (lines["reference"], *axes.lines) if not line.get_clip_on()
    )
    assert len(handles) == 7  # itself, and one for each of six names
    assert sum(diamond.overlaps(handle) for handle in handles) == 1


def test_the_caption_names_what_is_drawn():
    none = pd.DataFrame([window("clip.color", math.nan)])
    crowd = probabilities(starts=(0, 1, 2, 2, 2, 2, 2)).assign(chance=math.nan)
    bare = caption(crowd, none)
    assert not [word for word in ("Thin", "Dashed", "Diamond", "grey") if word in bare]
    full = caption(probabilities(reference=0.9), pd.DataFrame([window("clip.color", -3.0)]))
    assert all(word in full for word in ("Thin", "Dashed", "Diamond", "Light grey", "Upright"))
    assert "fraction" not in full


def test_too_few_starts_have_no_interval():
    table = probabilities(starts=(0, 1, 2, 2, 2, 2, 2))
    lone = table[table["alternative"] == "red"]
    assert lone["value"].notna().all()
    assert lone[["low", "high"]].isna().to_numpy().all()
    rest = table[table["alternative"] != "red"][["value", "low", "high"]].to_numpy(float)
    assert not np.isinf(rest).any()


# ---- storyboard and tree


LONG = [f"alternative number {k}" for k in range(9)]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("times", [1, 3, 12])
def test_no_word_is_cut_off_or_written_over_another(copies, times):
    start, images, own, seen = pictures(2, copies, times)
    seen = np.arange(seen.size).reshape(seen.shape) % len(LONG)
    clock = np.linspace(0.1, 0.9, times)
    for names, feature in ((LONG, "clip.something"), (NAMES, "clip." + "a long question " * 3)):
        how = (own, seen % len(names), names, feature)
        shaded = tree(start, images, clock, CLOCK, *how, window=window("f", -3.0))
        for figure in (
            storyboard(start, images, clock, CLOCK, *how),
            tree(start, images, clock, CLOCK, *how),
            shaded,
        ):
            FigureCanvasAgg(figure).draw()
            drawn = [text for text in figure.axes[-1].texts if text.get_text()]
            boxes = [text.get_window_extent() for text in drawn]
            for text, box in zip(drawn, boxes, strict=True):
                assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
                assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
            met = [
                (a.get_text(), b.get_text())
                for (a, p), (b, q) in combinations(zip(drawn, boxes, strict=True), 2)
                if p.overlaps(q)
            ]
            assert not met
            assert set(names[: seen.max() + 1]) <= {text.get_text() for text in drawn}


def test_a_window_is_named_without_categories():
    start, images, *_ = pictures()
    figure = tree(start, images, TIMES, CLOCK, window=window("class", -3.0))
    FigureCanvasAgg(figure).draw()
    (named,) = (text for text in figure.axes[-1].texts if text.get_text() == "window of class")
    assert named.get_window_extent().y0 > 0


def test_storyboard_frames_what_its_table_says(tmp_path):
    start, images, own, seen = pictures()
    seen[0, 1, 2] = -1
    figure = storyboard(start, images, TIMES, CLOCK, own, seen, NAMES, "clip.color")
    table = storyboard_table(TIMES, CLOCK, 3, [4, 5], own, seen, NAMES, "clip.color")
    read = pd.read_csv(save(figure, table, tmp_path, "s")[2])
    assert len(read) == 2 * 3 * 9
    assert len(figure.axes[0].images) == len(read) + 2
    colors = category_colors(seen, NAMES)
    drawn = frames(figure.axes[0])
    assert len(drawn) == len(read) - 1 + 2
    rows = read.dropna(subset=["seen"])
    for row in rows.to_dict("records"):
        assert row["seen"] == NAMES[seen[row["item"] - 4, row["replicate"], row["column"]]]
        assert bool(row["kept"]) == (row["seen"] == row["start"])
    cells = sorted(((y, x), color) for (x, y), color in drawn.items() if x > 1.2)
    expected = [colors[value] for value in seen.reshape(-1) if value >= 0]
    assert [color for _, color in cells] == [to_hex(color) for color in expected]
    gap = read[(read["item"] == 4) & (read["replicate"] == 1) & (read["column"] == 2)]
    assert gap["seen"].isna().all()
    assert gap["kept"].isna().all()


@pytest.mark.parametrize(("copies", "times", "channels"), [(1, 1, 1), (9, 30, 3), (2, 5, 4)])
def test_storyboard_and_tree_hold_for_any_sizes(copies, times, channels):
    start, images, own, seen = pictures(5, copies, times, channels, 40)
    clock = np.linspace(0.05, 0.95, times)
    for draw, tabled in ((storyboard, storyboard_table), (tree, tree_table)):
        for how in ({}, {"own": own, "seen": seen}):
            figure = draw(start[..., :30], images[..., :30], clock, CLOCK, **how)
            assert figure.get_figwidth() <= 7.3
            table = tabled(clock, CLOCK, copies, range(5), **how)
            starts = min(5, TRUNKS) if draw is tree else 5
            assert len(figure.axes[-1].images) == len(table) + starts
    ElementTree.fromstring(render(figure, "svg"))


def test_tree_parts_where_its_table_says(tmp_path):
    start, images, own, seen = pictures(1, 2)
    figure = tree(start, images, TIMES, CLOCK, own, seen, NAMES, "clip.color", window("clip.color", -3.0))
    table = tree_table(TIMES, CLOCK, 2, [0], own, seen, NAMES, "clip.color")
    read = pd.read_csv(save(figure, table, tmp_path, "t")[2])
    clock, axes = figure.axes[0], figure.axes[-1]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    inches = axes.transData.transform([(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots])
    parted = clock.transData.inverted().transform(inches)[:, 0]
    np.testing.assert_allclose(parted, read["logsnr"][::2], atol=1e-6)
    assert list(read["logsnr"]) == sorted(read["logsnr"], reverse=True)
    colors = category_colors(np.append(seen, own), NAMES)
    branches = [p for p in axes.patches if not hasattr(p, "get_xy")]
    assert [to_hex(p.get_edgecolor()) for p in branches] == [
        to_hex(colors[NAMES.index(name)]) for name in read["clone"]
    ]
    notes = [
        text.get_text()
        for text in axes.texts
        if " of " in text.get_text() and "window" not in text.get_text()
    ]
    agreeing = read.groupby("t", sort=False)["kept"].sum()
    assert notes == [f"{count} of 2" for count in agreeing]
    shade = clock.patches[0].get_extents().transformed(clock.transData.inverted())
    assert (shade.x0, shade.x1) == pytest.approx((-4.5, -1.5))


def test_branches_do_not_cross():
    start, images, own, seen = pictures(1, 3)
    axes = tree(start, images, TIMES, CLOCK, own, seen).axes[-1]
    points = [p.get_path().vertices for p in axes.patches if not hasattr(p, "get_xy")]
    ranked = sorted(points, key=lambda v: v[0, 0])
    levels = [v[-1, 1] for v in ranked]  # y runs downwards
    assert levels == sorted(levels, reverse=True)


def test_pictures_are_checked(refuses):
    start, images, own, seen = pictures()
    for draw in (storyboard, tree):
        with refuses("accepted: \\(N, C, H, W\\)"):
            draw(start[0], images, TIMES, CLOCK)
        with refuses("2 items"):
            draw(start, images[:1], TIMES, CLOCK)
        with refuses("only one of own and seen"):
            draw(start, images, TIMES, CLOCK, own=own)
        with refuses("own and seen have shapes"):
            draw(start, images, TIMES, CLOCK, own, seen[:, :1])


# ---- colours


def test_a_category_keeps_its_colour():
    assert category_colors(np.array([7, 3])) == {7: COLORS[7], 3: COLORS[3]}
    assert category_colors(np.array([7, -1, np.nan])) == {7: COLORS[7]}
    assert category_colors(np.array([])) == {}
    many = category_colors(np.repeat(np.arange(100, 115), np.arange(15, 0, -1)))
    assert [many[100], many[109], many[110]] == [COLORS[0], COLORS[9], OTHER]
    assert legend_entries(many)[-1] == ("5 others", OTHER)
    assert category_colors(np.array([0, 1]), ("car", "blue"))[1] == COLORS[1]
    assert category_name(4, NAMES) == "4"
    assert category_name(float("nan")) == category_name(None) == ""


def test_thumbnails_keep_colour_shape_and_small_pixels():
    image = np.stack([np.full((4, 6), level) for level in (-1.0, 0.0, 2.0)])
    assert thumbnail(image, 10)[0, 0].tolist() == [0, 128, 255]
    assert thumbnail(image, 3).shape == (2, 3, 3)
    assert thumbnail(np.full((1, 2, 2), np.nan), 10).max() == 0
    assert evenly(np.linspace(1, 0.1, 30))[::11] == [29, 0]


# ---- layers


def test_layers_draw_their_table(tmp_path):
    names = [f"features.{k}" for k in (2, 10, 5)] + ["logits"]
    curves, windows = layered(names)
    features = list(dict.fromkeys(curves["feature"]))
    transition = curves[curves["feature"] == features[0]].assign(feature="class")
    table = layers_table(curves, windows, features)
    figure = layers(table, CLOCK, transition, window("class", -3.0))
    read = pd.read_csv(save(figure, table, tmp_path, "layers")[2])
    assert list(dict.fromkeys(read[read["comparison"] == "cosine"]["layer"])) == names  # the network's order
    above, axes = figure.axes[0], figure.axes[1]
    mesh = axes.collections[0]
    shown = read[read["comparison"] == "cosine"].pivot(index="place", columns="logsnr", values="retention")
    np.testing.assert_array_equal(mesh.get_array(), shown)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    edges = mesh.get_coordinates()[0, :, 0]
    assert ((edges[:-1] < shown.columns) & (shown.columns < edges[1:])).all()
    centres = next(line for line in axes.lines if line.get_label() == "centres")
    np.testing.assert_allclose(centres.get_xdata(), [-2.0, -1.9, -1.8, -1.7])
    curve = next(line for line in above.lines if line.get_label() == "class")
    np.testing.assert_array_equal(curve.get_ydata(), transition.sort_values("logsnr")["retention"])
    uprights = {line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[-1]}
    assert {-4.5, -3.0, -1.5} <= uprights
    assert set(read["comparison"]) == {"cosine", "l2"}
    assert split("layers.a.b.l2") == ("a.b", "l2")


@pytest.mark.parametrize("count", [1, 7, 37, 100])
def test_layers_hold_for_any_number(count, refuses):
    curves, windows = layered([f"stages.{k}.a_rather_long_name.block{k}" for k in range(count)])
    table = layers_table(curves, windows, list(dict.fromkeys(curves["feature"])))
    for quantity in ("retention", "kept"):
        figure = layers(table, CLOCK, quantity=quantity)
        ElementTree.fromstring(render(figure, "svg"))
        axes = figure.axes[0]
        labels = [tick.get_text() for tick in axes.get_yticklabels()]
        assert labels[-1].endswith(f"block{count - 1}")
        assert len(labels) <= 27
        assert len(set(labels)) == len(labels)
        np.testing.assert_array_equal(axes.collections[0].get_array().shape, (count, 9))
    assert figure.get_figheight() < 9
    with refuses("quantity is 'chance'"):
        layers(table, CLOCK, quantity="chance")
    with refuses("comparison is 'dot'"):
        layers(table, CLOCK, comparison="dot")


def test_layers_without_numbers_are_grey():
    curves, windows = layered(["a", "b"])
    curves.loc[curves["feature"] == "layers.a.cosine", "retention"] = math.nan
    windows.loc[0, ["start", "centre", "end"]] = math.nan
    table = layers_table(curves, windows, list(dict.fromkeys(curves["feature"])))
    figure = layers(table, CLOCK, window=window("class", math.nan))
    assert figure.axes[0].collections[0].get_array().mask[0].all()
    centres = next(line for line in figure.axes[0].lines if line.get_label() == "centres")
    assert len(centres.get_xdata()) == 1


def test_files_are_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_categories as f\n"
        "start, images, own, seen = f.pictures(1, 2, channels=3)\n"
        "how = (start, images, f.TIMES, f.CLOCK, own, seen, f.NAMES)\n"
        "curves, windows = f.layered(['a', 'b'])\n"
        "table = f.layers_table(curves, windows, list(dict.fromkeys(curves['feature'])))\n"
        "for name, figure in {'s': f.storyboard(*how), 't': f.tree(*how), 'l': f.layers(table, f.CLOCK),\n"
        "                     'p': f.probability(f.probabilities(), windows, f.CLOCK)}.items():\n"
        "    f.save(figure, table, sys.argv[2], name)\n"
    )
    for place in "12":
        environment = {**os.environ, "PYTHONHASHSEED": place}
        command = [sys.executable, "-c", code, os.path.dirname(__file__), str(tmp_path / place)]
        subprocess.run(command, check=True, env=environment)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(files) == 12
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
