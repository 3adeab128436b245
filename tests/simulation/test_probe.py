"""The probe: rows and walks, guidance, what is remembered, what is refused, and that nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edm_pickles import scramble
from tiny_pipelines import tiny_dit, tiny_sd
from torch import nn

from turningpoint import Guided, load
from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.diffusion.schedule import VP
from turningpoint.hooks import watching
from turningpoint.models._networks.adm_unet import ADMUNet
from turningpoint.models._networks.songunet import SongUNet
from turningpoint.simulation import probe as module
from turningpoint.simulation.probe import SUMMARIES, Probe

FLOAT32 = 2e-6
MAGNITUDE, SPARSITY, RANK, CHANGE, ENTROPY, CONTRAST = range(6)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flags(*values):
    return torch.tensor(values, dtype=torch.bool)


def all_of(rows):
    return torch.ones(rows, dtype=torch.bool)


def whole(network, names, call):
    """The layers' activations as float64 arrays."""
    with torch.inference_mode(), watching(network, names, lambda name, a: a.double().numpy().copy()) as seen:
        call()
    return [seen[name] for name in names]


def looked(probe, call, rows, fresh=None, active=None):
    fresh, active = (all_of(rows) if f is None else f for f in (fresh, active))
    with torch.inference_mode(), probe.watch(rows, fresh, active) as seen:
        assert not seen
        call()
    return seen


def norms(a):
    return np.linalg.norm(a.reshape(len(a), -1), axis=1)


def hooks(network):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in network.modules()
    )


# ---- layers


def test_layers_in_the_order_of_execution(digits):
    probe = Probe(digits, ["up_blocks.*", "mid_block, unet.down_blocks.0", "*"])
    assert probe.layers == (
        *("time_proj", "time_embedding", "class_embedding", "conv_in"),
        *("down_blocks.0", "mid_block", "up_blocks.0", "up_blocks.1"),
        *("conv_norm_out", "conv_act", "conv_out"),
    )
    assert probe.shapes["up_blocks.0"] == (96, 14, 14)
    assert probe.shapes["time_embedding"] == (192,)
    assert probe.memory == 4 * sum(np.prod(shape) for shape in probe.shapes.values())
    assert Probe(digits, "mid_block", summaries=["rank"]).memory == 0
    assert probe.settings() == {
        "patterns": ["up_blocks.*", "mid_block", "unet.down_blocks.0", "*"],
        "layers": list(probe.layers),
        "summaries": list(SUMMARIES),
        "map_size": 8,
        "keep": False,
    }


def test_summaries_are_in_their_own_order(digits):
    probe = Probe(digits, "mid_block", summaries=["change", "magnitude"], map_size=0)
    assert probe.summaries == ("magnitude", "change")
    seen = looked(probe, lambda: digits(normal(2, 1, 28, 28), torch.full((2,), 0.5)), 2)
    assert list(seen) == ["activations"]
    assert seen["activations"].shape == (2, 1, 2)


class Branching(nn.Module):
    """Some of its layers do not run, run seldom, or have no row for each item."""

    def __init__(self):
        super().__init__()
        self.first, self.never, self.seldom = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.table, self.scalar = nn.Linear(4, 4), nn.Flatten(0)
        self.apart = False

    def forward(self, x, t):
        x = self.first(x) + self.table(torch.ones(7, 4)).mean(0) + self.scalar(x.mean())
        return x if self.apart else self.seldom(x)


def test_what_does_not_run_or_has_no_rows(refuses):
    model = NetworkDenoiser(Branching().eval(), VP(), (4,))
    assert Probe(model, "*").layers == ("first", "seldom")
    with refuses("--activations is 'never', which does not run when the model is called; accepted: .*first"):
        Probe(model, "first,never", argument="--activations")
    with refuses(
        r"activations is 't\*', but the layer 'table' makes \(7, 4\) of 3 items and has no row for each"
    ):
        Probe(model, "first,t*")
    with refuses("activations is 'frist', which no layer .*nearest being first"):
        Probe(model, "frist")
    with refuses("summaries is 'size'; accepted: magnitude, sparsity, "):
        Probe(model, "first", summaries=["size"])
    with refuses("activations is ''; accepted: names of layers"):
        Probe(model, "")
    with refuses("which has no layers to look into"):
        Probe(load("gaussians"), "*")
    assert hooks(model) == 0


