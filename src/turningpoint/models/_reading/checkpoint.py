r"""Checkpoints as files: which format one is in, its value, and how its tensors get into a network.

==============  =================================================  ===========================
format          starts with                                        read by
==============  =================================================  ===========================
torch.save      ``PK``, the sign of a zip archive                  `archive`, `machine`
torch.save      a pickle of the number 0x1950A86A20F9469CFC6C      `pickles.read_legacy`
before 2020
safetensors     the length of a header in JSON, and the header     the `safetensors` package
pickle          ``\\x80`` and the protocol                          `pickles.read_pickle`
==============  =================================================  ===========================

The content decides, not the file's name.  Nothing in a file is executed.  Tensors of an archive stay in
the file until they are used (mapped; writing to them does not change it).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import TurningpointError
from .archive import entries
from .machine import Machine
from .meanings import RefusedError
from .nodes import check_tree
from .opcodes import Reading, shown
from .pickles import is_legacy, mapped, read_legacy, unpickle
from .tensors import Storage, storage_id


def read_checkpoint(path: str | Path) -> Any:
    """The value of a checkpoint: mostly a dictionary of tensors, or one that holds several such.

    Parameters
    ----------
    path : path
        A file of ``torch.save``, safetensors or pickle, whatever it is called.

    Returns
    -------
    Any
        Plain values, containers, tensors on the CPU and nodes (`nodes`).

    Raises
    ------
    TurningpointError
        If the file cannot be read, is of no such format, is damaged, or names anything that no
        checkpoint needs.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"bias": torch.arange(3)}, f"{folder}/net.pt")
    ...     read_checkpoint(f"{folder}/net.pt")
    {'bias': tensor([0, 1, 2])}
    """
    source = str(path)
    data = mapped(Path(path), source)
    reading = Reading(source, len(data))
    head = bytes(data[:64])
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        value = _unzip(data, reading)
    elif _is_safetensors(head, len(data)):
        return _read_safetensors(Path(path), data, reading)
    elif is_legacy(head):
        value = read_legacy(data, reading)
    else:
        return unpickle(data, reading)
    check_tree(value, reading)
    return value


def _unzip(data: memoryview, reading: Reading) -> Any:
    files = entries(data, reading)
    roots = [
        name.removesuffix("data.pkl") for name in files if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise reading.refusal("is a zip archive that torch.save did not write: it has no NAME/data.pkl")
    root = roots[0]
    if bytes(files.get(f"{root}byteorder", b"little")) != b"little":
        raise reading.refusal("was written on a big-endian machine")
    storages: dict[str, Tensor] = {}

    def stored(key: Any) -> Storage:
        dtype, name, size, part = storage_id(key)
        raw = files.get(f"{root}data/{name}")
        if raw is None or len(raw) != size or part is not None:
            there = "none are" if raw is None else f"{len(raw)} are"
            raise RefusedError(f"has a tensor of {size} bytes where {there} stored")
        if name not in storages:
            reading.spend(1500)
            storages[name] = _mapped_tensor(raw)
        return Storage(storages[name], dtype)

    value, _ = Machine(files[f"{root}data.pkl"], reading, stored=stored).run()
    return value


def _mapped_tensor(raw: memoryview) -> Tensor:
    """The bytes as a tensor (n,) of uint8 in place, or copied where numbers of 16 bytes could not begin."""
    tensor = torch.from_numpy(np.frombuffer(raw, np.uint8))
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path, data: memoryview, reading: Reading) -> dict[str, Tensor]:
    reading.spend(32 * int.from_bytes(data[:8], "little"))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError):
        raise reading.refusal("is a damaged safetensors file") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """What the writer of a safetensors file noted in its header; nothing for other formats.

    Raises
    ------
    TurningpointError
        If the file cannot be read or is damaged.
    """
    data = mapped(Path(path), str(path))
    reading = Reading(str(path), len(data))
    if not _is_safetensors(bytes(data[:64]), len(data)):
        return {}
    reading.spend(32 * int.from_bytes(data[:8], "little"))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError):
        raise reading.refusal("is a damaged safetensors file") from None


def tensors(value: Any, source: str) -> dict[str, Tensor]:
    """A value as a state dict: names to tensors.

    Parameters
    ----------
    value : Any
        As `read_checkpoint` returns it, or a part of that.
    source : str
        How the sentence calls it.

    Raises
    ------
    TurningpointError
        If it is anything else.

    Examples
    --------
    >>> tensors({"step": 3}, "net.pt")
    Traceback (most recent call last):
    turningpoint.errors.TurningpointError: net.pt holds step of type int; accepted: a state dict, names to tensors.
    """
    if not isinstance(value, dict):
        raise TurningpointError(
            f"{source} holds a value of type {type(value).__name__}; accepted: a state dict, names to tensors."
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TurningpointError(
                f"{source} holds {shown(str(name))} of type {type(tensor).__name__}; "
                "accepted: a state dict, names to tensors."
            )
    return value


def load_tensors(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a network with a state dict that must fit exactly.

    The values are copied and cast to the network's types.  A network on the meta device gets copies of the
    tensors in the types that they have.

    Parameters
    ----------
    module : nn.Module
        The network.
    state : mapping of str to Tensor
        A tensor for each of its parameters and persistent buffers.
    source : str
        How the sentence calls the state dict.

    Raises
    ------
    TurningpointError
        If a tensor is missing, surplus or of another shape; the sentence names the first of each kind.

    Examples
    --------
    >>> load_tensors(nn.Linear(2, 1), {"weight": torch.ones(1, 3)}, "net.pt")
    Traceback (most recent call last):
    turningpoint.errors.TurningpointError: net.pt does not fit the network: 1 missing (bias), 1 of another \
shape (weight is 1x3, not 1x2).
    """
    wanted = module.state_dict()
    shapes = [
        f"{shown(name)} is {_size(state[name])}, not {_size(tensor)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        ("missing", [shown(name) for name in wanted if name not in state]),
        ("surplus", [shown(name) for name in state if name not in wanted]),
        ("of another shape", shapes),
    ]
    found = ", ".join(f"{len(names)} {kind} ({_few(names)})" for kind, names in faults if names)
    if found:
        raise TurningpointError(f"{source} does not fit the network: {found}.")
    if any(tensor.is_meta for tensor in wanted.values()):
        module.load_state_dict({name: state[name].clone() for name in wanted}, assign=True)
    else:
        module.load_state_dict(dict(state))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
