"""What a probe has seen in the network along trajectories, as arrays of a run.

In the group ``activations`` stand ``summaries`` (item, time, layer, summary), ``maps`` (item, time, layer, row, column)
and, if activations are kept whole, ``full/LAYER`` (item, time, ...); its attributes name layers and summaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..simulation.collect import Unit
from ..simulation.engine import Finished
from ..simulation.probe import Probe
from ..simulation.store import Store
from ..simulation.walk import Record
from .planning import LARGEST_CHUNK, write_rows

GROUP = "activations"
ARRAYS = {"activations": "summaries", "maps": "maps"}
"""What the probe calls them, and what a run calls them."""


def records_of(probe: Probe, times: tuple[float, ...]) -> list[Record]:
    """What walks record of a probe."""
    names = [*ARRAYS, *([f"layer.{layer}" for layer in probe.layers] if probe.keep else [])]
    return [Record("activation", times, name) for name in names]


def lay_out_activations(store: Store, probe: Probe, items: int, times: int, chunk: int) -> None:
    """Make the arrays of summaries and maps."""
    sizes = items, times, len(probe.layers)
    inner = {"summaries": (len(probe.summaries),), "maps": (probe.map_size, probe.map_size)}
    axes = {"summaries": ("summary",), "maps": ("row", "column")}
    for name, shape in inner.items():
        dims = ("item", "time", "layer", *axes[name])
        store.require(f"{GROUP}/{name}", dims, (*sizes, *shape), (chunk, *sizes[1:], *shape), "float32")
    store.annotate(GROUP, {"layers": list(probe.layers), "summaries": list(probe.summaries)})


def write_activations(
    store: Store, probe: Probe, unit: Unit, offsets: Sequence[int], finished: Sequence[Finished]
) -> None:
    """Write what was seen along the trajectories of a unit."""
    for seen, name in ARRAYS.items():
        write_rows(store, f"{GROUP}/{name}", unit, offsets, np.stack([f.values[seen] for f in finished]))
    for layer in probe.layers if probe.keep else ():
        rows = [f.values[f"layer.{layer}"] for f in finished]
        array, times, shape = f"{GROUP}/full/{layer}", len(rows[0]), rows[0].shape[1:]
        sizes = store.array("done").shape[0], times, *shape
        together = max(1, min(times, LARGEST_CHUNK // (4 * math.prod(shape))))
        dims = ["item", "time", *(f"{layer}_{k}" for k in range(len(shape)))]
        store.require(array, dims, sizes, (1, together, *shape), str(rows[0].dtype))
        for offset, row in zip(offsets, rows, strict=True):
            store.write(array, row, (unit.region[0].start + offset,))  # type: ignore[union-attr]
