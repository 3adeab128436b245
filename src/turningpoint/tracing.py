r"""A trace: trajectories that were read while they were simulated, and what follows from the readings.

Arrays run along the trajectory, as generation does: log-SNR ascends, t falls.  With :math:`f_i(t)` what was read of the
estimate of trajectory i at time t and :math:`f_i` of its final image, `Trace.onsets` says when each feature has grown
by half and when it has settled, `Trace.emergence` when each frequency band has half of its power, and `Trace.association`
which layers' activity goes with which feature's growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from .archive import Archive
from .diffusion.denoiser import Denoiser
from .errors import TurningpointError
from .models import load
from .simulation.store import Store
from .statistics.association import Association, association
from .statistics.bootstrap import weights
from .statistics.emergence import Emergence, emergence
from .statistics.emergence import gain as band_gain
from .statistics.growth import Series, curves
from .statistics.onset import item_times, onsets, order
from .theory.spectrum import band_half_emergence, power_spectrum
from .theory.spectrum import bands as spectrum_bands

SIDES = ("estimate", "state")


class Trace(Archive):
    """Trajectories and what was read along them.

    Parameters
    ----------
    store : Store
        Its manifest and arrays.
    model : Denoiser, optional
        The model that was simulated; by default loaded by its name when it is first needed.

    Examples
    --------
    >>> import turningpoint as tp
    >>> run = tp.trace("digits", 4, measures="structure", steps=6, progress=None)
    >>> run.images.dims, run.series("structure.edges").values.shape
    (('item', 'channel', 'y', 'x'), (4, 6))
    """

    def __init__(self, store: Store, model: Denoiser | None = None) -> None:
        super().__init__(store, model)
        self._counts: np.ndarray | None = None

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

    def _bootstrap(self) -> np.ndarray:
        if self._counts is None or self._counts.shape[1] != self.items:
            self._counts = weights(self.items)
        return self._counts

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
        """One reading along the trajectories: ``along`` (item, time, ...), ``away`` (item, time), ``final`` (item, ...).

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
        if kind == "vector" or kind == "comparison":
            final = np.full(len(values), 0.0 if kind == "vector" else largest)
        else:
            final = found["final"].values.astype(float)
        return Series(feature, about["label"], kind, about["unit"], values, final, about.get("absent"))

    def all_series(self, features: Sequence[str] | None = None, side: str = "estimate") -> list[Series]:
        """Several readings, by default all of the side."""
        chosen = list(features or self.features(side))
        if not chosen:
            raise TurningpointError(
                f"the trace has no readings of the {side}; give measures= (--with) to trace."
            )
        return [self.series(feature, side) for feature in chosen]

    # ---- when features grow

    def curves(
        self, features: Sequence[str] | None = None, side: str = "estimate", level: float = 0.95
    ) -> pd.DataFrame:
        """How far each feature has grown at each time, with its bootstrap band over trajectories, as a tidy table.

        Returns
        -------
        DataFrame
            ``feature, label, kind, t, logsnr, native, growth, low, high, items``; growth is 0 where a feature begins (or is
            absent) and 1 at its final value.
        """
        table = curves(self.all_series(features, side), self.logsnr, self._bootstrap(), level)
        repeats = len(table) // len(self.t)
        for place, name in ((3, "t"), (5, "native")):
            table.insert(place, name, np.tile(self.store.read(name), repeats))
        return table

    def onsets(
        self, features: Sequence[str] | None = None, side: str = "estimate", level: float = 0.95
    ) -> pd.DataFrame:
        """When each feature has grown by half, and when it has settled within a tenth of its final value.

        Returns
        -------
        DataFrame
            A row per feature, earliest onset first: see `turningpoint.statistics.onset.onsets`; besides log-SNR the
            medians in t and native steps (``onset_t``, ``settled_native``, ...).
        """
        table = onsets(self.all_series(features, side), self.logsnr, self._bootstrap(), level)
        for column in ("onset", "settled"):
            t = [self._t_of(value) for value in table[column]]
            table[f"{column}_t"] = t
            table[f"{column}_native"] = [float(self.schedule.native(x)) if np.isfinite(x) else x for x in t]
        return table.sort_values(["onset", "settled"], kind="stable", na_position="last", ignore_index=True)

    def _t_of(self, logsnr: float) -> float:
        """The time at a log-SNR; an open end stays open, at the other infinity."""
        return float(self.schedule.t(logsnr=logsnr)) if np.isfinite(logsnr) else -logsnr

    def order(
        self, features: Sequence[str] | None = None, side: str = "estimate", level: float = 0.95
    ) -> pd.DataFrame:
        """P[one feature has grown by half before another] over trajectories, for every pair, as a tidy table."""
        times = {one.feature: item_times(one, self.logsnr)[0] for one in self.all_series(features, side)}
        return order(times, self._bootstrap(), level)

    # ---- frequency bands

    def bands(self) -> list[str]:
        """The labels of the frequency bands, if ``frequency`` was read."""
        if "frequency" not in self.measured():
            return []
        known = self.store.attrs("readings/frequency")["readings"]
        return [
            str(r["label"]).removeprefix("energy of ") for r in known if str(r["name"]).startswith("energy")
        ]

    def emergence(self, side: str = "estimate", known: Any = None, quantity: str = "power") -> Emergence:
        """The relative power of each frequency band along the trajectories, and where it is one half.

        The estimate at pure noise is the mean of the data, whose power is there from the beginning: relative power is
        what came since then, over what came in all.  Trajectories from noised images have no such beginning.

        Parameters
        ----------
        side : str
            Of what: the estimate, or the state.
        known : array (bands,), optional
            The data's mean power per band, relative to which; by default that of the final images.
        quantity : str
            ``power``, or ``amplitude``, its square root.

        Raises
        ------
        TurningpointError
            If ``frequency`` has not been read.
        """
        found = [self.series(f"frequency.{name}", side) for name in self._numbered("energy")]
        power = np.stack([10**one.values for one in found], -1)
        final = np.stack([10**one.final for one in found], -1) if known is None else None
        ground = power[:, 0] if side == "estimate" and self.settings["from"] is None else None
        return emergence(power, final, self.logsnr, known, self._bootstrap(), ground, quantity)

    def predicted_emergence(self) -> np.ndarray:
        r"""Half-emergence of each band by theory, (bands,) in log-SNR: where :math:`\sum \lambda g = \sum \lambda / 2`.

        With the spectrum that the model knows itself to have, or else that of the final images: what a Gaussian with
        their spectrum would do.  NaN for bands without power.
        """
        return np.array(
            [band_half_emergence(v) if v.sum() > 0 else np.nan for v in self._variances("frequency")]
        )

    def predicted_gain(self) -> np.ndarray:
        r"""Where by theory each band's gain is one half, (bands,) in log-SNR: :math:`-\log` of the mean second moment."""
        moments = self._variances("gain", about_mean=False)
        return np.array([-np.log(v.mean()) if v.sum() > 0 else np.nan for v in moments])

    def _variances(self, measure: str, about_mean: bool = True) -> list[np.ndarray]:
        """The variances of the modes of each band: of the model's distribution, or else of the final images."""
        try:
            model: Any = self.model
        except TurningpointError:
            model = None  # it is not here: its images are
        known = model.fourier_variances() if hasattr(model, "fourier_variances") else None
        if known is None:
            images = self._of_ended("images")
            known = power_spectrum(images)
            if not about_mean:  # what the gain is of
                known = known + np.abs(np.fft.fft2(images.mean(0), norm="ortho")) ** 2
        return spectrum_bands(known, *self.store.attrs(f"readings/{measure}")["settings"].values())

    def gain(self) -> Emergence:
        """What the denoiser lets through of each frequency band, and where it is one half; see `measures.gain`."""
        if "gain" not in self.measured():
            raise TurningpointError(
                "the trace has not read 'gain'; give measures='gain' (--with gain) to trace."
            )
        count = len(self.store.attrs("readings/gain")["readings"]) // 2
        cross, inputs = (
            np.stack(
                [self.reading(f"gain.{stem}{b}")["along"].values.astype(float) for b in range(count)], -1
            )
            for stem in ("cross", "input")
        )
        alpha = self.schedule.alpha(self.t).numpy()
        return band_gain(cross, inputs, alpha, self.logsnr, self._bootstrap())

    def _numbered(self, stem: str) -> list[str]:
        if "frequency" not in self.measured():
            raise TurningpointError("the trace has not read 'frequency'; give measures='frequency' to trace.")
        known = self.store.attrs("readings/frequency")["readings"]
        return [str(r["name"]) for r in known if str(r["name"]).startswith(stem)]

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

    def association(self, features: Sequence[str] | None = None, **settings: Any) -> Association:
        """Which layers' activity goes with which feature's increments; see `turningpoint.statistics.association`.

        Items of one condition are compared with one another only.

        Raises
        ------
        TurningpointError
            If no layer was looked at.
        """
        known = self.activation_summaries()
        if known is None:
            raise TurningpointError(
                "the trace has looked at no layer; give activations= (--activations) to trace."
            )
        values, layers, summaries = known
        grown = {one.feature: one.values for one in self.all_series(features) if one.kind != "categorical"}
        return association(
            values, grown, self.logsnr, layers, summaries, groups=self._of_ended("condition"), **settings
        )

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


def open_trace(folder: str | Path, model: Any = None) -> Trace:
    """Open the trajectories in a folder.

    Parameters
    ----------
    folder : path
        What ``out=`` was.
    model : str or Denoiser, optional
        By default the run's model, loaded by its name when it is first needed.

    Raises
    ------
    TurningpointError
        If the folder holds no run, or one that is no trace.
    """
    store = Store.open(folder)
    if store.manifest["kind"] != "trace":
        raise TurningpointError(
            f"run is {str(folder)!r}, which holds a run of {store.manifest['kind']}; accepted: a run of trace."
        )
    found = Trace(store, None if model is None else load(model))
    if model is not None:
        found.check_model()
    return found


def is_trace(folder: str | Path) -> bool:
    """Whether a folder holds trajectories."""
    return (Store.read_manifest(folder) or {}).get("kind") == "trace"
