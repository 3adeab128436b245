r"""``texture``: what a surface is like, wherever it is in the image, by three classical descriptions.

* ``patterns``: with :math:`h_c` the share of pixels whose local binary pattern has the code :math:`c`
  (`_binary_patterns`), :math:`(\sqrt{h_0}, \dots, \sqrt{h_9})`; the distance of two is :math:`\sqrt 2` times their
  Hellinger distance.
* ``contrast``, ``homogeneity``, ``energy``, ``correlation``, ``entropy`` of neighbouring grey levels (`_cooccurrence`).
* ``gram``: the Gram matrix :math:`G` of derivatives of the luminance at two scales, its upper triangle, 55 numbers
  (`_jets`).  ``style`` compares the Gram matrices of all :math:`n` filters of all channels of two images,

  .. math:: \text{style}(x, y) = \frac1n \, |G(x) - G(y)|_F,

  which is twice the root of the loss of Gatys et al., eq. 2, for these filters.

Patterns are those of the 8-bit grey :math:`g` (`_grey`); co-occurrence is that of :math:`L` levels,
:math:`\lfloor g L / 256 \rfloor`.

Sources: Ojala et al. 2002, IEEE PAMI 24(7):971; Haralick et al. 1973, IEEE SMC 3(6):610; Gatys, Ecker & Bethge 2015
(arXiv:1505.07376).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._binary_patterns import one_hot_codes, patterns
from ._cooccurrence import cooccurrence_properties
from ._grey import grey, levels
from ._jets import gram, gram_of_luminance, upper_triangle
from ._looking import Look, Looking
from .pixels import pictures

PATTERNS_AT_ONCE = 2**16
"""Pixels whose neighbours are held at once: as much as stays in a processor's cache."""

COOCCURRENCE = {
    "contrast": ("mean squared difference of neighbours' grey levels", "", 0.0),
    "homogeneity": ("how equal neighbours' grey levels are", "", 1.0),
    "energy": ("root of the chance that two pairs of neighbours are alike", "", 1.0),
    "correlation": ("correlation of neighbours' grey levels", "", None),
    "entropy": ("entropy of pairs of neighbours' grey levels", "nat", 0.0),
}
"""Description, unit, and value of a picture without texture: one of a single level."""


def pattern_shares(greys: Tensor) -> Tensor:
    """The share of pixels with each of the ten codes, (B, H, W) to (B, 10).

    Examples
    --------
    >>> pattern_shares(torch.full((1, 4, 4), 7, dtype=torch.uint8))[0, [3, 5, 8]].tolist()
    [0.25, 0.5, 0.25]
    """
    pixels = greys.shape[1] * greys.shape[2]
    parts = greys.split(max(PATTERNS_AT_ONCE // pixels, 1))
    found = torch.cat([patterns(part) for part in parts]).flatten(1).int()
    found += 256 * torch.arange(len(found), dtype=torch.int32, device=found.device)[:, None]
    counts = torch.bincount(found.flatten(), minlength=256 * len(found)).reshape(-1, 256)
    return counts.float() @ one_hot_codes(found.device) / pixels


@MEASURES.add("texture")
class Texture(Looking):
    """Local binary patterns, grey-level co-occurrence and Gram matrices of derivatives.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    levels : int
        Grey levels of the co-occurrence, 2 to 256.

    Raises
    ------
    TurningpointError
        If ``levels`` is no such number or, on reading, if the batch holds vectors or pictures one pixel wide.

    Examples
    --------
    >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    >>> texture = Texture(levels=2)
    >>> found = texture.read(stripes)
    >>> found["patterns"].shape, found["gram"].shape, found["contrast"], found["correlation"]
    ((1, 10), (1, 55), array([0.75], dtype=float32), array([-0.5], dtype=float32))
    >>> texture.compare(stripes, -stripes)["style"].round(3)
    array([0.], dtype=float32)
    """

    name = "texture"
    by_default = False

    def __init__(self, model: Any = None, levels: int = 16) -> None:
        del model
        if not isinstance(levels, int) or isinstance(levels, bool) or not 2 <= levels <= 256:
            raise TurningpointError(f"levels is {levels!r}; accepted: an integer from 2 to 256.")
        self.levels = levels
        self.readings = (
            Reading(
                "patterns",
                "vector",
                "square roots of the shares of local binary patterns",
                label="binary patterns",
            ),
            *(
                Reading(name, "scalar", what, unit, label=f"{name} of texture", absent=absent)
                for name, (what, unit, absent) in COOCCURRENCE.items()
            ),
            Reading(
                "gram",
                "vector",
                "Gram matrix of derivatives of the luminance",
                label="Gram matrix of texture",
            ),
            Reading(
                "style",
                "comparison",
                "distance of the Gram matrices of derivatives",
                largest=0.0,
                label="style",
            ),
        )

    def look(self, images: Tensor) -> dict[str, Any]:
        images = pictures(images, self.name)
        return {"greys": grey(levels(images)).to(torch.uint8), "gram": gram(images)}

    def told(self, seen: Look) -> dict[str, Tensor]:
        greys = seen["greys"]
        found = {"patterns": pattern_shares(greys).sqrt()}
        found |= cooccurrence_properties(greys.int() * self.levels // 256, self.levels)
        found["gram"] = upper_triangle(gram_of_luminance(seen["gram"]))
        return {name: values.float() for name, values in found.items()}

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """``style`` (B,), 0 for equal images."""
        apart = (first["gram"] - second["gram"]).flatten(1)
        return {"style": apart.square().sum(1).sqrt() / first["gram"].shape[1]}

    def settings(self) -> dict[str, Any]:
        return {"levels": self.levels}
