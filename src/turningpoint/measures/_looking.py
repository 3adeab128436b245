r"""Measures that look at an image once, whatever is read of it and however many others it is compared with.

Readings :math:`f(x)` and comparisons :math:`s(x, y)` of a measure are often made from one intermediate thing
:math:`l(x)`, which is what costs: Fourier coefficients, an edge map, a Gram matrix.  Then

.. math:: f(x) = g(l(x)), \qquad s(x, y) = h(l(x), l(y)),

and a trajectory of T estimates :math:`x_k` that are read and compared with their end :math:`y` takes T + 1 looks in
place of 3 T.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from . import Measure

Look = Mapping[str, Any]
"""What was seen of a batch of images: tensors with a row for each, and what they have in common."""


class Looking(Measure):
    """A measure whose readings and comparisons are made from the same look at an image."""

    @abstractmethod
    def look(self, images: Tensor) -> dict[str, Any]:
        """What readings and comparisons are made from; tensors have a row for each image."""

    @abstractmethod
    def told(self, seen: Look) -> dict[str, Tensor]:
        """The readings, from a look."""

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """The comparisons, from looks at the first and the second of two images."""
        del first, second
        return {}

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        return _arrays(self.told(self.look(images)))

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        return _arrays(self.compared(self.look(a), self.look(b)))

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        seen = self.look(images)
        return [_arrays(self.compared(self.look(start), seen)) for start in starts]

    def read_beside(self, known: Look, images: Tensor) -> dict[str, np.ndarray]:
        seen = self.look(images)
        return _arrays(self.told(seen)) | _arrays(self.compared(known, seen))


def _arrays(found: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.cpu().numpy() for name, values in found.items()}
