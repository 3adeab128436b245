r"""Refining a sweep: spend more walks where they narrow the windows most.

The position of a window's edge is uncertain where the bootstrap's crossings are spread.  A new time
helps most in the gap between two neighbouring times that holds the most of them, and the wider the
gap: over all features and edges, the gap g is scored by

.. math:: S_g = |\lambda_g| \sum_{f, e} P^*[\text{crossing of edge } e \text{ of } f \text{ lies in } g],

with :math:`|\lambda_g|` its length in log-SNR, and the new time is put at the median of the crossings in the
best gap.  Each round simulates that time for all items and replicates, reads it, and looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TurningpointError
from ..models.settings import whole
from ..run import Run
from ..statistics.window import EDGES
from .repeat import arguments_of
from .uturn import uturn


def refine(
    run: Run,
    rounds: int,
    features: Sequence[str] | None = None,
    delta: float = 0.1,
    batch: int = 64,
    device: str | None = None,
    progress: Any = "auto",
) -> Run:
    """Add ``rounds`` times to a U-turn run, each where it narrows the windows most.

    Parameters
    ----------
    run : Run
        With readings; each round is read by the same measures.
    rounds : int
        How many times to add.
    features : sequence of str, optional
        Whose windows count; by default all.
    delta, batch, device, progress
        As in `Run.windows` and `uturn`.

    Returns
    -------
    Run
        The extended run.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.uturn("digits", items=4, times=[0.2, 0.8], steps=4, progress=None).measure("class")
    >>> len(tp.refine(run, rounds=1, progress=None).times)
    3
    """
    if run.kind != "uturn" or not run.features():
        raise TurningpointError("refine takes a U-turn run with readings; call run.measure(...) first.")
    for _ in range(whole("rounds", rounds, 0)):
        time = next_time(run, features, delta)
        if time is None:
            break
        known = [float(t) for t in run.store.read("t")]
        arguments = arguments_of(run) | {"times": [*known, time]}
        arguments |= {"batch": batch, "device": device, "progress": progress}
        run = uturn(run.model, **arguments, extend=True, into=run)
        run.measure_as(run, progress)
    return run


def next_time(run: Run, features: Sequence[str] | None = None, delta: float = 0.1) -> float | None:
    """The U-turn time that promises most; None if no window's edge lies inside the sweep."""
    logsnr = np.sort(run.schedule.logsnr(run.times).numpy())
    logsnr = logsnr[np.isfinite(logsnr)]
    if len(logsnr) < 2:
        return None
    names = list(features or run.features())
    windows = [run.window(feature, delta) for feature in names]
    crossings = np.concatenate([getattr(w, edge)[1:] for w in windows for edge in EDGES])
    crossings = crossings[np.isfinite(crossings)]
    counts, _ = np.histogram(crossings, bins=logsnr)
    for best in np.argsort(-counts * np.diff(logsnr)):
        if counts[best] == 0:
            break
        low, high = logsnr[best], logsnr[best + 1]
        inside = crossings[(crossings >= low) & (crossings <= high)]
        margin = 0.1 * (high - low)
        target = float(np.clip(np.median(inside), low + margin, high - margin))
        time = float(run.schedule.snap(run.schedule.t(logsnr=target)))
        if 0 < time <= 1 and np.abs(run.times - time).min() > 1e-6:
            return time
    return None
