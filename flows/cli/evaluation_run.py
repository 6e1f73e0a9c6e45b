"""The work behind ``qwenlong eval``: settings, rows, the folder of an evaluation, the run, the report."""

from __future__ import annotations

import fcntl
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwenlong.flows.cli.common import say
from qwenlong.tasks.judge import at, served
from qwenlong.tasks.lineage import training_data
from qwenlong.tasks.models import Model, require_model_name, resolve_model, resolve_tokenizer
from qwenlong.tasks.references import evaluated_rows, evaluation_folder
from qwenlong.tasks.stage_by_hand import run_by_hand
from qwenlong.tasks.store import open_store
from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.prompts import as_asked
from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.ruler.copies import is_ruler
from qwenlong_core.data.ruler.generate import ruler_rows
from qwenlong_core.evaluation.benchmarks import benchmark_specs, benchmarks_of, known_specs, read_benchmarks
from qwenlong_core.evaluation.limits import fit_limits
from qwenlong_core.evaluation.plan import PLAN, SCORED_AS, SCORES, Plan, choose_items, make_plan
from qwenlong_core.evaluation.rescoring import rescore
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.runner import evaluate
from qwenlong_core.evaluation.statistics import Estimate
from qwenlong_core.generation.load import context_of
from qwenlong_core.jobs import EvaluateJob, ReportJob
from qwenlong_core.promotion.overlap import count_overlap, overlap_words
from qwenlong_core.records import Example
from qwenlong_core.report.build import REPORT, build_page
from qwenlong_core.report.tables import gain_over
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError
from qwenlong_core.store.files import digest_json

FOLDER = Path(".qwenlong/evaluations")
PAPER_PROTOCOL = {
    f"evaluation.{name}": getattr(EvaluationSettings(), name)
    for name in ("max_prompt_tokens", "max_completion_tokens", "temperature", "top_p", "samples", "batch_size")
} | {"data.prompt_form": "paper"}
"""The paper's values, in place of a profile's; those of ``evaluation`` are the defaults of the settings."""
_SCORING = {"judge": None, "number_tolerance": None, SCORED_AS: None}
"""What scoring again may change in a plan's protocol."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished evaluation and its folder."""

    folder: Path
    name: str
    evaluation: Evaluation
    documents_add: Estimate | None = None
    """What the documents add to the score, paired. Only known after an evaluation without documents, and only if the
    evaluation with them is there."""
    overlap: str | None = None
    """What of the model's training data overlaps with the questions; see :func:`training_overlap`."""


def run_evaluation(
    settings: Settings,
    given: str,
    benchmarks: Sequence[str],
    data: Sequence[str],
    *,
    out: Path | None,
    bounded: bool,
) -> Finished:
    """Evaluate a model, or resume its evaluation, and write the report.

    Args:
        given: a reference to the model.
        benchmarks: names, as in :func:`benchmark_specs`; without names and data those of ``data.eval``.
        data: where benchmarks are, as in :func:`benchmark_specs`.
        out: the folder to write; by default one named after everything that decides the answers.
        bounded: whether to lower the paper's limits to the model's context.

    Raises:
        ValueError: a setting, reference or benchmark that cannot be used.
        ConnectionError: a hub, or the server that generates the answers, cannot be reached.
        RuntimeError: too many answers are left without a verdict.
    """
    require_model_name(given)
    profiles, known = benchmarks_of(settings.data.eval), known_specs()
    specs = benchmark_specs(benchmarks or ([] if data else list(profiles)), data)
    specs = {name: profiles.get(name, spec) if spec == known.get(name) else spec for name, spec in specs.items()}
    reader = partial(read_benchmarks, specs, settings.data.generate_eval, settings.data.benchmarks_dir)
    found = None if any(map(is_ruler, specs.values())) else reader()  # without them, before the model is fetched
    # A server holds the weights: the tokenizer is enough to render and count the prompts.
    resolve = resolve_tokenizer if settings.evaluation.server else resolve_model
    model = resolve(settings, given)
    if bounded:
        settings = _bounded(settings, model)
    with _progress_on_stderr():
        found = found if found is not None else reader(_ruler_of(settings, model))
    rows = [as_asked(row, settings.data.prompt_form, settings.data.number_paragraphs) for row in found]
    job = EvaluateJob.of(settings)
    examples = choose_items(rows, settings.evaluation.limit)
    plan = make_plan(job, examples, model.folder)
    folder = out or _default_folder(model, plan)
    asked = f"{len(examples):,} questions of {', '.join(specs)}, answers per question: {plan.samples}"
    say(f"{model.name}: {asked}, in {folder}")
    overlap = training_overlap(settings, model, examples)
    if overlap:
        say(f"warning: {overlap}")
    with _locked(folder) as lock, _progress_on_stderr():
        _write_rows(folder, examples)
        with served(settings.evaluation.judge, settings.launch, folder / "judge.log", say) as judge:
            if settings.launch.python and not settings.evaluation.server:
                inputs, module = {"model": model.folder, "data": folder}, "qwenlong_core.evaluation.runner"
                run_by_hand(settings.launch.python, module, job, inputs, folder, lock=lock, judge=judge)
            else:
                evaluate(at(judge, job), plan, examples, model.folder, folder)
        return _finish(settings, folder, model.name, _what_documents_add(model, plan, folder), overlap)


def _ruler_of(settings: Settings, model: Model) -> Callable[[str], Iterator[Example]]:
    """What makes RULER's rows, whose lengths are counted with the model's own tokenizer."""
    from qwenlong_core.models import load_tokenizer  # imports torch, which other benchmarks need later or never

    tokenizer = load_tokenizer(model.folder)

    def rows(spec: str) -> Iterator[Example]:
        return ruler_rows(tokenizer, spec, settings.data.ruler, settings.evaluation.max_prompt_tokens)

    return rows


