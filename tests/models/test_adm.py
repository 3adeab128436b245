"""guided-diffusion checkpoints: the published numbers, what tensors tell of the flags, what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import turningpoint as tp
from turningpoint.diffusion.forward import posterior
from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.sampler import Step, interpolated_log_variance
from turningpoint.diffusion.spacing import respaced_steps
from turningpoint.models import fingerprint
from turningpoint.models._adm_flags import PUBLISHED, check_told, parse, read_structure
from turningpoint.models._networks.adm_unet import ADMUNet, Attention
from turningpoint.models.adm import ADM
from turningpoint.simulation.engine import Engine
from turningpoint.simulation.noise import Address, RecordedNoise
from turningpoint.simulation.walk import FromState, Walk

GOLDEN = Path(__file__).parent / "golden" / "guided-diffusion"
NETS = ["uncond16", "classcond16"]
ONE_CALL, CHAIN = 5e-5, 2e-4
"""Of the root mean square of what is expected; as the golden data's README says."""
LAST_STEP = 3e-3
"""The same for x_0 at all steps: there the noise's error is multiplied by up to sigma / alpha = 157."""


def within(got, want, tolerance):
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.sqrt(np.mean(want**2))


class Published:
    """A golden checkpoint: what its authors' code was given, and what it returned."""

    def __init__(self, name):
        self.path = f"adm:{GOLDEN / name}.pt"
        with np.load(GOLDEN / f"{name}_expected.npz") as held:
            self.expected = {key: held[key] for key in held}
        self.plain, self.clipped = tp.load(self.path), tp.load(self.path, clip_denoised=True)
        self.labels = self.expected["y"].tolist() if "y" in self.expected else None
        self.y = None if self.labels is None else torch.tensor(self.labels)
        self.native = self.expected["timestep_map"]
        self.grid = torch.from_numpy(self.plain.usual_grid("ddpm", None).times(self.plain.schedule))
        self.turn = int(self.expected["uturn_t"])

    def __getitem__(self, key):
        return self.expected[key]

    def tensor(self, key):
        return torch.from_numpy(self.expected[key])

    def times(self, k):
        """The times (2,) of the respaced step k, and of the one after it."""
        t, s = self.grid[len(self.native) - 1 - k], self.grid[len(self.native) - k]
        return t.float().expand(2), s.float().expand(2)

    def generated(self, model, noise, sampler, **settings):
        run = tp.generate(
            model, 2, noise=noise, sampler=sampler, label=self.labels, progress=None, **settings
        )
        return run.images.values

    def draws(self, start, first=0, **address):
        """Recorded noise whose first row is ``start`` and whose k-th is the k-th step's, for both items."""
        steps = self["step_noise"]
        return RecordedNoise(
            {Address(i, **address): np.concatenate([start[i, None], steps[first:, i]]) for i in range(2)}
        )


@pytest.fixture(scope="module", params=NETS)
def net(request):
    return Published(request.param)


