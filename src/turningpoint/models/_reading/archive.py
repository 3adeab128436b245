r"""The zip archives that ``torch.save`` writes: entries as they are, one behind the other, uncompressed.

===================  ====================================================================
``NAME/data.pkl``    the value, a pickle that names its storages by number
``NAME/data/0`` ...  the storages, each from a multiple of 64 bytes on
``NAME/byteorder``   ``little`` or ``big``; missing before 2022, when all were little
``NAME/version``     of the format
===================  ====================================================================

A zip archive ends with a directory: for each entry its name, size and place, and behind that the size
of the directory.  Both are read here, rather than by `zipfile`, because the place of the bytes is what is
wanted (they are used where they lie), and because an archive that `torch.save` would not write is not to
be understood but refused: compressed entries, entries that lie over each other or outside the file, and
bytes before or behind.  Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

from ...errors import TurningpointError
from .opcodes import Reading, shown

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_WIDE = struct.Struct("<Q")
_FULL = 0xFFFFFFFF
_PROGRAMS = (["constants.pkl"], ["code"], ["archive_format"])


def entries(data: memoryview, reading: Reading) -> dict[str, memoryview]:
    """The entries of an archive by name, where they lie in the file.

    Parameters
    ----------
    data : memoryview
        The whole file.
    reading : Reading
        Its name and what memory may be spent on it.

    Raises
    ------
    TurningpointError
        If the archive is damaged, or not as `torch.save` writes it.
    """
    at, stop = _directory(data, reading)
    found: dict[str, memoryview] = {}
    places = [(at, len(data))]
    while at < stop:
        reading.spend(1000)
        sign, _, _, flags, method, _, _, _, packed, size, names, extras, notes, _, _, _, place = _unpack(
            _ENTRY, data[:stop], at, reading
        )
        at += _ENTRY.size
        raw, extra = data[at : at + names], data[at + names : at + names + extras]
        at += names + extras + notes
        if sign != b"PK\x01\x02" or at > stop:
            raise _damaged(reading)
        name = _name(raw, reading)
        if name.split("/")[1:2] in _PROGRAMS:
            raise reading.refusal(
                "is a program, of TorchScript or torch.export; accepted: a state dict written by torch.save"
            )
        if name in found:
            raise reading.refusal(f"is an archive with two entries {shown(name)}")
        if method or flags & 1:
            raise reading.refusal(
                f"is an archive whose entry {shown(name)} is compressed; accepted: stored as it is"
            )
        size, packed, place = _in_full(extra, (size, packed, place), reading)
        sign, _, _, method, _, _, _, _, _, local_names, extras = _unpack(_LOCAL, data, place, reading)
        first = place + _LOCAL.size + local_names + extras
        if sign != b"PK\x03\x04" or method or data[place + _LOCAL.size :][:local_names] != raw:
            raise _damaged(reading)
        if size != packed:
            raise reading.refusal(
                f"is an archive whose entry {shown(name)} has two sizes, {packed} and {size}"
            )
        found[name] = data[first : first + size]
        places.append((place, first + size))
    if any(end > start for (_, end), (start, _) in pairwise(sorted(places))):
        raise reading.refusal("is an archive whose entries lie over each other or outside the file")
    return found


def _directory(data: memoryview, reading: Reading) -> tuple[int, int]:
    """Where the directory starts and stops."""
    end = len(data) - _END.size
    sign, _, _, _, _, size, start, _ = _unpack(_END, data, end, reading)
    if sign != b"PK\x05\x06":
        raise reading.refusal("is a zip archive without its end: it is truncated, or not of torch.save")
    locator = max(end - _LOCATOR_64.size, 0)
    if bytes(data[locator : locator + 4]) == b"PK\x06\x07":
        _, _, end, _ = _unpack(_LOCATOR_64, data, locator, reading)
        sign, *_, size, start = _unpack(_END_64, data, end, reading)
        if sign != b"PK\x06\x06":
            raise _damaged(reading)
    if start + size != end:
        raise _damaged(reading)
    return start, end


def _in_full(extra: memoryview, numbers: tuple[int, ...], reading: Reading) -> list[int]:
    """Size, packed size and place, of which those beyond 32 bits stand in an extra field."""
    wide = memoryview(b"")
    while len(extra) >= 4 and not wide:
        kind, length = struct.unpack_from("<2H", extra)
        wide = extra[4 : 4 + length] if kind == 1 else wide
        extra = extra[4 + length :]
    full = []
    for number in numbers:
        if number == _FULL:
            (number,) = _unpack(_WIDE, wide, 0, reading)  # noqa: PLW2901
            wide = wide[8:]
        full.append(number)
    return full


def _name(raw: memoryview, reading: Reading) -> str:
    try:
        name = str(raw, "utf-8")
    except ValueError:
        raise reading.refusal("is an archive with an entry whose name is no text") from None
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or not name.isprintable():
        raise reading.refusal("is an archive with an entry whose name is no path inside it")
    return name


def _unpack(form: struct.Struct, data: memoryview, at: int, reading: Reading) -> tuple[Any, ...]:
    if not 0 <= at <= len(data) - form.size:
        raise _damaged(reading)
    return form.unpack_from(data, at)


def _damaged(reading: Reading) -> TurningpointError:
    return reading.refusal("is a damaged zip archive, or one that torch.save did not write")
