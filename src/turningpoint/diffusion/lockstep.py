r"""Lockstep: a denoiser whose items are several variants of one image, which evolve side by side.

An item of shape (kC, H, W), or (kd,) for vectors, stacks k variants along its first axis:

.. math:: X_t = (x_t^{clean}, \; x_t^{changed} \; [, \; x_t^{donor}]), \qquad
          D(X_t, t) = (D(x^{clean}), \; D^{do(a_l)}(x^{changed}) \; [, \; D(x^{donor})]),

and :math:`do(a_l)` puts another value in the place of what layer l answers, for t within a window (Pearl 2009; of
networks, Vig et al. 2020 and Meng et al. 2022, whose causal tracing takes the value from another run):

===========  ==============================================================================================
mode         the changed rows' activation :math:`a` becomes
===========  ==============================================================================================
``ablate``   0
``mean``     each channel's mean over positions: what the layer says of *where* is gone
``skip``     the layer's input, if it has the output's shape: the layer does nothing
``scale:s``  :math:`s \, a`
``patch``    :math:`a^{donor}`, of another condition or other noise at the same time
===========  ==============================================================================================

Samplers act on each number of a state alike, whatever stands beside it, so every sampler runs variants as it runs
images, and one call of the network serves all of them: the rows of a call are the clean items, after them the changed
ones, then the donors.  Whether a row is changed is asked of the time at which the network is *called*: of Heun's two
evaluations in a step from t to s the first counts by t and the second by s.  Where a changed row is equal to its clean
one and is not touched, it is given the same answer: two variants part by the intervention alone, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TurningpointError
from ..hooks import matching, patterns_in, replacing, trunk_of, watching
from .denoiser import Denoiser
from .grid import Grid
from .guidance import Guided

MODES = ("ablate", "mean", "skip", "patch", "scale:NUMBER")
DONOR = "donor"
"""Under this name a condition holds the donor's condition."""
ROUNDING = 1e-6
"""Times this near to an end of the window are in it: the network is called with times in single precision."""
POSITIONS = {4: (2, 3), 3: (1,)}
"""The axes of an activation that are positions: of a map (B, C, H, W), of tokens (B, T, C)."""


@dataclass(frozen=True)
class Intervention:
    """Which layers are changed, when and how.

    Parameters
    ----------
    layers : sequence of str
        Names or patterns, see `turningpoint.hooks`.
    window : tuple of two floats
        Times (a, b), 0 <= a < b <= 1, both in the window.
    mode : str
        One of ``ablate``, ``mean``, ``skip``, ``patch``, ``scale:NUMBER``.

    Raises
    ------
    TurningpointError
        If a window or a mode is none, or no layer is named.

    Examples
    --------
    >>> Intervention(("mid_block",), (0.3, 0.6), "scale:0.5").factor
    0.5
    """

    layers: tuple[str, ...]
    window: tuple[float, float]
    mode: str = "ablate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(patterns_in(",".join(self.layers), "layer")))
        try:
            low, high = (float(end) for end in self.window)
        except (TypeError, ValueError):
            low = high = math.nan
        if not 0 <= low < high <= 1:
            raise TurningpointError(
                f"window is {_told(self.window)}; accepted: a:b with 0 <= a < b <= 1, in t."
            )
        object.__setattr__(self, "window", (low, high))
        if self.mode not in MODES[:-1]:
            self._check_factor()

    def _check_factor(self) -> None:
        name, _, factor = str(self.mode).partition(":")
        try:
            if name != "scale" or not math.isfinite(float(factor)):
                raise ValueError
        except ValueError:
            accepted = ", ".join(MODES)
            raise TurningpointError(
                f"mode is {self.mode!r}; accepted: {accepted}, as in scale:0.5."
            ) from None

    @property
    def factor(self) -> float:
        """The number of ``scale:NUMBER``; 0 for ``ablate``."""
        return float(self.mode.partition(":")[2] or 0)

    @property
    def variants(self) -> tuple[str, ...]:
        """What an item holds: ``clean``, ``changed`` and, for ``patch``, ``donor``."""
        return ("clean", "changed", "donor") if self.mode == "patch" else ("clean", "changed")

    def covers(self, t: Tensor) -> Tensor:
        """Which of the times (B,) are in the window, (B,) bool."""
        low, high = self.window
        return (t >= low - ROUNDING) & (t <= high + ROUNDING)

    def value(self, name: str, output: Tensor, entered: Tensor | None, donor: Tensor | None) -> Tensor:
        """What is put in the place of ``output``, the activation (B, ...) of a layer in the changed rows.

        Parameters
        ----------
        name : str
            The layer's.
        output : Tensor (B, ...)
        entered : Tensor (B, ...) or None
            What the layer was given, for ``skip``.
        donor : Tensor (B, ...) or None
            Its output in the donor's rows, for ``patch``.

        Raises
        ------
        TurningpointError
            If the layer has no positions to average over, or an input of another shape.
        """
        if self.mode == "patch":
            assert donor is not None
            return donor
        if self.mode == "skip":
            if entered is None or entered.shape != output.shape:
                given = "no tensor" if entered is None else f"items of shape {tuple(entered.shape[1:])}"
                raise TurningpointError(
                    f"mode is 'skip', but the layer {name!r} makes items of shape {tuple(output.shape[1:])} out of "
                    f"{given}; accepted: layers whose input and output have one shape."
                )
            return entered
        if self.mode == "mean":
            if output.ndim not in POSITIONS:
                raise TurningpointError(
                    f"mode is 'mean', but the layer {name!r} makes items of shape {tuple(output.shape[1:])}, without "
                    "positions; accepted: layers that make maps (C, H, W) or tokens (T, C)."
                )
            return output.mean(POSITIONS[output.ndim], keepdim=True).expand_as(output)
        return self.factor * output if self.factor else torch.zeros_like(output)


