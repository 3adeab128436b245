r"""``deltas``: point masses, the limit of `gaussians` without variance.

For points y_c with weights w_c,

.. math::

    p(c \mid x_t) &\propto w_c \exp(-|x_t - \alpha y_c|^2 / 2 \sigma^2), \qquad
    D = \textstyle\sum_c p(c \mid x_t) \, y_c, \\
    \frac{\partial D}{\partial x_t} &= \frac{\alpha}{\sigma^2} \, \mathrm{Cov}_{p(c \mid x_t)}(y_c) .

Two points at +-a in one dimension, the system in which Raya & Ambrogioni (2023) found that generation
breaks a symmetry, have

.. math:: D = a \tanh(\alpha a x_t / \sigma^2), \qquad
          \nabla \log p_t = \big({-x_t} + \alpha a \tanh(\alpha a x_t / \sigma^2)\big) / \sigma^2 .

(Raya & Ambrogioni 2023, section 4; their theta is alpha.)  For the thousands of points of a data set
take `empirical`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusion.covariance import Covariances
from ..diffusion.schedule import Schedule
from . import MODELS
from .gaussians import Gaussians, simplex
from .settings import array, exclusive, items, number, whole


class Deltas(Gaussians):
    """K points, each a class of its own.

    Parameters
    ----------
    points : Tensor (K, *shape)
        Where the data is.
    weights : Tensor (K,), optional
        Positive; equal by default.
    schedule : Schedule or str
        The clock, or its name.

    Examples
    --------
    >>> model = Deltas(torch.tensor([[-1.0], [1.0]]))
    >>> t = model.schedule.t(logsnr=0.0)[None]            # alpha = sigma
    >>> x_t = model.schedule.alpha(t)[:, None]
    >>> bool(torch.isclose(model(x_t, t), torch.tensor(1.0).double().tanh()))
    True
    """

    def __init__(
        self, points: Tensor, weights: Tensor | None = None, schedule: Schedule | str = "vp"
    ) -> None:
        nothing = torch.zeros(len(points), dtype=torch.float64)
        super().__init__(points, Covariances.isotropic(nothing, points[0].numel()), weights, schedule)


@MODELS.add("deltas")
def load(
    points: Any = None,
    weights: Any = None,
    schedule: Schedule | str = "vp",
    *,
    dim: int | None = None,
    a: float | None = None,
) -> Deltas:
    """Point masses, from an array or two of them at +-a.

    Parameters
    ----------
    points : array (K, *shape), optional
        Where the data is; (K,) is K numbers, in one dimension.
    weights : sequence of K floats, optional
        Equal by default; they need not sum to 1.
    schedule : Schedule or str
        The clock, or one of vp, edm, flow, linear, scaled_linear, cosine.
    dim, a : optional
        In place of ``points``: two of them at -a and +a (1 by default) on the first of ``dim`` axes (1 by
        default).  The other axes hold 0, so what is decided, and when, does not depend on ``dim``.

    Raises
    ------
    TurningpointError
        If settings exclude each other, or a shape does not fit.

    Examples
    --------
    >>> load(dim=2, a=3).means
    tensor([[-3., 0.],
            [ 3., 0.]], dtype=torch.float64)
    """
    exclusive("points", points, dim=dim, a=a)
    if points is None:
        size, radius = whole("dim", 1 if dim is None else dim), number("a", 1.0 if a is None else a)
        places = simplex(2, size, radius)
    else:
        places = items("points", points)
    shares = None if weights is None else array("weights", weights, "(K,)", axes=(1,))
    return Deltas(places, shares, schedule)
