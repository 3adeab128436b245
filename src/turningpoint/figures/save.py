"""Pictures on disk: vector files and the table they were drawn from, the same bytes every time."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .style import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGER = 1.25
"""By how much a page may enlarge a picture."""

_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def render(figure: Figure, kind: str) -> bytes:
    """The figure as an ``"svg"`` or ``"pdf"`` file, without dates or versions in it."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def save(figure: Figure, table: pd.DataFrame, folder: str | Path, name: str) -> list[Path]:
    """Write ``name.svg``, ``name.pdf`` and ``name.csv`` (the tidy table drawn) into ``folder``.

    Parameters
    ----------
    figure : Figure
        What one of this package's functions returned.
    table : DataFrame
        The tidy table it was drawn from; its index is not written.
    folder : path
        Made if it does not exist.
    name : str
        The files' common name, without extension.

    Returns
    -------
    list of Path
        The three files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "pdf", "csv")]
    paths[0].write_bytes(render(figure, "svg"))
    paths[1].write_bytes(render(figure, "pdf"))
    paths[2].write_bytes(table.to_csv(index=False, lineterminator="\n").encode())
    return paths


def inline(svg: str, name: str, description: str) -> str:
    """A saved picture as an ``<svg>`` element for an HTML page.

    Parameters
    ----------
    svg : str
        The file's text.
    name : str
        Prefix of the element's ids, so that several pictures can share a page.
    description : str
        What a reader who cannot see the picture is told.
    """
    from xml.sax.saxutils import quoteattr

    text = svg[svg.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # equal images have equal ids, to which nothing refers
    text = re.sub(r'(<image\b[^>]*?)\s+id="[^"]*"', r"\1", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    wide = re.search(r'\bwidth="([\d.]+)pt"', text)
    # a narrow picture is not blown up to the width of the page
    most = f"{LARGER * float(wide.group(1)):.0f}pt" if wide else "100%"
    style = f' style="max-width: {most}; min-width: min(34rem, {most})"'
    return text.replace("<svg", f'<svg role="img"{style} aria-label={quoteattr(description)}', 1).strip()
