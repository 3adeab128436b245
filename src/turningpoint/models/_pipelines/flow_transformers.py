r"""Flow-matching text-to-image transformers: Stable Diffusion 3 and 3.5, and FLUX.1.

A state on the straight line between data and noise, :math:`x_t = (1 - t) x_0 + t \varepsilon`, is shown to a
transformer that predicts the velocity :math:`v = \varepsilon - x_0`, so that :math:`\hat x_0 = x_t - t v`.  The
times of a sampler are equal ones, :math:`u`, pushed towards the noise, further for larger images:

.. math:: t = \frac{\kappa u}{1 + (\kappa - 1) u}, \qquad
          \log \kappa = \mu_0 + (\mu_1 - \mu_0) \frac{N - N_0}{N_1 - N_0},

with N the tokens of an image; or :math:`\kappa` is a number (``shift``).

=================  =======================================  =============================================
what it is told    Stable Diffusion 3                       FLUX.1
=================  =======================================  =============================================
image              latents (16, h, w)                       their 2x2 patches (hw / 4, 64), and the row and
                                                            column of each
time               1000 t                                   t
tokens             CLIP-L beside CLIP-G, padded with        T5's
                   zeros (or cut) to T5's width, then T5's
pooled prompt      both CLIPs', projected                   CLIP-L's
guidance           none (classifier-free)                   its scale (-dev), none (-schnell)
=================  =======================================  =============================================

(Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 23 for the shift; Black Forest Labs 2024.  What the
papers leave open is as in the pipelines of `diffusers`, where T5 reads a prompt's padding too.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...diffusion.grid import Grid
from ...diffusion.schedule import RectifiedFlow
from ...errors import TurningpointError
from ..settings import number, whole
from .latent import LatentDenoiser, autoencoder, latent_shape
from .noise_tables import FLOWS, MOST_STEPS
from .pipeline_folder import PipelineFolder, reason
from .text_to_image import TextEncoder, TextToImage

LONGEST_PROMPT = 512
"""Tokens that T5 is given at most."""
FLUX_SIDE = 128
"""Latent pixels per side of FLUX's own image, which no configuration states."""


