"""Checkpoints as files: what torch and safetensors wrote is read alike, and nothing else is."""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from turningpoint.errors import TurningpointError
from turningpoint.models._reading.checkpoint import load_tensors, read_checkpoint, read_metadata, tensors
from turningpoint.models._reading.nodes import state_dict


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def trained():
    """What a training loop keeps: weights, their average, an optimizer that has moved, plain numbers."""
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    model(torch.randn(2, 3, 4, 6)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(8e-8)
    return {
        "model": collections.OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items()),
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": [p.detach() for p in model.parameters()]},
        "optimizer": optimizer.state_dict(),
        "scheduler": collections.defaultdict(list, losses=[0.5, np.float32(0.25)], rng=np.arange(4)),
        "step": 3,
        "note": "ä€",
    }


def varied():
    base = torch.arange(24.0).reshape(4, 6)
    return {
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (torch.int8, torch.uint8, torch.int16, torch.int64)
        },
        "complex": torch.tensor([1 + 2j, 3]),
        "truth": torch.tensor([True, False, True]),
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "turned": base.T,
        "sliced": base[1:3, ::2],
        "whole": base,
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "buffer": nn.Buffer(torch.randn(2)),
        "nested": {"list": [torch.ones(1), {"tuple": (torch.zeros(2), None, True, 3)}]},
    }


CHECKPOINTS = [
    trained,
    varied,
    lambda: small().state_dict(),
    lambda: torch.arange(3),
    lambda: [1, "text"],
    dict,
]
FORMATS = [
    {},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5},
    {"_use_new_zipfile_serialization": False},
    {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
]


