"""One arm with one seed, by the pipeline's own stages: warm-up, GRPO phases, and evaluations on the way.

A phase is trained in pieces of :data:`~arms.EVERY` steps. Its next piece goes on in the same work folder with more
steps, which resumes from the last checkpoint, so that the pieces are the same training to the bit.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from arms import EVERY, Arm
from drift import kl_per_token
from judge import serving, town_of
from stages import run_stage
from world import OTHER_WORDS, settings_of

from qwenlong.tasks.specs import StageSpec, grpo_stage, prepare_stage, sft_stage
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation import runner
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.files import digest_json

GREEDY = {"temperature": 0.0, "top_p": 1.0, "samples": 1}
Row = dict[str, Any]


def run_arm(world: Path, work: Path, arm: Arm, seed: int, threads: int) -> Row:
    """Train and measure.

    Returns:
        ``points``, one before training and one every :data:`~arms.EVERY` steps, each with accuracies by question; the
        greedy accuracies by construction and question at the start and the end; what the last steps of training report.
    """
    settings = settings_of(world, arm, seed, threads)
    common = settings_of(world, arm, 0, threads)  # all seeds start from the same policy
    data = shared_stage(world, prepare_stage(common), base=world / "base")
    start = world / "base"
    if arm.warm_up:
        start = shared_stage(world, sft_stage(common), model=start, data=data)
    examples = read_examples(data / "eval.parquet")
    with serving(masks_of(world)) as url:
        if arm.judge:
            judge = JudgeSettings(base_url=url, model="by-construction", concurrency=8)
            rewards = settings.rewards.model_copy(update={"judge": judge})
            settings = settings.model_copy(update={"rewards": rewards})
        points = [evaluated(settings, work / "at-0", start, data, start, examples) | {"step": 0, "tokens": 0}]
        for step, tokens, policy in trained(settings, arm, work, start, data):
            point = evaluated(settings, work / f"at-{step}", policy, data, start, examples)
            points.append(point | {"step": step, "tokens": tokens})
    greedy = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update=GREEDY)})
    ends = {
        name: answers(greedy, work / f"greedy-{name}", policy, data)[1]
        for name, policy in (("start", start), ("end", policy))
    }
    return {"arm": arm.name, "seed": seed, "points": points, "greedy": ends, "last": last_steps(policy)}


def shared_stage(world: Path, spec: StageSpec, **inputs: Path) -> Path:
    """The output of a stage that is run once for all arms with the same job and inputs."""
    key = digest_json([spec.job, {name: str(folder) for name, folder in inputs.items()}])
    return run_stage(spec, world / "starts" / f"{spec.name}-{key[:12]}", **inputs)


def masks_of(world: Path) -> dict[str, str]:
    """What the references of masked rows stand for."""
    rows = [[json.loads(line) for line in (world / f"{name}.jsonl").open()] for name in ("train", "train-masked")]
    return {hidden["answers"][0]: plain["answers"][0] for plain, hidden in zip(*rows, strict=True)}


def trained(settings: Settings, arm: Arm, work: Path, start: Path, data: Path) -> Iterator[tuple[int, int, Path]]:
    """Steps and tokens of rollout so far, and the policy, after each piece."""
    model, before, tokens = start, 0, 0
    for index, steps in enumerate(arm.steps, 1):
        folder = work / f"grpo-{index}"
        for until in range(EVERY, steps + 1, EVERY):
            policy = folder / f"policy-{until}"
            if not policy.exists():
                (folder / "done").unlink(missing_ok=True)
                output = run_stage(
                    grpo_stage(with_steps(settings, index, until), index), folder, model=model, data=data
                )
                output.rename(policy)
            tokens += tokens_of(policy)
            yield before + until, tokens, policy
        before += steps
        model = made_uniform(policy) if arm.uniform else policy


def with_steps(settings: Settings, index: int, steps: int) -> Settings:
    """The settings with so many steps in phase ``index``."""
    phases = list(settings.grpo.phases)
    phases[index - 1] = phases[index - 1].model_copy(update={"steps": steps})
    return settings.model_copy(update={"grpo": settings.grpo.model_copy(update={"phases": tuple(phases)})})


def metrics(policy: Path) -> list[Row]:
    """The step lines of a piece."""
    return [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]


def tokens_of(policy: Path) -> int:
    """Tokens of all completions that were sampled in a piece, whose step lines are its own."""
    size = json.loads((policy.parent / "job.json").read_text())["grpo"]["group_size"]
    return round(sum(float(row["groups_drawn"] * size * row["length_mean"]) for row in metrics(policy)))


def made_uniform(policy: Path) -> Path:
    """A copy of the policy for which all rows were equally hard."""
    copy = policy.with_name(f"{policy.name}-uniform")
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(policy, part)
        file = part / "difficulty.json"
        equal = {key: row | {"mean_accuracy": 0.5} for key, row in json.loads(file.read_text()).items()}
        file.write_text(json.dumps(equal))
        part.rename(copy)
    return copy


def evaluated(
    settings: Settings, folder: Path, policy: Path, data: Path, start: Path, examples: Sequence[Example]
) -> Row:
    """Sampled accuracies by question, by the rule and by construction, and the distance from the start."""
    by_rule, by_construction, others = answers(settings, folder, policy, data)
    log = folder / "output" / "samples.jsonl"
    drift = 0.0 if policy == start else kl_per_token(start, policy, log, examples[::2])
    return {"accuracy": by_rule, "by_construction": by_construction, "other_words": others, "kl": drift}


def answers(settings: Settings, folder: Path, policy: Path, data: Path) -> tuple[Row, Row, Row]:
    """By question, means over its answers: right by the rule, right by construction, wrong under another name."""
    plain = settings.model_copy(update={"rewards": settings.rewards.model_copy(update={"judge": None})})
    output = folder / "output"
    output.mkdir(parents=True, exist_ok=True)
    # In this process: starting another would take longer than its answers. A finished one does nothing.
    runner.run(EvaluateJob.of(plain), {"model": policy, "data": data}, folder)
    golds = {example.id: example.answers[0] for example in read_examples(data / "eval.parquet")}
    found: tuple[defaultdict[str, list[float]], ...] = (defaultdict(list), defaultdict(list), defaultdict(list))
    for sample in read_samples(output / "samples.jsonl"):
        said = sample.score.extracted or ""
        right = town_of(said) == golds[sample.example_id]
        values = sample.accuracy, float(right), float(not right and said.rstrip(".").endswith(OTHER_WORDS))
        for column, value in zip(found, values, strict=True):
            column[sample.example_id].append(value)
    means = [{key: fmean(values) for key, values in column.items()} for column in found]
    return means[0], means[1], means[2]


def last_steps(policy: Path) -> Row:
    """Means over the last ten steps."""
    rows = metrics(policy)[-10:]
    return {name: fmean(row[name] for row in rows) for name in ("entropy", "grad_norm", "accuracy")}
