"""What reading trajectories on the fly costs: the estimates of 256 trajectories x 100 steps, by all measures.

- *digits*: estimates of the digits model, 1x28x28; *color*: those of a random field of three channels, 3x32x32. They
  are read, and compared with the final images, as `turningpoint.trace` reads them, in chunks of 64 trajectories; and
  by the loop that one would write first, an image after another, with OpenCV, scikit-image, PyWavelets and NumPy
  (`plain.measures`). The loop looks at a final image once, is timed on whole trajectories (--loop), and its seconds are
  scaled. Of the trajectories some are simulated (--simulated) and repeated. That both read the same is checked.
  ``class`` is a network, which batches make little faster: its ratio stands by itself.
- *whole*: `turningpoint.trace` of 256 digits x 100 steps with all measures and the decoder's activations, in a process
  of its own: its seconds, what takes them, and its peak memory, of which the goal is 2 GiB; then its analysis.

Seconds are of wall time; ``cpu`` are the processor's, which a busy machine disturbs less, of ours with the first of
--threads. Medians over the repeats are printed as a JSON object in the last line. OpenCV comes with
``turningpoint[test]``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import turningpoint as tp
from turningpoint.experiments.along import Along, read_along
from turningpoint.measures import measure

MODELS = {"digits": "digits", "color": "field?channels=3"}
MEASURES = ("frequency", "gain", "structure", "texture", "lab", "color", "wavelet", "spectrum", "class")
LAYERS = "up_blocks.*"
CHUNK = 64
Paths = dict[str, list[np.ndarray]]


def simulated(model: Any, n: int, steps: int) -> tuple[np.ndarray, Paths]:
    """Final images (n, *shape), and of each trajectory its estimates and states, (steps, *shape)."""
    kept = ("estimate", "state")
    run = tp.trace(model, n, measures=[], keep=kept, sampler="euler", steps=steps, progress=None)
    paths = {side: list(run.store.read(side).astype(np.float32)) for side in kept}
    return run.images.values.astype(np.float32), paths


class Readings:
    """One measure of a model's trajectories, by ours and by the loop."""

    def __init__(self, name: str, model: Any) -> None:
        from plain.measures import READERS, Class

        self.name, self.along = name, Along(measure(name, model), ("estimate",), model.shape)
        self.reader = Class(model.classifier()) if name == "class" else READERS[name](model.shape)

    def ours(self, finals: np.ndarray, paths: Paths) -> dict[str, np.ndarray]:
        """All arrays of the readings, chunk by chunk of trajectories."""
        parts = []
        for first in range(0, len(finals), CHUNK):
            some = {side: rows[first : first + CHUNK] for side, rows in paths.items()}
            (found,) = read_along(
                [self.along], finals[first : first + CHUNK], some, lambda rows: rows
            ).values()
            parts.append(found)
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def one_by_one(self, finals: np.ndarray, paths: Paths) -> dict[str, np.ndarray]:
        """The same, image by image."""
        found: dict[str, list[list[Any]]] = {f"estimate.{r.name}": [] for r in self.along.readings}
        found |= {f"estimate_away.{r.name}": [] for r in self.along.readings if r.kind == "vector"}
        reader, vectors = self.reader, [r.name for r in self.along.readings if r.kind == "vector"]
        for final, estimates, states in zip(finals, paths["estimate"], paths["state"], strict=True):
            known = reader.look(final)
            numbers = reader.read(known)
            for row in found.values():
                row.append([])
            for estimate, state in zip(estimates, states, strict=True):
                other = reader.look(state) if self.along.paired else known
                seen = reader.look(estimate)
                told = reader.read(seen) | reader.compare(other, seen)
                for name, value in told.items():
                    found[f"estimate.{name}"][-1].append(value)
                for name in vectors:
                    away = np.linalg.norm(told[name] - numbers[name])
                    found[f"estimate_away.{name}"][-1].append(away)
        return {key: np.array(rows) for key, rows in found.items()}

    def apart(self, ours: dict[str, np.ndarray], loop: dict[str, np.ndarray]) -> float:
        """The largest difference of any number, in units of how much it varies; 1 where only one of the two is NaN."""
        found = 0.0
        for key, expected in loop.items():
            if key not in ours:
                continue  # the content of bands, of which the distance stays
            there = ours[key][: len(expected)]
            if not np.array_equal(np.isnan(there), np.isnan(expected)):
                return 1.0
            spread = max(float(np.nanstd(expected)), 1e-3 * float(np.nanmax(np.abs(expected))), 1e-4)
            found = max(found, float(np.nanmax(np.abs(there - expected))) / spread)
        return found


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of wall time and of the processor that some work takes, and what it returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compared(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """The ratios of one model's trajectories."""
    model: Any = tp.load(MODELS[case])
    few = min(args.simulated, args.trajectories)
    finals, paths = simulated(model, few, args.steps)
    loop = finals[: args.loop], {side: rows[: args.loop] for side, rows in paths.items()}
    scale = args.trajectories / len(loop[0])
    rows = np.resize(np.arange(few), args.trajectories)
    everything = finals[rows], {side: [path[i] for i in rows] for side, path in paths.items()}
    applicable = [name for name in MEASURES if name != "class" or model.classifier() is not None]
    seconds: dict[str, dict[str, float]] = {}
    apart = 0.0
    for name in applicable:
        one = Readings(name, model)
        known: dict[str, list[float]] = {}
        one.ours(*loop)  # fills caches
        for _ in range(args.repeats):
            wall, cpu, expected = timed(lambda one=one: one.one_by_one(*loop))
            known.setdefault("loop", []).append(wall * scale)
            known.setdefault("loop_cpu", []).append(cpu * scale)
            for threads in args.threads:
                torch.set_num_threads(threads)
                wall, cpu, found = timed(lambda one=one: one.ours(*everything))
                known.setdefault(f"threads{threads}", []).append(wall)
                known.setdefault(f"threads{threads}_cpu", []).append(cpu)
            torch.set_num_threads(args.threads[0])
        apart = max(apart, one.apart(found, expected))
        seconds[name] = {key: statistics.median(values) for key, values in known.items()}
        spent = seconds[name]
        faster = [f"{spent['loop'] / spent[f'threads{k}']:.1f} ({k} threads)" for k in args.threads]
        faster.append(f"{spent['loop_cpu'] / spent[f'threads{args.threads[0]}_cpu']:.1f} (cpu)")
        print(
            f"{case}: {name:10s} {spent['loop']:6.1f} s by the loop; faster by {', '.join(faster)}",
            flush=True,
        )
    read = [one for name, one in seconds.items() if name != "class"]
    sums = {key: sum(one[key] for one in read) for key in read[0]}
    most = f"threads{args.threads[-1]}"
    return {
        f"speedup_{case}": round(sums["loop"] / sums[most], 2),
        f"speedup_{case}_one_thread": round(sums["loop"] / sums[f"threads{args.threads[0]}"], 2),
        f"speedup_{case}_cpu": round(sums["loop_cpu"] / sums[f"threads{args.threads[0]}_cpu"], 2),
        f"speedup_{case}_of": {name: round(one["loop"] / one[most], 1) for name, one in seconds.items()},
        f"speedup_{case}_cpu_of": {
            name: round(one["loop_cpu"] / one[f"threads{args.threads[0]}_cpu"], 1)
            for name, one in seconds.items()
        },
        f"seconds_{case}": round(sums[most], 2),
        f"loop_seconds_{case}": round(sums["loop"], 1),
        f"largest_difference_{case}": float(f"{apart:.1e}"),
    }


# ---- the whole


@contextmanager
def clocked(owner: Any, name: str, spent: dict[str, Any], key: str) -> Iterator[None]:
    """Add up the seconds, of wall time and of the processor, that are spent in a function."""
    inner = getattr(owner, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        wall, cpu, result = timed(lambda: inner(*args, **kwargs))
        spent[key] = spent.get(key, 0) + np.array([wall, cpu])
        return result

    setattr(owner, name, outer)
    try:
        yield
    finally:
        setattr(owner, name, inner)


def whole(n: int, steps: int) -> dict[str, Any]:
    """A trace with everything, and its analysis."""
    from turningpoint.simulation.probe import Probe

    module, spent = importlib.import_module("turningpoint.experiments.trace"), dict[str, Any]()
    model: Any = tp.load("digits")
    with (
        clocked(module, "read_along", spent, "measures"),
        clocked(type(model), "forward", spent, "calls"),
        clocked(Probe, "_reduced", spent, "probe"),
        clocked(Probe, "_gathered", spent, "probe"),
    ):
        settings: dict[str, Any] = {"activations": LAYERS, "steps": steps, "progress": None}
        wall, cpu, run = timed(lambda: tp.trace(model, n, measures=MEASURES, **settings))
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    rows, t = torch.zeros(min(n, CHUNK), *model.shape), torch.full((min(n, CHUNK),), 0.5)
    model(rows, t)
    bare = np.median([timed(lambda: model(rows, t))[:2] for _ in range(5)], 0)
    shares = {
        "network": bare * math.ceil(n / CHUNK) * (2 * steps - 1),
        "network_with_hooks": spent["calls"],
        "measures": spent["measures"],
        "probe": spent["probe"],
    }
    analysis: dict[str, Callable[[], Any]] = {
        name: getattr(run, name) for name in ("onsets", "order", "emergence", "association")
    }
    seconds = {name: timed(work)[:2] for name, work in analysis.items()}
    return {
        "whole_seconds": round(wall, 1),
        "whole_cpu_seconds": round(cpu, 1),
        "whole_seconds_of": {name: round(float(one[0]), 1) for name, one in shares.items()},
        "whole_cpu_seconds_of": {name: round(float(one[1]), 1) for name, one in shares.items()},
        "whole_peak_gib": round(peak, 3),
        "features": len(run.features()),
        "analysis_seconds": {name: round(one[0], 2) for name, one in seconds.items()},
        "analysis_cpu_seconds": {name: round(one[1], 2) for name, one in seconds.items()},
    }


def in_a_process(args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--whole"]
    sizes = ["--trajectories", str(args.trajectories), "--steps", str(args.steps)]
    threads = ["--threads", str(args.threads[-1])]
    done = subprocess.run(
        [*command, *sizes, *threads], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trajectories", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--simulated", type=int, default=64, help="trajectories that are not repetitions")
    parser.add_argument("--loop", type=int, default=2, help="trajectories on which the loop is timed")
    parser.add_argument("--threads", default="1,2", help="torch's threads, by comma, ascending")
    parser.add_argument("--repeats", type=int, default=3, help="of both, in turns")
    parser.add_argument("--whole", action="store_true", help="the whole trace alone, in this process")
    parser.add_argument("--quick", action="store_true", help="small and once, to see that it works")
    args = parser.parse_args()
    args.threads = [int(part) for part in args.threads.split(",")]
    if args.quick:
        args.trajectories, args.steps, args.simulated, args.loop, args.repeats = 8, 10, 8, 2, 1
    if args.whole:
        torch.set_num_threads(args.threads[-1])
        print(json.dumps(whole(args.trajectories, args.steps)))
        return
    try:
        import cv2
    except ImportError:
        raise SystemExit(
            "benchmarks/trace.py compares with OpenCV, which is not installed; accepted: "
            "pip install 'turningpoint[test]'."
        ) from None
    cv2.setNumThreads(1)
    begun = time.perf_counter()
    print(f"torch {torch.__version__}, {args.trajectories} trajectories x {args.steps} steps", flush=True)
    result: dict[str, Any] = {}
    for case in MODELS:
        result |= compared(case, args)
    result |= in_a_process(args)
    result |= {"threads": args.threads, "all_seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
