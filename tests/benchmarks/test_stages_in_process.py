"""A benchmark's stages, which share one process, train the very weights that processes of their own train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/learning"))

from stages import run_stage

from qwenlong.tasks.specs import base_stage, grpo_stage, prepare_stage, sft_stage
from qwenlong_core.settings.profiles import load_settings

WEIGHTS = "model.safetensors"


@pytest.mark.slow
def test_two_trainings_in_one_process_are_those_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings("smoke", ["sft.epochs=2", "launch.cpu_threads=1"])
    base = run_stage(base_stage(settings), tmp_path / "base")
    data = run_stage(prepare_stage(settings), tmp_path / "prepare", base=base)
    sft = run_stage(sft_stage(settings), tmp_path / "sft", model=base, data=data)
    grpo = run_stage(grpo_stage(settings, 1), tmp_path / "grpo", model=sft, data=data)

    for name, module, model, output in (("sft", "sft", base, sft), ("grpo", "grpo", sft, grpo)):
        alone = tmp_path / f"{name}-alone"
        command = [sys.executable, "-m", f"qwenlong_core.training.{module}", "--job", str(tmp_path / name / "job.json")]
        given = [f"--input=model={model}", f"--input=data={data}", "--work", str(alone)]
        subprocess.run([*command, *given], check=True, capture_output=True)
        assert (alone / "output" / WEIGHTS).read_bytes() == (output / WEIGHTS).read_bytes()
        assert "step" in (tmp_path / name / "log.txt").read_text()

    assert run_stage(sft_stage(settings), tmp_path / "sft", model=base, data=data) == sft
    assert "step" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"prepare failed; see .*log\.txt"):
        run_stage(prepare_stage(load_settings("smoke")), tmp_path / "prepare", base=tmp_path / "nowhere")
    assert "nowhere" in (tmp_path / "prepare/log.txt").read_text()
