r"""Statistics of a classifier's layers over a data set: collected once, in parts if need be, merged exactly.

Mean and variance of every channel, by which ``layers`` whitens, are sums over images (`measures._moments`).  A part of
a data set is a range of its N images in their order: part k of n holds those from
:math:`\lfloor N (k - 1) / n \rfloor` to before :math:`\lfloor N k / n \rfloor`.  Batches begin at multiples of
their size in the whole data set, and what is not in the part, or cannot be read, is a row of zeros that does not
count: so an image has the same place in a batch of the same shape in whatever part it lies, and what is merged
does not depend on the parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..data import ImageSet, PictureError, open_images, select
from ..errors import TurningpointError
from ..measures._activations import Layer, layers_of
from ..measures._classifiers import ImageClassifier, image_classifier
from ..measures._layer_statistics import LayerStatistics, begun, joined
from ..measures._moments import Moments, sums_of
from ..models import load
from ..simulation.collect import Progress
from ..simulation.progress import shown
from ..simulation.store import sentences
from .starting import as_floats

LOOKED_AT = 64
"""Pictures, evenly spread, by whose pixels a data set is known; all of a smaller one."""
CHECKPOINT = 16
"""After so many batches what has been collected is written down."""


def collect_statistics(
    classifier: Any,
    images: Any,
    out: str | Path,
    *,
    layers: str | Sequence[str] | None = None,
    part: str | None = None,
    model: Any = None,
    classes: Any = None,
    per_class: int | None = None,
    items: int | None = None,
    split: str | None = None,
    size: int | None = None,
    fit: str = "crop",
    batch: int = 16,
    skip_bad: bool = False,
    trust_program: bool = False,
    device: str | None = None,
    progress: Progress | str | None = "auto",
) -> LayerStatistics:
    """Collect the mean and the variance of every channel of a classifier's layers over a data set.

    Interrupted, even killed, the same call continues; of finished statistics it returns what is there.

    Parameters
    ----------
    classifier : str, ImageClassifier or nn.Module
        As the ``layers`` measure takes it: ``"efficientnet-lite0"``, ``"torchvision:convnext_base"``, ``"reference"``.
    images : path, array or ImageSet
        A folder, a zip, a parquet file, an ``.npz``: all that `turningpoint.data.open_images` opens; None for the
        model's own images.
    out : path
        The Zarr group to make, ``stats.zarr``.
    layers : str or sequence of str, optional
        Names or patterns; by default the classifier's blocks.
    part : str, optional
        ``"2/5"``: only the second of five parts, to be merged by `merge_statistics`.
    model : str or Denoiser, optional
        The model whose own classifier ``"reference"`` is.
    classes, per_class, items, split
        Which images of the data set, as `turningpoint.data.select` takes them.
    size : int, optional
        Bring pictures to this height and width first; by default each goes through the classifier's own preprocessing
        as it is.
    fit : str
        How pictures are brought to ``size``: ``crop``, ``stretch``, ...
    batch : int
        Images of a call of the network.
    skip_bad : bool
        Leave out pictures that cannot be read, with a warning for each.
    trust_program : bool
        Whether a classifier's file that is a program may be run.
    device : str, optional
        Where the classifier runs.
    progress : callable, "auto" or None
        By default a bar, if there is a terminal; ``progress(done, total, read)`` counts images.

    Returns
    -------
    LayerStatistics

    Raises
    ------
    TurningpointError
        If there is no such classifier, layer or data set, a picture cannot be read, or ``out`` holds other statistics.

    Examples
    --------
    >>> import tempfile
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts = [collect_statistics(net, images, f"{folder}/{k}.zarr", part=f"{k}/2") for k in (1, 2)]
    ...     merged = merge_statistics(parts, f"{folder}/stats.zarr")
    >>> merged.moments.images, [layer.name for layer in merged.layers]
    (6, ['0', '2'])
    """
    if not isinstance(batch, int) or batch < 1:
        raise TurningpointError(f"batch is {batch!r}; accepted: a positive integer.")
    loaded = None if model is None else load(model)
    if images is None and loaded is not None:
        images = _own_images(loaded)
    looker = image_classifier(classifier, loaded, trust_program=trust_program, device=device)
    chosen = select(open_images(images, "images", split), classes, per_class, items)
    first, last = part_of(len(chosen), part)
    shape = _shape(size, looker, loaded)
    work = _Pictures(chosen, looker, shape, fit, skip_bad)
    found = layers_of(looker, work.first(first, last)[None], layers)
    fresh = LayerStatistics(Moments(found), looker.settings(), work.identity())
    where = Path(out).expanduser()
    if where.exists():
        known = LayerStatistics.load(where, "out")
        _check_same(where, fresh, known, known.covered == [(first, last)])
        shutil.rmtree(begun(where), ignore_errors=True)
        return known
    with _working(where) as folder:
        statistics = _continued(folder, where, fresh, (first, last))
        with shown(progress, f"statistics by {looker.name}", "images", "images/s") as bar:
            _collect(statistics, work, (first, last), batch, folder, bar)
        statistics.save(where)
    shutil.rmtree(begun(where), ignore_errors=True)
    return statistics


def merge_statistics(parts: Sequence[str | Path | LayerStatistics], out: str | Path) -> LayerStatistics:
    """Statistics of all images of several parts; the same to the last bit however the data set was cut.

    Parameters
    ----------
    parts : sequence of path or LayerStatistics
        At least one; of one classifier, its same layers, and one data set, without common images.
    out : path
        The Zarr group to make.

    Returns
    -------
    LayerStatistics

    Raises
    ------
    TurningpointError
        If they do not belong together, overlap or are not finished, or if something stands at ``out``.
    """
    if isinstance(parts, str | Path | LayerStatistics) or not parts:
        raise TurningpointError(f"parts is {parts!r}; accepted: a list of one or more statistics.")
    if Path(out).expanduser().exists():
        raise TurningpointError(f"out is {str(out)!r}, which is there already; accepted: a new place.")
    read = [one if isinstance(one, LayerStatistics) else LayerStatistics.load(one, "parts") for one in parts]
    merged = LayerStatistics(Moments(read[0].layers), read[0].classifier, read[0].images)
    for one in read:
        merged.merge(one)
    merged.save(Path(out).expanduser())
    return merged


def part_of(count: int, part: str | None) -> tuple[int, int]:
    """The range of images of ``"k/n"``, or of all for None.

    Raises
    ------
    TurningpointError
        If it is no part, or holds no image.

    Examples
    --------
    >>> part_of(7, "1/2"), part_of(7, "2/2"), part_of(7, None)
    ((0, 3), (3, 7), (0, 7))
    """
    k, slash, n = str(part if part is not None else "1/1").partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise TurningpointError(f"part is {part!r}; accepted: k/n with k from 1 to n, such as 2/5.")
    first, last = count * (int(k) - 1) // int(n), count * int(k) // int(n)
    if first == last:
        raise TurningpointError(
            f"part is {part!r} of {count} images, in which none is; accepted: at most {count} parts."
        )
    return first, last


class _Pictures:
    """The pictures of a data set as the network takes them, one by one."""

    def __init__(
        self,
        images: ImageSet,
        classifier: ImageClassifier,
        shape: Sequence[int] | None,
        fit: str,
        skip_bad: bool,
    ) -> None:
        self.images, self.classifier, self.skip_bad = images, classifier, skip_bad
        self._shape, self._fit = shape, fit
        self._size: tuple[int, ...] | None = None

    def identity(self) -> dict[str, Any]:
        """What tells this data set from others: its names, and the pixels of `LOOKED_AT` of its pictures."""
        n = len(self.images)
        found = hashlib.sha256("\n".join(map(str, self.images.names)).encode())
        for i in sorted({k * (n - 1) // (LOOKED_AT - 1) for k in range(LOOKED_AT)}):
            try:
                found.update(np.ascontiguousarray(self.images.pixels(i)).tobytes())
            except PictureError:
                found.update(b"unreadable")
        return {
            "where": str(self.images.where),
            "count": n,
            "digest": found.hexdigest()[:16],
            "shape": None if self._shape is None else list(self._shape),
            "fit": None if self._shape is None else self._fit,
        }

    def first(self, first: int, last: int) -> Tensor:
        """The first picture of a range that can be read, prepared."""
        for i in range(first, last):
            found = self.prepared(i, quiet=True)
            if found is not None:
                return found
        raise TurningpointError(
            f"images is {str(self.images.where)!r}, in which no picture of {last - first} can be read; accepted: "
            "one or more."
        )

    def prepared(self, i: int, quiet: bool = False) -> Tensor | None:
        """A picture as the network takes it; None if it cannot be read and may be left out.

        Raises
        ------
        TurningpointError
            If it cannot be read, or would not fit into a batch with the first one.
        """
        try:
            pixels = self.images.pixels(i, self._shape, self._fit)
        except PictureError as error:
            said = str(error).removesuffix(".")
            if not self.skip_bad:
                raise TurningpointError(f"{said}; leave such pictures out with --skip-bad.") from error
            if not quiet:
                warnings.warn(f"left out: {said}.", stacklevel=2)
            return None
        found = self.classifier.prepare(torch.from_numpy(as_floats(pixels))[None])[0]
        if self._size is None:
            self._size = tuple(found.shape)
        if tuple(found.shape) != self._size:
            raise TurningpointError(
                f"the picture {str(self.images.names[i])!r} has shape {tuple(found.shape)} for the classifier, another "
                f"one {self._size}; accepted: pictures of one size, or size=N (--size N)."
            )
        return found


def _own_images(model: Any) -> np.ndarray:
    own = model.starting_images()
    if own is None:
        raise TurningpointError(
            f"images is not given, and the model {model.name!r} ships none; accepted: a folder, a zip, an .npz."
        )
    found: np.ndarray = own[0].numpy()
    return found


def _shape(size: int | None, classifier: ImageClassifier, model: Any) -> tuple[int, ...] | None:
    """To what pictures are brought; None if each goes through the classifier's own preprocessing as it is."""
    reference = model is not None and classifier.name == "reference"
    if size is None:
        return tuple(model.decoded_shape) if reference else None
    if not isinstance(size, int) or size < 1:
        raise TurningpointError(f"size is {size!r}; accepted: a positive number of pixels.")
    return model.decoded_shape[0] if reference else 3, size, size


