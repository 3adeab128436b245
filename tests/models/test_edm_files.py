"""``edm``: pickles of every kind of network come back as they were; files that lie are told in one sentence."""

import contextlib
import inspect
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from edm_pickles import Recorded, scramble, snapshot, state_of, write

import turningpoint as tp
from turningpoint.errors import TurningpointError
from turningpoint.models import fingerprint
from turningpoint.models._edm_snapshot import recorded_network, stated_licence
from turningpoint.models._networks.dhariwal import DhariwalUNet
from turningpoint.models._networks.songunet import SongUNet
from turningpoint.models._preconditioning import EDMPrecond, VEPrecond, VPPrecond, iDDPMPrecond
from turningpoint.models._reading.checkpoint import read_checkpoint

ONE_CALL = 5e-5
HOSTILE = Path(__file__).parent / "golden" / "edm" / "hostile"


def relative(got, want):
    """The largest error, in units of the root mean square of what is wanted."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.sqrt(np.mean(want**2))


TINY = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16, "num_blocks": 1}
SONG = {
    "skip and skip": {"encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]},
    "skip down": {"encoder_type": "skip", "channel_mult": [1, 2, 1], "attn_resolutions": [4]},
    "skip up": {"decoder_type": "skip", "channel_mult": [2, 1, 1], "num_blocks": 2},
    "residual": {
        "encoder_type": "residual",
        "decoder_type": "skip",
        "embedding_type": "fourier",
        "channel_mult": [1, 2, 3],
        "channel_mult_noise": 2,
    },
    "wide": {"channel_mult_emb": 2, "label_dim": 4, "augment_dim": 6, "label_dropout": 0.1, "dropout": 0.2},
    "one level": {"channel_mult": [1], "num_blocks": 3, "attn_resolutions": [8]},
    "no blocks": {
        "channel_mult": [2, 1],
        "num_blocks": 0,
        "encoder_type": "residual",
        "decoder_type": "skip",
    },
}
DHARIWAL = {
    "heads": {"model_channels": 64, "channel_mult": [1, 2], "attn_resolutions": [8, 4]},
    "labels": {
        "channel_mult": [2, 3],
        "label_dim": 7,
        "augment_dim": 3,
        "channel_mult_emb": 1,
        "num_blocks": 2,
    },
}


def tiny(kind, **kwargs):
    arguments = TINY | {"channel_mult": [1, 2], "attn_resolutions": []} | kwargs
    return scramble(kind(**arguments)), arguments


@pytest.mark.parametrize("case", [*SONG, *DHARIWAL])
def test_networks_of_other_arguments_come_back_as_they_were(case, tmp_path):
    kind = SongUNet if case in SONG else DhariwalUNet
    network, arguments = tiny(kind, **(SONG | DHARIWAL)[case])
    m = tp.load(write(tmp_path / "net.pkl", snapshot(network, arguments)))
    generator = torch.Generator().manual_seed(3)
    x, c = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([-0.7, 0.4])
    one_hot = torch.eye(m.n_classes)[:2] if m.n_classes else None
    told = torch.randn(2, m.augment_dim, generator=generator) if m.augment_dim else None
    got, want = m.network(x, c, one_hot, told), network(x, c, one_hot, told)
    assert got.shape == (2, 3, 8, 8)
    assert torch.equal(got, want)
    assert float(want.std()) > 0.05
    if told is not None:
        assert not torch.allclose(want, network(x, c, one_hot))
        assert not torch.allclose(want, network(x, c, None, told))
    assert m.shape == (3, 8, 8)
    images = tp.generate(m, 1, steps=2, sampler="heun", progress=None).images
    assert np.isfinite(np.asarray(images)).all()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickles(protocol, tmp_path):
    network, arguments = tiny(SongUNet)
    m = tp.load(write(tmp_path / "net.pkl", snapshot(network, arguments), protocol))
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(m.network(x, torch.zeros(1)), network(x, torch.zeros(1)))


PRECONDITIONED = {
    "VPPrecond": ({"beta_d": 18.0, "beta_min": 0.3, "M": 500, "epsilon_t": 1e-4}, VPPrecond),
    "VEPrecond": ({"sigma_min": 0.05, "sigma_max": 40}, VEPrecond),
    "EDMPrecond": ({"sigma_min": 0.01, "sigma_max": float("inf"), "sigma_data": 0.7}, EDMPrecond),
    "iDDPMPrecond": ({"C_1": 0.002, "C_2": 0.01, "M": 200}, iDDPMPrecond),
}


def by_the_table(name, constants, sigma, u):
    """Table 1 of Karras et al. 2022 in double precision: c_skip, c_out, c_in, c_noise."""
    if name == "VPPrecond":
        d, low, steps = constants["beta_d"], constants["beta_min"], constants["M"]
        t = ((low**2 + 2 * d * np.log(1 + sigma**2)) ** 0.5 - low) / d
        return 1, -sigma, 1 / (sigma**2 + 1) ** 0.5, (steps - 1) * t
    if name == "VEPrecond":
        return 1, sigma, 1, np.log(sigma / 2)
    if name == "EDMPrecond":
        sd = constants["sigma_data"]
        both = sigma**2 + sd**2
        return sd**2 / both, sigma * sd / both**0.5, 1 / both**0.5, np.log(sigma) / 4
    return 1, -sigma, 1 / (sigma**2 + 1) ** 0.5, constants["M"] - 1 - np.abs(u - sigma).argmin()


@pytest.mark.parametrize("name", PRECONDITIONED)
@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_every_preconditioning_around_every_network_by_the_table(name, kind, tmp_path):
    constants, around = PRECONDITIONED[name]
    doubled = {"out_channels": 6} if name == "iDDPMPrecond" else {}
    network, arguments = tiny(kind, **doubled)
    made = around(**constants)
    u = made.u if name == "iDDPMPrecond" else None
    content = snapshot(network, arguments, name, constants, None if u is None else {"u": u})
    m = tp.load(write(tmp_path / "net.pkl", content))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for sigma in (0.06, 1.3, 30.0):
        skip, out, scale, c_noise = by_the_table(name, constants, sigma, None if u is None else u.numpy())
        answer = network((scale * x).float(), torch.tensor([c_noise], dtype=torch.float32))[:, :3]
        got = m(x, m.schedule.t(sigma=sigma)[None])
        assert relative(got, skip * x + out * answer) < ONE_CALL
    assert m.preconditioning.sigma_min == pytest.approx(made.sigma_min)
    assert m.preconditioning.sigma_max == pytest.approx(made.sigma_max)


def test_other_constants_are_another_model(tmp_path):
    network, arguments = tiny(SongUNet)
    names = [
        write(tmp_path / f"{i}.pkl", snapshot(network, arguments, "EDMPrecond", {"sigma_data": 0.5 + i}))
        for i in range(2)
    ]
    prints = {fingerprint(tp.load(name)) for name in names}
    prints |= {fingerprint(tp.load(names[0], sigma_max=20))}
    assert len(prints) == 3


def test_the_source_beside_a_network_is_read_for_its_licence_and_never_run(tmp_path):
    network, arguments = tiny(SongUNet)
    m = tp.load(write(tmp_path / "net.pkl", snapshot(network, arguments)))
    assert (
        m.about["licence"]
        == "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International License"
    )
    assert stated_licence("import torch") is None


def test_the_network_of_a_training_state(tmp_path):
    network, arguments = tiny(SongUNet)
    m = tp.load(write(tmp_path / "state.pkl", snapshot(network, arguments, key="net")))
    assert "not averaged" in m.about["weights"]


def test_weights_in_half_precision_are_computed_with_in_full(tmp_path):
    network, arguments = tiny(SongUNet)
    m = tp.load(write(tmp_path / "net.pkl", snapshot(network.half(), arguments)))
    assert m.dtype == torch.float32
    assert torch.isfinite(m.network(torch.ones(1, 3, 8, 8), torch.zeros(1))).all()


# -- files that lie -------------------------------------------------------------------------------------


def lie(tmp_path, network, arguments, **settings):
    return write(tmp_path / "lie.pkl", snapshot(network, arguments, **settings))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"model_channels": 10**9}, "model_channels"),
        ({"model_channels": 2**19, "channel_mult": [2**19] * 2}, "does not fit|no possible size"),
        ({"model_channels": 2**14}, "does not fit"),
        ({"model_channels": 15}, "even|multiple"),
        ({"model_channels": "16"}, "model_channels"),
        ({"num_blocks": 10**5}, "num_blocks|blocks"),
        ({"channel_mult": [1] * 60, "num_blocks": 50}, "blocks"),
        ({"channel_mult": [1] * 10**4}, "at most 64"),
        ({"channel_mult": 3}, "channel_mult"),
        ({"channel_mult": []}, "lie.pkl: img_resolution, channel_mult"),
        ({"encoder_type": "sideways"}, "encoder_type"),
        ({"embedding_type": 3}, "embedding_type"),
        ({"resample_filter": [1, 2, 1]}, "even number"),
        ({"resample_filter": [1, float("nan")]}, "resample_filter"),
        ({"resample_filter": [1, 3, 3, 1]}, "does not fit"),
        ({"nonsense": 1}, "nonsense"),
        ({"in_channels": 4}, "in_channels"),
        ({"label_dim": 5}, "label_dim"),
        ({"dropout": None}, "dropout"),
    ],
)
def test_arguments_that_the_tensors_contradict(wrong, match, tmp_path, refuses):
    network, arguments = tiny(SongUNet)
    content = snapshot(network, arguments)
    unet = content["ema"].meta["state"]["_modules"]["model"]
    unet.meta["state"]["_init_kwargs"] = arguments | wrong
    where = write(tmp_path / "lie.pkl", content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refuses(match):
        tp.load(where)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


JUNK = (
    10**400,
    -(10**5),
    float("nan"),
    float("inf"),
    "a\nb",
    "x" * 10**5,
    None,
    True,
    [[]],
    list(range(10**4)),
)
JUNK += ({"a": 1}, [10**30], [float("nan")], 2.5, np.ones(2), b"bytes", (), [True])


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_no_argument_makes_more_than_a_sentence(kind, tmp_path, refuses):
    network, arguments = tiny(kind)
    file = write(tmp_path / "net.pkl", snapshot(network, arguments, attributes={"sigma_data": 0.5}))
    read = read_checkpoint(file.removeprefix("edm:"))
    holder = read["ema"].state
    unet = holder["_modules"]["model"].state
    places = [(unet["_init_kwargs"], name) for name in inspect.signature(kind).parameters]
    images = ("img_resolution", "img_channels", "label_dim")
    places += [(holder, name) for name in (*images, "sigma_data", "sigma_min", "_init_kwargs", "_modules")]
    places += [(unet, name) for name in ("_init_args", "_init_kwargs", "_parameters", "_buffers", "_modules")]
    for place, name in places:
        before = dict(place)
        for junk in JUNK:
            place[name] = junk
            with contextlib.suppress(_Loaded), refuses("."):
                recorded_network(read, "net.pkl")
                raise _Loaded
        place.clear()
        place.update(before)
    assert recorded_network(read, "net.pkl").arguments["model_channels"] == 16


class _Loaded(TurningpointError):
    """Raised by a test where junk did no harm."""

    def __str__(self):
        return "fine."


def test_tensors_that_are_missing_or_too_many_or_of_another_shape(tmp_path, refuses):
    network, arguments = tiny(SongUNet)
    del network.map_layer0.bias
    with refuses("map_layer0.bias"):
        tp.load(lie(tmp_path, network, arguments))
    network, arguments = tiny(SongUNet)
    network.register_parameter("more", torch.nn.Parameter(torch.ones(1), requires_grad=False))
    with refuses("surplus.*more"):
        tp.load(lie(tmp_path, network, arguments))
    network, arguments = tiny(SongUNet)
    network.map_layer1.weight = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)
    with refuses("map_layer1.weight"):
        tp.load(lie(tmp_path, network, arguments))
    network, arguments = tiny(SongUNet)
    network.map_layer1.bias = torch.nn.Parameter(torch.ones(64, dtype=torch.long), requires_grad=False)
    with refuses("whole numbers"):
        tp.load(lie(tmp_path, network, arguments))
    network, arguments = tiny(SongUNet)
    with refuses("surprise"):
        tp.load(lie(tmp_path, network, arguments, buffers={"surprise": torch.ones(3)}))


@pytest.mark.parametrize(
    ("precond", "attributes", "buffers", "match"),
    [
        ("Precond", {}, {}, "class 'Precond'; accepted: EDMPrecond"),
        ("EDMPrecond", {"sigma_data": "half"}, {}, "sigma_data"),
        ("EDMPrecond", {"img_channels": 2**30}, {}, "img_channels"),
        ("EDMPrecond", {"img_resolution": 16}, {}, "img_resolution"),
        ("EDMPrecond", {"sigma_min": 90}, {}, "overlaps"),
        ("VPPrecond", {"beta_d": 1e9}, {}, "noise levels"),
        ("VPPrecond", {"beta_d": -40.0}, {}, "noise levels"),
        ("VPPrecond", {"M": 10**9}, {}, "M of the VPPrecond"),
        ("iDDPMPrecond", {}, {}, "u of the iDDPMPrecond in .* is missing"),
        ("iDDPMPrecond", {"M": 10**6}, {"u": torch.ones(1001)}, "u of the iDDPMPrecond"),
        ("iDDPMPrecond", {}, {"u": torch.ones(1001)}, "out of order"),
        ("iDDPMPrecond", {}, {"u": torch.linspace(9, 0, 1001)}, "out_channels"),
    ],
)
def test_preconditionings_that_cannot_be(precond, attributes, buffers, match, tmp_path, refuses):
    network, arguments = tiny(SongUNet)
    with refuses(match):
        tp.load(lie(tmp_path, network, arguments, precond=precond, attributes=attributes, buffers=buffers))


def test_files_that_hold_something_else(tmp_path, refuses):
    with refuses("missing.pkl"):
        tp.load(f"edm:{tmp_path}/missing.pkl")
    with refuses("accepted: ema, net"):
        tp.load(write(tmp_path / "other.pkl", {"model": {"weight": torch.ones(2)}}))
    with refuses("class 'dict'"):
        tp.load(write(tmp_path / "state.pkl", {"ema": {"weight": torch.ones(2)}}))
    with refuses("holds no network as its model"):
        tp.load(write(tmp_path / "empty.pkl", {"ema": Recorded("EDMPrecond", state_of(torch.nn.Module()))}))
    with refuses("holds a 'Linear' as its model"):
        holder = torch.nn.Module()
        holder.model = torch.nn.Linear(2, 2)
        tp.load(write(tmp_path / "linear.pkl", {"ema": Recorded("EDMPrecond", state_of(holder))}))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with refuses("class 'list'"):
        tp.load(f"edm:{tmp_path}/list.pkl")


def test_a_source_that_would_do_harm_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    want = np.load(HOSTILE / "benign_twin_expected.npz")
    for name in ("benign_twin", "wellformed_payload_in_module_src"):
        m = tp.load(f"edm:{HOSTILE / name}.pkl")
        t = m.schedule.t(sigma=float(want["sigma"])).expand(len(want["x"]))
        assert relative(m(torch.from_numpy(want["x"]), t), want["D"]) < ONE_CALL
    assert not list(tmp_path.iterdir())
