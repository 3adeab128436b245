"""azula's denoisers: the same answers, on the same clock, item by item."""

import importlib
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser, KarrasDenoiser, SimpleDenoiser
from azula.linalg.covariance import DiagonalCovariance
from azula.noise import (
    CosineSchedule,
    DecaySchedule,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
)
from torch import nn

import turningpoint as tp
from turningpoint.diffusion.schedule import schedule_from
from turningpoint.diffusion.tabulated import Tabulated
from turningpoint.models.azula import Azula, AzulaClock, clock_of, from_azula, is_azula

sys.modules.setdefault("gdown", ModuleType("gdown"))  # with which azula's plugins fetch, which no test does
ElucidatedSchedule = importlib.import_module("azula.plugins.edm").ElucidatedSchedule

SCHEDULES = {
    "vp": VPSchedule(),
    "cosine": CosineSchedule(),
    "flow": RectifiedSchedule(),
    "open flow": RectifiedSchedule(alpha_min=0.0, sigma_min=1e-3),
    "ve": VESchedule(),
    "decay": DecaySchedule(),
}
VARIANCES = torch.tensor([0.25, 1.0, 4.0, 0.01])
MEAN = torch.tensor([1.0, -1.0, 0.0, 2.0])
TIMES = torch.tensor([0.9, 0.5, 0.31, 0.002, 0.5])


def states(*shape):
    return torch.randn(len(TIMES), *shape, generator=torch.Generator().manual_seed(0))


class Shrinkage(nn.Module):
    """The network of azula's Karras preconditioning that makes N(0, s^2) exact, with perhaps labels for s."""

    def __init__(self, s=(0.5,)):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(s))

    def forward(self, x, c_time, label=None):
        assert c_time.shape == x.shape[:1]
        ratio = c_time.exp()[:, None]  # sigma / alpha
        s = self.s[0] if label is None else self.s[label][:, None]
        # D(x_t) = alpha s^2 / (alpha^2 s^2 + sigma^2) x_t, seen through c_skip and c_out
        r = ratio.square()
        gain = s**2 / (s**2 + r) * (1 + r).sqrt()  # of x / sqrt(alpha^2 + sigma^2), in units of x_0
        return (gain - 1 / (1 + r).sqrt()) * ((1 + r).sqrt() / ratio) * x


def shrunk(schedule, x_t, t, s):
    """The closed form of the same."""
    alpha, sigma = (v.double()[:, None] for v in schedule(t.double()))
    return alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x_t.double()


