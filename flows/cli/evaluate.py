"""``qwenlong eval``: a model on benchmarks, under the paper's protocol, into a folder that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder, hub id, smollm2-135m, artifact (model/DIGEST) or models:/qwenlong@champion.", metavar="REF"
        ),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="all (the paper's seven) or names, comma between; the generated set if left out.", metavar="A,B"
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per question; 1 if left out.")] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm or openai (needs --server).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per benchmark, always the same ones.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH_OR_ID", help="Where a benchmark is; NAME=SOURCE:PATH in another source's format."
        ),
    ] = None,
    document: Annotated[
        str | None, typer.Option(help="none: ask without documents, and say how much of the score is memory.")
    ] = None,
    rescore: Annotated[
        str | None, typer.Option(metavar="LOGDIR", help="Score a finished evaluation anew from its log, with no model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; one of its own under .qwenlong/evaluations if left out.")
    ] = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Base URL of an OpenAI-compatible server.")] = None,
    server_model: Annotated[
        str | None, typer.Option(help="Name under which it serves the model; REF if left out.")
    ] = None,
    server_key_variable: Annotated[str | None, typer.Option(help="Environment variable with the server's key.")] = None,
    judge: Annotated[str | None, typer.Option(metavar="URL", help="Base URL of an OpenAI-compatible judge.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model that the judge's endpoint serves.")] = None,
    judge_key_variable: Annotated[str | None, typer.Option(help="Environment variable with the judge's key.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile whose evaluation settings count; the paper's if left out.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. evaluation.temperature=0."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")] = False,
) -> None:
    """Evaluate a model: every benchmark with intervals, its own metrics, by length and by depth of the evidence.

    Writes plan.json, samples.jsonl, scores.json, eval.parquet and report.html. Killed, the same command goes on
    there; finished, it does nothing. Without --profile the protocol is the paper's: 120,000 prompt tokens, 10,000 new
    ones, temperature 0.7, top-p 0.95, bounded by the model's context.
    """
    from qwenlong.flows.cli.main import one_clear_message  # the command line imports this module

    given = [
        *_settings("evaluation", {"samples": samples, "engine": engine, "limit": limit, "document": document}),
        *server_overrides(server, server_model, server_key_variable, model),
        *_judge(judge, judge_model, judge_key_variable),
        *(overrides or ()),
    ]
    with one_clear_message(resumes=True):
        from qwenlong.flows.cli.evaluation_run import Finished, Request, run_evaluation, run_rescore
        from qwenlong.flows.cli.evaluation_tables import print_finished

        sampled = {
            "--benchmarks": benchmarks,
            "--data": data,
            "--document": document,
            "--engine": engine,
            "--samples": samples,
            "--limit": limit,
            "--server": server,
        }
        _check(model, rescore, sampled)
        finished: Finished
        if rescore is not None:
            finished = run_rescore(rescore, profile, given, out)
        else:
            assert model is not None
            names = tuple(filter(None, (name.strip() for name in (benchmarks or "").split(","))))
            finished = run_evaluation(
                Request(
                    model=model,
                    benchmarks=names,
                    data=tuple(data or ()),
                    profile=profile,
                    overrides=tuple(given),
                    out=out,
                )
            )
    if as_json:
        typer.echo(json.dumps(finished.to_dict(), ensure_ascii=False))
    else:
        print_finished(finished)


def _settings(block: str, values: dict[str, Any]) -> list[str]:
    """Overrides of the settings that were given; texts in quotes, since a bare ``none`` means no value."""
    return [f"{block}.{name}={json.dumps(value)}" for name, value in values.items() if value is not None]


def server_overrides(url: str | None, served: str | None, key_variable: str | None, model: str | None) -> list[str]:
    """Overrides that put a server in the engine's place."""
    if url is None:
        if served or key_variable:
            raise typer.BadParameter("--server-model and --server-key-variable need --server")
        return []
    server = {"base_url": url, "model": served or model, "api_key_variable": key_variable}
    return ["evaluation.engine=openai", *_settings("evaluation.server", server)]


def _judge(url: str | None, model: str | None, key_variable: str | None) -> list[str]:
    if (url is None) != (model is None) or (key_variable and url is None):
        raise typer.BadParameter("--judge and --judge-model go together, and --judge-key-variable with them")
    return _settings("evaluation.judge", {"base_url": url, "model": model, "api_key_variable": key_variable})


def _check(model: str | None, rescore: str | None, sampled: dict[str, Any]) -> None:
    if sampled["--server"] and sampled["--engine"] not in (None, "openai"):
        raise ValueError(f"--server answers in place of --engine {sampled['--engine']}: leave one of them out")
    if rescore is None and model is None:
        raise ValueError("give --model REF to evaluate, or --rescore LOGDIR to score a finished evaluation anew")
    if rescore is not None:
        idle = [name for name, value in {"--model": model, **sampled}.items() if value]
        if idle:
            raise ValueError(f"--rescore asks no model, so {', '.join(idle)} would do nothing: leave it out")
