"""Read damaged checkpoints under limits: run as a program by `test_reader_fuzz.py`.

`python reading_under_watch.py FOLDER fuzz COUNT` mutates checkpoints of six formats and reads COUNT mutants.
`python reading_under_watch.py FOLDER greedy` reads streams that ask for as much memory as their size can
be made to ask for.  `python reading_under_watch.py FOLDER pickle FILE` reads with pickle, to see the watch
bite.  While a file is read,

- an audit hook ends the program at any import, execution, process, socket or write,
- the address space may grow by the larger of 64 MiB and ten times the file's size, where the system
  can limit it.

A read may return or raise a TurningpointError of one sentence; anything else ends the program.  The last
line printed is a JSON object: how many returned and how many were refused, with which sentences.
"""

from __future__ import annotations

import collections
import io
import json
import pickle
import pickletools
import random
import re
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from turningpoint.errors import TurningpointError
from turningpoint.models._reading.checkpoint import read_checkpoint
from turningpoint.models._reading.pickles import read_pickle

MIB = 1 << 20
FORBIDDEN = re.compile(
    r"import|exec|compile|marshal\.|pickle\.find_class|ctypes\.|code\.|os\.|subprocess\.|pty\.|socket\.|shutil\.|urllib\."
    r"|tempfile\.|webbrowser\.|http\.|sqlite3\.|winreg\.|msvcrt\."
)


class Watch:
    """An audit hook that is on while a file is read."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if self.on and (FORBIDDEN.match(event) or (event == "open" and not self._reads(args))):
            self.seen.append(f"{event}{args}")
            raise SystemExit(f"audit: {event}{args}")

    @staticmethod
    def _reads(args):
        return args[1] in ("r", "rb", None) and not args[2] & 0o1103


def address_space():
    """Bytes of address space in use, or None where the system does not tell."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * 4096 if status.exists() else None


def limit(size):
    """Let the address space grow by this many bytes from now on; None lifts the limit."""
    used = address_space()
    if used is not None:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if size is None else used + size, most))


def read(watch, path, reader, tally):
    """Read one file under watch and count what came of it."""
    size = path.stat().st_size
    limit(max(64 * MIB, 10 * size))
    watch.on = True
    try:
        value = reader(path)
    except TurningpointError as error:
        watch.on = False
        sentence = str(error).replace(str(path), "net.pt")
        if not sentence.endswith(".") or "\n" in sentence or re.search(r"\. [A-Z]", sentence):
            raise SystemExit(f"not one sentence: {sentence!r}") from None
        tally["refused"] += 1
        tally["sentences"].add(re.sub(r"[\d_]+|names \S+|entry \S+|calls \S+", "N", sentence))
    else:
        watch.on = False
        walk(value)
        tally["returned"] += 1
    limit(None)
    if watch.seen:
        raise SystemExit(f"audit: {watch.seen}")


