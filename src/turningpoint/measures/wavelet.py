r"""``wavelet``: energies per scale and orientation, with PyWavelets' filter banks.

One level of the discrete wavelet transform filters and halves each axis, :math:`x \mapsto (A x, D x)` with
the low-pass part :math:`A` and the high-pass part :math:`D`; both axes together give

.. math::

   a = A x A^\top, \qquad h = D x A^\top, \qquad v = A x D^\top, \qquad d = D x D^\top,

and the next level takes :math:`a` in the place of :math:`x` (Mallat 1989, IEEE PAMI 11:674).  Rows are the
first axis: h is rough from top to bottom, the *horizontal* details, and v the vertical ones, as in
PyWavelets.  A and D are what PyWavelets makes of the unit vectors, so wavelets, boundary modes and the sizes
of odd images are its own (symmetric by default: half-way between pixels,
:math:`\lfloor (n + L - 1) / 2 \rfloor` coefficients for a filter of length L); a batch then takes two matrix
products a level.  Level 1 is the finest.  With the mean over positions and channels,

.. math:: \text{energy}_{l o} = \langle c^2 \rangle, \quad o \in \{H, V, D\}, \qquad
          \text{shares}_l = \frac{\sum_o \sum c_{lo}^2}{\sum_{l'} \sum_o \sum c_{l'o}^2}, \qquad
          \text{profile} = \log_{10} (\text{energy}_{1H}, \text{energy}_{1V}, \dots) .

Orthogonal wavelets give white noise the energy :math:`\sigma^2` in every sub-band, away from the boundary.
The approximation is what the last level leaves; it is read as its variance over positions, since a grey
picture has nothing in it.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from . import MEASURES, Measure, Reading
from .frequency import FLOOR, image_size
from .pixels import pictures

LEVELS = 3
"""Levels where images are large enough for them."""
ORIENTATIONS = {"H": "horizontal", "V": "vertical", "D": "diagonal"}

Details = tuple[Tensor, Tensor, Tensor]
"""Horizontal, vertical and diagonal coefficients of a level, each (B, C, h, w)."""


def subbands(
    images: Tensor, wavelet: str = "haar", levels: int = 1, mode: str = "symmetric"
) -> list[Tensor | Details]:
    """The coefficients of ``pywt.wavedec2`` for a batch, in its order: approximation, coarsest details, ..., finest.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        In float64 the answer is in float64, else in float32.
    wavelet : str
        Any of PyWavelets' discrete wavelets: ``haar``, ``db2``, ``sym4``, ``coif1``, ``bior2.2``, ...
    levels : int
        How often the approximation is divided.
    mode : str
        How PyWavelets continues an image beyond its boundary: ``symmetric``, ``periodization``, ...

    Returns
    -------
    list
        A tensor (B, C, h, w), then a triple (horizontal, vertical, diagonal) for each level from the coarsest
        on.

    Raises
    ------
    TurningpointError
        If the batch holds vectors, there is no such wavelet or mode, or ``levels`` is not a positive integer.

    Examples
    --------
    >>> a, (h, v, d) = subbands(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None])
    >>> [round(float(part), 6) for part in (a, h, v, d)]
    [5.0, -2.0, -1.0, 0.0]
    """
    x = images.detach() if images.dtype == torch.float64 and images.ndim == 4 else pictures(images, "wavelet")
    _check(wavelet, mode)
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
        raise TurningpointError(f"levels is {levels!r}; accepted: a positive integer.")
    found: list[Tensor | Details] = []
    for _ in range(levels):
        height, width = x.shape[2:]
        rows, columns = (_matrix(n, wavelet, mode).to(x) for n in (height, width))
        parts = (rows @ (x.flatten(0, 1) @ columns.T)).unflatten(0, x.shape[:2])
        h, w = len(rows) // 2, len(columns) // 2
        found.insert(0, (parts[:, :, h:, :w], parts[:, :, :h, w:], parts[:, :, h:, w:]))
        x = parts[:, :, :h, :w]
    return [x, *found]


@MEASURES.add("wavelet")
class Wavelet(Measure):
    """Energies of wavelet coefficients per level and orientation.

    Parameters
    ----------
    model : Denoiser, optional
        If given, there are no more levels than suit its images.
    wavelet : str
        One of PyWavelets' discrete wavelets.
    levels : int, optional
        By default 3, or fewer where the model's images are too small.
    mode : str
        One of PyWavelets' boundary modes.

    Raises
    ------
    TurningpointError
        If there is no such wavelet or mode, the images are vectors, or they are too small for the levels:
        every coefficient would be of the boundary.

    Examples
    --------
    >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)   # one column white, one black
    >>> found = Wavelet(levels=2).read(stripes)
    >>> [(name, round(float(found[name][0]), 6)) for name in ("energy1H", "energy1V", "energy2V")]
    [('energy1H', 0.0), ('energy1V', 4.0), ('energy2V', 0.0)]
    """

    name = "wavelet"
    by_default = False

    def __init__(
        self,
        model: Any = None,
        wavelet: str = "haar",
        levels: int | None = None,
        mode: str = "symmetric",
    ) -> None:
        _check(wavelet, mode)
        if levels is not None and (not isinstance(levels, int) or isinstance(levels, bool) or levels < 1):
            raise TurningpointError(f"levels is {levels!r}; accepted: a positive integer.")
        self.wavelet, self.mode = wavelet, mode
        size = None if model is None else image_size(model)
        self.levels = levels or (LEVELS if size is None else min(LEVELS, _deepest(size, wavelet)))
        if size is not None:
            self._suits(size)
        self.readings = (
            *(
                Reading(
                    f"energy{level}{letter}",
                    "scalar",
                    f"mean square of the {word} details of level {level} of {wavelet}",
                    label=f"{word} details, level {level}",
                    absent=0.0,
                )
                for level in range(1, self.levels + 1)
                for letter, word in ORIENTATIONS.items()
            ),
            Reading(
                "approximation",
                "scalar",
                f"variance of the approximation of level {self.levels} of {wavelet}",
                label="wavelet approximation",
                absent=0.0,
            ),
            Reading("shares", "vector", "share of the details' energy per level", label="share per level"),
            Reading("profile", "vector", "log10 of the details' energies", "decade", label="wavelet profile"),
        )

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        images = pictures(images, self.name)
        self._suits((images.shape[2], images.shape[3]))
        approximation, *details = subbands(images, self.wavelet, self.levels, self.mode)
        assert isinstance(approximation, Tensor)
        squares = [
            torch.stack([part.square().sum((1, 2, 3)) for part in level], 1) for level in details[::-1]
        ]
        sizes = [level[0][0].numel() for level in details[::-1]]
        energies = torch.stack([sums / size for sums, size in zip(squares, sizes, strict=True)], 1)
        per_level = torch.stack([sums.sum(1) for sums in squares], 1)
        all_of_it = per_level.sum(1, keepdim=True)
        some = all_of_it > FLOOR * 3 * sum(sizes)
        found = {
            f"energy{level + 1}{letter}": energies[:, level, k]
            for level in range(self.levels)
            for k, letter in enumerate(ORIENTATIONS)
        }
        found |= {
            "approximation": approximation.flatten(2).var(2, correction=0).mean(1),
            "shares": torch.where(some, per_level / all_of_it, torch.nan),
            "profile": energies.flatten(1).clamp(min=FLOOR).log10(),
        }
        return {name: values.cpu().numpy() for name, values in found.items()}

    def settings(self) -> dict[str, Any]:
        return {"wavelet": self.wavelet, "levels": self.levels, "mode": self.mode}

    def _suits(self, size: tuple[int, int]) -> None:
        deepest = _deepest(size, self.wavelet)
        if self.levels > deepest:
            raise TurningpointError(
                f"levels is {self.levels}, but beyond level {deepest} all coefficients of {self.wavelet} in images of "
                f"{size[0]} x {size[1]} pixels are of the boundary; accepted: 1 to {deepest}."
            )


@lru_cache(maxsize=64)
def _matrix(size: int, wavelet: str, mode: str) -> Tensor:
    """One level along an axis: (2 m, size), the m low-pass rows above the m high-pass ones."""
    import pywt

    return torch.from_numpy(np.concatenate(pywt.dwt(np.eye(size), wavelet, mode=mode, axis=0)))


def _deepest(size: tuple[int, int], wavelet: str) -> int:
    """The deepest level with a coefficient that the boundary does not touch, and 1 at least."""
    import pywt

    return max(1, int(pywt.dwt_max_level(min(size), pywt.Wavelet(wavelet).dec_len)))


def _check(wavelet: str, mode: str) -> None:
    import pywt

    known = pywt.wavelist(kind="discrete")
    if not isinstance(wavelet, str) or wavelet not in known:
        near = difflib.get_close_matches(str(wavelet), known, 3) or [
            "haar",
            "db2",
            "sym4",
            "coif1",
            "bior2.2",
        ]
        raise TurningpointError(
            f"wavelet is {wavelet!r}; accepted: a discrete wavelet of PyWavelets, such as {', '.join(near)}."
        )
    if mode not in pywt.Modes.modes:
        raise one_of("mode", mode, pywt.Modes.modes)
