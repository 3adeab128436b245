r"""``ddpm``: the DDPM of Ho et al. 2020 in score_sde's PyTorch checkpoints.

A checkpoint ``checkpoint_N.pth`` is a dictionary of ``model`` (a state dict, with or without DataParallel's
``module.``), ``ema`` (``decay``, ``num_updates``, and ``shadow_params``, the averaged parameters in the order of the
model's), ``optimizer`` and ``step``.  It holds no configuration.  What shapes the tensors is read off them
(`Layout.of`); the rest are settings under the names of score_sde's configurations, given, or found in a JSON file
beside the checkpoint.

The forward process has T steps of :math:`\beta_n` linear in n (Ho et al. 2020, section 4), given as such by
``beta_min`` and ``beta_max`` (1e-4 and 0.02); score_sde gives the rates of its continuous limit (0.1 and 20), of which
a step's is a T-th (Song et al. 2021, eq. 32): a ``beta_max`` above 1 is a rate.  The network predicts
:math:`\varepsilon`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.grid import Grid
from ..diffusion.schedule import DiscreteVP
from ..errors import TurningpointError, one_of
from . import MODELS
from ._calls import DirectCalls
from ._ddpm_config import agreed_size, configuration
from ._networks.ddpm_unet import DDPMUNet, Layout
from ._reading.checkpoint import load_tensors, read_checkpoint, tensors
from ._recognise import refuse_other_families
from .settings import whole

WEIGHTS = ("ema", "raw")
SPACINGS = ("uniform", "quad")


class DDPM(DirectCalls):
    """A `DDPMUNet` with its clock.

    Models of images in [0, 1] (``centered`` false) work on these; `encode` and `decode` go between them and [-1, 1].

    Parameters
    ----------
    network : DDPMUNet
        Called as ``network(x_t, n)`` with steps n in 0..T-1, fractions allowed.
    schedule : DiscreteVP
        Its clock.
    image_size : int
        Height and width.
    """

    usual_variance = "large"

    def __init__(self, network: DDPMUNet, schedule: DiscreteVP, image_size: int) -> None:
        shape = network.layout.num_channels, image_size, image_size
        super().__init__(network, schedule, shape, predicts="epsilon", name="ddpm")
        self.centered, self.nonlinearity, self.steps = network.centered, network.nonlinearity, schedule.steps

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        """For ddim `late_start` without a start; for ddpm all steps unless their number is given."""
        if sampler == "ddim" and steps is not None and steps <= self.steps:
            return late_start(steps, training_steps=self.steps)
        return Grid(self.steps) if sampler == "ddpm" and steps is None else None

    def encode(self, images: Tensor) -> Tensor:
        return images if self.centered else (images + 1) / 2

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0 if self.centered else 2 * x_0 - 1

    def clipped(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1.0 if self.centered else 0.0, 1.0) if self.clip_denoised else x_0


def late_start_steps(
    n: int, start: int | None = None, spacing: str = "uniform", training_steps: int = 1000
) -> list[int]:
    """The native steps that n steps from a late start visit, ascending (Raya & Ambrogioni 2023, section 5).

    Parameters
    ----------
    n : int
        How many.
    start : int, optional
        The first step to be executed, 0 to T - 1; by default every (T // n)-th from 0 on, or 0.8 T for ``quad``.
    spacing : str
        ``uniform``, or ``quad``: squares of equal steps (Song et al. 2021, DDIM, appendix D.2).
    training_steps : int
        T.

    Raises
    ------
    TurningpointError
        If a number is out of range, or there is no such spacing.

    Examples
    --------
    >>> late_start_steps(5), late_start_steps(5, 999), late_start_steps(5, spacing="quad")
    ([0, 200, 400, 600, 800], [0, 249, 499, 749, 999], [0, 50, 200, 450, 800])
    """
    if spacing not in SPACINGS:
        raise one_of("spacing", spacing, SPACINGS)
    n = whole("n", n)
    if n > training_steps:
        raise TurningpointError(f"n is {n}; accepted: at most {training_steps} steps.")
    if start is not None and whole("start", start, least=0) >= training_steps:
        raise TurningpointError(f"start is {start}; accepted: 0 to {training_steps - 1}.")
    if spacing == "quad":
        last = 0.8 * training_steps if start is None else start
        steps = np.linspace(0, last**0.5, n) ** 2
    elif start is None:
        steps = np.arange(0, training_steps, training_steps // n)
    else:
        steps = np.linspace(0, start, n)
    return sorted({int(step) for step in steps})


def late_start(
    n: int, start: int | None = None, spacing: str = "uniform", training_steps: int = 1000
) -> Grid:
    """The grid of `late_start_steps`, for walks that start from noise of variance 1 at its first time.

    Examples
    --------
    >>> from turningpoint.diffusion.schedule import DiscreteVP
    >>> late_start(4, 600).times(DiscreteVP.named("linear"))
    array([0.601, 0.401, 0.201, 0.001, 0.   ])
    """
    steps = late_start_steps(n, start, spacing, training_steps)
    return Grid.explicit([(step + 1) / training_steps for step in steps])


@MODELS.add("ddpm")
def load(where: str | Path, *, weights: str | None = None, config: Any = None, **settings: Any) -> DDPM:
    """A DDPM from a checkpoint of score_sde, or of code in its layout.

    Parameters
    ----------
    where : path
        The ``.pth`` file; or a work directory, of which it is the newest ``checkpoints/checkpoint_N.pth``.
    weights : str, optional
        ``ema``, the averaged weights, which is the default where the file has them; or ``raw``.
    config : path or mapping, optional
        The configuration; by default a JSON file beside the checkpoint, of its stem or named ``config.json``, or
        ``config.json`` in the work directory.  It is ``{"model": {...}, "data": {...}}``, perhaps under ``"config"``.
    **settings
        Single entries, which go before those of the configuration, by their names (``image_size`` or
        ``data.image_size``): image_size, num_scales (T), beta_min, beta_max, centered, nonlinearity (swish, elu, relu,
        lrelu), scale_by_sigma, sigma_min, sigma_max; and nf, ch_mult, num_res_blocks, attn_resolutions,
        resamp_with_conv, conditional, num_channels, which the file already says and must agree with.

    Raises
    ------
    TurningpointError
        If there is no such file, it holds no such network, or a setting does not agree with it.
    """
    path = checkpoint_of(Path(where).expanduser())
    saved = read_checkpoint(path)
    refuse_other_families(saved, "ddpm", path)
    state, about = _weights(saved, weights, path)
    layout = Layout.of(state)
    given, source = configuration(config, settings, path)
    size, note = agreed_size(given, layout)
    sigmas = _sigmas(given, state)
    network = _network(layout, state, given, sigmas, path)
    model = DDPM(network, _clock(given, len(sigmas) if sigmas is not None else 1000), size)
    model.about |= {
        "format": "score_sde checkpoint (DDPM)",
        "network": f"U-Net of Ho et al. 2020: nf {layout.nf}, ch_mult {layout.ch_mult}, "
        f"{layout.num_res_blocks} residual blocks per level, attention at levels {layout.attention}",
        **about,
        "configuration": source,
        "image_size": f"{size} ({note})",
    }
    return model.eval().requires_grad_(False)


def checkpoint_of(where: Path) -> Path:
    """The checkpoint file of a path: itself, or the newest one of a work directory."""
    if where.is_file():
        return where
    numbered = {
        int(parts[1]): file
        for folder in (where, where / "checkpoints")
        for file in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (parts := re.fullmatch(r"checkpoint_(\d+)\.pth", file.name)) is not None
    }
    if numbered:
        return numbered[max(numbered)]
    meta = where / "checkpoints-meta" / "checkpoint.pth"
    if meta.is_file():
        return meta
    raise TurningpointError(
        f"the checkpoint {str(where)!r} is not there; accepted: a file, or a work directory with "
        "checkpoints/checkpoint_N.pth."
    )


# ---- tensors


def _weights(saved: Any, weights: str | None, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The chosen tensors by their names without prefixes, and what is to be told of them."""
    if weights is not None and weights not in WEIGHTS:
        raise one_of("weights", weights, WEIGHTS)
    source = str(path)
    whole_file = isinstance(saved, Mapping) and "model" in saved
    state = tensors(saved["model"] if whole_file else saved, source)
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}
    averaged = saved.get("ema") if whole_file else None
    about: dict[str, Any] = {"weights": "raw"}
    if whole_file and isinstance(saved.get("step"), int):
        about["training_steps"] = saved["step"]
    if averaged is None and weights == "ema":
        raise TurningpointError(f"weights is 'ema', but {source!r} holds no averaged weights; accepted: raw.")
    if averaged is None or weights == "raw":
        return state, about
    shadows = averaged.get("shadow_params") if isinstance(averaged, Mapping) else None
    names = [name for name in state if name != "sigmas"]
    if not isinstance(shadows, list) or len(shadows) != len(names):
        held = f"{len(shadows)} tensors" if isinstance(shadows, list) else "no list shadow_params"
        raise TurningpointError(
            f"the averaged weights of {source!r} are {held}; accepted: one for each of {len(names)} parameters."
        )
    for name, shadow in zip(names, shadows, strict=True):
        if not isinstance(shadow, Tensor) or shadow.shape != state[name].shape:
            got = tuple(shadow.shape) if isinstance(shadow, Tensor) else type(shadow).__name__
            raise TurningpointError(
                f"the averaged weight of {name!r} in {source!r} is {got}; accepted: shape {tuple(state[name].shape)}."
            )
    decay, updates = averaged.get("decay"), averaged.get("num_updates")
    about["weights"] = f"ema (decay {decay}, {updates} updates)"
    return state | dict(zip(names, shadows, strict=True)), about


