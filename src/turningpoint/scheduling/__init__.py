"""Runs on a cluster: a job array whose tasks give the same command, and a job for the analysis after it.

Workers of one run need no coordinator: each unit of work is claimed by a file lock, what a killed worker held is
free at once, and the same command continues a run (see "The life of a unit of work" in the documentation of the
architecture).  So the job script of every worker is the same, and one that reaches its time limit is started again.

Directives are those of Slurm's ``sbatch(1)`` and of ``qsub(1B)`` of PBS Professional and OpenPBS.  Slurm requeues a
worker at the user's request; PBS does so for operators only, so there arrays follow one another.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ..errors import SimulationError, TurningpointError, one_of
from ..models.settings import number, whole

SCHEDULERS = {"slurm": "sbatch", "pbs": "qsub"}
"""The program that takes a script, by scheduler; a script's name ends in the scheduler's."""

LOGS = "logs"
"""The folder for scripts and for what jobs print: schedulers do not make one."""

MOST_WORKERS = 1000
"""What schedulers take in one array, unless they are told otherwise."""

SHORTEST = 0.1
"""Hours: the warning comes two minutes before the time limit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PLACE = re.compile(r"[A-Za-z0-9_.@:+,/-]+")
_MEMORY = re.compile(r"([1-9][0-9]*)([KMGT])", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """What each worker does, and what it needs for that.

    Parameters
    ----------
    name : str
        Of the job and of its files: letters, digits, ``_``, ``.`` and ``-``.
    commands : sequence of sequence of str
        turningpoint's commands with their arguments.  If there are several, workers begin with different ones.
    workers : int
        Tasks of the array.
    hours : float
        Time limit of a worker.
    gpus, cpus : int
        Of a worker.
    memory : str
        Of a worker, in units of 1024: ``16G``, ``500M``.
    account, queue : str, optional
        Who pays; the partition (Slurm) or queue (PBS).
    setup : sequence of str
        Lines of bash before the commands: ``module load cuda``.
    rounds : int
        How often a worker may start: once, and again after each time limit.

    Raises
    ------
    TurningpointError
        If one of them is none of these.

    Examples
    --------
    >>> Job("trace", [["trace", "digits", "--out", "runs/trace"]], hours=1.5).walltime
    '01:30:00'
    """

    name: str
    commands: Sequence[Sequence[str]]
    workers: int = 8
    hours: float = 4.0
    gpus: int = 1
    cpus: int = 4
    memory: str = "16G"
    account: str | None = None
    queue: str | None = None
    setup: Sequence[str] = ()
    rounds: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            accepted = "up to 63 letters, digits, _, . and -, a letter or a digit first"
            raise TurningpointError(f"name is {self.name!r}; accepted: {accepted}.")
        if whole("workers", self.workers) > MOST_WORKERS:
            raise TurningpointError(f"workers is {self.workers}; accepted: up to {MOST_WORKERS}.")
        number("hours", self.hours, SHORTEST)
        whole("gpus", self.gpus, 0)
        whole("cpus", self.cpus)
        whole("rounds", self.rounds)
        if not _MEMORY.fullmatch(self.memory):
            raise TurningpointError(
                f"memory is {self.memory!r}; accepted: a whole number with K, M, G or T, like 16G."
            )
        for argument, value in (("account", self.account), ("partition", self.queue)):
            if value is not None and not _PLACE.fullmatch(value):
                raise TurningpointError(f"{argument} is {value!r}; accepted: a name without spaces.")

    @property
    def walltime(self) -> str:
        """The time limit as both schedulers read it: hours:minutes:seconds."""
        minutes, seconds = divmod(round(self.hours * 3600), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"

    @property
    def amount(self) -> tuple[int, str]:
        """The memory as a number and its unit, K, M, G or T."""
        found = _MEMORY.fullmatch(self.memory)
        assert found is not None
        return int(found[1]), found[2].upper()

    @property
    def lines(self) -> list[str]:
        """The commands as lines of bash, whatever their arguments hold."""
        return [shlex.join(["turningpoint", *command]) for command in self.commands]

    def following(self, commands: Sequence[Sequence[str]]) -> Job:
        """The job for the analysis after this one: one task, without a GPU."""
        return replace(self, name=f"{self.name[:58]}-then", commands=commands, workers=1, gpus=0, rounds=1)


def scripts(job: Job, then: Sequence[Sequence[str]], scheduler: str) -> dict[Path, str]:
    """The job scripts, by the files in which they are kept: the array's, and that of the analysis if there is one.

    Parameters
    ----------
    job : Job
        The workers'.
    then : sequence of sequence of str
        Commands that follow when all workers have ended, with or without success.
    scheduler : str
        ``slurm`` or ``pbs``.

    Raises
    ------
    TurningpointError
        If there is no such scheduler.

    Examples
    --------
    >>> found = scripts(Job("a", [["generate", "digits", "9", "--out", "a"]]), [["report", "a"]], "slurm")
    >>> [path.as_posix() for path in found]
    ['logs/a.slurm', 'logs/a-then.slurm']
    """
    if scheduler not in SCHEDULERS:
        raise one_of("scheduler", scheduler, SCHEDULERS)
    jobs = [job, job.following(then)] if then else [job]
    return {Path(LOGS, f"{j.name}.{scheduler}"): _script(j, scheduler, j is job) for j in jobs}


def _script(job: Job, scheduler: str, first: bool) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files(__package__)
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"{scheduler}.sh.j2").render(job=job, first=first, logs=LOGS)


def submit(job: Job, then: Sequence[Sequence[str]], scheduler: str) -> tuple[list[Path], list[str]]:
    """Write the job scripts and hand them to the scheduler.

    Parameters
    ----------
    job, then, scheduler
        As in `scripts`.

    Returns
    -------
    paths : list of Path
        The scripts.
    identifiers : list of str
        What the scheduler calls the jobs, in the order in which they follow one another.

    Raises
    ------
    TurningpointError
        If a script cannot be written, or there is no such scheduler on this machine.
    SimulationError
        If the scheduler refuses a job.
    """
    written = list(scripts(job, then, scheduler).items())
    for path, text in written:
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise TurningpointError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    paths = [path for path, _ in written]
    program = shutil.which(SCHEDULERS[scheduler])
    if program is None:
        raise TurningpointError(
            f"scheduler is {scheduler!r}, but this machine has no {SCHEDULERS[scheduler]}; accepted: a machine that "
            f"submits jobs, where the first lines of {' and '.join(map(str, paths))} say how."
        )
    turns = job.rounds if scheduler == "pbs" else 1
    identifiers: list[str] = []
    for path in [paths[0]] * turns + paths[1:]:
        identifiers.append(_handed_over(program, path, scheduler, identifiers[-1] if identifiers else None))
    return paths, identifiers


def _handed_over(program: str, path: Path, scheduler: str, before: str | None) -> str:
    """Submit a script, after the job ``before`` if there is one; what the scheduler calls it."""
    after = [] if before is None else [f"--dependency=afterany:{before}"]
    arguments = ["--parsable", *after]
    if scheduler == "pbs":
        arguments = [] if before is None else ["-W", f"depend=afterany:{before}"]
    done = subprocess.run([program, *arguments, str(path)], capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    if done.returncode or not said:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise SimulationError(f"{Path(program).name} refuses {path}: {words[-1].rstrip('.')}.")
    return said[-1].split(";")[0]  # Slurm adds the cluster's name after a semicolon
