"""A progress bar for long work: what is done, how fast it goes, time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from ..errors import TurningpointError
from .collect import Progress


@contextlib.contextmanager
def shown(
    progress: Progress | str | None, title: str, unit: str = "steps", rate: str = "network items/s"
) -> Iterator[Progress | None]:
    """The callable to report to: the given one, a bar on the terminal for ``"auto"``, or none.

    ``unit`` is what is counted, ``rate`` what the third number that is reported counts by the second.
    """
    if progress is None or callable(progress):
        yield progress
        return
    if progress != "auto":
        raise TurningpointError(f"progress is {progress!r}; accepted: 'auto', a function, or None.")
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(f"{unit},")
    speed = TextColumn("{task.fields[rate]} " + f"{rate},"), TimeRemainingColumn()
    begun = time.monotonic()
    with Bar(*columns, *speed, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, rate="–")

        def report(done: int, total: int, evaluations: int) -> None:
            seconds = max(time.monotonic() - begun, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{evaluations / seconds:.0f}")

        yield report
