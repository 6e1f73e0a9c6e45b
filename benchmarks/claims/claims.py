"""The article's and the paper's claims, tried on a small model: arms with paired seeds that are fixed beforehand.

    OMP_NUM_THREADS=1 python benchmarks/claims/claims.py --work DIR phases    # one claim (see --help)
    OMP_NUM_THREADS=1 python benchmarks/claims/claims.py --work DIR           # all, one after the other
    OMP_NUM_THREADS=1 python benchmarks/claims/claims.py --work DIR phases --seeds 3    # a pilot, which does not count

A Llama of 3.5 million parameters (``benchmarks/learning``) reads documents of three lengths, is warmed up by SFT and
trained by GRPO, all by the pipeline's stages. Each arm and seed is a run of its own, of minutes; it leaves
``results/ARM-SEED.json.gz`` beside this script and is not repeated. An interrupted run goes on where it stopped; its
time is then that of the last part. At the end the claim's table is printed, which docs/claims.md holds, and once all
arms have the five seeds the picture is written beside the results.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "learning"))

from arms import CLAIMS, SEEDS, Arm, Claim
from tables import Results, Row, plot, summary, table
from train import run_arm
from world import write_world

RESULTS = Path(__file__).parent / "results"


def timed_run(world: Path, work: Path, arm: Arm, seed: int, threads: int) -> Row:
    """:func:`run_arm`, with the seconds of processor time, which other work on the machine does not lengthen."""
    return run_arm(world, work, arm, seed, threads) | {"seconds": round(time.process_time())}


def result_of(arm: Arm, seed: int, args: argparse.Namespace) -> Row:
    """The arm's result with this seed, from its file if it has one. Pilots are kept in the work folder."""
    name = f"{arm.name}-{seed}"
    file = file_of(arm, seed, RESULTS if seed in SEEDS else args.work / "pilots")
    if not file.exists():
        # A process of its own gives back its memory: the trainers of a process add up, 60 MB each.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            result = process.submit(timed_run, args.work, args.work / name, arm, seed, args.threads).result()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(json.dumps(result).encode(), mtime=0))
        print(f"{name}: {result['seconds']} s of processor time", file=sys.stderr, flush=True)
    return read(file)


def file_of(arm: Arm, seed: int, folder: Path) -> Path:
    """The result of a run."""
    return folder / f"{arm.name}-{seed}.json.gz"


def read(file: Path) -> Row:
    """A result."""
    loaded: Row = json.loads(gzip.decompress(file.read_bytes()))
    return loaded


def recorded(claim: Claim) -> Results | None:
    """The results of all arms with the five seeds; ``None`` if one is not there yet."""
    files = {name: [file_of(arm, seed, RESULTS) for seed in SEEDS] for name, arm in claim.arms.items()}
    if not all(file.exists() for of_arm in files.values() for file in of_arm):
        return None
    return {name: [read(file) for file in of_arm] for name, of_arm in files.items()}


def run_claim(claim: Claim, seeds: Sequence[int], args: argparse.Namespace) -> Results:
    """All arms with all seeds, seed by seed, so that what an interruption leaves is paired."""
    by_seed = [{name: result_of(arm, seed, args) for name, arm in claim.arms.items()} for seed in seeds]
    results: Results = {name: [of_seed[name] for of_seed in by_seed] for name in claim.arms}
    print(f"## {claim.name}\n\n{report(claim, results)}")
    if tuple(seeds) == SEEDS:
        plot(claim, results, RESULTS / f"{claim.name}.svg")
    return results


def report(claim: Claim, results: Results) -> str:
    """A claim's table, and what it took."""
    runs = [result for of_arm in results.values() for result in of_arm]
    hours = sum(result["seconds"] for result in runs) / 3600
    return f"{table(claim, results)}\n{len(runs)} runs, {hours:.1f} hours of processor time.\n"


def main() -> None:
    """Run the claims that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", help=f"{', '.join(CLAIMS)}; all if none is given")
    parser.add_argument("--work", type=Path, required=True, help="folder for all files; reused to continue")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    args = parser.parse_args()
    if unknown := set(args.claims) - set(CLAIMS):
        parser.error(f"no claim named {', '.join(sorted(unknown))}: there are {', '.join(CLAIMS)}")
    args.work = args.work.resolve()
    write_world(args.work, args.threads)
    chosen = [CLAIMS[name] for name in args.claims or CLAIMS]
    done = [(claim, run_claim(claim, args.seeds, args)) for claim in chosen]
    if len(args.seeds) > 1:
        print(f"## Summary\n\n{summary(done)}")


if __name__ == "__main__":
    main()
