r"""``palette``: which of the eleven basic colour terms an image is painted in.

Every pixel takes the term of the nearest prototype in CIELAB, with :math:`k(i)` the term of prototype :math:`q_i`,

.. math::

   \text{term}_p = k\big(\arg\min_i |\mathrm{Lab}(x_p) - q_i|\big), \qquad
   \text{shares}_k = \frac1P \sum_p [\text{term}_p = k], \qquad
   \text{dominant} = \arg\max_k \text{shares}_k, \qquad
   \text{mean} = \frac1P \sum_p \mathrm{Lab}(x_p).

The terms are those of Berlin & Kay 1969, "Basic Color Terms".  Prototypes are where people place the words on a
screen: the sRGB colours of the xkcd survey (Munroe 2010, https://blog.xkcd.com/2010/05/03/color-survey-results,
222,500 people; matplotlib carries them) for a term alone, and with "light" and "dark" before it where the survey has
that name, which gives 29.  With one prototype for each term a blue sky would be grey, since colours of one name
differ most in lightness.

CIELAB is that of scikit-image: sRGB (IEC 61966-2-1), white D65, 2 degree observer; L is 0 to 100.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Measure, Reading
from .pixels import pictures

TERMS = ("black", "white", "red", "green", "yellow", "blue", "brown", "purple", "pink", "orange", "grey")
"""Basic colour terms of English, in the order in which languages come by them; the last four at any time."""
SHADES = ("", "light ", "dark ")
AT_ONCE = 2**16
"""Pixels whose distances to all prototypes are held at once."""


@cache
def prototypes() -> tuple[np.ndarray, np.ndarray]:
    """The prototypes in CIELAB, (29, 3), and the number of each one's term.

    Examples
    --------
    >>> lab, term = prototypes()
    >>> lab[0].tolist(), [TERMS[k] for k in term[:3]]
    ([0.0, 0.0, 0.0], ['black', 'white', 'red'])
    """
    from matplotlib.colors import XKCD_COLORS, to_rgb
    from skimage.color import rgb2lab

    named = [(f"xkcd:{shade}{term}", k) for shade in SHADES for k, term in enumerate(TERMS)]
    known = [(name, k) for name, k in named if name in XKCD_COLORS]
    colors = np.array([[to_rgb(name) for name, _ in known]])
    return rgb2lab(colors)[0], np.array([k for _, k in known])


def lab_of(images: Tensor) -> np.ndarray:
    """CIELAB of images (B, 1 or 3, H, W) in [-1, 1], as (B, H, W, 3); grey ones on three equal channels.

    Raises
    ------
    TurningpointError
        If the images have another number of channels.
    """
    from skimage.color import rgb2lab

    if images.shape[1] not in (1, 3):
        raise TurningpointError(
            f"measure is 'palette', but the images have {images.shape[1]} channels; accepted: 1 or 3."
        )
    color = images.clamp(-1, 1).add(1).div(2).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    lab: np.ndarray = rgb2lab(color.cpu().numpy())
    return lab


def terms_of(lab: np.ndarray) -> np.ndarray:
    """The number in `TERMS` of the nearest prototype, (..., 3) to (...).

    Examples
    --------
    >>> from skimage.color import rgb2lab
    >>> [TERMS[k] for k in terms_of(rgb2lab([[0.5, 0.8, 0.95], [0.95, 0.9, 0.1], [0.4, 0.2, 0.0]]))]
    ['blue', 'yellow', 'brown']
    """
    centre, term = prototypes()
    flat, half = lab.reshape(-1, 3), (centre**2).sum(1) / 2
    pieces = [slice(start, start + AT_ONCE) for start in range(0, len(flat), AT_ONCE)]
    # |a - b|^2 = |a|^2 - 2 (a.b - |b|^2 / 2), of which the first does not matter
    nearest = [(flat[piece] @ centre.T.astype(flat.dtype) - half).argmax(1) for piece in pieces]
    found: np.ndarray = term[np.concatenate(nearest)].reshape(lab.shape[:-1])
    return found


@MEASURES.add("palette")
class Palette(Measure):
    """The most frequent colour term, the share of each of the eleven, and the mean colour.

    Of an image with two most frequent terms, the one that stands first in `TERMS` is dominant.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.

    Raises
    ------
    TurningpointError
        On reading, if the batch holds vectors or pictures of other than 1 or 3 channels.

    Examples
    --------
    >>> import torch
    >>> red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    >>> found = Palette().read(red)
    >>> TERMS[found["dominant"][0]], found["shares"].max(), found["mean"].round().tolist()
    ('red', np.float32(1.0), [[53.0, 80.0, 67.0]])
    """

    name = "palette"
    by_default = False  # a grey model has nothing to say here
    readings = (
        Reading("dominant", "categorical", "most frequent basic colour term", label="palette", values=TERMS),
        Reading("shares", "vector", "shares of the eleven basic colour terms", label="color shares"),
        Reading("mean", "vector", "mean color in CIELAB", label="mean color (CIELAB)"),
    )

    def __init__(self, model: Any = None) -> None:
        del model

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        shares = np.zeros((len(images), len(TERMS)), np.float32)
        mean = np.zeros((len(images), 3), np.float32)
        for item, image in enumerate(pictures(images, self.name).split(1)):
            lab = lab_of(image)[0].reshape(-1, 3)
            shares[item] = np.bincount(terms_of(lab), minlength=len(TERMS)) / len(lab)
            mean[item] = lab.mean(0, dtype=np.float64)
        return {"dominant": shares.argmax(1), "shares": shares, "mean": mean}
