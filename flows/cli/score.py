"""``qwenlong score``: JSONL of completions in, JSONL of scores with their reasons out."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from qwenlong.flows.cli.common import JudgeKeyVariable, JudgeModel, JudgeUrl, check_judge
from qwenlong_core.settings.profiles import explained
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

if TYPE_CHECKING:
    from qwenlong_core.rewards.judge import Judge
    from qwenlong_core.rewards.length import LengthLimits

logger = logging.getLogger(__name__)


def score(
    file: Annotated[Path | None, typer.Argument(help="JSONL to read; by default, or as '-', standard input.")] = None,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key_variable: JudgeKeyVariable = None,
    judge_concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at a time; by default 64.")] = None,
    judge_timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds for one request; by default 60.")
    ] = None,
    judge_cache: Annotated[Path | None, typer.Option(help="Folder that keeps verdicts.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="L_max in tokens; needs --cache-length.")] = None,
    cache_length: Annotated[int | None, typer.Option(min=1, help="L_cache in tokens; needs --max-length.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Relative tolerance of numbers.")
    ] = RewardSettings().number_tolerance,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
) -> None:
    """Score completions: JSONL in, JSONL out in the same order.

    A line is {"id", "answers": [...], "completion": "..."}, and optionally "choices",
    "answer_type": number|choice|span|yes_no|unanswerable, "domain", "question", "answer_scale",
    "completion_tokens" and "finish_reason". A missing answer type is inferred as for data: from
    the choices, the golds and the domain. Answer types of other distributions are known too.
    Exit code 1 if a line was bad, or was left unscored because the judge gave no verdict; all
    other lines are scored anyway.
    """
    from qwenlong_core.rewards.stream import score_stream

    check_judge(judge, judge_model, judge_key_variable)
    limits = _limits(max_length, cache_length)
    endpoint = {
        "base_url": judge,
        "model": judge_model,
        "api_key_variable": judge_key_variable,
        "concurrency": judge_concurrency,
        "timeout_seconds": judge_timeout,
        "cache_dir": str(judge_cache) if judge_cache else None,
    }
    client = _judge({name: value for name, value in endpoint.items() if value is not None}) if judge else None
    if file is not None and str(file) != "-" and not file.is_file():
        raise typer.BadParameter(f"{file} is no file", param_hint="FILE")
    opened = nullcontext(sys.stdin.buffer) if file is None or str(file) == "-" else file.open("rb")
    statuses: Counter[str] = Counter()
    with opened as source:
        for row in score_stream(source, tolerance, limits, client, workers):
            statuses[row["status"]] += 1
            # A completion may hold half a surrogate pair, which UTF-8 cannot encode: it is written as an escape.
            sys.stdout.buffer.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()
    typer.echo(", ".join(f"{status} {count:,}" for status, count in statuses.most_common()) or "no lines", err=True)
    if client is not None:
        logger.info("judge: %s", client.counts)
    if statuses["error"] or statuses["unscored"]:
        raise typer.Exit(1)


def _limits(max_length: int | None, cache_length: int | None) -> LengthLimits | None:
    from qwenlong_core.rewards.length import LengthLimits

    if (max_length is None) != (cache_length is None):
        raise typer.BadParameter("--max-length and --cache-length go together")
    if max_length is None or cache_length is None:
        return None
    try:
        return LengthLimits(max_tokens=max_length, cache_tokens=cache_length)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _judge(endpoint: dict[str, Any]) -> Judge:
    from qwenlong_core.rewards.judge import Judge

    try:
        return Judge(JudgeSettings(**endpoint))
    except ValidationError as error:
        raise typer.BadParameter(explained(error), param_hint="--judge") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--judge-key-variable") from error
    except OSError as error:
        raise typer.BadParameter(
            f"{endpoint['cache_dir']} cannot be written ({error.strerror}): name another folder",
            param_hint="--judge-cache",
        ) from error
