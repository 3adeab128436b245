"""The U-Net of Ho et al.: the same function as diffusers' with the same weights, and readable off its tensors."""

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from turningpoint.models._networks.ddpm_unet import DDPMUNet, Layout, sinusoids

LAYOUTS = {
    "the golden one": Layout(32, (1, 1), 1, (1,)),
    "four levels": Layout(32, (1, 2, 2, 2), 1, (1,)),
    "two levels of attention": Layout(32, (1, 2), 2, (0, 1)),
    "attention at the top only": Layout(32, (1, 2, 1), 1, (0,), num_channels=1),
    "no attention but in the middle": Layout(64, (1, 1), 2, ()),
    "no convolutions to resample": Layout(32, (1, 2, 1), 2, (1,), resamp_with_conv=False),
    "not told the time": Layout(32, (1, 2), 1, (1,), conditional=False),
    "one level": Layout(32, (1,), 2, (0,)),
    "neither": Layout(32, (1, 1, 1), 1, (0, 2), resamp_with_conv=False, conditional=False, num_channels=2),
}


def filled(layout: Layout, **settings) -> DDPMUNet:
    """A network without a zero or a one in it."""
    generator = torch.Generator().manual_seed(5)
    network = DDPMUNet(layout, **settings).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan = parameter[0].numel() if "W" not in name else len(parameter)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        gain = 1.5 if parameter.ndim == 4 else 1.0
        parameter.copy_(gain * noise / fan**0.5 if parameter.ndim > 1 else 0.1 * noise + is_scale)
    return network


def theirs(layout: Layout, activation: nn.Module) -> UNet2DModel:
    """The same architecture in diffusers, as its conversion of the published CIFAR-10 checkpoint has it."""
    levels = range(len(layout.ch_mult))
    unet = UNet2DModel(
        sample_size=16,
        in_channels=layout.num_channels,
        out_channels=layout.num_channels,
        block_out_channels=tuple(layout.nf * m for m in layout.ch_mult),
        layers_per_block=layout.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if i in layout.attention else "DownBlock2D" for i in levels),
        up_block_types=tuple(
            "AttnUpBlock2D" if i in layout.attention else "UpBlock2D" for i in reversed(levels)
        ),
        attention_head_dim=None,
        norm_num_groups=32,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
    )
    if not layout.resamp_with_conv:
        for block in (*unet.down_blocks, *unet.up_blocks):
            for name, kind in (("downsamplers", Downsample2D), ("upsamplers", Upsample2D)):
                if getattr(block, name, None) is not None:
                    channels = getattr(block, name)[0].channels
                    setattr(block, name, nn.ModuleList([kind(channels, use_conv=False)]))
    for module in unet.modules():
        for name in ("nonlinearity", "conv_act", "act"):
            if isinstance(getattr(module, name, None), nn.SiLU):
                setattr(module, name, activation)
    return unet.eval().requires_grad_(False)


def in_order(unet: UNet2DModel):
    """diffusers' blocks in the order of the numbered modules."""
    yield from (unet.time_embedding.linear_1, unet.time_embedding.linear_2, unet.conv_in)
    for blocks, samplers in ((unet.down_blocks, "downsamplers"), (unet.up_blocks, "upsamplers")):
        for block in blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for residual, attention in zip(block.resnets, attentions, strict=True):
                yield residual
                if attention is not None:
                    yield attention
            yield from getattr(block, samplers, None) or ()
        if samplers == "downsamplers":
            first, last = unet.mid_block.resnets
            yield from (first, unet.mid_block.attentions[0], last)
    yield from (unet.conv_norm_out, unet.conv_out)


RENAMED = {
    "GroupNorm_0": "norm1", "GroupNorm_1": "norm2", "Conv_0": "conv1", "Conv_1": "conv2",
    "Dense_0": "time_emb_proj", "NIN_0": "conv_shortcut",
}  # fmt: skip
ATTENTION = {
    "GroupNorm_0": "group_norm",
    "NIN_0": "to_q",
    "NIN_1": "to_k",
    "NIN_2": "to_v",
    "NIN_3": "to_out.0",
}


def hand_over(network: DDPMUNet, unet: UNet2DModel) -> None:
    """Copy the weights, each by the part that it plays."""
    own = list(network.all_modules)
    if not network.layout.conditional:
        own = [None, None, *own]
    state = {}
    names = {module: name for name, module in unet.named_modules()}
    for mine, other in zip(own, in_order(unet), strict=True):
        if mine is None:
            continue
        table = ATTENTION if hasattr(other, "to_q") else {} if hasattr(mine, "weight") else RENAMED
        if "downsamplers" in names[other] or "upsamplers" in names[other]:
            table = {"Conv_0": "conv"}
        for name, tensor in mine.state_dict().items():
            part, _, kind = name.rpartition(".")
            renamed = f"{names[other]}.{table.get(part, part)}" if part else names[other]
            value = tensor.T if kind == "W" else tensor
            value = value[:, :, None, None] if kind == "W" and table is RENAMED else value
            if "time_emb_proj" in renamed and not network.layout.conditional:
                value = torch.zeros_like(value)
            state[f"{renamed}.{ {'W': 'weight', 'b': 'bias'}.get(kind, kind) }"] = value
    missing, surplus = unet.load_state_dict(state, strict=False)
    assert not surplus
    assert all(name.startswith("time_embedding") for name in missing), missing
    assert bool(missing) == (not network.layout.conditional)


