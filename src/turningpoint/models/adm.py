r"""``adm``: state dicts of OpenAI's guided-diffusion and improved-diffusion.

The networks of Dhariwal & Nichol 2021 (ADM) and of Nichol & Dhariwal 2021 predict the noise, or :math:`x_0`, of a
DDPM with T = ``diffusion_steps`` steps, and, with ``learn_sigma``, in as many channels more the variance of
the reverse step: v from -1, the posterior's, to 1, :math:`\beta`, their logarithms being interpolated
(eq. 15 of the latter).  The betas are *linear*, from 0.1 / T to 20 / T, or *cosine* (eq. 17).  A sampler visits the
steps that ``timestep_respacing`` keeps, and the network is told them by their original number n, or, with
``rescale_timesteps``, as 1000 n / T.

The file is a state dict; `_adm_flags` says what its tensors tell, and `_networks.adm_unet` what the network is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..diffusion.grid import Grid
from ..diffusion.schedule import DiscreteVP
from ..errors import TurningpointError
from . import MODELS
from ._adm_flags import (
    DEFAULTS,
    MATTER,
    OF_NETWORK,
    OF_PROCESS,
    PUBLISHED,
    READ,
    check_respacing,
    check_told,
    nearest,
    parse,
    read_structure,
    written,
)
from ._calls import DirectCalls, indices
from ._networks.adm_unet import ADMUNet, Attention
from ._reading.checkpoint import load_tensors, read_checkpoint, tensors
from ._recognise import refuse_other_families

LARGEST_JSON = 2**20
"""Bytes of a file of flags."""


class ADM(DirectCalls):
    """A U-Net of guided-diffusion as a denoiser.

    Parameters
    ----------
    network : ADMUNet
        ``network(x, timesteps, y=None)``.
    image_size : int
        Height and width.
    in_channels : int
        Of the image.
    learn_sigma : bool
        Whether the network answers with the variance too.
    predict_xstart : bool
        Whether it predicts x_0, not the noise.
    noise_schedule : str
        ``linear`` or ``cosine``.
    diffusion_steps : int
        T; at least 20 for ``linear``, where the last beta is 20 / T.
    timestep_respacing : str
        The steps that a sampler visits unless told otherwise, as in `Grid.respaced`; all if empty.
    rescale_timesteps : bool
        Whether the network counts to 1000 whatever T is.
    sigma_small : bool
        Without a learned variance: whether ancestral sampling takes the posterior's, not beta.

    Raises
    ------
    TurningpointError
        If the respacing or the number of steps cannot be.
    """

    _needs_labels = True

    def __init__(
        self,
        network: ADMUNet,
        image_size: int,
        *,
        in_channels: int = 3,
        learn_sigma: bool = False,
        predict_xstart: bool = False,
        noise_schedule: str = "linear",
        diffusion_steps: int = 1000,
        timestep_respacing: str = "",
        rescale_timesteps: bool = False,
        sigma_small: bool = False,
    ) -> None:
        super().__init__(
            network,
            clock(noise_schedule, diffusion_steps),
            (in_channels, image_size, image_size),
            predicts="x0" if predict_xstart else "epsilon",
            n_classes=network.num_classes,
            name="adm",
            learned_variance=learn_sigma,
        )
        self.usual_variance = "small" if sigma_small else "large"
        check_respacing(timestep_respacing, diffusion_steps)
        self.timestep_respacing = timestep_respacing
        self.time_scale = 1000 / diffusion_steps if rescale_timesteps else 1.0

    def native(self, t: Tensor) -> Tensor:
        return super().native(t) * self.time_scale

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's own output, (B, C, H, W) or (B, 2C, H, W).

        Raises
        ------
        TurningpointError
            If the network knows classes and an item has no label: it was not trained without.
        """
        if self.n_classes is None:
            return super().raw(x_t, t)
        if label is None:
            raise self._no_label(None)
        label = indices(label)
        if label.device.type == "cpu" and bool((label < 0).any()):
            raise self._no_label(label.tolist())  # elsewhere a look at the labels would wait for the device
        return cast(Tensor, self.network(x_t.to(self.dtype), self.native(t), label)).to(x_t.dtype)

    def _no_label(self, value: Any) -> TurningpointError:
        return TurningpointError(
            f"label is {value}, but the model {self.name!r} has no answer without a class; "
            f"accepted: 0 to {cast(int, self.n_classes) - 1}."
        )

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        super().check_condition(condition)
        label = condition.get("label")
        if self.n_classes is not None and (label is None or label < 0):
            raise self._no_label(label)

    def without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        raise TurningpointError(
            f"guidance is given, but the model {self.name!r} was trained with labels only; accepted: none."
        )

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        if sampler not in ("ddpm", "ddim"):
            return None
        own = Grid.respaced(self.timestep_respacing) if self.timestep_respacing else None
        if own is not None and steps in (None, own.steps):
            return own
        return Grid.respaced(cast(DiscreteVP, self.schedule).steps if steps is None else steps)

    def fingerprint_config(self) -> dict[str, Any]:
        heads = [[m.heads, m.new_order] for m in self.network.modules() if isinstance(m, Attention)]
        config = super().fingerprint_config() | {"heads": heads}
        return {key: value for key, value in config.items() if key != "timestep_respacing"}


