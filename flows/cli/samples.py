"""``qwenlong samples``: the answers of an evaluation as files that other tools read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.flows.cli.common import Overrides, Profile, one_clear_message
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings


class Format(StrEnum):
    """What can be written."""

    INSPECT = "inspect"
    PARQUET = "parquet"
    LONGBENCH = "longbench"


def samples(
    evaluation: Annotated[str, typer.Argument(help="Folder of a finished evaluation, or evaluation/DIGEST.")],
    out: Annotated[Path, typer.Argument(help="File to write (.json for inspect, .parquet); for longbench a folder.")],
    to: Annotated[Format, typer.Option(help="inspect: a log for `inspect view`. longbench: data/ and pred/.")],
    documents: Annotated[bool, typer.Option(help="Write the document of each question, too.")] = False,
    profile: Profile = "local",
    overrides: Overrides = None,
) -> None:
    """Write an evaluation's answers for other tools: inspect_ai, pandas and DuckDB (parquet), LongBench."""
    with one_clear_message():
        from qwenlong.tasks.references import evaluated_rows, evaluation_folder
        from qwenlong_core.data.prepared import EVAL_ROWS
        from qwenlong_core.data.rows import read_examples
        from qwenlong_core.evaluation.results import read_evaluation
        from qwenlong_core.exchange.inspect_log import write_inspect_log
        from qwenlong_core.exchange.longbench import write_longbench
        from qwenlong_core.exchange.table import write_table

        _check_out(out, to)
        store = open_store(load_settings(profile, overrides or ()))
        folder = evaluation_folder(store, evaluation)
        found = read_evaluation(folder)
        rows = {row.id: row for row in read_examples(evaluated_rows(store, folder) / EVAL_ROWS)}
        if to is Format.INSPECT:
            write_inspect_log(found, rows, out, name=found.plan.model_digest[:12], documents=documents)
        elif to is Format.PARQUET:
            write_table(found, rows, out, documents)
        else:
            write_longbench(found, rows, out)
        typer.echo(f"{len(found.samples)} answers to {len(found.plan.items)} questions: {out}")


def _check_out(out: Path, to: Format) -> None:
    endings = {Format.INSPECT: ".json", Format.PARQUET: ".parquet"}
    if to in endings and out.suffix != endings[to]:
        raise ValueError(f"{out} does not end with {endings[to]}, by which other tools know the format: rename it")
    if to is Format.LONGBENCH and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and longbench is a folder with data/ and pred/: name a folder")
