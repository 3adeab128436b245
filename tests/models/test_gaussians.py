"""Mixtures of Gaussians beside quadrature, automatic differentiation, samples and the engine."""

import itertools
import math

import mixtures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from statistics_of_a_mixture import kept_by_quadrature

import turningpoint as tp
from turningpoint.diffusion.covariance import Covariances
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.diffusion.schedule import EDM, VP, schedule_named
from turningpoint.models import fingerprint
from turningpoint.models.gaussians import Gaussians, load, simplex

CLOCKS = ["vp", "edm", "flow", "cosine"]
seeds = st.integers(0, 10**6)


def at(model, logsnr, count: int = 1) -> torch.Tensor:
    return model.schedule.t(logsnr=logsnr).expand(count)


def clocks(model, t) -> tuple[float, float]:
    return float(model.schedule.alpha(t)[0]), float(model.schedule.sigma(t)[0])


def random_mixture(seed: int, kind: str, count: int = 3, dim: int = 2, schedule: str = "vp") -> Gaussians:
    """Components of variance 0.1 or more, so that a grid can integrate them."""
    draw = np.random.default_rng(seed)
    settings = {"means": 1.5 * draw.standard_normal((count, dim)), "weights": draw.uniform(0.1, 1, count)}
    factor = draw.standard_normal((count, dim, dim)) / 2
    covariances = {
        "scalar": 0.3,
        "isotropic": draw.uniform(0.1, 0.6, count),
        "diagonal": draw.uniform(0.1, 0.6, (count, dim)),
        "full": factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(dim),
    }
    if kind == "low rank":
        basis = np.linalg.qr(draw.standard_normal((count, dim, dim - 1)))[0]
        values = draw.uniform(0.3, 1, (count, dim - 1))
        return load(basis=basis, eigenvalues=values, remainder=0.15, schedule=schedule, **settings)
    return load(cov=covariances[kind], schedule=schedule, **settings)


KINDS = ["scalar", "isotropic", "diagonal", "full", "low rank"]


