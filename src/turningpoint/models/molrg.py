r"""``molrg``: a mixture of low-rank Gaussians, the world in which the rank of a denoiser's Jacobian is known.

Every class k is a subspace with orthonormal basis :math:`U_k` of shape (n, dim), and :math:`x_0 = U_k a`
with :math:`a \sim N(0, 1)`.  With :math:`P_k = U_k U_k^\top` and :math:`x_\sigma = x_0 + \sigma \varepsilon`,

.. math::

    D(x, \sigma) &= \frac{1}{1 + \sigma^2} \sum_k w_k P_k x, \qquad
    w_k \propto \pi_k \exp\Big( \frac{|U_k^\top x|^2}{2 \sigma^2 (1 + \sigma^2)} \Big), \\
    \frac{\partial D}{\partial x} &= \frac{1}{1 + \sigma^2} \Big[ \sum_k w_k P_k
      + \frac{\sum_k w_k g_k g_k^\top - \bar g \bar g^\top}{\sigma^2 (1 + \sigma^2)} \Big],
      \qquad g_k = P_k x, \; \bar g = \textstyle\sum_k w_k g_k :

of rank ``dim`` at small noise and of all classes together at large noise (Wang et al. 2024,
arXiv:2409.02426, lemma 1).  These are the formulas of `gaussians` at means 0 and covariances :math:`P_k`, by which they
are computed.  The published ones are in sigma with alpha = 1, so the default clock is EDM's.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.covariance import Covariances
from ..diffusion.schedule import Schedule
from ..errors import TurningpointError
from . import MODELS
from .gaussians import Gaussians
from .settings import array, exclusive, whole


class MoLRG(Gaussians):
    """K classes of Gaussian data, each on a subspace of its own.

    Parameters
    ----------
    bases : Tensor (K, n, dim)
        Orthonormal columns per class.
    shape : sequence of int, optional
        Of an item, with n entries; (n,) by default.
    weights : Tensor (K,), optional
        Equal by default.
    schedule : Schedule or str
        The clock, or its name.
    samples : pair of Tensors, optional
        Images (N, *shape) and labels (N,) that stand for the data as starting images.
    """

    def __init__(
        self,
        bases: Tensor,
        shape: Sequence[int] | None = None,
        weights: Tensor | None = None,
        schedule: Schedule | str = "edm",
        samples: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        count, n, dim = bases.shape
        variances = torch.ones(count, dim, dtype=torch.float64)
        means = torch.zeros(count, *([n] if shape is None else shape), dtype=torch.float64)
        covariances = Covariances.low_rank(bases, variances, variances.new_zeros(count))
        super().__init__(means, covariances, weights, schedule)
        self._samples = samples

    def bases(self) -> Tensor:
        """The classes' orthonormal bases, (K, n, dim) float64."""
        axes = torch.eye(self.covariances.rank).to(self.means)
        return self.covariances.basis.back(axes[:, None].expand(-1, len(self.means), -1)).movedim(0, 2)

    def starting_images(self) -> tuple[Tensor, Tensor | None] | None:
        return super().starting_images() if self._samples is None else self._samples


def random_bases(n: int, classes: int, dim: int, seed: int = 0) -> Tensor:
    """Columns of one random orthogonal matrix, dealt out to the classes: (classes, n, dim) float64.

    The matrix is uniform (Haar): Q of the QR decomposition of Gaussian numbers, with the signs that make
    the diagonal of R positive (Mezzadri 2007).  Rounded to float32, as published bases are, so that
    machines agree on them.

    Raises
    ------
    TurningpointError
        If the classes have more than n columns together.
    """
    if classes * dim > n:
        raise TurningpointError(
            f"classes is {classes} and dim is {dim} in n = {n}; accepted: classes times dim at most n."
        )
    z = np.random.default_rng(seed).standard_normal((n, classes * dim))
    q, r = np.linalg.qr(z)
    columns = torch.from_numpy((q * np.sign(np.diag(r))).astype(np.float32)).double()
    return columns.reshape(n, classes, dim).movedim(1, 0)


