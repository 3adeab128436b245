"""Stable Diffusion 3 and FLUX.1 in miniature, as folders in the form in which `diffusers` saves them.

Everything is made here: tokenizers, text encoders, transformer and autoencoder, of the published classes and
options but a few thousand numbers each.  Weights are redrawn after construction, since `diffusers` starts some
layers at zero and a block that adds nothing would not be tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

CHANNELS = 16
T5_WIDTH = 48
MAX_CLIP = 20
"""Tokens that the CLIP encoders read (77 in the originals)."""


def redraw(module: nn.Module, seed: int) -> nn.Module:
    """Random parameters of ordinary size everywhere: matrices keep a vector's length on average."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(draw * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(draw * 0.2 + float(name.endswith("weight")))
    return module.eval()


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Bytes, bytes at the end of a word, three merges; ``pad`` is ``!`` in CLIP-G's tokenizer."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "do"]
    vocabulary = {token: n for n, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o")]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=MAX_CLIP)


def t5_tokenizer() -> T5TokenizerFast:
    """A unigram model of single letters and a few words, in T5's order: padding, end, unknown."""
    words = ["▁a", "▁cat", "▁dog", "▁the", "▁"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((word, -2.0) for word in words)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(kind: type, width: int, seed: int) -> Any:
    """A CLIP text encoder of two layers; ``kind`` says whether it ends in a projection."""
    vocabulary = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_CLIP,
        hidden_act="quick_gelu" if width == 16 else "gelu",
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=vocabulary.pad_token_id,
    )
    return redraw(kind(config), seed)


def t5_encoder(seed: int, width: int = T5_WIDTH) -> Any:
    """A T5 1.1 encoder of two layers."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
    )
    return redraw(T5EncoderModel(config), seed)


def autoencoder(
    scaling_factor: float, shift_factor: float | None, seed: int, channels: int = CHANNELS
) -> Any:
    """A KL autoencoder from 3 channels to 16 at half the size, without the quantisation layers."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=32,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return redraw(model, seed)


def tiny_sd3(
    folder: Path, *, t5: bool = True, medium: bool = False, width: int = T5_WIDTH, **scheduler: Any
) -> Any:
    """Save a Stable Diffusion 3 in ``folder`` and return the pipeline.

    Parameters
    ----------
    folder : Path
        Where it is saved.
    t5 : bool
        Whether it has its third text encoder.
    medium : bool
        Normalised queries and keys and a block of dual attention, as in 3.5 medium.
    width : int
        Of T5's tokens; those of both CLIPs together are 40.
    **scheduler
        Settings of `FlowMatchEulerDiscreteScheduler`, beside a shift of 3.
    """
    options: dict[str, Any] = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if medium else {}
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=width,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=12,
        **options,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=redraw(transformer, 1),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | scheduler),
        vae=autoencoder(1.5305, 0.0609, 2),
        text_encoder=clip_encoder(CLIPTextModelWithProjection, 16, 3),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, 24, 4),
        tokenizer_2=clip_tokenizer(pad="!"),
        text_encoder_3=t5_encoder(5, width) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )
    return _saved(pipeline, folder)


def tiny_flux(folder: Path, *, dev: bool = True, **scheduler: Any) -> Any:
    """Save a FLUX.1 in ``folder`` and return the pipeline.

    Parameters
    ----------
    folder : Path
        Where it is saved.
    dev : bool
        With the distilled guidance and the dynamic shift of -dev; else a -schnell.
    **scheduler
        Settings of `FlowMatchEulerDiscreteScheduler`, beside the variant's own.
    """
    own: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True} if dev else {"shift": 1.0}
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = FluxPipeline(
        transformer=redraw(transformer, 6),
        scheduler=FlowMatchEulerDiscreteScheduler(**own | scheduler),
        vae=autoencoder(0.3611, 0.1159, 7),
        text_encoder=clip_encoder(CLIPTextModel, 16, 8),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(9),
        tokenizer_2=t5_tokenizer(),
    )
    return _saved(pipeline, folder)


def _saved(pipeline: Any, folder: Path) -> Any:
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
