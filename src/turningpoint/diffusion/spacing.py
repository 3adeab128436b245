r"""Which of a network's T training steps a sampler visits, as other programs choose them.

==============  ==========================================================================================
respaced        :math:`\mathrm{round}(k (T - 1) / (n - 1))`, k = 0..n-1 (Nichol & Dhariwal 2021, section 4); or in
                sections of the range, each with a count of its own; or "ddimN": every i-th step from 0
leading         :math:`k \lfloor T / n \rfloor` + offset
linspace        :math:`\mathrm{round}(k (T - 1) / (n - 1))`
trailing        :math:`\mathrm{round}(T - k T / n) - 1`, which is the grid ``uniform``
==============  ==========================================================================================

(The names of the last three are those of `diffusers`.)
"""

from __future__ import annotations

import re
from itertools import accumulate, repeat

import numpy as np

from ..errors import TurningpointError


def respaced_steps(training_steps: int, sections: str | int) -> list[int]:
    """The steps that guided-diffusion's ``timestep_respacing`` keeps, ascending.

    Parameters
    ----------
    training_steps : int
        T.
    sections : str or int
        ``"250"``; ``"10,15,20"``, one count per equal section of the range; or ``"ddim25"``.

    Raises
    ------
    TurningpointError
        If it is none of these, or asks for more steps than there are.

    Examples
    --------
    >>> respaced_steps(1000, "5"), respaced_steps(1000, "ddim5")
    ([0, 250, 500, 749, 999], [0, 200, 400, 600, 800])
    """
    text = str(sections).replace(" ", "")
    wrong = TurningpointError(
        f"timestep_respacing is {sections!r}; accepted for {training_steps} steps: a count such as '250', counts of "
        "equal sections such as '10,15,20', or 'ddim25'."
    )
    if not re.fullmatch(r"ddim\d+|\d+(,\d+)*", text):
        raise wrong
    if text.startswith("ddim"):
        wanted = int(text.removeprefix("ddim"))
        for stride in range(1, training_steps + 1):
            steps = list(range(0, training_steps, stride))
            if len(steps) == wanted:
                return steps
        raise wrong
    counts = [int(count) for count in text.split(",")]
    size, longer = divmod(training_steps, len(counts))
    steps, first = [], 0
    for k, count in enumerate(counts):
        length = size + (k < longer)
        if not 1 <= count <= length:
            raise wrong
        gap = (length - 1) / (count - 1) if count > 1 else 1.0
        # summed, not multiplied, as the original does: a half is rounded as it rounds it
        steps += [first + round(place) for place in accumulate([0.0, *repeat(gap, count - 1)])]
        first += length
    return steps


def leading_steps(training_steps: int, n: int, offset: int = 0) -> list[int]:
    """n steps from ``offset`` on, T // n apart, ascending.

    >>> leading_steps(1000, 4, offset=1)
    [1, 251, 501, 751]
    """
    steps = np.arange(n) * (training_steps // n) + offset
    return sorted({int(step) for step in np.minimum(steps, training_steps - 1)})


def linspace_steps(training_steps: int, n: int) -> list[int]:
    """n steps with both ends, ascending.

    >>> linspace_steps(1000, 4)
    [0, 333, 666, 999]
    """
    return sorted({int(step) for step in np.linspace(0, training_steps - 1, n).round()})
