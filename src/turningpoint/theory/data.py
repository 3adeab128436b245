r"""Theory from data alone: what follows from their covariance, their class means, and their number.

Data X stand in for a model that knows itself by

.. math:: \lambda_k = \text{eigenvalues of } \tfrac1N \sum_i (x_i - \bar x)(x_i - \bar x)^T, \qquad
          m_c = \text{mean of class } c, \quad w_c = \text{its share}, \quad n = N .

From these follow speciation, half-emergence of modes and bands, and the collapse of the N points; nothing that needs
the class posterior.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import TurningpointError
from . import Prediction, theory
from .known import array, eigenvalues_of, items


class Moments:
    """Data as far as the theories know them; it offers what `turningpoint.theory.known` lists.

    Parameters
    ----------
    data : array (N, ...)
        On the scale that the model sees: images (N, C, H, W) or vectors.
    labels : array (N,) of int, optional
        Classes; each that occurs counts.

    Attributes
    ----------
    n_points : int
        N.
    shape : tuple of int
        Of an item.
    images : array (N, *shape)

    Raises
    ------
    TurningpointError
        If there are fewer than two items, numbers that are not finite, or not one label per item.
    """

    def __init__(self, data: Any, labels: Any = None) -> None:
        self.images = items(data)
        self.n_points, self.shape = len(self.images), self.images.shape[1:]
        self._flat = self.images.reshape(self.n_points, -1)
        if labels is not None:
            given = array(labels)
            if given.shape != (self.n_points,):
                raise TurningpointError(
                    f"labels have shape {given.shape}; accepted: ({self.n_points},), one per item."
                )
            self._values, self._label = np.unique(given, return_inverse=True)
            self.class_means = self._class_means  # offered only where there are labels

    def eigenvalues(self) -> np.ndarray:
        """Of the covariance of the data (divided by N), largest first, (d,)."""
        return eigenvalues_of(self.images)

    def prior(self) -> np.ndarray:
        """The classes' shares, (K,)."""
        return np.asarray(np.bincount(self._label) / self.n_points)

    def _class_means(self) -> np.ndarray:
        return np.stack([self._flat[self._label == c].mean(0) for c in range(len(self._values))])


def from_data(data: Any, labels: Any = None) -> list[Prediction]:
    """Every definition that needs no more than data, in the order of log-SNR.

    Parameters
    ----------
    data : array (N, ...)
        On the scale that the model sees: images (N, C, H, W) or vectors.
    labels : array (N,) of int, optional
        Classes.

    Returns
    -------
    list of Prediction
        `turningpoint.theory.table` puts them on the clocks of a schedule.

    Raises
    ------
    TurningpointError
        If there are fewer than two items, numbers that are not finite, or not one label per item.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((200, 3)) * [3.0, 1.0, 0.5]
    >>> [p.name for p in from_data(x)]
    ['spectrum.mode1', 'speciation', 'spectrum.mode2', 'collapse']
    """
    return theory(Moments(data, labels))