class TestPublishedNumbers:
    def test_network(self, net):
        outputs = [
            net.plain.network(net.tensor("x0"), torch.full((2,), int(n)), net.y) for n in net["ts_orig"]
        ]
        within(torch.stack(outputs), net["model_out"], ONE_CALL)

    def test_raw_output_and_variance_by_time(self, net):
        for n, want in zip(net["ts_orig"], net["model_out"], strict=True):
            t = net.plain.schedule.t(native=float(n)).float().expand(2)
            condition = {} if net.y is None else {"label": net.y}
            within(net.plain.raw(net.tensor("x0"), t, **condition), want, ONE_CALL)
            within(net.plain.with_variance(net.tensor("x0"), t, **condition)[1], want[:, 3:], ONE_CALL)

    def test_tables(self, net):
        clock = net.plain.schedule
        np.testing.assert_array_equal(respaced_steps(1000, 25), net.native)
        kept = clock.alphas_cumprod[net.native]
        np.testing.assert_allclose(kept, net["alphas_cumprod"], rtol=1e-10)
        betas = 1 - kept / torch.cat([torch.ones(1), kept[:-1]])
        np.testing.assert_allclose(betas, net["betas"], rtol=1e-10)

    @pytest.mark.parametrize("clip", [0, 1])
    def test_one_reverse_step(self, net, clip):
        model = net.clipped if clip else net.plain
        sampler = tp.sampler("ddpm").suited(model)
        x0, noise = net.tensor("x0"), net.tensor("noise")
        condition = {} if net.y is None else {"label": net.y}
        got = {name: [] for name in ("q", "q_mean", "mean", "variance", "log_variance", "pred_xstart")}
        for k in net["ts_resp"]:
            t, s = net.times(int(k))
            alpha, sigma = model.schedule.alpha(t)[0], model.schedule.sigma(t)[0]
            x_t = alpha * x0 + sigma * noise
            estimate, v = model.with_variance(x_t, t, **condition)
            of_x_0, of_x_t, _ = (c[0] for c in posterior(model.schedule, t, s))
            at = Step(x_t, t, s, None, x_t.new_zeros(2, 0), model.schedule, v)
            log_variance = sampler.log_variance(at)
            if k == 0:  # no noise is added there; the published table takes the variance of the next step
                small = posterior(model.schedule, *net.times(1))[2].log()[0]
                large = torch.tensor(net["betas"][0]).log()
                log_variance = interpolated_log_variance(small, large, v)
            for name, value in (
                ("q", x_t),
                ("q_mean", of_x_0 * x0 + of_x_t * x_t),
                ("mean", of_x_0 * estimate + of_x_t * x_t),
                ("variance", log_variance.exp()),
                ("log_variance", log_variance),
                ("pred_xstart", estimate),
            ):
                got[name].append(value.float())
        got = {name: torch.stack(values) for name, values in got.items()}
        within(got["q"], net["q_sample"], ONE_CALL)
        within(got["q_mean"], net["q_posterior_mean"], ONE_CALL)
        within(got["pred_xstart"], net[f"pmv_clip{clip}_pred_xstart"], LAST_STEP if clip else CHAIN)
        for name in ("mean", "variance", "log_variance"):
            within(got[name], net[f"pmv_clip{clip}_{name}"], ONE_CALL)

    def test_mean_and_noise_of_the_sampler(self, net):
        """The sampler's own step: its mean with z = 0, its standard deviation from z = 1."""
        sampler = tp.sampler("ddpm").suited(net.clipped)
        condition = {} if net.y is None else {"label": net.y}
        for place, k in enumerate(net["ts_resp"]):
            t, s = net.times(int(k))
            x_t = net.tensor("q_sample")[place]
            ends = [
                sampler.step(
                    lambda x, at: net.clipped.with_variance(x, at, **condition),
                    x_t,
                    t,
                    s,
                    net.clipped.schedule,
                    torch.full_like(x_t, z),
                )
                for z in (0.0, 1.0)
            ]
            within(ends[0], net["pmv_clip1_mean"][place], ONE_CALL)
            std = np.exp(net["pmv_clip1_log_variance"][place] / 2) * (k > 0)
            assert np.abs((ends[1] - ends[0]).numpy() - std).max() <= 1e-5

    def test_ddim(self, net):
        images = net.generated(net.clipped, net["xT"], "ddim")
        within(images, net["ddim_loop"], CHAIN)
        grey = ((torch.from_numpy(images) + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        off = np.abs(grey.numpy().astype(int) - net["ddim_loop_u8"].astype(int))
        assert off.max() <= 1
        assert (off > 0).mean() <= 0.01

    def test_ddim_unclipped(self, net):
        within(net.generated(net.plain, net["xT"], "ddim"), net["ddim_loop_noclip"], CHAIN)

    def test_ancestral(self, net):
        noise = net.draws(net["xT"], stream=1)
        within(net.generated(net.clipped, noise, "ddpm"), net["p_loop"], CHAIN)

    def test_ddim_with_noise(self, net):
        noise = net.draws(net["xT"], stream=1)
        within(net.generated(net.clipped, noise, "ddim", eta=1.0), net["ddim_eta1_loop"], CHAIN)

    @pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
    def test_uturn(self, net, sampler):
        native = int(net.native[net.turn])
        time = float(net.clipped.schedule.t(native=native))
        run = tp.uturn(
            net.clipped,
            net["x0"],
            native=[native],
            sampler=sampler,
            label=net.labels,
            noise=net.draws(net["noise"], time=time),
            record=[tp.Record("state", (time,))],
            progress=None,
        )
        want = net[f"uturn_{'ddim' if sampler == 'ddim' else 'ancestral'}_from_t"]
        within(run.images.values.reshape(want.shape), want, CHAIN)
        within(run.data.state.values.reshape(want.shape), net["uturn_xt"], ONE_CALL)

    @pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
    def test_uturn_that_starts_one_step_lower(self, net, sampler):
        """The published off-by-one: the state of index t is taken for that of index t - 1."""
        times = net.grid.numpy()[len(net.native) - net.turn :]
        conditions = [{} if net.labels is None else {"label": label} for label in net.labels or (None, None)]
        walks = [
            Walk(Address(i, time=float(times[0])), FromState(net["uturn_xt"][i]), times, conditions[i])
            for i in range(2)
        ]
        model = net.clipped
        noise = net.draws(net["noise"], time=float(times[0]))
        engine = Engine(model, tp.sampler(sampler).suited(model), noise, batch=2)
        ends = {done.walk.address.item: done.values["final"] for done in engine.simulate(walks)}
        want = net[f"uturn_{'ddim' if sampler == 'ddim' else 'ancestral'}_from_t_minus_1"]
        within(np.stack([ends[0], ends[1]]), want, CHAIN)


def saved(folder, name="net.pt", dtype=torch.float32, seed=0, **settings):
    """A network with random weights, and the path of its state dict."""
    channels, learn_sigma = settings.pop("in_channels", 3), settings.pop("learn_sigma", True)
    network = ADMUNet(channels, channels * (1 + learn_sigma), **{"num_channels": 32} | settings)
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.05 * torch.randn(p.shape, generator=generator) + (p.ndim == 1) * p.data
    path = folder / name
    torch.save({key: value.to(dtype) for key, value in network.state_dict().items()}, path)
    return path, network.to(dtype).float().eval().requires_grad_(False)


TINY = {"num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,), "num_heads": 4}
OTHERS = [
    (16, TINY | {"num_res_blocks": 2, "attention": (1, 2), "use_scale_shift_norm": False}),
    (64, TINY | {"channel_mult": (1, 2, 3, 4), "attention": (2, 8), "resblock_updown": True}),
    (8, TINY | {"num_channels": 64, "channel_mult": (0.5, 1), "num_classes": 5, "learn_sigma": False}),
    (4, TINY | {"channel_mult": (1,), "attention": (), "in_channels": 1}),
    (16, TINY | {"use_new_attention_order": True, "num_head_channels": 16, "channel_mult": (2, 1, 1)}),
    (16, TINY | {"num_heads_upsample": 2, "num_classes": 3, "resblock_updown": True}),
]


class TestFlagsFromTensors:
    @pytest.mark.parametrize(("side", "settings"), OTHERS)
    def test_what_tensors_tell(self, tmp_path, side, settings):
        path, network = saved(tmp_path, **settings)
        hidden = {"num_heads_upsample", "num_head_channels", "use_new_attention_order"}
        told = {flag: value for flag, value in settings.items() if flag in hidden}
        model = tp.load(f"adm:{path}", image_size=side, **told)

        factors = settings["attention"]
        found = read_structure({k: tuple(v.shape) for k, v in network.state_dict().items()}, "net.pt")
        assert found["attention_resolutions"] == factors
        assert found["in_channels"] == settings.get("in_channels", 3)
        assert found["learn_sigma"] == settings.get("learn_sigma", True) == model.learned_variance
        assert found["class_cond"] == ("num_classes" in settings)
        assert found["num_classes"] == settings.get("num_classes") == model.n_classes
        assert found["use_scale_shift_norm"] == settings.get("use_scale_shift_norm", True)
        for flag in ("num_channels", "num_res_blocks", "channel_mult"):
            assert found[flag] == ({"num_channels": 32} | settings)[flag]
        if len(settings["channel_mult"]) > 1:
            assert found["resblock_updown"] == settings.get("resblock_updown", False)

        assert model.shape == (found["in_channels"], side, side)
        x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(3))
        y = None if model.n_classes is None else torch.tensor([0, 2])
        n = torch.tensor([4.0, 998.0])
        assert torch.equal(model.network(x, n, y), network(x, n, y))
        in_full = {
            "num_channels": found["num_channels"],
            "num_res_blocks": str(found["num_res_blocks"]),
            "channel_mult": ",".join(f"{m:g}" for m in found["channel_mult"]),
            "attention_resolutions": [side // factor for factor in factors],
            "class_cond": found["class_cond"],
            "learn_sigma": str(found["learn_sigma"]),
            "use_scale_shift_norm": int(found["use_scale_shift_norm"]),
            "resblock_updown": settings.get("resblock_updown", False),
        }
        again = tp.load(f"adm:{path}", image_size=side, **told, **in_full)
        assert fingerprint(again) == fingerprint(model)

    def test_widths_are_rounded_down(self, tmp_path):
        path, _ = saved(tmp_path, **TINY | {"num_channels": 96, "channel_mult": (1 / 3, 1)})
        tp.load(f"adm:{path}", image_size=16, channel_mult="0.334,1")

    def test_attention_beyond_the_levels_is_no_contradiction(self, tmp_path):
        path, _ = saved(tmp_path, **TINY)
        tp.load(f"adm:{path}", image_size=16, attention_resolutions="8,4,2,1")

    @pytest.mark.parametrize(
        ("flag", "value", "says"),
        [
            ("num_channels", 64, "64, but the tensors of net.pt say 32"),
            ("num_res_blocks", 2, "2, but the tensors of net.pt say 1"),
            ("channel_mult", "1,2,2", "1,2,2, but the tensors of net.pt say 1,2"),
            ("channel_mult", "", "1,2,3,4, but the tensors of net.pt say 1,2"),
            ("attention_resolutions", "64", "64, but the tensors of net.pt say 32"),
            ("attention_resolutions", "16,8", "16,8, but the tensors of net.pt say 32"),
            ("class_cond", True, "True, but the tensors of net.pt say False"),
            ("learn_sigma", "false", "False, but the tensors of net.pt say True"),
            ("use_scale_shift_norm", False, "False, but the tensors of net.pt say True"),
            ("resblock_updown", True, "True, but the tensors of net.pt say False"),
        ],
    )
    def test_contradictions(self, tmp_path, refuses, flag, value, says):
        path, _ = saved(tmp_path, **TINY)
        with refuses(f"^{flag} is {says}"):
            tp.load(f"adm:{path}", image_size=64, **{flag: value})

    def test_what_no_tensor_tells_is_assumed_and_said(self, tmp_path):
        path, _ = saved(tmp_path, **TINY)
        by_default = tp.load(f"adm:{path}", image_size=16)
        assert "num_heads=4" in by_default.about["assumed"]
        assert "noise_schedule=linear" in by_default.about["assumed"]
        told = tp.load(f"adm:{path}", image_size=16, num_head_channels=8, noise_schedule="cosine")
        assert "num_heads" not in told.about["assumed"]
        assert "noise_schedule" not in told.about["assumed"]
        heads = [m.heads for m in told.network.modules() if isinstance(m, Attention)]
        assert set(heads) == {8}
        assert len({fingerprint(m) for m in (by_default, told)}) == 2
        order = tp.load(f"adm:{path}", image_size=16, use_new_attention_order=True)
        assert fingerprint(order) != fingerprint(by_default)
        respaced = tp.load(f"adm:{path}", image_size=16, timestep_respacing=10)
        assert fingerprint(respaced) == fingerprint(by_default)

    @pytest.mark.parametrize(
        "key", ["out.2.weight", "time_embed.0.weight", "input_blocks.3.0.out_layers.3.weight"]
    )
    def test_missing_tensors(self, tmp_path, refuses, key):
        path, network = saved(tmp_path, **TINY)
        state = network.state_dict()
        del state[key]
        torch.save(state, path)
        with refuses(key):
            tp.load(f"adm:{path}", image_size=16)

    def test_missing_surplus_and_misshapen_tensors(self, tmp_path, refuses):
        path, network = saved(tmp_path, **TINY)
        state = network.state_dict()
        without = {k: v for k, v in state.items() if k != "middle_block.1.norm.bias"}
        misshapen = state | {"middle_block.1.norm.bias": torch.zeros(32)}
        for changed in (without, misshapen):
            torch.save(changed, path)
            with refuses("middle_block.1.norm.bias"):
                tp.load(f"adm:{path}", image_size=16)
        torch.save(state | {"label_mean": torch.zeros(2)}, path)
        with refuses("label_mean"):
            tp.load(f"adm:{path}", image_size=16)

    def test_other_networks(self, tmp_path, refuses):
        path, network = saved(tmp_path, **TINY)
        state = network.state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("output_blocks")}, path)
        with refuses("not a classifier"):
            tp.load(f"adm:{path}", image_size=16)
        for answers in (3, 6):
            wide = {
                "input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3),
                "out.2.weight": torch.zeros(answers, 32, 3, 3),
            }
            torch.save(state | wide, path)
            with refuses("upsampling"):
                tp.load(f"adm:{path}", image_size=16)
        torch.save({k: v for k, v in state.items() if not k.startswith("output_blocks.3")}, path)
        with refuses("3 output blocks for 2 resolutions"):
            tp.load(f"adm:{path}", image_size=16)
        torch.save({"a": torch.zeros(1)}, path)
        with refuses("no output_blocks"):
            tp.load(f"adm:{path}", image_size=16)

    @given(data=st.data())
    @settings(max_examples=150, deadline=None)
    def test_mutated_names_and_shapes(self, data):
        """Whatever the tensors are called and shaped: one sentence, or flags that a network can be made of."""
        shapes = dict(SHAPES)
        for _ in range(data.draw(st.integers(1, 3))):
            name = data.draw(st.sampled_from(sorted(shapes)))
            shape = shapes.pop(name)
            match data.draw(st.integers(0, 2)):
                case 1:
                    shapes[name] = tuple(data.draw(st.lists(st.integers(0, 4096), max_size=4)))
                case 2:
                    digits = data.draw(st.sampled_from(["0", "1", "2", "7", "99999"]))
                    shapes[re.sub(r"\d+", digits, name, count=1)] = shape
        message = "It is a network."
        try:
            found = read_structure(shapes, "net.pt")
            check_told({"image_size": 64}, found, "net.pt")
            with torch.device("meta"):
                ADMUNet(
                    found["in_channels"],
                    1,
                    attention=found["attention_resolutions"],
                    **{flag: found[flag] for flag in ("num_channels", "num_res_blocks", "channel_mult")},
                )
        except tp.TurningpointError as error:
            message = str(error)
        assert re.fullmatch(r"[^\n]+\.", message)


SHAPES = {
    name: tuple(value.shape) for name, value in ADMUNet(3, 6, num_channels=32, **TINY).state_dict().items()
}


class TestFlagsGiven:
    def test_beside_the_file(self):
        model = tp.load(f"adm:{GOLDEN / 'uncond16.pt'}")
        assert model.shape == (3, 16, 16)
        assert model.usual_grid("ddim", None) == Grid.respaced("25")
        assert "assumed" not in model.about
        flags = json.loads((GOLDEN / "uncond16.json").read_text())["flags"]
        for flag, value in flags.items():
            assert f"{flag}={value}, " in model.about["flags"] + ", "

    def test_of_golden_in_arguments(self, tmp_path):
        """Every flag as an argument and as text, without the file beside."""
        flags = json.loads((GOLDEN / "classcond16.json").read_text())["flags"]
        path = tmp_path / "net.pt"
        path.write_bytes((GOLDEN / "classcond16.pt").read_bytes())
        want = fingerprint(tp.load(f"adm:{GOLDEN / 'classcond16.pt'}"))
        assert fingerprint(tp.load(f"adm:{path}", **flags)) == want
        query = "&".join(f"{flag}={value}" for flag, value in flags.items())
        assert fingerprint(tp.load(f"adm:{path}?{query}")) == want

    def test_flat_mapping_and_precedence(self, tmp_path):
        path, _ = saved(tmp_path, **TINY)
        flags = {"image_size": 32, "num_heads": "2", "timestep_respacing": "10", "lr": 1e-4, "batch_size": 4}
        (tmp_path / "net.json").write_text(json.dumps(flags | {"num_head_channels": None}))
        model = tp.load(f"adm:{path}", image_size=16)
        assert model.shape == (3, 16, 16)
        assert model.usual_grid("ddpm", None) == Grid.respaced("10")
        assert {m.heads for m in model.network.modules() if isinstance(m, Attention)} == {2}
        assert model.about["ignored"] == "lr, batch_size (beside the file)"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[1, 2]", "holds no flags"),
            ('{"flags": 3}', "holds no flags"),
            ("{image_size: 64}", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ('{"imagesize": 64}', "imagesize is 64, .* did you mean image_size"),
            ('{"image_size": "large"}', "image_size is 'large'"),
            ('{"image_size": 16, "num_heads": 1' + "0" * 5000 + "}", "is not JSON"),
            (" " * 2**21, "has more than"),
        ],
    )
    def test_bad_files_beside(self, tmp_path, refuses, text, says):
        path, _ = saved(tmp_path, **TINY)
        (tmp_path / "net.json").write_text(text)
        with refuses(says):
            tp.load(f"adm:{path}")

    def test_published_names(self, tmp_path):
        small = TINY | {"num_head_channels": 64, "num_channels": 64, "use_new_attention_order": True}
        path, network = saved(tmp_path, "64x64_diffusion.pt", **small)
        model = tp.load(f"adm:{path}")
        assert model.shape == (3, 64, 64)
        assert model.schedule.name == "cosine"
        assert "assumed" not in model.about
        assert "float16" in model.about["half precision"]
        x, n = torch.ones(1, 3, 8, 8), torch.tensor([7.0])
        assert torch.equal(model.network(x, n), network(x, n))
        path, _ = saved(tmp_path, "cifar10_uncond_50M_500K.pt", **TINY)
        model = tp.load(f"adm:{path}")
        assert (model.shape, model.schedule.steps, model.time_scale) == ((3, 32, 32), 4000, 0.25)

    @pytest.mark.parametrize("name", sorted(PUBLISHED))
    def test_published_flags_are_flags(self, name):
        assert parse(PUBLISHED[name]) == PUBLISHED[name]

    @pytest.mark.parametrize(
        ("flag", "value", "says"),
        [
            ("num_head_chanels", 64, "did you mean num_head_channels"),
            ("colour", 1, "accepted: image_size, num_channels"),
            ("image_size", 0, "image_size is 0"),
            ("image_size", 15, "image_size is 15; accepted: a multiple of 2"),
            ("image_size", "1" * 5000, "image_size is"),
            ("num_heads", 3, "num_heads is 3"),
            ("num_heads", -1, "num_heads is -1"),
            ("num_head_channels", 24, "num_head_channels is 24"),
            ("attention_resolutions", "16;8", "attention_resolutions is '16;8'"),
            ("channel_mult", (1, -2), "channel_mult is"),
            ("channel_mult", "nan,1", "channel_mult is"),
            ("dropout", "high", "dropout is 'high'"),
            ("learn_sigma", "perhaps", "learn_sigma is 'perhaps'; accepted: true or false"),
            ("noise_schedule", "sigmoid", "noise_schedule is 'sigmoid'; accepted: linear, cosine"),
            ("diffusion_steps", 10, "diffusion_steps is 10; accepted with the linear schedule"),
            ("diffusion_steps", 10**9, "diffusion_steps is 1000000000; accepted: 1 to 100000"),
            ("timestep_respacing", "2000", "timestep_respacing is '2000'"),
            ("timestep_respacing", "fast", "timestep_respacing is 'fast'"),
            ("timestep_respacing", "1" * 5000, "timestep_respacing has 5000 characters"),
        ],
    )
    def test_refused(self, tmp_path, refuses, flag, value, says):
        path, _ = saved(tmp_path, **TINY)
        with refuses(says):
            tp.load(f"adm:{path}", **{"image_size": 16} | {flag: value})

    def test_image_size_is_asked_for(self, tmp_path, refuses):
        path, _ = saved(tmp_path, **TINY)
        with refuses("image_size is not given, and net.pt does not tell it"):
            tp.load(f"adm:{path}")
        with refuses("net2.pt"):
            tp.load(f"adm:{tmp_path / 'net2.pt'}", image_size=16)

    @pytest.mark.parametrize(
        ("given", "steps"),
        [("25", "25"), (25, "25"), ("ddim25", "ddim25"), ([10, 15], "10,15"), ("10, 15", "10,15")],
    )
    def test_respacings(self, tmp_path, given, steps):
        path, _ = saved(tmp_path, **TINY)
        model = tp.load(f"adm:{path}", image_size=16, timestep_respacing=given)
        times = model.usual_grid("ddpm", None).times(model.schedule)
        assert len(times) == 26
        np.testing.assert_allclose(times[:-1] * 1000 - 1, respaced_steps(1000, steps)[::-1], atol=1e-9)


