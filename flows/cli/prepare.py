"""``qwenlong prepare``: rows of any source, checked, measured and filtered, as the pipeline's own stage does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.generate import policy_tokenizer

PHASES = (20_000, 60_000)
EVAL_TOKENS = 120_000


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
                "The other role's data. Training rows that stand in an evaluation set are removed; a file that is also "
                "a --source is split by document. Repeatable."
            ),
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Whose tokens and chat template count: smollm2-135m, a model folder or a hub id.")
    ] = "smollm2-135m",
    phase: Annotated[
        list[int] | None,
        typer.Option(min=128, help="Largest prompt of each phase, ascending; 20000 and 60000 if left out."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=128, help="Longest evaluation prompt; 120000 if left out.")
    ] = None,
    near_duplicates: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Similarity from which documents are nearly the same; 0: exact duplicates only."
        ),
    ] = 0.9,
    max_refused_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fail over this share of unreadable rows.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Draws the documents of a file that is split.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")] = False,
) -> None:
    """Check, measure and filter rows, and write parquet, a manifest and a data card (card.md).

    Nothing is lost without a trace: unreadable rows stand in refused.jsonl, others left out in dropped.jsonl.
    """
    from qwenlong.flows.cli.main import one_clear_message  # the command line imports this module

    with one_clear_message(options={"data.max_refused_share": "--max-refused-share"}):
        job = _job(role, source, against or [], phase, max_tokens, near_duplicates, max_refused_share, seed)
        summary = _prepare(job, role, model, out)
    result = {"folder": str(out), **summary}
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else _in_words(result, role))


def _job(
    role: str,
    source: list[str],
    against: list[str],
    phases: list[int] | None,
    max_tokens: int | None,
    near_duplicates: float,
    max_refused_share: float,
    seed: int,
) -> Any:
    """The stage's own job, with this role's sources.

    Raises:
        ValueError: an option that does not go with the role, or a name that is no source.
    """
    from qwenlong_core.jobs import PrepareJob
    from qwenlong_core.settings.data import DataSettings

    if role not in ("train", "eval"):
        raise ValueError(f"--role {role!r} is neither train nor eval")
    if role == "train" and max_tokens is not None:
        raise ValueError("--max-tokens goes with --role eval: training rows are limited by --phase")
    if role == "eval" and phases is not None:
        raise ValueError("--phase goes with --role train: evaluation rows are limited by --max-tokens")
    limits = tuple(phases or PHASES)
    if list(limits) != sorted(set(limits)):
        raise ValueError(f"--phase {' '.join(map(str, limits))}: give the limits in ascending order")
    own, other = tuple(map(_spec, source)), tuple(map(_spec, against))
    data = DataSettings(
        sft=(),
        train=own if role == "train" else other,
        eval=other if role == "train" else own,
        near_duplicates=near_duplicates or None,
        max_refused_share=max_refused_share,
    )
    _check_against(role, data)
    return PrepareJob(
        data=data, sft_max_tokens=limits[-1], phase_limits=limits, eval_max_tokens=max_tokens or EVAL_TOKENS, seed=seed
    )


def _spec(given: str) -> str:
    from qwenlong_core.data.sources.catalogue import SOURCES

    name, equals, location = given.partition("=")
    if not equals or name not in SOURCES:
        raise ValueError(f"{given!r} is not NAME=PATH_OR_ID with NAME one of {', '.join(SOURCES)}")
    if not location and SOURCES[name].hub is None:
        raise ValueError(f"{given!r} names no path; {name!r} has no hub id of its own")
    return f"{name}:{location}"


def _check_against(role: str, data: Any) -> None:
    from qwenlong_core.data.collect import shared_files

    if role == "eval" and data.train and not shared_files(data):
        raise ValueError(
            "--against does nothing here: evaluation rows stay, and none of its files is also a --source, which would"
            " be split by document. Leave it out, and give the evaluation set as --against when preparing with --role"
            " train"
        )


def _prepare(job: Any, role: str, model: str, out: Path) -> dict[str, Any]:
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
            f" read, {split['refused']:,} refused, {split['truncated']:,} shortened"
        ),
        f"dropped: {dropped}",
        "prompt tokens: {min:,} to {max:,}, median {median:,}, {total:,} in all".format(**split["tokens"]),
    ]
    for index, phase in result.get("phases", {}).items():
        lines.append(f"phase {index}, up to {phase['max_prompt_tokens']:,} tokens: {phase['rows']:,} rows")
    return "\n".join([*lines, f"see {result['folder']}/card.md"])
