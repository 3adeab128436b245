"""Hooks: names, what is looked at, what is replaced, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict, namedtuple

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from turningpoint import Guided, load
from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.diffusion.schedule import VP
from turningpoint.hooks import (
    layer_names,
    matching,
    module_called,
    patterns_in,
    replacing,
    trunk_of,
    watching,
)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
        self.mid = nn.Linear(4, 4)

    def forward(self, x, t=None):
        for block in self.down:
            x = block(x)
        return self.mid(x)


class Wrapper(nn.Module):
    def __init__(self, inside, name="unet"):
        super().__init__()
        self.add_module(name, inside)

    def forward(self, x, t=None):
        return next(self.children())(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Wrapper(UNet()).eval()


def hooks(network):
    return sum(
        len(getattr(module, kind))
        for module in network.modules()
        for kind in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
        )
    )


# ---- names


def test_names_do_without_the_wrapper(net):
    assert layer_names(net) == ["down", "down.0", "down.1", "down.1.0", "down.1.1", "mid", "unet"]
    assert layer_names(Wrapper(net, "model")) == [
        *layer_names(net)[:-1],
        "model",
        "model.unet",
    ]
    assert matching(net, ["mid", "unet.mid", "down.*", "unet.down.*", "unet", "**.0"]) == [
        ["mid"],
        ["mid"],
        ["down.0", "down.1"],
        ["down.0", "down.1"],
        ["unet"],
        ["down.0", "down.1.0"],
    ]
    assert matching(net, ["unet.mid"], wrapped=False) == [["unet.mid"]]
    assert module_called(net, "mid") is module_called(net, "unet.mid") is net.unet.mid
    assert module_called(net, "unet") is net.unet
    assert module_called(net, "") is net


def test_what_holds_only_leaves_is_no_wrapper():
    assert layer_names(Wrapper(nn.Linear(2, 2), "head")) == ["head"]
    assert layer_names(Wrapper(nn.ModuleList([nn.Linear(2, 2)]), "blocks")) == ["blocks", "blocks.0"]


def test_names_stay_whole_where_they_would_mean_two_layers():
    inside = UNet()
    inside.unet = nn.Linear(4, 4)
    net = Wrapper(inside)
    assert "unet.unet" in layer_names(net)
    assert "mid" not in layer_names(net)
    assert module_called(net, "unet") is inside


def test_an_unknown_name_is_answered_with_the_nearest(net, refuses):
    with refuses("--activations is 'midd', which no layer of the network is called; .*nearest being mid, "):
        matching(net, ["down.*", "midd"], "--activations")


def test_patterns_are_divided_at_commas(refuses):
    assert patterns_in(["a.*, b", "c"]) == ["a.*", "b", "c"]
    with refuses("activations is ' , '; accepted: names of layers, or patterns"):
        patterns_in(" , ", "activations")


def test_the_network_of_a_model_is_found_through_guidance():
    digits = load("digits")
    assert trunk_of(digits) is digits.network
    assert trunk_of(Guided(digits, 2.0)) is digits.network
    assert trunk_of(digits.network) is digits.network


@pytest.mark.parametrize("name", ["gaussians", "deltas", "field", "grammar"])
def test_an_exact_world_has_no_layers(name, refuses):
    with refuses(f"model is '{name}.*', which has no layers to look into; accepted: a model with a network"):
        trunk_of(load(name))


def test_a_function_has_no_layers(refuses):
    class Zero(nn.Module):
        def forward(self, x, t):
            return 0 * x

    with refuses("--activations for is 'mine', which has no layers"):
        trunk_of(NetworkDenoiser(Zero(), VP(), (2,), name="mine"), "--activations for")


# ---- looking


def test_what_is_entered_and_left(net):
    x, order = torch.randn(3, 4), []
    with watching(
        net, ["", "mid", "down.0"], lambda n, a: order.append(("left", n)), lambda n, a: order.append((n, a))
    ):
        net(x)
    assert [name for name, _ in order] == ["", "down.0", "left", "mid", "left", "left"]
    assert order[0][1] is x
    assert order[1][1] is x
    assert hooks(net) == 0


def test_a_compiled_network_is_looked_at_as_any_other(net):
    x = torch.randn(3, 4)
    expected = net(x)
    net.compile(backend="eager")
    net(x)
    with watching(net, ["mid"], lambda name, a: a.clone()) as seen:
        net(x)
    assert torch.equal(seen["mid"], expected)
    with replacing(net, ["mid"], lambda name, a: torch.zeros_like(a)):
        assert not net(x).any()
    other = torch.compile(UNet(), backend="eager")
    assert layer_names(other)[-2:] == ["mid", "_orig_mod"]
    with watching(other, ["mid"], lambda name, a: a.clone()) as seen:
        answer = other(x)
    assert torch.equal(seen["mid"], answer)


def test_a_wrapper_of_a_compiled_network_is_still_one(net):
    plain = layer_names(Wrapper(net, "model"))[:-2]
    assert layer_names(Wrapper(torch.compile(net, backend="eager"), "model"))[: len(plain)] == plain


# ---- replacing


@pytest.mark.parametrize("name", ["down.0", "unet.down.0"])
def test_the_network_goes_on_with_what_replaces(net, name):
    x = torch.randn(3, 4)
    with replacing(net, [name], lambda called, a: a + 1):
        answer = net(x)
    torch.testing.assert_close(answer, net.unet.mid(net.unet.down[1](net.unet.down[0](x) + 1)))
    torch.testing.assert_close(net(x), net.unet.mid(net.unet.down[1](net.unet.down[0](x))))
    assert hooks(net) == 0


Pair = namedtuple("Pair", ["first", "second"])


@dataclasses.dataclass
class Plain:
    note: str
    sample: torch.Tensor
    second: torch.Tensor


class Returning(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.part = nn.Identity()
        self.part.forward = make
        self.more = nn.Identity()

    def forward(self, *args, **kwargs):
        return self.part(*args, **kwargs)


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda x: (None, x, 3 * x), lambda y: (y[1], y[2])),
        (lambda x: [x, 3 * x], tuple),
        (lambda x: Pair(x, 3 * x), lambda y: (y.first, y.second)),
        (lambda x: {"a": x, "b": 3 * x}, lambda y: (y["a"], y["b"])),
        (lambda x: OrderedDict(a=x, b=3 * x), lambda y: (y["a"], y["b"])),
        (lambda x: Plain("n", x, 3 * x), lambda y: (y.sample, y.second)),
        (lambda x: (Transformer2DModelOutput(sample=x).sample, 3 * x), lambda y: y),
        (
            lambda x: BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=3 * x),
            lambda y: (y.last_hidden_state, y["pooler_output"]),
        ),
    ],
)
def test_the_first_tensor_is_replaced_and_the_rest_stays(make, read):
    x, net = torch.randn(2, 3), Returning(make)
    made = []
    net.part.forward = lambda x: made.append(make(x)) or made[-1]
    with replacing(net, ["part"], lambda name, a: a + 1):
        answer = net(x)
    first, second = read(answer)
    assert type(answer) is type(made[0])
    assert torch.equal(first, x + 1)
    assert torch.equal(second, 3 * x)
    assert torch.equal(read(made[0])[0], x)  # what the layer made is left alone


def test_an_output_of_diffusers_is_replaced_as_attribute_and_as_entry():
    x, net = torch.randn(2, 3), Returning(lambda x: Transformer2DModelOutput(sample=x))
    with replacing(net, ["part"], lambda name, a: a + 1):
        answer = net(x)
    assert torch.equal(answer.sample, x + 1)
    assert torch.equal(answer["sample"], answer[0])


def test_of_two_streams_the_image_is_meant():
    text, image = torch.zeros(2, 5, 3), torch.ones(2, 16, 3)
    net = Returning(lambda hidden_states, encoder_hidden_states: (encoder_hidden_states, hidden_states))
    with watching(net, ["part"], lambda name, a: tuple(a.shape)) as seen:
        net(hidden_states=image, encoder_hidden_states=text)
    assert seen == {"part": (2, 16, 3)}
    with replacing(net, ["part"], lambda name, a: 2 * a):
        text_after, image_after = net(hidden_states=image, encoder_hidden_states=text)
    assert torch.equal(text_after, text)
    assert torch.equal(image_after, 2 * image)


def test_what_replaces_has_the_layers_type_and_shape(net, refuses):
    half = net.to(torch.bfloat16)
    x = torch.randn(2, 4).bfloat16()
    with replacing(half, ["mid"], lambda name, a: a.float() + 1):
        assert half(x).dtype == torch.bfloat16
    for wrong, said in ((lambda a: a[:1], r"\(1, 4\)"), (lambda a: None, "NoneType")):
        with (
            refuses(f"what replaces the layer 'mid' is {said}; accepted: a tensor of shape .2, 4.*"),
            replacing(half, ["mid"], lambda name, a, wrong=wrong: wrong(a)),
        ):
            half(x)
    assert hooks(half) == 0


# ---- nothing is left behind


class Odd(nn.Module):
    """A network that fails between its layers."""

    def __init__(self, error):
        super().__init__()
        self.before, self.after, self.error = nn.Linear(4, 4), nn.Linear(4, 4), error

    def forward(self, x):
        x = self.before(x)
        if self.error is not None:
            raise self.error
        return self.after(x)


ERRORS = [ValueError("no"), KeyboardInterrupt(), SystemExit(3), torch.OutOfMemoryError("out of memory")]
KINDS = [
    lambda net, f: watching(net, ["before", "after"], f, lambda name, a: None),
    lambda net, f: replacing(net, ["before", "after"], f),
]


def called_with_hooks(net):
    assert hooks(net) > 0
    net(torch.zeros(1, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ERRORS)
def test_hooks_are_gone_whatever_fails(kind, error):
    def fails(name, a):
        raise error

    for net, function in ((Odd(error), lambda name, a: a), (Odd(None), fails)):
        with pytest.raises(type(error)), kind(net, function):
            called_with_hooks(net)
        assert hooks(net) == 0
    net = Odd(None)
    with pytest.raises(type(error)), kind(net, lambda name, a: a):
        raise error
    assert hooks(net) == 0
    with pytest.raises(type(error)), watching(net, ["after"], lambda name, a: a, fails):
        net(torch.zeros(1, 4))
    assert hooks(net) == 0
    net(torch.zeros(1, 4))


@pytest.mark.parametrize("function", [watching, replacing])
def test_hooks_are_gone_if_a_later_name_is_unknown(function):
    net = Odd(None)
    with pytest.raises(AttributeError), function(net, ["before", "nowhere"], lambda name, a: a):
        pass
    assert hooks(net) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_gone_when_a_generator_is_closed_early(kind):
    net = Odd(None)

    def batches():
        with kind(net, lambda name, a: a):
            for _ in range(3):
                yield net(torch.zeros(1, 4))

    running = batches()
    next(running)
    assert hooks(net) > 0
    running.close()
    assert hooks(net) == 0
    running = batches()
    next(running)
    del running
    assert hooks(net) == 0


def test_blocks_within_blocks_and_in_other_threads_take_away_their_own_only():
    net = Odd(None)
    with watching(net, ["before"], lambda name, a: 1) as outer:
        with pytest.raises(KeyError), replacing(net, ["before"], lambda name, a: {}[0]):
            net(torch.zeros(1, 4))
        assert hooks(net) == 2
        thread = threading.Thread(target=lambda: net(torch.zeros(1, 4)))
        thread.start()
        thread.join()
    assert outer == {"before": 1}
    assert hooks(net) == 0