def clock(noise_schedule: str, diffusion_steps: int) -> DiscreteVP:
    """The schedule of T steps, so that T changes the number of steps and not where they lead.

    >>> clock("linear", 4000)
    ddpm(family=linear, steps=4000, beta_start=2.5e-05, beta_end=0.005)
    """
    if noise_schedule != "linear":
        return DiscreteVP.named(noise_schedule, diffusion_steps)
    if diffusion_steps < 20:
        raise TurningpointError(
            f"diffusion_steps is {diffusion_steps}; accepted with the linear schedule: at least 20."
        )
    return DiscreteVP.named("linear", diffusion_steps, 0.1 / diffusion_steps, 20 / diffusion_steps)


def _flags_beside(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The flags of the JSON file beside a checkpoint, and the names of what else is in it."""
    beside = path.with_suffix(".json")
    if beside == path or not beside.is_file():
        return {}, []
    accepted = 'accepted: {"flags": {"image_size": 64, ...}}, or the flags alone'
    if beside.stat().st_size > LARGEST_JSON:
        raise TurningpointError(f"{beside} has more than {LARGEST_JSON} bytes; {accepted}.")
    try:
        held = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        raise TurningpointError(f"{beside} is not JSON; {accepted}.") from None
    flags = held.get("flags", held) if isinstance(held, dict) else held
    if not isinstance(flags, dict):
        raise TurningpointError(f"{beside} holds no flags; {accepted}.")
    others = [name for name in flags if name not in READ and nearest(name) is None]
    return parse({name: value for name, value in flags.items() if name not in others}), others


@MODELS.add("adm")
def load(where: str | Path, **flags: Any) -> ADM:
    """A checkpoint of guided-diffusion or improved-diffusion, from a path.

    Parameters
    ----------
    where : path
        A state dict: ``256x256_diffusion_uncond.pt``.
    **flags
        The flags of guided-diffusion by their own names, as numbers and tuples or as they are written on a
        command line: ``image_size``, ``num_channels``, ``num_res_blocks``, ``num_heads``, ``num_heads_upsample``,
        ``num_head_channels``, ``attention_resolutions``, ``channel_mult``, ``dropout``, ``class_cond``,
        ``use_checkpoint``, ``use_scale_shift_norm``, ``resblock_updown``, ``use_fp16``,
        ``use_new_attention_order``, ``learn_sigma``, ``sigma_small``, ``diffusion_steps``, ``noise_schedule``,
        ``timestep_respacing``, ``use_kl``, ``predict_xstart``, ``rescale_timesteps``,
        ``rescale_learned_sigmas``.  What is not given is looked up in the JSON file of the same name beside the
        checkpoint, then among the published checkpoints, then in the tensors, and at last in guided-diffusion's
        defaults, which ``about["assumed"]`` tells; only ``image_size`` has none.

    Raises
    ------
    TurningpointError
        If a flag does not exist or contradicts the tensors, if the image size is nowhere said, or if the
        file is no such checkpoint.
    """
    path = Path(where)
    given = parse(flags)
    content = read_checkpoint(path)
    refuse_other_families(content, "adm", path)
    state = tensors(content, str(path))
    found = read_structure({name: tuple(tensor.shape) for name, tensor in state.items()}, path.name)
    beside, ignored = _flags_beside(path)
    told = PUBLISHED.get(path.name, {}) | beside | given
    if "image_size" not in told:
        raise TurningpointError(
            f"image_size is not given, and {path.name} does not tell it; accepted: a whole number, as in image_size=64."
        )
    check_told(told, found, path.name)
    flag = DEFAULTS | told | found

    with torch.device("meta"):
        network = ADMUNet(
            flag["in_channels"],
            flag["in_channels"] * (2 if flag["learn_sigma"] else 1),
            attention=flag["attention_resolutions"],
            **{name: flag[name] for name in OF_NETWORK},
        )
    load_tensors(network, state, path.name)
    model = ADM(network.float().requires_grad_(False), **{name: flag[name] for name in OF_PROCESS})
    model.about = _about(flag, told, ignored)
    return model.eval()


def _about(flag: Mapping[str, Any], told: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """What `Denoiser.about` holds."""
    resolutions = tuple(flag["image_size"] / factor for factor in flag["attention_resolutions"])
    shown = {**flag, "attention_resolutions": resolutions}
    about = {
        "format": "guided-diffusion state dict",
        "network": f"U-Net of Dhariwal & Nichol 2021, {flag['num_channels']} channels",
        "flags": ", ".join(f"{name}={written(shown[name])}" for name in READ if name in shown),
    }
    assumed = [name for name in MATTER if name not in told]
    if flag["num_head_channels"] != -1:
        assumed = [name for name in assumed if name != "num_heads"]
    if assumed:
        about["assumed"] = ", ".join(f"{name}={written(flag[name])}" for name in assumed)
    if ignored:
        about["ignored"] = ", ".join(ignored) + " (beside the file)"
    if flag["use_fp16"]:
        about["half precision"] = "trained with it: dtype=float16 runs it so"
    return about
