"""Pages: templates that share one look, filled and written beside the figures that they show.

A page is self-contained: it loads nothing and opens offline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..archive import Archive
from ..beside import Picture


def render(template: str, page: Mapping[str, Any], place: Path, name: str = "report.html") -> Path:
    """Fill a template of this package and write it into ``place``, which is made if it is not there.

    Parameters
    ----------
    template : str
        ``run.html.j2``, ...
    page : mapping
        All that it names.
    place : path
        A folder.
    name : str
        Of the page's file.

    Returns
    -------
    Path
        The page.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_text(environment.get_template(template).render(page), encoding="utf-8")
    return path


def made(run: Archive) -> dict[str, Any]:
    """How a run was made, for the end of its page: model, axes, settings, command, versions, papers."""
    settings = run.manifest.get("settings", {})
    model = settings.get("model", {})
    return {
        "model": model.get("name", "model"),
        "fingerprint": model.get("fingerprint", "unknown"),
        "details": flat({k: v for k, v in model.items() if k not in ("name", "fingerprint")}),
        "axes": flat({k: v for k, v in run.manifest.get("axes", {}).items() if k != "image_digests"}),
        "settings": flat({name: value for name, value in settings.items() if name != "model"}),
        "versions": run.manifest.get("versions", {}),
        "command": run.manifest.get("command") or "",
        "papers": run.papers(),
    }


def saved(drawn: Mapping[str, Picture], folder: Path) -> dict[str, str]:
    """Save every picture with its table, and give it back as an SVG element."""
    from ..figures.save import inline, save

    elements = {}
    for name, (figure, table, about) in drawn.items():
        svg = save(figure, table, folder, name)[0].read_text(encoding="utf-8")
        elements[name] = inline(svg, name, about)
    return elements


def joined(names: Sequence[str]) -> str:
    """Names as a reader lists them.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def small(p: float) -> str:
    """A p-value in few letters.

    >>> small(0.12345), small(0.0001234), small(float("nan"))
    ('0.12', '0.0001', '–')
    """
    return "–" if math.isnan(p) else f"{p:.2g}" if p >= 0.01 else f"{p:.1g}"


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names, for readers.

    >>> flat({"grid": {"steps": 5}, "times": [0.1, 0.2]})
    {'grid.steps': '5', 'times': '0.1, 0.2'}
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = _text(value)
    return found


def _text(value: Any) -> str:
    """A setting for readers: a long list as its length and range."""
    if value is None:
        return "none"
    if not isinstance(value, list | tuple | np.ndarray):
        return str(value)
    if len(value) <= 8:
        return ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value) or "none"
    if all(isinstance(v, int | float | np.number) for v in value):
        return f"{len(value)} values from {min(value):.4g} to {max(value):.4g}"
    return f"{len(value)} values: {value[0]}, …, {value[-1]}"
