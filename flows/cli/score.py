"""``qwenlong score``: completions in, scores with reasons out, as JSONL."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits
from qwenlong_core.rewards.stream import score_stream
from qwenlong_core.settings.profiles import explained
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

logger = logging.getLogger(__name__)


def score(
    file: Annotated[Path | None, typer.Argument(help="JSONL to read; standard input if left out or '-'.")] = None,
    judge: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible judge.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model that the judge's endpoint serves.")] = None,
    judge_key_variable: Annotated[str | None, typer.Option(help="Environment variable with the judge's key.")] = None,
    judge_concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 64,
    judge_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 60.0,
    judge_cache: Annotated[Path | None, typer.Option(help="Folder that keeps verdicts.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="L_max in tokens; needs --cache-length.")] = None,
    cache_length: Annotated[int | None, typer.Option(min=1, help="L_cache in tokens; needs --max-length.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Relative tolerance of numbers.")
    ] = RewardSettings().number_tolerance,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores if left out.")] = None,
) -> None:
    """Score completions: JSONL in, JSONL out in the same order.

    A line is {"id", "answer_type": number|choice|span|yes_no|unanswerable, "answers": [...],
    "choices"?: [...], "completion": "..."}, and optionally "question", "answer_scale",
    "completion_tokens" and "finish_reason". Exit code 1 if a line was bad or was left unscored
    because the judge gave no verdict; all other lines are scored all the same.
    """
    limits = _limits(max_length, cache_length)
    client = _judge(judge, judge_model, judge_key_variable, judge_concurrency, judge_timeout, judge_cache)
    if file is not None and str(file) != "-" and not file.is_file():
        raise typer.BadParameter(f"{file} is no file", param_hint="FILE")
    opened = nullcontext(sys.stdin.buffer) if file is None or str(file) == "-" else file.open("rb")
    statuses: Counter[str] = Counter()
    with opened as source:
        for row in score_stream(source, tolerance, limits, client, workers):
            statuses[row["status"]] += 1
            sys.stdout.buffer.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()
    typer.echo(", ".join(f"{status} {count:,}" for status, count in statuses.most_common()) or "no lines", err=True)
    if client is not None:
        logger.info("judge: %s", client.counts)
    if statuses["error"] or statuses["unscored"]:
        raise typer.Exit(1)


def _limits(max_length: int | None, cache_length: int | None) -> LengthLimits | None:
    if (max_length is None) != (cache_length is None):
        raise typer.BadParameter("--max-length and --cache-length go together")
    if max_length is None or cache_length is None:
        return None
    try:
        return LengthLimits(max_tokens=max_length, cache_tokens=cache_length)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _judge(
    url: str | None,
    model: str | None,
    key_variable: str | None,
    concurrency: int,
    timeout: float,
    cache: Path | None,
) -> Judge | None:
    if (url is None) != (model is None):
        raise typer.BadParameter("--judge and --judge-model go together")
    if url is None or model is None:
        return None
    try:
        settings = JudgeSettings(
            base_url=url,
            model=model,
            api_key_variable=key_variable,
            concurrency=concurrency,
            timeout_seconds=timeout,
            cache_dir=str(cache) if cache else None,
        )
        return Judge(settings)
    except ValidationError as error:
        raise typer.BadParameter(explained(error), param_hint="--judge") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--judge-key-variable") from error
    except OSError as error:
        raise typer.BadParameter(
            f"{cache} cannot be written ({error.strerror}): name another folder", param_hint="--judge-cache"
        ) from error


if __name__ == "__main__":
    typer.run(score)
