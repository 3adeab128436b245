r"""The flags of guided-diffusion: how they are written, and which of them the tensors tell.

A checkpoint of Dhariwal & Nichol 2021, or of Nichol & Dhariwal 2021, is a state dict and nothing else: what the
network is, was said on the command line of the script that made it.  Most of it can be read off the names and
shapes of the tensors:

======================  =====================================================================================
flag                    where it shows
======================  =====================================================================================
num_channels            ``time_embed.0.weight`` has as many columns
class_cond              there is a ``label_emb.weight``, with a row for each class
learn_sigma             ``out.2.weight`` has twice as many outputs as the image has channels
num_res_blocks          output blocks per resolution, less one; all but the finest end with an enlargement
channel_mult            widths of the first residual block of each resolution
attention_resolutions   input blocks with a ``qkv``
resblock_updown         enlargements are residual blocks (``in_layers``), not convolutions (``conv``)
use_scale_shift_norm    ``emb_layers`` has two numbers per channel
======================  =====================================================================================

The image size, the heads of attention and their order, and the noise schedule leave no trace.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..diffusion.spacing import respaced_steps
from ..errors import TurningpointError, one_of
from .settings import number, whole

Shapes = Mapping[str, tuple[int, ...]]


MOST_LEVELS = 16
MOST_STEPS = 100_000
"""Of ``diffusion_steps``: the schedule is a table of as many numbers."""


def _count(flag: str, value: Any) -> int:
    text = isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value)
    return whole(flag, int(value) if text else value)


def _steps(flag: str, value: Any) -> int:
    steps = _count(flag, value)
    if steps > MOST_STEPS:
        raise TurningpointError(f"{flag} is {steps}; accepted: 1 to {MOST_STEPS}.")
    return steps


def _count_or_none(flag: str, value: Any) -> int:
    return -1 if str(value).strip() == "-1" else _count(flag, value)


def _number(flag: str, value: Any) -> float:
    try:
        return number(flag, float(value) if isinstance(value, str) else value, least=0.0)
    except ValueError:
        raise TurningpointError(f"{flag} is {value!r}; accepted: a number of at least 0.") from None


def _switch(flag: str, value: Any) -> bool:
    answers = {"true": True, "yes": True, "t": True, "y": True, "1": True}
    answers |= {"false": False, "no": False, "f": False, "n": False, "0": False}
    text = str(value).strip().lower()
    if text not in answers:
        raise TurningpointError(f"{flag} is {value!r}; accepted: true or false.")
    return answers[text]


def _numbers(flag: str, value: Any) -> tuple[float, ...]:
    entries = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        numbers = tuple(float(entry) for entry in entries if str(entry).strip())
        if not all(0 < entry < 2**31 for entry in numbers):
            raise ValueError
    except (TypeError, ValueError):
        raise TurningpointError(f"{flag} is {value!r}; accepted: numbers by comma, as in '1,2,4'.") from None
    return numbers


def _family(flag: str, value: Any) -> str:
    if value not in ("linear", "cosine"):
        raise one_of(flag, value, ["linear", "cosine"])
    return str(value)


def _respacing(flag: str, value: Any) -> str:
    entries = value if isinstance(value, list | tuple) else ["" if value is None else value]
    text = ",".join(str(entry).strip() for entry in entries).replace(" ", "")
    if len(text) > 1000:
        raise TurningpointError(f"{flag} has {len(text)} characters; accepted: as many as '10,15,20' needs.")
    return text


READ: dict[str, Callable[[str, Any], Any]] = {
    "image_size": _count,
    "num_channels": _count,
    "num_res_blocks": _count,
    "num_heads": _count,
    "num_heads_upsample": _count_or_none,
    "num_head_channels": _count_or_none,
    "attention_resolutions": _numbers,
    "channel_mult": _numbers,
    "dropout": _number,
    "class_cond": _switch,
    "use_checkpoint": _switch,
    "use_scale_shift_norm": _switch,
    "resblock_updown": _switch,
    "use_fp16": _switch,
    "use_new_attention_order": _switch,
    "learn_sigma": _switch,
    "sigma_small": _switch,
    "diffusion_steps": _steps,
    "noise_schedule": _family,
    "timestep_respacing": _respacing,
    "use_kl": _switch,
    "predict_xstart": _switch,
    "rescale_timesteps": _switch,
    "rescale_learned_sigmas": _switch,
}
"""How each flag is read from what a user, a JSON file or a command line gives."""

DEFAULTS: dict[str, Any] = {
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "predict_xstart": False,
    "rescale_timesteps": False,
    "sigma_small": False,
    "dropout": 0.0,
    "use_fp16": False,
    "use_checkpoint": False,
    "use_kl": False,
    "rescale_learned_sigmas": False,
}
"""Of the flags that leave no trace in the tensors (``resblock_updown`` where there is one resolution)."""

MATTER = (
    "num_heads",
    "use_new_attention_order",
    "diffusion_steps",
    "noise_schedule",
    "predict_xstart",
    "rescale_timesteps",
)
"""Of these, the ones that change what the model answers."""

OF_NETWORK = (
    "num_channels",
    "num_res_blocks",
    "channel_mult",
    "num_heads",
    "num_heads_upsample",
    "num_head_channels",
    "num_classes",
    "dropout",
    "use_scale_shift_norm",
    "resblock_updown",
    "use_new_attention_order",
)
OF_PROCESS = (
    "image_size",
    "in_channels",
    "learn_sigma",
    "predict_xstart",
    "noise_schedule",
    "diffusion_steps",
    "timestep_respacing",
    "rescale_timesteps",
    "sigma_small",
)

CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
"""What an empty ``channel_mult`` means, by ``image_size``."""

_DEFAULT = {flag: DEFAULTS[flag] for flag in MATTER}
_ADM = _DEFAULT | {"num_head_channels": 64, "use_fp16": True}
_ADM_256 = _ADM | {"image_size": 256}
_IDDPM = _DEFAULT | {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True}
_IDDPM_LSUN = _DEFAULT | {"image_size": 256, "num_heads": 1}

PUBLISHED: dict[str, dict[str, Any]] = {
    "64x64_diffusion.pt": _ADM
    | {"image_size": 64, "noise_schedule": "cosine", "use_new_attention_order": True, "dropout": 0.1},
    "128x128_diffusion.pt": _DEFAULT | {"image_size": 128, "use_fp16": True},
    "256x256_diffusion.pt": _ADM_256,
    "256x256_diffusion_uncond.pt": _ADM_256,
    "512x512_diffusion.pt": _ADM | {"image_size": 512, "use_fp16": False},
    "lsun_bedroom.pt": _ADM_256 | {"dropout": 0.1},
    "lsun_cat.pt": _ADM_256 | {"dropout": 0.1},
    "lsun_horse.pt": _ADM_256 | {"dropout": 0.1},
    "lsun_horse_nodropout.pt": _ADM_256,
    "cifar10_uncond_50M_500K.pt": _IDDPM | {"image_size": 32, "dropout": 0.3},
    "cifar10_uncond_vlb_50M_500K.pt": _IDDPM | {"image_size": 32, "dropout": 0.3, "use_kl": True},
    "imagenet64_uncond_100M_1500K.pt": _IDDPM | {"image_size": 64},
    "imagenet64_uncond_vlb_100M_1500K.pt": _IDDPM | {"image_size": 64, "use_kl": True},
    "imagenet64_cond_270M_250K.pt": _IDDPM | {"image_size": 64, "rescale_timesteps": False},
    "lsun_uncond_100M_1200K_bs128.pt": _IDDPM_LSUN,
    "lsun_uncond_100M_2400K_bs64.pt": _IDDPM_LSUN,
}
"""The published checkpoints, by file name: the flags of their READMEs, as far as tensors do not tell them."""


def nearest(flag: str) -> str | None:
    """The flag whose name is most like ``flag``, or None if none is.

    >>> nearest("num_head_chanels"), nearest("lr")
    ('num_head_channels', None)
    """
    return next(iter(difflib.get_close_matches(flag, READ, 1, cutoff=0.8)), None)


def parse(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as values, or one sentence about one that does not exist or cannot be what it is.

    >>> parse({"attention_resolutions": "16,8", "learn_sigma": "True", "timestep_respacing": 25})
    {'attention_resolutions': (16.0, 8.0), 'learn_sigma': True, 'timestep_respacing': '25'}
    """
    for flag, value in given.items():
        if flag not in READ:
            like = nearest(flag)
            meant = f"did you mean {like}" if like else f"accepted: {', '.join(READ)}"
            raise TurningpointError(f"{flag} is {value!r}, but guided-diffusion has no such flag; {meant}.")
    return {flag: READ[flag](flag, value) for flag, value in given.items() if value is not None}


