r"""Statistics of a classifier's layers over a data set, as a Zarr group that xarray opens.

``stats.zarr`` holds, for the channels of all layers one after the other,

=================  ===========================  ==========================================================
array              dimensions                   what
=================  ===========================  ==========================================================
``layer``          (channel)                    to which layer a channel belongs, by its number
``mean``           (channel)                    :math:`E[a]`
``variance``       (channel)                    :math:`E[a^2] - E[a]^2`
``second_moment``  (channel)                    :math:`E[a^2]`
``sums``           (moment, digit, channel)     the exact sums of a and of a^2 (`_moments`), from which statistics
                                                of parts are merged
=================  ===========================  ==========================================================

and as attributes whose they are: the classifier's identity, the layers, the images, which of these are covered
(half-open ranges of their numbers) and which of those were left out because they could not be read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.storage import LocalStore

from ..errors import TurningpointError
from ..simulation.store import sentences
from ._activations import Layer
from ._moments import Moments

FORMAT = 1
"""The version of the layout; a newer one is refused with a sentence."""

Ranges = list[tuple[int, int]]


class LayerStatistics:
    """Moments of layers, and whose they are.

    Parameters
    ----------
    moments : Moments
        What was collected.
    classifier : mapping
        `ImageClassifier.settings`.
    images : mapping
        What tells the data set from others: ``count``, ``digest``, and the ``shape`` and ``fit`` to which pictures were
        brought, if they were; and ``where`` it lay, which does not.
    covered : list of (int, int)
        Ranges of the images that were looked at.
    skipped : sequence of str
        Names of those that were left out.
    """

    def __init__(
        self,
        moments: Moments,
        classifier: Mapping[str, Any],
        images: Mapping[str, Any],
        covered: Ranges | None = None,
        skipped: Sequence[str] = (),
    ) -> None:
        self.moments = moments
        self.classifier: dict[str, Any] = json.loads(json.dumps(dict(classifier)))
        self.images: dict[str, Any] = json.loads(json.dumps(dict(images)))
        self.covered = joined(covered or [])
        self.skipped = list(skipped)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of execution."""
        return self.moments.layers

    @property
    def complete(self) -> bool:
        """Whether every image of the data set was looked at."""
        return self.covered == [(0, self.images["count"])]

    def unlike(self, other: LayerStatistics) -> str:
        """What is different about another's classifier, layers or images, in half a sentence; empty if nothing is.

        The classifier's name and the images' place do not count where fingerprints tell them apart.
        """
        found = classifiers_differ(self.classifier, other.classifier)
        if found:
            return found
        if self.layers != other.layers:
            names = [", ".join(layer.name for layer in one.layers) for one in (other, self)]
            return f"the layers are {names[0]}, not {names[1]}"
        for key in ("shape", "fit"):
            if self.images.get(key) != other.images.get(key):
                return f"the images' {key} is {other.images.get(key)}, not {self.images.get(key)}"
        if [self.images[key] for key in ("count", "digest")] != [
            other.images[key] for key in ("count", "digest")
        ]:
            texts = [f"{one.images['count']} of {one.images.get('where')!r}" for one in (other, self)]
            return f"the images are other ones: {texts[0]}, not {texts[1]}"
        return ""

    def merge(self, other: LayerStatistics) -> None:
        """Add another's images, of which this must hold none.

        Raises
        ------
        TurningpointError
            If they are of another classifier, of other layers or images, or overlap.
        """
        differ = self.unlike(other)
        if differ:
            raise TurningpointError(
                f"statistics to be merged do not belong together: {differ}; accepted: parts of one data set, by one "
                "classifier."
            )
        for first, last in other.covered:
            for begin, end in self.covered:
                if first < end and begin < last:
                    raise TurningpointError(
                        f"statistics to be merged overlap: images {max(first, begin)} to {min(last, end) - 1} are in "
                        "two of them; accepted: parts that have no image in common."
                    )
        self.moments.merge(other.moments)
        self.covered = joined([*self.covered, *other.covered])
        self.skipped = sorted({*self.skipped, *other.skipped})

    # ---- on disk

    def attributes(self) -> dict[str, Any]:
        """All but the sums, as JSON writes it."""
        return {
            "turningpoint": "layer statistics",
            "format": FORMAT,
            "classifier": self.classifier,
            "images": self.images,
            "layers": [
                {**vars(layer), "values": int(count)}
                for layer, count in zip(self.layers, self.moments.counts, strict=True)
            ],
            "counted": self.moments.images,
            "covered": [list(part) for part in self.covered],
            "skipped": self.skipped,
            "sums": _digest(self.moments.sums),
        }

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], sums: np.ndarray) -> LayerStatistics:
        """From what `attributes` and ``moments.sums`` were."""
        layers = [Layer(one["name"], one["form"], int(one["channels"])) for one in attributes["layers"]]
        if sums.shape[2:] != (sum(layer.channels for layer in layers),) or sums.dtype != np.int64:
            raise ValueError(f"its sums have shape {sums.shape}, which is not that of its layers")
        if _digest(sums) != attributes["sums"]:
            raise ValueError("its sums are not those that were written")
        counted = [int(one["values"]) for one in attributes["layers"]]
        if min(counted, default=0) < 0 or int(attributes["images"]["count"]) < 1:
            raise ValueError("it counts less than nothing")
        moments = Moments(layers)
        moments.sums += sums
        moments.images = int(attributes["counted"])
        moments.counts += counted
        covered = [(int(first), int(last)) for first, last in attributes["covered"]]
        return cls(moments, attributes["classifier"], attributes["images"], covered, attributes["skipped"])

    def save(self, path: str | Path) -> None:
        """Write a new Zarr group, which is wholly there or not there.

        Raises
        ------
        TurningpointError
            If something stands there, or the folder cannot be written.
        """
        where = Path(path)
        if where.exists():
            raise TurningpointError(f"out is {str(path)!r}, which is there already; accepted: a new place.")
        building = where.with_name(f".{where.name}.building")
        names = [layer.name for layer in self.layers]
        values: dict[str, np.ndarray] = {
            "layer": np.repeat(np.arange(len(names)), [layer.channels for layer in self.layers]),
            **{
                kind: np.concatenate([getattr(self.moments, kind)(name) for name in names])
                for kind in ("mean", "variance", "second_moment")
            },
            "sums": self.moments.sums,
        }
        with sentences(where):
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(building, ignore_errors=True)
            group = zarr.open_group(LocalStore(building), mode="w", zarr_format=3)
            for name, array in values.items():
                stored = group.create_array(
                    name,
                    shape=array.shape,
                    chunks=array.shape,
                    dtype=str(array.dtype),
                    dimension_names=["moment", "digit", "channel"][-array.ndim :],
                )
                stored[...] = array
            group.attrs.update(self.attributes())
            building.rename(where)

    @classmethod
    def load(cls, path: str | Path, argument: str = "statistics") -> LayerStatistics:
        """What `save` wrote.

        Raises
        ------
        TurningpointError
            If nothing of the kind is there, it is damaged or of a newer format, or has only been begun.
        """
        where = Path(path).expanduser()
        said = f"{argument} is {str(path)!r}"
        if not where.exists() and begun(where).is_dir():
            raise TurningpointError(
                f"{said}, which is not finished; accepted: whole statistics: the same turningpoint statistics command "
                "continues it."
            )
        if not (where / "zarr.json").is_file():
            raise TurningpointError(
                f"{said}, where no statistics are; accepted: what turningpoint statistics wrote."
            )
        try:
            group = zarr.open_group(LocalStore(where, read_only=True), mode="r", zarr_format=3)
            attributes = cast(dict[str, Any], group.attrs.asdict())
            if attributes.get("turningpoint") != "layer statistics":
                raise TurningpointError(
                    f"{said}, which holds something else; accepted: what turningpoint statistics wrote."
                )
            if attributes["format"] > FORMAT:
                raise TurningpointError(
                    f"{said}, which has format {attributes['format']}; this version reads up to {FORMAT}."
                )
            return cls.restored(attributes, np.asarray(cast(zarr.Array, group["sums"])[...]))
        except TurningpointError:
            raise
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RuntimeError,
            MemoryError,
        ) as error:
            raise TurningpointError(f"{said}, which is damaged ({type(error).__name__}).") from error


