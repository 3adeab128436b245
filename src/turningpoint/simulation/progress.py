"""A progress bar for long work: steps done, network evaluations per second, time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from ..errors import TurningpointError
from .collect import Progress


@contextlib.contextmanager
def shown(progress: Progress | str | None, title: str) -> Iterator[Progress | None]:
    """The callable to report to: the given one, a bar on the terminal for ``"auto"``, or none."""
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

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps,")
    rate = TextColumn("{task.fields[rate]} network items/s,"), TimeRemainingColumn()
    begun = time.monotonic()
    with Bar(*columns, *rate, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, rate="–")

        def report(done: int, total: int, evaluations: int) -> None:
            seconds = max(time.monotonic() - begun, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{evaluations / seconds:.0f}")

        yield report
