r"""The noise schedule, the prediction and the usual grid that a scheduler's configuration of `diffusers` stands for.

A configuration names a table of :math:`\beta_n`, from which :math:`\bar\alpha_n = \prod_{m \le n} (1 - \beta_m)`
and :math:`x_n = \sqrt{\bar\alpha_n} x_0 + \sqrt{1 - \bar\alpha_n} \varepsilon`; what the network predicts
(``prediction_type``); and on which of the T steps a sampler stops (``timestep_spacing``):

=============  ==========================================================  =============
spacing        native steps, for n of T                                    `Grid`
=============  ==========================================================  =============
``leading``    :math:`k \lfloor T/n \rfloor` + ``steps_offset``            ``leading``
``trailing``   :math:`\mathrm{round}(T - k T / n) - 1`                     ``uniform``
``linspace``   :math:`\mathrm{round}(k (T - 1) / (n - 1))`                 ``linspace``
=============  ==========================================================  =============

The table is `diffusers`' own, in float32, with ``rescale_betas_zero_snr`` (Lin et al. 2024, algorithm 1)
applied.  Schedulers that solve an ODE (Euler, Heun, DPM-Solver, UniPC, PNDM, ...) share it: they differ in how
they step, which is a sampler's affair here.  A step goes to the next one visited; `diffusers`' DDIM goes
:math:`\lfloor T/n \rfloor` down instead, which is elsewhere for ``linspace``, and for ``trailing`` unless n
divides T.  ``clip_sample`` is applied only when a user asks for it: a denoiser is the posterior mean.
"""

from __future__ import annotations

import importlib
import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

import torch

from ...diffusion.grid import Grid
from ...diffusion.schedule import DiscreteVP
from ...errors import TurningpointError, one_of
from .._calls import DirectCalls
from ..settings import array

ANCESTRAL = ("DDPMScheduler", "DDPMParallelScheduler")
EULERIAN = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
)
SCHEDULERS = (
    *ANCESTRAL,
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    *EULERIAN,
)
"""Classes whose table of betas is that of a DDPM."""
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
TABLES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
BETWEEN = ("linear", "scaled_linear", "sigmoid")
"""Those that lie between ``beta_start`` and ``beta_end``; the others heed neither."""
PREDICTS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
SPACINGS = {"linspace": "linspace", "leading": "leading", "trailing": "uniform"}
"""The first is that of schedulers without the setting."""
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
}
OWN_STEPS = 50
"""How many steps `diffusers`' pipelines take unless told; an ancestral one on pixels takes all T."""
MOST_STEPS = 100_000


