"""Generated documents with questions whose answers are known by construction.

Documents may have any length, and the same seed gives the same document. :func:`generate` writes one;
:func:`generate_bucket` writes the rows of a length bucket in the paper's proportion of domains
(600 : 600 : 400).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import cycle
from random import Random
from typing import Any

from qwenlong_core.data.synthesis import articles, articles_zh, contracts, finance, manuals
from qwenlong_core.data.synthesis.document import Draft, Shape
from qwenlong_core.data.synthesis.layout import DoesNotFit, Generated, lay_out
from qwenlong_core.records import Domain, Example
from qwenlong_core.settings.data import LengthBucket

TOLERANCE = 0.02
"""Greatest relative difference between a prompt's length and the length asked for."""

_ATTEMPTS = 40

_DRAFTS: dict[Domain, Callable[[Random, Shape], Draft]] = {
    "math": finance.draft,
    "logical": contracts.draft,
    "multihop": articles.draft,
    "reading": manuals.draft,
}
_CHINESE_DRAFTS: dict[Domain, Callable[[Random, Shape], Draft]] = {"multihop": articles_zh.draft}
_DIGITS = re.compile(r"\d[\d,.]*\d|\d")

# DocQA-RL-1.6K holds 600 math, 600 logical and 400 multi-hop rows; this is its smallest cycle.
_CYCLE: tuple[Domain, ...] = ("math", "logical", "multihop", "math", "logical", "math", "logical", "multihop")


def domain_of_row(index: int) -> Domain:
    """Domain of generated row ``index``: 3 math, 3 logical and 2 multihop in every eight rows."""
    return _CYCLE[index % len(_CYCLE)]


def generate(
    tokenizer: Any,
    *,
    domain: Domain,
    tokens: int,
    seed: int | str,
    window: tuple[int, int] | None = None,
    kind: str | None = None,
    steps: int | None = None,
    distractors: int | None = None,
    depth: float | None = None,
    language: str = "en",
    row_id: str | None = None,
) -> Generated:
    """Write one document with its question.

    Args:
        tokens: length of the whole rendered prompt in the tokenizer's tokens, met within 2%.
        seed: the same seed gives the same bytes under the same tokenizer.
        window: smallest and greatest length allowed; by default 2% around ``tokens``.
        kind: form of question; by default one is drawn.
        steps: number of facts that the question combines; by default any.
        distractors: near misses to offer; by default more in longer documents.
        depth: place of the evidence, from 0 (start) to 1 (end); by default it is spread at random.
        language: ``en``, or ``zh`` (linked articles only).

    Raises:
        ValueError: the domain, language, kind or number of steps is unknown, or the depth is not in 0..1.
        DoesNotFit: the prompt is too short for every question drawn.
    """
    write = _writer(domain, language)
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"depth={depth} is not between 0 (start of the document) and 1 (end)")
    low, high = window or (math.ceil(tokens * (1 - TOLERANCE)), math.floor(tokens * (1 + TOLERANCE)))
    shape = Shape(tokens, kind, distractors if distractors is not None else max(3, min(40, tokens // 250)), steps)
    row_id = row_id or f"{domain}-{tokens}-{seed}"
    for attempt in range(_ATTEMPTS):
        rng = Random(f"{seed}/{domain}/{tokens}/{attempt}")
        draft = write(rng, shape)
        if _names_its_answer(draft):
            continue
        try:
            return lay_out(draft, tokenizer, low=low, high=high, rng=rng, depth=depth, row_id=row_id)
        except DoesNotFit:
            # In the shortest prompts some questions or names are too long, so draw others.
            if attempt == _ATTEMPTS - 1:
                raise
    raise DoesNotFit(
        f"no {domain} question of {tokens} tokens was found in {_ATTEMPTS} draws: ask for longer documents"
    )


def _writer(domain: Domain, language: str) -> Callable[[Random, Shape], Draft]:
    by_language = {"en": _DRAFTS, "zh": _CHINESE_DRAFTS}
    if language not in by_language:
        raise ValueError(f"language={language!r} is unknown: use one of {', '.join(by_language)}")
    if domain not in by_language[language]:
        raise ValueError(
            f"domain={domain!r} cannot be generated in language {language!r}: use one of"
            f" {', '.join(by_language[language])}"
        )
    return by_language[language][domain]


def _names_its_answer(draft: Draft) -> bool:
    """Whether the question happens to contain its answer, as when an amount equals the year asked about."""
    if draft.answer_type in ("yes_no", "unanswerable"):
        return False
    if draft.answer_type == "number":
        return bool(set(_DIGITS.findall(draft.question)) & set(_DIGITS.findall(draft.answers[0])))
    golds = draft.choices if draft.choices else draft.answers
    return any(gold in draft.question for gold in golds)


def bucket_lengths(bucket: LengthBucket, seed: int | str) -> list[int]:
    """Target prompt lengths of the rows of a bucket: evenly spread, in random order."""
    span = bucket.max_tokens - bucket.min_tokens
    lengths = [bucket.min_tokens + round(span * (i + 0.5) / bucket.rows) for i in range(bucket.rows)]
    Random(f"{seed}/lengths").shuffle(lengths)
    return lengths


def generate_bucket(tokenizer: Any, bucket: LengthBucket, seed: int | str) -> Iterator[Example]:
    """The rows of a bucket; every prompt has ``min_tokens..max_tokens`` of the tokenizer's tokens.

    Raises:
        ValueError: ``bucket.kinds`` names a form of question that the domain does not have.
    """
    kinds = {domain: cycle(named) for domain, named in bucket.kinds.items()}
    # Buckets of equal lengths and other forms must not have the same documents and ids.
    seed = "-".join([str(seed), *(kind for named in bucket.kinds.values() for kind in named)])
    for index, tokens in enumerate(bucket_lengths(bucket, seed)):
        window = (
            max(bucket.min_tokens, math.ceil(tokens * (1 - TOLERANCE))),
            min(bucket.max_tokens, math.floor(tokens * (1 + TOLERANCE))),
        )
        domain = domain_of_row(index)
        row_id = f"generated-{seed}-{bucket.min_tokens}-{bucket.max_tokens}-{index}".replace("/", "-")
        kind = next(kinds[domain]) if domain in kinds else None
        yield generate(
            tokenizer, domain=domain, tokens=tokens, seed=f"{seed}/{index}", window=window, kind=kind, row_id=row_id
        ).example
