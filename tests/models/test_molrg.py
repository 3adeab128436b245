"""Mixtures of low-rank Gaussians: the published closed forms, ranks, dimensions and data."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import turningpoint as tp
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.diffusion.schedule import EDM
from turningpoint.models import fingerprint
from turningpoint.models.molrg import load, random_bases
from turningpoint.statistics.rank import matrix_rank, numerical_rank

GOLDEN = Path(__file__).parent / "golden" / "molrg-4x4-2x7-350.pt"


def published(bases, x, sigma):
    """D and its Jacobian, as in facts and in Wang et al. (2024); bases (K, n, dim), x (n,)."""
    inner = np.einsum("knd,n->kd", bases, x)
    shrink = 1 + sigma**2
    w = softmax((inner**2).sum(1) / (2 * sigma**2 * shrink))
    g = np.einsum("knd,kd->kn", bases, inner)
    projections = np.einsum("knd,kmd->knm", bases, bases)
    mean = w @ g
    between = np.einsum("k,kn,km->nm", w, g, g) - np.outer(mean, mean)
    jacobian = (np.einsum("k,knm->nm", w, projections) + between / (sigma**2 * shrink)) / shrink
    return mean / shrink, jacobian


def at(model, sigma, count=1):
    return model.schedule.t(sigma=sigma).expand(count)


@given(seed=st.integers(0, 10**4), log_sigma=st.floats(-3, 3), classes=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_published_closed_form(seed, log_sigma, classes):
    model, sigma = load(n=20, classes=classes, dim=3, seed=seed), math.exp(log_sigma)
    x_0, _ = model.sample(1, seed)
    x = x_0.double() + sigma * torch.randn(1, 20, generator=torch.Generator().manual_seed(seed))
    mean, jacobian = published(model.bases().numpy(), x[0].numpy(), sigma)
    t = at(model, sigma)
    np.testing.assert_allclose(model(x, t)[0], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.jacobian(x, t)[0], jacobian, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        model.jacobian(x, t), ExactDenoiser.jacobian(model, x, t), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("dim", [6, 7])
def test_rank_ratio_from_one_class_to_all(dim):
    """0.125 to 0.25 in the published figure (48, 2, 6); 0.146 to 0.292 for (48, 2, 7)."""
    model = load(n=48, classes=2, dim=dim)
    x_0, _ = model.sample(32)
    eps = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    ratios = []
    for snr in (500, 0.91, 0.01):
        x = x_0.double() + eps / snr
        ranks = matrix_rank(model.jacobian(x, at(model, 1 / snr, 32)).numpy())
        by_formula = [
            numerical_rank(np.linalg.svd(published(model.bases().numpy(), x_i, 1 / snr)[1], compute_uv=False))
            for x_i in x.numpy()
        ]
        np.testing.assert_array_equal(ranks, by_formula)
        ratios.append(ranks / 48)
    assert (ratios[0] == dim / 48).all()
    assert (ratios[2] == 2 * dim / 48).all()
    assert dim / 48 < ratios[1].mean() < 2 * dim / 48
    assert (round(dim / 48, 3), round(2 * dim / 48, 3)) == {6: (0.125, 0.25), 7: (0.146, 0.292)}[dim]


@pytest.mark.parametrize(("sigma", "known"), [(0.03, 7.000), (0.1, 7.001), (0.3, 7.019), (1.0, 6.04)])
def test_local_intrinsic_dimension(sigma, known):
    """FLIPD (Kamkari et al. 2024), D + sigma^2 (tr grad s + |s|^2) at the data, from score and Jacobian."""
    n = 400
    model = load(n=48, classes=2, dim=7, seed=1)
    x_0, label = model.sample(n, seed=2)
    x, t = x_0.double(), at(model, sigma, n)
    trace = (model.jacobian(x, t).diagonal(dim1=1, dim2=2).sum(1) - 48) / sigma**2
    dimension = 48 + sigma**2 * (trace + model.score(x, t).square().sum(1))
    assert dimension.std() / n**0.5 < 0.05  # the test has power
    for i in range(20):
        mean, jacobian = published(model.bases().numpy(), x[i].numpy(), sigma)
        by_formula = np.trace(jacobian) + ((mean - x[i].numpy()) ** 2).sum() / sigma**2
        assert dimension[i].item() == pytest.approx(by_formula, rel=1e-8)
    if sigma < 0.5:  # the other class has weight exp(-|x|^2 / 2 s^2 (1 + s^2)): nothing
        wanted = 7 - 7 * sigma**2 / (1 + sigma**2) + 7 * sigma**2 / (1 + sigma**2) ** 2
        assert abs(dimension.mean().item() - wanted) < 4 * dimension.std().item() / n**0.5
    # the known values are means over some draws of their own: four errors of a mean over 64, and rounding
    assert abs(dimension.mean().item() - known) < 4 * dimension.std().item() / 8 + 5e-4
    assert set(label.tolist()) == {0, 1}


def test_classes_are_at_right_angles_and_uniform():
    bases = random_bases(20, 4, 5, seed=3)
    columns = bases.movedim(0, 1).flatten(1)
    torch.testing.assert_close(columns.T @ columns, torch.eye(20).double(), rtol=0, atol=1e-6)
    assert torch.equal(bases, random_bases(20, 4, 5, seed=3))
    assert not torch.equal(bases, random_bases(20, 4, 5, seed=4))
    # Haar: the mean of an entry is 0, of its square 1/n; 300 matrices
    firsts = torch.stack([random_bases(4, 2, 2, seed)[0, 0, 0] for seed in range(300)])
    assert abs(firsts.mean()) < 4 * firsts.std() / 300**0.5
    assert abs(firsts.square().mean() - 1 / 4) < 4 * firsts.square().std() / 300**0.5


@pytest.fixture(scope="module")
def model():
    return tp.load(f"molrg:{GOLDEN}")


class TestPublishedData:
    """The statistics that the golden data's README states, and the model of these bases."""

    def test_data(self, model):
        images, labels = model.starting_images()
        assert images.shape == (700, 3, 4, 4)
        assert labels.tolist() == [0] * 350 + [1] * 350
        bases = model.bases()
        stated = [(6.964610576629639, 0.9947993755340576, 1.835047960281372)]
        stated += [(6.662520408630371, 0.9518551230430603, 1.644295334815979)]
        for k, (norm, variance, largest) in enumerate(stated):
            x = images[labels == k].flatten(1).double()
            inner = x @ bases[k]
            assert (x - inner @ bases[k].T).abs().max() < 1e-5  # columns and images are permuted alike
            values = torch.linalg.svdvals(x)
            assert int((values > 1e-5 * values[0]).sum()) == 7
            assert x.square().sum(1).mean().item() == pytest.approx(norm, rel=1e-5)
            assert inner.var().item() == pytest.approx(variance, rel=1e-3)
            assert x.abs().max().item() == pytest.approx(largest, rel=1e-6)
        saved = torch.load(GOLDEN, weights_only=True)
        space = saved["space_basis"].double()
        assert (space.T @ space - torch.eye(48)).abs().max() < 2e-6
        torch.testing.assert_close(images, saved["data"].permute(0, 3, 1, 2))

    def test_own_samples_have_the_same_statistics(self, model):
        images, labels = model.sample(4000, seed=1)
        for k in range(2):
            inner = images[labels == k].flatten(1).double() @ model.bases()[k]
            norms = inner.square().sum(1)
            assert abs(norms.mean() - 7) < 4 * norms.std() / len(norms) ** 0.5
            assert abs(inner.square().mean() - 1) < 4 * inner.square().std() / inner.numel() ** 0.5

    def test_jacobian(self, model):
        images, _ = model.starting_images()
        bases = torch.load(GOLDEN, weights_only=True)["basis"].double()
        chw = bases.reshape(2, 4, 4, 3, 7).permute(0, 3, 1, 2, 4).reshape(2, 48, 7).numpy()
        for sigma in (0.05, 0.5, 5.0):
            x = images[340:360].double()
            x = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
            t = at(model, sigma, 20)
            answers, jacobians = model(x, t), model.jacobian(x, t)
            for i in range(20):
                mean, jacobian = published(chw, x[i].flatten().numpy(), sigma)
                # the file's columns are orthonormal to 1e-6, the model's exactly
                np.testing.assert_allclose(answers[i].flatten(), mean, rtol=0, atol=1e-5)
                np.testing.assert_allclose(jacobians[i], jacobian, rtol=0, atol=1e-5 * max(1, 1 / sigma**2))
            automatic = ExactDenoiser.jacobian(model, x, t)
            torch.testing.assert_close(jacobians, automatic, rtol=1e-6, atol=1e-8)

    def test_classifier_sees_the_classes(self, model):
        images, labels = model.starting_images()
        assert torch.equal(model.classifier()(images).argmax(1), labels)

    def test_u_turn(self, model):
        run = tp.uturn(model, items=8, times=[0.2, 0.5], steps=18, sampler="heun", progress=None)
        assert run.images.shape == (8, 1, 2, 3, 4, 4)

    def test_refused_files(self, refuses, tmp_path):
        with refuses("is not there"):
            tp.load("molrg:nowhere.pt")
        for name, content in {"text.pt": b"hello", "empty.pt": b""}.items():
            (tmp_path / name).write_bytes(content)
            with refuses("is no data set of low-rank Gaussians"):
                tp.load(f"molrg:{tmp_path / name}")
        for name, saved in {
            "other.pt": {"x": torch.ones(1)},
            "list.pt": [1, 2],
            "shape.pt": {"basis": torch.ones(2, 3), "data": torch.ones(4, 2, 2, 3), "conds": torch.ones(4)},
            "program.pt": {"basis": Path("x"), "data": 1, "conds": 2},
        }.items():
            torch.save(saved, tmp_path / name)
            with refuses("is no data set of low-rank Gaussians"):
                tp.load(f"molrg:{tmp_path / name}")


