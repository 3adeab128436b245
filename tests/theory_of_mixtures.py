"""How far U-turns and clones of three mixtures lie from what theory says, in standard errors."""

import numpy as np
from mixtures import five_in_2d, three_full_in_16d, two_low_rank_in_48d

import turningpoint as tp
from turningpoint.theory.retention import kept

MIXTURES = {f.__name__: f for f in (five_in_2d, three_full_in_16d, two_low_rank_in_48d)}


def deviations(name, n, steps, seed):
    """(measured - predicted) / standard error at 8 times, of U-turns and of clones; and what is predicted."""
    model = MIXTURES[name]()
    grid = np.arange(1, steps) / steps
    levels = model.schedule.logsnr(grid).numpy()
    predicted, _ = kept(model, levels)
    chance = float(predicted.min())
    wanted = chance + (1 - chance) * np.linspace(0.97, 0.06, 8)  # from nearly kept to nearly lost
    places = sorted({int(np.abs(predicted - value).argmin()) for value in wanted})
    assert len(places) == 8
    times, value = grid[places], predicted[places]
    _, error = kept(model, levels[places])
    settings = {"times": times.tolist(), "steps": steps, "seed": seed, "batch": 2000, "progress": None}
    runs = [tp.uturn(model, model.sample(n, seed=seed + 1)[0], **settings), tp.clone(model, n, **settings)]
    found = []
    for run in runs:
        c = run.measure("class", progress=None).curve("class")
        # one U-turn of each of n independent items: a binomial mean; theory has an error of its own
        found.append((c.kept[0] - value) / np.sqrt(value * (1 - value) / n + error**2))
    return np.array(found), value