def _network(
    layout: Layout, state: Mapping[str, Tensor], given: Mapping[str, Any], sigmas: Tensor | None, path: Path
) -> DDPMUNet:
    parameters = {name: tensor for name, tensor in state.items() if name != "sigmas"}
    with torch.device("meta"):  # a file can claim any size: nothing is allocated before shapes agree
        network = DDPMUNet(
            layout,
            given.get("nonlinearity", "swish"),
            given.get("centered", True),
            time_maps=any(name.endswith("Dense_0.weight") for name in parameters),
        )
    load_tensors(network, parameters, str(path))
    network.sigmas = sigmas
    return network.float()


def _sigmas(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> Tensor | None:
    """What the output is divided by, (T,), if it is (Song et al. 2021, section 2 and appendix C: geometric)."""
    if not given.get("scale_by_sigma", False):
        return None
    if "sigmas" in state:
        return state["sigmas"].flatten().float()
    if "sigma_min" not in given or "sigma_max" not in given:
        raise TurningpointError(
            "scale_by_sigma is True, but the file holds no sigmas; accepted with it: sigma_min and sigma_max."
        )
    low, high = given["sigma_min"], given["sigma_max"]
    if not 0 < low < high:
        raise TurningpointError(
            f"sigma_min, sigma_max are {low}, {high}; accepted: 0 < sigma_min < sigma_max."
        )
    return torch.from_numpy(np.geomspace(high, low, given.get("num_scales", 1000))).float()


def _clock(given: Mapping[str, Any], steps: int) -> DiscreteVP:
    steps = given.get("num_scales", steps)
    first, last = given.get("beta_min", 1e-4), given.get("beta_max", 0.02)
    if last > 1:  # rates of the continuous limit
        first, last = first / steps, last / steps
    if not 0 < first <= last < 1:
        raise TurningpointError(
            f"beta_min, beta_max are {given.get('beta_min', 1e-4)}, {given.get('beta_max', 0.02)}; accepted: "
            "0 < beta_min <= beta_max < 1, or rates, beta_max between 1 and the number of steps."
        )
    return DiscreteVP.named("linear", steps, first, last)
