"""The engine: continuous batching of walks; the only loop over a network.

One batch of fixed shape is kept full.  Each of its slots holds a walk at a time of its own; one call
of the network serves one evaluation for every slot; a walk that ends leaves, and the next one takes
its slot.  Unused slots are padding, so that a row does not depend on its company; a batch has two
rows at least, because libraries of linear algebra treat one row differently.

When memory runs out the batch is halved: the walks in the slots given up wait with their states and
go on later, so nothing is simulated twice.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.forward import transition
from ..diffusion.grid import SAME_TIME
from ..diffusion.sampler import Sampler, Step
from ..errors import SimulationError
from .batches import out_of_memory
from .noise import Noise
from .scratch import Scratch
from .walk import FromImage, FromNoise, FromState, FromTrunk, Record, Walk

SMALLEST_BATCH = 2


class Probe(Protocol):
    """Looks into the network while the engine calls it; see `turningpoint.simulation.probe`."""

    def watch(
        self, rows: int, fresh: Tensor, active: Tensor
    ) -> contextlib.AbstractContextManager[dict[str, Tensor]]:
        """While the network is called for a batch of ``rows``: what was seen, (rows, ...) by name, when it ends.

        ``fresh`` (rows,) says which rows begin a walk, ``active`` (rows,) which are a walk's own evaluation at a time
        of its grid, neither padding nor a later phase of a step.
        """

    def forget(self) -> None:
        """Rows no longer hold what they held."""


@dataclass
class Finished:
    """A walk that has ended.

    Attributes
    ----------
    walk : Walk
        The walk.
    values : dict of arrays
        ``"final"`` (*shape) float32, and for every record its rows stacked along its times; a time
        that the walk did not visit is NaN.
    """

    walk: Walk
    values: dict[str, np.ndarray]


@dataclass
class _Path:
    """A walk under way: its position on its grid, its phase within the step, its records so far."""

    walk: Walk
    position: int = 0
    phase: int = 0
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    watched: bool = False
    state: tuple[Tensor, Tensor] | None = None
    """The state and the memory of a path that waits without a slot."""
    begun: bool = False

    @property
    def t(self) -> float:
        return float(self.walk.times[self.position])

    @property
    def s(self) -> float:
        return float(self.walk.times[self.position + 1])


class Engine:
    """Simulates walks of one model with one sampler.

    Parameters
    ----------
    model : Denoiser
        On the device where it is to run.
    sampler : Sampler
        How steps are made.
    noise : Noise
        Where draws come from.
    batch : int
        Rows of a call, at least 2.
    device : torch.device
        Where the model is.
    probe : Probe, optional
        Looks into the network at every call, for records of activations.
    scratch : Path, optional
        Where records of walks under way lie, in files without a name, instead of in memory.

    Attributes
    ----------
    calls, evaluations : int
        Calls of the network, and rows of them that were not padding.
    batch : int
        The batch in use, smaller than asked for if memory ran out.

    Raises
    ------
    SimulationError
        From `simulate`: the network returned NaN or an infinite number, or memory does not
        suffice for two items.
    """

    def __init__(
        self,
        model: Denoiser,
        sampler: Sampler,
        noise: Noise,
        batch: int = 64,
        device: str | torch.device = "cpu",
        probe: Probe | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.model, self.sampler, self.noise = model, sampler, noise
        self.probe, self.scratch = probe, scratch
        self._on_disk: Scratch | None = None
        self._seen: dict[str, Tensor] = {}
        self.batch, self.device = max(SMALLEST_BATCH, int(batch)), torch.device(device)
        self.calls = self.evaluations = self.steps = 0
        self._waiting: deque[_Path] = deque()
        self._slots: list[_Path | None] = []

    def simulate(self, walks: Iterable[Walk]) -> Iterator[Finished]:
        """Simulate walks, drawn from the iterable as slots fall free, and yield each when it ends."""
        source = iter(walks)
        self._waiting.clear()
        self._allocate(self.batch)
        while True:
            self._fill(source)
            busy = [i for i, path in enumerate(self._slots) if path is not None]
            if not busy:
                return
            yield from self._turn(busy)

    @torch.inference_mode()
    def _turn(self, busy: list[int]) -> list[Finished]:
        """One call of the network and what follows from it; the walks that end by it."""
        try:
            answer, queried = self._evaluate(busy)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._halve(error)
            return []
        return self._advance(busy, answer, queried)

    # ---- slots

    @torch.inference_mode()
    def _allocate(self, batch: int) -> None:
        shape = self.model.shape
        self.batch = batch
        self._slots = [None] * batch
        self._x = torch.zeros(batch, *shape, device=self.device)
        self._memory = torch.zeros(batch, self.sampler.memory, *shape, device=self.device)
        if self.probe is not None:
            self.probe.forget()

    def _halve(self, error: BaseException) -> None:
        if self.batch <= SMALLEST_BATCH:
            raise SimulationError(
                f"memory does not suffice for a batch of {self.batch} items of shape {self.model.shape}."
            ) from error
        for i in reversed(range(self.batch)):
            path = self._slots[i]
            if path is not None:
                path.state = self._x[i].clone(), self._memory[i].clone()
                self._waiting.appendleft(path)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._allocate(max(SMALLEST_BATCH, self.batch // 2))

    @torch.inference_mode()
    def _fill(self, source: Iterator[Walk]) -> None:
        for i, occupant in enumerate(self._slots):
            if occupant is not None:
                continue
            if self._waiting:
                path = self._waiting.popleft()
            else:
                walk = next(source, None)
                if walk is None:
                    return
                path = _Path(walk)
            if path.state is None:
                self._x[i] = self._start(path.walk)
            else:
                self._x[i], self._memory[i] = path.state
                path.state = None
            self._slots[i], path.watched = path, False  # the probe knows rows by their last occupant
            if not path.begun:
                path.begun = True
                self._arrive([i])

    def _start(self, walk: Walk) -> Tensor:
        if isinstance(walk.start, FromState):
            return torch.as_tensor(walk.start.x_t, dtype=torch.float32).to(self.device)
        clock, t = self.model.schedule, float(walk.times[0])
        z = torch.from_numpy(self.noise.draw(walk.address, 0, self.model.shape))
        if isinstance(walk.start, FromNoise):
            return (float(clock.start_std(t)) * z).to(self.device)
        assert isinstance(walk.start, FromImage)
        x_0 = torch.as_tensor(walk.start.x_0, dtype=torch.float32)
        return (float(clock.alpha(t)) * x_0 + float(clock.sigma(t)) * z).to(self.device)

    # ---- one evaluation for every slot

    def _evaluate(self, busy: list[int]) -> tuple[Tensor, Tensor]:
        """Call the network once: its answer (B, *shape), and the times that were asked (B,)."""
        t, s = torch.ones(self.batch, dtype=torch.float64), torch.zeros(self.batch, dtype=torch.float64)
        phases = np.zeros(self.batch, dtype=np.int64)
        idle = self._path(busy[0]).walk.condition  # padding is told what some walk is told
        conditions = [path.walk.condition if path else idle for path in self._slots]
        draws = np.zeros((self.batch, *self.model.shape), np.float32) if self.sampler.stochastic else None
        for i in busy:
            path = self._slots[i]
            assert path is not None
            t[i], s[i], phases[i] = path.t, path.s, path.phase
            if draws is not None and path.phase == 0:
                draws[i] = self.noise.draw(*path.walk.draw(path.position), self.model.shape)
        z = None if draws is None else torch.from_numpy(draws).to(self.device)
        self._step = Step(self._x, t, s, z, self._memory, self.model.schedule)
        self._phases = phases
        query, queried = self._x, t
        if self.sampler.phases == 1:
            query, queried = self.sampler.query(0, self._step)
        else:
            query, queried = self._x.clone(), t.clone()
            for phase in np.unique(phases):
                rows = torch.from_numpy(np.flatnonzero(phases == phase))
                part = self._rows(rows)
                query[rows], queried[rows] = self.sampler.query(int(phase), part)
                self._memory[rows] = part.memory
        kwargs = self.model.conditions(conditions, self.device)
        times = queried.to(device=self.device, dtype=self._x.dtype)
        with self._watching(busy, phases):
            if self.sampler.wants_variance:
                answer, self._step.v = self.model.with_variance(query, times, **kwargs)
            else:
                answer = self.model(query, times, **kwargs)
        if answer.shape != query.shape:
            raise SimulationError(
                f"the network of {self.model.name!r} returned shape {tuple(answer.shape)} for items of shape "
                f"{tuple(query.shape)}."
            )
        self.calls += 1
        self.evaluations += len(busy)
        return answer.to(self._x.dtype), queried

    @contextlib.contextmanager
    def _watching(self, busy: list[int], phases: np.ndarray) -> Iterator[None]:
        """Let the probe look while the network is called."""
        if self.probe is None:
            yield
            return
        fresh, active = (torch.zeros(self.batch, dtype=torch.bool) for _ in range(2))
        for i in busy:
            fresh[i], active[i] = not self._path(i).watched, bool(phases[i] == 0)
        with self.probe.watch(self.batch, fresh, active) as seen:
            yield
        self._seen = seen
        for i in busy:
            self._path(i).watched = True

    def _rows(self, rows: Tensor) -> Step:
        step = self._step
        z = None if step.z is None else step.z[rows]
        v = None if step.v is None else step.v[rows]
        return Step(step.x[rows], step.t[rows], step.s[rows], z, step.memory[rows], step.clock, v)

    def _advance(self, busy: list[int], answer: Tensor, queried: Tensor) -> list[Finished]:
        self._check(busy, answer, queried)
        first = [i for i in busy if self._phases[i] == 0]
        self._record("estimate", first, answer)
        for name, seen in self._seen.items():
            self._record("activation", first, seen, name)
        done = torch.zeros(self.batch, dtype=torch.bool)
        if self.sampler.phases == 1:
            self._x, done = self.sampler.update(0, self._step, answer)
        else:
            for phase in np.unique(self._phases[busy]):
                rows = torch.from_numpy(np.flatnonzero(self._phases == phase))
                part = self._rows(rows)
                self._x[rows], done[rows] = self.sampler.update(int(phase), part, answer[rows])
                self._memory[rows] = part.memory
        arrived = []
        for i in busy:
            path = self._slots[i]
            assert path is not None
            if done[i]:
                path.position, path.phase = path.position + 1, 0
                arrived.append(i)
            else:
                path.phase += 1
        if len(busy) < self.batch:  # padding stays what it is: repeated steps would make it diverge
            self._x[torch.tensor([path is None for path in self._slots])] = 0
        self.steps += len(arrived)
        self._arrive(arrived)
        ended: list[Finished] = []
        leaving = [i for i in arrived if self._path(i).position == len(self._path(i).walk.times) - 1]
        if leaving:
            finals = self._x[torch.tensor(leaving)].cpu().numpy()
            for i, final in zip(leaving, finals, strict=True):
                path = self._path(i)
                self._slots[i] = None
                self._x[i] = 0
                ended.append(Finished(path.walk, {"final": final.copy(), **_stack(path, final, self.device)}))
        return ended

    def _path(self, i: int) -> _Path:
        path = self._slots[i]
        assert path is not None
        return path

    def _check(self, busy: list[int], answer: Tensor, queried: Tensor) -> None:
        finite = torch.isfinite(answer.flatten(1).sum(1)).cpu().numpy()
        bad = [i for i in busy if not finite[i] and not bool(torch.isfinite(answer[i]).all())]
        if bad:
            a = self._path(bad[0]).walk.address
            raise SimulationError(
                f"the network of {self.model.name!r} returned NaN or an infinite number at "
                f"t = {float(queried[bad[0]]):.6g}, in the walk of item {a.item}, replicate {a.replicate}, "
                f"which started at t = {a.time:.6g}."
            )

    # ---- what happens at a time on the grid

    def _arrive(self, slots: list[int]) -> None:
        """Record states, and let branches part, where paths have just reached a time."""
        self._record("state", slots, self._x)
        for i in slots:
            path = self._path(i)
            for branch in path.walk.branches:
                assert isinstance(branch.start, FromTrunk)
                if abs(branch.start.time - path.t) < SAME_TIME:
                    state = self._parted(branch, self._x[i]), torch.zeros_like(self._memory[i])
                    self._waiting.append(_Path(branch, state=state))

    def _parted(self, branch: Walk, x_s: Tensor) -> Tensor:
        """The state from which a branch goes on: a copy of its trunk's, noised on if it starts above it."""
        assert isinstance(branch.start, FromTrunk)
        s, t = branch.start.time, float(branch.times[0])
        if t < s + SAME_TIME:
            return x_s.clone()
        alpha_ts, sigma_ts = transition(self.model.schedule, s, t)
        z = torch.from_numpy(self.noise.draw(branch.address, 0, self.model.shape)).to(self.device)
        return alpha_ts * x_s + sigma_ts * z

    def _record(self, what: str, slots: list[int], values: Tensor, name: str = "") -> None:
        """Keep rows of ``values`` (B, ...) for the records of the walks in these slots that want them now."""
        host: np.ndarray | None = None
        for i in slots:
            path = self._path(i)
            wanted = [r for r in path.walk.records if r.what == what and (not name or r.name == name)]
            # the last time stands for the data wherever it lies
            ended = path.position == len(path.walk.times) - 1
            for record in wanted:
                for k in _places(record.times, path.t, ended):
                    if record.function is not None:
                        row = record.function(values[i : i + 1])[0].cpu().numpy()
                    else:
                        host = values.cpu().numpy() if host is None else host
                        row = host[i]
                    if record.name not in path.kept:
                        path.kept[record.name] = self._room(record, row)
                    path.kept[record.name][k] = row

    def _room(self, record: Record, like: np.ndarray) -> np.ndarray:
        """NaN for every time of a record, where `scratch` says."""
        shape = (len(record.times), *like.shape)
        kind = like.dtype if np.issubdtype(like.dtype, np.floating) else np.dtype(np.float32)
        if self.scratch is None or record.function is not None:
            return np.full(shape, np.nan, kind)
        if self._on_disk is None:
            self._on_disk = Scratch(self.scratch)
        return self._on_disk.full(shape, np.nan, kind)


@lru_cache(maxsize=4096)
def _places(times: tuple[float, ...], t: float, ended: bool) -> Sequence[int]:
    """Which of a record's times a walk has reached."""
    at = np.asarray(times)
    return np.flatnonzero((np.abs(at - t) < SAME_TIME) | (ended & (at == 0))).tolist()


def _stack(path: _Path, final: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    stacked = dict(path.kept)
    for record in path.walk.records:
        if record.name in stacked or record.what == "activation":
            continue
        like = final
        if record.function is not None:
            like = record.function(torch.from_numpy(final[None]).to(device))[0].cpu().numpy()
        kind = like.dtype if np.issubdtype(like.dtype, np.floating) else np.dtype(np.float32)
        stacked[record.name] = np.full((len(record.times), *like.shape), np.nan, kind)
    return stacked
