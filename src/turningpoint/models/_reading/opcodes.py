r"""The opcodes of a pickle stream, protocols 0 to 5, looked at before any of them is obeyed.

A pickle is a program for a stack machine: one byte says what to do, and its argument follows as

===============  =====================================================================
fixed            0, 1, 2, 4 or 8 bytes
counted          a length of 1, 4 or 8 bytes, little-endian, and as many bytes
lines            one line of text, or two (``GLOBAL``, ``INST``)
===============  =====================================================================

(`pickletools` has the table).  `check` walks over a whole stream without building anything.  It
refuses what leaves the file or the accepted opcodes, and adds up what obeying would cost at most,
because a stream can ask for far more memory than it takes: one byte makes a dictionary, five bytes
a memo with four thousand million places.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator

from ...errors import TurningpointError

CODES = {op.name: ord(op.code) for op in pickletools.opcodes}
"""The byte of each opcode, by its name."""

LONG_BYTES = 4096
"""Byte strings from this length on are not copied: they stay views of the file."""

_LONGEST = 255
_NEWLINE = re.compile(b"\n")
_REFUSED, _LINE, _LINES, _COUNT1, _COUNT4, _COUNT8 = -1, -2, -3, -4, -5, -6
_COUNT = {_COUNT1: 1, _COUNT4: 4, _COUNT8: 8}


def _layout(op: pickletools.OpcodeInfo) -> int:
    """How an opcode's argument is laid out: its fixed size, or one of the layouts above."""
    if op.name in {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}:
        return _REFUSED
    if op.arg is None:
        return 0
    if op.arg.name == "stringnl_noescape_pair":
        return _LINES
    counted = {
        pickletools.UP_TO_NEWLINE: _LINE,
        pickletools.TAKEN_FROM_ARGUMENT1: _COUNT1,
        pickletools.TAKEN_FROM_ARGUMENT4: _COUNT4,
        pickletools.TAKEN_FROM_ARGUMENT4U: _COUNT4,
        pickletools.TAKEN_FROM_ARGUMENT8U: _COUNT8,
    }
    return counted.get(op.arg.n, op.arg.n)


def _by_code(values: dict[str, int], otherwise: int) -> list[int]:
    table = [otherwise] * 256
    for name, value in values.items():
        table[CODES[name]] = value
    return table


_LAYOUT = _by_code({op.name: _layout(op) for op in pickletools.opcodes}, _REFUSED)

_COST = _by_code(
    {
        name: 40 + extra
        for extra, names in (
            (200, "EMPTY_LIST LIST EMPTY_DICT DICT FROZENSET MARK TUPLE TUPLE1 TUPLE2 TUPLE3 REDUCE"),
            (400, "EMPTY_SET OBJ INST NEWOBJ NEWOBJ_EX"),
            (160, "MEMOIZE PUT BINPUT LONG_BINPUT"),
            (40, "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT"),
            (200, "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"),
            (200, "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 GLOBAL STACK_GLOBAL PERSID BINPERSID"),
        )
        for name in names.split()
    },
    40,
)
"""Bytes that an opcode takes at most, its argument aside: a place on the stack and in a list, its object,
and its entry in `check_tree`."""

