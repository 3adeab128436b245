r"""The U-Net of Ho et al. 2020, with its modules in the order and under the names of score_sde's checkpoints.

``all_modules.N`` counts, for feature widths :math:`w_l = \mathrm{nf} \cdot m_l` at levels l = 0..L-1 and n
residual blocks per level:

1. if conditional: two linear maps of the time's sinusoids, nf to 4 nf to 4 nf, with the nonlinearity between;
2. a convolution, channels to nf;
3. down: at each level n residual blocks, each followed by self-attention at the chosen levels; between
   levels a halving of height and width;
4. in the middle: residual block, attention, residual block;
5. up: at each level, the last one first, n + 1 residual blocks (and attention), each of which is also given the
   output of its counterpart on the way down; between levels a doubling;
6. group normalisation and a convolution, nf to channels.

A residual block is :math:`x + W_1 * a(N_1(W_0 * a(N_0(x)) + A\,a(e)))` with the time's features :math:`e`, group
normalisation :math:`N` (32 groups) and the nonlinearity :math:`a`; where its width changes, x goes through a linear
map of channels.  Attention is :math:`x + W_3 \,\mathrm{softmax}(q^\top k / \sqrt{c})\, v` with one head.  A time
:math:`n` is told as :math:`\sin(n f_i), \cos(n f_i)` with frequencies :math:`f_i` that fall geometrically from 1 to
1e-4.  (Ho et al. 2020, appendix B; Song et al. 2021, appendix H; Vaswani et al. 2017, section 3.5.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import TurningpointError

GROUPS, EPS = 32, 1e-6
"""Of every group normalisation."""

Nonlinearity = Callable[[Tensor], Tensor]

NONLINEARITIES: dict[str, Nonlinearity] = {
    "swish": F.silu,
    "elu": F.elu,
    "relu": F.relu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
}


@dataclass(frozen=True)
class Layer:
    """One of the numbered modules: what it is, its channels, and how it deals with the skips."""

    kind: str
    c_in: int
    c_out: int
    keeps: bool = False
    """Its output is kept for the way up."""
    joins: bool = False
    """Its input is joined with the last one kept."""


LETTERS = {"linear": "L", "conv": "C", "residual": "R", "attention": "A", "down": "S", "up": "S", "norm": "N"}


@dataclass(frozen=True)
class Layout:
    """What the tensors of a checkpoint say about its network, under the names of score_sde's configurations.

    Parameters
    ----------
    nf : int
        Features of the first convolution.
    ch_mult : tuple of L ints
        Widths of the levels in units of ``nf``.
    num_res_blocks : int
        Residual blocks per level on the way down.
    attention : tuple of int
        The levels with self-attention; level l works at image_size / 2^l.
    resamp_with_conv : bool
        Whether heights and widths are changed by convolutions, or by pooling and repetition.
    conditional : bool
        Whether the network is told the time.
    num_channels : int
        Of the images.

    Examples
    --------
    >>> "".join(LETTERS[layer.kind] for layer in Layout(32, (1, 2), 1, (1,)).layers())
    'LLCRSRARARRARASRRNC'
    """

    nf: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[int, ...]
    resamp_with_conv: bool = True
    conditional: bool = True
    num_channels: int = 3

    def layers(self) -> Iterator[Layer]:
        """The numbered modules, in order."""
        if self.conditional:
            yield Layer("linear", self.nf, 4 * self.nf)
            yield Layer("linear", 4 * self.nf, 4 * self.nf)
        yield Layer("conv", self.num_channels, self.nf, keeps=True)
        c, kept = self.nf, [self.nf]
        for level, multiple in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                yield from self._block(level, c, self.nf * multiple, keeps=True)
                c = self.nf * multiple
                kept.append(c)
            if level < len(self.ch_mult) - 1:
                yield Layer("down", c, c, keeps=True)
                kept.append(c)
        yield Layer("residual", c, c)
        yield Layer("attention", c, c)
        yield Layer("residual", c, c)
        for level, multiple in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                yield from self._block(level, c + kept.pop(), self.nf * multiple, joins=True)
                c = self.nf * multiple
            if level > 0:
                yield Layer("up", c, c)
        yield Layer("norm", c, c)
        yield Layer("conv", c, self.num_channels)

    def _block(
        self, level: int, c_in: int, c_out: int, keeps: bool = False, joins: bool = False
    ) -> Iterator[Layer]:
        attends = level in self.attention
        yield Layer("residual", c_in, c_out, keeps and not attends, joins)
        if attends:
            yield Layer("attention", c_out, c_out, keeps)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Layout:
        """Read the layout off a state dict.

        Parameters
        ----------
        state : mapping
            Tensors by their names, ``all_modules.N...``.

        Raises
        ------
        TurningpointError
            If the modules are not in the order of this network.
        """
        modules = _numbered(state)
        letters = "".join(_letter(modules.get(i, {})) for i in range(max(modules, default=0) + 1))
        refusal = TurningpointError(
            f"the modules of the file are {letters[:99]!r}, in which L is linear, C convolution, R residual block, "
            "A attention, S resampling, N normalisation; accepted: the order of the DDPM of Ho et al."
        )
        parts = re.fullmatch(r"(LL)?C([RAS]+)NC", letters)
        if parts is None:
            raise refusal
        sections = parts[2].split("S")
        count = (len(sections) + 1) // 2
        blocks, rest = divmod(parts[2].count("R") - 2 - count, 2 * count)
        first = {letter: letters.index(letter) for letter in letters}
        conv, convs = modules[first["C"]]["weight"], []
        offset = first["C"] + 1
        for section in sections[:count]:
            if "R" not in section:
                raise refusal
            convs.append(modules[offset + section.index("R")]["Conv_0.weight"])
            offset += len(section) + 1
        nf = len(conv)
        found = cls(
            nf=nf,
            ch_mult=tuple(max(1, len(weight) // max(nf, 1)) for weight in convs),
            num_res_blocks=blocks,
            attention=tuple(
                level for level in range(count) if sections[level].count("A") > (level == count - 1)
            ),
            resamp_with_conv="S" not in letters or first["S"] in modules,
            conditional=parts[1] is not None,
            num_channels=conv.shape[1],
        )
        expected = "".join(LETTERS[layer.kind] for layer in found.layers()) if blocks > 0 else ""
        if rest or len(sections) % 2 == 0 or expected != letters:
            raise refusal
        if nf % GROUPS:
            raise TurningpointError(f"nf is {nf} in the file; accepted: a multiple of {GROUPS}.")
        return found


def _numbered(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors of each numbered module by their names within it."""
    modules: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        parts = re.fullmatch(r"all_modules\.(\d{1,4})\.(.+)", name)
        if parts is not None:
            modules.setdefault(int(parts[1]), {})[parts[2]] = tensor
    return modules


