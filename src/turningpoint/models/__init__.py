"""Models: one file per family, each of which registers a loader.

``load("digits")`` is a family without settings; ``load("gaussians?dim=2&std=0.5")`` hands settings to
its loader; ``load("scheme:where")`` hands it a place.  A loader is a function ``(where, **settings) ->
Denoiser`` decorated with ``@MODELS.add("scheme")``; other packages register theirs under the entry
point ``turningpoint.models``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError
from ..registry import Registry
from ._names import divided, is_place, literal, spelled
from ._options import split_options, with_options
from ._recognise import recognised

MODELS: Registry[Callable[..., Denoiser]] = Registry("model", "turningpoint.models")


def load(model: str | Denoiser, /, **settings: Any) -> Denoiser:
    """A model by its name.

    Parameters
    ----------
    model : str or Denoiser
        ``"name"``, ``"name?key=value&key=value"``, ``"scheme:where"``, or a path whose family is recognised from
        what lies there; a denoiser is returned as it is.
    **settings
        What the family's loader takes; and for every network ``dtype`` ("float32", "float16", "bfloat16"),
        ``device``, ``channels_last``, ``compile`` and ``clip_denoised``.

    Raises
    ------
    TurningpointError
        If there is no such family, or it has no such setting.

    Examples
    --------
    >>> load("digits").shape
    (1, 28, 28)
    """
    if isinstance(model, Denoiser):
        return model
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        return adopt(model, **settings)
    head, query = divided(model)
    if head.partition(":")[0] not in MODELS and is_place(head):
        head = f"{recognised(head)}:{head}"
    scheme, colon, where = head.partition(":")
    if where and os.path.exists(os.path.expanduser(where)):  # so that the name loads it from any folder
        head = f"{scheme}:{Path(where).expanduser().resolve()}"
    for key, value in parse_qsl(query, keep_blank_values=True):
        settings.setdefault(key, literal(value))
    loader = MODELS[scheme]
    own, options = split_options(loader, settings)
    try:
        loaded = loader(*([where] if colon else []), **own)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise TurningpointError(f"model is {model!r} with settings {sorted(settings)}: {error}.") from None
    loaded.name = spelled(head, settings)
    return with_options(loaded, **options).eval()


OFFERED = (
    "encode", "decode", "classifier", "starting_images", "usual_grid", "with_variance", "check_condition",
    "conditions", "without", "takes_prompts", "learned_variance", "usual_variance",
)  # fmt: skip
"""What an adopted model may offer besides its schedule and shape."""


class _Adopted(Denoiser):
    """Any callable ``(x_t, t, label=None) -> x_0`` with a schedule and a shape."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.schedule, self.shape = model.schedule, tuple(model.shape)
        self.n_classes = getattr(model, "n_classes", None)
        self.name = getattr(model, "name", type(model).__name__)
        self._model = model
        for offered in OFFERED:
            if hasattr(model, offered):
                setattr(self, offered, getattr(model, offered))

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        return tuple(getattr(self._model, "decoded_shape", self.shape))

    def fingerprint_config(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"class": type(self._model).__name__}
        for key, value in getattr(self._model, "__dict__", {}).items():
            if isinstance(value, int | float | str) and key not in ("training", "name"):
                plain[key] = value
            elif isinstance(value, np.ndarray | Tensor):
                array = np.ascontiguousarray(value.detach().cpu() if isinstance(value, Tensor) else value)
                plain[key] = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return super().fingerprint_config() | plain

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        if self.n_classes is None:
            return self._model(x_t, t, **condition)  # type: ignore[no-any-return]
        return self._model(x_t, t, label, **condition)  # type: ignore[no-any-return]


def adopt(model: Any, **settings: Any) -> Denoiser:
    """A denoiser from any callable ``(x_t, t, label=None) -> x_0`` that has ``schedule`` and ``shape``.

    Parameters
    ----------
    model : callable
        Or a denoiser of azula's.
    **settings
        Of an azula denoiser: ``shape``, ``n_classes`` and the others of `azula.from_azula`.

    Raises
    ------
    TurningpointError
        If it lacks one of them.
    """
    from .azula import from_azula, is_azula

    if is_azula(model):
        return from_azula(model, **settings)
    if settings:
        raise TurningpointError(
            f"{next(iter(settings))} is given with a model of type {type(model).__name__}; accepted with a name only."
        )
    if not callable(model) or not hasattr(model, "schedule") or not hasattr(model, "shape"):
        raise TurningpointError(
            f"model is of type {type(model).__name__}; accepted: a name, or a callable with "
            "a schedule and a shape."
        )
    return _Adopted(model)


def fingerprint(model: Denoiser) -> str:
    """A hash of a model's tensors, buffers and settings: 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(model.fingerprint_config(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        value = tensor.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()[:16]
