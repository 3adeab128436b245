r"""The noise levels that samplers of other programs visit (Karras et al. 2022, Table 1, "time steps").

For i = 0..n-1, :math:`u = i / (n - 1)`, and a range of :math:`\sigma / \alpha` from l to h,

===========  ==========================================================================================
``edm``      :math:`(h^{1/\rho} + u (l^{1/\rho} - h^{1/\rho}))^\rho`
``ve``       :math:`h (l / h)^u`
``vp``       :math:`\sqrt{e^{B(\tau)} - 1}` at :math:`\tau = 1 + u (\varepsilon_s - 1)`, where :math:`B(\tau) =
             \beta_d \tau^2 / 2 + \beta_{min} \tau` is such that the first level is h and the last one l
``iddpm``    of the levels :math:`u_j` of iDDPM inside the range, those with the n indices nearest to equal steps
===========  ==========================================================================================

and then 0.  iDDPM's levels are :math:`u_M = 0` and :math:`u_{j-1}^2 = (u_j^2 + 1) / \max(\bar\alpha_{j-1} /
\bar\alpha_j, C_1) - 1` with :math:`\bar\alpha_j = \sin^2 (\frac{\pi}{2} \frac{j}{M (C_2 + 1)})`.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import TurningpointError, one_of
from .grid import LOWEST_LOGSNR, Grid
from .schedule import Schedule

EPSILON_S = 1e-3
"""The lowest time of VP's own clock that its sampler visits (Song et al. 2021, appendix C)."""

Range = tuple[float, float]
"""The lowest and the highest sigma / alpha that a sampler visits, but for 0."""


def range_of(clock: Schedule) -> Range:
    """The ends of a clock's range in sigma / alpha, from its ``t_min`` to t = 1 but not above 160.

    >>> from turningpoint.diffusion.schedule import EDM
    >>> [round(end, 9) for end in range_of(EDM(0.02, 100.0))]
    [0.02, 100.0]
    """
    ends = torch.tensor([clock.t_min, 1.0], dtype=torch.float64)
    low, high = (-clock.logsnr(ends).clamp_min(LOWEST_LOGSNR) / 2).exp().tolist()
    return low, high


def vp_sigma(tau: np.ndarray | float, beta_d: float = 19.9, beta_min: float = 0.1) -> np.ndarray:
    """sigma at VP's own time tau; the constants are those of Song et al. 2021.

    >>> vp_sigma(1.0).round(2)
    np.float64(152.17)
    """
    tau = np.asarray(tau, dtype=np.float64)
    return np.asarray(np.sqrt(np.expm1(beta_d * tau**2 / 2 + beta_min * tau)))[()]


RANGES: dict[str, Range] = {
    "edm": (0.002, 80.0),
    "ve": (0.02, 100.0),
    "vp": (float(vp_sigma(EPSILON_S)), float(vp_sigma(1.0))),
    "iddpm": (0.002, 81.0),
}
"""The range in which Karras et al. 2022 use each kind, before a network's own narrows it."""


def vp_betas(low: float, high: float) -> tuple[float, float]:
    """beta_d and beta_min with which VP's sigma is ``low`` at tau = 1e-3 and ``high`` at 1.

    Raises
    ------
    TurningpointError
        If that sigma does not rise all the way.

    Examples
    --------
    >>> [round(beta, 6) for beta in vp_betas(*RANGES["vp"])]
    [19.9, 0.1]
    """
    first, last = math.log1p(low**2), math.log1p(high**2)
    beta_d = 2 * (first / EPSILON_S - last) / (EPSILON_S - 1)
    beta_min = last - beta_d / 2
    if not (0 < low < high and min(EPSILON_S * beta_d, beta_d) + beta_min > 0):
        raise TurningpointError(
            f"the range of sigma is {low:g} to {high:g}, which VP's time cannot be fitted to; accepted there: a "
            "range whose log(1 + sigma^2) is a rising parabola from time 0.001 to 1."
        )
    return beta_d, beta_min


def iddpm_levels(steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> np.ndarray:
    """The noise levels of iDDPM, (steps + 1,) float64, falling to 0.

    >>> iddpm_levels()[[0, 999, 1000]].round(4).tolist()
    [20291.1696, 0.0064, 0.0]
    """
    alpha_bar = np.sin(np.pi / 2 * np.arange(steps + 1) / steps / (c_2 + 1)) ** 2
    u = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(alpha_bar[j - 1] / alpha_bar[j], c_1) - 1)
    return u


def noise_levels(kind: str, low: float, high: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """The levels of the module's docstring, without the 0 at the end.

    Parameters
    ----------
    kind : str
        ``edm``, ``ve``, ``vp`` or ``iddpm``.
    low, high : float
        The range of sigma / alpha.
    steps : int
        n.
    rho : float
        Of ``edm``.

    Returns
    -------
    array (n,)
        Falling.

    Raises
    ------
    TurningpointError
        If there is no such kind, or it has no levels in the range.

    Examples
    --------
    >>> noise_levels("ve", 0.02, 100.0, 3).round(3).tolist()
    [100.0, 1.414, 0.02]
    """
    u = np.linspace(0.0, 1.0, steps)
    if kind == "edm":
        return np.asarray((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho)
    if kind == "ve":
        return np.asarray(high * (low / high) ** u)
    if kind == "vp":
        return vp_sigma(1 + u * (EPSILON_S - 1), *vp_betas(low, high))
    if kind != "iddpm":
        raise one_of("kind of noise levels", kind, RANGES)
    levels = iddpm_levels()
    inside = levels[(levels >= low) & (levels <= high)]
    if len(inside) == 0:
        raise TurningpointError(
            f"the range of sigma is {low:g} to {high:g}; accepted: one with a noise level of iDDPM in it."
        )
    return np.asarray(inside[np.rint((len(inside) - 1) * u).astype(int)])


def karras_grid(clock: Schedule, kind: str, steps: int, ends: Range | None = None) -> Grid:
    """`noise_levels` as the times of a clock.

    Parameters
    ----------
    clock : Schedule
        The model's.
    kind : str
        ``edm``, ``ve``, ``vp`` or ``iddpm``.
    steps : int
        How many.
    ends : pair of float, optional
        The range of sigma / alpha; by default the clock's.

    Raises
    ------
    TurningpointError
        As `noise_levels`; or if the range leaves the clock's.

    Examples
    --------
    >>> from turningpoint.diffusion.schedule import EDM
    >>> clock = EDM(0.02, 100.0)
    >>> clock.sigma(karras_grid(clock, "ve", 3).times(clock)).numpy().round(3).tolist()
    [100.0, 1.414, 0.02, 0.0]
    """
    low, high = range_of(clock) if ends is None else ends
    sigma = noise_levels(kind, low, high, Grid(steps).steps, getattr(clock, "rho", 7.0))
    t = clock.t(logsnr=-2 * torch.from_numpy(sigma).log()).numpy()
    return Grid.explicit(np.where(np.abs(t - 1) < 1e-9, 1.0, t).tolist())