@MODELS.add("molrg")
def load(
    where: str | Path | None = None,
    *,
    n: int | None = None,
    classes: int | None = None,
    dim: int | None = None,
    seed: int | None = None,
    bases: Any = None,
    shape: Sequence[int] | None = None,
    weights: Any = None,
    schedule: Schedule | str = "edm",
) -> MoLRG:
    """A mixture of low-rank Gaussians: random, from bases, or from a published data set.

    Parameters
    ----------
    where : path, optional
        A data set file of Wang et al. (``molrg:FILE``): its bases, and its samples as starting images.
        There a column is a flattened image (height, width, 3); here items are (3, height, width).
    n, classes, dim : int
        Entries of an item (48 by default), classes (2) and dimensions of each (6), on random subspaces at
        right angles to each other.
    seed : int
        Of the random subspaces; 0 by default.
    bases : array (K, n, dim), optional
        In place of random ones: orthonormal columns per class.
    shape : sequence of int, optional
        Of an item, with n entries in all: (3, 4, 4) for n = 48; by default (n,).
    weights : sequence of K floats, optional
        Equal by default.
    schedule : Schedule or str
        The clock, or its name; EDM's by default, where sigma is the noise of the published formulas.

    Raises
    ------
    TurningpointError
        If settings exclude each other, a shape does not fit, or the file cannot be read.

    Examples
    --------
    >>> load(n=48, classes=2, dim=6, shape=(3, 4, 4)).shape
    (3, 4, 4)
    """
    for argument, value in (("a file", where), ("bases", bases)):
        exclusive(argument, value, n=n, classes=classes, dim=dim, seed=seed)
    exclusive("a file", where, bases=bases, shape=shape)
    shares = None if weights is None else array("weights", weights, "(K,)", axes=(1,))
    if where is not None:
        columns, images, labels = read_dataset(Path(where))
        return MoLRG(columns, images.shape[1:], shares, schedule, (images, labels))
    if bases is not None:
        columns = array("bases", bases, "(K, n, dim)", axes=(3,))
    else:
        columns = random_bases(
            whole("n", 48 if n is None else n),
            whole("classes", 2 if classes is None else classes),
            whole("dim", 6 if dim is None else dim),
            whole("seed", 0 if seed is None else seed, least=0),
        )
    entries = columns.shape[1]
    if shape is not None:
        shape = tuple(whole("shape", size) for size in np.atleast_1d(np.asarray(shape)).tolist())
        if torch.Size(shape).numel() != entries:
            raise TurningpointError(f"shape is {shape}; accepted: {entries} entries, as n is.")
    return MoLRG(columns, shape, shares, schedule)


def read_dataset(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Bases, images and labels of a data set file of Wang et al.

    Parameters
    ----------
    path : Path
        A dictionary of tensors saved by torch, read without executing anything in it: ``basis`` (K, H W 3,
        dim), ``data`` (N, H, W, 3), ``conds`` (N,).

    Returns
    -------
    bases : Tensor (K, 3 H W, dim) float64
    images : Tensor (N, 3, H, W) float32
    labels : Tensor (N,) int64

    Raises
    ------
    TurningpointError
        If it is not there, or is no such file.
    """
    if not path.is_file():
        raise TurningpointError(f"the file {str(path)!r} is not there; accepted: molrg:FILE, a data set.")
    refusal = TurningpointError(
        f"the file {str(path)!r} is no data set of low-rank Gaussians; accepted: a dictionary with basis, "
        "data and conds, saved by torch."
    )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        basis, data, labels = saved["basis"].double(), saved["data"].float(), saved["conds"].long()
        height, width, channels = data.shape[1:]
        columns = basis.reshape(len(basis), height, width, channels, -1).permute(0, 3, 1, 2, 4)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        EOFError,
        OSError,
    ):
        raise refusal from None
    return columns.flatten(1, 3), data.permute(0, 3, 1, 2).contiguous(), labels
