"""QwenLong-L1's own scoring beside ours, on cases worked out from what its released scripts do."""

import pytest

from qwenlong_core.evaluation.qwenlong_l1 import METRIC, as_published, extracted, sub_em, with_qwenlong_l1
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Example, Score


@pytest.mark.parametrize(
    ("said", "gold", "value"),
    [
        ("Paris", "Paris", 1),
        ("the", "Paris", 1),  # normalises to nothing, which occurs in everything
        ("i", "Paris", 1),
        ("Paris, London, Rome", "Paris", 1),
        ("1", "2011", 1),
        ("no", "Norway", 1),
        ("London", "Paris", 0),
    ],
)
def test_substrings_in_either_direction(said, gold, value):
    assert sub_em(said, gold) == value


def test_how_the_answer_is_cut_out():
    assert extracted("the answer is A. No, the answer is B.", number=False) == "B"
    assert extracted("<think>the answer is A", number=False) == "A"  # unfinished thinking is read
    assert extracted("<think>the answer is A</think>Paris", number=False) == "Paris"
    assert extracted("The Answer is 5. The answer is 6.", number=True) == "5"  # the first
    assert extracted("the answer is $32.4 million", number=True) == "32.4"
    for missed in ("(32.4)", "-$31", "$ 32", "approximately 32", r"\boxed{32}"):
        assert extracted(f"Therefore, the answer is {missed}", number=True) == ""


def row(source, *answers, kind="span"):
    return Example(id=source, source=source, domain="reading", answer_type=kind, context="c", question="q?",
                   answers=answers)  # fmt: skip


def sample(source, completion, number=0, finish="stop"):
    return Sample(
        example_id=source, document_id="d", domain="reading", source=source, sample=number, prompt_digest="",
        prompt_tokens=1, lost_tokens=0, depth=None, completion=completion, num_tokens=1, finish_reason=finish,
        score=Score(value=None, status="error") if finish == "error" else Score(value=0.0, rule=0.0),
        metrics={"em": 0.0}, seconds=0.0,
    )  # fmt: skip


ROWS = {
    row.id: row for row in (row("musique", "Obama", "Barack"), row("docmath", "31", kind="number"), row("mine", "x"))
}


def test_first_alias_only_and_failures_leave_the_denominator():
    samples = [
        sample("musique", "the answer is Obama", 0),
        sample("musique", "the answer is Barack", 1),  # an alias, which its scripts do not know
        sample("musique", "", 2, finish="error"),
        sample("musique", "  ", 3),  # empty: left out
        sample("docmath", "the answer is -31", 0),  # the sign is ignored
        sample("docmath", "the answer is about 31", 1),
        sample("mine", "the answer is x"),
    ]
    found = with_qwenlong_l1(samples, ROWS, None)
    assert [s.metrics.get(METRIC) for s in found] == [1, 0, None, None, 1, 0, None]
    assert all(s.metrics["em"] == 0 for s in found)
    published = as_published(found)
    assert (published["musique"].score, published["musique"].left_out) == (0.5, 2)
    assert (published["docmath"].score, published["docmath"].left_out) == (0.5, 0)
    assert set(published) == {"musique", "docmath"}


def test_without_a_judge_an_earlier_verdict_stays():
    judged = [Sample(**{**_fields(sample("musique", "the answer is Barack")), "metrics": {METRIC: 1.0}})]
    assert with_qwenlong_l1(judged, ROWS, None)[0].metrics[METRIC] == 1.0


def _fields(one):
    return {name: getattr(one, name) for name in Sample.__dataclass_fields__}
