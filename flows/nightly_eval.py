"""The flow ``nightly-eval``: how good is the champion tonight, and has it become worse?

It evaluates the registry's ``champion`` (and ``challenger``, if that is another model) on a slice of the prepared
evaluation rows, with a seed of the night's own, and compares the champion with recent nights. If a benchmark has
dropped, it evaluates again with a second seed. The scores join a series in MLflow. The run fails, with the reason,
if a benchmark dropped under both seeds, if one has fallen over all nights of this champion, or if an evaluation could
not be finished. A night is evaluated once: another run for the same night returns the first result.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed

from qwenlong.flows.failure_notice import tell_of_failure
from qwenlong.flows.form import NO_OVERRIDES, TONIGHT, NightOf, Overrides, Profile
from qwenlong.flows.pipeline_run import PipelineRun, StageResult, new_run_id
from qwenlong.flows.run_pages import flow_run_tag, in_mlflow, mlflow_description, name_flow_run
from qwenlong.tasks.notice import require_places
from qwenlong.tasks.process import ProcessFailed, StageRefused, reason_of
from qwenlong.tasks.specs import evaluate_stage
from qwenlong.tasks.stage import RunContext
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.nights import (
    Night,
    earlier_nights,
    find_night,
    log_night,
    overview,
    remember_night,
    series_of,
    tonight,
)
from qwenlong.tasks.tracking.registry import CHALLENGER, CHAMPION, by_alias
from qwenlong.tasks.tracking.runs import RunNote, Status
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.markdown import markdown_table
from qwenlong_core.promotion.evidence import drifts, night_p_values
from qwenlong_core.promotion.regression import Change, changes, comparable, confirmed_falls
from qwenlong_core.report.tables import average_cell
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef

_SECOND_LOOK = 10_000_000
"""Added to a night's seed for its second evaluation. Seeds count days, so no other night has this one."""


@flow(name="nightly-eval", flow_run_name="{profile}", on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def nightly_eval(
    profile: Profile = "local", overrides: Overrides = NO_OVERRIDES, night: NightOf = TONIGHT
) -> dict[str, Any] | State[Any]:
    """Evaluate the models that the registry serves.

    Raises:
        ArtifactError: nothing has been promoted or prepared yet.
    """
    settings, asked = load_settings(profile, overrides or ()), night if isinstance(night, date) else tonight()
    require_places(settings.notify.to)
    name_flow_run(_title(settings, asked))
    before = find_night(open_store(settings), settings, asked)
    if before is not None:
        get_run_logger().info("%s has been evaluated before; its result is returned", asked)
    done = before or _evaluate_night(settings, asked)
    if isinstance(done, str):
        return Failed(message=done)  # as a state, not an exception: Prefect shows it without a traceback
    if done.failed:
        return Failed(message=done.words)
    get_run_logger().info("%s", done.words)
    return overview(done, {alias: _read(settings, ref) for alias, ref in done.evaluations.items()})


def _read(settings: Settings, ref: ArtifactRef) -> Evaluation:
    return read_evaluation(open_store(settings).fetch(ref))


def for_night(settings: Settings, night: date, *, second: bool = False) -> Settings:
    """The settings of a night's first or second evaluation: the nightly slice, and a seed of its own."""
    evaluation = settings.evaluation.model_copy(update={"limit": settings.nightly.limit})
    seed = settings.seed + night.toordinal() + (_SECOND_LOOK if second else 0)
    return settings.model_copy(update={"seed": seed, "evaluation": evaluation})


def _what_is_served(settings: Settings) -> tuple[StageResult, dict[str, StageResult]]:
    """The prepared rows, and the models to evaluate by alias; the same weights are evaluated once."""
    data = open_store(settings).latest("prepare", settings.profile)
    versions = {alias: by_alias(settings.tracking, alias) for alias in (CHAMPION, CHALLENGER)}
    if data is None or versions[CHAMPION] is None:
        missing = "prepared data" if data is None else "champion in the registry"
        raise ArtifactError(
            f"nightly-eval: there is no {missing} for profile {settings.profile!r} yet: run the pipeline first"
        )
    models: dict[str, StageResult] = {}
    for alias, version in versions.items():
        if version is not None and version.model.sha256 not in {result.ref.sha256 for result in models.values()}:
            models[alias] = StageResult(name=alias, ref=version.model, how="kept")
    return StageResult(name="prepare", ref=data.ref, how="kept"), models


def _title(settings: Settings, night: date) -> str:
    return f"nightly {settings.profile} {night}"


def _evaluate_night(settings: Settings, night: date) -> Night | str:
    """The night's result, or the reason why an evaluation could not be finished."""
    rows, models = _what_is_served(settings)
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id()))
    tags = {"night": str(night), "profile": settings.profile} | flow_run_tag()
    params = settings.nightly.model_dump(mode="json")
    note = RunNote(key=run.context.run_id, name=_title(settings, night), params=params, tags=tags)

    def look(alias: str, *, second: bool = False) -> ArtifactRef:
        spec = evaluate_stage(for_night(settings, night, second=second), f"{alias}{'-again' if second else ''}")
        return run.stage(spec, {"model": models[alias], "data": rows}).ref

    try:
        with in_mlflow(run, note) as tracked:
            result, evaluations, found = compare_with_earlier_nights(
                settings, night, {alias: look(alias) for alias in models}, look
            )
    except (ProcessFailed, StageRefused) as error:
        return f"night {night}: the registry's models could not be evaluated: {reason_of(error)}"
    log_night(Tracker(settings.tracking), settings, night, evaluations, found)
    status: Status = "FAILED" if result.failed else "FINISHED"
    tags = run.cached_tags() | {"result": result.words} | mlflow_description(result.words)
    mlflow_run_id = tracked.finish(status, tags=tags)
    remember_night(open_store(settings), settings, result, mlflow_run_id)
    create_markdown_artifact(key="night", description=result.words, markdown=_as_markdown(result, evaluations, found))
    return result


