r"""Tensors in a checkpoint: views of storages, which must lie inside them.

Element :math:`(i_1, \dots, i_n)` of a tensor with offset :math:`o` and strides :math:`s_k` is element
:math:`o + \sum_k i_k s_k` of its storage.  A tensor is accepted if all its elements lie inside and it has
no more of them than the storage: one that repeats elements could become far larger than its file.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .meanings import CALLS, NAMES, Key, Machine, RefusedError, means, sequence
from .nodes import Global

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
"""Names of the classes of storages, and what they hold."""

_DTYPES = """float16 float32 float64 bfloat16 complex64 complex128 bool uint8 uint16 uint32 uint64 int8 int16
int32 int64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"""
_KINDS = [
    Global("torch", "Tensor"),
    Global("torch._tensor", "Tensor"),
    Global("torch.nn.parameter", "Parameter"),
]

STORAGE_NAMES: dict[Key, Any] = {
    (module, name): Global(module, name)
    for module in ("torch", "torch.cuda", "torch.storage")
    for name in STORAGES
}
NAMES.update(STORAGE_NAMES)
NAMES.update({("torch", name): getattr(torch, name) for name in _DTYPES.split()})
NAMES.update({(kind.module, kind.name): kind for kind in _KINDS})


class Storage:
    """The bytes behind tensors, (n,) of uint8 from an aligned address on, and what they are."""

    def __init__(self, raw: Tensor, dtype: torch.dtype) -> None:
        self.raw = raw.clamp_(max=1) if dtype == torch.bool else raw
        self.dtype = dtype

    def view(self, dtype: torch.dtype, offset: int, size: Any, stride: Any) -> Tensor:
        """The tensor of this size and these strides, counted in elements, that lies in the bytes."""
        numbers = (offset, *sequence(size), *sequence(stride))
        if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
            raise RefusedError
        if len(size) != len(stride) or len(size) > 32 or self.raw.numel() % dtype.itemsize:
            raise RefusedError
        count, there = math.prod(size), self.raw.numel() // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and (last >= there or count > there):
            raise RefusedError(f"asks for a tensor of size {tuple(size)} from a storage of {there} elements")
        return self.raw.view(dtype).as_strided(size, stride, offset if count else 0)


def storage_id(key: Any) -> tuple[torch.dtype, str, int, Any]:
    """What a persistent id says of a storage: type, name, bytes, and which part of it is meant."""
    if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage":
        raise RefusedError("refers to data in a way that torch does not")
    kind, name, _, count = key[1:5]
    known = isinstance(kind, Global) and (kind.module, kind.name) in STORAGE_NAMES
    if not known or type(name) is not str or type(count) is not int or not 0 <= count < 1 << 48:
        raise RefusedError("refers to data in a way that torch does not")
    dtype = STORAGES[kind.name]
    return dtype, name, count * dtype.itemsize, key[5] if len(key) == 6 else None


@means("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
def _tensor(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _tensor_v3(machine, storage, offset, size, stride, requires_grad, hooks, None, metadata)


@means("torch._utils._rebuild_tensor_v3")
def _tensor_v3(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    del requires_grad
    if not isinstance(storage, Storage) or hooks or metadata:
        raise RefusedError
    machine.reading.spend(1500)
    return storage.view(storage.dtype if dtype is None else dtype, offset, size, stride)


@means("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
def _parameter(
    machine: Machine, data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None
) -> Tensor:
    del machine, requires_grad, state
    if not isinstance(data, Tensor) or hooks:
        raise RefusedError
    return data


@means("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2")
def _from_type(machine: Machine, function: Any, kind: Any, args: Any, state: Any) -> Tensor:
    del state
    key = (function.module, function.name) if isinstance(function, Global) else None
    if kind not in _KINDS or key is None or CALLS.get(key) not in (_tensor, _tensor_v3, _parameter):
        raise RefusedError
    tensor: Tensor = CALLS[key](machine, *sequence(args))
    return tensor
