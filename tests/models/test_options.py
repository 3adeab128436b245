"""What every network can be told: precision, layout, compilation, clipping; names that load it again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import turningpoint as tp
from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.models import MODELS, fingerprint, load
from turningpoint.models._describe import describe
from turningpoint.models._options import dtype_of, with_options

CALLS = []


class Small(nn.Module):
    """A convolution told the time; notes what it was called with."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, step):
        CALLS.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return self.conv(x) + 0.001 * step.to(x.dtype).reshape(-1, 1, 1, 1)


@pytest.fixture
def small(monkeypatch):
    """A family ``small:`` made of one convolution."""
    MODELS.names()
    CALLS.clear()

    def loader(where="", scale=1.0):
        network = Small()
        with torch.no_grad():
            network.conv.weight *= scale
        return NetworkDenoiser(network, tp.DiscreteVP.named("linear"), (3, 8, 8))

    monkeypatch.setitem(MODELS._known, "small", loader)
    return loader


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.3, 0.9])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_computes_in_half_and_all_around_it_in_single(small, dtype):
    whole, half = load("small"), load("small", dtype=dtype)
    answer = half(X, T)
    assert answer.dtype == torch.float32
    assert CALLS[-1][0] == dtype_of(dtype)
    # epsilon's rounding, as large as the dtype's resolution, is divided by alpha: 0.047 at t = 0.9
    resolution = torch.finfo(dtype_of(dtype)).eps
    wanted = whole(X, T)
    apart = (answer - wanted).abs().amax((1, 2, 3))
    sizes = whole.raw(X, T).abs().amax((1, 2, 3)) * (whole.schedule.sigma(T) / whole.schedule.alpha(T))
    assert (apart < 8 * resolution * sizes).all()
    assert (apart > 0).any()


def test_channels_last_and_compile_change_no_number(small):
    wanted = load("small")(X, T)
    torch.testing.assert_close(load("small", channels_last=True)(X, T), wanted, atol=1e-5, rtol=1e-5)
    compiled = load("small", compile=True)
    assert compiled.network._compiled_call_impl is not None


def test_clipping(small):
    clipped, whole = load("small?clip_denoised=True"), load("small")
    assert clipped(X, T).abs().max() <= 1 < whole(X, T).abs().max()
    assert torch.equal(clipped(X, T), whole(X, T).clamp(-1, 1))
    assert fingerprint(clipped) != fingerprint(whole)


def test_guidance_clips_what_it_has_guided():
    class Labelled(nn.Module):
        def forward(self, x, step, label):
            return label.to(x).reshape(-1, 1).expand_as(x)

    model = NetworkDenoiser(Labelled(), tp.VP(), (2,), "x0", n_classes=2, clip_denoised=True)
    label, t = torch.tensor([1, 1]), torch.tensor([0.5, 0.5])
    # no label is the network's 2: 2 + 1.5 (1 - 2) = 0.5, while clipped estimates would give 1
    assert torch.equal(tp.Guided(model, 1.5)(torch.zeros(2, 2), t, label), torch.full((2, 2), 0.5))


def test_settings_are_kept_in_the_name(small):
    model = load("small:there", scale=2.0, clip_denoised=True)
    assert model.name == "small:there?scale=2.0&clip_denoised=True"
    assert fingerprint(load(model.name)) == fingerprint(model)
    assert load("small?scale=2.0", scale=3.0).name == "small?scale=3.0"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; accepted: float32, float16, bfloat16"),
        ({"channels_last": "yes"}, "channels_last is 'yes'"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"colour": 3}, "colour"),
    ],
)
def test_errors(small, refuses, settings, match):
    with refuses(match):
        load("small", **settings)


def test_what_has_no_network_refuses(refuses):
    with refuses("dtype is given"):
        with_options(load("gaussians?dim=2"), dtype="float16")
    with refuses("clip_denoised"):
        with_options(load("gaussians?dim=2"), clip_denoised=True)


def test_a_description():
    told = describe(load("gaussians?dim=2&std=0.5"))
    assert told["shape"] == [2]
    assert "closed form" in told["kind"]
    assert told["licence"] == "not stated where the model lies"


class TestNames:
    """What a manifest keeps loads the same model, from any folder, whatever the machine."""

    def test_machine_options_are_no_part_of_it(self, small):
        model = load("small:there", device="cpu", channels_last=True, scale=2.0)
        assert model.name == "small:there?scale=2.0"

    @pytest.mark.parametrize(
        "value", ["100", "True", "a b", "1,2", "None", [3], [1, 2], (0.5,), {"a": 1}, None, 2.5]
    )
    def test_settings_come_back_as_they_were(self, monkeypatch, value):
        MODELS.names()
        told = []

        def loader(where="", setting=None):
            told.append(setting)
            return load("gaussians?dim=2")

        monkeypatch.setitem(MODELS._known, "told", loader)
        name = load("told", setting=value).name
        load(name)
        assert told[1] in (value, tuple(value) if isinstance(value, list) else value)
        assert isinstance(told[1], str) == isinstance(value, str)

    def test_dtypes_and_numbers_of_numpy(self, small):
        import numpy as np

        model = load("small", dtype=torch.bfloat16, scale=np.float64(2.0))
        assert model.name == "small?dtype=bfloat16&scale=2.0"
        assert fingerprint(load(model.name)) == fingerprint(model)

    @pytest.mark.parametrize("name", ["plain.npy", "with space.npy", "a?b=1.npy", "c#d&e.npy", "100%.npy"])
    def test_any_file_name_from_any_folder(self, tmp_path, monkeypatch, name):
        import numpy as np

        monkeypatch.chdir(tmp_path)
        np.save(name, np.random.default_rng(0).normal(size=(9, 3)))
        for given in (f"empirical:{name}", name, tmp_path / name):
            model = load(given)
            with monkeypatch.context() as elsewhere:
                elsewhere.chdir("/")
                assert fingerprint(load(model.name)) == fingerprint(model)

    def test_a_path_that_is_not_there(self, refuses):
        with refuses("'missing.pkl' is neither a file nor a folder"):
            load("missing.pkl")
