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

Layers are named as `torch.nn.Module.named_modules` names them; patterns are those of `hooks`.  The network's own
answer is the layer ``logits``; it comes last, and is left out if the last named module has given it already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from .. import hooks
from ..errors import TurningpointError
from ..hooks import watching
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
    """The names of modules that each pattern means, as `hooks.matching`; ``logits`` is always one.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))
    >>> matching(net, ["*", "1.**", "logits"])
    [['0', '1'], ['1', '1.0', '1.1'], ['logits']]
    """
    return hooks.matching(network, patterns, argument, also=[LOGITS], wrapped=False)


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