def _digest(sums: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(sums).tobytes()).hexdigest()[:16]


def begun(path: Path) -> Path:
    """The folder beside unfinished statistics that keeps what there is of them."""
    return path.with_name(f"{path.name}.partial")


def joined(ranges: Ranges) -> Ranges:
    """Ranges in order, those that touch as one.

    >>> joined([(4, 6), (0, 2), (2, 4), (8, 9)])
    [(0, 6), (8, 9)]
    """
    found: Ranges = []
    for first, last in sorted((int(a), int(b)) for a, b in ranges if a < b):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def classifiers_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What is different about the settings of two classifiers, in half a sentence; empty if nothing is.

    >>> classifiers_differ({"classifier": "a", "weights": 1}, {"classifier": "b", "weights": 1})
    ''
    >>> classifiers_differ({"classifier": "a", "weights": 1}, {"classifier": "b", "weights": 2})
    "the classifier is 'b' with weights 2, not 'a' with weights 1"
    """
    one, other = (json.loads(json.dumps(dict(settings))) for settings in (one, other))
    keys = [key for key in sorted({*one, *other} - {"classifier"}) if one.get(key) != other.get(key)]
    if keys:
        texts = [f"{s.get('classifier')!r} with {keys[0]} {s.get(keys[0])}" for s in (other, one)]
        return f"the classifier is {texts[0]}, not {texts[1]}"
    if set(one) | set(other) == {"classifier"} and one != other:
        return f"the classifier is {other['classifier']!r}, not {one['classifier']!r}"
    return ""
