"""The prepare stage: sources in, training and evaluation rows out, every dropped row counted.

Output folder::

    sft.parquet      rows with a worked solution
    train.parquet    rows for GRPO, with their ``phase``
    eval.parquet     rows for evaluation
    refused.jsonl    rows that could not be read: file, line, reason
    dropped.jsonl    rows that were read and left out: split, id, reason
    summary.json     counts by split, domain, source, phase and reason; token lengths

Rules, in this order: unreadable rows are refused; exact and near duplicates are dropped; training rows
(SFT and GRPO) whose document (or one nearly equal), or question with its answers, also stands in the
evaluation set are dropped (questions asked of many documents count with their document only); over-long
training rows are dropped, over-long evaluation rows lose the middle of their document; a GRPO row belongs
to the first phase whose limit holds it. A file named for both training and evaluation is split by
document: :data:`HELD_OUT_SHARE` of its documents are evaluation rows.
Same inputs, same bytes. Stage command: ``python -m qwenlong_core.data.prepare``.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwenlong_core.config import DataSettings, LengthBucket
from qwenlong_core.data.filters import (
    Split,
    digest,
    document_key,
    drop_duplicates,
    drop_leaked,
    drop_near_duplicates,
    name_apart,
    templated_questions,
)
from qwenlong_core.data.prompts import count_tokens, render_prompt, truncate_middle
from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.sources import GENERATED, Refused, local_files, read_source
from qwenlong_core.data.synthesis import bucket_lengths, generate_bucket
from qwenlong_core.jobs import OUTPUT, PrepareJob, stage_main
from qwenlong_core.records import Example

logger = logging.getLogger(__name__)

SPLITS = ("sft", "train", "eval")
HELD_OUT_SHARE = 0.2
"""Share of documents that go to evaluation where one file is named for both."""
_SHOWN_REFUSALS = 5
_BATCH_ROWS = 64


def _held_out(example: Example, seed: int) -> bool:
    return int(digest(str(seed), document_key(example))[:8], 16) / 16**8 < HELD_OUT_SHARE


def _buckets(data: DataSettings, split: str) -> tuple[LengthBucket, ...]:
    return {"sft": data.generate_sft, "train": data.generate_train, "eval": data.generate_eval}[split]


def _specs(data: DataSettings, split: str) -> tuple[str, ...]:
    return {"sft": data.sft, "train": data.train, "eval": data.eval}[split]


def _shared_files(data: DataSettings) -> set[Path]:
    """Files that are named for evaluation and for training."""
    files = {split: {path.resolve() for spec in _specs(data, split) for path in local_files(spec)} for split in SPLITS}
    return files["eval"] & (files["sft"] | files["train"])


def collect(data: DataSettings, split: str, tokenizer: Any, seed: int) -> Split:
    """Read or generate all rows of a split."""
    collected = Split(split)
    shared = bool(_shared_files(data))
    if shared:
        logger.info("prepare %s: training and evaluation name the same file: %.0f%% of the documents are held out",
                    split, 100 * HELD_OUT_SHARE)  # fmt: skip
    for spec in _specs(data, split):
        if spec == GENERATED:
            buckets = _buckets(data, split)
            if not buckets:
                raise ValueError(
                    f"data.{split} names {GENERATED!r}, but data.generate_{split} holds no length bucket: add one "
                    "with min_tokens, max_tokens and rows, or name another source"
                )
            for bucket in buckets:
                logger.info("prepare %s: generating %d rows of %d..%d tokens", split, bucket.rows, bucket.min_tokens, bucket.max_tokens)  # fmt: skip
                collected.rows.extend(generate_bucket(tokenizer, bucket, f"{seed}-{split}"))
            continue
        logger.info("prepare %s: reading %s", split, spec)
        for row in read_source(spec):
            if isinstance(row, Refused):
                collected.refused.append(row)
            elif shared and _held_out(row, seed) != (split == "eval"):
                collected.drop(row, "document_of_the_other_split")
            else:
                collected.rows.append(row)
    collected.read = len(collected.rows) + len(collected.refused) + len(collected.dropped)
    return collected


def _measure(rows: Sequence[Example], tokenizer: Any) -> list[Example]:
    """The rows with the tokens of their whole rendered prompt."""
    measured: list[Example] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS]
        counts = count_tokens(tokenizer, [render_prompt(tokenizer, row) for row in batch])
        measured += [replace(row, num_tokens=count) for row, count in zip(batch, counts, strict=True)]
    return measured


def phase_of(num_tokens: int, limits: Sequence[int]) -> int | None:
    """The first phase, counted from 1, whose limit holds so many tokens; ``None`` if none does."""
    return next((index for index, limit in enumerate(limits, 1) if num_tokens <= limit), None)


def rows_per_phase(data: DataSettings, limits: Sequence[int], seed: int) -> dict[int, int]:
    """Generated training rows that each phase will see, from the settings alone.

    Exact where no length bucket crosses a phase limit; else a row whose length is within 2% of the
    limit may fall on its other side. Rows of other sources are known only after reading them.
    """
    counts = {index: 0 for index in range(1, len(limits) + 1)}
    if GENERATED in data.train:
        for bucket in data.generate_train:
            for tokens in bucket_lengths(bucket, f"{seed}-train"):
                phase = phase_of(tokens, limits)
                if phase is not None:
                    counts[phase] += 1
    return counts


def _check_refused(parts: Iterable[Split], limit: float) -> None:
    refused = [row for part in parts for row in part.refused]
    read = sum(part.read for part in parts)
    if not refused:
        return
    shown = "; ".join(map(str, refused[:_SHOWN_REFUSALS]))
    more = f" and {len(refused) - _SHOWN_REFUSALS} more" if len(refused) > _SHOWN_REFUSALS else ""
    share = len(refused) / read
    message = f"{len(refused)} of {read} rows are unreadable: {shown}{more}"
    if share > limit:
        raise ValueError(
            f"{message}. That is a share of {share:.3g}, over data.max_refused_share={limit}: mend the rows, or go on "
            f"without them with --set data.max_refused_share={min(1.0, share * 1.01):.2g}"
        )
    logger.warning("%s (they stand in refused.jsonl)", message)


def _fit_eval(collected: Split, tokenizer: Any, limit: int) -> None:
    rows = []
    for row in collected.rows:
        if row.num_tokens is not None and row.num_tokens > limit:
            cut, kept, lost = truncate_middle(tokenizer, row, limit)
            row = replace(_measure([cut], tokenizer)[0], metadata={**row.metadata, "kept_tokens": kept, "lost_tokens": lost})
            collected.truncated += 1
        rows.append(row)
    collected.rows = rows


def _drop_long_sft(collected: Split, tokenizer: Any, limit: int) -> None:
    def too_long(row: Example) -> tuple[str, str] | None:
        if row.solution is None:
            return "no_solution", ""
        tokens = (row.num_tokens or 0) + count_tokens(tokenizer, [row.solution])[0]
        return (f"over_length (more than {limit} tokens)", "") if tokens > limit else None

    collected.keep(too_long)


def _check_filled(sft: Split, evaluation: Split, phases: Sequence[int], train: Split, limits: Sequence[int]) -> None:
    for part, name in ((sft, "sft"), (evaluation, "eval")):
        if not part.rows:
            raise ValueError(
                f"no row is left in the {name} split: {part.read} rows read, dropped by reason "
                f"{part.reasons()}: name other sources in data.{name} or raise its limit"
            )
    counts = {f"phase {i} (<= {limit} tokens)": phases.count(i) for i, limit in enumerate(limits, 1)}
    if 0 in counts.values():
        lengths = [row.num_tokens or 0 for row in train.rows]
        raise ValueError(
            f"a GRPO phase has no training row: {counts}; dropped by reason "
            f"{train.reasons()}; prompts kept have "
            f"{min(lengths, default=0)}..{max(lengths, default=0)} tokens: change grpo.phases' max_prompt_tokens or add rows of that length "
            "(data.train, data.generate_train)"
        )


def _summary(parts: Sequence[Split], phases: Sequence[int], limits: Sequence[int]) -> dict[str, Any]:
    return {
        "splits": {part.name: _split_summary(part) for part in parts},
        "phases": {str(i): {"max_prompt_tokens": limit, "rows": phases.count(i)} for i, limit in enumerate(limits, 1)},
    }


def _split_summary(part: Split) -> dict[str, Any]:
    lengths = sorted(row.num_tokens or 0 for row in part.rows)
    return {
        "read": part.read,
        "rows": len(part.rows),
        "documents": len({document_key(row) for row in part.rows}),
        "refused": len(part.refused),
        "truncated": part.truncated,
        "domains": dict(sorted(Counter(row.domain for row in part.rows).items())),
        "answer_types": dict(sorted(Counter(row.answer_type for row in part.rows).items())),
        "sources": dict(sorted(Counter(row.source for row in part.rows).items())),
        "dropped": part.reasons(),
        "tokens": {
            "min": lengths[0], "median": lengths[len(lengths) // 2], "max": lengths[-1], "total": sum(lengths),
        },
    }  # fmt: skip


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(output: Path, parts: Sequence[Split], phases: Sequence[int], limits: Sequence[int]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for part in parts:
        write_examples(output / f"{part.name}.parquet", part.rows, phases if part.name == "train" else None)
    _write_lines(output / "refused.jsonl", (row.to_dict() for part in parts for row in part.refused))
    _write_lines(output / "dropped.jsonl", (row for part in parts for row in part.dropped))
    summary = _summary(parts, phases, limits)
    (output / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def prepare(job: PrepareJob, tokenizer: Any, output: Path) -> None:
    """Read, filter, measure and bucket the rows of all splits, and write the output folder.

    Raises:
        ValueError: a source without a file, too many unreadable rows, an empty split or phase.
    """
    for split in SPLITS:
        for spec in _specs(job.data, split):
            local_files(spec)
    sft, train, evaluation = parts = [collect(job.data, split, tokenizer, job.seed) for split in SPLITS]
    _check_refused(parts, job.data.max_refused_share)
    for part in parts:
        name_apart(part)
        drop_duplicates(part)
    templated = templated_questions(parts)
    for part in (sft, train):
        drop_leaked(part, evaluation.rows, templated)
    if job.data.near_duplicates is not None:
        drop_near_duplicates((sft, train), evaluation, job.data.near_duplicates)
    for part in parts:
        logger.info("prepare %s: counting the tokens of %d prompts", part.name, len(part.rows))
        part.rows = _measure(part.rows, tokenizer)
    _drop_long_sft(sft, tokenizer, job.sft_max_tokens)
    _fit_eval(evaluation, tokenizer, job.eval_max_tokens)
    longest = f"over_length (more than {job.phase_limits[-1]} tokens)"
    train.keep(lambda row: None if phase_of(row.num_tokens or 0, job.phase_limits) else (longest, ""))
    phases = [phase_of(row.num_tokens or 0, job.phase_limits) or 0 for row in train.rows]
    _check_filled(sft, evaluation, phases, train, job.phase_limits)
    _write(output, parts, phases, job.phase_limits)
    for part in parts:
        logger.info("prepare %s: %d rows kept of %d read, %d dropped, %d refused, %d shortened", part.name,
                    len(part.rows), part.read, len(part.dropped), len(part.refused), part.truncated)  # fmt: skip


def run(job: PrepareJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The prepare stage: input ``base`` (for its tokenizer), output a folder of rows."""
    from transformers import AutoTokenizer  # brings torch in, which readers of this module do not need

    prepare(job, AutoTokenizer.from_pretrained(inputs["base"]), work / OUTPUT)


if __name__ == "__main__":
    stage_main(PrepareJob, run)
