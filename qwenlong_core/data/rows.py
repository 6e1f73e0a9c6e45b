"""Example rows on disk: parquet files, the same bytes for the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenlong_core.records import Example, example_from_dict

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("answer_type", pa.string()),
        ("context", pa.large_string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("document_id", pa.string()),
        ("num_tokens", pa.int64()),
        ("solution", pa.string()),
        ("metadata", pa.string()),
    ]
)
_PHASE = pa.field("phase", pa.int32())


def write_examples(path: Path, examples: Sequence[Example], phases: Sequence[int] | None = None) -> None:
    """Write rows to a parquet file; ``phases`` adds the column ``phase``, one number a row.

    Metadata is stored as JSON with sorted keys, since its fields differ from source to source.
    """
    rows = [_to_row(example) for example in examples]
    schema = _SCHEMA
    if phases is not None:
        schema = _SCHEMA.append(_PHASE)
        rows = [{**row, "phase": phase} for row, phase in zip(rows, phases, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _to_row(example: Example) -> dict[str, Any]:
    row = example.to_dict()
    return {**row, "metadata": json.dumps(row["metadata"], ensure_ascii=False, sort_keys=True)}


def _to_example(row: dict[str, Any]) -> Example:
    return example_from_dict({**row, "metadata": json.loads(row["metadata"])})


def read_examples(path: Path) -> list[Example]:
    """All rows of a parquet file written by :func:`write_examples`."""
    return [_to_example(row) for row in pq.read_table(path, columns=_SCHEMA.names).to_pylist()]


def read_phase(path: Path, index: int) -> list[Example]:
    """The rows of ``train.parquet`` that belong to phase ``index`` (counted from 1).

    Raises:
        ValueError: the file holds no row of that phase.
    """
    table = pq.read_table(path, columns=_SCHEMA.names, filters=[("phase", "=", index)])
    if not table.num_rows:
        raise ValueError(f"{path} holds no row of phase {index}: prepare the data with the limits of these phases")
    return [_to_example(row) for row in table.to_pylist()]
