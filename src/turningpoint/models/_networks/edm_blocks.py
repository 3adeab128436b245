r"""What the U-Nets of EDM checkpoints are made of (Karras et al. 2022, appendix F.2).

**Residual block**, with GroupNorm :math:`N`, an embedding :math:`e` of noise level and labels, and a factor
:math:`\kappa` on every sum (:math:`\sqrt{1/2}` in ddpm++ and ncsn++, 1 in ADM):

.. math::
    h &= W_0 * \mathrm{SiLU}(N_0(x)) \quad \text{(resampled on the way in a block that changes resolution)} \\
    h &= \mathrm{SiLU}(N_1(h + a)) \quad \text{or} \quad \mathrm{SiLU}((1 + a_1) \, N_1(h) + a_2),
         \qquad a = A e + b \\
    y &= \kappa \, (S x + W_1 * h), \qquad
    y \leftarrow \kappa \, (y + P \, \mathrm{attention}(N_2(y))) .

The two forms of the middle line are those of Ho et al. 2020 and of Dhariwal & Nichol 2021.  The identity
stands for :math:`S` where shape and resolution stay.

**Resampling** by two with a separable filter :math:`f`: the image is convolved with :math:`f f^T / (\sum f)^2`
and every second pixel kept; going up, zeros are put between the pixels first and the result has four times the weight.
``[1, 1]`` is the mean of 2x2 pixels and their repetition, ``[1, 3, 3, 1]`` that of Zhang 2019.

**Embeddings** of the noise level :math:`c`: cosines and sines of :math:`10^{-4 k / n} c` (Vaswani et al. 2017)
or of :math:`2 \pi g_k c` with random :math:`g_k` (Tancik et al. 2020).

The names of modules and parameters are those of the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import TurningpointError


def _check_even(num_channels: int) -> None:
    if num_channels % 2:
        raise TurningpointError(f"channels of the noise level are {num_channels}; accepted: an even number.")


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, of c times frequencies that fall geometrically from 1 towards 1/10000.

    Parameters
    ----------
    num_channels : int
        Of the embedding; half of them are cosines.
    endpoint : bool
        Whether the lowest frequency is 1/10000 itself, or the next one would be.
    """

    def __init__(self, num_channels: int, max_positions: float = 10000, endpoint: bool = False) -> None:
        super().__init__()
        _check_even(num_channels)
        self.cosines, self.period, self.endpoint = num_channels // 2, max_positions, endpoint

    def forward(self, c: Tensor) -> Tensor:
        """(B,) to (B, num_channels), in float32."""
        k = torch.arange(self.cosines, dtype=torch.float32, device=c.device)
        frequency = (1 / self.period) ** (k / (self.cosines - int(self.endpoint)))
        angle = c.float()[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], 1)


class FourierEmbedding(nn.Module):
    """Cosines, then sines, of c times random frequencies, which the checkpoint holds.

    Parameters
    ----------
    num_channels : int
        Of the embedding; half of them are cosines.
    scale : float
        The standard deviation of the frequencies.
    """

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16) -> None:
        super().__init__()
        _check_even(num_channels)
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FourierEmbedding:
        freqs = self.freqs  # stay in float32 when a network moves to half precision: phases are large
        super()._apply(fn, recurse)
        self.freqs = freqs.to(self.freqs.device)
        return self

    def forward(self, c: Tensor) -> Tensor:
        """(B,) to (B, num_channels), in float32."""
        angle = c.float()[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], 1)


