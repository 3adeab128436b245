r"""Text-to-image models on latents: Stable Diffusion 1.x and 2.x, and SDXL.

A prompt is cut into tokens, padded to the length that the encoder was trained with (77), and becomes a
sequence of vectors that the network attends to:

============  ==============================================================================================
Stable        the last hidden states of a CLIP text encoder, after its final norm (Rombach et al. 2022)
Diffusion
SDXL          the penultimate hidden states of two CLIP encoders side by side, the pooled vector of the second,
              and the image's size and crop, :math:`(H, W, 0, 0, H, W)` (Podell et al. 2023)
============  ==============================================================================================

Guidance moves from the negative prompt's estimate to the prompt's (`turningpoint.diffusion.guidance`).
"""

from __future__ import annotations

import textwrap
import warnings
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TurningpointError
from .latent import LatentDenoiser, autoencoder, home, latent_shape
from .noise_tables import NoiseTable, Tabled
from .pipeline_folder import PipelineFolder

MOST_TOKENS = 4_096
REMEMBERED = 2**29
"""Bytes of embeddings that are kept; FLUX's take 8 MB each."""


class TextEncoder(nn.Module):
    """A tokenizer and an encoder.

    Parameters
    ----------
    tokenizer : tokenizer of `transformers`
        Cuts a text into tokens.
    encoder : nn.Module
        A text model of `transformers`.
    length : int, optional
        Tokens of a prompt with its padding; by default the tokenizer's ``model_max_length``.
    """

    def __init__(self, tokenizer: Any, encoder: Any, length: int | None = None) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.encoder: Any = encoder
        own = int(min(tokenizer.model_max_length, MOST_TOKENS))
        self.length = min(own, int(getattr(encoder.config, "max_position_embeddings", own)))
        self.length = self.length if length is None else length
        known = getattr(encoder.config, "vocab_size", None)
        if known is not None and len(tokenizer) > known:
            raise TurningpointError(
                f"a tokenizer has {len(tokenizer)} tokens, but its text encoder knows {known}."
            )

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """The tokens of n prompts, (n, length) int64, padded; a warning tells what was cut off."""
        return self._tokens(prompts)[0]

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        for prompt in prompts:
            whole = self._tokenizer(prompt, truncation=False, verbose=False).input_ids
            if len(whole) > self.length:
                cut = textwrap.shorten(
                    self._tokenizer.decode(whole[self.length - 1 : -1]), 200, placeholder=" ..."
                )
                warnings.warn(
                    f"a prompt has more than {self.length} tokens; cut off: {cut!r}.",
                    UserWarning,
                    stacklevel=2,
                )
        found = self._tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return found.input_ids, found.attention_mask

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], **settings: Any) -> Any:
        """What the encoder makes of n prompts, its own output object."""
        ids, mask = self._tokens(prompts)
        if getattr(self.encoder.config, "use_attention_mask", False):
            settings["attention_mask"] = mask.to(home(self.encoder))
        return self.encoder(ids.to(home(self.encoder)), **settings)


