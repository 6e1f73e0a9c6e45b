"""One pipeline run: its checks beforehand, which stages are cached, forced or taken over, and their results."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import MarkdownArtifact, create_markdown_artifact

from qwenlong.flows.addresses import require_answers
from qwenlong.flows.door import require_attention, require_database, require_rows_of_others
from qwenlong.flows.meeting_places import require_shared
from qwenlong.tasks.events import StageEvent, tell
from qwenlong.tasks.interruptions import taken_up
from qwenlong.tasks.judge import ASKING, judge_asked_by, obstacle
from qwenlong.tasks.launch import missing_launcher
from qwenlong.tasks.notice import send
from qwenlong.tasks.specs import StageSpec, distill_stage, family_of, prepare_stage, stage_names
from qwenlong.tasks.stage import RunContext, StageOutcome, TakenUp, stage_fingerprint
from qwenlong.tasks.stage_task import run_stage
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.champion import apply_decision
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.mirrors import require_mirrors
from qwenlong.tasks.tracking.registry import RegisteredVersion
from qwenlong_core.base_tokenizer import base_tokenizer, chat_template_file
from qwenlong_core.bundled import BUNDLED, bundled_file
from qwenlong_core.endpoint import api_key
from qwenlong_core.generation.vllm_check import require_engine
from qwenlong_core.interpreter import installed_in
from qwenlong_core.model_files import require_model_files
from qwenlong_core.plan.check import require_fit
from qwenlong_core.plan.shapes import NoPlan
from qwenlong_core.plugged import require_plugged
from qwenlong_core.promotion.decision import DECISION_TEXT, read_decision
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import own_or_shipped
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, now
from qwenlong_core.store.protocol import StageRecord, check_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a stage in this run."""

    name: str
    ref: ArtifactRef
    how: str
    """``ran``, ``cached`` (its fingerprint was known) or ``kept`` (taken over from an earlier run, unchecked)."""
    seconds: float = 0.0
    forced: bool = False
    mlflow_run_id: str | None = None