def _defaults(name: str) -> dict[str, Any]:
    """The settings of a scheduler's class and what they are by default."""
    # its __init__ stands behind a decorator, and behind another where an optional package is missing
    parameters = inspect.signature(_class(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _class(name: str) -> Any:
    try:
        return getattr(importlib.import_module("diffusers"), name)
    except (ImportError, AttributeError, RuntimeError):  # the last: a module of it cannot be imported
        raise TurningpointError(
            f"diffusers: needs {name} of the package diffusers, which is not there whole, or too old; accepted: "
            "pip install -U diffusers."
        ) from None


def known_settings() -> set[str]:
    """Every setting of every scheduler that is read here."""
    return {key for name in (*SCHEDULERS, *FLOWS) for key in _defaults(name)}


def scheduler_config(name: str, described: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration of a scheduler: its class's defaults, the folder's file, the user's settings.

    Parameters
    ----------
    name : str
        The class that the folder names.
    described : mapping
        The folder's ``scheduler_config.json``.
    given : mapping
        What a user overrides; ``_class_name`` is another class, which keeps the folder's settings.

    Returns
    -------
    dict
        With the class under ``_class_name``.

    Raises
    ------
    TurningpointError
        If there is no such class or setting, or a value is of another kind.
    """
    name = str(given.get("_class_name", name))
    if name not in (*SCHEDULERS, *FLOWS):
        raise TurningpointError(
            f"the scheduler is {name!r}, whose noise is not read here; accepted: {', '.join((*SCHEDULERS, *FLOWS))}."
        )
    defaults = _defaults(name)
    own = {key: value for key, value in given.items() if not key.startswith("_")}
    unknown = sorted(set(own) - known_settings())
    if unknown:
        accepted = ", ".join(sorted(defaults))
        raise TurningpointError(
            f"{unknown[0]} is given, but a {name} takes no such setting; accepted: {accepted}."
        )
    likeness = {**_defaults("DDPMScheduler"), **_defaults("DDIMScheduler"), **defaults}
    own = {key: _as(key, value, likeness.get(key)) for key, value in own.items()}
    if own.get("thresholding"):
        raise TurningpointError("thresholding is True; accepted: False.")
    if own.get("clip_sample") and {**defaults, **described, **own}.get("clip_sample_range", 1) != 1:
        raise TurningpointError(
            "clip_sample is True with a clip_sample_range other than 1; accepted: a range of 1."
        )
    return {**defaults, **described, **own, "_class_name": name}


def _as(key: str, value: Any, like: Any) -> Any:
    """A user's value, which may have come as text, as the kind of the default that it replaces."""
    truths = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(like, bool):
        if str(value).lower() not in truths:
            raise TurningpointError(f"{key} is {value!r}; accepted: True or False.")
        return truths[str(value).lower()]
    if isinstance(like, int | float):
        try:
            return type(like)(value) if float(value) == type(like)(value) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise TurningpointError(f"{key} is {value!r}; accepted: a number.") from None
    return None if isinstance(value, str) and value == "None" else value


class NoiseTable:
    """A scheduler's configuration, read.

    Parameters
    ----------
    config : mapping
        As `scheduler_config` returns it.

    Attributes
    ----------
    schedule : DiscreteVP
        The clock, of T steps.
    predicts : str
        ``epsilon``, ``v`` or ``x0``.
    variance : str
        Of ancestral sampling: ``small`` or ``large``.

    Raises
    ------
    TurningpointError
        If a setting is not among what is accepted, or the network predicts epsilon where no signal is left.

    Examples
    --------
    >>> table = NoiseTable(scheduler_config("DDIMScheduler", {"set_alpha_to_one": False}, {"steps_offset": 1}))
    >>> table.schedule.steps, table.predicts, table.grid("ddim", 4).end
    (1000, 'epsilon', 'first step')
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.scheduler = config, str(config["_class_name"])
        if self.scheduler not in SCHEDULERS:
            raise TurningpointError(
                f"the scheduler is {self.scheduler!r}, which is for flows; accepted here: {', '.join(SCHEDULERS)}."
            )
        self.predicts = _one("prediction_type", config, PREDICTS)
        self._spacing = _one("timestep_spacing", config, SPACINGS)
        self.variance = VARIANCES.get(str(config.get("variance_type")), "small")
        for key, only in (("timestep_type", "discrete"), ("use_flow_sigmas", False)):
            if config.get(key, only) != only:
                raise TurningpointError(f"{key} is {config[key]!r}; accepted: {only!r}.")
        table = _alphas_cumprod(config)
        try:
            self.schedule = DiscreteVP.from_alphas_cumprod(table, f"diffusers {_family(config)}")
        except TurningpointError:
            keys = ("beta_start", "beta_end") if config.get("trained_betas") is None else ("trained_betas",)
            values = ", ".join(reprlib.repr(config[key]) for key in keys)
            raise TurningpointError(
                f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} {values}; accepted: betas between 0 and 1 "
                "that leave a signal until the last step."
            ) from None
        if self.predicts == "epsilon" and float(self.schedule.betas[-1]) == 1:
            raise TurningpointError(
                "prediction_type is 'epsilon', but rescale_betas_zero_snr leaves no signal at the last step, where "
                "noise does not tell x_0; accepted: v_prediction, sample, or rescale_betas_zero_snr=False."
            )

    def grid(self, sampler: str, steps: int | None, own_steps: int | None = None) -> Grid | None:
        """The steps on which `diffusers` runs a sampler with this configuration; None if it has no opinion.

        Parameters
        ----------
        sampler : str
            ``ddpm`` and ``ddim``; ``euler`` and ``heun`` if the scheduler is of their kind.
        steps : int, optional
            How many; by default ``own_steps``, or 50.
        """
        resigmaed = any(self.config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
        eulerian = self.scheduler in EULERIAN and not resigmaed
        if sampler not in (("ddpm", "ddim", "euler", "heun") if eulerian else ("ddpm", "ddim")):
            return None
        n = steps or own_steps or OWN_STEPS
        to_data = sampler != "ddim" or self.config.get("set_alpha_to_one", True)
        offset = int(self.config.get("steps_offset", 0)) if self._spacing == "leading" else 0
        return Grid(n, self._spacing, offset=offset, end="data" if to_data else "first step")

    def about(self) -> dict[str, Any]:
        """What to tell of it: the scheduler, the table and the spacing."""
        told = {"scheduler": self.scheduler, "betas": _family(self.config)}
        told["spacing"] = str(self.config.get("timestep_spacing", "linspace"))
        return told | ({"clip_sample": "true"} if self.config.get("clip_sample") else {})


def _one(key: str, config: Mapping[str, Any], accepted: Mapping[str, str]) -> str:
    value = config.get(key, next(iter(accepted)))
    if not isinstance(value, str) or value not in accepted:
        raise one_of(key, value, accepted)
    return accepted[value]


def _family(config: Mapping[str, Any]) -> str:
    family = "trained" if config.get("trained_betas") is not None else str(config.get("beta_schedule"))
    return f"{family}, zero SNR" if config.get("rescale_betas_zero_snr") else family


def _alphas_cumprod(config: Mapping[str, Any]) -> torch.Tensor:
    """The table of alpha_n^2, (T,) float64, from the DDPM scheduler of `diffusers`, whose betas all share."""
    numbers = {key: config[key] for key in ("num_train_timesteps", "beta_start", "beta_end")}
    heeded = config.get("trained_betas") is None and config.get("beta_schedule") in BETWEEN
    for key, value in numbers.items():
        most = 1 if heeded and key != "num_train_timesteps" else MOST_STEPS
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise TurningpointError(f"{key} is {value!r}; accepted: a number above 0, {most} at most.")
    numbers["num_train_timesteps"] = int(numbers["num_train_timesteps"])
    trained = config.get("trained_betas")
    if trained is None and config.get("beta_schedule") not in TABLES:
        raise one_of("beta_schedule", config.get("beta_schedule"), TABLES)
    if trained is not None:
        trained = array("trained_betas", trained, "(T,)", axes=(1,)).tolist()
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    settings = {"beta_schedule": config.get("beta_schedule", "linear"), "rescale_betas_zero_snr": rescaled}
    scheduler = _class("DDPMScheduler")(**numbers, **settings, trained_betas=trained)
    table: torch.Tensor = scheduler.alphas_cumprod.to(torch.float64)
    return table


class Tabled(DirectCalls):
    """What a denoiser takes from its `NoiseTable`: the grid and the variance that its authors use.

    Attributes
    ----------
    own_steps : mapping
        Steps that its authors take with a sampler, where they are not 50.
    """

    own_steps: Mapping[str, int] = {}

    def use(self, table: NoiseTable) -> None:
        """Sample as ``table`` says; called at the end of a constructor."""
        self._table, self.usual_variance = table, table.variance
        self.about |= table.about()

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        return self._table.grid(sampler, steps, self.own_steps.get(sampler))
