"""``turningpoint uturn``, ``generate``, ``repeat``, ``check``: commands that simulate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TurningpointError
from ..experiments.generate import generate as run_generate
from ..experiments.quality import quality as run_quality
from ..experiments.refine import refine as run_refine
from ..experiments.repeat import repeat as run_repeat
from ..experiments.step_check import step_check
from ..experiments.times import DEFAULT_TIMES, turn_times
from ..experiments.uturn import uturn as run_uturn
from ..models.settings import whole
from ..run import open_run
from ..tracing import is_trace, open_trace
from .analyse import asked_of_starts, measure_all
from .app import (
    Batch,
    Delta,
    Device,
    Json,
    RunFolder,
    With,
    app,
    label_of,
    listed,
    number,
    numbers,
    place,
    print_json,
    print_table,
    print_windows,
)
from .options import (
    Ask,
    Classes,
    Classifier,
    Fit,
    Grid,
    Guidance,
    Label,
    Layers,
    Model,
    NegativePrompt,
    Network,
    Out,
    PerClass,
    Prompt,
    Sampler,
    Seed,
    Set,
    Split,
    Statistics,
    Stored,
    TrustProgram,
    default_out,
    grid_of,
    settings_of,
    summary_of,
    told_measures,
)


@app.command()
def uturn(
    model: Model,
    times: Annotated[str | None, typer.Option(help="U-turn times t: a:b:n, or by comma. [0.1:0.9:9]")] = None,
    logsnr: Annotated[str | None, typer.Option(help="The same as log-SNR.")] = None,
    native: Annotated[str | None, typer.Option(help="The same in the model's native steps.")] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Starting images: a folder, zip, parquet, .npz or .npy. [the model's own]"),
    ] = None,
    generate: Annotated[
        int | None, typer.Option(help="Start from this many images that the model generates.")
    ] = None,
    trajectories: Annotated[
        bool, typer.Option("--trajectories", help="Keep the states through which generated images came.")
    ] = False,
    items: Annotated[
        int | None, typer.Option(help="Take the first ones only. [64 of the model's own, else all]")
    ] = None,
    classes: Classes = None,
    per_class: PerClass = None,
    fit: Fit = "crop",
    split: Split = None,
    first_item: Annotated[
        int, typer.Option(help="Number of the first image, for a part of a larger run.")
    ] = 0,
    replicates: Annotated[int, typer.Option(help="U-turns of each image at each time.")] = 1,
    sampler: Sampler = "ddpm",
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the full grid from t = 1 to 0. [the model's authors', else 50]"),
    ] = None,
    grid: Grid = None,
    seed: Seed = 0,
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance: Guidance = None,
    out: Out = None,
    store: Stored = "float32",
    extend: Annotated[bool, typer.Option("--extend", help="Let a run in --out grow.")] = False,
    refine: Annotated[int, typer.Option(help="Add this many times where they narrow the windows most.")] = 0,
    with_: With = None,
    ask: Ask = None,
    network: Network = None,
    classifier: Classifier = None,
    statistics: Statistics = None,
    layers: Layers = None,
    trust_program: TrustProgram = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable pictures.")] = False,
    set_: Set = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Noise starting images to several times and denoise them back."""
    begun = time.monotonic()
    run = run_uturn(
        model,
        images,
        times=numbers(times, "--times"),
        logsnr=numbers(logsnr, "--logsnr"),
        native=numbers(native, "--native"),
        replicates=replicates,
        sampler=sampler,
        steps=steps,
        grid=grid_of(grid),
        seed=seed,
        label=label_of(label),
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance=guidance,
        generate=generate,
        trajectories=trajectories,
        items=items,
        classes=classes,
        per_class=per_class,
        fit=fit,
        split=split,
        first_item=first_item,
        out=default_out(out, "uturn", model, seed),
        store=store,
        extend=extend,
        skip_bad=skip_bad,
        batch=batch,
        device=device,
        **settings_of(set_),
    )
    told = told_measures(ask, network, classifier, statistics, layers, trust_program)
    if with_ or refine or told:
        measure_all(run, listed(with_), told)
    if refine:
        # times that an earlier go of this command has added count: the same command again adds none
        asked = (
            DEFAULT_TIMES
            if times is logsnr is native is None
            else turn_times(
                run.schedule,
                numbers(times, "--times"),
                numbers(logsnr, "--logsnr"),
                numbers(native, "--native"),
            )
        )
        run = run_refine(
            run,
            max(0, whole("--refine", refine, 0) - len(run.times) + len(asked)),
            batch=batch,
            device=device,
        )
    summary = summary_of(run, time.monotonic() - begun)
    windows = run.windows() if run.features() else None
    if windows is not None:
        summary["windows"] = windows.to_dict("records")
    if json:
        print_json(summary)
        return
    sizes, skipped = summary["sizes"], summary.get("skipped", [])
    if skipped:
        typer.echo(f"{len(skipped)} of {len(skipped) + sizes['item']} pictures were left out.")
    typer.echo(
        f"{sizes['item']} images x {sizes['replicate']} replicates x {sizes['time']} times are in {place(run.folder)} "
        f"({summary['seconds']:.1f} s)."
    )
    if windows is not None:
        print_windows(windows, run.schedule.native_unit)
    else:
        typer.echo(f"Next: turningpoint measure {place(run.folder)}")


