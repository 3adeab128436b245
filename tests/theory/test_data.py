"""Predictions from data, what models say of themselves, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

import turningpoint as tp
from turningpoint.theory import theory
from turningpoint.theory.data import Moments, from_data
from turningpoint.theory.known import gaussian, mixture, pair, spectrum


def _blobs(n=400):
    rng = np.random.default_rng(0)
    labels = np.repeat([3, 8], n // 2)
    return rng.standard_normal((n, 4)) * 0.5 + np.where(labels == 3, -2.0, 2.0)[:, None], labels


class TestFromData:
    def test_what_needs_no_more_than_data(self):
        x, labels = _blobs()
        found = {p.name: p for p in from_data(x, labels)}
        assert {"speciation", "speciation.classes", "collapse", "spectrum.mode1"} <= set(found)
        assert not [
            name for name in found if name.startswith(("retention", "entropy", "stability", "window"))
        ]
        largest = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-1]
        assert np.exp(-found["speciation"].logsnr) == pytest.approx(largest - 1)
        between = ((x[labels == 8].mean(0) - x[labels == 3].mean(0)) ** 2).sum() / 4
        assert np.exp(-found["speciation.classes"].logsnr) == pytest.approx(between - 1)
        assert "speciation.classes" not in {p.name for p in from_data(x)}

    def test_they_are_those_of_the_model_that_made_the_data(self):
        model = tp.load("gaussians", means=[[-3.0, 0.0], [3.0, 0.0]], cov=0.25)
        x, labels = model.sample(4000, seed=1)
        told = {p.name: p.logsnr for p in theory(model)}
        found = {p.name: p.logsnr for p in from_data(x, labels)}
        for name in ("speciation", "speciation.classes", "spectrum.mode1"):
            # h = 3, s = 0.5: Var[x^2] = 4 h^2 s^2 + 2 s^4 along the first axis, and Lambda - 1 is above 8
            assert abs(found[name] - told[name]) < 4 * np.sqrt((4 * 9 * 0.25 + 2 * 0.25**2) / 4000) / 8

    def test_vectors_of_one_number(self):
        assert Moments(np.array([-2.0, 2.0])).eigenvalues().tolist() == [4.0]

    def test_bad_input(self, refuses):
        with refuses(r"labels have shape \(3,\); accepted: \(4,\), one per item"):
            from_data(np.zeros((4, 2)), [0, 1, 2])
        with refuses("two or more items, of finite numbers"):
            from_data(np.full((4, 2), np.inf))


class TestKnown:
    @pytest.mark.parametrize(
        "cov", [0.3, [0.3, 0.3], [[0.3, 0.3], [0.3, 0.3]], [np.eye(2) * 0.3, np.eye(2) * 0.3]]
    )
    def test_isotropic_classes_are_recognised_however_they_are_given(self, cov):
        model = tp.load("gaussians", means=[[0.0, 0.0], [3.0, 4.0]], cov=cov, weights=[1, 3])
        known = pair(model)
        assert (known.half, known.dim) == (2.5, 2)
        assert known.std**2 == pytest.approx(0.3)
        assert known.weights == pytest.approx((0.25, 0.75))

    @pytest.mark.parametrize("cov", [[0.3, 0.4], [[0.3, 0.4], [0.3, 0.4]], [[[0.3, 0.1], [0.1, 0.3]]] * 2])
    def test_others_are_not(self, cov):
        assert mixture(tp.load("gaussians", means=[[0.0, 0.0], [1.0, 1.0]], cov=cov)) is None

    def test_a_low_rank_class_is_not_isotropic(self):
        model = tp.load("molrg", n=6, classes=2, dim=2)
        assert mixture(model) is None
        np.testing.assert_allclose(spectrum(model), [0.5] * 4 + [0.0] * 2, atol=1e-6)

    def test_one_gaussian(self):
        field = tp.load("field", size=8)
        assert gaussian(field)
        assert len(spectrum(field)) == 64
        assert spectrum(field).sum() == pytest.approx(64 * 0.25, rel=1e-5)
        assert not gaussian(tp.load("deltas"))
        assert not gaussian(Moments(_blobs()[0]))
        assert spectrum(tp.load("digits")) is None


class TestCommand:
    def test_table(self, command):
        status, out, _ = command("theory", "deltas?schedule=linear")
        assert status == 0
        rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        assert "step" in rows["definition"]
        assert "source" in rows["definition"]
        assert rows["stability.sde.vp"].split()[1:4] == ["-0.35", "0.293", "292"]
        assert rows["stability.ode.vp"].split()[1:4] == ["none", "–", "–"]
        assert rows["spectrum.mode1"].split()[1] == "0.00"

    def test_json(self, command):
        status, out, _ = command("theory", "deltas", "--json")
        assert status == 0
        content = json.loads(out)
        assert content["of"] == "the model deltas"
        rows = {row["name"]: row for row in content["predictions"]}
        assert rows["stability.sde.vp"]["logsnr"] == pytest.approx(-np.log(2) / 2)
        assert rows["stability.ode.vp"]["logsnr"] is None
        assert rows["stability.ode.vp"]["reason"]
        assert {"definition", "t", "native", "source", "error"} <= set(rows["speciation"])

    def test_a_model_that_does_not_know_itself_is_judged_by_its_images(self, command):
        status, out, _ = command("theory", "digits", "--json")
        assert status == 0
        content = json.loads(out)
        assert content["of"] == "1000 starting images of digits"
        rows = {row["name"] for row in content["predictions"]}
        assert {"speciation", "speciation.classes", "collapse", "spectrum.band0"} <= rows

    def test_data(self, command):
        x, labels = _blobs()
        np.savez("d.npz", images=x, labels=labels)
        np.save("x.npy", x)
        np.save("l.npy", labels)
        told = [
            json.loads(command("theory", "deltas?dim=4", *arguments, "--json")[1])
            for arguments in (["--data", "d.npz"], ["--data", "x.npy", "--labels", "l.npy"])
        ]
        assert told[0]["of"] == "400 items of d.npz"
        assert told[0]["predictions"] == told[1]["predictions"]
        assert "speciation.classes" in {row["name"] for row in told[0]["predictions"]}

    def test_one_sentence_for_bad_input(self, command):
        np.save("l.npy", np.zeros(3))
        np.save("x.npy", np.zeros((3, 4)))
        Path("bad.npy").write_text("not an array")
        for arguments, named in (
            (["--labels", "l.npy"], "--labels is 'l.npy' without --data"),
            (["--data", "x.npy", "--labels", "l.npy"], "accepted: an .npy of class indices, whole numbers"),
            (["--data", "x.npy", "--labels", "bad.npy"], "cannot be read (ValueError)"),
            (["--data", "absent.npz"], "not there"),
            (["--data", "l.npy"], "shape"),
        ):
            status, _, err = command("theory", "deltas?dim=4", *arguments)
            assert status == 2
            assert named in err
            assert err.count("\n") == 1
            assert err.endswith(".\n")
