r"""``DhariwalUNet``: ADM as EDM's checkpoints hold it (Dhariwal & Nichol 2021; Karras et al. 2022, F.2).

Beside `SongUNet` it has a scale and a shift of the normalised state from the embedding, attention with 64 channels per
head in *all* blocks at the chosen resolutions, resampling without a projection, no factor on sums, and labels
that join after the two layers of the embedding.  A block of fewer than 64 channels gets no attention even where
it is chosen: its number of heads comes out as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from .edm_blocks import Conv2d, PositionalEmbedding, UNetBlock, group_norm
from .edm_trunk import Trunk


class DhariwalUNet(Trunk):
    """The network of ADM.

    Parameters
    ----------
    img_resolution, in_channels, out_channels : int
        Of the images.
    label_dim, augment_dim : int
        The length of one-hot labels, and of what is told about augmentation; 0 for none.
    model_channels, channel_mult, num_blocks, attn_resolutions
        See `Trunk`.
    channel_mult_emb : int
        The width of the embedding, in units of ``model_channels``.
    dropout, label_dropout : float
        Of training; they have no effect here.

    Raises
    ------
    TurningpointError
        If the resolution cannot be halved often enough.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0,
    ) -> None:
        del dropout, label_dropout
        emb_channels = model_channels * channel_mult_emb
        super().__init__(
            img_resolution,
            in_channels,
            model_channels,
            channel_mult,
            num_blocks,
            partial(UNetBlock, emb_channels=emb_channels),
            lambda resolution, number: resolution in attn_resolutions,
            attn_resolutions,
            wide_stem=True,
        )
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label = nn.Linear(label_dim, emb_channels, bias=False) if label_dim else None
        self.out_norm = group_norm(self.widths[0])
        self.out_conv = Conv2d(self.widths[0], out_channels, 3)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, in_channels, R, R) to (B, out_channels, R, R); the arguments are those of `SongUNet`."""
        emb = self.map_noise(noise_labels).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_labels is not None:
            emb = emb + self.map_label(class_labels.to(emb))
        emb = F.silu(emb)
        state, _ = self.ascend(self.descend(x.to(emb.dtype), emb), emb)
        return cast(Tensor, self.out_conv(F.silu(self.out_norm(state))))
