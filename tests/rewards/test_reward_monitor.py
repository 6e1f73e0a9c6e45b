"""Metrics of a step worked out by hand, and the two ceilings."""

import pytest

from qwenlong_core.records import Score
from qwenlong_core.rewards.monitor import RewardAlarm, check_rewards, reward_metrics
from qwenlong_core.settings.rewards import RewardSettings

RIGHT = Score(value=1.0, rule=1.0, extracted="x")
WRONG = Score(value=0.0, rule=0.0, extracted="y")
JUDGED = Score(value=1.0, rule=0.0, judge=1.0, extracted="z")
REFUSED = Score(value=-0.5, rule=0.0, judge=0.0, length_penalty=-0.5, extracted="z")
EMPTY = Score(value=0.0, status="no_answer")
CUT = Score(value=-1.0, length_penalty=-1.0, status="truncated")
LOST = Score(
    value=None,
    rule=0.0,
    status="unscored",
    reason="the judge gave no verdict: http://j/v1: HTTP 500: out of memory",
)


def test_metrics_by_hand() -> None:
    metrics = reward_metrics([RIGHT, RIGHT, RIGHT, WRONG, JUDGED, REFUSED, EMPTY, CUT, LOST, LOST])
    assert metrics == pytest.approx(
        {
            "reward/unscored_share": 0.2,
            "reward/no_answer_share": 0.1,
            "reward/truncated_share": 0.1,
            "reward/judged_share": 0.2,
            "reward/judge_only_share": 0.25,
            "reward/penalized_share": 0.2,
            "reward/length_penalty_mean": -0.15,
            "reward/mean": (4 - 0.5 - 1.0) / 8,
            "reward/accuracy": 4 / 8,
        }
    )


def test_nothing_paid_and_nothing_scored() -> None:
    assert reward_metrics([]) == {}
    assert reward_metrics([WRONG])["reward/judge_only_share"] == 0.0
    assert "reward/mean" not in reward_metrics([LOST])


def test_unscored_over_the_ceiling_stops_with_the_last_error() -> None:
    settings = RewardSettings(max_unscored_share=0.2)
    check_rewards([LOST] + [RIGHT] * 4, settings)
    with pytest.raises(
        RewardAlarm,
        match=r"40\.0% of 5 completions are unscored > max_unscored_share=20\.0%.*HTTP 500: out of memory",
    ):
        check_rewards([LOST, LOST] + [RIGHT] * 3, settings)


def test_reward_from_the_judge_alone_over_the_ceiling_stops() -> None:
    settings = RewardSettings(max_judge_only_share=0.5)
    assert check_rewards([JUDGED] * 4 + [RIGHT] * 4, settings)["reward/judge_only_share"] == 0.5
    with pytest.raises(
        RewardAlarm,
        match=r"62\.5% of 8 rewarded completions were rewarded by the judge alone > max_judge_only_share=50\.0%",
    ):
        check_rewards([JUDGED] * 5 + [RIGHT] * 3 + [WRONG] * 8, settings)


def test_a_handful_of_rewards_is_no_trend() -> None:
    assert check_rewards([JUDGED] * 7, RewardSettings())["reward/judge_only_share"] == 1.0