class Lockstep(Denoiser):
    """``model`` on items that are several variants of one image, with an intervention in one of them.

    Parameters
    ----------
    model : Denoiser
        Guided or not.
    intervention : Intervention
        What happens to the changed variant.

    Attributes
    ----------
    layers : tuple of str
        The layers that the intervention's names and patterns mean.

    Raises
    ------
    TurningpointError
        If the model has no layers, or none of such a name (the sentence holds the nearest).  When it is called: if a
        layer does not answer with a row for each row of the call, or the intervention cannot be made there.

    Examples
    --------
    >>> from turningpoint import load
    >>> pair = Lockstep(load("digits"), Intervention(("mid_block",), (0.3, 0.6)))
    >>> pair.shape, pair.layers
    ((2, 28, 28), ('mid_block',))
    >>> x = torch.randn(1, 1, 28, 28).repeat(1, 2, 1, 1)
    >>> clean, changed = pair(x, torch.tensor([0.5])).chunk(2, 1)
    >>> bool((clean == changed).all())
    False
    >>> clean, changed = pair(x, torch.tensor([0.7])).chunk(2, 1)     # outside of the window
    >>> bool((clean == changed).all())
    True
    """

    def __init__(self, model: Denoiser, intervention: Intervention) -> None:
        super().__init__()
        self.model, self.intervention = model, intervention
        self._network = [trunk_of(model)]  # in a list: the module is registered once, within the model
        found = matching(self._network[0], intervention.layers, "layer")
        self.layers = tuple(dict.fromkeys(name for names in found for name in names))
        self.k = len(intervention.variants)
        self.schedule, self.shape = model.schedule, (self.k * model.shape[0], *model.shape[1:])
        self.n_classes, self.takes_prompts, self.name = model.n_classes, model.takes_prompts, model.name
        self.learned_variance, self.usual_variance = model.learned_variance, model.usual_variance
        self.clip_denoised = model.clip_denoised

    # ---- variants as rows, and rows as variants

    def apart(self, x: Tensor) -> Tensor:
        """Items (B, kC, ...) as rows (kB, C, ...), variant after variant."""
        rows: Tensor = x.unflatten(1, (self.k, -1)).transpose(0, 1).flatten(0, 1)
        return rows

    def together(self, rows: Tensor) -> Tensor:
        """Rows (kB, C, ...) as items (B, kC, ...)."""
        x: Tensor = rows.unflatten(0, (self.k, -1)).transpose(0, 1).flatten(1, 2)
        return x

    # ---- calls

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, told: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The estimates of all variants, (B, k C, ...).

        Parameters
        ----------
        x_t, t, label
            As a denoiser takes them; all variants get the label.
        told : mapping, optional
            Instead of ``label``: what `conditions` makes, the model's arguments for kB rows.
        """
        return self._called(self.model, x_t, t, label, told)[0]

    def with_variance(self, x_t: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """As the model's, the variants stacked in both."""
        label, told = condition.get("label"), condition.get("told")
        x_0, v = self._called(self.model.with_variance, x_t, t, label, told)
        return x_0, v

    def _called(
        self,
        call: Callable[..., Any],
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None,
        told: Mapping[str, Any] | None,
    ) -> list[Tensor]:
        """What the model answers for all rows, each tensor with its variants stacked again."""
        rows, inside = self.apart(x_t), self.intervention.covers(t)
        if told is None:
            told = {} if label is None else {"label": label.repeat(self.k, *[1] * (label.ndim - 1))}
        with ExitStack() as stack:
            if bool(inside.any()):
                self._intervene(stack, inside)
            answer = call(rows, t.repeat(self.k), **told)
        clean, changed = x_t.unflatten(1, (self.k, -1))[:, :2].unbind(1)
        same = ~inside.to(x_t.device) & (clean == changed).flatten(1).all(1)
        found = []
        for part in answer if isinstance(answer, tuple) else (answer,):
            variants = part.unflatten(0, (self.k, -1)).clone()
            variants[1, same] = variants[0, same]
            found.append(self.together(variants.flatten(0, 1)))
        return found

    def _intervene(self, stack: ExitStack, inside: Tensor) -> None:
        """Put the intervention in the place of the layers' answers, in the changed rows that are ``inside``."""
        entered: dict[str, Tensor | None] = {}
        network, b = self._network[0], len(inside)

        def enter(name: str, x: Tensor | None) -> None:
            entered[name] = None if x is None else x.clone()  # a layer may work in place

        def replace(name: str, output: Tensor) -> Tensor:
            halves = self._halves(name, len(output), b)

            def of(tensor: Tensor | None, variant: int) -> Tensor | None:
                if tensor is None or len(tensor) != len(output):
                    return None
                rows: Tensor = tensor.unflatten(0, (halves, self.k, b))[:, variant].flatten(0, 1)
                return rows

            own, donor = of(output, 1), of(output, 2) if self.k > 2 else None
            assert own is not None
            value = self.intervention.value(name, own, of(entered.pop(name, None), 1), donor)
            where = inside.to(output.device).repeat(halves).reshape(-1, *[1] * (output.ndim - 1))
            new = output.clone()
            new.unflatten(0, (halves, self.k, b))[:, 1] = torch.where(where, value, own).unflatten(
                0, (halves, b)
            )
            return new

        if self.intervention.mode == "skip":
            stack.enter_context(watching(network, self.layers, lambda name, output: None, enter))
        stack.enter_context(replacing(network, self.layers, replace))

    def _halves(self, name: str, rows: int, b: int) -> int:
        """How many times a layer sees all rows: twice where guidance calls with and without conditions at once."""
        allowed = (1, 2) if isinstance(self.model, Guided) else (1,)
        for halves in allowed:
            if rows == halves * self.k * b:
                return halves
        expected = " or ".join(str(halves * self.k * b) for halves in allowed)
        raise TurningpointError(
            f"layer is {name!r}, which answers with {rows} rows where the network is called with {expected}; accepted: "
            "layers with a row for each image."
        )

    def rehearse(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Call the network once, within the window, to see that the intervention can be made.

        Parameters
        ----------
        conditions : sequence of mappings
            Of two items or more, as `conditions` takes them.
        device : torch.device
            Where the model is.

        Raises
        ------
        TurningpointError
            If a layer does not run, or cannot be changed in this way.
        """
        n = len(conditions)
        x_t = torch.zeros(n, *self.shape, device=device)
        t = torch.full((n,), sum(self.intervention.window) / 2, device=device)
        with (
            torch.inference_mode(),
            watching(self._network[0], self.layers, lambda name, output: None) as ran,
        ):
            self(x_t, t, **self.conditions(conditions, device))
        idle = [name for name in self.layers if name not in ran]
        if idle:
            raise TurningpointError(
                f"layer is {idle[0]!r}, which does not run when the network is called; accepted: layers that do"
                f"{', such as ' + ', '.join(list(ran)[:3]) if ran else ''}."
            )

    # ---- what a denoiser is asked besides

    def conditions(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
        """As the model's, for kB rows; under ``"donor"`` a condition may hold the donor's, which else is the same."""
        own = [{key: value for key, value in c.items() if key != DONOR} for c in conditions]
        donors = [dict(c.get(DONOR, mine)) for c, mine in zip(conditions, own, strict=True)]
        variants = [own, own, donors][: self.k]
        return {"told": self.model.conditions([c for variant in variants for c in variant], device)}

    def without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        return self.model.without(condition)

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        self.model.check_condition({key: value for key, value in condition.items() if key != DONOR})
        if DONOR in condition:
            self.model.check_condition(condition[DONOR])

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        return self.model.usual_grid(sampler, steps)

    def encode(self, images: Tensor) -> Tensor:
        """Stacked images (B, kC, H, W) to stacked latents, variant by variant."""
        return self.together(torch.cat([self.model.encode(x) for x in self.apart(images).chunk(self.k)]))

    def decode(self, x_0: Tensor) -> Tensor:
        """Stacked latents to stacked images, variant by variant."""
        return self.together(torch.cat([self.model.decode(x) for x in self.apart(x_0).chunk(self.k)]))

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        inner = self.model.decoded_shape
        return (self.k * inner[0], *inner[1:])

    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        return self.model.classifier()

    def fingerprint_config(self) -> dict[str, Any]:
        how = self.intervention
        changed = {"layers": list(self.layers), "window": list(how.window), "mode": how.mode}
        return self.model.fingerprint_config() | {"intervention": changed}


def _told(window: Any) -> str:
    try:
        return ":".join(f"{float(end):g}" for end in window)
    except (TypeError, ValueError):
        return repr(window)
