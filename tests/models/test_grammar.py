"""The grammar as a diffusion model against enumeration of all its sentences, and through the engine."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import turningpoint as tp
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.diffusion.schedule import EDM
from turningpoint.models.grammar import Grammar

TINY = [(2, 2, 2, 1), (3, 2, 2, 2), (2, 2, 2, 3), (3, 2, 3, 1)]


def sentences(model):
    """Every sentence's leaves, root and probability, by walking down the rules."""
    tree = model.hierarchy
    found = [(np.array([root]), root, 1 / tree.v) for root in range(tree.v)]
    for level in reversed(range(tree.L)):
        rules = tree.rules[level].numpy()
        found = [
            (np.concatenate([rules[a, j] for a, j in zip(top, taken, strict=True)]), root, p / tree.m ** len(top))
            for top, root, p in found
            for taken in itertools.product(range(tree.m), repeat=len(top))
        ]  # fmt: skip
    words, roots, p = zip(*found, strict=True)
    points = np.eye(tree.v)[np.array(words)].reshape(len(words), -1)
    return points, np.array(roots), np.array(p)


def mixture(model, x, t, label=None):
    """log-density, posterior mean, root posterior and posterior covariance as a Gaussian mixture; one item."""
    points, roots, p = sentences(model)
    if label is not None:
        p = np.where(roots == label, p, 0.0) * model.n_classes
    alpha, sigma = float(model.schedule.alpha(t)), float(model.schedule.sigma(t))
    flat = x.reshape(-1)
    with np.errstate(divide="ignore"):
        logs = np.log(p) - ((flat - alpha * points) ** 2).sum(1) / (2 * sigma**2)
    weight = np.exp(logs - logs.max())
    density = logs.max() + math.log(weight.sum()) - flat.size / 2 * math.log(2 * math.pi * sigma**2)
    weight /= weight.sum()
    mean = weight @ points
    covariance = (points - mean).T @ (weight[:, None] * (points - mean))
    classes = np.array([weight[roots == c].sum() for c in range(model.n_classes)])
    return density, mean.reshape(x.shape), classes, covariance * alpha / sigma**2


@pytest.mark.parametrize("shape", TINY)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), t=st.sampled_from([0.02, 0.2, 0.5, 0.95]), label=st.none() | st.just(1))
def test_it_is_the_mixture_of_its_sentences(shape, seed, t, label):
    model = Grammar(*shape, seed=seed)
    x_0, _ = model.sample(2, seed=seed)
    noise = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    time = torch.full((2,), t, dtype=torch.float64)
    x = float(model.schedule.alpha(t)) * x_0 + 1.5 * float(model.schedule.sigma(t)) * noise
    told = None if label is None else torch.tensor([label, -1])
    mean, density = model(x, time, told), model.log_density(x, time, told)
    for row, known in enumerate((label, None)):
        log_p, expected, classes, jacobian = mixture(model, x[row].numpy(), t, known)
        assert density[row].item() == pytest.approx(log_p, rel=1e-10)
        np.testing.assert_allclose(mean[row].numpy(), expected, rtol=0, atol=1e-10)
        if known is None:
            np.testing.assert_allclose(model.posterior(x, time)[row].numpy(), classes, rtol=0, atol=1e-10)
        found = model.jacobian(x, time, told)[row]
        np.testing.assert_allclose(
            found.numpy(), jacobian, rtol=1e-9, atol=1e-9 * np.abs(jacobian).max() + 1e-10
        )


def test_the_score_is_the_gradient_of_the_density():
    """Tweedie's formula against central differences of log p_t."""
    model = Grammar(4, 2, 2, 2, seed=1)
    t = torch.full((1,), 0.3, dtype=torch.float64)
    x = torch.randn(1, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score, step = model.score(x, t)[0].flatten(), 1e-5
    for k in range(0, score.numel(), 3):
        shift = torch.zeros(score.numel(), dtype=torch.float64)
        shift[k] = step
        up, down = (model.log_density(x + s * shift.reshape(x.shape), t) for s in (1, -1))
        assert score[k].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-6, abs=1e-6)


