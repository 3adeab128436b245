"""Pickles in the format of EDM's snapshots, of networks that a test makes.

Every object is a call of the global ``torch_utils.persistence._reconstruct_persistent_obj`` with one dictionary: its
class's name, its source, and its ``__dict__`` with the arguments of its constructor.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager

import torch
from torch import nn

SOURCE = """# Copyright (c) 2022, Somebody. All rights reserved.
#
# This work is licensed under a Creative Commons
# Attribution-NonCommercial-ShareAlike 4.0 International License.
# You should have received a copy of the license along with this
raise RuntimeError("the source in a pickle was run")
"""


def _reconstruct_persistent_obj(meta):
    raise RuntimeError("a pickle was run")


@contextmanager
def torch_utils():
    """The module that the pickles name, as long as they are written."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    package.persistence = module
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    added = {"torch_utils": package, "torch_utils.persistence": module}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class Recorded:
    """A persistent object."""

    def __init__(self, class_name, state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


def state_of(module, args=(), kwargs=None, **attributes):
    """The ``__dict__`` of a persistent module."""
    state = {key: value for key, value in nn.Module().__dict__.items() if key.startswith("_")}
    state |= {"training": False, "_parameters": OrderedDict(module._parameters)}
    state |= {"_buffers": OrderedDict(module._buffers)}
    inside = [(name, recorded(child)) for name, child in module._modules.items() if child is not None]
    return (
        state
        | attributes
        | {"_modules": OrderedDict(inside), "_init_args": args, "_init_kwargs": kwargs or {}}
    )


def recorded(module):
    """A module and all inside it as they would be pickled."""
    if isinstance(module, nn.ModuleDict):
        copy = nn.ModuleDict()
        copy.__dict__["_modules"] = OrderedDict((name, recorded(child)) for name, child in module.items())
        return copy
    return Recorded(type(module).__name__, state_of(module))


def snapshot(network, arguments, precond="EDMPrecond", attributes=None, buffers=None, key="ema", args=()):
    """What a snapshot holds: a U-Net made with ``arguments`` inside a preconditioning."""
    unet = Recorded(type(network).__name__, state_of(network, args, arguments))
    images = {"img_resolution": network.resolutions[0], "label_dim": arguments.get("label_dim", 0)}
    images["img_channels"] = network.enc[
        f"{network.resolutions[0]}x{network.resolutions[0]}_conv"
    ].in_channels
    holder = nn.Module()
    for name, buffer in (buffers or {}).items():
        holder.register_buffer(name, buffer)
    state = state_of(holder, (), dict(images), **(images | {"use_fp16": False} | (attributes or {})))
    state["_modules"]["model"] = unet
    return {
        key: Recorded(precond, state),
        "loss_fn": None,
        "augment_pipe": None,
        "dataset_kwargs": {"path": "x.zip"},
    }


def write(path, content, protocol=4):
    """Pickle a snapshot."""
    with torch_utils(), open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return f"edm:{path}"


def scramble(network, seed=0):
    """Give every parameter random values of a size that keeps the signal's; buffers stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
            else:
                p.copy_(
                    (1.0 if "norm" in name and name.endswith("weight") else 0.0)
                    + 0.1 * torch.randn(p.shape, generator=generator)
                )
    return network.eval().requires_grad_(False)
