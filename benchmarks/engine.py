"""How much of the network's own speed the engine delivers, and how far that is from a plain loop.

On the built-in digits model and on a network of every family with random weights (--families), in one process and in
turns, so that a drift of the machine's speed hits all alike:

- *bare*: the network alone on random input, at several batch sizes; the best of them is the goal;
- *engine*: a U-turn sweep over t = 0.1 ... 0.9 in memory, timed from the first step to the last;
- *plain loop*: the same walks one image and one time after another, batch 1, on a few of them (digits).

Each engine run is compared with the bare measurements right before and after it; medians over the repeats are
printed as a JSON object in the last line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import turningpoint as tp

TIMES = [round(0.1 * k, 1) for k in range(1, 10)]
BATCHES = (32, 64, 128)


# ---- one network of every family, with random weights


def redrawn(network: nn.Module) -> nn.Module:
    """The network with every weight drawn anew, small, so that none is zero and nothing diverges."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 * fan_in**-0.5)
    return network.eval().requires_grad_(False)


def edm() -> tp.Denoiser:
    """ddpm++ with EDM's preconditioning, as for CIFAR-10 but narrower."""
    from turningpoint.models._networks.songunet import SongUNet
    from turningpoint.models._preconditioning import EDMPrecond
    from turningpoint.models.edm import EDMDenoiser

    unet = SongUNet(16, 3, 3, model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8])
    return EDMDenoiser(redrawn(unet), EDMPrecond(), (3, 16, 16))


def adm() -> tp.Denoiser:
    """guided-diffusion's U-Net with its flags for 256 pixels, narrower, on 16 pixels, with learned variance."""
    from turningpoint.models._networks.adm_unet import ADMUNet
    from turningpoint.models.adm import ADM

    unet = ADMUNet(
        3,
        6,
        num_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention=(1,),
        num_head_channels=32,
        resblock_updown=True,
    )
    return ADM(redrawn(unet), 16, learn_sigma=True)


def ddpm() -> tp.Denoiser:
    """The U-Net of Ho et al. in score_sde's layout."""
    from turningpoint.models._networks.ddpm_unet import DDPMUNet, Layout
    from turningpoint.models.ddpm import DDPM

    unet = DDPMUNet(Layout(32, (1, 2), 1, (1,)))
    return DDPM(redrawn(unet), tp.DiscreteVP.named("linear"), 16)


def diffusers() -> tp.Denoiser:
    """A `UNet2DModel` in a folder of diffusers."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )
    with tempfile.TemporaryDirectory() as folder:
        DDPMPipeline(redrawn(unet), DDPMScheduler(clip_sample=False)).save_pretrained(folder)
        return tp.load(f"diffusers:{folder}")


class Told(nn.Module):
    """In the place of a text encoder: one embedding (77, 64) for every prompt."""

    def forward(self, prompts: list[str]) -> tuple[Tensor]:
        return (torch.full((len(prompts), 77, 64), 0.1),)


def text() -> tp.Denoiser:
    """Stable Diffusion's U-Net and autoencoder, narrower, on 16x16 latents."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    from turningpoint.models._pipelines.noise_tables import NoiseTable
    from turningpoint.models._pipelines.text_to_image import StableDiffusion

    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        norm_num_groups=16,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    table = NoiseTable({"_class_name": "DDPMScheduler", **scheduler.config})
    encoder: Any = Told()
    return StableDiffusion(redrawn(unet), redrawn(vae), encoder, table, (4, 16, 16)).eval()


FAMILIES: dict[str, Callable[[], tp.Denoiser]] = {
    "digits": lambda: tp.load("digits"),
    "edm": edm,
    "adm": adm,
    "ddpm": ddpm,
    "diffusers": diffusers,
    "text": text,
}


# ---- the three ways


