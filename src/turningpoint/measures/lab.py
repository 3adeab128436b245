r"""``lab``: colour as people tell it apart, in CIELAB, and how far two images differ in it.

With :math:`(L_p, a_p, b_p)` the lightness and the two opponent colours of pixel :math:`p` of :math:`P`, the chroma
:math:`C_p = (a_p^2 + b_p^2)^{1/2}` and the hue :math:`h_p` its angle,

.. math::

   \text{mean} = \frac1P \sum_p (L_p, a_p, b_p), \qquad
   \text{chroma} = \frac1P \sum_p C_p, \qquad
   \text{hue}_k = \frac1P \sum_{p:\, h_p \in k} C_p, \qquad
   \text{contrast} = \Big(\frac1P \sum_p (L_p - \bar L)^2\Big)^{1/2}.

Hues are sectors of equal width from the direction of :math:`a` (red) by that of :math:`b` (yellow); they sum to the
chroma, and grey pixels, which have no hue, count nothing.  ``colorfulness`` is that of Hasler & Süsstrunk, of
:math:`r = R - G` and :math:`y = \tfrac12 (R + G) - B` on 0 to 255: :math:`(\sigma_r^2 + \sigma_y^2)^{1/2} +
0.3\, (\mu_r^2 + \mu_y^2)^{1/2}`.  Two images are compared

* place by place, ``distance`` :math:`= \frac1P \sum_p \Delta E(x_p, y_p)`, by the Euclidean distance (CIE 1976) or
  CIEDE2000;
* by their mean colours, ``mean_distance`` :math:`= \Delta E(\bar x, \bar y)`;
* by their palettes, ``palette``, the work that it takes to move the colours :math:`(a, b)` of one image onto those of
  the other, wherever and however light they are: the sliced Wasserstein distance, the mean over four directions of

  .. math:: \frac1P \sum_p \big| u_{(p)} - v_{(p)} \big|, \qquad u = a \cos \theta + b \sin \theta, \quad
            \theta = 0, 45, 90, 135^\circ,

  with :math:`u_{(p)}`, :math:`v_{(p)}` the sorted values of the two images.

CIELAB is that of sRGB (IEC 61966-2-1) under D65, 2 degree observer; values outside of [-1, 1] are cut off. Images of
one channel have :math:`a = b = 0`.

Sources: CIE 15:2004; CIEDE2000, Sharma, Wu & Dalal 2005, Color Res. Appl. 30(1):21; colourfulness, Hasler & Süsstrunk
2003, Proc. SPIE 5007:87; sliced Wasserstein distance, Rabin et al. 2011, SSVM, LNCS 6667:435.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TurningpointError, one_of
from . import MEASURES, Reading
from ._looking import Look, Looking
from .pixels import pictures, variance

FORMULAS = ("cie76", "ciede2000")
DIRECTIONS = tuple(math.radians(angle) for angle in (0, 45, 90, 135))


def cielab(images: Tensor) -> Tensor:
    """CIELAB of pictures.

    Parameters
    ----------
    images : Tensor (B, 1 or 3, H, W)
        In [-1, 1], where they are cut off.

    Returns
    -------
    Tensor (B, 3, H, W)
        L from 0 to 100, a and b about -110 to 100.

    Raises
    ------
    TurningpointError
        If the pictures have another number of channels.

    Examples
    --------
    >>> cielab(torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)).flatten().round().tolist()
    [53.0, 80.0, 67.0]
    """
    from kornia.color import rgb_to_lab

    if images.shape[1] not in (1, 3):
        raise TurningpointError(
            f"measure is 'lab', but the images have {images.shape[1]} channels; accepted: 1 or 3."
        )
    shares = images.clamp(-1, 1).add(1).div(2)
    if images.shape[1] == 1:  # sRGB's rounded matrix would leave 0.005 of a color in grey
        return torch.cat([_lightness(shares), images.new_zeros(len(images), 2, *images.shape[2:])], 1)
    found: Tensor = rgb_to_lab(shares)
    return found


def colorfulness(images: Tensor) -> Tensor:
    """Colourfulness (B,) of pictures (B, C, H, W) in [-1, 1], on the scale of 8-bit levels; 0 unless C is 3.

    Examples
    --------
    >>> halves = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]).reshape(1, 3, 1, 2)  # red, blue
    >>> colorfulness(halves).round()
    tensor([273.])
    """
    if images.shape[1] != 3:
        return images.new_zeros(len(images))
    red, green, blue = images.clamp(-1, 1).mul(127.5).flatten(2).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], 1)
    mean = opponent.mean(2, keepdim=True)
    variance = (opponent - mean).square().mean(2)
    return variance.sum(1).sqrt() + 0.3 * mean.square().sum((1, 2)).sqrt()


def hues(lab: Tensor, sectors: int) -> Tensor:
    """The mean chroma of each hue.

    Parameters
    ----------
    lab : Tensor (B, 3, H, W)
        From `cielab`.
    sectors : int
        Into how many the circle of hues is divided.

    Returns
    -------
    Tensor (B, sectors)

    Examples
    --------
    >>> hues(torch.tensor([50.0, -3.0, 4.0]).reshape(1, 3, 1, 1), 4)
    tensor([[0., 5., 0., 0.]])
    """
    _, a, b = lab.flatten(2).unbind(1)
    if not bool(lab[:, 1:].any()):
        return a.new_zeros(len(a), sectors)
    turn = (torch.atan2(b, a) / (2 * math.pi)) % 1
    sector = (turn * sectors).long().clamp(max=sectors - 1)
    sums = a.new_zeros(len(a), sectors, dtype=torch.float64)
    return sums.scatter_add_(1, sector, torch.hypot(a, b).double()).div(a.shape[1]).to(a)


def color_difference(first: Tensor, second: Tensor, formula: str) -> Tensor:
    """Delta E of CIELAB colours (B, 3, ...) and (B, 3, ...), (B, ...): CIE 1976, or CIEDE2000 by scikit-image.

    Examples
    --------
    >>> color_difference(torch.tensor([[50.0, 0, 0]]), torch.tensor([[50.0, 3, 4]]), "cie76")
    tensor([5.])
    """
    if formula == "ciede2000":
        from skimage.color import deltaE_ciede2000

        apart = deltaE_ciede2000(first.cpu().numpy(), second.cpu().numpy(), channel_axis=1)
        return torch.from_numpy(apart).to(first)
    return (first - second).square().sum(1).sqrt()


def sorted_slices(lab: Tensor) -> Tensor:
    """The colours of each image along the four directions, in ascending order, (B, 3, H, W) to (B, 4, P)."""
    directions = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in DIRECTIONS])
    along = directions.to(lab) @ lab[:, 1:].flatten(2)
    if along.device.type != "cpu":
        return along.sort(2).values
    return torch.from_numpy(np.sort(along.numpy(), axis=2))  # several times as fast as torch's


def _lightness(shares: Tensor) -> Tensor:
    """CIELAB's L of greys in [0, 1]: sRGB's luminance Y, and 116 Y^(1/3) - 16, which is linear where it is dark."""
    y = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    return torch.where(y > 0.008856, 116 * y ** (1 / 3) - 16, 116 * 7.787 * y)


@MEASURES.add("lab")
class Lab(Looking):
    """Mean colour, chroma, hues, contrast and colourfulness, and differences of colours and palettes.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    formula : str
        Of colour differences: ``cie76`` or ``ciede2000``.
    hues : int
        Into how many sectors the circle of hues is divided.

    Raises
    ------
    TurningpointError
        If a setting is none of these or, on reading, if the batch holds vectors or pictures of other than 1 or 3
        channels.

    Examples
    --------
    >>> red, green = (torch.eye(3)[k].reshape(1, 3, 1, 1).expand(1, 3, 4, 4) * 2 - 1 for k in (0, 1))
    >>> lab = Lab()
    >>> found = lab.read(red)
    >>> found["chroma"].round(), found["hue"].argmax(), found["contrast"].round(3)
    (array([105.], dtype=float32), np.int64(1), array([0.], dtype=float32))
    >>> {name: int(value[0]) for name, value in lab.compare(red, green).items()}
    {'distance': 170, 'mean_distance': 170, 'palette': 104}
    """

    name = "lab"
    by_default = False

    def __init__(self, model: Any = None, formula: str = "cie76", hues: int = 12) -> None:
        del model
        if formula not in FORMULAS:
            raise one_of("formula", formula, FORMULAS)
        if not isinstance(hues, int) or isinstance(hues, bool) or hues < 1:
            raise TurningpointError(f"hues is {hues!r}; accepted: a positive integer.")
        self.formula, self.hues = formula, hues
        unit = "ΔE"
        self.readings = (
            Reading("mean", "vector", "mean color in CIELAB", unit, label="mean color (CIELAB)"),
            Reading("chroma", "scalar", "mean chroma in CIELAB", unit, label="chroma", absent=0.0),
            Reading(
                "contrast",
                "scalar",
                "standard deviation of lightness",
                unit,
                label="contrast of lightness",
                absent=0.0,
            ),
            Reading(
                "colorfulness",
                "scalar",
                "colorfulness of Hasler & Süsstrunk",
                label="colorfulness",
                absent=0.0,
            ),
            Reading("hue", "vector", f"mean chroma of {hues} hues", unit, label="hues"),
            Reading(
                "distance",
                "comparison",
                f"mean color difference ({formula})",
                unit,
                0.0,
                label="color difference",
            ),
            Reading(
                "mean_distance",
                "comparison",
                f"difference of the mean colors ({formula})",
                unit,
                0.0,
                label="difference of mean colors",
            ),
            Reading(
                "palette",
                "comparison",
                "sliced Wasserstein distance of colors without their lightness",
                unit,
                0.0,
                label="difference of palettes",
            ),
        )

    def look(self, images: Tensor) -> dict[str, Tensor]:
        images = pictures(images, self.name)
        lab = cielab(images)
        slices = lab.new_zeros(len(lab), len(DIRECTIONS), 1) if images.shape[1] == 1 else sorted_slices(lab)
        return {"lab": lab, "slices": slices, "colorfulness": colorfulness(images)}

    def told(self, seen: Look) -> dict[str, Tensor]:
        lab = seen["lab"]
        return {
            "mean": lab.mean((2, 3)),
            "chroma": torch.hypot(lab[:, 1], lab[:, 2]).mean((1, 2)),
            "contrast": variance(lab[:, 0].flatten(1)).sqrt(),
            "colorfulness": seen["colorfulness"],
            "hue": hues(lab, self.hues),
        }

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """The three distances, each (B,); 0 for equal images."""
        of, means = (first["lab"], second["lab"]), (first["lab"].mean((2, 3)), second["lab"].mean((2, 3)))
        return {
            "distance": color_difference(*of, self.formula).mean((1, 2)),
            "mean_distance": color_difference(*means, self.formula),
            "palette": (first["slices"] - second["slices"]).abs().mean((1, 2)),
        }

    def settings(self) -> dict[str, Any]:
        return {"formula": self.formula, "hues": self.hues}
