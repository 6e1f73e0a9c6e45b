"""Rehearsals in a plan: they replace the formula's backward, and are kept under what they depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import H100, of

from qwenlong_core.plan import confirm
from qwenlong_core.plan.check import plan_here
from qwenlong_core.plan.make import make_plan
from qwenlong_core.rehearsal.report import Peak
from qwenlong_core.rehearsal.shim import obstacle
from qwenlong_core.store.files import write_json

TERMS = {"weights": 8, "gradients": 8, "optimizer": 16, "kept activations": 4, "one layer": 3, "head": 2,
         "collectives": 5, "batch": 1, "reserve": 4}  # fmt: skip
PEAK = Peak({k: v * 2**30 for k, v in TERMS.items()}, sum(TERMS.values()) * 2**30, "backward", (), {}, {})


def test_a_rehearsal_replaces_the_formula_but_for_engine_and_reserve():
    plan = make_plan(of("8gpu-14b"), H100, peaks={"grpo-2": PEAK})
    formula = make_plan(of("8gpu-14b"), H100)
    phases = {stage.name: stage for stage in plan.stages}
    terms = phases["grpo-2"].longest.instants["backward"]
    assert terms["kept activations"] == 4 * 2**30
    assert terms["one layer"] == (3 + 5 + 1) * 2**30
    by_formula = {stage.name: stage for stage in formula.stages}["grpo-2"].longest.instants["backward"]
    assert {name: terms[name] for name in ("engine", "reserve")} == {
        name: by_formula[name] for name in ("engine", "reserve")
    }
    assert [stage.name for stage in plan.stages if stage.rehearsed] == ["grpo-2"]


def test_kept_rehearsals_are_found_until_what_they_depend_on_changes(tmp_path):
    work = f"storage.work_dir='{tmp_path}'"
    settings = of("8gpu-14b", work)
    assert confirm.known_peaks(settings) == {}
    _, _, _, path = next(iter(confirm._files(settings)))
    path.parent.mkdir()
    write_json(path, PEAK.to_json())
    assert confirm.known_peaks(settings) == {"grpo-1": PEAK}
    assert [stage.name for stage in plan_here(settings).stages if stage.rehearsed] == ["grpo-1"]
    assert confirm.known_peaks(of("8gpu-14b", work, "tracking.experiment=other")) == {"grpo-1": PEAK}
    assert confirm.known_peaks(of("8gpu-14b", work, "launch.activation_offload=true")) == {}


def test_sft_is_rehearsed_where_a_run_has_it():
    assert [stage for stage, *_ in confirm._files(of("8gpu-14b"))] == ["grpo-1", "grpo-2", "grpo-3"]
    alone = of("1gpu", "distill.traces='traces.jsonl'")
    stage, prompt, solution, _ = next(iter(confirm._files(alone)))
    assert (stage, prompt + solution) == ("sft", alone.sft.max_tokens)
    packed = of("1gpu", "distill.traces='traces.jsonl'", "sft.packing=true", "sft.micro_batch_size=2")
    assert "sft" not in [stage for stage, *_ in confirm._files(packed)]
    plan = make_plan(alone, H100, peaks={"sft": PEAK})
    assert [stage.name for stage in plan.stages if stage.rehearsed] == ["sft"]
    assert (
        plan.stages[[stage.name for stage in plan.stages].index("sft")].longest.terms["kept activations"] == 4 * 2**30
    )


@pytest.mark.slow
@pytest.mark.skipif(obstacle() is not None, reason="this machine cannot rehearse")
def test_the_formula_is_near_the_rehearsal_and_not_far_under_it(tmp_path):
    settings = of("8gpu-14b", f"storage.work_dir='{tmp_path}'")
    peaks = confirm.rehearse_stages(settings)
    assert len(list((Path(tmp_path) / "rehearsals").iterdir())) == 3
    formula = {stage.name: stage for stage in make_plan(settings, H100).stages}
    rehearsed = {stage.name: stage for stage in make_plan(settings, H100, peaks=peaks).stages}
    for stage in peaks:
        near, true = (plan[stage].longest.at("backward") for plan in (formula, rehearsed))
        assert near == pytest.approx(true, rel=0.15)
