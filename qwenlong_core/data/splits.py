"""Counts of a split's rows during preparation: read, refused, dropped and kept.

Rows are streamed; memory holds only counts, keys and a few samples. Refused and dropped rows are written to
their files at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO

from qwenlong_core.data.sources.places import LeftOut
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.records import Example

SHOWN_REFUSALS = 5
_SAMPLES = 6
_KEY_BYTES = 16
_VARYING = re.compile(r"\[.*?\]|\d[\d,.]*\d|\d")
"""The values and positions in a reason, left out so that equal reasons are counted together."""


class Row(NamedTuple):
    """A row in preparation, with its document's key."""

    example: Example
    document: bytes


def digest(*parts: str) -> bytes:
    """128 bits of the SHA-256 of texts; differences in white space are ignored."""
    return hashlib.sha256("\x1f".join(" ".join(part.split()) for part in parts).encode()).digest()[:_KEY_BYTES]


def document_key(example: Example) -> bytes:
    """Key of the example's document, computed from its text."""
    return digest(example.context)


@dataclass
class Kept:
    """Counts of the rows kept, and the first row of each source and domain."""

    rows: int = 0
    domains: Counter[str] = field(default_factory=Counter)
    answer_types: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    phases: Counter[int] = field(default_factory=Counter)
    documents: set[bytes] = field(default_factory=set)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    """Token count of each prompt."""
    samples: dict[tuple[str, str], Example] = field(default_factory=dict)

    def add(self, row: Row, phase: int | None) -> None:
        """Count a row; ``phase`` is ``None`` except for GRPO rows."""
        example = row.example
        self.rows += 1
        self.domains[example.domain] += 1
        self.answer_types[example.answer_type] += 1
        self.sources[example.source] += 1
        if phase is not None:
            self.phases[phase] += 1
        self.documents.add(row.document)
        self.lengths.append(example.num_tokens or 0)
        if len(self.samples) < _SAMPLES:
            self.samples.setdefault((example.source, example.domain), example)


@dataclass
class Split:
    """What happened to the rows of one split."""

    name: str
    refused_log: TextIO
    dropped_log: TextIO
    read: int = 0
    renamed: int = 0
    """Rows that got a new id because another row had theirs."""
    truncated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By reason, without the values that the reason mentions."""
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)
    """Files of the sources' folders and globs that were not read."""
    shown: list[Refused] = field(default_factory=list)
    """The first refusal of each reason, for an error message."""
    misread: list[str] = field(default_factory=list)
    """What to say of each file without any readable row."""
    kept: Kept = field(default_factory=Kept)

    def refuse(self, row: Refused) -> None:
        """Count a row that could not be read, and log it to refused.jsonl."""
        kind = _VARYING.sub("...", row.reason.partition(":")[0])
        self.refused[kind] += 1
        self.refused_log.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
        if self.refused[kind] == 1 and len(self.shown) < SHOWN_REFUSALS:
            self.shown.append(row)

    def drop(self, row: Example, reason: str, met: str = "") -> None:
        """Count a row that is left out, and log it to dropped.jsonl.

        Args:
            met: id of the row that it duplicates or leaks, if there is one.
        """
        self.dropped[reason] += 1
        entry = {"split": self.name, "id": row.id, "source": row.source, "reason": reason}
        self.dropped_log.write(json.dumps({**entry, "met": met} if met else entry, ensure_ascii=False) + "\n")

    def summary(self) -> dict[str, Any]:
        """All counts as JSON types; ``tokens`` is empty if no row was kept."""
        kept, lengths = self.kept, sorted(self.kept.lengths)
        tokens = (
            {"min": lengths[0], "median": lengths[len(lengths) // 2], "max": lengths[-1], "total": sum(lengths)}
            if lengths
            else {}
        )
        return {
            "read": self.read,
            "files_left_out": [{"file": str(path), "reason": reason} for path, reason in self.left_out],
            "rows": kept.rows,
            "documents": len(kept.documents),
            "refused": self.refused.total(),
            "refused_by_reason": dict(sorted(self.refused.items())),
            "renamed": self.renamed,
            "truncated": self.truncated,
            "domains": dict(sorted(kept.domains.items())),
            "answer_types": dict(sorted(kept.answer_types.items())),
            "sources": dict(sorted(kept.sources.items())),
            "dropped": dict(sorted(self.dropped.items())),
            "tokens": tokens,
        }
