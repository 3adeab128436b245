"""When to turn, or to part: times on one of the three clocks, as a run keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError

DEFAULT_TIMES = tuple(round(0.1 * k, 1) for k in range(1, 10))
DEFAULT_LOGSNR = tuple(-8 + 1.25 * k for k in range(9))
"""Instead of `DEFAULT_TIMES` where these would lie below the smallest time that a sampler visits (EDM)."""


def turn_times(
    schedule: Schedule,
    times: Sequence[float] | None = None,
    logsnr: Sequence[float] | None = None,
    native: Sequence[float] | None = None,
) -> list[float]:
    """U-turn times t in (0, 1], ascending, each once, where the model's network knows them.

    Raises
    ------
    TurningpointError
        If several clocks are given, or a time is outside (0, 1].
    """
    clocks = {"times": times, "logsnr": logsnr, "native": native}
    given = {name: value for name, value in clocks.items() if value is not None}
    if len(given) > 1:
        raise TurningpointError(f"{' and '.join(given)} are given; accepted: one of times, logsnr, native.")
    usual = ("times", DEFAULT_TIMES) if schedule.t_min <= DEFAULT_TIMES[0] else ("logsnr", DEFAULT_LOGSNR)
    name, values = next(iter(given.items()), usual)
    asked = decimals(name, values)
    t = asked if name == "times" else schedule.t(**{name: asked}).numpy()
    if t.size == 0:
        raise TurningpointError(f"{name} is empty; accepted: one or more times.")
    for value, time in zip(asked, t, strict=True):
        if not 0 < time <= 1 + 1e-9:
            raise TurningpointError(
                f"{name} holds {value:g}" + ("" if name == "times" else f", which is t = {time:g}")
                + "; accepted: times t with 0 < t <= 1."
            )  # fmt: skip
    snapped = schedule.snap(np.minimum(t, 1.0)).numpy()
    if snapped.min() <= 0:
        raise TurningpointError(
            f"{name} holds {asked[snapped.argmin()]:g}, which is before the model's first step."
        )
    return sorted({round(float(time), 12) for time in snapped})


def decimals(argument: str, values: Any) -> np.ndarray:
    """Numbers as float64 (n,); those given in float32 become the decimals that were meant.

    >>> decimals("times", np.float32(0.3))
    array([0.3])
    """
    try:
        given = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        flat = np.atleast_1d(given).astype(np.float64)
        if flat.ndim != 1:
            raise ValueError
    except (TypeError, ValueError):
        raise TurningpointError(
            f"{argument} is {values!r}; accepted: a number, or a list of numbers."
        ) from None
    if given.dtype in (np.float32, np.float16):
        flat = np.array([float(f"{value:.7g}") for value in flat])
    return flat
