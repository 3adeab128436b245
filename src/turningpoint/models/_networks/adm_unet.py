r"""The U-Net of Dhariwal & Nichol 2021 (ADM), with the parameter names of OpenAI's checkpoints.

The layout is that of Ho et al. 2020: residual blocks on L resolutions down and up again, joined by skip connections,
with self-attention on some of them.  A residual block knows the time, and the class, through an
embedding e of 4C numbers (C = ``num_channels``):

.. math:: h = W_1 \, s(\mathrm{GN}(x)), \qquad
          y = R x + W_2 \, s(\mathrm{GN}(h) (1 + a_e) + b_e),

s being SiLU, GN a group norm of 32 groups, W 3x3 convolutions, R the identity or a 1x1 convolution, and
:math:`(a_e, b_e)` linear in s(e) ("adaptive group norm", section 3 of the paper); without
``use_scale_shift_norm`` it is :math:`y = R x + W_2 s(\mathrm{GN}(h + b_e))`.  Attention on n pixels with h
heads of d channels is :math:`V \, \mathrm{softmax}(Q^T K / \sqrt d)^T`, with
Q, K, V from one linear map, whose rows are ordered head by head (q, k, v of the first head, of the second,
...), or, with ``use_new_attention_order``, first q of all heads, then k, then v.

The time n is embedded as :math:`(\cos n \omega_i, \sin n \omega_i)`, :math:`\omega_i = 10^{-4 i / (C/2)}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import TurningpointError

GROUPS = 32
"""Of every group norm; all widths are multiples of it."""


class GroupNorm(nn.GroupNorm):
    """A group norm of 32 groups that reckons in float32 where the network runs in half precision."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        return F.group_norm(x.float(), GROUPS, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class Downsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.op(x))


