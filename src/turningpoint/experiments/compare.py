r"""``compare``: when features grow in several runs, laid on one axis of log-SNR.

Models, samplers, step counts and guidance scales have clocks of their own; log-SNR is what they share.  For each
feature that all runs have read,

- its onset and settling in every run (see `turningpoint.statistics.onset`), and how much later they are in each run
  than in the first, item by item where the noise is shared (`turningpoint.statistics.shift`; the rule of sharing
  stands in `subjects`);
- its pooled growth :math:`G(\lambda)` on a common grid within the range that all runs cover, never beyond; and the
  difference to the first run's, see `apart`;
- how far apart the final images of paired items are, in root mean square, and how often an item's partner is the
  nearest of all: 1 says that both runs make the same pictures, chance is one over the number of items;
- what the layers of the network do otherwise, where both runs have looked at the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..diffusion.schedule import Schedule
from ..errors import TurningpointError, one_of
from ..simulation.store import sentences
from ..statistics.growth import Series
from ..statistics.onset import item_times, onsets
from ..statistics.shift import shift
from ..tracing import Trace
from ..trajectories import SIDES
from .apart import activations_apart, growth_apart, growth_on, images_apart, images_shown
from .planning import differences
from .subjects import Shared, Subject, described, labelled, shared, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 101
"""Of the common grid, both ends included."""
QUANTITIES = ("onset", "settled")
FAR = 0.5
"""Log-SNRs further apart than this are other beginnings: growth along half a unit of pure noise is hardly any."""
COARSE = 2.0
"""A run whose times are so many times further apart is not as sharp."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    labels : tuple of str
        Of the runs; the others are compared with the first.
    features : tuple of str
        What all runs have read, in the first run's order.
    schedule : Schedule
        The first run's clock.
    one_clock : bool
        Whether all runs have it.
    onsets : DataFrame
        ``run`` and the columns of `turningpoint.statistics.onset.onsets`: a row per run and feature.
    shifts : DataFrame
        ``run``, ``feature``, ``label``, ``quantity`` (onset, settled); ``difference`` to the first run in log-SNR with
        ``low`` and ``high``, ``later`` (a probability), ``p``, ``q`` (Benjamini & Hochberg over the table),
        ``paired``, ``items``.
    growth : DataFrame
        ``run``, ``feature``, ``label``, ``logsnr``, ``growth``, ``low``, ``high`` on the common grid.
    apart : DataFrame
        ``run``, ``feature``, ``label``, ``logsnr``, ``difference`` of growth to the first run's, ``low``, ``high``, at
        the times of whichever of the two has recorded fewer.
    settings : DataFrame
        ``run``, ``differs``: a setting in which it differs from the first run, with both values.
    images : DataFrame
        ``run``, ``items``, ``distance`` of paired final images (median root mean square), ``strangers`` (the same to
        other items' images), ``nearest`` (in which share of items the partner is nearer than all others).
    activations : DataFrame
        ``run`` and the columns of `turningpoint.statistics.paired.difference`, of the run less the first; may be empty.
    notes : tuple of str
        What could not be compared, and why.
    runs : DataFrame
        A row per run: ``run``, ``model``, ``fingerprint``, ``items``, ``times``, the lowest and the highest log-SNR
        ``low`` and ``high``, ``folder``, ``command``.
    shown : mapping of label to (items, array (n, C, H, W), array (n, C, H, W))
        The first few paired final images, of the first run and of another one; without those that are not paired.
    """

    labels: tuple[str, ...]
    features: tuple[str, ...]
    schedule: Schedule
    one_clock: bool
    onsets: pd.DataFrame
    shifts: pd.DataFrame
    growth: pd.DataFrame
    apart: pd.DataFrame
    settings: pd.DataFrame
    images: pd.DataFrame
    activations: pd.DataFrame
    notes: tuple[str, ...]
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    shown: Mapping[str, tuple[Sequence[int], np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<comparison of {', '.join(self.labels)}: {len(self.features)} features in common>"

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name, without the empty ones."""
        names = ("runs", "onsets", "shifts", "growth", "apart", "settings", "images", "activations")
        found = {name: getattr(self, name) for name in names}
        return {name: table for name, table in found.items() if len(table)}

    def pictures(self) -> dict[str, tuple[Figure, pd.DataFrame, str]]:
        """The figures by name, each with the table it shows and with what a reader who cannot see it is told."""
        from ..figures.activity import activity_difference
        from ..figures.compare import difference, growth, onsets
        from ..figures.pairs import pairs, pairs_table

        clock, first = self.schedule if self.one_clock else None, self.labels[0]
        runs = ", ".join(self.labels)
        found = {
            "onsets": (onsets(self.onsets, clock), self.onsets, f"When features have grown in {runs}"),
            "growth": (growth(self.growth, clock), self.growth, f"Growth of features in {runs}"),
        }
        for k, label in enumerate(self.labels[1:], 2):
            name = "" if len(self.labels) == 2 else f"-{k}"
            part = self.apart[self.apart["run"] == label]
            part = part.set_index("feature").loc[self.by_onset()].reset_index()[part.columns]
            if np.isfinite(part["difference"].to_numpy(float)).any():
                about = f"Growth in {label} less growth in {first}"
                found[f"difference{name}"] = difference(part, (label, first), clock), part, about
            part = self.activations[self.activations["run"] == label]
            if len(part) and np.isfinite(part["standardised"].to_numpy(float)).any():
                about = f"What layers do in {label} less what they do in {first}"
                found[f"activity{name}"] = (
                    activity_difference(part, self.schedule, (label, first)),
                    part,
                    about,
                )
            if label in self.shown:
                items, *both = self.shown[label]
                images = dict(zip((first, label), both, strict=True))
                about = f"Final images of the same items in {first} and {label}, and their difference"
                found[f"images{name}"] = pairs(images, items), pairs_table(images, items), about
        return found

    def by_onset(self) -> list[str]:
        """The features in the order of the first run's onsets."""
        first = self.onsets[self.onsets["run"] == self.labels[0]]
        return [str(name) for name in first.sort_values(["onset", "settled"], kind="stable")["feature"]]

    def save(self, folder: str | Path) -> list[Path]:
        """Write the tables as CSV, and the figures as SVG and PDF with what they were drawn from.

        Parameters
        ----------
        folder : path
            Made if it does not exist; files of the same names are replaced.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        TurningpointError
            If the folder is a run's, or cannot be written.
        """
        from ..figures.save import save

        place = Path(folder)
        paths = self.save_tables(place)
        with sentences(place):
            for name, (figure, table, _) in self.pictures().items():
                paths += save(figure, table, place / "figures", name)
        return paths

    def save_tables(self, folder: str | Path) -> list[Path]:
        """Write the tables alone, as `save` does."""
        place = Path(folder)
        if (place / "manifest.json").exists():
            raise TurningpointError(f"out is {str(place)!r}, which holds a run; accepted: another folder.")
        with sentences(place):
            place.mkdir(parents=True, exist_ok=True)
            paths = [place / f"{name}.csv" for name in self.tables()]
            for path, table in zip(paths, self.tables().values(), strict=True):
                table.to_csv(path, index=False, lineterminator="\n")
        return paths


def compare(
    *runs: Trace | Subject | str | Path,
    labels: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    of: str = "estimate",
) -> Comparison:
    """Lay runs of `trace` on one axis of log-SNR, and compare each with the first.

    Parameters
    ----------
    *runs : Trace or path
        Two or more: other models, samplers, step counts, guidance scales, prompts.
    labels : sequence of str, optional
        What to call them; by default the ends of their folders' names.
    features : sequence of str, optional
        Which readings; by default all that the runs have in common.
    of : str
        Readings of what: ``estimate`` or ``state``.

    Returns
    -------
    Comparison
        Its tables, and ``save`` for these and the figures.

    Raises
    ------
    TurningpointError
        If there are fewer than two runs, one is no trace, is not complete or is given twice, or they share no
        feature or no range of log-SNR.

    Examples
    --------
    >>> import turningpoint as tp
    >>> few, more = (tp.trace("digits", 4, measures="color", steps=s, progress=None) for s in (4, 6))
    >>> found = compare(few, more, labels=["few", "more"])
    >>> found.settings["differs"].tolist()
    ['grid.steps (4, now 6)']
    >>> bool(found.shifts["paired"].all())  # seeds and shapes are equal, so item i has the same noise in both
    True
    """
    if len(runs) < 2:
        raise TurningpointError(f"runs holds {len(runs)}; accepted: two or more.")
    if of not in SIDES:
        raise one_of("of", of, SIDES)
    subjects = _subjects(runs, labels, of)
    first, *others = subjects
    series, notes = _common(subjects, features)
    low, high = _range(subjects)
    grid = np.linspace(low, high, POINTS)
    company = [shared(first, other) for other in others]
    notes += [
        f"{other.label} is not paired with {first.label}: {pairs.reason}"
        for other, pairs in zip(others, company, strict=True)
        if not pairs
    ]
    notes += _axes_differ(subjects)
    rest = list(zip(others, series[1:], company, strict=True))
    layers = [(other.label, *activations_apart(first, other, pairs)) for other, _, pairs in rest]
    notes += [f"activations of {label} are not compared: {reason}" for label, _, reason in layers if reason]
    clocks = {str(one.schedule.config()) for one in subjects}
    return Comparison(
        labels=tuple(one.label for one in subjects),
        features=tuple(one.feature for one in series[0]),
        schedule=first.schedule,
        one_clock=len(clocks) == 1,
        onsets=_stacked((s.label, onsets(read, s.logsnr)) for s, read in zip(subjects, series, strict=True)),
        shifts=_corrected(_stacked((o.label, _shifts(first, series[0], o, read, p)) for o, read, p in rest)),
        growth=_stacked(
            (s.label, growth_on(grid, s, read)) for s, read in zip(subjects, series, strict=True)
        ),
        apart=_stacked((o.label, growth_apart(first, series[0], o, read, p)) for o, read, p in rest),
        settings=_stacked((o.label, _differs(first, o)) for o in others),
        images=_stacked((o.label, images_apart(first, o, pairs)) for o, _, pairs in rest),
        activations=_stacked((label, table) for label, table, _ in layers),
        notes=tuple(notes),
        runs=pd.DataFrame([described(one) for one in subjects]),
        shown={o.label: seen for o, _, pairs in rest if (seen := images_shown(first, o, pairs)) is not None},
    )


def _subjects(
    runs: Sequence[Trace | Subject | str | Path], labels: Sequence[str] | None, of: str
) -> list[Subject]:
    opened = [run for run in runs if not isinstance(run, Subject)]
    if len(opened) == len(runs):
        return [subject(run, name, of) for run, name in zip(opened, labelled(opened, labels), strict=True)]
    found = [
        run if isinstance(run, Subject) else subject(run, f"run {k}", of) for k, run in enumerate(runs, 1)
    ]
    return found if labels is None else [replace(s, label=n) for s, n in zip(found, labels, strict=True)]


def _common(
    subjects: Sequence[Subject], features: Sequence[str] | None
) -> tuple[list[list[Series]], list[str]]:
    """The readings that all runs have, run by run in the same order; and what was left out."""
    known = [{one.feature: one for one in subject.series} for subject in subjects]
    everywhere = [name for name in known[0] if all(name in read for read in known)]
    notes, alike = [], []
    for name in everywhere:
        kinds = {(read[name].kind, read[name].label, read[name].unit, read[name].absent) for read in known}
        if len(kinds) == 1:
            alike.append(name)
        else:
            labels = dict.fromkeys(read[name].label for read in known)
            told = " and ".join(
                labels if len(labels) > 1 else dict.fromkeys(_described(read[name]) for read in known)
            )
            notes.append(f"{name} is left out: it is not the same in all runs ({told})")
    if not alike and notes:
        raise TurningpointError(f"the runs have no feature in common: {'; '.join(notes)}.")
    if not alike:
        names = "; ".join(
            f"{s.label} has {', '.join(sorted(read))}" for s, read in zip(subjects, known, strict=True)
        )
        raise TurningpointError(f"the runs have no feature in common: {names}.")
    chosen = alike if features is None else list(dict.fromkeys(features))
    for name in chosen:
        if name not in alike:
            raise one_of("features", name, alike)
    elsewhere = sorted({name for read in known for name in read} - set(everywhere))
    if elsewhere and features is None:
        notes.append(f"not read in all runs: {', '.join(elsewhere)}")
    return [[read[name] for name in chosen] for read in known], notes


def _described(one: Series) -> str:
    """A reading that differs from another in more than its label.

    >>> nothing = np.zeros((1, 1)), np.zeros(1)
    >>> _described(Series("color.contrast", "contrast", "scalar", "", *nothing, absent=0.0))
    'contrast absent at 0'
    """
    absent = "never absent" if one.absent is None else f"absent at {one.absent:g}"
    return " ".join(filter(None, [one.label, one.unit and f"in {one.unit},", f"{absent}"]))


def _range(subjects: Sequence[Subject]) -> tuple[float, float]:
    """The log-SNRs that all runs cover."""
    spans = [(axis.min(), axis.max()) for s in subjects for axis in [s.logsnr[np.isfinite(s.logsnr)]]]
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low >= high:
        told = ", ".join(f"{s.label} {a:.2f} to {b:.2f}" for s, (a, b) in zip(subjects, spans, strict=True))
        raise TurningpointError(f"the runs share no range of log-SNR: {told}.")
    return float(low), float(high)


def _axes_differ(subjects: Sequence[Subject]) -> list[str]:
    """Remarks on runs that begin at other noise, from where what is never absent grows, or step far more coarsely."""
    begins, notes = [s.logsnr[0] for s in subjects], []
    if not np.allclose(begins, begins[0], atol=FAR):
        told = ", ".join(f"{s.label} at {begin:.2f}" for s, begin in zip(subjects, begins, strict=True))
        notes.append(f"features that are never absent grow from where a run begins, in log-SNR {told}")
    steps = [float(np.median(np.diff(s.logsnr[np.isfinite(s.logsnr)]))) for s in subjects]
    if max(steps) > COARSE * min(steps):
        told = ", ".join(f"{s.label} {step:.2f}" for s, step in zip(subjects, steps, strict=True))
        notes.append(
            f"onsets lie on straight lines between recorded times, which are apart in log-SNR {told}"
        )
    return notes


def _stacked(parts: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Tables of several runs as one, with the run in front."""
    tables = [table.assign(run=label)[["run", *table.columns]] for label, table in parts if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"run": []})


def _differs(first: Subject, other: Subject) -> pd.DataFrame:
    return pd.DataFrame({"differs": differences(first.settings, other.settings)})


def _shifts(
    first: Subject, read: Sequence[Series], other: Subject, again: Sequence[Series], pairs: Shared
) -> pd.DataFrame:
    rows = []
    for a, b in zip(read, again, strict=True):
        known = zip(QUANTITIES, item_times(a, first.logsnr), item_times(b, other.logsnr), strict=True)
        for quantity, before, after in known:
            x, y = (before[pairs.first], after[pairs.second]) if pairs else (before, after)
            found = shift(x, y, paired=bool(pairs))
            rows.append(
                {"feature": a.feature, "label": a.label, "quantity": quantity, "difference": found.difference,
                 "low": found.low, "high": found.high, "later": found.later, "p": found.p,
                 "paired": bool(pairs), "items": found.items}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """With ``q`` by Benjamini & Hochberg (1995) over all rows that have p."""
    from scipy.stats import false_discovery_control

    p = table["p"].to_numpy(float)
    q, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    table.insert(int(table.columns.get_loc("p")) + 1, "q", q)  # type: ignore[arg-type]
    return table
