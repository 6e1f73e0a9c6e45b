"""The prepare stage: reads the sources and writes training and evaluation rows; every row left out is counted.

Output folder::

    sft.parquet      rows with a worked solution, or questions that traces are wanted for; absent where SFT is skipped
    train.parquet    rows for GRPO, with their ``phase``
    eval.parquet     rows for evaluation
    refused.jsonl    rows that could not be read: file, line, reason
    dropped.jsonl    rows that were read but left out: split, id, reason
    summary.json     counts by split, domain, source, phase and reason; token lengths
    card.md          the same for people, with samples and lengths.svg

The rules, in order:

1. Unreadable rows are refused. A file named for both training and evaluation is split by document.
2. Exact duplicates are dropped.
3. Training rows (SFT and GRPO) that leak are dropped: their document, or their question with its answers, is
   also in the evaluation set. Questions asked of many documents are templates and leak by document only.
4. Near duplicates are dropped, and training rows whose document is nearly an evaluation document.
5. Training rows over the token limit are dropped. Evaluation rows over it lose the middle of their document.
6. A GRPO row belongs to the first phase whose limit it fits.

Rows are streamed twice: from the sources to scratch files (rules 1 and 2), then through the filters that need
to know all evaluation rows. Memory holds keys, not rows. The same inputs give the same bytes.
Stage command: ``python -m qwenlong_core.data.prepare``.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from qwenlong_core.data.lengths import fit_eval, fit_questions, fit_sft, fit_train, phase_of
from qwenlong_core.data.prepared import ROWS, SUMMARY
from qwenlong_core.data.prompts import as_asked, require_chat_template
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
"""Every file that preparation writes."""


def rows_per_phase(data: DataSettings, limits: Sequence[int], seed: int) -> dict[int, int]:
    """Number of generated training rows per phase (counted from 1), from the settings alone.

    The counts are exact if no length bucket crosses a phase limit. Otherwise a row within 2% of the limit may
    end up on its other side. Rows of other sources are unknown until they are read, and not counted.
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
    """Read, filter, measure and sort rows into phases, and write the output folder.

    Args:
        wanted: the splits to write. An evaluation set is read in any case, because training rows are compared
            with it.
        every_phase: whether a phase without any row is an error.

    Returns:
        what summary.json holds. After an error the folder holds refused.jsonl at most.

    Raises:
        ValueError: a source has no file, too many rows are unreadable, or a split or phase is empty.
    """
    names = [name for name in SPLITS if name in wanted or (name == "eval" and job.data.eval)]
    # A missing source of any split should fail now, not after hours of reading the others.
    for name in SPLITS:
        for spec in specs_of(job.data, name):
            local_files(spec)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".prepare-", dir=output.parent) as folder, ExitStack() as logs:
        scratch, finished = Path(folder), Path(folder) / OUTPUT
        finished.mkdir()
        # refused.jsonl is written in place: after an error it is what a reader needs.
        refused = logs.enter_context((output / REFUSED).open("w", encoding="utf-8"))
        dropped = logs.enter_context((finished / DROPPED).open("w", encoding="utf-8"))
        splits = {name: Split(name, refused, dropped) for name in names}
        held_out, templates = HeldOut(), Templates()
        for split in splits.values():
            _spool(job, split, tokenizer, scratch, held_out, templates)
        _check_refused(splits.values(), job.data.max_refused_share, output / REFUSED)
        near = NearDuplicateFilter(job.data.near_duplicates) if job.data.near_duplicates is not None else None
        # Evaluation comes first, because training rows are compared with the evaluation rows that stay.
        for name in sorted(names, key=lambda name: name != "eval"):
            rows = _filtered(splits[name], scratch, held_out, templates, near)
            if name in wanted:
                _write(job, splits[name], rows, tokenizer, finished)
            elif near is not None:
                deque(rows, maxlen=0)  # not written, but its documents have to enter the near-duplicate index
        kept = [splits[name] for name in names if name in wanted]
        _check_filled(kept, job.phase_limits, every_phase)
        summary = _summary(splits, wanted, job.phase_limits)
        (finished / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_card(finished, kept, summary)
        logs.close()
        for path in finished.iterdir():
            path.replace(output / path.name)
    _log_counts(kept, near)
    return summary


def _log_counts(kept: Iterable[Split], near: NearDuplicateFilter | None) -> None:
    if near is not None:
        logger.info(
            "prepare: compared %d documents for near duplicates in %.1f s of CPU time", near.documents, near.seconds
        )
    for split in kept:
        logger.info(
            "prepare %s: kept %d of %d rows; %d dropped, %d refused, %d shortened",
            split.name,
            split.kept.rows,
            split.read,
            split.dropped.total(),
            split.refused.total(),
            split.truncated,
        )


def _spool(
    job: PrepareJob, split: Split, tokenizer: Any, scratch: Path, held_out: HeldOut, templates: Templates
) -> None:
    """First pass: write a split's readable rows, without exact duplicates, to a scratch file."""
    with ExampleWriter(scratch / split.name, DOCUMENT) as file:
        for row in without_duplicates(named_apart(_collected(job, split, tokenizer), split), split):
            templates.add(row)
            if split.name == "eval":
                held_out.add(row)
            asked = as_asked(row.example, job.data.prompt_form, job.data.number_paragraphs)
            file.write(asked, row.document)


def _collected(job: PrepareJob, split: Split, tokenizer: Any) -> Iterator[Row]:
    return collect(job.data, split, tokenizer, job.seed, job.eval_max_tokens)


def _filtered(
    split: Split, scratch: Path, held_out: HeldOut, templates: Templates, near: NearDuplicateFilter | None
) -> Iterator[Row]:
    """The spooled rows of a split that pass the filters which need to know all evaluation rows."""
    rows: Iterator[Row] = (Row(example, key) for example, key in stream_rows(scratch / split.name, DOCUMENT))
    if split.name == "eval":
        return near.evaluation(rows, split) if near else rows
    rows = without_leaks(rows, split, held_out, templates)
    return near.training(rows, split) if near else rows


def _write(job: PrepareJob, split: Split, rows: Iterable[Row], tokenizer: Any, folder: Path) -> None:
    """Second pass: measure the filtered rows, fit them to their limits, count them and write them."""
    logger.info("prepare %s: counting the tokens of up to %d prompts", split.name, split.read)
    fitted: Iterable[tuple[Row, int | None]]
    if split.name == "train":
        fitted = fit_train(rows, split, tokenizer, job.phase_limits)
    elif split.name == "sft":
        fit = fit_questions if job.sft_rows == "questions" else fit_sft
        fitted = ((row, None) for row in fit(rows, split, tokenizer, job.sft_max_tokens))
    else:
        fitted = ((row, None) for row in fit_eval(rows, split, tokenizer, job.eval_max_tokens))
    with ExampleWriter(folder / ROWS[split.name], PHASE if split.name == "train" else None) as file:
        for row, phase in fitted:
            split.kept.add(row, phase)
            file.write(row.example, phase)


def _check_refused(splits: Collection[Split], limit: float, listed: Path) -> None:
    refused, read = sum(split.refused.total() for split in splits), sum(split.read for split in splits)
    if not refused:
        return
    shown = [str(row) for split in splits for row in split.shown][:SHOWN_REFUSALS]
    more = f" and {refused - len(shown)} more" if refused > len(shown) else ""
    share = refused / read
    message = f"{refused} of {read} rows are unreadable: {'; '.join(shown)}{more}"
    message = ". ".join([message, *dict.fromkeys(words for split in splits for words in split.misread)])
    if share > limit:
        if refused == read:
            raise ValueError(f"{message}. Fix the rows (all are listed in {listed})")
        enough = math.ceil(share * 1_000) / 1_000  # rounded up, so that this share of rows does pass
        raise ValueError(
            f"{message}. Their share of {share:.3g} is over data.max_refused_share={limit}: fix the rows "
            f"(all are listed in {listed}), or leave them out with data.max_refused_share={enough}"
        )
    logger.warning("%s (all are listed in %s)", message, listed)


def _check_filled(splits: Iterable[Split], limits: Sequence[int], every_phase: bool) -> None:
    for split in splits:
        dropped = dict(sorted(split.dropped.items()))
        if (split.name != "train" or not split.read) and not split.kept.rows:
            raise ValueError(
                f"the {split.name} split is empty: {split.read} rows were read, dropped by reason {dropped}: "
                f"name other sources in data.{split.name} or raise its limit"
            )
        counts = {f"phase {i} (<= {limit} tokens)": split.kept.phases[i] for i, limit in enumerate(limits, 1)}
        if split.name == "train" and (0 in counts.values() if every_phase else not split.kept.rows):
            lengths = split.kept.lengths
            raise ValueError(
                f"a GRPO phase has no training row: {counts}; dropped by reason {dropped}; the prompts kept have "
                f"{min(lengths, default=0)}..{max(lengths, default=0)} tokens: change max_prompt_tokens in "
                "grpo.phases, or add rows of the missing lengths (data.train, data.generate_train)"
            )


def _summary(splits: Mapping[str, Split], wanted: Sequence[str], limits: Sequence[int]) -> dict[str, Any]:
    summary: dict[str, Any] = {"splits": {name: split.summary() for name, split in splits.items() if name in wanted}}
    if "train" in wanted:
        phases = splits["train"].kept.phases
        summary["phases"] = {
            str(i): {"max_prompt_tokens": limit, "rows": phases[i]} for i, limit in enumerate(limits, 1)
        }
    if "eval" in splits and "eval" not in wanted:
        against = splits["eval"]
        summary["against"] = {
            "read": against.read,
            "refused": against.refused.total(),
            "dropped": dict(sorted(against.dropped.items())),
        }
    return summary


def run(job: PrepareJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The prepare stage. It takes the tokenizer from input ``base`` and writes a folder of rows."""
    from qwenlong_core.auto import AutoTokenizer  # lazy: it imports torch, which others who use this module do not need

    tokenizer = AutoTokenizer.from_pretrained(inputs["base"])
    require_chat_template(tokenizer, str(inputs["base"]))
    wanted = [name for name in SPLITS if name != "sft" or job.sft_rows != "none"]
    prepare(job, tokenizer, work / OUTPUT, wanted)


if __name__ == "__main__":
    stage_main(PrepareJob, run)
