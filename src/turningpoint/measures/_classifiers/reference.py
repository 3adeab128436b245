"""``reference``: the diffusion model's own classifier, on images as they are."""

from __future__ import annotations

import copy

from torch import nn

from ...errors import TurningpointError
from . import CLASSIFIERS, ImageClassifier, Request, _identity


@CLASSIFIERS.add("reference")
def load(request: Request) -> ImageClassifier:
    """What ``model.classifier()`` offers; a copy of it, so that the model's own stays where it is.

    Raises
    ------
    TurningpointError
        If the model offers none, or something follows the name.
    """
    if request.where:
        raise TurningpointError(f"classifier is 'reference:{request.where}'; accepted: reference.")
    classify = getattr(request.model, "classifier", lambda: None)()
    if classify is None:
        name = getattr(request.model, "name", request.model)
        raise TurningpointError(
            f"classifier is 'reference', but the model {name!r} offers none; accepted with it: efficientnet-lite0, "
            "torchvision:NAME, timm:NAME, transformers:PATH, onnx:FILE."
        )
    network = copy.deepcopy(classify) if isinstance(classify, nn.Module) else classify
    return ImageClassifier(
        "reference",
        network,
        lambda images: images,
        identity={"weights": _identity.of_function(classify), "preprocessing": "none"},
        device=request.device if isinstance(network, nn.Module) else "cpu",
    )