def same(got, want):
    if isinstance(want, torch.Tensor):
        assert got.dtype == want.dtype
        assert got.stride() == want.stride() or not want.numel()
        assert not got.requires_grad
        assert torch.equal(got, want)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, list | tuple):
        assert type(got) is type(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
    elif isinstance(want, np.ndarray):
        np.testing.assert_array_equal(got, want)
    else:
        assert got == want


@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize("make", CHECKPOINTS)
def test_what_torch_wrote_is_what_torch_reads(make, options, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(make(), path, **options)
    same(read_checkpoint(path), torch.load(path, weights_only=False))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_without_a_storage_of_their_own(dtype, tmp_path):
    value = torch.tensor([0, 1, 2, 40]).to(dtype)
    torch.save(value, tmp_path / "net.pt")
    got = read_checkpoint(tmp_path / "net.pt")
    assert got.dtype == dtype
    assert got.double().tolist() == value.double().tolist()


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_tensors_that_share_memory_still_do(options, tmp_path):
    base = torch.arange(12.0)
    torch.save({"a": base, "b": base[3:6], "c": torch.arange(12.0)}, tmp_path / "net.pt", **options)
    got = read_checkpoint(tmp_path / "net.pt")
    got["b"].zero_()
    assert got["a"].tolist() == [0, 1, 2, 0, 0, 0, 6, 7, 8, 9, 10, 11]
    assert got["c"].tolist() == list(range(12))


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_the_file_is_not_changed_by_its_tensors(options, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(varied(), path, **options)
    before = path.read_bytes()
    for value in read_checkpoint(path).values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_a_whole_module_is_read_as_names_and_tensors(options, tmp_path):
    torch.save(small(), tmp_path / "net.pt", **options)
    same(state_dict(read_checkpoint(tmp_path / "net.pt")), dict(small().state_dict()))


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_tensors_are_on_the_cpu_wherever_the_caller_builds(options, tmp_path):
    torch.save({"a": torch.arange(3), "b": torch.zeros(0)}, tmp_path / "net.pt", **options)
    with torch.device("meta"):
        got = read_checkpoint(tmp_path / "net.pt")
    assert got["a"].tolist() == [0, 1, 2]
    assert got["b"].device.type == "cpu"


def test_safetensors_and_pickles_too(tmp_path):
    state = {"weight": torch.randn(2, 3), "half": torch.ones(2).half(), "number": torch.tensor(3)}
    save_file(state, tmp_path / "net.bin", metadata={"config": "{}"})
    same(
        read_checkpoint(tmp_path / "net.bin"),
        {key: state[key] for key in read_checkpoint(tmp_path / "net.bin")},
    )
    assert read_metadata(tmp_path / "net.bin") == {"config": "{}"}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(state))
    same(read_checkpoint(tmp_path / "net.pkl"), state)
    assert read_metadata(tmp_path / "net.pkl") == {}


def test_a_storage_between_odd_addresses_is_copied_to_an_even_one(tmp_path):
    torch.save({"a": torch.arange(5.0).double()}, tmp_path / "net.pt")
    rewritten(tmp_path / "net.pt", {"net/odd": b"x"})
    got = read_checkpoint(tmp_path / "net.pt")
    assert got["a"].data_ptr() % 8 == 0
    assert got["a"].tolist() == [0, 1, 2, 3, 4]


def test_truth_values_are_zero_or_one(tmp_path):
    torch.save(torch.zeros(4, dtype=torch.bool), tmp_path / "net.pt")
    rewritten(tmp_path / "net.pt", {"net/data/0": b"\x00\x01\x02\xff"})
    assert read_checkpoint(tmp_path / "net.pt").view(torch.uint8).tolist() == [0, 1, 1, 1]


# Archives that torch.save does not write.


def rewritten(path, changes, compression=zipfile.ZIP_STORED):
    """The archive with entries replaced, added, or (None) left out."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()} | changes
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in entries.items():
            if content is not None:
                new.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    """A checkpoint of one tensor (3,) in float32."""
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def test_an_archive_written_again_by_another_program_is_read(archive):
    assert read_checkpoint(rewritten(archive, {}))["weight"].tolist() == [0, 1, 2]
    rewritten(archive, {"net/byteorder": None, "net/.format_version": None})
    assert read_checkpoint(archive)["weight"].tolist() == [0, 1, 2]


def test_an_archive_with_a_sign_of_its_own_in_a_storage_is_read(tmp_path):
    trap = torch.tensor(list(b"PK\x05\x06" + bytes(18) + b"PK\x01\x02"), dtype=torch.uint8)
    torch.save({"trap": trap}, tmp_path / "net.pt")
    assert torch.equal(read_checkpoint(tmp_path / "net.pt")["trap"], trap)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"net/constants.pkl": b""}, "is a program, of TorchScript"),
        ({"net/code/net.py": b""}, "is a program, of TorchScript"),
        ({"net/archive_format": b"pt2"}, "is a program, of TorchScript or torch.export"),
        ({"net/data.pkl": None}, "no NAME/data.pkl"),
        ({"other/data.pkl": b""}, "no NAME/data.pkl"),
        ({"net/byteorder": b"big"}, "big-endian"),
        ({"net/data/0": None}, "12 bytes where none are stored"),
        ({"net/data/0": bytes(8)}, "12 bytes where 8 are stored"),
        ({"net/data/0": bytes(10**6)}, "12 bytes where 1000000 are stored"),
        ({"/etc/passwd": b""}, "no path inside"),
        ({"net/../../evil": b""}, "no path inside"),
        ({"net\\evil": b""}, "no path inside"),
        ({"net/data.pkl": pickle.dumps({"a": 1})[:-2]}, "truncated"),
        ({"net/data.pkl": b"cposix\nsystem\n."}, "names posix.system"),
        (
            {"net/data.pkl": b"(X\x07\x00\x00\x00storageK\x01K\x01K\x01K\x01tQ."},
            "in a way that torch does not",
        ),
        ({"net/data.pkl": b"X\x01\x00\x00\x000Q."}, "in a way that torch does not"),
        ({"net/data.pkl": b"P0\n."}, "in a way that torch does not"),
        ({"net/data.pkl": b""}, "truncated"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_archives_with_other_entries(archive, changes, sentence, refuses):
    rewritten(archive, changes)
    with refuses(f"net.pt .*{sentence}"):
        read_checkpoint(archive)


def test_compressed_archives_are_refused(archive, refuses):
    bomb = {"net/data/0": bytes(200_000_000)}
    rewritten(archive, bomb, zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 300_000
    with refuses("net.pt is an archive whose entry net/data.pkl is compressed"):
        read_checkpoint(archive)


def test_archives_of_arrays_and_programs_are_refused(tmp_path, refuses):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    with refuses("no NAME/data.pkl"):
        read_checkpoint(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    with refuses("no NAME/data.pkl"):
        read_checkpoint(tmp_path / "empty.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(archive, refuses):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("net/data/0", bytes(12))
    with refuses("two entries net/data/0"):
        read_checkpoint(archive)


def entry_of(content, name):
    """Where the directory's entry of a name starts: 46 bytes before the name."""
    at = content.index(name)
    while content[at - 46 : at - 42] != b"PK\x01\x02":
        at = content.index(name, at + 1)
    return at - 46


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (10, struct.pack("<H", 8), "is compressed"),
        (8, struct.pack("<H", 1), "is compressed"),
        (20, struct.pack("<L", 8), "two sizes, 8 and 12"),
        (20, struct.pack("<2L", 8, 8), "12 bytes where 8 are stored"),
        (20, struct.pack("<2L", 2**31, 2**31), "outside the file"),
        (28, struct.pack("<H", 60000), "damaged"),
        (42, struct.pack("<L", 2**31), "damaged"),
        (42, struct.pack("<L", 5), "damaged"),
        (42, struct.pack("<L", 0), "damaged|lie over each other"),
        (46, b"net/data/9", "damaged"),
        (46, b"net/dat\xff/0", "no text"),
        (0, b"PK\x01\x03", "damaged"),
    ],
)
def test_directories_that_lie(archive, place, value, sentence, refuses):
    content = bytearray(rewritten(archive, {}).read_bytes())
    at = entry_of(content, b"net/data/0") + place
    content[at : at + len(value)] = value
    archive.write_bytes(content)
    with refuses(f"net.pt .*{sentence}"):
        read_checkpoint(archive)