def new_run_id() -> str:
    """A readable, sortable, unique id."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def preflight(settings: Settings, refresh: str | None = None, start: str | None = None) -> None:
    """Check before anything runs what can be known to fail.

    Raises:
        ValueError: an unknown stage name, a distribution that adds what cannot be used, a data path that matches
            nothing, a teacher's key that is not set, a store, MLflow or Prefect that a pool's workers do not reach, an
            interpreter that cannot run stages, an attention that it does not have, a launcher that is not installed, a
            judge that cannot be served, a file that is no tracking database, data among the pipeline's own files, a
            model that is not there or damaged, one without chat template or without the switch that
            ``model.enable_thinking`` sets, or one whose rows ``launch.sequence_parallel`` processes cannot share.
        FileNotFoundError: the package with the bundled weights is not installed.
        ArtifactError: the artifact store cannot be written.
    """
    names = stage_names(settings)
    if refresh is not None and refresh not in {*names, *map(family_of, names)}:
        raise ValueError(f"no stage {refresh!r} to refresh: this profile has {', '.join(names)}")
    if start is not None and start not in names:
        raise ValueError(f"no stage {start!r} to start at: this profile has {', '.join(names)}")
    require_shared(settings)
    require_plugged()
    prepare_stage(settings)  # finds the data files
    require_rows_of_others(settings)
    if settings.sft_rows == "questions":
        distill_stage(settings)  # finds the files of traces
    if settings.model.name in BUNDLED:
        bundled_file()  # finds the package with the weights
    if settings.model.chat_template is not None:
        chat_template_file(settings.model.chat_template)
    if Path(settings.model.name).is_dir() and settings.model.name not in BUNDLED:
        require_model_files(Path(settings.model.name))
    if Path(settings.model.name).is_dir() or (
        settings.model.enable_thinking is not None and settings.model.name in BUNDLED
    ):
        # Refuses a model without chat template or without its switch for thinking; of a hub id the stage base does.
        base_tokenizer(settings.model)
    require_database(settings)
    require_mirrors(settings)
    _check_launch(settings)
    _check_plan(settings)
    if settings.launch.sequence_parallel > 1:
        from qwenlong_core.training.logprobs.base_check import require_cuttable_base  # loads torch

        require_cuttable_base(settings, fetch=False)  # a config that the plan could not fetch, the stages see
    for name in ("work_dir", "runs_dir"):
        check_writable(Path(getattr(settings.storage, name)), f"storage.{name}")
    check_writable(Path(settings.plan.folder), "plan.folder")
    open_store(settings).check()


def _check_plan(settings: Settings) -> None:
    """Refuse a profile that cannot fit its machine; a model that no plan covers runs unchecked, and the log says so."""
    try:
        require_fit(settings)
    except (NoPlan, ConnectionError) as error:
        logger.warning("not planned: %s", error)


def _check_launch(settings: Settings) -> None:
    """Check the interpreter, engines, launch file and keys that stages on this machine will need."""
    config = settings.launch.accelerate_config
    if config and not own_or_shipped(config).is_file():
        raise ValueError(f"launch.accelerate_config={config!r}: no such file: take one of infra/accelerate, or none")
    packages = installed_in(settings.launch.python).packages
    trained_here = {"sft", "grpo"} - set(settings.execution.deployments)
    if trained_here and (lacking := missing_launcher(settings.launch)):
        raise ValueError(lacking)
    if trained_here:
        require_attention(settings)
    here = {"grpo", "evaluate"} - set(settings.execution.deployments)
    teacher = settings.distill.teacher if settings.distill else None
    if teacher is not None and "distill" not in settings.execution.deployments:
        api_key(teacher.api_key_variable, "distill.teacher.api_key_variable")
    for stage in sorted(here):
        judge = judge_asked_by(stage, settings)
        require_engine(stage, settings, packages)
        if judge is not None and judge.api_key_variable and not os.environ.get(judge.api_key_variable):
            raise ValueError(
                f"stage {stage}: the judge's key is missing: set the environment variable {judge.api_key_variable}"
            )
        if trouble := obstacle(ASKING[stage], settings):
            raise ValueError(trouble)


@dataclass
class PipelineRun:
    """Runs stages in order and remembers their results."""

    settings: Settings
    context: RunContext
    refresh: str | None = None
    """Stage or family that is run again, with everything that depends on it."""
    start: str | None = None
    """Stages before this one are taken over from an earlier run, whatever has changed since."""
    results: dict[str, StageResult] = field(default_factory=dict)
    servers_tried: bool = False
    at: str | None = None
    """The stage whose turn it is."""

    def __post_init__(self) -> None:
        require_shared(self.settings)

    def stage(self, spec: StageSpec, inputs: Mapping[str, StageResult]) -> StageResult:
        """The result of a stage: taken over, cached, or made now."""
        refs = {name: result.ref for name, result in inputs.items()}
        return self.stage_from_refs(spec, refs, forced=any(result.forced for result in inputs.values()))

    def stage_from_refs(self, spec: StageSpec, refs: dict[str, ArtifactRef], *, forced: bool = False) -> StageResult:
        """:meth:`stage` for inputs given as references to artifacts."""
        forced = forced or self._is_refreshed(spec.name)
        tell(StageEvent(stage=spec.name, what="started"))
        result = self._taken_over(spec) or self._cached_or_made(spec, refs, forced)
        tell(StageEvent(stage=spec.name, what="ended", how=result.how))
        self.results[spec.name] = result
        logger = get_run_logger()
        names = dict.fromkeys((*stage_names(self.settings), *self.results))
        position = f"{list(names).index(spec.name) + 1}/{len(names)}"
        logger.info("stage %s %s: %s, artifact %s", position, spec.name, _in_words(result), result.ref.short)
        return result

    def stage_again(self, spec: StageSpec, inputs: Mapping[str, StageResult]) -> StageResult:
        """Run a stage again whose cached result is void, such as a registration in a registry that was wiped."""
        refs = {name: result.ref for name, result in inputs.items()}
        self.results[spec.name] = self._cached_or_made(spec, refs, forced=True)
        return self.results[spec.name]

    def _is_refreshed(self, name: str) -> bool:
        return self.refresh is not None and self.refresh in (name, family_of(name))

    def _taken_over(self, spec: StageSpec) -> StageResult | None:
        order = stage_names(self.settings)
        if self.start is None or spec.name not in order or order.index(spec.name) >= order.index(self.start):
            return None
        record = open_store(self.settings).latest(spec.name, self.settings.profile)
        if record is None:
            raise ArtifactError(
                f"cannot start at {self.start!r}: there is no finished {spec.name!r} of profile "
                f"{self.settings.profile!r} to build on; run the pipeline from its beginning once"
            )
        return StageResult(name=spec.name, ref=record.ref, how="kept", mlflow_run_id=record.mlflow_run_id)

    def _cached_or_made(self, spec: StageSpec, refs: dict[str, ArtifactRef], forced: bool) -> StageResult:
        execution = self.settings.execution
        known = open_store(self.settings).lookup(spec.cached_as, stage_fingerprint(spec, refs))
        if forced or known is None:
            self._try_servers(spec)
        task = run_stage.with_options(
            name=spec.name,
            task_run_name=spec.name,
            # Prefect caches a reference to the artifact; only the store knows whether the artifact is still there.
            refresh_cache=forced or known is None,
            retries=execution.retries,
            retry_delay_seconds=execution.retry_delay_seconds,
        )
        state = task(spec, refs, self.context, forced, return_state=True)
        outcome = StageOutcome.model_validate(state.result())
        hit = state.name == "Cached" or outcome.how == "adopted"
        if hit and known is not None:
            self._remember(spec, known)
        # Under the same key Prefect may remember the artifact of another store, or of one that was wiped since.
        made = known if state.name == "Cached" and known is not None else outcome
        result = StageResult(
            name=spec.name,
            ref=made.ref,
            how="cached" if hit else "ran",
            seconds=0.0 if hit else outcome.seconds,
            forced=forced,
            mlflow_run_id=made.mlflow_run_id,
        )
        again = taken_up(self.context).get(spec.name)
        _show_in_prefect(result, self._in_mlflow(result), state.state_details.task_run_id, again)
        return result

    def _in_mlflow(self, result: StageResult) -> str:
        """A link to the stage's run. Each profile may have a database of its own, and a server has one of them."""
        tracking = self.settings.tracking
        page = Tracker(tracking).page(result.mlflow_run_id)
        if page is None:
            return "none"
        return f"[{result.name}]({page})" + ("" if tracking.uri.startswith("http") else f", in `{tracking.uri}`")

    def _try_servers(self, spec: StageSpec) -> None:
        """Before the first stage of the pipeline that is made: try the servers that it and later ones will ask."""
        names = stage_names(self.settings)
        if not self.servers_tried and spec.name in names:
            self.servers_tried = True
            require_answers(self.settings, {family_of(name) for name in names[names.index(spec.name) :]})

    def cached_tags(self) -> dict[str, str]:
        """Tags of the pipeline's MLflow run: the stages that were cached, and their artifacts."""
        return {f"cached.{name}": result.ref.sha256 for name, result in self.results.items() if result.how == "cached"}

    def _remember(self, spec: StageSpec, known: StageRecord) -> None:
        """Record a cache hit as the profile's newest result of the stage, which later runs and the nights start on."""
        now_current = {"stage": spec.name, "profile": self.settings.profile, "created_at": now()}
        open_store(self.settings).record(known.model_copy(update=now_current))

    def folder(self, result: StageResult) -> Path:
        """The files of a result, each checked against its digest."""
        return open_store(self.settings).fetch(result.ref)

    def carry_out(self, decision: StageResult, version: RegisteredVersion, baseline: RegisteredVersion | None) -> str:
        """Apply the promote stage's decision to the registry; returns what was done, in words."""
        runs = f"pipeline {self.context.run_id}, MLflow run {decision.mlflow_run_id}, decision {decision.ref.short}"
        folder = self.folder(decision)
        _show_decision(folder)
        fresh = decision.how == "ran"
        store, tracking = open_store(self.settings), self.settings.tracking
        said = apply_decision(tracking, store, version, baseline, folder, fresh=fresh, runs=runs)
        if fresh:
            send(self.settings.notify.to, f"qwenlong: {read_decision(folder)['verdict']}", f"{said}\n\n{runs}")
        return said


