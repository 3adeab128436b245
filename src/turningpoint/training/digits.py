r"""How the built-in digits model was made: ``turningpoint train digits --data mnist.npz --out DIR``.

The denoiser minimises the v-loss (Salimans & Ho 2022)

.. math:: E \, \| F(x_t, u, c) - (\alpha_t \varepsilon - \sigma_t x_0) \|^2,

with :math:`u = \frac{2}{\pi} \arctan(\sigma_t / \alpha_t)` uniform on (0, 1), stratified over the batch,
so that the log-SNR :math:`-2 \log \tan (\pi u / 2)` is drawn around 0 with a standard deviation of
about 3: a cosine schedule, whatever schedule samples later.  A second stage goes on where digits are
decided, u from 0.3 to 0.95 (log-SNR from 1.3 to -5), with more labels dropped; a short third one is
everywhere again, because without it low noise is forgotten and leaves a grain; the fourth is as long as all
before.  The weights that are kept are an exponential moving average.  The products run in bfloat16;
attention over 49 tokens is written out, because its fused backward pass is slow on a CPU.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import TurningpointError
from ..models.digits import N_CLASSES, DigitClassifier, PatchUNet, load_classifier, save_weights

Progress = Callable[[int, int, dict[str, float]], None]
"""Called as ``progress(step, steps, figures)``."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the denoiser's training with a learning-rate cycle of its own.

    Parameters
    ----------
    steps : int
        Of one batch each.
    rate : float
        The highest learning rate.
    drop : float
        The probability that a label is dropped.
    low, high : float
        The range of u, in which the times are drawn.
    """

    steps: int
    rate: float
    drop: float
    low: float = 0.003
    high: float = 0.997


@dataclass(frozen=True)
class Recipe:
    """The settings that made the weights in the package."""

    seed: int = 0
    channels: tuple[int, ...] = (48, 96)
    layers: int = 2
    batch: int = 64
    stages: tuple[Stage, ...] = (
        Stage(steps=8_000, rate=1e-3, drop=0.15),
        Stage(steps=3_000, rate=6e-4, drop=0.4, low=0.3, high=0.95),  # where digits are decided
        Stage(steps=600, rate=3e-4, drop=0.25),  # and once more everywhere: the ground is clean again
        Stage(steps=13_000, rate=8e-4, drop=0.3),  # as much again
    )
    warmup: int = 200
    ema: float = 0.999
    classifier_epochs: int = 8
    classifier_rate: float = 3e-3


def read_mnist(path: str | Path) -> dict[str, Tensor]:
    """The arrays of an ``mnist.npz`` (``train_images`` uint8 (N, 28, 28), ``train_labels``, ``test_...``).

    Returns images as float32 (N, 1, 28, 28) in [-1, 1] and labels as int64.
    """
    try:
        arrays = np.load(path)
        out: dict[str, Tensor] = {}
        for part in ("train", "test"):
            images = torch.from_numpy(arrays[f"{part}_images"]).float()[:, None] / 127.5 - 1
            out[f"{part}_images"] = images
            out[f"{part}_labels"] = torch.from_numpy(arrays[f"{part}_labels"]).long()
    except (OSError, KeyError, ValueError) as error:
        raise TurningpointError(
            f"data is {str(path)!r}; accepted: an .npz with train_images, train_labels, "
            "test_images and test_labels."
        ) from error
    return out


def _epochs(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of batches, for ever, each item once an epoch."""
    while True:
        yield from torch.randperm(n, generator=generator).split(batch)[: n // batch]


def _one_cycle(step: int, steps: int, warmup: int) -> float:
    """The learning rate's factor: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


SAVED_EVERY = 500
"""Steps between two saves of a training's state, which is what an interruption costs at most."""


def train_denoiser(
    images: Tensor, labels: Tensor, recipe: Recipe, progress: Progress, state: Path | None = None
) -> PatchUNet:
    """Train the network on images (N, 1, 28, 28) and labels (N,); returns the averaged weights.

    With ``state``, a file, training is saved there now and then and continues from it.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = PatchUNet(recipe.channels, recipe.layers).to(device)
    average = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    running, begin = math.nan, 0
    schedule = [(stage, step) for stage in recipe.stages for step in range(stage.steps)]
    if state is not None and state.is_file():
        saved = torch.load(state, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"].cpu())
        running, begin = saved["loss"], saved["step"]
    for total in range(begin, len(schedule)):
        stage, step = schedule[total]
        if state is not None and total > begin and total % SAVED_EVERY == 0:
            _save_state(state, network, average, optimizer, generator, running, total)
        if step == 0 and total > 0:  # a new stage goes on from the averaged weights
            network.load_state_dict(average.state_dict())
        index = torch.randint(len(images), (recipe.batch,), generator=generator)
        x_0, label = images[index].to(device), labels[index].clone()
        label[torch.rand(len(index), generator=generator) < stage.drop] = N_CLASSES
        strata = torch.arange(len(index)) + torch.rand(len(index), generator=generator)
        u = (stage.low + (stage.high - stage.low) * strata / len(index)).to(device)
        alpha_t = (math.pi / 2 * u).cos().reshape(-1, 1, 1, 1)
        sigma_t = (math.pi / 2 * u).sin().reshape(-1, 1, 1, 1)
        eps = torch.randn(x_0.shape, generator=generator).to(device)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _one_cycle(step, stage.steps, recipe.warmup)
        with torch.autocast(device.type, dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            v = network(alpha_t * x_0 + sigma_t * eps, 1000 * u, label.to(device))
        loss = (v.float() - (alpha_t * eps - sigma_t * x_0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        weight = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - weight)
        running = loss.item() if math.isnan(running) else 0.99 * running + 0.01 * loss.item()
        progress(total + 1, len(schedule), {"loss": running})
    return average.cpu()


def _save_state(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    loss: float,
    step: int,
) -> None:
    partial = path.with_name(path.name + ".partial")
    state: dict[str, Any] = {"network": network.state_dict(), "average": average.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "generator": generator.get_state()}
    torch.save(state | {"loss": loss, "step": step}, partial)
    partial.replace(path)


def _jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random small rotations, scalings, shears and shifts of images (B, 1, 28, 28)."""
    n = len(images)

    def uniform(a: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * a

    angle, scale = uniform(math.radians(12)), 1 + uniform(0.1)
    cos, sin, shear = angle.cos() * scale, angle.sin() * scale, uniform(0.1)
    shift = 2 / 28 * 2
    top = torch.stack([cos, -sin + shear, uniform(shift)], 1)
    bottom = torch.stack([sin, cos, uniform(shift)], 1)
    grid = nn.functional.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def train_classifier(images: Tensor, labels: Tensor, recipe: Recipe, progress: Progress) -> DigitClassifier:
    """Train the reference classifier with small random distortions; returns it in evaluation mode."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    classifier, batch = DigitClassifier().train(), 128
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.classifier_rate, weight_decay=0.01)
    steps = recipe.classifier_epochs * (len(images) // batch)
    batches = _epochs(len(images), batch, generator)
    for step in range(steps):
        index = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = recipe.classifier_rate * _one_cycle(step, steps, recipe.warmup)
        loss = nn.functional.cross_entropy(classifier(_jitter(images[index], generator)), labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(step + 1, steps, {"loss": loss.item()})
    return classifier.eval().requires_grad_(False)


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of images (N, 1, 28, 28) whose largest logit is at their label."""
    hits = 0
    with torch.inference_mode():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            hits += int((classifier(x).argmax(1) == y).sum())
    return hits / len(images)


def train(data: str | Path, out: str | Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Make the two files of the digits model, its starting images and ``training.json``; return its figures.

    Interrupted, it continues where it stopped: a classifier that is there is kept, and the
    denoiser's training goes on from its last saved state.

    Parameters
    ----------
    data : path
        ``mnist.npz``; see `read_mnist`.
    out : path
        A folder for ``denoiser.safetensors``, ``classifier.safetensors``, ``mnist-test-1000.npz``.
    recipe : Recipe
        The settings; the default ones made the weights in the package.
    progress : callable
        Called after every step.
    """
    arrays, folder = read_mnist(data), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    train_set = arrays["train_images"], arrays["train_labels"]
    test_set = arrays["test_images"], arrays["test_labels"]
    if (folder / "classifier.safetensors").is_file():
        classifier = load_classifier(folder)
    else:
        classifier = train_classifier(*train_set, recipe, progress)
        save_weights(classifier, folder / "classifier.safetensors", classifier.config)
    figures: dict[str, Any] = {"classifier_accuracy": accuracy(classifier, *test_set)}
    pixels = ((test_set[0][:1000, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    labels = test_set[1][:1000].to(torch.uint8).numpy()
    np.savez_compressed(folder / "mnist-test-1000.npz", images=pixels, labels=labels)
    losses: list[float] = []

    def note(step: int, steps: int, now: dict[str, float]) -> None:
        losses.append(now["loss"])
        progress(step, steps, now)

    state = folder / "training-state.pt"
    network = train_denoiser(*train_set, recipe, note, state)
    save_weights(network, folder / "denoiser.safetensors", network.config)
    state.unlink(missing_ok=True)
    figures |= {"final_loss": losses[-1], "parameters": sum(p.numel() for p in network.parameters())}
    figures |= {"data_sha256": hashlib.sha256(Path(data).read_bytes()).hexdigest()}
    record = {"recipe": asdict(recipe), "torch": torch.__version__, **figures}
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    return figures
