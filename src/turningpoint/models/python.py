"""``python``: one's own model, from a factory in a Python module or file.

``python:module:factory?key=value`` imports ``module`` (``python:./file.py:factory`` runs a file) and calls
``factory(key=value)``.  This runs the code that it names: it is for code of one's own.  Nothing in a checkpoint ever
leads here.

What the factory, a function or a class, returns may be

- a `Denoiser`;
- a network, together with the settings ``schedule`` and ``shape`` (and ``predicts``, ``n_classes``), which make a
  `NetworkDenoiser` of it;
- any callable ``(x_t, t, label=None) -> x_0`` that has a ``schedule`` and a ``shape``; or azula's denoisers.

In place of the factory there may be such an object itself.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from ..diffusion.denoiser import Denoiser, NetworkDenoiser
from ..diffusion.schedule import schedule_named
from ..errors import TurningpointError
from . import MODELS, adopt
from .settings import whole

AROUND = ("schedule", "shape", "predicts", "n_classes", "learned_variance")
"""The settings that make a denoiser of a bare network; the factory gets those that it names, too."""


@MODELS.add("python")
def load(where: str, **settings: Any) -> Denoiser:
    """A model from one's own code.

    Parameters
    ----------
    where : str
        ``module:factory`` or ``path/to/file.py:factory``; modules are looked for in the working directory too.
    **settings
        The factory's own; and for a bare network ``schedule`` (a `Schedule` or its name), ``shape``, ``predicts``
        (``epsilon``, ``v``, ``x0``, ``flow``), ``n_classes`` and ``learned_variance``, as `NetworkDenoiser` has them.

    Raises
    ------
    TurningpointError
        If the module or the factory is not there, one of them raises, or the factory returns something else. What
        it raised is the cause of the error.
    """
    who, found = f"python:{where}", find(where, "python")
    made = made_by(who, found, settings, around=AROUND)
    around = {key: value for key, value in settings.items() if key in AROUND}
    model = as_denoiser(made, around, who)
    idle = sorted(set(around) - set(_parameters(found)))
    if idle and made is model:
        raise TurningpointError(f"{idle[0]} is given, but {who} returned a denoiser, which has its own.")
    return model


def as_denoiser(made: Any, around: Mapping[str, Any], who: str) -> Denoiser:
    """A denoiser from what a factory made.

    Parameters
    ----------
    made : Denoiser, nn.Module or callable
        What it made.
    around : mapping
        Of the settings `AROUND`, those that are given.
    who : str
        How sentences call it.

    Raises
    ------
    TurningpointError
        If it is none of these, or a network without its schedule and shape.
    """
    if isinstance(made, Denoiser):
        return made
    if callable(made) and not inspect.isclass(made) and hasattr(made, "schedule"):
        from .azula import from_azula, is_azula

        if is_azula(made):
            return from_azula(made, **around)
        if hasattr(made, "shape"):
            return adopt(made)
    if not isinstance(made, nn.Module):
        raise TurningpointError(
            f"{who} returned a thing of type {type(made).__name__}; accepted: a Denoiser, a network, or a callable "
            "with a schedule and a shape."
        )
    missing = [name for name in ("schedule", "shape") if around.get(name) is None]
    if missing:
        raise TurningpointError(
            f"{who} returned a network of type {type(made).__name__}; accepted with it: the settings "
            f"{' and '.join(missing)}."
        )
    rest = {key: value for key, value in around.items() if key not in ("schedule", "shape")}
    if rest.get("n_classes") is not None:
        rest["n_classes"] = whole("n_classes", rest["n_classes"])
    return NetworkDenoiser(made, schedule_named(around["schedule"]), shape_from(around["shape"]), **rest)


def shape_from(value: Any) -> tuple[int, ...]:
    """The shape of an item, from numbers or from text.

    >>> shape_from("3,32,32"), shape_from([2])
    ((3, 32, 32), (2,))
    """
    parts = value.strip("()[] ,").split(",") if isinstance(value, str) else value
    try:
        sizes = [int(part) if isinstance(part, str) else part for part in np.atleast_1d(parts).tolist()]
    except (TypeError, ValueError):
        raise TurningpointError(f"shape is {value!r}; accepted: whole numbers such as 3,32,32.") from None
    return tuple(whole("shape", size) for size in sizes)


# ---- code of one's own


def find(where: str, scheme: str) -> Any:
    """What ``module:name`` or ``file.py:name`` names.

    Parameters
    ----------
    where : str
        The module or file, a colon, and a name in it, which may have dots.
    scheme : str
        For sentences.

    Raises
    ------
    TurningpointError
        If one of them is not there, or the import raises.
    """
    place, _, name = str(where).rpartition(":")
    if not place or not name:
        raise TurningpointError(
            f"{scheme} is followed by {where!r}; accepted: {scheme}:module:factory, or {scheme}:./file.py:factory."
        )
    path = Path(place).expanduser()
    module = _run(path, scheme) if path.suffix == ".py" or len(path.parts) > 1 else _import(place, scheme)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise TurningpointError(f"{place} has no {name!r}; accepted: {_offers(found, part)}.")
        found = getattr(found, part)
    return found


def made_by(who: str, found: Any, settings: Mapping[str, Any], around: tuple[str, ...]) -> Any:
    """What a factory makes of the settings; an object that is a model already is returned as it is.

    Parameters
    ----------
    who : str
        How sentences call it.
    found : Any
        A function, a class, or a model.
    settings : mapping
        All that is given.
    around : tuple of str
        Those that are not the factory's unless it names them.
    """
    is_model = isinstance(found, nn.Module) or (hasattr(found, "schedule") and hasattr(found, "shape"))
    if is_model and not inspect.isclass(found):
        surplus = sorted(set(settings) - set(around))
        if surplus:
            raise TurningpointError(
                f"{surplus[0]} is given, but {who} is a model already and takes no settings."
            )
        return found
    if not callable(found):
        raise TurningpointError(
            f"{who} is of type {type(found).__name__}; accepted: a function or class that makes a model, or a model."
        )
    try:
        signature: inspect.Signature | None = inspect.signature(found)
    except (TypeError, ValueError):
        signature = None
    named = signature.parameters if signature is not None else {}
    own = {key: value for key, value in settings.items() if key not in around or key in named}
    if signature is not None:
        try:
            signature.bind(**own)
        except TypeError as error:
            takes = ", ".join(named) or "nothing"
            raise TurningpointError(
                f"settings of {who} are {sorted(own)}: {error}; accepted: {takes}."
            ) from None
    try:
        return found(**own)
    except TurningpointError:
        raise
    except (Exception, SystemExit) as error:
        raise TurningpointError(f"{who} {_raised(error)}.") from error


def _parameters(found: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a factory; any at all if it does not tell."""
    try:
        return inspect.signature(found).parameters
    except (TypeError, ValueError):
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}


