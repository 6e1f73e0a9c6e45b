"""Examples in parquet files, written and read one row group at a time. The same rows give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from qwenlong_core.records import Example, example_from_dict
from qwenlong_core.store.files import digest_json

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
PHASE = pa.field("phase", pa.int32())
"""Extra column of ``train.parquet``: the phase of a row, counted from 1."""
DOCUMENT = pa.field("document", pa.binary())
"""Extra column of rows in preparation: the key of their document."""
_GROUP_CHARACTERS = 8_000_000
_GROUP_ROWS = 1_024


class ExampleWriter:
    """Writes a parquet file row by row; memory holds one row group. Use it as a context manager.

    Metadata is stored as JSON with sorted keys, since its fields differ from source to source.

    Args:
        column: an extra column, whose values are passed to :meth:`write`.
    """

    def __init__(self, path: Path, column: pa.Field | None = None) -> None:
        self._column = column
        self._schema = _SCHEMA if column is None else _SCHEMA.append(column)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def write(self, example: Example, value: Any = None) -> None:
        """Append a row, with its value of the extra column if there is one."""
        row = example.to_dict()
        row["metadata"] = json.dumps(row["metadata"], ensure_ascii=False, sort_keys=True)
        self._rows.append(row if self._column is None else {**row, self._column.name: value})
        self._characters += len(example.context)
        if self._characters >= _GROUP_CHARACTERS or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0


def write_examples(path: Path, examples: Sequence[Example], phases: Sequence[int] | None = None) -> None:
    """Write rows to a parquet file; ``phases`` adds the column ``phase`` with one number per row."""
    with ExampleWriter(path, None if phases is None else PHASE) as file:
        for example, phase in zip(examples, phases or repeat(None, len(examples)), strict=True):
            file.write(example, phase)


def stream_rows(path: Path, column: pa.Field) -> Iterator[tuple[Example, Any]]:
    """The rows of a file with their values of an extra column; memory holds one row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                value = row.pop(column.name)
                yield _to_example(row), value


def stream_examples(path: Path) -> Iterator[Example]:
    """The rows of a file, one by one; memory holds one row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, columns=_SCHEMA.names).to_pylist():
                yield _to_example(row)


def _to_example(row: dict[str, Any]) -> Example:
    return example_from_dict({**row, "metadata": json.loads(row["metadata"])})


def read_examples(path: Path) -> list[Example]:
    """All rows of a parquet file written by :class:`ExampleWriter`."""
    return [_to_example(row) for row in pq.read_table(path, columns=_SCHEMA.names).to_pylist()]


def read_phase(path: Path, index: int) -> list[Example]:
    """The rows of ``train.parquet`` that belong to phase ``index`` (counted from 1).

    Raises:
        ValueError: the file has no row of that phase.
    """
    table = pq.read_table(path, columns=_SCHEMA.names, filters=[("phase", "=", index)])
    if not table.num_rows:
        raise ValueError(
            f"{path} has no row of phase {index}: prepare the data again with the limits of the present phases"
        )
    return [_to_example(row) for row in table.to_pylist()]


def dataset_digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the rows' content, independent of their order."""
    return digest_json(sorted(digest_json(example.to_dict()) for example in examples))
