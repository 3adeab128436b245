"""Li & Chen's two sweeps on a text-to-image model in miniature: what batching brings, what a shared trunk saves.

On Stable Diffusion's classes with random weights (the tests' folder, or `text` of `engine`: --wider), guided,
in one process and in turns:

- *U-turns*: 10 images x 10 times x 2 copies through `turningpoint.uturn`, and through the loop that one would write
  first: one image at a time is noised to one level and taken back (2 rows a call, for guidance), with code of its own
  for tables, noising, guidance and steps. Steps, noise and guidance are the same, and both decode what comes back.
- *bare*: the U-Net alone on the rows of one item and of a full batch: what batching alone can bring here.
- *clones*: 10 trunks with a clone at each of 20 times; the rows that the network is given, beside those of the trunks
  and the branches alone, and of a simulation of every clone from pure noise.

Medians over the repeats are printed as a JSON object in the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import text
from torch import Tensor

import turningpoint as tp

TINY = Path(__file__).parent.parent / "tests" / "models" / "golden" / "critical-windows" / "tiny_sd"
SCHEDULER = {"timestep_spacing": "leading", "steps_offset": 0, "rescale_betas_zero_snr": False}
PROMPT, GUIDANCE = "a highly realistic photo of a car", 7.5
PARTINGS = 20


class PlainLoop:
    """One image at a time: noised by the table, taken back by ancestral steps (Ho et al. 2020, equations 4 and 7).

    Parameters
    ----------
    model : Denoiser
        Its U-Net, its autoencoder and its text encoder are used, and nothing else of it.
    steps : int
        A divisor of 1000; the ladder 0, 1000 / steps, ... is the scheduler's "leading" spacing.
    """

    def __init__(self, model: Any, steps: int, device: str) -> None:
        self.unet, self.vae, self.predicts = model.network, model.vae, model.predicts
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.kept = torch.cumprod(1 - betas, 0).tolist()
        self.ladder = list(range(0, 1000, 1000 // steps))
        self.told = torch.cat([model.text_encoder([prompt])[0] for prompt in ("", PROMPT)]).to(device)
        self.device = device

    @torch.inference_mode()
    def turn(self, x_0: Tensor, rung: int, draws: Tensor) -> Tensor:
        """The latent (1, 4, h, w) that comes back from a rung of the ladder; draws (1 + steps from there, ...)."""
        x_0, draws = x_0.to(self.device), draws.to(self.device)
        now = self.kept[self.ladder[rung]]
        x = now**0.5 * x_0 + (1 - now) ** 0.5 * draws[0]
        for k in range(rung, -1, -1):
            now, then = self.kept[self.ladder[k]], self.kept[self.ladder[k - 1]] if k else 1.0
            answer = self.unet(torch.cat([x, x]), self.ladder[k], self.told, return_dict=False)[0]
            without, with_ = answer.chunk(2)
            guided = without + GUIDANCE * (with_ - without)
            if self.predicts == "v":
                x_0 = now**0.5 * x - (1 - now) ** 0.5 * guided
            else:
                x_0 = (x - (1 - now) ** 0.5 * guided) / now**0.5
            step = now / then
            mean = then**0.5 * (1 - step) / (1 - now) * x_0 + step**0.5 * (1 - then) / (1 - now) * x
            x = mean + ((1 - then) / (1 - now) * (1 - step)) ** 0.5 * draws[1 + rung - k]
        return x

    @torch.inference_mode()
    def picture(self, x_0: Tensor) -> Tensor:
        """What the autoencoder makes of a latent."""
        decoded: Tensor = self.vae.decode(x_0 / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded.cpu()

    @torch.inference_mode()
    def rate(self, items: int, shape: tuple[int, ...], seconds: float) -> float:
        """Items per second of the U-Net alone, called with two rows for each, again and again."""
        x, told = torch.randn(2 * items, *shape, device=self.device), self.told.repeat(items, 1, 1)
        calls, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < seconds or calls < 3:
            self.unet(x, self.ladder[-1], told, return_dict=False)[0].sum().item()
            calls += 1
        return calls * items / spent


def sweep(model: Any, latents: Tensor, rungs: list[int], args: argparse.Namespace) -> tuple[float, tp.Run]:
    """Seconds of the sweep through `turningpoint`, from the call to the run, and the run."""
    begun = time.perf_counter()
    run = tp.uturn(
        model,
        latents,
        native=[1000 // args.steps * rung for rung in rungs],
        replicates=args.copies,
        sampler="ddpm",
        steps=args.steps,
        prompt=PROMPT,
        guidance=GUIDANCE,
        batch=args.batch,
        device=args.device,
        progress=None,
    )
    return time.perf_counter() - begun, run


def one_by_one(
    loop: PlainLoop, latents: Tensor, rungs: list[int], args: argparse.Namespace, run: tp.Run
) -> tuple[float, float]:
    """Seconds of the plain loop, its draws at hand, and how far its pictures are from the run's."""
    source, spent, apart = tp.SeededNoise(0), 0.0, 0.0
    for item, x_0 in enumerate(latents):
        for k, rung in enumerate(rungs):
            for copy in range(args.copies):
                address = tp.Address(item, copy, float(run.times[k]))
                draws = [source.draw(address, n, tuple(x_0.shape)) for n in range(rung + 2)]
                ready = torch.from_numpy(np.stack(draws))
                begun = time.perf_counter()
                picture = loop.picture(loop.turn(x_0[None], rung, ready))
                spent += time.perf_counter() - begun
                there = torch.from_numpy(run.images[item, copy, k].values)
                apart = max(apart, float((picture[0] - there).abs().max()))
    return spent, apart


