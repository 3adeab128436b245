"""``turningpoint trace``, ``onset``: how features grow along whole trajectories."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import pandas as pd
import typer

from ..errors import TurningpointError, one_of
from ..experiments.along import USUAL
from ..experiments.trace import trace as run_trace
from ..tracing import Trace, open_trace
from ..trajectories import SIDES
from .app import (
    Batch,
    Device,
    Json,
    RunFolder,
    With,
    app,
    label_of,
    listed,
    number,
    place,
    print_json,
    print_table,
)
from .options import (
    Ask,
    Classifier,
    Grid,
    Guidance,
    Label,
    Layers,
    Model,
    NegativePrompt,
    Network,
    Out,
    Prompt,
    Sampler,
    Seed,
    Set,
    Statistics,
    Stored,
    TrustProgram,
    default_out,
    grid_of,
    settings_of,
    told_measures,
)

Of = Annotated[str, typer.Option(help="What is read: estimate, state, or both by comma.")]


@app.command()
def trace(
    model: Model,
    generate: Annotated[
        int | None, typer.Option(help="Trajectories from pure noise. [64, without --images]")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Start from noised images instead: a folder, zip, parquet, .npz or .npy."),
    ] = None,
    from_time: Annotated[
        float | None, typer.Option("--from", help="The time t to which --images are noised.")
    ] = None,
    items: Annotated[int | None, typer.Option(help="Take the first ones of --images only.")] = None,
    first_item: Annotated[
        int, typer.Option(help="Number of the first trajectory, for a part of a study.")
    ] = 0,
    sampler: Sampler = "heun",
    steps: Annotated[
        int | None, typer.Option(help="Steps from t = 1 to 0. [the model's authors', else 50]")
    ] = None,
    grid: Grid = None,
    every: Annotated[int, typer.Option(help="Record each so-many-th step only.")] = 1,
    seed: Seed = 0,
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance: Guidance = None,
    with_: With = None,
    of: Of = "estimate",
    activations: Annotated[
        list[str] | None,
        typer.Option("--activations", help='Layers to look into: "up_blocks.*"; may be given again.'),
    ] = None,
    keep: Annotated[str, typer.Option(help="Keep whole: state, estimate, activations, by comma.")] = "",
    within: Annotated[
        str | None,
        typer.Option(
            help="Compare layers and features among trajectories of one category: class. [of one condition]"
        ),
    ] = None,
    ask: Ask = None,
    network: Network = None,
    classifier: Classifier = None,
    statistics: Statistics = None,
    layers: Layers = None,
    trust_program: TrustProgram = False,
    out: Out = None,
    store: Stored = "float32",
    report: Annotated[bool, typer.Option(help="Write RUN/report.html with figures and tables.")] = True,
    set_: Set = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Follow whole trajectories: when does each feature of the estimate grow, and what do layers do meanwhile?"""
    begun = time.monotonic()
    _check_within(within, activations, listed(with_) or USUAL)
    run = run_trace(
        model,
        generate,
        images,
        measures=listed(with_) or None,
        of=of,
        activations=activations,
        keep=listed(keep),
        every=every,
        from_time=from_time,
        sampler=sampler,
        steps=steps,
        grid=grid_of(grid),
        seed=seed,
        label=label_of(label),
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance=guidance,
        items=items,
        first_item=first_item,
        out=default_out(out, "trace", model, seed),
        store=store,
        batch=batch,
        device=device,
        told=told_measures(ask, network, classifier, statistics, layers, trust_program),
        **settings_of(set_),
    )
    seconds = time.monotonic() - begun
    page = None
    if report and run.features():
        from ..trace_report import trace_report

        page = trace_report(run, within=within)
    if json:
        summary = {"run": place(run.folder), "kind": run.kind, "model": run.settings["model"]["name"]}
        summary |= {
            "seconds": round(seconds, 3),
            "items": run.items,
            "logsnr": run.logsnr,
            "complete": run.complete,
        }
        print_json(summary | _found(run, within) | {"report": place(page)})
        return
    typer.echo(f"{run.items} trajectories x {len(run.t)} times are in {place(run.folder)} ({seconds:.1f} s).")
    if run.features():
        _print_onsets(run.onsets(), run.schedule.native_unit)
        if run.bands():
            _print_bands(run)
        if run.drivers:
            _print_drivers(run, within)
    if page is not None:
        typer.echo(f"Look at {place(page)}.")


