"""The one kind of error that a user's mistake raises: a sentence, never a traceback."""

from __future__ import annotations


class TurningpointError(ValueError):
    """A sentence that names the argument, the value given and what is accepted."""


class SimulationError(TurningpointError):
    """A simulation that cannot go on: a network's NaN, no memory for two items, a full disk."""


def one_of(argument: str, value: object, accepted: object) -> TurningpointError:
    """The error for a value that is not among a closed list.

    >>> print(one_of("sampler", "dpm", ["ddim", "ddpm"]))
    sampler is 'dpm'; accepted: ddim, ddpm.
    """
    names = ", ".join(str(name) for name in accepted)  # type: ignore[attr-defined]
    return TurningpointError(f"{argument} is {value!r}; accepted: {names}.")