@torch.inference_mode()
def bare(model: tp.NetworkDenoiser, batch: int, seconds: float) -> float:
    """Rows per second of the network alone, called again and again for about ``seconds``."""
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = model.network.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append((args, kwargs)), with_kwargs=True
    )
    conditions = model.conditions([{}] * batch, torch.device("cpu"))
    model(torch.randn(batch, *model.shape), torch.linspace(0.01, 0.99, batch), **conditions)
    hook.remove()
    arguments, named = caught[0]
    calls, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds or calls < 3:
        model.network(*arguments, **named)
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
        grid="uniform",
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
    parser.add_argument("--families", help=f"by comma, of {', '.join(FAMILIES)}; by default all")
    parser.add_argument("--quick", action="store_true", help="a small plan once, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.items, args.replicates, args.steps, args.repeats = 16, 1, 10, 1
    if args.threads:
        torch.set_num_threads(args.threads)

    if args.families:
        chosen = args.families.split(",")
        unknown = sorted(set(chosen) - set(FAMILIES))
        if unknown:
            parser.error(f"--families is {args.families}; accepted: {', '.join(FAMILIES)}")
    else:
        chosen = list(FAMILIES)

    begun = time.perf_counter()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {args.items} images, {len(TIMES)} times,"
    )
    print(f"{args.replicates} replicates, {args.steps} steps, batch {args.batch}")
    result: dict[str, Any] = {}
    for family in chosen:
        result |= measured(family, args)
    result |= {"threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(result))


def measured(family: str, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one family; those of digits carry no name but for the efficiency."""
    model = FAMILIES[family]()
    assert isinstance(model, tp.NetworkDenoiser)
    shipped = model.starting_images()
    if shipped is not None:
        images = shipped[0][: args.items]
    else:
        images = torch.rand(args.items, *model.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sizes, pause = sorted({*BATCHES, args.batch}), 0.5 if args.quick else 3.0
    bares: list[dict[int, float]] = [{batch: bare(model, batch, pause) for batch in sizes}]
    engines: list[float] = []
    plains: list[float] = []
    apart = 0.0
    for repeat in range(args.repeats):
        steps = args.steps if family == "digits" else max(10, args.steps // 2)  # half as many tell as much
        speed, run = engine(model, images, args.replicates, steps, args.batch)
        bares.append({batch: bare(model, batch, pause) for batch in sizes})
        engines.append(speed)
        rates = ", ".join(f"{batch}: {rate:.0f}" for batch, rate in bares[-1].items())
        told = f"{family} {repeat + 1}: engine {speed:.0f} items/s; bare at batch {rates}"
        if family == "digits":
            loop, difference = plain_loop(model, images, min(2, len(images)), args.steps, run)
            plains.append(loop)
            apart = max(apart, difference)
            told += f"; plain loop {loop:.0f}"
        print(told, flush=True)

    median = {batch: statistics.median(b[batch] for b in bares) for batch in sizes}
    best = max(median, key=lambda batch: median[batch])

    def beside(batch: int) -> list[float]:
        return [(before[batch] + after[batch]) / 2 for before, after in itertools.pairwise(bares)]

    efficiency = [e / b for e, b in zip(engines, beside(best), strict=True)]
    overhead = [1e6 * (1 / e - 1 / b) for e, b in zip(engines, beside(args.batch), strict=True)]
    figures: dict[str, Any] = {
        "engine_items_per_s": round(statistics.median(engines), 1),
        "bare_items_per_s": round(median[best], 1),
        "bare_batch": best,
        "overhead_us_per_item_step": round(statistics.median(overhead), 1),
        "batch_ms": round(1000 * args.batch / median[args.batch], 2),
    }
    if plains:
        ratios = [e / p for e, p in zip(engines, plains, strict=True)]
        figures |= {
            "plain_loop_items_per_s": round(statistics.median(plains), 1),
            "speedup_over_plain_loop": round(statistics.median(ratios), 2),
            "largest_difference_from_plain_loop": apart,
        }
    named = figures if family == "digits" else {f"{name}_{family}": value for name, value in figures.items()}
    return {f"efficiency_{family}": round(statistics.median(efficiency), 4), **named}


if __name__ == "__main__":
    main()