def agree(layout: Layout, activation: nn.Module, **settings) -> None:
    network, unet = filled(layout, **settings), theirs(layout, activation)
    hand_over(network, unet)
    x = torch.randn(3, layout.num_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.0, 250.5, 999.0])
    got, want = network(x, times), unet(x, times, return_dict=False)[0]
    assert want.std() > 0.1
    assert (got - want).abs().max() <= 5e-5 * want.square().mean().sqrt()


class TestAgainstDiffusers:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_every_layout(self, name):
        agree(LAYOUTS[name], nn.SiLU())

    @pytest.mark.parametrize(
        ("name", "module"), [("relu", nn.ReLU()), ("elu", nn.ELU()), ("lrelu", nn.LeakyReLU(0.2))]
    )
    def test_every_nonlinearity(self, name, module):
        agree(LAYOUTS["the golden one"], module, nonlinearity=name)


class TestLayout:
    @pytest.mark.parametrize("name", [*LAYOUTS, "wide at the top"])
    def test_is_read_off_the_tensors(self, name):
        layout = LAYOUTS.get(name, Layout(32, (2, 1, 3), 3, (0, 2)))
        with torch.device("meta"):
            state = DDPMUNet(layout).state_dict()
        if name == "one level":
            assert Layout.of(state).resamp_with_conv  # nothing is resampled, so nothing can tell
        assert Layout.of(state) == layout

    def test_of_the_published_sizes(self):
        cifar = Layout(128, (1, 2, 2, 2), 2, (1,))
        with torch.device("meta"):
            network = DDPMUNet(cifar)
        assert Layout.of(network.state_dict()) == cifar
        assert (
            sum(p.numel() for p in network.parameters()) == 35_746_307
        )  # Ho et al., appendix B: 35.7 million

    def test_a_missing_block_is_refused(self, refuses):
        state = DDPMUNet(LAYOUTS["the golden one"]).state_dict()
        gone = {name: tensor for name, tensor in state.items() if not name.startswith("all_modules.7.")}
        with refuses("'LLCRSRASARRARASRRNC'"):
            Layout.of(gone)

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"weight": torch.zeros(3, 3)},
            {"all_modules.0.weight": torch.zeros(())},
            {"all_modules.9999.weight": torch.zeros(3)},
            {f"all_modules.{i}.Conv_0.weight": torch.zeros(()) for i in range(9)},
            {"all_modules.0.weight": torch.zeros(0, 3, 3, 3), "all_modules.1.NIN_0.W": torch.zeros(2, 2)},
        ],
        ids=["empty", "other names", "no axes", "a gap", "scalars", "no features"],
    )
    def test_other_tensors_are_refused(self, state, refuses):
        with refuses("accepted: the order of the DDPM"):
            Layout.of(state)

    def test_a_width_that_32_groups_do_not_divide_is_refused(self, refuses):
        state = dict(DDPMUNet(Layout(32, (1, 1), 1, ())).state_dict())
        state["all_modules.2.weight"] = torch.zeros(31, 3, 3, 3)
        with refuses("nf is 31 in the file; accepted: a multiple of 32"):
            Layout.of(state)


class TestNetwork:
    def test_sinusoids_against_the_formula(self):
        n, width = torch.tensor([0.0, 1.0, 250.5, 999.0], dtype=torch.float64), 32
        frequency = 10000 ** (-torch.arange(16, dtype=torch.float64) / 15)
        want = torch.cat([(n[:, None] * frequency).sin(), (n[:, None] * frequency).cos()], 1)
        # a float32 angle of up to 999 is off by 999 * 2^-24, and its frequency by as much
        torch.testing.assert_close(sinusoids(n, width).double(), want, rtol=0, atol=3 * 999 * 2**-24)

    def test_images_in_0_1_are_centred_first(self):
        layout = LAYOUTS["the golden one"]
        x, times = torch.rand(2, 3, 8, 8), torch.tensor([3.0, 700.0])
        torch.testing.assert_close(
            filled(layout, centered=False)(x, times), filled(layout)(2 * x - 1, times), rtol=0, atol=0
        )

    def test_division_by_sigma_takes_the_nearest_step(self):
        layout, sigmas = LAYOUTS["the golden one"], torch.linspace(1, 2, 10)
        x, times = torch.rand(3, 3, 8, 8), torch.tensor([0.0, 4.4, 9.0])
        want = filled(layout)(x, times) / sigmas[[0, 4, 9]][:, None, None, None]
        torch.testing.assert_close(filled(layout, sigmas=sigmas)(x, times), want)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_precisions(self, dtype):
        layout = LAYOUTS["the golden one"]
        x, times = torch.rand(2, 3, 8, 8), torch.tensor([3.0, 998.0])
        got, want = filled(layout).to(dtype)(x.to(dtype), times), filled(layout)(x, times)
        assert got.dtype == dtype
        # two dozen layers, each with a relative rounding of 2^-8 of its weights and of its answer, adding at random
        error = (got.double() - want.double()).square().mean().sqrt() / want.square().mean().sqrt()
        assert error <= (48**0.5 * 2**-8 if dtype == torch.bfloat16 else 1e-5)

    def test_gradients_reach_the_image(self):
        x = torch.rand(1, 3, 8, 8, requires_grad=True)
        filled(LAYOUTS["the golden one"])(x, torch.tensor([10.0])).square().sum().backward()
        assert x.grad.abs().max() > 0
