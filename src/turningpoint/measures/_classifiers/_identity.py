"""What tells two classifiers apart: fingerprints of their weights, in the form of 16 hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import FunctionMeasure


def of_module(network: nn.Module) -> str:
    """Of a network: its structure as it prints itself, and every tensor of its state.

    Examples
    --------
    >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> of_module(a) == of_module(a), of_module(a) == of_module(b)
    (True, False)
    """
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(network)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(tensor.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def of_function(function: Callable[..., Any]) -> str:
    """Of a function: its code and the plain values that it closes over."""
    if isinstance(function, nn.Module):
        return of_module(function)
    return str(FunctionMeasure(function, "network", "vector").settings()["function"])


def of_file(path: Path) -> str:
    """Of a file and of those beside it whose names begin with its own, where an ONNX graph keeps its weights."""
    digest = hashlib.sha256()
    beside = (file for file in path.parent.iterdir() if file.name.startswith(path.name) and file.is_file())
    for part in sorted(beside):
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def of_plain(value: Any) -> str:
    """Of anything that JSON can write, in whatever order its entries stand.

    >>> of_plain({"a": 1, "b": 2}) == of_plain({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
