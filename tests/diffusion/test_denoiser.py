"""Denoisers: four predictions of one truth, labels, and guidance."""

import pytest
import torch
from torch import nn

from turningpoint.diffusion.denoiser import PREDICTIONS, Denoiser, NetworkDenoiser, expand
from turningpoint.diffusion.guidance import Guided
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow

CPU = torch.device("cpu")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Told(nn.Module):
    """A network that answers what it was given, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, native, label=None):
        self.native, self.label = native, label
        return self.answer


class ByLabel(nn.Module):
    """An x0 network: the image times its label's number; label 3 means none."""

    def forward(self, x, native, label):
        return expand(torch.tensor([1.0, -2.0, 0.5, 10.0]).to(x)[label], x) * x


def labelled() -> NetworkDenoiser:
    return NetworkDenoiser(ByLabel(), VP(), (2, 3), predicts="x0", n_classes=3, name="three")


class TestPredictions:
    @pytest.mark.parametrize("clock", [VP(), DiscreteVP.named("cosine"), EDM(), RectifiedFlow()], ids=repr)
    @pytest.mark.parametrize("predicts", PREDICTIONS)
    def test_all_invert_to_the_same_image(self, clock, predicts):
        x_0, eps = normal(1, 5, 2, 3), normal(2, 5, 2, 3)
        t = torch.tensor([0.05, 0.2, 0.5, 0.8, 0.95], dtype=torch.float64)  # one per item
        alpha, sigma = expand(clock.alpha(t), x_0), expand(clock.sigma(t), x_0)
        targets = {"epsilon": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0}
        model = NetworkDenoiser(Told(targets[predicts]), clock, (2, 3), predicts=predicts)
        estimate = model(alpha * x_0 + sigma * eps, t)
        torch.testing.assert_close(estimate, x_0, rtol=1e-10, atol=1e-10)  # sigma / alpha up to 100

    def test_the_network_sees_its_native_clock(self):
        network = Told(torch.zeros(2, 1))
        NetworkDenoiser(network, DiscreteVP.named("linear"), (1,))(
            torch.zeros(2, 1), torch.tensor([0.5, 1.0])
        )
        torch.testing.assert_close(network.native, torch.tensor([499.0, 999.0]))
        NetworkDenoiser(network, EDM(), (1,))(torch.zeros(2, 1), torch.ones(2))
        torch.testing.assert_close(network.native, torch.tensor([80.0, 80.0]))

    def test_unknown(self, refuses):
        with refuses("predicts is 'score'; accepted: epsilon, v, x0, flow"):
            NetworkDenoiser(Told(None), VP(), (1,), predicts="score")

    def test_dtype_is_the_images(self):
        model = NetworkDenoiser(Told(torch.zeros(2, 1)), VP(), (1,))
        assert model(torch.ones(2, 1), torch.full((2,), 0.5, dtype=torch.float64)).dtype == torch.float32


class TestLabels:
    def test_null_label(self):
        network = Told(torch.zeros(3, 1))
        model = NetworkDenoiser(network, VP(), (1,), n_classes=4)
        x, t = torch.zeros(3, 1), torch.full((3,), 0.5)
        model(x, t, torch.tensor([2, -1, 0]))
        assert network.label.tolist() == [2, 4, 0]
        model(x, t)
        assert network.label.tolist() == [4, 4, 4]

    def test_conditions_of_a_mixed_batch(self):
        kwargs = labelled().conditions([{"label": 2}, {}, {"label": 0}], CPU)
        assert kwargs["label"].tolist() == [2, -1, 0]
        assert kwargs["label"].dtype == torch.long
        unlabelled = NetworkDenoiser(Told(None), VP(), (1,))
        assert unlabelled.conditions([{}, {}], CPU) == {}

    def test_a_label_of_none_is_no_label(self):
        labelled().check_condition({"label": None})
        assert labelled().conditions([{"label": None}, {"label": 1}], CPU)["label"].tolist() == [-1, 1]

    def test_errors(self, refuses):
        for label in (-1, 0, 2):
            labelled().check_condition({"label": label})
        labelled().check_condition({})
        for label in (3, -2):
            with refuses(f"label is {label}; accepted: 0 to 2"):
                labelled().check_condition({"label": label})
        with refuses("prompt is given, but the model 'three' takes none"):
            labelled().check_condition({"prompt": "a cat"})
        with refuses("label is 1, but the model 'plain' takes no labels"):
            NetworkDenoiser(Told(None), VP(), (1,), name="plain").check_condition({"label": 1})

    @pytest.mark.parametrize("label", ["two", 1.5])
    def test_a_label_that_is_no_index(self, refuses, label):
        with refuses("label is"):
            labelled().check_condition({"label": label})


