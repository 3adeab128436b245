"""The U-Net of guided-diffusion against diffusers' blocks, its two orders of heads, half precision, sizes."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from turningpoint.models._networks.adm_unet import ADMUNet, Attention, GroupNorm, embed_time

SMALL = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,), "num_heads": 2}


def random(network, seed=0):
    """Weights under which every layer contributes, the published zero-initialised ones too."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        scale = 0.1 if p.ndim == 1 else 1 / math.sqrt(p[0].numel())
        p.data = p.data * (p.ndim == 1) + scale * torch.randn(p.shape, generator=generator)
    return network.eval().requires_grad_(False)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_diffusers(network, scale_shift, by_resnet, channels, layers, attends, labels):
    """The same network out of diffusers' blocks, tensor by tensor; heads of 16 channels, new order."""
    plain_down, plain_up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    if not by_resnet:
        plain_down, plain_up = "DownBlock2D", "UpBlock2D"
    kind = "resnet" if by_resnet else "conv"
    other = UNet2DModel(
        in_channels=3,
        out_channels=6,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["AttnDownBlock2D" if a else plain_down for a in attends],
        up_block_types=["AttnUpBlock2D" if a else plain_up for a in reversed(attends)],
        downsample_type=kind,
        upsample_type=kind,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        attention_head_dim=16,
        norm_num_groups=32,
        attn_norm_num_groups=32,
        freq_shift=0,
        flip_sin_to_cos=True,
        num_class_embeds=labels,
    )

    def copy(target, source):
        target.weight.data.copy_(source.weight.reshape(target.weight.shape))
        target.bias.data.copy_(source.bias)

    def copy_residual(target, source):
        copy(target.norm1, source.in_layers[0])
        copy(target.conv1, source.in_layers[2])
        copy(target.time_emb_proj, source.emb_layers[1])
        copy(target.norm2, source.out_layers[0])
        copy(target.conv2, source.out_layers[3])
        assert (target.conv_shortcut is None) == isinstance(source.skip_connection, torch.nn.Identity)
        if target.conv_shortcut is not None:
            copy(target.conv_shortcut, source.skip_connection)

    def copy_attention(target, source):
        copy(target.group_norm, source.norm)
        weights, biases = source.qkv.weight[:, :, 0].chunk(3), source.qkv.bias.chunk(3)
        for part, weight, bias in zip((target.to_q, target.to_k, target.to_v), weights, biases, strict=True):
            part.weight.data.copy_(weight)
            part.bias.data.copy_(bias)
        copy(target.to_out[0], source.proj_out)

    def copy_change(target, source):
        if by_resnet:
            copy_residual(target, source)
        else:
            copy(target.conv, source.op if hasattr(source, "op") else source.conv)

    copy(other.time_embedding.linear_1, network.time_embed[0])
    copy(other.time_embedding.linear_2, network.time_embed[2])
    if labels:
        other.class_embedding.weight.data.copy_(network.label_emb.weight)
    copy(other.conv_in, network.input_blocks[0][0])
    down, up = iter(list(network.input_blocks)[1:]), iter(network.output_blocks)

    def copy_row(block, sources):
        for i, resnet in enumerate(block.resnets):
            source = next(sources)
            copy_residual(resnet, source[0])
            if hasattr(block, "attentions"):
                copy_attention(block.attentions[i], source[1])
        return source[-1]

    for block in other.down_blocks:
        copy_row(block, down)
        for change in block.downsamplers or ():
            copy_change(change, next(down)[0])
    copy_residual(other.mid_block.resnets[0], network.middle_block[0])
    copy_attention(other.mid_block.attentions[0], network.middle_block[1])
    copy_residual(other.mid_block.resnets[1], network.middle_block[2])
    for block in other.up_blocks:
        last = copy_row(block, up)
        changes = getattr(block, "upsamplers", None) or getattr(block, "upsampler", None)
        if changes is not None:
            copy_change(changes[0] if isinstance(changes, torch.nn.ModuleList) else changes, last)
    assert next(down, None) is next(up, None) is None
    copy(other.conv_norm_out, network.out[0])
    copy(other.conv_out, network.out[2])
    return other.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("scale_shift", "by_resnet", "mult", "layers", "attends", "labels"),
    [
        (True, True, (1, 2, 2), 1, (False, True, False), None),
        (True, False, (1, 2), 2, (True, True), 10),
        (False, True, (1, 1), 2, (False, True), 10),
        (False, False, (1, 2, 3), 1, (False, False, True), None),
    ],
)
def test_same_network_in_diffusers(scale_shift, by_resnet, mult, layers, attends, labels):
    network = random(
        ADMUNet(
            3,
            6,
            num_channels=32,
            num_res_blocks=layers,
            channel_mult=mult,
            attention=[2**level for level, a in enumerate(attends) if a],
            num_head_channels=16,
            num_classes=labels,
            use_scale_shift_norm=scale_shift,
            resblock_updown=by_resnet,
            use_new_attention_order=True,
        )
    )
    other = in_diffusers(network, scale_shift, by_resnet, [32 * m for m in mult], layers, attends, labels)
    x, n = draw(2, 3, 16, 16), torch.tensor([0.0, 731.0])
    y = None if labels is None else torch.tensor([7, 2])
    want = other(x, n, class_labels=y).sample
    error = (network(x, n, y) - want).abs().max()
    assert error <= 5e-5 * want.square().mean().sqrt()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in other.parameters())


