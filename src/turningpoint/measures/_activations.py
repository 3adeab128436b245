r"""Activations: what the named layers of a network answer, looked at while a batch passes.

A network runs its modules in some order; the output :math:`a_l` of module :math:`l` has a row per image and one
of three forms:

============  ======  ==============================================================
shape         form    example
============  ======  ==============================================================
(B, C, H, W)  map     a convolution; C channels at H x W positions
(B, T, C)     tokens  a transformer's block; C channels at T positions
(B, C)        vector  a classifier's head; C numbers
============  ======  ==============================================================

(A few networks of torchvision, such as Swin, lay maps out as (B, H, W, C), which cannot be told from the first form.)

Nothing is kept: a function ``look`` is called with :math:`a_l` at the moment when module :math:`l` returns it
(before a later layer can change it in place), and only its result stays.  So a batch costs the memory
of its widest layer, whatever the number of layers.  Where a module runs several times in one pass, its last call
counts; of an output that is a tuple or a mapping, the first tensor.

Layers are named as `torch.nn.Module.named_modules` names them.  In a pattern ``*``, ``?`` and ``[0-3]`` stand for
characters within one part of a name, and the part ``**`` for any number of parts: ``stages.*`` are the stages,
``stages.**`` all that is in them.  The network's own answer is the layer ``logits``; it comes last, and is left out
if the last named module has given it already.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import TurningpointError
from ._classifiers import ImageClassifier

T = TypeVar("T")

LOGITS = "logits"
FORMS = {4: "map", 3: "tokens", 2: "vector"}
"""By the number of dimensions of a layer's output."""


@dataclass(frozen=True)
class Layer:
    """A layer that can be looked at.

    Parameters
    ----------
    name : str
        The module's, or ``logits``.
    form : str
        ``map``, ``tokens`` or ``vector``.
    channels : int
        How many numbers it has at a position.
    """

    name: str
    form: str
    channels: int


