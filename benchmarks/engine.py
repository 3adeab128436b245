"""How much of the network's own speed the engine delivers, and how far that is from a plain loop.

On the built-in digits model, in one process and in turns, so that a drift of the machine's speed hits all alike:

- *bare*: the network alone on random input, at several batch sizes; the best of them is the goal;
- *engine*: a U-turn sweep over t = 0.1 ... 0.9 in memory, timed from the first step to the last;
- *plain loop*: the same walks one image and one time after another, batch 1, on a few of them.

Each engine run is compared with the bare measurements right before and after it; medians over the repeats are
printed as a JSON object in the last line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import turningpoint as tp

TIMES = [round(0.1 * k, 1) for k in range(1, 10)]
BATCHES = (32, 64, 128)


@torch.inference_mode()
def bare(model: tp.NetworkDenoiser, batch: int, seconds: float) -> float:
    """Rows per second of the network alone, called again and again for about ``seconds``."""
    x, native = torch.randn(batch, *model.shape), torch.linspace(1, 999, batch)
    label = torch.full((batch,), model.n_classes or 0)
    model.network(x, native, label)
    calls, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds or calls < 3:
        model.network(x, native, label)
        calls += 1
    return calls * batch / spent


def engine(
    model: tp.Denoiser, images: Tensor, replicates: int, steps: int, batch: int
) -> tuple[float, tp.Run]:
    """Network items per second of a U-turn sweep, and its run.

    Progress is first reported after the set-up and last when all arrays are written.
    """
    reports: list[tuple[float, int]] = []
    run = tp.uturn(
        model,
        images,
        times=TIMES,
        replicates=replicates,
        steps=steps,
        batch=batch,
        progress=lambda done, total, evaluations: reports.append((time.perf_counter(), evaluations)),
    )
    return reports[-1][1] / (reports[-1][0] - reports[0][0]), run


@torch.inference_mode()
def plain(model: tp.Denoiser, x_0: Tensor, t: float, steps: int, noise: Sequence[Tensor]) -> Tensor:
    """One U-turn as one would write it first: ancestral sampling of a single image (1, *shape)."""
    clock = model.schedule
    grid = [t, *[1 - k / steps for k in range(steps + 1) if 1 - k / steps < t - 1e-9]]
    x = clock.alpha(t).float() * x_0 + clock.sigma(t).float() * noise[0]
    for z, now, then in zip(noise[1:], grid, grid[1:], strict=False):
        alpha, sigma = clock.alpha(now), clock.sigma(now)
        alpha_s, sigma_s = clock.alpha(then), clock.sigma(then)
        estimate = model(x, torch.tensor([now], dtype=torch.float32))
        kept = (alpha / alpha_s) * sigma_s**2 / sigma**2
        fresh = 1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2
        x = kept.float() * x + (alpha_s * fresh).float() * estimate + (sigma_s * fresh.sqrt()).float() * z
    return x


def plain_loop(
    model: tp.Denoiser, images: Tensor, items: int, steps: int, run: tp.Run
) -> tuple[float, float]:
    """Network items per second of the plain loop on some walks, and how far it ends from the engine's run."""
    source, walks = tp.SeededNoise(0), [(i, t) for t in (0.2, 0.5, 0.8) for i in range(items)]
    spent, count, apart = 0.0, 0, 0.0
    for item, t in walks:
        n = 1 + sum(1 - k / steps < t - 1e-9 for k in range(steps + 1))
        draws = [torch.from_numpy(source.draw(tp.Address(item, 0, t), k, model.shape)) for k in range(n)]
        begun = time.perf_counter()
        final = plain(model, images[item : item + 1], t, steps, draws)
        spent, count = spent + time.perf_counter() - begun, count + n - 1
        there = torch.from_numpy(run.images.sel(time=t, method="nearest").values[item, 0])
        apart = max(apart, float((final[0] - there).abs().max()))
    return count / spent, apart


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=64, help="starting images")
    parser.add_argument("--replicates", type=int, default=2, help="U-turns of each image at each time")
    parser.add_argument("--steps", type=int, default=50, help="steps of the full grid")
    parser.add_argument("--batch", type=int, default=64, help="rows of the engine's calls")
    parser.add_argument("--threads", type=int, help="torch's threads; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="engine runs")
    parser.add_argument("--quick", action="store_true", help="a small plan once, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.items, args.replicates, args.steps, args.repeats = 16, 1, 10, 1
    if args.threads:
        torch.set_num_threads(args.threads)

    begun = time.perf_counter()
    model = tp.load("digits")
    assert isinstance(model, tp.NetworkDenoiser)
    shipped = model.starting_images()
    assert shipped is not None
    images = shipped[0][: args.items]
    sizes, pause = sorted({*BATCHES, args.batch}), 0.5 if args.quick else 3.0
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {len(images)} images, {len(TIMES)} times,"
    )
    print(f"{args.replicates} replicates, {args.steps} steps, batch {args.batch}")

    bares: list[dict[int, float]] = [{batch: bare(model, batch, pause) for batch in sizes}]
    engines: list[float] = []
    plains: list[float] = []
    apart = 0.0
    for repeat in range(args.repeats):
        speed, run = engine(model, images, args.replicates, args.steps, args.batch)
        bares.append({batch: bare(model, batch, pause) for batch in sizes})
        loop, difference = plain_loop(model, images, min(2, len(images)), args.steps, run)
        engines.append(speed)
        plains.append(loop)
        apart = max(apart, difference)
        rates = ", ".join(f"{batch}: {rate:.0f}" for batch, rate in bares[-1].items())
        print(f"{repeat + 1}: engine {speed:.0f} items/s; bare at batch {rates}; plain loop {loop:.0f}")

    median = {batch: statistics.median(b[batch] for b in bares) for batch in sizes}
    best = max(median, key=lambda batch: median[batch])

    def beside(batch: int) -> list[float]:
        return [(before[batch] + after[batch]) / 2 for before, after in itertools.pairwise(bares)]

    efficiency = [e / b for e, b in zip(engines, beside(best), strict=True)]
    overhead = [1e6 * (1 / e - 1 / b) for e, b in zip(engines, beside(args.batch), strict=True)]
    result = {
        "efficiency_digits": round(statistics.median(efficiency), 4),
        "engine_items_per_s": round(statistics.median(engines), 1),
        "bare_items_per_s": round(median[best], 1),
        "bare_batch": best,
        "plain_loop_items_per_s": round(statistics.median(plains), 1),
        "speedup_over_plain_loop": round(
            statistics.median(e / p for e, p in zip(engines, plains, strict=True)), 2
        ),
        "overhead_us_per_item_step": round(statistics.median(overhead), 1),
        "batch_ms": round(1000 * args.batch / median[args.batch], 2),
        "largest_difference_from_plain_loop": apart,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
