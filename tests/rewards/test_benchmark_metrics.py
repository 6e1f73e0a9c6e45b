"""The benchmarks' metrics against their official formulas."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from qwenlong_core.rewards import metrics


def official_normalize(s: str) -> str:
    """Copied in substance from SQuAD's evaluate-v1.1.py."""
    exclude = set(string.punctuation)
    s = "".join(ch for ch in s.lower() if ch not in exclude)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


def official_f1(prediction: str, gold: str) -> float:
    """``f1_score`` of evaluate-v1.1.py."""
    prediction_tokens, gold_tokens = official_normalize(prediction).split(), official_normalize(gold).split()
    num_same = sum((Counter(prediction_tokens) & Counter(gold_tokens)).values())
    if num_same == 0:
        return 0
    precision, recall = 1.0 * num_same / len(prediction_tokens), 1.0 * num_same / len(gold_tokens)
    return (2 * precision * recall) / (precision + recall)


WORDS = [
    "the",
    "a",
    "An",
    "cat",
    "Cat.",
    "dog",
    "U.S.",
    "3.5",
    "don't",
    "yes",
    "no",
    "noanswer",
    "été",
    "-",
    "_",
    "a-b",
    "x_y",
    "10,000",
    "猫",
]
TEXTS = st.one_of(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), st.text(max_size=30))
ASCII = st.one_of(
    st.lists(st.sampled_from([w for w in WORDS if w.isascii()]), max_size=14).map(" ".join),
    st.text(st.characters(max_codepoint=127), max_size=30),
)


@given(prediction=TEXTS, gold=TEXTS)
def test_f1_is_squads(prediction: str, gold: str) -> None:
    assert metrics.f1(prediction, [gold]) == pytest.approx(official_f1(prediction, gold))


@given(prediction=ASCII, gold=ASCII)
def test_exact_match_is_squads_on_ascii(prediction: str, gold: str) -> None:
    assert metrics.exact_match(prediction, [gold]) == float(official_normalize(prediction) == official_normalize(gold))


@given(prediction=ASCII, gold=ASCII)
def test_rouge_l_is_the_rouge_score_packages_on_ascii(prediction: str, gold: str) -> None:
    reference = RougeScorer(["rougeL"], use_stemmer=False).score(gold, prediction)["rougeL"].fmeasure
    assert metrics.rouge_l(prediction, [gold]) == pytest.approx(reference)


@given(a=st.lists(st.sampled_from("abc"), max_size=12), b=st.lists(st.sampled_from("abc"), max_size=12))
def test_longest_common_subsequence_against_the_textbook_table(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    assert metrics._longest_common_subsequence(a, b) == table[-1][-1]


def test_worked_values() -> None:
    assert metrics.exact_match("The Beatles!", ["beatles"]) == 1.0
    assert metrics.exact_match("e\u0301te\u0301", ["été"]) == 1.0
    assert metrics.exact_match("Paris, London", ["Paris"]) == 0.0
    assert metrics.f1("Paris, France", ["Paris"]) == pytest.approx(2 / 3)
    assert metrics.rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(3 / 4)
    assert metrics.rouge_l("das Kätzchen", ["ein Kätzchen"]) == pytest.approx(1 / 2)


def test_the_best_gold_counts() -> None:
    assert metrics.f1("Baltimore Orioles", ["Pirates", "Orioles"]) == pytest.approx(2 / 3)
    assert metrics.exact_match("orioles", ["Pirates", "the Orioles"]) == 1.0


def test_hotpot_gives_no_credit_across_yes_and_no() -> None:
    assert metrics.hotpot_f1("yes it is", ["yes"]) == 0.0
    assert metrics.f1("yes it is", ["yes"]) > 0
    assert metrics.hotpot_f1("Yes.", ["yes"]) == 1.0
    assert metrics.hotpot_f1("Paris France", ["Paris"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "gold", "value"),
    [
        ("25.3%", "0.253", 1.0),
        ("-31", "31", 0.0),
        ("320", "32", 0.0),
        ("1,001", "1000.5", 1.0),
        ("no idea", "32", 0.0),
        ("9**9", "387420489", 0.0),
    ],
)
def test_numeric_accuracy(prediction: str, gold: str, value: float) -> None:
    assert metrics.numeric_accuracy(prediction, [gold]) == value


def test_numeric_accuracy_with_a_scale_and_tolerance() -> None:
    assert metrics.numeric_accuracy("$1.647 million", ["1647"], answer_scale="thousand") == 1.0
    assert metrics.numeric_accuracy("100.2", ["100"]) == 0.0
    assert metrics.numeric_accuracy("100.2", ["100"], tolerance=0.01) == 1.0


def test_a_metric_over_no_golds_is_refused() -> None:
    with pytest.raises(ValueError, match="no gold answers"):
        metrics.f1("x", [])