def test_a_layer_that_does_not_run_this_time_is_nan():
    network = Branching().eval()
    model = NetworkDenoiser(network, VP(), (4,))
    probe = Probe(model, "*", keep=True)
    network.apart = True
    seen = looked(probe, lambda: model(normal(2, 4), torch.full((2,), 0.5)), 2)
    assert seen["activations"][:, 1].isnan().all()
    assert seen["layer.seldom"].shape == (2, 4)
    assert seen["layer.seldom"].isnan().all()
    assert not seen["activations"][:, 0, MAGNITUDE].isnan().any()


def test_a_bare_network_is_known_after_the_first_call():
    network = Branching().eval()
    probe = Probe(network, "*")
    assert "never" in probe.layers
    looked(probe, lambda: network(normal(2, 4), None), 2)
    assert probe.layers == ("first", "seldom")
    assert probe.shapes == {"first": (4,), "seldom": (4,)}


# ---- numbers


def expected_of(a):
    """Magnitude, sparsity and rank in NumPy."""
    flat = a.reshape(len(a), -1)
    root = np.sqrt(flat.shape[1])
    sparsity = (root - np.abs(flat).sum(1) / norms(a)) / (root - 1)
    p = np.linalg.svd(a.reshape(*a.shape[:2], -1) if a.ndim == 4 else a, compute_uv=False)
    p = p / p.sum(1, keepdims=True)
    logs = np.log(np.where(p > 0, p, 1))
    return np.stack([np.sqrt((flat**2).mean(1)), sparsity, np.exp(-(p * logs).sum(1))], 1)


def test_numbers_of_digits(digits):
    probe = Probe(digits, "down_blocks.1,mid_block,up_blocks.*", keep=True)
    x, t, label = normal(5, 1, 28, 28), torch.linspace(0.1, 0.9, 5), torch.arange(5)

    def call():
        return digits(x, t, label=label)

    seen = looked(probe, call, 5)
    for k, a in enumerate(whole(digits.network, probe.layers, call)):
        np.testing.assert_allclose(seen["activations"][:, k, :3], expected_of(a), rtol=1e-5)
        kept = seen[f"layer.{probe.layers[k]}"]
        assert kept.dtype == torch.float32
        np.testing.assert_array_equal(kept.numpy(), a)
        at = torch.from_numpy(np.sqrt((a**2).mean(1)))
        cells = torch.nn.functional.adaptive_avg_pool2d(at, 8)
        np.testing.assert_allclose(seen["maps"][:, k], cells, rtol=1e-5)
    assert seen["activations"].dtype == seen["maps"].dtype == torch.float32
    assert seen["activations"][..., [CHANGE, CONTRAST]].isnan().all()
    entropy = seen["activations"][..., ENTROPY]
    assert not entropy[:, :3].isnan().any()
    assert entropy[:, 3].isnan().all()  # the last block has no attention
    assert bool(((entropy[:, :3] > 0) & (entropy[:, :3] <= 1)).all())


def test_the_answer_is_what_it_is_without_the_probe(digits):
    x, t = normal(4, 1, 28, 28), torch.full((4,), 0.4)
    probe, answers = Probe(digits, "**"), []
    looked(probe, lambda: answers.append(digits(x, t)), 4)
    with torch.inference_mode():
        assert torch.equal(answers[0], digits(x, t))


