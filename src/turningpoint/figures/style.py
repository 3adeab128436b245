"""The look of every picture: type, colour-blind-safe colours, and the two clocks along the x axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diffusion.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.2
"""Inches; two columns of a journal page."""

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"

PALETTE = {
    "vermillion": "#D55E00",
    "blue": "#0072B2",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
"""Okabe and Ito's colours, which stay apart for colour-blind readers (yellow left out: faint on white)."""

_GROUPS = {
    "class": ("class", "vermillion"),
    "classifier": ("class", "vermillion"),
    "morphometry": ("shape", "green"),
    "frequency": ("frequency", "blue"),
    "pixels": ("colour and pixels", "purple"),
    "color": ("colour and pixels", "purple"),
    "palette": ("colour and pixels", "purple"),
    "lab": ("colour and pixels", "purple"),
    "structure": ("structure", "orange"),
    "perceptual": ("structure", "orange"),
    "texture": ("texture", "sky"),
    "spectrum": ("frequency", "blue"),
    "wavelet": ("frequency", "blue"),
}
_OTHERS = ("orange", "sky", "black")

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "butt",
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "savefig.bbox": "standard",
    "image.composite_image": False,  # else images in one picture are resampled together
    "svg.fonttype": "path",
    "svg.hashsalt": "turningpoint",
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """The library's settings of matplotlib, for as long as the block lasts."""
    import matplotlib
    from matplotlib import rc_context

    with rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def groups(features: list[str]) -> dict[str, tuple[str, str]]:
    """For each feature, the name and the colour of its group: what stands before the first dot.

    >>> groups(["morphometry.mass", "clip.text"])
    {'morphometry.mass': ('shape', '#009E73'), 'clip.text': ('clip', '#E69F00')}
    """
    known = dict(_GROUPS)
    for prefix in sorted({feature.split(".")[0] for feature in features} - set(_GROUPS)):
        known[prefix] = (prefix, _OTHERS[(len(known) - len(_GROUPS)) % len(_OTHERS)])
    named = {feature: known[feature.split(".")[0]] for feature in features}
    return {feature: (name, PALETTE[color]) for feature, (name, color) in named.items()}


def mix(color: str, other: str, share: float) -> tuple[float, float, float]:
    """``color`` with a ``share`` of ``other`` in it, as RGB."""
    from matplotlib.colors import to_rgb

    a, b = np.asarray(to_rgb(color)), np.asarray(to_rgb(other))
    r, g, b = (a * (1 - share) + b * share).tolist()
    return r, g, b


def brief(text: object, width: int) -> str:
    """A user's string on one line of at most ``width`` characters; a closing bracket goes first.

    >>> brief("energy of band 2 (2.9-4.9 cycles)", 20)
    'energy of band 2'
    """
    line = " ".join(str(text).split())
    if len(line) > width and line.endswith(")") and line.rfind(" (") > 0:
        line = line[: line.rfind(" (")]
    if len(line) <= width:
        return line
    words = textwrap.shorten(line, width, placeholder="…")
    return words if len(words) > 1 else f"{line[: width - 1]}…"


def inches_wide(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text of a size in points is drawn, in inches.

    >>> inches_wide("one", 7.0) < inches_wide("one", 7.0, "bold") < inches_wide("one and two", 7.0)
    True
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=RC["font.family"], weight=weight, size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def fitted(text: object, room: float, size: float) -> str:
    """A user's string on one line that is no wider than ``room`` inches.

    >>> fitted("alternative number 3", 0.8, 7.0)
    'alternative…'
    """
    line = " ".join(str(text).split())
    width = len(line)
    while width > 1 and inches_wide(line, size) > room:
        width -= 1
        line = brief(text, width)
    return line


def number(value: float, digits: int = 2) -> str:
    """A number for readers: a true minus sign, no negative zero, infinities as such.

    >>> number(-1.234), number(-0.001), number(float("-inf"))
    ('−1.23', '0.00', '−∞')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def clock_name(schedule: Schedule) -> str:
    """What the native axis is called."""
    return {"t": "t", "sigma": "σ"}.get(schedule.native_unit, f"native {schedule.native_unit}")


def native_ticks(
    schedule: Schedule, low: float, high: float, gap: float = 0.08
) -> tuple[list[float], list[str]]:
    """Round values of the native clock between two log-SNRs, well apart: their log-SNRs and their names.

    ``gap`` is the least distance of two ticks, as a share of the axis.
    """
    top = float(schedule.native(1.0))
    decade = math.floor(math.log10(max(abs(top), 1e-6)))
    rounds = [m * 10.0**k for ms in ((1, 5), (2,), (3, 7), (4, 6, 8, 9)) for k in _down(decade) for m in ms]
    placed: list[tuple[float, float]] = []
    for value in [v for v in rounds if v <= top * (1 + 1e-9)]:
        logsnr = float(schedule.logsnr(schedule.t(native=value)))
        apart = all(abs(logsnr - other) >= gap * (high - low) for other, _ in placed)
        if low <= logsnr <= high and apart:
            placed.append((logsnr, value))
    placed.sort()
    return [logsnr for logsnr, _ in placed], [f"{value:g}" for _, value in placed]


def _down(decade: int) -> range:
    return range(decade, decade - 7, -1)


def clocks(axes: Axes, schedule: Schedule, sweep: tuple[float, float], gap: float = 0.08) -> None:
    """Ticks of the native clock on top of an axis of log-SNR whose limits are set."""
    low, high = axes.get_xlim()
    top = axes.secondary_xaxis("top")
    positions, names = native_ticks(schedule, *sweep, gap * (high - low) / max(sweep[1] - sweep[0], 1e-6))
    top.set_xticks(positions, names)
    top.tick_params(length=2.5, pad=1.5, labelcolor=MUTED)


def direction(axes: Axes) -> None:
    """Name the axis of log-SNR and say which way generation runs along it."""
    axes.set_xlabel("log-SNR", labelpad=3)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "color": MUTED}
    axes.annotate("noise ⟶", (0, 0), (0, -22.8), ha="left", va="baseline", **place)
    axes.annotate("⟶ data", (1, 0), (0, -22.8), ha="right", va="baseline", **place)