def local(name, content):
    sizes = len(content), len(content), len(name), 0
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, *sizes) + name + content


def central(name, size, place, extra=b""):
    lengths = size, size, len(name), len(extra), 0, 0, 0, 0, place
    return struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, *lengths) + name + extra


def zipped(locals_, centrals):
    """An archive of these entries and this directory, whatever they say."""
    sizes = len(centrals), len(locals_), 0
    return locals_ + centrals + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, *sizes)


def test_entries_over_each_other_are_refused(tmp_path, refuses):
    """Many names for the same bytes: how a small archive becomes a large one without compression."""
    inside = local(b"net/data/1", bytes(12))
    outside = local(b"net/data/0", inside)
    value = local(b"net/data.pkl", b"N.")
    at = len(outside)
    directory = central(b"net/data/0", len(inside), 0) + central(b"net/data.pkl", 2, at)
    (tmp_path / "net.pt").write_bytes(zipped(outside + value, directory))
    assert read_checkpoint(tmp_path / "net.pt") is None
    directory += central(b"net/data/1", 12, 40)
    (tmp_path / "net.pt").write_bytes(zipped(outside + value, directory))
    with refuses("lie over each other"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("numbers", "extra", "sentence"),
    [
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H3Q", 1, 24, 2, 2, 0), None),
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H2H3Q", 7, 0, 1, 24, 2, 2, 0), None),
        ((0xFFFFFFFF, 0xFFFFFFFF), b"", "damaged"),
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H2Q", 1, 16, 2, 2), "damaged"),
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H3Q", 1, 24, 2**62, 2**62, 0), "outside the file"),
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H3Q", 1, 24, 2, 2, 2**62), "damaged"),
        ((0xFFFFFFFF, 0xFFFFFFFF), struct.pack("<2H3Q", 1, 24, 2, 3, 0), "two sizes"),
        ((2, 0), struct.pack("<2HQ", 1, 60000, 2), None),
    ],
)
def test_sizes_beyond_32_bits(numbers, extra, sentence, refuses, tmp_path):
    value = local(b"net/data.pkl", b"N.")
    (tmp_path / "net.pt").write_bytes(zipped(value, central(b"net/data.pkl", *numbers, extra)))
    if sentence is None:
        assert read_checkpoint(tmp_path / "net.pt") is None
        return
    with refuses(sentence):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("before", [True, False])