def walk(value):
    """Go through a value as a loader would, by plain recursion, and touch every tensor."""
    if isinstance(value, torch.Tensor):
        value.flatten()[:1].tolist()
    elif isinstance(value, dict):
        for inside in value.values():
            walk(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            walk(inside)
    elif hasattr(value, "state"):
        walk(value.state)


# Mutants.

FORMATS = {"edm": 15, "zip": 25, "legacy": 20, "module": 15, "text": 10, "safetensors": 15}
"""Formats of checkpoints, and which percentage of the mutants is made of each."""


def checkpoint(kind, folder):
    """A small checkpoint of each format, as bytes."""
    torch.manual_seed(0)
    path = folder / "base"
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(2, 2, 2, 2)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(1e-3)
    whole = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": [torch.ones(2, 2).T],
        "step": 3,
    }
    whole["rng"] = np.arange(3)
    if kind == "zip":
        torch.save(whole, path)
    elif kind == "legacy":
        torch.save(whole, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(dict(model.state_dict()), path, metadata={"config": "{}"})
    elif kind == "module":
        path.write_bytes(pickle.dumps({"ema": model, "kwargs": collections.OrderedDict(a=(1, 2.5))}, 2))
    elif kind == "text":
        path.write_bytes(pickle.dumps(whole, 0))
    else:
        path.write_bytes(
            (Path(__file__).parent / "golden" / "edm" / "hostile" / "benign_twin.pkl").read_bytes()
        )
    return path.read_bytes()


SNIPPETS = [
    b"cposix\nsystem\n",
    b"X\x05\x00\x00\x00posix",
    b"X\x06\x00\x00\x00system",
    b"X\x0b\x00\x00\x00touch PWNED",
    b"(X\x0b\x00\x00\x00touch PWNEDtR",
    b"iposix\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n)R",
    b"r\xff\xff\xff\x0b",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x95\xff\xff\xff\xff\x00\x00\x00\x00",
    b"]" * 200,
    b"\x85" * 200,
    b"}" * 50,
    b"\x8f(h\x00\x90",
    b"\x82\x01",
    b"PK\x01\x02",
    b"PK\x05\x06",
    *(bytes([code]) for code in b"R\x81\x92bo\x93Q(tuseda012.}])N\x88q\x00h\x00\x94"),
]


def places(content):
    """Where the opcodes and the directory of a checkpoint are, rather than its tensors' numbers."""
    found = []
    for start in (match.start() for match in re.finditer(rb"\x80[\x02-\x05]", content)):
        try:
            found += [start + at for _, _, at in pickletools.genops(content[start:])]
        except Exception:
            continue
    directory = content.rfind(b"PK\x01\x02")
    if directory >= 0:
        found += list(range(content.find(b"PK\x01\x02"), len(content))) * 2
    return found or list(range(min(len(content), 600)))


CHANGES = [
    "flip",
    "flip",
    "flip",
    "byte",
    "byte",
    "number",
    "number",
    "cut",
    "splice",
    "insert",
    "delete",
    "overwrite",
]


def mutate(content, spots, draw):
    """One mutant: one to three changes, mostly where opcodes are."""
    mutant = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.choice(spots) + draw.randrange(3) if draw.random() < 0.8 else draw.randrange(len(content))
        at = min(at, len(mutant) - 1) if mutant else 0
        change = draw.choice(CHANGES)
        snippet = draw.choice(SNIPPETS)
        if change == "flip" and mutant:
            mutant[at] ^= 1 << draw.randrange(8)
        elif change == "byte" and mutant:
            mutant[at] = draw.randrange(256)
        elif change == "number":
            width = draw.choice((1, 2, 4, 8))
            value = draw.choice(
                (0, 1, 127, 2**31 - 1, 2**32 - 1, 2**63 - 1, len(content), draw.randrange(2**16))
            )
            mutant[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        elif change == "cut":
            del mutant[at:]
        elif change == "splice":
            start = draw.choice(spots)
            mutant[at:at] = content[start : start + draw.randrange(1, 300)]
        elif change == "insert":
            mutant[at:at] = snippet
        elif change == "delete":
            del mutant[at : at + draw.choice((1, 2, 5, 50))]
        else:
            mutant[at : at + len(snippet)] = snippet
    return bytes(mutant)


def fuzz(watch, folder, count):
    path = folder / "net.pt"
    tally = {"returned": 0, "refused": 0, "sentences": set()}
    for kind, share in FORMATS.items():
        content = checkpoint(kind, folder)
        spots = places(content)
        path.write_bytes(content)
        walk(read_checkpoint(path))
        draw = random.Random(f"{kind} 1")
        for _ in range(count * share // 100):
            path.write_bytes(mutate(content, spots, draw))
            read(watch, path, read_checkpoint, tally)
    return tally


# Streams that ask for much.


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def push(value):
    return pickle.dumps(value, 2)[2:-1]


def repeated(unit, before=b""):
    return lambda size: before + b"(" + unit * (size // len(unit)) + b"l."


def called(function, arguments):
    """One call over and over, from the memo: five bytes each."""
    return repeated(b"h\x00h\x01R", function + b"\x94" + arguments + b"\x94")


def keys(before, unit, after):
    return lambda size: (
        before + b"".join(b"J" + struct.pack("<i", i) + unit for i in range(size // 6)) + after
    )


def tensor_arguments():
    buffer = io.BytesIO()
    torch.save(torch.ones(2).untyped_storage(), buffer, _use_new_zipfile_serialization=False)
    raw = buffer.getvalue()
    stored = name("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(raw)) + raw + b"\x85R"
    return b"(" + stored + push(0) + push((2,)) + push((1,)) + push(False) + push({}) + b"t", raw


def greedy():
    arguments, raw = tensor_arguments()
    dtype = name("numpy", "dtype") + push(("f8",)) + b"R"
    meta = {"type": "class", "class_name": "N", "state": {}, "version": 6, "module_src": ""}
    return {
        "dictionaries": repeated(b"}"),
        "lists": repeated(b"]"),
        "sets": repeated(b"\x8f"),
        "tuples": repeated(b"N\x85"),
        "marks": lambda size: b"(" * size + b"." * 1,
        "memo": repeated(b"K\x01\x94"),
        "dictionaries in the memo": repeated(b"}\x94"),
        "dictionaries of one": repeated(b"}K\x01Ns"),
        "sets of one": repeated(b"\x8f(K\x01\x90"),
        "floats": repeated(b"G\x00\x00\x00\x00\x00\x00\x00\x01"),
        "short texts": repeated(b"\x8c\x02aa"),
        "wide texts": repeated(b"\x8c\x04\xf0\x9f\x98\x80"),
        "a long wide text": lambda size: (
            b"X" + struct.pack("<I", size + 4) + b"a" * size + "😀".encode() + b"."
        ),
        "a long written text": lambda size: b"V" + b"a" * size + b"\\U0001f600\n.",
        "a long quoted text": lambda size: b"S'" + b"\\n" * (size // 2) + b"'\n.",
        "long names": lambda size: b"c" + b"a" * size + b"\nb\n.",
        "bytes": repeated(b"C\x01a"),
        "long numbers": repeated(b"\x8a\x05\x01\x01\x01\x01\x01"),
        "keys": keys(b"}(", b"N", b"u."),
        "members": keys(b"\x8f(", b"", b"\x90."),
        "frozen members": keys(b"(", b"", b"\x91."),
        "nested lists": lambda size: b"]" * (size // 2) + b"a" * (size // 2 - 1) + b".",
        "nested tuples": lambda size: b"N" + b"\x85" * size + b".",
        "ordered dictionaries": called(name("collections", "OrderedDict"), b")"),
        "namespaces": called(name("argparse", "Namespace"), b")"),
        "modules": called(name("torch.nn.modules.linear", "Linear"), b")"),
        "persistent objects": called(
            name("torch_utils.persistence", "_reconstruct_persistent_obj"), push((meta,))
        ),
        "tensors": called(name("torch._utils", "_rebuild_tensor_v2"), arguments),
        "storages": called(
            name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(raw)) + raw + b"\x85"
        ),
        "encoded": called(name("_codecs", "encode"), push(("a" * 1000, "latin1"))),
        "scalars": called(name("numpy.core.multiarray", "scalar"), dtype + b"C\x0812345678\x86"),
        "arrays": called(
            name("numpy.core.numeric", "_frombuffer"),
            b"(C\x0812345678" + dtype + push((1,)) + push("C") + b"t",
        ),
        "empty arrays": called(
            name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray") + b"NN\x87"
        ),
        "copied tuples": called(name("builtins", "tuple"), b"(" + b"N" * 2000 + b"l\x85"),
        "copied dictionaries": called(
            name("collections", "OrderedDict"), push(({i: i for i in range(500)},))
        ),
        "copied sets": called(name("builtins", "set"), push((list(range(500)),))),
        "copied bytes": called(name("builtins", "bytearray"), b"C\xff" + b"a" * 255 + b"\x85"),
        "paths": called(name("pathlib", "PosixPath"), push(("é😀" * 300,))),
    }


def feed(watch, folder):
    path = folder / "net.pkl"
    tally = {"returned": 0, "refused": 0, "sentences": set()}
    for make in greedy().values():
        path.write_bytes(b"\x80\x04" + make(300_000))
        read(watch, path, read_pickle, tally)
    for size in (1_000_000, 3_000_000):
        tensors = ",".join(
            f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(size // 50)
        )
        header = f"{{{tensors}}}".encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        read(watch, path, read_checkpoint, tally)
    return tally


def main(folder, task, detail=""):
    torch.set_num_threads(1)
    watch = Watch()
    tally = {"returned": 0, "refused": 0, "sentences": set()}
    if task == "fuzz":
        tally = fuzz(watch, Path(folder), int(detail))
    elif task == "greedy":
        tally = feed(watch, Path(folder))
    else:
        read(watch, Path(detail), lambda path: pickle.loads(path.read_bytes()), tally)
    print(json.dumps(tally | {"sentences": sorted(tally["sentences"])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
