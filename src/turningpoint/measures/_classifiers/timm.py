"""``timm:NAME[:FILE]``: a network of timm, with the preprocessing that its configuration states.

Without a file timm fetches its own weights (safetensors, or a pickle read as weights only); a file with a state dict is
read by `models._reading`, which executes nothing.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from ...errors import TurningpointError
from ...models._pipelines.pipeline_folder import reason
from ...models._reading.checkpoint import load_tensors, read_checkpoint, tensors
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._packages import imagenet_classes, imported
from ._preprocessing import ByPicture

INSTALL = "pip install timm"


@CLASSIFIERS.add("timm")
def load(request: Request, levels: str = "rounded") -> ImageClassifier:
    """A network of timm, with ``timm.data.create_transform`` of its own configuration.

    Parameters
    ----------
    request : Request
        With ``convnext_base.fb_in1k``, ``hf-hub:owner/name``, or a name, a colon and a file.
    levels : str
        ``rounded`` or ``truncated``: how images become the pixels that the transform takes.

    Raises
    ------
    TurningpointError
        If timm is missing, has no such network, or its weights cannot be had.
    """
    who = f"classifier 'timm:{request.where}'"
    timm = imported("timm", who, INSTALL)
    data = imported("timm.data", who, INSTALL)
    name, _, file = request.where.rpartition(":")
    if not name or not Path(file).expanduser().is_file():
        name, file = request.where, ""
    if ":" not in name and not timm.is_model(name):
        known = timm.list_models() + timm.list_pretrained()
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or ["convnext_base", "resnet50"]
        raise TurningpointError(f"{who} is no network of timm; accepted: {', '.join(near)}, ...")
    try:
        network = timm.create_model(name, pretrained=not file)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise TurningpointError(
            f"{who} cannot be loaded ({reason(error)}); accepted: a network whose weights can be fetched, or NAME:FILE."
        ) from None
    if file:
        load_tensors(network, tensors(read_checkpoint(Path(file).expanduser()), file), file)
    config = data.resolve_data_config({}, model=network)
    return ImageClassifier(
        f"timm:{request.where}",
        network,
        ByPicture(data.create_transform(**config, is_training=False), levels),
        classes=imagenet_classes(int(getattr(network, "num_classes", 0))),
        identity={
            "weights": _identity.of_module(network),
            "preprocessing": {**{key: str(value) for key, value in sorted(config.items())}, "levels": levels},
        },
        device=request.device,
    )
