"""``edm``: the published numbers of golden pickles, and what the denoiser made of one can be told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.diffusion.discretization import RANGES, karras_grid
from turningpoint.models._describe import describe
from turningpoint.simulation.noise import Address, RecordedNoise

GOLDEN = Path(__file__).parent / "golden" / "edm"
NETS = ("ddpmpp_edm", "ddpmpp_vp_aug9", "ncsnpp_ve", "adm_edm_cond5", "ddpmpp_iddpm_cond3")
FAMILIES = dict(zip(NETS, ("ddpm++", "ddpm++", "ncsn++", "ADM", "ddpm++"), strict=True))
ONE_CALL, CHAIN = 5e-5, 2e-4
B = 2


def relative(got, want):
    """The largest error, in units of the root mean square of what is wanted."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.mean(want**2))


def golden(name):
    return np.load(GOLDEN / f"{name}_expected.npz")


def net(name, **settings):
    return tp.load(f"edm:{GOLDEN / name}.pkl", **settings)


def noisy(want, sigma):
    """The inputs of a single call: x0 + sigma noise."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return (torch.from_numpy(want["x0"]) + sigma * torch.from_numpy(want["noise"])).float()


def labels(want, key="labels"):
    return torch.from_numpy(want[key]) if key in want else None


# -- published numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_single_calls_return_the_published_numbers(name):
    m, want = net(name), golden(name)
    got = [
        m(noisy(want, sigma), m.schedule.t(sigma=float(sigma)).expand(B), label=labels(want))
        for sigma in want["sigmas"]
    ]
    assert relative(torch.stack(got), want["D"]) < ONE_CALL
    assert got[0].dtype == torch.float32
    both = torch.tensor([0.5, 50.0], dtype=torch.float64)
    got = m(noisy(want, both), m.schedule.t(sigma=both), label=labels(want))
    assert relative(got, want["D_sigma_batch"]) < ONE_CALL
    got = m.network(
        torch.from_numpy(want["x0"]), torch.from_numpy(want["F_raw_c_noise"]).expand(B), labels(want)
    )
    assert relative(got, want["F_raw"]) < ONE_CALL


@pytest.mark.parametrize("name", ["adm_edm_cond5", "ddpmpp_iddpm_cond3"])
def test_labels_are_indices_or_one_hot_and_none_is_zeros(name):
    m, want = net(name), golden(name)
    x, t = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B)
    index = labels(want).argmax(1)
    assert relative(m(x, t, label=index), want["D"][list(want["sigmas"]).index(5)]) < ONE_CALL
    for none in (None, torch.full((B,), -1), torch.zeros(B, m.n_classes)):
        assert relative(m(x, t, label=none), want["D_nolabel"]) < ONE_CALL
    half = m(x, t, label=torch.tensor([int(index[0]), -1]))
    assert relative(half[1], want["D_nolabel"][1]) < ONE_CALL
    assert relative(half[0], want["D"][2][0]) < ONE_CALL


def test_augmentation_labels():
    m, want = net("ddpmpp_vp_aug9"), golden("ddpmpp_vp_aug9")
    x, t = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B)
    told = torch.from_numpy(want["augment_labels"])
    assert relative(m(x, t, augment_labels=told), want["D_augment"]) < ONE_CALL
    assert torch.equal(m(x, t, augment_labels=torch.zeros(B, 9)), m(x, t))


def generated(m, want, sampler="heun", **settings):
    told = labels(want, "sampler_labels")
    given = {} if told is None else {"label": told.argmax(1).tolist()}
    settings = {"noise": torch.from_numpy(want["latents"])} | given | settings
    return tp.generate(m, sampler=sampler, steps=8, progress=None, **settings).images


@pytest.mark.parametrize("name", NETS)
def test_the_sampler_of_edm_returns_the_published_images(name):
    want = golden(name)
    images = generated(net(name), want)
    assert relative(images, want["heun8"]) < CHAIN
    bytes_ = (np.asarray(images) * 127.5 + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    off = np.abs(bytes_.astype(int) - want["heun8_u8"])
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.01
    other = net(name, sigma_min=0.05, sigma_max=20, rho=5)
    assert relative(generated(other, want), want["heun8_smax20_rho5"]) < CHAIN


@pytest.mark.parametrize("name", NETS)
def test_churn_with_the_published_draws(name):
    want = golden(name)
    draws = {
        Address(i, stream=1): np.concatenate([want["latents"][i : i + 1], want["churn_noise"][:, i]])
        for i in range(B)
    }
    churn = {"churn": 40, "churn_min": 0.05, "churn_max": 50, "churn_noise": 1.003}
    images = generated(net(name), want, noise=RecordedNoise(draws), n=B, **churn)
    assert relative(images, want["churn8"]) < CHAIN


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("key", "sampler", "kind"),
    [
        ("abl_vp_euler", "euler_vp", "vp"),
        ("abl_vp_heun", "heun_vp", "vp"),
        ("abl_ve_euler", "euler_ve", "ve"),
        ("abl_edm_heun", "heun", "edm"),
        ("abl_ddim_euler", "euler", "iddpm"),
        ("abl_ddim_euler", "ddim", "iddpm"),
    ],
)
def test_other_discretizations_and_coordinates_return_the_published_images(name, key, sampler, kind):
    want = golden(name)
    m = net(name, sigma_min=RANGES[kind][0], sigma_max=RANGES[kind][1])
    grid = karras_grid(m.schedule, "iddpm", 8, m.sigma_range) if kind == "iddpm" else None
    assert relative(generated(m, want, sampler, grid=grid), want[key]) < CHAIN


def test_images_generated_one_by_one_are_those_of_a_batch():
    m, want = net("adm_edm_cond5"), golden("adm_edm_cond5")
    assert relative(generated(m, want, batch=1), generated(m, want)) < 1e-5


# -- the denoiser ------------------------------------------------------------------------------------------


def test_the_clock_answers_for_every_sigma_in_double_precision():
    for name in NETS:
        clock = net(name).schedule
        sigma = torch.tensor([0.0, 1e-5, 0.002, 5.0, 80.0, 1e4], dtype=torch.float64)
        t = clock.t(sigma=sigma)
        assert t.dtype == torch.float64
        assert torch.allclose(clock.sigma(t), sigma, rtol=1e-12, atol=0)
        assert torch.equal(clock.alpha(t), torch.ones_like(t))


def test_without_noise_the_image_is_the_data():
    for name in NETS:
        m, want = net(name), golden(name)
        x = torch.from_numpy(want["x0"])
        assert torch.allclose(m(x, torch.zeros(B)), x, atol=1e-6)


def test_times_in_single_precision_are_enough():
    for name in NETS:
        m, want = net(name), golden(name)
        x, t = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B)
        assert relative(m(x, t.float()), m(x, t)) < 2e-5


def test_the_range_of_samplers_is_narrowed_to_that_of_the_network(refuses):
    ranges = {name: net(name).sigma_range for name in NETS}
    assert ranges["ddpmpp_edm"] == ranges["ddpmpp_vp_aug9"] == (0.002, 80.0)
    assert ranges["ncsnpp_ve"] == (0.02, 80.0)
    assert ranges["ddpmpp_iddpm_cond3"] == pytest.approx((0.0064223, 80.0), rel=1e-4)
    wide = {"sigma_min": 1e-5, "sigma_max": 1e4}
    assert net("ncsnpp_ve", **wide).sigma_range == (0.02, 100.0)
    assert net("ddpmpp_edm", **wide).sigma_range == (1e-5, 1e4)
    assert net("ddpmpp_vp_aug9", **wide).sigma_range == pytest.approx((0.001, 152.167), rel=0.03)
    by_text = tp.load(f"edm:{GOLDEN}/ncsnpp_ve.pkl?sigma_max=20&rho=5")
    assert (by_text.sigma_range, by_text.schedule.rho) == ((0.02, 20.0), 5.0)
    for settings in ({"sigma_min": 200.0}, {"sigma_max": 0.01}, {"sigma_min": 5, "sigma_max": 5}):
        with refuses("overlaps with 0.02 to 100"):
            net("ncsnpp_ve", **settings)
    for settings in ({"sigma_min": -1}, {"sigma_max": "much"}, {"rho": 0}, {"sigma_max": float("inf")}):
        with refuses(next(iter(settings))):
            net("ncsnpp_ve", **settings)


def test_a_network_with_levels_is_asked_for_nothing_between_them():
    m = net("ddpmpp_iddpm_cond3")
    u = m.preconditioning.u.double()
    for sampler in ("heun", "euler", "euler_vp", "heun_ve"):
        times = m.usual_grid(sampler, 12).times(m.schedule)
        sigma = m.schedule.sigma(torch.from_numpy(times))
        assert times[0] <= 1
        assert torch.allclose(
            (sigma[:, None] / u).log().abs().nan_to_num(0).min(1).values[:-1],
            torch.zeros(12).double(),
            atol=1e-9,
        )
    t = m.schedule.snap(m.schedule.t(sigma=5.0))
    assert float(m.native(t[None])) == 999 - int((u - 5).abs().argmin())


def test_the_number_of_steps_is_that_of_its_authors_unless_told():
    m = net("ddpmpp_edm")
    assert m.usual_grid("heun", None) == tp.diffusion.grid.Grid(18, "rho")
    assert m.usual_grid("ddpm", None) is None
    sigma = m.schedule.sigma(m.usual_grid("heun", 18).times(m.schedule))
    stored = np.load(GOLDEN / "timesteps.npz")["edm_n18_min0.002_max80_rho7"]
    assert np.allclose(sigma, stored, rtol=1e-10, atol=0)


def test_conditions_of_walks_and_what_a_network_cannot_be_told(refuses):
    m = net("adm_edm_cond5")
    told = m.conditions([{"label": 3}, {}], torch.device("cpu"))
    assert told["label"].tolist() == [3, -1]
    x, t = torch.zeros(2, 3, 16, 16), torch.full((2,), 0.5)
    for wrong, match in (
        (torch.tensor([5, 0]), "0 to 4"),
        (torch.zeros(2, 4), "one-hot labels"),
        (torch.zeros(2), "whole numbers"),
        (torch.zeros(3, dtype=torch.long), "whole numbers"),
    ):
        with refuses(match):
            m(x, t, label=wrong)
    with refuses("augment_labels"):
        m(x, t, augment_labels=torch.zeros(2, 9))
    with refuses("takes no labels"):
        net("ddpmpp_edm")(x, t, label=torch.tensor([0, 0]))
    with refuses("label"):
        tp.generate(m, 1, label=5, steps=2)


def test_guidance_with_the_absence_of_a_label():
    m, want = net("adm_edm_cond5"), golden("adm_edm_cond5")
    x, t, index = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B), labels(want).argmax(1)
    from turningpoint.diffusion.guidance import Guided

    guided = Guided(m, 2.0)(x, t, label=index)
    assert relative(guided, 2 * want["D"][2] - want["D_nolabel"]) < 2 * ONE_CALL


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    for name in ("ncsnpp_ve", "adm_edm_cond5", "ddpmpp_vp_aug9"):
        m, want = net(name, dtype=dtype), golden(name)
        x, t = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B)
        got = m(x, t, label=labels(want))
        assert got.dtype == torch.float32
        assert relative(got, want["D"][2]) < (0.01 if dtype == "float16" else 0.08)


def test_channels_last_and_clipping():
    want = golden("ddpmpp_edm")
    m = net("ddpmpp_edm", channels_last=True, clip_denoised=True)
    x, t = noisy(want, 5.0), m.schedule.t(sigma=5.0).expand(B)
    assert np.abs(m(x, t).numpy() - want["D"][2].clip(-1, 1)).max() < 1e-4


def test_what_is_told_about_a_network():
    for name in NETS:
        told = describe(net(name))
        assert told["format"] == "EDM pickle"
        assert FAMILIES[name] in told["network"]
        assert told["licence"].startswith("not stated")
        assert told["augmentation inputs"] == (9 if name.endswith("aug9") else 0)
    assert describe(net("adm_edm_cond5"))["conditioning"] == "labels 0 to 4, or none"
    assert describe(net("ddpmpp_vp_aug9"))["parameters"] == 183155


def test_a_uturn_with_an_edm_network_keeps_an_image_that_it_hardly_disturbs():
    m, want = net("ddpmpp_edm"), golden("ddpmpp_edm")
    run = tp.uturn(
        m, want["x0"], times=[float(m.schedule.t(sigma=0.01))], steps=18, sampler="heun", progress=None
    )
    assert np.abs(np.asarray(run.images).reshape(want["x0"].shape) - want["x0"]).max() < 0.1


def test_labels_and_times_are_anything_that_holds_numbers():
    m = net("adm_edm_cond5")
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.full((3,), 0.5, dtype=torch.float64)
    want = m(x, t, label=torch.tensor([0, 1, 2]))
    for told in (
        [0, 1, 2],
        (0, 1, 2),
        np.array([0, 1, 2]),
        np.eye(5)[:3],
        torch.eye(5, dtype=torch.int64)[:3],
    ):
        assert torch.equal(m(x, t, label=told), want)
    assert torch.equal(m(x, t, label=4), m(x, t, label=torch.full((3,), 4)))
    for one in (0.5, torch.tensor(0.5), np.float64(0.5)):
        assert torch.equal(m(x, one, label=[0, 1, 2]), want)
    told = golden("ddpmpp_vp_aug9")["augment_labels"]
    m, x = net("ddpmpp_vp_aug9"), noisy(golden("ddpmpp_vp_aug9"), 5.0)
    assert torch.equal(m(x, 0.5, augment_labels=told), m(x, 0.5, augment_labels=torch.from_numpy(told)))


def test_calls_of_another_shape(refuses):
    m, x, t = net("adm_edm_cond5"), torch.zeros(3, 3, 16, 16), torch.full((3,), 0.5)
    for wrong in ([0, 1], "cat", [0, None, 1], 0.5, [[0], [1]]):
        with refuses("label .*accepted: whole numbers .3,., or one-hot labels .3, 5."):
            m(x, t, label=wrong)
    for wrong in (torch.zeros(2), torch.zeros(1), [0.5, 0.5], torch.zeros(3, 1)):
        with refuses(r"t has shape .*; accepted: a number, or one for each item, \(3,\)"):
            m(x, wrong)
    with refuses("t is 'noon'"):
        m(x, "noon")
    for wrong in (x[:, :1], x[0], x[..., :8], x.numpy()):
        with refuses(r"x_t .*accepted by the model .*: a tensor \(B, 3, 16, 16\)"):
            m(wrong, t)
    with refuses("augment_labels is 'flip'; accepted by this network: None"):
        m(x, t, augment_labels="flip")


@pytest.mark.parametrize("name", NETS)
def test_what_identifies_a_network_is_json(name):
    config = net(name).fingerprint_config()
    assert json.loads(json.dumps(config)) == config


def test_settings_that_there_are_not(refuses):
    with refuses("foo is given, but edm: takes no such setting; accepted: sigma_min, sigma_max, rho, dtype"):
        tp.load(f"edm:{GOLDEN}/ncsnpp_ve.pkl?foo=1")


def test_checkpoints_of_other_families(refuses, tmp_path):
    adm = GOLDEN.parent / "guided-diffusion" / "uncond16.pt"
    ddpm = next((GOLDEN.parent / "symmetry_breaking").rglob("checkpoint_*.pth"))
    for file, reader, schemes in (
        (adm, "adm", ("edm", "ddpm")),
        (ddpm, "ddpm", ("edm", "adm")),
        (GOLDEN / "ncsnpp_ve.pkl", "edm", ("adm", "ddpm")),
    ):
        for scheme in schemes:
            with refuses(f"{file.name}' is a checkpoint that {reader}: reads, not {scheme}:"):
                tp.load(f"{scheme}:{file}")
    torch.save({f"a.long.name.of.a.layer.{k}": torch.zeros(1) for k in range(5)}, tmp_path / "net.pt")
    with refuses("layer.0, a.long.name.of.a.layer.1, a.long.name.of.a.layer.2, ...; accepted: ema, net"):
        tp.load(f"edm:{tmp_path / 'net.pt'}")
