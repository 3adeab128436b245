r"""``perceptual``: how different two images are to a network that has learned to see.

With :math:`\hat a_l(x)_p` the activations of layer :math:`l` at position :math:`p`, over its channels scaled to length
one, and :math:`P_l` positions in each of :math:`L` layers,

.. math::

   \text{distance}(x, y) = \frac1L \sum_l \frac{1}{P_l} \sum_p \big| \hat a_l(x)_p - \hat a_l(y)_p \big|^2 ,

0 for equal images and at most 4 (2, where activations are not negative).  This is the distance of `Zhang et al. 2018
<https://arxiv.org/abs/1801.03924>`_, eq. 1, without the weights of channels that they learned from people's judgements,
and with the mean over layers in place of the sum: any classifier will do, and values of different classifiers are not
to be compared.  A layer that is a map has its pixels as positions, one of tokens its tokens, and a vector is one.

With ``network="lpips"`` it is their own, calibrated distance (LPIPS, version 0.1), from their package.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TurningpointError, one_of
from ..models._pipelines.pipeline_folder import reason
from ..models.settings import whole
from . import MEASURES, Measure, Reading
from ._activations import LOGITS, layers_of, look_at
from ._classifiers import ImageClassifier, _identity, image_classifier
from ._classifiers._packages import imported
from ._published import device_of
from .pixels import pictures

NETWORKS = ("classifier", "lpips")
NETS = ("alex", "vgg", "squeeze")
USUAL = "efficientnet-lite0?crop=whole"
"""The classifier for models without one of their own; it looks at all of the picture."""
EPSILON = 1e-10
"""Added to the length of activations, as in LPIPS: where all are zero they stay so."""
SMALLEST = 64
"""Pixels of the shorter side that LPIPS is given at least: those of the patches from which it was learned."""


def unit(activations: Tensor, form: str) -> Tensor:
    """Activations of length one at each position.

    Parameters
    ----------
    activations : Tensor (B, C, H, W), (B, T, C) or (B, C)
        Of a layer.
    form : str
        ``map``, ``tokens`` or ``vector``.

    Returns
    -------
    Tensor (B, C, P)

    Examples
    --------
    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "vector").squeeze()
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    a = activations.float()
    a = a.mT if form == "tokens" else a.flatten(2) if form == "map" else a[..., None]
    length: Tensor = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    return a / (length + EPSILON)


