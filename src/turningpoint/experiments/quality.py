"""Are a labelled model's samples what they should be? Its own classifier answers.

Two questions of generated images: does the classifier see the label that the model was told (*agreement*),
and, without a label, is it sure of what it sees (*confidence* above 0.9), with every class about
equally often?
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..diffusion.sampler import Sampler
from ..errors import TurningpointError
from ..models import load
from .generate import generate

SURE = 0.9
"""Probability above which the classifier counts as sure."""


def quality(
    model: Any, n: int = 2000, sampler: str | Sampler = "ddpm", steps: int = 100, **settings: Any
) -> dict[str, Any]:
    """Generate ``n`` images with labels and ``n`` without, and let the model's classifier look.

    Parameters
    ----------
    model : str or Denoiser
        With labels and a classifier.
    n : int
        Images of each kind; labels go round.
    sampler, steps
        How images are made; the default is the sampler of U-turns and clones.
    **settings
        Of `generate`.

    Returns
    -------
    dict
        ``agreement`` (fraction classified as their label), ``sure`` (fraction of unlabelled ones with
        confidence above 0.9), ``shares`` (of the classes among the unlabelled), ``n``.

    Raises
    ------
    TurningpointError
        If the model takes no labels or has no classifier.

    Examples
    --------
    >>> import turningpoint as tp
    >>> sorted(tp.quality("digits", 10, steps=2, progress=None))
    ['agreement', 'n', 'shares', 'sure']
    """
    loaded = load(model)
    classify = loaded.classifier()
    if classify is None or loaded.n_classes is None:
        raise TurningpointError(f"model is {loaded.name!r}; accepted: a model with labels and a classifier.")
    labels = np.arange(n) % loaded.n_classes
    settings |= {"sampler": sampler, "steps": steps}
    told = _probabilities(classify, generate(loaded, n, label=labels.tolist(), **settings).images.values)
    free = _probabilities(classify, generate(loaded, n, **settings).images.values)
    shares = np.bincount(free.argmax(1), minlength=loaded.n_classes) / n
    return {
        "n": n,
        "agreement": float((told.argmax(1) == labels).mean()),
        "sure": float((free.max(1) > SURE).mean()),
        "shares": [float(share) for share in shares],
    }


def _probabilities(classify: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = [classify(part).softmax(1) for part in torch.from_numpy(images).split(250)]
    probabilities: np.ndarray = torch.cat(parts).numpy()
    return probabilities