def _collect(
    statistics: LayerStatistics,
    work: _Pictures,
    part: tuple[int, int],
    batch: int,
    folder: Path,
    progress: Progress | None,
) -> None:
    """Add the pictures of a part that are not covered yet, writing down every so often what there is."""
    first, last = part
    layers = {layer.name: layer for layer in statistics.layers}
    before = done = sum(b - a for a, b in statistics.covered)
    settled = True
    try:
        for number, start in enumerate(range(first - first % batch, last, batch)):
            inside = range(max(start, first), min(start + batch, last))
            todo = [i for i in inside if not any(a <= i < b for a, b in statistics.covered)]
            if not todo:
                continue
            pictures = {i: work.prepared(i) for i in todo}
            there = {i: picture for i, picture in pictures.items() if picture is not None}
            rows, values = _look(work.classifier, layers, there, start, batch) if there else ({}, {})
            settled = False
            if there:
                statistics.moments.add_rows(rows, values, [i - start for i in there])
            statistics.skipped += [str(work.images.names[i]) for i in todo if i not in there]
            statistics.covered = joined([*statistics.covered, *((i, i + 1) for i in todo)])
            settled = True
            done += len(todo)
            if number % CHECKPOINT == CHECKPOINT - 1:
                _write(folder, statistics)
            if progress is not None:
                progress(done, last - first, done - before)
    except BaseException:
        if settled and done > before:
            _write(folder, statistics)
        raise
    if not statistics.moments.images:
        raise TurningpointError("images holds no picture that can be read; accepted: one or more.")


