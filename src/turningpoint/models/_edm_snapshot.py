r"""The networks in the pickles of EDM, rebuilt from what is recorded of them.

A snapshot is a dictionary with the averaged network under ``ema``; a training state has the one being trained
under ``net``.  It is a preconditioning that holds a U-Net under ``model``, and each of the two, as every layer
in them, is an object of ``torch_utils.persistence``: the class's bare name, its source as text, the arguments of its
constructor, and its ``__dict__``.  The restricted reader takes all of it as data.  The source is never run; only a
licence that it names is told.  Classes of the recorded names are built from the recorded arguments here, first
without memory ("meta"), so that the shapes are compared with the file's before anything is allocated.
"""

from __future__ import annotations

import inspect
import math
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TurningpointError
from ._networks.dhariwal import DhariwalUNet
from ._networks.songunet import SongUNet
from ._preconditioning import EDMPrecond, Preconditioning, VEPrecond, VPPrecond, iDDPMPrecond
from ._reading.checkpoint import load_tensors
from ._reading.nodes import Node, Persistent, state_dict
from ._reading.opcodes import shown

PRECONDITIONINGS: dict[str, type[Preconditioning]] = {
    kind.__name__: kind for kind in (EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond)
}
NETWORKS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
WEIGHTS = {"ema": "ema (averaged)", "net": "net (of a training state, not averaged)"}
NAMED = {
    ("positional", "standard", "standard"): "ddpm++",
    ("fourier", "residual", "standard"): "ncsn++",
}
"""What a SongUNet's embedding, encoder and decoder together are called."""

_LEAST = {
    **dict.fromkeys(("img_resolution", "in_channels", "out_channels", "img_channels", "model_channels"), 1),
    **dict.fromkeys(("channel_mult_emb", "channel_mult_noise", "channel_mult", "attn_resolutions", "M"), 1),
    **dict.fromkeys(("label_dim", "augment_dim", "num_blocks"), 0),
}
_MOST = 2**20


@dataclass(frozen=True)
class Recorded:
    """A network and its preconditioning, rebuilt.

    Attributes
    ----------
    weights : str
        Where in the file they were.
    network : nn.Module
        The bare U-Net.
    arguments : dict
        Those of the U-Net's constructor.
    preconditioning : Preconditioning
        What surrounds it.
    facts : dict
        ``img_resolution``, ``img_channels``, ``label_dim``.
    use_fp16 : bool
        Whether its authors run it in half precision where they can.
    licence : str or None
        What the file says of it.
    """

    weights: str
    network: nn.Module
    arguments: dict[str, Any]
    preconditioning: Preconditioning
    facts: dict[str, int]
    use_fp16: bool
    licence: str | None

    def about(self) -> dict[str, Any]:
        """What `Denoiser.about` tells."""
        kind = type(self.network).__name__
        if kind == "SongUNet":
            parts = tuple(self.arguments[f"{part}_type"] for part in ("embedding", "encoder", "decoder"))
            family = NAMED.get(parts, " ".join(parts))
        else:
            family = "ADM"
        around = self.preconditioning
        constants = "".join(f", {name} {value:g}" for name, value in around.config().items())
        about: dict[str, Any] = {
            "format": "EDM pickle",
            "network": f"{kind} ({family})",
            "weights": self.weights,
            "preconditioning": f"{type(around).__name__}{constants}",
            "noise levels": f"sigma {around.sigma_min:g} to {around.sigma_max:g}",
            "augmentation inputs": self.arguments["augment_dim"],
            "half precision": "used by its authors" if self.use_fp16 else "not used by its authors",
            "arguments": dict(self.arguments),
        }
        return about | ({} if self.licence is None else {"licence": self.licence})


