"""What a trace holds: readings along trajectories, and what layers did, as labelled data.

Arrays run along the trajectory, as generation does: log-SNR ascends, t falls.  What is said of a trace is said of the
trajectories that have ended.  `turningpoint.tracing` has what follows from the readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from .archive import Archive
from .errors import TurningpointError, one_of
from .statistics.growth import Series

SIDES = ("estimate", "state")
"""What measures read of a trajectory at each time."""


class Trajectories(Archive):
    """A store of trajectories, read as arrays and as xarray; see `turningpoint.tracing.Trace`."""

    # ---- what was recorded

    @property
    def t(self) -> np.ndarray:
        """The recorded times, (T,), falling."""
        return self.store.read("t")

    @property
    def logsnr(self) -> np.ndarray:
        """The recorded times as log-SNR, (T,), ascending."""
        return self.store.read("logsnr")

    @property
    def items(self) -> int:
        """The number of trajectories that have ended: what is said of a trace is said of them."""
        return int(np.count_nonzero(self.store.read("done")))

    def _of_ended(self, name: str) -> np.ndarray:
        """An array (item, ...) without trajectories that have not ended."""
        done, values = self.store.read("done").astype(bool), self.store.read(name)
        return values if done.all() else values[done]

    def _check_read(self, name: str) -> None:
        if self._is_stale(name):
            raise TurningpointError(
                f"the trace has trajectories that {name!r} has not read; give the same command of trace again to go on."
            )

    def sides(self, feature: str) -> tuple[str, ...]:
        """What a feature was read of: ``estimate``, ``state``."""
        name, _ = self._described(feature)
        return tuple(self.store.attrs(f"readings/{name}")["sides"])

    def features(self, side: str = "estimate") -> list[str]:
        """The names of all readings of a side that are up to date, without the moments of `gain`."""
        names: list[str] = []
        for name in self.measured() if self.items else []:
            attrs = self.store.attrs(f"readings/{name}")
            if name != "gain" and side in attrs["sides"] and not self._is_stale(name):
                names += [reading["feature"] for reading in attrs["readings"]]
        return names

    def maps(self) -> list[str]:
        """None: readings for every place of an image are not made along trajectories."""
        return []

    def reading(self, feature: str, side: str = "estimate") -> xr.Dataset:
        """One reading: ``along`` (item, time, ...), ``away`` (item, time), ``final`` (item, ...).

        ``away`` is there for vectors: the distance to what was read of the final image.  ``final`` is not there for
        comparisons, which are with the final image.

        Raises
        ------
        TurningpointError
            If it has not been read, or not of this side.
        """
        name, described = self._described(feature)
        if side not in self.sides(feature):
            raise TurningpointError(
                f"side is {side!r}; accepted for {feature!r}: {', '.join(self.sides(feature))}."
            )
        known = {"along": side, "away": f"{side}_away", "final": "final"}
        arrays = {key: f"readings/{name}/{prefix}.{described['name']}" for key, prefix in known.items()}
        found = {
            key: (self.store.dims(array), self._of_ended(array))
            for key, array in arrays.items()
            if self.store.has(array)
        }
        return xr.Dataset(found, coords=self._clocks(), attrs=described)

    def _clocks(self) -> dict[str, Any]:
        return {"time": self.t} | {
            name: ("time", self.store.read(name)) for name in ("t", "logsnr", "native")
        }

    def series(self, feature: str, side: str = "estimate") -> Series:
        """One reading as the statistics take it: see `turningpoint.statistics.growth`."""
        found = self.reading(feature, side)
        about = found.attrs
        kind, largest = about["kind"], float(about["largest"])
        values = found["away" if kind == "vector" else "along"].values.astype(float)
        if kind in ("vector", "comparison"):
            final = np.full(len(values), 0.0 if kind == "vector" else largest)
        else:
            final = found["final"].values.astype(float)
        return Series(feature, about["label"], kind, about["unit"], values, final, about.get("absent"))

    def all_series(self, features: Sequence[str] | None = None, side: str = "estimate") -> list[Series]:
        """Several readings, each once, by default all of the side."""
        if side not in SIDES:
            raise one_of("side", side, SIDES)
        named = [features] if isinstance(features, str) else features
        chosen = list(dict.fromkeys(named or self.features(side)))
        if not chosen:
            raise TurningpointError(
                f"the trace has no readings of the {side}; give measures= (--with) to trace."
            )
        return [self.series(feature, side) for feature in chosen]

    def bands(self) -> list[str]:
        """The labels of the frequency bands, if ``frequency`` was read."""
        if "frequency" not in self.measured():
            return []
        known = self.store.attrs("readings/frequency")["readings"]
        return [
            str(r["label"]).removeprefix("energy of ") for r in known if str(r["name"]).startswith("energy")
        ]

    # ---- the network's layers

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that were looked at, in the network's order."""
        return tuple(self.store.attrs("activations")["layers"]) if self.store.has("activations") else ()

    @property
    def activations(self) -> xr.Dataset:
        """What the layers did at each step.

        Returns
        -------
        Dataset
            ``summaries`` (item, time, layer, summary) and ``maps`` (item, time, layer, row, column), read from disk as
            they are used; activations that were kept whole are the groups ``activations/full/LAYER`` of the store.

        Raises
        ------
        TurningpointError
            If no layer was looked at.
        """
        if not self.store.has("activations"):
            raise TurningpointError(
                "the trace has looked at no layer; give activations= (--activations) to trace."
            )
        attrs = self.store.attrs("activations")
        named = {"layer": list(attrs["layers"]), "summary": list(attrs["summaries"])}
        return self.store.dataset("activations").assign_coords(named | self._clocks())

    def activation_summaries(self) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]] | None:
        """Summaries (N, T, L, S) with the names of layers and summaries; None if no layer was looked at."""
        if not self.store.has("activations"):
            return None
        attrs = self.store.attrs("activations")
        return self._of_ended("activations/summaries"), tuple(attrs["layers"]), tuple(attrs["summaries"])

    def activation_maps(self) -> np.ndarray | None:
        """Where in the image layers are at work, means over trajectories: (T, L, m, m); None without any."""
        if not self.store.has("activations/maps"):
            return None
        total, there = 0.0, 0.0
        for item in np.flatnonzero(self.store.read("done")):
            one = self.store.read("activations/maps", (int(item),)).astype(float)
            total, there = total + np.nan_to_num(one), there + np.isfinite(one)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / np.where(there, there, np.nan))

    # ---- as labelled data

    def _with_readings(self, dataset: xr.Dataset) -> xr.Dataset:
        """Add every reading under its feature's name; ``_final`` and ``_state`` behind those of other sides."""
        suffixes = {"estimate": "", "estimate_away": "_away", "final": "_final"}
        suffixes |= {"state": "_state", "state_away": "_state_away"}
        order = np.argsort(self.t)
        for name in self.measured():
            group = self.store.dataset(f"readings/{name}")
            for described in self.store.attrs(f"readings/{name}")["readings"]:
                for side, suffix in suffixes.items():
                    array = group.get(f"{side}.{described['name']}")
                    if array is None or self._is_stale(name):
                        continue
                    array = array.isel(time=order) if "time" in array.dims else array
                    about = {k: v for k, v in described.items() if k in ("kind", "unit", "description")}
                    dims = {
                        d: f"{described['feature']}_feature" for d in array.dims if d not in ("item", "time")
                    }
                    dataset[f"{described['feature']}{suffix}"] = array.rename(dims).variable.copy(deep=False)
                    dataset[f"{described['feature']}{suffix}"].attrs = about
        return dataset