def test_orders_of_heads_are_permutations_of_rows():
    new, legacy = random(Attention(48 * 2, 3, new_order=True)), Attention(48 * 2, 3, new_order=False)
    rows = torch.arange(3 * 96).reshape(3, 3, 32).transpose(0, 1).flatten()  # (q k v, head) to (head, q k v)
    state = new.state_dict()
    legacy.load_state_dict(state | {name: state[name][rows] for name in ("qkv.weight", "qkv.bias")})
    x = draw(2, 96, 4, 4)
    torch.testing.assert_close(legacy(x), new(x))
    legacy.load_state_dict(state)
    assert (legacy(x) - new(x)).abs().max() > 0.01


def test_attention_as_it_is_written():
    layer, x = random(Attention(64, 2, new_order=True)), draw(1, 64, 3, 5)
    h = layer.norm(x).reshape(64, 15).double()
    q, k, v = (layer.qkv.weight[:, :, 0].double() @ h + layer.qkv.bias[:, None]).reshape(3, 2, 32, 15)
    weights = torch.softmax(torch.einsum("hdi,hdj->hij", q, k) / math.sqrt(32), dim=-1)
    mixed = torch.einsum("hij,hdj->hdi", weights, v).reshape(64, 15)
    change = layer.proj_out.weight[:, :, 0].double() @ mixed + layer.proj_out.bias[:, None]
    torch.testing.assert_close(layer(x).double(), x + change.reshape(1, 64, 3, 5), rtol=1e-5, atol=1e-5)


def test_heads_differ_up_and_down():
    network = ADMUNet(3, 3, **SMALL, num_heads_upsample=8)
    heads = {
        name.split(".")[0]: module.heads
        for name, module in network.named_modules()
        if hasattr(module, "heads")
    }
    assert heads == {"input_blocks": 2, "middle_block": 2, "output_blocks": 8}
    by_channels = ADMUNet(3, 3, **SMALL, num_head_channels=8)
    assert {m.heads for m in by_channels.modules() if isinstance(m, Attention)} == {8}


@pytest.mark.parametrize("size", [6, 7])
def test_time_embedding(size):
    n, half = np.array([0.0, 1.5, 999.0]), size // 2
    angle = n[:, None] * np.exp(-np.log(10000) * np.arange(half) / half)
    want = np.concatenate([np.cos(angle), np.sin(angle), np.zeros((3, size % 2))], axis=1)
    np.testing.assert_allclose(embed_time(torch.from_numpy(n), size), want, atol=1e-4)  # 999 in float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(dtype):
    network = random(ADMUNet(3, 6, **SMALL, num_classes=4))
    x, n, y = draw(2, 3, 8, 8), torch.tensor([10, 900]), torch.tensor([0, 3])
    want = network(x, n, y)
    got = network.to(dtype)(x, n, y)
    assert got.dtype == dtype
    rounding = 32 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)  # some 30 layers in a row
    assert (got - want).abs().max() <= rounding * want.square().mean().sqrt()


def test_group_norm_reckons_in_float32():
    x = 300 + draw(1, 64, 8, 8)  # the sum of squares is beyond float16
    norm = random(GroupNorm(64))
    want = norm(x.half().float())
    torch.testing.assert_close(norm.half()(x.half()).float(), want, rtol=2e-3, atol=2e-3)


def test_dropout_is_for_training():
    network, x, n = random(ADMUNet(3, 3, **SMALL, dropout=0.5)), draw(1, 3, 8, 8), torch.tensor([5])
    torch.testing.assert_close(network(x, n), network(x, n), rtol=0, atol=0)
    assert not torch.equal(network.train()(x, n), network(x, n))


@pytest.mark.parametrize(
    ("millions", "settings"),
    [
        (
            554,
            {
                "num_channels": 256,
                "channel_mult": (1, 1, 2, 2, 4, 4),
                "attention": (8, 16, 32),
                "num_classes": 1000,
            },
        ),
        (
            422,
            {
                "num_channels": 256,
                "channel_mult": (1, 1, 2, 3, 4),
                "attention": (4, 8, 16),
                "num_classes": 1000,
            },
        ),
        (
            559,
            {
                "num_channels": 256,
                "channel_mult": (0.5, 1, 1, 2, 2, 4, 4),
                "attention": (16, 32, 64),
                "num_classes": 1000,
            },
        ),
        (
            296,
            {
                "num_channels": 192,
                "num_res_blocks": 3,
                "channel_mult": (1, 2, 3, 4),
                "attention": (2, 4, 8),
                "num_classes": 1000,
            },
        ),
    ],
)
def test_published_sizes(millions, settings):
    """ImageNet 256, 128, 512 and 64: the model sizes of Dhariwal & Nichol 2021."""
    with torch.device("meta"):
        network = ADMUNet(
            3, 6, **{"num_res_blocks": 2, "num_head_channels": 64, "resblock_updown": True} | settings
        )
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_refusals(refuses):
    with refuses("channel_mult holds 1.5, which makes 48 channels"):
        ADMUNet(3, 3, **SMALL | {"channel_mult": (1, 1.5)})
    with refuses("num_heads is 3"):
        ADMUNet(3, 3, **SMALL | {"num_heads": 3})
    with refuses("num_head_channels is 48"):
        ADMUNet(3, 3, **SMALL, num_head_channels=48)
    x, n = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with refuses("y is None; accepted: labels from 0 to 4"):
        ADMUNet(3, 3, **SMALL, num_classes=5)(x, n)
    with refuses("y is given; accepted: no labels"):
        ADMUNet(3, 3, **SMALL)(x, n, torch.zeros(1).long())
