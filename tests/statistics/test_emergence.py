"""Half-emergence of relative power, amplitude and gain: closed forms, Gaussian modes drawn exactly, standard errors."""

import numpy as np
import pytest

from turningpoint.statistics.bootstrap import weights
from turningpoint.statistics.emergence import Emergence, emergence, gain
from turningpoint.theory.spectrum import band_half_emergence, band_half_gain, half_amplitude

LOGSNR = np.linspace(-6, 6, 13)
BANDS = [np.array([9.0] * 8), np.array([4.0, 2.0, 1.0, 0.5] * 4), np.geomspace(0.02, 2.0, 24)]


def shrinkage(variances, logsnr=LOGSNR):
    """lambda / (lambda + tau^2), (T, K)."""
    return variances / (variances + np.exp(-logsnr)[:, None])


def exact(variances, logsnr=LOGSNR):
    """The expected power of a band's estimate, (1, T, 1)."""
    return (variances * shrinkage(variances, logsnr)).mean(1)[None, :, None]


def drawn(items, seed, mean=0.0):
    """Power of estimates and data, and the gain's moments, of bands of modes along Brownian paths in VE coordinates."""
    rng = np.random.default_rng(seed)
    steps = np.sqrt(np.diff(np.exp(-LOGSNR)[::-1], prepend=0.0))  # from the least noise up
    found = {"power": [], "final": [], "cross": [], "inputs": []}
    for variances in BANDS:
        x_0 = mean + np.sqrt(variances) * rng.standard_normal((items, len(variances)))
        walk = np.cumsum(steps[:, None] * rng.standard_normal((items, len(steps), len(variances))), 1)
        x = x_0[:, None] + walk[:, ::-1]
        estimate = mean + shrinkage(variances) * (x - mean)
        found["power"].append((estimate**2).mean(2))
        found["final"].append((x_0**2).mean(1))
        found["cross"].append((estimate * x).mean(2))
        found["inputs"].append((x**2).mean(2))
    return {name: np.stack(values, -1) for name, values in found.items()}


@pytest.mark.parametrize("variance", [0.03, 1.0, 7.7])
@pytest.mark.parametrize("step", [0.3, 1.0, 4.0])
def test_of_one_mode_it_is_exact_however_coarse_the_times(variance, step):
    logsnr = np.arange(-6.1, 6, step)
    power = exact(np.array([variance]), logsnr)
    assert emergence(power, [[variance]], logsnr).half[0, 0] == pytest.approx(-np.log(variance), abs=1e-9)
    early = emergence(power, [[variance]], logsnr, quantity="amplitude")
    assert early.half[0, 0] == pytest.approx(half_amplitude(variance), abs=1e-9)
    assert early.half[0, 0] == pytest.approx(-np.log(3 * variance), abs=1e-9)
    np.testing.assert_allclose(early.curve**2, emergence(power, [[variance]], logsnr).curve)
    inputs = (variance + np.exp(-logsnr))[None, :, None]
    passed = gain(np.full_like(inputs, variance), inputs, np.ones_like(logsnr), logsnr)
    assert passed.half[0, 0] == pytest.approx(-np.log(variance), abs=1e-9)


@pytest.mark.parametrize("band", [1, 2])
def test_of_a_band_it_converges_to_the_closed_forms(band):
    variances = BANDS[band]
    power_half, gain_half = band_half_emergence(variances), band_half_gain(variances)
    assert power_half < gain_half - 0.05  # they are different places
    errors = []
    for count in (13, 25, 49):
        logsnr = np.linspace(-6, 6, count)
        found = emergence(exact(variances, logsnr), None, logsnr, known=[variances.mean()])
        errors.append(abs(found.half[0, 0] - power_half))
        inputs = (variances.mean() + np.exp(-logsnr))[None, :, None]
        passed = gain(np.full_like(inputs, variances.mean()), inputs, np.ones(count), logsnr)
        assert passed.half[0, 0] == pytest.approx(gain_half, abs=1e-9)
    assert max(errors) < 0.01
    assert errors[2] < 0.001  # the logit is bent little, and a straight line errs by the square of the step


