r"""The stack machine of pickle, which calls nothing that the file names.

Opcodes push values, collect them into containers and, with ``REDUCE``, ``NEWOBJ`` and ``BUILD``, ask for
functions to be called.  Containers and plain values are built as usual.  A name becomes an inert `Global`
if it is on the list of `meanings`, and is refused otherwise; a call runs the few lines that stand
there, never the function itself.  The order of work:

1. `opcodes.check` walks over the whole stream: opcodes, lengths, memo indices, memory.
2. The machine obeys it.
3. Whoever asked for it looks at the result with `nodes.check_tree`.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import TurningpointError
from .meanings import CALLS, NAMES, RefusedError, build, fill
from .nodes import Global
from .opcodes import CODES, LONG_BYTES, Reading, check, memo_index, operations, shown

_MOVED = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}
_ESCAPED = re.compile(rb"""(?:[^\\]++|\\(?:[\\'"nrt]|x[0-9a-f]{2}))*+""")

_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError)
"""What the steps and `meanings` run into where a stream holds something else than they take."""

_Step = Callable[["Machine", int, int], object]


class Machine:
    """One stream being obeyed.

    Parameters
    ----------
    data : memoryview
        The stream, and what follows it.
    reading : Reading
        The file's name and the memory left.
    names : mapping, optional
        Accepted names; `meanings.NAMES` by default.
    stored : callable, optional
        From a persistent id to the storage that it stands for; without it there are none.
    """

    def __init__(
        self,
        data: memoryview,
        reading: Reading,
        names: Mapping[tuple[str, str], Any] = NAMES,
        stored: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.reading = data, reading
        self._names, self._stored = names, stored
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, at: int = 0) -> tuple[Any, int]:
        """The value of the stream that starts at ``at``, and where it ends.

        Raises
        ------
        TurningpointError
            If it names or asks for anything that is not accepted, or is no well-formed stream.
        """
        stop = check(self.data, at, self.reading)
        try:
            for code, start, end in operations(self.data, at, self.reading):
                _STEPS[code](self, start, end)
            return self.stack.pop(), stop
        except TurningpointError:
            raise
        except _FAULTS as error:
            detail = str(error) if isinstance(error, RefusedError) else ""
            raise self.reading.refusal(detail or "is no well-formed pickle") from None

    def since_mark(self) -> list[Any]:
        """The values since the last mark, which goes with them."""
        values, self.stack = self.stack, self.marked.pop()
        return values

    def name(self, module: Any, name: Any) -> Any:
        """What stands for a name, or a refusal that tells it."""
        if type(module) is not str or type(name) is not str:
            raise RefusedError("names a function by something that is no text")
        key = (_MOVED.get(module, module), name)
        if key not in self._names:
            raise self.reading.refusal(
                f"names {shown(f'{module}.{name}')}, which no checkpoint of a network needs; "
                "accepted: tensors, numbers, text and containers"
            )
        return self._names[key]

    def call(self, function: Any, args: Any) -> None:
        """Push what the call of a name means."""
        if type(function) is not Global or type(args) is not tuple:
            raise RefusedError("calls something that is no function")
        meaning = CALLS.get((function.module, function.name))
        if meaning is None:
            raise RefusedError(f"calls {function}, which is no function")
        try:
            self.stack.append(meaning(self, *args))
        except TurningpointError:
            raise
        except _FAULTS as error:
            detail = str(error) if isinstance(error, RefusedError) else ""
            raise RefusedError(detail or f"calls {function} with what it does not take") from None

    def stored(self, key: Any) -> Any:
        """The storage behind a persistent id."""
        if self._stored is None:
            raise RefusedError("refers to data that is not in it")
        return self._stored(key)


# Numbers and text.


def _unsigned(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(int.from_bytes(machine.data[start:stop], "little"))


def _signed(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(int.from_bytes(machine.data[start:stop], "little", signed=True))


def _written_int(machine: Machine, start: int, stop: int) -> None:
    text = machine.data[start:stop].tobytes()
    machine.stack.append(text == b"01" if text in (b"00", b"01") else int(text.removesuffix(b"L")))


def _written_float(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(float(machine.data[start:stop].tobytes()))


def _float(machine: Machine, start: int, stop: int) -> None:
    machine.stack += struct.unpack(">d", machine.data[start:stop])


def _bytes(machine: Machine, start: int, stop: int) -> None:
    view = machine.data[start:stop]
    machine.stack.append(view.tobytes() if len(view) < LONG_BYTES else view)


def _bytearray(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(bytearray(machine.data[start:stop]))


def _text(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(str(machine.data[start:stop], "utf-8"))


def _latin_text(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(str(machine.data[start:stop], "latin-1"))


def _written_text(machine: Machine, start: int, stop: int) -> None:
    text = codecs.raw_unicode_escape_decode(machine.data[start:stop].tobytes())[0]
    text.encode("utf-8")
    machine.stack.append(text)


def _quoted_text(machine: Machine, start: int, stop: int) -> None:
    line = machine.data[start:stop].tobytes()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:] or not _ESCAPED.fullmatch(line):
        raise RefusedError
    machine.stack.append(str(codecs.escape_decode(line[1:-1])[0], "latin-1"))


# Containers.


def _mark(machine: Machine, start: int, stop: int) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _last(n: int) -> _Step:
    def collect(machine: Machine, start: int, stop: int) -> None:
        values = machine.stack[-n:]
        if len(values) < n:
            raise RefusedError
        machine.stack[-n:] = [tuple(values)]

    return collect


def _tuple(machine: Machine, start: int, stop: int) -> None:
    values = machine.since_mark()
    machine.stack.append(tuple(values))


def _list(machine: Machine, start: int, stop: int) -> None:
    values = machine.since_mark()
    machine.stack.append(values)


def _dict(machine: Machine, start: int, stop: int) -> None:
    values = machine.since_mark()
    machine.stack.append({})
    fill(machine, machine.stack[-1], values[::2], values[1::2])


def _frozenset(machine: Machine, start: int, stop: int) -> None:
    values, made = machine.since_mark(), set[Any]()
    fill(machine, made, values)
    machine.stack.append(frozenset(made))


def _append(machine: Machine, start: int, stop: int) -> None:
    value = machine.stack.pop()
    _extend(machine, [value])


def _appends(machine: Machine, start: int, stop: int) -> None:
    _extend(machine, machine.since_mark())


def _extend(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is not list:
        raise RefusedError
    target += values


def _set_item(machine: Machine, start: int, stop: int) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key], [value])


def _set_items(machine: Machine, start: int, stop: int) -> None:
    values = machine.since_mark()
    _update(machine, values[::2], values[1::2])


def _update(machine: Machine, keys: list[Any], values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise RefusedError
    fill(machine, target, keys, values)


def _add_items(machine: Machine, start: int, stop: int) -> None:
    values, target = machine.since_mark(), machine.stack[-1]
    if type(target) is not set:
        raise RefusedError
    fill(machine, target, values)


def _pop(machine: Machine, start: int, stop: int) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


# The memo.


def _put(code: int) -> _Step:
    def put(machine: Machine, start: int, stop: int) -> None:
        machine.memo[memo_index(code, machine.data[start:stop], machine.reading)] = machine.stack[-1]

    return put


def _get(code: int) -> _Step:
    def get(machine: Machine, start: int, stop: int) -> None:
        machine.stack.append(machine.memo[memo_index(code, machine.data[start:stop], machine.reading)])

    return get


def _memoize(machine: Machine, start: int, stop: int) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


# Names and calls.


def _global(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(machine.name(*str(machine.data[start:stop], "utf-8").split("\n")))


def _stack_global(machine: Machine, start: int, stop: int) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.name(module, name))


def _reduce(machine: Machine, start: int, stop: int) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.call(function, args)


def _new_with_names(machine: Machine, start: int, stop: int) -> None:
    if machine.stack.pop():
        raise RefusedError("makes an object with named arguments")
    _reduce(machine, start, stop)


def _instance(machine: Machine, start: int, stop: int) -> None:
    function = machine.name(*str(machine.data[start:stop], "utf-8").split("\n"))
    machine.call(function, tuple(machine.since_mark()))


def _object(machine: Machine, start: int, stop: int) -> None:
    function, *args = machine.since_mark()
    machine.call(function, tuple(args))


def _build(machine: Machine, start: int, stop: int) -> None:
    state = machine.stack.pop()
    build(machine, machine.stack[-1], state)


def _text_id(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(machine.stored(str(machine.data[start:stop], "utf-8")))


def _id(machine: Machine, start: int, stop: int) -> None:
    machine.stack.append(machine.stored(machine.stack.pop()))


def _nothing(machine: Machine, start: int, stop: int) -> None:
    pass


def _constant(value: Any) -> _Step:
    return lambda machine, start, stop: machine.stack.append(value)


def _empty(kind: type[list] | type[dict] | type[set]) -> _Step:
    return lambda machine, start, stop: machine.stack.append(kind())


_STEPS: dict[int, _Step] = {
    CODES[name]: step
    for names, step in (
        ("PROTO FRAME STOP", _nothing),
        ("NONE", _constant(None)),
        ("NEWTRUE", _constant(True)),
        ("NEWFALSE", _constant(False)),
        ("INT LONG", _written_int),
        ("BININT LONG1 LONG4", _signed),
        ("BININT1 BININT2", _unsigned),
        ("FLOAT", _written_float),
        ("BINFLOAT", _float),
        ("BINBYTES SHORT_BINBYTES BINBYTES8", _bytes),
        ("BYTEARRAY8", _bytearray),
        ("BINUNICODE SHORT_BINUNICODE BINUNICODE8", _text),
        ("BINSTRING SHORT_BINSTRING", _latin_text),
        ("UNICODE", _written_text),
        ("STRING", _quoted_text),
        ("EMPTY_LIST", _empty(list)),
        ("EMPTY_DICT", _empty(dict)),
        ("EMPTY_SET", _empty(set)),
        ("EMPTY_TUPLE", _constant(())),
        ("MARK", _mark),
        ("TUPLE1", _last(1)),
        ("TUPLE2", _last(2)),
        ("TUPLE3", _last(3)),
        ("TUPLE", _tuple),
        ("LIST", _list),
        ("DICT", _dict),
        ("FROZENSET", _frozenset),
        ("APPEND", _append),
        ("APPENDS", _appends),
        ("SETITEM", _set_item),
        ("SETITEMS", _set_items),
        ("ADDITEMS", _add_items),
        ("POP", _pop),
        ("POP_MARK", lambda machine, start, stop: machine.since_mark()),
        ("MEMOIZE", _memoize),
        ("GLOBAL", _global),
        ("STACK_GLOBAL", _stack_global),
        ("REDUCE NEWOBJ", _reduce),
        ("NEWOBJ_EX", _new_with_names),
        ("INST", _instance),
        ("OBJ", _object),
        ("BUILD", _build),
        ("PERSID", _text_id),
        ("BINPERSID", _id),
        ("DUP", lambda machine, start, stop: machine.stack.append(machine.stack[-1])),
    )
    for name in names.split()
}
_STEPS |= {CODES[name]: _put(CODES[name]) for name in ("PUT", "BINPUT", "LONG_BINPUT")}
_STEPS |= {CODES[name]: _get(CODES[name]) for name in ("GET", "BINGET", "LONG_BINGET")}