def _in_words(result: StageResult) -> str:
    if result.how == "ran":
        return f"done in {result.seconds:.0f} s"
    return "cached" if result.how == "cached" else "kept as it is"


def _show_in_prefect(result: StageResult, page: str, task_run_id: UUID | None, again: TakenUp | None) -> None:
    """Show a stage's artifact on the Prefect pages of its task run and of the flow run.

    It is made here and not by the task, whose code does not run for a cached stage.
    """
    ref = result.ref
    cost = f"- taken up again: {again.times}x, {again.lost_minutes:.1f} minutes of work lost\n" if again else ""
    MarkdownArtifact(
        key=f"stage-{result.name}",
        description=f"{result.name}: {_in_words(result)}",
        markdown=(
            f"- artifact: `{ref.kind}/{ref.short}`\n- SHA-256: `{ref.sha256}`\n- in MLflow: {page}\n"
            f"- address and full lineage: `qwenlong artifacts show {ref.short}`\n{cost}"
        ),
        task_run_id=task_run_id,
    ).create()


def _show_decision(folder: Path) -> None:
    """Show every condition with its numbers, in the log and on Prefect's page."""
    decision = read_decision(folder)
    for condition in decision["conditions"]:
        verdict = "pass" if condition["passed"] else "FAIL"
        get_run_logger().info("gate: %s %s: %s", verdict, condition["name"], condition["detail"])
    create_markdown_artifact(
        key="promotion", description=decision["reason"], markdown=(folder / DECISION_TEXT).read_text()
    )
