"""Do channels_last, torch.compile and bfloat16 help? Each option's network calls per second over those without it.

For one network of every family (those of `engine`), in turns in one process, medians over the repeats, printed as a
JSON object in the last line. Above 1 the option helps here; on another device the answer may be another one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from engine import FAMILIES, bare

import turningpoint as tp
from turningpoint.models._options import with_options

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "bfloat16": {"dtype": "bfloat16"},
    "compile": {"compile": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="edm,adm,diffusers", help=f"by comma, of {', '.join(FAMILIES)}")
    parser.add_argument("--options", default="channels_last,bfloat16,compile")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; by default its own choice")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    result: dict[str, Any] = {}
    for family in args.families.split(","):
        models: dict[str, tp.NetworkDenoiser] = {}
        for option in ("plain", *args.options.split(",")):
            model = with_options(FAMILIES[family](), device=args.device, **OPTIONS[option])
            assert isinstance(model, tp.NetworkDenoiser)
            bare(model, args.batch, 0.0)  # compiles, fills caches
            models[option] = model
        rates: dict[str, list[float]] = {option: [] for option in models}
        for _ in range(args.repeats):
            for option, model in models.items():
                rates[option].append(bare(model, args.batch, 2.0))
        plain = rates.pop("plain")
        for option, found in rates.items():
            ratio = statistics.median(rate / base for rate, base in zip(found, plain, strict=True))
            result[f"{option}_{family}"] = round(ratio, 3)
            print(f"{family}: {option} {ratio:.2f} times {statistics.median(plain):.0f} items/s", flush=True)
    result |= {"device": args.device, "threads": torch.get_num_threads()}
    print(json.dumps(result | {"seconds": round(time.perf_counter() - begun, 1)}))


if __name__ == "__main__":
    main()
