r"""``layers``: how alike two images are to each layer of a classifier, from edges to classes.

With :math:`\tilde a_l(x)` the activations of layer :math:`l`, whitened channel by channel (`_moments`) and
flattened, an image :math:`x` and what came back of it, :math:`x'`, are compared by

.. math::

   \text{cosine} = \frac{\tilde a_l(x) \cdot \tilde a_l(x')}{|\tilde a_l(x)| |\tilde a_l(x')|}, \qquad
   \text{l2} = |\tilde a_l(x) - \tilde a_l(x')|^2, \qquad
   \text{l2\_normalised} = \frac{\text{l2}}{|\tilde a_l(x)| |\tilde a_l(x')|},

and place by place, for susceptibilities, by the squared distance over the channels at each position :math:`p`,

.. math:: \text{change}_p = \sum_c \big(\tilde a_{l,cp}(x) - \tilde a_{l,cp}(x')\big)^2,

averaged over square cells that do not overlap.

Nothing of a layer outlives the moment in which the network has made it (`_activations`): every image goes
through the network once with all that it is compared with, and only the numbers above stay.

Source: Sclocchi, Favero & Wyart 2025, PNAS 122(1) (arXiv:2402.16991), where the cosine of the first layers falls
smoothly with the reversal time and that of the logits at the class transition.  Their scripts divide by the root of
:math:`E[a^2]`; here that is ``whiten="second-moment"``, and by default it is the standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TurningpointError, one_of
from . import MEASURES, Measure, Reading
from ._activations import LOGITS, Layer, layers_of, look_at
from ._classifiers import ImageClassifier, image_classifier
from ._layer_statistics import LayerStatistics, classifiers_differ
from ._moments import WHITEN, Moments, moments_of, whitened
from .pixels import pictures

USUAL = "torchvision:convnext_base"
"""The classifier of the paper, for models without one of their own."""

COMPARISONS = (
    ("cosine", 1.0, "cosine of the whitened activations of"),
    ("l2", 0.0, "squared distance of the whitened activations of"),
    ("l2_normalised", 0.0, "squared distance over the product of the norms of"),
)


@MEASURES.add("layers")
class Layers(Measure):
    """Similarity of two images to every layer of a classifier.

    Parameters
    ----------
    model : Denoiser, optional
        The model under study, for its own classifier and the shape of its images.
    classifier : str, ImageClassifier or nn.Module, optional
        By default the model's own if that is a network of torch, else ``torchvision:convnext_base``.
    layers : str or sequence of str, optional
        Names or patterns; by default those of the statistics, or the classifier's own: its blocks.
    statistics : path or LayerStatistics, optional
        What ``turningpoint statistics`` collected with this classifier; by default the statistics of the
        starting images themselves.
    whiten : str
        ``variance``, ``second-moment`` (as published) or ``none``.
    maps : int
        The changes of a layer are kept at up to this many positions squared; 0 keeps none.
    batch : int
        Images of a call of the network; more where one image is compared with more.
    trust_program : bool
        Unused here, but by classifiers that are programs, which have no layers to look at.
    device : str, optional
        Where the classifier runs.
    shape : tuple of int, optional
        Of an image, (C, H, W); by default the model's.

    Raises
    ------
    TurningpointError
        If there is no such classifier or layer, a setting is wrong, or the statistics are of another classifier.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 2))
    >>> measure = Layers(classifier=net, layers="0", whiten="none", shape=(1, 4, 4))
    >>> [reading.name for reading in measure.readings][:4]
    ['0.cosine', '0.l2', '0.l2_normalised', '0.change']
    >>> x = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
    >>> measure.compare(x, -x)["0.cosine"]
    array([-1., -1.], dtype=float32)
    """

    name = "layers"
    by_default = False

    def __init__(
        self,
        model: Any = None,
        classifier: Any = None,
        layers: str | Sequence[str] | None = None,
        statistics: str | Path | LayerStatistics | None = None,
        whiten: str = "variance",
        maps: int = 8,
        batch: int = 16,
        trust_program: bool = False,
        device: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        if whiten not in WHITEN:
            raise one_of("whiten", whiten, WHITEN)
        for argument, value, least in (("maps", maps, 0), ("batch", batch, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TurningpointError(f"{argument} is {value!r}; accepted: an integer from {least}.")
        given = None if statistics is None else _statistics(statistics)
        self.classifier = _classifier(classifier, model, trust_program, device)
        if given is not None and layers is None:
            layers = [layer.name for layer in given.layers]
        size = getattr(model, "decoded_shape", (3, 64, 64)) if shape is None else shape
        probe = pictures(torch.zeros(1, *size), self.name)
        asked = str(layers) if isinstance(layers, int | float) else layers
        self.layers = layers_of(self.classifier, self.classifier.prepare(probe), asked)
        if given is not None and not _holds(given, LOGITS) and LOGITS not in str(asked):
            self.layers = tuple(
                layer for layer in self.layers if layer.name != LOGITS
            )  # nobody asked for them
        self.whiten, self.maps, self.batch = whiten, maps, batch
        self._moments = (
            None if given is None else _moments_of(given, statistics, self.classifier, self.layers)
        )
        self._digest = None if self._moments is None else self._moments.digest(self._names)
        self._starts: Callable[[], Iterator[Tensor]] | None = None
        self._whitening: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.readings = tuple(reading for layer in self.layers for reading in self._readings(layer))

    @property
    def _names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def _readings(self, layer: Layer) -> Iterator[Reading]:
        for kind, largest, what in COMPARISONS:
            label = f"{layer.name}, {kind.replace('_', ' ').replace('l2', 'L2')}"
            yield Reading(f"{layer.name}.{kind}", "comparison", f"{what} {layer.name}", "", largest, label)
        if self.maps and layer.form != "vector":
            what = f"squared distance at the positions of {layer.name}, whitened"
            yield Reading(f"{layer.name}.change", "map", what, "", 0.0, f"{layer.name}, change")

    def settings(self) -> dict[str, Any]:
        """The classifier, the layers, how they are whitened, and with what statistics."""
        statistics = "none" if self.whiten == "none" else self._digest or "of the starting images"
        return {
            "classifier": self.classifier.settings(),
            "layers": self._names,
            "whiten": self.whiten,
            "maps": self.maps,
            "statistics": statistics,
        }

    def study(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Remember where the starting images are; their statistics are collected when something is compared."""
        if self._digest is None:
            self._starts, self._moments = batches, None
            self._whitening.clear()

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """Nothing: a layer is only compared."""
        return {}

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        return self.compare_with([a], b)[0]

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        """Comparisons with several batches; each image goes through the network once.

        Starts that are equal, as where a stranger of one image is the start of another, go through once per call
        of the network; at most ``batch`` different images do together, or those that one image is compared with.

        Raises
        ------
        TurningpointError
            If nothing is known to whiten by: no statistics are given and `study` was not called.
        """
        images = pictures(images, self.name)
        starts = [pictures(start, self.name) for start in starts]
        self._prepare_whitening()
        found: list[dict[str, list[np.ndarray]]] = [
            {r.name: [] for r in self.readings if k == 0 or r.kind == "comparison"}
            for k in range(len(starts))
        ]
        for together, places in _calls(starts, images, max(self.batch, 1 + len(starts))):
            prepared = self.classifier.prepare(torch.stack(together))
            compared = look_at(self.classifier, prepared, self._names, _Comparing(self, places))
            for parts in compared.values():
                for k, part in enumerate(parts):
                    for name, values in part.items():
                        found[k][name].append(values)
        return [{name: np.concatenate(parts) for name, parts in one.items()} for one in found]

    def _prepare_whitening(self) -> None:
        if self._whitening:
            return
        if self.whiten != "none" and self._moments is None:
            if self._starts is None:
                raise TurningpointError(
                    f"whiten is {self.whiten!r}, but it has no statistics; accepted: statistics=, a call of study(), "
                    "or whiten='none'."
                )
            self._moments = moments_of(self.classifier, self.layers, self._starts(), self.batch)
        known = self._moments or Moments(self.layers)
        self._whitening = {name: known.whitening(name, self.whiten) for name in self._names}


