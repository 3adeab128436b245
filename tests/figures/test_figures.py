"""Every picture draws exactly its table, holds from 1 to 40 features, and is the same bytes twice."""

import json
import math
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow
from turningpoint.errors import TurningpointError
from turningpoint.figures.grid import grid_table, image_grid
from turningpoint.figures.order import order, order_rows
from turningpoint.figures.retention import retention
from turningpoint.figures.save import inline, render, save
from turningpoint.figures.style import native_ticks
from turningpoint.figures.timeline import FOOTER, HEADER, ROW, timeline

CLOCK = VP()
FEATURES = [
    *("class", "pixels", "color.mean", "color.contrast", "color.histogram"),
    *(f"morphometry.{name}" for name in ("mass", "thickness", "slant", "height", "width", "holes")),
    *(f"frequency.{kind}{k}" for kind in ("band", "energy", "phase") for k in range(5)),
]
LOGSNR = np.linspace(-6, 6, 25)


def synthetic(features=None, schedule=CLOCK, sweep=(-6.0, 6.0), seed=0):
    """Windows and curves of logistic retentions, with open ends where the sweep is too short."""
    features = FEATURES if features is None else features
    rng = np.random.default_rng(seed)
    windows, curves = [], []
    logsnr = np.linspace(*sweep, 25)
    t = schedule.t(logsnr=logsnr).numpy()
    for feature in features:
        digit = int(feature[-1]) if feature[-1].isdigit() else rng.uniform(0, 3)
        place, width = -4.5 + 1.6 * digit + rng.normal(0, 0.4), rng.uniform(0.4, 0.9)
        label = feature.partition(".")[2] or feature
        truth = {
            "start": place - width * math.log(9),
            "centre": place,
            "end": place + width * math.log(9),
        }
        row = {"feature": feature, "label": label, "kind": "scalar", "note": ""}
        for name, value in truth.items():
            spread = rng.uniform(0.08, 0.3, 2)
            values = {"": value, "_low": value - spread[0], "_high": value + spread[1]}
            for suffix, bound in values.items():
                inside = sweep[0] <= bound <= sweep[1]
                row[f"{name}{suffix}"] = bound if inside else math.copysign(math.inf, bound)
            known = math.isfinite(row[name])
            row[f"{name}_t"] = float(schedule.t(logsnr=row[name])) if known else math.nan
            row[f"{name}_native"] = float(schedule.native(row[f"{name}_t"])) if known else math.nan
        windows.append(row)
        r = 1 / (1 + np.exp(-(logsnr - place) / width)) + rng.normal(0, 0.015, len(logsnr))
        band = 0.03 + 0.08 * r * (1 - r)
        columns = {
            "t": t,
            "logsnr": logsnr,
            "native": schedule.native(t),
            "kept": 0.1 + 0.9 * r,
            "chance": 0.1,
        }
        columns |= {"retention": r, "low": r - band, "high": r + band, "reason": ""}
        curves.append(pd.DataFrame({"feature": feature, "label": label, "kind": "scalar", **columns}))
    return pd.DataFrame(windows), pd.concat(curves, ignore_index=True)


def without_window(windows, feature, note):
    windows = windows.copy()
    numeric = windows.select_dtypes("number").columns
    windows.loc[windows["feature"] == feature, numeric] = math.nan
    windows.loc[windows["feature"] == feature, "note"] = note
    return windows


def probabilities(windows):
    c = np.nan_to_num(windows["centre"].to_numpy(float), nan=9.0, posinf=9.0, neginf=-9.0)
    p = 1 / (1 + np.exp(-(c[None] - c[:, None]) * 3))
    np.fill_diagonal(p, np.nan)
    return pd.DataFrame(p, index=windows["feature"], columns=windows["feature"])


def bars(figure):
    axes = figure.axes[0]
    return {bar.get_label(): bar.patches[0] for bar in axes.containers}


