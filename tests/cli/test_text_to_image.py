"""The text-to-image path by commands, on a tiny Stable Diffusion and a tiny CLIP: from a prompt to a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from tiny_pipelines import tiny_sd

import turningpoint as tp

PROMPT = "a photo of a car"
TIMES = ["--times", "0.1:0.9:5"]
COLORS, PLACES = "color: red, blue, green", "background: city, forest, sea"
UTURN = (
    "uturn diffusers:sd --generate 2 --guidance 7.5 --times 0.1:0.9:5 --replicates 3 --steps 5 --sampler ddpm "
    "--seed 224 --trajectories --out runs/car"
)
CLONE = "clone diffusers:sd --generate 2 --times 0.1:0.9:5 --replicates 3 --steps 10 --out runs/clones"
TOLERANCE = 2e-4
"""Of root mean squares: a chain of network calls in another batch shape."""


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.sqrt(np.square(want).mean()))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    tiny_sd(folder / "sd")
    tiny_clip(folder / "clip")
    times = [0.1, 0.3, 0.5, 0.7, 0.9]
    told = {"prompt": PROMPT, "guidance": 7.5, "generate": 2, "trajectories": True}
    settings = {"times": times, "replicates": 3, "steps": 5, "sampler": "ddpm", "seed": 224, "progress": None}
    tp.uturn(f"diffusers:{folder / 'sd'}", **told, **settings, out=folder / "car")
    return folder


@pytest.fixture
def desk(networks, tmp_path, command):
    """A working folder with the networks ``sd`` and ``clip``; runs a command line, which must succeed."""
    for name in ("sd", "clip"):
        (tmp_path / name).symlink_to(networks / name)

    def run(line, *more):
        status, out, complaint = command(*line.split(), *more)
        assert status == 0, f"{line}: {complaint}"
        return out

    return run


def test_from_a_prompt_to_a_report(desk):
    summary = json.loads(desk(UTURN, "--prompt", PROMPT, "--json"))
    pictures = {"channel": 3, "y": 16, "x": 16}
    assert summary["sizes"] == {"item": 2, "replicate": 3, "time": 5, **pictures}
    assert summary["times"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    model, run = tp.load("diffusers:sd"), tp.open_run("runs/car")

    base = tp.open_run("runs/car/generated-2")
    path = base.data["trajectory"]
    assert path.dims == ("item", "trajectory_time", "latent_channel", "latent_y", "latent_x")
    assert path.shape == (2, 6, 4, 8, 8)
    np.testing.assert_array_equal(path.values[:, -1], run.start_latents.values)
    same = {"prompt": PROMPT, "guidance": 7.5, "sampler": "ddpm", "steps": 5, "seed": 224, "progress": None}
    close(run.start_latents.values, tp.generate(model, 2, **same).latents.values)
    close(run.start.values, model.decode(torch.from_numpy(run.start_latents.values)).numpy())
    ends = torch.from_numpy(run.latents.values.reshape(-1, 4, 8, 8))
    close(run.images.values.reshape(-1, 3, 16, 16), model.decode(ends).numpy())
    assert len(np.unique(run.latents.values[..., 0, 0, 0])) == 2 * 3 * 5

    summary = json.loads(desk(CLONE, "--prompt", PROMPT, "--json"))
    assert summary["sizes"] == {"item": 2, "replicate": 3, "time": 5, **pictures}

    ask = ["--ask", COLORS, "--ask", PLACES]
    found = json.loads(desk("measure runs/car --with clip --network clip --json", *ask))["features"]
    assert {"clip.color", "clip.background", "clip.embedding"} <= set(found)
    run = tp.open_run("runs/car")
    color = run.reading("clip.color")
    assert tuple(color.attrs["values"]) == ("red", "blue", "green")
    chances = run.reading("clip.color.probability")
    # logits of float16-sized spread: a softmax in float32 sums to one within some roundings
    np.testing.assert_allclose(chances.back.sum("feature_color.probability"), 1, atol=1e-5)
    np.testing.assert_array_equal(chances.back.argmax("feature_color.probability"), color.back)

    desk("measure runs/clones --with clip --network clip", "--ask", COLORS)
    found = json.loads(desk("measure runs/clones --with clip --network clip --json", "--ask", PLACES))
    assert {"clip.color", "clip.background"} <= set(found["features"]), "questions add up"

    table = pd.DataFrame(json.loads(desk("windows runs/car --json"))["windows"])
    assert {"clip.color", "clip.background"} <= set(table.feature)
    assert {"start", "centre", "end", "centre_low", "centre_high"} <= set(table)
    assert "clip.color" in desk("windows runs/clones")

    desk("report runs/car --beside runs/clones")
    desk("report runs/clones")
    for folder, figure in (("car", "storyboard"), ("clones", "tree")):
        page = Path(f"runs/{folder}/report.html")
        assert "clip.color" in page.read_text()
        drawn = {path.name for path in Path(f"runs/{folder}/figures").iterdir()}
        names = ("timeline", "retention", "images", figure)
        assert {f"{name}.{end}" for name in names for end in ("svg", "pdf", "csv")} <= drawn


@pytest.fixture
def car(desk, networks):
    """The run ``runs/car`` as `UTURN` makes it."""
    shutil.copytree(networks / "car", "runs/car")
    assert json.loads(desk(UTURN, "--prompt", PROMPT, "--json"))["complete"]


@pytest.mark.usefixtures("car")
def test_files_of_a_run(desk):
    desk("measure runs/car --with clip --network clip", "--ask", COLORS)
    desk("export runs/car --out files --what start,images,latents,records")
    index = pd.read_csv("files/index.csv")
    assert index.what.value_counts().to_dict() == {
        "images": 30,
        "latents": 30,
        "start": 2,
        "start_latents": 2,
        "trajectory": 2,
    }
    assert set(index["clip.color"]) <= {"red", "blue", "green"}
    assert set(index.prompt) == {PROMPT}
    assert Image.open("files/item0001_t0.90_copy2.png").size == (16, 16)
    run = tp.open_run("runs/car")
    latents = np.load("files/item0001_t0.90_copy2_latents.npy")
    np.testing.assert_array_equal(latents, run.latents.values[1, 2, 4])
    assert np.load("files/item0000_start_trajectory.npy").shape == (6, 4, 8, 8)
    clock = pd.read_csv("files/start_trajectory_times.csv")
    assert clock.t.is_monotonic_decreasing
    assert len(clock) == 6


@pytest.mark.usefixtures("car")
def test_the_same_command_continues(desk, monkeypatch):
    before = tp.open_run("runs/car").latents.values

    def forbidden(*arguments, **settings):
        raise AssertionError("the network is called again")

    from diffusers import UNet2DConditionModel

    with monkeypatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "forward", forbidden)
        desk(UTURN, "--prompt", PROMPT)
    desk(UTURN.replace("--replicates 3", "--replicates 4"), "--prompt", PROMPT, "--extend")
    after = tp.open_run("runs/car").latents.values
    assert after.shape[1] == 4
    np.testing.assert_array_equal(after[:, :3], before)


@pytest.fixture
def photos():
    Path("photos").mkdir()
    shades = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    for k, pixels in enumerate(shades):
        Image.fromarray(pixels).save(f"photos/car {k}.png")
    return shades


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_from_pictures_of_ones_own(desk, photos, sampler):
    """Encoded by the autoencoder; what U-turns are compared with is its plain round trip."""
    line = f"uturn diffusers:sd --images photos --guidance 7.5 --steps 5 --sampler {sampler} --replicates 2 --out own"
    desk(line, *TIMES, "--prompt", PROMPT, "--with", "pixels")
    run, model = tp.open_run("own"), tp.load("diffusers:sd")
    pictures = photos.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    np.testing.assert_allclose(run.original.values, pictures, atol=1e-6)
    encoded = model.encode(torch.from_numpy(pictures))
    close(run.start_latents.values, encoded.numpy())
    close(run.start.values, model.decode(encoded).numpy())
    lost = np.square(run.start.values - run.original.values).reshape(3, -1).sum(1).mean()
    assert run.retention("pixels").attrs["round_trip"] == pytest.approx(lost, rel=1e-5)
    assert lost > 0
    desk("export own --out files --what start,original")
    index = pd.read_csv("files/index.csv")
    assert index.file.tolist()[:2] == ["item0000_car-0_original.png", "item0000_car-0_start.png"]
    assert index.exact[index.what == "original"].all()
    with Image.open("files/item0002_car-2_original.png") as back:
        np.testing.assert_array_equal(np.asarray(back), photos[2])


def test_a_deterministic_sampler(desk, command):
    """Copies of a U-turn differ by the noise that is put in; clones would be equal, and are refused."""
    line = UTURN.replace("--sampler ddpm", "--sampler ddim")
    desk(line, "--prompt", PROMPT)
    latents = tp.open_run("runs/car").latents.values
    assert len(np.unique(latents[..., 0, 0, 0])) == 2 * 3 * 5
    status, _, complaint = command(*CLONE.split(), "--prompt", PROMPT, "--sampler", "ddim")
    assert status == 2
    assert "clones are identical" in complaint
    out = desk(CLONE, "--prompt", PROMPT, "--sampler", "ddim", "--renoise", "1", "--json")
    assert json.loads(out)["complete"]


@pytest.mark.usefixtures("car")
def test_mistakes_get_one_sentence(command):
    for line, more, named in (
        (UTURN, ["--prompt", "another car"], "these settings differ: prompt"),
        (UTURN.replace("--guidance 7.5", "--guidance -1"), ["--prompt", PROMPT], "guidance is -1"),
        (UTURN.replace("--generate 2", "--images sd"), ["--prompt", PROMPT], "trajectories is given"),
        (CLONE, ["--prompt", PROMPT, "--sampler", "dpm"], "accepted: ddim, ddpm"),
        ("measure runs/car --with clip --network clip", ["--ask", "color: red"], "ask gives 'color'"),
        ("measure runs/car --with clip --network nowhere/else", ["--ask", COLORS], "nowhere"),
        (
            "measure runs/car --with pixels",
            ["--ask", COLORS],
            "ask is given, but none of the measures pixels",
        ),
    ):
        status, _, complaint = command(*line.split(), *more)
        said = [text for text in complaint.splitlines() if text and not text.startswith("warning: ")]
        assert status == 2, line
        assert len(said) == 1, complaint
        assert named in said[0], said[0]


@pytest.mark.usefixtures("car")
def test_runs_do_not_depend_on_where_the_model_lies(desk):
    """A run is known by its model's weights: the folder may be moved before it is continued."""
    shutil.copytree("sd", "elsewhere")
    Path("sd").unlink()
    desk(UTURN.replace("diffusers:sd", "diffusers:elsewhere"), "--prompt", PROMPT)
    desk("measure runs/car --with pixels")