def flow_times(config: Mapping[str, Any], steps: int, tokens: int, plain: bool) -> list[float]:
    """The times at which a pipeline of `diffusers` calls its transformer, falling from 1.

    Parameters
    ----------
    config : mapping
        Of a ``FlowMatchEulerDiscreteScheduler``.
    steps : int
        How many.
    tokens : int
        N, the patches of an image.
    plain : bool
        Whether the equal times are k / steps, as in FLUX.  In Stable Diffusion 3 they end at the last of the
        scheduler's training times, which is so shifted twice.

    Examples
    --------
    >>> flow_times({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, 2, 256, plain=True)
    [1.0, 0.75]
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    described: dict[str, Any] = {key: value for key, value in config.items() if not key.startswith("_")}
    own: dict[str, Any] = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if plain else {}
    if described.get("use_dynamic_shifting"):
        small, large = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        own["mu"] = low + (high - low) * (tokens - small) / (large - small)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(described)
    scheduler.set_timesteps(num_inference_steps=steps, **own)
    return [min(float(sigma), 1.0) for sigma in scheduler.sigmas[:-1]]


class FlowTransformer(TextToImage):
    """What the two families share: the straight line, and the times at which their authors sample.

    Parameters
    ----------
    transformer : nn.Module
        Predicts the velocity.
    vae : nn.Module
        An ``AutoencoderKL``.
    text_encoders : sequence of TextEncoder
        In the order in which a pipeline numbers them.
    scheduler : mapping
        The configuration of a ``FlowMatchEulerDiscreteScheduler``.
    shape : tuple of int
        Of a latent, (C, h, w).
    max_sequence_length : int
        The tokens of a prompt that T5 reads.

    Attributes
    ----------
    own_steps : int
        The steps that the authors' pipeline takes unless told.

    Raises
    ------
    TurningpointError
        If the scheduler is none of a flow, or makes no times.
    """

    network: Any
    own_steps: int = 28
    _plain_times = False

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        text_encoders: Sequence[TextEncoder],
        scheduler: Mapping[str, Any],
        shape: Sequence[int],
        max_sequence_length: int,
    ) -> None:
        kind = scheduler["_class_name"]
        if kind not in FLOWS or scheduler.get("invert_sigmas"):
            inverted = " with invert_sigmas" if kind in FLOWS else ""
            raise TurningpointError(
                f"the scheduler is {kind}{inverted}; accepted by a flow: {', '.join(FLOWS)}, from noise to data."
            )
        trained = whole("num_train_timesteps", scheduler.get("num_train_timesteps", 1000))
        if trained > MOST_STEPS:
            raise TurningpointError(f"num_train_timesteps is {trained}; accepted: 1 to {MOST_STEPS}.")
        clock = RectifiedFlow(trained)
        LatentDenoiser.__init__(self, transformer, vae, clock, shape, "flow")
        self.text_encoders = nn.ModuleList(text_encoders)
        self.max_sequence_length, self._scheduler = max_sequence_length, dict(scheduler)
        self.about |= {"network": type(transformer).__name__, "scheduler": kind, "shift": _shift(scheduler)}
        self.usual_grid("euler", None)

    @property
    def _side(self) -> int:
        """Latent pixels per side of a token."""
        return 2

    def usual_grid(self, sampler: str, steps: int | None) -> Grid:
        """The times of the authors' Euler steps, which serve every sampler; `own_steps` of them if None."""
        tokens = (self.shape[1] // self._side) * (self.shape[2] // self._side)
        count = whole("steps", self.own_steps if steps is None else steps)
        try:
            times = flow_times(self._scheduler, count, tokens, self._plain_times)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise TurningpointError(f"the scheduler's settings make no times: {reason(error)}.") from None
        if not all(earlier > later for earlier, later in pairwise([*times, 0.0])):
            first = ", ".join(f"{time:.4g}" for time in times[:4])
            raise TurningpointError(
                f"the scheduler's settings make the times {first}, ...; accepted: times that fall and stay above 0."
            )
        return Grid.explicit(times)


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 and 3.5, with two text encoders or three; made of what a `FlowTransformer` is."""

    @property
    def _side(self) -> int:
        return int(self.network.config.patch_size)

    def embed(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The tokens (n, 77 + max_sequence_length, D) and the pooled vectors (n, P); zeros where T5 is left out."""
        texts = [prompt or "" for prompt in prompts]
        clips = [encoder(texts, output_hidden_states=True) for encoder in self.text_encoders[:2]]
        tokens = torch.cat([clip.hidden_states[-2] for clip in clips], -1)
        width = int(self.network.config.joint_attention_dim)
        tokens = F.pad(tokens, (0, width - tokens.shape[-1]))
        if len(self.text_encoders) > 2:
            long = self.text_encoders[2](texts)[0].to(tokens)
        else:
            long = tokens.new_zeros(len(texts), self.max_sequence_length, width)
        return {
            "tokens": torch.cat([tokens, long], 1),
            "pooled": torch.cat([clip.text_embeds for clip in clips], -1),
        }

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """The velocity (B, *shape) for tokens (B, L, D) and pooled vectors (B, P)."""
        velocity: Tensor = self.network(
            hidden_states=x_t.to(self.dtype),
            timestep=self.native(t),
            encoder_hidden_states=condition["tokens"].to(self.dtype),
            pooled_projections=condition["pooled"].to(self.dtype),
            return_dict=False,
        )[0]
        return velocity.to(x_t)


class Flux(FlowTransformer):
    """FLUX.1, made of what a `FlowTransformer` is, with CLIP and T5 as text encoders.

    Parameters
    ----------
    embedded_guidance : float, optional
        The guidance scale that -dev is told, 3.5 by default; -schnell is told none.

    Raises
    ------
    TurningpointError
        If a network that is told none is given one.
    """

    _plain_times = True

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        text_encoders: Sequence[TextEncoder],
        scheduler: Mapping[str, Any],
        shape: Sequence[int],
        max_sequence_length: int,
        embedded_guidance: float | None = None,
    ) -> None:
        distilled = bool(transformer.config.guidance_embeds)
        self.own_steps = 28 if distilled else 4
        super().__init__(transformer, vae, text_encoders, scheduler, shape, max_sequence_length)
        if embedded_guidance is not None and not distilled:
            raise TurningpointError(
                f"embedded_guidance is {embedded_guidance}, but this FLUX is told no guidance; accepted: None."
            )
        self.embedded_guidance: float | None = None
        if distilled:
            scale = 3.5 if embedded_guidance is None else embedded_guidance
            self.embedded_guidance = number("embedded_guidance", scale, least=0.0)
            self.about |= {"embedded guidance": f"{self.embedded_guidance:g}"}
        rows, columns = torch.arange(self.shape[1] // 2), torch.arange(self.shape[2] // 2)
        places = F.pad(torch.cartesian_prod(rows, columns), (1, 0))
        self.register_buffer("positions", places.to(torch.float32), persistent=False)
        self.positions: Tensor

    def embed(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The tokens (n, max_sequence_length, D) and the pooled vectors (n, P)."""
        texts = [prompt or "" for prompt in prompts]
        clip, t5 = self.text_encoders
        return {"tokens": t5(texts)[0], "pooled": clip(texts).pooler_output}

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """The velocity (B, *shape) for tokens (B, L, D) and pooled vectors (B, P)."""
        tokens = condition["tokens"].to(self.dtype)
        guidance = self.embedded_guidance
        velocity: Tensor = self.network(
            hidden_states=_packed(x_t).to(self.dtype),
            timestep=self.native(t).to(self.dtype) / 1000,
            guidance=None if guidance is None else x_t.new_full((len(x_t),), guidance, dtype=torch.float32),
            pooled_projections=condition["pooled"].to(self.dtype),
            encoder_hidden_states=tokens,
            txt_ids=self.positions.new_zeros(tokens.shape[1], 3).to(x_t.device),
            img_ids=self.positions.to(x_t.device),
            return_dict=False,
        )[0]
        return _unpacked(velocity.to(x_t), self.shape)


def _packed(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as tokens (B, h w / 4, 4 C), channels before the place in a patch."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).contiguous()


def _unpacked(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `_packed`, for latents of ``shape``."""
    patches = tokens.transpose(1, 2).reshape(len(tokens), -1, shape[1] // 2, shape[2] // 2)
    return F.pixel_shuffle(patches, 2)


def _shift(scheduler: Mapping[str, Any]) -> str:
    """What ``inspect`` tells of the shift."""
    if scheduler.get("use_dynamic_shifting"):
        return f"by the size of an image, {scheduler.get('base_shift')} to {scheduler.get('max_shift')}"
    return str(scheduler.get("shift", 1.0))


def _longest(folder: PipelineFolder, default: int) -> int:
    """The setting ``max_sequence_length``."""
    given = folder.options.extra.get("max_sequence_length")
    length = whole("max_sequence_length", default if given is None else given)
    if length > LONGEST_PROMPT:
        raise TurningpointError(f"max_sequence_length is {length}; accepted: 1 to {LONGEST_PROMPT}.")
    return length


def _t5(folder: PipelineFolder, number: str, length: int) -> TextEncoder:
    tokenizer = folder.tokenizer(
        f"tokenizer{number}", "transformers.T5Tokenizer", "transformers.T5TokenizerFast"
    )
    return TextEncoder(
        tokenizer, folder.module(f"text_encoder{number}", "transformers.T5EncoderModel"), length
    )


def _clip(folder: PipelineFolder, number: str, kind: str, length: int | None = None) -> TextEncoder:
    tokenizer = folder.tokenizer(f"tokenizer{number}", "transformers.CLIPTokenizer")
    return TextEncoder(tokenizer, folder.module(f"text_encoder{number}", f"transformers.{kind}"), length)


def _agree(folder: PipelineFolder, **widths: tuple[int, int]) -> None:
    """Refuse parts that do not fit together: for each name, what there is and what the transformer takes."""
    for name, (there, taken) in widths.items():
        if there != taken:
            raise TurningpointError(
                f"the parts of {str(folder.path)!r} do not fit: {name} is {there}, but the transformer takes {taken}."
            )


def stable_diffusion_3(folder: PipelineFolder) -> StableDiffusion3:
    """A ``StableDiffusion3Pipeline``, with its third text encoder or without."""
    longest = _longest(folder, 256)
    encoders = [_clip(folder, "", "CLIPTextModelWithProjection")]
    encoders.append(_clip(folder, "_2", "CLIPTextModelWithProjection", encoders[0].length))
    pooled = sum(int(encoder.encoder.config.projection_dim) for encoder in encoders)
    if folder.has("text_encoder_3"):
        encoders.append(_t5(folder, "_3", longest))
    vae = autoencoder(folder)
    transformer = folder.module("transformer", "diffusers.SD3Transformer2DModel")
    config, channels = transformer.config, int(vae.config.latent_channels)
    _agree(
        folder,
        latent_channels=(channels, config.in_channels),
        out_channels=(channels, config.out_channels),
        pooled=(pooled, config.pooled_projection_dim),
    )
    if len(encoders) > 2:
        _agree(folder, tokens=(int(encoders[2].encoder.config.d_model), config.joint_attention_dim))
    shape = latent_shape(folder.options, vae, channels, config.sample_size, int(config.patch_size))
    most = config.pos_embed_max_size
    if most is not None and max(shape[1:]) > most * config.patch_size:
        pixels = most * config.patch_size * 2 ** (len(vae.config.block_out_channels) - 1)
        raise TurningpointError(
            f"height, width are too large for this model; accepted: {pixels} pixels at most."
        )
    model = StableDiffusion3(transformer, vae, encoders, folder.scheduler()[1], shape, longest)
    model.negative_prompt = folder.options.negative_prompt
    return model


def flux(folder: PipelineFolder) -> Flux:
    """A ``FluxPipeline``: -dev or -schnell, as its transformer says."""
    longest = _longest(folder, 512)
    clip, t5 = _clip(folder, "", "CLIPTextModel"), _t5(folder, "_2", longest)
    vae = autoencoder(folder)
    transformer = folder.module("transformer", "diffusers.FluxTransformer2DModel")
    config, channels = transformer.config, int(vae.config.latent_channels)
    _agree(
        folder,
        latent_channels=(4 * channels, config.in_channels),
        out_channels=(4 * channels, transformer.out_channels),
        pooled=(int(clip.encoder.config.hidden_size), config.pooled_projection_dim),
        tokens=(int(t5.encoder.config.d_model), config.joint_attention_dim),
    )
    shape = latent_shape(folder.options, vae, channels, FLUX_SIDE, 2)
    guidance = folder.options.extra.get("embedded_guidance")
    model = Flux(transformer, vae, [clip, t5], folder.scheduler()[1], shape, longest, guidance)
    model.negative_prompt = folder.options.negative_prompt
    return model
