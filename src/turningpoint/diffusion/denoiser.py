r"""Denoisers: the posterior mean of the data given a noisy image, with one time per item.

Whatever a network was trained to predict, it is turned into

.. math:: D(x_t, t, c) = E[x_0 \mid x_t, c],

from which every sampler and every measurement starts.  With :math:`x_t = \alpha x_0 + \sigma
\varepsilon`, and the network's output written :math:`F`,

==========  ==========================================  =============================================
predicts    target                                      :math:`x_0` estimate
==========  ==========================================  =============================================
epsilon     :math:`\varepsilon`                         :math:`(x_t - \sigma F) / \alpha`
v           :math:`\alpha \varepsilon - \sigma x_0`     :math:`(\alpha x_t - \sigma F) / (\alpha^2 + \sigma^2)`
x0          :math:`x_0`                                 :math:`F`
flow        :math:`\varepsilon - x_0`                   :math:`(x_t - \sigma F) / (\alpha + \sigma)`
==========  ==========================================  =============================================

(Ho et al. 2020; Salimans & Ho 2022, appendix D; Liu et al. 2023.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TurningpointError, one_of
from .grid import Grid
from .schedule import Schedule

PREDICTIONS = ("epsilon", "v", "x0", "flow")
UNCONDITIONAL = -1
"""The label of an item without a label, so that one batch can hold both."""


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Append axes to ``value`` of shape (B,) so that it broadcasts against ``like`` of shape (B, ...)."""
    return value.to(like).reshape(-1, *[1] * (like.ndim - 1))


class Denoiser(nn.Module, ABC):
    """A diffusion model: ``model(x_t, t, label=None) -> x0`` (all a user of one needs to know).

    Attributes
    ----------
    schedule : Schedule
        The clock.
    shape : tuple of int
        The shape of one item as the sampler sees it: ``(C, H, W)``, or ``(d,)`` for vectors.
    n_classes : int or None
        How many labels the model knows; None if it takes none.
    takes_prompts : bool
        Whether it is told a text.
    learned_variance : bool
        Whether it has learned the variance of a reverse step too, see `with_variance`.
    usual_variance : str
        The variance of ancestral sampling that its authors use if it has learned none: ``small`` or ``large``.
    clip_denoised : bool
        Whether its estimates of the data are clipped to [-1, 1].
    name : str
        What `turningpoint.load` would load it by; it is written into a run's manifest.
    about : dict
        What else ``turningpoint inspect`` tells of it: its format, its network, its licence if stated.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    n_classes: int | None = None
    takes_prompts: bool = False
    learned_variance: bool = False
    usual_variance: str = "small"
    clip_denoised: bool = False
    name: str = "custom"

    def __init__(self) -> None:
        super().__init__()
        self.about: dict[str, Any] = {}

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t, label].

        Parameters
        ----------
        x_t : Tensor (B, *shape)
            Noisy items.
        t : Tensor (B,)
            One time per item.
        label : Tensor (B,), optional
            Class indices; -1, or None for all, is unconditional.
        """

    def with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """The estimate of x_0, and what the network says of the variance of a reverse step.

        Returns
        -------
        x_0 : Tensor (B, *shape)
        v : Tensor (B, *shape)
            From -1, the posterior's variance, to 1, that of the forward step; between them their
            logarithms are interpolated (Nichol & Dhariwal 2021, eq. 15).

        Raises
        ------
        TurningpointError
            If the model has learned no variance.
        """
        raise TurningpointError(
            f"variance is 'learned', but the model {self.name!r} has learned none; accepted: small, large."
        )

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        """The grid on which its authors run a sampler, or None.

        Parameters
        ----------
        sampler : str
            Its name.
        steps : int, optional
            How many; None is their own number.
        """
        return None

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to what the sampler works on; the identity unless latent."""
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        """What the sampler works on to images; the identity unless latent."""
        return x_0

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        """The shape of one decoded image; that of an item unless latent."""
        return self.shape

    def conditions(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
        """The keyword arguments of `forward` for a batch of walks, each with its own condition.

        Parameters
        ----------
        conditions : sequence of B mappings
            Each may hold ``"label"``, an integer.
        """
        if self.n_classes is None:
            return {}
        labels = [UNCONDITIONAL if c.get("label") is None else int(c["label"]) for c in conditions]
        return {"label": torch.tensor(labels, dtype=torch.long, device=device)}

    def without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The condition that classifier-free guidance moves away from: no label."""
        return {key: value for key, value in condition.items() if key != "label"}

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        """Raise one sentence if the model cannot take ``condition``."""
        label = condition.get("label")
        told = {"label", "prompt", "negative_prompt"} if self.takes_prompts else {"label"}
        unknown = sorted(set(condition) - told)
        if unknown:
            raise TurningpointError(f"{unknown[0]} is given, but the model {self.name!r} takes none.")
        if label is not None and self.n_classes is None:
            raise TurningpointError(f"label is {label}, but the model {self.name!r} takes no labels.")
        if label is not None and not isinstance(label, int | np.integer):
            raise TurningpointError(f"label is {label!r}; accepted: 0 to {cast(int, self.n_classes) - 1}.")
        if label is not None and not UNCONDITIONAL <= label < cast(int, self.n_classes):
            raise TurningpointError(f"label is {label}; accepted: 0 to {cast(int, self.n_classes) - 1}.")

    def clipped(self, x_0: Tensor) -> Tensor:
        """``x_0``, clipped to [-1, 1] if the model says so."""
        return x_0.clamp(-1, 1) if self.clip_denoised else x_0

    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        """The model's own reference classifier, images (B, C, H, W) to logits (B, K), if it has one."""
        return None

    def starting_images(self) -> tuple[Tensor, Tensor | None] | None:
        """Real images (N, C, H, W) in [-1, 1] that ship with the model, and their labels (N,), if any."""
        return None

    def fingerprint_config(self) -> dict[str, Any]:
        """What identifies the model besides its tensors: its class, clock, and public plain attributes."""
        plain = {
            key: value
            for key, value in vars(self).items()
            if isinstance(value, int | float | str)
            and not key.startswith("_")
            and key not in ("training", "name")
            and not (value is False and key in ("clip_denoised", "learned_variance"))
        }
        base = {"class": type(self).__name__, "shape": list(self.shape), "schedule": self.schedule.config()}
        return base | plain


