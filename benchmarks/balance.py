"""How long processes wait for the longest group of each forward: dealt in the order drawn, and by length.

    python benchmarks/balance.py

Simulated from lengths alone with the trainer's own placement (``arrange``): prompts uniform in a phase's bucket, and
completions log-normal (median 2,000 tokens), cut at 10,000. A group costs the FLOPs of its packed row in a 14B model.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from statistics import fmean

from qwenlong_core.training.dynamic_sampling import arrange
from qwenlong_core.training.rows import packed_work

PARAMETERS, LAYERS, WIDTH = 14e9, 48, 5120
BUCKETS = {"4K-20K": (4_000, 20_000), "20K-60K": (20_001, 60_000), "60K-120K": (60_001, 120_000)}
Group = tuple[int, list[int]]
"""Tokens of the prompt and of each completion."""


def groups(bucket: tuple[int, int], count: int, rng: random.Random) -> list[Group]:
    def completion() -> int:
        return min(10_000, int(2_000 * rng.lognormvariate(0, 0.8)))

    return [(rng.randint(*bucket), [completion() for _ in range(8)]) for _ in range(count)]


def flops(group: Group) -> float:
    """Of one forward: 2 a parameter and token, and 4 a layer, width and pair of tokens that attend."""
    prompt, completions = group
    pairs = prompt * prompt / 2 + sum(prompt * c + c * c / 2 for c in completions)
    return 2 * PARAMETERS * (prompt + sum(completions)) + 4 * LAYERS * WIDTH * pairs


def waiting(
    batch: Sequence[Group], work: Callable[[int, list[int]], float], processes: int, mini_batches: int
) -> float:
    """Time of a batch over its time without waiting."""
    slots = arrange(
        batch,
        [work(*group) for group in batch],
        range(len(batch)),
        batch_size=len(batch),
        mini_batches=mini_batches,
        processes=processes,
        per_forward=1,
    )
    forwards = [[flops(group) if group else 0.0 for group in at_once] for at_once in zip(*slots)]
    return sum(map(max, forwards)) / sum(map(fmean, forwards))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batches", type=int, default=200, help="batches of 128 groups, four updates each")
    batches = parser.parse_args().batches
    print("| processes | prompts | as drawn | by length |\n|---|---|---|---|")
    for processes in (8, 32):
        for name, bucket in BUCKETS.items():
            rng = random.Random(0)
            drawn = [groups(bucket, 128, rng) for _ in range(batches)]
            as_drawn, by_length = (
                fmean(waiting(batch, work, processes, 4) for batch in drawn) for work in (lambda *_: 0.0, packed_work)
            )
            print(f"| {processes} | {name} | {as_drawn:.2f} | {by_length:.2f} |")


if __name__ == "__main__":
    main()