@app.command()
def onset(
    run: RunFolder,
    of: Annotated[str, typer.Option(help="Of the estimate or of the state.")] = "estimate",
    features: Annotated[str | None, typer.Option(help="Which, by comma. [all]")] = None,
    json: Json = False,
) -> None:
    """Print when each feature has grown by half and when it has settled, earliest first, and in which order."""
    opened = open_trace(run)
    if of not in SIDES:
        raise one_of("of", of, SIDES)
    chosen = list(dict.fromkeys(listed(features))) or None
    table = opened.onsets(chosen, of)
    before = opened.order(list(table["feature"]), of)
    if json:
        print_json({"run": place(opened.folder), "onsets": table.to_dict("records"),
                    "order": before.to_dict("records")})  # fmt: skip
        return
    _print_onsets(table, opened.schedule.native_unit)
    _print_order(table, before)


def _check_within(within: str | None, activations: list[str] | None, measures: Sequence[str]) -> None:
    """Say before hours of simulation what would be said after them."""
    if within is None:
        return
    if not activations:
        raise TurningpointError(
            f"within is {within!r}, but no layers are named; accepted: with --activations."
        )
    names = [named.partition("?")[0].rpartition(":")[2] for named in measures]
    if within.partition(".")[0] not in names:
        raise TurningpointError(
            f"within is {within!r}, which is not read; accepted: a category of one of {', '.join(names)}."
        )


def _found(run: Trace, within: str | None) -> dict[str, Any]:
    """What follows from the readings, as far as there are any."""
    found: dict[str, Any] = {}
    if run.features():
        found["onsets"] = run.onsets().to_dict("records")
    if run.bands():
        emergence, predicted = run.emergence(), run.predicted_emergence()
        found["emergence"] = [
            {"band": label, **emergence.row(k), "theory": predicted[k]} for k, label in enumerate(run.bands())
        ]
    if run.drivers:
        found["association"] = run.association(within=within).table().to_dict("records")
    return found


def _print_onsets(table: pd.DataFrame, native_unit: str) -> None:
    rows = []
    for _, one in table.iterrows():
        cells = [str(one["feature"])]
        for column in ("onset", "settled"):
            low, high = number(one[f"{column}_low"]), number(one[f"{column}_high"])
            cells.append(f"{number(one[column])} [{low}, {high}]")
            cells.append(f"{number(one[f'{column}_q25'])} to {number(one[f'{column}_q75'])}")
        cells.append(number(one["onset_t"], 3))
        cells += [] if native_unit == "t" else [number(one["onset_native"], 1)]
        rows.append([*cells, str(one["note"])])
    spread = "half of the samples"
    columns = ["feature", "half grown", spread, "settled", spread, "onset (t)"]
    columns += [] if native_unit == "t" else [f"onset ({native_unit})"]
    title = "Onsets in log-SNR, medians over samples [95 % interval]; from top to bottom as noise becomes an image"
    print_table(title, [*columns, "note"], rows, spare=[spread])


def _print_order(table: pd.DataFrame, before: pd.DataFrame) -> None:
    """Neighbours in the order of onsets, with the probability that the first comes before the second."""
    features = [str(feature) for feature in table["feature"]]
    known = {(r["before"], r["after"]): r for r in before.to_dict("records")}
    rows = []
    for a, b in pairwise(features):
        one = known.get((a, b))
        if one is not None and math.isfinite(one["probability"]):
            rows.append(
                [f"{a} before {b}", f"{one['probability']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"]
            )
    if rows:
        print_table("In how many samples one onset precedes the next", ["order", "share of samples"], rows)


def _print_bands(run: Trace) -> None:
    """Half-emergence of the bands, beside what the data's spectrum predicts."""
    found, predicted = run.emergence(), run.predicted_emergence()
    rows = []
    for k, label in enumerate(run.bands()):
        one = found.row(k)
        cells = [f"{number(one['half'])} [{number(one['half_low'])}, {number(one['half_high'])}]"]
        rows.append([label, *cells, number(one["half_error"], 3), number(predicted[k])])
    title = "Where half of a band's power has come, in log-SNR; by theory if the data were Gaussian with their spectrum"
    print_table(title, ["band", "measured", "standard error", "theory"], rows)


def _print_drivers(run: Trace, within: str | None, most: int = 12) -> None:
    """The pairs of layer and feature that go together most surely."""
    table = run.association(within=within).table()
    strong = table[table["significant"]].sort_values("r", key=abs, ascending=False)
    rows = [
        [str(one["layer"]), str(one["summary"]), str(one["feature"]), f"{one['r']:+.2f}", number(one["logsnr"]),
         f"{one['q']:.3g}", f"{one['family']:.3g}"]
        for one in strong.head(most).to_dict("records")
    ]  # fmt: skip
    tested = int(table["p"].notna().sum())
    title = (
        f"Layers whose activity goes with a feature's growth: {len(strong)} of {tested} pairs are significant"
    )
    if not rows:
        typer.echo(f"{title}.")
        return
    print_table(title, ["layer", "summary", "feature", "r", "log-SNR", "q", "family"], rows)
