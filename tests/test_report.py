"""The report is one page that tells the answer, loads nothing, and trusts no string."""

import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import turningpoint as tp
from turningpoint.diffusion.schedule import VP, DiscreteVP
from turningpoint.errors import TurningpointError
from turningpoint.figures.answer import answer
from turningpoint.report import report

TIMES = np.linspace(0.05, 0.9, 12)
CENTRES = {"class": -3.0, "morphometry.mass": -1.0, "frequency.band0": -4.5, "frequency.band4": 2.0}


class FakeStore:
    """Arrays by name, which remembers the largest piece that was read of each."""

    def __init__(self, arrays, dims):
        self.arrays, self._dims, self.largest = arrays, dims, {}

    def has(self, name):
        return name in self.arrays

    def array(self, name):
        return self.arrays[name]

    def dims(self, name):
        return self._dims[name]

    def read(self, name, region=()):
        piece = self.arrays[name][tuple(region)]
        self.largest[name] = max(self.largest.get(name, 0), piece.size)
        return piece


class FakeRun:
    """What the report needs of a run, with logistic retentions."""

    def __init__(self, folder=None, schedule=None, shape=(1, 8, 8), classes=True, label="mass"):
        self.kind = "uturn"
        self.folder, self.schedule, self.shape, self.classes = folder, schedule or VP(), shape, classes
        self.labels = {name: name.partition(".")[2] or name for name in CENTRES} | {"morphometry.mass": label}
        self.manifest = {
            "kind": "uturn",
            "settings": {
                "model": {"name": "digits", "fingerprint": "sha256:0123abcd"},
                "sampler": {"name": "ddpm"},
                "grid": {"kind": "logsnr", "steps": 40},
                "seed": 7,
                "guidance": None,
            },
            "axes": {"items": 10, "replicates": 2, "times": TIMES.tolist()},
            "versions": {"turningpoint": "0.1.0", "torch": "2.11"},
            "command": "turningpoint uturn digits --items 10 --replicates 2 --seed 7",
        }
        rng = np.random.default_rng(0)
        self.logsnr = self.schedule.logsnr(TIMES).numpy()
        dims = ("channel", "y", "x") if len(shape) == 3 else ("feature",)
        arrays = {
            "t": TIMES,
            "start": rng.uniform(-1, 1, (10, *shape)),
            "images": rng.uniform(-1, 1, (10, 2, len(TIMES), *shape)),
            "readings/class/back.": self.seen(),
        }
        self.store = FakeStore(arrays, {"images": ("item", "replicate", "time", *dims)})

    @property
    def model(self):
        raise TurningpointError("the run's model cannot be loaded.")

    def windows(self, delta=0.1):
        rows = []
        for feature, centre in CENTRES.items():
            half = 0.5 * math.log((1 - delta) / delta)
            row = {
                "feature": feature,
                "label": self.labels[feature],
                "kind": self.kind_of(feature),
                "note": "",
            }
            for name, place in {"start": centre - half, "centre": centre, "end": centre + half}.items():
                row |= {name: place, f"{name}_low": place - 0.2, f"{name}_high": place + 0.2}
            rows.append(row)
        return pd.DataFrame(rows)

    def curves(self):
        tables = []
        for feature, centre in CENTRES.items():
            r = 1 / (1 + np.exp(-2 * (self.logsnr - centre)))
            columns = {"t": TIMES, "logsnr": self.logsnr, "native": TIMES, "kept": r, "chance": 0.1}
            columns |= {"retention": r, "low": r - 0.05, "high": r + 0.05, "reason": ""}
            head = {"feature": feature, "label": self.labels[feature], "kind": self.kind_of(feature)}
            tables.append(pd.DataFrame(head | columns))
        return pd.concat(tables, ignore_index=True)

    def kind_of(self, feature):
        return "categorical" if feature == "class" and self.classes else "scalar"

    def features(self):
        return list(CENTRES)

    def seen(self):
        return np.where(TIMES < 0.6, np.arange(10)[:, None, None], 3) + np.zeros((10, 2, 1), int)

    def order(self, features=None, delta=0.1):
        c = np.array(list(CENTRES.values()))
        p = 1 / (1 + np.exp(-3 * (c[None] - c[:, None])))
        np.fill_diagonal(p, np.nan)
        return pd.DataFrame(p, index=list(CENTRES), columns=list(CENTRES))

    def reading(self, feature):
        if not self.classes:
            raise TurningpointError(f"feature is {feature!r}, which this run has not measured.")
        back = (("item", "replicate", "time"), self.seen())
        return xr.Dataset({"start": ("item", np.arange(10)), "back": back}, attrs={"values": []})

    def papers(self):
        return ["Author & Other, A paper on U-turns, 2024, https://arxiv.org/abs/2402.16991."]


