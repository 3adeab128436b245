r"""Critical windows by total variation, exact, and the published bounds on them.

Let A be the classes that a feature leaves open at first ("before") and B, part of A, those that it
chooses ("after"); the noisy data of a set of classes have the density :math:`p_t^A`.  A feature is
decided, as generation runs, between

.. math::

   T_{before} &= \inf \{ t : \mathrm{TV}(p_t^B, p_t^A) \le \epsilon, \;
                 \mathrm{TV}(p_t^A, p_t^{rest}) \ge 1 - \epsilon^2 \}, \\
   T_{after} &= \sup \{ t : \mathrm{TV}(p_t^B, p_t^{not B}) \ge 1 - \epsilon^2 \} :

at more noise than :math:`T_{before}` the chosen classes look like all that are open, at less than
:math:`T_{after}` they are alone (Li, Karan & Chen 2025, arXiv:2502.00921, definition 4; Li & Chen 2024,
arXiv:2403.01633).  Total variations come from `turningpoint.theory.classes`: closed form for two
Gaussians of one isotropic covariance, Monte Carlo elsewhere.

For :math:`N(\pm \mu, I)` of equal weight, in Ornstein-Uhlenbeck time,

.. math:: T_{before} = \ln |\mu| - \ln \Phi^{-1}(\tfrac12 + \epsilon), \qquad
          T_{after} = \ln |\mu| - \ln \Phi^{-1}(1 - \tfrac{\epsilon^2}{2}),

whose distance does not depend on the dimension.  The published bounds are wider:

==========  ======================================================  ===========================================
example     T_before                                                T_after
==========  ======================================================  ===========================================
1           ln|mu| + ln 2 + ln(1/eps)                               ln|mu| - ln ln(1 / (2 eps^2))
2           max ln|mu_i - mu_j| + ln(1/eps)                         min ln|mu_i - mu_j| - 1/2 ln(8 ln(K/eps))
3           exp(ln(1 - eps) / d_H)                                  exp(ln(eps^2) / d_H)
==========  ======================================================  ===========================================

1: two Gaussians :math:`N(\pm \mu, I)`.  2: K Gaussians of covariance I.  3: two strings at Hamming distance d_H,
of which a fraction t is masked.  They are told apart unless all d_H places are masked, so :math:`\mathrm{TV} = 1 -
t^{d_H}`, and this one is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import norm

from ..errors import TurningpointError
from . import DEFINITIONS, Prediction
from .classes import Found, Information, Quantity, information
from .clock import logsnr_from_ou
from .known import fraction, mixture, pair

EXACT = "Li, Karan & Chen 2025 (arXiv:2502.00921), definition 4"
BOUND = "Li, Karan & Chen 2025 (arXiv:2502.00921), example {}"
EPSILON = 0.1
MOST_CLASSES = 10
"""With more classes than this, windows of single classes are not listed; ask `critical_window`."""


def total_variation(
    model: Any, a: Iterable[int], b: Iterable[int], logsnr: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """TV(p_t^A, p_t^B) of two sets of classes.

    Parameters
    ----------
    model : ExactDenoiser
        One that knows its classes.
    a, b : iterable of int
        The classes of A and of B; they may overlap.
    logsnr : array (T,)

    Returns
    -------
    value, error : array (T,)
        Between 0 and 1; the standard error is 0 where the value is in closed form.

    Raises
    ------
    TurningpointError
        If the model does not know its classes, or there is no such class.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> total_variation(load("deltas"), [0], [1], [0.0])[0].round(4)      # 2 Phi(1) - 1
    array([0.6827])
    """
    known = _known(model)
    quantity = Quantity("variation", _set(known, "a", a), _set(known, "b", b))
    return known.curve(quantity, np.atleast_1d(np.asarray(logsnr, dtype=np.float64)))


def critical_window(
    model: Any, after: Iterable[int], before: Iterable[int] | None = None, epsilon: float = EPSILON
) -> tuple[Prediction, Prediction]:
    """T_before and T_after of the choice of some classes among others.

    Parameters
    ----------
    model : ExactDenoiser
        One that knows its classes.
    after : iterable of int
        The classes chosen.
    before : iterable of int, optional
        The classes among which the choice is; by default all.
    epsilon : float
        Between 0 and 1.

    Returns
    -------
    before, after : Prediction
        Named ``window.tv.before`` and ``window.tv.after``.

    Raises
    ------
    TurningpointError
        If the model does not know its classes, ``after`` is not a part of ``before`` and smaller, or epsilon is
        not between 0 and 1.

    Examples
    --------
    >>> from turningpoint.models import load
    >>> start, end = critical_window(load("gaussians", means=[[-8.0], [8.0]], cov=1.0), [1])
    >>> bool(start.logsnr < end.logsnr)
    True
    """
    known, epsilon = _known(model), fraction("epsilon", epsilon)
    chosen = _set(known, "after", after)
    everything = tuple(range(len(known.weights)))
    open_ = everything if before is None else _set(known, "before", before)
    if not set(chosen) < set(open_):
        raise TurningpointError(
            f"after is {list(chosen)} and before {list(open_)}; accepted: after a smaller part of before."
        )
    return _window(known, chosen, open_, epsilon)


@DEFINITIONS.add("windows")
def windows(model: Any) -> Sequence[Prediction]:
    """``window.tv.before`` and ``.after``, of every class where classes differ, at epsilon 0.1; the bounds."""
    found: list[Prediction] = []
    known = information(model)
    if known is not None and len(known.weights) <= MOST_CLASSES:
        everything = tuple(range(len(known.weights)))
        same = len(known.weights) == 2 and known.weights[0] == known.weights[1]
        for c in everything[:1] if same else np.flatnonzero(known.weights > 0).tolist():
            suffix = "" if same else f".class{c}"
            found += [
                _named(p, p.name + suffix, p.definition + ("" if same else f", class {c}"))
                for p in _window(known, (c,), everything, EPSILON)
            ]
    return [*found, *_bounds(model)]


def exact_window(length: float, epsilon: float = EPSILON) -> tuple[float, float]:
    """T_before and T_after of N(+-mu, I), in Ornstein-Uhlenbeck time, given the length of mu.

    Raises
    ------
    TurningpointError
        If epsilon is not below 1/2, where T_before is defined.

    Examples
    --------
    >>> before, after = exact_window(5.0, epsilon=0.1)
    >>> round(before - after, 4)
    2.3192
    """
    if not 0 < epsilon < 0.5:
        raise TurningpointError(f"epsilon is {epsilon}; accepted: a number between 0 and 0.5.")
    log = math.log(length)
    return log - math.log(norm.ppf(0.5 + epsilon)), log - math.log(norm.isf(epsilon**2 / 2))


def bound_of_two(length: float, epsilon: float = EPSILON) -> tuple[float, float]:
    """Example 1: the published T_before and T_after of N(+-mu, I), in Ornstein-Uhlenbeck time.

    Raises
    ------
    TurningpointError
        If epsilon is not below 2^(-1/2), where T_after is defined.

    Examples
    --------
    >>> before, after = bound_of_two(5.0, epsilon=0.1)
    >>> round(before - after, 4)
    4.3598
    """
    if not 0 < epsilon < math.sqrt(0.5):
        raise TurningpointError(f"epsilon is {epsilon}; accepted: a number between 0 and 0.707.")
    log = math.log(length)
    return log + math.log(2 / epsilon), log - math.log(math.log(1 / (2 * epsilon**2)))


def bound_of_many(means: Any, epsilon: float = EPSILON) -> tuple[float, float]:
    """Example 2: the published T_before and T_after of K Gaussians of covariance I.

    Parameters
    ----------
    means : array (K, d)
        At least two, all different.
    epsilon : float
        Between 0 and 1.

    Returns
    -------
    before, after : float
        In Ornstein-Uhlenbeck time.

    Examples
    --------
    >>> before, after = bound_of_many([[0.0, 0.0], [3.0, 4.0]], epsilon=0.5)
    >>> round(before, 4) == round(float(np.log(5 / 0.5)), 4)
    True
    """
    centres = np.asarray(means, dtype=np.float64)
    distances = pdist(centres.reshape(len(centres), -1)) if centres.ndim else np.zeros(0)
    if not len(distances) or distances.min() == 0:
        raise TurningpointError(f"means has shape {centres.shape}; accepted: two or more, all different.")
    ratio = 1 / fraction("epsilon", epsilon)
    before = math.log(distances.max()) + math.log(ratio)
    return before, math.log(distances.min()) - math.log(8 * math.log(len(centres) * ratio)) / 2


def masking_window(distance: int, epsilon: float = EPSILON) -> tuple[float, float]:
    """Example 3: T_before and T_after of two strings, as masked fractions.

    Parameters
    ----------
    distance : int
        In how many places they differ, at least 1.
    epsilon : float
        Between 0 and 1.

    Examples
    --------
    >>> masking_window(1, epsilon=0.5)
    (0.5, 0.25)
    """
    if distance < 1:
        raise TurningpointError(f"distance is {distance}; accepted: a whole number of at least 1.")
    fraction("epsilon", epsilon)
    return (1 - epsilon) ** (1 / distance), epsilon ** (2 / distance)


def _known(model: Any) -> Information:
    known = information(model)
    if known is None:
        raise TurningpointError(
            f"model is {getattr(model, 'name', model)!r}; accepted: an exact model with classes."
        )
    return known


def _set(known: Information, argument: str, classes: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(sorted({int(c) for c in classes}))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(known.weights):
        raise TurningpointError(
            f"{argument} is {list(chosen)}; accepted: classes of 0 to {len(known.weights) - 1}."
        )
    return chosen


def _window(
    known: Information, after: tuple[int, ...], before: tuple[int, ...], epsilon: float
) -> tuple[Prediction, Prediction]:
    everything = range(len(known.weights))
    rest = tuple(c for c in everything if c not in before)
    others = tuple(c for c in everything if c not in after)
    alike = known.crossing(Quantity("variation", after, before), epsilon)
    if rest and alike.reason == "":
        apart = known.crossing(Quantity("variation", before, rest), 1 - epsilon**2)
        if not apart.logsnr <= alike.logsnr:  # the other condition asks for less noise than this one
            alike = Found(
                math.nan, reason="where the classes look alike, they are not yet apart from the rest"
            )
    alone = known.crossing(Quantity("variation", after, others), 1 - epsilon**2)
    laws = f"TV(after, before) = {epsilon:g}", f"TV(after, others) = 1 - {epsilon:g}^2"
    names = "window.tv.before", "window.tv.after"
    first, second = (
        Prediction(name, law, at.logsnr, EXACT, reason=at.reason and f"the total variation: {at.reason}",
                   feature="class", error=at.error)
        for name, law, at in zip(names, laws, (alike, alone), strict=True)
    )  # fmt: skip
    return first, second


def _bounds(model: Any) -> list[Prediction]:
    known = mixture(model)
    if known is None or abs(known.std - 1) > 1e-9 or len(known.means) < 2:
        return []
    two, found = pair(model), []
    if two is not None and two.weights[0] == two.weights[1]:
        found += _bound("two", "N(+-mu, I)", bound_of_two(two.half), 1)
    if pdist(known.means).min() > 0:
        found += _bound("many", "K Gaussians of covariance I", bound_of_many(known.means), 2)
    return found


def _bound(name: str, law: str, times: tuple[float, float], example: int) -> list[Prediction]:
    found = []
    for side, time in zip(("before", "after"), times, strict=True):
        reason = "" if time > 0 else "the bound lies before the data"
        found.append(
            Prediction(
                f"window.bound.{name}.{side}",
                f"published bound on T_{side} of {law}, epsilon = {EPSILON:g}",
                float(logsnr_from_ou(time)),
                BOUND.format(example),
                reason=reason,
                feature="class",
            )
        )
    return found


def _named(p: Prediction, name: str, definition: str) -> Prediction:
    return Prediction(name, definition, p.logsnr, p.source, reason=p.reason, feature=p.feature, error=p.error)
