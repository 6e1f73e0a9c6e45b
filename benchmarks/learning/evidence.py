"""Whether a bonus for evidence makes a policy answer better: outcome alone, entities, paragraphs; five paired seeds.

    OMP_NUM_THREADS=1 python benchmarks/learning/evidence.py --work DIR

As in ``run.py``, a Llama of 3.5 million parameters learns to read generated articles and is warmed up by SFT. Here the
paragraphs are numbered, and the worked solutions name the director, cite their two paragraphs and answer. All arms
start from the same policy, see the same prompts and take the same number of steps; they differ in ``rewards.evidence``
alone. What counts is the accuracy on unseen questions, which knows no bonus.

Prints the table and saves it as ``evidence.md`` in DIR, of the seeds that all arms have finished. Finished stages are
not run again, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from outcome import gain_cell
from reader import write_reader
from stages import run_stage

from qwenlong.tasks.specs import evaluate_stage, grpo_stage, prepare_stage, sft_stage
from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.paragraphs import numbered
from qwenlong_core.data.rows import read_examples
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.records import Example
from qwenlong_core.rewards.evidence import shown
from qwenlong_core.settings.rewards import EvidenceBonus
from qwenlong_core.settings.tree import Settings

SEEDS = (11, 12, 13, 14, 15)
SHORTEST, LONGEST = 224, 240
"""Prompt lengths in tokens of the bundled tokenizer, without numbers: about eight paragraphs, of which two count."""
NEAR_MISSES = 6
ROWS = {"sft": 8_000, "train": 1_600, "eval": 400}
READING_STEPS = 900
PARAGRAPHS, ENTITIES = EvidenceBonus(of="paragraphs"), EvidenceBonus(of="entities")
ARMS: dict[str, EvidenceBonus | None] = {"outcome": None, "entity": ENTITIES, "evidence": PARAGRAPHS}
SAMPLED = {"temperature": 1.0, "top_p": 1.0}
MEASURED = ("accuracy", "paragraphs", "entities")
"""Right answers, and what answers show, right or wrong: F2 of the cited paragraphs, recall of the chain."""
Result = dict[str, dict[str, float]]
"""Each of :data:`MEASURED` by question."""


def said_aloud(example: Example) -> Example:
    """The row with its reasoning outside ``<think>``, where the chain's entities count."""
    return replace(example, solution=re.sub(r"</?think>", "", example.solution or ""))


def make_rows(path: Path, rows: int) -> list[Example]:
    """Generate rows and write them to ``path``, whose name is part of their seed. The pipeline numbers them."""
    tokenizer, examples = bundled_tokenizer(), []
    for index in range(rows):
        tokens = SHORTEST + index % (LONGEST - SHORTEST + 1)
        seed = f"evidence-{path.stem}/{index}"
        row = generate(
            tokenizer, domain="multihop", kind="bridge_2", tokens=tokens, seed=seed, distractors=NEAR_MISSES
        ).example
        examples.append(said_aloud(replace(row, id=f"{path.stem}-{index}")))
    path.write_text("".join(json.dumps(row.to_dict()) + "\n" for row in examples))
    return [numbered(row) for row in examples]


def write_base(work: Path, threads: int) -> None:
    """Write all rows, and the model after it has read those of SFT."""
    rows = {name: make_rows(work / f"{name}.jsonl", count) for name, count in ROWS.items()}
    write_reader(work / "base", rows["sft"], READING_STEPS, threads)


def settings_for(work: Path, steps: int, threads: int) -> Settings:
    """The settings that all arms share."""
    rows = {name: str(work / f"{name}.jsonl") for name in ROWS}
    phase = {"max_prompt_tokens": 500, "max_completion_tokens": 64, "cache_tokens": 8, "steps": steps}
    return Settings.model_validate(
        {
            "profile": "evidence",
            "model": {"name": str(work / "base")},
            "data": {**rows, "near_duplicates": None, "number_paragraphs": True},
            "sft": {"max_tokens": 600, "learning_rate": 3e-4, "epochs": 0.1, "batch_size": 16, "micro_batch_size": 16,
                    "save_steps": 100},
            "grpo": {"group_size": 8, "batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 16,
                     "learning_rate": 3e-4, "clip_high": 0.28, "save_steps": 10, "dynamic_sampling": {"max_rounds": 2},
                     "phases": [phase], **SAMPLED},
            "evaluation": {"max_prompt_tokens": 500, "max_completion_tokens": 64, "samples": 4, "batch_size": 16,
                           **SAMPLED},
            "launch": {"cpu_threads": threads},
        }
    )  # fmt: skip