_TEXTS = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 PERSID"
_COST_PER_BYTE = {CODES[name]: 4 for name in _TEXTS.split()} | {CODES["BYTEARRAY8"]: 1}
_BYTES = {CODES[name] for name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")}
_SHORT = {CODES[name] for name in ("INT", "LONG", "LONG1", "LONG4", "FLOAT", "GET", "PUT", "GLOBAL", "INST")}
_PROTO, _FRAME, _STOP, _GET, _PUT, _LONG_BINPUT = (
    CODES[name] for name in ("PROTO", "FRAME", "STOP", "GET", "PUT", "LONG_BINPUT")
)
_LOOKED_AT = {*_COST_PER_BYTE, *_BYTES, *_SHORT, _PROTO, _FRAME, _LONG_BINPUT}


def shown(text: str) -> str:
    r"""A name from a file as a sentence may show it: short, and without anything but letters and signs.

    >>> shown("os.system\n")
    'os.system?'
    """
    return "".join(c if c.isalnum() or c in "._-+/<>" else "?" for c in text[:80])


class Reading:
    """One file being read: how sentences call it, and what may still be spent on it.

    Parameters
    ----------
    source : str
        Such as the path.
    size : int
        Of the file, in bytes.
    """

    def __init__(self, source: str, size: int) -> None:
        self.source = source
        self.left = max(48 << 20, 6 * size)

    def spend(self, size: int) -> None:
        """Reserve memory of this many bytes, or refuse.

        Reading a file may take 64 MiB or ten times its size; a quarter of that, and more, is kept
        for the file itself and for the allocators.
        """
        self.left -= size
        if self.left < 0:
            raise self.refusal("would take more memory than 64 MiB and ten times its own size")

    def refusal(self, text: str) -> TurningpointError:
        """The error whose sentence is the file's name and the text.

        >>> print(Reading("net.pkl", 9).refusal("is empty"))
        net.pkl is empty.
        """
        return TurningpointError(f"{self.source} {text}.")


def operations(data: memoryview, at: int, reading: Reading) -> Iterator[tuple[int, int, int]]:
    """The opcodes of a stream up to its STOP, with the places of their arguments.

    Parameters
    ----------
    data : memoryview
        Of bytes.
    at : int
        Where the stream starts.
    reading : Reading
        For the refusals.

    Yields
    ------
    code, start, stop : int
        The argument is ``data[start:stop]``: without its length, with the line's end of two lines
        between them.

    Raises
    ------
    TurningpointError
        If an opcode is not accepted, or an argument ends behind the data.
    """
    end = len(data)
    while at < end:
        code = data[at]
        layout = _LAYOUT[code]
        start = at = at + 1
        if layout >= 0:
            at = stop = at + layout
        elif layout in _COUNT:
            start = at + _COUNT[layout]
            at = stop = start + int.from_bytes(data[at:start], "little")
        elif layout == _REFUSED:
            raise reading.refusal(
                f"has the byte {code} where an opcode of pickle is due, which no file of tensors needs"
            )
        else:
            for _ in range(1 if layout == _LINE else 2):
                newline = _NEWLINE.search(data, at)
                at = end + 1 if newline is None else newline.end()
            stop = at - 1
        if at > end:
            break
        yield code, start, stop
        if code == _STOP:
            return
    raise _truncated(reading)


def check(data: memoryview, at: int, reading: Reading) -> int:
    r"""Walk over one stream and reserve what obeying it may take.

    Returns
    -------
    int
        Where the stream ends.

    Raises
    ------
    TurningpointError
        If an opcode is not accepted, a length, a frame or a memo index is larger than the stream can
        justify, or the whole would take more memory than `Reading.spend` grants.

    Examples
    --------
    >>> check(memoryview(b"\x80\x02}."), 0, Reading("net.pkl", 4))
    4
    """
    left, cost, largest, stop = reading.left, 0, 0, at
    for code, start, stop in operations(data, at, reading):
        cost += _COST[code]
        if code in _LOOKED_AT:
            size = stop - start
            if code in _COST_PER_BYTE:
                cost += size * _COST_PER_BYTE[code]
            elif code in _BYTES:
                cost += size if size < LONG_BYTES else 0
            elif code in _SHORT and size > _LONGEST:
                raise reading.refusal(f"holds a number or a name of {size} bytes; accepted: {_LONGEST}")
            elif code in (_PUT, _LONG_BINPUT):
                largest = max(largest, memo_index(code, data[start:stop], reading))
            elif code == _PROTO and data[start] > 5:
                raise reading.refusal(f"is a pickle of protocol {data[start]}; accepted: 0 to 5")
            elif code == _FRAME and int.from_bytes(data[start:stop], "little") > len(data) - stop:
                raise _truncated(reading)
        if cost > left:
            break
    if largest > stop - at:
        raise reading.refusal(f"uses place {largest} of a memo that has not as many")
    reading.spend(cost)
    return stop


def memo_index(code: int, argument: memoryview, reading: Reading) -> int:
    """The place in the memo that ``GET``, ``PUT`` and their binary forms name."""
    if code not in (_PUT, _GET):
        return int.from_bytes(argument, "little")
    text = bytes(argument)
    if not text.isdigit():
        raise reading.refusal("names a place of its memo by something that is no number")
    return int(text)


def _truncated(reading: Reading) -> TurningpointError:
    return reading.refusal("ends in the middle of a pickle: it is truncated, or no checkpoint")