class Upsample(nn.Module):
    """Twice the resolution by repeating pixels, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(_doubled(x)))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _unchanged(x: Tensor) -> Tensor:
    return x


RESAMPLE: dict[str | None, Callable[[Tensor], Tensor]] = {None: _unchanged, "down": _halved, "up": _doubled}


class ResBlock(nn.Module):
    """A residual block, (B, C_in, H, W) and the embedding (B, E) to (B, C_out, H, W).

    Parameters
    ----------
    c_in, c_out, embedding : int
        C_in, C_out and E.
    scale_shift : bool
        Whether the embedding scales and shifts after the second norm, or is added before it.
    dropout : float
        Before the second convolution, in training.
    resample : str, optional
        ``down`` halves and ``up`` doubles the resolution, of both branches.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        scale_shift: bool,
        dropout: float = 0.0,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = RESAMPLE[resample]
        self.in_layers = nn.Sequential(GroupNorm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, c_out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            GroupNorm(c_out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(self.resample(activation(norm(x))))
        modulation = self.emb_layers(e)[:, :, None, None]
        if self.scale_shift:
            norm, *rest = self.out_layers
            a_e, b_e = modulation.chunk(2, dim=1)
            h = torch.addcmul(b_e, norm(h), 1 + a_e)
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + modulation)
        return cast(Tensor, self.skip_connection(self.resample(x)) + h)


class Attention(nn.Module):
    """Residual self-attention over the pixels of (B, C, H, W).

    Parameters
    ----------
    channels, heads : int
        C, which ``heads`` divides.
    new_order : bool
        How the rows of ``qkv`` are ordered; see the module's docstring.
    """

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        qkv = F.linear(pixels, self.qkv.weight[:, :, 0], self.qkv.bias)
        if self.new_order:
            qkv = qkv.view(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        else:
            qkv = qkv.view(b, -1, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, c)
        change = F.linear(mixed, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + change.transpose(1, 2).reshape(b, c, height, width)


class Block(nn.ModuleList):
    """Layers in a row, of which the residual blocks are told the embedding."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, e) if isinstance(layer, ResBlock) else layer(x)
        return x


def embed_time(n: Tensor, size: int) -> Tensor:
    """Sines and cosines of the times ``n`` (B,), as float32 (B, size).

    >>> embed_time(torch.tensor([0.0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = size // 2
    omega = torch.exp(-math.log(1e4) / half * torch.arange(half, dtype=torch.float32, device=n.device))
    angle = n[:, None].float() * omega
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, size % 2))


class ADMUNet(nn.Module):
    """``network(x, timesteps, y=None)``, (B, C, H, W) to (B, out_channels, H, W).

    Parameters
    ----------
    in_channels, out_channels : int
        Of the image and of the answer.
    num_channels, num_res_blocks : int
        C, and residual blocks per resolution on the way down; there is one more on the way up.
    channel_mult : sequence of L floats
        The width of each resolution in units of C, each a multiple of 32 channels.
    attention : sequence of int
        The factors of downsampling (1, 2, 4, ...) at which there is attention.
    num_heads, num_heads_upsample, num_head_channels : int
        Heads on the way down, heads on the way up (-1: the same); or, unless -1, the channels of one head.
    num_classes : int, optional
        Number of labels that ``y`` (B,) may hold; none if there are none.
    dropout : float
        In training.
    use_scale_shift_norm, resblock_updown, use_new_attention_order : bool
        The flags of the format: how the embedding enters, whether residual blocks change the
        resolution (or convolutions do), how heads are ordered.

    Raises
    ------
    TurningpointError
        If a width is no multiple of 32, or heads do not divide it.

    Examples
    --------
    >>> network = ADMUNet(3, 6, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention=(2,))
    >>> network(torch.zeros(1, 3, 8, 8), torch.tensor([999])).shape
    torch.Size([1, 6, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float],
        attention: Sequence[int] = (),
        num_heads: int = 1,
        num_heads_upsample: int = -1,
        num_head_channels: int = -1,
        num_classes: int | None = None,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.num_channels, self.num_classes = num_channels, num_classes
        embedding = 4 * num_channels
        widths = [width_of(mult, num_channels) for mult in channel_mult]
        last = len(widths) - 1

        def residual(c_in: int, c_out: int, resample: str | None = None) -> ResBlock:
            return ResBlock(c_in, c_out, embedding, use_scale_shift_norm, dropout, resample)

        def attend(channels: int, heads: int) -> Attention:
            count = heads_of(channels, heads, num_head_channels)
            return Attention(channels, count, use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [residual(channels, width)]
                layers += [attend(width, num_heads)] if 2**level in attention else []
                self.input_blocks.append(Block(layers))
                skips.append(channels := width)
            if level < last:
                down = residual(width, width, "down") if resblock_updown else Downsample(width)
                self.input_blocks.append(Block([down]))
                skips.append(width)

        self.middle_block = Block(
            [residual(channels, channels), attend(channels, num_heads), residual(channels, channels)]
        )

        up_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers = [residual(channels + skips.pop(), width)]
                layers += [attend(width, up_heads)] if 2**level in attention else []
                if level > 0 and i == num_res_blocks:
                    layers.append(residual(width, width, "up") if resblock_updown else Upsample(width))
                self.output_blocks.append(Block(layers))
                channels = width

        self.out = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's answer.

        Parameters
        ----------
        x : Tensor (B, in_channels, H, W)
            In any floating type; the answer has the network's own.
        timesteps : Tensor (B,)
            Steps, whole or not.
        y : Tensor (B,), optional
            Labels from 0; required if the network knows classes, refused if not.
        """
        if (y is None) != (self.num_classes is None):
            accepted = "no labels" if self.num_classes is None else f"labels from 0 to {self.num_classes - 1}"
            raise TurningpointError(f"y is {'None' if y is None else 'given'}; accepted: {accepted}.")
        own: Any = self.time_embed[0].weight.dtype
        e = self.time_embed(embed_time(timesteps, self.num_channels).to(own))
        if y is not None:
            e = e + self.label_emb(y)
        h, skips = x.to(own), []
        for block in self.input_blocks:
            h = block(h, e)
            skips.append(h)
        h = self.middle_block(h, e)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), e)
        return cast(Tensor, self.out(h))


def width_of(mult: float, num_channels: int) -> int:
    """The channels of a resolution, or one sentence.

    >>> width_of(0.5, 256)
    128
    """
    width = int(mult * num_channels + 1e-9)
    if width < GROUPS or width % GROUPS:
        raise TurningpointError(
            f"channel_mult holds {mult:g}, which makes {width} channels of num_channels {num_channels}; "
            f"accepted: multiples of {GROUPS} channels."
        )
    return width


def heads_of(channels: int, num_heads: int, num_head_channels: int) -> int:
    """The heads of attention on ``channels``, or one sentence.

    >>> heads_of(256, 4, 64), heads_of(256, 8, -1)
    (4, 8)
    """
    named = "num_heads" if num_head_channels == -1 else "num_head_channels"
    given = num_heads if num_head_channels == -1 else num_head_channels
    if given < 1 or channels % given:
        raise TurningpointError(f"{named} is {given}; accepted: a divisor of the {channels} channels.")
    return num_heads if num_head_channels == -1 else channels // num_head_channels