class TestIntegrals:
    """Everything follows from p(x_0, c) and N(x_t; alpha x_0, sigma^2): integrate these on a grid."""

    @staticmethod
    def joint(model, grid, x_t, alpha, sigma):
        """w_c N(x_0; m_c, C_c) N(x_t; alpha x_0, sigma^2) on the grid, (K, points)."""
        dense = model.covariances.dense().numpy()
        likelihood = np.prod(norm.pdf(x_t, alpha * grid, sigma), axis=1)
        rows = [
            w * multivariate_normal(m, c).pdf(grid) * likelihood
            for w, m, c in zip(model.weights.numpy(), model.means.numpy(), dense, strict=True)
        ]
        return np.stack(rows)

    @pytest.mark.parametrize("kind", KINDS)
    @given(seed=seeds, logsnr=st.floats(-5, 3), schedule=st.sampled_from(CLOCKS))
    @settings(max_examples=10, deadline=None)
    def test_in_two_dimensions(self, kind, seed, logsnr, schedule):
        model = random_mixture(seed, kind, schedule=schedule)
        t = at(model, logsnr)
        alpha, sigma = clocks(model, t)
        # width of x_0 given x_t and c at least sqrt(0.1 s^2 / (0.1 + s^2)), s = sigma / alpha >= 0.22:
        # the trapezoidal rule with 0.07 errs by exp(-2 pi^2 (0.18 / 0.07)^2)
        widest = torch.linalg.eigvalsh(model.covariances.dense()).max().sqrt().item()
        reach = model.means.abs().max().item() + 8 * widest
        axis = np.arange(-reach, reach, 0.07)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        x_0, _ = model.sample(1, seed)
        x_t = alpha * x_0.double() + sigma * torch.randn(1, 2, generator=torch.Generator().manual_seed(seed))
        joint = self.joint(model, grid, x_t.numpy(), alpha, sigma) * 0.07**2
        total = joint.sum()
        mean = (joint.sum(0) @ grid) / total
        np.testing.assert_allclose(model(x_t, t)[0], mean, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(model.log_density(x_t, t), math.log(total), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(model.posterior(x_t, t)[0], joint.sum(1) / total, rtol=1e-6, atol=1e-12)
        tweedie = (alpha * mean - x_t[0].numpy()) / sigma**2
        np.testing.assert_allclose(model.score(x_t, t)[0], tweedie, rtol=1e-6, atol=1e-6)
        spread = (grid * (joint.sum(0) / total)[:, None]).T @ grid - np.outer(mean, mean)
        np.testing.assert_allclose(
            model.jacobian(x_t, t)[0], alpha / sigma**2 * spread, rtol=1e-6, atol=1e-7 * alpha / sigma**2
        )
        for c in range(3):
            alone, label = joint[c] / model.weights[c].item(), torch.tensor([c])
            np.testing.assert_allclose(
                model(x_t, t, label)[0], alone @ grid / alone.sum(), rtol=1e-6, atol=1e-8
            )
            density = model.log_density(x_t, t, label)
            np.testing.assert_allclose(density, math.log(alone.sum()), rtol=1e-6, atol=1e-8)

    @given(seed=seeds, logsnr=st.floats(-6, 6), place=st.floats(-3, 3))
    @settings(max_examples=20, deadline=None)
    def test_in_one_dimension(self, seed, logsnr, place):
        model = random_mixture(seed, "isotropic", dim=1, schedule="edm")
        t = at(model, logsnr)
        sigma = clocks(model, t)[1]
        x_t = place * math.sqrt(1 + sigma**2)
        std, means = model.covariances.eigenvalues[:, 0].sqrt().numpy(), model.means[:, 0].numpy()

        def moment(power):
            def integrand(x_0):
                prior = model.weights.numpy() @ norm.pdf(x_0, means, std)
                return x_0**power * prior * norm.pdf(x_t, x_0, sigma)

            near = sorted({*means, x_t})
            return quad(integrand, -20, 20, points=near, limit=500, epsabs=0, epsrel=1e-10)[0]

        evidence = moment(0)
        x = torch.tensor([[x_t]], dtype=torch.float64)
        assert model.log_density(x, t).item() == pytest.approx(math.log(evidence), rel=1e-6, abs=1e-8)
        assert model(x, t).item() == pytest.approx(moment(1) / evidence, rel=1e-6, abs=1e-8)


class TestDerivatives:
    @pytest.mark.parametrize("kind", KINDS)
    @given(seed=seeds, logsnr=st.floats(-6, 8), schedule=st.sampled_from(CLOCKS))
    @settings(max_examples=8, deadline=None)
    def test_score_and_jacobian(self, kind, seed, logsnr, schedule):
        model = random_mixture(seed, kind, count=4, dim=3, schedule=schedule)
        t = at(model, logsnr, 5)
        alpha, sigma = clocks(model, t)
        x = alpha * model.sample(5, seed)[0].double() + sigma * 0.7
        label = torch.tensor([-1, 0, 3, -1, 1])
        for given_label in (None, label):
            x_t = x.clone().requires_grad_()
            (score,) = torch.autograd.grad(model.log_density(x_t, t, given_label).sum(), x_t)
            size = score.abs().max().item()
            torch.testing.assert_close(model.score(x, t, given_label), score, rtol=1e-6, atol=1e-9 * size)
            tweedie = ExactDenoiser.score(model, x, t, given_label)
            torch.testing.assert_close(tweedie, score, rtol=1e-6, atol=1e-9 * size)
            closed, automatic = (
                f(model, x, t, given_label) for f in (Gaussians.jacobian, ExactDenoiser.jacobian)
            )
            torch.testing.assert_close(closed, automatic, rtol=1e-6, atol=1e-8 * closed.abs().max().item())
            torch.testing.assert_close(closed, closed.mT)

    def test_jacobian_by_finite_differences(self):
        model, h = random_mixture(4, "full", dim=3), 1e-5
        t, x = at(model, 0.3), model.sample(1, 5)[0].double()
        steps = h * torch.eye(3).double()
        ahead, behind = (model(x + sign * steps, t.expand(3)) for sign in (1, -1))
        torch.testing.assert_close(
            model.jacobian(x, t)[0], ((ahead - behind) / (2 * h)).T, rtol=1e-6, atol=1e-8
        )

    def test_jacobian_under_inference_mode(self):
        model = random_mixture(4, "full")
        with torch.inference_mode():
            t, x = at(model, 0.3, 2).clone(), model.sample(2, 5)[0].double()
            automatic = ExactDenoiser.jacobian(model, x, t, torch.tensor([0, -1]))
            closed = model.jacobian(x, t, torch.tensor([0, -1]))
        torch.testing.assert_close(automatic, closed, rtol=1e-6, atol=1e-10)


class TestBayes:
    """What the base class answers from `log_density` alone."""

    def test_posterior(self):
        model = random_mixture(8, "full", dim=3)
        t, x = at(model, -0.5, 6), model.sample(6, 1)[0].double()
        torch.testing.assert_close(ExactDenoiser.log_posterior(model, x, t), model.log_posterior(x, t))
        torch.testing.assert_close(model.posterior(x, t).sum(1), torch.ones(6).double())

    def test_total_probability(self):
        model = random_mixture(9, "diagonal", dim=3)
        t, x = at(model, 1.0, 6), model.sample(6, 2)[0].double()
        of_class = [model(x, t, torch.full((6,), c)) for c in range(3)]
        torch.testing.assert_close(torch.stack(of_class, 1), model.component_means(x, t))
        mixed = torch.einsum("bk,kbd->bd", model.posterior(x, t), torch.stack(of_class))
        torch.testing.assert_close(model(x, t), mixed)

    def test_without_classes(self):
        model = load(means=[[0.0, 0.0]])
        model.n_classes = None
        x, t = torch.ones(3, 2), torch.full((3,), 0.5)
        assert torch.equal(model.posterior(x, t), torch.ones(3, 1).double())
        assert torch.equal(ExactDenoiser.prior(model), torch.ones(1).double())
        assert model.classifier() is None


class TestSamples:
    @pytest.mark.parametrize(
        "build", [mixtures.five_in_2d, mixtures.three_full_in_16d, mixtures.two_low_rank_in_48d]
    )
    def test_moments_within_errors(self, build):
        model, n = build(), 4000
        x_0, label = model.sample(n, seed=3)
        assert x_0.dtype == torch.float32
        assert label.dtype == torch.int64
        x = x_0.double()
        counts, share = torch.bincount(label, minlength=model.n_classes) / n, model.weights
        assert ((counts - share).abs() <= 4 * (share * (1 - share) / n).sqrt()).all()
        dim = x.shape[1]
        centred = x - model.mean()
        products = torch.einsum("ni,nj->nij", centred, centred).flatten(1)
        error = products.std(0) / n**0.5
        # the largest of d(d+1)/2 deviations, each about normal: a band for all of them at once
        band = norm.isf(norm.sf(4) / (dim * (dim + 1) / 2))
        assert ((products.mean(0) - model.covariance().flatten()).abs() <= band * error).all()
        assert ((x.mean(0) - model.mean()).abs() <= band * x.std(0) / n**0.5).all()

    @pytest.mark.parametrize(
        "build", [mixtures.five_in_2d, mixtures.three_full_in_16d, mixtures.two_low_rank_in_48d]
    )
    def test_clean_classes_are_certain(self, build):
        model = build()
        x_0, label = model.sample(2000, seed=1)
        torch.testing.assert_close(model.classifier()(x_0).argmax(1), label)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("count", [1, 3])
    def test_what_the_theories_ask(self, kind, count):
        model = random_mixture(6, kind, count=count, dim=4)
        wanted = np.linalg.eigvalsh(model.covariance().numpy())
        np.testing.assert_allclose(np.sort(model.eigenvalues().numpy()), wanted, rtol=1e-9)
        assert torch.equal(model.class_means(), model.means)
        round_one = kind == "scalar" or (kind == "isotropic" and count == 1)
        known = model.class_variance()
        assert (known is None) != round_one
        if round_one:
            torch.testing.assert_close(model.covariances.dense()[0], known * torch.eye(4).double())

    def test_seeds(self):
        model = mixtures.five_in_2d()
        again, other = model.sample(5, seed=1)[0], model.sample(5, seed=2)[0]
        assert torch.equal(model.sample(5, seed=1)[0], again)
        assert not torch.equal(again, other)

    def test_starting_images(self):
        x_0, label = mixtures.five_in_2d().starting_images()
        assert x_0.shape == (1000, 2)
        assert label.shape == (1000,)


class TestEdges:
    def test_images_are_vectors_in_another_shape(self):
        draw = np.random.default_rng(3)
        means, cov = draw.standard_normal((2, 12)), draw.uniform(0.1, 1, (2, 12))
        flat, images = load(means=means, cov=cov), load(means=means.reshape(2, 3, 2, 2), cov=cov)
        x, t = flat.sample(4)[0].double(), at(flat, 0.5, 4)
        assert images.shape == (3, 2, 2)
        assert images.sample(4)[0].shape == (4, 3, 2, 2)
        shaped = x.reshape(4, 3, 2, 2)
        torch.testing.assert_close(images(shaped, t).flatten(1), flat(x, t))
        torch.testing.assert_close(images.score(shaped, t).flatten(1), flat.score(x, t))
        torch.testing.assert_close(images.jacobian(shaped, t), flat.jacobian(x, t))
        torch.testing.assert_close(images.mean().flatten(), flat.mean())
        assert images.component_means(shaped, t).shape == (4, 2, 3, 2, 2)

    def test_float32_is_answered_in_float32_from_float64(self):
        model = load(means=[[-2.0, 0], [2, 0]], cov=[[1e-6, 1], [1e-6, 1]])
        x, t = torch.tensor([[0.5, 0.1]]), at(model, 0.0)
        assert model(x, t).dtype == model.score(x, t).dtype == model.jacobian(x, t).dtype == torch.float32
        assert torch.equal(model(x, t), model(x.double(), t).float())

    @pytest.mark.parametrize("schedule", CLOCKS)
    def test_at_the_data_itself(self, schedule):
        """At t = 0 the posterior mean of a point of the data is that point; subspaces included."""
        basis = np.eye(4)[None, :, :2].repeat(2, 0)
        basis[1] = np.eye(4)[:, 2:]
        points = load(means=[[1.0], [2.0]], cov=0, schedule=schedule)
        for model in (load(basis=basis, schedule=schedule), points):
            x, label = model.sample(6)
            zero = torch.zeros(6)
            torch.testing.assert_close(model(x, zero), x)
            torch.testing.assert_close(model.posterior(x, zero).argmax(1), label)

    def test_classifier_of_data_off_its_subspace_by_rounding(self):
        basis = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 8)))[0]
        model = load(basis=np.stack([basis[:, :4], basis[:, 4:]]))
        x_0, label = model.sample(500)
        logits = model.classifier()(x_0 + 1e-6)
        assert logits.isfinite().all()
        assert torch.equal(logits.argmax(1), label)

    def test_no_signal(self):
        model = load(means=[[-1.0], [3.0]], weights=[1, 3], schedule="flow")
        one = torch.ones(2)
        torch.testing.assert_close(model(torch.tensor([[5.0], [-2.0]]), one), torch.full((2, 1), 2.0))

    def test_a_device_without_float64(self):
        """What `Module.to` does there: refuse float64."""
        model = random_mixture(2, "full")

        def narrow(tensor):
            if tensor.dtype == torch.float64:
                raise TypeError("this device has no float64")
            return tensor

        narrowed = model._apply(narrow)
        assert {b.dtype for b in narrowed.buffers()} == {torch.float32}

    def test_unknown_label(self):
        with pytest.raises((RuntimeError, IndexError)):
            random_mixture(1, "full")(torch.zeros(1, 2), torch.full((1,), 0.5), torch.tensor([3]))