def clones(model: Any, n: int, steps: int, batch: int) -> dict[str, Any]:
    """What a sweep of clones costs, in rows of the network, two for each item because of guidance."""
    rows: list[int] = []
    hook = model.network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    begun = time.perf_counter()
    times = np.linspace(0.05, 0.95, PARTINGS)
    settings: dict[str, Any] = {"prompt": PROMPT, "guidance": GUIDANCE, "steps": steps, "batch": batch}
    run = tp.clone(model, n, times=times, progress=None, **settings)
    seconds = time.perf_counter() - begun
    hook.remove()
    grid = model.usual_grid("ddpm", steps).times(model.schedule)
    branches = sum(int((grid < t - 1e-9).sum()) for t in run.times)
    return {
        "clone_rows": sum(rows),
        "clone_rows_of_trunk_and_branches": 2 * n * (steps + branches),
        "clone_rows_from_noise": 2 * n * steps * (1 + len(run.times)),
        "clone_seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10, help="starting images")
    parser.add_argument("--times", type=int, default=10, help="noise levels")
    parser.add_argument("--copies", type=int, default=2, help="U-turns of each image at each level")
    parser.add_argument("--steps", type=int, default=20, help="steps of the full grid, a divisor of 1000")
    parser.add_argument("--batch", type=int, default=64, help="items of the engine's calls")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's threads; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="of both, in turns")
    parser.add_argument("--wider", action="store_true", help="a U-Net of four times the weights")
    parser.add_argument("--quick", action="store_true", help="a small plan once, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.items, args.times, args.steps, args.repeats = 2, 5, 10, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    model: Any = text() if args.wider else tp.load(f"diffusers:{TINY}", **SCHEDULER)
    model.to(args.device)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(args.items, *model.shape, generator=generator)
    rungs = sorted({round(r) for r in np.linspace(1, args.steps - 1, args.times)})
    loop, walks = PlainLoop(model, args.steps, args.device), args.items * len(rungs) * args.copies
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {args.items} images x {len(rungs)} times"
    )
    print(f"x {args.copies} copies, {args.steps} steps, guidance {GUIDANCE}, batch {args.batch}", flush=True)
    ours: list[float] = []
    plain: list[float] = []
    batching: list[float] = []
    apart, pause = 0.0, 0.2 if args.quick else 2.0
    full = min(args.batch, walks)
    for repeat in range(args.repeats):
        seconds, run = sweep(model, latents, rungs, args)
        slow, off = one_by_one(loop, latents, rungs, args, run)
        alone = loop.rate(full, model.shape, pause) / loop.rate(1, model.shape, pause)
        ours, plain, batching, apart = [*ours, seconds], [*plain, slow], [*batching, alone], max(apart, off)
        print(
            f"{repeat + 1}: turningpoint {seconds:.2f} s, plain loop {slow:.2f} s ({slow / seconds:.2f} times); "
            f"the bare network gains {alone:.2f} by batching",
            flush=True,
        )
    result = {
        "speedup": round(statistics.median(p / o for p, o in zip(plain, ours, strict=True)), 3),
        "seconds": round(statistics.median(ours), 2),
        "plain_loop_seconds": round(statistics.median(plain), 2),
        "images_per_s": round(walks / statistics.median(ours), 2),
        "plain_loop_images_per_s": round(walks / statistics.median(plain), 2),
        "batching_alone": round(statistics.median(batching), 3),
        "largest_difference": apart,
        **clones(model, args.items, 10 if args.quick else 40, args.batch),
        "threads": torch.get_num_threads(),
        "all_seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
