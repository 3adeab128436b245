"""The U-Nets of EDM's checkpoints: single blocks, embeddings, resampling, and whole networks against diffusers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from edm_pickles import scramble
from scipy.signal import convolve2d
from torch import nn

from turningpoint.models._networks.dhariwal import DhariwalUNet
from turningpoint.models._networks.edm_blocks import (
    Conv2d,
    FourierEmbedding,
    PositionalEmbedding,
    UNetBlock,
    self_attention,
)
from turningpoint.models._networks.songunet import SongUNet

GOLDEN = Path(__file__).parent / "golden" / "edm"
BLOCKS = {
    "mh2": (
        {"in_channels": 32, "out_channels": 32, "attention": True, "channels_per_head": 16, "dropout": 0.1},
        2,
    ),
    "mh4_skip": ({"in_channels": 16, "out_channels": 32, "attention": True, "channels_per_head": 8}, 4),
    "up": ({"in_channels": 16, "out_channels": 16, "up": True}, 0),
    "down_1331": (
        {
            "in_channels": 16,
            "out_channels": 16,
            "down": True,
            "resample_filter": [1, 3, 3, 1],
            "resample_proj": True,
            "adaptive_scale": False,
            "skip_scale": math.sqrt(0.5),
            "eps": 1e-6,
        },
        0,
    ),
}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}


def relative(got, want):
    """The largest error, in units of the root mean square of what is wanted."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("case", BLOCKS)
def test_single_blocks_return_the_published_numbers(case):
    stored = np.load(GOLDEN / "unetblock_cases.npz")
    kwargs, heads = BLOCKS[case]
    block = UNetBlock(emb_channels=24, **kwargs)
    prefix = f"{case}/sd/"
    block.load_state_dict(
        {k.removeprefix(prefix): torch.from_numpy(stored[k]) for k in stored.files if k.startswith(prefix)}
    )
    assert block.num_heads == heads
    with torch.no_grad():
        y = block(torch.from_numpy(stored[f"{case}/x"]), torch.from_numpy(stored[f"{case}/emb"]))
    assert relative(y, stored[f"{case}/y"]) < 5e-5


def test_embeddings_return_the_published_numbers():
    stored = np.load(GOLDEN / "embeddings.npz")
    c = torch.from_numpy(stored["c_noise"])
    assert np.abs(PositionalEmbedding(16, endpoint=True)(c).numpy() - stored["pos_endpoint"]).max() < 2e-6
    assert np.abs(PositionalEmbedding(16)(c).numpy() - stored["pos_plain"]).max() < 2e-6
    fourier = FourierEmbedding(16)
    fourier.freqs = torch.from_numpy(stored["fourier_freqs"])
    assert np.abs(fourier(c[:3]).numpy() - stored["fourier"]).max() < 2e-6


def test_fourier_frequencies_stay_exact_in_half_precision():
    embedding = FourierEmbedding(8)
    freqs = embedding.freqs.clone()
    embedding.to(torch.float16)
    assert embedding.freqs.dtype == torch.float32
    assert torch.equal(embedding.freqs, freqs)


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1], [1, 2, 5, 5, 2, 1], [0.5, -1, 2, 1]])
def test_resampling_is_a_convolution_by_definition(taps):
    x = np.random.default_rng(0).normal(size=(8, 8))
    f = np.outer(taps, taps) / np.sum(taps) ** 2
    pad = (len(taps) - 1) // 2
    image = torch.from_numpy(x).float()[None, None]
    # down: correlate the zero-padded image with the filter and keep every second pixel
    wide = convolve2d(np.pad(x, pad), f[::-1, ::-1], mode="valid")[::2, ::2]
    assert np.abs(Conv2d(1, 1, 0, down=True, resample_filter=taps)(image)[0, 0].numpy() - wide).max() < 1e-5
    # up: put zeros between the pixels, convolve, and cut to twice the size
    sparse = np.zeros((15, 15))
    sparse[::2, ::2] = x
    full = 4 * convolve2d(sparse, f, mode="full")
    want = full[pad : pad + 16, pad : pad + 16]
    assert np.abs(Conv2d(1, 1, 0, up=True, resample_filter=taps)(image)[0, 0].numpy() - want).max() < 1e-5


def test_the_shortest_filter_is_a_mean_and_a_repetition():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Conv2d(3, 3, 0, down=True)(x), nn.functional.avg_pool2d(x, 2), atol=1e-6)
    assert torch.allclose(
        Conv2d(3, 3, 0, up=True)(x), nn.functional.interpolate(x, scale_factor=2), atol=1e-6
    )


