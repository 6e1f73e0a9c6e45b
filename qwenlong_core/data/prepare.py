"""The prepare stage: sources in, training and evaluation rows out, every dropped row counted.

Output folder::

    sft.parquet      rows with a worked solution
    train.parquet    rows for GRPO, with their ``phase``
    eval.parquet     rows for evaluation
    refused.jsonl    rows that could not be read: file, line, reason
    dropped.jsonl    rows that were read and left out: split, id, reason
    summary.json     counts by split, domain, source, phase and reason; token lengths
    card.md          the same for people, with samples and lengths.svg

Rules, in this order: unreadable rows are refused; exact and near duplicates are dropped; training rows
(SFT and GRPO) whose document (or one nearly equal), or question with its answers, also stands in the
evaluation set are dropped (questions asked of many documents count with their document only); over-long
training rows are dropped, over-long evaluation rows lose the middle of their document; a GRPO row belongs
to the first phase whose limit holds it. A file named for both training and evaluation is split by
document. Two passes, both streams: the sources into scratch files without exact duplicates, then these
through the filters that need to know all evaluation rows. Memory holds keys, not rows.
Same inputs, same bytes. Stage command: ``python -m qwenlong_core.data.prepare``.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qwenlong_core.data.card import CARD, PICTURE, write_card
from qwenlong_core.data.collect import SPLITS, collect, specs_of
from qwenlong_core.data.filters import (
    HeldOut,
    NearDuplicateFilter,
    Templates,
    named_apart,
    without_duplicates,
    without_leaks,
)
from qwenlong_core.data.lengths import fit_eval, fit_sft, fit_train, phase_of
from qwenlong_core.data.prepared import ROWS, SUMMARY
from qwenlong_core.data.rows import DOCUMENT, PHASE, ExampleWriter, stream_rows
from qwenlong_core.data.sources.read import GENERATED, local_files
from qwenlong_core.data.splits import SHOWN_REFUSALS, Row, Split
from qwenlong_core.data.synthesis.generate import bucket_lengths
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings
from qwenlong_core.stage_main import OUTPUT, stage_main

logger = logging.getLogger(__name__)

REFUSED, DROPPED = "refused.jsonl", "dropped.jsonl"
FILES = (*ROWS.values(), REFUSED, DROPPED, SUMMARY, CARD, PICTURE)
"""All that preparation writes."""


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


def prepare(
    job: PrepareJob, tokenizer: Any, output: Path, wanted: Sequence[str] = SPLITS, *, every_phase: bool = True
) -> dict[str, Any]:
    """Read, filter, measure and bucket rows, and write the output folder; returns what summary.json holds.

    Only the ``wanted`` splits are written; an evaluation set is read in any case, since training rows are
    compared with it. Without ``every_phase`` a phase may be empty. After an error the folder holds
    refused.jsonl at most.

    Raises:
        ValueError: a source without a file, too many unreadable rows, an empty split or phase.
    """
    read = [split for split in SPLITS if split in wanted or (split == "eval" and job.data.eval)]
    for split in SPLITS:
        for spec in specs_of(job.data, split):
            local_files(spec)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".prepare-", dir=output.parent) as folder, ExitStack() as logs:
        scratch, finished = Path(folder), Path(folder) / OUTPUT
        finished.mkdir()
        refused = logs.enter_context((output / REFUSED).open("w", encoding="utf-8"))
        dropped = logs.enter_context((finished / DROPPED).open("w", encoding="utf-8"))
        parts = {name: Split(name, refused, dropped) for name in read}
        held_out, templates = HeldOut(), Templates()
        for part in parts.values():
            _spool(job, part, tokenizer, scratch, held_out, templates)
        _check_refused(parts.values(), job.data.max_refused_share, output / REFUSED)
        near = NearDuplicateFilter(job.data.near_duplicates) if job.data.near_duplicates is not None else None
        for name in sorted(read, key=lambda name: name != "eval"):
            rows = _filtered(parts[name], scratch, held_out, templates, near)
            if name in wanted:
                _write(job, parts[name], rows, tokenizer, finished)
            elif near is not None:
                deque(rows, maxlen=0)
        if near is not None:
            logger.info(
                "prepare: %d documents compared for near duplicates in %.1f s of one core", near.documents, near.seconds
            )
        _check_filled([parts[name] for name in wanted], job.phase_limits, every_phase)
        summary = _summary(parts, wanted, job.phase_limits)
        (finished / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_card(finished, [parts[name] for name in parts if name in wanted], summary)
        logs.close()
        for path in finished.iterdir():
            path.replace(output / path.name)
    for name in wanted:
        part = parts[name]
        logger.info(
            "prepare %s: %d rows kept of %d read, %d dropped, %d refused, %d shortened",
            name,
            part.kept.rows,
            part.read,
            part.dropped.total(),
            part.refused.total(),
            part.truncated,
        )
    return summary


def _spool(
    job: PrepareJob, part: Split, tokenizer: Any, scratch: Path, held_out: HeldOut, templates: Templates
) -> None:
    """First pass: a split's readable rows without exact duplicates, into a scratch file."""
    with ExampleWriter(scratch / part.name, DOCUMENT) as file:
        for row in without_duplicates(named_apart(collect(job.data, part, tokenizer, job.seed), part), part):
            templates.add(row)
            if part.name == "eval":
                held_out.add(row)
            file.write(row.example, row.document)


