"""What all claims share: documents of three lengths, a small model that can read them, and the pipeline's settings.

The questions are those of ``benchmarks/learning``: in which town was the director of a film born?
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from arms import Arm
from reader import write_reader

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Example
from qwenlong_core.settings.tree import Settings

BUCKETS = ((160, 176), (216, 232), (272, 288))
"""Prompt lengths of the three phases, in tokens of the bundled tokenizer."""
ROWS = {"sft": 9_000, "train": 1_800, "eval": 240}
READING_STEPS = 900
COMPLETION = 48
SAMPLED = {"temperature": 1.0, "top_p": 1.0}
OTHER_WORDS = "ville"
"""``Aldaleville`` is Aldale in other words: a rule cannot know it, who made the question does."""


def in_other_words(town: str) -> str:
    """Another name of the same town."""
    return town + OTHER_WORDS


def masked(example: Example) -> Example:
    """The row with a gold that no answer repeats, so that the rule never pays; the judge knows what it stands for."""
    return replace(example, answers=(f"town of {example.id}",))


def half_in_other_words(rows: list[Example]) -> list[Example]:
    """SFT rows of which every other one ends with the town's other name."""
    changed = []
    for index, row in enumerate(rows):
        town, solution = row.answers[0], row.solution or ""
        thoughts, said, _ = solution.rpartition(f"the answer is {town}.")
        other = f"{thoughts}the answer is {in_other_words(town)}."
        changed.append(replace(row, solution=other) if said and index % 2 else row)
    return changed


def make_rows(name: str) -> list[Example]:
    """The rows of a split, the three lengths in turn. Splits share no document."""
    tokenizer, rows = bundled_tokenizer(), []
    for index in range(ROWS[name]):
        shortest, longest = BUCKETS[index % 3]
        tokens = shortest + index // 3 % (longest - shortest + 1)
        example = generate(
            tokenizer, domain="multihop", kind="bridge_2", tokens=tokens, seed=f"claims-{name}/{index}"
        ).example
        rows.append(replace(example, id=f"{name}-{index}"))
    return rows


def write_rows(path: Path, rows: list[Example]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows))


def write_world(work: Path, threads: int) -> None:
    """Write all rows and the model that has read those of SFT, unless they are there."""
    if (work / "limits.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    rows = {name: make_rows(name) for name in ROWS}
    for name, of_split in rows.items():
        write_rows(work / f"{name}.jsonl", of_split)
    write_rows(work / "sft-words.jsonl", half_in_other_words(rows["sft"]))
    write_rows(work / "train-masked.jsonl", [masked(row) for row in rows["train"]])
    write_reader(work / "base", rows["sft"], READING_STEPS, threads)
    (work / "limits.json").write_text(json.dumps(phase_limits(load_tokenizer(work / "base"), rows["train"])))


def phase_limits(tokenizer: Any, rows: list[Example]) -> list[int]:
    """The longest prompt of each bucket in the model's own tokens.

    Raises:
        ValueError: two buckets overlap, so that no limit tells them apart.
    """
    lengths: list[list[int]] = [[], [], []]
    for index, row in enumerate(rows):
        lengths[index % 3].append(len(tokenizer.encode(render_prompt(tokenizer, row))))
    for shorter, longer in pairwise(lengths):
        if max(shorter) >= min(longer):
            raise ValueError(f"a bucket ends at {max(shorter)} tokens and the next starts at {min(longer)}")
    return [max(of_bucket) for of_bucket in lengths]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the nested ``changes``."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result


def settings_of(work: Path, arm: Arm, seed: int, threads: int) -> Settings:
    """The pipeline's settings of an arm. A single phase has prompts of all lengths."""
    limits = json.loads((work / "limits.json").read_text())[-len(arm.steps) :]
    length = {"max_completion_tokens": COMPLETION, "cache_tokens": arm.cache_tokens}
    phases = [
        {"max_prompt_tokens": limit, "steps": count, **length} for limit, count in zip(limits, arm.steps, strict=True)
    ]
    rows = {name: str(work / f"{name}.jsonl") for name in ROWS}
    rows |= {name: str(work / file) for name, file in arm.rows.items()}
    longest = limits[-1]
    base = {
        "profile": "claims",
        "seed": seed,
        "model": {"name": str(work / "base")},
        "data": {**rows, "near_duplicates": None},
        "sft": {"max_tokens": longest + 2 * COMPLETION, "learning_rate": 3e-4, "epochs": arm.warm_up or 1.0,
                "batch_size": 16, "micro_batch_size": 16, "save_steps": 100},
        "grpo": {"group_size": 8, "batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 16,
                 "learning_rate": 2e-4, "clip_high": 0.28, "save_steps": 10, "optimizer_across_phases": "fresh",
                 "dynamic_sampling": {"max_rounds": 2}, "phases": phases, **SAMPLED},
        "evaluation": {"max_prompt_tokens": longest, "max_completion_tokens": COMPLETION, "samples": 4,
                       "batch_size": 16, **SAMPLED},
        "launch": {"cpu_threads": threads},
    }  # fmt: skip
    return Settings.model_validate(merged(base, arm.changes))