def _look(
    classifier: ImageClassifier, layers: dict[str, Layer], pictures: dict[int, Tensor], start: int, batch: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, int]]:
    """The sums of every layer for a batch in which each picture has its place in the data set."""
    prepared = torch.zeros(batch, *next(iter(pictures.values())).shape)
    for i, picture in pictures.items():
        prepared[i - start] = picture
    return sums_of(classifier, layers, prepared)


# ---- what is written down on the way


@contextlib.contextmanager
def _working(where: Path) -> Iterator[Path]:
    """The folder in which unfinished statistics are kept, for this process alone."""
    folder = begun(where)
    with sentences(where):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise TurningpointError(f"out is {str(where)!r}, which another process is making.") from None
    try:
        yield folder
    finally:
        lock.release()


def _write(folder: Path, statistics: LayerStatistics) -> None:
    """Replace what is written down, in one step."""
    partial = folder / f"state.{os.getpid()}"
    with sentences(folder), partial.open("wb") as stream:
        attributes = np.array(json.dumps(statistics.attributes()))
        np.savez(stream, sums=statistics.moments.sums, attributes=attributes)
    partial.replace(folder / "state.npz")


def _continued(folder: Path, where: Path, fresh: LayerStatistics, part: tuple[int, int]) -> LayerStatistics:
    """What was written down of these statistics, or the fresh ones."""
    file = folder / "state.npz"
    if not file.is_file():
        return fresh
    try:
        with np.load(file, allow_pickle=False) as state:
            known = LayerStatistics.restored(json.loads(str(state["attributes"])), state["sums"])
    except Exception as error:  # a damaged file fails in many ways: zip, zlib, header, JSON
        raise TurningpointError(
            f"out is {str(where)!r}, of which {str(folder)!r} keeps a damaged beginning ({type(error).__name__}); "
            "accepted: another out, or without that folder."
        ) from error
    inside = all(part[0] <= a and b <= part[1] for a, b in known.covered)
    _check_same(where, fresh, known, inside)
    return known


def _check_same(where: Path, fresh: LayerStatistics, known: LayerStatistics, same_part: bool) -> None:
    differ = fresh.unlike(known)
    if not differ and not same_part:
        parts = ", ".join(f"{first} to {last - 1}" for first, last in known.covered)
        differ = f"it is another part, with images {parts}"
    if differ:
        raise TurningpointError(
            f"out is {str(where)!r}, where other statistics are: {differ}; accepted: a new place, or the same settings."
        )