def _letter(fields: Mapping[str, Tensor]) -> str:
    """What a numbered module is, by the names and axes of its tensors; one without any resamples."""
    if not fields:
        return "S"
    axes = {name: tensor.ndim for name, tensor in fields.items()}
    if axes.get("Conv_0.weight") == 4:
        return "R" if "Conv_1.weight" in axes else "S"
    if "NIN_0.W" in axes:
        return "A"
    return {1: "N", 2: "L", 4: "C"}.get(axes.get("weight", 0), "?")


class ChannelMap(nn.Module):
    """A linear map of the channels of (B, C, H, W), whose matrix is (in, out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(c_in, c_out) / c_in**0.5)
        self.b = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


class Residual(nn.Module):
    """A residual block; ``features`` of the time are (B, 4 nf), or None."""

    def __init__(self, c_in: int, c_out: int, time_width: int, nonlinearity: Nonlinearity) -> None:
        super().__init__()
        self.GroupNorm_0 = nn.GroupNorm(GROUPS, c_in, EPS)
        self.Conv_0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        if time_width:
            self.Dense_0 = nn.Linear(time_width, c_out)
        self.GroupNorm_1 = nn.GroupNorm(GROUPS, c_out, EPS)
        self.Conv_1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.NIN_0 = ChannelMap(c_in, c_out)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, features: Tensor | None) -> Tensor:
        a = self.nonlinearity
        h = self.Conv_0(a(self.GroupNorm_0(x)))
        if features is not None:
            h = h + self.Dense_0(a(features))[:, :, None, None]
        h = self.Conv_1(a(self.GroupNorm_1(h)))
        return cast(Tensor, h + (self.NIN_0(x) if hasattr(self, "NIN_0") else x))


class Attention(nn.Module):
    """Self-attention over the pixels of (B, C, H, W), one head."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.GroupNorm_0 = nn.GroupNorm(GROUPS, c, EPS)
        self.NIN_0, self.NIN_1 = ChannelMap(c, c), ChannelMap(c, c)
        self.NIN_2, self.NIN_3 = ChannelMap(c, c), ChannelMap(c, c)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (
            to(h).flatten(2).transpose(1, 2).unsqueeze(1) for to in (self.NIN_0, self.NIN_1, self.NIN_2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x + cast(Tensor, self.NIN_3(mixed.reshape(x.shape)))


class Resampling(nn.Module):
    """Half or twice the height and width; by a convolution, or without any parameters."""

    def __init__(self, c: int, up: bool, with_conv: bool) -> None:
        super().__init__()
        self.up = up
        if with_conv:
            self.Conv_0 = nn.Conv2d(c, c, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        learned = hasattr(self, "Conv_0")
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return cast(Tensor, self.Conv_0(x)) if learned else x
        # the padding of a network that came from TensorFlow: one row below, one column on the right
        return cast(Tensor, self.Conv_0(F.pad(x, (0, 1, 0, 1)))) if learned else F.avg_pool2d(x, 2)


def sinusoids(times: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of times (B,) at width / 2 frequencies from 1 to 1e-4, (B, width) float32.

    >>> sinusoids(torch.tensor([0.0]), 4)
    tensor([[0., 0., 1., 1.]])
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=times.device) * (-math.log(10000) / (half - 1)))
    angles = times.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class DDPMUNet(nn.Module):
    """``network(x, times)``: noise (B, C, H, W) in images (B, C, H, W) at native times (B,), fractions allowed.

    Parameters
    ----------
    layout : Layout
        What its tensors are.
    nonlinearity : str
        One of `NONLINEARITIES`.
    centered : bool
        Whether images are in [-1, 1]; otherwise they are in [0, 1], and mapped to [-1, 1] first.
    sigmas : Tensor (T,), optional
        Divide the output at native time n by ``sigmas[n]``.
    time_maps : bool
        Whether residual blocks have a map of the time's features; some files have them although their network
        is told no time.

    Examples
    --------
    >>> network = DDPMUNet(Layout(32, (1, 1), 1, (1,)))
    >>> network(torch.zeros(2, 3, 8, 8), torch.tensor([0.0, 999.0])).shape
    torch.Size([2, 3, 8, 8])
    """

    sigmas: Tensor | None

    def __init__(
        self,
        layout: Layout,
        nonlinearity: str = "swish",
        centered: bool = True,
        sigmas: Tensor | None = None,
        time_maps: bool = True,
    ) -> None:
        super().__init__()
        self.layout, self.centered = layout, centered
        self.nonlinearity, self._a = nonlinearity, NONLINEARITIES[nonlinearity]
        self.layers = list(layout.layers())
        width = 4 * layout.nf if time_maps or layout.conditional else 0
        self.all_modules = nn.ModuleList(self._module(layer, width) for layer in self.layers)
        self.register_buffer("sigmas", sigmas)

    def _module(self, layer: Layer, time_width: int) -> nn.Module:
        if layer.kind == "linear":
            return nn.Linear(layer.c_in, layer.c_out)
        if layer.kind == "conv":
            return nn.Conv2d(layer.c_in, layer.c_out, 3, padding=1)
        if layer.kind == "norm":
            return nn.GroupNorm(GROUPS, layer.c_in, EPS)
        if layer.kind == "residual":
            return Residual(layer.c_in, layer.c_out, time_width, self._a)
        if layer.kind == "attention":
            return Attention(layer.c_in)
        return Resampling(layer.c_in, layer.kind == "up", self.layout.resamp_with_conv)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        steps = list(zip(self.layers, self.all_modules, strict=True))
        features = None
        if self.layout.conditional:
            (_, first), (_, second), *steps = steps
            waves = sinusoids(times, self.layout.nf).to(x.dtype)
            features = second(self._a(first(waves)))
        h, kept = x if self.centered else 2 * x - 1, list[Tensor]()
        *steps, (_, norm), (_, last) = steps
        for layer, module in steps:
            if layer.joins:
                h = torch.cat([h, kept.pop()], 1)
            h = module(h, features) if isinstance(module, Residual) else module(h)
            if layer.keeps:
                kept.append(h)
        output: Tensor = last(self._a(norm(h)))
        if self.sigmas is None:
            return output
        return output / self.sigmas[times.round().long()].to(output.dtype)[:, None, None, None]
