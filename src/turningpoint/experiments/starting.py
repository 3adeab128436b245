"""Starting images: from arrays, data sets of pictures, another run, or the model itself; a block at a time.

A latent model works on what its autoencoder makes of a picture, and what it gives back has gone through the decoder.
So that the autoencoder's losses are not taken for changes of mind, the reference of a picture is what a U-turn
through no noise would give, its plain round trip; the picture itself is kept as the ``original``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import ImageSet, PictureError, open_images, select
from ..data.arrays import Arrays
from ..data.labels import labelled
from ..data.pictures import read_arrays
from ..data.select import chosen
from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError
from ..simulation.batches import in_batches
from ..simulation.collect import Progress
from ..simulation.store import Store
from .planning import CHUNK, digest


@dataclass(frozen=True)
class Block:
    """Some starting images; what is None is made of the others by `completed`.

    Attributes
    ----------
    start : array (n, *decoded_shape) or None
        What U-turns are compared with.
    latents : array (n, *shape) or None
        What the sampler works on, of a latent model.
    original : array (n, *decoded_shape) or None
        The picture before it went through the autoencoder.
    """

    start: np.ndarray | None = None
    latents: np.ndarray | None = None
    original: np.ndarray | None = None


class Starting(ABC):
    """Starting images that are read block by block.

    Attributes
    ----------
    digests : list of str
        A hash for each image, by which a run knows its own.
    labels : array (N,) or None
        A class for each image.
    names : list of str
        What their files are called; empty if they have none.
    classes : tuple of str
        What labels 0, 1, ... are called; empty if unknown.
    skipped : list of str
        For every picture that was left out, a sentence that says why.
    """

    digests: list[str]
    labels: np.ndarray | None = None
    names: Sequence[str] = ()
    classes: Sequence[str] = ()
    skipped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.digests)

    @abstractmethod
    def block(self, first: int, stop: int) -> Block:
        """The images from ``first`` to before ``stop``."""


class _Arrays(Starting):
    """Images, or latents, in memory."""

    def __init__(self, array: np.ndarray, labels: np.ndarray | None, model: Denoiser) -> None:
        self._array, self.labels = array, labels
        self._is = "latents" if array.shape[1:] != model.decoded_shape else "start"
        if self._is == "start" and model.shape != model.decoded_shape:
            self._is = "original"
        self.digests = [digest(x) for x in array]

    def block(self, first: int, stop: int) -> Block:
        return Block(**{self._is: self._array[first:stop]})


class _Pictures(Starting):
    """A data set's pictures, each read when it is needed."""

    def __init__(
        self,
        images: ImageSet,
        model: Denoiser,
        items: int | None,
        skip_bad: bool,
        fit: str,
        progress: Progress | None,
        per_class: int | None = None,
    ) -> None:
        self._images, self._fit, self._shape = images, fit, model.decoded_shape
        self._is = "start" if model.shape == model.decoded_shape else "original"
        self._places: list[int] = []
        self.digests, skipped = [], []
        total, counts = len(images) if items is None else min(items, len(images)), Counter[int]()
        for place in range(len(images)):
            if len(self._places) == total:
                break
            label = -1 if images.labels is None else int(images.labels[place])
            if per_class is not None and counts[label] == per_class:
                continue
            try:
                pixels = self._read(place)
            except PictureError as error:
                if not skip_bad:
                    sentence = str(error).removesuffix(".")
                    raise TurningpointError(f"{sentence}; leave such files out with --skip-bad.") from None
                warnings.warn(f"left out: {error}", stacklevel=2)
                skipped.append(str(error))
                continue
            self._places.append(place)
            counts[label] += 1
            self.digests.append(digest(pixels))
            if progress is not None:
                progress(len(self.digests), total, len(self.digests))
        if not self._places:
            raise TurningpointError(f"images is {images.where!r}, which holds no picture that can be used.")
        short = {label: count for label, count in counts.items() if count < (per_class or 0)}
        if short and total == len(images):
            label, count = next(iter(short.items()))
            called = images.classes[label] if label < len(images.classes) else label
            raise TurningpointError(
                f"per_class is {per_class}, but only {count} pictures of the class {called!r} can be used; accepted: "
                f"at most {min(short.values())}."
            )
        self.skipped = skipped
        self.names = [images.names[place] for place in self._places]
        if images.labels is not None:
            self.labels = np.asarray(images.labels)[self._places].astype(np.int64)
        self.classes = images.classes

    def _read(self, place: int) -> np.ndarray:
        return as_floats(self._images.pixels(place, self._shape, self._fit))

    def block(self, first: int, stop: int) -> Block:
        return Block(**{self._is: np.stack([self._read(place) for place in self._places[first:stop]])})


