"""A few dozen answers to read: question, document with the evidence marked, and completions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from qwenlong_core.evaluation.evidence import evidence_spans, marked_texts, occurrences
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Outcome, Sample
from qwenlong_core.evaluation.scores import LENGTH_LABELS, length_label
from qwenlong_core.records import DOMAINS, Example

MAX_ITEMS = 24
MAX_DOCUMENT_CHARS = 6_000
MAX_COMPLETION_CHARS = 6_000

OUTCOMES = ("gained", "lost", "right", "wrong")

_THOUGHT = re.compile(r"^\s*(?:<think>)?(.*?)</think>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One stage's first sample of an item."""

    stage: str
    thinking: str
    visible: str
    verdict: Outcome
    sample: Sample
    repeated_by: tuple[str, ...]
    """Other stages that gave the same answer, word for word."""
    cut_characters: int
    """Characters of the completion that are not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question with its document and every stage's answer."""

    example: Example
    outcome: str
    """How the last stage compares with the baseline, one of :data:`OUTCOMES`."""
    document: Markup
    shown: tuple[int, int]
    """Which characters of the document are shown."""
    answers: tuple[Answer, ...]
    facts: Mapping[str, str]
    """What the page filters by: ``domain``, ``outcome`` and ``length``."""


def split_thinking(completion: str) -> tuple[str, str]:
    """The thinking and the text after it, which is empty where the thinking never ended."""
    match = _THOUGHT.match(completion)
    if match:
        return match[1].strip(), completion[match.end() :].strip()
    if completion.lstrip().startswith("<think>"):
        return completion.lstrip().removeprefix("<think>").strip(), ""
    return "", completion.strip()


def _answers(samples: Mapping[str, Sample]) -> tuple[Answer, ...]:
    """One for each different answer, under the first stage that gave it."""
    stages: dict[tuple[str, Outcome], list[str]] = {}
    for stage, sample in samples.items():
        stages.setdefault((sample.completion, sample.outcome), []).append(stage)
    return tuple(_answer(names[0], samples[names[0]], names[1:]) for names in stages.values())


def _answer(stage: str, sample: Sample, repeated_by: Sequence[str]) -> Answer:
    thinking, visible = split_thinking(sample.completion)
    # A long answer loses its beginning: the end is where it commits.
    shown = visible[-MAX_COMPLETION_CHARS:]
    thought = thinking[-MAX_COMPLETION_CHARS:]
    return Answer(
        stage=stage,
        thinking=thought,
        visible=shown,
        verdict=sample.outcome,
        sample=sample,
        repeated_by=tuple(repeated_by),
        cut_characters=len(visible) - len(shown) + len(thinking) - len(thought),
    )


def _window(length: int, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Which characters of a long document to show: those around the first span, else the beginning."""
    if length <= MAX_DOCUMENT_CHARS:
        return 0, length
    start = max(0, min((spans[0][0] if spans else 0) - MAX_DOCUMENT_CHARS // 3, length - MAX_DOCUMENT_CHARS))
    return start, start + MAX_DOCUMENT_CHARS


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Escaped text with ``<mark>`` around the spans, which are in order and do not overlap."""
    parts, position = [], 0
    for start, end in spans:
        parts += [escape(text[position:start]), "<mark>", escape(text[start:end]), "</mark>"]
        position = end
    return "".join([*parts, escape(text[position:])])


def _within(spans: Sequence[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    return [(max(a, low) - low, min(b, high) - low) for a, b in spans if a < high and b > low]


def mark_document(example: Example) -> tuple[Markup, tuple[int, int]]:
    """The document as HTML, shortened, with evidence underlined and gold answers marked; and the characters shown."""
    gold = occurrences(example.context, marked_texts(example))
    passages = sorted(evidence_spans(example))
    low, high = _window(len(example.context), passages or gold)
    text, parts, position = example.context[low:high], [], 0
    gold = _within(gold, low, high)
    for start, end in _within(passages, low, high):
        start = max(start, position)  # passages may overlap, their marks must not
        parts.append(_marked(text[position:start], _within(gold, position, start)))
        parts.append(f'<span class="evidence">{_marked(text[start:end], _within(gold, start, end))}</span>')
        position = max(position, end)
    parts.append(_marked(text[position:], _within(gold, position, len(text))))
    return Markup("".join(parts)), (low, high)


def _outcome(first: Sample, last: Sample) -> str:
    # A published scorer may give a part of the score: such an answer is right where it changes nothing only if whole.
    if first.accuracy != last.accuracy:
        return "gained" if last.accuracy > first.accuracy else "lost"
    return "right" if last.accuracy == 1 else "wrong"


def _choose(outcomes: Mapping[str, str], examples: Mapping[str, Example]) -> list[str]:
    """Ids to show, taken in turn from every domain and outcome, so that none crowds out the others."""
    piles: dict[tuple[int, str], list[str]] = {}
    for item in sorted(outcomes):
        place = DOMAINS.index(examples[item].domain)
        piles.setdefault((place, outcomes[item]), []).append(item)
    chosen: list[str] = []
    depth = 0
    while len(chosen) < min(MAX_ITEMS, len(outcomes)):
        chosen += [pile[depth] for _, pile in sorted(piles.items()) if depth < len(pile)]
        depth += 1
    chosen = chosen[:MAX_ITEMS]
    return sorted(chosen, key=lambda item: (DOMAINS.index(examples[item].domain), outcomes[item], item))


def choose_samples(evaluations: Mapping[str, Evaluation], baseline: str, examples: Sequence[Example]) -> list[Item]:
    """Items to read, each with the first sample of every stage, the last stage first."""
    rows = {example.id: example for example in examples}
    firsts = {name: {s.example_id: s for s in e.samples if s.sample == 0} for name, e in evaluations.items()}
    last = list(evaluations)[-1]
    # Rows that were not asked of every stage (another limit, an older run) cannot be compared.
    shared = [item for item in evaluations[last].plan.items if item in rows and all(item in f for f in firsts.values())]
    outcomes = {item: _outcome(firsts[baseline][item], firsts[last][item]) for item in shared}
    items = []
    for item in _choose(outcomes, rows):
        document, shown = mark_document(rows[item])
        answers = _answers({name: firsts[name][item] for name in reversed(list(firsts))})
        facts = {
            "domain": rows[item].domain,
            "outcome": outcomes[item],
            "length": length_label(firsts[last][item]),
        }
        items.append(
            Item(
                example=rows[item],
                outcome=outcomes[item],
                document=document,
                shown=shown,
                answers=answers,
                facts=facts,
            )
        )
    return items


def filters_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """The values of each of the items' facts, in order; a fact that all share is no filter."""
    orders: dict[str, Iterable[str]] = {"domain": DOMAINS, "outcome": OUTCOMES, "length": LENGTH_LABELS.values()}
    found = {name: {item.facts[name] for item in items} for name in orders}
    return {name: [value for value in orders[name] if value in found[name]] for name in orders if len(found[name]) > 1}
