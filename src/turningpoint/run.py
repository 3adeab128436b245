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

from .citations import PAPERS
from .diffusion.denoiser import Denoiser
from .diffusion.schedule import Schedule, schedule_from
from .errors import TurningpointError
from .measures import Measure, measure
from .models import fingerprint, load
from .readings import read
from .simulation.store import Store
from .statistics.bootstrap import interval, weights
from .statistics.retention import Curve, Readings, curve
from .statistics.window import EDGES, Window, decided_before, window


class Run:
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
        self.store = store
        self._model = model
        self._weights: dict[int, np.ndarray] = {}
        self._curves: dict[str, Curve] = {}
        self._used: dict[str, Measure | Callable[[Tensor], Any]] = {}

    def __repr__(self) -> str:
        sizes = dict(self.images.sizes)
        where = f" in {self.folder}" if self.folder else " in memory"
        return f"<{self.kind} run of {self.settings['model']['name']}{where}: {sizes}>"

    # ---- what it is

    @property
    def folder(self) -> Path | None:
        """Where it is, or None in memory."""
        return self.store.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """Settings, axes, versions: enough to repeat the run."""
        return self.store.manifest

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that identify the run."""
        settings: dict[str, Any] = self.manifest["settings"]
        return settings

    @property
    def kind(self) -> str:
        """The experiment: ``uturn``, ``generate``, ..."""
        return str(self.manifest["kind"])

    @property
    def model(self) -> Denoiser:
        """The model that was simulated.

        Raises
        ------
        TurningpointError
            If it cannot be loaded by its name, or has changed since.
        """
        if self._model is None:
            self._model = self._load()
        return self._model

    def check_model(self) -> None:
        """Raise if the model is not the one that was simulated."""
        known = self.settings["model"]["fingerprint"]
        if fingerprint(self.model) != known:
            raise TurningpointError(
                f"model is {self.model.name!r} of fingerprint {fingerprint(self.model)}; the run's model "
                f"{self.settings['model']['name']!r} has {known}."
            )

    def _load(self) -> Denoiser:
        known = self.settings["model"]
        try:
            model = load(known["name"])
        except TurningpointError as error:
            raise TurningpointError(
                f"the run's model {known['name']!r} cannot be loaded ({error}) Give it: open_run(..., model=...)."
            ) from None
        if fingerprint(model) != known["fingerprint"]:
            raise TurningpointError(
                f"the model {known['name']!r} has changed since this run: its fingerprint is "
                f"{fingerprint(model)}, the run's is {known['fingerprint']}."
            )
        return model

    @property
    def schedule(self) -> Schedule:
        """The model's clock, from the manifest: the model itself is not needed for it."""
        return schedule_from(self.settings["model"]["config"]["schedule"])

    def papers(self) -> list[str]:
        """The sources of the estimators that made this run, for its bibliography."""
        keys = [self.kind, self.settings["sampler"]["name"], *self.measured()]
        if self.settings.get("guidance") is not None:
            keys.append("guidance")
        found = [paper for key in keys for paper in PAPERS.get(key, [])]
        return list(dict.fromkeys(found))

    # ---- what it holds

    @property
    def data(self) -> xr.Dataset:
        """All that the run holds, as one xarray Dataset, read from disk as it is used.

        Readings are named by their features: ``class`` (item, replicate, time), ``class_start`` (item).
        """
        return self._with_readings(self._dataset())

    def _dataset(self) -> xr.Dataset:
        """The arrays of the run without the readings, times ascending."""
        dataset = self.store.dataset()
        known = ("t", "logsnr", "native")
        ends = tuple(f"_{clock}" for clock in known)
        clocks = [n for n in dataset.data_vars if n in (*known, "label") or str(n).endswith(ends)]
        dataset = dataset.set_coords(clocks)
        if "time" in dataset.dims:
            dataset = dataset.assign_coords(time=("time", dataset["t"].values)).sortby("time")
        for axis in ("item", "replicate"):
            if axis in dataset.dims:
                first = self.manifest["axes"].get(f"first_{axis}", 0)
                dataset = dataset.assign_coords({axis: first + np.arange(dataset.sizes[axis])})
        units = {"t": "diffusion time, 0 is data", "logsnr": "log(alpha^2 / sigma^2)"}
        units["native"] = self.settings["model"].get("native_unit", "")
        for name, unit in units.items():
            if name in dataset.coords:
                dataset[name].attrs["units"] = unit
        return dataset

    def _with_readings(self, dataset: xr.Dataset) -> xr.Dataset:
        """Add every reading under its feature's name, and those of starting images with ``_start``."""
        order = np.argsort(self.store.read("t")) if "time" in dataset.dims else slice(None)
        for name in self.measured():
            if self._is_stale(name):
                continue
            group = self.store.dataset(f"readings/{name}")
            for described in self.store.attrs(f"readings/{name}")["readings"]:
                feature = described["feature"]
                for side, suffix in (("back", ""), ("start", "_start"), ("other", "_other")):
                    variable = f"{side}.{described['name']}"
                    if variable not in group:
                        continue
                    array = group[variable]
                    dims = {
                        d: f"{feature}_{str(d).partition('_')[0]}"
                        for d in array.dims
                        if d not in dataset.dims
                    }
                    array = (
                        array.rename(dims).isel(time=order) if "time" in array.dims else array.rename(dims)
                    )
                    about = {k: v for k, v in described.items() if k in ("kind", "unit", "description")}
                    dataset[f"{feature}{suffix}"] = array.variable.copy(deep=False)
                    dataset[f"{feature}{suffix}"].attrs = about
        return dataset

    def _in_time_order(self, values: np.ndarray, dims: Sequence[Any]) -> np.ndarray:
        if "time" not in dims:
            return values
        return np.take(values, np.argsort(self.store.read("t")), axis=list(dims).index("time"))

    @property
    def images(self) -> xr.DataArray:
        """What came back, float32 in [-1, 1]: (item, replicate, time, channel, y, x).

        Vectors: (item, replicate, time, feature).  A generated run: (item, channel, y, x).
        """
        return self._array("images")

    @property
    def start(self) -> xr.DataArray:
        """The starting images, float32 in [-1, 1]: (item, channel, y, x)."""
        return self._array("start")

    def _array(self, name: str) -> xr.DataArray:
        if not self.store.has(name):
            raise TurningpointError(f"the run holds no {name!r}; it holds {', '.join(self.store.arrays())}.")
        array: xr.DataArray = self._dataset()[name]
        return array if array.dtype == np.float32 else array.astype(np.float32)

    @property
    def times(self) -> np.ndarray:
        """The U-turn times t, ascending."""
        return np.sort(self.store.read("t"))

    @property
    def complete(self) -> bool:
        """Whether every walk has ended."""
        return bool(self.store.read("done").all())

    # ---- readings

    def measure(self, *measures: str | Measure | Callable[[Tensor], Any], progress: Any = None) -> Run:
        """Read all images with each measure and keep what was read; returns the run.

        Parameters
        ----------
        *measures : str, Measure or callable
            Names, ``"name?setting=value"``, functions of an image batch.
        progress : callable, optional
            ``progress(done, total)``, in images.

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
            read(self.store, one, self._conditions(), asked, progress)
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

    def measured(self) -> list[str]:
        """The names of the measures that have read this run."""
        return self.store.groups("readings")

    def measures(self) -> list[str | Measure | Callable[[Tensor], Any]]:
        """What to hand to `measure` so that another run is read as this one was."""
        return [self._used.get(name, self._asked(name)) for name in self.measured()]

    def _asked(self, name: str) -> str:
        asked: str = self.store.attrs(f"readings/{name}")["asked"]
        return asked

    def features(self) -> list[str]:
        """The names of all readings that are up to date: ``class``, ``morphometry.slant``, ..."""
        names = []
        for name in self.measured():
            if self._is_stale(name):
                continue
            described = self.store.attrs(f"readings/{name}")["readings"]
            names += [reading["feature"] for reading in described]
        return names

    def reading(self, feature: str) -> xr.Dataset:
        """One reading of all images: ``start`` (item, ...), ``back`` (item, replicate, time, ...).

        Raises
        ------
        TurningpointError
            If it has not been measured.
        """
        name, described = self._described(feature)
        found = {}
        for side in ("start", "back", "other", "partner"):
            array = f"readings/{name}/{side}.{described['name']}"
            if side == "partner":
                array = f"readings/{name}/partner"
            if self.store.has(array):
                dims = self.store.dims(array)
                found[side] = (dims, self._in_time_order(self.store.read(array), dims))
        coords = {"time": self.times} if "back" in found else {}
        return xr.Dataset(found, coords=coords, attrs=described)

    def _described(self, feature: str) -> tuple[str, dict[str, Any]]:
        for name in self.measured():
            for described in self.store.attrs(f"readings/{name}")["readings"]:
                if described["feature"] == feature:
                    self._check_read(name)
                    return name, described
        known = ", ".join(self.features()) or "nothing"
        raise TurningpointError(
            f"feature is {feature!r}, which this run has not measured; measured: {known}."
        )

    def _chosen(self, features: Sequence[str] | None) -> list[str]:
        """The given features, or all; one sentence if there is none to speak of."""
        chosen = list(features or self.features())
        for name in self.measured() if not chosen else []:
            self._check_read(name)
        if not chosen:
            raise TurningpointError("the run has no readings yet; call run.measure(...) first.")
        return chosen

    def _is_stale(self, name: str) -> bool:
        """Whether walks have ended that the measure has not read."""
        flags = f"readings/{name}/done"
        return not self.store.has(flags) or not np.array_equal(
            self.store.read(flags), self.store.read("done")
        )

    def _check_read(self, name: str) -> None:
        if self._is_stale(name):
            raise TurningpointError(
                f"the run has gone on since {name!r} read it; call run.measure({name!r}), or: turningpoint measure."
            )

    def _need(self, name: str) -> None:
        if not self.store.has(name):
            raise TurningpointError(f"a {self.kind} run holds no {name!r} images to compare with.")

    def _conditions(self) -> np.ndarray:
        """One number per item: items with equal numbers share a condition."""
        if self.store.has("condition"):
            return self.store.read("condition")
        return np.zeros(self.store.read("done").shape[0], dtype=np.int64)

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
