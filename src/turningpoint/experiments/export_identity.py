"""Of which run an export's files are: ``run.json``, beside them from before the first file is written.

A run is known by what it is continued by: its kind, its settings, the number of its first item, and every item's
starting image and condition.  Items, times and replicates that are added, readings, and the folder's place leave it
the same run.  The model's name and configuration do not count: its fingerprint stands for both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..archive import spelled_out
from ..errors import TurningpointError
from ..run import Run
from .export_files import Files
from .export_index import INDEX
from .planning import differences

IDENTITY = "run.json"
FIRST = ("first_item", "first_replicate")


def identity(run: Run) -> dict[str, Any]:
    """What ``run.json`` says of a run, as JSON gives it back.

    Examples
    --------
    >>> import turningpoint as tp
    >>> known = identity(tp.generate("digits", 2, steps=2, progress=None))
    >>> list(known), len(known["items"])
    (['run', 'kind', 'settings', 'first_item', 'first_replicate', 'merged', 'items'], 2)
    """
    manifest, axes = run.manifest, run.manifest["axes"]
    model = {key: run.settings["model"].get(key) for key in ("name", "fingerprint")}
    content = {
        "run": None if run.folder is None else str(run.folder),
        "kind": run.kind,
        "settings": run.settings | {"model": model},
        **{name: int(axes.get(name, 0)) for name in FIRST},
        "merged": manifest.get("merged"),  # their order is that of the replicates
        "items": _items(axes),
    }
    return cast(dict[str, Any], json.loads(json.dumps(content)))


def _items(axes: Mapping[str, Any]) -> list[str]:
    """A hash of every item's starting image, where the manifest has one, and of what the model was told."""
    told = spelled_out(axes)
    images = axes.get("image_digests") or [None] * len(told)
    texts = (json.dumps(both, sort_keys=True) for both in zip(images, told, strict=True))
    return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


def checked(folder: Path, run: Run) -> dict[str, Any]:
    """The content for ``run.json`` in a folder that holds nothing, or earlier exports of this run.

    Raises
    ------
    TurningpointError
        If the folder holds files of another run, or an index without saying of which run.
    """
    asked = identity(run)
    if not os.path.lexists(folder / IDENTITY):
        if os.path.lexists(folder / INDEX):
            raise TurningpointError(
                f"out is {str(folder)!r}, whose {INDEX!r} stands there without the {IDENTITY!r} that says of which "
                "run it is; accepted: a new folder."
            )
        return asked
    known = _read(folder)
    differ = _differences(known, asked)
    if differ:
        raise TurningpointError(
            f"out is {str(folder)!r}, which holds files of {_called(known)}, not of {_called(asked)}; these differ: "
            f"{', '.join(differ)}; accepted: a new folder."
        )
    return asked | {"items": max(known["items"], asked["items"], key=len)}


def _read(folder: Path) -> dict[str, Any]:
    """What stands in ``run.json``."""
    try:
        known = json.loads((folder / IDENTITY).read_text())
        if not isinstance(known, dict) or not all(
            isinstance(known.get(key), kind)
            for key, kind in (("settings", dict), ("items", list), ("first_item", int), ("kind", str))
        ):
            raise ValueError("it is another program's")
        return known
    except (OSError, ValueError, RecursionError):
        raise TurningpointError(
            f"out is {str(folder)!r}, whose {IDENTITY!r} is not that of an export; accepted: a new folder."
        ) from None


def _differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """In what two runs differ, by name."""
    old, new = (
        {key: one.get(key) for key in ("kind", *FIRST, "merged")} | one["settings"] for one in (known, asked)
    )
    model = old.get("model")
    if isinstance(model, dict) and model.get("fingerprint") == new["model"]["fingerprint"]:
        new["model"] = new["model"] | {"name": model.get("name")}  # one model by two names
    differ = [text.partition(" (")[0] for text in differences(old, new)]
    n = min(len(known["items"]), len(asked["items"]))
    return differ + ["starting images, labels or prompts"] * (known["items"][:n] != asked["items"][:n])


def _called(one: Mapping[str, Any]) -> str:
    return f"the run in {one['run']!r}" if one.get("run") else "a run in memory"


def write(files: Files, content: Mapping[str, Any]) -> None:
    """Write ``run.json``, if it does not say the same already."""
    text = (json.dumps(content, indent=2) + "\n").encode()
    path = files.folder / IDENTITY
    if not path.is_file() or path.read_bytes() != text:
        files.replace(IDENTITY, text)
