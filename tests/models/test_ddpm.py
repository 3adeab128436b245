"""``ddpm``: the published checkpoint gives the published numbers; others of its format load, or are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.models._networks.ddpm_unet import DDPMUNet, Layout
from turningpoint.models.ddpm import DDPM, late_start, late_start_steps

GOLDEN = Path(__file__).parent / "golden" / "symmetry_breaking"
FILE = GOLDEN / "workdir" / "checkpoints" / "checkpoint_16.pth"
WANT = dict(np.load(GOLDEN / "ddpm_expected.npz"))
ONE_CALL, CHAIN, TABLE = 5e-5, 2e-4, 2e-6


def close(got, want, tolerance):
    error = np.abs(np.asarray(got, np.float64) - want).max()
    assert error <= tolerance * np.sqrt(np.mean(want.astype(np.float64) ** 2)), error


def unit(run):
    return (run.images.values + 1) / 2


def late(key):
    """The arguments of `late_start` of a key such as ddim/n10_T400."""
    n, start = key.rpartition("/")[2].split("_")
    settings = {"TNone": {}, "quad": {"spacing": "quad"}}.get(start) or (
        {} if start == "TNone" else {"start": int(start[1:])}
    )
    return int(n[1:]), settings


def drawn(steps):
    """The recorded draws of the first so many steps, and the start, as `generate` asks for them."""
    rows = {
        tp.Address(i, stream=1): np.concatenate([WANT["x"][i][None], WANT["step_noise"][:steps, i]])
        for i in range(3)
    }
    return tp.RecordedNoise(rows)


@pytest.fixture(scope="module")
def model():
    return tp.load(f"ddpm:{FILE}", image_size=16)


class TestGoldenNumbers:
    @pytest.mark.parametrize("weights", ["ema", "raw"])
    def test_network_at_every_time(self, weights):
        network = tp.load(f"ddpm:{FILE}?weights={weights}&image_size=16").network
        x = torch.from_numpy(WANT["x"])
        got = torch.stack([network(x, torch.full((3,), float(t))) for t in WANT["t"]])
        close(got, WANT[f"eps_{weights}"], ONE_CALL)

    def test_times_of_one_batch_may_differ(self, model):
        x = torch.from_numpy(WANT["x"])
        got = model.network(x, torch.from_numpy(WANT["t"][[0, 2, 5]]))
        close(got, WANT["eps_ema"][[0, 2, 5], [0, 1, 2]], ONE_CALL)

    def test_estimate_follows_from_the_noise(self, model):
        x, t = torch.from_numpy(WANT["x"]), model.schedule.t(native=[250.5, 500.0, 999.0]).float()
        square = np.exp(np.interp([250.5, 500, 999], np.arange(1000), np.log(WANT["alphas_cumprod"])))
        alpha, sigma = (v.reshape(3, 1, 1, 1) for v in (square**0.5, (1 - square) ** 0.5))
        want = (WANT["x"] - sigma * WANT["eps_ema"][[2, 3, 5], [0, 1, 2]]) / alpha
        close(model(x, t), want, CHAIN)

    def test_tables(self, model):
        assert np.abs(model.schedule.betas.numpy() / WANT["betas"] - 1).max() <= TABLE
        assert np.abs(model.schedule.alphas_cumprod.numpy() / WANT["alphas_cumprod"] - 1).max() <= TABLE

    @pytest.mark.parametrize("key", [key for key in WANT if key.startswith("seq/")])
    def test_steps_of_a_late_start(self, key):
        n, settings = late(key)
        steps = late_start_steps(n, **settings)
        assert steps == WANT[key].tolist()
        assert [-1, *steps[:-1]] == WANT[key.replace("seq/", "seq_next/")].tolist()

    @pytest.mark.parametrize("key", [key for key in WANT if key.startswith("ddim/")])
    def test_ddim(self, model, key):
        n, settings = late(key)
        run = tp.generate(
            model, noise=WANT["x"], sampler="ddim", grid=late_start(n, **settings), progress=None
        )
        close(unit(run), WANT[key], CHAIN)

    def test_ddim_takes_its_authors_steps_by_default(self, model):
        run = tp.generate(model, noise=WANT["x"], sampler="ddim", steps=10, progress=None)
        close(unit(run), WANT["ddim/n10_TNone"], CHAIN)

    def test_states_on_the_way(self, model):
        grid = late_start(5, 800)
        kept = tp.Record("state", tuple(grid.times(model.schedule)))
        run = tp.generate(model, noise=WANT["x"], sampler="ddim", grid=grid, record=[kept], progress=None)
        falling = run.data.state.sortby("state_t", ascending=False)
        close(falling.transpose("state_time", "item", ...).values, WANT["traj_n5_T800"], CHAIN)

    def test_ddim_with_noise(self, model):
        run = tp.generate(
            model, 3, noise=drawn(5), sampler="ddim", eta=1.0, grid=late_start(5, 800), progress=None
        )
        close(unit(run), WANT["ddpm_eta1/n5_T800"], CHAIN)

    def test_ancestral_sampling_has_the_large_variance(self, model):
        grid = tp.Grid.explicit([(n + 1) / 1000 for n in range(12)])
        run = tp.generate(model, 3, noise=drawn(12), sampler="ddpm", grid=grid, progress=None)
        close(unit(run), WANT["ancestral_T12"], CHAIN)


# ---- other checkpoints of the format

LAYOUTS = {
    "published": (Layout(32, (1, 2, 2, 2), 1, (1,)), {"image_size": 32}),
    "two levels": (Layout(32, (1, 2), 2, (0, 1)), {"attn_resolutions": (16, 8)}),
    "pooled": (Layout(32, (1, 1), 1, (1,), resamp_with_conv=False), {"image_size": 8}),
    "timeless": (Layout(64, (1, 1), 1, (0,), conditional=False), {"image_size": 12}),
    "grey": (Layout(32, (1, 2, 1), 1, (2,), num_channels=1), {"image_size": 28}),
}


def network_of(layout, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DDPMUNet(layout, **settings).eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def written(path, layout, prefix="module.", average=True, sigmas=None, **settings):
    """A checkpoint as score_sde writes it; the two networks in it."""
    raw, ema = network_of(layout, 0, **settings), network_of(layout, 1, **settings)
    state = {f"{prefix}{name}": tensor for name, tensor in raw.state_dict().items()}
    if sigmas is not None:  # a buffer of the network itself comes before those of its parts
        state = {f"{prefix}sigmas": sigmas} | state
    content = {"optimizer": {"state": {}, "param_groups": []}, "model": state, "step": 7}
    if average:
        shadows = [parameter.clone() for parameter in ema.parameters()]
        content["ema"] = {"decay": 0.999, "num_updates": 7, "shadow_params": shadows}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return raw, ema


def same_answers(model, network, size=None):
    c, height, width = model.shape
    x = torch.rand(2, c, size or height, size or width, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([0.0, 640.25])
    torch.testing.assert_close(model.network(x, times), network(x, times), rtol=0, atol=0)


class TestOtherCheckpoints:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_settings_are_read_off_the_file(self, name, tmp_path):
        layout, settings = LAYOUTS[name]
        raw, ema = written(tmp_path / "c.pth", layout)
        model = tp.load(f"ddpm:{tmp_path / 'c.pth'}", **settings)
        assert isinstance(model, DDPM)
        assert model.network.layout == layout
        assert model.shape[0] == layout.num_channels
        same_answers(model, ema)
        same_answers(tp.load(f"ddpm:{tmp_path / 'c.pth'}", weights="raw", **settings), raw)

    def test_a_network_that_is_told_no_time_may_lack_the_maps_of_it(self, tmp_path):
        _, ema = written(tmp_path / "c.pth", LAYOUTS["timeless"][0], time_maps=False)
        same_answers(tp.load(f"ddpm:{tmp_path / 'c.pth'}"), ema)

    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
    def test_prefixes(self, prefix, tmp_path):
        _, ema = written(tmp_path / "c.pth", LAYOUTS["grey"][0], prefix)
        same_answers(tp.load(f"ddpm:{tmp_path / 'c.pth'}"), ema)

    def test_a_bare_state_dict_is_raw(self, tmp_path):
        network = network_of(LAYOUTS["grey"][0])
        torch.save(network.state_dict(), tmp_path / "c.pth")
        model = tp.load(f"ddpm:{tmp_path / 'c.pth'}", image_size=28)
        same_answers(model, network)
        assert model.about["weights"] == "raw"

    @pytest.mark.parametrize("width", [torch.float16, torch.float64])
    def test_weights_of_another_precision_become_float32(self, width, tmp_path):
        network = network_of(LAYOUTS["grey"][0])
        torch.save(network.to(width).state_dict(), tmp_path / "c.pth")
        model = tp.load(f"ddpm:{tmp_path / 'c.pth'}")
        same_answers(model, network.float())

    @pytest.mark.parametrize("activation", ["elu", "relu", "lrelu"])
    def test_nonlinearity(self, activation, tmp_path):
        _, ema = written(tmp_path / "c.pth", LAYOUTS["grey"][0], nonlinearity=activation)
        place = f"ddpm:{tmp_path / 'c.pth'}"
        model = tp.load(f"{place}?nonlinearity={activation}")
        same_answers(model, ema)
        assert tp.models.fingerprint(model) != tp.models.fingerprint(tp.load(place))

    def test_the_sizes_that_are_guessed(self, tmp_path):
        for attention, ch_mult, size in (
            ((1,), (1, 2, 2, 2), 32),
            ((2,), (1, 1, 1, 1), 64),
            ((), (1, 1), 32),
        ):
            written(tmp_path / "c.pth", Layout(32, ch_mult, 1, attention), average=False)
            model = tp.load(f"ddpm:{tmp_path / 'c.pth'}")
            assert model.shape == (3, size, size)
            assert "assumed" in model.about["image_size"]

    def test_the_size_follows_from_the_resolutions_of_attention(self, tmp_path):
        written(tmp_path / "c.pth", Layout(32, (1, 1, 1), 1, (1, 2)), average=False)
        assert tp.load(f"ddpm:{tmp_path / 'c.pth'}", attn_resolutions="20,10").shape == (3, 40, 40)

    def test_images_in_0_1(self, tmp_path):
        layout = LAYOUTS["grey"][0]
        _, ema = written(tmp_path / "c.pth", layout)
        model = tp.load(f"ddpm:{tmp_path / 'c.pth'}", centered=False, image_size=8, clip_denoised=True)
        x, times = torch.rand(2, 1, 8, 8), torch.tensor([3.0, 800.0])
        torch.testing.assert_close(model.network(x, times), ema(2 * x - 1, times))
        images = torch.tensor([-1.0, 0.0, 1.0])
        assert model.encode(images).tolist() == [0.0, 0.5, 1.0]
        torch.testing.assert_close(model.decode(model.encode(images)), images)
        clipped = model(5 * torch.randn(2, 1, 8, 8), torch.tensor([0.9, 0.9]))
        assert (clipped.min(), clipped.max()) == (0.0, 1.0)
        run = tp.uturn(model, torch.zeros(2, 1, 8, 8), times=[0.003], steps=1000, progress=None)
        assert np.abs(run.images.values).max() < 0.5  # a U-turn of three steps stays at grey, 0 in [-1, 1]

    def test_sigmas_of_the_file(self, tmp_path):
        sigmas = torch.linspace(2.0, 1.0, 1000)
        _, ema = written(tmp_path / "c.pth", LAYOUTS["grey"][0], sigmas=sigmas)
        place = f"ddpm:{tmp_path / 'c.pth'}"
        same_answers(tp.load(place), ema)  # they lie in every file of score_sde, and are mostly not used
        scaled = tp.load(place, scale_by_sigma=True)
        x = torch.rand(2, 1, 8, 8)
        want = ema(x, torch.tensor([0.0, 999.0])) / torch.tensor([2.0, 1.0])[:, None, None, None]
        torch.testing.assert_close(scaled.network(x, torch.tensor([0.0, 999.0])), want)
        assert tp.models.fingerprint(scaled) != tp.models.fingerprint(tp.load(place))

    def test_sigmas_of_the_settings_are_geometric(self, tmp_path, refuses):
        written(tmp_path / "c.pth", LAYOUTS["grey"][0])
        place = f"ddpm:{tmp_path / 'c.pth'}"
        model = tp.load(place, scale_by_sigma=True, sigma_min=0.01, sigma_max=100.0, num_scales=5)
        torch.testing.assert_close(model.network.sigmas, torch.tensor([100.0, 10.0, 1.0, 0.1, 0.01]))
        with refuses("scale_by_sigma is True, but the file holds no sigmas"):
            tp.load(place, scale_by_sigma=True)
        with refuses("sigma_min, sigma_max are 2.0, 1.0"):
            tp.load(place, scale_by_sigma=True, sigma_min=2, sigma_max=1)

    def test_half_precision_and_back(self, model):
        half = tp.load(f"ddpm:{FILE}", image_size=16, dtype="bfloat16")
        x, t = torch.from_numpy(WANT["x"]), torch.tensor([0.3, 0.5, 0.7])
        got, want = half.raw(x, t), model.raw(x, t)
        assert got.dtype == torch.float32
        assert 0 < (got - want).square().mean().sqrt() / want.square().mean().sqrt() < 48**0.5 * 2**-8


class TestBetas:
    @pytest.fixture
    def place(self, tmp_path):
        path = tmp_path / "c.pth"
        written(path, LAYOUTS["grey"][0], average=False)
        return f"ddpm:{path}"

    def test_rates_are_divided_by_the_number_of_steps(self, place):
        clock = tp.load(f"{place}?beta_min=0.1&beta_max=20").schedule
        torch.testing.assert_close(clock.betas, tp.load(place).schedule.betas)
        few = tp.load(place, beta_min=0.1, beta_max=20.0, num_scales=100).schedule
        torch.testing.assert_close(few.betas, torch.linspace(0.001, 0.2, 100, dtype=torch.float64))

    def test_betas_themselves(self, place):
        clock = tp.load(place, beta_min=2e-4, beta_max=0.01, num_scales=500).schedule
        torch.testing.assert_close(clock.betas, torch.linspace(2e-4, 0.01, 500, dtype=torch.float64))
        assert late_start(4, training_steps=500).times(clock)[0] == 376 / 500

    @pytest.mark.parametrize(
        "settings", [{"beta_min": 0.1}, {"beta_max": 1.0}, {"beta_min": 0.0}, {"beta_max": 2000.0}]
    )
    def test_what_cannot_be_is_refused(self, place, settings, refuses):
        with refuses("beta_min, beta_max are"):
            tp.load(place, **settings)


# ---- where the file and its settings come from


class TestWorkDirectory:
    def test_the_newest_checkpoint(self, tmp_path):
        networks = {
            n: written(tmp_path / "checkpoints" / f"checkpoint_{n}.pth", layout)[1]
            for n, layout in ((9, LAYOUTS["grey"][0]), (10, LAYOUTS["pooled"][0]))
        }
        written(tmp_path / "checkpoints-meta" / "checkpoint.pth", LAYOUTS["grey"][0])
        for where in (tmp_path, tmp_path / "checkpoints"):
            same_answers(tp.load(f"ddpm:{where}", image_size=8), networks[10])
        same_answers(tp.load(f"ddpm:{tmp_path}/checkpoints/checkpoint_9.pth", image_size=8), networks[9])

    def test_the_last_state_of_training_if_there_is_no_other(self, tmp_path):
        _, ema = written(tmp_path / "checkpoints-meta" / "checkpoint.pth", LAYOUTS["grey"][0])
        same_answers(tp.load(f"ddpm:{tmp_path}", image_size=8), ema)

    def test_nothing_there(self, tmp_path, refuses):
        for where in (tmp_path, tmp_path / "no.pth", ""):
            with refuses("is not there; accepted: a file, or a work directory"):
                tp.load(f"ddpm:{where}")


class TestConfiguration:
    @pytest.fixture
    def place(self, tmp_path):
        folder = tmp_path / "work" / "checkpoints"
        folder.mkdir(parents=True)
        shutil.copy(FILE, folder)
        return folder

    def test_the_published_one(self):
        model = tp.load(f"ddpm:{FILE}", config=GOLDEN / "symmetry.json")
        assert model.shape == (3, 16, 16)
        assert model.schedule.steps == 1000
        again = tp.load(tp.load(f"ddpm:{FILE}", config=str(GOLDEN / "symmetry.json")).name)
        assert again.shape == (3, 16, 16)

    @pytest.mark.parametrize("name", ["checkpoint_16.json", "config.json", "../config.json"])
    def test_beside_the_file(self, place, name):
        (place / name).write_text(json.dumps({"model": {"nf": 32}, "data": {"image_size": 24}}))
        assert tp.load(f"ddpm:{place.parent}").shape == (3, 24, 24)
        assert tp.load(f"ddpm:{place.parent}", image_size=8).shape == (3, 8, 8)

    @pytest.mark.parametrize(
        "settings",
        [
            {"config": {"model": {"attn_resolutions": [8]}, "data": {"image_size": 16}}},
            {"config": {"image_size": 16, "dropout": 0.1, "seed": 42}},
            {"data.image_size": 16},
            {"config.data.image_size": "16"},
            {"attn_resolutions": 8},
            {"attn_resolutions": "8"},
            {"attn_resolutions": "[8]", "ch_mult": "1,1", "resamp_with_conv": "True", "image_size": 16.0},
            {"nf": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "conditional": True, "num_channels": 3,
             "normalization": "GroupNorm", "name": "ddpm", "dropout": 0.1, "image_size": 16},
        ],
    )  # fmt: skip
    def test_ways_to_say_it(self, settings):
        assert tp.load(f"ddpm:{FILE}", **settings).shape == (3, 16, 16)

    def test_a_config_dict_of_another_package(self):
        class Config:
            def to_dict(self):
                return {"model": {}, "data": {"image_size": 16}}

        assert tp.load(f"ddpm:{FILE}", config=Config()).shape == (3, 16, 16)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"nf": 64}, "nf is 64; accepted by this file: 32"),
            ({"ch_mult": (1, 2)}, r"ch_mult is \(1, 2\); accepted by this file: \(1, 1\)"),
            ({"num_res_blocks": 2}, "num_res_blocks is 2; accepted by this file: 1"),
            ({"resamp_with_conv": False}, "resamp_with_conv is False; accepted by this file: True"),
            ({"conditional": "false"}, "conditional is False; accepted by this file: True"),
            ({"num_channels": 1}, "num_channels is 1; accepted by this file: 3"),
            ({"attn_resolutions": [16], "image_size": 16}, r"accepted by this file: \[8\]"),
            ({"attn_resolutions": []}, r"accepted by this file: those of attention at levels \[1\]"),
            ({"image_size": 17}, "image_size is 17; accepted by this file: a multiple of 2"),
            ({"image_size": "big"}, "image_size is 'big'; accepted: a whole number"),
            ({"beta_max": "much"}, "beta_max is 'much'"),
            ({"centered": "perhaps"}, "centered is 'perhaps'; accepted: True, False"),
            ({"nonlinearity": "tanh"}, "nonlinearity is 'tanh'; accepted: swish, elu, relu, lrelu"),
            ({"name": "ncsnpp"}, "name is 'ncsnpp'; accepted: ddpm"),
            ({"weights": "best"}, "weights is 'best'; accepted: ema, raw"),
            ({"colour": 3}, "a setting of ddpm is 'colour'; accepted: weights, config, nf"),
            ({"config": 7}, "config is of type int"),
            ({"config": "none.json"}, "config is 'none.json', which cannot be read"),
            ({"config": str(FILE)}, "which cannot be read; accepted: a JSON file"),
        ],
    )
    def test_what_does_not_agree_is_refused(self, settings, sentence, refuses):
        with refuses(sentence):
            tp.load(f"ddpm:{FILE}", **settings)

    def test_a_damaged_file_beside_is_named(self, place, refuses):
        for text in ("{", "[" * 100_000, "[1]"):
            (place / "config.json").write_text(text)
            with refuses("config"):
                tp.load(f"ddpm:{place.parent}")


class TestDamagedCheckpoints:
    @pytest.fixture
    def content(self, tmp_path):
        written(tmp_path / "c.pth", LAYOUTS["grey"][0])
        return torch.load(tmp_path / "c.pth", weights_only=True)

    def refused(self, content, path, refuses, sentence, **settings):
        torch.save(content, path)
        with refuses(sentence):
            tp.load(f"ddpm:{path}", **settings)

    def test_a_missing_tensor(self, content, tmp_path, refuses):
        content["model"].pop("module.all_modules.3.Conv_1.bias")
        content.pop("ema")
        self.refused(content, tmp_path / "d.pth", refuses, "all_modules.3.Conv_1.bias")

    def test_a_surplus_tensor(self, content, tmp_path, refuses):
        content["model"]["module.extra"] = torch.zeros(3)
        content.pop("ema")
        self.refused(content, tmp_path / "d.pth", refuses, "extra")

    def test_a_wrong_shape(self, content, tmp_path, refuses):
        content["model"]["module.all_modules.3.Conv_1.bias"] = torch.zeros(33)
        content.pop("ema")
        self.refused(content, tmp_path / "d.pth", refuses, "all_modules.3.Conv_1.bias")

    def test_no_averaged_weights(self, content, tmp_path, refuses):
        content.pop("ema")
        self.refused(content, tmp_path / "d.pth", refuses, "holds no averaged weights", weights="ema")

    def test_too_few_averaged_weights(self, content, tmp_path, refuses):
        content["ema"]["shadow_params"].pop()
        self.refused(content, tmp_path / "d.pth", refuses, "accepted: one for each of")
        tp.load(f"ddpm:{tmp_path / 'd.pth'}", weights="raw")

    @pytest.mark.parametrize("shadow", [torch.zeros(5), 3])
    def test_an_averaged_weight_of_another_shape(self, content, shadow, tmp_path, refuses):
        content["ema"]["shadow_params"][2] = shadow
        self.refused(content, tmp_path / "d.pth", refuses, r"the averaged weight of 'all_modules\.1\.weight'")

    def test_averaged_weights_of_another_kind(self, content, tmp_path, refuses):
        content["ema"] = {"shadow": {}}
        self.refused(content, tmp_path / "d.pth", refuses, "no list shadow_params")

    @pytest.mark.parametrize(
        "model", [{}, {"model": {}}, {"model": 3}, {"model": {"a": "b"}}, [1], {"x": torch.ones(2)}]
    )
    def test_other_contents(self, model, tmp_path, refuses):
        self.refused(model, tmp_path / "d.pth", refuses, "accepted")

    def test_a_truncated_file(self, tmp_path, refuses):
        (tmp_path / "d.pth").write_bytes(FILE.read_bytes()[:100_000])
        with refuses("d.pth"):
            tp.load(f"ddpm:{tmp_path / 'd.pth'}")


class TestLateStart:
    @pytest.mark.parametrize("n", [1, 7, 999, 1000])
    def test_any_number_of_steps(self, n):
        for settings in (
            {},
            {"start": 999},
            {"start": 0},
            {"spacing": "quad"},
            {"spacing": "quad", "start": 300},
        ):
            steps = late_start_steps(n, **settings)
            assert steps == sorted(set(steps))
            assert 0 <= steps[0] <= steps[-1] <= settings.get("start", 999)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"n": 0}, "n is 0"),
            ({"n": 1001}, "n is 1001; accepted: at most 1000 steps"),
            ({"n": 5, "start": 1000}, "start is 1000; accepted: 0 to 999"),
            ({"n": 5, "start": -1}, "start is -1"),
            ({"n": 5, "spacing": "cubic"}, "spacing is 'cubic'; accepted: uniform, quad"),
        ],
    )
    def test_refusals(self, settings, sentence, refuses):
        with refuses(sentence):
            late_start_steps(**settings)


def test_calls_by_hand(model, refuses):
    x = torch.from_numpy(WANT["x"])
    assert torch.equal(model(x, 0.5), model(x, torch.full((3,), 0.5, dtype=torch.float64)))
    with refuses("label is given, but the model .* takes no labels"):
        model(x, 0.5, [0, 1, 2])
    with refuses("t has shape .2,.; accepted: a number, or one for each item, .3,."):
        model(x, torch.zeros(2))
    with refuses("x_t has shape"):
        model(x[:, :1], 0.5)


def test_what_identifies_it_is_json(model):
    config = model.fingerprint_config()
    assert json.loads(json.dumps(config)) == config