NETWORKS = {
    "adm": lambda: scramble(
        ADMUNet(3, 3, num_channels=32, num_res_blocks=1, channel_mult=[1, 2], attention=[2], num_heads=2), 1
    ),
    "songunet": lambda: scramble(
        SongUNet(8, 3, 3, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]), 2
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", NETWORKS)
def test_numbers_of_our_own_networks_in_every_type(kind, dtype):
    network = NETWORKS[kind]().eval().to(dtype)
    pattern = {"adm": "output_blocks.*", "songunet": "dec.*"}[kind]
    probe, x, t = (
        Probe(network, pattern, keep=True),
        normal(3, 3, 8, 8).to(dtype),
        torch.tensor([0.1, 0.5, 0.9]),
    )
    seen = looked(probe, lambda: network(x, t), 3)
    assert len(probe.layers) == len(network.get_submodule(pattern[:-2]))
    for k, a in enumerate(whole(network, probe.layers, lambda: network(x, t))):
        found = seen["activations"][:, k, :3]
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected_of(a), rtol=1e-4)  # rank of float32 matrices
        kept = seen[f"layer.{probe.layers[k]}"]
        assert kept.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        np.testing.assert_array_equal(kept.double().numpy(), a)


def test_tokens_of_a_dit(tmp_path):
    tiny_dit(tmp_path, labels=10)
    model = load(str(tmp_path))
    probe = Probe(model, "transformer_blocks.*")
    assert probe.shapes == {f"transformer_blocks.{k}": (16, 16) for k in range(2)}
    x, t, label = normal(3, *model.shape), torch.tensor([0.2, 0.5, 0.8]), torch.tensor([1, 2, 3])
    seen = looked(probe, lambda: model(x, t, label=label), 3)
    for k, a in enumerate(whole(model.network, probe.layers, lambda: model(x, t, label=label))):
        np.testing.assert_allclose(seen["activations"][:, k, :3], expected_of(a), rtol=1e-5)
        grid = np.sqrt((a**2).mean(2)).reshape(3, 4, 4)
        np.testing.assert_allclose(seen["maps"][:, k, ::2, ::2], grid, rtol=FLOAT32)


# ---- steps


