"""Bring a draft to the length asked for, with its evidence at a known depth.

Each block's tokens are counted once and summed. The finished prompt is then tokenized as a whole, because
tokens merge across block borders, and the difference is corrected with fillers and closing sentences until
the prompt is within the window.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from qwenlong_core.data.prompts import count_tokens, prompt_tokens
from qwenlong_core.data.synthesis.document import Block, Draft, Fact
from qwenlong_core.records import Example

_CLOSING_ROOM = 100
"""Tokens left to closing sentences: more than the longest filler block would need."""
_MAX_ROUNDS = 12
_SEPARATOR = "\n\n"

_closer_counts: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()


class DoesNotFit(ValueError):
    """The draft does not fit into the length asked for."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated example with the structured twin of its document."""

    example: Example
    twin: tuple[Fact, ...]
    """All facts that the document states."""
    query: dict[str, Any]
    """The question in structured form, over the twin."""
    evidence: tuple[tuple[Fact, ...], ...]
    """The facts of each evidence block, in the order of ``metadata["evidence"]``."""


@dataclass(slots=True)
class _Placed:
    """A block with its place: the document holds the blocks in ascending order of ``key``."""

    block: Block
    key: float
    tokens: int


def _tokens_of(tokenizer: Any, draft: Draft, blocks: Sequence[Block]) -> list[int]:
    prefix = draft.prefix.format(n=100)
    return count_tokens(tokenizer, [_SEPARATOR + prefix + block.text for block in blocks])


def _subset(counts: Sequence[int], room: int) -> list[int]:
    """Indexes of the counts whose sum is closest to ``room`` without exceeding it (subset sum)."""
    reach: dict[int, tuple[int, ...]] = {0: ()}
    for index, count in enumerate(counts):
        for total, chosen in list(reach.items()):
            if total + count <= room and total + count not in reach:
                reach[total + count] = (*chosen, index)
    return list(reach[max(reach)])


