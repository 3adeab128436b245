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
from .denoiser import UNCONDITIONAL, Denoiser
from .grid import Grid


class Guided(Denoiser):
    """``model`` with classifier-free guidance; both predictions are made in one batch of 2B.

    Parameters
    ----------
    model : Denoiser
        A model that takes labels or prompts, and their absence.
    scale : float
        The guidance scale w >= 0.

    Raises
    ------
    TurningpointError
        If the model takes neither, or the scale is not a finite number.
    """

    def __init__(self, model: Denoiser, scale: float) -> None:
        super().__init__()
        if model.n_classes is None and not model.takes_prompts:
            raise TurningpointError(
                f"guidance is {scale}, but the model {model.name!r} takes no labels or prompts to be guided by."
            )
        if not 0 <= scale < float("inf"):
            raise TurningpointError(f"guidance is {scale}; accepted: a finite number of at least 0.")
        self.model, self.scale = model, float(scale)
        self.schedule, self.shape = model.schedule, model.shape
        self.n_classes, self.takes_prompts, self.name = model.n_classes, model.takes_prompts, model.name
        self.learned_variance, self.usual_variance = model.learned_variance, model.usual_variance
        self.clip_denoised = model.clip_denoised

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, both: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The guided estimate, (B, *shape).

        Parameters
        ----------
        x_t, t, label
            As a denoiser takes them.
        both : mapping, optional
            Instead of ``label``: what `conditions` makes, the model's arguments for the B items with their
            conditions and after them for the same items without.
        """
        if both is None and label is None:
            return self.model(x_t, t)  # type: ignore[no-any-return]
        estimate = getattr(self.model, "estimate", self.model)
        twice = self._pair(label) if both is None else both
        with_, without = estimate(torch.cat([x_t, x_t]), torch.cat([t, t]), **twice).chunk(2)
        return self.clipped(without + self.scale * (with_ - without))

    def with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """As the model's, its x_0 guided; the variance is that of the items with their conditions."""
        label, both = condition.get("label"), condition.get("both")
        if both is None and label is None:
            return self.model.with_variance(x_t, t)
        twice = self._pair(label) if both is None else both
        estimate = getattr(self.model, "estimate_with_variance", self.model.with_variance)
        x_0, v = estimate(torch.cat([x_t, x_t]), torch.cat([t, t]), **twice)
        with_, without = x_0.chunk(2)
        return self.clipped(without + self.scale * (with_ - without)), v.chunk(2)[0]

    def _pair(self, label: Tensor | None) -> dict[str, Any]:
        assert label is not None
        none = torch.zeros_like(label) if label.ndim == 2 else torch.full_like(label, UNCONDITIONAL)
        return {"label": torch.cat([label, none])}

    def conditions(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
        pairs = [*conditions, *(self.model.without(condition) for condition in conditions)]
        return {"both": self.model.conditions(pairs, device)}

    def without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        return self.model.without(condition)

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        return self.model.usual_grid(sampler, steps)

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        return self.model.decode(x_0)

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
