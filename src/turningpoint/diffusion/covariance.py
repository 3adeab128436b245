r"""Covariances, and what noise makes of them.

A covariance is a change of coordinates, the variances there, and one variance for all that is left:

.. math:: C = U \, \mathrm{diag}(\lambda) \, U^\top + \rho \, (1 - U U^\top), \qquad U^\top U = 1_r ,

with U of shape (d, r).  Diagonal covariances have U = 1, full ones their eigenvectors, stationary
fields on a torus the Fourier modes (through a fast transform); all of these have r = d and nothing
left.  A low-rank covariance has r < d, and no d x d matrix is ever formed.  In all of them a
function of the matrix is the function of its variances,

.. math:: f(C) x = U \, f(\lambda) \, U^\top x + f(\rho) \, (x - U U^\top x),

and everything that a Gaussian :math:`x_0 \sim N(m, C)` asks under :math:`x_t = \alpha x_0 + \sigma
\varepsilon` is such a function, with :math:`C_t = \alpha^2 C + \sigma^2`:

==================================  =============================================================
the covariance of x_t               :math:`C_t = \alpha^2 v + \sigma^2`
minus the score, per x_t - alpha m  :math:`C_t^{-1} = 1 / (\alpha^2 v + \sigma^2)`
the posterior mean's gain           :math:`\alpha C C_t^{-1} = \alpha v / (\alpha^2 v + \sigma^2)`
the posterior's covariance          :math:`\sigma^2 C C_t^{-1} = \sigma^2 v / (\alpha^2 v + \sigma^2)`
samples                             :math:`C^{1/2} = \sqrt{v}`
==================================  =============================================================

(Bishop 2006, eq. 2.113-2.117; the gain in the eigenbasis is the Wiener filter.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import TurningpointError

ROUNDING = 1e-5
"""How far from symmetric, positive or orthonormal float32 input may be, relative to its size."""

Function = Callable[[Tensor], Tensor]
"""Elementwise, from variances (..., K, r) to numbers that broadcast with (B, K, r)."""


class Eigenbasis(nn.Module, ABC):
    """The coordinates in which K covariances are diagonal: U_k of shape (dim, rank).

    Attributes
    ----------
    dim, rank : int
        d and r.
    """

    dim: int
    rank: int

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """U^T x: (..., K, dim) to (..., K, rank)."""

    @abstractmethod
    def back(self, c: Tensor) -> Tensor:
        """U c: (..., K, rank) to (..., K, dim)."""

    def component(self, k: int) -> Eigenbasis:
        """The coordinates of covariance k alone; the same for all unless the basis says otherwise."""
        return self

    def sandwich(self, values: Tensor) -> Tensor:
        """U diag(values) U^T: (..., K, rank) to (..., K, dim, dim)."""
        columns = self.back(torch.eye(self.rank).to(values)[:, None])[:, 0].T
        return (columns * values[..., None, :]) @ columns.T


class Axes(Eigenbasis):
    """The coordinate axes themselves, U = 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.rank = dim

    def coordinates(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c

    def sandwich(self, values: Tensor) -> Tensor:
        return torch.diag_embed(values)


class Columns(Eigenbasis):
    """Orthonormal columns, (K, dim, rank); no part of a module's state (see `Covariances`)."""

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.dim, self.rank = vectors.shape[1:]
        self.register_buffer("vectors", vectors, persistent=False)

    def coordinates(self, x: Tensor) -> Tensor:
        return torch.einsum("...kd,kdr->...kr", x, self.vectors.to(x))

    def back(self, c: Tensor) -> Tensor:
        return torch.einsum("...kr,kdr->...kd", c, self.vectors.to(c))

    def component(self, k: int) -> Columns:
        return Columns(self.vectors[k : k + 1])

    def sandwich(self, values: Tensor) -> Tensor:
        vectors = self.vectors.to(values)
        return (vectors * values[..., None, :]) @ vectors.mT


class Hartley(Eigenbasis):
    r"""Real Fourier modes of images (channels, height, width) on a torus, in every channel.

    The Hartley transform :math:`\mathrm{Re} F - \mathrm{Im} F`, F the orthonormal Fourier transform, is
    real, orthonormal and its own inverse; a covariance that is diagonal in Fourier modes, with equal
    variances at k and -k, is diagonal here with the same variances (Bracewell 1983).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.dim = self.rank = torch.Size(self.shape).numel()

    def coordinates(self, x: Tensor) -> Tensor:
        modes: Tensor = torch.fft.fft2(x.reshape(*x.shape[:-1], *self.shape), norm="ortho")
        return (modes.real - modes.imag).reshape(x.shape)

    def back(self, c: Tensor) -> Tensor:
        return self.coordinates(c)


class Covariances(nn.Module):
    """K covariance matrices of one kind, each U diag(eigenvalues) U^T + remainder (1 - U U^T).

    Build them with `isotropic`, `diagonal`, `full`, `low_rank` or `fourier`.  Arguments ``x`` are
    (B, K, d), one row per covariance, and ``alpha``, ``sigma`` are (B,); everything is float64 if x is.

    Attributes
    ----------
    eigenvalues : Tensor (K, r)
        Variances along the basis.
    remainder : Tensor (K, 1)
        The variance in all other directions; of no effect where the basis is complete.
    dim, rank : int
        d and r.

    Notes
    -----
    The state of the module (what a model is known by) holds what the covariances were made of, not the
    eigenvectors found, which differ in their last digits from machine to machine.

    Examples
    --------
    >>> c = Covariances.isotropic(torch.tensor([0.25]), 3)
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> c.gain(torch.ones(1, 1, 3).double(), alpha=one, sigma=one)      # 0.25 / (0.25 + 1)
    tensor([[[0.2000, 0.2000, 0.2000]]], dtype=torch.float64)
    """

    eigenvalues: Tensor
    remainder: Tensor

    def __init__(
        self,
        basis: Eigenbasis,
        eigenvalues: Tensor,
        remainder: Tensor | None = None,
        made_of: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.basis, self.dim, self.rank = basis, basis.dim, basis.rank
        rest = eigenvalues.new_zeros(len(eigenvalues)) if remainder is None else remainder
        self.register_buffer("eigenvalues", eigenvalues, persistent=made_of is None)
        self.register_buffer("remainder", rest[:, None])
        for name, tensor in (made_of or {}).items():
            self.register_buffer(name, tensor)

    # ---- kinds

    @classmethod
    def isotropic(cls, variances: Tensor, dim: int) -> Covariances:
        """variance_k times the identity, from variances (K,)."""
        return cls.diagonal(variances[:, None].expand(-1, dim))

    @classmethod
    def diagonal(cls, variances: Tensor) -> Covariances:
        """From variances (K, d), 0 or more."""
        values = _variances("cov", variances)
        return cls(Axes(values.shape[1]), values)

    @classmethod
    def full(cls, matrices: Tensor) -> Covariances:
        """From symmetric matrices (K, d, d) without negative eigenvalues; singular ones are welcome.

        Raises
        ------
        TurningpointError
            If one is not symmetric, or has a negative eigenvalue.
        """
        given = _finite("cov", matrices)
        size = given.abs().amax((1, 2))
        skew = (given - given.mT).abs().amax((1, 2))
        if bool((skew > ROUNDING * size).any()):
            k = int((skew > ROUNDING * size).nonzero()[0])
            raise TurningpointError(f"cov of component {k} is not symmetric; accepted: symmetric matrices.")
        eigenvalues, vectors = torch.linalg.eigh((given + given.mT) / 2)
        least = eigenvalues[:, 0]
        if bool((least < -ROUNDING * size).any()):
            k = int((least < -ROUNDING * size).nonzero()[0])
            raise TurningpointError(
                f"cov of component {k} has the eigenvalue {least[k]:.3g}; accepted: 0 or more."
            )
        return cls(Columns(vectors), eigenvalues.clamp_min(0), made_of={"matrices": given})

    @classmethod
    def low_rank(cls, basis: Tensor, eigenvalues: Tensor, remainder: Tensor) -> Covariances:
        """From orthonormal columns (K, d, r), variances along them (K, r) and across them (K,).

        Columns that are orthonormal in float32 are made so in float64 (their polar factor).

        Raises
        ------
        TurningpointError
            If the columns are not orthonormal, or a variance is negative.
        """
        given = _finite("basis", basis)
        left, stretch, right = torch.linalg.svd(given, full_matrices=False)
        worst = (stretch - 1).abs().max().item() if given.shape[1] >= given.shape[2] else 1.0
        if worst > ROUNDING:
            raise TurningpointError(
                f"basis is off orthonormal by {worst:.2g}; accepted: orthonormal columns (K, d, r)."
            )
        values, rest = _variances("eigenvalues", eigenvalues), _variances("remainder", remainder)
        return cls(Columns(left @ right), values, rest, made_of={"columns": given, "variances": values})

    @classmethod
    def fourier(cls, variances: Tensor) -> Covariances:
        """Stationary fields on a torus, from the variance of every Fourier mode.

        Parameters
        ----------
        variances : Tensor (K, channels, height, width)
            In the order of `torch.fft.fft2`, equal at k and -k.

        Raises
        ------
        TurningpointError
            If a variance is negative, or k and -k differ.
        """
        values = _variances("variances", variances)
        if not torch.allclose(values, values.flip((-2, -1)).roll((1, 1), (-2, -1)), rtol=ROUNDING):
            raise TurningpointError("variances differ at k and -k; accepted: equal ones, of a real field.")
        return cls(Hartley(values.shape[1:]), values.flatten(1))

    # ---- functions of a matrix

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def __iter__(self) -> Iterator[Covariances]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Covariances:
        """Covariance k alone, as K = 1."""
        basis, rest = self.basis.component(k), self.remainder[k : k + 1, 0]
        return Covariances(basis, self.eigenvalues[k : k + 1], rest)

    def function(self, f: Function, x: Tensor) -> Tensor:
        """f(C) x, (B, K, d)."""
        c = self.basis.coordinates(x)
        along = self.basis.back(f(self.eigenvalues.to(x)) * c)
        if self.rank == self.dim:
            return along
        return along + f(self.remainder.to(x)) * (x - self.basis.back(c))

    def form(self, f: Function, x: Tensor) -> Tensor:
        """x . f(C) x, (B, K)."""
        c = self.basis.coordinates(x)
        along = (f(self.eigenvalues.to(x)) * c.square()).sum(-1)
        if self.rank == self.dim:
            return along
        across = (x - self.basis.back(c)).square().sum(-1)
        return along + f(self.remainder.to(x))[..., 0] * across

    def trace(self, f: Function) -> Tensor:
        """The trace of f(C), (B, K)."""
        along = f(self.eigenvalues).sum(-1)
        if self.rank == self.dim:
            return along
        return along + (self.dim - self.rank) * f(self.remainder)[..., 0]

    def matrix(self, f: Function) -> Tensor:
        """f(C) itself, (B, K, d, d)."""
        if self.rank == self.dim:
            return self.basis.sandwich(f(self.eigenvalues))
        rest = f(self.remainder)
        identity = torch.eye(self.dim).to(rest)
        return self.basis.sandwich(f(self.eigenvalues) - rest) + rest[..., None] * identity

    # ---- those that noise asks for

    def solve(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """C_t^{-1} x, (B, K, d)."""
        noisy = _noisy(alpha, sigma)
        return self.function(lambda v: 1 / noisy(v), x)

    def quadratic(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x . C_t^{-1} x, (B, K)."""
        noisy = _noisy(alpha, sigma)
        return self.form(lambda v: 1 / noisy(v), x)

    def logdet(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log det C_t, (B, K)."""
        noisy = _noisy(alpha, sigma)
        return self.trace(lambda v: noisy(v).log())

    def gain(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha C C_t^{-1} x, (B, K, d): from x = x_t - alpha m to E[x_0 | x_t] - m."""
        return self.function(_gain(alpha, sigma), x)

    def gain_matrix(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha C C_t^{-1} itself, (B, K, d, d), the Jacobian of the posterior mean."""
        return self.matrix(_gain(alpha, sigma))

    def posterior_covariance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Cov[x_0 | x_t] = sigma^2 C C_t^{-1}, (B, K, d, d)."""
        noisy, sigma_sq = _noisy(alpha, sigma), sigma.square()[:, None, None]
        return self.matrix(lambda v: sigma_sq * v / noisy(v))

    def sample(self, z: Tensor) -> Tensor:
        """C^{1/2} z, (B, K, d): with standard normal z, draws from N(0, C)."""
        return self.function(torch.sqrt, z)

    def dense(self) -> Tensor:
        """C itself, (K, d, d)."""
        return self.matrix(lambda v: v)


def _noisy(alpha: Tensor, sigma: Tensor) -> Function:
    """The variance of x_t where that of x_0 is v: alpha^2 v + sigma^2, (B, K, r)."""
    alpha_sq, sigma_sq = alpha.square()[:, None, None], sigma.square()[:, None, None]
    return lambda v: alpha_sq * v + sigma_sq


def _gain(alpha: Tensor, sigma: Tensor) -> Function:
    noisy, alpha = _noisy(alpha, sigma), alpha[:, None, None]
    return lambda v: alpha * v / noisy(v)


def _finite(argument: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise TurningpointError(f"{argument} holds numbers that are not finite; accepted: finite numbers.")
    return tensor.double()


def _variances(argument: str, tensor: Tensor) -> Tensor:
    least = _finite(argument, tensor).min().item() if tensor.numel() else 0.0
    if least < 0:
        raise TurningpointError(f"{argument} holds {least:.3g}; accepted: variances of 0 or more.")
    return tensor.double()
