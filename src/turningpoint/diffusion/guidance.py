r"""Classifier-free guidance as a denoiser around a denoiser (Ho & Salimans 2022).

.. math:: D_w(x_t, c) = D(x_t) + w \, (D(x_t, c) - D(x_t)).

The guidance scale :math:`w` is the one of the field's libraries: 0 is unconditional, 1 is
conditional without guidance, above 1 the condition is exaggerated.  (Ho & Salimans write
:math:`1 + w` for it.)  Being linear, it is the same in epsilon, v and x0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import TurningpointError
from .denoiser import UNCONDITIONAL, Denoiser, expand


class Guided(Denoiser):
    """``model`` with classifier-free guidance; both predictions are made in one batch of 2B.

    Parameters
    ----------
    model : Denoiser
        A model that takes labels, and their absence.
    scale : float
        The guidance scale w >= 0.

    Raises
    ------
    TurningpointError
        If the model takes no labels, or the scale is not a finite number.
    """

    def __init__(self, model: Denoiser, scale: float) -> None:
        super().__init__()
        if model.n_classes is None:
            raise TurningpointError(
                f"guidance is {scale}, but the model {model.name!r} takes no labels to be guided by."
            )
        if not 0 <= scale < float("inf"):
            raise TurningpointError(f"guidance is {scale}; accepted: a finite number of at least 0.")
        self.model, self.scale = model, float(scale)
        self.schedule, self.shape = model.schedule, model.shape
        self.n_classes, self.name = model.n_classes, model.name

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.model(x_t, t)  # type: ignore[no-any-return]
        both = self.model(
            torch.cat([x_t, x_t]),
            torch.cat([t, t]),
            torch.cat([label, torch.full_like(label, UNCONDITIONAL)]),
        )
        conditional, unconditional = both.chunk(2)
        scale = torch.where(label < 0, 0.0, self.scale)
        guided: Tensor = unconditional + expand(scale, x_t) * (conditional - unconditional)
        return guided

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        return self.model.decode(x_0)

    def conditions(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
        return self.model.conditions(conditions, device)

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        self.model.check_condition(condition)

    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        return self.model.classifier()

    def starting_images(self) -> tuple[Tensor, Tensor | None] | None:
        return self.model.starting_images()

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        return self.model.decoded_shape

    def fingerprint_config(self) -> dict[str, Any]:
        return self.model.fingerprint_config() | {"guidance": self.scale}
