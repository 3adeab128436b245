"""``onnx:FILE``: an ONNX graph, run by onnxruntime.

A graph says what shape it takes and not what its numbers mean.  So pictures are prepared by `_preprocessing.Steps`: by
default cut to the graph's own height and width (as they are if it takes any) from a shorter edge 8/7 of that, and
normalised with ImageNet's mean and standard deviation.  The settings ``size``, ``resize``, ``mean``, ``std``,
``interpolation`` and ``levels`` change that, ``onnx:net.onnx?size=224&mean=0.5&std=0.5``; and so do entries of these
names in the graph's own metadata, where ``classes`` (or ``names``) lists the classes, as JSON or Python writes lists.
Graphs that take their channels last are recognised by their shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import TurningpointError
from ...models._names import literal
from ...models._pipelines.pipeline_folder import reason
from . import CLASSIFIERS, ImageClassifier, Request, _identity
from ._batched import batched
from ._packages import file_of, imported
from ._preprocessing import Steps

INSTALL = "pip install 'turningpoint[onnx]'"
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


@CLASSIFIERS.add("onnx")
def load(
    request: Request,
    size: Any = None,
    resize: Any = None,
    mean: Any = None,
    std: Any = None,
    interpolation: Any = None,
    levels: Any = None,
) -> ImageClassifier:
    """An ONNX graph whose first output is logits (B, K).

    Parameters
    ----------
    request : Request
        With the path of the file.
    size, resize, mean, std, interpolation, levels
        As `Steps.given` takes them; what is not given is looked for in the graph's metadata.

    Raises
    ------
    TurningpointError
        If onnxruntime is missing, the file is no graph, or it takes anything but a batch of pictures.
    """
    who = f"classifier 'onnx:{request.where}'"
    path = file_of(request.where, "onnx")
    runtime = imported("onnxruntime", who, INSTALL)
    wanted = ["CUDAExecutionProvider"] if request.device.type == "cuda" else []
    providers = [one for one in wanted if one in runtime.get_available_providers()] + ["CPUExecutionProvider"]
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # classes of onnxruntime's own, without a common one
        said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", str(error))
        why = reason(RuntimeError(said))
        raise TurningpointError(f"{who} cannot be read ({why}); accepted: an ONNX file.") from None
    taken = session.get_inputs()
    if len(taken) != 1 or len(taken[0].shape) != 4 or taken[0].type not in TYPES:
        shapes = ", ".join(f"{one.type} {one.shape}" for one in taken)
        raise TurningpointError(
            f"{who} takes {shapes}; accepted: one batch of pictures, floats (B, 3, H, W)."
        )
    last = taken[0].shape[3] == 3 and taken[0].shape[1] != 3
    batch, *sides = (taken[0].shape[i] for i in ((0, 1, 2) if last else (0, 2, 3)))
    told = {key: literal(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    own = (sides[0], sides[1]) if all(isinstance(side, int) for side in sides) else None
    given = {"size": size, "resize": resize, "mean": mean, "std": std}
    given |= {"interpolation": interpolation, "levels": levels}
    known = {key: told.get(key) if value is None else value for key, value in given.items()}
    if known["size"] is None:
        known["size"] = own
    steps = Steps.given(**{key: value for key, value in known.items() if value is not None})
    if own is not None and steps.size != own:
        raise TurningpointError(
            f"size is {known['size']!r} for {who}; accepted: {own[0]},{own[1]}, which it takes."
        )
    run = _runner(session, taken[0].name, TYPES[taken[0].type], last)
    return ImageClassifier(
        f"onnx:{path.name}",
        batched(run, batch if isinstance(batch, int) else None),
        steps,
        classes=_classes(told.get("classes", told.get("names"))),
        identity={"weights": _identity.of_file(path), "preprocessing": steps.settings()},
        device="cpu",
    )


def _runner(session: Any, name: str, dtype: torch.dtype, last: bool) -> Callable[[Tensor], Tensor]:
    def run(prepared: Tensor) -> Tensor:
        rows = prepared.permute(0, 2, 3, 1) if last else prepared
        try:
            answer = session.run(None, {name: rows.to(dtype).contiguous().numpy()})[0]
        except Exception as error:  # classes of onnxruntime's own, without a common one
            raise RuntimeError(str(error)) from None
        return torch.from_numpy(answer)

    return run


def _classes(names: Any) -> list[str]:
    """Names as a list or as a mapping from numbers; none if it is neither."""
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names] if isinstance(names, list | tuple) else []
