"""``python:MODULE:FUNCTION``: one's own classifier, from a Python module or file.

What is named may be

- a network (`nn.Module`), an `ImageClassifier`, or a function that takes nothing and makes one of them;
- a function from images to logits (B, K) itself.

Images come as they are, (B, C, H, W) in [-1, 1], unless one of ``size``, ``resize``, ``mean``, ``std``,
``interpolation`` and ``levels`` is given: then they go through `_preprocessing.Steps` first, with ImageNet's mean and
standard deviation by default.  This runs the code that it names.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TurningpointError
from ...models.python import find, made_by
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._preprocessing import Steps, asked


@CLASSIFIERS.add("python")
def load(request: Request, **settings: Any) -> ImageClassifier:
    """A classifier from one's own code; settings that are not of the preprocessing go to the factory.

    Raises
    ------
    TurningpointError
        If the code is not there, raises, or makes something else.
    """
    who = f"python:{request.where}"
    found = find(request.where, "python")
    steps = {key: value for key, value in settings.items() if key in Steps.__dataclass_fields__}
    if not isinstance(found, ImageClassifier | nn.Module) and not _takes_images(found):
        found = made_by(who, found, settings, around=tuple(Steps.__dataclass_fields__))
    elif surplus := sorted(set(settings) - set(steps)):
        raise TurningpointError(
            f"{surplus[0]} is given, but {who} is a classifier already and takes no settings."
        )
    return adopted(found, request.device, who, **steps)


def adopted(network: Any, device: torch.device, name: str = "", **settings: Any) -> ImageClassifier:
    """A classifier from a network, or from a function of images.

    Parameters
    ----------
    network : nn.Module, callable or ImageClassifier
        Images (B, C, H, W) to logits (B, K).  A module is copied, and stays as it is.
    device : torch.device
        Where a module runs; a function gets images on the CPU.
    name : str
        By default the name of its class, or its own.
    **settings
        Of `_preprocessing.Steps`.

    Raises
    ------
    TurningpointError
        If it is anything else, or a setting is unknown.
    """
    name = name or getattr(network, "__name__", type(network).__name__)
    if isinstance(network, ImageClassifier):
        if settings:
            raise TurningpointError(f"{min(settings)} is given, but {name} has its own preprocessing.")
        return network
    if not callable(network):
        raise TurningpointError(
            f"classifier is {network!r} of type {type(network).__name__}; accepted: a name, an ImageClassifier, a "
            "network, or a function from images (B, C, H, W) in [-1, 1] to logits (B, K)."
        )
    unknown = sorted(set(settings) - set(Steps.__dataclass_fields__))
    if unknown:
        raise TurningpointError(
            f"{unknown[0]} is given to the classifier {name!r}; accepted: {', '.join(Steps.__dataclass_fields__)}."
        )
    steps = Steps.given(**settings) if asked(settings) else None
    prepare: Callable[[Tensor], Tensor] = steps if steps is not None else lambda images: images
    module = isinstance(network, nn.Module)
    return ImageClassifier(
        name,
        copy.deepcopy(network) if module else network,
        prepare,
        identity={
            "weights": _identity.of_function(network),
            "preprocessing": steps.settings() if steps is not None else "none",
        },
        device=device if module else "cpu",
    )


def _takes_images(found: Any) -> bool:
    """Whether a thing wants an argument: a function of images, and no factory."""
    if inspect.isclass(found) or not callable(found):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)
