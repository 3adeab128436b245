r"""``morphometry``: thickness, slant, size and holes of a bright stroke on a dark ground.

The luminance, enlarged four times by bilinear interpolation, is cut at the middle of [-1, 1].  Connected
pieces of the stroke smaller than one original pixel are taken away, holes smaller than that are filled
(a lone pixel goes, since it covers 12 of its 16 enlarged ones; two neighbours stay).
Of what is left, with :math:`(u, v)` the coordinates to the right and *down* from its centre,
:math:`D` the distance to the ground and :math:`S` the skeleton,

.. math::

   \text{slant} = \arctan s, \quad s = -\mu_{11} / \mu_{02}, \quad \mu_{pq} = \langle u^p v^q \rangle, \qquad
   \text{thickness} = 2 \langle D \rangle_S,

a slant above 0 leaning to the right; height and width are those of the smallest parallelogram around it
that has two horizontal sides and two sides of that slant: the extents of :math:`v` and of :math:`u + s v`.
Mass is the sum of the pixels in [0, 1], before all that.

The cut is fixed rather than halfway between an image's own extremes, so that a dim picture has no
stroke, not one of noise.  Such an image has NaN everywhere and -1 holes: it has stopped being a digit,
which is a change of kind.

Sources: Castro et al. 2019, "Morpho-MNIST", JMLR 20(178) (thickness, slant, parallelogram;
there a share of the mass may lie outside); skeleton, Zhang & Suen 1984, Commun. ACM 27(3):236.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import MEASURES, Measure, Reading
from .pixels import luminance, pictures

UPSCALE = 4
NO_STROKE = -1


def stroke(images: Tensor) -> np.ndarray:
    """Where the enlarged images are brighter than the middle of [-1, 1]; around them lies dark ground.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
        The batch.

    Returns
    -------
    array (B, 4 H, 4 W) of bool

    Examples
    --------
    >>> stroke(torch.tensor([[-1.0, 1.0, -1.0]]).expand(1, 1, 4, 3))[0, 8].astype(int)
    array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    """
    framed = F.pad(luminance(images).clamp(-1, 1)[:, None], (1, 1, 1, 1), value=-1.0)
    fine = F.interpolate(framed, scale_factor=UPSCALE, mode="bilinear")
    mask: np.ndarray = (fine[:, 0, UPSCALE:-UPSCALE, UPSCALE:-UPSCALE] > 0).cpu().numpy()
    return mask


def clean(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The stroke in its frame, without specks and pinholes, and its number of holes.

    Parameters
    ----------
    mask : array (h, w) of bool
        In enlarged pixels.

    Returns
    -------
    mask : array of bool
        Cut to the bounding box and framed by one pixel of ground; (0, 0) if there is no stroke.
    holes : int
        Pieces of ground that the stroke encloses, -1 without stroke; pixels of the stroke touch at corners,
        those of the ground only at sides.

    Examples
    --------
    >>> ring = np.ones((12, 12), bool)
    >>> ring[4:8, 4:8] = False
    >>> clean(ring)[1], clean(~ring)[1], clean(ring[:3, :5])[1]
    (1, 0, -1)
    """
    from skimage.measure import label

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 0), bool), NO_STROKE
    framed = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    pieces = label(framed, connectivity=2)  # type: ignore[no-untyped-call]
    large = np.bincount(pieces.ravel()) >= UPSCALE**2
    large[0] = False
    if not large.any():
        return np.zeros((0, 0), bool), NO_STROKE
    framed = large[pieces]
    ground = label(~framed, connectivity=1)  # type: ignore[no-untyped-call]
    large = np.bincount(ground.ravel()) >= UPSCALE**2
    large[0] = False
    return ~large[ground], int(large.sum()) - 1


@MEASURES.add("morphometry")
class Morphometry(Measure):
    """Mass, thickness, slant, height, width and holes of a stroke.

    Lengths are in pixels of the original image, in steps of a quarter of one.  Thickness
    counts from a pixel's middle to the ground's, so that an odd number of enlarged pixels reads as the even
    number above.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.

    Raises
    ------
    TurningpointError
        On reading, if the batch holds vectors.

    Examples
    --------
    >>> images = -torch.ones(2, 1, 28, 28)
    >>> images[0, 0, 4:24, 12:15] = 1
    >>> {name: values.tolist() for name, values in Morphometry().read(images).items() if name != "thickness"}
    {'mass': [60.0, nan], 'slant': [0.0, nan], 'height': [20.0, nan], 'width': [3.0, nan], 'holes': [0, -1]}
    """

    name = "morphometry"
    readings = (
        Reading("mass", "scalar", "sum of the pixels' brightness", "pixel", label="mass"),
        Reading("thickness", "scalar", "mean thickness of the stroke", "pixel", label="thickness"),
        Reading("slant", "scalar", "slant, positive to the right", "degree", label="slant"),
        Reading("height", "scalar", "height of the bounding parallelogram", "pixel", label="height"),
        Reading("width", "scalar", "width of the bounding parallelogram", "pixel", label="width"),
        Reading("holes", "categorical", "number of holes, -1 without a stroke", label="holes"),
    )

    def __init__(self, model: Any = None) -> None:
        del model

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        images = pictures(images, self.name)
        lengths = np.full((len(images), 4), np.nan, np.float32)
        holes = np.full(len(images), NO_STROKE, np.int64)
        for start in range(0, len(images), 256):
            for item, mask in enumerate(stroke(images[start : start + 256]), start):
                cleaned, holes[item] = clean(mask)
                if cleaned.size:
                    lengths[item] = _lengths(cleaned)
        mass = luminance(images).add(1).div(2).clamp(0, 1).sum((1, 2))
        mass[torch.from_numpy(holes == NO_STROKE).to(mass.device)] = torch.nan
        found = dict(zip(("thickness", "slant", "height", "width"), lengths.T, strict=True))
        return {"mass": mass.cpu().numpy(), **found, "holes": holes}


def _lengths(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Thickness, slant in degrees, height and width of a framed mask."""
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    distance = distance_transform_edt(mask)
    along = distance[skeletonize(mask)]  # type: ignore[no-untyped-call]
    thickness = 2 * (along.mean() if along.size else distance.max())

    v, u = (axis - axis.mean() for axis in np.nonzero(mask))
    shear = 0.0 - (u * v).mean() / ((v * v).mean() + 1 / 12)  # 1/12: a pixel's own extent
    straight = u + shear * v
    height, width = np.ptp(v) + 1, np.ptp(straight) + 1
    return thickness / UPSCALE, float(np.degrees(np.arctan(shear))), height / UPSCALE, width / UPSCALE
