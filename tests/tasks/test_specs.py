"""Which stages a changed setting re-runs: exactly those whose job it is part of."""

from __future__ import annotations

from typing import get_args

import pytest

from qwenlong.tasks.specs import (
    base_stage,
    distill_stage,
    evaluate_stage,
    family_of,
    grpo_stage,
    notes_of,
    pipeline_stages,
    prepare_stage,
    promote_stage,
    register_stage,
    report_stage,
    sft_stage,
    stage_names,
)
from qwenlong.tasks.stage import stage_fingerprint
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import DeployedFamily
from qwenlong_core.store.artifacts import ArtifactRef

OWN_STORE = ["storage.uri='/tmp/elsewhere'", "storage.work_dir='/tmp/w'", "execution.retries=9", "profile='other'"]


def jobs(*overrides: str) -> dict[str, dict]:
    settings = load_settings("smoke", overrides)
    specs = [base_stage(settings), prepare_stage(settings), sft_stage(settings)]
    specs += [grpo_stage(settings, index) for index in (1, 2, 3)]
    specs += [
        evaluate_stage(settings, "sft"),
        register_stage(settings),
        promote_stage(settings, {}, ()),
        report_stage(settings),
    ]
    return {spec.name: spec.job for spec in specs}


def test_how_a_judge_is_reached_and_how_often_is_saved_re_run_nothing():
    judge = "rewards.judge={base_url='http://u', model='m'%s}"
    refs = {
        "model": ArtifactRef(kind="model", uri="u", sha256="a"),
        "data": ArtifactRef(kind="data", uri="u", sha256="b"),
    }

    def key(*overrides: str) -> str:
        return stage_fingerprint(grpo_stage(load_settings("smoke", overrides), 1), refs)

    assert key(judge % "") == key(judge % ", concurrency=3, cache_dir='c'", "grpo.save_steps=2")
    assert (
        key(judge % "")
        == key("rewards.judge={serve={gpus=[1]}, model='m'}")
        != key("rewards.judge={serve={}, model='n'}")
    )
    for changed in ("temperature=0.5", "max_tokens=4000", "reasoning_model=true", "reasoning_effort='low'"):
        assert key(judge % "") != key(judge % f", {changed}")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("rewards.max_unscored_share=0.1", {"grpo-1", "grpo-2", "grpo-3"}),
        ("rewards.number_tolerance=0.01", {"grpo-1", "grpo-2", "grpo-3", "evaluate-sft"}),
        ("grpo.phases.1.steps=5", {"grpo-2"}),
        ("grpo.learning_rate=1e-3", {"grpo-1", "grpo-2", "grpo-3"}),
        ("grpo.scale_rewards=task", {"grpo-1", "grpo-2", "grpo-3"}),
        ("grpo.balance_tasks=true", {"grpo-1", "grpo-2", "grpo-3"}),
        ("grpo.aepo={high=0.3,low=0.1}", {"grpo-1", "grpo-2", "grpo-3"}),
        ("sft.learning_rate=1e-3", {"sft"}),
        ("sft.loss=rows", {"sft"}),
        ("sft.weight_decay=0.1", {"sft"}),
        ("model.enable_thinking=false", {"base", "sft", "grpo-1", "grpo-2", "grpo-3", "evaluate-sft"}),
        ("data.train='generated'", set()),
        ("data.generate_eval=[{min_tokens=200,max_tokens=300,rows=3}]", {"prepare"}),
        ("data.benchmarks_dir='copies'", {"prepare"}),
        ("promotion.margin=0.1", {"promote"}),
        ("tracking.registered_model='other'", {"register"}),
        *((override, set()) for override in OWN_STORE[:-1]),
    ],
)
def test_a_setting_changes_just_the_jobs_it_is_part_of(override, changed):
    before, after = jobs(), jobs(override)
    assert {name for name in before if before[name] != after[name]} == changed


def test_the_names_are_the_stages_in_their_order():
    names = stage_names(load_settings("smoke"))
    assert names[:6] == ["base", "prepare", "sft", "grpo-1", "grpo-2", "grpo-3"]
    assert names[6:11] == [f"evaluate-{name}" for name in ("base", "sft", "grpo-1", "grpo-2", "grpo-3")]
    assert names[11:] == ["register", "promote", "report"]


SHORT = "max_prompt_tokens=256"
TEACHER = f"distill={{teacher={{base_url='http://u', model='m'}}, {SHORT}}}"
NO_TRACES = "distill={}"