class _Layout:
    """The growing document of one draft."""

    def __init__(self, draft: Draft, tokenizer: Any, rng: Random, depth: float | None) -> None:
        self.draft, self.tokenizer, self.rng, self.depth = draft, tokenizer, rng, depth
        keys = sorted(rng.random() for _ in draft.evidence)
        if depth is not None:
            keys = [depth] * len(keys)
        counts = _tokens_of(tokenizer, draft, draft.evidence)
        self.evidence = [_Placed(b, k, c) for b, k, c in zip(draft.evidence, keys, counts, strict=True)]
        self.fillers: list[_Placed] = []
        self.closing: list[str] = []
        self.closers = list(draft.closers)
        rng.shuffle(self.closers)
        self.closing_key = rng.random()
        self.pending = list(draft.distractors)

    def _order(self) -> list[_Placed]:
        blocks = list(self.fillers)
        if self.closing:
            closing = (" " if self.draft.language == "en" else "").join(self.closing)
            blocks.append(_Placed(Block(closing), self.closing_key, 0))
        blocks.sort(key=lambda placed: placed.key)
        if self.depth is None:
            return sorted([*blocks, *self.evidence], key=lambda placed: placed.key)
        # All evidence goes together, before the block whose middle lies at or past the depth asked for.
        around = sum(placed.tokens for placed in blocks)
        before = 0
        for index, placed in enumerate(blocks):
            if before + placed.tokens / 2 >= self.depth * around:
                return [*blocks[:index], *self.evidence, *blocks[index:]]
            before += placed.tokens
        return [*blocks, *self.evidence]

    def text(self) -> tuple[str, list[tuple[int, int]]]:
        """The document, and the start and end of each evidence block in it, in characters."""
        parts = [self.draft.title] if self.draft.title else []
        position = sum(map(len, parts))
        spans: dict[int, tuple[int, int]] = {}
        wanted = {id(placed): index for index, placed in enumerate(self.evidence)}
        for number, placed in enumerate(self._order(), 1):
            part = self.draft.prefix.format(n=number) + placed.block.text
            if parts:
                position += len(_SEPARATOR)
            if id(placed) in wanted:
                spans[wanted[id(placed)]] = (position, position + len(part))
            parts.append(part)
            position += len(part)
        return _SEPARATOR.join(parts), [spans[index] for index in range(len(self.evidence))]

    def grow(self, room: int) -> None:
        """Add blocks of about ``room`` tokens and fill the rest with short sentences, or remove blocks if
        ``room`` is negative. ``room`` does not count the present closing sentences."""
        while room < 0 and self.fillers:
            room += self.fillers.pop().tokens
        while room > _CLOSING_ROOM or (self.pending and room > 0):
            batch = [self._next_block() for _ in range(max(1, min(256, room // 200)))]
            for block, tokens in zip(batch, _tokens_of(self.tokenizer, self.draft, batch), strict=True):
                if tokens <= room:
                    self.fillers.append(_Placed(block, self.rng.random(), tokens))
                    room -= tokens
        self.closing = []
        if room > 0:
            counts = self._closer_tokens()
            # The closing paragraph itself costs tokens: its border, and its numbering if there is one.
            frame = 1 + len(self.draft.prefix) // 2
            self.closing = [self.closers[i] for i in _subset(counts, room - frame)] if room > frame else []

    def _next_block(self) -> Block:
        return self.pending.pop(0) if self.pending else self.draft.filler(self.rng)

    def _closer_tokens(self) -> list[int]:
        cache = _closer_counts.setdefault(self.tokenizer, {})
        missing = [text for text in self.closers if text not in cache]
        cache.update(zip(missing, count_tokens(self.tokenizer, [f" {text}" for text in missing]), strict=True))
        return [cache[text] for text in self.closers]

    def closing_tokens(self) -> int:
        """Tokens that the closing sentences add, each counted by itself."""
        cache = _closer_counts.get(self.tokenizer, {})
        return sum(cache[text] for text in self.closing) + (1 + len(self.draft.prefix) // 2 if self.closing else 0)


def lay_out(
    draft: Draft, tokenizer: Any, *, low: int, high: int, rng: Random, depth: float | None, row_id: str
) -> Generated:
    """Write the document so that the whole rendered prompt has ``low..high`` tokens.

    Args:
        low: smallest number of prompt tokens allowed.
        high: greatest number allowed.
        depth: place of the evidence, from 0 (start of the document) to 1 (end); ``None`` spreads its blocks
            over random places.

    Raises:
        DoesNotFit: the question and its evidence alone are longer than ``high``.
    """
    layout = _Layout(draft, tokenizer, rng, depth)
    target = (low + high) // 2
    for _ in range(_MAX_ROUNDS):
        context, spans = layout.text()
        example = _example(draft, context, spans, row_id)
        tokens = prompt_tokens(tokenizer, example)
        if low <= tokens <= high:
            twin = [fact for placed in [*layout.evidence, *layout.fillers] for fact in placed.block.facts]
            evidence = tuple(block.facts for block in draft.evidence)
            return Generated(_finish(example, tokens, layout), tuple(twin), draft.query, evidence)
        if tokens > high and not layout.fillers and not layout.closing:
            raise DoesNotFit(
                f"a {draft.kind} question of domain {draft.domain} needs {tokens} prompt tokens, the limit is {high}: "
                "ask for longer documents"
            )
        layout.grow(target - tokens + layout.closing_tokens())
    raise DoesNotFit(
        f"no {draft.kind} document of domain {draft.domain} with {low}..{high} prompt tokens was found in "
        f"{_MAX_ROUNDS} rounds: widen the window or ask for longer documents"
    )


def _example(draft: Draft, context: str, spans: list[tuple[int, int]], row_id: str) -> Example:
    metadata: dict[str, Any] = {
        "kind": draft.kind,
        "steps": draft.steps,
        "language": draft.language,
        "evidence": [list(span) for span in spans],
        "evidence_depth": [round(start / max(1, len(context)), 4) for start, _ in spans],
    }
    if draft.entities:
        metadata["entities"] = list(draft.entities)
    return Example(
        id=row_id,
        source="generated",
        domain=draft.domain,
        answer_type=draft.answer_type,
        context=context,
        question=draft.question,
        answers=draft.answers,
        choices=draft.choices,
        document_id=row_id,
        solution=draft.solution,
        metadata=metadata,
    )


def _finish(example: Example, tokens: int, layout: _Layout) -> Example:
    offered = {id(block) for block in layout.draft.distractors}
    used = sum(id(placed.block) in offered for placed in layout.fillers)
    return replace(example, num_tokens=tokens, metadata={**example.metadata, "distractors": used})
