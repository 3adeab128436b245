r"""Numerical rank: how many singular values hold nearly all of a matrix.

.. math:: r_\eta = \min \Big\{ r : \sqrt{\textstyle\sum_{i \le r} s_i^2 \big/ \sum_i s_i^2} > \eta \Big\},

with the singular values s in falling order and eta = 0.99 (Wang et al. 2024, arXiv:2409.02426, their
definition for Jacobians of denoisers).
"""

from __future__ import annotations

import numpy as np

from ..errors import TurningpointError

ETA = 0.99


def numerical_rank(singular_values: np.ndarray, eta: float = ETA) -> np.ndarray:
    """The smallest number of singular values that hold more than eta of the root of the sum of squares.

    Parameters
    ----------
    singular_values : array (..., n)
        In any order.
    eta : float
        0 up to, not including, 1.

    Returns
    -------
    array (...) of int
        0 for a matrix of zeros.

    Raises
    ------
    TurningpointError
        If eta is out of its range.

    Examples
    --------
    >>> int(numerical_rank(np.array([1.0, 1.0, 1e-3])))
    2
    """
    if not 0 <= eta < 1:
        raise TurningpointError(f"eta is {eta}; accepted: 0 to 1, without 1.")
    squares = np.sort(np.square(np.asarray(singular_values, dtype=np.float64)), axis=-1)[..., ::-1]
    held = np.cumsum(squares, axis=-1)
    total = held[..., -1:]
    # the first r with held_r > eta^2 total comes after all those that hold less
    return np.where(total[..., 0] > 0, 1 + (held <= eta**2 * total).sum(-1), 0)


def matrix_rank(matrices: np.ndarray, eta: float = ETA) -> np.ndarray:
    """`numerical_rank` of matrices (..., m, n), from their singular values.

    >>> int(matrix_rank(np.outer([1.0, 2.0], [3.0, 4.0, 5.0])))
    1
    """
    return numerical_rank(np.linalg.svd(np.asarray(matrices, dtype=np.float64), compute_uv=False), eta)
