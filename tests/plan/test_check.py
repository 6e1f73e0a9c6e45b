"""A profile that cannot fit is refused with its mend; plan.check=off lets it go on."""

from __future__ import annotations

import json

import pytest
from plans import of

from qwenlong.flows.pipeline_run import preflight
from qwenlong_core.plan.check import mend, plan_here, require_fit
from qwenlong_core.plan.known import KNOWN
from qwenlong_core.plan.shapes import NoPlan
from qwenlong_core.plan.tell import in_hours, in_short

UNSHARED = "launch.sequence_parallel=1"


def test_the_refusal_names_the_stage_the_bytes_and_the_mend():
    with pytest.raises(ValueError, match=r"does not fit h100: grpo-1 needs .* GiB of 79\.6") as refusal:
        require_fit(of("8gpu-14b", UNSHARED))
    assert "set launch.sequence_parallel=8" in str(refusal.value)
    assert "plan.check=off" in str(refusal.value)


def test_the_check_can_be_switched_off_and_a_larger_machine_named():
    require_fit(of("8gpu-14b", UNSHARED, "plan.check=off"))
    require_fit(of("8gpu-14b"))
    unshared = plan_here(of("8gpu-14b", UNSHARED, "plan.machine=h200"))
    assert [fault.partition(" ")[0] for fault in unshared.faults] == ["grpo-2", "grpo-3"]


def test_preflight_refuses_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"profile 'local' does not fit cpu: sft needs .* of 1\.5 at its longest row"):
        preflight(of("local", "plan.memory_gib=1.5"))
    preflight(of("local", "plan.memory_gib=1.5", "plan.check=off"))


def test_a_model_that_no_plan_covers_is_no_reason_to_refuse(tmp_path, policy, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experts"
    folder.mkdir()
    for path in policy.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(KNOWN["tiny"] | {"num_local_experts": 4}))
    settings = of("smoke", f"model.name={folder}")
    with pytest.raises(NoPlan):
        require_fit(settings)
    preflight(settings)
    assert "not planned: model.name=" in caplog.text


def test_hours_in_words():
    seconds = (7, 150, 3_599, 3_600, 36_000, 3_600_000)
    assert list(map(in_hours, seconds)) == ["7 s", "2 min", "60 min", "1.0 h", "10 h", "1,000 h"]


def test_in_short():
    plan = plan_here(of("8gpu-14b"))
    assert in_short(plan).startswith("at most 68.4 of 79.6 GiB of h100, about 1")
    assert "take larger or more GPUs" in mend(plan_here(of("8gpu-14b", "plan.memory_gib=9")))
