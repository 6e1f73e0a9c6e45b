"""``qwenlong plan``: the answer first, exit codes, JSON, the chart, lengths from a probe."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.settings.profiles import profile_names

ON_CPU = ("learn", "local", "smoke")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*options: str):
        return CliRunner().invoke(app, ["plan", *options])

    return run


@pytest.mark.parametrize("profile", profile_names())
def test_every_shipped_profile_fits_its_machine(plan, profile):
    done = plan("--profile", profile, "--json", "--set", "plan.machine=" + ("cpu" if profile in ON_CPU else "h100"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["fits"]
    stages = {stage["stage"]: stage for stage in found["stages"]}
    trained = {"grpo-1", "grpo-2", "grpo-3"}
    if profile in ON_CPU:  # the others skip SFT until a teacher or traces are named
        trained.add("sft")
    assert {stage for stage in stages if stage.startswith(("sft", "grpo"))} == trained and "evaluate" in stages
    for name in trained:
        assert stages[name]["memory"]["longest"]["peak_bytes"] <= found["limit_bytes"]
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages.values()))
    as_it_is = next(row for row in found["levers"] if row["a step"] == "as it is")
    assert as_it_is["grpo-1, s"] == pytest.approx(stages["grpo-1"]["step"]["seconds"])


def test_a_profile_that_does_not_fit_is_answered_first_with_the_mend(plan):
    done = plan("--profile", "8gpu-14b", "--set", "launch.sequence_parallel=1", "--set", "plan.machine=h100")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "does not fit:"
    assert any(line.strip().startswith("launch.sequence_parallel=8") for line in lines[:8])


def test_small_models_are_told_in_small_units(plan):
    done = plan("--profile", "smoke", "--set", "plan.machine=cpu")
    assert "MiB of one process" in done.stdout and "TFLOP" in done.stdout
    assert "GiB of one GPU" in plan("--profile", "8gpu-14b", "--set", "plan.machine=h100").stdout


def test_money_and_the_chart(plan, tmp_path):
    page = tmp_path / "plan.html"
    teacher = "distill.teacher={base_url='http://127.0.0.1:1/v1', model='m'}"
    done = plan("--profile", "8gpu-14b", "--set", "plan.price_per_gpu_hour=4", "--set", "plan.machine=h100",
                "--set", teacher, "--chart", str(page))  # fmt: skip
    assert done.exit_code == 0
    assert "at 4 a GPU hour" in done.stdout
    text = page.read_text()
    assert text.count("<polygon") == 4 * 5  # SFT and three phases, five areas each
    assert "limit 79.6" in text


def test_a_probe_gives_lengths(plan, tmp_path):
    found = {
        "prompt_tokens": 7000.0,
        "completion_tokens": 900.0,
        "informative_share": 0.4,
        "pass_rate": 0.2,
        "rows": 32,
    }
    (tmp_path / "probe").mkdir()
    options = ("--profile", "8gpu-14b", "--json", "--set", "plan.machine=h100", "--probe", str(tmp_path / "probe"))
    assert "has no probe.json" in plan(*options).output
    (tmp_path / "probe" / "probe.json").write_text(json.dumps({"phases": {"1": found}}))
    phases = json.loads(plan(*options).stdout)["phases"]
    assert (phases[0]["completion_tokens"], phases[0]["source"]) == (900, "probe of 32 rows")
    assert phases[1]["source"] == "assumed"


def test_an_unknown_machine_is_refused(plan):
    done = plan("--set", "plan.machine=tpu")
    assert done.exit_code == 2
    assert "plan.machine='tpu' is not known" in done.output
