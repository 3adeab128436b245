r"""``azula``: the denoisers of the azula package as ours.

An azula denoiser maps :math:`(x_t, t)` to a posterior with a ``mean``; its schedule maps t in [0, 1] to
:math:`(\alpha_t, \sigma_t)`.  Here t is azula's own, with two exceptions.  Azula's clocks end at t = 0 with a little
noise: below ``t_min`` = 0.001 ours goes on in straight lines to the data, and the network is asked at ``t_min``.  And
two of its schedules become clocks of ours, which they are but for the numbering of times: ``ElucidatedSchedule`` is
`EDM`, and a ``RectifiedSchedule`` that reaches both its ends is `RectifiedFlow`.

``azula:module:factory`` calls a factory in one's own code (see `python`); ``azula:plugin/name`` is a model of one of
azula's plugins, which fetches its weights from where their authors keep them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.clock import Schedule
from ..diffusion.denoiser import NetworkDenoiser
from ..diffusion.schedule import EDM, RectifiedFlow
from ..diffusion.tabulated import Bisected, Tabulated
from ..errors import TurningpointError, one_of
from . import MODELS
from .python import find, made_by, shape_from
from .settings import whole

LABELS = ("index", "onehot")
MISFITS = (RuntimeError, ValueError, IndexError, AssertionError)
"""What a denoiser raises that does not take one time per item."""
AROUND = ("shape", "n_classes", "labels", "null_label", "per_item", "kwargs")
"""The settings that are the adapter's."""

PLUGINS = ("adm", "jit", "vdm")
REFUSED_PLUGINS = {
    "edm": "unpickles what it fetches; accepted: edm:FILE",
    "eldm": "unpickles what it fetches; accepted: another plugin",
    "flux": "is a pipeline with prompts; accepted: diffusers:black-forest-labs/FLUX.1-dev and the like",
    "sana": "is a pipeline with prompts; accepted: another plugin",
    "sd": "is a pipeline with prompts; accepted: diffusers:OWNER/NAME",
}


