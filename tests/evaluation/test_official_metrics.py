"""The benchmarks' official metrics on cases worked out by hand from their published definitions.

- SQuAD v1.1 (evaluate-v1.1.py): lower case, no ASCII punctuation, no a/an/the, split; EM is equality, F1 is over
  token multisets.
- HotpotQA (hotpot_evaluate_v1.py), 2WikiMultihopQA (2wikimultihop_evaluate_v1.1.py): the same, but 0 where the two
  differ and one is yes, no or noanswer.
- MuSiQue (metrics/answer.py): SQuAD's, but 1 where nothing is left of either; the best over the aliases.
- Qasper: SQuAD's; the best over the annotators.
- NarrativeQA: ROUGE-L F with beta 1 on lower-case words; the best over two references.
- DocMath-Eval (utils/evaluation_utils.py): the number within 0.15%, after signs, scale words and units were dropped;
  a factor of 100, 1,000 or 100,000, any exact power of ten, or the same number rounded up to three decimals are
  right too.
- LongBench (metrics.py, qa_f1_zh_score): Chinese tokens, which we take to be characters; no articles, no punctuation.
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
    ("docmath", "$(31.2)", ["-31.2"], "numeric_accuracy", 1),
    ("docmath", "31.2", ["-31.2"], "numeric_accuracy", 0),  # stricter than DocMath-Eval's script, which drops the sign
    ("docmath", "no number", ["5"], "numeric_accuracy", 0),
    ("docmath", "80,080", ["80000"], "docmath_accuracy", 1),
    ("docmath", "80,160", ["80000"], "docmath_accuracy", 0),
    ("docmath", "26", ["25"], "docmath_accuracy", 0),
    ("docmath", "12.5%", ["0.125"], "docmath_accuracy", 1),  # the sign % is dropped, then 12.5 = 100 x 0.125
    ("docmath", "12.5%", ["12.5"], "docmath_accuracy", 1),
    ("docmath", "approximately 25%", ["0.25"], "docmath_accuracy", 1),
    ("docmath", "-31.2", ["31.2"], "docmath_accuracy", 1),  # ratio 1 is a power of ten, and signs do not count in it
    ("docmath", "-31.23", ["31.2"], "docmath_accuracy", 0),  # but they do within the tolerance
    ("docmath", "$3.2 million", ["3200000"], "docmath_accuracy", 1),  # 10^6
    ("docmath", "3.2", ["3200000"], "docmath_accuracy", 1),
    ("docmath", "32", ["3.2"], "docmath_accuracy", 1),
    ("docmath", "3.21", ["3200"], "docmath_accuracy", 0),  # 0.3% off, and no exact power
    ("docmath", "3.203", ["3200"], "docmath_accuracy", 1),  # 0.1% off after the factor 1,000
    ("docmath", "0.0004", ["0.0009"], "docmath_accuracy", 1),  # both round up to 0.001
    ("docmath", "25 or 30", ["25"], "docmath_accuracy", 1),  # the first of two
    ("docmath", "30 or 25", ["25"], "docmath_accuracy", 0),
    ("docmath", "sales = 25", ["25"], "docmath_accuracy", 1),
    ("docmath", "25 dollars", ["25"], "docmath_accuracy", 1),
    ("docmath", "about 25", ["25"], "docmath_accuracy", 1),
    ("docmath", "about 25 dollars", ["25"], "docmath_accuracy", 0),  # words on both sides are not read
    ("docmath", "USD 25", ["25"], "docmath_accuracy", 1),
    ("docmath", "(150 - 120) / 120", ["0.25"], "docmath_accuracy", 1),  # worked out
    ("docmath", "3 x 10^5", ["300000"], "docmath_accuracy", 1),
    ("docmath", "9**9**9**9", ["5"], "docmath_accuracy", 0),  # not worked out
    ("docmath", "yes", ["1"], "docmath_accuracy", 1),  # Python's True is 1
    ("docmath", "(b)", ["5"], "docmath_accuracy", 0),
    ("docmath", "1,23", ["123"], "docmath_accuracy", 0),  # a pair
    ("docmath", "no number", ["0"], "docmath_accuracy", 1),  # what cannot be read is 0
    ("docmath", "no number", ["5"], "docmath_accuracy", 0),
    ("longbench", "在北京", ["北京"], "f1", 4 / 5),  # P 2/3, R 1
    ("longbench", "北京。", ["北京"], "f1", 1),  # punctuation
    ("longbench", "二〇一三年11月", ["2013年11月"], "f1", 6 / 11),  # 年 11 月 of 7 and of 4
    ("longbench", "Mac OS 系统", ["mac os系统"], "f1", 1),
    ("longbench", "上海", ["北京"], "f1", 0),
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