class TestGuidance:
    x, t = normal(1, 4, 2, 3), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    label = torch.tensor([0, 1, -1, 2])

    def guided(self, scale, label=None):
        return Guided(labelled(), scale)(self.x, self.t, self.label if label is None else label)

    def test_one_is_conditional(self):
        torch.testing.assert_close(self.guided(1.0), labelled()(self.x, self.t, self.label))

    def test_zero_is_unconditional(self):
        torch.testing.assert_close(self.guided(0.0), labelled()(self.x, self.t))

    @pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
    def test_linear(self, scale):
        zero, one = self.guided(0.0), self.guided(1.0)
        torch.testing.assert_close(self.guided(scale), zero + scale * (one - zero), rtol=1e-12, atol=1e-12)

    def test_rows_without_a_label_are_not_guided(self):
        plain = labelled()(self.x, self.t)
        torch.testing.assert_close(self.guided(7.5)[2], plain[2])
        torch.testing.assert_close(Guided(labelled(), 7.5)(self.x, self.t), plain)
        torch.testing.assert_close(self.guided(7.5, torch.full((4,), -1)), plain)

    def test_one_call_for_both(self):
        model, calls = labelled(), []
        model.network.register_forward_hook(lambda *args: calls.append(len(args[2])))
        Guided(model, 2.0)(self.x, self.t, self.label)
        assert calls == [8]

    def test_it_speaks_for_its_model(self, refuses):
        model = labelled()
        guided = Guided(model, 2.0)
        assert (guided.schedule, guided.shape, guided.n_classes) == (model.schedule, (2, 3), 3)
        assert guided.name == "three"
        assert guided.conditions([{"label": 1}, {}], CPU)["both"]["label"].tolist() == [1, -1, -1, -1]
        assert torch.equal(guided.decode(guided.encode(self.x)), self.x)
        assert guided.classifier() is None
        assert guided.starting_images() is None
        with refuses("label is 9"):
            guided.check_condition({"label": 9})

    def test_latents_pass_through(self):
        class Latent(NetworkDenoiser):
            def encode(self, images):
                return images / 2

            def decode(self, x_0):
                return x_0 * 2

        guided = Guided(Latent(ByLabel(), VP(), (2, 3), predicts="x0", n_classes=3), 2.0)
        assert torch.equal(guided.encode(self.x), self.x / 2)
        assert torch.equal(guided.decode(self.x), self.x * 2)

    def test_errors(self, refuses):
        with refuses("guidance is 2.0, but the model 'plain' takes no labels"):
            Guided(NetworkDenoiser(Told(None), VP(), (1,), name="plain"), 2.0)
        for scale in (-0.5, float("inf"), float("nan")):
            with refuses(f"guidance is {scale}; accepted"):
                Guided(labelled(), scale)


def test_a_denoiser_without_extras():
    class Zero(Denoiser):
        schedule, shape = VP(), (2,)

        def forward(self, x_t, t, label=None):
            return 0 * x_t

    model = Zero()
    assert model.conditions([{}], CPU) == {}
    assert model.classifier() is None
    assert model.starting_images() is None
    assert model.fingerprint_config()["class"] == "Zero"


def test_guidance_takes_one_hot_labels():
    from turningpoint.diffusion.denoiser import NetworkDenoiser
    from turningpoint.diffusion.schedule import VP

    class OneHot(NetworkDenoiser):
        def raw(self, x_t, t, label=None):
            hot = torch.zeros(len(x_t), 3) if label is None else label
            if hot.ndim == 1:
                hot = torch.nn.functional.one_hot(label.clamp_min(0), 3) * (label >= 0)[:, None]
            return hot.float() @ torch.tensor([[1.0], [2.0], [4.0]]) * torch.ones_like(x_t)

    model = OneHot(torch.nn.Identity(), VP(), (2,), "x0", n_classes=3)
    x_t, t, label = torch.zeros(2, 2), torch.tensor([0.5, 0.5]), torch.tensor([0, 2])
    indexed = Guided(model, 3.0)(x_t, t, label)
    assert torch.equal(Guided(model, 3.0)(x_t, t, torch.eye(3)[label]), indexed)
    assert indexed[:, 0].tolist() == [3.0, 12.0]