class TestDenoisers:
    @pytest.mark.parametrize("name", SCHEDULES)
    def test_karras_around_an_exact_network(self, name):
        # alpha = 0 at t = 1 has no c_time; the network's input there is not asked for
        schedule = SCHEDULES[name]
        model = from_azula(KarrasDenoiser(Shrinkage(), schedule), shape=(3,))
        assert model.per_item
        x_t = states(3)
        torch.testing.assert_close(
            model(x_t, TIMES).double(), shrunk(schedule, x_t, TIMES, 0.5), rtol=1e-3, atol=1e-5
        )

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_the_same_as_azula_to_the_bit(self, name):
        denoiser = SimpleDenoiser(Shrinkage(), SCHEDULES[name])
        x_t = states(3)
        assert torch.equal(from_azula(denoiser, shape=(3,))(x_t, TIMES), denoiser(x_t, TIMES).mean)

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_gaussians_which_take_one_time_get_one_per_item(self, name):
        schedule = SCHEDULES[name]
        denoiser = GaussianDenoiser(MEAN, DiagonalCovariance(VARIANCES), schedule)
        model = from_azula(denoiser)
        assert model.shape == (4,)
        assert not model.per_item
        x_t = states(4)
        alpha, sigma = (v.double()[:, None] for v in schedule(TIMES.double()))
        gain = alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2)
        want = MEAN + gain * (x_t - alpha * MEAN)
        # (x_t + sigma^2 ...) / alpha in float32 loses what alpha is short of 1 and of x_t
        torch.testing.assert_close(model(x_t, TIMES).double(), want, rtol=5e-3, atol=2e-3)
        for i, t in enumerate(TIMES):
            assert torch.equal(model(x_t, TIMES)[i], denoiser(x_t[i : i + 1], t).mean[0])

    def test_four_items_are_not_taken_for_four_entries(self):
        """A batch as long as an item would broadcast without an error."""
        model = from_azula(GaussianDenoiser(MEAN, DiagonalCovariance(VARIANCES), VPSchedule()))
        x_t, t = states(4)[:4], TIMES[:4]
        torch.testing.assert_close(model(x_t, t)[2], model(x_t[2:3], t[2:3])[0])
        three = GaussianDenoiser(MEAN[:3], DiagonalCovariance(VARIANCES[:3]), VPSchedule())
        assert not from_azula(three).per_item  # it is tried out with three items

    def test_elucidated_is_edm(self):
        model = from_azula(KarrasDenoiser(Shrinkage(), ElucidatedSchedule(0.01, 50.0, 5.0)), shape=(3,))
        assert model.schedule.config() == tp.EDM(0.01, 50.0, 5.0).config()
        sigma, x_t = torch.tensor([0.01, 0.3, 2.0, 50.0, 1e-3]), states(3)
        want = 0.25 / (0.25 + sigma**2)[:, None] * x_t
        torch.testing.assert_close(model(x_t, model.schedule.t(sigma=sigma)), want, rtol=1e-4, atol=1e-5)

    def test_a_whole_flow_is_ours(self):
        model = from_azula(KarrasDenoiser(Shrinkage(), RectifiedSchedule(0.0, 0.0)), shape=(3,))
        assert model.schedule.config() == tp.RectifiedFlow().config()
        x_t = states(3)
        torch.testing.assert_close(
            model(x_t, TIMES).double(),
            shrunk(RectifiedSchedule(0.0, 0.0), x_t, TIMES, 0.5),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_images_and_what_they_are_told(self):
        class Told(Denoiser):
            def __init__(self):
                super().__init__()
                self.schedule = VPSchedule()

            def forward(self, x_t, t, shift=0.0, **kwargs):
                alpha, _ = self.schedule(t)
                return DiracPosterior(x_t / alpha.reshape(-1, 1, 1, 1) + shift)

        x_t = states(1, 4, 4)
        plain = from_azula(Told(), shape="1,4,4")(x_t, TIMES)
        always = from_azula(Told(), shape=(1, 4, 4), kwargs={"shift": 2.0})
        torch.testing.assert_close(always(x_t, TIMES), plain + 2)
        torch.testing.assert_close(always(x_t, TIMES, shift=3.0), plain + 3)
        per_row = torch.arange(5.0).reshape(5, 1, 1, 1)
        torch.testing.assert_close(always(x_t, TIMES, shift=per_row), plain + per_row)
        grouped = from_azula(Told(), shape=(1, 4, 4), per_item=False)
        torch.testing.assert_close(grouped(x_t, TIMES, shift=per_row), plain + per_row)


class Labelled(Denoiser):
    """Answers x_0 = label + 1, or 0 where there is none; as an index or as a row of numbers."""

    def __init__(self, null=None):
        super().__init__()
        self.schedule, self.null, self.calls = VPSchedule(), null, 0

    def forward(self, x_t, t, label=None):
        self.calls += 1
        if label is None:
            value = torch.zeros(len(x_t))
        elif label.is_floating_point():
            value = (label * torch.arange(1.0, 4.0)).sum(1)
        else:
            value = torch.where(label == self.null, 0, label + 1).float() if self.null else label + 1.0
        return DiracPosterior(value[:, None].expand_as(x_t).clone())


class TestLabels:
    LABEL = torch.tensor([2, -1, 0, 1, -1])
    WANT = torch.tensor([3.0, 0.0, 1.0, 2.0, 0.0])[:, None].expand(5, 2)

    @pytest.mark.parametrize(
        "settings", [{}, {"labels": "onehot"}, {"null_label": 3}], ids=["index", "onehot", "null"]
    )
    def test_with_and_without_in_one_batch(self, settings):
        denoiser = Labelled(settings.get("null_label"))
        model = from_azula(denoiser, shape=(2,), n_classes=3, **settings)
        denoiser.calls = 0
        torch.testing.assert_close(model(states(2), TIMES, self.LABEL), self.WANT)
        assert denoiser.calls == (1 if settings else 2)
        assert not model(states(2), TIMES).any()
        torch.testing.assert_close(model(states(2)[:1], TIMES[:1], self.LABEL[:1]), self.WANT[:1])

    def test_walks_are_told_theirs(self):
        model = from_azula(Labelled(), shape=(2,), n_classes=3)
        run = tp.generate(model, 3, steps=2, label=[2, 0, 1], progress=None)
        np.testing.assert_allclose(run.images.values[:, 0], [3, 1, 2])


class TestClocks:
    @pytest.mark.parametrize("name", SCHEDULES)
    def test_is_azulas_from_t_min_on(self, name):
        clock, t = AzulaClock(SCHEDULES[name]), torch.linspace(1e-3, 1, 99, dtype=torch.float64)
        alpha, sigma = SCHEDULES[name](t)
        assert torch.equal(clock.alpha(t), alpha)
        torch.testing.assert_close(clock.sigma(t), sigma, rtol=1e-15, atol=0)

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_reaches_the_data_without_a_jump(self, name):
        clock = AzulaClock(SCHEDULES[name])
        assert (float(clock.alpha(0.0)), float(clock.sigma(0.0)), float(clock.logsnr(0.0))) == (
            1,
            0,
            math.inf,
        )
        below, above = float(clock.logsnr(1e-3 - 1e-9)), float(clock.logsnr(1e-3 + 1e-9))
        assert abs(below - above) < 1e-4
        falls = clock.logsnr(torch.linspace(0, 1, 4001, dtype=torch.float64)).diff()
        assert bool((falls < 0).all())

    @pytest.mark.parametrize("name", SCHEDULES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_inverses(self, name, dtype):
        clock, t = AzulaClock(SCHEDULES[name]), torch.tensor([[2e-4, 0.01], [0.5, 0.97]], dtype=dtype)
        for value in (
            ("logsnr", "sigma", "native") if name == "ve" else ("logsnr", "sigma", "alpha", "native")
        ):
            # alpha is 1 - 1e-7 at one end of the clock, and sigma nearly 1 at the other
            rtol = {"alpha": 0.3, "sigma": 2e-3}.get(value, 1e-4) if dtype == torch.float32 else 1e-9
            again = clock.t(**{value: getattr(clock, value)(t)})
            assert again.dtype == dtype
            torch.testing.assert_close(again, t, rtol=rtol, atol=0)
        assert float(clock.t(sigma=0.0)) == 0
        assert float(clock.t(logsnr=-1e9)) == 1

    def test_alpha_says_nothing_of_ve(self, refuses):
        with refuses("alpha is 1 at every time"):
            AzulaClock(VESchedule()).t(alpha=1.0)

    def test_where_sampling_starts(self):
        for name, unit in (("vp", True), ("cosine", True), ("flow", False), ("ve", False)):
            clock = AzulaClock(SCHEDULES[name])
            assert float(clock.start_std(0.8)) == (1.0 if unit else float(clock.sigma(0.8)))

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_a_run_is_read_without_azula(self, name):
        clock = AzulaClock(SCHEDULES[name])
        table = schedule_from(clock.config())
        assert isinstance(table, Tabulated)
        t = torch.linspace(1e-4, 0.9999, 997, dtype=torch.float64)
        torch.testing.assert_close(table.logsnr(t), clock.logsnr(t), rtol=0, atol=5e-6)
        torch.testing.assert_close(table.t(logsnr=clock.logsnr(t)), t, rtol=1e-5, atol=0)
        assert schedule_from(table.config()).config() == table.config()

    @pytest.mark.parametrize("broken", ["rising", "shape", "nothing", "negative"])
    def test_what_is_no_clock_is_refused(self, broken, refuses):
        answers = {
            "rising": lambda t: (t, 1 - t + 1e-3),
            "shape": lambda t: (torch.ones(7), torch.ones(7)),
            "nothing": lambda t: None,
            "negative": lambda t: (-torch.ones_like(t), t),
        }

        class Broken(Schedule):
            def __call__(self, t):
                return answers[broken](t)

        with refuses("the schedule Broken is no clock"):
            AzulaClock(Broken())

    def test_tables_that_are_none_are_refused(self, refuses):
        for t in ([0.5], [0.0, 1.0], [0.1, 0.1, 1.0], [0.1, 0.9]):
            with refuses("no table of a clock"):
                Tabulated(t, [0.5] * len(t), [0.5] * len(t))


class TestRuns:
    def test_sampling_makes_the_distribution(self):
        """Heun's method on the exact denoiser is a linear map; its exact end is N(0, s^2)."""
        model = from_azula(KarrasDenoiser(Shrinkage(), VPSchedule(1e-3, 1e-4)), shape=(2,))
        run = tp.generate(model, 500, steps=64, progress=None)
        got = run.images.values.astype(np.float64)
        z = np.stack([tp.SeededNoise(0).draw(tp.Address(i, stream=1), 0, (2,)) for i in range(500)])
        # the flow scales z by s / sqrt(alpha^2 s^2 + sigma^2) of t = 1; the rest is the error of 64 steps
        np.testing.assert_allclose(got, 0.5 * z, rtol=0.01, atol=1e-3)

    def test_u_turns_and_their_retention(self, tmp_path):
        model = from_azula(KarrasDenoiser(Shrinkage(), CosineSchedule()), shape=(2,))
        run = tp.uturn(model, torch.randn(8, 2), times=[0.2, 0.6], steps=6, out=tmp_path / "r", progress=None)
        again = tp.open_run(tmp_path / "r", model=model)
        want = model.schedule.logsnr([0.2, 0.6]).numpy()
        np.testing.assert_allclose(again.images.logsnr.values, want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(run.schedule.logsnr([0.2, 0.6]).numpy(), want, rtol=0, atol=1e-5)

    def test_fingerprints_know_what_is_no_tensor_of_a_module(self):
        def print_of(mean=MEAN, variances=VARIANCES, schedule=None):
            denoiser = GaussianDenoiser(mean, DiagonalCovariance(variances), schedule or VPSchedule())
            return tp.models.fingerprint(from_azula(denoiser))

        assert print_of() == print_of()
        others = [
            print_of(mean=MEAN + 1),
            print_of(variances=2 * VARIANCES),
            print_of(schedule=CosineSchedule()),
        ]
        others += [print_of(schedule=VPSchedule(alpha_min=2e-3))]
        assert len({print_of(), *others}) == 5

    def test_precision_and_clipping(self):
        model = from_azula(KarrasDenoiser(Shrinkage(), VPSchedule()), shape=(2,))
        x_t = states(2)
        want = model(x_t, TIMES)
        model.network.to(torch.bfloat16)
        assert model(x_t, TIMES).dtype == torch.float32
        assert 0 < (model(x_t, TIMES) - want).abs().max() < 0.05
        model.clip_denoised = True
        assert model(50 * x_t, TIMES).abs().max() == 1


class TestRefusals:
    def test_shape(self, refuses):
        denoiser = KarrasDenoiser(Shrinkage(), VPSchedule())
        with refuses("does not say the shape of its items"):
            from_azula(denoiser)
        with refuses("shape is 'wide'"):
            from_azula(denoiser, shape="wide")
        wrong = KarrasDenoiser(nn.Conv2d(3, 3, 1), VPSchedule())
        with refuses("KarrasDenoiser does not answer to items of shape"):
            from_azula(wrong, shape=(5, 4, 4))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"labels": "text"}, "labels is 'text'; accepted: index, onehot"),
            ({"n_classes": "many"}, "n_classes is 'many'"),
            ({"kwargs": 3}, "kwargs is 3; accepted: a mapping"),
            ({"colour": 1}, "a setting of an azula denoiser is 'colour'"),
            ({"schedule": "vp"}, "a setting of an azula denoiser is 'schedule'"),
        ],
    )
    def test_settings(self, settings, sentence, refuses):
        with refuses(sentence):
            from_azula(KarrasDenoiser(Shrinkage(), VPSchedule()), shape=(2,), **settings)

    def test_another_thing(self, refuses):
        assert not is_azula(nn.Linear(2, 2))
        with refuses("model is of type Linear; accepted: an azula denoiser"):
            from_azula(nn.Linear(2, 2), shape=(2,))


