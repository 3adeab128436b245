r"""The probe: what the layers of a denoiser's network do at every step, while walks are simulated.

It stands beside the loop over the network.  Around every call of the model a block watches the named layers: as each of
them answers, its activation is reduced to the numbers and the map of `_summaries`, and to the entropy of the
attention in it (`_attention`), and forgotten.  So a trace holds some dozens of numbers per layer, item and step instead
of some hundred thousands.

Rows of the batch belong to walks, and the caller tells which rows are *fresh*, holding another walk than at the call
before, and which are *active*, at a time of their own rather than padding or in the second phase of a step.  The only
thing of size that the probe keeps is each row's last activation of each layer, for ``change``: `memory` bytes per row,
0.11 MB for the two blocks ``up_blocks.*`` of the built-in digits.

With guidance the network is called with twice as many rows, the second half being the same items without their
condition (`turningpoint.diffusion.guidance`).  Summaries are of the first half, and ``contrast`` is the distance
between the two: what "red" does in a layer, for a prompt with the word and a negative prompt without.

Numbers per layer cost time: on a CPU, those of the five blocks of the built-in digits add a third to the network's own,
most of it for ``rank`` and ``entropy``, and those of all its 79 layers ``up_blocks.**`` several times as much.

A layer is taken as a whole: what attention is in it counts whether or not parts of it are watched, too; of a layer that
runs several times in a call, the last time counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError, one_of
from ..hooks import matching, patterns_in, trunk_of, watching
from ._attention import AttentionSeen
from ._summaries import Activation, magnitude, mapped, rank, relative_distance, sparsity

SUMMARIES = ("magnitude", "sparsity", "rank", "change", "entropy", "contrast")
OF_ONE: dict[str, Callable[[Activation], Tensor]] = {
    "magnitude": magnitude,
    "sparsity": sparsity,
    "rank": rank,
}
"""Summaries of an activation by itself."""
PORTION = 2**23
"""Numbers of a layer that are reduced at a time."""


class Probe:
    """Looks into a denoiser's network.

    Parameters
    ----------
    model : Denoiser or nn.Module
        The model, guided or not, or a network itself.
    patterns : str or sequence of str
        Layers, by name or pattern (`turningpoint.hooks`), several in one string by commas.
    summaries : sequence of str, optional
        Of `SUMMARIES`; by default all.
    keep : bool
        Whether whole activations are wanted besides.
    map_size : int
        Cells along a side of a map; 0 for no maps.
    device : device, optional
        Where the model is; by default where its parameters are.
    argument : str
        The name of the user's argument.

    Attributes
    ----------
    layers : tuple of str
        Layers in the order in which they run, without those that do not run or have no row for each item.  A
        denoiser is tried out with three items to know them; of a bare network they are known after the first call.
    shapes : dict
        Of a layer's activation for one item, by its name, once layers are known.
    memory : int
        Bytes that are kept for each row of a batch, once layers are known.

    Raises
    ------
    TurningpointError
        If the model has no layers, a pattern means none, or none that runs; or a summary is unknown.  In a block of
        `watch`, if the model calls its network several times, or with other rows than those it was given.

    Examples
    --------
    >>> from turningpoint import load
    >>> model = load("digits")
    >>> probe = Probe(model, "mid_block, up_blocks.*")
    >>> probe.layers, probe.shapes["up_blocks.1"]
    (('mid_block', 'up_blocks.0', 'up_blocks.1'), (48, 14, 14))
    >>> two = torch.ones(2, dtype=torch.bool)
    >>> with torch.inference_mode(), probe.watch(2, fresh=two, active=two) as seen:
    ...     answer = model(torch.zeros(2, 1, 28, 28), torch.full((2,), 0.5))
    >>> seen["activations"].shape, seen["maps"].shape  # of 2 items, 3 layers and 6 summaries
    (torch.Size([2, 3, 6]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: str | Sequence[str],
        *,
        summaries: Sequence[str] | None = None,
        keep: bool = False,
        map_size: int = 8,
        device: str | torch.device | None = None,
        argument: str = "activations",
    ) -> None:
        self._model, self._network, self._argument = model, trunk_of(model), argument
        self.patterns = tuple(patterns_in(patterns, argument))
        self._found = matching(self._network, self.patterns, argument)
        wanted = SUMMARIES if summaries is None else tuple(summaries)
        for name in wanted:
            if name not in SUMMARIES:
                raise one_of("summaries", name, SUMMARIES)
        self.summaries = tuple(name for name in SUMMARIES if name in wanted)
        self.keep, self.map_size = keep, map_size
        self.layers = tuple(dict.fromkeys(name for hits in self._found for name in hits))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.memory = 0
        self._settled = False
        self._repeated: set[str] = set()
        self._item: tuple[int, ...] = tuple(getattr(model, "shape", ()))
        self.forget()
        if isinstance(model, Denoiser):
            self._try(model, device)

    def settings(self) -> dict[str, Any]:
        """What it looks at, for a run's manifest."""
        return {
            "patterns": list(self.patterns),
            "layers": list(self.layers),
            "summaries": list(self.summaries),
            "map_size": self.map_size,
            "keep": self.keep,
        }

    def forget(self) -> None:
        """Drop what is remembered of earlier calls: rows hold other walks from now on."""
        self._before: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def watch(self, rows: int, fresh: Tensor, active: Tensor) -> Iterator[dict[str, Tensor]]:
        """Look while the model is called once, in the block.

        Parameters
        ----------
        rows : int
            Items of the batch.
        fresh : Tensor (rows,) bool
            Rows that hold another walk than at the last call.
        active : Tensor (rows,) bool
            Rows whose answer counts.

        Yields
        ------
        dict of Tensor
            On the CPU, and filled as the block ends: ``activations`` (rows, L, S) and ``maps`` (rows, L, m, m), both
            float32, for the L `layers` and the S `summaries`; with ``keep`` also ``layer.NAME`` (rows, ...), the whole
            activation in the network's type (float32 for bfloat16).  NaN where there is nothing to tell: in rows
            that are not active, and as the module says.

        Raises
        ------
        TurningpointError
            In the block; see the class.
        """
        fresh, active = fresh.cpu().bool(), active.cpu().bool()
        seen: dict[str, Tensor] = {}
        if any(len(known) != rows for known in self._known.values()):
            self.forget()
        for name in self._known:
            self._known[name] = self._known[name] & ~fresh
        if not bool(active.any()):
            yield seen
            seen.update(self._gathered(rows, _Call(self._network, rows, active)))
            return
        call = _Call(self._network, rows, active)
        try:
            with contextlib.ExitStack() as looking:
                names = ["", *self.layers]
                looking.enter_context(watching(self._network, names, self._look(call), call.enter))
                if "entropy" in self.summaries:
                    seeing = AttentionSeen(rows, lambda: call.batch, call.attends, lambda: bool(call.running))
                    looking.enter_context(seeing)
                yield seen
        except BaseException:
            self.forget()
            raise
        for name, output in call.latest.items():
            self._remember(name, output, call.active)
        if not self._settled:
            self._settle(call, rows)
        seen.update(self._gathered(rows, call))

    # ---- which layers there are

    @torch.inference_mode()
    def _try(self, model: Denoiser, device: str | torch.device | None) -> None:
        """Find the layers that run by letting three items through."""
        place = torch.device(_home(model) if device is None else device)
        told = {} if model.n_classes is None else {"label": 0}
        kwargs = model.conditions([told] * 3, place)
        three = torch.ones(3, dtype=torch.bool)
        keep, self.keep = self.keep, False
        with self.watch(3, three, three):
            model(torch.zeros(3, *model.shape, device=place), torch.full((3,), 0.5, device=place), **kwargs)
        self.keep = keep
        self.forget()

    def _settle(self, call: _Call, rows: int) -> None:
        ran = call.tables
        for pattern, hits in zip(self.patterns, self._found, strict=True):
            if any(name in ran for name in hits):
                continue
            odd = next((name for name in hits if name in call.odd), None)
            such = (
                f"accepted: layers that do, such as {', '.join(list(ran)[:3])}" if ran else "accepted: others"
            )
            if odd is None:
                raise TurningpointError(
                    f"{self._argument} is {pattern!r}, which does not run when the model is called; {such}."
                )
            raise TurningpointError(
                f"{self._argument} is {pattern!r}, but the layer {odd!r} makes {call.odd[odd]} of {rows} items and "
                f"has no row for each; {such}."
            )
        self.layers, self._settled = tuple(ran), True
        self.shapes = {name: tuple(call.shapes[name]) for name in ran}
        self.memory = sum(call.sizes[name] for name in ran) if "change" in self.summaries else 0

    # ---- one call

    def _look(self, call: _Call) -> Callable[[str, Tensor], None]:
        @torch.inference_mode()
        def look(name: str, output: Tensor) -> None:
            if name == "":
                return
            call.leave(name)
            if output.ndim == 0 or len(output) not in (call.rows, call.batch) or output.is_complex():
                call.odd[name] = tuple(output.shape)
                return
            call.shapes[name] = output.shape[1:]
            call.sizes[name] = output[0].numel() * output.element_size()
            if call.tables.pop(name, None) is not None and name not in self._repeated:
                self._repeated.add(name)  # what it was in the step before is overwritten, for this once
                self._before.pop(name, None)
            call.tables[name] = self._reduced(name, output.detach(), call)
            if "change" in self.summaries and name in self._repeated:
                call.latest[name] = output[: call.rows].clone()
            elif "change" in self.summaries:
                self._remember(name, output[: call.rows], call.active)
            if self.keep:
                whole = output[: call.rows].detach()
                kind = torch.float32 if whole.dtype == torch.bfloat16 else whole.dtype
                call.whole[name] = whole.to("cpu", kind, copy=True)

        return look

    def _reduced(self, name: str, output: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
        """The summaries (active rows, S) and maps (active rows, m, m) of a layer's output (rows or 2 rows, ...)."""
        rows, device = call.rows, output.device
        guided = len(output) == call.batch > rows
        before = self._before.get(name)
        if before is not None and (before.shape != (rows, *output.shape[1:]) or before.device != device):
            before = None
        chosen = call.active.nonzero()[:, 0]
        step = max(1, PORTION // max(1, output[0].numel()))
        columns, maps = [], []
        for part in chosen.split(step):
            everything = len(part) == rows
            place = slice(0, rows) if everything else part.to(device)
            a = Activation.of(output[place], self._item)
            nan = a.matrix.new_full((len(part),), torch.nan)
            column = {key: OF_ONE[key](a) for key in self.summaries if key in OF_ONE}
            if before is not None and "change" in self.summaries:
                last = Activation.of(before[place], self._item)
                column["change"] = relative_distance(a, last, last).where(
                    self._known[name][part].to(device), torch.nan
                )
            if guided and "contrast" in self.summaries:
                other = slice(rows, 2 * rows) if everything else part.to(device) + rows
                column["contrast"] = relative_distance(a, Activation.of(output[other], self._item), a)
            columns.append(torch.stack([column.get(key, nan) for key in self.summaries], 1))
            maps.append(mapped(a, self.map_size) if self.map_size else a.matrix.new_empty(len(part), 0, 0))
        return torch.cat(columns), torch.cat(maps)

    @torch.inference_mode()
    def _remember(self, name: str, output: Tensor, active: Tensor) -> None:
        """Keep the active rows of a layer's output (rows, ...) for the next step."""
        before = self._before.get(name)
        if before is None or before.shape != output.shape or before.device != output.device:
            before = self._before[name] = torch.zeros_like(output)
            self._known[name] = torch.zeros_like(active)
        if bool(active.all()):
            before.copy_(output)
        else:
            place = active.to(output.device)
            before[place] = output[place]
        self._known[name] = self._known[name] | active

    def _gathered(self, rows: int, call: _Call) -> dict[str, Tensor]:
        """What a block yields: all layers, all rows."""
        size, active = self.map_size, call.active.nonzero()
        numbers = torch.full((rows, len(self.layers), len(self.summaries)), torch.nan)
        maps = torch.full((rows, len(self.layers), size, size), torch.nan)
        ran = [name for name in self.layers if name in call.tables]
        if ran:
            place = torch.tensor([self.layers.index(name) for name in ran])
            numbers[active, place] = _together([call.tables[name][0] for name in ran])
            if size:
                maps[active, place] = _together([call.tables[name][1] for name in ran])
        attending = [name for name in ran if call.entropies[name]]
        if attending:
            means = _together([torch.stack(call.entropies[name]).nanmean(0) for name in attending])
            place = torch.tensor([self.layers.index(name) for name in attending])
            numbers[active, place, self.summaries.index("entropy")] = means[call.active]
        found = {"activations": numbers} | ({"maps": maps} if size else {})
        if self.keep:
            found |= {f"layer.{name}": self._whole(name, rows, call) for name in self.layers}
        return found

    def _whole(self, name: str, rows: int, call: _Call) -> Tensor:
        if name not in call.whole:
            return torch.full((rows, *self.shapes.get(name, ())), torch.nan)
        whole = call.whole[name]
        if whole.is_floating_point():
            whole[~call.active] = torch.nan
        return whole


@dataclass(eq=False)
class _Call:
    """What happens in one call of the model: which layers run just now, and what was seen so far."""

    network: nn.Module
    rows: int
    active: Tensor
    batch: int = 0
    """Rows that the network is given: ``rows``, or twice as many."""
    runs: int = 0
    running: list[str] = field(default_factory=list)
    tables: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    odd: dict[str, tuple[int, ...]] = field(default_factory=dict)
    entropies: dict[str, list[Tensor]] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    latest: dict[str, Tensor] = field(default_factory=dict)
    """What layers that run several times are remembered by, as the last time counts."""

    def __post_init__(self) -> None:
        self.batch = self.rows

    def enter(self, name: str, given: Tensor | None) -> None:
        if name:
            self.running.append(name)
            self.entropies[name] = []
            return
        self.runs += 1
        if self.runs > 1:
            raise TurningpointError(
                "the model calls its network several times for one batch; accepted for activations: models that "
                "call it once."
            )
        self.batch = len(given) if given is not None and given.ndim else self.rows
        if self.batch not in (self.rows, 2 * self.rows):
            raise TurningpointError(
                f"the model calls its network with {self.batch} rows for {self.rows} items; accepted for activations: "
                f"{self.rows}, or {2 * self.rows} with guidance."
            )

    def leave(self, name: str) -> None:
        self.running.remove(name)

    def attends(self, entropy: Tensor) -> None:
        for name in self.running:
            self.entropies[name].append(entropy)


def _together(parts: Sequence[Tensor]) -> Tensor:
    """Parts (b, ...) from one or more devices as (b, parts, ...) on the CPU."""
    return torch.stack([part.to(parts[0].device) for part in parts], 1).cpu()


def _home(model: nn.Module) -> torch.device:
    """Where a model's inputs belong, as far as its parameters tell."""
    found: Mapping[str, None] = dict.fromkeys(str(p.device) for p in model.parameters())
    return torch.device(next((place for place in found if place != "meta"), "cpu"))
