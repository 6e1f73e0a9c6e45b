"""The case studies that a checkpoint is asked beside its items, and their log; or its answers scored again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwenlong_core.data.synthesis.cases import CASES, case_study, longest_that_fits
from qwenlong_core.evaluation.answers import Answer, Key
from qwenlong_core.evaluation.cases import CASE_ANSWERS, CaseAnswer, read_case_answers, write_case_answers
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.scoring import score_answers
from qwenlong_core.records import Example
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import RewardSettings

logger = logging.getLogger(__name__)


class CaseStudies:
    """The cases in the longest version that fits. They are asked with the items, so that they fill the same batches.

    Args:
        tokenizer: The policy's.
        max_prompt_tokens: ``evaluation.max_prompt_tokens``; a case is never cut.
        form: Form of the answer, as in the evaluation's items.
    """

    def __init__(self, tokenizer: Any, max_prompt_tokens: int, form: str) -> None:
        self._limit = max_prompt_tokens
        self._fitting = {name: longest_that_fits(tokenizer, name, max_prompt_tokens, form) for name in CASES}
        self._answers: list[Answer] = []

    @property
    def asked(self) -> list[Example]:
        """Those that fit."""
        return [case for case in self._fitting.values() if case is not None]

    @property
    def keys(self) -> set[Key]:
        """One answer each."""
        return {(case.id, 0) for case in self.asked}

    def taken_out(self, found: Iterable[Sequence[Answer]]) -> Iterator[list[Answer]]:
        """The answers to the items; those to the cases are kept here."""
        keys = self.keys
        for answers in found:
            self._answers += [answer for answer in answers if answer.key in keys]
            if items := [answer for answer in answers if answer.key not in keys]:
                yield items

    def write(self, rules: RewardSettings, judge: Judge | None, folder: Path) -> None:
        """Score the answers and write the log.

        Args:
            rules: How numbers are compared.
            judge: The evaluation's judge, if it has one.
            folder: The evaluation's.
        """
        scored = score_answers(self._answers, rules, judge) if self._answers else []
        samples = {sample.example_id: sample for sample in scored}
        lines = [_line(name, case, samples, self._limit) for name, case in self._fitting.items()]
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
