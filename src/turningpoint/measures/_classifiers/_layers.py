"""Which layers of a classifier are looked at if nobody says: its blocks, or else its activations, and the last layer.

Networks of any depth repeat a few kinds of blocks.  They are found by the names of their classes, which end
in ``Block``, ``Layer``, ``Bottleneck`` and the like in torchvision (``CNBlock``, ``EncoderBlock``), timm
(``ConvNeXtBlock``) and transformers (``ConvNextLayer``, ``ViTLayer``); the outermost ones count.  A plain stack
has none: of it the outputs of the activations are taken, and of a network without modules for its activations
its children.  The last layer with weights, which makes the logits, always comes last.
"""

from __future__ import annotations

import re
from collections import Counter

from torch import nn

_BLOCK = re.compile(
    r"(Block|Layer|BottleNeck|Bottleneck|MBConv|InvertedResidual|SeparableConv|Mixer|Inception\w)$"
)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Tanh, nn.Sigmoid)


def default_layers(network: nn.Module | None) -> tuple[str, ...]:
    """Names of the layers to look at, in the order in which the network registers them.

    Parameters
    ----------
    network : nn.Module or None
        None has no layers.

    Examples
    --------
    >>> default_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)))
    ('1', '3')
    """
    if network is None:
        return ()
    names = _blocks(network) or _activations(network) or _children(network)
    last = _last(network)
    return tuple(name for name in names if name != last) + ((last,) if last else ())


def _blocks(network: nn.Module) -> list[str]:
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and _BLOCK.search(type(module).__name__):
            found[name] = type(module).__name__
    repeated = Counter(found.values())
    return [name for name, kind in found.items() if repeated[kind] > 1]


def _activations(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if name and isinstance(module, _ACTIVATIONS)]


def _children(network: nn.Module, prefix: str = "") -> list[str]:
    names = []
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            names += _children(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            names.append(prefix + name)
    return names


def _last(network: nn.Module) -> str:
    """The last module that holds weights itself; a network that is one module has no name for it."""
    own = [
        name for name, module in network.named_modules() if next(module.parameters(False), None) is not None
    ]
    return own[-1] if own else ""
