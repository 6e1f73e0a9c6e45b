"""The benchmarks' own metrics, separate from the reward: EM, token F1, ROUGE-L, numeric accuracy.

Each takes a prediction and its gold answers and returns a number in [0, 1], the best over the golds. These are the
official formulas, holes included (SQuAD's normalisation drops every sign and decimal point). They serve comparison with
published numbers and are never a reward.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from qwenlong_core.rewards.number.equal import same_quantity
from qwenlong_core.rewards.number.read import read_quantity
from qwenlong_core.rewards.number.scales import known_scale

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_ZH_TOKEN = re.compile(rf"{_CHINESE.pattern}|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+")
_ROUGE_TOKEN = re.compile(r"[^\W_]+")


def squad_normalize(text: str) -> str:
    """SQuAD v1.1's ``normalize_answer`` (evaluate-v1.1.py): lower, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the prediction equals a gold character by character after SQuAD's normalisation and NFKC.

    The EM of QwenLong-L1 ("character-level answer matching"). Unicode is brought to NFKC first, so that
    composed and decomposed letters match; on ASCII text it is SQuAD's own EM.
    """
    return _best(_exact, prediction, golds)


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Token F1 of SQuAD v1.1 (evaluate-v1.1.py, ``f1_score``), as used by Qasper and LongBench."""
    return _best(_f1, prediction, golds)


def hotpot_f1(prediction: str, golds: Sequence[str]) -> float:
    """HotpotQA's F1, also 2WikiMultihopQA's, whose scorer derives from it (2wikimultihop_evaluate_v1.1.py).

    It is 0 if prediction and gold differ and one of them is yes, no or noanswer.
    """
    return _best(_hotpot_f1, prediction, golds)


def zh_f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of Chinese answers as in LongBench (``qa_f1_zh_score``), over characters.

    Lower case, without ASCII and Chinese punctuation, no articles dropped. LongBench cuts words with jieba; here each
    Chinese character is a token, and a run of other letters or digits is one.
    """
    return _best(lambda said, gold: _overlap(_zh_tokens(said), _zh_tokens(gold)), prediction, golds)


def is_chinese(text: str) -> bool:
    """Whether the text holds Chinese characters."""
    return _CHINESE.search(text) is not None


def musique_f1(prediction: str, golds: Sequence[str]) -> float:
    """MuSiQue's F1 (metrics/answer.py): SQuAD's, but 1 if normalisation leaves nothing of either side."""
    return _best(_musique_f1, prediction, golds)


def rouge_l(prediction: str, golds: Sequence[str]) -> float:
    """ROUGE-L F-measure without stemming (Lin 2004, section 3.2), words in any script.

    On ASCII text it equals the ``rouge_score`` package, whose tokeniser drops all other letters.
    """
    return _best(_rouge_l, prediction, golds)


def numeric_accuracy(
    prediction: str, golds: Sequence[str], tolerance: float = 0.0015, answer_scale: str | None = None
) -> float:
    """1.0 if the prediction states a gold number within a relative ``tolerance``, with its sign and magnitude.

    DocMath-Eval's tolerance, but stricter than its scorer, which also accepts a wrong power of ten and a lost sign,
    and calls ``eval``.
    """
    said = read_quantity(prediction).quantity
    scale = known_scale(answer_scale)
    for gold in golds:
        wanted = read_quantity(gold).quantity
        if said is not None and wanted is not None and same_quantity(said, wanted, tolerance, scale):
            return 1.0
    return 0.0


def _best(metric: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    if not golds:
        raise ValueError("no gold answers: the metric would be 0 for every model; drop the example")
    return max(metric(prediction, gold) for gold in golds)


def _exact(prediction: str, gold: str) -> float:
    return float(_nfkc(prediction) == _nfkc(gold))


def _nfkc(text: str) -> str:
    return squad_normalize(unicodedata.normalize("NFKC", text))


def _f1(prediction: str, gold: str) -> float:
    return _overlap(squad_normalize(prediction).split(), squad_normalize(gold).split())


def _zh_tokens(text: str) -> list[str]:
    return _ZH_TOKEN.findall(text.lower())


def _overlap(said: Sequence[str], wanted: Sequence[str]) -> float:
    same = sum((Counter(said) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _hotpot_f1(prediction: str, gold: str) -> float:
    said, wanted = squad_normalize(prediction), squad_normalize(gold)
    # As in HotpotQA's scorer: "no" against "no answer was given" earns nothing for the common word.
    closed = {"yes", "no", "noanswer"}
    if said != wanted and (said in closed or wanted in closed):
        return 0.0
    return _f1(prediction, gold)


def _musique_f1(prediction: str, gold: str) -> float:
    return 1.0 if squad_normalize(prediction) == squad_normalize(gold) else _f1(prediction, gold)


def _rouge_l(prediction: str, gold: str) -> float:
    said, wanted = _ROUGE_TOKEN.findall(prediction.lower()), _ROUGE_TOKEN.findall(gold.lower())
    common = _longest_common_subsequence(said, wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the LCS, bit-parallel (Hyyrö 2004): one big-integer operation per token of ``b``."""
    where: dict[str, int] = {}
    for i, token in enumerate(a):
        where[token] = where.get(token, 0) | 1 << i
    # Each zero bit of ``row`` stands for one token of the longest common subsequence.
    mask = (1 << len(a)) - 1
    row = mask
    for token in b:
        matches = row & where.get(token, 0)
        row = ((row + matches) | (row - matches)) & mask
    return len(a) - row.bit_count()
