"""CLIP, SigLIP, SigLIP 2 and DINOv2 in miniature, as folders in the form in which `transformers` publishes them.

Everything is made here: vocabularies, networks of the published classes with a few thousand redrawn numbers, and the
settings of the image processors.  The networks see 32 x 32 pixels in 4 x 4 patches, the texts are cut into letters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_flow_pipelines import redraw
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    T5TokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

SIZE, PATCH, PATCHES = 32, 8, 16
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"
LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_clip(folder: Path, seed: int = 29) -> Path:
    """Save a CLIP in ``folder``, which is returned: 77 tokens, embeddings of 24 numbers."""
    tokenizer = _letters_of_clip()
    text = {
        **LAYERS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=24)
    size = {"shortest_edge": SIZE}, {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessorPil(size=size[0], crop_size=size[1])
    return _save(folder, _scaled(CLIPModel(config), seed, 100.0), processor, tokenizer)


def tiny_siglip(folder: Path, seed: int = 36) -> Path:
    """Save a SigLIP in ``folder``, which is returned: 64 tokens, no class token, a scale and a bias."""
    tokenizer = T5TokenizerFast(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0), *((c, -4.0) for c in LETTERS)],
        extra_ids=0,
        model_max_length=64,
        model_input_names=["input_ids"],
    )
    config = SiglipConfig(text_config=_siglip_text(tokenizer), vision_config=_vision())
    processor = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return _save(folder, _scaled(SiglipModel(config), seed, 100.0, -10.0), processor, tokenizer)


def tiny_siglip2(folder: Path, seed: int = 3) -> Path:
    """Save a SigLIP 2 of free aspect ratio in ``folder``, which is returned: 16 patches at most, padded to 16."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokenizer = Siglip2Tokenizer(
        vocab={token: n for n, token in enumerate(tokens)}, merges=[], model_max_length=64
    )
    vision = {key: value for key, value in _vision().items() if key != "image_size"}
    config = Siglip2Config(
        text_config=_siglip_text(tokenizer), vision_config={**vision, "num_patches": PATCHES}
    )
    processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=PATCHES)
    return _save(folder, _scaled(Siglip2Model(config), seed, 100.0, -10.0), processor, tokenizer)


def tiny_dinov2(folder: Path, seed: int = 4) -> Path:
    """Save a DINOv2 in ``folder``, which is returned; its processor resizes to 36 pixels and cuts 32 out."""
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIZE,
        patch_size=PATCH,
    )
    processor = BitImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    return _save(folder, redraw(Dinov2Model(config), seed), processor)


def _vision() -> dict[str, Any]:
    return {**LAYERS, "image_size": SIZE, "patch_size": PATCH}


def _siglip_text(tokenizer: Any) -> dict[str, Any]:
    return {
        **LAYERS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _letters_of_clip() -> CLIPTokenizer:
    """Bytes, bytes at the end of a word, two merges."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "ph",
        "re",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: n for n, token in enumerate(tokens)},
        merges=[("p", "h"), ("r", "e")],
        model_max_length=77,
    )


def _scaled(model: Any, seed: int, scale: float, bias: float | None = None) -> Any:
    """Redrawn weights, and what a cosine is multiplied by: 100, as in the published CLIP."""
    redraw(model, seed)
    with torch.no_grad():
        model.logit_scale.fill_(scale).log_()
        if bias is not None:
            model.logit_bias.fill_(bias)
    return model


def _save(folder: Path, *parts: Any) -> Path:
    disable_progress_bar()
    for part in parts:
        part.save_pretrained(folder)
    return folder
