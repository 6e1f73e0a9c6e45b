"""The distill stage: worked solutions for SFT from a teacher, or from files of traces; the reward verifies each.

This is rejection sampling (paper section 3.2). Each question gets several traces, :mod:`~.selection` chooses among
them, and every question, request and trace is counted. Output folder::

    sft.parquet      rows with a verified trace as their solution
    traces.jsonl     what became of each trace: row, number, outcome
    dropped.jsonl    questions without a trace that is kept
    unmatched.jsonl  records of trace files that match no row
    summary.json     counts, and the price of the teacher's tokens

The teacher's answers themselves are kept outside, in ``distill.answers_dir`` (:mod:`~.teacher`). Stage command::

    python -m qwenlong_core.data.distill --job job.json --input base=DIR --input data=DIR --work DIR
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from qwenlong_core.auto import AutoTokenizer
from qwenlong_core.data.distill_counts import DistillCounts, Outcome
from qwenlong_core.data.prepared import SFT_ROWS, SUMMARY
from qwenlong_core.data.rows import ExampleWriter, read_examples
from qwenlong_core.data.selection import Rules, Selected, Trace, select, verdict
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.data.splits import Row, Split, document_key
from qwenlong_core.data.teacher import Answer, Question, answer_log, as_question, ask, missing_keys
from qwenlong_core.data.trace_files import read_traces
from qwenlong_core.jobs import DistillJob
from qwenlong_core.records import Example
from qwenlong_core.settings.distill import DistillSettings, TeacherSettings
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.files import METRICS, drop_cut_line

logger = logging.getLogger(__name__)

TRACES, DROPPED, UNMATCHED = "traces.jsonl", "dropped.jsonl", "unmatched.jsonl"
_LINES = 100
"""Progress lines of a whole stage."""

Report = Callable[[dict[str, Any]], None]
"""Takes a line of progress: ``step``, ``total_steps`` and numbers."""


class Solved(NamedTuple):
    """A question with what became of its traces."""

    example: Example
    selected: Selected

    def rows(self, origin: Mapping[str, Any]) -> Iterator[Example]:
        """A row for each trace that is kept; the second one of a question has an id of its own."""
        outcomes = self.selected.outcomes
        right = sum(outcome not in ("truncated", "no_answer", "wrong", "undecided") for outcome in outcomes)
        facts = {**origin, "traces": len(outcomes), "right_traces": right}
        for number, text in enumerate(self.selected.kept, 1):
            name = self.example.id if number == 1 else f"{self.example.id}#trace-{number}"
            yield replace(self.example, id=name, solution=text, metadata={**self.example.metadata, **facts})


class Distilled(NamedTuple):
    """The outcome of a distillation."""

    questions: list[Solved]
    """All of them, in order."""
    counts: DistillCounts
    unmatched: Sequence[Refused] = ()
    """Records of trace files that could not be used."""


def distill(
    examples: Sequence[Example], rules: Rules, tokenizer: Any, seed: int, report: Report = lambda line: None
) -> Distilled:
    """Collect traces of every question, and choose among them.

    Args:
        examples: The questions.
        rules: The filters, and where the traces come from: ``rules.settings.teacher`` or ``.traces``.
        tokenizer: The policy's.
        seed: With the message it decides every draw of a teacher that takes seeds.
        report: Takes progress.

    Raises:
        ValueError: the teacher's key is not set, a trace file cannot be used, or no trace is kept.
        ConnectionError: the teacher is down, or too many requests failed. The answers so far are kept.
    """
    if rules.settings.teacher is not None:
        found = _from_teacher(examples, rules.settings.teacher, rules, tokenizer, seed, report)
    else:
        found = _from_files(examples, rules, tokenizer)
    counts = found.counts
    counts.questions = len(examples)
    for question in found.questions:
        counts.add_outcomes(question.selected.outcomes)
    logger.info("distill | %s", counts.words())
    if not counts.kept:
        raise ValueError(
            f"no trace was kept: {counts.words()}. Take a teacher that gives its answer in the form of the prompt, or "
            "other filters (distill)"
        )
    return found


def _from_files(examples: Sequence[Example], rules: Rules, tokenizer: Any) -> Distilled:
    found = read_traces(rules.settings.traces, examples)
    if found.refused:
        shown = "; ".join(map(str, found.refused[:5]))
        logger.warning("distill | %d of %d records match no row: %s", len(found.refused), found.records, shown)
    traces = {name: [Trace(text) for text in texts] for name, texts in found.traces.items()}
    asked = sum(map(len, traces.values()))
    counts = DistillCounts(asked=asked, records=found.records, unmatched=len(found.refused))
    solved = [Solved(row, select(row, traces.get(row.id, ()), tokenizer, rules)) for row in examples]
    return Distilled(solved, counts, found.refused)


def _from_teacher(
    examples: Sequence[Example], teacher: TeacherSettings, rules: Rules, tokenizer: Any, seed: int, report: Report
) -> Distilled:
    questions = [as_question(tokenizer, example) for example in examples]
    with answer_log(Path(rules.settings.answers_dir), teacher, seed) as log:
        missing = missing_keys(questions, log, teacher.samples)
        messages = dict.fromkeys(question.digest for question in questions)
        counts = DistillCounts(asked=len(messages) * teacher.samples)
        progress = _Progress(counts.asked, len(missing), rules.number_tolerance, report)
        progress.begin(teacher, missing)
        counts.failed, counts.last_error = ask(missing, tokenizer, teacher, seed, log, progress.add)
        _check_failed(counts, rules.settings)
        for message in messages:
            for answer in log.answers(message, teacher.samples):
                counts.add_usage(answer.prompt_tokens, answer.completion_tokens, teacher)

        def solved(question: Question) -> Solved:
            answers = log.answers(question.digest, teacher.samples)
            traces = [Trace(answer.text, answer.finish_reason) for answer in answers]
            return Solved(question.example, select(question.example, traces, tokenizer, rules))

        return Distilled([solved(question) for question in questions], counts)


def _check_failed(counts: DistillCounts, settings: DistillSettings) -> None:
    """A teacher that was down must not read as one that solves little.

    Raises:
        ConnectionError: too many requests got no completion.
    """
    if counts.failed > settings.max_failed_share * counts.asked:
        raise ConnectionError(
            f"{counts.failed} of {counts.asked} requests to the teacher failed, over distill.max_failed_share="
            f"{settings.max_failed_share}; the last reason: {counts.last_error}. Run again: only these are asked for"
        )


class _Progress:
    """A log line and a line of metrics now and then, with the share of right answers so far."""

    def __init__(self, total: int, missing: int, number_tolerance: float, report: Report) -> None:
        self.total, self.done, self.fresh, self.right = total, total - missing, 0, 0
        self.number_tolerance, self.report = number_tolerance, report

    def begin(self, teacher: TeacherSettings, missing: Sequence[tuple[Question, int]]) -> None:
        """Say what will be asked, and what that costs at most."""
        cost = ""
        prices = teacher.price_per_million_prompt_tokens, teacher.price_per_million_completion_tokens
        if any(prices) and all(question.example.num_tokens for question, _ in missing):
            prompt = sum(question.example.num_tokens or 0 for question, _ in missing)
            most = (prompt * prices[0] + len(missing) * teacher.max_tokens * prices[1]) / 1e6
            cost = f", for at most about {most:,.2f} (prompts counted with the policy's tokenizer)"
        logger.info(
            "distill | %d of %d answers of %s are there; asking for %d%s",
            *(self.done, self.total, teacher.model, len(missing), cost),
        )

    def add(self, question: Question, answer: Answer) -> None:
        """Count an answer that has arrived."""
        self.done, self.fresh = self.done + 1, self.fresh + 1
        trace = Trace(answer.text, answer.finish_reason)
        self.right += verdict(question.example, trace, self.number_tolerance) == "kept"
        if self.done < self.total and self.done % max(1, self.total // _LINES) == 0:
            share = self.right / self.fresh
            logger.info("distill | %d/%d answers, %.0f%% right", self.done, self.total, 100 * share)
            self.report({"step": self.done, "total_steps": self.total, "right_share": share})


def run(job: DistillJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The distill stage: inputs ``base`` (the policy's tokenizer) and ``data`` (``sft.parquet``: questions)."""
    tokenizer, output = AutoTokenizer.from_pretrained(inputs["base"]), work / OUTPUT
    rules = Rules(settings=job.distill, number_tolerance=job.number_tolerance, max_row_tokens=job.max_row_tokens)

    def report(line: dict[str, Any]) -> None:
        with (output / METRICS).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    drop_cut_line(output / METRICS)  # of a try that was killed
    found = distill(read_examples(inputs["data"] / SFT_ROWS), rules, tokenizer, job.seed, report)
    write_output(found, job.distill, output)
    asked = found.counts.asked
    report({"step": asked, "total_steps": asked, **found.counts.numbers()})