def measured(settings: Settings, work: Path, model: Path, data: Path) -> Result:
    """What a policy's answers to the held-out questions are worth, by question."""
    output = run_stage(evaluate_stage(settings, work.name), work, model=model, data=data)
    rows = {row.id: row for row in read_examples(data / "eval.parquet")}
    values: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURED}
    for sample in read_samples(output / "samples.jsonl"):
        found = {name: shown(rows[sample.example_id], sample.completion, bonus)
                 for name, bonus in (("paragraphs", PARAGRAPHS), ("entities", ENTITIES))}  # fmt: skip
        shares = {name: one.share for name, one in found.items() if one}
        for name, value in ({"accuracy": sample.accuracy} | shares).items():
            values[name].setdefault(sample.example_id, []).append(value)
    return {name: {key: fmean(of_one) for key, of_one in of_all.items()} for name, of_all in values.items()}


def run_arm(settings: Settings, work: Path, arm: str, seed: int, start: Path, data: Path) -> Result:
    """Train an arm with a seed and measure it."""
    rewards = settings.rewards.model_copy(update={"evidence": ARMS[arm]})
    own = settings.model_copy(update={"seed": seed, "rewards": rewards})
    folder = work / f"{arm}-{seed}"
    policy = run_stage(grpo_stage(own, 1), folder / "grpo", model=start, data=data)
    return measured(own, folder / "after", policy, data)


def row_of(name: str, results: Sequence[Result]) -> str:
    """A line of the table: means over the seeds."""
    cells = [f"{fmean(fmean(result[what].values()) for result in results):.3f}" for what in MEASURED]
    return f"| {name} | {' | '.join(cells)} |"


def table(starts: Sequence[Result], arms: Mapping[str, Sequence[Result]]) -> str:
    """Markdown: the arms' means, and what each bonus adds to ``outcome`` with its 95% intervals (Student's t).

    The interval over the seeds tells what another seed would give on these questions; the one over the questions what
    other questions would give.
    """
    head = "| | accuracy | F2 of paragraphs | recall of entities |\n|---|---|---|---|"
    lines = [head, row_of("start", starts), *(row_of(name, results) for name, results in arms.items()), ""]
    for name in [name for name in arms if name != "outcome"]:
        pairs = list(zip(arms[name], arms["outcome"], strict=True))
        lines.append(f"{name} against outcome, {len(pairs)} seeds:\n")
        for what in MEASURED:
            seeds = [fmean(one[what].values()) - fmean(other[what].values()) for one, other in pairs]
            questions = [fmean(one[what][key] - other[what][key] for one, other in pairs) for key in pairs[0][0][what]]
            lines.append(f"- {what}: {gain_cell(seeds)} over seeds, {gain_cell(questions)} over questions")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, seed by seed, and print what is finished after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for all files; reused to continue")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=60, help="GRPO steps of each arm")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "base" / "config.json").exists():
        write_base(work, args.threads)
    settings = settings_for(work, args.steps, args.threads)
    data = run_stage(prepare_stage(settings), work / "prepare", base=work / "base")
    start = run_stage(sft_stage(settings), work / "sft", model=work / "base", data=data)
    starts: list[Result] = []
    arms: dict[str, list[Any]] = {name: [] for name in ARMS}
    for seed in args.seeds:
        for name in ARMS:
            arms[name].append(run_arm(settings, work, name, seed, start, data))
        seeded = settings.model_copy(update={"seed": seed})
        starts.append(measured(seeded, work / f"start-{seed}", start, data))
        if len(starts) > 1:  # one seed has no interval
            (work / "evidence.md").write_text(table(starts, arms))
    print(table(starts, arms))


if __name__ == "__main__":
    main()