class NetworkDenoiser(Denoiser):
    """A denoiser made of a network that predicts epsilon, v, x0 or flow.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x_t, native)`` with ``native`` of shape (B,), or as ``network(x_t,
        native, label)`` if ``n_classes`` is given, label being ``n_classes`` where there is none.
    schedule : Schedule
        Its clock.
    shape : tuple of int
        The shape of one item.
    predicts : str
        One of ``epsilon``, ``v``, ``x0``, ``flow``.
    n_classes : int, optional
        How many labels the network knows.
    name : str
        For the manifest.

    learned_variance : bool
        Whether the network returns twice the channels, the second half being `Denoiser.with_variance`'s v.
    clip_denoised : bool
        Whether to clip the estimate of the data to [-1, 1].

    Raises
    ------
    TurningpointError
        If ``predicts`` is none of the four.

    Examples
    --------
    >>> from turningpoint.diffusion.schedule import VP
    >>> class Zero(nn.Module):                    # predicts no noise at all
    ...     def forward(self, x, step): return torch.zeros_like(x)
    >>> model = NetworkDenoiser(Zero(), VP(), (1,), predicts="epsilon")
    >>> x_t = VP().alpha(torch.tensor([0.5])).reshape(1, 1)
    >>> model(x_t, torch.tensor([0.5]))
    tensor([[1.]])
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        shape: Sequence[int],
        predicts: str = "epsilon",
        n_classes: int | None = None,
        name: str = "custom",
        *,
        learned_variance: bool = False,
        clip_denoised: bool = False,
    ) -> None:
        super().__init__()
        if predicts not in PREDICTIONS:
            raise one_of("predicts", predicts, PREDICTIONS)
        self.network, self.schedule, self.shape = network, schedule, tuple(shape)
        self.predicts, self.n_classes, self.name = predicts, n_classes, name
        self.clip_denoised = clip_denoised
        self.learned_variance = learned_variance

    def native(self, t: Tensor) -> Tensor:
        """The time as the network wants it, (B,); the schedule's native clock unless overridden."""
        return self.schedule.native(t)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that the network computes in."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's own output, (B, *shape) or (B, 2C, ...) with a learned variance, in the type of x_t."""
        has_own = any(True for _ in self.network.parameters())
        x, native = x_t.to(self.dtype) if has_own else x_t, self.native(t)
        if self.n_classes is None:
            return cast(Tensor, self.network(x, native)).to(x_t.dtype)
        null = torch.full((len(x_t),), self.n_classes, device=x_t.device, dtype=torch.long)
        known = null if label is None else torch.where(label < 0, null, label)
        return cast(Tensor, self.network(x, native, known)).to(x_t.dtype)

    def estimate(self, x_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """E[x_0 | x_t, condition] before any clipping, (B, *shape)."""
        output = self.raw(x_t, t, **condition)
        if self.learned_variance:
            output = output.chunk(2, 1)[0]
        return self._data(x_t, t, output)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.clipped(self.estimate(x_t, t, label=label))

    def estimate_with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """`with_variance` before any clipping."""
        if not self.learned_variance:
            return super().with_variance(x_t, t, **condition)
        output, v = self.raw(x_t, t, **condition).chunk(2, 1)
        return self._data(x_t, t, output), v

    def with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        x_0, v = self.estimate_with_variance(x_t, t, **condition)
        return self.clipped(x_0), v

    def _data(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """What the prediction says of x_0."""
        if self.predicts == "x0":
            return output
        alpha_t, sigma_t = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        if self.predicts == "epsilon":
            return (x_t - sigma_t * output) / alpha_t
        if self.predicts == "v":
            return (alpha_t * x_t - sigma_t * output) / (alpha_t**2 + sigma_t**2)
        return (x_t - sigma_t * output) / (alpha_t + sigma_t)