class TextToImage(LatentDenoiser):
    """A latent denoiser that is told a prompt; a condition is ``{"prompt": ..., "negative_prompt": ...}``.

    Attributes
    ----------
    negative_prompt : str or None
        What guidance moves away from where a walk's condition does not say.
    """

    takes_prompts = True
    negative_prompt: str | None = None
    _inputs: tuple[str, ...] = ("tokens", "pooled")
    """The names of what `embed` returns."""

    @abstractmethod
    def embed(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The arguments of `raw` for n prompts, each (n, ...); None is the absence of a prompt."""

    @property
    def _kept(self) -> OrderedDict[str | None, dict[str, Tensor]]:
        kept: OrderedDict[str | None, dict[str, Tensor]] = self.__dict__.setdefault(
            "_embeddings", OrderedDict()
        )
        return kept

    @torch.inference_mode(False)  # what is remembered must be fit for gradients later
    @torch.no_grad()
    def embeddings(
        self, prompts: Sequence[str | None], device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The arguments of `raw` for n prompts, each prompt encoded once and remembered."""
        kept = self._kept
        place = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
        for prompt in place:  # one by one, so that an embedding does not depend on its company
            if prompt not in kept:
                kept[prompt] = {name: value[0] for name, value in self.embed([prompt]).items()}
            kept.move_to_end(prompt)
        rows = [kept[prompt] for prompt in place]
        index = torch.tensor([place[prompt] for prompt in prompts])
        batch = {}
        for name in rows[0]:
            distinct = torch.stack([row[name] for row in rows]).to(device or rows[0][name].device)
            batch[name] = distinct.index_select(0, index.to(distinct.device))
        size = sum(value.numel() * value.element_size() for value in rows[0].values())
        while len(kept) > max(REMEMBERED // size, len(rows)):
            kept.popitem(last=False)
        return batch

    def conditions(self, conditions: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
        """The embeddings of a batch of walks' prompts, as `raw` takes them."""
        prompts = tuple(condition.get("prompt") for condition in conditions)
        last: tuple[Any, dict[str, Tensor]] | None = self.__dict__.get("_last")
        if last is None or last[0] != (prompts, device):
            last = (prompts, device), self.embeddings(prompts, device)
            self.__dict__["_last"] = last
        return dict(last[1])

    def without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The negative prompt in the prompt's place; the model's own where the condition has none."""
        negative = condition.get("negative_prompt")
        return {"prompt": self.negative_prompt if negative is None else negative}

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        super().check_condition(condition)
        for key in ("prompt", "negative_prompt"):
            value = condition.get(key)
            if value is not None and not isinstance(value, str):
                raise TurningpointError(f"{key} is {value!r}; accepted: a text.")

    def checked(self, x_t: Tensor, t: Any, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        t, condition = super().checked(x_t, t, condition)
        if condition.keys() == set(self._inputs):
            wrong = [name for name in self._inputs if len(condition[name]) != len(x_t)]
            if wrong:
                raise TurningpointError(
                    f"{wrong[0]} is of {len(condition[wrong[0]])} items; accepted: {len(x_t)}, one for each of x_t."
                )
            return t, condition
        if "negative_prompt" in condition:
            raise TurningpointError(
                "negative_prompt is given in a call of the model itself; accepted: prompt, a negative one being "
                "what guidance moves away from (turningpoint.Guided)."
            )
        unknown = sorted(condition.keys() - {"prompt"})
        if unknown:
            raise TurningpointError(
                f"{unknown[0]} is given; accepted by the model {self.name!r}: prompt, or all of what conditions() "
                f"returns ({', '.join(self._inputs)})."
            )
        return t, self.conditions(self._prompts(condition.get("prompt"), len(x_t)), x_t.device)

    def _prompts(self, prompt: Any, batch: int) -> list[dict[str, Any]]:
        """The condition of each of so many items, from one prompt or one for each."""
        prompts = [prompt] * batch if isinstance(prompt, str | None) else prompt
        if not isinstance(prompts, Sequence) or not all(isinstance(p, str | None) for p in prompts):
            raise TurningpointError(f"prompt is {prompt!r}; accepted: a text, or one for each item.")
        if len(prompts) != batch:
            raise TurningpointError(f"prompt has {len(prompts)} texts; accepted: a text, or {batch} of them.")
        return [{"prompt": p} for p in prompts]

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """E[x_0 | x_t, prompt].

        Parameters
        ----------
        x_t : Tensor (B, *shape)
            Noisy latents.
        t : Tensor (B,)
            One time per item, or one for all.
        **condition
            ``prompt``, a text for all items or a sequence with one for each; or what `conditions` returns; nothing
            is no prompt.

        Raises
        ------
        TurningpointError
            If anything else is given, or not one for each item.
        """
        if label is not None:
            raise TurningpointError(
                f"label is given, but the model {self.name!r} takes prompts and no labels."
            )
        return self.clipped(self.estimate(x_t, t, **condition))


class StableDiffusion(Tabled, TextToImage):
    """Stable Diffusion 1.x and 2.x.

    Parameters
    ----------
    unet : nn.Module
        A ``UNet2DConditionModel``.
    vae : nn.Module
        An ``AutoencoderKL``.
    text_encoder : TextEncoder
        A CLIP text encoder.
    table : NoiseTable
        The scheduler's.
    shape : tuple of int
        Of a latent.
    """

    _inputs = ("embedding",)

    def __init__(
        self, unet: Any, vae: Any, text_encoder: TextEncoder, table: NoiseTable, shape: Sequence[int]
    ) -> None:
        LatentDenoiser.__init__(self, unet, vae, table.schedule, shape, table.predicts)
        self.text_encoder = text_encoder
        self.use(table)

    def embed(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        return {"embedding": self.text_encoder([prompt or "" for prompt in prompts])[0]}

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """The U-Net's own output for embeddings (B, L, D), (B, *shape)."""
        embedding = condition["embedding"].to(self.dtype)
        output: Tensor = self.network(
            x_t.to(self.dtype), self.native(t), encoder_hidden_states=embedding, return_dict=False
        )[0]
        return output.to(x_t)


class StableDiffusionXL(Tabled, TextToImage):
    """SDXL; its parameters are those of `StableDiffusion`, with two text encoders.

    Parameters
    ----------
    force_zeros : bool
        Whether the absence of a prompt is zeros in place of the embedding of an empty text.
    """

    _inputs = ("embedding", "pooled")

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoders: Sequence[TextEncoder],
        table: NoiseTable,
        shape: Sequence[int],
        force_zeros: bool = True,
    ) -> None:
        LatentDenoiser.__init__(self, unet, vae, table.schedule, shape, table.predicts)
        self.force_zeros, self.text_encoders = force_zeros, nn.ModuleList(text_encoders)
        self.use(table)

    def embed(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        texts = [prompt or "" for prompt in prompts]
        outputs = [encoder(texts, output_hidden_states=True) for encoder in self.text_encoders]
        states = [output.hidden_states[-2] for output in outputs]
        embedding = torch.cat([state.to(states[-1]) for state in states], -1)
        pooled = outputs[-1][0]
        told = torch.tensor([not (self.force_zeros and prompt is None) for prompt in prompts]).to(pooled)
        return {"embedding": embedding * told[:, None, None], "pooled": pooled * told[:, None]}

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """The U-Net's own output for embeddings (B, L, D) and pooled vectors (B, P), (B, *shape)."""
        height, width = self.image_shape[1:]
        size = torch.tensor([height, width, 0, 0, height, width], device=x_t.device, dtype=self.dtype)
        output: Tensor = self.network(
            x_t.to(self.dtype),
            self.native(t),
            encoder_hidden_states=condition["embedding"].to(self.dtype),
            added_cond_kwargs={
                "text_embeds": condition["pooled"].to(self.dtype),
                "time_ids": size.expand(len(x_t), -1),
            },
            return_dict=False,
        )[0]
        return output.to(x_t)


def _unet(folder: PipelineFolder, channels: int, added: str | None) -> Any:
    """The U-Net of a text-to-image pipeline, which must be told a text and a time, and nothing else."""
    unet = folder.module("unet", "diffusers.UNet2DConditionModel")
    config = unet.config
    plain: dict[str, Any] = {"in_channels": channels, "out_channels": channels, "addition_embed_type": added}
    others = ("class_embed_type", "num_class_embeds", "time_cond_proj_dim", "encoder_hid_dim_type")
    for key, accepted in {**plain, **dict.fromkeys(others)}.items():
        if config[key] != accepted:
            raise TurningpointError(
                f"the U-Net of {str(folder.path)!r} has {key} = {config[key]!r}; accepted of a text-to-image model: "
                f"{accepted!r}."
            )
    return unet


def _text_encoder(folder: PipelineFolder, number: str, *classes: str) -> TextEncoder:
    tokenizer = folder.tokenizer(f"tokenizer{number}", "transformers.CLIPTokenizer")
    return TextEncoder(tokenizer, folder.module(f"text_encoder{number}", *classes))


def stable_diffusion(folder: PipelineFolder) -> StableDiffusion:
    """A ``StableDiffusionPipeline``."""
    text_encoder = _text_encoder(folder, "", "transformers.CLIPTextModel")
    vae = autoencoder(folder)
    unet = _unet(folder, int(vae.config.latent_channels), None)
    shape = latent_shape(folder.options, vae, int(unet.config.in_channels), unet.config.sample_size)
    model = StableDiffusion(unet, vae, text_encoder, NoiseTable(folder.scheduler()[1]), shape)
    model.negative_prompt = folder.options.negative_prompt
    return model


def stable_diffusion_xl(folder: PipelineFolder) -> StableDiffusionXL:
    """A ``StableDiffusionXLPipeline``, the base model."""
    classes = {"": "transformers.CLIPTextModel", "_2": "transformers.CLIPTextModelWithProjection"}
    present = {number: kind for number, kind in classes.items() if folder.has(f"text_encoder{number}")}
    if "" not in present or folder.index.get("requires_aesthetics_score"):
        raise TurningpointError(f"{str(folder.path)!r} is a refiner of SDXL; accepted: the base model.")
    encoders = [_text_encoder(folder, number, kind) for number, kind in classes.items()]
    vae = autoencoder(folder)
    unet = _unet(folder, int(vae.config.latent_channels), "text_time")
    shape = latent_shape(folder.options, vae, int(unet.config.in_channels), unet.config.sample_size)
    force_zeros = bool(folder.index.get("force_zeros_for_empty_prompt", True))
    model = StableDiffusionXL(unet, vae, encoders, NoiseTable(folder.scheduler()[1]), shape, force_zeros)
    model.negative_prompt = folder.options.negative_prompt
    return model