def _filtered(
    part: Split, scratch: Path, held_out: HeldOut, templates: Templates, near: NearDuplicateFilter | None
) -> Iterator[Row]:
    rows: Iterator[Row] = (Row(example, key) for example, key in stream_rows(scratch / part.name, DOCUMENT))
    if part.name == "eval":
        return near.evaluation(rows, part) if near else rows
    rows = without_leaks(rows, part, held_out, templates)
    return near.training(rows, part) if near else rows


def _write(job: PrepareJob, part: Split, rows: Iterable[Row], tokenizer: Any, folder: Path) -> None:
    """Second pass: what the filters leave is measured, fitted, counted and written."""
    logger.info("prepare %s: counting the tokens of %d prompts at most", part.name, part.read)
    fitted: Iterable[tuple[Row, int | None]]
    if part.name == "train":
        fitted = fit_train(rows, part, tokenizer, job.phase_limits)
    elif part.name == "sft":
        fitted = ((row, None) for row in fit_sft(rows, part, tokenizer, job.sft_max_tokens))
    else:
        fitted = ((row, None) for row in fit_eval(rows, part, tokenizer, job.eval_max_tokens))
    with ExampleWriter(folder / ROWS[part.name], PHASE if part.name == "train" else None) as file:
        for row, phase in fitted:
            part.kept.add(row, phase)
            file.write(row.example, phase)


def _check_refused(parts: Iterable[Split], limit: float, listed: Path) -> None:
    parts = list(parts)
    refused, read = sum(part.refused.total() for part in parts), sum(part.read for part in parts)
    if not refused:
        return
    shown = [str(row) for part in parts for row in part.shown][:SHOWN_REFUSALS]
    more = f" and {refused - len(shown)} more" if refused > len(shown) else ""
    share = refused / read
    message = f"{refused} of {read} rows are unreadable: {'; '.join(shown)}{more}"
    if share > limit:
        if refused == read:
            raise ValueError(f"{message}. Mend the rows (all are listed in {listed})")
        enough = f"{min(1.0, share * 1.01):.2g}"
        raise ValueError(
            f"{message}. That is a share of {share:.3g}, over data.max_refused_share={limit}: mend the rows "
            f"(all are listed in {listed}), or leave them out by setting data.max_refused_share={enough}"
        )
    logger.warning("%s (they stand in %s)", message, listed)


def _check_filled(parts: Iterable[Split], limits: Sequence[int], every_phase: bool) -> None:
    for part in parts:
        if (part.name != "train" or not part.read) and not part.kept.rows:
            raise ValueError(
                f"no row is left in the {part.name} split: {part.read} rows read, dropped by reason "
                f"{dict(sorted(part.dropped.items()))}: name other sources in data.{part.name} or raise its limit"
            )
        counts = {f"phase {i} (<= {limit} tokens)": part.kept.phases[i] for i, limit in enumerate(limits, 1)}
        if part.name == "train" and (0 in counts.values() if every_phase else not part.kept.rows):
            lengths = part.kept.lengths
            raise ValueError(
                f"a GRPO phase has no training row: {counts}; dropped by reason {dict(sorted(part.dropped.items()))}; "
                f"prompts kept have {min(lengths, default=0)}..{max(lengths, default=0)} tokens: change grpo.phases' "
                "max_prompt_tokens or add rows of that length (data.train, data.generate_train)"
            )


def _summary(parts: Mapping[str, Split], wanted: Sequence[str], limits: Sequence[int]) -> dict[str, Any]:
    summary: dict[str, Any] = {"splits": {name: part.summary() for name, part in parts.items() if name in wanted}}
    if "train" in wanted:
        phases = parts["train"].kept.phases
        summary["phases"] = {
            str(i): {"max_prompt_tokens": limit, "rows": phases[i]} for i, limit in enumerate(limits, 1)
        }
    if "eval" in parts and "eval" not in wanted:
        against = parts["eval"]
        summary["against"] = {
            "read": against.read,
            "refused": against.refused.total(),
            "dropped": dict(sorted(against.dropped.items())),
        }
    return summary


def run(job: PrepareJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The prepare stage: input ``base`` (for its tokenizer), output a folder of rows."""
    from transformers import AutoTokenizer  # brings torch in, which readers of this module do not need

    prepare(job, AutoTokenizer.from_pretrained(inputs["base"]), work / OUTPUT)


if __name__ == "__main__":
    stage_main(PrepareJob, run)