class _Comparing:
    """What is done with a layer's output: whitened, compared, forgotten.

    ``places`` (1 + starts, images) are the rows of the images and of what they are compared with.
    """

    def __init__(self, measure: Layers, places: np.ndarray) -> None:
        self._forms = {layer.name: layer.form for layer in measure.layers}
        self._whitening, self._maps = measure._whitening, measure.maps
        self._places = torch.from_numpy(places)

    def __call__(self, name: str, activations: Tensor) -> list[dict[str, np.ndarray]]:
        form = self._forms[name]
        a = whitened(activations, form, *self._whitening[name])
        norms = _float64(a.flatten(1).square().sum(1))
        images, *starts = self._places.to(a.device)
        back, found = a[images], []
        for k, rows in enumerate(starts):
            start = a[rows]
            apart = (start - back).square()
            dot, l2 = _float64((start * back).flatten(1).sum(1)), _float64(apart.flatten(1).sum(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                scale = np.sqrt(norms[rows.cpu()] * norms[images.cpu()])
                values = {"cosine": dot / scale, "l2": l2, "l2_normalised": l2 / scale}
            found.append({f"{name}.{kind}": v.astype(np.float32) for kind, v in values.items()})
            if k == 0 and self._maps and form != "vector":
                found[0][f"{name}.change"] = change(apart, form, self._maps).cpu().numpy()
        return found


def _float64(sums: Tensor) -> np.ndarray:
    """Not before they are on the CPU: not every device has float64."""
    return sums.cpu().numpy().astype(np.float64)


def change(apart: Tensor, form: str, maps: int) -> Tensor:
    """Squared differences summed over channels, and averaged over cells of equal size.

    Parameters
    ----------
    apart : Tensor (B, C, H, W) or (B, T, C)
        Squared differences.  T tokens lie on a square if T is one, and else in a row.
    form : str
        ``map`` or ``tokens``.
    maps : int
        At most this many cells along each side, or its square in a row.

    Returns
    -------
    Tensor (B, P)
        Row by row.  Cells do not overlap, which would make neighbours move together; those at the right
        and lower edges may be smaller.

    Examples
    --------
    >>> change(torch.ones(1, 3, 4, 6), "map", 2)
    tensor([[3., 3., 3., 3.]])
    >>> change(torch.arange(5.0).reshape(1, 5, 1), "tokens", 1)
    tensor([[2.]])
    """
    apart = apart.float()
    if form == "tokens":
        apart, side = apart.sum(2), math.isqrt(apart.shape[1])
        if side * side != apart.shape[1]:
            cell = -(-apart.shape[1] // maps**2)
            return nn.functional.avg_pool1d(apart[:, None], cell, ceil_mode=True).flatten(1)
        apart = apart.unflatten(1, (1, side, side))
    cells = tuple(-(-size // maps) for size in apart.shape[2:])
    pooled = nn.functional.avg_pool2d(
        apart.sum(1, keepdim=True), cells, ceil_mode=True, count_include_pad=False
    )
    return pooled.flatten(1)


def _calls(starts: Sequence[Tensor], images: Tensor, most: int) -> Iterator[tuple[list[Tensor], np.ndarray]]:
    """The different images of each call of the network, and where in it each image and its starts are."""
    rows: dict[bytes, int] = {}
    together: list[Tensor] = []
    places: list[list[int]] = []
    for images_of_one in zip(images, *starts, strict=True):
        keys = [one.numpy().tobytes() for one in images_of_one]
        if places and len(rows | dict.fromkeys(keys)) > most:
            yield together, np.array(places).T
            rows, together, places = {}, [], []
        for key, one in zip(keys, images_of_one, strict=True):
            if key not in rows:
                rows[key] = len(together)
                together.append(one)
        places.append([rows[key] for key in keys])
    if places:
        yield together, np.array(places).T


def _classifier(what: Any, model: Any, trust_program: bool, device: str | None) -> ImageClassifier:
    if what is None:
        own = getattr(model, "classifier", lambda: None)()
        what = "reference" if isinstance(own, nn.Module) else USUAL
    return image_classifier(what, model, trust_program=trust_program, device=device)


def _statistics(what: str | Path | LayerStatistics) -> LayerStatistics:
    return what if isinstance(what, LayerStatistics) else LayerStatistics.load(what)


def _holds(statistics: LayerStatistics, name: str) -> bool:
    return any(layer.name == name for layer in statistics.layers)


def _moments_of(
    statistics: LayerStatistics, what: Any, classifier: ImageClassifier, layers: Sequence[Layer]
) -> Moments:
    """The moments of given statistics, if they are of this classifier and hold these layers."""
    said = f"statistics is {str(what)!r}" if isinstance(what, str | Path) else "statistics are given"
    differ = classifiers_differ(classifier.settings(), statistics.classifier)
    if differ:
        raise TurningpointError(f"{said}, where {differ}; accepted: those of the classifier that looks.")
    lacking = [layer.name for layer in layers if layer not in statistics.layers]
    if lacking:
        known = ", ".join(layer.name for layer in statistics.layers)
        raise TurningpointError(
            f"{said}, which holds no {lacking[0]!r} of this form; accepted: layers among {known}."
        )
    if not statistics.moments.images:
        raise TurningpointError(f"{said}, over no images; accepted: those of one or more.")
    return statistics.moments
