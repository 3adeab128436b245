"""Packed arrays for xarray: float32 as they are meant, and read only where they are looked at.

xarray decodes eight bits with an offset to float64, and a change of type reads the whole array; a run of ten thousand
images would not fit in memory when a reader wants eight of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing


def unpacked(values: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    """The inverse of how an array is packed, by the CF attributes that xarray reads; float16 becomes float32."""
    if "scale_factor" in attrs:
        scaled: np.ndarray = values * attrs["scale_factor"] + attrs["add_offset"]
        return scaled.astype(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values


class _Unpacked(BackendArray):  # type: ignore[misc]
    """A stored array, unpacked as it is read."""

    def __init__(self, array: zarr.Array) -> None:
        self.array, self.shape, self.dtype = array, array.shape, np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        read: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return read

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        return unpacked(np.asarray(self.array.oindex[key]), dict(self.array.attrs))


def with_floats(dataset: xr.Dataset, group: zarr.Group) -> xr.Dataset:
    """A dataset whose packed variables (uint8 with a scale, float16) are float32 and still unread."""
    for name in list(dataset.data_vars):
        array = cast(zarr.Array, group[str(name)])
        if "scale_factor" not in array.attrs and array.dtype != np.float16:
            continue
        known = dataset[name].variable
        packed = ("scale_factor", "add_offset")
        attrs = {key: value for key, value in known.attrs.items() if key not in packed}
        lazy = indexing.LazilyIndexedArray(_Unpacked(array))
        dataset[name] = xr.Variable(known.dims, lazy, attrs)
    return dataset