def recorded_network(value: Any, where: str) -> Recorded:
    """The network of a snapshot.

    Parameters
    ----------
    value : Any
        As `read_checkpoint` returns it.
    where : str
        The file, for sentences.

    Raises
    ------
    TurningpointError
        If it holds no network that is known here, or parts that do not fit together.
    """
    holder, key = _holder(value, where)
    source = f"{key} of {where}" if key else where
    inside = holder.modules.get("model")
    if not isinstance(inside, Persistent) or inside.class_name not in NETWORKS:
        found = f"a {reprlib.repr(inside.class_name)}" if isinstance(inside, Node) else "no network"
        raise TurningpointError(f"{source} holds {found} as its model; accepted: {', '.join(NETWORKS)}.")
    arguments = _arguments(inside, NETWORKS[inside.class_name], source)
    preconditioning, facts = _preconditioning(holder, source)
    channels = facts["img_channels"]
    expected = {name: facts[name] for name in ("img_resolution", "label_dim")}
    expected |= {"in_channels": channels, "out_channels": preconditioning.output_channels(channels)}
    for name, wanted in expected.items():
        if arguments[name] != wanted:
            raise TurningpointError(
                f"{name} of the {inside.class_name} in {source} is {arguments[name]}; accepted in its "
                f"{holder.class_name}: {wanted}."
            )
    return Recorded(
        WEIGHTS.get(key, "the file's only network"),
        _network(inside, arguments, source),
        arguments,
        preconditioning,
        facts,
        bool(holder.state.get("use_fp16")),
        stated_licence(holder.module_src),
    )


def _holder(value: Any, where: str) -> tuple[Persistent, str]:
    """The preconditioning in a file, and the key that it was found under."""
    found, key = value, ""
    if isinstance(value, dict):
        key = next((name for name in WEIGHTS if value.get(name) is not None), "")
        if not key:
            keys = sorted(shown(str(key)) for key in value)
            held = f"the keys {', '.join([*keys[:3], *['...'][: len(keys) - 3]])}" if keys else "nothing"
            raise TurningpointError(
                f"{where} holds no network of EDM but {held}; accepted: {', '.join(WEIGHTS)}."
            )
        found = value[key]
    if isinstance(found, Persistent) and found.class_name in PRECONDITIONINGS:
        return found, key
    kind = reprlib.repr(found.class_name if isinstance(found, Node) else type(found).__name__)
    raise TurningpointError(
        f"{f'{key} of ' if key else ''}{where} is of the class {kind}; accepted: {', '.join(PRECONDITIONINGS)}."
    )


def _bound(node: Persistent, constructor: Callable[..., Any], source: str) -> dict[str, Any]:
    """The arguments that an object was made with by name, with the defaults of its constructor."""
    try:
        bound = inspect.signature(constructor).bind(*node.init_args, **node.init_kwargs)
    except TypeError as error:
        raise TurningpointError(f"{node.class_name} in {source} cannot be made: {error}.") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def _whole(name: str, value: Any, node: Persistent, source: str) -> int:
    number, least = _real(name, value, node, source), _LEAST[name]
    if int(number) != number or not least <= number <= _MOST:
        raise _wrong(name, value, node, source, f"a whole number from {least} to {_MOST}")
    return int(number)


def _arguments(node: Persistent, kind: type[nn.Module], source: str) -> dict[str, Any]:
    """The arguments of a U-Net, each of the type that it must have."""
    arguments = _bound(node, kind, source)
    for name, value in arguments.items():
        if name in ("channel_mult", "attn_resolutions", "resample_filter"):
            value = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value  # noqa: PLW2901
            if not isinstance(value, list | tuple) or len(value) > 64:
                raise _wrong(name, value, node, source, "at most 64 numbers")
            if name in _LEAST:
                arguments[name] = [_whole(name, entry, node, source) for entry in value]
            else:
                arguments[name] = [_real(name, entry, node, source) for entry in value]
        elif name in _LEAST:
            arguments[name] = _whole(name, value, node, source)
        elif name.endswith("dropout"):
            arguments[name] = _real(name, value, node, source)
        elif not isinstance(value, str):
            raise _wrong(name, value, node, source, "text")
    return arguments


