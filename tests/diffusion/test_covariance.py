"""Covariances: every kind beside the dense formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from turningpoint.diffusion.covariance import Covariances, Hartley

SIDES = (3, 4)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(seed: int, count: int, dim: int, rank: int) -> torch.Tensor:
    return torch.linalg.qr(normal(seed, count, dim, rank)).Q


def isotropic(seed):
    variances = normal(seed, 2).square()
    return Covariances.isotropic(variances, 5), variances[:, None, None] * torch.eye(5)


def diagonal(seed):
    variances = normal(seed, 3, 4).square()
    variances[0, 0] = 0
    return Covariances.diagonal(variances), torch.diag_embed(variances)


def full(seed):
    factor = normal(seed, 2, 5, 4 + seed % 3)  # singular for one seed in three
    matrices = factor @ factor.mT
    return Covariances.full(matrices), matrices


def low_rank(seed):
    basis, variances = orthonormal(seed, 3, 7, 2), normal(seed + 1, 3, 2).square()
    rest = torch.tensor([0.0, 0.3, 2.0]).double()
    dense = torch.einsum("kdr,kr,ker->kde", basis, variances, basis)
    dense += rest[:, None, None] * (torch.eye(7) - torch.einsum("kdr,ker->kde", basis, basis))
    return Covariances.low_rank(basis, variances, rest), dense


def fourier(seed):
    """Sum of cosines over all pairs of pixels: no transform involved."""
    height, width = SIDES
    variances = normal(seed, 2, height, width).square()
    variances = variances + variances.flip((1, 2)).roll((1, 1), (1, 2))
    dense = torch.zeros(2 * height * width, 2 * height * width, dtype=torch.float64)
    places = [(c, y, x) for c in range(2) for y in range(height) for x in range(width)]
    for i, (c, y, x) in enumerate(places):
        for j, (other, v, u) in enumerate(places):
            for ky, kx in np.ndindex(height, width) if c == other else ():
                angle = 2 * np.pi * (ky * (y - v) / height + kx * (x - u) / width)
                dense[i, j] += variances[c, ky, kx] * np.cos(angle) / (height * width)
    return Covariances.fourier(variances[None]), dense[None]


KINDS = [isotropic, diagonal, full, low_rank, fourier]
seeds = st.integers(0, 10**6)


def close(value, wanted):
    scale = wanted.abs().max().item() + 1e-12
    torch.testing.assert_close(value, wanted.expand_as(value), rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, alpha=st.floats(0, 1), sigma=st.floats(0.05, 3))
@settings(max_examples=15, deadline=None)
def test_every_kind_is_the_dense_formula(kind, seed, alpha, sigma):
    c, dense = kind(seed)
    alphas = torch.tensor([alpha, 0.7]).double()
    sigmas = torch.tensor([sigma, 1.1]).double()
    x = normal(seed + 2, 2, len(c), c.dim)
    a, s = alphas[:, None, None, None], sigmas[:, None, None, None]
    noisy = a**2 * dense + s**2 * torch.eye(c.dim)
    inverse = torch.linalg.inv(noisy)
    column = x[..., None]
    close(c.dense(), dense)
    close(c.solve(x, alphas, sigmas), (inverse @ column)[..., 0])
    close(c.quadratic(x, alphas, sigmas), (column.mT @ inverse @ column)[..., 0, 0])
    close(c.logdet(alphas, sigmas), torch.linalg.slogdet(noisy).logabsdet)
    close(c.gain(x, alphas, sigmas), (a * dense @ inverse @ column)[..., 0])
    close(c.gain_matrix(alphas, sigmas), a * dense @ inverse)
    close(c.posterior_covariance(alphas, sigmas), dense - a**2 * dense @ inverse @ dense)
    root = c.sample(torch.eye(c.dim).double()[:, None].expand(-1, len(c), -1))  # rows are C^{1/2} e_i
    close(torch.einsum("ikd,ike->kde", root, root), dense)


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_many(kind):
    c, dense = kind(5)
    for part, wanted in zip(c, dense, strict=True):
        close(part.dense()[0], wanted)
    assert len(list(c)) == len(c) == len(dense)


def test_hartley_is_orthonormal_and_its_own_inverse():
    basis, x = Hartley((2, *SIDES)), normal(1, 6, 1, 24)
    torch.testing.assert_close(basis.back(basis.coordinates(x)), x)
    gram = basis.coordinates(torch.eye(24).double()[:, None])[:, 0]
    torch.testing.assert_close(gram @ gram.T, torch.eye(24).double())


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def test_low_rank_of_a_large_space_forms_no_matrix():
    dim, rank = 3072, 5
    basis, variances = orthonormal(2, 2, dim, rank), torch.ones(2, rank).double() * 4
    x, alpha, sigma = normal(3, 4, 2, dim), normal(0, 4) * 0 + 0.6, normal(0, 4) * 0 + 0.8
    with Largest() as seen:
        c = Covariances.low_rank(basis, variances, torch.tensor([0.0, 1.0]))
        solved, squared = c.solve(x, alpha, sigma), c.quadratic(x, alpha, sigma)
        logdet, gained, _ = c.logdet(alpha, sigma), c.gain(x, alpha, sigma), c.sample(x)
    assert seen.entries <= 2 * x.numel() < dim**2 / 100
    along = torch.einsum("bkd,kdr->bkr", x, basis)
    length = along.square().sum(-1)
    across = x.square().sum(-1) - length
    noise = 0.36 * torch.tensor([0.0, 1.0]).double() + 0.64
    torch.testing.assert_close(squared, length / (0.36 * 4 + 0.64) + across / noise)
    torch.testing.assert_close((x * solved).sum(-1), squared)
    torch.testing.assert_close(
        logdet[0], rank * np.log(0.36 * 4 + 0.64) + (dim - rank) * noise.log(), check_dtype=False
    )
    wanted = torch.einsum("bkr,kdr->bkd", along, basis) * 0.6 * 4 / (0.36 * 4 + 0.64)
    torch.testing.assert_close(gained[:, 0], wanted[:, 0])


def test_columns_of_float32_become_orthonormal():
    basis = orthonormal(4, 1, 48, 7).float()
    c = Covariances.low_rank(basis, torch.ones(1, 7), torch.zeros(1))
    projection = c.dense()[0]
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-14)
    torch.testing.assert_close(projection.float(), basis[0] @ basis[0].T, rtol=0, atol=1e-6)


def test_known_by_what_it_was_made_of():
    assert sorted(full(3)[0].state_dict()) == ["matrices", "remainder"]
    assert sorted(low_rank(3)[0].state_dict()) == ["columns", "remainder", "variances"]
    assert sorted(diagonal(3)[0].state_dict()) == ["eigenvalues", "remainder"]


def test_refusals(refuses):
    with refuses("cov of component 1 is not symmetric"):
        Covariances.full(torch.tensor([[[1.0, 0], [0, 1]], [[1, 0.1], [0, 1]]]))
    with refuses("cov of component 0 has the eigenvalue -1; accepted: 0 or more"):
        Covariances.full(torch.tensor([[[1.0, 2], [2, 1]]]))
    with refuses("cov holds -0.5; accepted: variances of 0 or more"):
        Covariances.diagonal(torch.tensor([[1.0, -0.5]]))
    with refuses("cov holds numbers that are not finite"):
        Covariances.full(torch.full((1, 2, 2), torch.nan))
    with refuses("basis is off orthonormal by 1"):
        Covariances.low_rank(2 * orthonormal(1, 1, 4, 2), torch.ones(1, 2), torch.zeros(1))
    with refuses("basis is off orthonormal"):
        Covariances.low_rank(normal(1, 1, 2, 3), torch.ones(1, 3), torch.zeros(1))
    with refuses("variances differ at k and -k"):
        Covariances.fourier(normal(1, 1, 1, 4, 4).square())
