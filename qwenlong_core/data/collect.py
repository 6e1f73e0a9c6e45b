"""The readable rows of a split, source by source.

Refused rows are left out, and so are the other split's documents of a file that both splits name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwenlong_core.data.prepared import UNTRAINED
from qwenlong_core.data.ruler.copies import is_ruler
from qwenlong_core.data.ruler.generate import ruler_rows
from qwenlong_core.data.sources.read import GENERATED, from_copies, left_out, local_files, misread, read_by_file
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.data.splits import Row, Split, digest, document_key
from qwenlong_core.data.synthesis.generate import generate_bucket
from qwenlong_core.records import Example
from qwenlong_core.settings.data import DataSettings, LengthBucket

logger = logging.getLogger(__name__)

SPLITS = ("sft", "train", "eval")
_NO_REWARD = "{id} is scored by its benchmark's published scorer, which is no reward: name the source in data.eval only"
HELD_OUT_SHARE = 0.2
"""Share of the documents held out for evaluation when training and evaluation name the same file."""


def specs_of(data: DataSettings, split: str) -> tuple[str, ...]:
    """The sources of a split; those of the evaluation in ``data.benchmarks_dir``, where that is set.

    Raises:
        ValueError: a copy that should be there is not whole.
    """
    if split == "eval" and data.benchmarks_dir is not None:
        return tuple(from_copies(spec, Path(data.benchmarks_dir)) for spec in data.eval)
    return {"sft": data.sft, "train": data.train, "eval": data.eval}[split]


def shared_files(data: DataSettings) -> set[Path]:
    """Files named for both evaluation and training."""
    files = {
        split: {path.resolve() for spec in specs_of(data, split) for path in local_files(spec)} for split in SPLITS
    }
    return files["eval"] & (files["sft"] | files["train"])


def collect(data: DataSettings, split: Split, tokenizer: Any, seed: int, longest: int) -> Iterator[Row]:
    """Read or generate the rows of a split, one by one.

    Args:
        longest: ``evaluation.max_prompt_tokens``, which RULER's rows are made to fit.

    Raises:
        ValueError: the split names ``generated`` but has no length bucket.
    """
    shared = shared_files(data)
    for spec in specs_of(data, split.name):
        if spec == GENERATED or is_ruler(spec):
            for example in _made(spec, data, split.name, tokenizer, seed, longest):
                split.read += 1
                yield Row(example, document_key(example))
            continue
        logger.info("prepare %s: reading %s", split.name, spec)
        split.left_out += left_out(spec)
        for path, rows in read_by_file(spec):
            read, refused = split.read, split.refused.total()
            yield from _of_file(rows, split, seed if path.resolve() in shared else None)
            if 0 < split.read - read == split.refused.total() - refused:
                split.misread.append(misread(spec, path))


def _made(spec: str, data: DataSettings, split: str, tokenizer: Any, seed: int, longest: int) -> Iterator[Example]:
    """The rows of a source that is not read: RULER's, or our own."""
    if is_ruler(spec):
        return ruler_rows(tokenizer, spec, data.ruler, longest)
    return _generated(data, split, tokenizer, seed)


def _of_file(rows: Iterable[Example | Refused], split: Split, seed: int | None) -> Iterator[Row]:
    """The readable rows of a file. A seed marks a shared file, of which only this split's documents are kept."""
    if seed is not None:
        logger.info(
            "prepare %s: training and evaluation name the same file, so %.0f%% of its documents are held out",
            split.name,
            100 * HELD_OUT_SHARE,
        )
    for example in rows:
        split.read += 1
        if isinstance(example, Refused):
            split.refuse(example)
            continue
        if split.name != "eval" and example.answer_type == "published":
            split.refuse(Refused(example.source, split.read, _NO_REWARD.format(id=example.id)))
            continue
        row = Row(example, document_key(example))
        if seed is not None and _held_out(row, seed) != (split.name == "eval"):
            split.drop(example, "document_of_the_other_split")
        else:
            yield row


def _held_out(row: Row, seed: int) -> bool:
    # A hash of the text, not a random draw, so that all rows of a document go to the same split.
    return int.from_bytes(digest(str(seed), row.document.hex())[:4]) / 2**32 < HELD_OUT_SHARE


def _buckets(data: DataSettings, split: str) -> tuple[LengthBucket, ...]:
    return {"sft": data.generate_sft, "train": data.generate_train, "eval": data.generate_eval}[split]


def _generated(data: DataSettings, split: str, tokenizer: Any, seed: int) -> Iterator[Example]:
    buckets = _buckets(data, split)
    if not buckets:
        raise ValueError(
            f"data.{split} names {GENERATED!r}, but data.generate_{split} holds no length bucket: add one "
            "with min_tokens, max_tokens and rows, or name another source"
        )
    for bucket in buckets:
        logger.info(
            "prepare %s: generating %d rows of %d..%d tokens", split, bucket.rows, bucket.min_tokens, bucket.max_tokens
        )
        for example in generate_bucket(tokenizer, bucket, f"{seed}-{split}"):
            untrained = split == "eval" and not _is_trained(data, example)
            yield replace(example, metadata={**example.metadata, UNTRAINED: True}) if untrained else example


def _is_trained(data: DataSettings, example: Example) -> bool:
    """Whether generated rows of SFT or GRPO may have the example's form of question."""
    kind = example.metadata["kind"]
    used = [split for split in ("sft", "train") if GENERATED in specs_of(data, split)]
    buckets = [bucket for split in used for bucket in _buckets(data, split)]
    return any(kind in bucket.kinds.get(example.domain, (kind,)) for bucket in buckets)
