r"""Hooks: looking at what the layers of a network answer while a batch passes, and answering in their place.

A layer is any module of the network, by the name that `torch.nn.Module.named_modules` gives it.  In a pattern ``*``,
``?`` and ``[0-3]`` stand for characters within one part of a name, and the part ``**`` for any number of parts:
``up_blocks.*`` are the blocks, ``up_blocks.**`` all that is in them.

A network often lies in a wrapper whose only child it is (``unet`` in that of the built-in digits, ``_orig_mod`` in what
`torch.compile` returns).  Names do without what all of them would begin with: ``mid_block`` is the layer's name, and
``unet.mid_block`` is understood.

Of a layer that returns a tuple, a mapping or a dataclass, the first tensor is meant; but of a transformer's block that
is told two streams, ``hidden_states`` and ``encoder_hidden_states``, and returns both, the one that has the shape of
``hidden_states``: the image's, not the text's.

Hooks last as long as the ``with`` block that attaches them, and are removed whatever ends it.  A network that is
compiled runs uncompiled in the block, as compiled code passes hooks by.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .errors import TurningpointError

T = TypeVar("T")


# ---- which network, and its names


def trunk_of(model: nn.Module, argument: str = "model") -> nn.Module:
    """The network to look into.

    Parameters
    ----------
    model : nn.Module
        A denoiser, guided or not, or a network itself.
    argument : str
        The name of the user's argument.

    Returns
    -------
    nn.Module
        A denoiser's ``network``; of a denoiser of another kind the denoiser itself, if it has layers.

    Raises
    ------
    TurningpointError
        If it has no layers, as an exact world has none.

    Examples
    --------
    >>> from turningpoint import load
    >>> type(trunk_of(load("digits"))).__name__
    'PatchUNet'
    """
    found: Any = model
    while hasattr(found, "schedule") and hasattr(found, "shape"):  # a denoiser
        inner = (getattr(found, name, None) for name in ("network", "model", "_model"))
        within = next((part for part in inner if isinstance(part, nn.Module)), None)
        if within is None:
            break
        found = within
    is_network = found is not model or not hasattr(found, "schedule")
    has_layers = isinstance(found, nn.Module) and any(True for _ in found.children())
    if not has_layers or not (is_network or any(True for _ in found.parameters())):
        name = getattr(model, "name", type(model).__name__)
        raise TurningpointError(
            f"{argument} is {name!r}, which has no layers to look into; accepted: a model with a network."
        )
    return found  # type: ignore[no-any-return]


def layer_names(network: nn.Module) -> list[str]:
    """The names of all layers, in the order in which the network registers them.

    >>> layer_names(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU())))
    ['0', '1', '1.0']
    """
    return list(_full_names(network, _wrapping(network)))


def patterns_in(patterns: str | Sequence[str], argument: str = "layers") -> list[str]:
    """Patterns one by one, several in a text being divided by commas.

    Raises
    ------
    TurningpointError
        If there is none.

    Examples
    --------
    >>> patterns_in("mid_block, up_blocks.*")
    ['mid_block', 'up_blocks.*']
    """
    texts = [patterns] if isinstance(patterns, str) else patterns
    found = [part.strip() for text in texts for part in str(text).split(",") if part.strip()]
    if not found:
        raise TurningpointError(f"{argument} is {patterns!r}; accepted: names of layers, or patterns.")
    return found


def matching(
    network: nn.Module,
    patterns: Sequence[str],
    argument: str = "layers",
    *,
    also: Sequence[str] = (),
    wrapped: bool = True,
) -> list[list[str]]:
    """The layers that each pattern means, in the order in which the network registers them.

    Parameters
    ----------
    network : nn.Module
        The network.
    patterns : sequence of str
        Names or patterns.
    argument : str
        The name of the user's argument.
    also : sequence of str
        Names that are accepted although no module has them; each stands for itself.
    wrapped : bool
        Whether names do without those of wrappers.

    Raises
    ------
    TurningpointError
        If a pattern matches none; the sentence holds the nearest names.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))
    >>> matching(net, ["*", "1.**"])
    [['0', '1'], ['1', '1.0', '1.1']]
    """
    wrapping = _wrapping(network) if wrapped else ""
    names = _full_names(network, wrapping)
    inside = [name for name, full in names.items() if full.startswith(wrapping) and full != wrapping]
    found = []
    for pattern in patterns:
        parts = pattern.split(".")
        hits = [name for name in inside if _fits(name.split("."), parts)]
        hits = hits or [name for name, full in names.items() if _fits(full.split("."), parts)]
        hits = hits or [name for name in also if name == pattern]
        if not hits:
            near = difflib.get_close_matches(pattern, [*names, *also], 3, 0)
            raise TurningpointError(
                f"{argument} is {pattern!r}, which no layer of the network is called; accepted: names and patterns, "
                f"the nearest being {', '.join(near)}."
            )
        found.append(hits)
    return found


def module_called(network: nn.Module, name: str) -> nn.Module:
    """The layer of this name, with or without the names of wrappers; the network itself is ``""``.

    Raises
    ------
    AttributeError
        If there is none.
    """
    with contextlib.suppress(AttributeError):
        return network.get_submodule(name)
    return network.get_submodule(f"{_wrapping(network)}.{name}")


def _wrapping(network: nn.Module) -> str:
    """What all names of layers begin with: the path through modules with one child, ``""`` for none.

    The path ends at the first module that has several children, that holds only leaves, or that is not called.
    """
    path: list[str] = []
    inside = network
    while True:
        children = list(inside.named_children())
        if len(children) != 1 or not [*children[0][1].children()] or not _can_be_called(children[0][1]):
            break
        path.append(children[0][0])
        inside = children[0][1]
    ambiguous = path and path[0] in dict(inside.named_children())
    return "" if ambiguous else ".".join(path)


def _can_be_called(module: nn.Module) -> bool:
    """Whether it is more than a list of others."""
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def _full_names(network: nn.Module, wrapping: str) -> dict[str, str]:
    """The full names of the modules, by their names without the wrapping."""
    full = [name for name, _ in network.named_modules() if name]
    within = f"{wrapping}." if wrapping else ""
    return {name.removeprefix(within): name for name in full if name.startswith(within)} | {
        name: name for name in full if not name.startswith(within)
    }


def _fits(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[k:], pattern[1:]) for k in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])


# ---- looking at answers, and replacing them


@contextlib.contextmanager
def watching(
    network: nn.Module | None,
    names: Sequence[str],
    look: Callable[[str, Tensor], T],
    entering: Callable[[str, Tensor | None], None] | None = None,
) -> Iterator[dict[str, T]]:
    """While the block runs, ``look`` sees the output of each named layer as soon as there is one.

    Parameters
    ----------
    network : nn.Module or None
        None has no layers to name.
    names : sequence of str
        Of layers of the network; ``""`` is the network itself.
    look : callable
        ``look(name, output)``; what it returns is kept, of a layer that runs again the last.
    entering : callable, optional
        ``entering(name, input)``, called before the layer runs with the first tensor that it is given.

    Yields
    ------
    dict
        What ``look`` returned, by name in the order of (last) execution.

    Raises
    ------
    TurningpointError
        In the block, if a layer returns no tensor.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with watching(net, ["1", "0"], lambda name, a: tuple(a.shape)) as seen:
    ...     _ = net(torch.zeros(3, 2, 2))
    >>> seen
    {'0': (3, 4), '1': (3, 2)}
    """
    seen: dict[str, T] = {}

    def watch(name: str, answer: _Answer) -> None:
        seen.pop(name, None)
        seen[name] = look(name, answer.tensor)

    with _attached(network, names, watch, entering):
        yield seen


@contextlib.contextmanager
def replacing(
    network: nn.Module, names: Sequence[str], function: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """While the block runs, the network goes on with ``function`` of what each named layer answers.

    Parameters
    ----------
    network : nn.Module
        The network.
    names : sequence of str
        Of its layers.
    function : callable
        ``function(name, output)`` returns a tensor of the shape of ``output``, which takes its place in the type
        and on the device of ``output``; whatever else the layer returns stays.  A layer that runs several times
        is answered for each time.

    Raises
    ------
    TurningpointError
        In the block, if a layer returns no tensor, or the function something of another shape.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Identity())
    >>> with replacing(net, ["0"], lambda name, a: 2 * a):
    ...     net(torch.ones(1, 2, 1))
    tensor([[2., 2.]])
    """

    def replace(name: str, answer: _Answer) -> Any:
        new = function(name, answer.tensor)
        if not isinstance(new, Tensor) or new.shape != answer.tensor.shape:
            given = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise TurningpointError(
                f"what replaces the layer {name!r} is {given}; accepted: a tensor of shape "
                f"{tuple(answer.tensor.shape)}."
            )
        return answer.replaced(new.to(answer.tensor))

    with _attached(network, names, replace):
        yield


@contextlib.contextmanager
def _attached(
    network: nn.Module | None,
    names: Sequence[str],
    after: Callable[[str, _Answer], Any],
    before: Callable[[str, Tensor | None], None] | None = None,
) -> Iterator[None]:
    """Hooks on the named layers; what ``after`` returns replaces a layer's output, unless it is None."""
    with contextlib.ExitStack() as hooks:
        for name in names:
            if network is None:
                continue

            def leave(module: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> Any:
                return after(name, _Answer(name, kwargs, output))

            def enter(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                assert before is not None
                before(name, next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None))

            module = module_called(network, name)
            hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
            if before is not None:
                hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        if network is not None and _is_compiled(network):
            hooks.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _is_compiled(network: nn.Module) -> bool:
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in network.modules()
    )


