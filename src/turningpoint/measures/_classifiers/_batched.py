"""Networks that were written down with one size of batch, called with any."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def batched(run: Callable[[Tensor], Tensor], size: int | None) -> Callable[[Tensor], Tensor]:
    """``run`` for any number of rows: in batches of ``size``, the last one filled up with its last row.

    Parameters
    ----------
    run : callable
        (size, ...) to (size, K).
    size : int or None
        None if any number will do.

    Examples
    --------
    >>> batched(lambda rows: rows.reshape(2, 1), 2)(torch.arange(3))
    tensor([[0], [1], [2]])
    """
    if size is None:
        return run

    def call(rows: Tensor) -> Tensor:
        answers = []
        for part in rows.split(size):
            full = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            answers.append(run(full)[: len(part)])
        return torch.cat(answers)

    return call
