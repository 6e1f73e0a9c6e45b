"""``qwenlong generate``: documents with known answers, as JSONL in the uniform record."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from qwenlong.flows.cli.common import Json, TokenizerOf, one_clear_message
from qwenlong_core.bundled import BUNDLED, bundled_tokenizer
from qwenlong_core.data.distill_counts import in_words
from qwenlong_core.data.prompts import require_chat_template
from qwenlong_core.records import Domain, Example
from qwenlong_core.settings.profiles import explained
from qwenlong_core.store.protocol import check_writable

logger = logging.getLogger(__name__)

MIXED = "mixed"
_PROGRESS_ROWS = 100


Out = Annotated[Path, typer.Option(help="JSONL file to write; name it in data.train, data.sft or data.eval.")]
Tokens = Annotated[
    int, typer.Option(min=128, max=1_000_000, help="Prompt length in the policy's tokens, met within 2%.")
]
ToTokens = Annotated[
    int | None, typer.Option(min=128, max=1_000_000, help="Spread the lengths evenly from --tokens to this.")
]
DomainName = Annotated[
    str, typer.Option(help="math, logical, multihop, reading, or mixed: math, logical, multihop as 600:600:400.")
]
Kind = Annotated[
    str | None, typer.Option(help="One kind of question of the domain; the error for an unknown one lists them.")
]
Steps = Annotated[int | None, typer.Option(help="Only questions that combine this many facts.")]
Distractors = Annotated[int | None, typer.Option(min=0, help="Near misses in the document.")]
Depth = Annotated[
    float | None, typer.Option(min=0, max=1, help="Place of the evidence: 0 start, 1 end; by default random.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Base URL of an OpenAI-compatible teacher: keep only the rows that it solves, with its solution."
    ),
]
TeacherModel = Annotated[str | None, typer.Option(help="Model that the teacher's endpoint serves.")]
TeacherKeyVariable = Annotated[str | None, typer.Option(help="Environment variable that holds the teacher's key.")]
TeacherSamples = Annotated[
    int | None, typer.Option(min=1, help="Completions that the teacher gives per question; by default 4.")
]


def generate(
    out: Out,
    tokens: Tokens,
    n: Annotated[int, typer.Option(min=1, help="Documents, each with one question.")] = 8,
    domain: DomainName = MIXED,
    to_tokens: ToTokens = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
    kind: Kind = None,
    steps: Steps = None,
    distractors: Distractors = None,
    depth: Depth = None,
    language: Annotated[str, typer.Option(help="en, or zh (multihop only).")] = "en",
    model: TokenizerOf = "smollm2-135m",
    teacher: Teacher = None,
    teacher_model: TeacherModel = None,
    teacher_key_variable: TeacherKeyVariable = None,
    teacher_samples: TeacherSamples = None,
    as_json: Json = False,
) -> None:
    """Write documents with questions whose answers are known by construction.

    Every row has its gold answer and a worked solution; its metadata says where the evidence is.
    """
    if (teacher is None) != (teacher_model is None):
        raise typer.BadParameter("--teacher and --teacher-model go together")
    if teacher is None and (teacher_key_variable is not None or teacher_samples is not None):
        raise typer.BadParameter("--teacher-key-variable and --teacher-samples need --teacher")
    if domain not in (MIXED, *get_args(Domain)):
        raise typer.BadParameter(
            f"{domain!r} is none of {', '.join((MIXED, *get_args(Domain)))}", param_hint="--domain"
        )
    if to_tokens is not None and to_tokens < tokens:
        raise typer.BadParameter(f"{to_tokens} is less than --tokens {tokens}", param_hint="--to-tokens")
    form = {"kind": kind, "steps": steps, "distractors": distractors, "depth": depth, "language": language}
    wanted = Wanted(domain=domain, low=tokens, high=to_tokens or tokens, rows=n, seed=seed, form=form)
    endpoint = {
        "base_url": teacher,
        "model": teacher_model,
        "api_key_variable": teacher_key_variable,
        "samples": teacher_samples,
    }
    counts: dict[str, Any] = {}
    with one_clear_message(options={"distill.teacher.api_key_variable": "--teacher-key-variable"}):
        _check_place(out)
        tokenizer = policy_tokenizer(model)
        rows: Iterable[Example] = _rows(tokenizer, wanted)
        if teacher is not None:
            given = {name: value for name, value in endpoint.items() if value is not None}
            rows, counts = _distilled(list(rows), given, tokenizer, seed)
        result = {**_write(out, rows), **({"teacher": counts} if counts else {})}
    typer.echo(json.dumps(result) if as_json else _in_words(result))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The rows to generate."""

    domain: str
    low: int
    high: int
    """Prompt lengths in tokens, spread evenly from ``low`` to ``high``."""
    rows: int
    seed: int
    form: dict[str, Any]
    """Further arguments of the generator: kind, steps, distractors, depth, language."""


