"""Summaries of activations against their definitions in NumPy, float64 and item by item."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from turningpoint.simulation._summaries import (
    WIDEST,
    Activation,
    magnitude,
    mapped,
    rank,
    relative_distance,
    sparsity,
    token_grid,
)

FLOAT32 = 2e-6
"""Sums of some thousand numbers in float32, relative to their size."""


def matrix(a):
    """(positions, channels) of one item."""
    a = np.asarray(a, dtype=np.float64)
    return a.reshape(len(a), -1).T if a.ndim > 2 else np.atleast_2d(a)


def hoyer(a):
    a = a.ravel()
    root = np.sqrt(a.size)
    return (root - np.abs(a).sum() / np.linalg.norm(a)) / (root - 1)


def effective_rank(a):
    p = np.linalg.svd(a, compute_uv=False)
    p = p[p > 0] / p.sum()
    return np.exp(-(p * np.log(p)).sum())


def cell_means(grid, size):
    """The mean over the positions that each of size x size equal cells overlaps."""
    edges = [[slice(k * n // size, -(-(k + 1) * n // size)) for k in range(size)] for n in grid.shape]
    return np.array([[grid[i, j].mean() for j in edges[1]] for i in edges[0]])


SHAPES = [(6, 8, 8), (6, 5, 9), (20, 7), (3, 16), (12,), (4, 3, 5, 5), (2, 1, 1)]


def drawn(shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(5, *shape, generator=generator)
    scale = torch.tensor([1, 1e-6, 1e6, 1, 1]).reshape(-1, *[1] * len(shape))
    a = (a * scale).to(dtype)
    a[3] = a[3].clamp_min(0.5) - 0.5  # many zeros
    a[3].view(-1)[0] = 1
    return a


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_summaries_are_their_definitions(shape, dtype):
    a, b = drawn(shape, 0, torch.float32), drawn(shape, 1, torch.float32)
    if dtype == torch.float16:
        a, b = a[[0, 3, 4]], b[[0, 3, 4]]  # the others are beyond its range
    a, b = a.to(dtype), b.to(dtype)
    ours, other = Activation.of(a), Activation.of(b)
    plain = [matrix(x) for x in a.double().numpy()]
    plain_b = [matrix(x) for x in b.double().numpy()]
    expected = [np.sqrt(np.mean(x**2)) for x in plain]
    np.testing.assert_allclose(magnitude(ours), expected, rtol=FLOAT32)
    np.testing.assert_allclose(sparsity(ours), [hoyer(x) for x in plain], rtol=FLOAT32, atol=FLOAT32)
    expected = [np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(plain, plain_b, strict=True)]
    np.testing.assert_allclose(relative_distance(ours, other, other), expected, rtol=FLOAT32)
    found = rank(ours)
    assert {x.dtype for x in (found, magnitude(ours), mapped(ours, 3))} == {torch.float32}
    if len(shape) == 1:
        assert found.isnan().all()
        return
    np.testing.assert_allclose(found, [effective_rank(x) for x in plain], rtol=FLOAT32)


@pytest.mark.parametrize(("positions", "channels"), [(40, 12), (12, 40), (64, 64)])
@pytest.mark.parametrize("true_rank", [1, 2, 5, 12])
def test_the_rank_of_few_directions_is_not_lifted_by_rounding(positions, channels, true_rank):
    generator = torch.Generator().manual_seed(true_rank)
    left = torch.linalg.qr(torch.randn(3, positions, true_rank, generator=generator).double())[0]
    right = torch.linalg.qr(torch.randn(3, channels, true_rank, generator=generator).double())[0]
    a = (left @ right.mT).float()
    # every singular value is 1; float32 leaves a tail of about 1e-7 in all directions
    np.testing.assert_allclose(rank(Activation.of(a)), true_rank, rtol=1e-4)


def test_wide_layers_are_averaged_to_sixteen_by_sixteen():
    a = torch.randn(2, WIDEST + 8, 20, 34, generator=torch.Generator().manual_seed(0))
    blocks = np.stack([[cell_means(c, 16) for c in item] for item in a.double().numpy()])
    expected = [effective_rank(matrix(x)) for x in blocks]
    np.testing.assert_allclose(rank(Activation.of(a)), expected, rtol=FLOAT32)
    few = a[:, :WIDEST]  # as many channels as can be: nothing is averaged
    np.testing.assert_allclose(
        rank(Activation.of(few)), [effective_rank(matrix(x)) for x in few.numpy()], rtol=FLOAT32
    )
    tokens = torch.randn(2, WIDEST + 30, WIDEST + 1, generator=torch.Generator().manual_seed(1))
    means = torch.nn.functional.adaptive_avg_pool1d(tokens.mT, WIDEST).mT
    expected = [effective_rank(x) for x in means.double().numpy()]
    np.testing.assert_allclose(rank(Activation.of(tokens)), expected, rtol=FLOAT32)


def test_extremes():
    flat, spike = torch.full((1, 3, 4, 4), -2.0), torch.zeros(1, 3, 4, 4)
    spike[0, 1, 2, 3] = 7
    a = Activation.of(torch.cat([flat, spike]))
    np.testing.assert_allclose(sparsity(a), [0, 1], atol=FLOAT32)
    np.testing.assert_allclose(rank(a), [1, 1], rtol=FLOAT32)


def test_nothing_is_told_of_nothing_and_neighbours_do_not_suffer():
    a = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = Activation.of(a[:1].clone())
    a[1], a[2], a[3, 0, 0, 0], a[4, 0, 0, 0] = 0, torch.nan, torch.nan, torch.inf
    ours = Activation.of(a)
    assert magnitude(ours)[1] == 0
    for summary in (sparsity, rank, lambda x: relative_distance(x, x, x)):
        found = summary(ours)
        assert torch.equal(found[:1], summary(alone))
        assert found[1:].isnan().all()
    assert sparsity(Activation.of(torch.ones(1, 1))).isnan()


def test_a_map_is_the_mean_over_cells():
    a = drawn((6, 14, 9))
    for size in (1, 3, 8):
        expected = [cell_means(np.sqrt((x**2).mean(0)), size) for x in a.double().numpy()]
        np.testing.assert_allclose(mapped(Activation.of(a), size), expected, rtol=FLOAT32)


def test_a_small_layer_fills_the_map():
    a = torch.arange(4.0).reshape(1, 1, 2, 2)
    expected = torch.tensor([[0.0, 0, 1, 1]] * 2 + [[2.0, 2, 3, 3]] * 2)
    assert torch.equal(mapped(Activation.of(a), 4)[0], expected)


def test_tokens_lie_on_the_grid_of_the_item():
    a = torch.arange(6.0).reshape(1, 6, 1).expand(1, 6, 4)
    assert torch.equal(mapped(Activation.of(a, (3, 4, 6)), 6)[0, ::3, ::2], torch.arange(6.0).reshape(2, 3))
    assert mapped(Activation.of(a), 6).isnan().all()
    assert mapped(Activation.of(torch.ones(2, 5)), 2).isnan().all()
    assert token_grid(64, (4, 8, 8)) == (8, 8)
    assert token_grid(77, (4, 8, 8)) is None
    assert token_grid(9, (2,)) == (3, 3)
