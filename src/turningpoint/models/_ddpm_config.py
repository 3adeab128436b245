r"""What a DDPM's checkpoint does not say: score_sde's configuration, from settings or a JSON file, checked.

A configuration is ``{"model": {...}, "data": {...}}``, perhaps under ``"config"`` beside other sections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TurningpointError, one_of
from ._networks.ddpm_unet import NONLINEARITIES, Layout
from .settings import number, whole

READ_OFF = (
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "resamp_with_conv",
    "conditional",
    "num_channels",
)
"""What the tensors say; if given too, it must agree."""
CHOSEN = (
    "image_size", "num_scales", "beta_min", "beta_max", "centered", "nonlinearity", "scale_by_sigma",
    "sigma_min", "sigma_max", "name", "normalization",
)  # fmt: skip
"""What they do not say."""
WITHOUT_EFFECT = ("dropout", "ema_rate", "embedding_type", "dataset", "random_flip", "uniform_dequantization")
"""What a configuration holds besides and an answer of the network does not depend on."""
LARGEST_CONFIG = 1 << 20
"""Bytes of a JSON file that is taken for a configuration."""
USUAL_ATTENTION = 16
"""The resolution of attention in every published configuration, from which a size is guessed."""


def configuration(config: Any, given: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """Checked settings by their names in a configuration, and where they come from."""
    if config is None:
        root = path.parent.parent if path.parent.name.startswith("checkpoints") else path.parent
        beside = (path.with_suffix(".json"), path.parent / "config.json", root / "config.json")
        config = next((file for file in beside if file.is_file()), None)
    source = "none: settings and defaults" if config is None else "given"
    if isinstance(config, str | Path):
        source, config = str(config), _json(Path(config).expanduser())
    flat = _flat(config) if config is not None else {}
    known = (*READ_OFF, *CHOSEN)
    single: dict[str, Any] = {}
    for name, value in given.items():
        bare = re.sub(r"^(config\.)?(model|data)\.", "", name)
        if bare not in (*known, *WITHOUT_EFFECT):
            raise one_of("a setting of ddpm", name, ("weights", "config", *known))
        single[bare] = value
    return {name: _value(name, value) for name, value in (flat | single).items() if name in known}, source


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise TurningpointError(
            f"config is {str(path)!r}, which cannot be read; accepted: a JSON file of a configuration."
        ) from None


def _flat(config: Any) -> dict[str, Any]:
    """The entries of a configuration's sections ``model`` and ``data``, or of one without sections."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(config, Mapping) and isinstance(config.get("config"), Mapping):
        config = config["config"]
    if not isinstance(config, Mapping):
        raise TurningpointError(
            f"config is of type {type(config).__name__}; accepted: a mapping with model and data, or a JSON file."
        )
    if "model" not in config and "data" not in config:
        return dict(config)
    flat: dict[str, Any] = {}
    for section in ("model", "data"):
        inner: Any = config.get(section)
        inner = inner.to_dict() if hasattr(inner, "to_dict") else inner
        flat |= inner if isinstance(inner, Mapping) else {}
    return flat


def _value(name: str, value: Any) -> Any:
    """One setting, as the type that it is."""
    if name in ("ch_mult", "attn_resolutions"):
        parts = value.replace(" ", "").strip("()[],").split(",") if isinstance(value, str) else value
        parts = list(parts) if isinstance(parts, list | tuple | np.ndarray) else [parts]
        return tuple(whole(name, _text(part)) for part in parts if part != "")
    if name in ("resamp_with_conv", "conditional", "centered", "scale_by_sigma"):
        truth = {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
        if truth is None:
            raise one_of(name, value, (True, False))
        return truth
    if name in ("beta_min", "beta_max", "sigma_min", "sigma_max"):
        return number(name, _text(value), 0.0)
    accepted = {"nonlinearity": list(NONLINEARITIES), "name": ["ddpm"], "normalization": ["GroupNorm"]}
    if name not in accepted:
        return whole(name, _text(value))
    if value not in accepted[name]:
        raise one_of(name, value, accepted[name])
    return value


def _text(value: Any) -> Any:
    """A number that was written as text."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def agreed_size(given: Mapping[str, Any], layout: Layout) -> tuple[int, str]:
    """The size of images, and where it comes from, once the settings are found to agree with the file."""
    for name in READ_OFF:
        found = getattr(layout, name, None)
        if name in given and name != "attn_resolutions" and given[name] != found:
            raise TurningpointError(f"{name} is {given[name]}; accepted by this file: {found}.")
    levels, attention = range(len(layout.ch_mult)), layout.attention
    resolutions: tuple[int, ...] | None = given.get("attn_resolutions")

    def attended(size: int) -> tuple[int, ...]:
        return tuple(level for level in levels if size // 2**level in (resolutions or ()))

    if "image_size" in given:
        size, note = given["image_size"], "given"
        if resolutions is not None and attended(size) != attention:
            at = [size // 2**level for level in attention]
            raise TurningpointError(
                f"attn_resolutions is {resolutions} for image_size {size}; accepted by this file: {at}."
            )
    elif resolutions is not None:
        sizes = sorted({r * 2**level for r in resolutions for level in levels})
        fitting = [size for size in sizes if attended(size) == attention]
        if not fitting:
            raise TurningpointError(
                f"attn_resolutions is {resolutions}; accepted by this file: those of attention at levels "
                f"{list(attention)} of {len(levels)}."
            )
        size, note = fitting[0], "from attn_resolutions"
    elif len(attention) == 1:
        size = USUAL_ATTENTION * 2 ** attention[0]
        note = f"assumed, as it is if attn_resolutions is ({USUAL_ATTENTION},); give image_size if not"
    else:
        size, note = 32, "assumed; give image_size if it is not"
    if size % 2 ** levels[-1]:
        raise TurningpointError(
            f"image_size is {size}; accepted by this file: a multiple of {2 ** levels[-1]}."
        )
    return size, note
