"""``transformers:FOLDER_OR_ID``: an image classifier of transformers, with its own image processor.

A folder as ``save_pretrained`` writes it, or a repository of the hub; `measures._published` reads it and runs none
of its code.  The weights must have the head, which transformers would fill with random numbers.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...errors import one_of
from .._published import Published
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._preprocessing import LEVELS, pictures


@CLASSIFIERS.add("transformers")
def load(request: Request, levels: str = "rounded") -> ImageClassifier:
    """What ``AutoModelForImageClassification`` and ``AutoImageProcessor`` make of a folder.

    Parameters
    ----------
    request : Request
        With a folder, or ``owner/name`` on the hub.
    levels : str
        ``rounded`` or ``truncated``: how images become the pixels that the processor takes.

    Raises
    ------
    TurningpointError
        If transformers is missing, there is no such folder, or it holds no whole image classifier.
    """
    if levels not in LEVELS:
        raise one_of("levels", levels, LEVELS)
    published = Published(request.where, "classifier")
    processor = published.image_processor()
    network, _ = published.network("AutoModelForImageClassification")
    names = published.described.id2label or {}
    local = Path(request.where).expanduser().is_dir()

    def prepare(images: Tensor) -> Tensor:
        found: Tensor = processor(images=pictures(images, levels), return_tensors="pt")["pixel_values"]
        return found.float()

    return ImageClassifier(
        f"transformers:{published.folder.name if local else request.where}",
        network,
        prepare,
        classes=[str(names[key]) for key in sorted(names, key=int)],
        identity={
            "weights": _identity.of_module(network),
            "preprocessing": {"processor": _identity.of_plain(processor.to_dict()), "levels": levels},
        },
        device=request.device,
    )
