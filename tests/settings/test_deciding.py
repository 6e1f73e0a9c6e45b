"""What of a job counts for its stage's fingerprint: every setting that is not marked as incidental."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from qwenlong_core import jobs
from qwenlong_core.settings.base import Block, Incidental
from qwenlong_core.store.fingerprint import fingerprint

JOBS = [job for name, job in vars(jobs).items() if name.endswith("Job")]
MARK = get_args(Incidental[int])[1]
Path = tuple[str, ...]

INCIDENTAL = {
    "launch.python",
    "sft.save_steps",
    "launch.timeout_minutes",
    "launch.across",
    "grpo.save_steps",
    "phase.evaluate",
    "phases.evaluate",
    "planned_seconds",
    "planned_gib",
    "taken_up",
    "lost_minutes",
    "distill.answers_dir",
    *(
        f"distill.teacher.{name}"
        for name in (
            "concurrency",
            "timeout_seconds",
            "max_retries",
            "price_per_million_prompt_tokens",
            "price_per_million_completion_tokens",
        )
    ),
    "evaluation.server.concurrency",
    "evaluation.server.timeout_seconds",
    "evaluation.server.max_retries",
    *(
        f"{owner}.judge.{name}"
        for owner in ("rewards", "evaluation")
        for name in (
            "base_url",
            "serve",
            "concurrency",
            "timeout_seconds",
            "max_retries",
            "cache_dir",
            "price_per_million_prompt_tokens",
            "price_per_million_completion_tokens",
        )
    ),
}
"""Looked at one by one: none of them can change a result."""


def parts(annotation: Any) -> tuple[Any, ...]:
    """The types inside an optional, a union or an annotated type, without ``None``."""
    if get_origin(annotation) is Annotated:
        return parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for arg in get_args(annotation) if arg is not type(None) for part in parts(arg))
    return (annotation,)


def block_of(field: FieldInfo) -> type[Block] | None:
    """The settings block that a field holds, alone or in a tuple."""
    kind = parts(field.annotation)[0]
    if get_origin(kind) is tuple:
        kind = parts(get_args(kind)[0])[0]
    return kind if isinstance(kind, type) and issubclass(kind, Block) else None


def leaves(block: type[Block]) -> Iterator[tuple[Path, bool]]:
    """Every setting of a block at any depth, and whether it is marked."""
    for name, field in block.model_fields.items():
        marked = MARK in field.metadata
        inner = block_of(field)
        if inner is None or marked:
            yield (name,), marked
        else:
            yield from (((name, *path), mark) for path, mark in leaves(inner))


def value(annotation: Any, changed: Path | None) -> Any:
    """A value of the type; with ``changed`` another one, or one that differs at that path. A block differs when it is
    left out."""
    kind, other = parts(annotation)[0], changed is not None
    if isinstance(kind, type) and issubclass(kind, Block):
        return None if changed == () else filled(kind, changed or ())
    if get_origin(kind) is tuple:
        return (value(get_args(kind)[0], changed),)
    if get_origin(kind) is dict:
        return {"key": value(get_args(kind)[1], changed)}
    if get_origin(kind) is Literal:
        return get_args(kind)[int(other)]
    return {bool: other, int: 1 + other, float: 1.5 + other, str: f"text{int(other)}", JsonValue: other}[kind]


def filled(block: type[Block], changed: Path = ()) -> Block:
    """A block with a value in every field, not validated; the one at the path ``changed`` differs."""
    return block.model_construct(
        **{
            name: value(field.annotation, changed[1:] if changed[:1] == (name,) else None)
            for name, field in block.model_fields.items()
        }
    )


def key(job: Block) -> str:
    return fingerprint("stage", job.deciding(), {}, "code")


@pytest.mark.parametrize("job", JOBS)
def test_exactly_the_unmarked_settings_change_the_fingerprint(job: type[Block]) -> None:
    for path, incidental in leaves(job):
        changed = filled(job, path)
        assert changed != filled(job)
        assert (key(changed) == key(filled(job))) == incidental, ".".join(path)


def test_the_marked_settings_are_these() -> None:
    assert {".".join(path) for job in JOBS for path, incidental in leaves(job) if incidental} == INCIDENTAL


def test_a_name_marks_nothing() -> None:
    """A new setting counts until it is marked, whatever it is called."""

    class Server(Block):
        timeout_seconds: float = 1.0
        save_steps: Incidental[int] = 1

    class Job(Block):
        servers: tuple[Server, ...] = (Server(),)
        by_name: dict[str, Server]

    assert Job(by_name={"a": Server()}).deciding() == {
        "servers": [{"timeout_seconds": 1.0}],
        "by_name": {"a": {"timeout_seconds": 1.0}},
    }