def test_change_is_from_the_walks_own_step_before(digits):
    probe = Probe(digits, "mid_block")

    def at(seed):
        x, t = normal(3, 1, 28, 28, seed=seed), torch.full((3,), 0.5)
        a = whole(digits.network, ["mid_block"], lambda: digits(x, t))[0]
        return (lambda: digits(x, t)), a

    def change(call, fresh, active):
        return looked(probe, call, 3, flags(*fresh), flags(*active))["activations"][:, 0, CHANGE].numpy()

    calls, a = zip(*(at(seed) for seed in range(5)), strict=True)
    between = {(i, j): norms(a[j] - a[i]) / norms(a[i]) for i in range(5) for j in range(5)}
    nan = np.nan
    first = change(calls[0], (1, 1, 1), (1, 1, 0))
    np.testing.assert_allclose(first, [nan] * 3)
    second = change(calls[1], (0, 0, 1), (1, 0, 1))  # the second row makes a second evaluation
    np.testing.assert_allclose(second, [between[0, 1][0], nan, nan], rtol=FLOAT32)
    third = change(calls[2], (1, 0, 0), (0, 1, 1))  # the first row's new walk begins out of turn
    np.testing.assert_allclose(third, [nan, between[0, 2][1], between[1, 2][2]], rtol=FLOAT32)
    fourth = change(calls[3], (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(fourth, [nan, between[2, 3][1], between[2, 3][2]], rtol=FLOAT32)
    nothing = looked(probe, calls[4], 3, flags(0, 1, 0), flags(0, 0, 0))  # second phases and padding alone
    assert nothing["activations"].isnan().all()
    assert nothing["maps"].shape == (3, 1, 8, 8)
    fifth = change(calls[4], (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(fifth, [between[3, 4][0], nan, between[3, 4][2]], rtol=FLOAT32)
    probe.forget()
    assert np.isnan(change(calls[0], (0, 0, 0), (1, 1, 1))).all()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, t):
        return self.layer(self.layer(x))


@pytest.mark.parametrize("bare", [False, True])
def test_of_a_layer_that_runs_twice_the_last_time_counts(bare):
    torch.manual_seed(0)
    network = Twice().eval().requires_grad_(False)
    model = network if bare else NetworkDenoiser(network, VP(), (4,))
    probe, t = Probe(model, "layer"), torch.full((3,), 0.5)
    for step, active in enumerate([all_of(3), flags(1, 0, 1), all_of(3)]):
        seen = looked(probe, lambda step=step: model(normal(3, 4, seed=step), t), 3, flags(0, 0, 0), active)
    answers = [network(normal(3, 4, seed=step), t).numpy() for step in range(3)]
    np.testing.assert_allclose(seen["activations"][:, 0, MAGNITUDE], norms(answers[2]) / 2, rtol=FLOAT32)
    before = np.stack([answers[1][0], answers[0][1], answers[1][2]])
    expected = norms(answers[2] - before) / norms(before)
    np.testing.assert_allclose(seen["activations"][:, 0, CHANGE], expected, rtol=1e-5)


def test_another_batch_size_forgets(digits):
    probe = Probe(digits, "mid_block")
    for rows in (4, 2, 4):
        call = lambda rows=rows: digits(normal(rows, 1, 28, 28), torch.full((rows,), 0.5))  # noqa: E731
        assert looked(probe, call, rows, flags(*[0] * rows))["activations"][..., CHANGE].isnan().all()
        assert (looked(probe, call, rows, flags(*[0] * rows))["activations"][..., CHANGE] == 0).all()


def test_without_inference_mode_and_in_it(digits):
    probe, x, t = Probe(digits, "mid_block"), normal(2, 1, 28, 28), torch.full((2,), 0.5)
    for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad(), torch.inference_mode()):
        with mode, probe.watch(2, flags(0, 0), all_of(2)) as seen:
            digits(x, t)
    assert (seen["activations"][..., CHANGE] == 0).all()
    assert not seen["activations"].requires_grad


def test_padding_does_not_disturb_and_its_own_numbers_are_nan(digits):
    probe = Probe(digits, "mid_block,up_blocks.*", keep=True)
    x, t = normal(4, 1, 28, 28), torch.full((4,), 0.5)
    expected = looked(probe, lambda: digits(x, t), 4)
    probe.forget()
    bad = x.clone()
    bad[1], bad[3] = torch.nan, torch.inf
    active = flags(1, 0, 1, 0)
    seen = looked(probe, lambda: digits(bad, t), 4, active=active)
    for name, values in seen.items():
        assert values[~active].isnan().all()
        assert torch.equal(values[active].nan_to_num(), expected[name][active].nan_to_num())
    again = looked(probe, lambda: digits(bad, t), 4, flags(0, 0, 0, 0), active)["activations"][..., CHANGE]
    assert (again[active] == 0).all()
    assert again[~active].isnan().all()


def test_a_network_that_answers_nan_is_reported_as_nan(digits):
    probe, bad = Probe(digits, "mid_block,up_blocks.*"), normal(3, 1, 28, 28)
    bad[1] = torch.nan
    seen = looked(probe, lambda: digits(bad, torch.full((3,), 0.5)), 3)
    assert seen["activations"][1].isnan().all()
    assert not seen["activations"][[0, 2], 0, :3].isnan().any()


def test_portions_do_not_matter(digits, monkeypatch):
    x, t = normal(5, 1, 28, 28), torch.full((5,), 0.5)
    active = flags(1, 0, 1, 1, 1)
    found = []
    for size in (module.PORTION, 20_000, 1):
        monkeypatch.setattr(module, "PORTION", size)
        probe = Probe(Guided(digits, 2.0), "mid_block,up_blocks.*")
        for step in range(2):
            guided = Guided(digits, 2.0)
            call = lambda: guided(x + step, t, label=torch.arange(5))  # noqa: B023, E731
            seen = looked(probe, call, 5, flags(*[0] * 5), active)
        found.append(seen["activations"])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=FLOAT32)


# ---- guidance


def test_contrast_is_between_with_and_without_the_condition(digits):
    guided = Guided(digits, 1.0)
    probe, plain = Probe(guided, "mid_block,up_blocks.0", keep=True), Probe(digits, "mid_block,up_blocks.0")
    x, t, label = normal(4, 1, 28, 28), torch.full((4,), 0.4), torch.tensor([3, 1, -1, 9])
    kwargs = guided.conditions([{"label": int(n)} for n in label], torch.device("cpu"))
    active = flags(1, 1, 1, 0)
    seen = looked(probe, lambda: guided(x, t, **kwargs), 4, active=active)
    alone = looked(plain, lambda: digits(x, t, label=label), 4, active=active)
    names = ("mid_block", "up_blocks.0")
    with_ = whole(digits.network, names, lambda: digits(x, t, label=label))
    without = whole(digits.network, names, lambda: digits(x, t))
    for k, name in enumerate(names):
        expected = norms(with_[k] - without[k]) / norms(with_[k])
        found = seen["activations"][:, k, CONTRAST]
        np.testing.assert_allclose(
            found[:2], expected[:2], rtol=1e-4
        )  # batches of 4 and of 8 round differently
        assert found[2] < 1e-5  # told no label, twice
        assert found[3].isnan()
        assert seen[f"layer.{name}"].shape[0] == 4
    assert alone["activations"][..., CONTRAST].isnan().all()
    others = [MAGNITUDE, SPARSITY, RANK, ENTROPY]
    np.testing.assert_allclose(seen["activations"][..., others], alone["activations"][..., others], rtol=1e-4)


def test_words_against_other_words(tmp_path):
    tiny_sd(tmp_path)
    model = load(str(tmp_path))
    guided = Guided(model, 1.0)
    probe = Probe(guided, "mid_block.attentions.*")
    conditions = [
        {"prompt": "a cat", "negative_prompt": "a dog"},
        {"prompt": "a cat", "negative_prompt": "a cat"},
    ]
    kwargs = guided.conditions(conditions, torch.device("cpu"))
    x = normal(1, *model.shape).expand(2, *model.shape)
    seen = looked(probe, lambda: guided(x, torch.full((2,), 0.5), **kwargs), 2)
    contrast = seen["activations"][:, 0, CONTRAST]
    assert contrast[0] > 1e-3
    assert contrast[1] < 1e-5


# ---- failures


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.error = nn.Linear(4, 4), nn.Linear(4, 4), None

    def forward(self, x, t=None):
        x = self.first(x)
        if self.error is not None:
            raise self.error
        return self.second(x)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), torch.OutOfMemoryError("no")])