def test_timeline_draws_its_table(tmp_path):
    windows, _ = synthetic()
    figure = timeline(windows, CLOCK, (-6, 6))
    table = pd.read_csv(save(figure, windows, tmp_path, "timeline")[2])
    drawn = bars(figure)
    assert set(drawn) == set(table["feature"])
    for row in table.to_dict("records"):
        bar = drawn[row["feature"]]
        assert bar.get_x() == pytest.approx(np.clip(row["start"], -6, 6))
        assert bar.get_x() + bar.get_width() == pytest.approx(np.clip(row["end"], -6, 6))
    order_drawn = sorted(drawn, key=lambda name: drawn[name].get_y())
    assert list(table.set_index("feature").loc[order_drawn, "centre"]) == sorted(table["centre"])


def test_timeline_shows_open_ends_and_missing_windows():
    windows, _ = synthetic(["class", "pixels", "color.mean"])
    plain = len(timeline(windows, CLOCK, (-20, 20)).axes[0].patches)
    windows.loc[0, ["start", "start_low"]] = -math.inf
    windows.loc[1, ["centre", "centre_high", "end", "end_low", "end_high"]] = math.inf
    windows.loc[2, ["start", "centre", "end"]] = math.inf
    figure = timeline(windows, CLOCK, (-20, 20))
    assert len(figure.axes[0].patches) > plain
    assert "after 20.0" in [text.get_text() for text in figure.axes[0].texts]

    gone = without_window(windows, "class", "chance is already 1")
    figure = timeline(gone, CLOCK, (-20, 20))
    assert "class" not in bars(figure)
    assert figure.axes[0].get_yticklabels()[-1].get_text() == "class"
    assert "no window: chance is already 1" in [text.get_text() for text in figure.axes[0].texts]
    nothing = without_window(without_window(gone, "pixels", ""), "color.mean", "")
    assert not bars(timeline(nothing, CLOCK, (-20, 20)))


@pytest.mark.parametrize("count", [1, 2, 40])
def test_pictures_hold_for_any_number_of_features(count):
    names = [*FEATURES, *(f"layers.{k}" for k in range(40))][:count]
    windows, curves = synthetic(names)
    heights = []
    for figure in (
        timeline(windows, CLOCK, (-6, 6)),
        retention(curves, windows, CLOCK),
        order(probabilities(windows), windows),
    ):
        ElementTree.fromstring(render(figure, "svg"))
        heights.append(figure.get_figheight())
    assert heights[0] == pytest.approx(HEADER + FOOTER + ROW * count)
    lines = [line for axes in retention(curves, windows, CLOCK).axes for line in axes.lines]
    assert len({line.get_label() for line in lines} & set(names)) == count


def test_retention_draws_its_table(tmp_path):
    windows, curves = synthetic()
    chosen = ["morphometry.mass", "frequency.band0", "frequency.band1"]
    figure = retention(curves, windows, CLOCK, chosen)
    drawn = curves[curves["feature"].isin(chosen)]
    table = pd.read_csv(save(figure, drawn, tmp_path, "retention")[2])
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    for name in chosen:
        rows = table[table["feature"] == name]
        np.testing.assert_array_equal(lines[name].get_xdata(), rows["logsnr"])
        np.testing.assert_array_equal(lines[name].get_ydata(), rows["retention"])
    with pytest.raises(TurningpointError, match="features is 'colour'"):
        retention(curves, windows, CLOCK, ["colour"])