class TestLoading:
    def test_default(self):
        model = tp.load("molrg")
        assert (model.shape, model.n_classes, model.covariances.rank) == ((48,), 2, 6)
        assert isinstance(model.schedule, EDM)
        assert model.schedule.alpha(0.5) == 1
        shaped = tp.load("molrg?shape=(3,4,4)&seed=5&schedule=vp")
        assert shaped.sample(2)[0].shape == (2, 3, 4, 4)

    def test_bases(self):
        bases = random_bases(12, 2, 3, seed=1)
        model, again = load(bases=bases), load(n=12, classes=2, dim=3, seed=1)
        assert fingerprint(model) == fingerprint(again)
        assert fingerprint(model) != fingerprint(load(n=12, classes=2, dim=3, seed=2))
        torch.testing.assert_close(model.bases(), bases, rtol=0, atol=1e-6)

    def test_large(self):
        """Images of 3x32x32: no 3072 x 3072 matrix is needed to denoise them."""
        model = load(n=3072, classes=2, dim=10, shape=(3, 32, 32))
        x_0, label = model.sample(4)
        x = x_0 + 0.1 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
        assert (model(x, at(model, 0.1, 4)) - x_0).square().sum((1, 2, 3)).max() < 4 * 0.1**2 * 10
        assert torch.equal(model.classifier()(x_0).argmax(1), label)

    def test_refusals(self, refuses):
        for given_settings, match in [
            ({"n": 10, "classes": 2, "dim": 6}, "classes is 2 and dim is 6 in n = 10"),
            ({"bases": np.ones((1, 2, 1)), "n": 2}, "n is given beside bases"),
            ({"where": "x.pt", "dim": 2}, "dim is given beside a file"),
            ({"where": "x.pt", "bases": np.ones((1, 2, 1))}, "bases is given beside a file"),
            ({"bases": np.ones((1, 2, 1))}, "basis is off orthonormal"),
            ({"bases": np.ones((2, 1))}, "bases has shape \\(2, 1\\)"),
            ({"shape": (3, 4, 5)}, "shape is \\(3, 4, 5\\); accepted: 48 entries"),
            ({"shape": "square"}, "shape is 'square'"),
            ({"seed": -1}, "seed is -1"),
            ({"dim": 1.5}, "dim is 1.5"),
        ]:
            with refuses(match):
                load(**given_settings)
