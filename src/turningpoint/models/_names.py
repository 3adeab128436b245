"""Names of models: ``scheme:where?key=value&key=value``, taken apart and written so that they load the same again."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch

from ._options import OF_THE_MACHINE

CHECKPOINT_SUFFIXES = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".npy")


def divided(model: str) -> tuple[str, str]:
    """A name and the settings behind its question mark, which may stand in the name of a file too."""
    for head, query in ((model, ""), model.rpartition("?")[::2]):
        if "?" in head and any(os.path.exists(text) for text in (head, head.partition(":")[2])):
            return head, query
    head, _, query = model.partition("?")
    return head, query


def is_place(head: str) -> bool:
    """Whether a name means a path: it is there, or looks like one."""
    return os.path.exists(head) or os.sep in head or Path(head).suffix in CHECKPOINT_SUFFIXES


def spelled(head: str, settings: Mapping[str, Any]) -> str:
    """The name that loads a model again: what identifies it and can be written down follows a question mark."""
    plain = {key: _written(value) for key, value in settings.items() if key not in OF_THE_MACHINE}
    told = {key: text for key, text in plain.items() if text is not None}
    return f"{head}?{urlencode(told, safe=',:/')}" if told else head


def _written(value: Any) -> str | None:
    """A setting as `literal` reads it back; None if it cannot be written down."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return value if literal(value) == value else repr(value)
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple | dict):
        text = ",".join(map(str, value)) if len(value) > 1 and not isinstance(value, dict) else ""
        for written in (text, repr(value)):
            if written and literal(written) in (value, tuple(value), list(value)):
                return written
    return None


def literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def brief(name: str) -> str:
    """A name for a heading: of a model that lies at a path only the last part of that.

    >>> brief("edm:/data/nets/cifar.pkl?rho=5"), brief("gaussians?dim=2"), brief("diffusers:org/model")
    ('cifar.pkl', 'gaussians?dim=2', 'diffusers:org/model')
    """
    where = name.partition(":")[2]
    return Path(divided(where)[0]).name if os.path.isabs(where) else name
