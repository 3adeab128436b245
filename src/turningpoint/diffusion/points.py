r"""Points of a data set that are read in chunks: whole in memory, or mapped from a file.

They stay as they came; eight-bit pixels :math:`u` stand for :math:`y = u / 127.5 - 1` in [-1, 1] and are
never scaled as a whole.  A product with a query :math:`q` needs no scaled copy either: with
:math:`\bar u` near the mean, and :math:`c = 127.5` for pixels, 1 for floats,

.. math:: q \cdot (y_n - m) = q \cdot (u_n - \bar u) / c = (q \cdot u_n - q \cdot \bar u) / c,
          \qquad m = \bar u / c - [\text{pixels}] ,

whose last form is a product with what was read and a number per query.  The one before is safe from
cancellation where all points lie far from 0 but near each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TurningpointError

ENTRIES = {"cpu": 2**22, "accelerator": 2**24}
"""Numbers in a chunk: enough for efficient products, little enough for memory."""

SCORES = 2**22
"""Queries times points in a chunk."""

WHOLLY_HASHED = 2**26
"""Bytes up to which `Points.digest` is a hash of all."""

SAMPLED = 1024
"""Evenly spaced points that stand for all: for their centre, and for the hash of a large set."""


class Points(nn.Module):
    """N points with d entries each.

    Parameters
    ----------
    raw : Tensor or memmap (N, *shape)
        Floats, or uint8 for pixels in [-1, 1]. It is kept, not copied: do not change it afterwards.

    Attributes
    ----------
    count, dim : int
        N and d.
    mean : Tensor (d,) float64
        Of evenly spaced points, as numbers to centre by.
    squares : Tensor (N,) float64
        |y_n - mean|^2.

    Raises
    ------
    TurningpointError
        If a number is not finite.

    Examples
    --------
    >>> points = Points(torch.tensor([[0, 255], [255, 255]], dtype=torch.uint8))
    >>> points.mean, points.squares
    (tensor([0., 1.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    >>> points.take(torch.tensor([1]))
    tensor([[1., 1.]], dtype=torch.float64)
    """

    mean: Tensor
    squares: Tensor
    _raw: Tensor | None
    _centre: Tensor

    def __init__(self, raw: Tensor | np.memmap) -> None:
        super().__init__()
        self._mapped = raw if isinstance(raw, np.memmap) else None
        self.register_buffer("_raw", raw if isinstance(raw, Tensor) else None, persistent=False)
        self.shape: tuple[int, ...] = tuple(raw.shape[1:])
        self.count, self.dim = len(raw), math.prod(self.shape)
        pixels = raw.dtype in (torch.uint8, np.uint8)
        self.unit, self.origin = (127.5, -1.0) if pixels else (1.0, 0.0)
        device = raw.device if isinstance(raw, Tensor) else torch.device("cpu")
        kind = torch.float32 if device.type == "mps" else torch.float64
        centre = self.read(self._spaced(), device).to(kind).mean(0)
        squares = torch.empty(self.count, dtype=kind, device=device)
        for rows in self.chunks(ENTRIES["cpu"] // self.dim):
            apart = self.read(rows, device).to(kind, copy=True).sub_(centre)
            squares[rows] = apart.square_().sum(1)
        if not bool(squares.isfinite().all()):
            raise TurningpointError(
                "data holds numbers that are not finite; accepted: finite floats, or uint8."
            )
        self.reach = float(squares.max().sqrt() + centre.norm())
        self.register_buffer("_centre", centre, persistent=False)
        self.register_buffer("mean", centre / self.unit + self.origin, persistent=False)
        self.register_buffer("squares", squares / self.unit**2, persistent=False)

    # ---- chunks

    def chunks(self, size: int) -> Iterator[slice]:
        """Consecutive rows, ``size`` at a time (at least 1), to the last."""
        size = max(1, size)
        for start in range(0, self.count, size):
            yield slice(start, min(start + size, self.count))

    def chunk_size(self, queries: int, device: torch.device) -> int:
        """How many points at a time, for a number of queries on a device."""
        entries = ENTRIES["cpu" if device.type == "cpu" else "accelerator"]
        return max(1, min(self.count, entries // self.dim, max(64, SCORES // max(1, queries))))

    def read(self, rows: slice | np.ndarray, device: torch.device) -> Tensor:
        """Points as they are kept, flat: (n, d) on ``device``."""
        if self._raw is None:
            assert self._mapped is not None
            raw = torch.from_numpy(np.array(self._mapped[rows]))
        else:
            raw = self._raw[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self._raw.device)]
        return raw.flatten(1).to(device)

    def take(self, index: Tensor) -> Tensor:
        """The points of an index (n,), as they are meant: (n, *shape), float64 where the index's device has it."""
        unique, back = np.unique(index.cpu().numpy(), return_inverse=True)
        raw = self.read(unique, index.device)[torch.from_numpy(back).to(index.device)]
        kind = torch.float32 if index.device.type == "mps" else torch.float64
        return self.scaled(raw.to(kind)).reshape(-1, *self.shape)

    # ---- arithmetic on what is read

    def scaled(self, raw: Tensor) -> Tensor:
        """What was read, or its mean, as points: pixels go to [-1, 1]."""
        return raw / self.unit + self.origin

    def centred(self, raw: Tensor) -> Tensor:
        """y - mean for what was read, (n, d), in the precision of the mean."""
        return (raw.to(self._centre) - self._centre) / self.unit

    def products(self, q: Tensor, raw: Tensor) -> Tensor:
        """q . (y_n - mean), (B, n), for queries (B, d) and what was read (n, d), in the queries' precision."""
        return (q / self.unit) @ raw.to(q.dtype, copy=True).sub_(self._centre.to(q)).T

    def shift(self, q: Tensor) -> Tensor:
        """q . mean as far as it is in a product of a query (B, d) with what was read, (B, 1)."""
        return (q @ self._centre.to(q))[:, None]

    # ---- moments of all points

    def class_means(self, weights: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The weighted mean of the points of each label, (K, d); NaN for a label that none has.

        Parameters
        ----------
        weights : Tensor (N,)
            Of the points.
        labels : Tensor (N,) int64
            From 0 to ``classes`` - 1.
        """
        sums, totals = weights.new_zeros(classes, self.dim), weights.new_zeros(classes, 1)
        for rows in self.chunks(ENTRIES["cpu"] // self.dim):
            share, label = weights[rows, None], labels[rows]
            sums.index_add_(0, label, share * self.centred(self.read(rows, weights.device)))
            totals.index_add_(0, label, share)
        return sums / totals + self.mean

    def eigenvalues(self, weights: Tensor) -> Tensor:
        """Of the covariance of the points, whose weights (N,) sum to 1: (d,), ascending.

        From the smaller of the matrices (d, d) and (N, N).
        """
        size = ENTRIES["cpu"] // self.dim
        middle = self.class_means(weights, torch.zeros_like(weights, dtype=torch.long), 1)[0] - self.mean
        if self.count < self.dim:
            y = torch.cat([self.centred(self.read(rows, weights.device)) for rows in self.chunks(size)])
            y = (y - middle) * weights.sqrt()[:, None]
            rest = weights.new_zeros(self.dim - self.count)
            return torch.cat([rest, torch.linalg.eigvalsh(y @ y.T)]).sort()[0]
        covariance = weights.new_zeros(self.dim, self.dim)
        for rows in self.chunks(size):
            y = self.centred(self.read(rows, weights.device)) - middle
            covariance += (y * weights[rows, None]).T @ y
        found: Tensor = torch.linalg.eigvalsh(covariance)
        return found

    # ---- identity

    def digest(self, *beside: Tensor | None) -> str:
        """A hash of the points and of tensors that belong to them, 16 hexadecimal digits.

        Of shape, dtype and all bytes up to 64 MiB; beyond, of shape, dtype and 1,024 evenly spaced points, the
        first and the last among them: a change that spares all of these is not seen.
        """
        dtype = self.read(slice(0, 1), torch.device("cpu")).dtype
        whole = self.count * self.dim * dtype.itemsize <= WHOLLY_HASHED
        digest = hashlib.sha256(f"{dtype} {(self.count, *self.shape)} {whole}".encode())
        for rows in self.chunks(ENTRIES["cpu"] // self.dim) if whole else [self._spaced()]:
            raw = self.read(rows, torch.device("cpu")).clone(memory_format=torch.contiguous_format)
            digest.update(raw.view(torch.uint8).numpy().tobytes())
        for tensor in beside:
            digest.update(b"|" if tensor is None else tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _spaced(self) -> np.ndarray:
        return np.unique(np.linspace(0, self.count - 1, min(SAMPLED, self.count)).round().astype(np.int64))
