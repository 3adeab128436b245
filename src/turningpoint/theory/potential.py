r"""The potential of the reverse drift, its curvature, and the fixed points that part as noise falls.

In generative time the reverse SDE in VP coordinates is :math:`dx = \beta (x / 2 + \nabla \log p_t) \, ds
+ \sqrt \beta \, dw`, a descent, with noise, in

.. math:: u(x, t) = -\beta \Big( \frac{|x|^2}{4} + \log p_t(x) \Big), \qquad
          \partial_x^2 u = -\beta \Big( \frac12 + \partial_x^2 \log p_t(x) \Big)

(Raya & Ambrogioni 2023, eq. 5-6).  For two deltas at +-1 and signal :math:`\theta = \alpha_t` the
curvature at 0 is their eq. 8,

.. math:: \partial_x^2 u \,|_0 = -\beta \Big( \frac12 + \frac{2 \theta^2 - 1}{(\theta^2 - 1)^2} \Big),

and the fixed points solve their eq. 10, :math:`(\theta^2 + 1) x + 2 \theta \tanh \big( x \theta /
(\theta^2 - 1) \big) = 0`: one well above :math:`\theta_c`'s noise, two wells and a hill below it.

Every drift of `turningpoint.theory.stability` has its potential; each is in the coordinates of its drift,
x of variance 1 in VP, :math:`y = x / \alpha` in VE, whatever the model's own schedule:

===========  =======================================
``sde.vp``   :math:`-(|x|^2 / 4 + \log p_t(x))`
``ode.vp``   :math:`-(|x|^2 + 2 \log p_t(x)) / 4`
``sde.ve``   :math:`-\log p_\tau(y)`
``ode.ve``   :math:`-\tfrac12 \log p_\tau(y)`
===========  =======================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize.elementwise import find_root
from torch import Tensor

from ..errors import TurningpointError, one_of
from .known import array, device
from .stability import GAINS

GRID = 4000
"""Points of the grid on which fixed points are looked for."""


class _Form(NamedTuple):
    """A potential is -(square |x|^2 + log log p), its drift's gradient part alike."""

    square: float
    log: float
    vp: bool


FORMS = {
    "sde.vp": _Form(1 / 4, 1.0, True),
    "ode.vp": _Form(1 / 4, 1 / 2, True),
    "sde.ve": _Form(0.0, 1.0, False),
    "ode.ve": _Form(0.0, 1 / 2, False),
}


def potential(model: Any, x: Any, t: float, *, drift: str = "sde.vp", beta: float = 1.0) -> np.ndarray:
    """u(x, t), of which the reverse drift is minus the gradient.

    Parameters
    ----------
    model : ExactDenoiser
    x : array (N,) or (N, *shape)
        Where, in the coordinates of the drift; (N,) for a model of one entry.
    t : float
        The time on the model's schedule, above 0.
    drift : str
        ``sde.vp``, ``ode.vp``, ``sde.ve`` or ``ode.ve``.
    beta : float
        The rate of noising, which scales the potential.

    Returns
    -------
    array (N,)
        Up to a constant that depends on t.

    Raises
    ------
    TurningpointError
        If there is no such drift, t is not positive, or x has another shape.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> low, hill, high = potential(load("deltas"), [-0.9, 0.0, 0.9], t=0.15)
    >>> bool(low < hill), bool(abs(low - high) < 1e-12)
    (True, True)
    """
    form, clock = _form(drift), _Clock(model, t)
    points = _points(model, x)
    log_density = array(model.log_density(points * clock.scale(form), clock.times(points)))
    square = array(points.flatten(1).square().sum(1))
    return -beta * (form.square * square + form.log * log_density)


def drift_at(model: Any, x: Any, t: float, *, drift: str = "sde.vp", beta: float = 1.0) -> np.ndarray:
    """The reverse drift at x, minus the gradient of `potential`: of the shape of ``x``, arguments as there.

    >>> from turningpoint.models import load
    >>> drift_at(load("deltas"), [0.0], t=0.3)
    array([0.])
    """
    form, clock = _form(drift), _Clock(model, t)
    points = _points(model, x)
    scale = clock.scale(form)
    score = scale * model.score(points * scale, clock.times(points))
    return array(beta * (2 * form.square * points + form.log * score)).reshape(np.shape(x))


def curvature_at(model: Any, x: Any, t: float, *, drift: str = "sde.vp", beta: float = 1.0) -> np.ndarray:
    r"""The least curvature of `potential` at x: the smallest eigenvalue of its Hessian.

    It is the second derivative for a model of one entry, and negative where the reverse drift is unstable. With
    the denoiser's Jacobian J, :math:`\partial^2 \log p_t = (\alpha J - 1) / \sigma^2`.

    Parameters
    ----------
    model, x, t, drift, beta
        As in `potential`.

    Returns
    -------
    array (N,)

    Examples
    --------
    >>> from turningpoint.models import load
    >>> model = load("deltas")
    >>> theta_c = (2 ** 0.5 - 1) ** 0.5
    >>> bool(abs(curvature_at(model, [0.0], float(model.schedule.t(alpha=theta_c)))) < 1e-9)
    True
    """
    form, clock = _form(drift), _Clock(model, t)
    points = _points(model, x)
    scale = clock.scale(form)
    jacobian = array(model.jacobian(points * scale, clock.times(points)))
    largest = np.linalg.eigvalsh((jacobian + jacobian.transpose(0, 2, 1)) / 2)[:, -1]
    hessian = scale**2 * (clock.alpha * largest - 1) / clock.sigma**2
    return np.asarray(-beta * (2 * form.square + form.log * hessian))