class Page(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(run, **settings):
    path = report(run, **settings)
    return path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A run with all that a page shows, its page, and the page's text."""
    run = FakeRun(tmp_path_factory.mktemp("usual"))
    return run, *written(run)


def test_report_is_self_contained(usual):
    run, path, text = usual
    tmp_path = run.folder
    assert path == tmp_path / "report.html"
    assert len(text) < 5_000_000
    page = Page(text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "srcset", "poster") and tag != "a":
                assert value.startswith(("#", "data:")), (tag, name, value)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    outside = [link for link in links if link.startswith("http")]
    assert outside == ["https://arxiv.org/abs/2402.16991"]
    assert all((tmp_path / link).is_file() for link in links if link not in outside)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert "url(http" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 6
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in pictures)
    assert (
        len([i for i in ids if i.endswith("figure_1")])
        == len({i for i in ids if i.endswith("figure_1")})
        == 6
    )


def test_report_tells_the_answer_and_how_to_repeat_it(usual):
    run, path, text = usual
    tmp_path, page = path.parent, Page(text)
    assert "The class is decided between log-SNR −4.10 and −1.90" in page.text
    assert "band0 comes first and band4 comes last" in page.text
    for shown in (run.manifest["command"], "sha256:0123abcd", "2.11", "sampler.name", "−3.00 [−3.20, −2.80]"):
        assert shown in page.text
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("svg", "pdf", "csv")
    assert names == {
        f"{name}.{kind}"
        for name in ("timeline", "retention", "images", "order", "probability", "storyboard")
        for kind in kinds
    }
    table = pd.read_csv(tmp_path / "figures" / "retention.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(table, run.curves(), check_dtype=False)


def test_report_trusts_no_string(tmp_path):
    attack = "<script>alert(1)</script>"
    run = FakeRun(tmp_path, label=attack, shape=(5,))
    run.manifest["settings"]["model"]["name"] = f'"{attack}'
    run.manifest["command"] = attack
    _, text = written(run)
    page = Page(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert attack in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_report_is_the_same_twice(usual, tmp_path):
    _, first, one = usual
    second, two = written(FakeRun(tmp_path))
    assert one == two
    for path in sorted((first.parent / "figures").iterdir()):
        assert path.read_bytes() == (second.parent / "figures" / path.name).read_bytes()


def test_report_of_vectors_has_no_images(tmp_path):
    run = FakeRun(shape=(5,), classes=False, schedule=DiscreteVP.named("linear"))
    with pytest.raises(TurningpointError, match="folder is None"):
        report(run)
    _, text = written(run, folder=tmp_path / "deep" / "er")
    assert "The images" not in text
    assert "native step" in text
    assert not (tmp_path / "deep" / "er" / "figures" / "images.svg").exists()


def test_report_shows_images_whose_class_was_not_read(tmp_path):
    _, text = written(FakeRun(tmp_path, classes=False))
    assert "The images" in text
    assert pd.read_csv(tmp_path / "figures" / "images.csv")["class_seen"].isna().all()
    assert pd.read_csv(tmp_path / "figures" / "storyboard.csv")["seen"].isna().all()
    assert "How sure of its own" not in text
    assert "frame’s colour" not in text


def test_report_is_honest_about_missing_windows_and_open_ends(tmp_path):
    class Open(FakeRun):
        def windows(self, delta=0.1):
            table = super().windows(delta)
            table.loc[0, ["start", "start_low", "centre_low"]] = -math.inf
            table.loc[1, table.select_dtypes("number").columns] = math.nan
            table.loc[1, "note"] = "chance is already 1"
            return table

    page = Page(written(Open(tmp_path, shape=(5,)))[1])
    assert "The decision on the class has begun before the sweep does and ends at log-SNR −1.90" in page.text
    assert "no window: chance is already 1" in page.text
    assert "−3.00 [open, −2.80]" in page.text


def test_answers():
    run = FakeRun()
    windows, order, clock = run.windows(), run.order(), run.schedule
    order.loc["frequency.band0", "class"] = 0.8
    assert "band0 comes first (not told apart from class)" in answer(windows, order, clock)
    assert answer(windows[1:2], order, clock).startswith("Mass is half decided at log-SNR −1.00 (t ")
    nothing = windows.assign(start=math.nan, centre=math.nan, end=math.nan, note="chance is already 1")
    assert answer(nothing, order, clock) == (
        "The class has no window: chance is already 1. "
        "No feature that was measured has a critical window in this sweep."
    )
    early = windows.assign(start=-math.inf, centre=-math.inf, end=-math.inf)
    assert "decided before the first noise level" in answer(early, order, clock)
    assert "comes first (not told apart from 3 others)" in answer(early, order, clock)


def test_the_template_is_package_data():
    import turningpoint

    assert (Path(turningpoint.__file__).parent / "pages" / "run.html.j2").is_file()


def test_the_step_check_is_told_once_it_was_made(tmp_path):
    run = tp.uturn("digits", items=5, times=[0.3, 0.5, 0.7], steps=4, out=tmp_path, progress=None)
    run.measure("class", "pixels")
    text = report(run).read_text(encoding="utf-8")
    assert "depend on the step count" not in text
    table = tp.step_check(run, progress=None)
    text = report(run).read_text(encoding="utf-8")
    agree = (table.verdict == "agrees").sum()
    assert f"with 8 steps instead of 4: {agree} of 2" in " ".join(text.split())


@pytest.fixture(scope="module")
def pair_of_runs(tmp_path_factory):
    """U-turns and clones of one exact model at the same times."""
    folder, times = tmp_path_factory.mktemp("runs"), [0.2, 0.4, 0.6]
    settings = {"times": times, "steps": 10, "progress": None}
    name = "gaussians?dim=2&distance=2&std=0.5"
    turns = tp.uturn(name, items=30, out=folder / "a", **settings).measure("class", "pixels")
    return turns, tp.clone(name, 30, out=folder / "b", **settings).measure("class", "pixels")


def test_theory_stands_beside_the_runs_of_a_model_that_knows_itself(pair_of_runs):
    turns, clones = pair_of_runs
    text = report(turns, beside=clones).read_text(encoding="utf-8")
    assert "Theory beside it" in text
    table = pd.read_csv(turns.folder / "figures" / "theory.csv")
    assert set(table.source) == {"measured", "theory", "definition"}
    assert set(table.run.dropna()) == {"U-turns", "clones"}
    kept = table[(table.source == "measured") & (table.quantity == "kept") & (table.run == "U-turns")]
    np.testing.assert_allclose(kept.value, turns.retention("class").kept)
    assert "speciation" in set(table.name)


def test_theory_of_stochastic_samplers_is_not_drawn_over_others(tmp_path):
    name = "gaussians?dim=2&distance=2&std=0.5"
    run = tp.uturn(name, items=8, times=[0.2, 0.5], steps=6, sampler="ddim", out=tmp_path, progress=None)
    report(run.measure("class"))
    table = pd.read_csv(tmp_path / "figures" / "theory.csv")
    assert set(table.source) == {"definition"}


def test_the_difference_is_told_either_way_round(pair_of_runs, refuses):
    turns, clones = pair_of_runs
    words = []
    for run, beside in ((turns, clones), (clones, turns)):
        page = Page(report(run, beside=beside).read_text(encoding="utf-8"))
        assert "U-turns against clones" in page.text
        words.append(page.text[page.text.index("Of 6 differences") :][:80])
    assert words[0] == words[1]
    assert "copies part from it at some level" in page.text  # a page about clones speaks of clones
    with refuses("clones is a uturn run"):
        report(turns, beside=turns)


def test_a_model_at_a_path_is_headed_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("faces.npy", np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))
    run = tp.uturn("empirical:faces.npy", times=[0.2, 0.6], steps=4, progress=None, out="run")
    text = Path(tp.report(run.measure("pixels"))).read_text()
    assert "<h1>When faces.npy makes up its mind</h1>" in text