def matching(network: nn.Module, patterns: Sequence[str], argument: str = "layers") -> list[list[str]]:
    """The names of modules that each pattern means, in the order in which the network registers them.

    Parameters
    ----------
    network : nn.Module
        The network.
    patterns : sequence of str
        Names or patterns; ``logits`` is always one.
    argument : str
        The name of the user's argument.

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
    names = [name for name, _ in network.named_modules() if name]
    found = []
    for pattern in patterns:
        hits = [name for name in names if _fits(name.split("."), pattern.split("."))]
        if not hits and pattern != LOGITS:
            near = difflib.get_close_matches(pattern, [*names, LOGITS], 3, 0) or [LOGITS]
            raise TurningpointError(
                f"{argument} is {pattern!r}, which no layer of the network is called; accepted: names and patterns, "
                f"the nearest being {', '.join(near)}."
            )
        found.append(hits or [LOGITS])
    return found


def _fits(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[k:], pattern[1:]) for k in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])


@contextlib.contextmanager
def watching(
    network: nn.Module | None, names: Sequence[str], look: Callable[[str, Tensor], T]
) -> Iterator[dict[str, T]]:
    """While the block runs, ``look`` sees the output of each named module as soon as there is one.

    Parameters
    ----------
    network : nn.Module or None
        None has no modules to name.
    names : sequence of str
        Of modules of the network.
    look : callable
        ``look(name, output)``; what it returns is kept, of a module that runs again the last.

    Yields
    ------
    dict
        What ``look`` returned, by name in the order of (last) execution.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with watching(net, ["1", "0"], lambda name, a: tuple(a.shape)) as seen:
    ...     _ = net(torch.zeros(3, 2, 2))
    >>> seen
    {'0': (3, 4), '1': (3, 2)}
    """
    seen: dict[str, T] = {}

    def watch(name: str, output: Any) -> None:
        tensor = _first_tensor(output)
        if tensor is None:
            raise TurningpointError(
                f"the layer {name!r} returns {type(output).__name__}, in which no tensor is; accepted: tensors."
            )
        seen.pop(name, None)
        seen[name] = look(name, tensor)

    with contextlib.ExitStack() as hooks:
        for name in names:
            module = network.get_submodule(name) if network is not None else None
            if module is not None:
                handle = module.register_forward_hook(lambda m, i, output, name=name: watch(name, output))
                hooks.callback(handle.remove)
        yield seen


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return output if isinstance(output, Tensor) else None


@torch.inference_mode()
def look_at(
    classifier: ImageClassifier, prepared: Tensor, names: Sequence[str], look: Callable[[str, Tensor], T]
) -> dict[str, T]:
    """Let a batch through a classifier once, and look at its layers on the way.

    Parameters
    ----------
    classifier : ImageClassifier
        Whose network it is.
    prepared : Tensor (B, ...)
        What `ImageClassifier.prepare` gave.
    names : sequence of str
        Layers, by the names of `layers_of`.
    look : callable
        As in `watching`; the tensors are on the network's device, in its own floating type, and not to be kept:
        a later layer may overwrite them.

    Returns
    -------
    dict
        What ``look`` returned, by name.
    """
    with watching(classifier.module, [name for name in names if name != LOGITS], look) as seen:
        logits = classifier(prepared)
    if LOGITS in names:
        seen[LOGITS] = look(LOGITS, logits)
    return seen


def layers_of(
    classifier: ImageClassifier,
    prepared: Tensor,
    patterns: str | Sequence[str] | None = None,
    argument: str = "layers",
) -> tuple[Layer, ...]:
    """The layers that patterns mean, in the order of execution, found by letting one image through.

    Parameters
    ----------
    classifier : ImageClassifier
        Whose network it is.
    prepared : Tensor (B, ...)
        One or more prepared images.
    patterns : str or sequence of str, optional
        Names or patterns, several in one string by commas; by default the classifier's own.
    argument : str
        The name of the user's argument.

    Returns
    -------
    tuple of Layer
        With ``logits`` at the end, if the last module has not given them.

    Raises
    ------
    TurningpointError
        If the classifier cannot be looked into, a pattern matches no layer that runs, or a layer's output has
        another form than those of the table above.
    """
    network = classifier.module
    if network is None:
        raise TurningpointError(
            f"classifier is {classifier.name!r}, which has no layers to look at; accepted for layers: networks of "
            "torch, such as efficientnet-lite0, torchvision:NAME, timm:NAME, transformers:PATH."
        )
    asked = [patterns] if isinstance(patterns, str) else classifier.layers if patterns is None else patterns
    asked = [part.strip() for text in asked for part in str(text).split(",") if part.strip()]
    if patterns is not None and not asked:
        raise TurningpointError(f"{argument} is {patterns!r}; accepted: names of layers, or patterns.")
    found = matching(network, asked, argument)
    names = list(dict.fromkeys(name for hits in found for name in hits if name != LOGITS))
    twice = torch.cat([prepared[:1], prepared[:1]])

    def described(name: str, output: Tensor) -> tuple[tuple[int, ...], Tensor]:
        return tuple(output.shape), output[
            :1
        ].float().cpu().clone() if output.ndim == 2 else output.new_empty(0)

    seen = look_at(classifier, twice, [*names, LOGITS], described)
    logits = seen.pop(LOGITS)
    for pattern, hits in zip(asked, found, strict=True):
        if not any(name in seen or name == LOGITS for name in hits):
            raise TurningpointError(
                f"{argument} is {pattern!r}, which does not run when {classifier.name!r} looks at an image; "
                f"accepted: layers that do, such as {', '.join(list(seen)[:3]) or LOGITS}."
            )
    if not seen or not torch.equal(list(seen.values())[-1][1], logits[1]):
        seen[LOGITS] = logits
    return tuple(_layer(name, shape) for name, (shape, _) in seen.items())


def _layer(name: str, shape: tuple[int, ...]) -> Layer:
    if len(shape) not in FORMS or shape[0] != 2:
        raise TurningpointError(
            f"the layer {name!r} makes {shape} of 2 images; accepted: (2, channels, height, width), (2, tokens, "
            "channels) or (2, channels)."
        )
    form = FORMS[len(shape)]
    return Layer(name, form, shape[-1] if form == "tokens" else shape[1])