def test_a_fused_convolution_is_the_convolution_then_the_filter():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    fused = Conv2d(3, 5, 3, down=True, resample_filter=[1, 3, 3, 1], fused_resample=True)
    plain = Conv2d(3, 5, 3)
    plain.load_state_dict({"weight": fused.weight, "bias": torch.zeros(5)})
    after = Conv2d(5, 5, 0, down=True, resample_filter=[1, 3, 3, 1])
    want = after(plain(x)) + fused.bias[:, None, None]
    assert fused(x).shape == want.shape
    assert torch.allclose(fused(x)[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1], atol=1e-5)  # borders differ


def test_attention_by_its_formula():
    torch.manual_seed(1)
    qkv = torch.randn(2, 3 * 12, 4, 4)
    got = self_attention(qkv, 3)
    table = qkv.reshape(2, 3, 4, 3, 16).double()  # head, channel, query or key or value, pixel
    q, k, v = table[:, :, :, 0], table[:, :, :, 1], table[:, :, :, 2]
    weight = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(4)).softmax(3)
    want = torch.einsum("nhqk,nhck->nhcq", weight, v).reshape(2, 12, 4, 4)
    assert torch.allclose(got.double(), want, atol=1e-5)


def parameters(kind, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in kind(**kwargs).parameters())


def test_published_architectures_have_their_number_of_parameters():
    """Karras et al. 2022, Table 7 (55.7 M and 295.9 M); Song et al. 2021: 61.8 M, and 62.8 M for ncsn++."""
    images = {"in_channels": 3, "out_channels": 3}
    cifar = images | {"img_resolution": 32, "augment_dim": 9, "channel_mult": [2, 2, 2]}
    assert round(parameters(SongUNet, **cifar) / 1e6, 1) == 55.7
    baseline = images | {"img_resolution": 32, "channel_mult": [1, 2, 2, 2]}
    assert round(parameters(SongUNet, **baseline) / 1e6, 1) == 61.8
    assert round(parameters(SongUNet, **baseline, **NCSNPP) / 1e6, 1) == 62.8
    imagenet = images | {"img_resolution": 64, "label_dim": 1000}
    assert round(parameters(DhariwalUNet, **imagenet) / 1e6, 1) == 295.9


def as_diffusers(network):
    """diffusers' NCSN++ with skips down and up, with the weights of a SongUNet of two resolutions and one block."""
    from diffusers import UNet2DModel

    wide = network.widths[0]
    theirs = UNet2DModel(
        sample_size=network.resolutions[0],
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=tuple(network.widths),
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        norm_eps=1e-6,
        mid_block_scale_factor=math.sqrt(2),
        attention_head_dim=None,
        norm_num_groups=32,
    ).eval()
    state = network.state_dict()

    def copy(module, name):
        for part, tensor in module.state_dict().items():
            module.state_dict()[part].copy_(state[f"{name}.{part}"])
            used.add(f"{name}.{part}")
            assert tensor.shape == state[f"{name}.{part}"].shape

    def copy_block(resnet, name, attention=None):
        names = {
            "norm1": "norm0",
            "conv1": "conv0",
            "time_emb_proj": "affine",
            "norm2": "norm1",
            "conv2": "conv1",
        }
        for theirs_name, ours in names.items():
            copy(getattr(resnet, theirs_name), f"{name}.{ours}")
        if resnet.conv_shortcut is not None:
            copy(resnet.conv_shortcut, f"{name}.skip")
        if attention is not None:
            copy(attention.group_norm, f"{name}.norm2")
            qkv = state[f"{name}.qkv.weight"][:, :, 0, 0].reshape(-1, 3, attention.group_norm.num_channels)
            bias = state[f"{name}.qkv.bias"].reshape(-1, 3)
            for i, layer in enumerate((attention.to_q, attention.to_k, attention.to_v)):
                layer.weight.copy_(qkv[:, i])
                layer.bias.copy_(bias[:, i])
            attention.to_out[0].weight.copy_(state[f"{name}.proj.weight"][:, :, 0, 0])
            attention.to_out[0].bias.copy_(state[f"{name}.proj.bias"])
            used.update(f"{name}.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias"))

    used: set[str] = set()
    high, low = (f"{r}x{r}" for r in network.resolutions)
    with torch.no_grad():
        theirs.time_proj.weight.copy_(state["map_noise.freqs"])
        used.add("map_noise.freqs")
        copy(theirs.time_embedding.linear_1, "map_layer0")
        copy(theirs.time_embedding.linear_2, "map_layer1")
        copy(theirs.conv_in, f"enc.{high}_conv")
        first, second = theirs.down_blocks
        copy_block(first.resnets[0], f"enc.{high}_block0")
        copy_block(first.resnet_down, f"enc.{low}_down")
        copy(first.skip_conv, f"enc.{low}_aux_skip")
        copy_block(second.resnets[0], f"enc.{low}_block0", second.attentions[0])
        copy_block(theirs.mid_block.resnets[0], f"dec.{low}_in0", theirs.mid_block.attentions[0])
        copy_block(theirs.mid_block.resnets[1], f"dec.{low}_in1")
        lower, upper = theirs.up_blocks
        copy_block(lower.resnets[0], f"dec.{low}_block0")
        copy_block(lower.resnets[1], f"dec.{low}_block1", lower.attentions[0])
        copy(lower.skip_norm, f"dec.{low}_aux_norm")
        copy(lower.skip_conv, f"dec.{low}_aux_conv")
        copy_block(lower.resnet_up, f"dec.{high}_up")
        copy_block(upper.resnets[0], f"dec.{high}_block0")
        copy_block(upper.resnets[1], f"dec.{high}_block1")
        copy(theirs.conv_norm_out, f"dec.{high}_aux_norm")
        copy(theirs.conv_out, f"dec.{high}_aux_conv")
    left = {name for name in set(state) - used if not name.endswith("resample_filter")}
    assert not left, left
    assert wide == theirs.conv_in.out_channels
    return theirs