def training_overlap(settings: Settings, model: Model, examples: Sequence[Example]) -> str | None:
    """What of the model's training data overlaps with the rows, in words, counted as the gate counts it.

    ``None`` if nothing does, or if the model does not come from the store, so that its data is not known.
    """
    if model.artifact is None:
        return None
    store = open_store(settings)
    try:
        trained = [store.fetch(ref) for ref in training_data(store, model.artifact)]
    except ArtifactError as error:
        return f"the model's training data was not compared with these questions: {error}"
    read, found = count_overlap(examples, (), trained, settings.data.near_duplicates)
    if not found.total():
        return None
    return f"of {read:,} rows the model was trained on, {overlap_words(found)}: the score is partly memory"


def run_rescore(settings: Settings, given: str, out: Path | None) -> Finished:
    """Score a finished evaluation again, into ``out``; its log stays as it is.

    Raises:
        ValueError: there is no such evaluation, its rows are missing, or ``out`` holds something else.
    """
    store = open_store(settings)
    folder = evaluation_folder(store, given)
    if not (folder / SCORES).is_file():
        raise ValueError(
            f"--rescore {given} holds no {SCORES}, so no finished evaluation: finish it first, or name another"
        )
    out = out or FOLDER / f"{folder.resolve().name}-rescored"
    _check_out(out, folder)
    data = evaluated_rows(store, folder)
    with _locked(out), _progress_on_stderr():
        with served(settings.evaluation.judge, settings.launch, out / "judge.log", say) as judge:
            rescore(at(judge, EvaluateJob.of(settings)), folder, data, out)
        (out / EVAL_ROWS).unlink(missing_ok=True)
        (out / EVAL_ROWS).hardlink_to((data / EVAL_ROWS).resolve())
        return _finish(settings, out, folder.resolve().name, None)


def _check_out(out: Path, folder: Path) -> None:
    """Refuse to write over other files, over the evaluation itself, or over the log of another one."""
    if out.exists() and any(out.iterdir()) and not (out / PLAN).is_file():
        raise ValueError(f"--out {out} holds other files: name a new folder")
    if out.resolve() == folder.resolve():
        raise ValueError(f"--out {out} is the evaluation itself: name another folder, so that its log stays as it is")
    if (out / PLAN).is_file() and not _same_answers(out, folder):
        raise ValueError(f"--out {out} holds another evaluation, whose log would be lost: name a new folder")


def _same_answers(one: Path, other: Path) -> bool:
    """Whether two folders hold the same model's answers to the same rows, however they were scored."""
    plans = [Plan.model_validate_json((folder / PLAN).read_text()) for folder in (one, other)]
    first, second = (plan.model_copy(update={"protocol": {**plan.protocol, **_SCORING}}) for plan in plans)
    return first == second


def evaluation_settings(profile: str | None, overrides: Sequence[str], values: Mapping[str, Any]) -> Settings:
    """The profile's settings; without a profile, the paper's protocol and the local profile's other settings.

    Args:
        overrides: ``a.b=c``; they replace ``values``, which replace the profile's.
    """
    return load_settings(profile or "local", overrides, values={**({} if profile else PAPER_PROTOCOL), **values})


def _bounded(settings: Settings, model: Model) -> Settings:
    """Lower the paper's limits to the model's context; a limit that the user has set stays."""
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


def _default_folder(model: Model, plan: Plan) -> Path:
    """A folder named after everything that decides the answers: model, rows, prompt, sampling and seed."""
    return FOLDER / f"{model.name}-{digest_json(plan.model_dump(mode='json'))[:12]}"


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Lock the folder, so that no second run writes to its log; yields the lock's descriptor.

    Raises:
        ValueError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {folder}: wait for it, or name another --out") from None
        yield lock.fileno()


@contextmanager
def _progress_on_stderr() -> Iterator[None]:
    """Show the core's log lines as they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("qwenlong_core")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect's handlers would print every line again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _write_rows(folder: Path, examples: Sequence[Example]) -> None:
    """Keep the rows beside the log, so that it can be scored again without their source."""
    if not (folder / EVAL_ROWS).exists():
        staging = folder / f"{EVAL_ROWS}.tmp"
        write_examples(staging, examples)
        staging.replace(folder / EVAL_ROWS)


def _finish(
    settings: Settings, folder: Path, name: str, documents_add: Estimate | None, overlap: str | None = None
) -> Finished:
    evaluation = read_evaluation(folder)
    notes = (f"Overlap with the training data: {overlap}.",) if overlap else ()
    job = ReportJob.of(settings, f"qwenlong: evaluation of {name}", notes)
    staging = folder / f"{REPORT}.tmp"
    staging.write_text(build_page(job, {f"evaluate-{name}": folder, "data": folder}))
    staging.replace(folder / REPORT)
    return Finished(folder=folder, name=name, evaluation=evaluation, documents_add=documents_add, overlap=overlap)


def _what_documents_add(model: Model, plan: Plan, folder: Path) -> Estimate | None:
    """After an evaluation without documents: how much better the one with them was, if it is there."""
    if plan.protocol["document"] != "none":
        return None
    whole = _default_folder(model, plan.model_copy(update={"protocol": plan.protocol | {"document": "whole"}}))
    if not (whole / SCORES).is_file():
        say("run the same evaluation without `--document none` first to see how much the documents add")
        return None
    probe = read_evaluation(folder)
    return gain_over(read_evaluation(whole), probe, probe.bootstrap)
