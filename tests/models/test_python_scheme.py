"""``python:``: one's own code as a model; its mistakes are told in a sentence, and its own errors are not lost."""

import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import turningpoint as tp
from turningpoint.models.python import shape_from

CODE = """
import torch
from torch import nn
import turningpoint as tp


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, step, label=None):
        return self.scale * x + (0 if label is None else label.reshape(-1, 1))


class Mine(tp.NetworkDenoiser):
    def __init__(self, width=3):
        super().__init__(Net(width), tp.VP(), (2,), predicts="v")


class Bare:
    shape, schedule = (2,), tp.VP()

    def __call__(self, x_t, t, label=None):
        return 0 * x_t


class Namespace:
    inner = Mine


def build(width=3):
    return Mine(width)


def with_shape(shape, n_classes=None):
    assert shape == "2," or tuple(shape) == (2,)
    return Net()


def fails(depth=1):
    raise ValueError("no such depth. Try another.\\nsecond line")


def complains():
    raise tp.TurningpointError("width is 0; accepted: more.")


def number():
    return 3


def stops():
    raise SystemExit(2)


model = Mine(5)
network = Net(7)
constant = 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the file my_models.py in it."""
    (tmp_path / "my_models.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in [name for name in sys.modules if name.lstrip("_").startswith(("my_", "python_my_"))]:
        del sys.modules[name]


class TestWhatMayBeNamed:
    @pytest.mark.parametrize("where", ["my_models", "./my_models.py", "my_models.py"])
    @pytest.mark.parametrize("name", ["build", "Mine", "Namespace.inner"])
    def test_a_factory(self, place, where, name):
        model = tp.load(f"python:{where}:{name}?width=9")
        assert type(model).__name__ == "Mine"
        assert model.network.width == 9
        assert model.name == f"python:{where}:{name}?width=9"
        assert tp.load(model.name).network.width == 9
        assert not model.training

    def test_an_absolute_path(self, place, monkeypatch):
        monkeypatch.chdir("/")
        assert tp.load(f"python:{place}/my_models.py:build").network.width == 3

    def test_a_file_elsewhere_finds_its_neighbours(self, place):
        (place / "part").mkdir()
        (place / "part" / "my_neighbour.py").write_text("width = 11\n")
        (place / "part" / "my_user.py").write_text(
            "import my_neighbour\nfrom my_models_copy import Mine\n"
            "def build(): return Mine(my_neighbour.width)\n"
        )
        (place / "part" / "my_models_copy.py").write_text(CODE)
        assert tp.load("python:part/my_user.py:build").network.width == 11

    def test_an_edited_file_is_read_anew(self, place):
        assert tp.load("python:./my_models.py:model").network.width == 5
        (place / "my_models.py").write_text(CODE.replace("Mine(5)", "Mine(6)"))
        assert tp.load("python:./my_models.py:model").network.width == 6

    def test_a_model_itself(self, place):
        assert tp.load("python:my_models:model").network.width == 5

    def test_any_callable_with_a_clock(self, place):
        model = tp.load("python:my_models:Bare")
        assert model(torch.ones(3, 2), torch.full((3,), 0.5)).abs().max() == 0
        assert tp.generate("python:my_models:Bare", 2, steps=2, progress=None).images.shape == (2, 2)

    @pytest.mark.parametrize("name", ["Net", "network"])
    def test_a_network_with_settings(self, place, name):
        model = tp.load(f"python:my_models:{name}?schedule=cosine&shape=2,&predicts=v&n_classes=4")
        assert isinstance(model, tp.NetworkDenoiser)
        assert (model.shape, model.predicts, model.n_classes) == ((2,), "v", 4)
        assert repr(model.schedule) == "ddpm(family=cosine, steps=1000)"
        x_t, t, label = torch.ones(2, 2), torch.tensor([0.5, 0.5]), torch.tensor([3, -1])
        alpha, sigma = model.schedule.alpha(0.5).item(), model.schedule.sigma(0.5).item()
        want = alpha - sigma * (0.5 + torch.tensor([3.0, 4.0]))[:, None].expand(2, 2)
        torch.testing.assert_close(model(x_t, t, label), want)

    def test_settings_as_objects(self, place):
        model = tp.load("python:my_models:Net", schedule=tp.EDM(), shape=[2], predicts="x0", width=4)
        assert (model.network.width, model.schedule.config()["kind"]) == (4, "edm")

    def test_a_factory_may_ask_for_the_settings_of_the_network(self, place):
        model = tp.load("python:my_models:with_shape?schedule=vp&shape=2,&n_classes=4")
        assert (model.shape, model.n_classes) == ((2,), 4)

    def test_options_of_every_network(self, place):
        model = tp.load("python:my_models:Mine", dtype="bfloat16")
        assert model.dtype == torch.bfloat16

    def test_azula(self, place):
        (place / "my_azula.py").write_text(
            "from azula.denoise import GaussianDenoiser\nfrom azula.linalg.covariance import IsotropicCovariance\n"
            "from azula.noise import VPSchedule\nimport torch\n"
            "one = IsotropicCovariance(torch.tensor(1.0))\n"
            "def build(): return GaussianDenoiser(torch.zeros(2), one, VPSchedule())\n"
        )
        assert type(tp.load("python:my_azula:build")).__name__ == "Azula"


class TestRefusals:
    @pytest.mark.parametrize(
        ("where", "sentence"),
        [
            ("my_modles:build", "the module 'my_modles' is not there; accepted: one that Python finds here, or a file"),
            ("no.such.package:build", r"the module 'no\.such\.package' is not there"),
            ("./nothing.py:build", "the file 'nothing.py' is not there"),
            ("my_models", "accepted: python:module:factory"),
            ("my_models:", "accepted: python:module:factory"),
            (":build", "accepted: python:module:factory"),
            ("my_models:biuld", "my_models has no 'biuld'; accepted: build"),
            ("my_models:Namespace.iner", "has no 'Namespace.iner'; accepted: inner"),
            ("my_models:zzz", "my_models has no 'zzz'; accepted: Net, Mine, Bare"),
            ("my_models:constant", "of type int; accepted: a function or class"),
            ("my_models:number", "returned a thing of type int; accepted: a Denoiser, a network"),
            ("my_models:Net", "returned a network of type Net; accepted with it: the settings schedule and shape"),
            ("my_models:Net?schedule=vp", "accepted with it: the settings shape"),
            ("my_models:Net?schedule=vp&shape=wide", "shape is 'wide'; accepted: whole numbers"),
            ("my_models:Net?schedule=vp&shape=0,2", "shape is 0"),
            ("my_models:Net?schedule=vpp&shape=2,", "schedule is 'vpp'; accepted: vp, edm"),
            ("my_models:Net?schedule=vp&shape=2,&predicts=noise", "predicts is 'noise'; accepted: epsilon"),
            ("my_models:Net?schedule=vp&shape=2,&n_classes=many", "n_classes is 'many'"),
            ("my_models:build?hight=3", r"settings of python:my_models:build are \['hight'\].*accepted: width"),
            ("my_models:with_shape", r"missing a required argument: 'shape'; accepted: shape, n_classes"),
            ("my_models:model?width=3", "width is given, but python:my_models:model is a model already"),
            ("my_models:complains", "width is 0; accepted: more"),
            ("my_models:build?schedule=vp", "schedule is given, but python:my_models:build returned a denoiser"),
        ],
    )  # fmt: skip
    def test_in_a_sentence(self, place, where, sentence, refuses):
        with refuses(sentence):
            tp.load(f"python:{where}")

    def test_what_the_factory_raised_is_the_cause(self, place, refuses):
        with refuses(
            r"python:my_models:fails raised ValueError: no such depth; Try another \(my_models.py, line \d+\)"
        ):
            tp.load("python:my_models:fails")
        with pytest.raises(tp.TurningpointError) as caught:
            tp.load("python:my_models:fails")
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        assert cause.__traceback__ is not None
        with refuses("raised SystemExit: 2"):
            tp.load("python:my_models:stops")

    @pytest.mark.parametrize(
        ("code", "sentence"),
        [
            (
                "import a_package_that_is_not_there",
                "raised ModuleNotFoundError: No module named 'a_package_that",
            ),
            ("1 / 0", r"raised ZeroDivisionError: division by zero \(my_broken.py, line 1\)"),
            ("def f(:", r"raised SyntaxError: .*\(my_broken.py, line 1\)"),
        ],
    )
    @pytest.mark.parametrize("where", ["my_broken", "./my_broken.py"])
    def test_a_module_that_raises(self, place, where, code, sentence, refuses):
        (place / "my_broken.py").write_text(code)
        with refuses(sentence):
            tp.load(f"python:{where}:build")
        with pytest.raises(tp.TurningpointError) as caught:
            tp.load(f"python:{where}:build")
        assert caught.value.__cause__ is not None

    def test_shape(self):
        assert shape_from("(3, 32, 32)") == shape_from((3, 32, 32)) == shape_from(np.array([3, 32, 32]))
        assert shape_from(7) == (7,)


EXAMPLE = textwrap.dedent('''
    """A network of one's own under turningpoint: three lines for the model, one for its file of weights."""

    import torch
    from torch import nn

    import turningpoint as tp


    class Network(nn.Module):
        """Predicts the noise in images (B, 1, 8, 8), given the time t in [0, 1] (B,)."""

        def __init__(self, width=16):
            super().__init__()
            self.first = nn.Conv2d(2, width, 3, padding=1)
            self.last = nn.Conv2d(width, 1, 3, padding=1)

        def forward(self, x, t):
            time = t.reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
            return self.last(torch.relu(self.first(torch.cat([x, time], 1))))


    class Mine(tp.NetworkDenoiser):
        def __init__(self, weights=None, width=16):
            super().__init__(Network(width), tp.VP(), (1, 8, 8), predicts="epsilon")
            if weights is not None:
                self.network.load_state_dict(torch.load(weights, weights_only=True))


    if __name__ == "__main__":
        torch.save(Network().state_dict(), "weights.pt")
        run = tp.uturn(
            "python:./mine.py:Mine?weights=weights.pt", torch.zeros(4, 1, 8, 8), times=[0.2, 0.5], steps=10
        )
        print(run.images.sizes)
''').lstrip()


class TestExample:
    """What docs/models.md shows."""

    def test_runs_as_it_stands(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "mine.py").write_text(EXAMPLE)
        monkeypatch.chdir(tmp_path)
        exec(compile(EXAMPLE, "mine.py", "exec"), {"__name__": "__main__"})
        assert "'item': 4" in capsys.readouterr().out

    def test_a_three_line_subclass(self):
        class Zero(nn.Module):
            def forward(self, x, t):
                return torch.zeros_like(x)

        class Mine(tp.NetworkDenoiser):
            def __init__(self):
                super().__init__(Zero(), tp.VP(), (1, 8, 8), predicts="epsilon")

        run = tp.generate(Mine(), 2, sampler="ddim", steps=3, progress=None)
        z = tp.SeededNoise(0).draw(tp.Address(1, stream=1), 0, (1, 8, 8))
        # no noise anywhere: x_0 is x_1 / alpha_1
        np.testing.assert_allclose(run.images.values[1], z / float(tp.VP().alpha(1.0)), rtol=1e-4)

    def test_from_the_command_line(self, tmp_path, command):
        (tmp_path / "mine.py").write_text(EXAMPLE)
        status, _, err = command("generate", "python:./mine.py:Mine?width=4", 2, "--steps", 2, "--out", "r")
        assert status == 0, err
        status, _, err = command("generate", "python:./mine.py:Mien", 2, "--out", "s")
        assert status != 0
        assert "has no 'Mien'; accepted: Mine" in err