def test_retention_says_why_there_is_none():
    windows, curves = synthetic(["class", "pixels"])
    windows = without_window(windows, "class", "chance is already 1")
    curves.loc[curves["feature"] == "class", ["retention", "low", "high"]] = math.nan
    curves.loc[curves["feature"] == "class", "reason"] = "chance is already 1"
    figure = retention(curves, windows, CLOCK)
    assert "class: chance is already 1" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_grid_frames_what_its_table_calls_changed(tmp_path):
    rng = np.random.default_rng(0)
    start, images = rng.uniform(-1, 1, (5, 1, 8, 8)), rng.uniform(-1, 1, (5, 2, 4, 1, 8, 8))
    times, labels = [0.7, 0.2, 0.5, 0.4], np.arange(5)
    seen = np.broadcast_to(labels[:, None, None], (5, 2, 4)).copy()
    seen[1, 0, 0], seen[2, 0, 2], seen[0, 1, 0] = 9, 9, 9  # the last is in a replicate not shown
    figure = image_grid(start, images, times, CLOCK, rows=3, labels=labels, seen=seen)
    table = grid_table(times, CLOCK, 3, labels, seen)
    read = pd.read_csv(save(figure, table, tmp_path, "grid")[2])
    assert list(read["t"][:4]) == sorted(times)
    assert list(read.loc[read["changed"], ["item", "t"]].itertuples(index=False, name=None)) == [
        (1, 0.7),
        (2, 0.5),
    ]
    assert len(figure.axes[0].patches) == read["changed"].sum() == 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_takes_any_channels_and_sizes(channels):
    start, images = np.zeros((1, channels, 100, 90)), np.zeros((1, 1, 30, channels, 100, 90))
    figure = image_grid(start, images, np.linspace(0.1, 0.9, 30), CLOCK)
    assert len(render(figure, "svg")) < 200_000
    with pytest.raises(TurningpointError, match="accepted"):
        image_grid(np.zeros((3, 2)), np.zeros((3, 1, 4, 2)), [0.1] * 4, CLOCK)


def test_order_is_sorted_by_centre_and_tidy(tmp_path):
    windows, _ = synthetic(FEATURES[:5])
    table = probabilities(windows)
    figure = order(table, windows)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == list(windows.sort_values("centre")["label"])
    rows = pd.read_csv(save(figure, order_rows(table), tmp_path, "order")[2])
    assert len(rows) == 20
    for row in rows.to_dict("records"):
        assert row["probability"] == table.loc[row["feature"], row["other"]]
    with pytest.raises(TurningpointError, match="order_table"):
        order(table.iloc[:3])


def test_files_are_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_figures as f\n"
        "windows, _ = f.synthetic()\n"
        "f.save(f.timeline(windows, f.CLOCK, (-6, 6)), windows, sys.argv[2], 'a')\n"
    )
    for place in "12":
        environment = {**os.environ, "PYTHONHASHSEED": place}
        command = [sys.executable, "-c", code, os.path.dirname(__file__), str(tmp_path / place)]
        subprocess.run(command, check=True, env=environment)
    for kind in ("svg", "pdf", "csv"):
        assert (tmp_path / "1" / f"a.{kind}").read_bytes() == (tmp_path / "2" / f"a.{kind}").read_bytes()


def test_inline_pictures_share_a_page():
    windows, _ = synthetic(["class"])
    windows.loc[0, "label"] = "<script>alert('$x^2$')</script>"
    svg = render(timeline(windows, CLOCK, (-6, 6)), "svg").decode()
    text = inline(svg, "one", 'a "timeline"')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "timeline"'
    assert "script" not in text
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(name.startswith("one-") for name in ids)
    targets = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
    assert targets
    assert {target[1:] for target in targets} <= set(ids)


@pytest.mark.parametrize("schedule", [VP(), DiscreteVP.named("cosine"), EDM(), RectifiedFlow()])
def test_native_ticks_are_round_and_apart(schedule):
    places, names = native_ticks(schedule, -6.0, 6.0)
    assert 3 <= len(places) <= 13
    assert np.diff(places).min() >= 0.08 * 12
    for place, name in zip(places, names, strict=True):
        assert float(schedule.logsnr(schedule.t(native=float(name)))) == pytest.approx(place)


def test_importing_figures_does_not_import_matplotlib():
    names = ("timeline", "retention", "grid", "order", "save", "style")
    code = "import json, sys\n" + "".join(f"import turningpoint.figures.{name}\n" for name in names)
    code += "print(json.dumps([m for m in sys.modules if m.startswith('matplotlib')]))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == []
