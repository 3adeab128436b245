"""The command line: every module of this package adds its commands to the app."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from typing import Any

from ..errors import SimulationError, TurningpointError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    from .app import app, no_traceback

    sys.path.insert(0, "")  # measures may come from a module in the current folder

    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    try:
        with warnings.catch_warnings(), no_traceback():
            warnings.showwarning = _said
            app(args=arguments, prog_name="turningpoint", standalone_mode=True)
    except SimulationError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except TurningpointError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _said(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
