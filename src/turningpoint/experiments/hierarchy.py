r"""U-turns on a random grammar: which levels of the tree outlive the noise?

Trees are drawn, their leaves are hidden by one of the four processes of `turningpoint.diffusion.leaves`,
and a tree is drawn from the exact posterior: one step replaces the whole backward process.  At each
level, with x the true symbol of a node and x' the drawn one,

- ``kept`` is the fraction of nodes with x' = x;
- ``belief`` is the mean posterior probability of x.  Given the observation it is the probability that x'
  = x, so both have one expectation *whatever the process*, and belief has the smaller error; the mean field
  of the epsilon-process iterates it.  That both also equal :math:`E \sum_a p(a)^2` holds for the three channels and not
  for the epsilon-process, whose belief knows the truth;
- ``susceptibility`` is the :math:`\chi` of kept and changed leaves, `turningpoint.statistics.susceptibility`.

All noise levels share their trees, their random numbers and their draws, so a curve is smoother than its errors.

Sclocchi, Favero & Wyart, PNAS 122 (2025), arXiv:2402.16991; Sclocchi, Favero, Levi & Wyart, ICLR 2025,
arXiv:2410.13770.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..diffusion import leaves
from ..diffusion.hierarchy import Hierarchy
from ..errors import TurningpointError, one_of
from ..models import load
from ..models.grammar import Grammar
from ..models.settings import whole
from ..simulation.collect import Progress
from ..simulation.progress import shown
from ..statistics.bootstrap import SAMPLES, interval
from ..statistics.susceptibility import susceptibility
from ..theory.hierarchy import MeanField

CHUNK = 64
"""Trees that are inferred together."""

COLUMNS = ("process", "noise", "unit", "quantity", "level", "value", "error", "low", "high", "theory")


@dataclass(frozen=True)
class Process:
    """One way to hide leaves: ``hide(leaves, v, noise, generator)`` is a log-likelihood (B, n, v)."""

    unit: str
    usual: tuple[float, ...]
    hide: Callable[[Tensor, int, float, torch.Generator], Tensor]
    bounded: bool = True


def _twentieths(first: int) -> tuple[float, ...]:
    return tuple(k / 20 for k in range(first, 21))


PROCESSES = {
    "epsilon": Process("epsilon", _twentieths(4), lambda x, v, noise, _: leaves.epsilon(x, v, noise)),
    "masking": Process("masked fraction", _twentieths(1), leaves.masking),
    "corruption": Process("corrupted fraction", _twentieths(1), leaves.corruption),
    "gaussian": Process(
        "log-SNR", tuple(np.linspace(-1.0, 3.0, 17).tolist()), leaves.gaussian, bounded=False
    ),
}
"""The four processes by name; `turningpoint.diffusion.leaves` says what each is."""


@dataclass(frozen=True)
class Outcome:
    """What U-turns of N trees of one grammar at one noise level did.

    Attributes
    ----------
    kept, belief : array (N, L + 1)
        Means over the nodes of each level, leaves first.
    changes : array (N, s**L)
        +1 where a leaf was kept, -1 where it was changed.
    """

    kept: np.ndarray
    belief: np.ndarray
    changes: np.ndarray


def hierarchy(
    model: str | Grammar = "grammar",
    process: str = "epsilon",
    levels: Sequence[float] | None = None,
    trees: int = 400,
    grammars: int = 3,
    seed: int = 0,
    progress: Progress | str | None = "auto",
) -> pd.DataFrame:
    """Kept symbols of every level, and the susceptibility of the leaves, against noise.

    Parameters
    ----------
    model : str or Grammar
        The first grammar; the others have its v, m, s and L, and the seeds that follow its own.
    process : str
        One of `PROCESSES`: ``epsilon``, ``masking``, ``corruption``, ``gaussian``.
    levels : sequence of float, optional
        Noise levels: epsilon or the hidden fraction in [0, 1]; for ``gaussian`` log-SNR.
    trees : int
        Of each grammar, at least 2.
    grammars : int
        How many.
    seed : int
        Of trees, noise and draws; grammars have seeds of their own.
    progress : callable, "auto" or None
        By default a bar, if there is a terminal.

    Returns
    -------
    DataFrame
        One row per noise level, quantity and level of the tree (0: leaves, L: root): `COLUMNS`.  ``error``
        is the standard error over trees, or that over grammars where it is larger, and ``low`` to
        ``high`` are 1.96 of it; of ``susceptibility``, which is one of leaves, they are the bootstrap's,
        over trees.  ``theory`` is the mean field where there is one, NaN elsewhere.

    Raises
    ------
    TurningpointError
        If the model is no grammar, or a setting is none that the process takes.

    Examples
    --------
    >>> found = hierarchy("grammar?v=8&m=2&L=3", levels=[0.5], trees=8, grammars=2, progress=None)
    >>> found.quantity.value_counts().to_dict()
    {'kept': 4, 'belief': 4, 'susceptibility': 1}
    """
    first = load(model)
    if not isinstance(first, Grammar):
        raise TurningpointError(f"model is {first.name!r}; accepted: a grammar, 'grammar?v=16&m=4&s=2&L=7'.")
    if process not in PROCESSES:
        raise one_of("process", process, PROCESSES)
    noises = _checked(process, PROCESSES[process].usual if levels is None else levels)
    trees, grammars = whole("trees", trees, 2), whole("grammars", grammars)
    seed = whole("seed", seed, 0)
    tree = Hierarchy(first.rules.cpu())
    tries = [tree] + [
        Hierarchy.random(tree.v, tree.m, tree.s, tree.L, first.seed + k) for k in range(1, grammars)
    ]
    found: dict[float, list[Outcome]] = {noise: [] for noise in noises}
    with shown(progress, "grammars at noise levels", "done", "trees/s") as bar:
        for k, grammar in enumerate(tries):
            for noise in noises:
                found[noise].append(uturns(grammar, process, noise, trees, (seed, k)))
                done = sum(len(outcomes) for outcomes in found.values())
                if bar is not None:
                    bar(done, grammars * len(noises), done * trees)
    field = MeanField(tree.v, tree.m, tree.s) if process == "epsilon" else None
    rows = [
        row
        for noise, outcomes in found.items()
        for row in _rows(outcomes, None if field is None else field.kept(noise, tree.L))
    ]
    repeats = len(rows) // len(noises)
    table = pd.DataFrame(rows, columns=list(COLUMNS[3:]))
    table.insert(0, "process", process)
    table.insert(1, "noise", np.repeat(noises, repeats))
    table.insert(2, "unit", PROCESSES[process].unit)
    return table


def mean_field(tree: Hierarchy, noises: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """The mean field of the epsilon-process as rows of the same table, of the quantity ``mean field``.

    Parameters
    ----------
    tree : Hierarchy
        Whose v, m, s and L count.
    noises : sequence of float
        epsilon.

    Examples
    --------
    >>> mean_field(Hierarchy.random(v=16, m=4, L=2), [0.0]).value.tolist()
    [1.0, 1.0, 1.0]
    """
    value = MeanField(tree.v, tree.m, tree.s).kept(noises, tree.L)
    level, k = np.indices(value.shape)
    rows = {"process": "epsilon", "noise": np.asarray(noises)[k.ravel()], "unit": PROCESSES["epsilon"].unit}
    rows |= {"quantity": "mean field", "level": level.ravel(), "value": value.ravel()}
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def uturns(grammar: Hierarchy, process: str, noise: float, trees: int, seed: tuple[int, ...]) -> Outcome:
    """U-turns of fresh trees of one grammar at one noise level, by exact posterior draws.

    Parameters
    ----------
    grammar : Hierarchy
        The rules.
    process : str
        One of `PROCESSES`.
    noise : float
        Its noise level.
    trees : int
        How many.
    seed : tuple of int
        Of trees, noise and draws; they do not depend on the noise level.
    """
    kept, belief, changes = [], [], []
    for begin in range(0, trees, CHUNK):
        data, noisy, back = (_generator(*seed, begin, stage) for stage in range(3))
        truth = grammar.sample(min(CHUNK, trees - begin), data)
        posterior = grammar.posterior(PROCESSES[process].hide(truth[0], grammar.v, noise, noisy))
        same = [(a == b).double() for a, b in zip(truth, posterior.draw(back), strict=True)]
        sure = [p.gather(2, a[..., None]) for p, a in zip(posterior.marginals(), truth, strict=True)]
        kept.append(torch.stack([level.mean(1) for level in same], 1).numpy())
        belief.append(torch.stack([level.mean((1, 2)) for level in sure], 1).numpy())
        changes.append((2 * same[0] - 1).numpy())
    return Outcome(np.concatenate(kept), np.concatenate(belief), np.concatenate(changes))


def _generator(*key: int) -> torch.Generator:
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state % 2**63)


def _checked(process: str, levels: Sequence[float]) -> list[float]:
    try:
        noises = [float(level) for level in levels]
    except (TypeError, ValueError):
        raise TurningpointError(f"levels is {levels!r}; accepted: a list of numbers.") from None
    accepted = "numbers from 0 to 1" if PROCESSES[process].bounded else "finite log-SNRs"
    if not noises:
        raise TurningpointError(f"levels is empty; accepted: {accepted}.")
    for noise in noises:
        if not np.isfinite(noise) or (PROCESSES[process].bounded and not 0 <= noise <= 1):
            raise TurningpointError(f"levels holds {noise:g}; accepted by {process}: {accepted}.")
    return sorted(set(noises))


def _rows(outcomes: list[Outcome], theory: np.ndarray | None) -> list[tuple[Any, ...]]:
    """The rows of one noise level, without its own columns."""
    rows: list[tuple[Any, ...]] = []
    for quantity in ("kept", "belief"):
        value, error = mean_and_error([getattr(outcome, quantity) for outcome in outcomes])
        for level in range(len(value)):
            low, high = np.clip(value[level] + np.array([-1.96, 1.96]) * error[level], 0, 1)
            expected = np.nan if theory is None else theory[level]
            rows.append((quantity, level, value[level], error[level], low, high, expected))
    chi = susceptibility([outcome.changes for outcome in outcomes], SAMPLES)
    known = chi[1:][~np.isnan(chi[1:])]
    ends = (float(end) for end in interval(known)) if len(known) > 1 else (np.nan, np.nan)
    spread = known.std(ddof=1) if len(known) > 1 else np.nan
    rows.append(("susceptibility", 0, chi[0], spread, *ends, np.nan))
    return rows


def mean_and_error(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over groups of trees (N, ...) of different grammars, and its standard error, both (...).

    The error over trees is that of a mean over these very grammars; the error over grammars, from the
    spread of their means, that of a mean over all.  The larger one is returned.

    >>> [float(x) for x in mean_and_error([np.array([0.0, 1.0]), np.array([4.0, 5.0])])]
    [2.5, 2.0]
    """
    means = np.stack([group.mean(0) for group in groups])
    squares = np.stack([group.var(0, ddof=1) / len(group) for group in groups])
    error = np.sqrt(squares.sum(0)) / len(groups)
    if len(groups) > 1:
        error = np.maximum(error, means.std(0, ddof=1) / np.sqrt(len(groups)))
    return means.mean(0), error
