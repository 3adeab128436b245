r"""``dino``: an image as a vision backbone sees it, :math:`f(x) = h_0(x) / |h_0(x)|`, and where two images differ.

DINOv2 was trained on pictures alone, without classes and texts; its distances follow what is shown, and where,
rather than pixels.  Any other vision model of `transformers` serves as well (`measures._vision` has the formulas).
Which vector stands for the image: the pooled output, if the weights have one, which in DINOv2 is its class
token after the last norm; else the first token of the last layer; else the mean of the patches.

Sources: DINOv2, `Oquab et al. 2023 <https://arxiv.org/abs/2304.07193>`_; patch by patch, Sclocchi et al. 2025.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from . import MEASURES, Reading
from ._classifiers._identity import of_module
from ._published import Published
from ._vision import Vision, VisionMeasure, switch

NETWORK = "facebook/dinov2-base"


@MEASURES.add("dino")
class Dino(VisionMeasure):
    """The embedding of an image, and per-patch cosine distances.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    network : str
        A vision model of `transformers`: a folder, or ``owner/name`` on the hub. Of one that also reads texts
        its vision half.
    patches : bool
        Whether to compare patches; what was seen is then remembered, up to 256 MB.
    batch : int
        Images that the network sees at once.
    device : str, optional
        By default a GPU if there is one.

    Raises
    ------
    TurningpointError
        If there is no such network, it is no vision model, or `transformers` is missing; on reading, if these are no
        pictures.

    Examples
    --------
    >>> Dino(network="no/such/folder")                                  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    turningpoint.errors.TurningpointError: network is 'no/such/folder', which is neither a folder nor ...
    """

    name = "dino"

    def __init__(
        self,
        model: Any = None,
        network: str = NETWORK,
        patches: Any = True,
        batch: int = 32,
        device: str | None = None,
    ) -> None:
        del model
        self.patches = switch("patches", patches)
        published = Published(network)
        found, whole = published.network(optional=("pooler",))
        tower = getattr(found, "vision_model", found)
        self.vision = Vision(
            str(network),
            tower,
            published.image_processor(),
            pooled=whole,
            batch=batch,
            device=device,
            remember=self.patches,
        )
        self._settings = {
            "network": str(network),
            "weights": of_module(tower),
            "preprocessing": self.vision.preprocessing(),
        }
        self.readings = (Reading("", "vector", "embedding of unit length", label="dino"), *self.compared())

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        return {"": self.embeddings(images).numpy()}

    def settings(self) -> dict[str, Any]:
        return {**self._settings, "patches": self.patches}
