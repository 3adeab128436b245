r"""Moments of activations, channel by channel, that merge exactly.

For channel :math:`c` of a layer, over :math:`n` values (all positions of all images),

.. math::

   \mu_c = \tfrac1n \sum a_c, \qquad q_c = \tfrac1n \sum a_c^2, \qquad v_c = q_c - \mu_c^2 .

Within an image both sums are taken in float64, where the square of a float32 is exact; their rounding is
below that of the float32 activations themselves.  Over images they are taken as integers, in units of
:math:`2^{-96}`: addition of integers is associative, so the moments are the same to the last bit however the images are
cut into pieces, and the difference in :math:`v_c` loses nothing, however large :math:`\mu_c^2 / v_c` is.

Three ways to whiten :math:`a`, with :math:`\epsilon = 10^{-8}`:

=================  =========================================  ===================================================
``variance``       :math:`(a - \mu) / \sqrt{v + \epsilon}`    each channel has mean 0 and variance 1
``second-moment``  :math:`(a - \mu) / \sqrt{q + \epsilon}`    as the published scripts do it; for (B, C) layers
                                                              with one mean and one q for all numbers
``none``           :math:`a`
=================  =========================================  ===================================================

Source: Sclocchi, Favero & Wyart 2025, PNAS 122(1) (arXiv:2402.16991), which whitens ConvNeXt's activations; the
scripts published with it call q the variance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from ._activations import Layer, look_at
from ._classifiers import ImageClassifier

WHITEN = ("variance", "second-moment", "none")
EPSILON = 1e-8
PLACES = 2.0 ** np.arange(64, -97, -32)
"""What the digits of an exact sum count, the largest first."""
_UNIT = 96
"""Sums are integers in units of 2^-96."""
_LARGEST = 2.0**95
_AXES = {"map": (2, 3), "tokens": (1,), "vector": ()}


def digits(values: np.ndarray) -> np.ndarray:
    """Numbers as digits that count `PLACES`: (..., d) float64 to (..., 6, d) int64.

    Whatever of a number is below 2^-96 is rounded off.

    Examples
    --------
    >>> digits(np.array([3.0, 2.0**40 - 0.25])).T.tolist()
    [[0, 0, 3, 0, 0, 0], [0, 255, 4294967295, 3221225472, 0, 0]]
    """
    rest = np.array(values, dtype=np.float64)
    found = np.empty((*rest.shape[:-1], len(PLACES), rest.shape[-1]), np.int64)
    for k, place in enumerate(PLACES):
        digit = np.rint(rest / place) if k == len(PLACES) - 1 else np.trunc(rest / place)
        found[..., k, :] = digit
        rest -= digit * place
    return found


def integers(total: np.ndarray) -> list[int]:
    """Sums of digits (6, d) as integers in units of 2^-96."""
    return [sum(int(v) << (32 * k) for k, v in enumerate(reversed(column))) for column in total.T]


def row_sums(layer: Layer, activations: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sums of a layer's values and of their squares for every image of a batch, each (B, channels) in float64.

    Parameters
    ----------
    layer : Layer
        How the tensor is laid out.
    activations : Tensor (B, C, H, W), (B, T, C) or (B, C)
        Its output.
    """
    a = activations.cpu() if activations.device.type == "mps" else activations
    a, axes = a.double(), _AXES[layer.form]
    sums, squares = (x.sum(axes) if axes else x for x in (a, a.square()))
    return sums.cpu().numpy(), squares.cpu().numpy()


