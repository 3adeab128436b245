"""What several sources share: packages that may be missing, files that must be there, and ImageNet's classes."""

from __future__ import annotations

import importlib
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import TurningpointError
from ...models._pipelines.pipeline_folder import reason


def imported(module: str, who: str, install: str) -> Any:
    """A module of a package that may be missing.

    Parameters
    ----------
    module : str
        Its name.
    who : str
        What needs it, for the sentence.
    install : str
        The command that installs it.

    Raises
    ------
    TurningpointError
        If it cannot be imported.

    Examples
    --------
    >>> imported("no_such", "classifier 'a:b'", "pip install a")
    Traceback (most recent call last):
    turningpoint.errors.TurningpointError: classifier 'a:b' needs no_such, which cannot be imported (No module named \
'no_such'); accepted: pip install a.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise TurningpointError(
            f"{who} needs {module.partition('.')[0]}, which cannot be imported ({reason(error)}); accepted: {install}."
        ) from None


def file_of(where: str, scheme: str) -> Path:
    """The file that a name means.

    Raises
    ------
    TurningpointError
        If there is none.
    """
    path = Path(where).expanduser()
    if not where or not path.is_file():
        raise TurningpointError(
            f"classifier is '{scheme}:{where}', and there is no such file; accepted: {scheme}:FILE."
        )
    return path


def imagenet_classes(count: int = 1000) -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes (ILSVRC 2012): WordNet's first word for each; none for another number.

    Examples
    --------
    >>> imagenet_classes()[285], imagenet_classes(10)
    ('Egyptian cat', ())
    """
    if count != 1000:
        return ()
    text = (resources.files(__package__) / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
