"""The index of an export: a row for every file, with all that the run knows of the picture in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..archive import spelled_out
from ..errors import TurningpointError
from ..run import Run

INDEX = "index.csv"
KEYS = ("file", "what", "item", "replicate", "t", "exact")
"""The columns from which all others follow."""

PARSED = 1e-12
"""How far, of its size, a number that was written as a decimal may come back from where it was."""


def known_rows(folder: Path, run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What an earlier export to this folder has written, as far as it is still there.

    Returns
    -------
    (DataFrame, DataFrame)
        The `KEYS` of files of items, replicates and times that the run holds; and whole rows of others, which it held
        when it was larger.

    Raises
    ------
    TurningpointError
        If another program's ``index.csv`` stands there.
    """
    path = folder / INDEX
    if not os.path.lexists(path):
        return pd.DataFrame(columns=KEYS), pd.DataFrame(columns=KEYS)
    try:
        known = pd.read_csv(path, keep_default_na=False, na_values=[""])
        known = known.astype({"item": "int64", "replicate": "Int64", "t": "float64", "exact": "bool"})
        there = known["file"].map(lambda name: os.path.isfile(folder / str(name))).astype(bool)
        known = known[there & known["what"].notna()]
    except (KeyError, TypeError, ValueError, OSError):
        raise TurningpointError(
            f"out is {str(folder)!r}, whose {INDEX!r} is not that of an export; accepted: a new folder."
        ) from None
    held = _held(known, run)
    return known.loc[held, list(KEYS)], known[~held]


def _held(known: pd.DataFrame, run: Run) -> pd.Series:
    """Which rows are of an item, and of a replicate and a time, that the run holds."""
    axes, shape = run.manifest["axes"], run.store.array("done").shape
    first = int(axes.get("first_item", 0))
    held = known["item"].between(first, first + shape[0] - 1)
    if len(shape) < 3:
        return held & known["t"].isna()
    first = int(axes.get("first_replicate", 0))
    replicate = known["replicate"].fillna(first).between(first, first + shape[1] - 1).astype(bool)
    asked = known["t"].to_numpy()[:, None]
    time: pd.Series = known["t"].isna() | np.isclose(asked, run.times, rtol=PARSED, atol=0).any(1)
    return held & replicate & time


def joined(known: pd.DataFrame, rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """The rows of earlier exports and of this one, each file once."""
    new = pd.DataFrame(rows, columns=KEYS)
    known = known[~known.file.isin(new.file)]
    filled = [part for part in (known, new) if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else new


def described(run: Run, table: pd.DataFrame, lacking: pd.DataFrame) -> pd.DataFrame:
    """The index with everything that the run knows, in the order of items, times and replicates.

    The rows of what the run lacks are added as they are.
    """
    axes = run.manifest["axes"]
    place = (table["item"] - axes.get("first_item", 0)).to_numpy(int)
    of_walk = table["t"].notna().to_numpy()
    replicate = (table["replicate"] - axes.get("first_replicate", 0)).fillna(0).to_numpy(int)
    time = np.zeros(len(table), dtype=int)
    if run.store.has("t"):
        order = np.argsort(run.store.read("t"))
        asked = table["t"].fillna(-1).to_numpy(float)
        time = np.abs(asked[:, None] - run.times).argmin(1)
        table["t"] = np.where(of_walk, run.times[time], np.nan)
        for clock in ("logsnr", "native"):
            table[clock] = np.where(of_walk, run.store.read(clock)[order][time], np.nan)
    for column, values in _of_items(run).items():
        if any(value is not None for value in values):
            table[column] = pd.Series([values[k] for k in place], index=table.index, dtype=object)
    for feature in run.features():
        reading = run.reading(feature)
        if reading.attrs["kind"] != "categorical":
            continue
        found = np.where(
            of_walk, reading["back"].values[place, replicate, time], reading["start"].values[place]
        )
        if "original" in reading:
            found = np.where(table["what"] == "original", reading["original"].values[place], found)
        table[feature] = _named(found, reading.attrs.get("values") or ())
    table["replicate"] = table["replicate"].astype("Int64")
    lacking = lacking[~lacking["file"].isin(table["file"])]
    if len(lacking):
        table = pd.concat([table, lacking.dropna(axis=1, how="all")], ignore_index=True)
    return table.sort_values(["item", "t", "replicate", "file"], na_position="first", ignore_index=True)


def _of_items(run: Run) -> dict[str, Sequence[Any]]:
    """Columns that belong to an item: its name, what the model was told, its own class."""
    axes = run.manifest["axes"]
    told = spelled_out(axes)
    columns: dict[str, Sequence[Any]] = {"name": axes.get("names", [])}
    for column, key in (
        ("prompt", "prompt"),
        ("negative_prompt", "negative_prompt"),
        ("told_label", "label"),
    ):
        columns[column] = [condition.get(key) for condition in told]
    if run.store.has("label"):
        classes = axes.get("classes", [])
        labels = [int(label) if label >= 0 else None for label in run.store.read("label")]
        columns["label"] = labels
        columns["label_name"] = [
            classes[label] if label is not None and label < len(classes) else None for label in labels
        ]
    return columns


def _named(found: np.ndarray, values: Sequence[str]) -> pd.Series:
    """Categories by their names, or numbers where they have none; what was not read is empty."""
    names = [None if k < 0 else values[k] if k < len(values) else int(k) for k in map(int, found)]
    return pd.Series(names, dtype=object)
