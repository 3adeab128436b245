"""Variants in lockstep: what an intervention does, worked out by hand, and what it leaves alone."""

import pytest
import torch
from torch import nn

from turningpoint import VP, Guided, NetworkDenoiser, load
from turningpoint.diffusion.denoiser import Denoiser
from turningpoint.diffusion.lockstep import Intervention, Lockstep

WINDOW = (0.3, 0.6)


class Chain(nn.Module):
    """x -> inner(x) -> outer, with a third layer that never runs and one that answers for the batch as a whole."""

    def __init__(self, d=3, classes=0, out=1):
        super().__init__()
        self.inner, self.outer, self.spare = nn.Linear(d, d), nn.Linear(d, out * d), nn.Linear(d, d)
        self.table = nn.Embedding(classes + 1, d)
        self.total = nn.Identity()
        self.fail = False

    def forward(self, x, native, label=None):
        h = self.inner(x)
        self.total(h.sum(0, keepdim=True))
        if self.fail:
            raise RuntimeError("the network fails")
        return self.outer(h if label is None else h + self.table(label))


class Pictures(nn.Module):
    """A map, tokens of it, and a vector."""

    def __init__(self):
        super().__init__()
        self.conv, self.same = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.tokens, self.vector = nn.Linear(2, 2), nn.Linear(2, 2)
        self.last = nn.Conv2d(2, 1, 1)

    def forward(self, x, native):
        a = self.same(self.conv(x))
        tokens = self.tokens(a.flatten(2).transpose(1, 2))
        gate = self.vector(tokens.mean(1))
        return self.last(tokens.transpose(1, 2).reshape(a.shape) * gate[:, :, None, None])


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return NetworkDenoiser(Chain(), VP(), (3,), predicts="x0").eval()


@pytest.fixture
def pictures():
    torch.manual_seed(1)
    return NetworkDenoiser(Pictures(), VP(), (1, 4, 4), predicts="x0").eval()


def _hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _stacked(x, k=2):
    return torch.cat([x] * k, 1)


@torch.no_grad()
def test_an_intervention_is_what_one_works_out_by_hand(chain):
    net, x, t = chain.network, torch.randn(4, 3), torch.tensor([0.5, 0.31, 0.6, 0.3])
    h = net.inner(x)
    expected = {
        "ablate": net.outer(torch.zeros_like(h)),
        "skip": net.outer(x),
        "scale:0.5": net.outer(0.5 * h),
        "scale:-2": net.outer(-2 * h),
    }
    for mode, changed in expected.items():
        found = Lockstep(chain, Intervention(("inner",), WINDOW, mode))(_stacked(x), t)
        torch.testing.assert_close(found, torch.cat([net.outer(h), changed], 1))
    other = torch.randn(4, 3)
    found = Lockstep(chain, Intervention(("inner",), WINDOW, "patch"))(torch.cat([x, x, other], 1), t)
    donor = net.outer(net.inner(other))
    torch.testing.assert_close(found, torch.cat([net.outer(h), donor, donor], 1))


@torch.no_grad()
def test_means_are_taken_over_positions_of_maps_and_of_tokens(pictures):
    net, x, t = pictures.network, torch.randn(3, 1, 4, 4), torch.full((3,), 0.5)

    def by_hand(a, tokens=None):
        tokens = net.tokens(a.flatten(2).transpose(1, 2)) if tokens is None else tokens
        return net.last(
            tokens.transpose(1, 2).reshape(a.shape) * net.vector(tokens.mean(1))[:, :, None, None]
        )

    a = net.same(net.conv(x))
    flat = a.mean((2, 3), keepdim=True).expand_as(a)
    found = Lockstep(pictures, Intervention(("same",), WINDOW, "mean"))(_stacked(x), t)
    torch.testing.assert_close(found[:, 1:], by_hand(flat))
    tokens = net.tokens(a.flatten(2).transpose(1, 2))
    found = Lockstep(pictures, Intervention(("tokens",), WINDOW, "mean"))(_stacked(x), t)
    torch.testing.assert_close(found[:, 1:], by_hand(a, tokens.mean(1, keepdim=True).expand_as(tokens)))
    found = Lockstep(pictures, Intervention(("same",), WINDOW, "skip"))(_stacked(x), t)
    torch.testing.assert_close(found[:, 1:], by_hand(net.conv(x)))