class Moments:
    """Means and variances of the channels of some layers, over the images that were added.

    Parameters
    ----------
    layers : sequence of Layer
        In the order of execution.

    Attributes
    ----------
    images : int
        How many were added.
    counts : array (layers,) of int64
        Over how many values a channel of each layer is averaged.
    sums : array (2, 6, channels of all layers) of int64
        Digits of the exact sums of values and of squares.

    Examples
    --------
    >>> layer = Layer("fc", "vector", 2)
    >>> moments = Moments([layer])
    >>> moments.add({"fc": torch.tensor([[1.0, 5.0], [3.0, 5.0]])})
    >>> moments.mean("fc"), moments.variance("fc"), moments.second_moment("fc")
    (array([2., 5.]), array([1., 0.]), array([ 5., 25.]))
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.images = 0
        self.counts = np.zeros(len(self.layers), np.int64)
        ends = np.cumsum([0, *(layer.channels for layer in self.layers)])
        self.sums = np.zeros((2, len(PLACES), int(ends[-1])), np.int64)
        self.places = {
            layer.name: slice(int(a), int(b))
            for layer, a, b in zip(self.layers, ends[:-1], ends[1:], strict=True)
        }

    def add(self, activations: Mapping[str, Tensor]) -> None:
        """Add the images of a batch: of every layer its output."""
        rows = {layer.name: row_sums(layer, activations[layer.name]) for layer in self.layers}
        values = {layer.name: activations[layer.name][0].numel() // layer.channels for layer in self.layers}
        self.add_rows(rows, values, range(len(next(iter(rows.values()))[0])))

    def add_rows(
        self,
        rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
        values: Mapping[str, int],
        which: Sequence[int],
    ) -> None:
        """Add some images of a batch.

        Parameters
        ----------
        rows : mapping
            `row_sums` of every layer.
        values : mapping
            How many values each image has there in a channel.
        which : sequence of int
            The rows that count.

        Raises
        ------
        TurningpointError
            If a sum is not finite, or beyond 2^95; nothing is added then.
        """
        which = list(which)
        new = np.concatenate([np.stack(rows[layer.name])[:, which] for layer in self.layers], axis=2)
        if not (np.abs(new) < _LARGEST).all():  # NaN is not
            at = int(np.flatnonzero(~(np.abs(new) < _LARGEST).all((0, 1)))[0])
            name = next(name for name, place in self.places.items() if place.start <= at < place.stop)
            raise TurningpointError(
                f"the layer {name!r} answers an image with numbers that are not finite, or whose squares add to more "
                "than 2^95; accepted: finite activations."
            )
        self.sums += digits(new).sum(1)
        self.counts += len(which) * np.array([values[layer.name] for layer in self.layers])
        self.images += len(which)

    def merge(self, other: Moments) -> None:
        """Add the images of another's, of the same layers."""
        self.sums += other.sums
        self.counts += other.counts
        self.images += other.images

    def mean(self, layer: str) -> np.ndarray:
        """The mean of each channel, (channels,) float64, correctly rounded; NaN over no images."""
        return self._averages(layer, 0)

    def second_moment(self, layer: str) -> np.ndarray:
        """The mean square of each channel, (channels,) float64, correctly rounded; NaN over no images."""
        return self._averages(layer, 1)

    def variance(self, layer: str) -> np.ndarray:
        """The variance of each channel over n (not n - 1), (channels,) float64, never below 0; NaN over no images."""
        n = self._count(layer)
        pairs = zip(*self._integers(layer), strict=True)
        parts = [max(0, ((n * q) << _UNIT) - s * s) for s, q in pairs]
        return np.array([part / ((n * n) << (2 * _UNIT)) if n else np.nan for part in parts])

    def _averages(self, layer: str, moment: int) -> np.ndarray:
        n = self._count(layer) << _UNIT
        return np.array([total / n if n else np.nan for total in self._integers(layer)[moment]])

    def whitening(self, layer: str, whiten: str) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from each channel, and by what it is divided then: (channels,) or (1,) float64.

        Raises
        ------
        TurningpointError
            If ``whiten`` is not one of the three ways.
        """
        form = next(one.form for one in self.layers if one.name == layer)
        if whiten not in WHITEN:
            raise one_of("whiten", whiten, WHITEN)
        if whiten == "none":
            return np.zeros(1), np.ones(1)
        mean = self.mean(layer)
        if whiten == "variance":
            return mean, np.sqrt(self.variance(layer) + EPSILON)
        second = self.second_moment(layer)
        if form == "vector":
            mean, second = mean.mean(keepdims=True), second.mean(keepdims=True)
        return mean, np.sqrt(second + EPSILON)

    def digest(self, layers: Sequence[str]) -> str:
        """A hash of the sums of some layers, 16 hexadecimal digits: other statistics whiten otherwise."""
        found = hashlib.sha256()
        for name in layers:
            found.update(f"{name} {self._count(name)} {self._integers(name)}".encode())
        return found.hexdigest()[:16]

    def _count(self, layer: str) -> int:
        return int(self.counts[list(self.places).index(layer)])

    def _integers(self, layer: str) -> list[list[int]]:
        return [integers(total) for total in self.sums[:, :, self.places[layer]]]


def moments_of(
    classifier: ImageClassifier, layers: Sequence[Layer], batches: Iterator[Tensor], batch: int
) -> Moments:
    """The moments of layers over images that come in batches of any size.

    Parameters
    ----------
    classifier : ImageClassifier
        Whose layers they are.
    layers : sequence of Layer
        As `layers_of` found them.
    batches : iterator of Tensor (b, C, H, W)
        The images.
    batch : int
        Images of a call of the network.  The last ones are filled up with zeros that do not count: in calls of one
        shape an image gives the same answer in any company.
    """
    moments = Moments(layers)
    by_name = {layer.name: layer for layer in layers}
    for images in batches:
        for part in images.split(batch):
            prepared = classifier.prepare(part)
            unused = prepared.new_zeros(batch - len(part), *prepared.shape[1:])
            rows, values = sums_of(classifier, by_name, torch.cat([prepared, unused]))
            moments.add_rows(rows, values, range(len(part)))
    return moments


def sums_of(
    classifier: ImageClassifier, layers: dict[str, Layer], prepared: Tensor
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, int]]:
    """`row_sums` of every layer for a prepared batch, and over how many values of a channel each sum goes."""

    def look(name: str, a: Tensor) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        return row_sums(layers[name], a), a[0].numel() // layers[name].channels

    seen = look_at(classifier, prepared, list(layers), look)
    return {name: sums for name, (sums, _) in seen.items()}, {name: n for name, (_, n) in seen.items()}


def whitened(activations: Tensor, form: str, shift: np.ndarray, scale: np.ndarray) -> Tensor:
    """A layer's output, whitened, in float32: a new tensor of its shape.

    Parameters
    ----------
    activations : Tensor (B, C, H, W), (B, T, C) or (B, C)
        The layer's output.
    form : str
        Of the layer.
    shift, scale : array (C,) or (1,)
        As `Moments.whitening` gives them.

    Examples
    --------
    >>> whitened(torch.tensor([[1.0, 5.0]]), "vector", np.array([2.0, 1.0]), np.array([1.0, 4.0]))
    tensor([[-1.,  1.]])
    """
    shape = (1, -1, 1, 1) if form == "map" else (-1,)
    a = activations.float()
    mean, root = (torch.from_numpy(v.astype(np.float32)).to(a.device).reshape(shape) for v in (shift, scale))
    return (a - mean) / root
