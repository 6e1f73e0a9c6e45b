"""The rule of an answer type that another distribution adds: in doubt nothing is paid, and bad golds are refused."""

from __future__ import annotations

import outside_distribution as outside
import pytest
from pydantic import ValidationError

from qwenlong_core import answer_types as types_from_outside
from qwenlong_core.data.prompts import TEMPLATE_DIGEST, user_message, wording_digest
from qwenlong_core.data.sources.uniform import from_record
from qwenlong_core.data.sources.validation import BadRow, checked
from qwenlong_core.plugged import entries
from qwenlong_core.records import Example, answer_types, example_from_dict
from qwenlong_core.rewards import published, rules
from qwenlong_core.rewards.hybrid import score_text

CODE = """
from qwenlong_core import AnswerRule

def read(text):
    if "!" in text:
        raise IndexError("no such sign")
    return text.strip().split(".") if text.replace(".", "").replace(" ", "").isdigit() else None

def equal(said, gold):
    return None if len(said) != len(gold) else said == gold

VERSION = AnswerRule(read=read, equal=equal, ask="Write all its numbers.")
NEVER = AnswerRule(read=read, equal=lambda said, gold: "yes")
IS_HALF = lambda answer, example: 0.5
IS_MUCH = lambda answer, example: 7
"""
POINTS = {
    "answer_types": {"version": "versions:VERSION", "never": "versions:NEVER"},
    "scorers": {"half": "versions:IS_HALF", "much": "versions:IS_MUCH"},
}
CACHED = (
    entries,
    types_from_outside.answer_rules,
    published.scorers,
    rules._golds_from_outside,
)


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """The distribution on this process's own path."""
    monkeypatch.syspath_prepend(str(outside.by_hand(tmp_path, "my-versions", {"versions.py": CODE}, **POINTS)))
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def example(answer_type="version", answers=("1.20.3",), **more):
    row = {"id": "e", "source": "s", "domain": "reading", "context": "c", "question": "Which?"}
    return Example(**row, answer_type=answer_type, answers=answers, **more)


@pytest.mark.parametrize(
    ("said", "value", "judge_is_asked", "reason"),
    [
        ("1.20.3", 1.0, False, "'1.20.3' equals gold '1.20.3'"),
        ("1.20.4", 0.0, False, "'1.20.4' is not gold '1.20.3'"),
        ("1.20", 0.0, True, "'1.20' is not gold"),
        ("the newest", 0.0, True, "'the newest' is not gold"),
        ("1.20!3", 0.0, True, "the rule of 'version' raised IndexError: no such sign"),
    ],
)
def test_true_is_paid_false_is_settled_and_the_rest_is_in_doubt(said, value, judge_is_asked, reason):
    stage = score_text(example(), f"Therefore, the answer is {said}.", 0.0)
    assert (stage.score.value, stage.question is not None) == (value, judge_is_asked)
    assert reason in stage.score.reason


def test_any_gold_is_enough():
    stage = score_text(example(answers=("1.2", "1.3")), "Therefore, the answer is 1.3.", 0.0)
    assert stage.score.value == 1.0


def test_only_true_itself_pays():
    with pytest.raises(BadRow, match=r"gold '1\.2' of type 'never' is no answer of that type, or not equal to itself"):
        checked(example("never", ("1.2",)))


@pytest.mark.parametrize(("gold", "why"), [("newest", "is no answer of"), ("1!", "made its rule raise IndexError")])
def test_a_gold_that_the_rule_cannot_read_is_refused(gold, why):
    with pytest.raises(BadRow, match=f"unusable gold: gold '{gold}' of type 'version' {why}"):
        checked(example(answers=("1.2", gold)))


def test_every_door_knows_the_type_and_lists_it():
    assert answer_types()[-2:] == ("never", "version")
    record = {"domain": "reading", "context": "c", "question": "q", "answers": ["1.2"], "answer_type": "version"}
    assert from_record(record, "s").answer_type == "version"
    assert example_from_dict(example().to_dict()).answer_type == "version"
    with pytest.raises(BadRow, match=r"is 'vers', not one of number, .*, never, version"):
        from_record({**record, "answer_type": "vers"}, "s")
    with pytest.raises(ValidationError, match=r"not one of number, .*, never, version"):
        example_from_dict({**example().to_dict(), "answer_type": "vers"})
    with pytest.raises(ValueError, match="there is no answer type 'vers': take one of number"):
        score_text(example("vers"), "Therefore, the answer is 1.2.", 0.0)


def test_a_gold_repeated_word_for_word_is_paid_whatever_its_signs():
    gold = "1.20. 3"
    assert score_text(example(answers=(gold,)), f"Therefore, the answer is {gold}", 0.0).score.value == 1.0


def test_the_prompt_asks_in_the_types_words_and_other_prompts_stay():
    asked, plain = user_message(example()), user_message(example("span"))
    assert asked == f"{plain} Write all its numbers."
    assert wording_digest(["span", "number", "never"]) == TEMPLATE_DIGEST != wording_digest(["span", "version"])


def test_a_scorer_gives_a_number_from_0_to_1():
    row = example("published", metadata={"scorer": "half"})
    assert score_text(row, "whatever", 0.0).score.value == 0.5
    with pytest.raises(ValueError, match=r"much = .*my-versions 1\.0 gave 7 for example 'e', not a number from 0 to 1"):
        score_text(example("published", metadata={"scorer": "much"}), "whatever", 0.0)
    with pytest.raises(ValueError, match=r"name one of .*half, much"):
        score_text(example("published", metadata={"scorer": "none"}), "whatever", 0.0)
