"""``qwenlong prepare``: check, measure and filter rows of any source, as the pipeline's stage does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, TokenizerOf, busy, one_clear_message
from qwenlong.flows.cli.generate import policy_tokenizer
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings
from qwenlong_core.settings.evaluation import EvaluationSettings

PHASES = (20_000, 60_000)
"""The paper's first two phases."""
_OPTIONS = {"data.max_refused_share": "--max-refused-share", "data.near_duplicates": "--near-duplicates"}


def prepare(
    source: Annotated[
        list[str],
        typer.Option(metavar="NAME=PATH_OR_ID", help="What to read; `qwenlong sources` lists the names. Repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    role: Annotated[
        str, typer.Option(help="train: rows by phase. eval: evaluation rows, shortened to --max-tokens.")
    ] = "train",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH_OR_ID",
            help=(
                "Data of the other role. Training rows that are also in an evaluation set are dropped; a file that is"
                " a --source too is split by document. Repeatable."
            ),
        ),
    ] = None,
    model: TokenizerOf = "smollm2-135m",
    phase: Annotated[
        list[int] | None,
        typer.Option(min=128, help="Longest prompt of each phase, ascending; by default 20000 and 60000. Repeatable."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=128, help="Longest evaluation prompt; by default 120000.")
    ] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Similarity from which documents are near duplicates, by default 0.9; 0: exact ones only.",
        ),
    ] = None,
    max_refused_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail above this share of unreadable rows; by default 0.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides how a file is split by document.")] = 7,
    as_json: Json = False,
) -> None:
    """Check, measure and filter rows as the pipeline does; write parquet, a manifest and a data card (card.md).

    Unreadable rows are listed in refused.jsonl, dropped ones in dropped.jsonl.
    """
    with one_clear_message(options=_OPTIONS):
        data = _data(role, source, against or [])
        if near_duplicates is not None:
            data = data.model_copy(update={"near_duplicates": near_duplicates or None})
        if max_refused_share is not None:
            data = data.model_copy(update={"max_refused_share": max_refused_share})
        job = _job(role, data, phase, max_tokens, seed)
        with busy("preparing the rows"):
            summary = _prepare(job, role, model, out)
    result = {"folder": str(out), **summary}
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else _in_words(result, role))


def _data(role: str, source: Sequence[str], against: Sequence[str]) -> DataSettings:
    """The data settings with ``source`` in this role and ``against`` in the other.

    Raises:
        ValueError: an unknown role or source, or an ``against`` that would do nothing.
    """
    if role not in ("train", "eval"):
        raise ValueError(f"--role {role!r} is neither train nor eval")
    from qwenlong_core.data.sources.read import local_files

    own, other = tuple(map(_spec, source)), tuple(map(_spec, against))
    train, evaluation = (own, other) if role == "train" else (other, own)
    data = DataSettings(sft=(), train=train, eval=evaluation)
    for spec in (*own, *other):
        local_files(spec)  # a path that is not there is told before anything is loaded
    _check_against(role, data)
    return data


def _job(role: str, data: DataSettings, phases: Sequence[int] | None, max_tokens: int | None, seed: int) -> PrepareJob:
    """The same job as the pipeline's stage has.

    Raises:
        ValueError: an option that does not go with the role, or limits out of order.
    """
    if role == "train" and max_tokens is not None:
        raise ValueError("--max-tokens goes with --role eval: training rows are limited by --phase")
    if role == "eval" and phases is not None:
        raise ValueError("--phase goes with --role train: evaluation rows are limited by --max-tokens")
    limits = tuple(phases or PHASES)
    if list(limits) != sorted(set(limits)):
        raise ValueError(f"--phase {' '.join(map(str, limits))}: give the limits in ascending order")
    longest = max_tokens or EvaluationSettings().max_prompt_tokens
    return PrepareJob(data=data, sft_max_tokens=limits[-1], phase_limits=limits, eval_max_tokens=longest, seed=seed)


def _spec(given: str) -> str:
    from qwenlong_core.data.sources.catalogue import sources

    name, equals, location = given.partition("=")
    if not equals or name not in sources():
        raise ValueError(f"{given!r} is not NAME=PATH_OR_ID with NAME one of {', '.join(sources())}")
    if not location and not (sources()[name].hub or sources()[name].place):
        raise ValueError(f"{given!r} names no path, and {name!r} has none of its own: add the path after the =")
    return f"{name}:{location}"


def _check_against(role: str, data: DataSettings) -> None:
    from qwenlong_core.data.collect import shared_files

    if role == "eval" and data.train and not shared_files(data):
        raise ValueError(
            "--against does nothing here: evaluation rows are never dropped, and none of its files is also a --source,"
            " which would be split by document. Leave it out, and give the evaluation set as --against when you prepare"
            " the training rows"
        )


def _prepare(job: PrepareJob, role: str, model: str, out: Path) -> dict[str, Any]:
    from qwenlong_core.data.prepare import FILES
    from qwenlong_core.data.prepare import prepare as prepare_rows
    from qwenlong_core.store.artifacts import describe
    from qwenlong_core.store.files import MANIFEST, digest_json
    from qwenlong_core.store.fingerprint import code_digest

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    if foreign := sorted(found - {*FILES, MANIFEST}):
        raise ValueError(f"--out {out} holds other files ({', '.join(foreign[:5])}): name a new folder")
    tokenizer = policy_tokenizer(model)
    for name in found:
        (out / name).unlink()
    summary = prepare_rows(job, tokenizer, out, (role,), every_phase=False)
    settings = digest_json({**job.model_dump(mode="json"), "model": model})
    code = code_digest(("qwenlong_core.data.prepare",))
    manifest = describe(out, "data", parents={}, settings_digest=settings, code_digest=code)
    (out / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return {**summary, "digest": manifest.digest}


def _in_words(result: dict[str, Any], role: str) -> str:
    split = result["splits"][role]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in split["dropped"].items()) or "none"
    lines = [
        (
            f"{result['folder']}: {split['rows']:,} rows on {split['documents']:,} documents kept of {split['read']:,}"
            f" read; {split['refused']:,} unreadable, {split['truncated']:,} shortened"
        ),
        f"dropped: {dropped}",
        *([f"files not read: {len(split['files_left_out']):,}"] if split["files_left_out"] else []),
        "prompt tokens: {min:,} to {max:,}, median {median:,}, {total:,} in all".format(**split["tokens"]),
    ]
    for index, phase in result.get("phases", {}).items():
        lines.append(f"phase {index}, up to {phase['max_prompt_tokens']:,} tokens: {phase['rows']:,} rows")
    return "\n".join([*lines, f"see {result['folder']}/card.md"])