def test_alpha_takes_the_gain_to_ve_coordinates():
    alpha = np.sqrt(1 / (1 + np.exp(-LOGSNR)))  # variance preserving
    inputs = (alpha**2 * 3 + 1 - alpha**2)[None, :, None]
    found = gain((alpha * 3)[None, :, None], inputs, alpha, LOGSNR)
    np.testing.assert_allclose(found.curve[0, :, 0], 3 / (3 + np.exp(-LOGSNR)))
    assert found.half[0, 0] == pytest.approx(-np.log(3), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_modes_agree_with_the_closed_forms(seed):
    items = 400
    modes, counts = drawn(items, seed), weights(items, 300)
    truth = [band_half_emergence(v) for v in BANDS]
    means = [v.mean() for v in BANDS]
    for found in (
        emergence(modes["power"], modes["final"], LOGSNR, counts=counts),
        emergence(modes["power"], None, LOGSNR, known=means, counts=counts),
    ):
        assert (np.abs(found.half[0] - truth) < 4 * found.error()).all()
        assert (found.error() < 0.2).all()
    found = gain(modes["cross"], modes["inputs"], np.ones(13), LOGSNR, counts)
    assert (np.abs(found.half[0] - [band_half_gain(v) for v in BANDS]) < 4 * found.error()).all()
    # the gain of a band is that of one regression, and far better known than its power
    assert (found.error() < 0.1).all()


def test_a_mean_is_taken_off_by_its_ground():
    items, mean = 400, 3.0
    modes, counts = drawn(items, 5, mean), weights(items, 200)
    truth = np.array([band_half_emergence(v) for v in BANDS])
    raw = emergence(modes["power"], modes["final"], LOGSNR, counts=counts)
    assert raw.half[0, 2] == -np.inf  # the mean alone is more than half of the power, from the start
    for ground in ([mean**2] * 3, np.full((items, 3), mean**2)):
        found = emergence(modes["power"], modes["final"], LOGSNR, counts=counts, ground=ground)
        assert (np.abs(found.half[0] - truth) < 4 * found.error()).all()
    # each trajectory's own estimate at the first time, log-SNR -6, which holds next to nothing of the last two bands
    first = emergence(modes["power"], modes["final"], LOGSNR, counts=counts, ground=modes["power"][:, 0])
    assert (np.abs(first.half[0] - truth)[1:] < 4 * first.error()[1:]).all()


def test_standard_errors_and_intervals_are_right():
    """200 exact repetitions of 60 trajectories.

    A standard deviation over 200 has a standard error of 5 %; an interval that covers 93 % (the percentile bootstrap of
    60 items) falls below 87.6 % once in a thousand.
    """
    repeats, items, counts = 200, 60, weights(60, 200)
    truth = np.array([band_half_emergence(v) for v in BANDS])
    halves, errors, covered = [], [], []
    for seed in range(repeats):
        modes = drawn(items, 1000 + seed)
        found = emergence(modes["power"], modes["final"], LOGSNR, counts=counts)
        halves.append(found.half[0])
        errors.append(found.error())
        rows = [found.row(b) for b in range(3)]
        covered.append([row["half_low"] <= t <= row["half_high"] for row, t in zip(rows, truth, strict=True)])
    halves, errors = np.array(halves), np.array(errors)
    assert (np.abs(errors.mean(0) / halves.std(0, ddof=1) - 1) < 4 / np.sqrt(2 * repeats)).all()
    assert (np.abs(halves.mean(0) - truth) < 4 * halves.std(0, ddof=1) / np.sqrt(repeats)).all()
    assert (np.mean(covered, 0) >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / repeats)).all()


def test_numerators_and_denominators_are_drawn_together():
    rng = np.random.default_rng(0)
    final = rng.gamma(0.5, size=(50, 1))  # items of very unequal power, all with the same curve
    power = final[:, None] * shrinkage(np.array([1.0]))
    found = emergence(power, final, LOGSNR, counts=weights(50, 100))
    np.testing.assert_allclose(found.half, 0, atol=1e-9)
    np.testing.assert_allclose(found.error(), 0, atol=1e-9)
    apart = emergence(power, None, LOGSNR, known=[0.5], counts=weights(50, 100))
    assert apart.error()[0] > 0.1


def test_open_ends_and_empty_bands_say_so():
    power = np.stack([exact(np.array([v]))[0, :, 0] for v in (1e5, 1e-5, 1.0, 0.0)], -1)
    power = np.repeat(power[None], 5, 0)
    final = np.tile([1e5, 1e-5, 1.0, 0.0], (5, 1))
    found = emergence(power, final, LOGSNR, counts=weights(5, 20))
    assert found.half[0, :2].tolist() == [-np.inf, np.inf]
    assert found.half[0, 2] == pytest.approx(0, abs=1e-9)
    assert np.isnan(found.half[0, 3])
    assert np.isnan(found.curve[:, :, 3]).all()
    assert np.isfinite(found.error()).tolist() == [False, False, True, False]
    row = found.row(0)
    assert (row["half_low"], row["half_high"]) == (-np.inf, -np.inf)
    assert np.isnan(list(found.row(3).values())).all()