class Conv2d(nn.Module):
    """A convolution that may change the resolution by two, or only a change of resolution (``kernel`` 0).

    Parameters
    ----------
    in_channels, out_channels : int
        Channels; equal if ``kernel`` is 0.
    kernel : int
        The odd width of the convolution's kernel; 0 for none.
    up, down : bool
        Whether the resolution is doubled before the convolution, or halved.
    resample_filter : sequence of float
        The taps of the separable filter, an even number.
    fused_resample : bool
        Whether the image is halved *after* the convolution; only the order, and so the border, differs.

    Raises
    ------
    TurningpointError
        If the filter has an odd number of taps, which cannot double a resolution.
    """

    weight: Tensor | None
    bias: Tensor | None
    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused_resample: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.fused_resample = up, down, fused_resample
        if kernel:
            like_torch = nn.Conv2d(in_channels, out_channels, kernel)
            self.weight, self.bias = like_torch.weight, like_torch.bias
        else:
            self.weight = self.bias = None
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        if len(taps) % 2:
            raise TurningpointError(f"resample_filter has {len(taps)} taps; accepted: an even number.")
        kernel_2d = taps.outer(taps)[None, None] / taps.sum().square()
        self.register_buffer("resample_filter", kernel_2d if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        reach = 0 if self.weight is None else self.weight.shape[-1] // 2
        if self.fused_resample and self.down and self.weight is not None:
            margin = reach + self._filter_reach
            x = self._halved(F.conv2d(x, self.weight, padding=margin), 0)
            return x if self.bias is None else x + self.bias[:, None, None]
        if self.up:
            x = self._doubled(x)
        if self.down:
            x = self._halved(x, self._filter_reach)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=reach)

    @property
    def _filter_reach(self) -> int:
        return 0 if self.resample_filter is None else (self.resample_filter.shape[-1] - 1) // 2

    def _per_channel(self, x: Tensor) -> Tensor:
        assert self.resample_filter is not None
        return self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)

    def _halved(self, x: Tensor, padding: int) -> Tensor:
        return F.conv2d(x, self._per_channel(x), stride=2, padding=padding, groups=x.shape[1])

    def _doubled(self, x: Tensor) -> Tensor:
        taps = 4 * self._per_channel(x)
        return F.conv_transpose2d(x, taps, stride=2, padding=self._filter_reach, groups=x.shape[1])


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm with at most 32 groups of at least 4 channels each.

    Raises
    ------
    TurningpointError
        If the groups cannot share the channels.
    """
    groups = min(32, max(1, channels // 4))
    if channels % groups:
        raise TurningpointError(f"channels are {channels}; accepted: a multiple of their {groups} groups.")
    return nn.GroupNorm(groups, channels, eps=eps)


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention among pixels: queries, keys and values (B, 3C, H, W) to (B, C, H, W).

    The 3C channels are ordered by head, channel of the head, and query, key or value.
    """
    batch, channels, height, width = qkv.shape
    per_head = qkv.reshape(batch, heads, channels // heads // 3, 3, height * width)
    q, k, v = per_head.transpose(2, 4).unbind(3)  # each (B, heads, pixels, channels of a head)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(2, 3).reshape(batch, channels // 3, height, width)


class UNetBlock(nn.Module):
    """The residual block of the module's docstring.

    Parameters
    ----------
    in_channels, out_channels, emb_channels : int
        Channels of x, of the result and of the embedding.
    up, down : bool
        Whether the resolution is doubled, or halved.
    attention : bool
        Whether there is attention, unless the number of heads comes out as 0.
    num_heads : int, optional
        Heads; by default ``out_channels // channels_per_head``, which is none for a narrow block.
    channels_per_head : int
        As just said.
    dropout : float
        Of training; it has no effect here.
    skip_scale : float
        kappa.
    eps : float
        Of the normalisations.
    resample_filter : sequence of float
        See `Conv2d`.
    resample_proj : bool
        Whether a block that changes the resolution has a 1x1 convolution in S.
    adaptive_scale : bool
        The second form of the middle line.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0,
        skip_scale: float = 1,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        del dropout
        self.kappa, self.adaptive_scale = float(skip_scale), adaptive_scale
        heads = out_channels // channels_per_head if num_heads is None else num_heads
        self.num_heads = heads if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise TurningpointError(f"channels are {out_channels}; accepted: a multiple of {heads} heads.")
        moved: dict[str, Any] = {"up": up, "down": down, "resample_filter": resample_filter}

        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, **moved)
        self.affine = nn.Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        self.skip = None
        if out_channels != in_channels or up or down:
            projected = resample_proj or out_channels != in_channels
            self.skip = Conv2d(in_channels, out_channels, 1 if projected else 0, **moved)
        if self.num_heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, in_channels, H, W) and the embedding (B, emb_channels) to (B, out_channels, H', W')."""
        h = self.conv0(F.silu(self.norm0(x)))
        a = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            a_1, a_2 = a.chunk(2, 1)
            h = torch.addcmul(a_2, self.norm1(h), 1 + a_1)
        else:
            h = self.norm1(h + a)
        y = self.conv1(F.silu(h)) + (x if self.skip is None else self.skip(x))
        y = self.kappa * y
        if self.num_heads:
            y = self.kappa * (y + self.proj(self_attention(self.qkv(self.norm2(y)), self.num_heads)))
        return cast(Tensor, y)
