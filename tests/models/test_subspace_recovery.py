r"""How much of a subspace N samples show: the optimum recovers it only from N >= d on (Wang et al. 2024).

Of N < d points of U a, the best rank-d projector \hat P holds their span and d - N directions of its own choice.
If these are random, E |\hat P - P|^2 = 2 (d - N) (1 - (d - N) / (n - N)): just below the published 2 (d - N).
"""

import numpy as np
import pytest

import turningpoint as tp

N_DIM, DIM, REPETITIONS, NOISE = 48, 7, 300, 1e-4


def errors(points):
    """|\\hat P - P| in the Frobenius norm, of as many repetitions, from noisy samples of one subspace."""
    model = tp.load("molrg", n=N_DIM, classes=1, dim=DIM, seed=3)
    x, _ = model.sample(points * REPETITIONS, seed=points)
    x = x.double().numpy().reshape(REPETITIONS, points, N_DIM)
    draw = np.random.default_rng(points)
    x = x + NOISE * draw.standard_normal(x.shape)
    truth = np.linalg.svd(model.sample(200, seed=99)[0].double().numpy(), full_matrices=False)[2][:DIM]
    found = []
    for sample in x:
        seen = np.linalg.svd(sample, full_matrices=False)[2][:DIM]
        rest = draw.standard_normal((DIM - len(seen), N_DIM))
        basis = np.linalg.qr(np.concatenate([seen, rest]).T)[0]
        found.append(np.linalg.norm(basis @ basis.T - truth.T @ truth))
    return np.array(found)


@pytest.mark.parametrize("points", range(1, DIM))
def test_too_few_samples_leave_directions_open(points):
    missing = DIM - points
    squared = errors(points) ** 2
    expected = 2 * missing * (1 - missing / (N_DIM - points))
    assert abs(squared.mean() - expected) < 4 * squared.std() / REPETITIONS**0.5
    assert squared.mean() ** 0.5 < (2 * missing) ** 0.5  # the published bound, without the chance overlap


def test_as_many_samples_as_dimensions_recover_it():
    for points in (8, 14):
        assert np.median(errors(points)) < 100 * NOISE * DIM**0.5
