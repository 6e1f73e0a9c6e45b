"""Is there something to learn? A policy before and after SFT on held-out generated documents.

    python benchmarks/learning.py --model FOLDER --work DIR [--train 128] [--eval 50] [--tokens 512]

Runs the pipeline's own stage commands (prepare, SFT, evaluation of both policies) and prints one line
a domain. Greedy decoding; rows of training and evaluation come from different seeds and share no
document. ``--model`` is an imported policy (``python -m qwenlong_core.models``). SmolLM2-135M takes
about an hour on four CPU cores, minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from qwenlong_core.data.synthesis import generate
from qwenlong_core.records import Domain

DOMAINS: tuple[Domain, ...] = ("math", "logical", "multihop", "reading")
COMPLETION_TOKENS = 96


def write_rows(tokenizer: Any, path: Path, rows: int, low: int, high: int, seed: int) -> None:
    """``rows`` rows of every domain with prompts of ``low..high`` tokens."""
    with path.open("w") as stream:
        for domain in DOMAINS:
            for index in range(rows):
                tokens = low + (high - low) * index // max(1, rows - 1)
                example = generate(tokenizer, domain=domain, tokens=tokens, seed=f"{seed}/{index}").example
                stream.write(json.dumps({**example.to_dict(), "id": f"{domain}-{seed}-{index}"}) + "\n")


def stage(module: str, job: dict[str, Any], work: Path, **inputs: Path) -> Path:
    """Run one stage by hand, as the pipeline does; returns its output folder."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", module, "--job", str(work / "job.json"), "--work", str(work)]
    subprocess.run(command + [f"--input={name}={folder}" for name, folder in inputs.items()], check=True)
    return work / "output"


def accuracy(evaluation: Path) -> dict[str, tuple[int, int]]:
    """Right answers and rows by domain."""
    counts: dict[str, list[float]] = defaultdict(list)
    for line in (evaluation / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        counts[sample["example_id"].split("-")[0]].append(sample["score"]["rule"] or 0.0)
    return {domain: (int(sum(scores)), len(scores)) for domain, scores in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", type=int, default=128, help="SFT rows a domain")
    parser.add_argument("--eval", type=int, default=50, help="evaluation rows a domain")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    write_rows(tokenizer, work / "sft.jsonl", args.train, max(256, args.tokens // 2), args.tokens, 101)
    write_rows(tokenizer, work / "eval.jsonl", args.eval, args.tokens, args.tokens, 202)
    limit, launch = args.tokens + 2 * COMPLETION_TOKENS, {"cpu_threads": args.threads}
    rows = {"sft": [str(work / "sft.jsonl")], "train": [str(work / "sft.jsonl")], "eval": [str(work / "eval.jsonl")]}
    prepare = {"data": rows, "sft_max_tokens": limit, "phase_limits": [limit], "eval_max_tokens": limit, "seed": 7}
    data = stage("qwenlong_core.data.prepare", prepare, work / "prepare", base=args.model)
    sft = {"max_tokens": limit, "learning_rate": args.learning_rate, "epochs": 1, "batch_size": 8, "save_steps": 1_000}
    common = {"model": {}, "launch": launch, "seed": 7}
    tuned = stage("qwenlong_core.training.sft", {"sft": sft, **common}, work / "sft", model=args.model, data=data)
    settings = {"max_prompt_tokens": limit, "max_completion_tokens": COMPLETION_TOKENS, "temperature": 0.0, "batch_size": 8}
    job = {"evaluation": settings, "number_tolerance": 0.0015, **common}
    scores = {
        name: accuracy(stage("qwenlong_core.evaluation.runner", job, work / name, model=folder, data=data))
        for name, folder in (("before", args.model), ("after", tuned))
    }
    for domain in DOMAINS:
        before, after = (scores[name][domain] for name in ("before", "after"))
        print(json.dumps({"domain": domain, "rows": before[1], "right_before": before[0], "right_after": after[0]}))


if __name__ == "__main__":
    main()