def test_after_a_failure_no_hook_is_left_and_the_walks_are_forgotten(error):
    network, x = Fails(), normal(2, 4)
    probe = Probe(network, "*")
    looked(probe, lambda: network(x), 2)
    network.error = error
    with pytest.raises(type(error)):
        looked(probe, lambda: network(x), 2, flags(0, 0))
    assert hooks(network) == 0
    assert not torch.overrides._get_current_function_mode_stack()
    network.error = None
    seen = looked(probe, lambda: network(x), 2, flags(0, 0))
    assert seen["activations"][..., CHANGE].isnan().all()
    assert hooks(network) == 0


def test_a_failure_while_looking_leaves_no_hook(monkeypatch):
    network, x = Fails(), normal(2, 4)
    probe = Probe(network, "*")

    def interrupted(activation):
        raise KeyboardInterrupt

    monkeypatch.setitem(module.OF_ONE, "rank", interrupted)
    with pytest.raises(KeyboardInterrupt):
        looked(probe, lambda: network(x), 2)
    assert hooks(network) == 0
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_generator_closed_early_leaves_no_hook():
    network, x = Fails(), normal(2, 4)
    probe = Probe(network, "*")

    def steps():
        while True:
            with probe.watch(2, all_of(2), all_of(2)):
                network(x)
                yield

    running = steps()
    next(running)
    assert hooks(network) > 0
    running.close()
    assert hooks(network) == 0
    assert not torch.overrides._get_current_function_mode_stack()


def test_models_that_call_their_network_otherwise_are_refused(refuses):
    network, x = Fails(), normal(4, 4)
    probe = Probe(network, "*")
    with refuses("the model calls its network several times for one batch"):
        looked(probe, lambda: [network(x), network(x)], 4)
    with refuses(
        "the model calls its network with 2 rows for 4 items; accepted for .*: 4, or 8 with guidance"
    ):
        looked(probe, lambda: network(x[:2]), 4)
    assert hooks(network) == 0
