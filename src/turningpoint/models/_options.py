"""What every loaded model can be told about how it computes: precision, device, memory layout, compilation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..diffusion.denoiser import Denoiser, NetworkDenoiser
from ..errors import TurningpointError, one_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OF_THE_MACHINE = ("device", "channels_last", "compile", "offload")
"""Settings that say where and how fast, not what: they are no part of a model's name."""
OPTIONS = ("dtype", "device", "channels_last", "compile", "clip_denoised")


def dtype_of(value: Any) -> torch.dtype:
    """A floating type from its name, or one sentence.

    >>> dtype_of("bfloat16")
    torch.bfloat16
    """
    if isinstance(value, torch.dtype) and value in DTYPES.values():
        return value
    if str(value) not in DTYPES:
        raise one_of("dtype", value, DTYPES)
    return DTYPES[str(value)]


def split_options(
    loader: Callable[..., Denoiser], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a loader takes, and the options that are applied to what it returns."""
    own = inspect.signature(loader).parameters
    options = {key: value for key, value in settings.items() if key in OPTIONS and key not in own}
    return {key: value for key, value in settings.items() if key not in options}, options


def with_options(
    model: Denoiser,
    dtype: Any = None,
    device: str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    clip_denoised: bool | None = None,
) -> Denoiser:
    """``model``, told how to compute.

    Parameters
    ----------
    model : Denoiser
        As its loader returned it.
    dtype : str, optional
        ``float32``, ``float16`` or ``bfloat16`` for the network; all that is around it stays float32.
    device : str, optional
        Where it is to run.
    channels_last : bool
        Lay images out with channels last, which convolutions on some devices are faster with.
    compile : bool
        Hand the network to `torch.compile`.
    clip_denoised : bool, optional
        Clip its estimates of the data to [-1, 1]; for pictures.

    Raises
    ------
    TurningpointError
        If an option is not what is accepted, or the model has no network for it.
    """
    for name, value in (
        ("channels_last", channels_last),
        ("compile", compile),
        ("clip_denoised", clip_denoised),
    ):
        if value not in (None, False, True):
            raise TurningpointError(f"{name} is {value!r}; accepted: True or False.")
    if clip_denoised is not None:
        if clip_denoised and not _clips(model):
            raise TurningpointError(
                f"clip_denoised is {clip_denoised}, but the model {model.name!r} works on no pixels of a network's; "
                "accepted: False."
            )
        model.clip_denoised = bool(clip_denoised)
    if dtype is not None or channels_last or compile:
        if not isinstance(model, NetworkDenoiser):
            given = "dtype" if dtype is not None else "channels_last" if channels_last else "compile"
            raise TurningpointError(f"{given} is given, but the model {model.name!r} has no network.")
        if dtype is not None:
            model.network.to(dtype_of(dtype))
        if channels_last:
            model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            model.network.compile()
    if device is not None:
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise TurningpointError(
                f"device is {device!r}, which torch cannot use here; accepted: cpu, or a device that is there."
            ) from error
    return model


def _clips(model: Denoiser) -> bool:
    return isinstance(model, NetworkDenoiser) and model.decoded_shape == model.shape
