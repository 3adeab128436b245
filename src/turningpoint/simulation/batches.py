"""Functions of many items, a batch at a time, with a smaller batch where memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import SimulationError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )


@torch.inference_mode()
def in_batches(
    function: Callable[[Tensor], Tensor], items: np.ndarray, device: torch.device, batch: int = 64
) -> np.ndarray:
    """``function`` of every item.

    Parameters
    ----------
    function : callable
        Maps (b, ...) to (b, ...), on the device.
    items : array (n, ...)
        Its argument.
    device : torch.device
        Where it works.
    batch : int
        Rows of a call, halved as often as memory does not suffice.

    Raises
    ------
    SimulationError
        If memory does not suffice for one item.

    Examples
    --------
    >>> in_batches(lambda x: 2 * x, np.arange(5.0), torch.device("cpu"), batch=2)
    array([0., 2., 4., 6., 8.])
    """
    done: list[Tensor] = []
    first = 0
    while first < len(items) or not done:
        rows = torch.from_numpy(np.ascontiguousarray(items[first : first + batch]))
        try:
            done.append(function(rows.to(device)).cpu())
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch == 1:
                raise SimulationError(
                    f"memory does not suffice for one item of shape {items.shape[1:]} between pictures and latents."
                ) from error
            batch //= 2
            continue
        first += batch
    return torch.cat(done).numpy()
