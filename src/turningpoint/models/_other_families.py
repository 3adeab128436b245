"""A checkpoint under the scheme of another family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import TurningpointError
from ._recognise import CHECKPOINTS


def refuse_other_families(content: Any, scheme: str, where: str | Path) -> None:
    """One sentence if a checkpoint's content is what another scheme reads.

    >>> refuse_other_families({"input_blocks.0.0.weight": None}, "edm", "net.pt")
    Traceback (most recent call last):
    turningpoint.errors.TurningpointError: 'net.pt' is a checkpoint that adm: reads, not edm:.
    """
    if CHECKPOINTS[scheme](content):
        return
    for other, fits in CHECKPOINTS.items():
        if fits(content):
            raise TurningpointError(f"{str(where)!r} is a checkpoint that {other}: reads, not {scheme}:.")
