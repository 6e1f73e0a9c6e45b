"""An evaluation as a log of inspect_ai, which ``inspect view``, its data frames and other readers of its logs open.

The format is version 2 of inspect_ai's ``EvalLog`` as JSON. An unscored answer carries no score, and an answer that the
engine never gave carries an error, so neither reads as a wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.statistics import Estimate
from qwenlong_core.records import Example

_VERSION = 2
_SCORER = "qwenlong"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_inspect_log(
    evaluation: Evaluation, rows: Mapping[str, Example], path: Path, *, name: str, documents: bool = False
) -> None:
    """Write the log, sample by sample.

    Args:
        rows: The evaluated rows by id.
        name: The model's.
        documents: Whether the input of each sample begins with its document, as it was asked.
    """
    # The time of the export: an evaluation may have been resumed over days, and its log keeps no times.
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    head = {
        "version": _VERSION,
        "status": "success",
        "eval": _spec(evaluation, name, moment),
        "plan": {"name": "plan", "steps": [], "config": _config(evaluation)},
        "results": _results(evaluation),
        "stats": {"started_at": moment, "completed_at": moment, "model_usage": {}},
    }
    with path.open("w") as stream:
        stream.write(json.dumps(head)[:-1] + ', "samples": [')
        for place, sample in enumerate(_samples(evaluation, rows, name, documents)):
            stream.write((",\n" if place else "\n") + json.dumps(sample))
        stream.write("]}\n")


def _config(evaluation: Evaluation) -> dict[str, Any]:
    protocol = evaluation.plan.protocol
    given = {name: protocol.get(name) for name in ("temperature", "top_p")} | {
        "max_tokens": protocol.get("max_completion_tokens")
    }
    return {name: value for name, value in given.items() if value is not None}


def _spec(evaluation: Evaluation, name: str, created: str) -> dict[str, Any]:
    plan = evaluation.plan
    return {
        "created": created,
        "task": _SCORER,
        "task_id": plan.dataset_digest,
        "run_id": plan.model_digest,
        "eval_id": plan.model_digest,
        "dataset": {"name": _SCORER, "samples": len(plan.items), "sample_ids": list(plan.items), "shuffled": False},
        "model": f"qwenlong/{name}",
        "model_generate_config": _config(evaluation),
        "config": {"epochs": plan.samples},
        "metadata": {"protocol": plan.protocol, "seed": plan.seed, "model_digest": plan.model_digest},
    }


def _results(evaluation: Evaluation) -> dict[str, Any]:
    overall = evaluation.scores.overall
    parts = {"accuracy": overall, **evaluation.scores.domains}
    metrics = {name: _metric(name, part.accuracy.mean) for name, part in parts.items()}
    metrics |= _interval(overall.accuracy)
    scored = sum(sample.has_verdict for sample in evaluation.samples)
    return {
        "total_samples": overall.samples,
        "completed_samples": overall.samples - overall.outcomes["error"],
        "scores": [
            {
                "name": _SCORER,
                "scorer": _SCORER,
                "scored_samples": scored,
                "unscored_samples": overall.samples - scored,
                "metrics": metrics,
            }
        ],
    }


def _interval(accuracy: Estimate) -> dict[str, Any]:
    ends = {"accuracy_low": accuracy.low, "accuracy_high": accuracy.high, "stderr": accuracy.standard_error}
    return {name: _metric(name, value) for name, value in ends.items() if value is not None}


def _metric(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "value": value}


def _samples(
    evaluation: Evaluation, rows: Mapping[str, Example], name: str, documents: bool
) -> Iterator[dict[str, Any]]:
    for sample in evaluation.samples:
        yield _sample(sample, rows[sample.example_id], name, documents)


def _sample(sample: Sample, example: Example, name: str, documents: bool) -> dict[str, Any]:
    question = _question(example, documents)
    answer = {"role": "assistant", "content": sample.completion, "source": "generate"}
    failed = sample.finish_reason == "error"
    reason = {"stop": "stop", "length": "max_tokens"}.get(sample.finish_reason, "unknown")
    output = {"model": name, "choices": [{"message": answer, "stop_reason": reason}], "completion": sample.completion}
    found: dict[str, Any] = {
        "id": sample.example_id,
        "epoch": sample.sample + 1,
        "input": question,
        "choices": list(example.choices) or None,
        "target": list(example.answers),
        "messages": [{"role": "user", "content": question, "source": "input"}, *([] if failed else [answer])],
        "output": {"model": name, "choices": []} if failed else output,
        "scores": {_SCORER: _score(sample)} if sample.has_verdict else {},
        "metadata": _metadata(sample, example),
        "total_time": sample.seconds,
    }
    if failed:
        found["error"] = {"message": sample.score.reason, "traceback": "", "traceback_ansi": ""}
    return found


def _question(example: Example, documents: bool) -> str:
    options = [f"({letter}) {text}" for letter, text in zip(_LETTERS, example.choices)]
    return "\n".join([*([example.context, ""] if documents else []), example.question, *options])


def _score(sample: Sample) -> dict[str, Any]:
    return {
        "value": sample.accuracy,
        "answer": sample.score.extracted,
        "explanation": sample.score.reason,
        "metadata": {"rule": sample.score.rule, "judge": sample.score.judge, **sample.metrics},
    }


def _metadata(sample: Sample, example: Example) -> dict[str, Any]:
    return {
        "source": sample.source, "domain": sample.domain, "document_id": sample.document_id, "kind": sample.kind,
        "parts": list(sample.parts), "answer_type": example.answer_type, "outcome": sample.outcome,
        "prompt_tokens": sample.prompt_tokens, "lost_tokens": sample.lost_tokens,
        "completion_tokens": sample.num_tokens, "depth": sample.depth,
    }  # fmt: skip
