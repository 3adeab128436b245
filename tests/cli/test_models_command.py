"""``turningpoint models`` and ``inspect``, on checkpoints in their native formats; and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from turningpoint.models import MODELS, load
from turningpoint.models._recognise import recognised

GOLDEN = Path(__file__).parent.parent / "models" / "golden"
CHECKPOINTS = {
    "edm": GOLDEN / "edm" / "ddpmpp_iddpm_cond3.pkl",
    "adm": GOLDEN / "guided-diffusion" / "classcond16.pt",
    "ddpm": GOLDEN / "symmetry_breaking" / "workdir" / "checkpoints" / "checkpoint_16.pth",
    "diffusers": GOLDEN / "critical-windows" / "tiny_sd",
}


def test_every_family_is_listed_with_a_line_of_its_own(command):
    status, printed, _ = command("models", "--json")
    rows = json.loads(printed)
    assert status == 0
    assert {row["family"] for row in rows} == set(MODELS.names())
    assert all(len(row["what"]) > 10 for row in rows)
    assert "edm:network-snapshot.pkl" in command("models")[1]


@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_a_path_is_recognised_and_described(command, scheme):
    path = CHECKPOINTS[scheme]
    assert recognised(path) == scheme
    status, printed, _ = command("inspect", path, "--json")
    told = json.loads(printed)
    assert status == 0
    model = load(f"{scheme}:{path}")
    assert told["model"] == f"{scheme}:{path}"
    assert told["shape"] == list(model.shape)
    assert told["parameters"] == sum(p.numel() for p in model.network.parameters())
    conditioning = {
        "edm": "labels 0 to 2, or none",
        "adm": "labels 0 to 999",
        "ddpm": "none",
        "diffusers": "prompts, or none",
    }
    assert told["conditioning"] == conditioning[scheme]
    assert {"format", "network", "schedule", "native clock", "licence"} <= set(told)
    text = command("inspect", f"{scheme}:{path}")[1]
    assert "log-SNR" in text


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p / "nothing.pkl", "neither a file nor a folder"),
        (lambda p: p, "without model_index.json"),
        (
            lambda p: (p / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.") and p / "a.pkl",
            "os.system|posix",
        ),
        (lambda p: (p / "b.pt").write_text("<html>404</html>") and p / "b.pt", "b.pt"),
    ],
)
def test_what_cannot_be_recognised_is_refused(tmp_path, refuses, make, match):
    with refuses(match):
        recognised(make(tmp_path))
    assert not (tmp_path / "PWNED").exists()


def test_a_mistake_ends_in_one_sentence(command):
    status, _, complaint = command("inspect", "no/such/file.pkl")
    assert status == 2
    assert complaint.count("\n") == 1


def test_u_turns_of_a_text_to_image_model(command, tmp_path):
    """As a new user would: a prompt, a folder, and nothing else that must be known."""
    status, printed, complaint = command(
        "uturn", f"diffusers:{CHECKPOINTS['diffusers']}", "--prompt", "a photo of a car", "--prompt", "a car",
        "--generate", "4", "--guidance", "7.5", "--times", "0.3,0.8", "--steps", "4", "--sampler", "ddim",
        "--out", "runs/car", "--with", "pixels,color", "--json",
    )  # fmt: skip
    assert status == 0, complaint
    told = json.loads(printed)
    assert told["sizes"]["item"] == 4
    assert told["complete"]
    from turningpoint import open_run

    run = open_run(tmp_path / "runs" / "car")
    assert np.unique(run.store.read("condition")).tolist() == [0, 2]
    assert run.images.shape[3:] == (3, 32, 32)
    assert run.latents.shape[3:] == (4, 16, 16)
    assert command("report", "runs/car")[0] == 0
    assert command("repeat", "runs/car", "--json")[0] == 0


def test_u_turns_of_a_checkpoint_in_an_experiments_own_steps(command, tmp_path):
    """Steps and grid are the checkpoint's own unless told; labels are told per image."""
    path = CHECKPOINTS["adm"]
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 3, 16, 16), np.float32), labels=np.array([3, 7]))
    status, printed, complaint = command(
        "uturn", f"adm:{path}?timestep_respacing=6&clip_denoised=True", "--images", "images.npz", "--label", "own",
        "--native", "400", "--out", "runs/adm", "--json",
    )  # fmt: skip
    assert status == 0, complaint
    told = json.loads(printed)
    assert told["sizes"]["item"] == 2
    from turningpoint import open_run

    manifest = open_run(tmp_path / "runs" / "adm").settings
    assert manifest["grid"] == {"kind": "respaced", "steps": 6, "sections": "6"}
    assert manifest["sampler"] == {"name": "ddpm", "variance": "learned"}


@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_a_run_of_every_family_is_continued_extended_and_repeated(command, tmp_path, scheme):
    model = f"{scheme}:{CHECKPOINTS[scheme]}"
    size = {"edm": 8, "adm": 16, "ddpm": 32, "diffusers": 32}[scheme]
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 3, size, size), np.float32), labels=np.array([0, 1]))
    told = {"edm": ["--label", "own"], "adm": ["--label", "own"], "diffusers": ["--prompt", "a car"]}.get(
        scheme, []
    )
    base = ["uturn", model, "--images", "x.npz", *told, "--steps", 3, "--sampler", "ddim", "--out", "run"]
    logsnr = "--logsnr=-2,0"
    for extra in (
        ["--logsnr=0"],
        ["--logsnr=0"],
        [logsnr, "--extend"],
        [logsnr, "--replicates", 2, "--extend"],
    ):
        status, _, complaint = command(*base, *extra)
        assert status == 0, complaint
    status, printed, complaint = command("repeat", "run", "--json")
    assert status == 0, complaint
    # a batch of another shape rounds differently
    assert json.loads(printed)["largest_difference"] < 1e-3
