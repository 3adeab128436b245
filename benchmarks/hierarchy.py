"""How fast the exact posterior of a random grammar is, against a plain walk over the nodes of every tree.

Both infer the same trees (v = 16, m = 4, s = 2, L = 9: 512 leaves) from the same noisy leaves: the library
for a batch of 256 trees at once, evidence upwards and the marginals of all levels downwards; the plain
implementation for a few of them, node by node in NumPy, evidence alone.  Medians over the repeats are
printed as a JSON object in the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from scipy.special import logsumexp

from turningpoint.diffusion import leaves
from turningpoint.diffusion.hierarchy import Hierarchy


def plain(grammar: Hierarchy, log_likelihood: np.ndarray) -> float:
    """The log-evidence of one tree (n, v) as one would write it first: a loop over nodes and symbols."""
    up = list(log_likelihood)
    for rules in grammar.rules.numpy():
        above = []
        for node in range(0, len(up), grammar.s):
            children = up[node : node + grammar.s]
            message = np.empty(grammar.v)
            for a in range(grammar.v):
                message[a] = logsumexp(
                    [sum(child[b] for child, b in zip(children, rule, strict=True)) for rule in rules[a]]
                )
            above.append(message - np.log(grammar.m))
        up = above
    return float(logsumexp(up[0]) - np.log(grammar.v))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trees", type=int, default=256, help="in the batch")
    parser.add_argument("--levels", type=int, default=9, help="L")
    parser.add_argument("--plain", type=int, default=4, help="trees of the plain implementation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small batch once, to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.trees, args.levels, args.plain, args.repeats = 16, 6, 2, 1

    grammar = Hierarchy.random(16, 4, 2, args.levels, seed=0)
    generator = torch.Generator().manual_seed(0)
    truth = grammar.sample(args.trees, generator)
    observed = leaves.corruption(truth[0], 16, 0.3, generator)
    times: dict[str, list[float]] = {"upward": [], "marginals": [], "draw": [], "plain": []}
    for _ in range(args.repeats):
        marks = [time.perf_counter()]
        posterior = grammar.posterior(observed)
        marks.append(time.perf_counter())
        posterior.marginals()
        marks.append(time.perf_counter())
        posterior.draw(generator)
        marks.append(time.perf_counter())
        slow = [plain(grammar, one) for one in observed[: args.plain].numpy()]
        marks.append(time.perf_counter())
        for name, spent in zip(times, np.diff(marks), strict=True):
            times[name].append(float(spent))
    apart = max(abs(a - b) for a, b in zip(slow, posterior.evidence.tolist(), strict=False))
    spent = {name: statistics.median(each) for name, each in times.items()}
    result = {
        "trees": args.trees,
        "leaves": grammar.leaves,
        "upward_s": round(spent["upward"], 3),
        "marginals_s": round(spent["marginals"], 3),
        "draw_s": round(spent["draw"], 3),
        "all_s": round(spent["upward"] + spent["marginals"] + spent["draw"], 3),
        "plain_upward_s_per_tree": round(spent["plain"] / args.plain, 3),
        "speedup_upward": round(spent["plain"] / args.plain / (spent["upward"] / args.trees), 1),
        "largest_difference_of_evidence": apart,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
