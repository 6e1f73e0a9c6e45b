"""Published scorers on cases worked out by hand from their definitions.

- RULER (scripts/eval/synthetic/constants.py, evaluate.py): ``string_match_all`` is the share of references that occur
  in the prediction in any case, ``string_match_part`` whether any does; control characters become line breaks before.
- MRCR (the card of openai/mrcr): 0 unless the response begins with the random string; else difflib's ratio, 2M / T, of
  what follows it in both.
"""

import pytest

from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.extract import extract_answer
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.rewards.published import published_score
from qwenlong_core.rewards.published_judges import corpusqa_messages, read_aa_lcr, read_corpusqa, read_yes_anywhere
from qwenlong_core.rewards.rules import check_gold
from qwenlong_core.settings.rewards import RewardSettings


def row(scorer, *answers, **metadata):
    return Example(
        id="x", source="s", domain="reading", answer_type="published", context="c", question="Which?",
        answers=answers, metadata={"scorer": scorer, **metadata},
    )  # fmt: skip


def scored(text, example, finish="stop"):
    return score_by_rule(example, Completion(text=text, token_ids=(), finish_reason=finish), RewardSettings())


@pytest.mark.parametrize(
    ("said", "golds", "every", "some"),
    [
        ("The numbers are 123 and 456.", ("123", "456"), 1, 1),
        ("only 456", ("123", "456"), 0.5, 1),
        ("WORD-one", ("word-ONE",), 1, 1),
        ("12", ("123",), 0, 0),  # the reference occurs in the prediction, not the other way round
        ("71239", ("123",), 1, 1),  # a substring is enough
        ("a\x01b", ("a\nb",), 1, 1),  # control characters are line breaks
        ("one", ("one", "two", "three", "four"), 0.25, 1),
    ],
)
def test_ruler(said, golds, every, some):
    assert published_score(said, row("ruler-all", *golds)) == every
    assert published_score(said, row("ruler-any", *golds)) == some


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ("aB3xhello", 1),
        ("hello", 0),  # without the string
        (" aB3xhello", 0),  # not at the very beginning
        ("AB3Xhello", 0),  # its case counts
        ("aB3xhelo", 2 * 4 / 9),  # M: hel, o; T: 4 + 5
        ("aB3x", 0),  # nothing follows: M 0, T 5
        ("aB3xhello and more", 2 * 5 / 19),
    ],
)
def test_mrcr(said, grade):
    assert published_score(said, row("mrcr", "aB3xhello", prefix="aB3x")) == pytest.approx(grade)


def test_the_score_is_the_scorers_and_a_cut_answer_counts_by_what_it_says():
    stage = scored("it is 123", row("ruler-all", "123", "456"), finish="length")
    assert stage.score.accuracy == 0.5 and stage.score.status == "scored" and stage.question is None


def test_thinking_is_not_the_answer():
    example = row("mrcr", "aB3xhello", prefix="aB3x")
    assert scored("<think>aB3xhello?</think>\n\naB3xhello", example).score.accuracy == 1
    assert scored("<think>\naB3xhello", example, finish="length").score.status == "truncated"
    assert scored("<think>123</think> no idea", row("ruler-all", "123")).score.accuracy == 0
    assert extract_answer("  \n", "published").answer is None


def test_a_judged_row_goes_to_the_judge_whole_in_its_own_form():
    stage = scored("Ranked: 1. Air (12)\n2. Rooms (4)", row("aa-lcr", "1. Air 2. Rooms"))
    assert stage.question.form == "aa-lcr" and stage.question.answer == "Ranked: 1. Air (12)\n2. Rooms (4)"
    assert scored("<think>x", row("aa-lcr", "y")).question is None


@pytest.mark.parametrize("metadata", [{}, {"prefix": ""}, {"prefix": "zz"}])
def test_rows_that_cannot_be_scored_are_refused_at_the_door(metadata):
    with pytest.raises(ValueError, match="an MRCR row needs the prefix"):
        check_gold(row("mrcr", "aB3xhello", **metadata))
    with pytest.raises(ValueError, match="scorer 'bleu': name one of ruler-all"):
        check_gold(row("bleu", "x"))


def test_verdicts_of_published_judges():
    said = {"CORRECT": True, "INCORRECT": False, "I think CORRECT.": True, "CORRECT or INCORRECT": None, "": None}
    assert {reply: read_aa_lcr(reply) for reply in said} == said
    said = {"[[YES]]": True, "x [[NO]]": False, "[[YES]] [[NO]]": False, "YES": None}
    assert {reply: read_corpusqa(reply) for reply in said} == said
    assert read_yes_anywhere("not YES at all") and not read_yes_anywhere("yes")


def test_corpusqa_judges_what_follows_its_phrase():
    shown = corpusqa_messages("Q?", ("[3]",), "So. The answer is: [3] \nThe answer is: 4")[1]["content"]
    assert shown == "\nProblem: Q?\nAnswer 1: [3]\nAnswer 2: [3]\n"
    assert "Answer 1: three" in corpusqa_messages("Q?", ("[3]",), " three ")[1]["content"]
