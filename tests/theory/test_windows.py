"""Critical windows by total variation, and the published bounds."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import turningpoint as tp
from turningpoint.theory import theory
from turningpoint.theory.clock import logsnr_from_ou, ou_from_logsnr
from turningpoint.theory.windows import (
    bound_of_many,
    bound_of_two,
    critical_window,
    exact_window,
    masking_window,
    total_variation,
)

MU = np.array([3.0, 4.0])


def _unit_pair(**more):
    return tp.load("gaussians", means=[-MU, MU], cov=1.0, **more)


def _variation(a, b, reach=30.0, points=(-6, -3, 0, 3, 6)):
    """Half the integral of |a - b| over a line."""
    return quad(lambda y: abs(a(y) - b(y)), -reach, reach, points=points, limit=1000, epsabs=1e-9)[0] / 2


@pytest.mark.parametrize(
    ("epsilon", "width", "bound"),
    [(0.2, 1.3652, 3.2291), (0.1, 2.3192, 4.3598), (0.05, 3.1805, 5.3563), (0.01, 5.0447, 7.4404)],
)
def test_widths(epsilon, width, bound):
    before, after = exact_window(5.0, epsilon)
    assert round(before - after, 4) == width
    first, second = critical_window(_unit_pair(), [1], epsilon=epsilon)
    np.testing.assert_allclose(ou_from_logsnr([first.logsnr, second.logsnr]), [before, after], atol=1e-9)
    wide, late = bound_of_two(5.0, epsilon)
    assert round(wide - late, 4) == bound
    assert wide > before > after > late  # a bound holds


@pytest.mark.parametrize("epsilon", [0.2, 0.05])
def test_the_conditions_hold_at_the_ends(epsilon):
    before, after = exact_window(5.0, epsilon)
    r_before, r_after = 5 * math.exp(-before), 5 * math.exp(-after)
    up, down = (lambda y: norm.pdf(y, r_before)), (lambda y: norm.pdf(y, -r_before))
    assert _variation(up, lambda y: (up(y) + down(y)) / 2) == pytest.approx(epsilon, abs=1e-7)
    apart = _variation(lambda y: norm.pdf(y, r_after), lambda y: norm.pdf(y, -r_after))
    assert apart == pytest.approx(1 - epsilon**2, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(h=st.floats(0.2, 4), s=st.floats(0, 1.5), w=st.floats(0.05, 0.95), logsnr=st.floats(-4, 4))
def test_total_variation_of_a_pair(h, s, w, logsnr):
    model = tp.load("gaussians", means=[[-h], [h]], cov=s * s, weights=[1 - w, w])
    spread = math.sqrt(s * s + math.exp(-logsnr))
    up, down = (lambda y: norm.pdf(y, h / spread)), (lambda y: norm.pdf(y, -h / spread))
    value, error = total_variation(model, [0], [1], [logsnr])
    assert value[0] == pytest.approx(_variation(up, down), abs=1e-6)
    assert error[0] == 0
    value, _ = total_variation(model, [1], [0, 1], [logsnr])
    assert value[0] == pytest.approx(_variation(up, lambda y: w * up(y) + (1 - w) * down(y)), abs=1e-6)
    assert total_variation(model, [0, 1], [0, 1], [logsnr])[0][0] == 0


class TestFourClassesOnALine:
    """Two pairs: first the pair is chosen, then the one in it; Monte Carlo against integrals."""

    means = np.array([-41.0, -39.0, 39.0, 41.0])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    model = tp.load("gaussians", means=means, cov=0.04, weights=weights)

    def _apart(self, a, b, logsnr):
        ends = 41 + 12 * math.sqrt(0.04 + math.exp(-logsnr))
        return _variation(self._density(a, logsnr), self._density(b, logsnr), ends, (*self.means, 0.0))

    def _density(self, chosen, logsnr):
        spread = math.sqrt(0.04 + math.exp(-logsnr))
        share = self.weights[chosen] / self.weights[chosen].sum()
        return lambda y: float(share @ norm.pdf(y, self.means[chosen], spread))

    @pytest.mark.parametrize(
        ("a", "b", "logsnr"),
        [([0], [1], 0.0), ([0, 1], [2, 3], -7.0), ([2], [0, 1, 3], -1.0), ([3], [2, 3], 1.0)],
    )
    def test_total_variation(self, a, b, logsnr):
        value, error = total_variation(self.model, a, b, [logsnr])
        truth = self._apart(a, b, logsnr)
        assert 0 < error[0] < 0.05
        assert abs(value[0] - truth) < 4 * error[0]

    def test_nested_windows_follow_each_other(self):
        coarse = critical_window(self.model, [2, 3], epsilon=0.1)
        fine = critical_window(self.model, [3], before=[2, 3], epsilon=0.1)
        assert coarse[0].logsnr < coarse[1].logsnr < fine[0].logsnr < fine[1].logsnr
        for prediction, (a, b, level) in zip(
            (*coarse, *fine),
            (([2, 3], [0, 1, 2, 3], 0.1), ([2, 3], [0, 1], 0.99), ([3], [2, 3], 0.1), ([3], [0, 1, 2], 0.99)),
            strict=True,
        ):
            shifts = np.array([-4, 4]) * prediction.error + prediction.logsnr
            ends = [self._apart(a, b, s) for s in shifts]
            assert ends[0] < level < ends[1]

    def test_no_window_where_classes_part_together(self):
        model = tp.load("gaussians", means=[-1.0, 0.0, 1.0], cov=0.01)
        before, _ = critical_window(model, [1], before=[0, 1], epsilon=0.05)
        assert not before.exists
        assert "not yet apart from the rest" in before.reason


def test_many_means():
    means = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    before, after = bound_of_many(means, 0.1)
    assert before == pytest.approx(math.log(5) + math.log(10))
    assert after == pytest.approx(math.log(1) - 0.5 * math.log(8 * math.log(3 / 0.1)))


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_masking_by_enumeration(epsilon):
    """Two strings of 5 letters that differ in 3 places; every mask of every probability."""
    one, two = "aabab", "abbba"
    distance = sum(a != b for a, b in zip(one, two, strict=True))

    def variation(t):
        seen = {}
        for mask in itertools.product((True, False), repeat=5):
            p = math.prod(t if hidden else 1 - t for hidden in mask)
            for sign, word in ((1, one), (-1, two)):
                key = "".join("_" if hidden else c for hidden, c in zip(mask, word, strict=True))
                seen[key] = seen.get(key, 0) + sign * p
        return sum(abs(v) for v in seen.values()) / 2

    before, after = masking_window(distance, epsilon)
    assert variation(before) == pytest.approx(epsilon)
    assert variation(after) == pytest.approx(1 - epsilon**2)


def test_definitions():
    found = {p.name: p for p in theory(_unit_pair()) if p.name.startswith("window")}
    assert set(found) == {
        f"window.{kind}.{side}" for kind in ("tv", "bound.two", "bound.many") for side in ("before", "after")
    }
    np.testing.assert_allclose(found["window.bound.two.before"].logsnr, logsnr_from_ou(bound_of_two(5.0)[0]))
    np.testing.assert_allclose(
        found["window.bound.many.after"].logsnr, logsnr_from_ou(bound_of_many([-MU, MU])[1]), equal_nan=True
    )
    uneven = {p.name for p in theory(_unit_pair(weights=[1, 3])) if p.name.startswith("window.tv")}
    assert uneven == {f"window.tv.{side}.class{c}" for side in ("before", "after") for c in (0, 1)}
    assert not [p for p in theory(tp.load("deltas")) if p.name.startswith("window.bound")]


def test_a_rare_alternative_makes_no_difference():
    model = tp.load("gaussians", means=[[-1.0], [1.0]], cov=0.1, weights=[0.05, 0.95])
    before, _ = critical_window(model, [1], epsilon=0.1)
    assert not before.exists
    assert "it stays between" in before.reason


def test_bad_input(refuses):
    with refuses("accepted: an exact model with classes"):
        total_variation(tp.load("field", size=8), [0], [1], [0.0])
    with refuses(r"a is \[0, 2\]; accepted: classes of 0 to 1"):
        total_variation(_unit_pair(), [0, 2], [1], [0.0])
    with refuses(r"after is \[0, 1\] and before \[0, 1\]; accepted: after a smaller part"):
        critical_window(_unit_pair(), [0, 1])
    with refuses("epsilon is 1.5; accepted: a number between 0 and 1"):
        critical_window(_unit_pair(), [0], epsilon=1.5)
    with refuses("epsilon is 0.5; accepted: a number between 0 and 0.5"):
        exact_window(5.0, 0.5)
    with refuses("epsilon is 0.8; accepted: a number between 0 and 0.707"):
        bound_of_two(5.0, 0.8)
    with refuses(r"means has shape \(1, 2\); accepted: two or more, all different"):
        bound_of_many([[0.0, 1.0]])
    with refuses("distance is 0; accepted: a whole number of at least 1"):
        masking_window(0)
