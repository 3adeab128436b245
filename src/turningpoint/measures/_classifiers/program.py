"""``program:FILE``: TorchScript (``.pt``, ``.ts``) or ``torch.export`` (``.pt2``), which must be trusted.

Such a file is a program, so it is run only if the user says so: ``trust_program=True``, ``--trust-program``.
Pictures are prepared by `_preprocessing.Steps`: with ImageNet's mean and standard deviation by default, cut to the
height and width that an exported program was written for; TorchScript tells none, and takes images as large as they
are unless ``size`` is given.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import TurningpointError
from ...models._pipelines.pipeline_folder import reason
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._batched import batched
from ._packages import file_of
from ._preprocessing import Steps


@CLASSIFIERS.add("program")
def load(
    request: Request,
    size: Any = None,
    resize: Any = None,
    mean: Any = None,
    std: Any = None,
    interpolation: str = "bilinear",
    levels: str = "rounded",
) -> ImageClassifier:
    """A program that makes logits (B, K) of pictures (B, 3, H, W).

    Parameters
    ----------
    request : Request
        With the path of the file.
    size, resize, mean, std, interpolation, levels
        As `Steps.given` takes them.

    Raises
    ------
    TurningpointError
        If it is not trusted, or the file is no program.
    """
    who = f"classifier 'program:{request.where}'"
    path = file_of(request.where, "program")
    if not request.trust_program:
        raise TurningpointError(
            f"{who} is a program, which would be run; accepted: onnx:FILE, or --trust-program (trust_program=True) if "
            "you trust its origin."
        )
    kind = _kind(path)
    try:
        if kind == "script":
            script = torch.jit.load(str(path), map_location=request.device).eval()
            run: Callable[[Tensor], Any] = script.__call__
            shape: tuple[Any, ...] = ()
        elif kind == "export":
            run, shape = _exported(path, request.device)
        else:
            raise TurningpointError(
                f"{who} holds no program; accepted: TorchScript (.pt, .ts) or torch.export (.pt2)."
            )
    except TurningpointError:
        raise
    except Exception as error:  # whatever a program's loading raises
        raise TurningpointError(f"{who} cannot be loaded: {reason(error)}.") from None
    batch = shape[0] if shape and isinstance(shape[0], int) else None
    sides = [side for side in shape[2:4] if isinstance(side, int)]
    own = (sides[0], sides[1]) if len(sides) == 2 else None
    steps = Steps.given(own if size is None else size, resize, mean, std, interpolation, levels)
    if own is not None and steps.size != own:
        raise TurningpointError(f"size is {size!r} for {who}; accepted: {own[0]},{own[1]}, which it takes.")
    return ImageClassifier(
        f"program:{path.name}",
        batched(run, batch),
        steps,
        identity={"weights": _identity.of_file(path), "preprocessing": steps.settings()},
        device=request.device,
    )


def _kind(path: Path) -> str:
    """``script``, ``export`` or nothing, by what the archive holds."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in f"/{name}" and name.endswith(".py") for name in names):
        return "script"
    exported = ("models/model.json", "serialized_exported_program.json", "archive_format")
    return "export" if any(name.endswith(exported) for name in names) else ""


def _exported(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Any], tuple[Any, ...]]:
    """The program, and the shape that it takes: whole numbers where that is fixed."""
    program = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise TurningpointError(
            f"'program:{path}' takes {len(names)} inputs; accepted: one batch of pictures."
        )
    node = next(node for node in program.graph.nodes if node.name == names[0])
    module = program.module()
    return module.__call__, tuple(node.meta["val"].shape)
