"""``torchvision:NAME[:WEIGHTS]``: a network of torchvision, with the preprocessing that belongs to its weights.

WEIGHTS is an entry of the network's own list (``IMAGENET1K_V1``; by default torchvision's ``DEFAULT``), which is
downloaded once into torch's cache, or a file with a state dict.  Either is read by `models._reading`, which
executes nothing; torchvision's own builder unpickles without such care, so it is handed the tensors instead.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TurningpointError
from ...models._pipelines.pipeline_folder import reason
from ...models._reading.checkpoint import load_tensors, read_checkpoint, tensors
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._packages import imported
from ._preprocessing import ByPicture

INSTALL = "pip install torchvision"


@CLASSIFIERS.add("torchvision")
def load(request: Request, levels: str = "rounded") -> ImageClassifier:
    """A network of ``torchvision.models`` and the transforms of its weights.

    Parameters
    ----------
    request : Request
        With ``convnext_base``, ``resnet50:IMAGENET1K_V2``, ``resnet50:weights.pth``.
    levels : str
        ``rounded`` or ``truncated``: how images become the pixels that the transforms take.

    Raises
    ------
    TurningpointError
        If torchvision is missing, has no such network or weights, or the weights cannot be had.
    """
    name, _, wanted = request.where.partition(":")
    who = f"classifier 'torchvision:{request.where}'"
    models = imported("torchvision.models", who, INSTALL)
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or ["convnext_base", "resnet50"]
        raise TurningpointError(f"{who} is no network of torchvision; accepted: {', '.join(near)}, ...")
    entries = models.get_model_weights(name)
    names = list(entries.__members__)
    file = Path(wanted).expanduser()
    if wanted and wanted not in names and not file.is_file():
        raise TurningpointError(f"{who} names other weights; accepted: {', '.join(names)}, or a file.")
    entry = entries.__members__[wanted] if wanted in names else entries.DEFAULT
    if not wanted or wanted in names:
        file = _downloaded(entry.url, who)
    state = tensors(read_checkpoint(file), str(file))
    classes = tuple(entry.meta.get("categories", ()))
    count = len(next(reversed(state.values()))) if state else 0
    if count == len(classes):
        network = _built(models, name, entry, state, who)
    else:
        network, classes = models.get_model(name, weights=None, num_classes=max(count, 1)), ()
        load_tensors(network, state, str(file))
    steps = entry.transforms()
    return ImageClassifier(
        f"torchvision:{name}:{wanted if wanted and wanted not in names else entry.name}",
        network,
        ByPicture(steps, levels),
        classes=classes,
        identity={
            "weights": _identity.of_module(network),
            "preprocessing": {"transforms": " ".join(str(steps).split()), "levels": levels},
        },
        device=request.device,
    )


def _downloaded(url: str, who: str) -> Path:
    """The file of an address, from torch's cache or from the net; its name holds the start of its SHA-256."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        check = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), check[1] if check else None)
        except (OSError, RuntimeError) as error:
            raise TurningpointError(
                f"{who} needs {url}, which cannot be fetched ({reason(error)}); "
                f"accepted: the file itself, put at {path}, or behind the network's name and a colon."
            ) from None
    return path


def _built(models: Any, name: str, entry: Any, state: dict[str, Tensor], who: str) -> nn.Module:
    try:
        with _handed(type(entry), state):
            network: nn.Module = models.get_model(name, weights=entry)
    except (RuntimeError, ValueError, KeyError) as error:
        raise TurningpointError(
            f"{who} cannot be filled with its weights ({reason(error)}); accepted: a state dict of {name}."
        ) from None
    return network


@contextlib.contextmanager
def _handed(entries: Any, state: dict[str, Tensor]) -> Iterator[None]:
    """With tensors in place of a download for those entries."""
    entries.get_state_dict = lambda *_, **__: state
    try:
        yield
    finally:
        del entries.get_state_dict
