r"""``class``: what the model's own reference classifier sees, :math:`\arg\max_c p(c \mid x)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Measure, Reading


@MEASURES.add("class")
class Classifier(Measure):
    """The class with the largest logit.

    Parameters
    ----------
    model : Denoiser
        A model that offers a classifier.

    Raises
    ------
    TurningpointError
        If it offers none.
    """

    name = "class"
    readings = (Reading("", "categorical", "the class that the reference classifier sees", label="class"),)

    def __init__(self, model: Any = None) -> None:
        classify = model.classifier() if model is not None else None
        if classify is None:
            name = getattr(model, "name", model)
            raise TurningpointError(f"measure is 'class', but the model {name!r} offers no classifier.")
        self._classify = classify

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            logits = torch.cat([self._classify(part) for part in images.split(256)])
        return {"": logits.argmax(1).cpu().numpy().astype(np.int64)}
