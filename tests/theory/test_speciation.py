"""Speciation from models and data, and the point at which a density parts in two."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import turningpoint as tp
from turningpoint.theory.clock import ou_from_logsnr
from turningpoint.theory.known import Pair, eigenvalues_of
from turningpoint.theory.known import spectrum as eigenvalues
from turningpoint.theory.speciation import (
    bimodal_separation,
    speciation,
    speciation_from_data,
    speciation_time,
)


def _named(model):
    return {p.name: p for p in speciation(model)}


@pytest.mark.parametrize(
    "settings_",
    [
        {"means": [[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0]], "cov": 0.2, "weights": [1, 2, 3]},
        {"means": [[2.0, 0.0], [0.0, 3.0]], "cov": [[0.5, 2.0], [1.0, 0.1]]},
        {"means": [[3.0, 1.0]], "cov": [[[4.0, 1.0], [1.0, 2.0]]]},
        {"means": [[3.0, 1.0]], "cov": [[4.0, 0.5]]},
    ],
)
def test_speciation_is_where_the_largest_eigenvalue_meets_the_noise(settings_):
    model = tp.load("gaussians", **settings_)
    largest = np.linalg.eigvalsh(model.covariance().numpy())[-1]
    found = _named(model)["speciation"]
    snr = math.exp(found.logsnr)
    assert snr == pytest.approx(1 / (largest - 1))
    assert ou_from_logsnr(found.logsnr) == pytest.approx(speciation_time(largest))
    assert largest * math.exp(-2 * ou_from_logsnr(found.logsnr)) == pytest.approx(1)
    np.testing.assert_allclose(eigenvalues(model), np.linalg.eigvalsh(model.covariance().numpy())[::-1])


def test_classes_alone():
    model = tp.load("gaussians", means=[[-2.0], [2.0]], cov=1.0, weights=[0.25, 0.75])
    assert math.exp(-_named(model)["speciation.classes"].logsnr) == pytest.approx(16 * 0.25 * 0.75 - 1)


def test_small_data_have_no_speciation():
    found = _named(tp.load("molrg"))["speciation"]
    assert not found.exists
    assert found.reason == "Lambda = 0.5 is not above 1"
    assert not _named(tp.load("deltas"))["speciation"].exists  # Lambda = 1
    assert not _named(tp.load("gaussians", means=[[-1.0], [1.0]], cov=2.0))["bimodal"].exists


def test_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2, 3, 4)) * np.linspace(0.5, 3, 4)
    largest = np.linalg.eigvalsh(np.cov(x.reshape(50, -1).T, bias=True))[-1]
    assert math.exp(-speciation_from_data(x).logsnr) == pytest.approx(largest - 1)
    wide = rng.standard_normal((10, 40))
    truth = np.sort(np.linalg.eigvalsh(np.cov(wide.T, bias=True)))[::-1]
    np.testing.assert_allclose(eigenvalues_of(wide), truth, atol=1e-12)


def test_bad_data(refuses):
    with refuses(r"data has shape \(1, 3\); accepted: two or more items"):
        speciation_from_data(np.zeros((1, 3)))
    with refuses("of finite numbers"):
        speciation_from_data(np.array([[1.0], [np.nan]]))


@settings(max_examples=30, deadline=None)
@given(w=st.floats(0.02, 0.98))
def test_modes_of_the_density_are_counted(w):
    r = bimodal_separation(w)
    z = np.linspace(-r - 3, r + 3, 200_001)

    def modes(r):
        density = w * np.exp(-((z + r) ** 2) / 2) + (1 - w) * np.exp(-((z - r) ** 2) / 2)
        return int(((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])).sum())

    assert modes(r * 0.999) == 1
    assert modes(r * 1.001 + 1e-3) == 2


def test_the_pair_parts_where_its_signal_is_its_spread():
    known = Pair(half=3.0, std=0.5)
    snr = math.exp(known.logsnr(1.0))
    assert snr * 9 == pytest.approx(snr * 0.25 + 1)
    assert math.isnan(Pair(half=1.0, std=1.0).logsnr(1.0))