class TestProcess:
    """What a loaded model makes of its network's answer."""

    def settings(self, **flags):
        return {"image_size": 8, "noise_schedule": "cosine", "diffusion_steps": 40} | flags

    @pytest.mark.parametrize("rescale", [False, True])
    def test_estimate_from_noise_and_from_data(self, tmp_path, rescale):
        path, network = saved(tmp_path, **TINY, num_classes=3)
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        y = torch.tensor([2, 0])
        index = torch.tensor([5, 30])
        kept = np.cos((((index.numpy() + 1) / 40 + 0.008) / 1.008) * np.pi / 2) ** 2
        kept = torch.from_numpy(kept / np.cos(0.008 / 1.008 * np.pi / 2) ** 2).float()[:, None, None, None]
        answer = network(x, index * (25.0 if rescale else 1.0), y)
        flags = self.settings(rescale_timesteps=rescale)
        model = tp.load(f"adm:{path}", **flags)
        t = model.schedule.t(native=index).float()
        want = (x - (1 - kept).sqrt() * answer[:, :3]) / kept.sqrt()
        torch.testing.assert_close(model(x, t, y), want, rtol=1e-4, atol=1e-5)
        of_data = tp.load(f"adm:{path}", predict_xstart=True, **flags)
        torch.testing.assert_close(of_data(x, t, y), answer[:, :3], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            of_data.with_variance(x, t, label=y)[1], answer[:, 3:], rtol=1e-5, atol=1e-6
        )

    def test_linear_schedule_of_other_lengths(self, tmp_path):
        path, _ = saved(tmp_path, **TINY)
        model = tp.load(f"adm:{path}", image_size=8, diffusion_steps=250)
        np.testing.assert_allclose(model.schedule.betas, np.linspace(4e-4, 0.08, 250), rtol=1e-12)

    @pytest.mark.parametrize(("flags", "variance"), [({}, "large"), ({"sigma_small": True}, "small")])
    def test_fixed_variances(self, tmp_path, flags, variance):
        path, _ = saved(tmp_path, **TINY, learn_sigma=False)
        model = tp.load(f"adm:{path}", **self.settings(**flags))
        assert (model.usual_variance, model.learned_variance) == (variance, False)
        assert tp.sampler("ddpm").suited(model).variance == variance

    def test_usual_grids(self, tmp_path):
        path, _ = saved(tmp_path, **TINY)
        plain = tp.load(f"adm:{path}", **self.settings())
        assert plain.usual_grid("ddpm", None) == Grid.respaced(40)
        assert plain.usual_grid("ddim", 10) == Grid.respaced("10")
        assert plain.usual_grid("heun", 10) is None
        respaced = tp.load(f"adm:{path}", **self.settings(timestep_respacing="ddim20"))
        assert respaced.usual_grid("ddim", None) == respaced.usual_grid("ddim", 20) == Grid.respaced("ddim20")
        assert respaced.usual_grid("ddim", 10) == Grid.respaced("10")

    def test_weights_in_half(self, tmp_path):
        path, network = saved(tmp_path, dtype=torch.float16, **TINY)
        model = tp.load(f"adm:{path}", **self.settings())
        assert model.dtype == torch.float32
        x, n = torch.ones(1, 3, 8, 8), torch.tensor([7.0])
        assert torch.equal(model.network(x, n), network(x, n))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_network_in_half(self, dtype):
        net = Published("classcond16")
        half = tp.load(net.path, dtype=dtype)
        assert half.dtype == getattr(torch, dtype)
        t, label = half.schedule.t(native=[137, 137]).float(), net.y
        got = half.raw(net.tensor("x0"), t, label)
        assert got.dtype == torch.float32
        within(got, net["model_out"][1], 32 * torch.finfo(half.dtype).eps)

    def test_labels_are_needed(self, tmp_path, refuses):
        path, _ = saved(tmp_path, **TINY, num_classes=3)
        model = tp.load(f"adm:{path}", **self.settings())
        x, t = torch.zeros(2, 3, 8, 8), torch.full((2,), 0.5)
        with refuses("label is None, but the model .* has no answer without a class; accepted: 0 to 2"):
            model(x, t)
        with refuses("label is None"):
            tp.generate(model, 2, steps=2, sampler="ddim", progress=None)
        for wrong in (-1, 3):
            with refuses("label"):
                tp.generate(model, 2, steps=2, sampler="ddim", label=wrong, progress=None)
            with refuses("label"):
                model(x, t, torch.tensor([0, wrong]))
        with refuses("guidance is given, but the model .* was trained with labels only"):
            tp.generate(model, 2, steps=2, sampler="ddim", label=1, guidance=2.0, progress=None)
        with refuses("label"):
            tp.Guided(model, 2.0)(x, t, torch.tensor([0, 1]))

    def test_labels_are_not_taken(self, tmp_path, refuses):
        path, _ = saved(tmp_path, **TINY)
        model = tp.load(f"adm:{path}", **self.settings())
        assert isinstance(model, ADM)
        with refuses("takes no labels"):
            tp.generate(model, 2, steps=2, sampler="ddim", label=1, progress=None)
        with refuses("label is given, but the model .* takes no labels"):
            model(torch.zeros(1, 3, 8, 8), 0.5, 1)

    def test_labels_are_anything_that_holds_numbers(self, tmp_path, refuses):
        path, _ = saved(tmp_path, **TINY, num_classes=3)
        model = tp.load(f"adm:{path}", **self.settings())
        x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)
        want = model(x, t, torch.tensor([2, 0]))
        for told in ([2, 0], np.array([2, 0]), torch.eye(3)[[2, 0]], np.eye(3, dtype=np.int64)[[2, 0]]):
            assert torch.equal(model(x, t, told), want)
            assert torch.equal(model.with_variance(x, 0.5, label=told)[0], want)
        assert torch.equal(model(x, 0.5, 1), model(x, t.double(), torch.tensor([1, 1])))
        with refuses(r"label is \[1, -1\], but the model .* has no answer without a class; accepted: 0 to 2"):
            model(x, t, torch.tensor([[0, 1, 0], [0, 0, 0]]))
        with refuses(r"label is \[0, 3\]; accepted: 0 to 2\.$"):
            model(x, t, [0, 3])
        for wrong in ([0, 1, 2], torch.zeros(2, 4), torch.zeros(2)):
            with refuses("label has shape .*accepted: whole numbers .2,., or one-hot labels .2, 3."):
                model(x, t, wrong)
        with refuses("x_t has shape .*, 1, 8, 8"):
            model(x[:, :1], t, 1)
        for call in (model, model.with_variance):
            with refuses("t has shape .3,."):
                call(x, torch.zeros(3), label=1)

    def test_what_identifies_it_is_json(self, net):
        config = net.plain.fingerprint_config()
        assert config["heads"]
        assert json.loads(json.dumps(config)) == config
