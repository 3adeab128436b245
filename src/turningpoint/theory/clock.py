r"""Ornstein-Uhlenbeck time, the clock of most papers, and log-SNR, the clock of this library.

Under :math:`dx = -x \, dt + \sqrt 2 \, dw` the signal is :math:`\alpha = e^{-t}` and the noise
:math:`\sigma^2 = 1 - e^{-2t}`, so that

.. math:: \lambda = \log \frac{\alpha^2}{\sigma^2} = -\log(e^{2t} - 1), \qquad
          t = \tfrac12 \log(1 + e^{-\lambda}).

(Biroli et al. 2024, eq. 1; Li & Chen 2024, section 2.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def logsnr_from_ou(t: ArrayLike) -> np.ndarray:
    """Log-SNR at Ornstein-Uhlenbeck time t > 0, of the shape of ``t``; NaN where t <= 0.

    >>> logsnr_from_ou([0.5 * np.log(2.0), -1.0])
    array([ 0., nan])
    """
    time = np.asarray(t, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(time > 0, -2 * time - np.log(-np.expm1(-2 * time)), np.nan)


def ou_from_logsnr(logsnr: ArrayLike) -> np.ndarray:
    """Ornstein-Uhlenbeck time at a log-SNR, of the shape of ``logsnr``.

    >>> float(np.exp(2 * ou_from_logsnr(0.0)).round(12))
    2.0
    """
    return np.logaddexp(0.0, -np.asarray(logsnr, dtype=np.float64)) / 2