class TestPublishedNumbers:
    @pytest.mark.parametrize(
        ("t", "kept"), [(0.2, 0.9829), (0.3, 0.9017), (0.4, 0.7615), (0.5, 0.6297), (0.7, 0.5139)]
    )
    def test_kept_class_of_two_components(self, t, kept):
        """E[sum_c p(c | x_t)^2] in 8 dimensions depends on the first axis alone."""
        model, time = load(dim=8, distance=2, std=0.5), torch.full((2001,), t, dtype=torch.float64)
        axis = torch.linspace(-8, 8, 2001).double()
        x_t = torch.zeros(2001, 8).double()
        x_t[:, 0] = axis
        agree = model.posterior(x_t, time).square().sum(1)
        marginal = load(dim=1, distance=2, std=0.5).log_density(axis[:, None], time).exp()
        by_model = torch.trapezoid(agree * marginal, axis).item()
        assert by_model == pytest.approx(kept_by_quadrature(t), abs=1e-8)
        assert by_model == pytest.approx(kept, abs=5e-5)  # the digits given

    @pytest.mark.parametrize(
        ("snr", "information", "difference"),
        [(0.2, 0.65115, 0.65127), (1, 0.16091, 0.16055), (3, 0.02697, 0.02701)],
    )
    def test_information_is_half_the_difference_of_denoisers(self, snr, information, difference):
        """dI(Z; x_t) / dsnr = E|D - D_class|^2 / 2 (Guo, Shamai & Verdu 2005), for +-1.5 with std 0.7."""
        model = load(means=[-1.5, 1.5], std=0.7, schedule="edm")

        def on_grid(snr):
            sigma = snr**-0.5
            reach = 1.5 + 12 * math.hypot(0.7, sigma)
            x = torch.linspace(-reach, reach, 4001).double()[:, None]
            t = model.schedule.t(sigma=sigma).expand(4001)
            return x, t, model.log_density(x, t).exp()

        def mutual(snr):
            x, t, density = on_grid(snr)
            p = model.posterior(x, t)
            entropy = -torch.xlogy(p, p).sum(1)
            return math.log(2) - torch.trapezoid(density * entropy, x[:, 0]).item()

        x, t, density = on_grid(snr)
        apart = (model(x, t)[:, None] - model.component_means(x, t))[..., 0].square()
        half = torch.trapezoid(density * (model.posterior(x, t) * apart).sum(1), x[:, 0]).item() / 2
        h = 1e-3 * snr
        slope = (8 * (mutual(snr + h) - mutual(snr - h)) - (mutual(snr + 2 * h) - mutual(snr - 2 * h))) / (
            12 * h
        )
        assert half == pytest.approx(slope, rel=1e-6)
        assert half == pytest.approx(information, abs=5e-6)  # the digits given
        assert half == pytest.approx(difference, rel=5e-3)  # simulated there, without an error

    @pytest.mark.parametrize(
        ("steps", "error", "digit"),
        [(18, 0.045, 5e-4), (40, 0.0080, 5e-5), (80, 0.0019, 5e-5), (160, 0.0005, 5e-5)],
    )
    def test_heun_on_one_gaussian(self, steps, error, digit):
        """The flow of N(0, 1) scales x by sqrt((1 + s^2) / (1 + s_T^2)); EDM's 18 steps overshoot by 4.5 %."""
        model = load(means=[[0.0]], cov=1.0, schedule="edm")
        run = tp.generate(model, noise=np.array([[1.0], [-0.5]]), steps=steps, sampler="heun", progress=None)
        exact = 80 / math.sqrt(1 + 80**2) * np.array([1, -0.5])
        amplitude = np.asarray(run.images).ravel() / exact
        assert amplitude[0] == pytest.approx(amplitude[1], rel=1e-5)
        # Euler and Heun are linear here: the same product of factors, by hand
        grid = np.append(_edm_sigmas(steps), 0.0)
        factor = 1.0
        for s, r in itertools.pairwise(grid):
            slope = s / (1 + s**2)
            euler = 1 + (r - s) * slope
            factor *= 1 + (r - s) * (slope + r / (1 + r**2) * euler) / 2 if r > 0 else euler
        assert amplitude[0] == pytest.approx(factor * math.sqrt(1 + 80**2), rel=1e-5)
        assert abs(amplitude[0] - 1) == pytest.approx(error, abs=digit)


