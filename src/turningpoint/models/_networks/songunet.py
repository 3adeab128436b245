r"""``SongUNet``: ddpm++ and ncsn++ as EDM's checkpoints hold them (Song et al. 2021; Karras et al. 2022, F.2).

=======  ==============  ==================  ============  ============  ==================
name     embedding_type  channel_mult_noise  encoder_type  decoder_type  resample_filter
=======  ==============  ==================  ============  ============  ==================
ddpm++   positional      1                   standard      standard      1, 1
ncsn++   fourier         2                   residual      standard      1, 3, 3, 1
=======  ==============  ==================  ============  ============  ==================

Noise level, labels and augmentation join before the two layers of the embedding; all sums of the
blocks carry :math:`\sqrt{1/2}`, one head attends, and only the last block of the decoder at a resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import one_of
from .edm_blocks import Conv2d, FourierEmbedding, PositionalEmbedding, UNetBlock, group_norm
from .edm_trunk import Trunk


class SongUNet(Trunk):
    """The network of ddpm++ and ncsn++, and of what lies between them.

    Parameters
    ----------
    img_resolution, in_channels, out_channels : int
        Of the images.
    label_dim, augment_dim : int
        The length of one-hot labels, and of what is told about augmentation; 0 for none.
    model_channels, channel_mult, num_blocks, attn_resolutions
        See `Trunk`.
    channel_mult_emb, channel_mult_noise : int
        The width of the embedding, and of that of the noise level, in units of ``model_channels``.
    dropout, label_dropout : float
        Of training; they have no effect here.
    embedding_type : str
        ``positional`` or ``fourier``.
    encoder_type : str
        ``standard``, or the thin path down: ``skip`` or ``residual``.
    decoder_type : str
        ``standard``, or the thin path up: ``skip``.
    resample_filter : sequence of float
        See `Conv2d`.

    Raises
    ------
    TurningpointError
        If a type is none of these, or the resolution cannot be halved often enough.

    Examples
    --------
    >>> network = SongUNet(8, 3, 3, model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[])
    >>> network(torch.zeros(2, 3, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        del dropout, label_dropout
        for argument, value, accepted in (
            ("embedding_type", embedding_type, ("positional", "fourier")),
            ("encoder_type", encoder_type, ("standard", "skip", "residual")),
            ("decoder_type", decoder_type, ("standard", "skip")),
        ):
            if value not in accepted:
                raise one_of(argument, value, accepted)
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        super().__init__(
            img_resolution,
            in_channels,
            model_channels,
            channel_mult,
            num_blocks,
            partial(
                UNetBlock,
                emb_channels=emb_channels,
                num_heads=1,
                skip_scale=math.sqrt(0.5),
                eps=1e-6,
                resample_filter=resample_filter,
                resample_proj=True,
                adaptive_scale=False,
            ),
            lambda resolution, number: number == num_blocks and resolution in attn_resolutions,
            attn_resolutions,
        )
        self._add_thin_path(
            in_channels, out_channels, model_channels, encoder_type, decoder_type, resample_filter
        )
        self.map_noise = (
            PositionalEmbedding(noise_channels, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(noise_channels)
        )
        self.map_label = nn.Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)

    def _add_thin_path(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        encoder_type: str,
        decoder_type: str,
        resample_filter: Sequence[float],
    ) -> None:
        width, thin = model_channels, in_channels
        for level, resolution in enumerate(self.resolutions):
            at = f"{resolution}x{resolution}"
            if level and encoder_type == "skip":
                self.enc[f"{at}_aux_down"] = Conv2d(
                    in_channels, in_channels, 0, down=True, resample_filter=resample_filter
                )
                self.enc[f"{at}_aux_skip"] = Conv2d(in_channels, width, 1)
            elif level and encoder_type == "residual":
                self.enc[f"{at}_aux_residual"] = Conv2d(
                    thin, width, 3, down=True, resample_filter=resample_filter, fused_resample=True
                )
                thin = width
            width = self.widths[level] if self.num_blocks else width
            if decoder_type == "skip" or level == 0:
                self.dec[f"{at}_aux_norm"] = group_norm(self.widths[level], eps=1e-6)
                self.dec[f"{at}_aux_conv"] = Conv2d(self.widths[level], out_channels, 3)
                if decoder_type == "skip" and resolution != self.resolutions[-1]:
                    self.dec[f"{at}_aux_up"] = Conv2d(
                        out_channels, out_channels, 0, up=True, resample_filter=resample_filter
                    )

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, in_channels, R, R) to (B, out_channels, R, R).

        Parameters
        ----------
        x : Tensor (B, in_channels, R, R)
            Scaled images.
        noise_labels : Tensor (B,)
            c_noise.
        class_labels : Tensor (B, label_dim), optional
            One-hot labels; zeros, which None stands for, are no label.
        augment_labels : Tensor (B, augment_dim), optional
            What was done to the images; zeros, which None stands for, are nothing.
        """
        cosines, sines = self.map_noise(noise_labels).chunk(2, 1)
        emb = torch.cat([sines, cosines], 1).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            labels = emb.new_zeros(1, self.map_label.in_features) if class_labels is None else class_labels
            emb = emb + self.map_label(labels.to(emb) * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        image = self.ascend(self.descend(x.to(emb.dtype), emb), emb)[1]
        return cast(Tensor, image)