def _real(name: str, value: Any, node: Persistent, source: str, infinite: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (abs(value) <= sys.float_info.max or (infinite and value == math.inf)):
        raise _wrong(name, value, node, source, "a number")
    return cast(float, value)


def _wrong(name: str, value: Any, node: Persistent, source: str, accepted: str) -> TurningpointError:
    """The error for an argument, which may be of any type and size."""
    if isinstance(value, int) and abs(value) > _MOST**3:
        short = "a very large number"
    elif isinstance(value, bool | int | float | str) or value is None:
        short = reprlib.repr(value)
    else:
        short = f"of type {type(value).__name__}"
    return TurningpointError(f"{name} of the {node.class_name} in {source} is {short}; accepted: {accepted}.")


def _network(node: Persistent, arguments: Mapping[str, Any], source: str) -> nn.Module:
    tensors = state_dict(node)
    blocks = len(arguments["channel_mult"]) * (2 * arguments["num_blocks"] + 1)
    if blocks > len(tensors):
        raise TurningpointError(
            f"{node.class_name} in {source} has {len(tensors)} tensors; accepted for the {blocks} blocks of its "
            "arguments: more."
        )
    try:
        with torch.device("meta"):
            network = NETWORKS[node.class_name](**arguments)
    except TurningpointError as error:
        raise TurningpointError(f"{node.class_name} in {source}: {error}") from None
    except (RuntimeError, OverflowError, TypeError) as error:
        raise TurningpointError(
            f"{node.class_name} in {source} has arguments that imply tensors of no possible size; accepted: those "
            "of the tensors in the file."
        ) from error
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise TurningpointError(f"{source} has tensors of whole numbers; accepted: floating-point weights.")
    load_tensors(network, tensors, source)
    return network.float().eval().requires_grad_(False)


def _preconditioning(node: Persistent, source: str) -> tuple[Preconditioning, dict[str, int]]:
    """The preconditioning, and what the file says of the images."""
    made_with = dict(zip(("img_resolution", "img_channels", "label_dim"), node.init_args, strict=False))
    known = made_with | node.init_kwargs | node.state
    facts = {
        name: _whole(name, known.get(name, 0), node, source)
        for name in ("img_resolution", "img_channels", "label_dim")
    }
    kind = PRECONDITIONINGS[node.class_name]
    constants: dict[str, Any] = {
        name: _whole(name, known[name], node, source)
        if name == "M"
        else _real(name, known[name], node, source)
        for name in kind.settings
        if name in known
    }
    own = {name: tensor for name, tensor in state_dict(node).items() if not name.startswith("model.")}
    if kind is iDDPMPrecond:
        constants["u"] = _table(own.pop("u", None), constants.get("M", 1000), node, source)
    if own:
        raise TurningpointError(
            f"{node.class_name} in {source} has the tensor {reprlib.repr(min(own))}; accepted: a network and its "
            "constants."
        )
    try:
        preconditioning = kind(**constants)
    except (ValueError, OverflowError) as error:
        raise TurningpointError(
            f"{node.class_name} in {source} has the constants {constants}, which give no noise levels; accepted: "
            "constants of a noise level that rises with time."
        ) from error
    for name in ("sigma_min", "sigma_max"):
        if name in known:
            setattr(preconditioning, name, float(_real(name, known[name], node, source, infinite=True)))
    return preconditioning, facts


def _table(u: Tensor | None, steps: int, node: Persistent, source: str) -> Tensor:
    """iDDPM's noise levels from the file."""
    if u is None or tuple(u.shape) != (steps + 1,) or not u.is_floating_point():
        found = "missing" if u is None else f"of shape {tuple(u.shape)} and type {u.dtype}"
        raise TurningpointError(
            f"u of the {node.class_name} in {source} is {found}; accepted: {steps + 1} noise levels."
        )
    if not bool(u.isfinite().all()) or float(u[-1]) != 0 or not bool((u[1:] < u[:-1]).all()):
        raise TurningpointError(
            f"u of the {node.class_name} in {source} is out of order; accepted: noise levels that fall to 0."
        )
    return u


def stated_licence(text: str) -> str | None:
    r"""The licence that a source text says it is under, if it does so near its beginning.

    >>> stated_licence("# This work is licensed under a Free\n# and Open 1.0 License.  You may")
    'Free and Open 1.0 License'
    """
    plain = re.sub(r"[\s#]+", " ", text[:4000])
    stated = re.search(r"licen[cs]ed under (?:an? |the )?([^;:]{2,120}? licen[cs]e)\b", plain, re.IGNORECASE)
    return None if stated is None else stated[1]
