"""Whether GRPO improves a policy on unseen questions: one warm-up, five seeds, paired comparison.

    OMP_NUM_THREADS=1 python benchmarks/learning/run.py --work DIR

A Llama of 3.5 million parameters first learns to read generated articles as a language model, until it can copy from
its context. The pipeline's SFT on worked solutions then warms it up. For each seed, GRPO trains it further on other
articles, and the start and the trained policy answer the same held-out questions: sampled as in GRPO, with the same
random numbers, and greedily. Except for the reading, everything runs through the pipeline's own stage commands
(prepare, SFT, GRPO, evaluation). Rows of SFT, training and evaluation share no document.

Prints the table and saves ``table.md``, ``result.json`` and ``curve.svg`` in DIR: accuracies by seed, the mean gain
with its 95% intervals (Student's t over the seeds, and over the questions), and the training curves. Finished stages
are not run again, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from outcome import Outcome, Pair, plot, table
from reader import write_reader
from stages import accuracies, run_stage

from qwenlong.tasks.specs import grpo_stage, prepare_stage, sft_stage
from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.records import Domain, Example
from qwenlong_core.settings.tree import Settings

DOMAIN: Domain = "multihop"
KIND = "bridge_2"
"""In which town was the director of a film born? Two facts among others of the same form."""
SHORTEST, LONGEST = 160, 176
"""Prompt lengths in tokens of the bundled tokenizer: short, so that everything fits into an hour."""
ROWS = {"sft": 8_000, "train": 1_600, "eval": 400}
"""Generated rows of each file. The reading uses all rows of ``sft``, SFT itself a part of them."""
READING_STEPS = 700
SAMPLED = {"temperature": 1.0, "top_p": 1.0}
"""Sampling in GRPO and in one of the two evaluations."""
GREEDY = {"temperature": 0.0, "top_p": 1.0, "samples": 1}


def settings_for(work: Path, args: argparse.Namespace) -> Settings:
    """The pipeline's settings for this experiment."""
    rows = {name: str(work / f"{name}.jsonl") for name in ROWS}
    phase = {"max_prompt_tokens": 400, "max_completion_tokens": 48, "cache_tokens": 8, "steps": args.steps}
    return Settings.model_validate(
        {
            "profile": "learning",
            "model": {"name": str(work / "base")},
            "data": {**rows, "near_duplicates": None},
            "sft": {"max_tokens": 500, "learning_rate": 3e-4, "epochs": 0.1, "batch_size": 16, "micro_batch_size": 16,
                    "save_steps": 100},
            "grpo": {"group_size": 8, "batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 16,
                     "learning_rate": args.learning_rate, "clip_high": 0.28, "save_steps": 10,
                     "dynamic_sampling": {"max_rounds": 2}, "phases": [phase], **SAMPLED},
            "evaluation": {"max_prompt_tokens": 400, "max_completion_tokens": 48, "samples": 4, "batch_size": 16,
                           **SAMPLED},
            "launch": {"cpu_threads": args.threads},
        }
    )  # fmt: skip


def make_rows(path: Path, rows: int) -> list[Example]:
    """Generate rows and write them to ``path``, whose name is part of their seed."""
    tokenizer = bundled_tokenizer()
    examples = []
    for index in range(rows):
        tokens = SHORTEST + index % (LONGEST - SHORTEST + 1)
        example = generate(tokenizer, domain=DOMAIN, kind=KIND, tokens=tokens, seed=f"{path.stem}/{index}").example
        examples.append(replace(example, id=f"{path.stem}-{index}"))
    path.write_text("".join(json.dumps(example.to_dict()) + "\n" for example in examples))
    return examples


def write_base(work: Path, threads: int) -> None:
    """Write all rows, and the model after it has read those of SFT."""
    rows = {name: make_rows(work / f"{name}.jsonl", count) for name, count in ROWS.items()}
    write_reader(work / "base", rows["sft"], READING_STEPS, threads)


def pair(start: dict[str, float], trained: dict[str, float]) -> Pair:
    """Pair both policies by question."""
    return Pair([(value, trained[question]) for question, value in sorted(start.items())])


def one_seed(settings: Settings, seed: int, work: Path, start: Path, data: Path) -> Outcome:
    """Train with one seed and evaluate both policies."""
    seeded = settings.model_copy(update={"seed": seed})
    greedy = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update=GREEDY)})
    folder = work / f"seed-{seed}"
    trained = run_stage(grpo_stage(seeded, 1), folder / "grpo", model=start, data=data)
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    return Outcome(
        seed,
        pair(
            accuracies(seeded, folder / "start-sampled", start, data),
            accuracies(seeded, folder / "trained-sampled", trained, data),
        ),
        pair(
            accuracies(greedy, work / "start-greedy", start, data),
            accuracies(greedy, folder / "trained-greedy", trained, data),
        ),
        [step["accuracy"] for step in steps],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for all files; reused to continue")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--steps", type=int, default=80, help="GRPO steps")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="learning rate of GRPO")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("an interval needs at least two seeds")
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "base" / "config.json").exists():
        write_base(work, args.threads)
    settings = settings_for(work, args)
    data = run_stage(prepare_stage(settings), work / "prepare", base=work / "base")
    start = run_stage(sft_stage(settings), work / "sft", model=work / "base", data=data)
    outcomes = [one_seed(settings, seed, work, start, data) for seed in args.seeds]
    (work / "result.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    (work / "table.md").write_text(table(outcomes))
    plot(outcomes, work / "curve.svg")
    print(table(outcomes))


if __name__ == "__main__":
    main()
