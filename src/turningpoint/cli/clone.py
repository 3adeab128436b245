"""``turningpoint clone``, ``difference``: clones of trajectories, and what they say of a model's errors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TurningpointError
from ..experiments.clone import clone as run_clone
from ..experiments.model_error import model_error
from ..run import open_run
from .analyse import measure_all
from .app import (
    Batch,
    Device,
    Json,
    With,
    app,
    label_of,
    listed,
    number,
    numbers,
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
    summary_of,
    told_measures,
)


@app.command()
def clone(
    model: Model,
    n: Annotated[int, typer.Option("--n", "--generate", help="Trunks.")] = 64,
    times: Annotated[
        str | None, typer.Option(help="Times t of parting: a:b:n, or by comma. [0.1:0.9:9]")
    ] = None,
    logsnr: Annotated[str | None, typer.Option(help="The same as log-SNR.")] = None,
    native: Annotated[str | None, typer.Option(help="The same in the model's native steps.")] = None,
    copies: Annotated[
        int, typer.Option("--copies", "--replicates", help="Clones of each trunk at each time.")
    ] = 1,
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
    shared_noise: Annotated[
        bool, typer.Option("--shared-noise", help="The trunk's draws after the parting; needs --renoise.")
    ] = False,
    renoise: Annotated[int, typer.Option(help="Steps by which a copy is noised up where it parts.")] = 0,
    trajectories: Annotated[
        bool, typer.Option("--trajectories", help="Keep the states through which the trunks come.")
    ] = False,
    out: Out = None,
    store: Stored = "float32",
    extend: Annotated[bool, typer.Option("--extend", help="Let a run in --out grow.")] = False,
    with_: With = None,
    ask: Ask = None,
    network: Network = None,
    classifier: Classifier = None,
    statistics: Statistics = None,
    layers: Layers = None,
    trust_program: TrustProgram = False,
    set_: Set = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Generate trunks from noise, and copies of them that part at several times and go on with noise of their own."""
    begun = time.monotonic()
    told = label_of(label)
    if isinstance(told, str):
        raise TurningpointError("--label is 'own'; accepted by clone: class indices, or none.")
    run = run_clone(
        model,
        n,
        times=numbers(times, "--times"),
        logsnr=numbers(logsnr, "--logsnr"),
        native=numbers(native, "--native"),
        copies=copies,
        sampler=sampler,
        steps=steps,
        grid=grid_of(grid),
        seed=seed,
        label=told,
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance=guidance,
        shared_noise=shared_noise,
        renoise=renoise,
        trajectories=trajectories,
        out=default_out(out, "clone", model, seed),
        store=store,
        extend=extend,
        batch=batch,
        device=device,
        **settings_of(set_),
    )
    asked = told_measures(ask, network, classifier, statistics, layers, trust_program)
    if with_ or asked:
        measure_all(run, listed(with_), asked)
    summary = summary_of(run, time.monotonic() - begun)
    if json:
        print_json(summary)
        return
    where = place(run.folder)
    typer.echo(
        f"{len(run.times)} times x {copies} clones of {n} trunks are in {where} ({summary['seconds']:.1f} s)."
    )
    typer.echo(
        f"Next: turningpoint measure {where}, turningpoint windows {where}, turningpoint report {where}"
    )


@app.command()
def difference(
    uturns: Annotated[Path, typer.Argument(help="The folder of a U-turn run.")],
    clones: Annotated[Path, typer.Argument(help="The folder of a clone run of the same model and times.")],
    json: Json = False,
) -> None:
    """What U-turns keep less what clones agree on: zero at every noise level for an exact denoiser."""
    table = model_error(open_run(uturns), open_run(clones))
    if json:
        print_json(table.to_dict("records"))
        return
    rows = [
        [
            str(r["feature"]),
            number(r["logsnr"]),
            number(r["uturn"], 3),
            number(r["clone"], 3),
            f"{number(r['difference'], 3)} [{number(r['low'], 3)}, {number(r['high'], 3)}]",
        ]
        for _, r in table.iterrows()
    ]
    print_table(
        "Retention of U-turns and of clones; their difference [95 % interval] is the model's error",
        ["feature", "log-SNR", "U-turns", "clones", "difference"],
        rows,
    )