class OfRun(Starting):
    """The images of another run: the starting ones, or those that it generated.

    Parameters
    ----------
    store : Store
        Of a run.
    items : int, optional
        Take the first ones only.
    pictures_as : str, optional
        Take its pictures only, as ``start`` or as the ``original`` of what they are to be.
    """

    def __init__(self, store: Store, items: int | None = None, pictures_as: str | None = None) -> None:
        self._store = store
        pairs = (
            {"start": "start", "latents": "start_latents", "original": "original"}
            if store.has("start")
            else {"start": "images", "latents": "latents"}
        )
        self._arrays = {what: name for what, name in pairs.items() if store.has(name)}
        axes = store.manifest["axes"]
        n = axes["items"] if items is None else min(items, axes["items"])
        known = list(axes.get("image_digests", []))[:n]
        if pictures_as is not None:
            self._arrays, known = {pictures_as: pairs["start"]}, []
        self.digests = known or self._digests(n)
        self.labels = store.read("label")[:n] if "image_digests" in axes and store.has("label") else None
        self.names, self.classes = list(axes.get("names", []))[:n], tuple(axes.get("classes", ()))

    def _digests(self, n: int) -> list[str]:
        found: list[str] = []
        for first in range(0, n, CHUNK):
            block = self.block(first, min(first + CHUNK, n))
            known = block.latents if block.latents is not None else block.start
            known = known if known is not None else block.original
            assert known is not None
            found += [digest(x) for x in known]
        return found

    def block(self, first: int, stop: int) -> Block:
        rows = (slice(first, stop),)
        return Block(**{what: self._store.read(name, rows) for what, name in self._arrays.items()})


def of_run(store: Store, model: Denoiser, fingerprint: str, items: int | None = None) -> OfRun:
    """The images of a run: as they are for its own model, and as pictures for another one.

    Raises
    ------
    TurningpointError
        If they have another shape than the model's.
    """
    known = store.manifest["settings"]["model"]
    if known["fingerprint"] == fingerprint:
        return OfRun(store, items)
    shape = store.array("start" if store.has("start") else "images").shape[1:]
    if shape != model.decoded_shape:
        raise TurningpointError(
            f"images is a run of {known['name']!r}, whose images have shape {shape}; accepted by {model.name!r}: "
            f"{model.decoded_shape}."
        )
    return OfRun(store, items, "start" if model.shape == model.decoded_shape else "original")


def starting_images(
    images: Any,
    model: Denoiser,
    items: int | None = None,
    skip_bad: bool = False,
    *,
    classes: Any = None,
    per_class: int | None = None,
    fit: str = "crop",
    split: str | None = None,
    progress: Progress | None = None,
) -> Starting:
    """Starting images of a model.

    Parameters
    ----------
    images : array, Tensor, path, ImageSet or None
        (N, C, H, W), or (N, d) for vectors: floats in [-1, 1] or uint8 in 0..255; for a latent model also latents
        (N, *shape); an ``.npz`` with ``images`` (and ``labels``), an ``.npy``; what `turningpoint.data.open_images`
        opens: folders, zips, parquet; None for the model's own.
    model : Denoiser
        Whose shape they must have.
    items : int, optional
        Take the first ones only.
    skip_bad : bool
        Leave out pictures that cannot be used, with a warning for each, instead of refusing.
    classes, per_class
        Take these classes, and so many of each, of a set with labels: see `turningpoint.data.select`.
    fit : str
        How a picture of another size is made to fit: ``crop``, ``square`` or ``stretch``, or ``exact`` to refuse it;
        see `turningpoint.data.fit`.
    split : str, optional
        Of a data set that has several.
    progress : callable, optional
        Told how many pictures have been read.

    Raises
    ------
    TurningpointError
        If there are none, or one cannot be read or has another shape.
    """
    if isinstance(images, str | Path) and Path(images).suffix not in (".npy", ".npz"):
        images = open_images(images, "images", split)
    if isinstance(images, ImageSet):
        if len(model.decoded_shape) != 3:
            raise TurningpointError(
                f"images is a set of pictures; the model {model.name!r} takes {model.decoded_shape}."
            )
        some = select(images, classes=classes, per_class=per_class)
        if (
            per_class is not None and skip_bad
        ):  # where one cannot be read, the next of its class takes its place
            there = classes if classes is not None else np.unique(np.asarray(some.labels)).tolist()
            some = select(images, classes=there)
        return _Pictures(some, model, items, skip_bad, fit, progress, per_class)
    array, labels = _in_memory(images, model, split)
    if _needs_fit(array, model):
        where = str(images) if isinstance(images, str | Path) else "an array"
        return starting_images(
            Arrays(array, labels, where), model, items, skip_bad, classes=classes, per_class=per_class, fit=fit,
            progress=progress,
        )  # fmt: skip
    array = checked(array, model)
    known, called = _labels(labels, len(array))
    if classes is not None or per_class is not None:
        places = chosen(known, called, classes, per_class)
        array, known = array[places], None if known is None else known[places]
    starting = _Arrays(array[:items], None if known is None else known[:items], model)
    starting.classes = called
    return starting