def test_bytes_before_or_behind_an_archive_are_refused(archive, before, refuses):
    content = archive.read_bytes()
    archive.write_bytes(b"PK\x03\x04" + content if before else content + b"behind")
    with refuses("net.pt is"):
        read_checkpoint(archive)


# Files that are no checkpoints.


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_every_truncation_is_refused(options, tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "whole.pt", **options)
    content = (tmp_path / "whole.pt").read_bytes()
    for end in range(1, len(content), 7):
        (tmp_path / "net.pt").write_bytes(content[:end])
        with pytest.raises(TurningpointError):
            read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is an empty file"),
        (b"<html>", "is a page in HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (struct.pack("<Q", 50) + b"{" + bytes(60), "damaged safetensors"),
        (struct.pack("<Q", 2) + b"{}", None),
        (
            struct.pack("<Q", 80) + b'{"a":{"dtype":"F32","shape":[2000],"data_offsets":[0,8000]}}'.ljust(80),
            "damaged s",
        ),
    ],
)
def test_other_files(content, sentence, refuses, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    if sentence is None:
        assert read_checkpoint(path) == {}
        return
    with refuses(f"net.pt is .*{sentence}|net.pt is {sentence}|{sentence}"):
        read_checkpoint(path)


def test_files_that_are_not_there(refuses, tmp_path):
    with refuses("gone.pt cannot be read"):
        read_checkpoint(tmp_path / "gone.pt")
    with refuses("is no file"):
        read_checkpoint(tmp_path)


# State dicts.


def test_a_state_dict_is_names_to_tensors(refuses):
    state = small().state_dict()
    assert tensors(state, "net.pt") is state
    with refuses("net.pt holds a value of type list"):
        tensors([1], "net.pt")
    with refuses("net.pt holds step of type int"):
        tensors({"a": torch.ones(1), "step": 3}, "net.pt")
    with refuses("net.pt holds 3 of type Tensor"):
        tensors({3: torch.ones(1)}, "net.pt")


def test_tensors_fill_a_network(tmp_path):
    torch.save(small().double().state_dict(), tmp_path / "net.pt")
    state = tensors(read_checkpoint(tmp_path / "net.pt"), "net.pt")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    load_tensors(module, state, "net.pt")
    same({k: v.detach() for k, v in module.state_dict().items()}, dict(small().state_dict()))
    state["0.bias"].zero_()
    assert module[0].bias.abs().sum() > 0


def test_tensors_fill_a_network_without_memory():
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    state = small().state_dict()
    load_tensors(module, state, "net.pt")
    same({k: v.detach() for k, v in module.state_dict().items()}, dict(state))
    state["0.bias"].zero_()
    assert module[0].bias.abs().sum() > 0


def test_tensors_that_do_not_fit_are_told_in_one_sentence(refuses):
    state = small().state_dict()
    del state["0.bias"]
    state |= {f"extra {i}\n": torch.ones(1) for i in range(5)}
    state["2.weight"] = torch.ones(3, 3)
    state["2.bias"] = torch.tensor(1.0)
    with refuses(
        r"net.pt does not fit the network: 1 missing \(0.bias\), "
        r"5 surplus \(extra\?0\?, extra\?1\?, extra\?2\?, ...\), "
        r"2 of another shape \(2.weight is 3x3, not 2x4, 2.bias is a number, not 2\)"
    ):
        load_tensors(small(), state, "net.pt")