def compare_with_earlier_nights(
    settings: Settings, night: date, refs: dict[str, ArtifactRef], look: Callable[..., ArtifactRef]
) -> tuple[Night, dict[str, Evaluation], list[Change]]:
    """Compare tonight's champion with recent nights that answered the same questions.

    Args:
        refs: tonight's evaluations by alias.
        look: makes an evaluation of an alias; called with ``second=True`` if a benchmark dropped.

    Returns:
        The night's result, the evaluations by alias, and how each benchmark changed.
    """
    evaluations = {alias: _read(settings, ref) for alias, ref in refs.items()}
    champion = evaluations[CHAMPION]
    before = {day: e for day, e in earlier_nights(open_store(settings), settings, night) if comparable(champion, e)}
    confidence = settings.nightly.confidence
    found = changes(champion, list(before.values()), confidence=confidence) if before else []
    falls: list[Change] = []
    looks = [champion]
    if any(change.significant for change in found):
        looks.append(again := _read(settings, look(CHAMPION, second=True)))
        falls = confirmed_falls(found, changes(again, list(before.values()), confidence=confidence))
    fell = {change.name for change in falls}
    series = series_of(open_store(settings), settings, night, champion)
    p_values = night_p_values(settings.seed + night.toordinal(), looks, [evaluation for _, evaluation in series])
    result = Night(
        night=night,
        profile=settings.profile,
        evaluations=refs,
        compared_with=tuple(before),
        falls=tuple(change.words for change in falls),
        unconfirmed=tuple(change.words for change in found if change.significant and change.name not in fell),
        series=tuple(earlier.night for earlier, _ in series),
        p_values=p_values,
        drifts=drifts([earlier.p_values for earlier, _ in series], p_values, confidence),
    )
    return result, evaluations, found


def _as_markdown(night: Night, evaluations: dict[str, Evaluation], found: list[Change]) -> str:
    scores = markdown_table(
        [
            {"model": alias, "accuracy": f"{e.scores.overall.accuracy.mean:.3f}"}
            | ({AVERAGE: average_cell(e.scores)} if e.scores.average else {})
            | {"items": e.scores.overall.items}
            for alias, e in evaluations.items()
        ]
    )
    moved = "".join(f"- {change.words}\n" for change in found) or "There is no earlier night to compare with.\n"
    return f"{night.words}\n\n{scores}\nThe champion against earlier nights:\n\n{moved}"
