"""The benchmarks' official metrics on cases worked out by hand from their published definitions.

- SQuAD v1.1 (evaluate-v1.1.py): lower case, no ASCII punctuation, no a/an/the, split; EM is equality, F1 is over
  token multisets.
- HotpotQA (hotpot_evaluate_v1.py), 2WikiMultihopQA (2wikimultihop_evaluate_v1.1.py): the same, but 0 where the two
  differ and one is yes, no or noanswer.
- MuSiQue (metrics/answer.py): SQuAD's, but 1 where nothing is left of either; the best over the aliases.
- Qasper: SQuAD's; the best over the annotators.
- NarrativeQA: ROUGE-L F with beta 1 on lower-case words; the best over two references.
- DocMath-Eval: the number within 0.15%.
"""

import pytest

from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.records import Example

TABLE = [
    # benchmark, prediction, golds, metric, value
    ("hotpotqa", "The Eiffel Tower.", ["Eiffel tower"], "em", 1),
    (
        "hotpotqa",
        "the tower of Paris",
        ["Eiffel Tower, Paris"],
        "f1",
        2 / 3,
    ),  # tower of paris / eiffel tower paris: 2 of 3, 2 of 3
    ("hotpotqa", "no, it is not", ["no"], "f1", 0),  # closed answer: no partial credit
    ("hotpotqa", "No.", ["no"], "f1", 1),
    ("hotpotqa", "nothing", ["no"], "em", 0),  # no substrings
    ("2wikimultihopqa", "29 May 1921", ["May 29, 1921"], "em", 0),  # order counts for EM
    ("2wikimultihopqa", "29 May 1921", ["May 29, 1921"], "f1", 1),  # and not for F1
    ("2wikimultihopqa", "no, it is not", ["no"], "f1", 0),  # closed, as in HotpotQA
    ("2wikimultihopqa", "no", ["no other album"], "f1", 0),  # on either side
    (
        "2wikimultihopqa",
        "the other album",
        ["no other album"],
        "f1",
        4 / 5,
    ),  # and only where it is the whole: P 2/2, R 2/3
    (
        "musique",
        "Barack Obama",
        ["President Obama", "Obama"],
        "f1",
        2 / 3,
    ),  # 1/2 against the first, P 1/2 and R 1 against the second
    ("musique", "U.S.", ["United States", "US"], "em", 1),
    ("musique", "Paris Paris", ["Paris"], "f1", 2 / 3),  # multisets: the second Paris is not in the gold
    ("musique", "the", ["a"], "em", 1),  # a hole of the official metric: both normalise to nothing
    ("musique", "the", ["a"], "f1", 1),  # and its F1 agrees
    ("musique", "the", ["Paris"], "f1", 0),
    ("musique", "no, it is not", ["no"], "f1", 2 / 5),  # no closed answers: P 1/4, R 1
    ("narrativeqa", "He was killed by his brother", ["his brother killed him"], "rouge_l", 0.4),  # LCS 2: P 2/6, R 2/4
    ("narrativeqa", "Mark Hunter", ["Mark", "Mark Hunter."], "rouge_l", 1),
    (
        "narrativeqa",
        "in the old house",
        ["in an old house", "at home"],
        "rouge_l",
        0.75,
    ),  # articles count here: LCS 3 of 4 and 4
    ("narrativeqa", "house old", ["old house"], "rouge_l", 0.5),  # order counts: LCS 1 of 2 and 2
    ("qasper", "ELMo, BERT", ["BERT and ELMo", "pre-trained models"], "f1", 0.8),  # P 2/2, R 2/3
    ("qasper", "Unanswerable", ["Unanswerable"], "f1", 1),
    ("qasper", "Yes", ["No"], "f1", 0),
    ("qasper", "No, it is not", ["No"], "f1", 2 / 5),  # no closed answers here either
    ("qasper", "the", ["a"], "f1", 0),  # SQuAD's F1 of nothing
    ("qasper", "", ["BERT"], "f1", 0),
    ("docmath", "80,080", ["80000"], "numeric_accuracy", 1),  # 0.1% off
    ("docmath", "80,160", ["80000"], "numeric_accuracy", 0),  # 0.2% off
    ("docmath", "12.5%", ["0.125"], "numeric_accuracy", 1),
    ("docmath", "$3.2 million", ["3200000"], "numeric_accuracy", 1),
    ("docmath", "(31.2)", ["-31.2"], "numeric_accuracy", 1),
    ("docmath", "31.2", ["-31.2"], "numeric_accuracy", 0),  # stricter than DocMath-Eval's script, which drops the sign
    ("docmath", "no number", ["5"], "numeric_accuracy", 0),
]


@pytest.mark.parametrize(("benchmark", "prediction", "golds", "metric", "value"), TABLE)
def test_official_metric(benchmark, prediction, golds, metric, value):
    example = Example(
        id="q",
        source=benchmark,
        domain="math" if benchmark == "docmath" else "reading",
        context="",
        question="?",
        answer_type="number" if benchmark == "docmath" else "span",
        answers=tuple(golds),
    )
    assert official_metrics(example, prediction, 0.0015)[metric] == pytest.approx(value)
