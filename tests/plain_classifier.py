"""For tests of classifiers: a small network of convolutions, a batch of images, and photographs."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import nn

RGB = torch.rand(5, 3, 40, 48, generator=torch.Generator().manual_seed(3)) * 2.2 - 1.1


class Net(nn.Module):
    """Any (B, 3, H, W) to (B, 4)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def photograph(name, side=256):
    """A photograph of scikit-image, squeezed into a square (1, 3, side, side) in [-1, 1]."""
    picture = Image.fromarray(getattr(data, name)()[..., :3]).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