def write_output(found: Distilled, settings: DistillSettings, output: Path) -> None:
    """Write everything that the stage leaves."""
    origin = {"teacher": settings.teacher.model} if settings.teacher else {}
    with (output / UNMATCHED).open("w", encoding="utf-8") as refused, (output / DROPPED).open("w") as dropped:
        split = Split("sft", refused, dropped, read=len(found.questions))
        for record in found.unmatched:
            split.refuse(record)
        with ExampleWriter(output / SFT_ROWS) as file, (output / TRACES).open("w", encoding="utf-8") as traces:
            for question in found.questions:
                _write_outcomes(traces, question)
                for row in question.rows(origin):
                    split.kept.add(Row(row, document_key(row)), None)
                    file.write(row)
                if not question.selected.kept:
                    split.drop(question.example, _why_none(question.selected.outcomes))
    summary = {"splits": {"sft": split.summary()}, "distill": found.counts.to_dict()}
    (output / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_outcomes(stream: Any, question: Solved) -> None:
    for number, outcome in enumerate(question.selected.outcomes):
        stream.write(json.dumps({"id": question.example.id, "trace": number, "outcome": outcome}) + "\n")


def _why_none(outcomes: Sequence[Outcome]) -> str:
    """Why a question has no row: the most frequent outcome of its traces."""
    return f"no_trace ({Counter(outcomes).most_common(1)[0][0]})" if outcomes else "no_trace (none was given)"


if __name__ == "__main__":
    stage_main(DistillJob, run)
