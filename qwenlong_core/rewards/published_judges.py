"""Judges' prompts that benchmarks published: AA-LCR's equality checker and QwenLong's comparison of two answers.

They are the benchmarks' own metrics, never a reward. The wordings are their authors' (AA-LCR's card at version 1.0 and
the evaluation scripts of QwenLong-L1 and CorpusQA, Apache-2.0 and MIT).
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 20_000
"""Of an answer that a judge is shown, from its end, where the conclusion stands."""

_AA_LCR = """Assess whether the following CANDIDATE ANSWER is CORRECT or INCORRECT. For the CANDIDATE ANSWER to be \
correct, it must be consistent with the OFFICIAL ANSWER.

The question, for reference only: {question}
The OFFICIAL ANSWER: {gold}
CANDIDATE ANSWER TO ASSESS: {answer}

Reply only with CORRECT or INCORRECT."""
AA_LCR_REMINDER = "Reply now with exactly CORRECT or INCORRECT and nothing else."
_AA_LCR_WORD = re.compile(r"\b(CORRECT|INCORRECT)\b")

_COMPARISON = """You are an expert in verifying if two answers are the same.
Your input is a problem and two answers, Answer 1 and Answer 2. You need to check if they are equivalent.
Your task is to determine if two answers are equivalent, without attempting to solve the original problem.
Compare the answers to verify they represent identical values or meaning, even when written in different forms or \
notations.

Your output must follow the following format:
1) Provide an explanation for why the answers are equivalent or not.
2) Then provide your final answer in the form of: [[YES]] or [[NO]]
"""
COMPARISON_REMINDER = "Reply now with exactly [[YES]] or [[NO]] and nothing else."
_CORPUSQA_ANSWER = re.compile(r"The answer is: (.*)")


def aa_lcr_messages(question: str, golds: tuple[str, ...], answer: str) -> list[dict[str, str]]:
    """The chat of AA-LCR's equality checker."""
    text = _AA_LCR.format(question=question, gold=golds[0], answer=answer[-MAX_ANSWER_CHARS:])
    return [{"role": "user", "content": text}]


def read_aa_lcr(reply: str) -> bool | None:
    """``True`` for CORRECT, ``False`` for INCORRECT; ``None`` for neither or both."""
    said = set(_AA_LCR_WORD.findall(reply))
    return said == {"CORRECT"} if len(said) == 1 else None


def comparison_messages(question: str, golds: tuple[str, ...], answer: str) -> list[dict[str, str]]:
    """The chat of QwenLong's comparison, against the first gold."""
    text = f"\nProblem: {question}\nAnswer 1: {answer[-MAX_ANSWER_CHARS:]}\nAnswer 2: {golds[0]}\n"
    return [{"role": "system", "content": _COMPARISON}, {"role": "user", "content": text}]


def corpusqa_messages(question: str, golds: tuple[str, ...], answer: str) -> list[dict[str, str]]:
    """The comparison of CorpusQA: of what follows the first ``The answer is: `` on its line, else of everything."""
    said = _CORPUSQA_ANSWER.search(answer)
    return comparison_messages(question, golds, said[1].strip() if said else answer.strip())


def read_corpusqa(reply: str) -> bool | None:
    """``[[NO]]`` anywhere is no, else ``[[YES]]`` is yes; ``None`` for neither."""
    if "[[NO]]" in reply:
        return False
    return True if "[[YES]]" in reply else None


def read_yes_anywhere(reply: str) -> bool:
    """QwenLong-L1's reading: yes where the letters YES occur anywhere, else no."""
    return "YES" in reply
