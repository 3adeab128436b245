"""What a loaded model is, in a few lines for a reader."""

from __future__ import annotations

from typing import Any

from ..diffusion.denoiser import Denoiser, NetworkDenoiser


def describe(model: Denoiser) -> dict[str, Any]:
    """What ``turningpoint inspect`` prints: plain values by name, in the order in which they are read.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> told = describe(load("digits"))
    >>> told["shape"], told["conditioning"], told["predicts"]
    ([1, 28, 28], 'labels 0 to 9, or none', 'v')
    """
    told: dict[str, Any] = {"model": model.name}
    about = dict(model.about)
    licence = about.pop("licence", None)
    told |= {"format": about.pop("format")} if "format" in about else {}
    if isinstance(model, NetworkDenoiser):
        told["network"] = about.pop("network", type(model.network).__name__)
        told["parameters"] = sum(p.numel() for p in model.network.parameters())
        around = sum(p.numel() for p in model.parameters()) - told["parameters"]
        told |= {"parameters around it": around} if around > 0 else {}
        told |= {"dtype": str(model.dtype).removeprefix("torch."), "predicts": model.predicts}
    else:
        told["kind"] = f"{type(model).__name__}, in closed form or of one's own"
    told["shape"] = list(model.shape)
    told |= {"images": list(model.decoded_shape)} if model.decoded_shape != model.shape else {}
    clock = model.schedule
    low, high = float(clock.logsnr(1.0)), float(clock.logsnr(clock.t_min))
    told["schedule"] = f"{clock.config()['kind']}, log-SNR {low:.2f} at t = 1 to {high:.2f} at its first step"
    told["native clock"] = clock.native_unit
    told["conditioning"] = _conditioning(model)
    told |= {"variance": "learned"} if model.learned_variance else {}
    grid = model.usual_grid("ddim", None)
    told |= {"usual grid": f"{grid.kind}, {grid.steps} steps"} if grid is not None else {}
    return told | about | {"licence": licence or "not stated where the model lies"}


def _conditioning(model: Denoiser) -> str:
    told = [] if model.n_classes is None else [f"labels 0 to {model.n_classes - 1}"]
    told += ["prompts"] if model.takes_prompts else []
    if not told:
        return "none"
    try:
        model.check_condition({})
    except ValueError:
        return " and ".join(told)
    return f"{' and '.join(told)}, or none"