@torch.no_grad()
def test_rows_at_other_times_are_left_alone_and_both_ends_are_in_the_window(chain):
    x, t = torch.randn(6, 3), torch.tensor([0.7, 0.6, 0.45, 0.3, 0.29, 0.0])
    clean, changed = Lockstep(chain, Intervention(("inner",), WINDOW))(_stacked(x), t).chunk(2, 1)
    assert (clean == changed).all(1).tolist() == [True, False, False, False, True, True]
    torch.testing.assert_close(clean, chain(x, t))


@torch.no_grad()
def test_variants_that_have_parted_are_not_given_the_clean_answer(chain):
    x, t = torch.randn(2, 6), torch.tensor([0.1, 0.9])
    found = Lockstep(chain, Intervention(("inner",), WINDOW))(x, t)
    torch.testing.assert_close(found, torch.cat([chain(x[:, :3], t), chain(x[:, 3:], t)], 1))


@torch.no_grad()
def test_guidance_is_changed_in_both_of_its_halves():
    torch.manual_seed(2)
    model = NetworkDenoiser(Chain(classes=4), VP(), (3,), predicts="x0", n_classes=4).eval()
    net, x, t = model.network, torch.randn(3, 3), torch.tensor([0.5, 0.9, 0.4])
    inside = torch.tensor([True, False, True])[:, None]

    def guided(h, label):
        none = torch.full_like(label, 4)
        with_, without = (net.outer(h + net.table(c)) for c in (label, none))
        return without + 2.0 * (with_ - without)

    label, donor = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 0])
    h = net.inner(x)
    pair = Lockstep(Guided(model, 2.0), Intervention(("inner",), WINDOW, "scale:0.5"))
    told = pair.conditions([{"label": int(c)} for c in label], torch.device("cpu"))
    expected = torch.cat([guided(h, label), guided(torch.where(inside, 0.5 * h, h), label)], 1)
    torch.testing.assert_close(pair(_stacked(x), t, **told), expected)
    torch.testing.assert_close(pair(_stacked(x), t, label), expected)

    pair = Lockstep(Guided(model, 2.0), Intervention(("table",), WINDOW, "patch"))
    conditions = [{"label": int(c), "donor": {"label": int(d)}} for c, d in zip(label, donor, strict=True)]
    found = pair(_stacked(x, 3), t, **pair.conditions(conditions, torch.device("cpu")))
    patched = torch.where(inside, guided(h, donor), guided(h, label))  # the layer is the condition itself
    torch.testing.assert_close(found, torch.cat([guided(h, label), patched, guided(h, donor)], 1))


@torch.no_grad()
def test_learned_variances_are_stacked_as_estimates_are():
    torch.manual_seed(3)
    model = NetworkDenoiser(Chain(out=2), VP(), (3,), predicts="x0", learned_variance=True).eval()
    x, t = torch.randn(2, 3), torch.tensor([0.5, 0.9])
    x_0, v = Lockstep(model, Intervention(("inner",), WINDOW)).with_variance(_stacked(x), t)
    one, other = model.with_variance(x, t)
    torch.testing.assert_close(x_0[:, :3], one)
    torch.testing.assert_close(v[:, :3], other)
    bias = model.network.outer.bias
    torch.testing.assert_close(torch.cat([x_0[0, 3:], v[0, 3:]]), bias)
    assert torch.equal(v[1, :3], v[1, 3:])


class Latent(Denoiser):
    """Latents (2, 2, 2) of pictures (1, 4, 4)."""

    def __init__(self):
        super().__init__()
        self.schedule, self.shape, self.network = VP(), (2, 2, 2), nn.Sequential(nn.Conv2d(2, 2, 1))

    def forward(self, x_t, t, label=None):
        return self.network(x_t)

    def decode(self, x_0):
        return x_0.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)

    def encode(self, images):
        return images[:, :, ::2, ::2].repeat(1, 2, 1, 1)

    @property
    def decoded_shape(self):
        return 1, 4, 4


