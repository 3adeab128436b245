r"""Susceptibility: in how large a block do places change together?

Let :math:`\sigma_i = \pm 1` say whether place i of an item (a leaf, a token, a patch) was kept or changed by a
U-turn, and :math:`C_{ij} = \langle \sigma_i \sigma_j \rangle - \langle \sigma_i \rangle \langle \sigma_j
\rangle` over items.  Then

.. math:: \chi = \frac{\sum_{ij} C_{ij}}{\sum_i C_{ii}}
               = \frac{\mathrm{Var} \sum_i \sigma_i}{\sum_i \mathrm{Var} \, \sigma_i},

which is 1 for places that change independently and n for n places that change as one (Sclocchi, Favero, Levi &
Wyart, ICLR 2025, arXiv:2410.13770).  At a transition changes are correlated over the whole item, and
:math:`\chi` has its peak.  The second form needs no matrix of pairs.  Items may come in groups with means of their own
(grammars, classes); variances are then taken within groups, and summed over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import TurningpointError
from .bootstrap import weights

ROUNDING = 1e-12
"""Of the largest squares of a field: a variance below it is what is left of differences of equal numbers."""


def susceptibility(
    changes: np.ndarray | Sequence[np.ndarray],
    samples: int = 0,
    seed: int = 0,
    alike: Sequence[int] | None = None,
) -> np.ndarray:
    """Chi, and its bootstrap samples over items.

    Parameters
    ----------
    changes : array (N, n), or sequence of such
        sigma: a row for each item, a column for each place; any field of numbers will do.  A sequence
        holds groups of items; places need not be the same from group to group.
    samples : int
        Bootstrap samples; items are drawn again within their group.
    seed : int
        Of the bootstrap.
    alike : sequence of int, optional
        A number for each group; groups of equal number hold the same items (replicates), which are drawn alike.

    Returns
    -------
    array (samples + 1,)
        First the estimate; NaN where no place varies.

    Raises
    ------
    TurningpointError
        If there is no group, or one has another number of axes than two or less than two items.

    Examples
    --------
    >>> alone, together = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]), np.array([[1, 1], [-1, -1]])
    >>> susceptibility(alone), susceptibility(together)
    (array([1.]), array([2.]))
    """
    groups = [changes] if isinstance(changes, np.ndarray) else list(changes)
    if not groups:
        raise TurningpointError("changes holds no group; accepted: one array (N, n) or more.")
    total, single, most = np.zeros(samples + 1), np.zeros(samples + 1), 0.0
    for k, group in enumerate(groups):
        field = np.asarray(group, dtype=np.float64)
        if field.ndim != 2 or len(field) < 2:
            raise TurningpointError(
                f"changes has shape {field.shape}; accepted: (N, n), with N of at least 2."
            )
        field = field - field.mean(0)
        share = weights(len(field), samples, seed + (k if alike is None else alike[k])) / len(field)
        sums = field.sum(1)
        bessel = len(field) / (len(field) - 1)
        total += bessel * (share @ sums**2 - (share @ sums) ** 2)
        most += (field**2).max() * field.shape[1]
        single += bessel * (share @ (field**2).sum(1) - ((share @ field) ** 2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(single > ROUNDING * most, total / single, np.nan)