def policy_tokenizer(name: str) -> Any:
    """The tokenizer of a bundled model, a model folder or a hub id, without the weights.

    Raises:
        ValueError: the folder holds no tokenizer, or the tokenizer no chat template.
        ConnectionError: the hub does not have it, or cannot be reached.
    """
    from qwenlong_core.auto import AutoTokenizer

    if name in BUNDLED:
        return bundled_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        if Path(name).exists():
            raise ValueError(
                f"--model {name}: holds no tokenizer that transformers can load: name a model folder or a hub id"
            ) from error
        if isinstance(error, ValueError):
            raise
        raise ConnectionError(
            f"--model {name!r} is not a folder, and could not be loaded from the hub: {error}"
        ) from error
    require_chat_template(tokenizer, repr(name))
    return tokenizer


def _check_place(out: Path) -> None:
    """Check before the first row is made that the file can be written.

    Raises:
        ValueError: ``out`` is a folder.
        ArtifactError: its folder cannot be written to.
    """
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {out / 'rows.jsonl'}")
    check_writable(out.parent, "--out")


def _rows(tokenizer: Any, wanted: Wanted) -> Iterator[Example]:
    from qwenlong_core.data.synthesis.generate import domain_of_row
    from qwenlong_core.data.synthesis.generate import generate as generate_one

    for index in range(wanted.rows):
        tokens = wanted.low + round((wanted.high - wanted.low) * index / max(1, wanted.rows - 1))
        domain: Any = domain_of_row(index) if wanted.domain == MIXED else wanted.domain
        row_id = f"{domain}-{tokens}-{wanted.seed}-{index}"
        seed = f"{wanted.seed}/{index}"
        made = generate_one(tokenizer, domain=domain, tokens=tokens, seed=seed, row_id=row_id, **wanted.form)
        yield made.example
        if (index + 1) % _PROGRESS_ROWS == 0:
            logger.info("%d of %d documents", index + 1, wanted.rows)


def _distilled(
    rows: list[Example], endpoint: dict[str, Any], tokenizer: Any, seed: int
) -> tuple[list[Example], dict[str, Any]]:
    """The rows that the teacher solves, with its solutions, and counts of what became of all rows."""
    from qwenlong_core.data.distill import distill
    from qwenlong_core.data.selection import Rules
    from qwenlong_core.settings.distill import DistillSettings, TeacherSettings
    from qwenlong_core.settings.rewards import RewardSettings

    try:
        settings = DistillSettings(teacher=TeacherSettings(**endpoint))
    except ValidationError as error:
        raise ValueError(f"--teacher: {explained(error)}") from error
    rules = Rules(settings=settings, number_tolerance=RewardSettings().number_tolerance)
    found = distill(rows, rules, tokenizer, seed)
    origin = {"teacher": endpoint["model"]}
    return [row for question in found.questions for row in question.rows(origin)], found.counts.to_dict()


def _write(out: Path, rows: Iterable[Example]) -> dict[str, Any]:
    """Write row by row, so that memory stays flat, under a temporary name, so that no partial file is left."""
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    domains: Counter[str] = Counter()
    lengths: list[int] = []
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
                domains[row.domain] += 1
                lengths.append(row.num_tokens or 0)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return {
        "file": str(out),
        "rows": len(lengths),
        "domains": dict(domains),
        "tokens": sum(lengths),
        "min_tokens": min(lengths, default=0),
        "max_tokens": max(lengths, default=0),
    }


def _in_words(result: dict[str, Any]) -> str:
    domains = ", ".join(f"{name} {count}" for name, count in result["domains"].items())
    lines = [
        f"{result['file']}: {result['rows']} rows ({domains}), {result['tokens']:,} tokens, "
        f"{result['min_tokens']:,} to {result['max_tokens']:,} per prompt"
    ]
    if "teacher" in result:
        lines.append(f"teacher: {in_words(result['teacher'])}")
    return "\n".join(lines)
