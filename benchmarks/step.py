"""A whole GRPO step beside stock TRL's: rollout, reward and update of one group.

    python benchmarks/step.py MODEL_DIR                               P=2048, C=128, G=8
    python benchmarks/step.py MODEL_DIR --prompt 512 --completion 32

Both trainers start from the same weights and see the same generated document. Both draw G completions of exactly C
tokens at temperature 1 and take one optimizer step on them. The reward is a checksum of the completion, so that rewards
differ within the group. Both use gradient checkpointing, without which stock TRL would keep the activations of
G * (P + C) tokens. A time runs from the beginning of an optimizer step to its end. Ours is the second step of the run;
the first, which also compares shared prompts with separate rows once per run, is in a column of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from compare import CLOCKS, Row, model_folder, row, save
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.runtime import quiet, set_up_process, trainer_arguments


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each optimizer step, including its rollout."""

    def __init__(self, clock: str) -> None:
        self._now = CLOCKS[clock]
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self._start)


def job_of(prompt: int, completion: int, group: int, seed: int) -> GRPOJob:
    phase = {
        "max_prompt_tokens": 2 * prompt,
        "max_completion_tokens": completion,
        "cache_tokens": 1,
        "steps": 2,
    }
    grpo = {
        "group_size": group,
        "batch_size": 1,
        "mini_batch_size": 1,
        "learning_rate": 1e-6,
        "temperature": 1.0,
        "top_p": 1.0,
        "dynamic_sampling": {"max_rounds": 1},
    }
    launch = {"gradient_checkpointing": True}
    return GRPOJob.model_validate(
        {"index": 1, "phase": phase, "grpo": grpo, "rewards": {}, "model": {}, "launch": launch, "seed": seed}
    )


def checksum(token_ids: Sequence[int]) -> float:
    return sum(token_ids) % 97 / 97


async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
    return [Score(value=checksum(c.token_ids), rule=checksum(c.token_ids)) for c in completions]


def our_steps(policy: Path, data: Path, job: GRPOJob, work: Path, clock: str) -> list[float]:
    trainer = build_trainer(job, inputs={"model": policy, "data": data}, work=work, scorer=score, processes=1, rank=0)
    engine = trainer.batches.rollouts.engine
    assert isinstance(engine, TransformersEngine)
    engine.stop_ids = frozenset()  # every completion reaches C tokens
    return timed(trainer, clock)


def stock_steps(policy: Path, example: Example, job: GRPOJob, work: Path, clock: str) -> list[float]:
    tokenizer = load_tokenizer(policy)
    trainer = GRPOTrainer(
        model=load_policy(policy, job.model),
        reward_funcs=lambda completion_ids, **_: [checksum(ids) for ids in completion_ids],
        args=GRPOConfig(
            **trainer_arguments(job.model, job.launch, job.seed, work),
            per_device_train_batch_size=job.grpo.group_size,
            gradient_accumulation_steps=1,
            max_steps=1,
            num_generations=job.grpo.group_size,
            max_completion_length=job.phase.max_completion_tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            learning_rate=job.grpo.learning_rate,
            lr_scheduler_type="constant",
            loss_type="dapo",
            beta=0.0,
            generation_kwargs={"min_new_tokens": job.phase.max_completion_tokens},
        ),
        train_dataset=Dataset.from_dict({"prompt": [render_prompt(tokenizer, example)]}),
        processing_class=tokenizer,
    )
    quiet(trainer)
    return timed(trainer, clock)


def timed(trainer: Any, clock: str) -> list[float]:
    step = StepClock(clock)
    trainer.add_callback(step)
    trainer.train()
    return step.seconds


def measure(policy: Path, prompt: int, completion: int, group: int, repeats: int, clock: str) -> Row:
    times: dict[str, list[float]] = {"ours": [], "stock TRL": []}
    firsts: list[float] = []
    example = generate(load_tokenizer(policy), domain="math", tokens=prompt, seed=0).example
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "train.parquet", [example], [1])
        for repeat in range(repeats):
            job = job_of(prompt, completion, group, seed=repeat)
            steps = {
                "ours": lambda job=job: our_steps(policy, Path(folder), job, Path(folder) / "ours", clock),
                "stock TRL": lambda job=job: stock_steps(policy, example, job, Path(folder) / "stock", clock),
            }
            for name in list(steps)[:: -1 if repeat % 2 else 1]:
                seconds = steps[name]()
                times[name].append(seconds[-1])
                if name == "ours":
                    firsts.append(seconds[0])
                print(f"  {name}: " + ", then ".join(f"{s:.2f} s" for s in seconds), flush=True)
    return row(times, "ours", P=prompt, C=completion, G=group) | {"ours, first step s": round(median(firsts), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--prompt", type=int, nargs="+", default=[2048])
    parser.add_argument("--completion", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    set_up_process(LaunchSettings())
    rows = [measure(args.model, p, args.completion, args.group, args.repeats, args.clock) for p in args.prompt]
    save(rows, args.output, "step", x="P")


if __name__ == "__main__":
    main()
