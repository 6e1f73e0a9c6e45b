"""The data card: describes the prepared rows, and what was left out and why, for people to read.

It is ``card.md`` with the picture ``lengths.svg``. The same rows give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from qwenlong_core.data.splits import Split
from qwenlong_core.markdown import markdown_table
from qwenlong_core.records import Example

CARD, PICTURE = "card.md", "lengths.svg"
_BINS = 40
_SAMPLE_CHARACTERS = 300


def write_card(folder: Path, parts: Sequence[Split], summary: Mapping[str, Any]) -> None:
    """Write card.md and lengths.svg for these splits; ``summary`` is the content of summary.json."""
    limits = [phase["max_prompt_tokens"] for phase in summary.get("phases", {}).values()]
    _draw_lengths(folder / PICTURE, parts, limits)
    splits = summary["splits"]
    sections = [
        "# Data card",
        _counts(splits),
        _table("By source", "source", splits, "sources"),
        _table("By domain", "domain", splits, "domains"),
        _table("By answer type", "answer type", splits, "answer_types"),
        _phases(summary.get("phases", {})),
        f"## Prompt lengths\n\n![Tokens per prompt]({PICTURE})",
        _table(
            "Dropped, by reason",
            "reason",
            splits,
            "dropped",
            f"dropped.jsonl lists each row, beside the row it duplicates if there is one.{_against(summary)}",
        ),
        _table(
            "Refused, by reason",
            "reason",
            splits,
            "refused_by_reason",
            "refused.jsonl lists each row with its file, line and full reason.",
        ),
        _left_out(splits),
        *_samples(parts),
    ]
    (folder / CARD).write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return markdown_table([dict(zip(head, row, strict=True)) for row in rows], numbers=True).rstrip()


def _counts(splits: Mapping[str, Any]) -> str:
    names = ("read", "refused", "dropped", "rows", "documents", "truncated", "renamed")
    said = ["rows read", "refused", "dropped", "rows kept", "documents", "shortened", "ids made unique"]
    lengths = ["shortest prompt", "median", "longest", "total tokens"]
    rows = []
    for name, split in splits.items():
        counts = {**split, "dropped": sum(split["dropped"].values())}
        tokens = [split["tokens"].get(key, 0) for key in ("min", "median", "max", "total")]
        rows.append([name, *(f"{count:,}" for count in [*(counts[key] for key in names), *tokens])])
    return _markdown(["split", *said, *lengths], rows)


def _table(title: str, head: str, splits: Mapping[str, Any], key: str, note: str = "") -> str:
    """One kind of count by split, or \"None.\" if there is nothing to count."""
    entries = sorted({entry for split in splits.values() for entry in split[key]})
    counts = [[entry, *(f"{split[key].get(entry, 0):,}" for split in splits.values())] for entry in entries]
    body = _markdown([head, *splits], counts) if entries else "None."
    return f"## {title}\n\n{body}" + (f"\n\n{note}" if note else "")


def _left_out(splits: Mapping[str, Any]) -> str:
    rows = [[name, item["file"], item["reason"]] for name, split in splits.items() for item in split["files_left_out"]]
    body = _markdown(["split", "file", "reason"], rows) if rows else "None."
    return f"## Files not read\n\n{body}"


def _phases(phases: Mapping[str, Any]) -> str:
    if not phases:
        return ""
    rows = [[index, f"{phase['max_prompt_tokens']:,}", f"{phase['rows']:,}"] for index, phase in phases.items()]
    return "## By phase\n\n" + _markdown(["phase", "max. prompt tokens", "rows"], rows)


def _against(summary: Mapping[str, Any]) -> str:
    if "against" not in summary:
        return ""
    return (
        " Training rows were compared with an evaluation set of {read:,} rows, {refused:,} of them unreadable.".format(
            **summary["against"]
        )
    )


def _samples(parts: Sequence[Split]) -> list[str]:
    """The first row of each source and domain, as indented JSON, which no text can break out of."""
    sections = []
    for part in parts:
        for (source, domain), example in part.kept.samples.items():
            text = json.dumps(_shortened(example), indent=2, ensure_ascii=False)
            indented = "\n".join(f"    {line}" for line in text.split("\n"))
            sections.append(f"### {part.name}: {source}, {domain}\n\n{indented}")
    return ["## Samples", *sections]


def _shortened(example: Example) -> dict[str, Any]:
    def cut(text: str | None) -> str | None:
        if text is None or len(text) <= _SAMPLE_CHARACTERS:
            return text
        return f"{text[:_SAMPLE_CHARACTERS]} [... {len(text) - _SAMPLE_CHARACTERS:,} more characters]"

    return {
        "id": example.id,
        "num_tokens": example.num_tokens,
        "answer_type": example.answer_type,
        "context": cut(example.context),
        "question": cut(example.question),
        "choices": [cut(text) for text in example.choices],
        "answers": [cut(text) for text in example.answers],
        "solution": cut(example.solution),
    }


def _draw_lengths(path: Path, parts: Sequence[Split], limits: Sequence[int]) -> None:
    """Draw a histogram of prompt lengths with one panel per split, and the phases' limits as lines."""
    longest = max(max(part.kept.lengths) for part in parts)
    shortest = min(min(part.kept.lengths) for part in parts)
    bins = np.geomspace(max(1, shortest), max(longest, shortest + 1) * 1.01, _BINS + 1)
    with rc_context({"svg.hashsalt": "lengths", "font.size": 9}):
        figure = Figure(figsize=(7, 1 + 1.6 * len(parts)), layout="constrained")
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
        for panel, part in zip(panels, parts, strict=True):
            panel.hist(np.frombuffer(part.kept.lengths, dtype=np.int64), bins=bins, color="#4c72b0")
            panel.set_xscale("log")
            panel.set_ylabel(f"{part.name}: rows")
            panel.spines[["top", "right"]].set_visible(False)
            for limit in limits if part.name == "train" else ():
                panel.axvline(limit, color="#c44e52", linestyle="--", linewidth=1)
        panels[-1].set_xlabel("tokens per prompt (log scale; dashed: phase limits)")
        figure.savefig(path, format="svg", metadata={"Date": None})