class AzulaClock(Bisected):
    """An azula schedule as a clock; t is azula's, see the module's docstring.

    Parameters
    ----------
    azula : callable
        ``azula(t) -> (alpha_t, sigma_t)`` for tensors of any shape; its signal-to-noise ratio falls with t.

    Raises
    ------
    TurningpointError
        If it is none of this.
    """

    def __init__(self, azula: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.azula, self.name = azula, type(azula).__name__
        t = torch.linspace(self.t_min, 1.0, 129, dtype=torch.float64)
        try:
            alpha, sigma = self.scales(t)
            good = bool(((sigma / alpha).diff() > 0).all() and (alpha >= 0).all() and (sigma > 0).all())
        except (TypeError, ValueError, AttributeError, RuntimeError):
            good = False
        if not good:
            raise TurningpointError(
                f"the schedule {self.name} is no clock; accepted: schedule(t) -> (alpha, sigma), elementwise, of "
                "which sigma / alpha rises with t in [0, 1]."
            )

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.azula(t)
        return alpha.expand_as(t), sigma.expand_as(t)

    def config(self) -> dict[str, Any]:
        return Tabulated.of(self, self.name).config()

    def __repr__(self) -> str:
        return f"azula({self.name})"


class Azula(NetworkDenoiser):
    """An azula denoiser as ours.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        Called as ``denoiser(x_t, t, **kwargs)`` with azula's t, (B,); its answer has a ``mean``.
    shape : tuple of int
        The shape of one item.
    n_classes : int, optional
        How many labels it knows; it is told them as ``label=``.
    labels : str
        ``index`` (B,), or ``onehot`` (B, n_classes), in which an item without a label is a row of zeros.
    null_label : int, optional
        The index that stands for none; otherwise items without a label are told no ``label=`` at all.
    per_item : bool, optional
        Whether it takes one time per item; tried out by default.  If not, items of equal times go together.
    kwargs : mapping, optional
        What it is always told besides.

    Raises
    ------
    TurningpointError
        If its schedule is no clock, or it does not answer to items of this shape.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        shape: Sequence[int],
        n_classes: int | None = None,
        *,
        labels: str = "index",
        null_label: int | None = None,
        per_item: bool | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if labels not in LABELS:
            raise one_of("labels", labels, LABELS)
        clock, times = clock_of(denoiser.schedule)
        backbone = getattr(denoiser, "backbone", denoiser)
        network = backbone if isinstance(backbone, nn.Module) else denoiser
        super().__init__(network, clock, shape, predicts="x0", n_classes=n_classes, name="azula")
        self.denoiser, self._times = denoiser, times
        self.labels, self.null_label, self._kwargs = labels, null_label, dict(kwargs or {})
        self.about |= {
            "format": "azula denoiser",
            "network": f"{type(network).__name__} in {type(denoiser).__name__}",
            "clock": type(denoiser.schedule).__name__,
        }
        self.per_item = self._takes_each() if per_item is None else bool(per_item)

    def native(self, t: Tensor) -> Tensor:
        """Azula's time."""
        return self._times(t)

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """The posterior's mean, (B, *shape); further arguments are handed on."""
        told = self._kwargs | condition
        if label is None or self.n_classes is None:
            return self._mean(x_t, t, told)
        known = label >= 0
        if self.labels == "onehot":
            rows = F.one_hot(label.clamp_min(0), self.n_classes) * known[:, None]
            return self._mean(x_t, t, told | {"label": rows.to(x_t.dtype)})
        if self.null_label is not None:
            return self._mean(x_t, t, told | {"label": torch.where(known, label, self.null_label)})
        mean = torch.empty_like(x_t)
        for rows, more in ((known, {"label": label}), (~known, {})):
            if bool(rows.any()):
                part = {key: _rows(value, rows) for key, value in (told | more).items()}
                mean[rows] = self._mean(x_t[rows], t[rows], part)
        return mean

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """As `Denoiser.forward`; further arguments are handed to the azula denoiser."""
        return self.clipped(self.estimate(x_t, t, label=label, **condition))

    def _mean(self, x_t: Tensor, t: Tensor, told: Mapping[str, Any], per_item: bool | None = None) -> Tensor:
        time = self.native(t).to(x_t.dtype)
        if self.per_item if per_item is None else per_item:
            return cast(Tensor, self.denoiser(x_t, time, **told).mean).to(x_t.dtype)
        mean = torch.empty_like(x_t)
        for one in time.unique():
            rows = time == one
            part = {key: _rows(value, rows) for key, value in told.items()}
            mean[rows] = self.denoiser(x_t[rows], one, **part).mean.to(x_t.dtype)
        return mean

    @torch.no_grad()
    def _takes_each(self) -> bool:
        """Whether three items at three times get the same answers together as one by one."""
        anchor = next(self.parameters(), next(self.buffers(), torch.zeros(())))
        count = 3 * torch.Size(self.shape).numel()
        x_t = torch.linspace(-1, 1, count).reshape(3, *self.shape).to(anchor.device)
        t = torch.tensor([0.25, 0.5, 0.75], device=anchor.device)
        told = dict(self._kwargs)
        if self.n_classes is not None:
            label = torch.zeros(3, dtype=torch.long, device=anchor.device)
            onehot = F.one_hot(label, self.n_classes).to(x_t.dtype)
            told["label"] = label if self.labels == "index" else onehot
        training = self.denoiser.training
        self.denoiser.eval()
        try:
            with contextlib.suppress(*MISFITS):
                together = self._mean(x_t, t, told, per_item=True)
                parts = [
                    {key: _rows(value, rows) for key, value in told.items()} for rows in torch.eye(3) > 0
                ]
                apart = [self._mean(x_t[i : i + 1], t[i : i + 1], parts[i], per_item=True) for i in range(3)]
                alike = together.shape == x_t.shape
                if alike and torch.allclose(together, torch.cat(apart), rtol=1e-3, atol=1e-4):
                    return True
            if self._mean(x_t, t, told, per_item=False).shape == x_t.shape:
                return False
            raise RuntimeError("its mean has another shape")
        except Exception as error:
            first = (str(error).splitlines() or [""])[0].rstrip(".").replace(". ", "; ")
            raise TurningpointError(
                f"the azula denoiser {type(self.denoiser).__name__} does not answer to items of shape {self.shape}"
                f" ({type(error).__name__}: {first})."
            ) from error
        finally:
            self.denoiser.train(training)

    def fingerprint_config(self) -> dict[str, Any]:
        told = {"denoiser": _described(self.denoiser), "kwargs": _described(self._kwargs)}
        return super().fingerprint_config() | told


def clock_of(azula: Any) -> tuple[Schedule, Callable[[Tensor], Tensor]]:
    """The clock of an azula schedule, and the function from its t to azula's."""
    ours = type(azula).__module__.split(".")[0] == "azula"
    kind = type(azula).__name__
    if ours and kind == "ElucidatedSchedule":
        clock = EDM(azula.sigma_min, azula.sigma_max, azula.rho)
        first = clock.t_min
        return clock, lambda t: (t - first) / (1 - first)
    if ours and kind == "RectifiedSchedule" and azula.alpha_min == azula.sigma_min == 0:
        return RectifiedFlow(), lambda t: t
    wrapped = AzulaClock(azula)
    return wrapped, lambda t: t.clamp_min(wrapped.t_min)


def is_azula(model: Any) -> bool:
    """Whether it is an azula denoiser; azula itself is not imported for that."""
    kinds = type(model).__mro__
    return any(kind.__name__ == "Denoiser" and kind.__module__.split(".")[0] == "azula" for kind in kinds)


def from_azula(denoiser: Any, shape: Any = None, n_classes: Any = None, **settings: Any) -> Azula:
    """An azula denoiser as ours.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The denoiser.
    shape : sequence of int
        The shape of one item; not needed where the denoiser or its network has a ``shape``, or a Gaussian its mean.
    n_classes : int, optional
        How many labels it knows.
    **settings
        ``labels``, ``null_label``, ``per_item``, ``kwargs``, see `Azula`.

    Raises
    ------
    TurningpointError
        If a setting is not one of these, or the denoiser has no clock or does not answer.
    """
    unknown = sorted(set(settings) - set(AROUND))
    if unknown:
        raise one_of("a setting of an azula denoiser", unknown[0], AROUND)
    if not is_azula(denoiser) or not hasattr(denoiser, "schedule"):
        raise TurningpointError(
            f"model is of type {type(denoiser).__name__}; accepted: an azula denoiser with a schedule."
        )
    found = shape if shape is not None else _own_shape(denoiser)
    if found is None:
        raise TurningpointError(
            f"the azula denoiser {type(denoiser).__name__} does not say the shape of its items; accepted: shape=(C, "
            "H, W)."
        )
    for name in ("n_classes", "null_label"):
        value = n_classes if name == "n_classes" else settings.get(name)
        if value is not None:
            whole(name, value, least=0)
    told = settings.get("kwargs")
    if told is not None and not isinstance(told, Mapping):
        raise TurningpointError(f"kwargs is {told!r}; accepted: a mapping from names to values.")
    return Azula(denoiser, shape_from(found), n_classes, **settings)


@MODELS.add("azula")
def load(where: str, **settings: Any) -> Azula:
    """An azula denoiser from a factory, or from one of azula's plugins.

    Parameters
    ----------
    where : str
        ``module:factory`` or ``./file.py:factory``, whose result is an azula denoiser; or ``plugin/name``.
    **settings
        ``shape``, ``n_classes``, ``labels``, ``null_label``, ``per_item``, ``kwargs``, see `Azula`; others are the
        factory's.

    Raises
    ------
    TurningpointError
        If azula is not installed, there is no such factory or plugin, or what it returns is no azula denoiser.
    """
    try:
        importlib.import_module("azula.denoise")
    except ImportError as error:
        raise TurningpointError(
            f"azula:{where} needs the package azula, which is not installed ({error}); accepted: pip install "
            "'turningpoint[azula]'."
        ) from None
    who, around = f"azula:{where}", {key: value for key, value in settings.items() if key in AROUND}
    if ":" in where or "/" not in where:
        return from_azula(made_by(who, find(where, "azula"), settings, around=AROUND), **around)
    plugin, _, name = where.partition("/")
    if plugin in REFUSED_PLUGINS:
        raise TurningpointError(f"azula's plugin {plugin!r} {REFUSED_PLUGINS[plugin]}.")
    if plugin not in PLUGINS:
        raise one_of("azula's plugin", plugin, PLUGINS)
    try:
        module = importlib.import_module(f"azula.plugins.{plugin}")
        cards = importlib.import_module("azula.plugins").load_cards(module)
    except ImportError as error:
        raise TurningpointError(
            f"azula's plugin {plugin!r} cannot be imported ({error}); accepted: azula with all that its plugins need."
        ) from None
    if name not in cards:
        raise one_of(f"the model of azula's plugin {plugin!r}", name, cards)
    surplus = sorted(set(settings) - set(around))
    if surplus:
        raise one_of("a setting of azula's plugins", surplus[0], AROUND)
    denoiser = made_by(who, partial(module.load_model, name), {}, around=())
    return from_azula(denoiser, **(_known_labels(denoiser) | around))


def _own_shape(denoiser: Any) -> Any:
    network = getattr(denoiser, "backbone", denoiser)
    for owner, name in ((denoiser, "shape"), (network, "shape")):
        if isinstance(getattr(owner, name, None), Sequence):
            return getattr(owner, name)
    if isinstance(getattr(denoiser, "mean", None), Tensor):
        return tuple(denoiser.mean.shape)
    size = getattr(network, "image_size", getattr(network, "input_size", None))
    channels = getattr(network, "in_channels", None)
    if isinstance(size, int) and isinstance(channels, int):
        return channels, size, size
    return None


def _known_labels(denoiser: Any) -> dict[str, Any]:
    """The labels of a plugin's network: of ADM, and of JiT, whose last embedding is that of no label."""
    count = getattr(denoiser, "num_classes", getattr(denoiser.backbone, "num_classes", None))
    if not isinstance(count, int):
        return {}
    return {"n_classes": count} | ({"null_label": count} if hasattr(denoiser, "num_classes") else {})


def _rows(value: Any, rows: Tensor) -> Any:
    """The rows of what is told per item."""
    batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(rows)
    return value[rows] if batched else value


def _described(thing: Any, depth: int = 3) -> Any:
    """The plain numbers and the tensors' hashes in a thing's attributes, for a fingerprint."""
    if isinstance(thing, Tensor):
        return hashlib.sha256(thing.detach().cpu().double().numpy().tobytes()).hexdigest()[:16]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    inner = thing if isinstance(thing, Mapping) else getattr(thing, "__dict__", {})
    if depth == 0:
        return type(thing).__name__
    known = {str(key): _described(value, depth - 1) for key, value in inner.items() if _is_own(key)}
    return {"class": type(thing).__name__} | known


def _is_own(key: Any) -> bool:
    return not str(key).startswith("_") and key != "training"