def _in_memory(images: Any, model: Denoiser, split: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays and labels of what is not a set of pictures."""
    if images is None:
        own = model.starting_images()
        if own is None:
            raise TurningpointError(
                f"images is not given, and the model {model.name!r} ships none; accepted: a folder, an .npz, "
                "an array, or generate=N."
            )
        return own[0].numpy(), None if own[1] is None else own[1].numpy()
    if isinstance(images, str | Path):
        return read_arrays(Path(images).expanduser(), "images", split=split)
    if isinstance(images, Tensor):
        cpu = images.detach().cpu()
        return (cpu.float() if cpu.dtype == torch.bfloat16 else cpu).numpy(), None
    if hasattr(images, "values"):
        return np.asarray(images.values), None
    try:
        return np.asarray(images), None
    except ValueError:
        raise TurningpointError("images is a ragged list; accepted: an array (N, C, H, W).") from None


def _needs_fit(array: np.ndarray, model: Denoiser) -> bool:
    """Whether an array holds pictures in 8 bits of another size than the model's."""
    shape = model.decoded_shape
    if array.dtype != np.uint8 or len(shape) != 3 or array.ndim not in (3, 4):
        return False
    return array.shape[-2:] != shape[1:] and array.shape[1:] != model.shape and array.size > 0


def _labels(labels: Any, n: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels (n,) of an array that came with images, and the names of classes if they were given by name."""
    if labels is None:
        return None, ()
    values = np.asarray(labels).tolist() if np.shape(labels) == (n,) else [None]
    if not all(isinstance(value, int) for value in values) and not all(
        isinstance(value, str) for value in values
    ):
        raise TurningpointError(
            f"labels have shape {np.shape(labels)} and type {np.asarray(labels).dtype}; accepted: ({n},), a whole "
            "number or a name per image."
        )
    return labelled(values)


def as_floats(pixels: np.ndarray) -> np.ndarray:
    """Pixels in 0..255 as float32 in [-1, 1]; floats as they are."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return pixels.astype(np.float32, copy=False)


def checked(array: np.ndarray, model: Denoiser) -> np.ndarray:
    """Images as float32 (N, *shape) in [-1, 1], or one sentence about what is wrong with them."""
    if array.dtype == np.uint8:
        array = as_floats(array)
    shape = model.decoded_shape
    if array.ndim == len(shape) and shape[:1] == (1,) and array.shape[1:] == shape[1:]:
        array = array[:, None]  # (N, H, W) for a model of one channel
    latents = array.shape[1:] == model.shape != shape
    if array.shape[1:] != shape and not latents:
        or_latents = "" if model.shape == shape else f", or latents (N, {', '.join(map(str, model.shape))})"
        raise TurningpointError(
            f"images have shape {array.shape}; accepted by the model {model.name!r}: (N, "
            f"{', '.join(map(str, shape))}){or_latents}."
        )
    if len(array) == 0:
        raise TurningpointError("images holds no image; accepted: one or more.")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise TurningpointError(
            "images holds numbers that are not finite; accepted: floats in [-1, 1], or uint8."
        )
    if len(shape) == 3 and not latents and np.abs(array).max() > 4:
        raise TurningpointError(
            f"images range up to {np.abs(array).max():.4g}; accepted: floats in [-1, 1], or uint8 in 0..255."
        )
    return array.astype(np.float32)


def completed(block: Block, model: Denoiser, batch: int) -> Block:
    """A block with its reference images and, for a latent model, its latents."""
    if model.shape == model.decoded_shape:
        return block
    latents, start = block.latents, block.start
    if latents is None:
        assert block.original is not None
        latents = coded(model.encode, block.original, model, batch)
    if start is None:
        start = coded(model.decode, latents, model, batch)
    return Block(start, latents, block.original)


def coded(function: Callable[[Tensor], Tensor], items: np.ndarray, model: Denoiser, batch: int) -> np.ndarray:
    """``model.encode`` or ``model.decode`` of items, where the model is."""
    parameter = next(iter(model.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    return in_batches(function, items, device, batch)