def test_a_network_with_skips_down_and_up_is_that_of_diffusers():
    """Song et al. 2021's NCSN++ with both thin paths; no golden network has them."""
    network = scramble(
        SongUNet(
            8,
            3,
            3,
            model_channels=128,
            channel_mult=[1, 1],
            num_blocks=1,
            attn_resolutions=[4],
            embedding_type="fourier",
            channel_mult_noise=2,
            encoder_type="skip",
            decoder_type="skip",
            resample_filter=[1, 3, 3, 1],
        )
    )
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    c_noise = torch.tensor([-0.3, 0.2])
    with torch.no_grad():
        ours = network(x, c_noise)
        sigma = c_noise.exp()  # theirs takes its logarithm, and divides the answer by it
        theirs = as_diffusers(network)(x, sigma).sample * sigma[:, None, None, None]
    assert relative(ours, theirs) < 5e-5


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"img_resolution": 9}, "halved"),
        ({"channel_mult": []}, "halved"),
        ({"decoder_type": "residual"}, "decoder_type is 'residual'; accepted: standard, skip"),
        ({"resample_filter": [1, 2, 1]}, "even number"),
        ({"model_channels": 150}, "multiple of their 32 groups"),
    ],
)
def test_networks_that_could_not_compute_are_refused(wrong, match, refuses):
    arguments = {
        "img_resolution": 8,
        "in_channels": 3,
        "out_channels": 3,
        "channel_mult": [1, 2],
        "num_blocks": 1,
    }
    with refuses(match), torch.device("meta"):
        SongUNet(**arguments | {"model_channels": 16} | wrong)


def test_embeddings_are_pairs(refuses):
    for kind in (PositionalEmbedding, FourierEmbedding):
        with refuses("even number"):
            kind(15)


def test_heads_that_cannot_share_the_channels_are_refused(refuses):
    with refuses("multiple of 3 heads"), torch.device("meta"):
        DhariwalUNet(8, 3, 3, model_channels=200, channel_mult=[1], num_blocks=1, attn_resolutions=[8])


def test_a_narrow_block_of_adm_has_no_attention_and_a_wide_one_a_head_per_64_channels():
    with torch.device("meta"):
        network = DhariwalUNet(
            8, 3, 3, model_channels=32, channel_mult=[1, 4], num_blocks=1, attn_resolutions=[8, 4]
        )
    heads = {name: block.num_heads for name, block in network.dec.items()}
    assert heads["8x8_block0"] == heads["8x8_block1"] == 0
    assert heads["4x4_in0"] == heads["4x4_block0"] == heads["4x4_block1"] == 2
    assert heads["4x4_in1"] == 0
