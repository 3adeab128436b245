"""``turningpoint submit``: a study on a cluster."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TurningpointError
from ..scheduling import SCHEDULERS, Job, scripts
from ..scheduling import submit as hand_over
from .app import Json, app, print_json

SHARED = ("uturn", "clone", "generate", "trace", "patch")
"""Commands whose work several workers share."""

ROUNDS = {"slurm": 10, "pbs": 1}
"""How often a worker may start, by default: on PBS each round is one more job in the queue."""


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    commands: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND ... [-- COMMAND ...]",
            help="What the workers share, with --out; several commands by --, each with an --out of its own.",
        ),
    ],
    scheduler: Annotated[str, typer.Option(help="slurm or pbs.")] = "slurm",
    workers: Annotated[int, typer.Option(help="How many jobs share the work.")] = 8,
    hours: Annotated[float, typer.Option(help="Time limit of each.")] = 4.0,
    gpus: Annotated[int, typer.Option(help="Of each, which uses one.")] = 1,
    cpus: Annotated[int, typer.Option(help="Of each.")] = 4,
    memory: Annotated[str, typer.Option(help="Of each: 16G.")] = "16G",
    rounds: Annotated[
        int | None,
        typer.Option(help="How often a worker may start, to go on after its time limit. [10, with PBS 1]"),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", "--queue", help="Where to wait. [the cluster's usual one]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the job. [the first --out's]")] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="A line of bash before the commands: module load cuda; may be given again."),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help='A command after all workers have ended: "report runs/a"; may be given again.'),
    ] = None,
    print_: Annotated[
        bool, typer.Option("--print", help="Print the job scripts and do nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Let several jobs of a cluster share a simulation, and analyse it when they have ended.

    turningpoint submit --then "report runs/a" -- uturn digits --items 10000 --out runs/a
    """
    wanted, places = _split(commands), []
    for command in wanted:
        given = _read(command)
        out = given.get("out")
        if out is None:
            raise TurningpointError(
                f"the command {_shown(command)!r} has no --out; accepted: with the folder that the workers share."
            )
        if workers != 1 and command[0] not in SHARED:
            raise TurningpointError(
                f"workers is {workers} for {command[0]!r}; accepted: 1, or a command whose work is shared, "
                f"{', '.join(SHARED)}."
            )
        if workers != 1 and given.get("report"):
            warnings.warn(
                f"each of {workers} workers will write the report of {out}; add --no-report to the command, and "
                f'--then "report {shlex.quote(str(out))}" before it',
                stacklevel=2,
            )
        places.append(Path(out))
    for out in places:
        if places.count(out) > 1:
            raise TurningpointError(f"--out is {str(out)!r} twice; accepted: a folder for each command.")
    after = [_words(text) for text in then or []]
    for command in after:
        _read(command)
    job = Job(
        _named(places[0]) if name is None else name, wanted, workers, hours, gpus, cpus, memory, account, partition,
        setup or (), ROUNDS.get(scheduler, 1) if rounds is None else rounds,
    )  # fmt: skip
    if print_:
        found = scripts(job, after, scheduler)
        if json:
            print_json({"scripts": {str(path): text for path, text in found.items()}})
        else:
            typer.echo("\n".join(found.values()), nl=False)
        return
    paths, identifiers = hand_over(job, after, scheduler)
    if json:
        print_json({"scripts": paths, "jobs": identifiers})
        return
    typer.echo(
        f"{SCHEDULERS[scheduler]} has taken {' and '.join(map(str, paths))} as {', '.join(identifiers)}."
    )
    typer.echo(f"What they print goes to {paths[0].parent}; the same again continues what is not done.")


def _split(words: Sequence[str]) -> list[list[str]]:
    """Commands that are separated by ``--``.

    >>> _split(["--", "generate", "digits", "--", "uturn", "digits"])
    [['generate', 'digits'], ['uturn', 'digits']]
    """
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _words(text: str) -> list[str]:
    """The words of a command that is given as one text."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TurningpointError(f"--then is {text!r}, which cannot be read: {error}.") from None
    return words[1:] if words[:1] == ["turningpoint"] else words


def _read(command: Sequence[str]) -> dict[str, Any]:
    """The values of a command's arguments, read as the command itself would, or one sentence."""
    known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = command[0] if command else ""
    if name not in known or name == "submit":
        names = ", ".join(sorted(set(known) - {"submit"}))
        raise TurningpointError(f"the command is {name!r}; accepted: {names}.")
    try:
        with known[name].make_context(name, list(command[1:])) as context:
            return dict(context.params)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the parser's
            raise
        said = error.format_message().rstrip(".")
        raise TurningpointError(f"the command {_shown(command)!r} cannot be read: {said}.") from None


def _shown(command: Sequence[str]) -> str:
    return shlex.join(command)


def _named(out: Path) -> str:
    """A job's name from a folder's."""
    return re.sub(r"[^A-Za-z0-9_.-]|^[^A-Za-z0-9]", "-", out.name).lstrip("-_.")[:63] or "turningpoint"