@app.command()
def generate(
    model: Model,
    n: Annotated[int, typer.Argument(help="How many images.")] = 16,
    sampler: Sampler = "heun",
    steps: Annotated[
        int | None, typer.Option(help="Steps from t = 1 to 0. [the model's authors', else 18]")
    ] = None,
    grid: Grid = None,
    seed: Seed = 0,
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance: Guidance = None,
    out: Out = None,
    store: Stored = "float32",
    set_: Set = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Generate images from noise."""
    begun = time.monotonic()
    told = label_of(label)
    if isinstance(told, str):
        raise TurningpointError("--label is 'own'; accepted by generate: class indices, or none.")
    run = run_generate(
        model, n, sampler=sampler, steps=steps, grid=grid_of(grid), seed=seed, label=told, guidance=guidance,
        prompt=prompt, negative_prompt=negative_prompt, out=default_out(out, "generate", model, seed), store=store,
        batch=batch, device=device,
        **settings_of(set_),
    )  # fmt: skip
    summary = summary_of(run, time.monotonic() - begun)
    if json:
        print_json(summary)
    else:
        typer.echo(f"{n} images are in {place(run.folder)} ({summary['seconds']:.1f} s).")


@app.command()
def quality(
    model: Model = "digits",
    n: Annotated[int, typer.Option(help="Images with labels, and as many without.")] = 2000,
    sampler: Sampler = "ddpm",
    steps: Annotated[int, typer.Option(help="Steps from t = 1 to 0.")] = 100,
    seed: Seed = 0,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """How good are a labelled model's samples, as its own classifier sees them?"""
    found = run_quality(model, n, sampler=sampler, steps=steps, seed=seed, batch=batch, device=device)
    if json:
        print_json(found)
        return
    shares = ", ".join(f"{share:.1%}" for share in found["shares"])
    typer.echo(f"{found['agreement']:.2%} of {n} labelled samples are classified as their label.")
    typer.echo(f"{found['sure']:.2%} of {n} unlabelled samples are classified with confidence above 0.9.")
    typer.echo(f"Shares of the classes among all unlabelled ones: {shares}.")


@app.command()
def repeat(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="The new run's folder. [RUN-repeat]")] = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Simulate a run again from its manifest, and compare."""
    target = out or run.with_name(run.resolve().name + "-repeat")
    again, apart = run_repeat(
        open_trace(run) if is_trace(run) else open_run(run), target, batch=batch, device=device
    )
    if json:
        print_json({"run": place(again.folder), "largest_difference": apart})
    else:
        typer.echo(f"The repetition is in {place(again.folder)}; its images differ by at most {apart:.3g}.")


@app.command()
def check(
    run: RunFolder, delta: Delta = 0.1, batch: Batch = 64, device: Device = None, json: Json = False
) -> None:
    """Do the windows depend on the step count? Simulate with twice the steps and compare."""
    table = step_check(asked_of_starts(run), delta, batch=batch, device=device)
    if json:
        print_json(table.to_dict("records"))
        return
    rows = [
        [
            str(r["feature"]),
            number(r["centre"]),
            number(r["centre_doubled"]),
            f"{number(r['difference'])} [{number(r['difference_low'])}, {number(r['difference_high'])}]",
            str(r["verdict"]),
        ]
        for _, r in table.iterrows()
    ]
    print_table(
        "Window centres (log-SNR) with the run's steps and twice as many",
        ["feature", "centre", "doubled", "difference [95 % interval]", "note"],
        rows,
    )
