"""The small network and the 12 pairs of images of tests/measures/golden/forward-backward-classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "measures" / "golden" / "forward-backward-classifier"


class Tokens(nn.Module):
    """(N, C, H, W) as tokens (N, H W, C), normalised, mixed over channels and bent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.fc(self.norm(x.flatten(2).transpose(1, 2))))


class TinyClassifier(nn.Module):
    """(N, 3, 32, 32) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.tok = Tokens(16)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.classifier(self.tok(x).mean(1))


def network() -> TinyClassifier:
    """With the weights of the golden file."""
    made = TinyClassifier()
    made.load_state_dict(torch.load(FOLDER / "tiny_classifier.pt", weights_only=True))
    return made.eval()


def images(folder: str) -> Tensor:
    """The pictures of ``start`` or ``t_12_25_images`` (12, 3, 32, 32) in [-1, 1], sorted by name."""
    files = sorted((FOLDER / "images" / folder).glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def labels() -> np.ndarray:
    """Of the starting images: the index of the first part of the name among all of them."""
    classes = [file.name.partition("_")[0] for file in sorted((FOLDER / "images" / "start").glob("*.png"))]
    return np.searchsorted(sorted(set(classes)), classes)


def expected() -> dict[str, np.ndarray]:
    """All arrays of ``classifier_expected.npz``."""
    with np.load(FOLDER / "classifier_expected.npz") as file:
        return dict(file)
