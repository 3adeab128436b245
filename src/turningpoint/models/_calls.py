"""Calls of a denoiser by hand: what ``model(x_t, t, label=...)`` may be given, and a sentence about what it may not.

Shapes are looked at, and the values of labels where they lie on the CPU: nothing waits for another device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusion.clock import as_times
from ..diffusion.denoiser import UNCONDITIONAL, Denoiser, NetworkDenoiser
from ..errors import TurningpointError


class DirectCalls(NetworkDenoiser):
    """A `NetworkDenoiser` whose times may be one for all items, and whose labels anything that holds numbers."""

    _needs_labels = False
    """Whether it has no answer without a label, which `raw` says."""

    def checked(self, x_t: Tensor, t: Any, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The times (B,) and the condition of a call, as `raw` takes them.

        Raises
        ------
        TurningpointError
            If the items are of another shape, or times or labels are not one for each.
        """
        t = times(self, x_t, t)
        label = condition.get("label")
        told = {} if label is None else {"label": labels(self, label, x_t, not self._needs_labels)}
        return t, {key: value for key, value in condition.items() if key != "label"} | told

    def estimate(self, x_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        t, condition = self.checked(x_t, t, condition)
        return super().estimate(x_t, t, **condition)

    def estimate_with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        t, condition = self.checked(x_t, t, condition)
        return super().estimate_with_variance(x_t, t, **condition)


def times(model: Denoiser, x_t: Tensor, t: Any) -> Tensor:
    """One time for each of the items ``x_t``, (B,), from as many or from one."""
    if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != tuple(model.shape) or not x_t.ndim:
        given = f"has shape {tuple(x_t.shape)}" if isinstance(x_t, Tensor) else f"is a {type(x_t).__name__}"
        accepted = ", ".join(map(str, model.shape))
        raise TurningpointError(
            f"x_t {given}; accepted by the model {model.name!r}: a tensor (B, {accepted})."
        )
    try:
        told: Tensor = as_times(t).to(x_t.device)
    except (TypeError, ValueError, RuntimeError):
        raise TurningpointError(f"t is {t!r}; accepted: numbers from 0 to 1, one for each item.") from None
    if told.ndim == 0:
        return told.expand(len(x_t))
    if tuple(told.shape) != (len(x_t),):
        raise TurningpointError(
            f"t has shape {tuple(told.shape)}; accepted: a number, or one for each item, ({len(x_t)},)."
        )
    return told


def labels(model: Denoiser, label: Any, x_t: Tensor, none: bool) -> Tensor:
    """Labels of the items ``x_t``: class indices (B,) int64, from as many or from one; or (B, K) as given."""
    if model.n_classes is None:
        raise TurningpointError(f"label is given, but the model {model.name!r} takes no labels.")
    batch, classes = len(x_t), model.n_classes
    accepted = f"accepted: whole numbers ({batch},), or one-hot labels ({batch}, {classes})"
    try:
        told = torch.as_tensor(label, device=x_t.device)
    except (TypeError, ValueError, RuntimeError):
        raise TurningpointError(f"label is {label!r}; {accepted}.") from None
    if tuple(told.shape) == (batch, classes):
        return told
    told = told.expand(batch) if told.ndim == 0 else told
    if tuple(told.shape) != (batch,) or told.is_floating_point() or told.is_complex():
        raise TurningpointError(f"label has shape {tuple(told.shape)} and type {told.dtype}; {accepted}.")
    if told.device.type == "cpu" and not bool(((told >= UNCONDITIONAL) & (told < classes)).all()):
        or_none = ", or -1 for none" if none else ""
        raise TurningpointError(f"label is {told.tolist()}; accepted: 0 to {classes - 1}{or_none}.")
    return told.long()


def indices(label: Tensor) -> Tensor:
    """Class indices (B,) of labels that may be one-hot, (B, K); -1 where a row is all zeros.

    >>> indices(torch.tensor([[0, 0, 1], [0, 0, 0]]))
    tensor([ 2, -1])
    """
    if label.ndim == 1:
        return label
    return torch.where(label.bool().any(1), label.float().argmax(1), UNCONDITIONAL)