def test_times_come_in_any_order_and_infinite_ones_are_left_out():
    order = np.random.default_rng(0).permutation(14)
    logsnr = np.append(LOGSNR, np.inf)[order]
    power = np.append(exact(BANDS[2]), 5.0)[order][None, :, None]  # nonsense where there is no noise at all
    found = emergence(power, [[BANDS[2].mean()]], logsnr)
    assert found.half[0, 0] == emergence(exact(BANDS[2]), [[BANDS[2].mean()]], LOGSNR).half[0, 0]
    axis = [row["logsnr"] for row in found.table()]
    assert axis == sorted(axis)


def test_what_was_not_read_is_left_out_above_and_below():
    modes = drawn(40, 0)
    power, final = modes["power"].copy(), modes["final"].copy()
    power[30:] = np.nan
    expected = emergence(power[:30], final[:30], LOGSNR)
    found = emergence(power, final, LOGSNR)
    np.testing.assert_allclose(found.curve, expected.curve)
    final[:] = modes["final"]
    final[30:] = np.nan
    np.testing.assert_allclose(emergence(modes["power"], final, LOGSNR).curve, expected.curve)
    one = modes["power"].copy()
    one[:20, 3, 1] = np.nan
    curve = emergence(one, modes["final"], LOGSNR).curve[0]
    assert curve[3, 1] == pytest.approx(modes["power"][20:, 3, 1].sum() / modes["final"][20:, 1].sum())
    assert curve[4, 1] == pytest.approx(modes["power"][:, 4, 1].sum() / modes["final"][:, 1].sum())


def test_table():
    modes = drawn(30, 0)
    found = emergence(modes["power"], modes["final"], LOGSNR, counts=weights(30, 50))
    rows = found.table()
    assert len(rows) == 3 * 13
    assert list(rows[0]) == [
        *("quantity", "band", "logsnr", "value", "low", "high"),
        *("half", "half_low", "half_high", "half_error"),
    ]
    for row in rows:
        k = LOGSNR.tolist().index(row["logsnr"])
        assert row["value"] == found.curve[0, k, row["band"]]
        assert row["low"] <= row["value"] <= row["high"]
        assert {name: row[name] for name in found.row(row["band"])} == found.row(row["band"])
    alone = emergence(modes["power"], modes["final"], LOGSNR)
    assert isinstance(alone, Emergence)
    assert np.isnan([alone.row(0)["half_low"], alone.row(0)["half_error"], alone.table()[0]["low"]]).all()
    np.testing.assert_allclose(alone.half[0], found.half[0], rtol=1e-12)


def test_bad_input(refuses):
    power, final = np.ones((4, 3, 2)), np.ones((4, 2))
    with refuses(r"power has shape \(3, 2\); accepted: \(items, times, bands\)"):
        emergence(power[0], final, np.zeros(3))
    with refuses(r"logsnr has shape \(2,\); accepted: \(3,\)"):
        emergence(power, final, np.zeros(2))
    with refuses(r"final has shape \(2,\); accepted: \(4, 2\)"):
        emergence(power, final[0], np.zeros(3))
    with refuses(r"known has shape \(4, 2\); accepted: \(2,\)"):
        emergence(power, None, np.zeros(3), known=final)
    with refuses("final and known are not given; accepted: one of the two"):
        emergence(power, None, np.zeros(3))
    with refuses("final and known are both given; accepted: one of the two"):
        emergence(power, final, np.zeros(3), known=[1, 1])
    with refuses(r"ground has shape \(3,\); accepted: \(2,\) or \(4, 2\)"):
        emergence(power, final, np.zeros(3), ground=np.zeros(3))
    with refuses("quantity is 'gain'; accepted: power, amplitude"):
        emergence(power, final, np.zeros(3), quantity="gain")
    with refuses(r"counts has shape \(11, 5\); accepted: \(S \+ 1, 4\)"):
        emergence(power, final, np.zeros(3), counts=weights(5, 10))
    with refuses(r"inputs has shape \(4, 3\); accepted: \(4, 3, 2\)"):
        gain(power, power[..., 0], np.ones(3), np.zeros(3))
    with refuses(r"alpha has shape \(2,\); accepted: \(3,\)"):
        gain(power, power, np.ones(2), np.zeros(3))
