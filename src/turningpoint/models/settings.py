"""What loaders and experiments are told: numbers and arrays, checked, or one sentence about what is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError


def whole(argument: str, value: Any, least: int = 1, most: int = 2**31) -> int:
    """A whole number from an argument, or one sentence.

    >>> whole("batch", 7)
    7
    """
    try:
        number = int(value)
        if isinstance(value, bool | str) or number != value or not least <= number <= most:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        accepted = "a whole number" if least < 0 else f"a whole number of at least {least}"
        raise TurningpointError(f"{argument} is {value!r}; accepted: {accepted}.") from None
    return number


def number(argument: str, value: Any, least: float = -math.inf) -> float:
    """A finite number of at least ``least``.

    >>> number("std", 1)
    1.0
    """
    fits = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or value < least:
        accepted = "a finite number" if least == -math.inf else f"a number of at least {least:g}"
        raise TurningpointError(f"{argument} is {value!r}; accepted: {accepted}.")
    return float(value)


def array(argument: str, value: Any, *shapes: str, axes: tuple[int, ...] = ()) -> Tensor:
    """A finite float64 tensor from anything that holds numbers.

    Parameters
    ----------
    argument : str
        Its name.
    value : array, Tensor or nested sequence
        The numbers.
    *shapes : str
        What is accepted, for the sentence: ``"(K, d)"``.
    axes : tuple of int
        The numbers of axes that it may have; any if empty.

    Examples
    --------
    >>> array("means", [[0, 1]], "(K, *shape)").shape
    torch.Size([1, 2])
    """
    accepted = f"accepted: numbers of shape {' or '.join(shapes)}"
    try:
        given = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
        tensor = torch.as_tensor(given, dtype=torch.float64).clone()
    except (TypeError, ValueError):
        raise TurningpointError(f"{argument} is not an array of numbers; {accepted}.") from None
    if 0 in tensor.shape or (axes and tensor.ndim not in axes):
        raise TurningpointError(f"{argument} has shape {tuple(tensor.shape)}; {accepted}.")
    if not bool(tensor.isfinite().all()):
        raise TurningpointError(f"{argument} holds numbers that are not finite; accepted: finite numbers.")
    return tensor


def items(argument: str, value: Any) -> Tensor:
    """Items (K, *shape); K numbers are K items of one entry.

    >>> items("means", (-1, 1)).shape
    torch.Size([2, 1])
    """
    tensor = array(argument, value, "(K, *shape)")
    if tensor.ndim == 0:
        raise TurningpointError(f"{argument} is {value!r}; accepted: numbers of shape (K, *shape).")
    return tensor[:, None] if tensor.ndim == 1 else tensor


def exclusive(argument: str, value: Any, **others: Any) -> None:
    """Refuse each of ``others`` that is given beside ``argument``.

    >>> exclusive("means", None, dim=2)
    """
    for name, other in others.items():
        if value is not None and other is not None:
            raise TurningpointError(f"{name} is given beside {argument}; accepted: one of the two.")
