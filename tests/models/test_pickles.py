"""The restricted reader of pickles: it agrees with pickle where nothing is called, and refuses the rest."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from turningpoint.errors import TurningpointError
from turningpoint.models._reading.nodes import Global, Module, Persistent, state_dict
from turningpoint.models._reading.pickles import read_pickle

HOSTILE = pathlib.Path(__file__).parent / "golden" / "edm" / "hostile"
PROTOCOLS = range(6)


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def data(value):
    return b"B" + struct.pack("<I", len(value)) + value


# What it reads.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        [
            True,
            False,
            0,
            1,
            -1,
            255,
            65535,
            65536,
            -(2**31),
            2**31,
            2**63,
            -(2**200),
            0.5,
            -1e300,
            float("inf"),
        ],
        ["", "a", "ä€😀", "line\nline", 'it\'s "quoted"\t\\', "x" * 300, "y" * 70000],
        [b"", b"bytes\n\x00\xff", b"z" * 300, b"\xff" * 5000, bytearray(b""), bytearray(b"abc\x80")],
        [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {"a": {"b": {1: 2, None: 3, 2.5: 4}}}],
        [set(), {1, "a", (1, 2)}, frozenset(), frozenset({b"x", None}), complex(1, -2)],
        {"a": collections.OrderedDict(x=1, y=[2]), "b": collections.Counter("aab")},
        list(range(3000)),
        {str(i): i for i in range(3000)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_are_those_of_pickle(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


KEYS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    KEYS
    | st.integers()
    | st.sets(KEYS, max_size=4)
    | st.frozensets(KEYS, max_size=4)
    | st.complex_numbers(allow_nan=False),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inside, max_size=4)
        | st.lists(inside, max_size=4).map(tuple)
    ),
    max_leaves=30,
)


@settings(max_examples=300)
@given(VALUES, st.sampled_from(PROTOCOLS))
def test_random_values_are_those_of_pickle(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kinds_of_dictionaries_and_sequences_become_plain_ones(protocol):
    many = collections.defaultdict(dict, a={"b": 1})
    value = {
        "defaultdict": many,
        "deque": collections.deque([1, 2], maxlen=3),
        "namespace": argparse.Namespace(lr=0.1, sizes=[1, 2]),
        "simple": types.SimpleNamespace(a=1),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "path": pathlib.PurePosixPath("a/b"),
        "type": np.float32,
    }
    got = read_pickle(pickle.dumps(value, protocol))
    assert got == {
        "defaultdict": {"a": {"b": 1}},
        "deque": [1, 2],
        "namespace": {"lr": 0.1, "sizes": [1, 2]},
        "simple": {"a": 1},
        "size": (2, 3),
        "device": "cuda:1",
        "dtype": torch.bfloat16,
        "path": "a/b",
        "type": Global("numpy", "float32"),
    }


def test_a_dictionary_of_dnnlib_becomes_a_plain_one():
    stream = b"\x80\x02" + name("dnnlib.util", "EasyDict") + b")\x81(" + text("lr") + b"K\x02u."
    assert read_pickle(stream) == {"lr": 2}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(protocol):
    shared = ["x"]
    got = read_pickle(pickle.dumps({"a": shared, "b": [shared, shared]}, protocol))
    assert got["a"] is got["b"][0] is got["b"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1),
        np.float32(0.1),
        np.float16(0.5),
        np.int64(-3),
        np.uint8(200),
        np.bool_(True),
        np.complex128(1 + 2j),
        np.str_("text"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_numpy_become_plain_ones(value, protocol):
    got = read_pickle(pickle.dumps(value, protocol))
    assert type(got) is type(value.item())
    assert got == value.item()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12, dtype=np.float16)[::3],
        np.zeros((0, 3), np.uint8),
        np.array(2.5),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.arange(3000, dtype=np.int32),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_arrays_of_numpy(value, protocol):
    got = read_pickle(pickle.dumps(value, protocol))
    assert got.dtype == value.dtype
    np.testing.assert_array_equal(got, value)
    got[...] = got


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_inside_a_plain_pickle(protocol):
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "parameter": nn.Parameter(torch.randn(2, 3)),
        "sliced": base[1:3, ::2],
        "turned": base.T,
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "half": torch.arange(5).half(),
        "bfloat16": torch.arange(5).bfloat16(),
        "truth": torch.tensor([True, False, True]),
        "complex": torch.tensor([1 + 2j]),
        "uint16": torch.tensor([1, 2, 40000], dtype=torch.uint16),
        "float8": torch.arange(3).to(torch.float8_e4m3fn),
        "long": torch.arange(5000),
    }
    got = read_pickle(pickle.dumps(value, protocol))
    assert got.keys() == value.keys()
    for key, tensor in value.items():
        assert got[key].dtype == tensor.dtype
        assert got[key].shape == tensor.shape
        assert torch.equal(
            got[key].view(torch.uint8) if key == "float8" else got[key], _plain(tensor, key)
        ), key
        assert not got[key].requires_grad
        assert type(got[key]) is torch.Tensor
        assert got[key].data_ptr() % tensor.element_size() == 0
        got[key].zero_()


def _plain(tensor, key):
    return tensor.view(torch.uint8) if key == "float8" else tensor.detach()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("make", [torch.Tensor, nn.Parameter, nn.Buffer])
def test_attributes_of_tensors_are_dropped(make, protocol):
    noted = make(torch.arange(3.0))
    noted.note = "kept by pickle"
    got = read_pickle(pickle.dumps(noted, protocol))
    assert type(got) is torch.Tensor
    assert got.tolist() == [0, 1, 2]
    assert not hasattr(got, "note")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_module_is_a_tree_of_names_and_tensors(protocol):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)}), nn.SiLU()
    )
    module.register_buffer("kept", torch.arange(3))
    module.register_buffer("not_kept", torch.arange(3), persistent=False)
    got = read_pickle(pickle.dumps(module, protocol))
    assert isinstance(got, Module)
    assert [inside.class_name for inside in got.modules.values()] == [
        "Conv2d",
        "BatchNorm2d",
        "ModuleDict",
        "SiLU",
    ]
    assert got.modules["0"].module_name == "torch.nn.modules.conv"
    state = state_dict(got)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


# EDM.


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_an_edm_pickle_is_read_without_its_source():
    stream = (HOSTILE / "benign_twin.pkl").read_bytes()
    got = read_pickle(HOSTILE / "benign_twin.pkl")
    assert list(got) == ["ema", "loss_fn", "augment_pipe", "dataset_kwargs"]
    net = got["ema"]
    assert isinstance(net, Persistent)
    assert net.class_name == "EDMPrecond"
    assert net.version == 6
    assert net.module_src.startswith("# module_src")
    assert net.init_kwargs["model_type"] == "SongUNet"
    assert net.modules["model"].class_name == "SongUNet"
    storages = [
        torch.load(io.BytesIO(argument), weights_only=True).tolist()
        for opcode, argument, _ in pickletools.genops(stream)
        if opcode.name in ("BINBYTES", "SHORT_BINBYTES") and argument[4:8] == b"l\xfc\x9cF"
    ]
    ours = [tensor.flatten().tolist() for tensor in state_dict(net).values()]
    assert sorted(storages) == sorted(ours)


def test_the_hostile_files_of_edm_do_nothing(refuses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, sentence in [
        ("payload_in_storage_bytes", "names posix.system, which"),
        ("prefix_torch_serialization_os", "names torch.serialization.os.system, which"),
        ("reduce_os_system", "names posix.system, which"),
        ("truncated", "is truncated"),
    ]:
        with refuses(f"{file}.pkl.*{sentence}"):
            read_pickle(HOSTILE / f"{file}.pkl")
    trapped = read_pickle(HOSTILE / "wellformed_payload_in_module_src.pkl")["ema"]
    assert "os.system" in trapped.module_src
    twin = state_dict(read_pickle(HOSTILE / "benign_twin.pkl")["ema"])
    assert all(torch.equal(value, twin[key]) for key, value in state_dict(trapped).items())
    assert not any(tmp_path.iterdir())


def test_objects_with_a_state_that_is_none_are_told_when_it_is_needed(refuses):
    with refuses("Linear._parameters is not a dictionary"):
        state_dict(Module("Linear", {"_parameters": 3}))
    with refuses("Linear._buffers is not a dictionary"):
        state_dict(Module("Linear", {"_buffers": {3: None}}))
    with refuses("Linear._parameters.weight is of type int; accepted: a tensor or None"):
        state_dict(Module("Linear", {"_parameters": {"weight": 3}}))
    with refuses("Net._modules.conv is of type dict; accepted: a module"):
        state_dict(Persistent("Net", {"_modules": {"conv": {}}}))
    with refuses("Net._init_kwargs is not a dictionary"):
        _ = Persistent("Net", {"_init_kwargs": []}).init_kwargs
    with refuses("Net._init_args is not a tuple"):
        _ = Persistent("Net", {"_init_args": 3}).init_args


# What it refuses.


def push(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def storage(numel=4, kind="FloatStorage", keys=("0",), count=None, payload=bytes(16), little=True, magic=0):
    """A storage as the older format of torch.save writes it, which may lie about itself."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C + magic, 2) + pickle.dumps(1001, 2)
    head += pickle.dumps({"little_endian": little}, 2)
    named = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + push(numel) + b"NtQ"
    count = numel if count is None else count
    return (
        head + b"\x80\x02" + named + b"." + pickle.dumps(list(keys), 2) + struct.pack("<q", count) + payload
    )