@torch.no_grad()
def test_latents_are_decoded_variant_by_variant():
    model = Latent()
    pair = Lockstep(model, Intervention(("0",), WINDOW))
    assert (pair.shape, pair.decoded_shape) == ((4, 2, 2), (2, 4, 4))
    z = torch.randn(3, 4, 2, 2)
    images = pair.decode(z)
    torch.testing.assert_close(images, torch.cat([model.decode(z[:, :2]), model.decode(z[:, 2:])], 1))
    torch.testing.assert_close(pair.encode(images)[:, 2:], model.encode(images[:, 1:]))


def test_items_and_rows_are_one_thing(chain):
    pair = Lockstep(chain, Intervention(("inner",), WINDOW, "patch"))
    x = torch.randn(5, 9)
    rows = pair.apart(x)
    assert torch.equal(rows[5:10], x[:, 3:6])
    assert torch.equal(pair.together(rows), x)


@torch.no_grad()
def test_no_hook_is_left_whatever_happens(chain, refuses):
    x, t = torch.randn(2, 6), torch.tensor([0.5, 0.5])
    for mode in ("ablate", "skip"):
        pair = Lockstep(chain, Intervention(("inner",), WINDOW, mode))
        pair(x, t)
        assert _hooks(chain) == 0
        chain.network.fail = True
        with pytest.raises(RuntimeError, match="the network fails"):
            pair(x, t)
        assert _hooks(chain) == 0
        chain.network.fail = False
    with refuses("layer is 'total', which answers with 1 rows where the network is called with 4"):
        Lockstep(chain, Intervention(("total",), WINDOW))(x, t)
    assert _hooks(chain) == 0


def test_what_cannot_be_changed_is_refused_in_a_sentence(chain, pictures, refuses):
    with refuses("layer is 'iner', .*the nearest being inner"):
        Lockstep(chain, Intervention(("iner",), WINDOW))
    with refuses("layer is ''; accepted: names of layers"):
        Intervention(("",), WINDOW)
    two = [{}, {}]
    with refuses("layer is 'spare', which does not run .* such as inner"):
        Lockstep(chain, Intervention(("inner", "spare"), WINDOW)).rehearse(two, torch.device("cpu"))
    with refuses("mode is 'mean', but the layer 'vector' makes items of shape \\(2,\\), without positions"):
        Lockstep(pictures, Intervention(("vector",), WINDOW, "mean")).rehearse(two, torch.device("cpu"))
    with refuses("mode is 'skip', but the layer 'conv' makes items of shape \\(2, 4, 4\\) out of items"):
        Lockstep(pictures, Intervention(("conv",), WINDOW, "skip")).rehearse(two, torch.device("cpu"))
    with refuses("which has no layers to look into"):
        Lockstep(load("gaussians"), Intervention(("inner",), WINDOW))


@pytest.mark.parametrize(
    "window", [(0.6, 0.3), (0.3, 0.3), (-0.1, 0.3), (0.3, 1.1), (0.3,), None, ("a", "b")]
)
def test_a_window_has_two_ends_in_order(window, refuses):
    with refuses("window is .*; accepted: a:b with 0 <= a < b <= 1, in t"):
        Intervention(("inner",), window)


@pytest.mark.parametrize("mode", ["zero", "scale", "scale:", "scale:x", "scale:nan", "ablate:1", 3])
def test_a_mode_is_one_of_five(mode, refuses):
    with refuses("accepted: ablate, mean, skip, patch, scale:NUMBER"):
        Intervention(("inner",), WINDOW, mode)


def test_names_in_a_list_by_comma_and_by_pattern_mean_each_layer_once():
    pair = Lockstep(load("digits"), Intervention(("mid_block.resnets.*, mid_block.resnets.0",), WINDOW))
    assert pair.layers == ("mid_block.resnets.0", "mid_block.resnets.1")


def test_what_identifies_it_is_the_model_and_the_change(chain):
    config = Lockstep(chain, Intervention(("inner",), WINDOW, "scale:2")).fingerprint_config()
    assert config["intervention"] == {"layers": ["inner"], "window": [0.3, 0.6], "mode": "scale:2"}
