"""Data preparation beside the bare tokenizer, the cost of the near-duplicate search, and memory.

    python benchmarks/prepare.py                          64 MB of rows of about 40,000 characters
    python benchmarks/prepare.py --megabytes 2000 --memory     peak memory with rows that do not fit into it
    taskset -c 0 python benchmarks/prepare.py             on one core

The bare tokenizer counts the tokens of the same rendered prompts, which are already in memory, with its fastest batch
call and all its threads. Preparation starts with the file and ends with the written folder. Each runs twice in turn,
and the better time counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", str(len(os.sched_getaffinity(0))))

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.lengths import batches
from qwenlong_core.data.prepare import prepare
from qwenlong_core.data.prompts import count_tokens, render_prompt
from qwenlong_core.data.sources.read import read_source
from qwenlong_core.data.splits import Row
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.records import Example
from qwenlong_core.settings.data import DataSettings

PHASES = (20_000, 60_000)
PARAGRAPHS = 4_000


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_rows(path: Path, megabytes: int, characters: int, tokenizer: Any) -> None:
    """Write rows whose documents are drawn from paragraphs of generated reports, contracts and manuals."""
    rng, size = Random(7), 0
    seeds = [
        generate(tokenizer, domain=domain, tokens=60_000, seed=3).example for domain in ("math", "logical", "reading")
    ]
    paragraphs = [text for example in seeds for text in example.context.split("\n") if len(text) > 100][:PARAGRAPHS]
    with path.open("w") as stream:
        for index in range(10**9):
            wanted, parts = rng.uniform(0.5, 1.5) * characters, [f"Report {index}."]
            while sum(map(len, parts)) < wanted:
                parts += [f"{rng.randrange(10**6)}. {text}" for text in rng.choices(paragraphs, k=20)]
            row = {
                "id": f"r{index}",
                "domain": "math",
                "context": "\n".join(parts),
                "question": f"What does report {index} say?",
                "answers": [str(index)],
                "answer_scale": "million",
            }
            size += stream.write(json.dumps(row) + "\n")
            if size >= megabytes * 1e6:
                return


def rendered(path: Path, tokenizer: Any) -> Iterator[list[str]]:
    examples = (row for row in read_source(str(path)) if isinstance(row, Example))
    for batch in batches(Row(example, b"") for example in examples):
        yield [render_prompt(tokenizer, row.example) for row in batch]


def run_prepare(path: Path, tokenizer: Any, near_duplicates: float | None, out: Path) -> dict[str, Any]:
    data = DataSettings(sft=(), train=(str(path),), eval=(), near_duplicates=near_duplicates)
    job = PrepareJob(data=data, sft_max_tokens=PHASES[-1], phase_limits=PHASES, eval_max_tokens=120_000, seed=1)
    return prepare(job, tokenizer, out, ("train",), every_phase=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--characters", type=int, default=40_000, help="average characters of a document")
    parser.add_argument(
        "--memory", action="store_true", help="prepare once, with the near-duplicate search, and report memory"
    )
    parser.add_argument("--folder", type=Path, default=None, help="folder for rows and output (default: temporary)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = bundled_tokenizer()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
        write_rows(path, args.megabytes, args.characters, tokenizer)
        megabytes = path.stat().st_size / 1e6
        result: dict[str, Any] = {"megabytes": round(megabytes), "cores": len(os.sched_getaffinity(0))}
        result["peak_mb_before"] = round(peak_megabytes())
        if args.memory:
            start = time.perf_counter()
            counts = run_prepare(path, tokenizer, 0.9, out)["splits"]["train"]
            result |= {
                "seconds": round(time.perf_counter() - start, 1),
                "rows": counts["rows"],
                "tokens": counts["tokens"]["total"],
            }
        else:
            result |= compare(path, tokenizer, megabytes, out)
        print(json.dumps({**result, "peak_mb": round(peak_megabytes())}, indent=2))


def compare(path: Path, tokenizer: Any, megabytes: float, out: Path) -> dict[str, Any]:
    """Throughput in MB/s of the bare tokenizer, of preparation, and of preparation with the search."""
    prompts = list(rendered(path, tokenizer))
    seconds: dict[str, list[float]] = {"bare tokenizer": [], "prepare": [], "prepare with near duplicates": []}
    for _ in range(2):
        start = time.perf_counter()
        for batch in prompts:
            count_tokens(tokenizer, batch)
        seconds["bare tokenizer"].append(time.perf_counter() - start)
        for name, threshold in (("prepare", None), ("prepare with near duplicates", 0.9)):
            start = time.perf_counter()
            counts = run_prepare(path, tokenizer, threshold, out)["splits"]["train"]
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "rows": counts["rows"],
        "megabytes_per_second": {name: round(megabytes / time_, 2) for name, time_ in best.items()},
        "share_of_the_bare_tokenizer": round(best["bare tokenizer"] / best["prepare"], 3),
        "seconds_of_near_duplicate_search": round(best["prepare with near duplicates"] - best["prepare"], 1),
    }


if __name__ == "__main__":
    main()