def fixed_points(
    model: Any, t: float, *, drift: str = "sde.vp", reach: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The fixed points of a reverse drift in one dimension, by root finding on a grid.

    Parameters
    ----------
    model : ExactDenoiser
        Whose items have one entry.
    t : float
        The time on the model's schedule, above 0.
    drift : str
        ``sde.vp``, ``ode.vp``, ``sde.ve`` or ``ode.ve``.
    reach : float, optional
        They are looked for between -reach and reach, in the drift's coordinates; by default three times as far as
        the data reach, and with the gain that the drift puts on them.

    Returns
    -------
    x : array (M,)
        In the coordinates of the drift, in rising order.
    stable : array (M,) of bool
        Whether the potential has a well there.

    Raises
    ------
    TurningpointError
        If the model's items have several entries, t is not positive, or there is no such drift.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> x, stable = fixed_points(load("deltas"), 0.2)
    >>> x.round(4), stable
    (array([-0.9581,  0.    ,  0.9581]), array([ True, False,  True]))
    """
    form, clock = _form(drift), _Clock(model, t)
    if math.prod(model.shape) != 1:
        raise TurningpointError(f"the model's items have shape {tuple(model.shape)}; accepted: one entry.")
    if reach is None:
        data = float(np.abs(array(model.sample(1024, seed=0)[0])).max())
        reach = 3 * max(data, 1e-12) * GAINS[drift](clock.logsnr) * (clock.vp_alpha if form.vp else 1.0)

    def slope(x: np.ndarray) -> np.ndarray:
        return drift_at(model, x, t, drift=drift)

    grid = np.linspace(
        -reach, reach, GRID
    )  # an even number: the middle, often a fixed point, lies between two
    signs = np.sign(slope(grid))
    k = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    touched = grid[signs == 0]
    roots = find_root(slope, (grid[k], grid[k + 1]), tolerances={"xatol": 1e-13}).x if len(k) else grid[:0]
    x = np.sort(np.concatenate([roots, touched])) + 0.0
    x[np.abs(x) < 1e-10 * reach] = 0.0
    return x, curvature_at(model, x, t, drift=drift) > 0 if len(x) else np.zeros(0, bool)


def bifurcation(model: Any, times: Sequence[float] | np.ndarray, *, drift: str = "sde.vp") -> pd.DataFrame:
    """The fixed points over time: a bifurcation diagram, one row per time and fixed point.

    Parameters
    ----------
    model, drift
        As in `fixed_points`.
    times : sequence of float
        Times on the model's schedule.

    Returns
    -------
    DataFrame
        Columns ``t``, ``logsnr``, ``x``, ``stable``, and ``curvature`` of the potential.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> bifurcation(load("deltas"), [0.2, 0.4]).groupby("t").x.count().tolist()
    [3, 1]
    """
    rows = []
    for t in times:
        x, stable = fixed_points(model, float(t), drift=drift)
        curvature = curvature_at(model, x, float(t), drift=drift) if len(x) else x
        logsnr = float(model.schedule.logsnr(float(t)))
        rows += [
            {"t": float(t), "logsnr": logsnr, "x": a, "stable": bool(b), "curvature": float(c)}
            for a, b, c in zip(x.tolist(), stable, curvature, strict=True)
        ]
    return pd.DataFrame(rows, columns=["t", "logsnr", "x", "stable", "curvature"])


class _Clock:
    """A time on the model's schedule, and the factors from a drift's coordinates to the model's."""

    def __init__(self, model: Any, t: float) -> None:
        if not t > 0:
            raise TurningpointError(f"t is {t}; accepted: a time above 0.")
        self.t, schedule = t, model.schedule
        self.alpha, self.sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        self.vp_alpha = self.alpha / math.hypot(self.alpha, self.sigma)

    @property
    def logsnr(self) -> float:
        return 2 * math.log(self.alpha / self.sigma)

    def scale(self, form: _Form) -> float:
        """x of the model = scale x of the drift."""
        return self.alpha / self.vp_alpha if form.vp else self.alpha

    def times(self, points: Tensor) -> Tensor:
        return torch.full((len(points),), self.t, dtype=torch.float64, device=points.device)


def _form(drift: str) -> _Form:
    if drift not in FORMS:
        raise one_of("drift", drift, FORMS)
    return FORMS[drift]


def _points(model: Any, x: Any) -> Tensor:
    given = torch.as_tensor(array(x), device=device(model))
    shape = tuple(model.shape)
    points = given.reshape(-1, *shape) if given.ndim == 1 and math.prod(shape) == 1 else given
    if points.ndim != 1 + len(shape) or tuple(points.shape[1:]) != shape:
        raise TurningpointError(
            f"x has shape {tuple(given.shape)}; accepted: (N, {', '.join(map(str, shape))})."
        )
    return points