FACTORY = """
import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VPSchedule

class Zero(torch.nn.Module):
    def forward(self, x, t): return 0 * x

def make(alpha_min=1e-3): return KarrasDenoiser(Zero(), VPSchedule(alpha_min=alpha_min))
def other(): return 3
"""


class TestScheme:
    @pytest.fixture
    def here(self, tmp_path, monkeypatch):
        (tmp_path / "made_for_azula.py").write_text(FACTORY)
        monkeypatch.chdir(tmp_path)
        yield
        sys.modules.pop("made_for_azula", None)

    @pytest.mark.parametrize("where", ["made_for_azula:make", "./made_for_azula.py:make"])
    def test_factory(self, here, where):
        model = tp.load(f"azula:{where}?alpha_min=0.02&shape=2,")
        assert isinstance(model, Azula)
        assert float(model.schedule.alpha(1.0)) == pytest.approx(0.02)
        assert tp.load(model.name).schedule.config() == model.schedule.config()

    def test_not_a_denoiser(self, here, refuses):
        with refuses("model is of type int"):
            tp.load("azula:made_for_azula:other", shape=(2,))

    @pytest.mark.parametrize(
        ("where", "sentence"),
        [
            ("edm/cifar10", "'edm' unpickles what it fetches; accepted: edm:FILE"),
            ("eldm/x", "'eldm' unpickles"),
            ("sd/x", "accepted: diffusers:"),
            ("flux/flux_1_dev", "accepted: diffusers:"),
            ("nothing/x", "azula's plugin is 'nothing'; accepted: adm, jit, vdm"),
            ("adm/x", "the model of azula's plugin 'adm' is 'x'; accepted: imagenet_64x64_cond"),
            ("adm/imagenet_256x256?width=3", "a setting of azula's plugins is 'width'"),
            ("make", "accepted: azula:module:factory"),
        ],
    )
    def test_refusals(self, where, sentence, refuses):
        with refuses(sentence):
            tp.load(f"azula:{where}")

    def test_a_plugin(self, monkeypatch):
        from azula.plugins import adm

        made = adm.make_model(
            image_size=8, num_channels=32, num_classes=4, channel_mult=(1, 2), num_res_blocks=1, num_heads=1,
            attention_resolutions=(4,),
        ).eval()  # fmt: skip
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.05)
        monkeypatch.setattr(adm, "load_model", lambda name: made)
        model = tp.load("azula:adm/imagenet_64x64_cond")
        assert (model.shape, model.n_classes, model.per_item) == ((3, 8, 8), 4, True)
        x_t, label = states(3, 8, 8), torch.tensor([0, 3, 1, 1, 2])
        with torch.no_grad():
            torch.testing.assert_close(model(x_t, TIMES, label), made(x_t, TIMES, label=label).mean)

    def test_a_plugin_whose_weights_cannot_be_fetched(self, monkeypatch, refuses):
        from azula.plugins import adm

        def unreachable(name):
            raise OSError("no route to host. Try later.")

        monkeypatch.setattr(adm, "load_model", unreachable)
        with refuses("raised OSError: no route to host; Try later"):
            tp.load("azula:adm/imagenet_256x256")

    def test_a_plugin_that_cannot_be_imported(self, monkeypatch, refuses):
        monkeypatch.setitem(sys.modules, "azula.plugins.jit", None)
        with refuses("azula's plugin 'jit' cannot be imported"):
            tp.load("azula:jit/jit_0.1b_16")

    def test_azula_is_not_installed(self, monkeypatch, refuses):
        monkeypatch.setitem(sys.modules, "azula.denoise", None)
        with refuses("needs the package azula, which is not installed"):
            tp.load("azula:somewhere:make")

    def test_clock_of_says_which(self):
        assert isinstance(clock_of(VPSchedule())[0], AzulaClock)
        assert isinstance(clock_of(ElucidatedSchedule())[0], tp.EDM)
