"""What a GRPO step reports: its ``metrics.jsonl`` row, its log line and its sample completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from qwenlong_core.records import Completion, Group, Score
from qwenlong_core.rewards.monitor import reward_metrics
from qwenlong_core.training.dynamic_sampling import RolloutBatch

# Our names of the metrics that TRL logs.
_TRAINER_FIELDS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio": "clip_ratio/region_mean",
    "clip_low_share": "clip_ratio/low_mean",
    "clip_high_share": "clip_ratio/high_mean",
    "importance_ratio_min": "sampling/importance_sampling_ratio/min",
    "importance_ratio_mean": "sampling/importance_sampling_ratio/mean",
    "importance_ratio_max": "sampling/importance_sampling_ratio/max",
}


def _percentile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0


def _accuracy(groups: Sequence[Group]) -> float | None:
    """Mean accuracy of all scored completions; ``None`` if there are none."""
    known = [score.accuracy for group in groups for score in group.scores if score.accuracy is not None]
    return fmean(known) if known else None


def _completions(groups: Sequence[Group]) -> list[Completion]:
    return [completion for group in groups for completion in group.completions]


def _mean_length(completions: Sequence[Completion]) -> float:
    return fmean(len(completion.token_ids) for completion in completions) if completions else 0.0


def _truncated_share(completions: Sequence[Completion]) -> float:
    return fmean(completion.finish_reason == "length" for completion in completions) if completions else 0.0


def _by_domain(groups: Sequence[Group]) -> dict[str, float | None]:
    domains = sorted({group.example.domain for group in groups})
    return {f"accuracy_{d}": _accuracy([g for g in groups if g.example.domain == d]) for d in domains}


def batch_metrics(batch: RolloutBatch, prompt_tokens: int) -> dict[str, Any]:
    """Metrics of all groups drawn in a step, including dropped ones.

    They show how the policy does. The same metrics of the kept groups alone, whose names end in ``kept``, show what it
    learns from.

    Args:
        batch: The step's groups.
        prompt_tokens: Tokens of the drawn prompts; each group's prompt counts once.
    """
    groups = batch.groups
    scores = [score for group in groups for score in group.scores]
    drawn, trained = (_completions(part) for part in (groups, batch.kept))
    lengths = [len(completion.token_ids) for completion in drawn]
    rewards = reward_metrics(scores)
    kept = [score.value for group in batch.kept for score in group.scores if score.value is not None]
    return {
        "reward": rewards.get("reward/mean"),
        "reward_kept": fmean(kept) if kept else None,
        "accuracy": _accuracy(groups),
        **_by_domain(groups),
        **batch.counts(),
        "unscored_share": rewards.get("reward/unscored_share", 0.0),
        "judge_only_share": rewards.get("reward/judge_only_share", 0.0),
        "no_answer_share": rewards.get("reward/no_answer_share", 0.0),
        "penalties": sum(score.length_penalty < 0 for score in scores),
        "penalty_mean": rewards.get("reward/length_penalty_mean", 0.0),
        "bonus_mean": fmean(score.bonus for score in scores) if scores else 0.0,
        "length_mean": _mean_length(drawn),
        "length_mean_kept": _mean_length(trained),
        **{f"length_p{share}": _percentile(lengths, share / 100) for share in (50, 90, 99)},
        "truncated_share": _truncated_share(drawn),
        "truncated_share_kept": _truncated_share(trained),
        "tokens_kept": sum(len(completion.token_ids) for completion in trained),
        "tokens": prompt_tokens + sum(lengths),
    }


def row(logs: dict[str, Any], step: int) -> dict[str, Any]:
    """The row of a step, from the trainer's log dictionary; ``batch`` in it is ours, the rest TRL's."""
    trained = {name: logs[key] for name, key in _TRAINER_FIELDS.items() if logs.get(key) is not None}
    drawn: dict[str, Any] = logs["batch"]
    return drawn | trained


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def sentence(row: dict[str, Any]) -> str:
    """The middle of the step's log line."""
    kept, drawn = row["groups_kept"], row["groups_drawn"]
    return (
        f"reward {_number(row['reward'])} | acc {_number(row['accuracy'])} | kept {kept}/{drawn} groups"
        f" in {row['rounds']} round(s) | entropy {_number(row.get('entropy'))} | length {row['length_mean']:.0f}"
        f" | grad {_number(row.get('grad_norm'), 3)}"
    )


def shortfall(batch: RolloutBatch, wanted: int) -> str | None:
    """A message if the batch could not be filled, else ``None``."""
    kept = len(batch.kept)
    if kept == wanted:
        return None
    reasons = ", ".join(
        f"{count} {name.removeprefix('groups_').replace('_', ' ')}"
        for name, count in batch.counts().items()
        if name.startswith("groups_") and name not in ("groups_drawn", "groups_kept") and count
    )
    effect = f"training on {kept}" if kept else "no group to learn from: the weights do not change"
    return f"{kept} of {wanted} informative groups after {batch.rounds} round(s) ({reasons}); {effect}"


def _value(score: Score) -> float:
    return score.value if score.value is not None else float("-inf")


def samples(batch: RolloutBatch, step: int) -> Iterator[dict[str, Any]]:
    """The best and the worst completion of every kept group, or of the first dropped group if none was kept."""
    shown = batch.kept or [group for group, _ in batch.dropped[:1]]
    for group in shown:
        order = sorted(range(len(group.scores)), key=lambda i: _value(group.scores[i]))
        for rank, i in (("best", order[-1]), ("worst", order[0])):
            yield {
                "step": step,
                "rank": rank,
                "kept": bool(batch.kept),
                "id": group.example.id,
                "question": group.example.question,
                "answers": list(group.example.answers),
                "completion": group.completions[i].text,
                "score": asdict(group.scores[i]),
            }