@pytest.mark.parametrize("overrides", [(), ("grpo.curriculum.probe_samples=4",), (TEACHER,), (NO_TRACES,)])
def test_every_stage_takes_the_outputs_of_earlier_ones(overrides):
    done = set()
    for stage in pipeline_stages(load_settings("smoke", overrides)):
        assert set(stage.inputs.values()) <= done
        assert stage.spec is None or stage.spec().name == stage.name
        done.add(stage.name)
    optional = {"probe", "distill"} | ({"sft"} if overrides == (NO_TRACES,) else set())
    assert {family_of(name) for name in done} | optional == {*get_args(DeployedFamily), "register"}


def test_sft_learns_from_the_distilled_rows_and_grpo_from_the_prepared_ones():
    inputs = {stage.name: stage.inputs for stage in pipeline_stages(load_settings("smoke", [TEACHER]))}
    assert inputs["distill"] == {"base": "base", "data": "prepare"}
    assert inputs["sft"] == {"model": "base", "data": "distill"}
    assert inputs["grpo-1"] == {"model": "sft", "data": "prepare"} and "distill" in inputs["report"]


def test_without_a_teacher_or_traces_there_is_no_sft_and_it_is_said():
    settings = load_settings("smoke", [NO_TRACES])
    stages = {stage.name: stage for stage in pipeline_stages(settings)}
    assert not {"distill", "sft", "evaluate-sft"} & set(stages)
    assert stages["grpo-1"].inputs == {"model": "base", "data": "prepare"}
    assert stages["prepare"].spec().job["data"]["generate_sft"] == []
    assert any("SFT was skipped" in note for note in notes_of(settings))
    assert not any("SFT was skipped" in note for note in notes_of(load_settings("smoke", [TEACHER])))


def test_changed_traces_change_the_job_and_missing_ones_are_refused(tmp_path):
    traces, digests = tmp_path / "traces.jsonl", []
    settings = load_settings("smoke", [f"distill={{traces='{traces}', {SHORT}}}"])
    with pytest.raises(ValueError, match=r"distill\.traces names .*no file"):
        distill_stage(settings)
    for text in ("{}\n", "{} \n"):
        traces.write_text(text)
        digests.append(distill_stage(settings).job["file_digests"])
    assert digests[0] != digests[1] and list(digests[0]) == [str(traces)]


def test_a_phase_starts_from_the_one_before_and_the_first_has_the_probe():
    settings = load_settings("smoke", ["grpo.curriculum.probe_samples=4"])
    inputs = {stage.name: stage.inputs for stage in pipeline_stages(settings)}
    assert inputs["grpo-1"] == {"model": "sft", "data": "prepare", "probe": "probe"}
    assert inputs["grpo-2"] == {"model": "grpo-1", "data": "prepare"}


def test_a_phase_may_go_without_evaluation_and_the_next_one_still_builds_on_it():
    settings = load_settings("smoke", ["grpo.phases.0.evaluate=false", "grpo.phases.1.evaluate=false"])
    stages = {stage.name: stage for stage in pipeline_stages(settings)}
    assert [name for name in stages if family_of(name) == "evaluate"] == [
        "evaluate-base", "evaluate-sft", "evaluate-grpo-3"
    ]  # fmt: skip
    assert stages["grpo-2"].inputs["model"] == "grpo-1" and stages["grpo-3"].inputs["model"] == "grpo-2"
    assert {"grpo-1", "evaluate-grpo-3"} <= set(stages["report"].inputs) and "evaluate-grpo-1" not in stages[
        "report"
    ].inputs
    assert stages["grpo-1"].spec().deciding_job == grpo_stage(load_settings("smoke"), 1).deciding_job


def test_changed_data_changes_the_job(tmp_path):
    rows = tmp_path / "rows.jsonl"
    digests = []
    for text in ("{}\n", "{} \n"):
        rows.write_text(text)
        digests.append(jobs(f"data.train='{rows}'")["prepare"]["file_digests"])
    assert digests[0] != digests[1] and list(digests[0]) == [str(rows)]


def test_a_path_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"nowhere/\*\.jsonl"):
        jobs("data.train='nowhere/*.jsonl'")


def test_changed_weights_of_a_local_model_change_the_job(tmp_path):
    seen = []
    for text in ("a", "b"):
        (tmp_path / "model.safetensors").write_text(text)
        seen.append(base_stage(load_settings("smoke", [f"model.name='{tmp_path}'"])).job["digest"])
    assert seen[0] != seen[1]
