"""``turningpoint patch``: change a layer for some steps, and see what becomes of the final image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ..errors import TurningpointError
from ..experiments.effects import effects, measures_of
from ..experiments.patch import patch as run_patch
from ..experiments.patch import steps_inside, window_of
from ..experiments.verdicts import check_watched, summary_of_verdicts
from ..figures.effects import spoken
from ..hooks import matching, trunk_of
from ..models import fingerprint, load
from ..models.settings import whole
from ..patch_report import Findings, judged, patch_report, predictions, remember
from ..run import Run
from ..tracing import open_trace
from .app import (
    Batch,
    Device,
    Json,
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
    summary_of,
    told_measures,
)


@app.command()
def patch(
    model: Model,
    layer: Annotated[
        list[str],
        typer.Option("--layer", help='A layer\'s name or pattern: "mid_block"; may be given again.'),
    ],
    window: Annotated[str | None, typer.Option(help="The times t in which it is changed: a:b.")] = None,
    logsnr_window: Annotated[
        str | None, typer.Option(help="The same as log-SNR: --logsnr-window=-2:1.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="ablate, mean, skip, scale:NUMBER, or patch (with a donor).")
    ] = "ablate",
    n: Annotated[int, typer.Option("--generate", "--n", help="How many images.")] = 64,
    donor_label: Annotated[
        str | None, typer.Option(help="The donor's class, or none. [the same as --label]")
    ] = None,
    donor_prompt: Annotated[
        list[str] | None, typer.Option("--donor-prompt", help="The donor's prompt. [the same as --prompt]")
    ] = None,
    donor_seed: Annotated[int | None, typer.Option(help="Of the donor's noise. [the same noise]")] = None,
    sampler: Sampler = "heun",
    steps: Annotated[
        int | None, typer.Option(help="Steps from t = 1 to 0. [the model's authors', else 50]")
    ] = None,
    grid: Grid = None,
    seed: Seed = 0,
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance: Guidance = None,
    first_item: Annotated[
        int, typer.Option(help="Number of the first image, for a part of a larger run.")
    ] = 0,
    beside: Annotated[
        Path | None, typer.Option(help="A trace of the same layer: was what changed what it had predicted?")
    ] = None,
    with_: With = None,
    ask: Ask = None,
    network: Network = None,
    classifier: Classifier = None,
    statistics: Statistics = None,
    layers: Layers = None,
    trust_program: TrustProgram = False,
    out: Out = None,
    store: Stored = "float32",
    set_: Set = None,
    batch: Batch = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Ablate or patch a layer in a window of steps, with equal noise, and measure the effect on each feature."""
    begun = time.monotonic()
    told = label_of(label)
    if isinstance(told, str):
        raise TurningpointError("--label is 'own'; accepted by patch: class indices, or none.")
    loaded = load(model)
    options = told_measures(ask, network, classifier, statistics, layers, trust_program)
    named = listed(with_) or None
    asked = measures_of(named, loaded, options)  # a mistake is told before anything is simulated
    if whole("generate", n) < 2:
        raise TurningpointError(
            f"generate is {n}; accepted: at least 2, as effects are measured by how far others are."
        )
    if not any(one.against == "final" for one in asked):
        raise TurningpointError(
            f"--with is {with_!r}, which reads no final images; accepted: others, such as color."
        )
    known = None if beside is None else predictions(open_trace(beside), loaded.name, fingerprint(loaded))
    if known is not None:
        check_watched(known, [name for names in matching(trunk_of(loaded), layer, "layer") for name in names])
    run = run_patch(
        loaded,
        layer,
        _ends(window, "--window"),
        n,
        logsnr_window=_ends(logsnr_window, "--logsnr-window"),
        mode=mode,
        donor=_donor(donor_label, donor_prompt, donor_seed),
        sampler=sampler,
        steps=steps,
        grid=grid_of(grid),
        seed=seed,
        label=told,
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance=guidance,
        first_item=first_item,
        out=default_out(out, "patch", model, seed),
        store=store,
        batch=batch,
        device=device,
        **settings_of(set_),
    )
    table = effects(run, asked)
    said = None if known is None else judged(run, table, known)
    remember(run, named, options, beside)
    page = patch_report(run, found=Findings(table, said, str(beside or "")))
    seconds = time.monotonic() - begun
    if json:
        summary = summary_of(run, seconds) | run.settings["patch"] | {"steps_inside": steps_inside(run)}
        summary |= {"effects": table.to_dict("records"), "report": place(page)}
        print_json(summary if said is None else summary | {"verdicts": said.to_dict("records")})
        return
    typer.echo(f"{n} images, each with and without the change, are in {place(run.folder)} ({seconds:.1f} s).")
    _print_effects(run, table)
    typer.echo(spoken(table))
    if said is not None:
        typer.echo(f"\n{summary_of_verdicts(said, table, window_of(run))}")
        for verdict, rows in said.groupby("verdict", sort=False):
            typer.echo(f"\n{str(verdict).capitalize()}:")
            for sentence in rows["sentence"]:
                typer.echo(f"  {sentence}")
    typer.echo(f"\nLook at {place(page)}.")


def _ends(text: str | None, option: str) -> tuple[float, float] | None:
    """The two ends of a window from ``a:b``."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise TurningpointError(f"{option} is {text!r}; accepted: a:b, two numbers.") from None
    return low, high


def _donor(label: str | None, prompt: list[str] | None, seed: int | None) -> dict[str, Any] | None:
    """In what the donor differs, or None if nothing is said of one."""
    donor: dict[str, Any] = {} if label is None else {"label": label_of(label)}
    donor |= {} if not prompt else {"prompt": prompt}
    donor |= {} if seed is None else {"seed": seed}
    if donor.get("label") == "own":
        raise TurningpointError("--donor-label is 'own'; accepted: class indices, or none.")
    return donor or None


def _print_effects(run: Run, table: pd.DataFrame) -> None:
    rows = []
    for one in table.to_dict("records"):
        cells = [str(one["feature"]), number(one["clean"], 3), number(one["changed"], 3)]
        cells.append(_with_interval(one, "standardised"))
        cells += [number(one["q"], 4), _with_interval(one, "moved")]
        cells += [_with_interval(one, "towards")] if "towards" in one else []
        rows.append([*cells, str(one["note"])])
    columns = ["feature", "clean", "changed", "shift (sd)", "q", "moved"]
    columns += ["towards donor"] if "towards" in table else []
    how = run.settings["patch"]
    low, high = how["window"]
    start, end = window_of(run)
    inside, steps = steps_inside(run)
    shown = ", ".join(how["layers"][:3]) + (", ..." if len(how["layers"]) > 3 else "")
    title = (
        f"Effects of {how['mode']} on {shown} for t in {low:g}:{high:g}, log-SNR {start:.2f} to {end:.2f} ({inside} of "
        f"{steps} steps) [95 % interval]; moved: 0 nothing, 1 as far as another image"
    )
    print_table(title, [*columns, "note"], rows)


def _with_interval(row: dict[Any, Any], name: str) -> str:
    if row[name] != row[name]:
        return "–"
    return f"{number(row[name])} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"
