"""Samples as a parquet table, one row per sampled answer, for pandas, DuckDB or Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Example

_BATCH = 256
"""Rows in memory at a time: a document may have a million characters."""


def write_table(evaluation: Evaluation, rows: Mapping[str, Example], path: Path, documents: bool = False) -> None:
    """Write one row per sample: question, gold, completion, score with its parts, lengths, times.

    Args:
        rows: The evaluated rows by id.
        documents: Whether each row carries its whole document, in a column ``context``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(_schema(pa, documents))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(evaluation.samples):
            table = [_row(sample, rows[sample.example_id], documents) for sample in batch]
            writer.write_table(pa.Table.from_pylist(table, schema=schema))


def _schema(pa: Any, documents: bool) -> list[tuple[str, Any]]:
    text, number, count, texts = pa.string(), pa.float64(), pa.int64(), pa.list_(pa.string())
    return [
        ("example_id", text), ("sample", count), ("source", text), ("domain", text), ("kind", text), ("parts", texts),
        ("document_id", text), ("answer_type", text), ("question", text), ("choices", texts), ("answers", texts),
        ("completion", text), ("extracted", text), ("outcome", text), ("value", number), ("accuracy", number),
        ("rule", number), ("judge", number), ("length_penalty", number), ("reason", text),
        ("metrics", pa.map_(text, number)), ("prompt_tokens", count), ("lost_tokens", count),
        ("completion_tokens", count), ("finish_reason", text), ("depth", number), ("seconds", number),
        *([("context", text)] if documents else []),
    ]  # fmt: skip


def _row(sample: Sample, example: Example, documents: bool) -> dict[str, Any]:
    score = sample.score
    row = {
        "example_id": sample.example_id, "sample": sample.sample, "source": sample.source, "domain": sample.domain,
        "kind": sample.kind, "parts": sample.parts, "document_id": sample.document_id,
        "answer_type": example.answer_type, "question": example.question, "choices": example.choices,
        "answers": example.answers, "completion": sample.completion, "extracted": score.extracted,
        "outcome": sample.outcome, "value": score.value, "accuracy": score.accuracy, "rule": score.rule,
        "judge": score.judge, "length_penalty": score.length_penalty, "reason": score.reason,
        "metrics": list(sample.metrics.items()), "prompt_tokens": sample.prompt_tokens,
        "lost_tokens": sample.lost_tokens, "completion_tokens": sample.num_tokens,
        "finish_reason": sample.finish_reason, "depth": sample.depth, "seconds": sample.seconds,
    }  # fmt: skip
    return row | ({"context": example.context} if documents else {})


def _batches(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    yield from (samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH))
