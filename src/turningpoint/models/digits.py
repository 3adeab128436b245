r"""The built-in model: handwritten digits, class-conditional with dropped labels.

A U-Net of `diffusers` works on 2x2 patches (28x28x1 becomes 14x14x4, which makes it four times
cheaper) and predicts v under the continuous VP schedule; labels 0..9, or none.  It is told the time
as :math:`u = \frac{2}{\pi} \arctan(\sigma / \alpha)`, which is uniform where digits are decided.
Beside it stands a small convolutional reference classifier.  Both were trained by
``turningpoint train digits``; the model card is ``weights/digits/README.md`` beside this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.denoiser import NetworkDenoiser
from ..diffusion.schedule import VP
from ..errors import TurningpointError
from . import MODELS

SHAPE = (1, 28, 28)
N_CLASSES = 10


class PatchUNet(nn.Module):
    """A `diffusers.UNet2DModel` on 2x2 patches, (B, 1, 28, 28) to the same shape.

    Parameters
    ----------
    channels : tuple of int
        Feature channels at 14x14 and at 7x7.
    layers : int
        Residual blocks per resolution.
    """

    def __init__(self, channels: tuple[int, ...] = (48, 96), layers: int = 2) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.config = {"channels": list(channels), "layers": layers}
        depth = len(channels)
        self.unet: Any = UNet2DModel(
            sample_size=14,
            in_channels=4,
            out_channels=4,
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * (depth - 1),
            up_block_types=("AttnUpBlock2D",) * (depth - 1) + ("UpBlock2D",),
            num_class_embeds=N_CLASSES + 1,
            norm_num_groups=16,
            attention_head_dim=32,
        )

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """v for images (B, 1, 28, 28), times in 0..1000 (B,) and labels (B,), 10 being none."""
        patches = nn.functional.pixel_unshuffle(x, 2)
        v = self.unet(patches, time, class_labels=label, return_dict=False)[0]
        return nn.functional.pixel_shuffle(v, 2)


class DigitClassifier(nn.Module):
    """A small residual-free convolutional classifier, (B, 1, 28, 28) in [-1, 1] to logits (B, 10)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def stage(c_in: int, c_out: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for c in (c_in, c_out):
                layers += [nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            return [*layers, nn.MaxPool2d(2)]

        self.config = {"width": width}
        self.features = nn.Sequential(*stage(1, width), *stage(width, 2 * width))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * 49, N_CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 10)."""
        return cast(Tensor, self.head(self.features(images)))


class Digits(NetworkDenoiser):
    """The built-in denoiser of handwritten digits; see the module's docstring."""

    def __init__(self, network: PatchUNet, classifier: DigitClassifier | None = None) -> None:
        super().__init__(network, VP(), SHAPE, predicts="v", n_classes=N_CLASSES, name="digits")
        self._classifier = classifier

    def native(self, t: Tensor) -> Tensor:
        return 1000 * 2 / math.pi * torch.atan2(self.schedule.sigma(t), self.schedule.alpha(t))

    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        return self._classifier

    def starting_images(self) -> tuple[Tensor, Tensor | None]:
        with resources.as_file(
            resources.files(__package__) / "weights" / "digits" / "mnist-test-1000.npz"
        ) as path:
            shipped = np.load(path)
            images, labels = shipped["images"], shipped["labels"]
        x_0 = torch.from_numpy(images).to(torch.float32)[:, None] / 127.5 - 1
        return x_0, torch.from_numpy(labels).long()


def save_weights(module: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write a module's tensors in half precision, and the settings that rebuild it, as safetensors."""
    from safetensors.torch import save_file

    state = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path, metadata={"config": json.dumps(config)})


def _load_weights(path: Path, build: type[nn.Module]) -> nn.Module:
    from safetensors import safe_open

    if not path.is_file():
        raise TurningpointError(f"digits: the file {path} is missing; reinstall the package.")
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    module = build(**config)
    module.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    return module.eval().requires_grad_(False)


def load_classifier(folder: str | Path) -> DigitClassifier:
    """The reference classifier from ``classifier.safetensors`` in ``folder``."""
    return cast(DigitClassifier, _load_weights(Path(folder) / "classifier.safetensors", DigitClassifier))


@MODELS.add("digits")
def load(folder: str | Path | None = None) -> Digits:
    """The digits model, from the weights inside the package or from ``folder``.

    Parameters
    ----------
    folder : path, optional
        Holds ``denoiser.safetensors`` and ``classifier.safetensors``, as ``turningpoint train
        digits`` writes them.
    """
    root = (
        Path(folder) if folder is not None else Path(str(resources.files(__package__) / "weights" / "digits"))
    )
    network = _load_weights(root / "denoiser.safetensors", PatchUNet)
    return Digits(cast(PatchUNet, network), load_classifier(root)).eval()
