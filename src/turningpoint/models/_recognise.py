"""Which family a file or folder belongs to, from what it holds; nothing in it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import TurningpointError


def _is_edm(content: Any) -> bool:
    return isinstance(content, Mapping) and hasattr(content.get("ema"), "class_name")


def _is_adm(content: Any) -> bool:
    return isinstance(content, Mapping) and "input_blocks.0.0.weight" in content


def _is_ddpm(content: Any) -> bool:
    model = content.get("model", content) if isinstance(content, Mapping) else None
    return isinstance(model, Mapping) and any("all_modules." in str(name) for name in model)


CHECKPOINTS: dict[str, Callable[[Any], bool]] = {"edm": _is_edm, "adm": _is_adm, "ddpm": _is_ddpm}
ARRAYS = (".npy", ".npz")


def recognised(where: str | Path) -> str:
    """The scheme that loads what lies at a path: ``edm``, ``adm``, ``ddpm``, ``diffusers`` or ``empirical``.

    Parameters
    ----------
    where : path
        A file or a folder.

    Raises
    ------
    TurningpointError
        If nothing is there, or it is none of these.
    """
    path = Path(where)
    if path.is_dir():
        if any(path.glob("checkpoints/*.pth")) or any(path.glob("checkpoint_*.pth")):
            return "ddpm"
        if any((path / name).is_file() for name in ("model_index.json", "config.json")):
            return "diffusers"
        raise TurningpointError(
            f"{str(where)!r} is a folder without model_index.json, config.json or checkpoints; accepted: a folder of "
            "diffusers or a checkpoint (say empirical:FOLDER for pictures)."
        )
    if not path.is_file():
        raise TurningpointError(
            f"{str(where)!r} is neither a file nor a folder; accepted: a path that exists."
        )
    if path.suffix in ARRAYS:
        return "empirical"
    from ._reading.checkpoint import read_checkpoint

    content = read_checkpoint(path)
    for scheme, fits in CHECKPOINTS.items():
        if fits(content):
            return scheme
    held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise TurningpointError(
        f"{str(where)!r} is a checkpoint of no known family (it holds {held or 'nothing'}); accepted: those of "
        "edm, adm and ddpm."
    )


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
