"""The optimal denoiser of a data set against the definition written out, pair by pair, in float64."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import turningpoint as tp
from turningpoint.diffusion.attention import RunningSoftmax, scores
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.models import fingerprint
from turningpoint.models.empirical import Empirical

GOLDEN = Path(__file__).parent / "golden" / "optimal_denoiser_expected.npz"


def written_out(points, x_t, alpha, sigma, weights=None):
    """Posterior weights (B, N), means (B, d), covariances (B, d, d) and log-densities (B,), from differences."""
    y, x = points.double().flatten(1), x_t.double().flatten(1)
    share = torch.ones(len(y)).double() if weights is None else weights.double()
    squares = (x[:, None] - alpha[:, None, None] * y).square().sum(2)
    logits = (share / share.sum()).log() - squares / (2 * sigma[:, None] ** 2)
    p = logits.softmax(1)
    mean = p @ y
    apart = y[None] - mean[:, None]
    covariance = torch.einsum("bn,bni,bnj->bij", p, apart, apart)
    log_density = logits.logsumexp(1) - y.shape[1] * (sigma.log() + math.log(2 * math.pi) / 2)
    return p, mean, covariance, log_density


@st.composite
def worlds(draw, labelled=False):
    """A model of few random points, some of them twice, noisy queries at times of their own, and the points."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n, shape = draw(st.integers(1, 12)), draw(st.sampled_from([(1,), (3,), (2, 2, 3)]))
    points = torch.randn(n, *shape, generator=generator, dtype=torch.float64) * draw(
        st.sampled_from([0.1, 1.0, 30.0])
    )
    points = torch.cat([points, points[torch.randint(n, (draw(st.integers(0, 3)),), generator=generator)]])
    points = points + draw(st.sampled_from([0.0, 100.0]))
    n = len(points)
    weights = torch.rand(n, generator=generator).double() + 0.1 if draw(st.booleans()) else None
    labels = torch.randint(3, (n,), generator=generator) if labelled else None
    chunk, schedule = (
        draw(st.sampled_from([None, 1, 2, 5, 1000])),
        draw(st.sampled_from(["vp", "edm", "cosine"])),
    )
    model = Empirical(points, labels, weights, schedule, chunk)
    t = model.schedule.t_min + (1 - model.schedule.t_min) * torch.rand(
        4, generator=generator, dtype=torch.float64
    )
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    drawn = points[torch.randint(n, (4,), generator=generator)].flatten(1)
    noise = torch.randn(4, drawn.shape[1], generator=generator, dtype=torch.float64)
    x_t = (alpha[:, None] * drawn + sigma[:, None] * noise).reshape(4, *shape)
    return model, points, weights, x_t, t, alpha, sigma


def lost(points, alpha, sigma):
    """What float64 leaves uncertain of a logit, which is of the size of |y - mean|^2 alpha^2 / sigma^2."""
    squares = (points - points.mean(0)).flatten(1).square().sum(1).max()
    return 1e-15 * float(1 + squares * (alpha / sigma).square().max())


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_everything_equals_the_definition(world):
    """In float64, relative to the size of the points."""
    model, points, weights, x_t, t, alpha, sigma = world
    p, mean, covariance, log_density = written_out(points, x_t, alpha, sigma, weights)
    size = float(points.abs().max())
    digits = lost(points, alpha, sigma)
    close = {"rtol": 0, "atol": 1e-9 + 20 * digits}
    torch.testing.assert_close(model(x_t, t).flatten(1), mean, rtol=0, atol=size * close["atol"])
    torch.testing.assert_close(model.log_density(x_t, t), log_density, rtol=1e-9, atol=close["atol"])
    largest, index = model.weights(x_t, t, top=len(points))
    torch.testing.assert_close(largest, p.sort(1, descending=True).values, **close)
    torch.testing.assert_close(p.gather(1, index), largest, **close)
    assert [sorted(row) for row in index.tolist()] == [list(range(len(points)))] * len(x_t)
    variance = covariance.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        model.variance(x_t, t).flatten(1), variance, rtol=0, atol=size**2 * close["atol"]
    )
    expected = (alpha / sigma**2)[:, None, None] * covariance
    scale = float((alpha / sigma**2).max()) * size**2
    torch.testing.assert_close(model.jacobian(x_t, t), expected, rtol=0, atol=scale * close["atol"])


