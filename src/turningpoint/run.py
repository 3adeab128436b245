"""A run: a folder of simulated walks, the readings made of them, and what follows from both.

Sample once, ask many questions: ``run.measure(...)`` reads the stored images and keeps what it read
beside them; ``run.retention``, ``run.windows`` and ``run.order`` are computed from the readings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor

from .archive import Archive
from .diffusion.denoiser import Denoiser
from .errors import TurningpointError
from .measures import Measure, measure
from .models import load
from .readings import read
from .simulation.collect import Progress
from .simulation.progress import shown
from .simulation.store import Store
from .statistics.bootstrap import interval, weights
from .statistics.retention import Curve, Readings, curve
from .statistics.window import EDGES, Window, decided_before, window


class Run(Archive):
    """What an experiment has left behind, in a folder or in memory.

    Parameters
    ----------
    store : Store
        Its manifest and arrays.
    model : Denoiser, optional
        The model that was simulated; by default loaded by its name when it is first needed.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.uturn("digits", items=2, times=[0.3, 0.6], steps=4, progress=None)
    >>> run.images.dims
    ('item', 'replicate', 'time', 'channel', 'y', 'x')
    >>> run.measure("class").windows().feature.tolist()
    ['class']
    """

    def __init__(self, store: Store, model: Denoiser | None = None) -> None:
        super().__init__(store, model)
        self._weights: dict[int, np.ndarray] = {}
        self._curves: dict[str, Curve] = {}
        self._used: dict[str, Measure | Callable[[Tensor], Any]] = {}

    # ---- measuring

    def measure(
        self, *measures: str | Measure | Callable[[Tensor], Any], progress: Progress | str | None = "auto"
    ) -> Run:
        """Read all images with each measure and keep what was read; returns the run.

        Parameters
        ----------
        *measures : str, Measure or callable
            Names, ``"name?setting=value"``, functions of an image batch.
        progress : callable, "auto" or None
            By default a bar, if there is a terminal; ``progress(done, total, read)`` counts images.

        Raises
        ------
        TurningpointError
            If there is no such measure; readings made before are kept.
        """
        self._need("start")
        model = self._model_for_measures()
        made = [measure(what, model) for what in measures]
        for what, one in zip(measures, made, strict=True):
            asked = what if isinstance(what, str) else one.name
            with shown(progress, f"reading {one.name}", "images", "images/s") as bar:
                read(self.store, one, self._conditions(), asked, bar)
            if not isinstance(what, str):
                self._used[one.name] = what
        self.forget()
        return self

    def forget(self) -> None:
        """Forget what was computed from the arrays, after they have changed."""
        self._curves.clear()

    def _model_for_measures(self) -> Any:
        """The model; where it cannot be loaded, what measures need besides a classifier: its shape."""
        try:
            return self.model
        except TurningpointError as error:
            return _Absent(self.store.array("images").shape[3:], str(error))

    def measures(self) -> list[str | Measure | Callable[[Tensor], Any]]:
        """What to hand to `measure` so that another run is read as this one was."""
        return [self._used.get(name, self._asked(name)) for name in self.measured()]

    def _asked(self, name: str) -> str:
        asked: str = self.store.attrs(f"readings/{name}")["asked"]
        return asked

    # ---- analysis

    def _bootstrap(self) -> np.ndarray:
        items = self.store.read("done").shape[0]
        if items not in self._weights:
            self._weights[items] = weights(items)
        return self._weights[items]

    def curve(self, feature: str) -> Curve:
        """The retention of one feature with its bootstrap samples, times ascending."""
        if feature not in self._curves:
            reading = self.reading(feature)
            integer = reading.attrs["kind"] == "categorical"
            back = np.array(reading["back"].values, dtype=float if integer else None)
            done = self._in_time_order(self.store.read("done"), ("item", "replicate", "time"))
            back[~done.astype(bool)] = np.nan
            # an unread start (comparisons have none) is never used
            start = reading["start"].values if "start" in reading else np.zeros(len(back))
            strangers = {side: reading[side].values for side in ("other", "partner") if side in reading}
            readings = Readings(
                reading.attrs["kind"],
                start,
                back,
                self._conditions(),
                largest=reading.attrs["largest"],
                **(strangers if reading.attrs["kind"] == "comparison" else {}),
            )
            self._curves[feature] = curve(readings, self._bootstrap())
        return self._curves[feature]

    def retention(self, feature: str, level: float = 0.95) -> xr.Dataset:
        """Kept, chance and retention of a feature over time, with its bootstrap band.

        Parameters
        ----------
        feature : str
            ``"class"``, ``"morphometry.slant"``, ...
        level : float
            Of the band.

        Returns
        -------
        Dataset over ``time`` (t, with coordinates ``logsnr`` and ``native``)
            ``kept`` (raw), ``chance``, ``retention`` (chance-corrected), ``low``, ``high``; the reason for
            NaN stands in ``attrs["reason"]``.
        """
        c = self.curve(feature)
        if not 0 < level < 1:
            raise TurningpointError(f"level is {level}; accepted: between 0 and 1.")
        low, high = c.band(level)
        gap = np.isnan(c.kept[0])
        kept_low, kept_high = (np.where(gap, np.nan, end) for end in interval(c.kept[1:], level))
        values = {"kept": c.kept[0], "kept_low": kept_low, "kept_high": kept_high, "chance": c.chance[0]}
        values |= {"retention": c.retention[0], "low": low, "high": high}
        order = np.argsort(self.store.read("t"))
        coords = {"time": self.times} | {
            name: ("time", self.store.read(name)[order]) for name in ("t", "logsnr", "native")
        }
        attrs = {**self._described(feature)[1], "reason": c.reason, "level": level}
        return xr.Dataset({name: ("time", v) for name, v in values.items()}, coords=coords, attrs=attrs)

    def curves(self, features: Sequence[str] | None = None) -> pd.DataFrame:
        """The retention of several features as one tidy table, a row per feature and time."""
        tables = []
        for feature in self._chosen(features):
            r = self.retention(feature)
            table = r.to_dataframe().reset_index(drop=True)
            table.insert(0, "feature", feature)
            table.insert(1, "label", r.attrs["label"])
            table.insert(2, "kind", r.attrs["kind"])
            table["reason"] = r.attrs["reason"]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def window(self, feature: str, delta: float = 0.1) -> Window:
        """The critical window of one feature with its bootstrap samples."""
        order = np.argsort(self.store.read("t"))
        return window(self.curve(feature).retention, self.store.read("logsnr")[order], delta)

    def windows(self, delta: float = 0.1, features: Sequence[str] | None = None) -> pd.DataFrame:
        """The critical window of every feature, earliest centre first.

        Parameters
        ----------
        delta : float
            A window starts where retention is delta and ends where it is 1 - delta.
        features : sequence of str, optional
            By default all that were measured.

        Returns
        -------
        DataFrame
            ``feature, label, kind``; ``start, centre, end`` in log-SNR with ``_low`` and ``_high`` ends of
            their 95 % intervals; the same in t (``start_t``, ...) and native steps (``start_native``,
            ...); ``note``.  Ends that the sweep does not bracket are -inf or +inf.
        """
        rows, clock = [], self.schedule
        for feature in self._chosen(features):
            _, described = self._described(feature)
            row = self.window(feature, delta).row()
            note = self.curve(feature).reason
            if np.isfinite(self.curve(feature).retention[0]).any():
                note = _open_ends(row)
            clocks: dict[str, float] = {}
            for edge in EDGES:
                # time runs against log-SNR: the interval's ends change places
                for here, there in (("", ""), ("_low", "_high"), ("_high", "_low")):
                    t = self._t_of(row[edge + there])
                    clocks[f"{edge}{here}_t"] = t
                    clocks[f"{edge}{here}_native"] = float(clock.native(t)) if np.isfinite(t) else t
            head = {"feature": feature, "label": described["label"], "kind": described["kind"]}
            rows.append(head | row | clocks | {"note": note})
        table = pd.DataFrame(rows)
        return table.sort_values("centre", kind="stable", na_position="last", ignore_index=True)

    def _t_of(self, logsnr: float) -> float:
        """The time at a log-SNR; an open end stays open, at the other infinity."""
        return float(self.schedule.t(logsnr=logsnr)) if np.isfinite(logsnr) else -logsnr

    def order(self, features: Sequence[str] | None = None, delta: float = 0.1) -> pd.DataFrame:
        """P[row's feature is decided before the column's], for every pair, by the paired bootstrap."""
        names = list(features or self.windows(delta).feature)
        centres = {name: self.window(name, delta).centre[1:] for name in names}
        table = [[np.nan if a == b else decided_before(centres[a], centres[b]) for b in names] for a in names]
        return pd.DataFrame(table, index=names, columns=names)

    def _chosen(self, features: Sequence[str] | None) -> list[str]:
        """The given features, or all; one sentence if there is none to speak of."""
        chosen = list(features or self.features())
        for name in self.measured() if not chosen else []:
            self._check_read(name)
        if not chosen:
            raise TurningpointError("the run has no readings yet; call run.measure(...) first.")
        return chosen


def _open_ends(row: dict[str, float]) -> str:
    notes = []
    for edge in EDGES:
        if np.isneginf(row[edge]):
            notes.append(f"{edge} lies before the sweep")
        elif np.isposinf(row[edge]):
            notes.append(f"{edge} lies after the sweep")
    return "; ".join(notes)


class _Absent:
    """Stands for a model that cannot be loaded."""

    def __init__(self, shape: tuple[int, ...], why: str) -> None:
        self.shape = self.decoded_shape = shape
        self._why = why

    def classifier(self) -> None:
        raise TurningpointError(self._why)

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0


def open_run(folder: str | Path, model: Any = None) -> Run:
    """Open a run in a folder.

    Parameters
    ----------
    folder : path
        What ``out=`` was.
    model : str or Denoiser, optional
        By default the run's model, loaded by its name when it is first needed.

    Raises
    ------
    TurningpointError
        If the folder holds no run, or one of a newer format.
    """
    run = Run(Store.open(folder), None if model is None else load(model))
    if model is not None:
        run.check_model()
    return run
