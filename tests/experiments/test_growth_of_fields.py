r"""Traces of worlds whose growth is known: Gaussian fields, mode by mode (Wang & Vastola 2023).

A mode of variance lambda has relative power and gain 1/2 at sigma / alpha = sqrt(lambda).  Heun's steps inflate it:
with 18, 40, 80, 160 of them from sigma = 80 the amplitude of a mode of variance 1 comes out 4.5, 0.80, 0.19, 0.05 %
too large.
"""

import numpy as np
import pytest
from scipy.optimize import brentq

import turningpoint as tp
from turningpoint.theory.spectrum import band_half_emergence, bands, gain

QUIET = {"progress": None}
WORLDS = ["field?size=16", "field?size=16&schedule=edm&exponent=1&channels=3"]


def band_half_amplitude(band):
    """Where the relative power is one quarter."""
    power = band[band > 0]
    return brentq(lambda level: (power * gain(power, level)).sum() - power.sum() / 4, -20, 20)


def variances(run):
    return bands(run.model.fourier_variances(), len(run.bands()))


@pytest.fixture(scope="module", params=WORLDS)
def fine(request):
    return tp.trace(request.param, 128, measures="frequency", steps=160, seed=1, **QUIET)


class TestHalfEmergence:
    def test_relative_power_is_one_half_where_the_spectrum_says(self, fine):
        predicted, found = fine.predicted_emergence(), fine.emergence()
        assert len(predicted) == 5
        assert (abs(found.half[0] - predicted) < 4 * found.error()).all()

    def test_of_the_power_of_the_data_too(self, fine):
        known = np.array([band.mean() for band in variances(fine)])
        found = fine.emergence(known=known)
        assert (abs(found.half[0] - fine.predicted_emergence()) < 4 * found.error()).all()

    def test_the_gain_is_one_half_at_the_mean_variance(self, fine):
        """In every band: -log of the mean, not of the band's power at its half."""
        predicted = np.array([-np.log(band.mean()) for band in variances(fine)])
        found = fine.gain()
        assert (abs(found.half[0] - predicted) < 4 * found.error()).all()

    def test_the_amplitude_is_one_half_earlier(self, fine):
        """For a mode at sigma / alpha = sqrt(3 lambda), log 3 before the power."""
        apart = fine.emergence().half[0] - fine.emergence(quantity="amplitude").half[0]
        for k, band in enumerate(variances(fine)):
            own = band_half_emergence(band) - band_half_amplitude(band)
            assert apart[k] == pytest.approx(own, abs=4 * fine.emergence().error()[k])
        assert (apart > 0.9).all()

    def test_coarse_comes_before_fine(self, fine):
        names = [f"frequency.energy{b}" for b in range(5)]
        half = fine.emergence().half[0]
        assert (np.diff(half) > 0).all()
        table = fine.onsets([f"frequency.band{b}" for b in range(5)])
        assert table["feature"].tolist() == [f"frequency.band{b}" for b in range(5)]
        order = fine.order([f"frequency.band{b}" for b in (0, 4)])
        assert order.iloc[0]["probability"] == 1.0
        assert set(names) <= set(fine.features())


@pytest.mark.parametrize(("steps", "percent"), [(18, "4.5"), (40, "0.80"), (80, "0.19"), (160, "0.05")])
def test_heuns_bias_is_the_known_one(steps, percent):
    """Every mode of this field but the constant has variance 1, and the law is linear: the noise does not matter."""
    unit = f"field?size=8&exponent=0&std={np.sqrt(63 / 64)}&schedule=edm"
    run = tp.trace(
        unit, 4, measures="frequency?bands=2", of=("estimate", "state"), steps=steps, grid="rho", **QUIET
    )
    exact = 1 / np.sqrt(80.0**2 + 1)
    end = run.reading("frequency.energy1", "state")  # band 0 holds the constant
    ratio = 10 ** ((end["final"].values - end["along"].values[:, 0]) / 2)
    decimals = len(percent.partition(".")[2])
    assert {f"{100 * (r / exact - 1):.{decimals}f}" for r in ratio} == {percent}


@pytest.mark.parametrize("steps", [18, 160])
def test_few_steps_shift_what_is_measured(steps):
    """With 18 steps half-emergence is off by many standard errors, with 160 by less than four."""
    run = tp.trace("field?size=16", 192, measures="frequency", steps=steps, seed=1, **QUIET)
    found = run.emergence()
    off = abs(found.half[0] - run.predicted_emergence()) / found.error()
    assert (off < 4).all() if steps == 160 else (off > 4).any()
