"""Ask a checkpoint the case studies, or score its answers again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qwenlong_core.data.synthesis.cases import CASES, case_study, longest_that_fits
from qwenlong_core.evaluation.answers import Answerer
from qwenlong_core.evaluation.cases import CASE_ANSWERS, CaseAnswer, read_case_answers, write_case_answers
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.scoring import score_answers
from qwenlong_core.records import Example
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import RewardSettings

logger = logging.getLogger(__name__)


def answer_cases(
    answerer: Answerer, max_prompt_tokens: int, form: str, rules: RewardSettings, judge: Judge | None, folder: Path
) -> None:
    """Ask every case that fits, once, and write the log.

    Args:
        answerer: The evaluation's own, with its sampling.
        max_prompt_tokens: ``evaluation.max_prompt_tokens``; a case is never cut.
        form: Form of the answer, as in the evaluation's items.
        rules: How numbers are compared.
        judge: The evaluation's judge, if it has one.
        folder: The evaluation's.
    """
    fitting = {name: longest_that_fits(answerer.tokenizer, name, max_prompt_tokens, form) for name in CASES}
    asked = [case for case in fitting.values() if case is not None]
    samples: dict[str, Sample] = {}
    if asked:
        for answers in answerer.answers(asked, {(case.id, 0) for case in asked}):
            samples |= {sample.example_id: sample for sample in score_answers(answers, rules, judge)}
    lines = [_line(name, case, samples, max_prompt_tokens) for name, case in fitting.items()]
    write_case_answers(lines, folder)
    for line in lines:
        outcome = line.sample.outcome if line.sample else f"not asked, {line.why_not}"
        logger.info("case study %s: %s", line.case, outcome)


def _line(name: str, case: Example | None, samples: Mapping[str, Sample], max_prompt_tokens: int) -> CaseAnswer:
    shown = case or case_study(name, short=True)
    answer = CaseAnswer(case=name, question=shown.question, gold=shown.answers[0], document="")
    if case is None:
        limit = f"evaluation.max_prompt_tokens={max_prompt_tokens:,}"
        return replace(answer, why_not=f"its prompt is longer than {limit}, even with the short report")
    return replace(answer, document=case.metadata["version"], sample=samples[case.id])


def rescore_cases(
    evaluation: Path, output: Path, score: Callable[[Sequence[Sample], Mapping[str, Example]], list[Sample]]
) -> None:
    """The same answers, scored again as the items are; nothing where the evaluation asked no cases."""
    (output / CASE_ANSWERS).unlink(missing_ok=True)
    if not (evaluation / CASE_ANSWERS).is_file():
        return
    rows = {case.id: case for name in CASES for case in (case_study(name), case_study(name, short=True))}
    again = [
        replace(answer, sample=score([answer.sample], rows)[0]) if answer.sample else answer
        for answer in read_case_answers(evaluation)
    ]
    write_case_answers(again, output)
