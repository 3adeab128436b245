r"""A trace: trajectories that were read while they were simulated, and what follows from the readings.

Arrays run along the trajectory, as generation does: log-SNR ascends, t falls.  With :math:`f_i(t)` what was read of the
estimate of trajectory i at time t and :math:`f_i` of its final image, `Trace.onsets` says when each feature has grown
by half and when it has settled, `Trace.emergence` when each frequency band has half of its power, and
`Trace.association` which layers' activity goes with which feature's growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .diffusion.denoiser import Denoiser
from .errors import TurningpointError
from .models import load
from .simulation.store import Store
from .statistics.association import FEWEST, Association, association
from .statistics.bootstrap import weights
from .statistics.emergence import Emergence, emergence
from .statistics.emergence import gain as band_gain
from .statistics.growth import curves
from .statistics.onset import item_times, onsets, order
from .theory.spectrum import band_half_emergence, power_spectrum
from .theory.spectrum import bands as spectrum_bands
from .trajectories import Trajectories


class Trace(Trajectories):
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
        self._associated: dict[Any, Association] = {}

    def _bootstrap(self) -> np.ndarray:
        if self._counts is None or self._counts.shape[1] != self.items:
            self._counts = weights(self.items)
        return self._counts

    # ---- when features grow

    def curves(
        self, features: Sequence[str] | None = None, side: str = "estimate", level: float = 0.95
    ) -> pd.DataFrame:
        """How far each feature has grown at each time, with its bootstrap band over trajectories, as a tidy table.

        Returns
        -------
        DataFrame
            ``feature, label, kind, t, logsnr, native, growth, low, high, items``; growth is 0 where a feature begins
            (or is absent) and 1 at its final value.
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

        Raises
        ------
        TurningpointError
            If ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise TurningpointError(f"level is {level}; accepted: between 0 and 1.")
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
        """Where by theory each band's gain is one half, (bands,): minus the log of the mean second moment."""
        moments = self._variances("gain", about_mean=False)
        return np.array([-np.log(v.mean()) if v.sum() > 0 else np.nan for v in moments])

    def _variances(self, measure: str, about_mean: bool = True) -> list[np.ndarray]:
        """The variances of the modes of each band: of the model's distribution, or else of the final images."""
        if measure not in self.measured():
            raise TurningpointError(
                f"the trace has not read {measure!r}; give measures={measure!r} (--with {measure}) to trace."
            )
        told = self.store.attrs(f"readings/{measure}")["settings"]
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
        return spectrum_bands(
            known, **({"edges": told["edges"]} if "edges" in told else {"count": told["bands"]})
        )

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
    def drivers(self) -> bool:
        """Whether layers were looked at in enough trajectories for `association`."""
        return bool(self.layers) and self.items >= FEWEST and bool(self.features())

    def association(
        self, features: Sequence[str] | None = None, within: str | None = None, **settings: Any
    ) -> Association:
        """Which layers' activity goes with which feature's increments; see `turningpoint.statistics.association`.

        Parameters
        ----------
        features : sequence of str, optional
            By default all that were read of the estimate.
        within : str, optional
            A category, such as ``"class"``: trajectories are compared with those only that end in the same one, so that
            what goes together through it alone is not counted.  Those of one condition are compared with one another
            only in any case.
        **settings
            Of `turningpoint.statistics.association.association`.

        Raises
        ------
        TurningpointError
            If no layer was looked at, there are too few trajectories, or ``within`` is no category that was read.
        """
        asked = (
            None if features is None else tuple(features),
            within,
            tuple(sorted(settings.items())),
            self.items,
        )
        if asked in self._associated:
            return self._associated[asked]
        known = self.activation_summaries()
        if known is None:
            raise TurningpointError(
                "the trace has looked at no layer; give activations= (--activations) to trace."
            )
        values, layers, summaries = known
        grown = {one.feature: one.values for one in self.all_series(features) if one.kind != "categorical"}
        groups = self._of_ended("condition")
        if within is not None:
            category = self.series(within)
            if category.kind != "categorical":
                raise TurningpointError(
                    f"within is {within!r}, a {category.kind}; accepted: a category, as class is."
                )
            groups = np.unique(np.stack([groups, category.final]), axis=1, return_inverse=True)[1]
        found = association(values, grown, self.logsnr, layers, summaries, groups=groups, **settings)
        self._associated[asked] = found
        return found


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
