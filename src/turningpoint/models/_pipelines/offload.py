"""Large pipelines on small devices: parts that wait in main memory until they are called.

``model`` moves whole parts (text encoders, network, autoencoder), one of them on the device at a time;
``sequential`` moves single layers.  Both are hooks of accelerate.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...errors import TurningpointError

OFFLOADS = ("model", "sequential")
Model = TypeVar("Model", bound=nn.Module)


def offloaded(model: Model, how: str, device: torch.device | None = None) -> Model:
    """``model`` with hooks on its parts, in place.

    Parameters
    ----------
    model : nn.Module
        A denoiser with its weights in main memory; moving it afterwards does nothing.
    how : str
        ``model`` or ``sequential``.
    device : torch.device, optional
        Where to compute; by default a GPU if there is one.

    Raises
    ------
    TurningpointError
        If accelerate is not installed.
    """
    try:
        import accelerate
        from accelerate.hooks import ModelHook, add_hook_to_module
        from accelerate.utils import send_to_device
    except ImportError:
        raise TurningpointError(
            f"offload is {how!r}, which needs accelerate; install it: pip install accelerate."
        ) from None
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    parts, weights = _parts(model), dict[str, Tensor]()
    if how == "sequential":  # which leaves no tensors in the model itself
        weights.update(model.state_dict())
        for part in parts:
            accelerate.cpu_offload(part, place, offload_buffers=bool(part._parameters))
    else:

        class Alone(ModelHook):  # type: ignore[misc]
            """Before a part is called: the others leave, it comes, its inputs follow."""

            execution_device = place

            def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                for part in parts:
                    goal = place if part is module else torch.device("cpu")
                    if next(part.parameters()).device != goal:
                        part.to(goal)
                return send_to_device(args, place), send_to_device(kwargs, place)

        for part in parts:
            add_hook_to_module(part, Alone())

    def keep(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        state.pop(f"{prefix}place")
        state.update({prefix + name: tensor for name, tensor in weights.items()})

    # whoever asks where the model is looks at its first parameter: that is where it computes
    model.register_parameter("place", nn.Parameter(torch.empty(0, device=place), requires_grad=False))
    model.register_state_dict_post_hook(keep)
    model._apply = lambda fn, recurse=True: model  # type: ignore[assignment]
    return model


def _parts(model: nn.Module) -> list[nn.Module]:
    """The networks of `diffusers` and `transformers` inside a denoiser."""
    from diffusers import ModelMixin

    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            own = isinstance(child, ModelMixin) or type(child).__module__.startswith("transformers.")
            found.append(child) if own else search(child)

    search(model)
    return found
