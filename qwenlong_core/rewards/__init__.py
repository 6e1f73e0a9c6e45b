"""Rewards: extract -> rules -> judge -> hybrid, the same for training and evaluation.

Read in this order: ``extract`` (the committed answer), ``rules`` (equality by answer type),
``judge`` (a model's verdict where the rule cannot decide), ``hybrid`` (the score). ``monitor`` watches
a step's scores, ``health`` checks the judge before a run, ``metrics`` are the benchmarks' own scores.
"""

from qwenlong_core.rewards.extract import Extraction, extract_answer
from qwenlong_core.rewards.health import JudgeHealth, check_judge, require_judge
from qwenlong_core.rewards.hybrid import (
    RuleStage,
    judged,
    score_by_rule,
    score_completions,
    score_completions_sync,
)
from qwenlong_core.rewards.judge import (
    Judge,
    JudgeCounts,
    JudgeQuestion,
    Verdict,
    evaluation_judge,
    training_judge,
)
from qwenlong_core.rewards.length import LengthLimits, length_penalty
from qwenlong_core.rewards.monitor import RewardAlarm, check_rewards, reward_metrics
from qwenlong_core.rewards.rules import RuleResult, check_gold, rule_score

__all__ = [
    "Extraction",
    "Judge",
    "JudgeCounts",
    "JudgeHealth",
    "JudgeQuestion",
    "LengthLimits",
    "RewardAlarm",
    "RuleResult",
    "RuleStage",
    "Verdict",
    "check_gold",
    "check_judge",
    "check_rewards",
    "evaluation_judge",
    "extract_answer",
    "judged",
    "length_penalty",
    "require_judge",
    "reward_metrics",
    "rule_score",
    "score_by_rule",
    "score_completions",
    "score_completions_sync",
    "training_judge",
]
