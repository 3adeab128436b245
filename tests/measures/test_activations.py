"""Layers of a network: found by pattern, looked at while a batch passes, and left as they were."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from turningpoint.errors import TurningpointError
from turningpoint.measures._activations import Layer, layers_of, look_at, matching, watching
from turningpoint.measures._classifiers import ImageClassifier


class Net(nn.Module):
    """Registers its modules in another order than it runs them; one runs twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.stages = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Conv2d(2, 4, 3))
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stages(x).mean((2, 3))
        return self.head(self.twice(self.twice(x)))


def classifier(network, name="net"):
    return ImageClassifier(name, network, lambda x: x, layers=["stages.*", "head"])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("stages.*", ["stages.0", "stages.1"]),
        ("stages.**", ["stages", "stages.0", "stages.0.0", "stages.0.1", "stages.1"]),
        ("**.0", ["stages.0", "stages.0.0"]),
        ("stages.[0-0]", ["stages.0"]),
        ("twic?", ["twice"]),
        ("head", ["head"]),
        ("logits", ["logits"]),
    ],
)
def test_a_star_stays_within_a_part_of_the_name(net, pattern, names):
    assert matching(net, [pattern]) == [names]


def test_an_unknown_name_is_answered_with_the_nearest(net, refuses):
    with refuses("--layers is 'stages.O', .* nearest being stages"):
        matching(net, ["stages.O"], "--layers")


def test_layers_come_in_the_order_of_execution_and_the_answer_last(net):
    x = torch.zeros(1, 1, 8, 8)
    found = layers_of(classifier(net), x, ["twice", "stages.*"])
    assert found == (
        Layer("stages.0", "map", 2),
        Layer("stages.1", "map", 4),
        Layer("twice", "vector", 4),
        Layer("logits", "vector", 3),
    )
    assert [layer.name for layer in layers_of(classifier(net), x, "twice,head")] == ["twice", "head"]
    assert [layer.name for layer in layers_of(classifier(net), x)] == ["stages.0", "stages.1", "head"]
    assert [layer.name for layer in layers_of(classifier(net), x, "logits")] == ["logits"]


def test_a_layer_that_never_runs_is_named(net, refuses):
    x = torch.zeros(1, 1, 8, 8)
    with refuses("layers is 'never', which does not run when 'net' looks at an image"):
        layers_of(classifier(net), x, ["head", "never"])


def test_a_pattern_may_match_layers_that_do_not_run(net):
    found = layers_of(classifier(net), torch.zeros(1, 1, 8, 8), "*")
    assert [layer.name for layer in found] == ["stages", "twice", "head"]


def test_the_last_of_several_calls_counts(net):
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        once = net.twice(net.stages(x).mean((2, 3)))
        expected = net.twice(once)
    seen = look_at(classifier(net), x, ["twice"], lambda name, a: a.clone())
    torch.testing.assert_close(seen["twice"], expected, rtol=0, atol=0)


def test_what_a_later_layer_overwrites_is_seen_before():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.zero_()
    x = torch.tensor([-1.0, 2.0, -3.0, 4.0]).reshape(1, 1, 2, 2)
    seen = look_at(classifier(net), x, ["0", "1"], lambda name, a: a.flatten().tolist())
    assert seen == {"0": [-1, 2, -3, 4], "1": [0, 2, 0, 4]}


class Several(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class AfterIt(nn.Module):
    def __init__(self, make, take):
        super().__init__()
        self.part, self.take = Several(make), take

    def forward(self, x):
        return self.take(self.part(x)).flatten(1)


@pytest.mark.parametrize(
    ("make", "take"),
    [
        (lambda x: (None, 2 * x, x), lambda y: y[1]),
        (lambda x: [2 * x], lambda y: y[0]),
        (lambda x: {"hidden": 2 * x, "more": x}, lambda y: y["hidden"]),
    ],
)
def test_of_several_tensors_the_first_counts(make, take):
    x = torch.randn(2, 1, 2, 2)
    seen = look_at(classifier(AfterIt(make, take)), x, ["part"], lambda name, a: a.clone())
    assert torch.equal(seen["part"], 2 * x)


def test_a_layer_without_a_tensor_is_refused(refuses):
    net = AfterIt(lambda x: ("no tensor", x.flatten(1).tolist()), lambda y: torch.tensor(y[1]))
    with refuses("the layer 'part' returns tuple, in which no tensor is"):
        layers_of(classifier(net), torch.zeros(1, 1, 2, 2), "part")
    assert hooks(net) == 0


@pytest.mark.parametrize(
    "make", [lambda x: x[0], lambda x: x.reshape(2, 1, 1, 2, 2), lambda x: x.flatten(1).T.contiguous()]
)
def test_a_layer_of_another_shape_is_refused(make, refuses):
    net = AfterIt(make, lambda y: y.reshape(2, -1))
    with refuses("the layer 'part' makes .* of 2 images; accepted: "):
        layers_of(classifier(net), torch.zeros(1, 1, 2, 2), "part")


def test_what_cannot_be_looked_into_says_so(refuses):
    with refuses("classifier is 'graph', which has no layers to look at"):
        layers_of(classifier(lambda x: x.flatten(1), "graph"), torch.zeros(1, 1, 2, 2), "logits")


def test_hooks_are_gone_whatever_happens(net):
    x = torch.zeros(2, 1, 8, 8)

    def fails(name, a):
        raise ValueError("looking failed")

    with watching(net, ["stages", "head"], lambda name, a: None):
        assert hooks(net) == 2
    assert hooks(net) == 0
    with pytest.raises(ValueError, match="looking failed"), watching(net, ["stages"], fails):
        net(x)
    assert hooks(net) == 0
    with pytest.raises(AttributeError), watching(net, ["stages", "nowhere"], lambda name, a: None):
        pass
    assert hooks(net) == 0
    with pytest.raises(TurningpointError, match="cannot take a batch"):
        look_at(classifier(net), torch.zeros(2, 7, 8, 8), ["stages"], lambda name, a: None)
    assert hooks(net) == 0


@pytest.mark.parametrize("keeps", [False, True])
def test_of_a_batch_only_what_look_returns_stays(net, keeps):
    seen: list[weakref.ref] = []

    def look(name, a):
        seen.append(weakref.ref(a))
        return a if keeps else a.sum().item()

    names = ["stages.0.0", "stages.1", "head"]
    found = look_at(classifier(net), torch.zeros(2, 1, 8, 8), names, look)
    gc.collect()
    assert list(found) == names
    assert [ref() is not None for ref in seen] == [keeps] * 3
