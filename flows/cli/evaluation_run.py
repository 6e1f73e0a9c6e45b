"""One evaluation from the command line: settings, rows, the folder it belongs to, the run, the report."""

from __future__ import annotations

import fcntl
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.tasks.models import Model, resolve_model, resolve_tokenizer
from qwenlong.tasks.references import InStore, artifact_in, evaluation_folder
from qwenlong.tasks.store import open_store
from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.rows import write_examples
from qwenlong_core.evaluation.benchmarks import benchmark_specs, read_benchmarks
from qwenlong_core.evaluation.limits import fit_limits
from qwenlong_core.evaluation.plan import PLAN, SCORES, Plan, choose_items, make_plan
from qwenlong_core.evaluation.rescoring import rescore
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.runner import evaluate
from qwenlong_core.evaluation.statistics import Estimate
from qwenlong_core.generation.load import context_of
from qwenlong_core.jobs import EvaluateJob, ReportJob
from qwenlong_core.records import Example
from qwenlong_core.report.build import REPORT, build_page
from qwenlong_core.report.tables import gain_over
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import Manifest
from qwenlong_core.store.files import MANIFEST, digest_json

FOLDER = Path(".qwenlong/evaluations")
_PROTOCOL = tuple(
    f"evaluation.{name}={getattr(EvaluationSettings(), name)}"
    for name in ("max_prompt_tokens", "max_completion_tokens", "temperature", "top_p", "samples", "batch_size")
)
"""The paper's, in place of a profile's."""
_SCORING = {"judge": None, "number_tolerance": None}
"""What rescoring may change in a plan's protocol."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for."""

    model: str
    benchmarks: tuple[str, ...]
    data: tuple[str, ...]
    profile: str | None
    overrides: tuple[str, ...]
    out: Path | None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished evaluation and where it lies."""

    folder: Path
    name: str
    evaluation: Evaluation
    memory: Estimate | None = None
    """For a probe: what the document adds, paired, where the run with documents is there."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dict."""
        plan = self.evaluation.plan.model_dump(exclude={"items"})
        memory = {"mean": self.memory.mean, "low": self.memory.low, "high": self.memory.high} if self.memory else None
        scores = self.evaluation.scores.model_dump(mode="json")
        return {"folder": str(self.folder), "model": self.name, "plan": plan, "scores": scores, "document_adds": memory}


def say(text: str) -> None:
    """A line for the person, beside the result."""
    print(f"qwenlong: {text}", file=sys.stderr)


def run_evaluation(request: Request) -> Finished:
    """Evaluate, or go on with an evaluation; write its report.

    Raises:
        ValueError: a setting, reference or benchmark that cannot be used.
        ConnectionError: a hub, or the server that samples, cannot be reached.
        RuntimeError: too many answers are left without a verdict.
    """
    settings = evaluation_settings(request.profile, request.overrides)
    specs = benchmark_specs(request.benchmarks, request.data)
    rows = read_benchmarks(specs, settings.data.generate_eval)
    resolve = resolve_tokenizer if settings.evaluation.server else resolve_model
    model = resolve(settings, request.model)
    if request.profile is None:
        settings = _bounded(settings, model)
    job = EvaluateJob.of(settings)
    examples = choose_items(rows, settings.evaluation.limit)
    plan = make_plan(job, examples, model.folder)
    folder = request.out or default_folder(model, plan)
    say(f"{model.name}: {len(examples):,} questions of {', '.join(specs)}, {plan.samples} each, in {folder}")
    with alone_in(folder), _log():
        _write_rows(folder, examples)
        evaluate(job, plan, examples, model.folder, folder)
        return _finish(settings, folder, model.name, _memory(model, plan, folder))


def run_rescore(given: str, profile: str | None, overrides: Sequence[str], out: Path | None) -> Finished:
    """Score a finished evaluation anew into ``out``.

    Raises:
        ValueError: there is no such evaluation, or not the rows it answered.
    """
    settings = evaluation_settings(profile, overrides)
    folder = evaluation_folder(open_store(settings), given)
    if not (folder / SCORES).is_file():
        raise ValueError(
            f"--rescore {given} holds no {SCORES}, so no finished evaluation: finish it first, or name another"
        )
    out = out or FOLDER / f"{folder.resolve().name}-rescored"
    if out.exists() and any(out.iterdir()) and not (out / PLAN).is_file():
        raise ValueError(f"--out {out} holds other files: name a new folder")
    if out.resolve() == folder.resolve():
        raise ValueError(f"--out {out} is the evaluation itself: name another folder, so that its log stays as it is")
    if (out / PLAN).is_file() and not _same_answers(out, folder):
        raise ValueError(f"--out {out} holds another evaluation, whose log would be lost: name a new folder")
    data = _rows_of(settings, folder)
    with alone_in(out), _log():
        rescore(EvaluateJob.of(settings), folder, data, out)
        (out / EVAL_ROWS).unlink(missing_ok=True)
        (out / EVAL_ROWS).hardlink_to((data / EVAL_ROWS).resolve())
        return _finish(settings, out, folder.resolve().name, None)