class _Answer:
    """What a layer returned, and which tensor of it is meant."""

    def __init__(self, name: str, kwargs: Mapping[str, Any], output: Any) -> None:
        self.output = output
        self.parts: dict[Any, Any] = {None: output}
        if isinstance(output, Mapping):
            self.parts = dict(output)
        elif isinstance(output, tuple | list):
            self.parts = dict(enumerate(output))
        elif dataclasses.is_dataclass(output):
            self.parts = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
        tensors = {key: part for key, part in self.parts.items() if isinstance(part, Tensor)}
        if not tensors:
            raise TurningpointError(
                f"the layer {name!r} returns {type(output).__name__}, in which no tensor is; accepted: tensors."
            )
        main = kwargs.get("hidden_states")
        if len(tensors) > 1 and isinstance(main, Tensor) and "encoder_hidden_states" in kwargs:
            tensors = {key: part for key, part in tensors.items() if part.shape == main.shape} or tensors
        self.key, self.tensor = next(iter(tensors.items()))

    def replaced(self, tensor: Tensor) -> Any:
        """The output with another tensor in the place of the one that is meant."""
        output: Any = self.output
        if self.key is None:
            return tensor
        if dataclasses.is_dataclass(output) and not isinstance(output, type):
            return dataclasses.replace(output, **{self.key: tensor})
        if isinstance(output, tuple):
            parts = [*(self.parts | {self.key: tensor}).values()]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        other = copy.copy(output)
        other[self.key] = tensor
        return other