def tensor(size, stride, offset=0, **lies):
    """A pickle of one tensor in a storage of four numbers, which may lie about itself."""
    stream = name("torch._utils", "_rebuild_tensor_v2") + b"("
    stream += name("torch.storage", "_load_from_bytes") + data(storage(**lies)) + b"\x85R"
    return stream + b"".join(map(push, (offset, size, stride, False, {}))) + b"tR."


def array(dtype, shape, raw):
    """A pickle of one array of NumPy."""
    stream = (
        name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + push((0,)) + push(b"b")
    )
    stream += b"\x87R(K\x01" + push(shape) + name("numpy", "dtype") + push((dtype, False, True)) + b"R"
    return stream + push(False) + push(raw) + b"tb."


def test_the_makers_of_lies_can_tell_the_truth():
    assert torch.equal(read_pickle(tensor((2, 2), (2, 1))), torch.zeros(2, 2))
    assert read_pickle(array("i2", (2,), b"\1\0\2\0")).tolist() == [1, 2]


class Calls:
    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "args", "named"),
    [
        (os.system, ("touch PWNED",), "posix.system|nt.system"),
        (eval, ("open('PWNED', 'w')",), "eval"),
        (exec, ("open('PWNED', 'w')",), "exec"),
        (getattr, ("text", "upper"), "getattr"),
        (open, ("PWNED", "w"), "open"),
        (subprocess.call, (["touch", "PWNED"],), "subprocess.call|commands.call"),
        (pathlib.Path.touch, (pathlib.Path("PWNED"),), "getattr|pathlib.Path.touch"),
        (torch.load, ("PWNED",), "torch.serialization.load"),
        (pickle.loads, (pickle.dumps(1),), "pickle.loads"),
        (__import__, ("os",), "__import__"),
        (functools.partial, (os.system, "touch PWNED"), "functools.partial|posix.system"),
        (torch.hub.load, ("a", "b"), "torch.hub.load"),
        (np.load, ("PWNED",), "numpy.load"),
        (bytearray, (10**9,), "bytearray"),
        (bytes, (10**9,), "bytes"),
        (list, (range(10**9),), "range"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
def test_calls_are_refused_by_name_and_nothing_happens(
    function, args, named, protocol, refuses, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stream = pickle.dumps({"ema": Calls(function, *args)}, protocol)
    with refuses(f"net.pkl (names|calls) .*({named})"):
        read_pickle(stream, "net.pkl")
    assert not any(tmp_path.iterdir())


DEEP = b"".join([b"N", b"\x85" * 100_000])
LAUGHS = b"]" + b"".join(b"q%c(h%ch%ch%ch%cl" % (i, i, i, i, i) for i in range(60))
EVIL = b"(X\x0b\x00\x00\x00touch PWNED"


REFUSED = {
    "instance": (EVIL + b"iposix\nsystem\n.", "names posix.system"),
    "instance of an accepted name": (
        b"(K\x01icollections\nOrderedDict\n.",
        "calls collections.OrderedDict",
    ),
    "object": (b"(" + name("posix", "system") + b"oN.", "names posix.system"),
    "new object": (name("posix", "system") + b")\x81.", "names posix.system"),
    "new object with names": (name("collections", "OrderedDict") + b")}NNs\x92.", "named arguments"),
    "a dotted name": (
        text("torch") + text("serialization.load") + b"\x93.",
        "names torch.serialization.load",
    ),
    "a dotted accepted name": (
        name("collections", "OrderedDict.fromkeys") + b".",
        "names collections.Ord",
    ),
    "a method of an accepted name": (name("torch.Tensor", "numpy") + b".", "names torch.Tensor.numpy"),
    "a name by prefix": (
        name("torch.nn.modules.linear", "os") + b".",
        "names torch.nn.modules.linear.os",
    ),
    "a name that is no text": (b"K\x01K\x02\x93.", "no text"),
    "a name with lines": (text("os\n. Evil") + text("system") + b"\x93.", "names os..?Evil|names os"),
    "a name without end": (b"cposix\nsystem", "truncated"),
    "a call of a number": (b"K\x01)R.", "no function"),
    "a call of text": (text("posix.system") + b")R.", "no function"),
    "a call of a type": (name("torch", "FloatStorage") + b")R.", "calls torch.FloatStorage"),
    "a call of a dtype": (name("torch", "float32") + b")R.", "no function"),
    "a call without a tuple": (name("collections", "OrderedDict") + b"]R.", "no function"),
    "a state for a tensor": (tensor((1,), (1,))[:-1] + b"}b.", "gives a state"),
    "a state for a number": (b"K\x01}b.", "gives a state"),
    "extension 1": (b"\x82\x01.", "the byte 130"),
    "extension 4": (b"\x84\x01\x01\x01\x01.", "the byte 132"),
    "a buffer from outside": (b"\x97.", "the byte 151"),
    "no opcode": (b"\xff.", "the byte 255"),
    "protocol 6": (b"\x80\x06N.", "protocol 6"),
    "a memo of 763 MB": (b"\x80\x02Nr\xff\xff\xff\x05.", "place 100663295 of a memo"),
    "a memo by text": (b"Np99999999999\n.", "place 99999999999 of a memo"),
    "a memo by words": (b"Npten\n.", "no number"),
    "a memo without entry": (b"h\x07.", "no well-formed"),
    "a huge number": (b"\x8b\x00\x10\x00\x00" + bytes(4096) + b".", "number or a name of 4096 bytes"),
    "a number of negative length": (b"\x8b\xff\xff\xff\xff.", "truncated"),
    "a huge number by text": (b"L" + b"9" * 5000 + b"L\n.", "number or a name of 5001 bytes"),
    "bytes longer than the file": (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated"),
    "text longer than the file": (b"X\xff\xff\xff\x7f.", "truncated"),
    "an array of bytes longer than the file": (b"\x96\xff\xff\xff\xff\x00\x00\x00\x00.", "truncated"),
    "a frame longer than the file": (b"\x80\x04\x95\xff\xff\xff\xff\x00\x00\x00\x00N.", "truncated"),
    "no end": (b"\x80\x04N", "truncated"),
    "an empty stack": (b".", "no well-formed"),
    "a mark left over": (b"(.", "no well-formed"),
    "no mark": (b"Nt.", "no well-formed"),
    "no mark to pop": (b"N1.", "no well-formed"),
    "too few for a tuple": (b"N\x87.", "no well-formed"),
    "an odd dictionary": (b"}(Nu.", "no well-formed"),
    "items of a tuple": (b")K\x01a.", "no well-formed"),
    "items of a number": (b"K\x01(K\x01e.", "no well-formed"),
    "members of a list": (b"](N\x90.", "no well-formed"),
    "text that is not utf-8": (b"X\x01\x00\x00\x00\xff.", "no well-formed"),
    "half a surrogate": (b"V\\ud800\n.", "no well-formed"),
    "text without quotes": (b"Sposix\n.", "no well-formed"),
    "a list that holds itself": (b"]q\x00h\x00a.", "holds itself"),
    "a dictionary that holds itself": (b"}q\x00Nh\x00s.", "holds itself"),
    "a cycle": (b"]q\x00]q\x01h\x00a1h\x01a.".replace(b"1", b""), "holds itself"),
    "a deep tuple": (DEEP + b".", "nested more than 128 deep"),
    "a deep list": (b"]" * 100_000 + b"a" * 99_999 + b".", "nested more than 128 deep"),
    "a deep dictionary": (b"}" + b"N}" * 50_000 + b"s" * 50_000 + b".", "nested more than 128 deep"),
    "a deep key": (b"}" + DEEP + b"Ns.", "a key that is neither"),
    "a deep member": (b"\x8f(" + DEEP + b"\x90.", "a key that is neither"),
    "a list for a key": (b"}]Ns.", "a key that is neither"),
    "a number of 30 bytes for a key": (b"}\x8a\x1e" + b"\x01" * 30 + b"Ns.", "a key that is neither"),
    "a thousand million laughs": (LAUGHS + b".", "unfolds to more than"),
    "data from elsewhere": (text("0") + b"Q.", "data that is not in it"),
    "data from elsewhere by text": (b"P0\n.", "data that is not in it"),
    "bytes that are no storage": (
        name("torch.storage", "_load_from_bytes") + data(b"x") + b"\x85R.",
        "the byte 120",
    ),
    "a bare storage": (
        name("torch.storage", "_load_from_bytes") + data(storage()) + b"\x85R.",
        "holds a Storage where",
    ),
    "a storage with another number": (tensor((4,), (1,), magic=1), "no storage of torch"),
    "a storage of a big-endian machine": (tensor((4,), (1,), little=False), "big-endian"),
    "a storage longer than the file": (tensor((4,), (1,), numel=10**6), "is truncated"),
    "a storage of negative length": (tensor((4,), (1,), numel=-4), "does not"),
    "a storage of absurd length": (tensor((4,), (1,), numel=2**62), "does not"),
    "a storage of another length": (tensor((4,), (1,), count=2), "another length"),
    "a storage without data": (tensor((4,), (1,), payload=b""), "truncated"),
    "a storage without a key": (tensor((4,), (1,), keys=()), "tensors without data"),
    "a storage too many": (tensor((4,), (1,), keys=("0", "1")), "data without tensors"),
    "a storage of quantized numbers": (
        tensor((4,), (1,), kind="QInt8Storage"),
        "names torch.QInt8Storage",
    ),
    "a tensor larger than its storage": (tensor((5,), (1,)), r"size \(5,\) from a storage of 4"),
    "a tensor outside its storage": (tensor((2,), (1,), offset=3), "from a storage of 4"),
    "a tensor of long strides": (tensor((2, 2), (3, 1)), "from a storage of 4"),
    "a tensor before its storage": (tensor((2,), (1,), offset=-1), "does not take"),
    "a tensor that runs backwards": (tensor((2,), (-1,), offset=3), "does not take"),
    "a tensor of one number a million times": (tensor((10**6,), (0,)), "from a storage of 4"),
    "a tensor of negative size": (tensor((-1,), (1,)), "does not take"),
    "a tensor without as many strides": (tensor((2, 2), (1,)), "does not take"),
    "a tensor of absurd size": (tensor((2**40, 2**40, 2**40), (1, 1, 1)), "from a storage of 4"),
    "a tensor of 100 dimensions": (tensor((1,) * 100, (1,) * 100), "does not take"),
    "a tensor of text": (tensor("ab", "ab"), "does not take"),
    "an array of objects": (array("O8", (1,), bytes(8)), "not of numbers or text"),
    "an array of records": (array("i4,i4", (1,), bytes(8)), "not of numbers or text"),
    "an array of nothing": (array("S0", (2**40,), b""), "not of numbers or text"),
    "an array larger than its bytes": (array("f8", (2**40,), bytes(8)), "in 8 bytes"),
    "a sparse tensor": (
        name("torch._utils", "_rebuild_sparse_tensor") + b".",
        "names torch._utils._rebuild_sp",
    ),
    "an object of another type": (
        name("torch_utils.persistence", "_reconstruct_persistent_obj") + push(({"type": "evil"},)) + b"R.",
        "does not take",
    ),
}


@pytest.mark.parametrize(("stream", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_hostile_streams(stream, sentence, refuses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refuses(f"net.pkl .*{sentence}"):
        read_pickle(stream, "net.pkl")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is an empty file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a page in HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"hello world", "the byte 32"),
        (b"]]]", "is truncated"),
        (b"{'a': 1}", "the byte 123"),
    ],
)
def test_files_that_are_no_pickles(content, sentence, refuses, tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(content)
    with refuses(f"net.pkl.* {sentence}"):
        read_pickle(path)


def test_files_that_are_not_there(refuses, tmp_path):
    with refuses("gone.pkl cannot be read"):
        read_pickle(tmp_path / "gone.pkl")
    with refuses("is no file"):
        read_pickle(tmp_path)


def test_every_truncation_of_a_pickle_is_refused():
    stream = pickle.dumps({"a": [1, 2.5, "text", b"bytes"], "b": {"c": torch.arange(3)}}, 4)
    for end in range(1, len(stream)):
        with pytest.raises(TurningpointError):
            read_pickle(stream[:end])


def test_a_file_is_not_changed_by_writing_to_its_tensors(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(before := pickle.dumps({"a": torch.arange(5000), "b": b"x" * 5000}, 4))
    got = read_pickle(path)
    got["a"].zero_()
    assert path.read_bytes() == before
    assert got["b"] == b"x" * 5000


# Against pickle itself, on programs that call nothing.

OPCODES = [
    *(bytes([c]) for c in b"N\x88\x89]})\x8f(0122euadslt\x85\x86\x87\x90\x91\x94."),
    b"K\x01",
    b"K\x02",
    b"M\x01\x01",
    b"J\xff\xff\xff\xff",
    b"I01\n",
    b"I7\n",
    b"L12L\n",
    b"\x8a\x02\x01\x80",
    b"F2.5\n",
    b"G@\x08\x00\x00\x00\x00\x00\x00",
    b"\x8c\x01a",
    b"X\x02\x00\x00\x00bc",
    b"Vd\\u00e4\n",
    b"S'e\\n'\n",
    b"U\x01f",
    b"C\x01g",
    b"B\x01\x00\x00\x00h",
    b"\x96\x01\x00\x00\x00\x00\x00\x00\x00i",
    b"q\x00",
    b"q\x05",
    b"h\x00",
    b"h\x01",
    b"p1\n",
    b"g1\n",
    b"r\x02\x00\x00\x00",
    b"j\x02\x00\x00\x00",
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(OPCODES), max_size=40), st.booleans())
def test_programs_that_call_nothing_give_what_pickle_gives(opcodes, wrapped):
    program = b"(" * wrapped + b"".join(opcodes) + b"t" * wrapped + b"."
    try:
        got = read_pickle(program)
    except TurningpointError:
        return
    assert repr(got) == repr(pickle.loads(program, encoding="latin-1"))


@settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from(OPCODES)
        | st.binary(max_size=3)
        | st.sampled_from([b"R", b"\x81", b"o", b"\x93", b"Q", b"b"])
        | st.sampled_from([name("collections", "OrderedDict"), name("torch._utils", "_rebuild_tensor_v2")])
        | st.sampled_from(
            [name("numpy", "dtype"), name("copyreg", "_reconstructor"), name("builtins", "list")]
        ),
        max_size=60,
    )
)
def test_random_programs_return_or_are_refused(opcodes):
    with contextlib.suppress(TurningpointError):
        read_pickle(b"".join(opcodes) + b".")
