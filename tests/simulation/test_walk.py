"""Walks and records, as values."""

import numpy as np
import pytest

from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.schedule import VP
from turningpoint.simulation.noise import Address
from turningpoint.simulation.walk import FromNoise, FromTrunk, Record, Walk, with_times

TIMES = Grid(4).times(VP())


def walk(times=TIMES, **more):
    return Walk(Address(0), FromNoise(), times, **more)


def branch(time, replicate=0, **more):
    return Walk(Address(0, replicate, time), FromTrunk(time), np.array([time, time / 2, 0.0]), **more)


class TestWalk:
    def test_record_times_are_put_on_the_grid(self):
        one = walk(records=[Record("state", (0.9, 0.5)), Record("estimate", (0.3,))])
        np.testing.assert_array_equal(one.times, [1, 0.9, 0.75, 0.5, 0.3, 0.25, 0])

    def test_only_those_that_the_walk_passes(self):
        one = walk(Grid(4).below(0.6, VP()), records=[Record("state", (0.9, 0.55, 0.0))])
        np.testing.assert_array_equal(one.times, [0.6, 0.55, 0.5, 0.25, 0])

    def test_one_time_asked_for_twice_is_visited_once(self):
        one = walk(records=[Record("state", (0.3, 0.3)), Record("estimate", (0.3, 0.1 + 0.2))])
        np.testing.assert_array_equal(one.times, [1, 0.75, 0.5, 0.3, 0.25, 0])

    def test_steps_count_the_branches(self):
        assert walk().steps() == 4
        assert walk(branches=[branch(0.5), branch(0.25, branches=[branch(0.25)])]).steps() == 4 + 2 + 2 + 2

    def test_a_branch_leaves_at_a_time_of_its_trunk(self, refuses):
        with refuses("a branch starts at a time that its trunk does not visit"):
            walk(branches=[branch(0.6)])
        walk(branches=[branch(0.25)])
        walk(records=[Record("state", (0.6,))], branches=[branch(0.6)])  # a record's time is visited

    def test_a_walk_is_a_value(self):
        with pytest.raises(AttributeError):
            walk().times = TIMES

    @pytest.mark.parametrize("times", [[0.0], [0.5, 0.6], [0.5, -0.1], [0.2, 0.5, 0.0], []])
    def test_times_fall(self, refuses, times):
        with refuses("times"):
            walk(np.array(times))


class TestRecord:
    def test_its_name_is_what_it_keeps(self):
        assert Record("state", (0.5,)).name == "state"
        assert Record("state", (0.5,), "path").name == "path"
        assert Record("estimate", [1, 0.5]).times == (1.0, 0.5)

    def test_errors(self, refuses):
        with refuses("record is 'noise'; accepted: state, estimate"):
            Record("noise", (0.5,))
        for times in ((), (1.5,), (-0.1, 0.5)):
            with refuses("times of a record are"):
                Record("state", times)

    def test_the_data_has_a_state_and_no_estimate(self, refuses):
        assert Record("state", (0.0,)).times == (0.0,)
        with refuses("times of a record are"):
            Record("estimate", (0.0,))


def test_with_times():
    np.testing.assert_array_equal(with_times(np.array([0.5, 0.0]), [0.5, 0.2, 0.7]), [0.5, 0.2, 0.0])
    np.testing.assert_array_equal(with_times(np.array([0.5, 0.0]), [0.5 + 1e-12, 1e-12]), [0.5, 0.0])
    np.testing.assert_array_equal(with_times(np.array([0.5, 0.0]), []), [0.5, 0.0])