class Uncalibrated:
    """The distance by the layers of a classifier.

    Parameters
    ----------
    classifier : ImageClassifier
        Whose layers they are.
    example : Tensor (1, C, H, W)
        An image of the size to come.
    layers : str or sequence of str, optional
        Names or patterns; by default the classifier's own but its vectors, if it has others.

    Examples
    --------
    >>> from ._classifiers import image_classifier
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 2))
    >>> seen = Uncalibrated(image_classifier(net), torch.zeros(1, 1, 4, 4))
    >>> seen.forms, seen(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 1]))
    ({'0': 'map'}, tensor([0., 0.]))
    """

    def __init__(self, classifier: ImageClassifier, example: Tensor, layers: Any = None) -> None:
        self.classifier = classifier
        asked = str(layers) if isinstance(layers, int | float) else layers
        found = layers_of(classifier, classifier.prepare(example), asked)
        wanted = [
            layer
            for layer in found
            if (layer.form != "vector" if asked is None else layer.name != LOGITS or LOGITS in str(asked))
        ]
        self.forms = {layer.name: layer.form for layer in wanted or found}

    def __call__(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The distances (M,) of M pairs among images (B, C, H, W), by their numbers."""

        def look(name: str, activations: Tensor) -> Tensor:
            a = unit(activations, self.forms[name])
            return (a[first.to(a.device)] - a[second.to(a.device)]).square().sum(1).mean(1).cpu()

        seen = look_at(self.classifier, self.classifier.prepare(images), list(self.forms), look)
        return torch.stack([seen[name] for name in self.forms]).mean(0)

    def settings(self) -> dict[str, Any]:
        return {**self.classifier.settings(), "layers": list(self.forms)}


class Calibrated:
    """LPIPS, by the package of its authors.

    Parameters
    ----------
    net : str
        ``alex``, ``vgg`` or ``squeeze``.
    device : torch.device
        Where it runs.

    Raises
    ------
    TurningpointError
        If the package is missing, or its weights cannot be had.
    """

    def __init__(self, net: str, device: torch.device) -> None:
        lpips = imported("lpips", "measure 'perceptual?network=lpips'", "pip install lpips")
        try:
            with _weights_only():
                network: nn.Module = lpips.LPIPS(net=net, verbose=False)
        except (OSError, RuntimeError, ImportError, ValueError, UnpicklingError) as error:
            raise TurningpointError(
                f"net is {net!r}, whose weights cannot be loaded ({reason(error)}); accepted: a network of lpips whose "
                "weights can be fetched."
            ) from None
        self.net, self.device = net, device
        self.network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The distances (M,) of M pairs among images (B, 1 or 3, H, W), by their numbers."""
        if images.shape[1] not in (1, 3):
            raise TurningpointError(
                f"network is 'lpips', but the images have {images.shape[1]} channels; accepted: 1 or 3."
            )
        x = images.clamp(-1, 1).expand(-1, 3, -1, -1).to(self.device)
        larger = SMALLEST / min(x.shape[2:])
        if larger > 1:
            size = [round(side * larger) for side in x.shape[2:]]
            x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
        found: Tensor = self.network(x[first.to(self.device)], x[second.to(self.device)])
        return found.flatten().float().cpu()

    def settings(self) -> dict[str, Any]:
        return {"net": self.net, "weights": _identity.of_module(self.network)}


@contextlib.contextmanager
def _weights_only(variable: str = "TORCH_FORCE_WEIGHTS_ONLY_LOAD") -> Iterator[None]:
    """While the block runs, `torch.load` unpickles nothing but tensors, whoever calls it."""
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        del os.environ[variable]
        os.environ |= {} if before is None else {variable: before}


@MEASURES.add("perceptual")
class Perceptual(Measure):
    """Distance of two images to the layers of a classifier, or LPIPS.

    Parameters
    ----------
    model : Denoiser, optional
        The model under study, for its own classifier and the shape of its images.
    classifier : str, ImageClassifier or nn.Module, optional
        By default the model's own if that is a network of torch, else ``efficientnet-lite0?crop=whole``.
    layers : str or sequence of str, optional
        Names or patterns; by default the classifier's own, its blocks, without those that answer with a vector.
    network : str
        ``classifier``, or ``lpips``, which needs neither of the two above.
    net : str
        Of LPIPS: ``alex``, ``vgg`` or ``squeeze``.
    batch : int
        Images that are compared at once; each goes through a classifier once, with all that it is compared with.
    trust_program : bool
        Unused here, but by classifiers that are programs, which have no layers to look at.
    device : str, optional
        Where the network runs.
    shape : tuple of int, optional
        Of an image, (C, H, W); by default the model's.

    Raises
    ------
    TurningpointError
        If a setting is wrong, or there is no such classifier, layer or package.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 2))
    >>> measure = Perceptual(classifier=net, layers="0", shape=(1, 4, 4))
    >>> x = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
    >>> measure.compare(x, x)["distance"], measure.compare(x, -x)["distance"].round(3)
    (array([0., 0.], dtype=float32), array([4., 4.], dtype=float32))
    """

    name = "perceptual"
    by_default = False

    def __init__(
        self,
        model: Any = None,
        classifier: Any = None,
        layers: str | Sequence[str] | None = None,
        network: str = "classifier",
        net: str = "alex",
        batch: int = 16,
        trust_program: bool = False,
        device: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        for argument, value, accepted in (("network", network, NETWORKS), ("net", net, NETS)):
            if value not in accepted:
                raise one_of(argument, value, accepted)
        self.network, self.batch = network, whole("batch", batch)
        self._apart: Uncalibrated | Calibrated
        if network == "lpips":
            self._apart, who = Calibrated(net, device_of(device)), f"LPIPS ({net})"
        else:
            if classifier is None:
                own = getattr(model, "classifier", lambda: None)()
                classifier = "reference" if isinstance(own, nn.Module) else USUAL
            found = image_classifier(classifier, model, trust_program=trust_program, device=device)
            size = getattr(model, "decoded_shape", (3, 64, 64)) if shape is None else shape
            example = pictures(torch.zeros(1, *size), self.name)
            self._apart, who = (
                Uncalibrated(found, example, layers),
                f"the layers of {found.name}, uncalibrated",
            )
        self.readings = (
            Reading(
                "distance",
                "comparison",
                f"perceptual distance by {who}",
                largest=0.0,
                label="perceptual distance",
            ),
        )

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """Nothing: images are only compared."""
        return {}

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        return self.compare_with([a], b)[0]

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        """Distances to several batches; equal images go through a classifier once per call."""
        batches = [pictures(batch, self.name).split(self.batch) for batch in (images, *starts)]
        found = []
        for parts in zip(*batches, strict=True):
            distinct, place = torch.unique(torch.cat(parts), dim=0, return_inverse=True)
            back, *starting = place.reshape(len(parts), -1)
            pairs = torch.cat(starting), back.repeat(len(starting))
            found.append(self._apart(distinct, *pairs).reshape(len(starting), -1))
        return [{"distance": values.numpy()} for values in torch.cat(found, 1)]

    def settings(self) -> dict[str, Any]:
        """The network, what identifies its weights, and the layers."""
        return {"network": self.network, **self._apart.settings()}