@given(worlds())
@settings(max_examples=25, deadline=None)
def test_float32_queries_are_answered_to_float32(world):
    """An error of 1e-5 in the weights at most."""
    model, points, _, x_t, t, _, _ = world
    x, time = x_t.float(), t.float()
    exact = model(x.double(), time.double())
    answer = model(x, time)
    assert answer.dtype == torch.float32
    spread = float((points - points[0]).abs().max())
    tolerance = 1e-5 * spread + len(points) * 2**-24 * float(points.abs().max())  # the points' sum in float32
    torch.testing.assert_close(answer.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sigma", [80.0, 20.0, 8.0, 5.0, 2.0, 0.5, 0.05, 0.002])
def test_images_that_nearly_coincide_at_every_noise(sigma):
    """Between 64 copies of each of four images, a grey level or two apart: at small noise many points count."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(2, 254, (4, 1, 3, 32, 32), generator=generator)
    change = torch.randint(-2, 3, (1, 64, 3, 32, 32), generator=generator)
    change = change * (torch.rand(change.shape, generator=generator) < 2 * min(sigma, 1.0) / 3)
    data = (images + change).flatten(0, 1).to(torch.uint8)
    model = tp.load("empirical", data=data, schedule="edm")
    points = data.double() / 127.5 - 1
    x_t = (points[::32] + points[5::32]) / 2
    x_t = (x_t + sigma * torch.randn(x_t.shape, generator=generator, dtype=torch.float64)).float()
    t = model.schedule.t(sigma=torch.full((len(x_t),), sigma)).float()
    level = model.schedule.sigma(t.double())
    mean = torch.stack([  # the definition, query by query, as (N, d) differences
        (-(x.double() - points).square().flatten(1).sum(1) / (2 * s**2)).softmax(0) @ points.flatten(1)
        for x, s in zip(x_t, level, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(model(x_t, t).flatten(1).double(), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(x_t.double(), t.double()).flatten(1), mean, rtol=0, atol=1e-9)


def test_products_in_float32_leave_few_points_at_small_noise():
    generator = torch.Generator().manual_seed(0)
    model = Empirical(torch.rand(500, 3, 16, 16, generator=generator) * 2 - 1, schedule="edm")
    points = model.points.take(torch.arange(500))
    for sigma, fewest, most in ((0.1, 8, 8), (2.0, 8, 100), (80.0, 500, 500)):
        x_t = (points[:8] + sigma * torch.randn(8, 3, 16, 16, generator=generator)).double().flatten(1)
        one = torch.ones(8, 1, dtype=torch.float64)
        prior = model._log_prior(None)
        kept = list(scores(model.points, x_t, one, sigma * one, prior, size=500, screened=True))
        assert fewest <= sum(len(part.index) for part in kept) <= most
        torch.set_float32_matmul_precision("high")
        try:
            t = model.schedule.t(sigma=torch.full((8,), sigma))
            careful = model(x_t.reshape(8, 3, 16, 16).float(), t)
        finally:
            torch.set_float32_matmul_precision("highest")
        quick = model(x_t.reshape(8, 3, 16, 16).float(), t)
        torch.testing.assert_close(quick, careful, rtol=0, atol=1e-5)


def test_a_running_softmax_bears_chunks_without_weight():
    logits = torch.tensor([[-math.inf, -math.inf, 3.0, -800.0], [1.0, 900.0, -math.inf, -math.inf]]).double()
    values = torch.eye(4).double()
    running = RunningSoftmax()
    for n in range(4):
        running.add(running.weigh(logits[:, n : n + 1]) @ values[n : n + 1])
    torch.testing.assert_close(running.mean(), logits.softmax(1))
    torch.testing.assert_close(running.log_total(), logits.logsumexp(1))


@given(worlds(labelled=True))
@settings(max_examples=25, deadline=None)
def test_jacobian_is_the_derivative(world):
    """Automatic differentiation of the streamed sums, and central differences with an error of h^2 and 1e-14 / h."""
    model, points, _, x_t, t, alpha, sigma = world
    label = model.labels[torch.arange(4) % len(points)]
    label[0] = -1
    scale = float((alpha / sigma**2).max()) * float(
        (points - points.mean(0)).square().flatten(1).sum(1).max()
    )
    closed = model.jacobian(x_t, t, label)
    close = {"rtol": 0, "atol": 1e-6 * max(scale, 1.0)}
    torch.testing.assert_close(ExactDenoiser.jacobian(model, x_t, t, label), closed, **close)
    h = 1e-3 * float(sigma.min()) / (1 + scale)
    flat = x_t.flatten(1)
    columns = []
    for k in range(flat.shape[1]):
        ahead, behind = flat.clone(), flat.clone()
        ahead[:, k] += h
        behind[:, k] -= h
        difference = model(ahead.reshape(x_t.shape), t, label) - model(behind.reshape(x_t.shape), t, label)
        columns.append(difference.flatten(1) / (2 * h))
    torch.testing.assert_close(torch.stack(columns, 2), closed, rtol=0, atol=1e-5 * max(scale, 1.0))
    score = torch.autograd.functional.jacobian(lambda x: model.log_density(x, t, label).sum(), x_t)
    torch.testing.assert_close(
        model.score(x_t, t, label), score, rtol=1e-6, atol=1e-6 * float(score.abs().max())
    )


@given(worlds(labelled=True))
@settings(max_examples=40, deadline=None)
def test_a_label_is_the_points_that_carry_it(world):
    model, points, weights, x_t, t, alpha, sigma = world
    known = model.labels.unique()
    label = known[torch.arange(4) % len(known)].clone()
    label[3] = -1
    p, _, _, _ = written_out(points, x_t, alpha, sigma, weights)
    mean, density, variance = (
        model(x_t, t, label),
        model.log_density(x_t, t, label),
        model.variance(x_t, t, label),
    )
    best, index = model.weights(x_t, t, label=label)
    quick = model(x_t.float(), t.float(), label)
    assert model.n_classes == int(known.max()) + 1
    torch.testing.assert_close(float(model.prior().sum()), 1.0)
    for c in range(model.n_classes):
        torch.testing.assert_close(
            model.posterior(x_t, t)[:, c], p[:, model.labels == c].sum(1), rtol=0, atol=1e-8
        )
    for i, c in enumerate(label.tolist()):
        mine = torch.ones(len(points), dtype=torch.bool) if c < 0 else model.labels == c
        alone = Empirical(points[mine], None, None if weights is None else weights[mine], model.schedule)
        here = x_t[i : i + 1], t[i : i + 1]
        size = float(points.abs().max())
        torch.testing.assert_close(mean[i], alone(*here)[0], rtol=0, atol=1e-8 * size)
        digits = 1e-7 + 20 * lost(points, alpha, sigma)
        torch.testing.assert_close(density[i], alone.log_density(*here)[0], rtol=1e-9, atol=digits)
        torch.testing.assert_close(variance[i], alone.variance(*here)[0], rtol=0, atol=1e-7 * size**2)
        torch.testing.assert_close(best[i], alone.weights(*here)[0][0], rtol=0, atol=1e-8)
        assert bool(mine[index[i, 0]])
        lone = alone(here[0].float(), here[1].float())[0]
        torch.testing.assert_close(quick[i], lone, rtol=0, atol=3e-5 * size)


def test_the_chunk_changes_nothing_but_rounding():
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, 256, (100, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(100) // 34  # sorted: whole chunks without a query's label
    t = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.9])
    label = torch.tensor([2, 0, -1, 1, 2])
    x_t = torch.randn(5, 1, 6, 6, generator=generator)
    whole = Empirical(data, labels)
    for chunk in (1, 7, 34, 100, 10_000):
        parts = Empirical(data, labels, chunk=chunk)
        torch.testing.assert_close(parts(x_t, t, label), whole(x_t, t, label), rtol=0, atol=5e-6)
        x, time = x_t.double(), t.double()
        torch.testing.assert_close(parts(x, time, label), whole(x, time, label), rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.log_posterior(x, time), whole.log_posterior(x, time))
        torch.testing.assert_close(parts.jacobian(x, time, label), whole.jacobian(x, time, label))
        assert torch.equal(parts.weights(x, time, top=5)[1], whole.weights(x, time, top=5)[1])
        assert fingerprint(parts) == fingerprint(whole)


def test_the_ends_of_the_clock():
    """At t = 0 the nearest point; a query that is no number is answered by none, and only it."""
    model = tp.load("empirical", data=torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))
    x = torch.tensor([[0.2, 0.1], [0.9, 3.0], [math.nan, 0.0]])
    for kind in (torch.float32, torch.float64):
        answer = model(x.to(kind), torch.zeros(3, dtype=kind))
        torch.testing.assert_close(answer[:2], torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=kind))
        assert bool(answer[2].isnan().all())
    mean = model(x[:2], torch.ones(2))
    torch.testing.assert_close(mean, torch.tensor([[2 / 3, 0.0]] * 2), atol=0.02, rtol=0)


# ---- what others found


def test_golden_denoiser():
    """An independent program's posterior means: 5 noise levels, two of the 96 images alike; its tolerance is 1e-5."""
    golden = np.load(GOLDEN)
    model = tp.load("empirical", data=golden["images_u8"], schedule="edm")
    for sigma, queries, expected in zip(golden["sigmas"], golden["queries"], golden["D"], strict=True):
        t = model.schedule.t(sigma=torch.full((len(queries),), float(sigma), dtype=torch.float64))
        x_t = torch.from_numpy(queries)
        np.testing.assert_allclose(model(x_t, t).numpy(), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(model(x_t.float(), t.float()).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "ends"), [(8, [74, 9, 9, 28, 53, 93]), (18, [74, 9, 9, 28, 8, 93])])
def test_golden_samplers_end_on_training_images(steps, ends):
    """The ends are the images nearest to the golden arrays; the golden README lists those of 8 steps."""
    golden = np.load(GOLDEN)
    model = tp.load("empirical", data=golden["images_u8"], schedule="edm")
    run = tp.generate(model, noise=golden["latents"], sampler="euler", steps=steps, progress=None)
    np.testing.assert_allclose(run.images.values, golden[f"sampler{steps}"], rtol=0, atol=1e-5)
    there = (golden["images_u8"][ends] / 127.5 - 1).reshape(len(ends), -1)
    assert np.linalg.norm(run.images.values.reshape(len(ends), -1) - there, axis=1).max() < 1e-5


def test_the_ode_lands_on_a_training_point():
    """facts, section 5: to machine precision, here in float64, whatever the sampler's order."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    model = Empirical(points, schedule="edm")
    for name in ("euler", "heun"):
        sampler = tp.sampler(name)
        x = 80 * torch.randn(20, 8, generator=generator, dtype=torch.float64)
        times = torch.from_numpy(tp.Grid(40, "rho").times(model.schedule))
        for t, s in itertools.pairwise(times):
            x = sampler.step(model, x, t.expand(20), s.expand(20), model.schedule)
        apart = torch.cdist(x, points, compute_mode="donot_use_mm_for_euclid_dist")
        assert float(apart.amin(1).max()) < 1e-13
        assert len(set(apart.argmin(1).tolist())) > 5


@pytest.mark.parametrize(
    ("dim", "published"), [(64, [0.997, 0.554, 0.064, 0.004]), (16, [0.953, 0.560, 0.256, 0.091])]
)
def test_own_weight_around_the_collapse_time(dim, published):
    """facts, section 7: how likely a noised training point still is the one, at t / t_C = 0.5, 1, 1.5, 2.

    20,000 points of N(0, I), 300 queries; 4 standard errors, and half a unit of the last published digit.
    """
    n, queries = 20_000, 300
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    model = Empirical(points)
    collapse = math.log1p(1 / (n ** (2 / dim) - 1)) / 2
    for ratio, expected in zip((0.5, 1.0, 1.5, 2.0), published, strict=True):
        t = model.schedule.t(alpha=math.exp(-ratio * collapse)).expand(queries)
        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        own = torch.randperm(n, generator=generator)[:queries]
        noise = torch.randn(queries, dim, generator=generator, dtype=torch.float64)
        x_t = alpha[:, None] * points[own] + sigma[:, None] * noise
        likelihood = -noise.square().sum(1) / 2 - dim * (sigma.log() + math.log(2 * math.pi) / 2)
        weight = (likelihood - math.log(n) - model.log_density(x_t, t)).exp()
        error = float(weight.std()) / queries**0.5
        assert abs(float(weight.mean()) - expected) < 4 * error + 5e-4
        p, _, _, _ = written_out(points, x_t[:1], alpha[:1], sigma[:1])
        torch.testing.assert_close(weight[0], p[0, own[0]], rtol=1e-9, atol=0)


# ---- as a model among models


@pytest.fixture
def labelled(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(30) % 3)
    return tmp_path / "data.npz", images


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun"])
def test_every_sampler_ends_on_the_data_of_the_class(labelled, name):
    path, images = labelled
    model = tp.load(f"empirical:{path}?schedule=edm")
    labels = [0, 1, 2, 2, 1]
    run = tp.generate(model, 5, sampler=name, steps=20, label=labels, batch=3, progress=None)
    points = images.reshape(30, -1) / 127.5 - 1
    apart = np.linalg.norm(run.images.values.reshape(5, 1, -1) - points, axis=2)
    assert (apart.argmin(1) % 3).tolist() == labels
    assert apart.min(1).max() < 1e-5


def test_u_turns_of_a_data_set(labelled):
    path, images = labelled
    run = tp.uturn(f"empirical:{path}", items=12, times=[0.1, 0.5, 0.95], steps=10, progress=None)
    np.testing.assert_allclose(run.start.values, images[:12] / 127.5 - 1, atol=1e-6)
    kept = run.measure("class").curve("class").kept[0]
    assert kept[np.argmin(run.times)] == 1  # the class of the nearest point
    assert kept[np.argmax(run.times)] < 1
    guided = tp.generate(f"empirical:{path}", 2, label=[0, 1], guidance=2.0, steps=3, progress=None)
    assert np.isfinite(guided.images.values).all()


def test_kept_classes_are_theory():
    """P(the U-turn keeps its class) = E sum_c p(c | x_t)^2; ancestral sampling, 4 standard errors."""
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    model = Empirical(points, (points[:, 0] > 0).long())
    items, t = 400, 0.5
    x_0, label = model.sample(items, seed=1)
    noise = torch.randn(items, 2, generator=generator, dtype=torch.float64)
    time = torch.full((items,), t, dtype=torch.float64)
    x_t = model.schedule.alpha(time)[:, None] * x_0 + model.schedule.sigma(time)[:, None] * noise
    expected = model.posterior(x_t, time).square().sum(1)
    run = tp.uturn(model, x_0, times=[t], steps=100, sampler="ddpm", batch=400, progress=None)
    ends = torch.from_numpy(run.images.values).reshape(items, 2).double()
    end_label = model.labels[torch.cdist(ends, points).argmin(1)]
    kept = (end_label == label).double()
    error = math.sqrt(float(kept.var() + expected.var()) / items)
    assert abs(float(kept.mean() - expected.mean())) < 4 * error


def test_files_arrays_and_maps_are_one_data_set(labelled, tmp_path):
    path, images = labelled
    np.save(tmp_path / "data.npy", images)
    (tmp_path / "folder").mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "folder" / f"{k:02}.png")
    frozen = images.copy()
    frozen.flags.writeable = False
    ways = [
        images,
        frozen,
        torch.from_numpy(images),
        images[:, 0],
        np.load(tmp_path / "data.npy", mmap_mode="r"),
    ]
    models = [tp.load("empirical", data=way) for way in ways]
    models += [tp.load(f"empirical:{tmp_path / name}") for name in ("data.npy", "folder")]
    floats = tp.load("empirical", data=images.astype(np.float32) / np.float32(127.5) - 1)
    x_t, t = (
        torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.05, 0.2, 0.5, 0.9]),
    )
    for model in models:
        assert model.shape == (1, 4, 4)
        assert model.state_dict() == {}
        assert torch.equal(model(x_t, t), models[0](x_t, t))
        assert fingerprint(model) == fingerprint(models[0])
        torch.testing.assert_close(model(x_t, t), floats(x_t, t), rtol=0, atol=1e-5)
        torch.testing.assert_close(model.starting_images()[0], floats.starting_images()[0], rtol=0, atol=1e-6)
        assert model.starting_images()[1] is None
    assert fingerprint(floats) != fingerprint(models[0])
    assert tp.load(f"empirical:{path}").n_classes == 3
    assert tp.load(f"empirical:{path}", labels=np.arange(30) % 2).n_classes == 2


def test_samples_follow_the_weights():
    """Chi-square of 20,000 draws on 4 degrees of freedom, at a thousandth."""
    weights = np.array([0.1, 0.2, 0.05, 0.4, 0.25])
    model = tp.load("empirical", data=np.arange(5.0), labels=[1, 0, 1, 2, 2], weights=7 * weights)
    x_0, label = model.sample(20_000, seed=3)
    assert x_0.dtype == torch.float32
    index = x_0[:, 0].long()
    assert torch.equal(label, torch.tensor([1, 0, 1, 2, 2])[index])
    counts = np.bincount(index.numpy(), minlength=5)
    assert ((counts - 20_000 * weights) ** 2 / (20_000 * weights)).sum() < 18.47
    torch.testing.assert_close(model.prior(), torch.tensor([0.2, 0.15, 0.65], dtype=torch.float64))
    assert torch.equal(model.sample(50, seed=3)[0], model.sample(50, seed=3)[0])


@pytest.mark.parametrize(("n", "dim"), [(50, 3), (5, 8)])
def test_moments_of_the_data(n, dim):
    rng = np.random.default_rng(n)
    data, weights, labels = rng.normal(5, 1, (n, dim)), rng.uniform(0.5, 2, n), np.arange(n) % 2
    model = tp.load("empirical", data=data, weights=weights, labels=labels)
    expected = np.linalg.eigvalsh(np.cov(data.T, aweights=weights, ddof=0))
    np.testing.assert_allclose(model.eigenvalues().numpy(), expected, atol=1e-12)
    means = np.stack([np.average(data[labels == c], axis=0, weights=weights[labels == c]) for c in (0, 1)])
    np.testing.assert_allclose(model.class_means().numpy(), means, rtol=1e-12)
    equal = tp.load("empirical", data=data)
    assert equal.n_points == n
    assert not hasattr(equal, "class_means")
    assert not hasattr(model, "n_points")


def test_the_fingerprint_sees_data_labels_weights_and_clock(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, (3000, 5), dtype=np.uint8)
    other = data.copy()
    other[7, 3] ^= 1
    labels, weights = np.arange(3000) % 2, np.arange(3000) + 1.0
    settings = [{}, {"labels": labels}, {"labels": 1 - labels}, {"weights": weights}, {"schedule": "edm"}]
    known = [fingerprint(tp.load("empirical", data=d, **s)) for d in (data, other) for s in settings]
    known.append(fingerprint(tp.load("empirical", data=data.reshape(3000, 5, 1))))
    assert len(set(known)) == len(known)
    monkeypatch.setattr("turningpoint.diffusion.points.WHOLLY_HASHED", 100)
    large = [fingerprint(tp.load("empirical", data=d)) for d in (data, data.copy(), data[:-1])]
    assert large[0] == large[1] != large[2]
    other[-1] ^= 1  # the last point is among those that are looked at
    assert fingerprint(tp.load("empirical", data=other)) != large[0]


def test_latents_keep_their_range(tmp_path):
    data = 50 * torch.randn(20, 4, 2, 2, generator=torch.Generator().manual_seed(0)) + 1000
    for kind in (torch.float16, torch.float32, torch.float64):
        model = tp.load("empirical", data=data.to(kind), schedule="edm")
        x, _ = model.sample(3, seed=0)
        t = model.schedule.t(sigma=torch.full((3,), 0.01))
        torch.testing.assert_close(model(x, t), x, rtol=0, atol=1e-3)
        assert float(x.min()) > 500


# ---- a user's mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "data is not given"),
        ({"data": np.zeros((0, 3))}, "data has shape"),
        ({"data": np.float64(3)}, "data has shape"),
        ({"data": [[1.0], [1.0, 2.0]]}, "ragged"),
        ({"data": [["a"], ["b"]]}, "data is of type"),
        ({"data": torch.zeros(3, 2, dtype=torch.int64)}, "data is of type torch.int64"),
        ({"data": [[0.0], [np.nan]]}, "data holds numbers that are not finite"),
        ({"data": np.zeros((3, 2)), "labels": [0, 1]}, "labels have shape"),
        ({"data": np.zeros((3, 2)), "labels": [0, 1, -1]}, "least value of -1"),
        ({"data": np.zeros((3, 2)), "labels": [0.5, 1, 2]}, "labels are of type float64"),
        ({"data": np.zeros((3, 2)), "weights": [1, 2]}, "weights have shape"),
        ({"data": np.zeros((3, 2)), "weights": [1, 2, -1]}, "weights"),
        ({"data": np.zeros((3, 2)), "weights": ["a", 2, 1]}, "weights"),
        ({"data": np.zeros((3, 2)), "chunk": 0}, "chunk is 0"),
        ({"data": np.zeros((3, 2)), "schedule": "fast"}, "schedule is 'fast'"),
        ({"data": "nowhere"}, "data is 'nowhere'"),
    ],
)
def test_bad_data_is_one_sentence(refuses, arguments, named):
    with refuses(named):
        tp.load("empirical", **arguments)


def test_bad_files_are_one_sentence(refuses, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "mixed" / "a.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "mixed" / "b.png")
    (tmp_path / "mixed" / "c.png").write_text("no")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "whole.npy", np.zeros((3, 2), np.int64))
    np.savez(tmp_path / "other.npz", pictures=np.zeros((3, 2)))
    for where, named in [
        ("empty", "holds no picture"),
        ("mixed", "b.png' has 3 channels of 5x4"),
        ("cut.npy", "cannot be read as arrays"),
        ("whole.npy", "data is of type int64"),
        ("other.npz", "which holds pictures"),
        ("absent.npy", "which is not there"),
    ]:
        with refuses(named):
            tp.load(f"empirical:{tmp_path / where}")
    with pytest.warns(UserWarning, match="left out"):
        model = tp.load(f"empirical:{tmp_path / 'mixed'}?skip_bad=True")
    assert (model.points.count, model.shape) == (1, (3, 4, 5))
    (tmp_path / "mixed" / "a.png").unlink()
    (tmp_path / "mixed" / "b.png").unlink()
    with refuses("no picture that can be used"), pytest.warns(UserWarning, match="left out"):
        tp.load(f"empirical:{tmp_path / 'mixed'}?skip_bad=True")


def test_bad_questions_are_one_sentence(refuses):
    free = tp.load("empirical", data=np.zeros((3, 2)))
    model = tp.load("empirical", data=np.zeros((3, 2)), labels=[0, 2, 2])
    x_t, t = torch.zeros(2, 2), torch.full((2,), 0.5)
    assert torch.equal(free(x_t, t, torch.tensor([-1, -1])), free(x_t, t))
    with refuses("takes no labels"):
        free(x_t, t, torch.tensor([-1, 0]))
    for label, named in ((3, "label is 3"), (-2, "label is -2"), (1, "label is 1, which no point has")):
        with refuses(named):
            model(x_t, t, torch.tensor([0, label]))
    with refuses("which no point has"):
        tp.generate(model, 1, label=1, steps=2, progress=None)
    with refuses("top is 4"):
        model.weights(x_t, t, top=4)
    assert model.posterior(x_t, t)[0].tolist() == pytest.approx([1 / 3, 0, 2 / 3])
