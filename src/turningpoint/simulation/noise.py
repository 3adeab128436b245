r"""Noise belongs to the walk, not to the batch.

Every draw has an address: the run's seed, the walk's own coordinates (item, replicate, time) and the
number of the draw within the walk, 0 for its start and k for its k-th step.  A counter-based
generator (Philox 4x64, Salmon et al. 2011) turns the address into numbers: the key is a hash of the
coordinates, the counter is the draw.  Nothing is consumed in sequence, so the noise of a walk does
not depend on batch size, order, sharding, resumption or the number of workers.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import TurningpointError


@dataclass(frozen=True)
class Address:
    """The coordinates of a walk, which are the key of its noise.

    Parameters
    ----------
    item, replicate : int
        The starting point, and the number of the repetition.
    time : float
        The time t at which the walk leaves, in (0, 1].
    stream : int
        0, but for walks from pure noise 1: a U-turn at t = 1 must not repeat the noise of the generation
        that made its starting image.
    """

    item: int
    replicate: int = 0
    time: float = 1.0
    stream: int = 0


class Noise(Protocol):
    """Anything that answers a draw by its address."""

    def draw(self, address: Address, index: int, shape: Sequence[int]) -> np.ndarray:
        """Standard normal float32 numbers of ``shape`` for the ``index``-th draw of a walk."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Independent noise for every walk of a run.

    Examples
    --------
    >>> noise = SeededNoise(0)
    >>> a = noise.draw(Address(3, 1, 0.5), 7, (2, 2))
    >>> bool((a == noise.draw(Address(3, 1, 0.5), 7, (2, 2))).all())
    True
    >>> bool((a == noise.draw(Address(3, 1, 0.4), 7, (2, 2))).any())
    False
    """

    seed: int

    def draw(self, address: Address, index: int, shape: Sequence[int]) -> np.ndarray:
        """See `Noise.draw`."""
        # the time is rounded so that 0.3 and 0.1 + 0.2 are one coordinate
        coordinates = struct.pack(
            "<qqqd", self.seed, address.item, address.replicate, round(address.time, 12)
        )
        if address.stream:
            coordinates += struct.pack("<q", address.stream)
        key = hashlib.blake2b(coordinates, digest_size=16).digest()
        return _generators.at(key, index).standard_normal(tuple(shape), dtype=np.float32)


class _Generators(threading.local):
    """One Philox generator per thread, moved to where it is needed: a new one would cost as much as the draw."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._philox)
        self._fresh: Any = self._philox.state

    def at(self, key: bytes, index: int) -> np.random.Generator:
        """The generator with the key's 16 bytes, and the counter at the draw's number."""
        self._fresh["state"]["key"] = np.frombuffer(key, dtype="<u8")
        self._fresh["state"]["counter"] = np.array([0, index, 0, 0], dtype=np.uint64)
        self._philox.state = self._fresh
        return self._generator


_generators = _Generators()


@dataclass(frozen=True)
class RecordedNoise:
    """Draws handed in from outside; what was not recorded comes from ``otherwise``.

    Use it to repeat another program's run, or to give two models the same noise.

    Parameters
    ----------
    draws : mapping from Address to arrays (n_draws, *shape)
        The first row is the start's draw, the following ones the steps'.  Draws under an address of stream 0
        answer for that address in the other streams too, unless these have their own.
    otherwise : Noise, optional
        Answers for other walks and later draws.

    Raises
    ------
    TurningpointError
        In `draw`, if a draw was not recorded and there is no ``otherwise``, or its shape differs.

    Examples
    --------
    >>> noise = RecordedNoise({Address(0): np.zeros((1, 3))}, otherwise=SeededNoise(0))
    >>> noise.draw(Address(0), 0, (3,))
    array([0., 0., 0.], dtype=float32)
    """

    draws: Mapping[Address, np.ndarray]
    otherwise: Noise | None = None

    def __post_init__(self) -> None:
        rounded = {replace(a, time=round(a.time, 12)): rows for a, rows in self.draws.items()}
        object.__setattr__(self, "draws", rounded)

    def draw(self, address: Address, index: int, shape: Sequence[int]) -> np.ndarray:
        """See `Noise.draw`."""
        exact = replace(address, time=round(address.time, 12))
        recorded = self.draws.get(exact, self.draws.get(replace(exact, stream=0)))
        if recorded is not None and index < len(recorded):
            z = np.asarray(recorded[index], dtype=np.float32)
            if z.shape != tuple(shape):
                raise TurningpointError(f"noise has shape {z.shape} for {address}; accepted: {tuple(shape)}.")
            return z
        if self.otherwise is None:
            raise TurningpointError(f"noise holds no draw {index} for {address}.")
        return self.otherwise.draw(address, index, shape)
