"""``qwenlong eval``: a model on benchmarks, by the paper's protocol, in a folder that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.flows.cli.common import (
    SERVER_OPTIONS,
    Json,
    JudgeKeyVariable,
    JudgeModel,
    JudgeUrl,
    OptionalModelRef,
    Overrides,
    Server,
    ServerKeyVariable,
    ServerModel,
    check_engine,
    given_values,
    judge_values,
    one_clear_message,
    server_values,
)

if TYPE_CHECKING:
    from qwenlong.flows.cli.evaluation_run import Finished

_OPTIONS = SERVER_OPTIONS | {
    "evaluation.chunk": "--chunk",
    "evaluation.document": "--document",
    "evaluation.reader": "--reader",
    "evaluation.limit": "--limit",
    "evaluation.protocol": "--protocol",
    "evaluation.samples": "--samples",
    "judge.api_key_variable": "--judge-key-variable",
}


Benchmarks = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Names with commas, or paper (its seven), long or all; default: generated."),
]
Samples = Annotated[int | None, typer.Option(min=1, help="Answers per question; by default 1.")]
Engine = Annotated[str | None, typer.Option(help="transformers, vllm or openai (needs --server).")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Questions per benchmark, the same ones every time; by default all.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH_OR_ID",
        help="Where a benchmark is; NAME=SOURCE:PATH for a file in another source's format. Repeatable.",
    ),
]
Document = Annotated[
    str | None, typer.Option(help="none: ask without the documents, to measure how much of the score is memory.")
]
Protocol = Annotated[
    str | None, typer.Option(help="qwenlong-l1: score the same answers as QwenLong-L1's scripts do too, side by side.")
]
Reader = Annotated[
    str | None, typer.Option(help="memory: read documents past the context in parts, with running notes.")
]
Chunk = Annotated[int | None, typer.Option(min=64, help="Tokens of a part, with --reader memory; by default 32768.")]
Rescore = Annotated[str | None, typer.Option(metavar="LOGDIR", help="Score a finished evaluation again from its log.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write; by default a new one in .qwenlong/evaluations.")]
PaperOrProfile = Annotated[
    str | None, typer.Option(help="Profile that supplies the evaluation settings; by default the paper's protocol.")
]


def evaluate(
    model: OptionalModelRef = None,
    benchmarks: Benchmarks = None,
    samples: Samples = None,
    engine: Engine = None,
    limit: Limit = None,
    data: Data = None,
    document: Document = None,
    protocol: Protocol = None,
    reader: Reader = None,
    chunk: Chunk = None,
    rescore: Rescore = None,
    out: Out = None,
    server: Server = None,
    server_model: ServerModel = None,
    server_key_variable: ServerKeyVariable = None,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key_variable: JudgeKeyVariable = None,
    profile: PaperOrProfile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model: scores with intervals for each benchmark, by prompt length and by depth of the evidence.

    Writes plan.json, samples.jsonl, cases.jsonl (two case studies, in no score), scores.json, eval.parquet and
    report.html. Run the same command again to resume an interrupted evaluation; a finished one is left as it is.
    Without --profile the protocol is the paper's (120,000 prompt tokens, 10,000 new tokens, temperature 0.7, top-p
    0.95), within the model's context.
    """
    asked = {"samples": samples, "engine": engine, "limit": limit, "document": document}
    asked |= {"reader": reader, "chunk": chunk}
    values = {
        **given_values("evaluation", asked | {"protocol": protocol}),
        **server_values(server, server_model, server_key_variable, model),
        **judge_values(judge, judge_model, judge_key_variable),
    }
    sampled: dict[str, Any] = {"--model": model, "--benchmarks": benchmarks, "--data": data, "--server": server}
    sampled |= {f"--{name}": value for name, value in asked.items()}
    with one_clear_message(resumes=True, options=_OPTIONS):
        from qwenlong.flows.cli.evaluation_run import evaluation_settings, run_evaluation, run_rescore
        from qwenlong.flows.cli.evaluation_tables import print_finished

        check_engine(server, engine)
        if rescore is not None:
            _check_no_model_is_needed(sampled)
            finished = run_rescore(evaluation_settings(profile, overrides or (), values), rescore, out)
        elif model is None:
            raise ValueError("give --model REF to evaluate a model, or --rescore LOGDIR to score an evaluation again")
        else:
            settings = evaluation_settings(profile, overrides or (), values)
            names = [name.strip() for name in (benchmarks or "").split(",") if name.strip()]
            finished = run_evaluation(settings, model, names, data or [], out=out, bounded=profile is None)
    if as_json:
        typer.echo(json.dumps(_to_dict(finished), ensure_ascii=False))
    else:
        print_finished(finished)


def _check_no_model_is_needed(sampled: dict[str, Any]) -> None:
    """Refuse options that do nothing when a log is scored again."""
    idle = [name for name, value in sampled.items() if value]
    if idle:
        raise ValueError(f"--rescore asks no model, so {', '.join(idle)} would do nothing: leave it out")


def _to_dict(finished: Finished) -> dict[str, Any]:
    from qwenlong_core.report.cases import case_rows

    added = finished.documents_add
    return {
        "folder": str(finished.folder),
        "model": finished.name,
        "plan": finished.evaluation.plan.model_dump(exclude={"items"}),
        "scores": finished.evaluation.scores.model_dump(mode="json"),
        "cases": case_rows({finished.name: finished.folder}),
        "document_adds": {"mean": added.mean, "low": added.low, "high": added.high} if added else None,
        "training_overlap": finished.overlap,
    }
