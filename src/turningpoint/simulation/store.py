"""The store: named arrays on disk, in chunks that are wholly there or not there.

A run is a folder with ``manifest.json`` and a Zarr group ``data.zarr`` whose arrays carry dimension
names, so that xarray opens it.  The unit of work is a *unit*: the walks of one chunk.  Its arrays are
written first, each chunk by an atomic rename, and its flags in the array ``done`` last; a process
killed in between leaves the flags down, and the unit is simulated again.

Workers claim a unit with a file lock, which dies with its process: the same command started twice
shares the work, and what a killed worker held is free at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import LocalStore, MemoryStore

from ..errors import SimulationError, TurningpointError
from .lazy import unpacked, with_floats

FORMAT = 1
"""The version of the layout on disk; a run of a newer one is refused with a sentence."""

OWN_NAMES = (".", "data.zarr", "locks", "manifest.json", "generated-", "doubled", "figures", "report.html")
"""With what the names begin that a run's folder may hold."""

PATIENCE = 3600.0
"""Seconds to wait for another process that lays a run out: ten thousand pictures take minutes; a dead one lets go."""

Index = int | slice
DTYPES = ("float32", "float16", "uint8")
"""How images may be kept."""


def packing(dtype: str) -> dict[str, Any]:
    """The attributes of an array of images in [-1, 1]: for uint8, how xarray unpacks it (CF conventions)."""
    return {"scale_factor": 1 / 127.5, "add_offset": -1.0} if dtype == "uint8" else {}


