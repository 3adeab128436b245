"""What a run holds: its manifest, its arrays, and the readings made of them, as labelled data.

Nothing is simulated, measured or estimated here: see `turningpoint.run` for the verbs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .citations import PAPERS
from .diffusion.denoiser import Denoiser
from .diffusion.schedule import Schedule, schedule_from
from .errors import TurningpointError
from .models import fingerprint, load
from .simulation.store import Store


class Archive:
    """A store of walks and readings, read as xarray.

    Parameters
    ----------
    store : Store
        Its manifest and arrays.
    model : Denoiser, optional
        The model that was simulated; by default loaded by its name when it is first needed.
    """

    def __init__(self, store: Store, model: Denoiser | None = None) -> None:
        self.store = store
        self._model = model

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
        keys += [key for key in ("guidance", "activations") if self.settings.get(key) is not None]
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
        told = spelled_out(self.manifest["axes"])
        named = self.manifest["axes"].get("names")
        if named and len(named) == dataset.sizes.get("item"):
            dataset = dataset.assign_coords(name=("item", np.array(named, dtype=object)))
        for name in ("prompt", "negative_prompt"):
            texts = [condition.get(name, "") for condition in told]
            if "item" in dataset.dims and any(texts):
                dataset = dataset.assign_coords({name: ("item", np.array(texts, dtype=object))})
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
                sides = {"back": "", "start": "_start", "other": "_other", "original": "_original"}
                for side, suffix in sides.items():
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

    @property
    def original(self) -> xr.DataArray:
        """A user's pictures before a latent model's autoencoder made `start` of them: (item, channel, y, x)."""
        return self._array("original")

    @property
    def latents(self) -> xr.DataArray:
        """What the sampler worked on and `images` were decoded from, of a latent model: float32, as `images`."""
        return self._array("latents")

    @property
    def start_latents(self) -> xr.DataArray:
        """What the sampler worked on at the start, of a latent model: (item, ...)."""
        return self._array("start_latents")

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

    def measured(self) -> list[str]:
        """The names of the measures that have read this run."""
        return self.store.groups("readings")

    def features(self) -> list[str]:
        """The names of all readings with a retention that are up to date: ``class``, ``morphometry.slant``, ..."""
        names = []
        for name in self.measured():
            if self._is_stale(name):
                continue
            described = self.store.attrs(f"readings/{name}")["readings"]
            names += [reading["feature"] for reading in described if reading["kind"] != "map"]
        return names

    def maps(self) -> list[str]:
        """The names of all readings that give a number for every place of an image; see `reading`."""
        known = [(name, self.store.attrs(f"readings/{name}")["readings"]) for name in self.measured()]
        return [r["feature"] for name, described in known if not self._is_stale(name) for r in described
                if r["kind"] == "map"]  # fmt: skip

    def reading(self, feature: str) -> xr.Dataset:
        """One reading of all images: ``start`` (item, ...), ``back`` (item, replicate, time, ...).

        Raises
        ------
        TurningpointError
            If it has not been measured.
        """
        name, described = self._described(feature)
        found = {}
        for side in ("start", "back", "other", "partner", "original"):
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


def spelled_out(axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The condition of every item from a manifest's axes.

    >>> spelled_out({"items": 2, "condition": {"label": 3}})
    [{'label': 3}, {'label': 3}]
    """
    told = axes.get("condition", {})
    return list(told) if isinstance(told, list) else [told] * axes.get("items", 0)
