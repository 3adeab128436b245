"""A million points of dimension 3,072 from a mapped file, under 1 GiB of anonymous memory (Linux: reads /proc)."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import turningpoint as tp

N, SHAPE, MARKED = 1_000_000, (3, 32, 32), 2000

PROGRAM = """
import json, sys, threading, time

import numpy as np
import torch

torch.set_num_threads(1)
import turningpoint as tp

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

peak, going = 0, True

def watch():
    global peak
    while going:
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
folder = sys.argv[1]
model = tp.load(f"empirical:{folder}/data.npy?schedule=edm")
queries = np.load(f"{folder}/queries.npz")
x_t, t = torch.from_numpy(queries["x_t"]), torch.from_numpy(queries["t"])
with torch.inference_mode():
    mean = model(x_t, t)
    weight, index = model.weights(x_t, t)
    drawn, _ = model.sample(100)
    density = model.log_density(x_t, t)
going = False
watcher.join()
np.savez(f"{folder}/answers.npz", mean=mean, weight=weight, index=index, density=density, drawn=drawn)
print(json.dumps({"peak": peak, "count": model.points.count}))
"""


@pytest.mark.long
def test_a_million_points_in_a_mapped_file(tmp_path):
    """Most points are one (the file is sparse), so the truth is a sum over 2,001 points, one of great weight."""
    rng = np.random.default_rng(0)
    data = np.lib.format.open_memmap(tmp_path / "data.npy", "w+", np.uint8, (N, *SHAPE))
    places = np.sort(rng.choice(N, MARKED, replace=False))
    marked = rng.integers(0, 60, (MARKED, *SHAPE), dtype=np.uint8)
    for place, image in zip(places, marked, strict=True):
        data[place] = image
    data.flush()
    del data

    clock = tp.EDM()
    t = clock.t(sigma=torch.tensor([0.002, 0.5, 3.0, 4.0, 80.0])).float()
    sigma = clock.sigma(t.double())
    points = (
        torch.cat([torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.from_numpy(marked)]).double() / 127.5 - 1
    )
    points = points.flatten(1)
    x_t = points[[1, 700, 1500, 2000, 0]] + sigma[:, None] * torch.from_numpy(
        rng.standard_normal((5, points.shape[1]))
    )
    x_t = x_t.float()
    np.savez(tmp_path / "queries.npz", x_t=x_t.reshape(5, *SHAPE).numpy(), t=t.numpy())

    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["count"] == N
    print(f"peak of anonymous memory: {told['peak'] / 2**20:.0f} MiB")
    assert told["peak"] < 2**30

    share = torch.tensor([N - MARKED, *[1] * MARKED], dtype=torch.float64).log() - np.log(N)
    logits = share - torch.cdist(
        x_t.double(), points, compute_mode="donot_use_mm_for_euclid_dist"
    ).square() / (2 * sigma[:, None] ** 2)
    p = logits.softmax(1)
    assert ((p.amax(1) < 0.99) & (p.amax(1) > 0.01)).any()  # not all queries are trivial
    answers = np.load(tmp_path / "answers.npz")
    np.testing.assert_allclose(answers["mean"].reshape(5, -1), p @ points, rtol=0, atol=1e-5)
    density = logits.logsumexp(1) - points.shape[1] * (sigma.log() + np.log(2 * np.pi) / 2)
    np.testing.assert_allclose(answers["density"], density, rtol=1e-9)
    for row, (index, weight) in enumerate(zip(answers["index"][:, 0], answers["weight"][:, 0], strict=True)):
        best = int(logits[row, 1:].argmax())
        if p[row, 1 + best] > p[row, 0] / (N - MARKED):
            assert index == places[best]
            np.testing.assert_allclose(weight, p[row, 1 + best], rtol=1e-6)
    assert (answers["drawn"] == -1).mean() > 0.9