class Store:
    """A run's manifest and arrays, in a folder or in memory.

    Create one with `Store.create`, open one with `Store.open`.

    Attributes
    ----------
    folder : Path or None
        None in memory.
    writable : bool
        Whether anything can be added.
    manifest : dict
        What the run is; written with `save_manifest`.
    group : zarr.Group
        The arrays.
    """

    def __init__(self, folder: Path | None, manifest: dict[str, Any], *, writable: bool = True) -> None:
        self.folder, self.manifest, self.writable = folder, manifest, writable
        if folder is not None:
            self.folder = folder = folder.absolute()  # the working directory may change
        backend: LocalStore | MemoryStore
        backend = (
            MemoryStore() if folder is None else LocalStore(folder / "data.zarr", read_only=not writable)
        )
        mode: Literal["a", "r"] = "a" if writable else "r"
        try:
            self.group: zarr.Group = zarr.open_group(backend, mode=mode, zarr_format=3)
        except ContainsGroupError:  # another process made it between the look and the making
            self.group = zarr.open_group(backend, mode=mode, zarr_format=3)

    @classmethod
    def create(cls, folder: str | Path | None, manifest: Mapping[str, Any]) -> Store:
        """A new store in ``folder`` (made if need be), or in memory for None.

        Raises
        ------
        TurningpointError
            If the folder cannot be written, or holds something that is not a run.
        RunAppearedError
            If it holds a run, perhaps since a moment ago: open that.
        """
        content = {"format": FORMAT, **manifest}
        if folder is None:
            return cls(None, content)
        path = Path(folder)
        with sentences(path):
            path.mkdir(parents=True, exist_ok=True)
            if (path / "manifest.json").exists():
                raise RunAppearedError(path)
            cls.check_folder(path)
            _write_json(path / "manifest.json", content)
            return cls(path, content)

    @staticmethod
    def check_folder(folder: str | Path) -> None:
        """Raise if a folder that holds no run holds something else."""
        path = Path(folder)
        if not os.path.isdir(path):
            return
        with sentences(path):
            strangers = [p.name for p in path.iterdir() if not p.name.startswith(OWN_NAMES)]
        if strangers:
            raise TurningpointError(
                f"out is {str(path)!r}, which is not empty and holds no run; accepted: a new folder or a run."
            )

    def reload(self) -> dict[str, Any]:
        """The manifest as it is now on disk: another process may have changed it."""
        if self.folder is not None:
            self.manifest = self.read_manifest(self.folder) or self.manifest
        return self.manifest

    @classmethod
    def open(cls, folder: str | Path, *, writable: bool = True) -> Store:
        """The store in ``folder``.

        Raises
        ------
        TurningpointError
            If there is no run, or it was written by a newer version.
        """
        path = Path(folder)
        manifest = cls.read_manifest(path)
        if manifest is None:
            raise TurningpointError(f"run is {str(path)!r}; accepted: a folder that holds a manifest.json.")
        if manifest.get("format", 0) > FORMAT:
            raise TurningpointError(
                f"run {str(path)!r} has format {manifest['format']}; this version reads up to {FORMAT}."
            )
        if writable and not os.access(path, os.W_OK):
            writable = False
        if not writable and not (path / "data.zarr").is_dir():
            raise TurningpointError(f"run is {str(path)!r}, which holds no data.zarr; accepted: a whole run.")
        with sentences(path):
            return cls(path, manifest, writable=writable)

    @staticmethod
    def read_manifest(folder: str | Path) -> dict[str, Any] | None:
        """The manifest in ``folder``, or None if there is none."""
        path = Path(folder) / "manifest.json"
        if not os.path.isfile(path):  # of a name that is too long, too
            return None
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict) or not isinstance(content.get("format", 0), int):
                raise ValueError("it is not a run's")
            return cast(dict[str, Any], content)
        except (OSError, ValueError) as error:
            raise TurningpointError(f"manifest {str(path)!r} cannot be read: {error}.") from None

    def _check_writable(self) -> None:
        if not self.writable:
            raise TurningpointError(
                f"run {str(self.folder)!r} cannot be written; accepted: a folder you may write to."
            )

    def save_manifest(self) -> None:
        """Write the manifest, atomically."""
        self._check_writable()
        if self.folder is not None:
            with sentences(self.folder):
                _write_json(self.folder / "manifest.json", self.manifest)

    # ---- arrays

    def require(
        self,
        name: str,
        dims: Sequence[str],
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: str = "float32",
        attrs: Mapping[str, Any] | None = None,
    ) -> zarr.Array:
        """The array ``name``, made if missing and enlarged if smaller; gaps are NaN, or 0 for integers."""
        self._check_writable()
        with sentences(self.folder):
            if name in self.group:
                array = cast(zarr.Array, self.group[name])
                if tuple(array.shape) != tuple(shape):
                    array.resize(tuple(max(a, b) for a, b in zip(array.shape, shape, strict=True)))
                return array
            fill = np.nan if np.issubdtype(np.dtype(dtype), np.floating) else 0
            try:
                return self.group.create_array(
                    name,
                    shape=tuple(shape),
                    chunks=tuple(max(1, c) for c in chunks),
                    dtype=dtype,
                    fill_value=fill,
                    dimension_names=list(dims),
                    attributes=dict(attrs or {}),
                    config={"write_empty_chunks": True},
                )
            except ContainsArrayError:  # another process made it between the look and the making
                return cast(zarr.Array, self.group[name])

    def write(self, name: str, values: np.ndarray, region: Sequence[Index] = ()) -> None:
        """Write ``values`` into a region of an array; the region's missing trailing axes are whole."""
        with sentences(self.folder):
            array = cast(zarr.Array, self.group[name])
            array[(*region, ...)] = _packed(values, array.dtype)

    def read(self, name: str, region: Sequence[Index] = ()) -> np.ndarray:
        """A region of an array as it is meant: uint8 images come back as float32 in [-1, 1]."""
        array = cast(zarr.Array, self.group[name])
        return unpacked(np.asarray(array[(*region, ...)]), dict(array.attrs))

    def array(self, name: str) -> zarr.Array:
        """The array ``name`` itself: its shape, its chunks."""
        return cast(zarr.Array, self.group[name])

    def dims(self, name: str) -> tuple[str, ...]:
        """The names of an array's dimensions."""
        metadata = cast(Any, self.group[name]).metadata
        return tuple(metadata.dimension_names or ())

    def arrays(self) -> list[str]:
        """The names of the arrays at the top, without those of readings."""
        return sorted(self.group.array_keys())

    def groups(self, name: str) -> list[str]:
        """The names of the groups in the group ``name``; none if there is no such group."""
        return sorted(cast(zarr.Group, self.group[name]).group_keys()) if name in self.group else []

    def attrs(self, name: str) -> dict[str, Any]:
        """The attributes of an array or a group."""
        return cast(dict[str, Any], self.group[name].attrs.asdict())

    def annotate(self, group: str, attrs: Mapping[str, Any]) -> None:
        """Add attributes to an array, or to a group, which is made if missing."""
        self._check_writable()
        with sentences(self.folder):
            node = self.group[group] if group in self.group else self.group.require_group(group)
            node.attrs.update(dict(attrs))

    def remove(self, name: str) -> None:
        """Remove an array, or a group with all that is in it."""
        self._check_writable()
        with sentences(self.folder):
            del self.group[name]

    def replace(self, name: str, by: str) -> None:
        """Put a group in the place of another, which goes."""
        self._check_writable()
        with sentences(self.folder):
            if name in self.group:
                del self.group[name]
            if self.folder is not None:
                target = self.folder / "data.zarr" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / "data.zarr" / by).rename(target)
                return
            group = cast(zarr.Group, self.group[by])
            self.annotate(name, group.attrs.asdict())
            for key in group.array_keys():
                array = self.array(f"{by}/{key}")
                self.require(
                    f"{name}/{key}", self.dims(f"{by}/{key}"), array.shape, array.chunks, str(array.dtype)
                )
                self.array(f"{name}/{key}")[...] = array[...]
            del self.group[by]

    def has(self, name: str) -> bool:
        """Whether there is an array or a group of this name."""
        return name in self.group

    def dataset(self, group: str | None = None) -> xr.Dataset:
        """All arrays of the run, or of one of its groups, opened lazily by xarray; images are float32."""
        dataset: xr.Dataset = xr.open_zarr(
            self.group.store,
            group=group,
            consolidated=False,
            zarr_format=3,
            chunks=None,
        )
        node = self.group if group is None else cast(zarr.Group, self.group[group])
        return with_floats(dataset, node)

    # ---- workers

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the run while its manifest or the sizes of its arrays change."""
        if self.folder is None:
            yield
            return
        self._check_writable()
        with sentences(self.folder):
            (self.folder / "locks").mkdir(exist_ok=True)
            lock = FileLock(self.folder / "locks" / "run.lock", timeout=PATIENCE)
        try:
            with sentences(self.folder):
                lock.acquire()
        except Timeout:
            raise TurningpointError(
                f"run {str(self.folder)!r} is being changed by another process."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, unit: str) -> FileLock | None:
        """A held lock on a unit of work; None if another process holds it."""
        if self.folder is None:
            return FileLock(os.devnull)
        with sentences(self.folder):
            (self.folder / "locks").mkdir(exist_ok=True)
            lock = FileLock(self.folder / "locks" / f"{unit}.lock", blocking=False)
            try:
                lock.acquire()
            except Timeout:
                return None
        return lock


class RunAppearedError(Exception):
    """A run was created in the folder by another process, a moment ago."""


@contextlib.contextmanager
def sentences(folder: Path | None) -> Iterator[None]:
    """Turn the operating system's refusals while writing into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SimulationError(
                f"the disk of {str(folder)!r} is full; make room and give the same command again to continue."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise TurningpointError(
                f"out is {str(folder)!r}, which cannot be written; accepted: a folder you may write to."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise TurningpointError(
                f"out is {str(folder)!r}, where a file stands; accepted: a new folder or a run."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise TurningpointError(
                f"out is {str(folder)!r}, a name too long for the disk; accepted: a shorter one."
            ) from error
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise TurningpointError(
                f"out is {str(folder)!r}, which is not there and cannot be made; accepted: a folder you may write to."
            ) from error
        raise


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _packed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What is written for ``values``: images in [-1, 1] become 0..255 where the array is uint8."""
    if dtype == np.uint8 and np.issubdtype(values.dtype, np.floating):
        levels = np.clip(np.rint((values + 1) * 127.5), 0, 255)
        return np.where(np.isnan(levels), 0, levels).astype(np.uint8)
    return np.asarray(values, dtype=dtype)
