"""How much faster streamed attention is than the optimal denoiser as one would write it first.

The same queries, noised images at noise levels of their own, are answered in one process

- *directly*: all differences between queries and images, a (B, N, C, H, W) tensor in float32, which is squared,
  summed, and weighed; once more *in blocks*, two queries at a time, which spares most of the memory;
- by `turningpoint`'s ``empirical``: products in float32 that screen, and float64 where it shows.

What ours costs depends on the noise (how many images count), what the direct computation costs does not. So ours is
timed with all levels in one batch, as in continuous batching, and at single levels; ``speedup`` is over the direct
computation at the least favourable of them. The direct one takes 10 GiB of memory for 64 queries and 4,096 images of
3x32x32. Medians over the repeats are printed as a JSON object in the last line.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import turningpoint as tp

LEVELS = (80.0, 20.0, 5.0, 1.0, 0.1, 0.002)


def smooth_images(count: int, size: int) -> Tensor:
    """Random smooth pictures, uint8 (count, 3, size, size): nearer to each other than pixels of noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, max(2, size // 4), max(2, size // 4), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ((fine / 2 + 1) * 127.5).clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def direct(images: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """The posterior mean from all differences, in the images' precision."""
    squares = (x_t[:, None] - images).square().sum((2, 3, 4))
    weights = (-squares / (2 * sigma[:, None] ** 2)).softmax(1)
    return (weights[:, :, None, None, None] * images).sum(1)


def in_blocks(images: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """The same, two queries at a time."""
    return torch.cat([direct(images, *two) for two in zip(x_t.split(2), sigma.split(2), strict=True)])


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds that some work takes, and what it returns."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4096, help="points of the data set")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--queries", type=int, default=64, help="rows of a batch")
    parser.add_argument("--threads", type=int, help="torch's threads; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed")
    parser.add_argument("--quick", action="store_true", help="small and once, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.images, args.repeats = 1024, 1
    if args.threads:
        torch.set_num_threads(args.threads)

    begun = time.perf_counter()
    pixels = smooth_images(args.images, args.size)
    images = pixels.float() / 127.5 - 1
    models = {
        "float32": tp.load("empirical", data=images, schedule="edm"),
        "uint8": tp.load("empirical", data=pixels, schedule="edm"),
    }
    clock = models["float32"].schedule
    generator = torch.Generator().manual_seed(1)
    own = images[torch.randint(args.images, (args.queries,), generator=generator)]
    noise = torch.randn(own.shape, generator=generator)
    mixed = torch.logspace(math.log10(80.0), math.log10(0.002), args.queries)
    cases = {"mixed": mixed} | {f"{level:g}": torch.full((args.queries,), level) for level in LEVELS}
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {args.queries} queries, "
        f"{args.images} images 3x{args.size}x{args.size}"
    )

    directs: list[float] = []
    blocks: list[float] = []
    ours: dict[str, list[float]] = {}
    apart = error = 0.0
    for repeat in range(args.repeats):
        asked = own + expand(mixed) * noise
        seconds, there = timed(lambda x=asked: direct(images, x, mixed))
        directs.append(seconds)
        blocks.append(timed(lambda x=asked: in_blocks(images, x, mixed))[0])
        for case, sigma in cases.items():
            x_t, t = own + expand(sigma) * noise, clock.t(sigma=sigma)
            here = {}
            for kind, model in models.items():
                with torch.inference_mode():
                    model(x_t, t)
                    seconds, here[kind] = timed(lambda m=model, x=x_t, t=t: m(x, t))
                ours.setdefault(f"{case} {kind}", []).append(seconds)
            if repeat == 0:
                few = slice(0, args.queries, max(1, args.queries // 4))
                wanted = there[few] if case == "mixed" else in_blocks(images, x_t[few], sigma[few])
                exact = in_blocks(images.double(), x_t[few].double(), clock.sigma(t[few].double()))
                apart = max(apart, *(float((answer[few] - wanted).abs().max()) for answer in here.values()))
                error = max(error, *(float((answer[few] - exact).abs().max()) for answer in here.values()))
        spent = ", ".join(f"{case}: {rows[-1]:.3f}" for case, rows in ours.items())
        print(f"{repeat + 1}: direct {directs[-1]:.2f} s, in blocks {blocks[-1]:.2f} s; ours {spent} s")

    whole = statistics.median(directs)
    ratios = {case: whole / statistics.median(rows) for case, rows in ours.items()}
    result = {
        "speedup": round(min(r for case, r in ratios.items() if case.endswith("float32")), 1),
        "speedup_uint8": round(min(r for case, r in ratios.items() if case.endswith("uint8")), 1),
        "speedup_over_blocks": round(min(ratios.values()) * statistics.median(blocks) / whole, 1),
        "speedup_of": {case: round(ratio, 1) for case, ratio in ratios.items()},
        "direct_s": round(whole, 3),
        "blocks_s": round(statistics.median(blocks), 3),
        "ours_mixed_s": round(statistics.median(ours["mixed float32"]), 4),
        "largest_difference": apart,
        "largest_error": error,
        "images": args.images,
        "queries": args.queries,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(result))


def expand(sigma: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return sigma[:, None, None, None]


if __name__ == "__main__":
    main()
