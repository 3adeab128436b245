"""The entropy of attention against the definition by hand, in every way in which networks compute attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from edm_pickles import scramble
from tiny_clip import tiny_dinov2
from tiny_flow_pipelines import redraw, tiny_flux, tiny_sd3
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, CLIPTextConfig, CLIPTextModel

from turningpoint import load
from turningpoint.hooks import watching
from turningpoint.models._networks.adm_unet import ADMUNet
from turningpoint.models._networks.dhariwal import DhariwalUNet
from turningpoint.models._networks.songunet import SongUNet
from turningpoint.simulation import _attention
from turningpoint.simulation.probe import Probe

FLOAT32 = 1e-5
"""Scores of up to about 10 in float32, relative to the entropy."""


def entropy(scores, allowed=None):
    """The mean over queries and heads of H / log n for each row, from scores (rows, heads, queries, keys)."""
    s = np.asarray(scores, dtype=np.float64)
    allowed = np.ones(s.shape, bool) if allowed is None else np.broadcast_to(allowed, s.shape)
    found = []
    for row, may in zip(s, allowed, strict=True):
        each = []
        for scored, keys in zip(row.reshape(-1, s.shape[-1]), may.reshape(-1, s.shape[-1]), strict=True):
            if keys.sum() > 1:
                p = np.exp(scored[keys] - scored[keys].max())
                p /= p.sum()
                each.append(-(p * np.log(p)).sum() / math.log(keys.sum()))
        found.append(np.mean(each) if each else np.nan)
    return np.array(found)


class Attending(nn.Module):
    """A network whose one layer calls ``attend`` on what it is given."""

    def __init__(self, attend):
        super().__init__()
        self.layer, self.rest = nn.Identity(), nn.Linear(1, 1)
        self.layer.forward = attend

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


def seen(network, *args, layer="layer", exact=0, **kwargs):
    """The entropy (rows,) of a layer's attention, and the network's answer, which the probe leaves as it is."""
    rows = len(args[0])
    all_rows = torch.ones(rows, dtype=torch.bool)
    probe = Probe(network, layer, summaries=["entropy"], map_size=0)
    with torch.no_grad():
        before = network(*args, **kwargs)
        with probe.watch(rows, all_rows, all_rows) as found:
            after = network(*args, **kwargs)
    before, after = (x if isinstance(x, torch.Tensor) else x[0] for x in (before, after))
    torch.testing.assert_close(before, after, rtol=exact, atol=exact)
    return found["activations"][:, 0, 0].numpy()


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


Q, K, V = draw(3, 2, 5, 4), draw(3, 2, 7, 4, seed=1), draw(3, 2, 7, 4, seed=2)
SCORES = (Q @ K.mT / 2).numpy()
BOOL = draw(3, 1, 5, 7, seed=3) > -1
ADDED = draw(1, 7, seed=4)


@pytest.mark.parametrize(
    ("told", "scores", "allowed"),
    [
        ({}, SCORES, None),
        ({"scale": 3.0}, SCORES * 6, None),
        ({"attn_mask": BOOL}, SCORES, BOOL.numpy()),
        ({"attn_mask": ADDED}, SCORES + ADDED.numpy(), None),
        ({"attn_mask": torch.where(BOOL, 0.0, -torch.inf)}, SCORES, BOOL.numpy()),
        ({"attn_mask": torch.where(BOOL, 0.0, torch.finfo(torch.float32).min)}, SCORES, BOOL.numpy()),
        ({"attn_mask": torch.where(BOOL, 0.0, -10000.0)}, SCORES, BOOL.numpy()),
        ({"is_causal": True}, SCORES, np.tril(np.ones((5, 7), bool))),
    ],
)
@pytest.mark.parametrize("slab", [1, 50, _attention.SLAB])
def test_scaled_dot_products(told, scores, allowed, slab, monkeypatch):
    monkeypatch.setattr(_attention, "SLAB", slab)
    network = Attending(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **told))
    np.testing.assert_allclose(seen(network, Q, K, V), entropy(scores, allowed), rtol=FLOAT32)


def test_masks_and_switches_by_position():
    network = Attending(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.0, True))
    expected = entropy(SCORES, np.tril(np.ones((5, 7), bool)))
    np.testing.assert_allclose(seen(network, Q, K, V), expected, rtol=FLOAT32)


def test_ends():
    same = torch.zeros(2, 1, 4, 8)
    network = Attending(F.scaled_dot_product_attention)
    np.testing.assert_allclose(seen(network, same, same, same), 1, rtol=1e-6)
    one = 40 * torch.eye(8).expand(2, 1, 8, 8)
    np.testing.assert_allclose(seen(network, one, one, one), 0, atol=1e-6)
    key = same[:, :, :1]
    assert np.isnan(seen(network, same, key, key)).all()  # one key leaves no choice


def test_fewer_heads_of_keys_than_of_queries():
    q, k, v = draw(3, 4, 5, 4), K, V
    network = Attending(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    scores = (q @ k.repeat_interleave(2, 1).mT / 2).numpy()
    np.testing.assert_allclose(seen(network, q, k, v), entropy(scores), rtol=FLOAT32)


def test_heads_beside_rows_in_one_axis():
    q, k, v = (x.flatten(0, 1) for x in (Q, K, V))

    def attend(x, q, k, v):
        return F.scaled_dot_product_attention(q, k, v).unflatten(0, (3, 2))

    network = Attending(attend)
    np.testing.assert_allclose(seen(network, draw(3, 1), q, k, v), entropy(SCORES), rtol=FLOAT32)


@pytest.mark.parametrize(
    "softmax",
    [
        lambda s: s.softmax(-1),
        lambda s: s.softmax(dim=3),
        lambda s: torch.softmax(s, dim=-1),
        lambda s: F.softmax(s, -1, dtype=torch.float32),
        nn.Softmax(-1),
        lambda s: torch.special.softmax(s, -1),
        lambda s: s.flatten(0, 1).softmax(-1).unflatten(0, (3, 2)),
    ],
)
def test_a_softmax_of_scores(softmax):
    def attend(x, s):
        return torch.einsum("bhqk,bhkd->bhqd", softmax(s), V)

    network = Attending(attend)
    scores = torch.from_numpy(SCORES)
    np.testing.assert_allclose(seen(network, draw(3, 1), scores), entropy(SCORES), rtol=FLOAT32)


def test_a_softmax_over_another_axis_is_no_attention():
    network = Attending(lambda x: x.softmax(1) + F.softmax(x, -2))
    assert np.isnan(seen(network, draw(3, 4, 5, 6))).all()
    network = Attending(lambda x: x.softmax(-1))
    assert np.isnan(seen(network, draw(3, 4))).all()  # class probabilities


def test_of_several_attentions_the_mean_and_of_several_runs_the_last():
    def attend(x):
        return F.scaled_dot_product_attention(x, K, V) + F.scaled_dot_product_attention(2 * x, K, V)

    network = Attending(attend)
    expected = (entropy(SCORES) + entropy(2 * SCORES)) / 2
    np.testing.assert_allclose(seen(network, Q), expected, rtol=FLOAT32)

    class Twice(Attending):
        def forward(self, x):
            return self.layer(3 * x) + self.layer(x)

    np.testing.assert_allclose(seen(Twice(attend), Q), expected, rtol=FLOAT32)


def test_an_attention_without_a_choice_does_not_count():
    """As that to the one token of a class, beside the attention of pixels to each other."""

    def attend(x):
        return F.scaled_dot_product_attention(x, K, V) + F.scaled_dot_product_attention(
            x, K[:, :, :1], V[:, :, :1]
        )

    np.testing.assert_allclose(seen(Attending(attend), Q), entropy(SCORES), rtol=FLOAT32)


def test_a_layer_counts_what_is_in_it_whether_or_not_its_parts_are_watched():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.rest = Attending(F.scaled_dot_product_attention), nn.Linear(1, 1)

        def forward(self, q):
            return self.inner(q, K, V) + F.scaled_dot_product_attention(2 * q, K, V)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.outer, self.rest = Outer(), nn.Linear(1, 1)

        def forward(self, q):
            return self.outer(q)

    network, three = Whole(), torch.ones(3, dtype=torch.bool)
    probe = Probe(network, "outer, outer.inner.layer", map_size=0)
    with probe.watch(3, three, three) as found:
        network(Q)
    numbers = dict(zip(probe.layers, found["activations"][..., 4].T.numpy(), strict=True))
    np.testing.assert_allclose(numbers["outer.inner.layer"], entropy(SCORES), rtol=FLOAT32)
    np.testing.assert_allclose(numbers["outer"], (entropy(SCORES) + entropy(2 * SCORES)) / 2, rtol=FLOAT32)
    np.testing.assert_allclose(numbers["outer"], seen(network, Q, layer="outer"), rtol=0)


@pytest.mark.parametrize("weights", [False, True])
def test_the_attention_of_torch(weights):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, padding = draw(3, 6, 8), torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    network = Attending(lambda x: attention(x, x, x, key_padding_mask=padding, need_weights=weights)[0])
    q, k = (
        F.linear(x, attention.in_proj_weight[i : i + 8], attention.in_proj_bias[i : i + 8])
        .detach()
        .unflatten(2, (2, 4))
        .transpose(1, 2)
        for i in (0, 8)
    )
    expected = entropy((q @ k.mT / 2).numpy(), ~padding[:, None, None].numpy())
    np.testing.assert_allclose(seen(network, x, exact=FLOAT32), expected, rtol=FLOAT32)


def test_an_encoder_of_torch_is_seen_though_it_has_a_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, three = draw(3, 6, 8), torch.ones(3, dtype=torch.bool)
    probe = Probe(layer, "self_attn", summaries=["entropy"])
    with torch.no_grad(), probe.watch(3, three, three) as found:
        layer(x)
    alone = seen(Attending(lambda x: layer.self_attn(x, x, x)[0]), x, exact=FLOAT32)
    np.testing.assert_allclose(found["activations"][:, 0, 0], alone, rtol=FLOAT32)


# ---- networks


def by_hand(network, layer, heads, *args, context=None, width=None, **kwargs):
    """The entropy of a layer of diffusers or transformers from what its projections to queries and keys answer."""
    names = [f"{layer}.{part}" for part in (("to_q", "to_k") if context is None else context)]
    with torch.no_grad(), watching(network, names, lambda name, a: a.float().clone()) as found:
        network(*args, **kwargs)
    q, k = (found[name].unflatten(2, (heads, -1)).transpose(1, 2) for name in names)
    return entropy((q @ k.mT / math.sqrt(q.shape[-1])).numpy())


def tiny_unet2d():
    return redraw(
        UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
        ),
        1,
    )


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_a_unet_of_diffusers(processor):
    unet = tiny_unet2d()
    for module in unet.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(processor())
    x, t = draw(3, 3, 8, 8), torch.tensor([10.0, 500, 900])
    layer = "down_blocks.1.attentions.0"
    got = seen(unet, x, t, layer=layer, return_dict=False)
    np.testing.assert_allclose(got, by_hand(unet, layer, 2, x, t), rtol=FLOAT32)
    assert np.isnan(seen(unet, x, t, layer="down_blocks.0", return_dict=False)).all()
    attentions = [f"up_blocks.0.attentions.{i}" for i in range(2)]
    expected = np.mean([by_hand(unet, name, 2, x, t) for name in attentions], axis=0)
    np.testing.assert_allclose(
        seen(unet, x, t, layer="up_blocks.0", return_dict=False), expected, rtol=FLOAT32
    )


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_cross_attention_of_diffusers(processor):
    unet = redraw(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            norm_num_groups=4,
            attention_head_dim=(2, 4),
            cross_attention_dim=6,
        ),
        2,
    )
    unet.set_attn_processor(processor())
    x, t, text = draw(3, 4, 8, 8), torch.tensor([10.0, 500, 900]), draw(3, 5, 6, seed=1)
    for part in ("attn1", "attn2"):
        layer = f"mid_block.attentions.0.transformer_blocks.0.{part}"
        told = {"encoder_hidden_states": text, "return_dict": False}
        heads = unet.get_submodule(layer).heads
        np.testing.assert_allclose(
            seen(unet, x, t, layer=layer, **told), by_hand(unet, layer, heads, x, t, **told), rtol=FLOAT32
        )


def test_a_dit():
    dit = redraw(
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        ),
        3,
    )
    x = draw(3, 4, 8, 8)
    told = {
        "timestep": torch.tensor([1, 50, 900]),
        "class_labels": torch.tensor([1, 2, 3]),
        "return_dict": False,
    }
    layer = "transformer_blocks.1"
    expected = by_hand(dit, f"{layer}.attn1", 2, x, **told)
    np.testing.assert_allclose(seen(dit, x, layer=layer, **told), expected, rtol=FLOAT32)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_vision_transformer_of_transformers(implementation, tmp_path):
    folder = tiny_dinov2(tmp_path / "dino")
    network = AutoModel.from_pretrained(folder, attn_implementation=implementation).eval()
    size = network.config.image_size
    x = draw(3, 3, size, size)
    heads = network.config.num_attention_heads
    names = [n for n, _ in network.named_modules() if n.endswith(("query", "key", "q_proj", "k_proj"))]
    queries, keys = names[:2] if "q" in names[0].rpartition(".")[2] else names[1::-1]
    layer = queries.rpartition(".")[0]
    parts = [name.rpartition(".")[2] for name in (queries, keys)]
    got = seen(network, x, layer=layer, return_dict=False)
    np.testing.assert_allclose(got, by_hand(network, layer, heads, x, context=parts), rtol=FLOAT32)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_causal_text_encoder_of_transformers(implementation):
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=6, attn_implementation=implementation,
    )  # fmt: skip
    network = redraw(CLIPTextModel(config), 5)
    tokens = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(0))
    layer = next(n for n, _ in network.named_modules() if n.endswith("layers.1.self_attn"))
    names = [f"{layer}.{part}" for part in ("q_proj", "k_proj")]
    with torch.no_grad(), watching(network, names, lambda name, a: a.clone()) as found:
        network(tokens)
    q, k = (found[name].unflatten(2, (2, 4)).transpose(1, 2) for name in names)
    expected = entropy((q @ k.mT / 2).numpy(), np.tril(np.ones((6, 6), bool)))
    np.testing.assert_allclose(seen(network, tokens, layer=layer, return_dict=False), expected, rtol=FLOAT32)


def adm():
    settings = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention": [2]}
    return scramble(ADMUNet(3, 3, **settings, num_heads=2), 4)


OURS = {
    "adm": (adm, "middle_block.1", "norm"),
    "dhariwal": (
        lambda: scramble(
            DhariwalUNet(8, 3, 3, model_channels=64, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]),
            5,
        ),
        "enc.4x4_block0",
        "qkv",
    ),
    "songunet": (
        lambda: scramble(
            SongUNet(8, 3, 3, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]), 6
        ),
        "enc.4x4_block0",
        "qkv",
    ),
}


@pytest.mark.parametrize("kind", OURS)
def test_networks_of_our_own(kind):
    make, layer, answer = OURS[kind]
    network = make().eval()
    x, t = draw(3, 3, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    module, name = network.get_submodule(layer), f"{layer}.{answer}"
    with torch.no_grad(), watching(network, [name], lambda name, a: a.flatten(2).clone()) as found:
        network(x, t)
    if kind == "adm":  # by head, then query, key, value
        qkv = F.conv1d(found[name], module.qkv.weight, module.qkv.bias)
        q, k = qkv.unflatten(1, (module.heads, 3, -1)).unbind(2)[:2]
    else:  # by head, channel, then query, key, value
        q, k = found[name].unflatten(1, (module.num_heads, -1, 3)).unbind(3)[:2]
    expected = entropy((q.mT @ k / math.sqrt(q.shape[2])).numpy())
    np.testing.assert_allclose(seen(network, x, t, layer=layer), expected, rtol=FLOAT32)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_blocks_of_two_streams(kind, tmp_path):
    make = {"sd3": tiny_sd3, "flux": tiny_flux}[kind]
    make(tmp_path / kind)
    model = load(str(tmp_path / kind), height=16, width=24, max_sequence_length=20)
    probe = Probe(model, "transformer_blocks.*")
    image = model.shape[1] * model.shape[2] // 4
    assert all(shape[0] == image for shape in probe.shapes.values())
    kwargs, two = (
        model.conditions([{"prompt": "a cat"}, {}], torch.device("cpu")),
        torch.ones(2, dtype=torch.bool),
    )
    with torch.inference_mode(), probe.watch(2, two, two) as found:
        model(draw(2, *model.shape), torch.tensor([0.3, 0.7]), **kwargs)
    names = list(probe.summaries)
    numbers = found["activations"]
    assert (numbers[..., names.index("entropy")] > 0).all()
    assert (numbers[..., names.index("entropy")] <= 1).all()
    assert not found["maps"].isnan().any()