def _edm_sigmas(steps):
    """Karras et al. 2022, eq. 5."""
    ramp = np.arange(steps) / (steps - 1)
    return (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7


class TestLoading:
    def test_a_few_numbers(self):
        model = tp.load("gaussians?dim=8&distance=2&std=0.5")
        assert model.shape == (8,)
        assert model.n_classes == 2
        assert model.means[:, 0].tolist() == [-2, 2]
        assert not model.means[:, 1:].any()
        assert torch.equal(model.covariances.dense(), 0.25 * torch.eye(8).double().expand(2, 8, 8))
        assert model.weights.tolist() == [0.5, 0.5]
        assert isinstance(model.schedule, VP)
        written = tp.load("gaussians?means=((-2,0),(2,0))&cov=(0.1,0.2)&weights=(1,3)&schedule=edm")
        assert written.weights.tolist() == [0.25, 0.75]
        assert written.covariances.eigenvalues[:, 0].tolist() == [0.1, 0.2]
        assert isinstance(written.schedule, EDM)
        assert tp.load("gaussians").means.tolist() == [[-2, 0], [2, 0]]

    @pytest.mark.parametrize("classes", [1, 2, 3, 5])
    def test_simplex(self, classes):
        corners = simplex(classes, 6, 1.5)
        apart = torch.cdist(corners, corners)[~torch.eye(classes, dtype=torch.bool)]
        torch.testing.assert_close(corners.sum(0), torch.zeros(6).double())
        if classes > 1:
            torch.testing.assert_close(corners.norm(dim=1), torch.full((classes,), 1.5).double())
            wanted = 1.5 * math.sqrt(2 * classes / (classes - 1))
            torch.testing.assert_close(apart, torch.full_like(apart, wanted))

    def test_the_axes_of_cov_decide(self):
        means = np.zeros((2, 2))
        assert load(means, cov=[1.0, 4.0]).covariances.dense()[1].tolist() == [[4, 0], [0, 4]]
        assert load(means, cov=[[1.0, 4.0], [2, 3]]).covariances.dense()[0].tolist() == [[1, 0], [0, 4]]
        full = np.array([[[2.0, 1], [1, 2]], [[1, 0], [0, 0]]])
        torch.testing.assert_close(load(means, cov=full).covariances.dense(), torch.from_numpy(full))

    def test_fingerprint_depends_on_everything(self):
        base = {"means": [[0.0, 1], [1, 0]], "cov": 0.5}
        factor = np.array([[[2.0, 1], [1, 2]], [[1, 0], [0, 1]]])
        eye = np.eye(2)[None].repeat(2, 0)[..., :1]
        variants = [
            base,
            base | {"means": [[0.0, 1], [1, 0.001]]},
            base | {"cov": 0.5001},
            base | {"weights": [1, 2]},
            base | {"schedule": "edm"},
            base | {"schedule": VP(0.1, 19)},
            base | {"cov": factor},
            base | {"cov": factor * 1.001},
            {"basis": eye},
            {"basis": eye, "eigenvalues": 1.01},
            {"basis": eye, "remainder": 0.01},
            {"basis": -eye[:, ::-1].copy()},
        ]
        prints = [fingerprint(load(**settings)) for settings in variants]
        assert len(set(prints)) == len(prints)
        assert [fingerprint(load(**settings)) for settings in variants] == prints

    def test_refusals(self, refuses):
        two = [[0.0, 1], [1, 0]]
        cases = [
            ({"means": two, "dim": 2}, "dim is given beside means"),
            ({"means": two, "distance": 2}, "distance is given beside means"),
            ({"cov": 1, "std": 1}, "std is given beside cov"),
            ({"basis": np.ones((1, 1, 1)), "std": 1}, "basis is given beside std"),
            ({"basis": np.ones((1, 1, 1)), "classes": 1}, "classes is given beside basis"),
            ({"means": two, "eigenvalues": 1}, "eigenvalues is given without basis"),
            ({"means": 3}, "means is 3; accepted: numbers of shape"),
            ({"means": []}, "means has shape \\(0,\\)"),
            ({"means": [[math.nan]]}, "means holds numbers that are not finite"),
            ({"means": "many"}, "means is not an array of numbers"),
            ({"means": [[1], [1, 2]]}, "means is not an array of numbers"),
            (
                {"means": two, "cov": [1, 2, 3]},
                "cov has shape \\(3,\\); accepted: a number, or shape \\(2,\\)",
            ),
            ({"means": two, "cov": np.eye(3)[None]}, "cov has shape \\(1, 3, 3\\)"),
            ({"means": two, "cov": np.ones((1, 1, 1, 1))}, "cov has shape"),
            ({"means": two, "cov": -1}, "cov holds -1"),
            ({"means": two, "std": -1}, "std is -1; accepted: a number of at least 0"),
            ({"means": two, "weights": [1]}, "weights are"),
            ({"means": two, "weights": [1, 0]}, "weights are .*; accepted: 2 positive numbers"),
            (
                {"means": two, "basis": np.ones((1, 2, 1))},
                "basis has shape \\(1, 2, 1\\); accepted: \\(2, 2, r\\)",
            ),
            ({"basis": np.ones((1, 1, 1)), "eigenvalues": [[1, 2]]}, "eigenvalues have shape"),
            ({"basis": np.ones((1, 1, 1)), "remainder": [1, 2]}, "remainder has shape|remainder have shape"),
            ({"basis": np.ones((1, 1, 1)), "remainder": -1}, "remainder holds -1"),
            ({"dim": 0}, "dim is 0; accepted: a whole number of at least 1"),
            ({"dim": 2.5}, "dim is 2.5"),
            ({"classes": 5, "dim": 3}, "classes is 5 in dim 3; accepted: at most dim \\+ 1"),
            (
                {"schedule": "fast"},
                "schedule is 'fast'; accepted: vp, edm, flow, linear, scaled_linear, cosine",
            ),
            ({"schedule": 3}, "schedule is 3"),
        ]
        for given_settings, match in cases:
            with refuses(match):
                load(**given_settings)
        with refuses("model is 'gaussians' with settings"):
            tp.load("gaussians", spread=2)
        with refuses("the covariances are 1 over 2 entries; accepted: 2 over 3"):
            Gaussians(torch.zeros(2, 3), Covariances.isotropic(torch.ones(1), 2))

    @pytest.mark.parametrize("name", ["vp", "edm", "flow", "linear", "scaled_linear", "cosine"])
    def test_schedules_by_name(self, name):
        clock = schedule_named(name)
        assert schedule_named(clock) is clock
        assert name in (clock.config()["kind"], clock.config().get("family"))


class TestEngine:
    @pytest.mark.parametrize("sampler", ["ddpm", "heun"])
    @pytest.mark.parametrize("label", [None, "own"])
    def test_a_u_turn(self, sampler, label):
        model = tp.load("gaussians", means=3 * np.eye(3), cov=0.01, weights=(1, 2, 3))
        run = tp.uturn(
            model,
            items=12,
            times=[0.1, 0.9],
            replicates=2,
            sampler=sampler,
            steps=50,
            label=label,
            progress=None,
        ).measure("class")
        curve = run.retention("class").to_dataframe().sort_values("t")
        assert np.isfinite(run.images).all()
        assert curve.kept.iloc[0] == 1
        if label == "own":
            assert curve.kept.iloc[1] == 1

    def test_image_shaped(self):
        means = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 3, 4, 4))
        model = tp.load("gaussians", means=means, cov=np.full((2, 48), 0.01))
        run = tp.uturn(model, items=4, times=[0.3], sampler="ddpm", steps=20, progress=None)
        assert run.images.shape[-3:] == (3, 4, 4)

    def test_guidance(self):
        """Guided in the engine, with labels and none in one batch."""
        run = tp.generate("gaussians?dim=2", 4, label=[0, 1, 0, 1], guidance=1.5, steps=10, progress=None)
        assert (np.sign(np.asarray(run.images)[:, 0]) == [-1, 1, -1, 1]).all()
