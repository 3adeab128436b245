r"""The path down and the path up that the U-Nets of EDM checkpoints share.

From resolution to resolution, :math:`R, R/2, R/4, \dots`, the encoder halves, applies ``num_blocks`` residual blocks
and keeps every state; the decoder begins at the lowest resolution with a block with attention and one without,
and applies ``num_blocks + 1`` blocks per resolution, each to its input and the encoder's latest state that is left.

Past the blocks there may be a second, *thin* path (Song et al. 2021, appendix H).  Down it, the image itself
is made smaller: ``skip`` adds it to the state through a 1x1 convolution, ``residual`` convolves it to the width
of the state, takes :math:`\sqrt{1/2}` of their sum, and hands that on.  Up it, ``skip`` adds up images
from every resolution.

Modules are named as in the checkpoints: ``enc.16x16_conv``, ``enc.8x8_down``, ``enc.8x8_block0``, ``dec.8x8_in0``,
``dec.16x16_up``, ``enc.8x8_aux_residual``, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import TurningpointError
from .edm_blocks import Conv2d, UNetBlock


class Trunk(nn.Module):
    """Encoder ``enc`` and decoder ``dec`` without the thin path's modules, which a subclass puts in.

    Parameters
    ----------
    img_resolution : int
        R.
    in_channels : int
        Channels of the images.
    model_channels : int
        The unit of width, and the width after the first convolution.
    channel_mult : sequence of int
        The width at each resolution.
    num_blocks : int
        Residual blocks per resolution of the encoder.
    block : callable
        ``block(in_channels, out_channels, up=, down=, attention=)``.
    decoder_attends : callable
        ``decoder_attends(resolution, number)``: whether that block of the decoder has attention.
    attn_resolutions : sequence of int
        Where the encoder's blocks have attention.
    wide_stem : bool
        Whether the width after the first convolution is already that of the first resolution.

    Raises
    ------
    TurningpointError
        If the resolution cannot be halved often enough.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        model_channels: int,
        channel_mult: Sequence[int],
        num_blocks: int,
        block: Callable[..., UNetBlock],
        decoder_attends: Callable[[int, int], bool],
        attn_resolutions: Sequence[int],
        wide_stem: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        if levels < 1 or img_resolution < 1 or img_resolution % 2 ** (levels - 1):
            raise TurningpointError(
                f"img_resolution, channel_mult are {img_resolution}, {list(channel_mult)}; "
                "accepted: a resolution that can be halved from level to level."
            )
        self.num_blocks = num_blocks
        self.resolutions = [img_resolution >> level for level in range(levels)]
        self.widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

        width = self.widths[0] if wide_stem else model_channels
        kept: list[int] = []
        for resolution, wide in zip(self.resolutions, self.widths, strict=True):
            at = f"{resolution}x{resolution}"
            if kept:
                self.enc[f"{at}_down"] = block(width, width, down=True)
            else:
                self.enc[f"{at}_conv"] = Conv2d(in_channels, width, 3)
            kept.append(width)
            for number in range(num_blocks):
                attends = resolution in attn_resolutions
                self.enc[f"{at}_block{number}"] = block(width, wide, attention=attends)
                width = wide
                kept.append(width)

        lowest = self.resolutions[-1]
        for resolution, wide in zip(self.resolutions[::-1], self.widths[::-1], strict=True):
            at = f"{resolution}x{resolution}"
            if resolution == lowest:
                self.dec[f"{at}_in0"] = block(width, width, attention=True)
                self.dec[f"{at}_in1"] = block(width, width)
            else:
                self.dec[f"{at}_up"] = block(width, width, up=True)
            for number in range(num_blocks + 1):
                attends = decoder_attends(resolution, number)
                self.dec[f"{at}_block{number}"] = block(width + kept.pop(), wide, attention=attends)
                width = wide

    def descend(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The states on the way down from images (B, C, R, R), with the embedding (B, emb_channels)."""
        states: list[Tensor] = []
        thin = x
        for resolution in self.resolutions:
            at = f"{resolution}x{resolution}"
            x = self.enc[f"{at}_down"](x, emb) if states else self.enc[f"{at}_conv"](x)
            if f"{at}_aux_skip" in self.enc:
                thin = self.enc[f"{at}_aux_down"](thin)
                x = x + self.enc[f"{at}_aux_skip"](thin)
            if f"{at}_aux_residual" in self.enc:
                x = thin = (x + self.enc[f"{at}_aux_residual"](thin)) * math.sqrt(0.5)
            states.append(x)
            for number in range(self.num_blocks):
                x = self.enc[f"{at}_block{number}"](x, emb)
                states.append(x)
        return states

    def ascend(self, states: list[Tensor], emb: Tensor) -> tuple[Tensor, Tensor | None]:
        """The state after the last block, and the image at the end of the thin path, if there is one."""
        states = list(states)
        x, image = states[-1], None
        for resolution in self.resolutions[::-1]:
            at = f"{resolution}x{resolution}"
            if f"{at}_up" in self.dec:
                x = self.dec[f"{at}_up"](x, emb)
            else:
                x = self.dec[f"{at}_in1"](self.dec[f"{at}_in0"](x, emb), emb)
            for number in range(self.num_blocks + 1):
                x = self.dec[f"{at}_block{number}"](torch.cat([x, states.pop()], 1), emb)
            if f"{at}_aux_conv" in self.dec:
                here = self.dec[f"{at}_aux_conv"](F.silu(self.dec[f"{at}_aux_norm"](x)))
                image = here if image is None else self.dec[f"{at}_aux_up"](image) + here
        return x, image
