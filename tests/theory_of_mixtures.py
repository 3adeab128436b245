"""How far U-turns and clones lie from what theory says, in standard errors: three mixtures, and a pair in 64-d."""

import numpy as np
from mixtures import five_in_2d, three_full_in_16d, two_low_rank_in_48d

import turningpoint as tp
from turningpoint.theory.clock import logsnr_from_ou
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


SPECIATION = {0.5: 0.9963, 0.8: 0.9026, 1.0: 0.7727, 1.2: 0.6559, 1.5: 0.5548}
"""phi at multiples of the speciation time t_S, for N(+-m, I), |m|^2 = d = 64 (Biroli et al. 2024, eq. 6)."""


def deviations_in_64d(n, steps, seed):
    """The same at those five times; a clone parts at the nearest time of the grid, and is judged there."""
    model = tp.load("gaussians", dim=64, distance=8.0, std=1.0)
    levels = logsnr_from_ou(np.array(list(SPECIATION)) * np.log(65) / 2)
    np.testing.assert_allclose(kept(model, levels)[0], list(SPECIATION.values()), atol=5e-5)
    settings = {"logsnr": levels, "steps": steps, "seed": seed, "batch": 2000, "progress": None}
    runs = [tp.uturn(model, model.sample(n, seed=seed + 1)[0], **settings), tp.clone(model, n, **settings)]
    found = []
    for run in runs:
        value, _ = kept(model, run.schedule.logsnr(run.times).numpy())
        measured = run.measure("class", progress=None).curve("class").kept[0]
        found.append((measured - value) / np.sqrt(value * (1 - value) / n))
    return np.array(found)
