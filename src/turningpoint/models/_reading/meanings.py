r"""What the names in a checkpoint mean here: the whole list, and nothing by prefix or by attribute.

A pickle names functions and classes and asks for them to be called.  None is imported or called:
each accepted pair (module, name) stands for a few lines below, which check their arguments and build
the value that the real thing would have built.  Every other pair is refused by its name.  Tensors are in
`tensors`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import nn

from .nodes import Fields, Global, Module, Persistent
from .opcodes import Reading

_NUMPY_TYPES = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
_MODULES = {
    (kind.__module__, kind.__name__)
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module)
}

Key = tuple[str, str]
Meaning = Callable[..., Any]
_M = TypeVar("_M", bound=Meaning)

CALLS: dict[Key, Meaning] = {}
"""What a call of an accepted name builds; the machine is handed in before the arguments."""

NAMES: dict[Key, Any] = {
    ("numpy", "ndarray"): Global("numpy", "ndarray"),
    **{("numpy", name): Global("numpy", name) for name in _NUMPY_TYPES.split()},
    **{("builtins", name): Global("builtins", name) for name in ("object", "int", "float", "str", "bool")},
}
"""Every accepted name, and what stands for it as long as nobody calls it."""


class Machine(Protocol):
    """What a meaning asks of the machine that came across it."""

    reading: Reading


class RefusedError(ValueError):
    """Arguments that a call does not take; the machine adds whose they are."""


def means(*names: str) -> Callable[[_M], _M]:
    """Say what calling these names does."""

    def add(meaning: _M) -> _M:
        for full in names:
            module, _, name = full.rpartition(".")
            CALLS[module, name] = meaning
            NAMES[module, name] = Global(module, name)
        return meaning

    return add


def sequence(value: Any) -> tuple[Any, ...]:
    """A list or a tuple as a tuple, or a refusal."""
    if not isinstance(value, tuple | list):
        raise RefusedError
    return tuple(value)


# Containers.


def may_key(value: Any) -> bool:
    """Whether a value may be a key: text, a number, bytes, None, or a short tuple of these.

    Hashing it then takes neither long nor deep.
    """
    if type(value) is tuple:
        return len(value) <= 16 and all(type(part) is not tuple and may_key(part) for part in value)
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 64
    return type(value) in (str, bool, float, bytes, type(None))


def fill(machine: Machine, target: dict[Any, Any] | set[Any], keys: Any, values: Any = None) -> None:
    """Add keys and values to a dictionary, or keys to a set."""
    machine.reading.spend(200 + 130 * len(keys))
    if not all(map(may_key, keys)):
        raise RefusedError("has a key that is neither text nor a number")
    if isinstance(target, dict):
        target.update(zip(keys, values, strict=True))
    else:
        target.update(keys)


@means("collections.OrderedDict", "collections.Counter", "builtins.dict", "dnnlib.util.EasyDict")
def _dict(machine: Machine, items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else [sequence(pair) for pair in sequence(items)]
    made: dict[Any, Any] = {}
    if pairs:
        keys, values = zip(*pairs, strict=True)
        fill(machine, made, keys, values)
    return made


@means("collections.defaultdict")
def _defaultdict(machine: Machine, factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    del factory
    return _dict(machine, items)


@means("argparse.Namespace", "types.SimpleNamespace")
def _namespace(machine: Machine) -> Fields:
    del machine
    return Fields()


@means("builtins.list")
def _list(machine: Machine, items: Any = ()) -> list[Any]:
    machine.reading.spend(8 * len(items))
    return list(sequence(items))


@means("collections.deque")
def _deque(machine: Machine, items: Any = (), maxlen: int | None = None) -> list[Any]:
    del maxlen
    return _list(machine, items)


@means("builtins.tuple", "torch.Size")
def _tuple(machine: Machine, items: Any = ()) -> tuple[Any, ...]:
    return tuple(_list(machine, items))


@means("builtins.set")
def _set(machine: Machine, items: Any = ()) -> set[Any]:
    made: set[Any] = set()
    fill(machine, made, sequence(items))
    return made


@means("builtins.frozenset")
def _frozenset(machine: Machine, items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(machine, items))


@means("builtins.bytes")
def _bytes(machine: Machine) -> bytes:
    del machine
    return b""


@means("builtins.bytearray")
def _bytearray(machine: Machine, data: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_encode(machine, data, encoding) if isinstance(data, str) else _raw(machine, data))


@means("_codecs.encode")
def _encode(machine: Machine, text: str, encoding: str = "latin-1") -> bytes:
    if encoding not in ("latin-1", "latin1") or not isinstance(text, str):
        raise RefusedError
    machine.reading.spend(len(text))
    return text.encode("latin-1")


def _raw(machine: Machine, data: Any) -> bytes:
    """Bytes of a string of bytes, however it was written."""
    if isinstance(data, str):
        return _encode(machine, data)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise RefusedError
    machine.reading.spend(len(data))
    return bytes(data)


@means("builtins.complex")
def _complex(machine: Machine, real: float, imaginary: float) -> complex:
    del machine
    return complex(float(real), float(imaginary))


@means("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.PureWindowsPath")
def _path(machine: Machine, *parts: str) -> str:
    machine.reading.spend(4 * sum(len(part) for part in parts))
    return str(PurePosixPath(*parts))


@means("torch.torch_version.TorchVersion", "torch.device")
def _text(machine: Machine, text: str, index: int | None = None) -> str:
    del machine
    if not isinstance(text, str):
        raise RefusedError
    return text if index is None else f"{text}:{int(index)}"


# NumPy.


@means("numpy.dtype")
def _numpy_dtype(machine: Machine, text: str, align: bool = False, copy: bool = True) -> np.dtype[Any]:
    del machine, align, copy
    if not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,3}", text):
        raise RefusedError("holds an array of NumPy that is not of numbers or text")
    return np.dtype(text)


@means("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
def _numpy_scalar(machine: Machine, dtype: Any, data: Any) -> Any:
    return _numpy_array(machine, dtype, (), data)[()].item()


@means("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
def _numpy_reconstruct(machine: Machine, kind: Any, size: Any, dtype: Any) -> np.ndarray:
    del size, dtype
    if kind != Global("numpy", "ndarray"):
        raise RefusedError
    machine.reading.spend(200)
    return np.empty(0)


@means("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
def _numpy_frombuffer(machine: Machine, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _numpy_array(machine, dtype, shape, data, order)


def _numpy_array(machine: Machine, dtype: Any, shape: Any, data: Any, order: Any = "C") -> np.ndarray:
    if order not in ("C", "F"):
        raise RefusedError
    raw = bytearray(_array_bytes(machine, dtype, shape, data))
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _array_bytes(machine: Machine, dtype: Any, shape: Any, data: Any) -> bytes:
    """The bytes of an array, as many as its shape asks for."""
    shape, raw = sequence(shape), _raw(machine, data)
    fits = len(shape) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
    if not isinstance(dtype, np.dtype) or not fits:
        raise RefusedError
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise RefusedError(f"holds an array of size {shape} in {len(raw)} bytes")
    machine.reading.spend(400 + 2 * len(raw))
    return raw


# Objects.


@means("torch_utils.persistence._reconstruct_persistent_obj")
def _persistent(machine: Machine, meta: Any) -> Persistent:
    machine.reading.spend(1000)
    name, state, version, source = (meta[key] for key in ("class_name", "state", "version", "module_src"))
    plain = type(name) is str and type(source) is str and type(version) is int and isinstance(state, dict)
    if meta["type"] != "class" or not plain:
        raise RefusedError
    return Persistent(name, state, version=version, module_src=source)


def _module(kind: Key) -> Meaning:
    def build(machine: Machine) -> Module:
        machine.reading.spend(1000)
        return Module(kind[1], module_name=kind[0])

    return build


CALLS |= {kind: _module(kind) for kind in _MODULES}
NAMES |= {kind: Global(*kind) for kind in _MODULES}


@means("copyreg._reconstructor")
def _reconstructor(machine: Machine, kind: Any, base: Any, state: Any) -> Any:
    if not isinstance(kind, Global) or base not in (Global("builtins", "object"), Global("builtins", "dict")):
        raise RefusedError
    return CALLS[kind.module, kind.name](machine, *([] if state is None else [state]))


def build(machine: Machine, made: Any, state: Any) -> None:
    """Give something that a call made the state that was pickled beside it."""
    if isinstance(made, Module | Fields) and isinstance(state, dict):
        fields = made if isinstance(made, Fields) else made.state
        fill(machine, fields, list(state), list(state.values()))
    elif type(made) is dict and isinstance(state, dict):
        pass  # attributes of an OrderedDict: torch keeps the versions of modules there
    elif isinstance(made, np.dtype) and sequence(state)[1] in ("<", "|", "="):
        pass
    elif isinstance(made, np.ndarray):
        _, shape, dtype, fortran, data = sequence(state)
        raw = _array_bytes(machine, dtype, shape, data)
        numpy_state: Any = (1, tuple(shape), dtype, bool(fortran), raw)
        made.__setstate__(numpy_state)
    else:
        raise RefusedError("gives a state to something that has none, or numbers in big-endian order")