def _import(name: str, scheme: str) -> ModuleType:
    with _on_path(Path.cwd()):
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing != name and not name.startswith(f"{missing}."):
                raise TurningpointError(f"the module {name!r} {_raised(error)}.") from error
            raise TurningpointError(
                f"the module {name!r} is not there; accepted: one that Python finds here, or a file, "
                f"{scheme}:./{name.replace('.', '/')}.py:factory."
            ) from None
        except (Exception, SystemExit) as error:
            raise TurningpointError(f"the module {name!r} {_raised(error)}.") from error


def _run(path: Path, scheme: str) -> ModuleType:
    if not path.is_file():
        raise TurningpointError(
            f"the file {str(path)!r} is not there; accepted: {scheme}:FILE.py:factory, from {str(Path.cwd())!r}."
        )
    name = f"_{scheme}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TurningpointError(f"the file {str(path)!r} is no Python file; accepted: file.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    with _on_path(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise TurningpointError(f"the file {str(path)!r} {_raised(error)}.") from error
    return module


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """With ``folder`` searched for modules, after all else."""
    entry = str(folder)
    sys.path.append(entry)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(entry)
        sys.path.reverse()


def _raised(error: BaseException) -> str:
    """``raised ValueError: no such width (my_model.py, line 7)``, on one line and without a full stop."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0][:200].rstrip(".").replace(". ", "; ")
    frames = [] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}{': ' if text else ''}{text}{place}"


def _offers(found: Any, wanted: str) -> str:
    """The public callables of a module, those with names like the wanted one first."""
    own = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    names = [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", own) == own
    ]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    return ", ".join(near or names[:8]) or "a name in it, and there is none"