def read_structure(shapes: Shapes, file: str) -> dict[str, Any]:
    """What the tensors tell: the flags of the module's table, and ``in_channels``, ``num_classes``.

    Parameters
    ----------
    shapes : mapping
        The shape of each tensor, by its name.
    file : str
        For sentences.

    Returns
    -------
    dict
        ``attention_resolutions`` as factors of downsampling; ``resblock_updown`` only where there are
        several resolutions.

    Raises
    ------
    TurningpointError
        If it is another kind of network.
    """

    def size(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        if len(shape) <= axis:
            raise TurningpointError(
                f"{file} holds no tensor {name!r} of {axis + 1} axes or more; accepted: a U-Net of guided-diffusion."
            )
        return shape[axis]

    inside: dict[int, set[str]] = {}
    for name in shapes:
        if found := re.match(r"output_blocks\.(\d{1,6})\.(\d{1,6}\.\w+)", name):
            inside.setdefault(int(found[1]), set()).add(found[2])
    if not inside:
        raise TurningpointError(
            f"{file} holds no output_blocks; accepted: a U-Net of guided-diffusion, not a classifier."
        )
    enlarging = [
        {part for part in parts if re.fullmatch(r"[12]\.(in_layers|conv)", part)} for parts in inside.values()
    ]
    levels = 1 + sum(map(bool, enlarging))
    per_level, odd = divmod(len(inside), levels)
    if odd or per_level < 2 or levels > MOST_LEVELS:
        raise TurningpointError(
            f"{file} has {len(inside)} output blocks for {levels} resolutions; accepted: as many for each, 2 or more, "
            f"for at most {MOST_LEVELS}."
        )
    channels = size("time_embed.0.weight", 1)
    if size("time_embed.0.weight", 0) != 4 * channels or channels < 1:
        raise TurningpointError(
            f"{file} has a time_embed.0.weight of shape {shapes['time_embed.0.weight']}; accepted: (4 C, C)."
        )
    first = [1 + level * per_level for level in range(levels)]  # a resolution's blocks and its reduction
    widths = [size(f"input_blocks.{n}.0.out_layers.3.weight", 0) for n in first]
    colours, answers = size("input_blocks.0.0.weight", 1), size("out.2.weight", 0)
    if answers not in (colours, 2 * colours) or colours == answers == 6:
        raise TurningpointError(
            f"{file} takes {colours} channels and returns {answers}; accepted: as many, or twice as many, "
            "which an upsampling network does not."
        )
    found_flags = {
        "num_channels": channels,
        "num_res_blocks": per_level - 1,
        "channel_mult": tuple(width / channels for width in widths),
        "attention_resolutions": tuple(
            2**level for level, n in enumerate(first) if f"input_blocks.{n}.1.qkv.weight" in shapes
        ),
        "class_cond": "label_emb.weight" in shapes,
        "learn_sigma": answers == 2 * colours,
        "use_scale_shift_norm": size("input_blocks.1.0.emb_layers.1.weight", 0) == 2 * widths[0],
        "in_channels": colours,
        "num_classes": size("label_emb.weight", 0) if "label_emb.weight" in shapes else None,
    }
    if levels > 1:
        found_flags["resblock_updown"] = any(part.endswith("in_layers") for p in enlarging for part in p)
    return found_flags


def check_told(told: Mapping[str, Any], found: Mapping[str, Any], file: str) -> None:
    """One sentence if a flag that was given and the tensors contradict each other."""
    size, levels = told["image_size"], len(found["channel_mult"])
    for flag in told:
        if flag not in found:
            continue
        value, fact = told[flag], found[flag]
        if flag == "attention_resolutions":
            factors = {int(size // resolution) for resolution in value if resolution >= 1}
            value, fact = tuple(sorted(value, reverse=True)), tuple(size / factor for factor in fact)
            same = factors & {2**level for level in range(levels)} == set(found[flag])
        elif flag == "channel_mult":
            value, channels = value or CHANNEL_MULT.get(size, fact), found["num_channels"]
            same = [int(mult * channels + 1e-9) for mult in value] == [
                round(mult * channels) for mult in fact
            ]
        else:
            same = value == fact
        if not same:
            raise TurningpointError(
                f"{flag} is {written(value)}, but the tensors of {file} say {written(fact)}."
            )
    side = 2 ** (levels - 1)
    if size % side:
        raise TurningpointError(
            f"image_size is {size}; accepted: a multiple of {side}, for {levels} resolutions."
        )


def check_respacing(text: str, diffusion_steps: int) -> None:
    """One sentence if ``timestep_respacing`` cannot be had of so many steps."""
    if text:
        respaced_steps(diffusion_steps, text)


def written(value: Any) -> str:
    """A flag as it is written on a command line.

    >>> written((0.5, 1.0)), written(64)
    ('0.5,1', '64')
    """
    return ",".join(f"{entry:g}" for entry in value) or "none" if isinstance(value, tuple) else f"{value}"
