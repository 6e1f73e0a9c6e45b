"""One line per sampled answer: the log from which every number of an evaluation is computed.

Invariant: a line is appended only when its answer is generated and scored, and each ``(example_id, sample)`` occurs
once. A killed writer leaves at most one cut line at the end, which the next writer drops. So an interrupted
evaluation resumes where it stopped, and all metrics can be recomputed from the log without a model.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from qwenlong_core.records import FinishReason, Score

Outcome = Literal["right", "wrong", "no answer", "truncated", "unscored", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sampled answer of one example, with its score."""

    example_id: str
    document_id: str
    """Never empty: an example without a document id is its own document."""
    domain: str
    source: str
    sample: int
    """Number of the sample within its example, from 0."""
    prompt_digest: str
    """SHA-256 of the prompt's token ids as the model saw them."""
    prompt_tokens: int
    """Tokens of the prompt as the model saw it."""
    lost_tokens: int
    """Tokens cut from the middle of the document to make the prompt fit; 0 where it fitted."""
    depth: float | None
    """Where the evidence is in the document, from 0 (start) to 1 (end); ``None`` where that is not known."""
    completion: str
    num_tokens: int
    """Tokens of the completion."""
    finish_reason: FinishReason | Literal["error"]
    score: Score
    metrics: dict[str, float]
    """The benchmark's own metrics of the extracted answer."""
    kind: str = ""
    """Form of a generated question; empty for other rows."""
    parts: tuple[str, ...] = ()
    """The parts of its benchmark that the question belongs to, as the benchmark reports them: RULER's task, MRCR's
    bin of lengths, LongBench v2's difficulty and length."""
    untrained: bool = False
    """Whether no generated training row has this form of question."""
    seconds: float
    """Time of the engine call and of scoring, divided evenly among the samples of the call."""

    @property
    def accuracy(self) -> float:
        """1.0 or 0.0. An unscored answer and an error count 0, so scores cover every question."""
        return self.score.accuracy or 0.0

    @property
    def is_readable(self) -> bool:
        """Whether the answer commits to something that can be compared, right or wrong."""
        return self.score.extracted is not None

    @property
    def has_verdict(self) -> bool:
        """Whether the answer was scored, so neither ``unscored`` nor ``error``."""
        return self.score.accuracy is not None

    @property
    def outcome(self) -> Outcome:
        """The outcome of the answer, one of :data:`OUTCOMES`."""
        if self.score.status == "scored":
            return "right" if self.accuracy == 1 else "wrong"
        return "no answer" if self.score.status == "no_answer" else self.score.status

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the sample within an evaluation."""
        return self.example_id, self.sample


_SAMPLE = TypeAdapter(Sample)


def read_samples(path: Path) -> list[Sample]:
    """All samples of a log, in the order in which they were written.

    Raises:
        ValueError: a line is not a sample or repeats one; the message names the file and the line.
    """
    samples: list[Sample] = []
    seen: set[tuple[str, int]] = set()
    # Not str.splitlines: a completion may hold U+2028 and other characters it would split at.
    with path.open(newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            try:
                sample = _SAMPLE.validate_json(line)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(
                    f"{path}:{number} is not a sample ({reason}): restore the log or start again"
                ) from error
            if sample.key in seen:
                raise ValueError(
                    f"{path}:{number} repeats sample {sample.key}: each may occur once, restore the log or start again"
                )
            seen.add(sample.key)
            samples.append(sample)
    return samples


def append_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Append each sample as one line of JSON, flushed before this returns."""
    with path.open("a", newline="\n") as stream:
        for sample in samples:
            stream.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
            stream.flush()


def rewrite_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Replace a whole log at once: a reader finds the old one or the new one, never a part."""
    staging = path.with_suffix(".tmp")
    staging.unlink(missing_ok=True)
    staging.touch()
    append_samples(staging, samples)
    os.replace(staging, path)


def by_example(samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """The samples of each example; examples in order of id, samples in order of number."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.example_id, []).append(sample)
    for example_id in sorted(groups):
        yield example_id, sorted(groups[example_id], key=lambda sample: sample.sample)


def benchmark_names(samples: Iterable[Sample]) -> dict[tuple[str, str], str]:
    """The benchmark of each ``(source, domain)`` that occurs.

    It is called by its source, or by source and domain (``generated-math``) where a source has several domains.
    """
    found = sorted({(sample.source, sample.domain) for sample in samples})
    domains = Counter(source for source, _ in found)
    return {(source, domain): f"{source}-{domain}" if domains[source] > 1 else source for source, domain in found}
