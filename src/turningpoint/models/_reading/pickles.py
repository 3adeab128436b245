r"""Pickles of checkpoints, and the tensors inside them.

A plain pickle keeps each storage as a string of bytes in the older format of ``torch.save``, in
which whole files were written as well until 2020.  It is five pickles one after the other,

    magic number, version, facts about the writing machine, the value, the list of the storages' keys,

in which the value names its storages by key, and then the storages in the order of that list: each is
its number of elements, in 8 bytes, and the elements.  Nothing here runs what a file holds (`machine`).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import TurningpointError
from .machine import Machine
from .meanings import NAMES, RefusedError, means
from .nodes import Global, check_tree
from .opcodes import Reading
from .tensors import STORAGE_NAMES, Storage, storage_id

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

_NO_PICKLES = {
    b"<": "a page in HTML or XML, perhaps of a download that failed, and no checkpoint",
    b"version https://git-lfs": "a pointer of Git LFS to a file that was not fetched, and no checkpoint",
    b"pk\x03\x04": "a zip archive and no plain pickle",
    b"\x1f\x8b": "compressed with gzip; accepted: the checkpoint inside it",
    b"\x89hdf": "a file of HDF5 and no checkpoint of torch",
}


def read_pickle(file: str | Path | bytes, source: str = "") -> Any:
    """The value of a pickle, such as an EDM checkpoint, without running anything in it.

    Parameters
    ----------
    file : path or bytes
        The pickle.
    source : str, optional
        How sentences call it; the path by default.

    Returns
    -------
    Any
        Plain values, containers, tensors on the CPU and nodes (`nodes`).  Tensors own their memory.
        Strings of bytes from 4 KiB on are views of the file.

    Raises
    ------
    TurningpointError
        If the file cannot be read, is damaged, or names anything that no checkpoint needs.

    Examples
    --------
    >>> import pickle
    >>> read_pickle(pickle.dumps({"steps": 1000, "sigma": [0.002, 80.0]}), "net.pkl")
    {'steps': 1000, 'sigma': [0.002, 80.0]}
    """
    if not isinstance(file, bytes):
        source, data = source or str(file), mapped(Path(file), source or str(file))
    else:
        source, data = source or "the pickle", memoryview(file)
    return unpickle(data, Reading(source, len(data)))


def unpickle(data: memoryview, reading: Reading) -> Any:
    """The value of one pickle that stands by itself."""
    head = bytes(data[:64]).lstrip().lower()
    for start, kind in _NO_PICKLES.items():
        if head.startswith(start):
            raise reading.refusal(f"is {kind}")
    value, _ = Machine(data, reading).run()
    check_tree(value, reading)
    return value


def mapped(path: Path, source: str) -> memoryview:
    """A file's bytes, read as they are used; writing to them does not reach the file.

    Raises
    ------
    TurningpointError
        If there is no such file, or it is empty, or cannot be opened.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise TurningpointError(f"{source} is no file; accepted: the path of a checkpoint.")
        if size == 0:
            raise TurningpointError(f"{source} is an empty file; accepted: a checkpoint.")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise TurningpointError(f"{source} cannot be read ({error.strerror}).") from None


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts like this is in the older format of ``torch.save``."""
    return LEGACY_MAGIC.to_bytes(10, "little") in head[:32] or str(LEGACY_MAGIC).encode() in head[:32]


def read_legacy(data: memoryview, reading: Reading, names: Mapping[tuple[str, str], Any] = NAMES) -> Any:
    """The value in the older format of ``torch.save``; storages are copied."""
    at = 0
    head = []
    for _ in range(3):
        value, at = Machine(data, reading, names={}).run(at)
        head.append(value)
    if head[:2] != [LEGACY_MAGIC, LEGACY_VERSION]:
        raise reading.refusal("holds bytes that are no storage of torch")
    if not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise reading.refusal("was written on a big-endian machine")
    storages: dict[str, Storage] = {}
    left = len(data) - at

    def stored(key: Any) -> Any:
        nonlocal left
        if type(key) is tuple and len(key) == 4 and key[0] == "module" and isinstance(key[1], Global):
            return key[1]
        dtype, name, size, part = storage_id(key)
        if name not in storages:
            left -= size
            if left < 0:
                raise RefusedError("is shorter than its tensors: it is truncated")
            reading.spend(size + 1500)
            storages[name] = Storage(torch.empty(size, dtype=torch.uint8, device="cpu"), dtype)
        whole = storages[name].raw
        if part is None:
            return Storage(whole, dtype)
        _, first, count = part
        start, stop = (n * dtype.itemsize if type(n) is int else -1 for n in (first, first + count))
        if not 0 <= start <= stop <= len(whole):
            raise RefusedError("has a storage that lies outside the one that it is part of")
        return Storage(whole[start:stop], dtype)

    value, at = Machine(data, reading, names, stored).run(at)
    keys, at = Machine(data, reading, names={}).run(at)
    if not isinstance(keys, list) or {*storages} != {key if isinstance(key, str) else None for key in keys}:
        raise reading.refusal("has tensors without data, or data without tensors")
    for name in keys:
        storage = storages[name]
        size, there = len(storage.raw), int.from_bytes(data[at : at + 8], "little")
        at += 8
        if there * storage.dtype.itemsize != size or at + size > len(data):
            raise reading.refusal("has a tensor of another length than it says, or is truncated")
        if size:
            storage.raw.numpy()[:] = np.frombuffer(data, np.uint8, size, at)
        Storage(storage.raw, storage.dtype)
        at += size
    return value


@means("torch.storage._load_from_bytes")
def _load_from_bytes(machine: Machine, data: Any) -> Storage:
    storage = read_legacy(memoryview(data), machine.reading, STORAGE_NAMES)
    if not isinstance(storage, Storage):
        raise RefusedError("holds bytes that are no storage of torch")
    return storage
