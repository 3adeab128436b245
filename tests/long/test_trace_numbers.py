"""The numbers of docs/trace.md: traces of ``digits`` and ``field`` as a paper would make them; minutes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

import turningpoint as tp
from turningpoint.experiments.verdicts import BOTH, BYSTANDER, verdicts
from turningpoint.statistics.association import association

pytestmark = pytest.mark.long

MEASURES = ["frequency", "structure", "color", "class"]
LAYERS = "down_blocks.*,mid_block,up_blocks.*"


@pytest.fixture(scope="module")
def digits():
    return tp.trace("digits", 64, measures=MEASURES, steps=100, activations=LAYERS, seed=0, progress=None)


def test_coarse_comes_before_fine_and_the_class_before_sharpness(digits):
    order = digits.order().set_index(["before", "after"])
    for before, after in (
        ("frequency.band0", "frequency.band3"),
        ("frequency.band3", "frequency.band4"),
        ("class", "structure.sharpness"),
        ("structure.msssim", "structure.sharpness"),
    ):
        assert order.loc[(before, after), "low"] > 0.5
    table = digits.onsets().set_index("feature")
    assert table.loc["class", "settled_high"] < table.loc["structure.sharpness", "settled_low"]


def test_the_gain_is_where_the_spectrum_puts_it_and_the_power_earlier(digits):
    """The network is the best linear filter of its bands within a tenth; but it knows more than their spectrum."""
    gain, power = digits.gain(), digits.emergence()
    assert (abs(gain.half[0] - digits.predicted_gain()) < 4 * gain.error() + 0.1).all()
    assert (power.half[0] < digits.predicted_emergence()).all()


def test_shuffled_trajectories_are_called_as_often_as_chance_allows(digits):
    values, layers, summaries = digits.activation_summaries()
    grown = {one.feature: one.values for one in digits.all_series() if one.kind != "categorical"}
    generator = np.random.default_rng(0)
    called = 0
    for shuffle in range(200):
        rows = generator.permutation(len(values))
        shuffled = {name: series[rows] for name, series in grown.items()}
        found = association(
            values, shuffled, digits.logsnr, layers, summaries, permutations=199, seed=shuffle
        )
        called += bool(found.significant.any())
    assert called <= binom.ppf(1 - 3e-5, 200, 0.05)  # 5 % of 200, and four standard errors
    assert digits.association().significant.sum() > 100


def test_ablating_a_layer_changes_what_it_predicts_or_is_said_not_to(digits):
    run = tp.patch("digits", "mid_block", (0.3, 0.6), 64, seed=0, progress=None)
    found = tp.effects(run, MEASURES)
    window = tuple(float(digits.schedule.logsnr(t)) for t in (0.6, 0.3))
    table = verdicts(found, digits.association().table(), ["mid_block"], window)
    changed, not_changed = (
        set(table["feature"][table["verdict"] == verdict]) for verdict in (BOTH, BYSTANDER)
    )
    assert len(changed) >= 20
    assert {"frequency.phase1", "frequency.phase2"} <= not_changed
    assert table["sentence"].str.contains("not changed").sum() == len(not_changed)


@pytest.mark.parametrize("seed", range(4))
def test_fields_emerge_where_they_should(seed):
    run = tp.trace("field", 256, measures="frequency", steps=160, seed=seed, progress=None)
    found, gain = run.emergence(), run.gain()
    assert (abs(found.half[0] - run.predicted_emergence()) < 4 * found.error()).all()
    assert (abs(gain.half[0] - run.predicted_gain()) < 4 * gain.error()).all()