def test_as_a_model():
    model = tp.load("grammar", v=6, m=2, s=3, L=2, seed=3)
    same = tp.load("grammar?v=6&m=2&s=3&L=2&seed=3")
    assert (model.shape, model.n_classes) == ((9, 6), 6)
    assert torch.equal(model.rules, same.rules)
    x_0, root = model.sample(300, seed=1)
    assert (x_0.dtype, root.dtype, x_0.shape) == (torch.float32, torch.int64, (300, 9, 6))
    assert torch.equal(x_0.sum(-1), torch.ones(300, 9))
    assert torch.equal(x_0, model.sample(300, seed=1)[0])
    assert not torch.equal(x_0, model.sample(300, seed=2)[0])
    latents = model.latents(x_0)
    assert torch.equal(latents[2][:, 0], root)
    assert torch.equal(latents[0], x_0.argmax(-1))
    assert torch.equal(model.classifier()(x_0).argmax(1), root)
    at_zero = model(x_0, torch.zeros(300))
    assert at_zero.dtype == torch.float32
    torch.testing.assert_close(at_zero, x_0)
    assert model.fingerprint_config()["seed"] == 3


def test_the_paper_s_grammar_is_the_default():
    tree = tp.load("grammar").hierarchy
    assert (tree.v, tree.m, tree.s, tree.L) == (16, 4, 2, 7)


def test_one_noise_in_two_clocks_has_one_posterior():
    """The same log-SNR in VP and in VE coordinates: x rescaled, the same posterior mean."""
    vp, ve = Grammar(5, 2, 2, 3), Grammar(5, 2, 2, 3, schedule=EDM())
    x_0, _ = vp.sample(4)
    z = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = []
    for model in (vp, ve):
        t = model.schedule.t(logsnr=torch.full((4,), 0.4, dtype=torch.float64))
        alpha, sigma = model.clocks(z, t)
        means.append(model(alpha * x_0 + sigma * z, t))
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-12)


def test_uturns_through_the_engine_keep_what_the_posterior_says():
    """P(symbol kept) = E mean_i sum_a p_i(a)^2 at every level, within 4 standard errors (ddpm, 100 steps)."""
    model = tp.load("grammar?v=4&m=2&L=3")
    times = [0.25, 0.35]
    items = 400
    images, _ = model.sample(items, seed=5)
    run = tp.uturn(model, images, times=times, steps=100, seed=1, batch=128, progress=None).measure("class")
    kept = run.retention("class").sortby("t")["kept"].values
    fresh, _ = model.sample(4000, seed=6)
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(7))
    for k, t in enumerate(times):
        time = torch.full((len(fresh),), t, dtype=torch.float64)
        alpha, sigma = model.clocks(noise, time)
        marginals = model.inferred(alpha * fresh + sigma * noise, time).marginals()
        back = torch.from_numpy(np.array(run.images.sel(time=t, method="nearest").values[:, 0]))
        same = [(a == b).double() for a, b in zip(model.latents(images), model.latents(back), strict=True)]
        assert kept[k] == pytest.approx(
            same[-1].mean().item(), abs=0.005
        )  # parsed roots are the classifier's
        for agree, p in zip(same, marginals, strict=True):
            per_tree, expected = agree.mean(1), p.square().sum(-1).mean(1)
            error = math.hypot(per_tree.std() / items**0.5, expected.std() / len(fresh) ** 0.5)
            assert 0.2 < expected.mean() < 0.99
            assert abs(per_tree.mean() - expected.mean()) < 4 * error


def test_the_jacobian_is_that_of_automatic_differentiation():
    """Where leaves meet at four levels, on trees too large to enumerate."""
    for shape in ((4, 3, 2, 4), (3, 3, 3, 2)):
        model = Grammar(*shape, seed=2)
        x = torch.randn(2, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([0.3, 0.5], dtype=torch.float64)
        for label in (None, torch.tensor([1, -1])):
            found = model.jacobian(x, t, label)
            torch.testing.assert_close(found, ExactDenoiser.jacobian(model, x, t, label), rtol=0, atol=1e-10)
            torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("grammar?v=4&m=9", "m is 9"), ("grammar?L=0", "L is 0"), ("grammar?depth=3", "depth")],
)
def test_bad_settings_are_refused(refuses, name, sentence):
    with refuses(sentence):
        tp.load(name)
