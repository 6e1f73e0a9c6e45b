"""The third verdict: refused for want of evidence alone, with the number of items that would decide, and the flips."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from scipy import stats

from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.evaluation.statistics import Estimate, items_to_decide
from qwenlong_core.promotion.conditions import gain_condition
from qwenlong_core.promotion.decision import Condition, decision_markdown, read_decision, verdict_of, write_decision
from qwenlong_core.promotion.gate import decide, refusal
from qwenlong_core.settings.evaluation import PromotionSettings

BOOT = Bootstrap(resamples=1_000, confidence=0.95, seed=1)
SETTINGS = PromotionSettings()
ROW = [1, 0] * 20


def flipped(up: int, down: int) -> list[int]:
    """``ROW`` with so many wrong answers made right, and right ones made wrong."""
    values, wrong, right = list(ROW), ROW.count(0), ROW.count(1)
    assert up <= wrong and down <= right
    for number in range(up):
        values[2 * number + 1] = 1
    for number in range(down):
        values[-2 * number - 2] = 0
    return values


@pytest.mark.parametrize(
    ("up", "down", "verdict"), [(15, 0, "PROMOTED"), (5, 2, "INCONCLUSIVE"), (0, 0, "INCONCLUSIVE"), (0, 12, "REFUSED")]
)
def test_the_verdict_follows_from_where_the_interval_lies(make_evaluation, up, down, verdict):
    decision = decide(make_evaluation(flipped(up, down), "b"), make_evaluation(ROW), SETTINGS, BOOT)
    assert decision.verdict == verdict and decision.promote == (verdict == "PROMOTED")
    assert decision.reason.startswith(verdict.lower())
    assert (sum(flip.gain > 0 for flip in decision.flips), sum(flip.gain < 0 for flip in decision.flips)) == (up, down)
    assert (decision.items_to_decide is not None) == (verdict == "INCONCLUSIVE" and up != down)


def test_the_items_that_would_decide_are_those_of_the_power_formula(make_evaluation):
    """5 up and 2 down of 40 items on 40 documents: gain 0.075, by hand."""
    decision = decide(make_evaluation(flipped(5, 2), "b"), make_evaluation(ROW), SETTINGS, BOOT)
    error = math.sqrt((7 - 40 * 0.075**2) / 40 / 39)
    effect = (stats.t.ppf(0.975, 39) + stats.t.ppf(0.8, 39)) * error
    assert decision.items_to_decide == math.ceil(40 * (effect / 0.075) ** 2)
    assert f"about {decision.items_to_decide:,} items" in decision.reason


def test_the_distance_to_go_is_that_to_the_margin():
    gain = Estimate(mean=0.05, low=-0.01, high=0.11, standard_error=0.03, items=100, documents=50)
    far = items_to_decide(gain, confidence=0.95)
    assert items_to_decide(gain, confidence=0.95, threshold=0.025) == pytest.approx(4 * far, abs=4)
    assert items_to_decide(gain, confidence=0.95, threshold=0.05) is None, "no distance, no number"
    assert items_to_decide(gain, confidence=0.95, threshold=0.2) is None, "decided"
    assert items_to_decide(replace(gain, low=None, high=None), confidence=0.95) is None


@pytest.mark.parametrize(
    ("low", "high", "passed", "undecided"),
    [
        (0.01, 0.2, True, False),
        (0.0, 0.2, False, True),
        (-0.1, 0.2, False, True),
        (-0.2, 0.0, False, True),
        (-0.2, -0.01, False, False),
        (None, None, False, True),
    ],
)
def test_a_gain_passes_as_before_and_is_open_where_its_interval_holds_the_margin(low, high, passed, undecided):
    gain = Estimate(mean=0.01, low=low, high=high, standard_error=0.1, items=9, documents=9)
    condition = gain_condition(gain, 0.0, 0.95)
    assert (condition.passed, condition.undecided) == (passed, undecided)


def test_one_decided_failure_refuses_whatever_is_open():
    open_, failed = (Condition(name=n, passed=False, detail="", undecided=n == "a") for n in "ab")
    passed = Condition(name="c", passed=True, detail="")
    assert verdict_of([open_, passed]) == "INCONCLUSIVE"
    assert verdict_of([open_, failed, passed]) == verdict_of([failed]) == "REFUSED"
    assert refusal("unreadable").verdict == "REFUSED"


def test_a_loss_or_a_missing_verdict_is_never_called_inconclusive(make_evaluation):
    """The gain is open in all of these, but something else speaks against the challenger."""
    champion = make_evaluation(ROW)
    for values in (flipped(5, 2)[:-4] + [None] * 4, flipped(5, 2)):
        other = make_evaluation(values, "b" if None in values else "a")
        decision = decide(other, champion, SETTINGS, BOOT)
        assert decision.verdict == "REFUSED" and decision.items_to_decide is None


def test_the_flips_show_both_answers_and_nothing_in_them_is_markup(make_evaluation, tmp_path):
    hostile = "The answer is `x` | <script>alert(1)</script>."
    new = make_evaluation(flipped(5, 2), "b", completion=hostile)
    said = tuple(replace(s, score=replace(s.score, extracted=f"<b>`{'y' * 99}")) for s in new.samples)
    decision = decide(replace(new, samples=said), make_evaluation(ROW), SETTINGS, BOOT)
    write_decision(decision, tmp_path)
    text = decision_markdown(decision)
    assert text.startswith("# Inconclusive: not promoted") and "- **FAIL** **gain**" in text
    assert "5 items higher and 2 lower" in text and f"`<b>'{'y' * 56} ...`" in text
    kept = read_decision(tmp_path)
    assert (kept["verdict"], kept["promote"], len(kept["flips"])) == ("INCONCLUSIVE", False, 7)
    assert kept["items_to_decide"] == decision.items_to_decide


def test_a_decision_of_before_has_one_of_two_verdicts(tmp_path):
    for promote, verdict in ((True, "PROMOTED"), (False, "REFUSED")):
        (tmp_path / "decision.json").write_text(json.dumps({"promote": promote, "reason": "because"}))
        assert read_decision(tmp_path)["verdict"] == verdict
