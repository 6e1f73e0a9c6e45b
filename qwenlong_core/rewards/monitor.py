"""Metrics of one step's rewards, and the ceilings at which the run stops. Nothing is kept between steps."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.errors import Alarm
from qwenlong_core.records import Score
from qwenlong_core.settings.rewards import RewardSettings


class RewardAlarm(Alarm):
    """The rewards can no longer be trusted; the message names the share and the ceiling that it exceeds."""


def reward_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Shares over all completions of a step; means over those that have a score."""
    if not scores:
        return {}
    count = len(scores)
    values = [score.value for score in scores if score.value is not None]
    accuracies = [score.accuracy for score in scores if score.accuracy is not None]
    # Accuracy is the reward without the length penalty.
    paid = [score for score in scores if score.accuracy]
    metrics = {
        "reward/unscored_share": sum(score.status == "unscored" for score in scores) / count,
        "reward/no_answer_share": sum(score.status == "no_answer" for score in scores) / count,
        "reward/truncated_share": sum(score.status == "truncated" for score in scores) / count,
        "reward/judged_share": sum(score.judge is not None for score in scores) / count,
        # A share of all completions would hide such rewards as long as rewards are rare.
        "reward/judge_only_share": sum(not score.rule for score in paid) / len(paid) if paid else 0.0,
        "reward/penalized_share": sum(score.length_penalty < 0 for score in scores) / count,
        "reward/length_penalty_mean": sum(score.length_penalty for score in scores) / count,
    }
    if values:
        metrics["reward/mean"] = sum(values) / len(values)
        metrics["reward/accuracy"] = sum(accuracies) / len(accuracies)
    return metrics


def check_rewards(scores: Sequence[Score], settings: RewardSettings) -> dict[str, float]:
    """:func:`reward_metrics`, after checking them against the ceilings.

    The judge-only share is the share of *rewarded* completions that the rule did not reward. With fewer than eight
    rewarded completions the share says little, and no alarm is raised.

    Raises:
        RewardAlarm: ``max_unscored_share`` is exceeded (the message quotes the judge's last error), or
            ``max_judge_only_share`` is.
    """
    metrics = reward_metrics(scores)
    if not metrics:
        return metrics
    unscored, judge_only = metrics["reward/unscored_share"], metrics["reward/judge_only_share"]
    if unscored > settings.max_unscored_share:
        last = next(score.reason for score in reversed(scores) if score.status == "unscored")
        raise RewardAlarm(
            f"{unscored:.1%} of {len(scores)} completions are unscored > max_unscored_share="
            f"{settings.max_unscored_share:.1%}; last: {last}. Repair the judge's endpoint, then resume"
        )
    paid = sum(bool(score.accuracy) for score in scores)
    if judge_only > settings.max_judge_only_share and paid >= 8:
        raise RewardAlarm(
            f"{judge_only:.1%} of {paid} rewarded completions were rewarded by the judge alone > max_judge_only_share="
            f"{settings.max_judge_only_share:.1%}: the policy may be learning to please the judge. Read these "
            "completions; then correct the rule, change the judge or raise the ceiling"
        )
    return metrics
