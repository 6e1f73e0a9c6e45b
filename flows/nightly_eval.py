"""The flow ``nightly-eval``: how good is the champion tonight?

Evaluates the registry's ``champion`` (and ``challenger``, if it is another version) on the prepared
evaluation rows with the night's own seed, and adds the scores to the MLflow run series
``nightly <alias>``. A second run in the same night finds its result cached.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow, get_run_logger

from flows.pipeline_run import PipelineRun, StageResult, new_run_id
from qwenlong_core.artifacts import ArtifactError
from qwenlong_core.evaluation.tables import scores_table
from qwenlong_core.profiles import load_settings
from tasks.registry import CHALLENGER, CHAMPION, by_alias
from tasks.specs import evaluate_stage
from tasks.stage import RunContext
from tasks.store import open_store
from tasks.tracking import Tracker, log_scores


@flow(name="nightly-eval", flow_run_name="{profile}")
def nightly_eval(profile: str = "local", overrides: list[str] | None = None, night: date | None = None) -> dict[str, Any]:
    """Evaluate what the registry serves.

    Args:
        night: the date whose seed is used; today by default.

    Raises:
        ArtifactError: nothing has been promoted or prepared yet.
    """
    night = night or date.today()
    settings = load_settings(profile, overrides or ())
    settings = settings.model_copy(update={"seed": settings.seed + night.toordinal()})
    data = open_store(settings).latest("prepare", settings.profile)
    versions = {alias: by_alias(settings.tracking, alias) for alias in (CHAMPION, CHALLENGER)}
    if data is None or versions[CHAMPION] is None:
        missing = "prepared data" if data is None else "champion in the registry"
        raise ArtifactError(f"nightly-eval: there is no {missing} for profile {profile!r} yet: run the pipeline first")
    tracker = Tracker(settings.tracking)
    parent = tracker.start_run(f"nightly {night}", {"profile": profile}, {"night": str(night), "profile": profile})
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id(), parent_run_id=parent))
    rows = StageResult(name="prepare", ref=data.ref, how="kept")
    seen: dict[str, StageResult] = {}
    for alias, version in versions.items():
        if version is not None and version.model.sha256 not in {result.ref.sha256 for result in seen.values()}:
            seen[alias] = StageResult(name=alias, ref=version.model, how="kept")
    try:
        evaluations = {
            alias: run.stage(evaluate_stage(settings, alias), {"model": model, "data": rows})
            for alias, model in seen.items()
        }
    except BaseException:
        tracker.end_run(parent, "FAILED")
        raise
    scores = scores_table({alias: run.folder(result) for alias, result in evaluations.items()})
    log_scores(tracker, parent, scores, step=night.toordinal())
    tracker.end_run(parent, "FINISHED")
    get_run_logger().info("nightly %s: %s", night, scores)
    return {"night": str(night), "scores": scores}
