"""The flow ``qwenlong``: from a base model and documents to a promotion decision.

base -> prepare -> distill -> sft -> grpo-1 -> grpo-2 -> grpo-3 -> evaluate (every checkpoint)
     -> register -> promote -> report
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from qwenlong.flows.dead_runs import close_dead_runs
from qwenlong.flows.door import require_deployments, require_rows
from qwenlong.flows.failure_notice import tell_of_failure
from qwenlong.flows.form import (
    BEGINNING,
    NO_OVERRIDES,
    NO_SETTINGS,
    NOTHING,
    CommonSettings,
    Overrides,
    Profile,
    Refresh,
    Start,
    stage_or_none,
)
from qwenlong.flows.gate import run_gate
from qwenlong.flows.go_on import way_on
from qwenlong.flows.pipeline_run import PipelineRun, StageResult, new_run_id, preflight
from qwenlong.flows.run_pages import (
    flow_run_page,
    flow_run_tag,
    in_mlflow,
    mlflow_description,
    name_flow_run,
    show_report,
)
from qwenlong.tasks.interruptions import taken_up, told_of_interruptions
from qwenlong.tasks.notice import require_places
from qwenlong.tasks.specs import (
    checkpoint_names,
    evaluate_stage,
    evaluated_names,
    family_of,
    notes_of,
    pipeline_stages,
    register_stage,
)
from qwenlong.tasks.stage import RunContext, TakenUp
from qwenlong.tasks.tracking.champion import is_champion
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.metrics import score_line
from qwenlong.tasks.tracking.outbox import deliver_outbox, outbox_of, refused
from qwenlong.tasks.tracking.registry import RegisteredVersion, baseline_for, read_registration, still_registered
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.data.prepared import SUMMARY
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.markdown import markdown_table
from qwenlong_core.plan.check import plan_here
from qwenlong_core.plan.compare import compare, learn, metrics
from qwenlong_core.promotion.decision import read_decision
from qwenlong_core.report.build import PHASES, REPORT, WARNINGS
from qwenlong_core.report.cases import case_rows
from qwenlong_core.report.curves import read_rows
from qwenlong_core.report.gain import gain_rows
from qwenlong_core.report.tables import intervals, scores_table
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.files import METRICS


@flow(name="qwenlong", flow_run_name="{profile}", on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def full_pipeline(
    profile: Profile = "local",
    start: Start = BEGINNING,
    refresh: Refresh = NOTHING,
    settings: CommonSettings = NO_SETTINGS,
    overrides: Overrides = NO_OVERRIDES,
) -> dict[str, Any]:
    """Train, evaluate, register and maybe promote; a stage whose result is known is not run again.

    The parameters are described in :mod:`qwenlong.flows.form`. Here ``profile`` may also be a path to a TOML file.
    """
    chosen = load_settings(profile, overrides or (), values=settings)
    result = _run_pipeline(chosen, stage_or_none(refresh), stage_or_none(start))
    # The state's message is what Prefect's list of runs shows.
    ended: Any = Completed(message=" ".join([f"{result['promotion']}.", *result["warnings"]]), data=result)
    return cast(dict[str, Any], ended)  # whoever calls the flow gets the state's data


def _run_pipeline(settings: Settings, refresh: str | None, start: str | None) -> dict[str, Any]:
    """See :func:`full_pipeline`."""
    preflight(settings, refresh, start)
    require_deployments(settings)
    require_places(settings.notify.to)
    run_id = new_run_id()
    folder = Path(settings.storage.runs_dir).absolute() / run_id
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(settings.model_dump_json(indent=2))
    tracker = Tracker(settings.tracking)
    close_dead_runs(tracker)
    title = f"{settings.profile} {run_id}"
    name_flow_run(title)
    tags = {"profile": settings.profile, "pipeline": run_id} | flow_run_tag()
    note = RunNote(key=run_id, name=title, params=settings.model_dump(mode="json"), tags=tags)
    run = PipelineRun(settings, RunContext(settings=settings, run_id=run_id), refresh, start)
    with in_mlflow(run, note) as tracked, way_on(run):
        result = run_stages(run, folder)
        planned = planned_beside_measured(run)
    mlflow_page = tracker.page(tracked.run_id())
    result["pages"] = {"mlflow": mlflow_page, "prefect": flow_run_page()}
    texts = {REPORT: (folder / REPORT).read_text()}
    phases = json.loads((run.folder(run.results["report"]) / PHASES).read_text())
    lines = (*phases, score_line(result["scores"], step=0) | planned)
    all(tracked.send(line) for line in lines)  # up to the first that does not arrive: then all wait in the outbox
    words = mlflow_description(result["promotion"], "The report is `report.html` among the artifacts. ")
    tracked.finish("FINISHED", lines=lines, texts=texts, tags=run.cached_tags() | words)
    show_report(folder / REPORT, mlflow_page)
    deliver_outbox(tracker, outbox_of(settings))
    result["refused_by_mlflow"] = [str(path) for path in refused(outbox_of(settings))]
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    return result


def run_stages(run: PipelineRun, folder: Path) -> dict[str, Any]:
    """Run all stages in order; returns what the user is told at the end."""
    for note in notes_of(run.settings):
        get_run_logger().info(note)
    for stage in pipeline_stages(run.settings):
        run.at = stage.name
        if stage.spec is None:  # the promote stage
            version, outcome = decide_and_promote(run)
        else:
            spec = stage.spec()
            if stage.name == "report":
                spec = told_of_interruptions(spec, run.context)
            result = run.stage(spec, {name: run.results[source] for name, source in stage.inputs.items()})
            if stage.name == "prepare":
                require_rows(run.settings, run.folder(result))
    evaluations = {name: run.results[f"evaluate-{name}"] for name in evaluated_names(run.settings)}
    report = run.results["report"]
    shutil.copyfile(run.folder(report) / REPORT, folder / REPORT)
    folders, again = {name: run.folder(result) for name, result in evaluations.items()}, taken_up(run.context)
    warnings = json.loads((run.folder(report) / WARNINGS).read_text())
    scores = scores_table(folders)
    gain = gain_rows({name: read_evaluation(folder) for name, folder in folders.items()})
    shown = "\n\n".join([*(f"**{words}**" for words in warnings), markdown_table(scores)])
    create_markdown_artifact(key="scores", description="Scores by stage and domain", markdown=shown)
    get_run_logger().info("promotion: %s", outcome)
    return {
        "profile": run.settings.profile,
        "run": folder.name,
        "notes": list(notes_of(run.settings)),
        "warnings": warnings,
        "distill": _distill_counts(run),
        "stages": [_stage_row(result, again.get(result.name)) for result in run.results.values()],
        "scores": scores,
        "intervals": intervals(scores),
        "gain": gain,
        "gain_intervals": intervals(gain, by="part"),
        "cases": case_rows(folders),
        "model": {"name": version.name, "version": version.version},
        "promotion": outcome,
        "promoted": is_champion(run.settings.tracking, version),
        "verdict": read_decision(run.folder(run.results["promote"]))["verdict"],
        "report": str(folder / REPORT),
    }


def _distill_counts(run: PipelineRun) -> dict[str, Any] | None:
    """Counts and price of the traces that SFT imitated; ``None`` where no traces were collected."""
    if "distill" not in run.results:
        return None
    counts: dict[str, Any] = json.loads((run.folder(run.results["distill"]) / SUMMARY).read_text())["distill"]
    return counts


def decide_and_promote(run: PipelineRun) -> tuple[RegisteredVersion, str]:
    """Let the gate decide whether the registered model becomes champion, and carry out its decision.

    The opponent is the champion, or the base model if there is none yet.

    Returns:
        The registered version, and what was done, in words.
    """
    settings, tracking, results = run.settings, run.settings.tracking, run.results
    final, data = checkpoint_names(settings)[-1], results["prepare"]
    model, evaluation = results[final], results[f"evaluate-{final}"]
    version = read_registration(run.folder(results["register"]))
    if not still_registered(tracking, version):  # the stage is cached, but the registry was wiped since
        again = run.stage_again(register_stage(settings), {"model": model, "evaluation": evaluation})
        version = read_registration(run.folder(again))
    baseline = baseline_for(tracking, version)

    def evaluate_champion() -> StageResult:
        if baseline is None:
            return results["evaluate-base"]
        champion = StageResult(name="champion", ref=baseline.model, how="kept")
        return run.stage(evaluate_stage(settings, "champion"), {"model": champion, "data": data})

    models = {"challenger": model.ref, "champion": baseline.model if baseline else results["base"].ref}
    decision = run_gate(run, models, {"challenger": lambda: evaluation, "champion": evaluate_champion}, data)
    return version, run.carry_out(decision, version, baseline)


def planned_beside_measured(run: PipelineRun) -> dict[str, float]:
    """Metrics of the plan and of what came, for the trainings that ran here and now; later plans learn from them.

    A pool's trainings are left out: their metrics lie beside weights, which would be fetched from there.
    """
    elsewhere = run.settings.execution.deployments
    here = [
        result
        for name, result in run.results.items()
        if result.how == "ran" and family_of(name) in ("sft", "grpo") and family_of(name) not in elsewhere
    ]
    lines = {result.name: read_rows(run.folder(result) / METRICS) for result in here}
    try:
        # With the rates as they are: a correction must not be learned from a corrected plan.
        plan = plan_here(run.settings).uncorrected()
        compared = compare(plan, lines)
    except (ValueError, ConnectionError) as error:
        get_run_logger().info("not planned: %s", error)
        return {}
    learn(plan, compared)
    return metrics(compared)


def _stage_row(result: StageResult, again: TakenUp | None) -> dict[str, Any]:
    row = {
        "stage": result.name,
        "how": result.how,
        "seconds": round(result.seconds, 1),
        "sha256": result.ref.sha256,
        "uri": result.ref.uri,
    }
    return row | ({"taken_up_again": again.times, "lost_minutes": again.lost_minutes} if again else {})


def describe_settings(settings: Settings) -> str:
    """Model, phases and group size of a profile, in one line."""
    phases = " / ".join(f"{phase.max_prompt_tokens:,}" for phase in settings.grpo.phases)
    return f"{settings.model.name}, phases of {phases} prompt tokens, G={settings.grpo.group_size}"
