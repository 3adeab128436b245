"""A run: a folder of simulated walks, the readings made of them, and what follows from both.

Sample once, ask many questions: ``run.measure(...)`` reads the stored images and keeps what it read
beside them; ``run.retention``, ``run.windows`` and ``run.order`` are computed from the readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from .diffusion.denoiser import Denoiser
from .errors import TurningpointError
from .measuring import Measured
from .models import load
from .simulation.store import Store
from .statistics.bootstrap import interval, weights
from .statistics.retention import Curve, Readings, curve, joined
from .statistics.susceptibility import susceptibility
from .statistics.window import EDGES, Window, decided_before, window


class Run(Measured):
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

    def forget(self) -> None:
        """Forget what was computed from the arrays, after they have changed."""
        self._curves.clear()

    # ---- analysis

    def _bootstrap(self) -> np.ndarray:
        items = self.store.read("done").shape[0]
        if items not in self._weights:
            self._weights[items] = weights(items)
        return self._weights[items]

    def curve(self, feature: str) -> Curve:
        """The retention of one feature with its bootstrap samples, times ascending."""
        if feature not in self._curves:
            kind = self._described(feature)[1]["kind"]
            if kind == "map":
                raise TurningpointError(
                    f"feature is {feature!r}, a map, which has no retention; see reading()."
                )
            # vectors may be long: one time after another
            order = np.argsort(self.store.read("t")) if kind == "vector" else [slice(None)]
            parts = [curve(self._readings(feature, place), self._bootstrap()) for place in order]
            self._curves[feature] = joined(parts)
        return self._curves[feature]

    def _readings(self, feature: str, place: int | slice) -> Readings:
        """One reading at one stored time, or at all of them, as the statistics take it."""
        name, described = self._described(feature)
        group, kind = f"readings/{name}", described["kind"]
        times = slice(place, place + 1) if not isinstance(place, slice) else place

        def values(array: str, *region: slice) -> np.ndarray:
            found = self.store.read(array, region)
            if len(region) == 3 and times == slice(None):
                return self._in_time_order(found, ("item", "replicate", "time"))
            return found

        every = slice(None)
        back = values(f"{group}/back.{described['name']}", every, every, times)
        if kind == "categorical":
            back = back.astype(float)
        back[~values("done", every, every, times).astype(bool)] = np.nan
        if kind != "comparison":
            start = values(f"{group}/start.{described['name']}")
            return Readings(kind, start, back, self._conditions())
        known = {"other": f"{group}/other.{described['name']}", "partner": f"{group}/partner"}
        strangers = {
            "other": values(known["other"], every, every, times) if self.store.has(known["other"]) else None,
            "partner": values(known["partner"]) if self.store.has(known["partner"]) else None,
        }
        # an unread start (comparisons have none) is never used
        start = np.zeros(len(back))
        return Readings(kind, start, back, self._conditions(), largest=described["largest"], **strangers)

    def susceptibility(self, feature: str, level: float = 0.95) -> xr.Dataset:
        """In how large blocks the places of a map change together, over time; its peak marks a transition.

        Parameters
        ----------
        feature : str
            A map: ``"layers.conv1.change"``, see `maps`.
        level : float
            Of the bootstrap band over items.

        Returns
        -------
        Dataset over ``time`` (with ``t``, ``logsnr``, ``native``)
            ``susceptibility``, ``low``, ``high``: see `turningpoint.statistics.susceptibility`. Replicates and
            conditions have means of their own; items that are not done at a time are left out of it. NaN where no two
            items of a condition are left.

        Raises
        ------
        TurningpointError
            If it is no map.
        """
        name, described = self._described(feature)
        if described["kind"] != "map":
            raise TurningpointError(
                f"feature is {feature!r}, no map; accepted: {', '.join(self.maps()) or 'none'}."
            )
        order, condition = np.argsort(self.store.read("t")), self._conditions()
        rows: list[tuple[float, ...]] = []
        for place in order:
            back = self.store.read(
                f"readings/{name}/back.{described['name']}", (slice(None), slice(None), place)
            )
            groups, alike = [], []
            for value in np.unique(condition):
                for replicate in range(back.shape[1]):
                    field = back[condition == value, replicate].astype(float)
                    field = field[np.isfinite(field).all(1)]
                    if len(field) > 1:
                        groups.append(field)
                        alike.append(int(value))
            if not groups:
                rows.append((math.nan,) * 3)  # none is done, or each is alone with its condition
                continue
            chi = susceptibility(groups, len(self._bootstrap()) - 1, alike=alike)
            low, high = interval(chi[1:], level)
            rows.append((float(chi[0]), float(low), float(high)))
        columns = dict(zip(("susceptibility", "low", "high"), np.array(rows).T, strict=True))
        coords = self._clocks()
        return xr.Dataset({k: ("time", v) for k, v in columns.items()}, coords=coords, attrs=described)

    def _clocks(self) -> dict[str, Any]:
        """The coordinates of what has an axis of times."""
        order = np.argsort(self.store.read("t"))
        clocks = {name: ("time", self.store.read(name)[order]) for name in ("t", "logsnr", "native")}
        return {"time": self.times} | clocks

    def round_trip(self, feature: str) -> float:
        """What a feature keeps when a picture goes through the autoencoder alone, as `kept`; NaN without one.

        The reference for U-turns of a user's pictures is what the autoencoder makes of them, so that its losses are not
        taken for changes of mind; this is how large they are.
        """
        name, described = self._described(feature)
        array = f"readings/{name}/original.{described['name']}"
        if not self.store.has(array):
            return float("nan")
        original = self.store.read(array)
        if described["kind"] in ("comparison", "map"):
            return float(np.nanmean(original))
        start = self.store.read(f"readings/{name}/start.{described['name']}")
        if described["kind"] == "categorical":
            return float(np.mean(start == original))
        apart = np.square(start.astype(float) - original).reshape(len(start), -1).sum(1)
        return float(np.nanmean(apart))

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
        coords = self._clocks()
        attrs = {**self._described(feature)[1], "reason": c.reason, "level": level}
        attrs["round_trip"] = self.round_trip(feature)
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
                note = "; ".join(
                    filter(None, (_open_ends(row), self._lost_by_autoencoder(feature, described)))
                )
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

    def _lost_by_autoencoder(self, feature: str, described: Mapping[str, Any]) -> str:
        """A remark on a category that the autoencoder alone does not always keep."""
        kept = self.round_trip(feature) if described["kind"] == "categorical" else 1.0
        return f"the autoencoder alone keeps {kept:.2f}" if kept < 1 else ""

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
        If the folder holds no run, one of a newer format, or trajectories (see `turningpoint.open_trace`).
    """
    store = Store.open(folder)
    if store.manifest["kind"] == "trace":
        raise TurningpointError(
            f"run is {str(folder)!r}, which holds a trace; accepted for it: the commands trace, onset, compare and "
            "report, and in Python open_trace."
        )
    run = Run(store, None if model is None else load(model))
    if model is not None:
        run.check_model()
    return run
