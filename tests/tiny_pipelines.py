"""U-Nets, DiT, Stable Diffusion and SDXL in miniature, as folders in the form in which `diffusers` saves them.

As `tiny_flow_pipelines`, which has the text encoders: the published classes and options, a few thousand numbers
each, weights redrawn so that no layer is zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tiny_flow_pipelines import clip_encoder, clip_tokenizer, redraw
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The table of Stable Diffusion."""


def tiny_unet(
    folder: Path, *, labels: int | None = None, learned: bool = False, size: Any = 8, scheduler: Any = None
) -> Any:
    """Save a `DDPMPipeline` in ``folder`` and return it.

    Parameters
    ----------
    folder : Path
        Where it is saved.
    labels : int, optional
        Of a class-conditional network.
    learned : bool
        Whether it returns twice the channels.
    size : int or pair
        Of an image.
    scheduler : scheduler of diffusers, optional
        By default a `DDPMScheduler` with its own settings, without clipping.
    """
    unet = UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=6 if learned else 3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=labels,
    )
    scheduler = scheduler or DDPMScheduler(clip_sample=False)
    return _saved(DDPMPipeline(redraw(unet, 21), scheduler), folder)


def tiny_vae(seed: int, **settings: Any) -> Any:
    """A KL autoencoder of 4 latent channels at half the size."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        **settings,
    )
    return redraw(model, seed)


def tiny_dit(folder: Path, *, labels: int = 1000, learned: bool = True) -> Any:
    """Save a DiT in ``folder`` and return the pipeline."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if learned else 4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=labels,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    names = {n: f"thing {n}" for n in range(labels)}
    return _saved(DiTPipeline(redraw(transformer, 22), tiny_vae(23), scheduler, names), folder)


def tiny_sd(folder: Path, *, prediction: str = "v_prediction", zero_snr: bool = True, **unet: Any) -> Any:
    """Save a Stable Diffusion 2.1 in ``folder`` and return the pipeline.

    Parameters
    ----------
    folder : Path
        Where it is saved.
    prediction : str
        What the network predicts.
    zero_snr : bool
        Whether the betas are rescaled to zero terminal signal-to-noise ratio.
    **unet
        Other settings of the U-Net.
    """
    scheduler = DDIMScheduler(
        **STABLE,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing" if zero_snr else "leading",
    )
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(24),
        text_encoder=clip_encoder(CLIPTextModel, 16, 25),
        tokenizer=clip_tokenizer(),
        unet=_unet(26, 16, **unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def tiny_sdxl(folder: Path, **vae: Any) -> Any:
    """Save an SDXL in ``folder`` and return the pipeline."""
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
    }
    scheduler = DDIMScheduler(**STABLE, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(27, scaling_factor=0.13025, **vae),
        text_encoder=clip_encoder(CLIPTextModel, 16, 28),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, 24, 29),
        tokenizer_2=clip_tokenizer(pad="!"),
        unet=_unet(30, 16 + 24, **added),
        scheduler=scheduler,
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def _unet(seed: int, width: int, **settings: Any) -> Any:
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        cross_attention_dim=width,
        **settings,
    )
    return redraw(model, seed)


def _saved(pipeline: Any, folder: Path) -> Any:
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
