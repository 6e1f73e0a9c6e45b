"""SFT steps, packed and padded: time, and the share of the computed tokens that are data.

    python benchmarks/sft_packing.py MODEL_FOLDER                       rows of 256 to 1,024 tokens, 8 per forward
    python benchmarks/sft_packing.py MODEL_FOLDER --shortest 900        rows of nearly equal length

Both train on the same rows in the same optimizer steps. They run in turn, and the better time of each counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from compare import model_folder

from qwenlong_core.data.synthesis.generate import domain_of_row, generate
from qwenlong_core.jobs import SFTJob
from qwenlong_core.models import load_tokenizer
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.training import SFTSettings
from qwenlong_core.training.sft import build_trainer, tokenized
from qwenlong_core.training.sft_packing import data_share


def rows_between(tokenizer: object, shortest: int, longest: int, count: int) -> list[dict[str, list[int]]]:
    """Worked examples with evenly spread lengths, in mixed order."""
    examples = [
        generate(
            tokenizer,
            domain=domain_of_row(i),
            tokens=shortest + (longest - shortest) * (i * 7 % count) // count,
            seed=f"packing/{i}",
            row_id=str(i),
        ).example
        for i in range(count)
    ]
    return tokenized(tokenizer, examples, longest + 512)


def seconds(job: SFTJob, model: Path, rows: list[dict[str, list[int]]]) -> float:
    """Seconds of one optimizer step, forward and backward, without the set-up."""
    with tempfile.TemporaryDirectory() as work:
        trainer = build_trainer(job, model, load_tokenizer(model), rows, Path(work))
        started: list[float] = []
        inner = trainer.training_step

        def step(*args: object, **kwargs: object) -> object:
            started.append(time.perf_counter())
            return inner(*args, **kwargs)

        trainer.training_step = step
        trainer.train()
        return time.perf_counter() - started[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_folder, help="policy folder")
    parser.add_argument("--shortest", type=int, default=256)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--together", type=int, default=8, help="rows per forward")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_between(load_tokenizer(args.model), args.shortest, args.longest, args.rows)
    jobs = {}
    for name, packing in (("padded", False), ("packed", True)):
        sft = SFTSettings(epochs=1, batch_size=args.rows, micro_batch_size=args.together, packing=packing)
        jobs[name] = SFTJob(sft=sft, model=ModelSettings(name=str(args.model)), launch=LaunchSettings(), seed=1)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(args.repeats):
        for name, job in jobs.items():
            times[name].append(seconds(job, args.model, rows))
    best = {name: min(found) for name, found in times.items()}
    result = {
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "data_share_padded": round(data_share(rows, jobs["padded"].sft), 3),
        "seconds": {name: round(value, 2) for name, value in best.items()},
        "times_faster": round(best["padded"] / best["packed"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
