r"""What a checkpoint says about its objects: a class by its name, and the state that it was left in.

A pickled ``nn.Module`` is a class and its ``__dict__``, of which three entries matter:

==================  =============================================================
``_parameters``     name to tensor, or None
``_buffers``        name to tensor, or None; ``_non_persistent_buffers_set`` are not saved
``_modules``        name to the modules inside, in their order
==================  =============================================================

Here it stays just that.  Nothing is imported under the class's name: whoever knows the architecture
builds it with code of their own and fills in `state_dict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import TurningpointError
from .opcodes import Reading, shown


@dataclass(frozen=True, slots=True)
class Global:
    """A class that a file names without calling it.

    Attributes
    ----------
    module, name : str
        Where Python would import it from.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Fields(dict[str, Any]):
    """The attributes of a namespace, as a dictionary."""


@dataclass(eq=False, repr=False)
class Node:
    """An object in a file: the name of its class and its state.

    Attributes
    ----------
    class_name : str
        The bare name of the class.
    state : dict
        Its ``__dict__``.
    """

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The object's own parameters by name, without those that are None."""
        return self._tensors("_parameters")

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The object's own buffers by name, without those that are None."""
        return self._tensors("_buffers")

    @property
    def modules(self) -> dict[str, Node]:
        """The objects right inside this one, in order."""
        inside = {name: module for name, module in self._part("_modules").items() if module is not None}
        for name, module in inside.items():
            if not isinstance(module, Node):
                raise TurningpointError(
                    f"{shown(self.class_name)}._modules.{shown(name)} is of type {type(module).__name__}; "
                    "accepted: a module."
                )
        return inside

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        values = {name: value for name, value in self._part(kind).items() if value is not None}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise TurningpointError(
                    f"{shown(self.class_name)}.{kind}.{shown(name)} is of type {type(value).__name__}; "
                    "accepted: a tensor or None."
                )
        return values

    def _part(self, kind: str) -> dict[str, Any]:
        part = self.state.get(kind, {})
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            raise TurningpointError(
                f"{shown(self.class_name)}.{kind} is not a dictionary with text for its keys."
            )
        return part

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.class_name})"


@dataclass(eq=False, repr=False)
class Module(Node):
    """A module of ``torch.nn``.

    Attributes
    ----------
    module_name : str
        Where Python would import the class from.
    """

    module_name: str = ""


@dataclass(eq=False, repr=False)
class Persistent(Node):
    """An object of NVIDIA's ``torch_utils.persistence``, which carries its own source along.

    Attributes
    ----------
    version : int
        Of the way that such objects are recorded.
    module_src : str
        The Python source beside the object; text, which nobody runs.
    """

    version: int = 0
    module_src: str = ""

    @property
    def init_args(self) -> tuple[Any, ...]:
        """The positional arguments that the object was made with."""
        args = self.state.get("_init_args", ())
        if not isinstance(args, tuple | list):
            raise TurningpointError(f"{shown(self.class_name)}._init_args is not a tuple.")
        return tuple(args)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The named arguments that the object was made with."""
        return dict(self._part("_init_kwargs"))


def state_dict(node: Node) -> dict[str, Tensor]:
    """The tensors of an object and of all inside it, named as ``nn.Module.state_dict`` names them.

    Parameters
    ----------
    node : Node
        As `read_pickle` returns it.

    Returns
    -------
    dict of str to Tensor
        Parameters and persistent buffers, such as ``enc.8x8_conv.weight``.

    Raises
    ------
    TurningpointError
        If the state is not that of a module.

    Examples
    --------
    >>> import torch
    >>> linear = Module("Linear", {"_parameters": {"weight": torch.ones(1, 2), "bias": None}})
    >>> state_dict(Module("Sequential", {"_modules": {"0": linear}}))
    {'0.weight': tensor([[1., 1.]])}
    """
    unsaved = node.state.get("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, set) else ()
    saved = {name: value for name, value in node.buffers.items() if name not in unsaved}
    state = node.parameters | saved
    for name, inside in node.modules.items():
        state |= {f"{name}.{key}": value for key, value in state_dict(inside).items()}
    return state


DEPTH = 128
"""How deep a value that was read may be nested."""

_LEAVES = {type(None), bool, int, float, complex, str, bytes, bytearray, memoryview}
_LEAVES |= {Tensor, torch.dtype, np.ndarray, Global}
_FLAT = {set, frozenset}
_CONTAINERS = {dict, Fields, list, tuple}
_NODES = {Module, Persistent}
_ENTRIES = 4_000_000


def check_tree(value: Any, reading: Reading) -> None:
    """Refuse a value that plain recursion over it would not survive.

    Raises
    ------
    TurningpointError
        If it holds itself, is nested more than `DEPTH` deep, or holds the same things over and over, so
        that it is small in memory and endless to walk through; or if it holds anything but plain values,
        tensors and nodes.
    """
    measured: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()
    stack = [value]
    while stack:
        item = stack[-1]
        key = id(item)
        if key in measured:
            stack.pop()
            continue
        width, containers = _inside(item, reading)
        if key not in entered:
            entered.add(key)
            todo = [child for child in containers if id(child) not in measured]
            if any(id(child) in entered for child in todo):
                raise reading.refusal("holds a value that holds itself")
            if todo:
                stack += todo
                continue
        within = [measured[id(child)] for child in containers]
        depth = 1 + max((deep for deep, _ in within), default=0)
        size = 1 + width + sum(many for _, many in within)
        if depth > DEPTH:
            raise reading.refusal(f"holds values nested more than {DEPTH} deep")
        if size > _ENTRIES:
            raise reading.refusal(f"unfolds to more than {_ENTRIES} entries")
        measured[key] = depth, size
        stack.pop()


def _inside(item: Any, reading: Reading) -> tuple[int, list[Any]]:
    """How many things a value holds, and which of them are containers."""
    kind = type(item)
    if kind in _LEAVES or kind in _FLAT:
        return 0 if kind in _LEAVES else len(item), []
    if kind in _NODES:
        return 1, [item.state]
    if kind not in _CONTAINERS:
        raise reading.refusal(f"holds a {kind.__name__} where numbers, text, tensors and containers belong")
    values = item.values() if issubclass(kind, dict) else item
    return len(item), [] if _LEAVES.issuperset(map(type, values)) else [
        value for value in values if type(value) not in _LEAVES
    ]