def _same_answers(one: Path, other: Path) -> bool:
    """Whether two evaluation folders hold the same model's answers to the same rows, however they were scored."""
    plans = [Plan.model_validate_json((folder / PLAN).read_text()) for folder in (one, other)]
    first, second = (plan.model_copy(update={"protocol": {**plan.protocol, **_SCORING}}) for plan in plans)
    return first == second


def evaluation_settings(profile: str | None, overrides: Sequence[str]) -> Settings:
    """The profile's settings; without one, the paper's protocol on the settings of this machine."""
    return load_settings(profile or "local", (*(() if profile else _PROTOCOL), *overrides))


def _bounded(settings: Settings, model: Model) -> Settings:
    """The paper's limits lowered to the model's context; a limit that was set otherwise stays as it is."""
    asked, paper, context = settings.evaluation, EvaluationSettings(), context_of(model.folder)
    prompt, completion = fit_limits(
        context,
        prompt=None if asked.max_prompt_tokens == paper.max_prompt_tokens else asked.max_prompt_tokens,
        completion=None if asked.max_completion_tokens == paper.max_completion_tokens else asked.max_completion_tokens,
    )
    if (prompt, completion) != (asked.max_prompt_tokens, asked.max_completion_tokens):
        say(
            f"the context of {model.name} is {context:,} tokens: prompts up to {prompt:,} and {completion:,} new"
            f" tokens, instead of the paper's {asked.max_prompt_tokens:,} and {asked.max_completion_tokens:,}"
        )
    limits = {"max_prompt_tokens": prompt, "max_completion_tokens": completion}
    return settings.model_copy(update={"evaluation": asked.model_copy(update=limits)})


def default_folder(model: Model, plan: Plan) -> Path:
    """The folder of everything that decides the answers: model, rows, prompt, sampling and seed."""
    return FOLDER / f"{model.name}-{digest_json(plan.model_dump(mode='json'))[:12]}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no second run writes into its log.

    Raises:
        ValueError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work in {folder}: wait for it, or name another --out") from None
        yield


@contextmanager
def _log() -> Iterator[None]:
    """Progress on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("qwenlong_core")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect's handlers would say it again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _write_rows(folder: Path, examples: Sequence[Example]) -> None:
    """The rows beside the log, so that it can be scored anew without their source."""
    if not (folder / EVAL_ROWS).exists():
        staging = folder / f"{EVAL_ROWS}.tmp"
        write_examples(staging, examples)
        staging.replace(folder / EVAL_ROWS)


def _finish(settings: Settings, folder: Path, name: str, memory: Estimate | None) -> Finished:
    evaluation = read_evaluation(folder)
    job = ReportJob.of(settings, f"qwenlong: evaluation of {name}")
    staging = folder / f"{REPORT}.tmp"
    staging.write_text(build_page(job, {f"evaluate-{name}": folder, "data": folder}))
    staging.replace(folder / REPORT)
    return Finished(folder=folder, name=name, evaluation=evaluation, memory=memory)


def _memory(model: Model, plan: Plan, folder: Path) -> Estimate | None:
    """What the document adds to the answers of a probe."""
    if plan.protocol["document"] != "none":
        return None
    whole = default_folder(model, plan.model_copy(update={"protocol": plan.protocol | {"document": "whole"}}))
    if not (whole / SCORES).is_file():
        say("evaluate it without --document none too, and this says how much the documents add")
        return None
    probe = read_evaluation(folder)
    return gain_over(read_evaluation(whole), probe, probe.bootstrap)


def _rows_of(settings: Settings, folder: Path) -> Path:
    """The folder with the rows that an evaluation answered: its own, or of a pipeline's evaluation its input."""
    if (folder / EVAL_ROWS).is_file():
        return folder
    if (folder / MANIFEST).is_file():
        store, parents = open_store(settings), Manifest.model_validate_json((folder / MANIFEST).read_text()).parents
        return store.fetch(artifact_in(store, InStore("data", parents["data"])))
    raise ValueError(f"{folder} holds no {EVAL_ROWS}, the rows it answered: give the folder that `qwenlong eval` wrote")
