"""``turningpoint statistics``: what the layers of a classifier are like over a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TurningpointError
from ..experiments.statistics import collect_statistics, merge_statistics
from ..measures._layer_statistics import LayerStatistics
from .app import Device, Json, app, place, print_json, print_table
from .options import Classes, Fit, Layers, PerClass, Split, TrustProgram


@app.command()
def statistics(
    out: Annotated[Path, typer.Option(help="The Zarr group to make; the same command again continues.")],
    parts: Annotated[
        list[Path] | None, typer.Argument(help="With --merge: more of the parts.", show_default=False)
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="efficientnet-lite0, torchvision:NAME, timm:NAME, transformers:PATH, reference, ..."
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="A folder, zip, parquet, .npz or .npy. [with --model: the model's own]"),
    ] = None,
    layers: Layers = None,
    part: Annotated[str | None, typer.Option(help="k/n: the k-th of n parts, to be merged.")] = None,
    merge: Annotated[
        list[Path] | None, typer.Option("--merge", help="Merge parts: --merge a.zarr b.zarr --out all.zarr.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model whose own classifier --classifier reference is.")
    ] = None,
    classes: Classes = None,
    per_class: PerClass = None,
    items: Annotated[int | None, typer.Option(help="Take the first ones only.")] = None,
    split: Split = None,
    size: Annotated[
        int | None, typer.Option(help="Bring pictures to this height and width first. [the classifier does]")
    ] = None,
    fit: Fit = "crop",
    batch: Annotated[int, typer.Option(help="Images of a call of the network.")] = 16,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable pictures.")] = False,
    trust_program: TrustProgram = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Collect mean and variance of a classifier's layers over a data set, by which `layers` whitens."""
    if merge or parts:
        _only_parts(merge, classifier=classifier, images=images, part=part, model=model)
        found = merge_statistics([*(merge or []), *(parts or [])], out)
        _report(found, out, json, "merged")
        return
    if classifier is None or (images is None and model is None):
        missing = "--classifier" if classifier is None else "--images"
        raise TurningpointError(
            f"{missing} is not given; accepted: --classifier NAME --images DIR, or --merge PART PART."
        )
    there = out.expanduser().exists()
    found = collect_statistics(
        classifier,
        images,
        out,
        layers=layers,
        part=part,
        model=model,
        classes=classes,
        per_class=per_class,
        items=items,
        split=split,
        size=size,
        fit=fit,
        batch=batch,
        skip_bad=skip_bad,
        trust_program=trust_program,
        device=device,
    )
    _report(found, out, json, "was there" if there else "collected")


def _only_parts(merge: list[Path] | None, **given: Any) -> None:
    if not merge:
        raise TurningpointError("parts are given without --merge; accepted: --merge a.zarr b.zarr.")
    for name, value in given.items():
        if value is not None:
            raise TurningpointError(f"--{name} is given with --merge; accepted with it: parts and --out.")


def _report(found: LayerStatistics, out: Path, json: bool, how: str) -> None:
    counted, of = found.moments.images, found.images["count"]
    if json:
        print_json(
            {
                "statistics": place(out.absolute()),
                "how": how,
                "classifier": found.classifier.get("classifier"),
                "layers": [layer.name for layer in found.layers],
                "images": counted,
                "of": of,
                "skipped": found.skipped,
                "complete": found.complete,
            }
        )
        return
    rows = []
    for layer in found.layers:
        mean, variance = found.moments.mean(layer.name), found.moments.variance(layer.name)
        cells = [layer.form, str(layer.channels), f"{mean.mean():.4g}", f"{variance.mean() ** 0.5:.4g}"]
        rows.append([layer.name, *cells])
    title = f"Layers of {found.classifier.get('classifier')} over {counted} of {of} images"
    print_table(title, ["layer", "form", "channels", "mean", "standard deviation"], rows)
    if found.skipped:
        typer.echo(f"{len(found.skipped)} pictures could not be read and were left out.")
    whole = "all of them" if found.complete else "a part, to be merged with the others by --merge"
    said = {"was there": "was finished before", "merged": "is merged", "collected": "is finished"}[how]
    typer.echo(f"{place(out.absolute())} {said}: {whole}.")
