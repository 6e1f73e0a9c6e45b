"""A stage that is killed and started again ends like one that was left alone, to the bit."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from parity_stage import score_parity
from safetensors.torch import load_file
from training_jobs import grpo_job, lines, sft_job, whole_state

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.store.files import MANIFEST
from qwenlong_core.training import sft
from qwenlong_core.training.checkpoints import damage, newest_complete, read_state
from qwenlong_core.training.grpo import train_phase

PARITY_STAGE = [str(Path(__file__).with_name("parity_stage.py"))]
SFT_STAGE = ["-m", "qwenlong_core.training.sft"]
LORA = LoRASettings(rank=4, alpha=8.0)
TIMES = {"seconds", "tokens_per_second", "memory_mb", "time", "update_seconds", "tflops_per_second"}


class Stage:
    """One work folder and the command that works in it."""

    def __init__(self, program: list[str], job: Block, inputs: dict[str, Path], work: Path, processes: int = 1) -> None:
        work.mkdir(parents=True, exist_ok=True)
        (work / "job.json").write_text(job.model_dump_json())
        launch = (
            []
            if processes == 1
            else [
                "-m",
                "accelerate.commands.launch",
                "--multi_gpu",
                f"--num_processes={processes}",
                "--main_process_port=0",
            ]
        )
        given = [f"--input={name}={path}" for name, path in inputs.items()]
        self.command = [
            sys.executable,
            *launch,
            *program,
            "--job",
            str(work / "job.json"),
            *given,
            "--work",
            str(work),
        ]
        self.work = work

    def start(self) -> subprocess.Popen[str]:
        root = Path(__file__).parents[2]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        return subprocess.Popen(
            self.command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=root, env=environment
        )

    def finish(self) -> str:
        process = self.start()
        _, log = process.communicate(timeout=900)
        assert process.returncode == 0, log
        return log

    def steps_done(self) -> int:
        path = self.work / "output" / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def interrupt(self, how: signal.Signals, after: int) -> tuple[int, str]:
        """Start, send the signal to every process once ``after`` steps are written, wait for the end.

        A checkpoint is written while the training goes on; there must be one to go on from.
        """
        process = self.start()
        sealed = self.work / "checkpoints"
        while (self.steps_done() < after or not any(sealed.glob(f"*/{MANIFEST}"))) and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            launcher = psutil.Process(process.pid)  # its workers have sessions of their own
            for member in [launcher, *launcher.children(recursive=True)]:
                member.send_signal(how)
        _, log = process.communicate(timeout=300)
        return process.returncode, log


def end_state(work: Path) -> dict[str, Any]:
    """Everything that must be equal: weights, the last checkpoint's weights, optimizer and own state, metrics without
    times, samples."""
    checkpoint = newest_complete(work / "checkpoints")
    assert checkpoint is not None
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.suffix for path in checkpoint.iterdir()} <= {".json", ".safetensors", ".jinja"}, names
    files = [work / "output" / name for name in ("samples.jsonl", "difficulty.json")]
    carried, adapter = work / "output" / "optimizer", work / "output" / "adapter" / "adapter_model.safetensors"
    return {
        "weights": load_file(work / "output" / "model.safetensors"),
        "training": whole_state(checkpoint),
        "carried": whole_state(carried) if carried.exists() else {},
        "adapter": load_file(adapter) if adapter.exists() else {},
        "state": read_state(checkpoint),
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in lines(work / "output/metrics.jsonl")],
        "files": [path.read_text() for path in files if path.exists()],
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for part in ("weights", "training", "carried", "adapter"):
        assert ours[part].keys() == theirs[part].keys()
        differing = [name for name, value in ours[part].items() if not torch.equal(value, theirs[part][name])]
        assert differing == [], part
    for part in ("state", "metrics", "files"):
        assert ours[part] == theirs[part], part


def assert_trained(end: dict[str, Any], policy: Path, steps: int, rounds: int) -> None:
    """The run is not empty: the weights moved, and every step had informative groups and a gradient; without
    a refill a step may have none, but most have."""
    assert [row["step"] for row in end["metrics"]] == list(range(1, steps + 1))
    learning = [row for row in end["metrics"] if row["groups_kept"] > 0 and (row.get("grad_norm") or 0) > 0]
    assert len(learning) == steps if rounds > 1 else len(learning) > steps / 2
    before = load_file(policy / "model.safetensors")
    assert any(not torch.equal(before[name], value) for name, value in end["weights"].items())


def job_of(rounds: int, steps: int, processes: int = 1, index: int = 1, span: int = 1) -> GRPOJob:
    """One round is dynamic sampling off; with it, draws are in excess, so that groups are left for the next step."""
    phase = {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": steps}
    sampling = {"max_rounds": rounds, "oversampling": 1.0 if rounds == 1 else 1.5}
    return grpo_job(
        index=index,
        phase=phase,
        save_steps=2,
        dynamic_sampling=sampling,
        optimizer_across_phases="carried",
        curriculum={"retire_after_visits": 2},
        launch={"num_processes": processes, "cpu_threads": 1, "sequence_parallel": span},
    )


def with_adapter(job: GRPOJob) -> GRPOJob:
    """The job with LoRA, which carries no optimizer."""
    grpo = job.grpo.model_copy(update={"optimizer_across_phases": "fresh"})
    return job.model_copy(update={"grpo": grpo, "lora": LORA})


def assert_left_over(end: dict[str, Any], rounds: int) -> None:
    """Groups were carried from one step to the next where dynamic sampling was on, and nowhere else."""
    assert any(row["kept_from_last_step"] for row in end["metrics"]) == (rounds > 1)


@pytest.mark.parametrize(
    ("rounds", "how"),
    [
        (4, signal.SIGKILL),
        pytest.param(1, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(4, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_phase_ends_like_an_undisturbed_one(
    rounds: int, how: signal.Signals, policy: Path, data: Path, tmp_path: Path
) -> None:
    inputs = {"model": policy, "data": data}
    train_phase(job_of(rounds, 6), inputs, tmp_path / "a", score_parity)
    disturbed = Stage(PARITY_STAGE, job_of(rounds, 6), inputs, tmp_path / "b")
    status, log = disturbed.interrupt(how, after=3)
    assert status == (143 if how == signal.SIGTERM else -signal.SIGKILL), log
    assert 3 <= disturbed.steps_done() < 6
    assert "from checkpoint-" in disturbed.finish()
    end = end_state(tmp_path / "a")
    assert_trained(end, policy, 6, rounds)
    assert_left_over(end, rounds)
    assert_same(end_state(disturbed.work), end)


def test_an_interrupted_phase_with_an_adapter_ends_like_an_undisturbed_one(
    policy: Path, data: Path, tmp_path: Path
) -> None:
    """Its checkpoint holds the adapter alone; the frozen weights come from the policy that the phase started from."""
    inputs, job = {"model": policy, "data": data}, with_adapter(job_of(4, 6))
    train_phase(job, inputs, tmp_path / "a", score_parity)
    disturbed = Stage(PARITY_STAGE, job, inputs, tmp_path / "b")
    status, log = disturbed.interrupt(signal.SIGKILL, after=3)
    assert status == -signal.SIGKILL, log
    assert "from checkpoint-" in disturbed.finish()
    end = end_state(tmp_path / "a")
    assert_trained(end, policy, 6, 4)
    assert end["adapter"] and all(".lora_" in name for name in end["training"])
    assert_same(end_state(disturbed.work), end)


KILLS_A_PHASE, STEPS = 5, 12


def finish_with_kills(stage: Stage, generator: random.Random) -> None:
    """Kill the stage at five random steps, each time after it has gone on by one to three."""
    for _ in range(KILLS_A_PHASE):
        after = min(STEPS - 1, stage.steps_done() + generator.choice((1, 2, 3)))
        status, log = stage.interrupt(signal.SIGKILL, after)
        assert status == -signal.SIGKILL, log
        assert after <= stage.steps_done() < STEPS
    stage.finish()


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(("rounds", "processes", "span"), [(4, 1, 1), (4, 2, 1), (4, 2, 2), (1, 1, 1), (1, 2, 1)])
def test_ten_kills_at_random_steps_of_two_phases(
    rounds: int, processes: int, span: int, policy: Path, data: Path, tmp_path: Path
) -> None:
    """Both phases, the second from the first's weights, difficulty and optimizer; ``span`` processes share a row."""
    generator = random.Random(processes)
    models = {"a": policy, "b": policy}
    for index in (1, 2):
        job = job_of(rounds, STEPS, processes, index, span)
        a, b = (
            Stage(PARITY_STAGE, job, {"model": models[n], "data": data}, tmp_path / f"{n}{index}", processes)
            for n in ("a", "b")
        )
        a.finish()
        finish_with_kills(b, generator)
        end = end_state(a.work)
        assert_trained(end, models["a"], STEPS, rounds)
        assert_left_over(end, rounds)
        assert_same(end_state(b.work), end)
        models = {"a": a.work / "output", "b": b.work / "output"}


@pytest.mark.slow
def test_a_phase_goes_on_with_another_number_of_processes(policy: Path, data: Path, tmp_path: Path) -> None:
    """Two processes, one, then four, each killed. Samples depend on the number, so no other run ends alike; that
    weights and optimizer come back to the bit is shown in ``test_shards``."""

    def stage(processes: int) -> Stage:
        job = job_of(4, 6, processes)
        whole = job.model_copy(update={"grpo": job.grpo.model_copy(update={"mini_batch_size": 4})})
        return Stage(PARITY_STAGE, whole, {"model": policy, "data": data}, tmp_path, processes)

    for processes, after in ((2, 2), (1, 4)):
        disturbed = stage(processes)
        status, log = disturbed.interrupt(signal.SIGKILL, after)
        assert status == -signal.SIGKILL, log
        assert after <= disturbed.steps_done() < 6
    log = stage(4).finish()
    assert "from checkpoint-" in log and "random-state-3.json is not there" in log
    assert_trained(end_state(tmp_path), policy, 6, 4)
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None
    steps = {float(value) for name, value in whole_state(newest).items() if name.endswith("/step")}
    assert steps == {6.0}, "one update a step, none lost and none twice"


@pytest.mark.slow
def test_a_finished_phase_run_again_changes_nothing(policy: Path, data: Path, tmp_path: Path) -> None:
    stage = Stage(PARITY_STAGE, job_of(1, 2), {"model": policy, "data": data}, tmp_path)
    stage.finish()
    before = end_state(tmp_path)
    stage.finish()
    assert_same(end_state(tmp_path), before)


def test_a_damaged_checkpoint_is_passed_over(
    policy: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest checkpoint loses its last bytes: the run goes on from the one before."""
    inputs = {"model": policy, "data": data}
    train_phase(job_of(1, 4), inputs, tmp_path, score_parity)
    before = end_state(tmp_path)
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None
    weights = next(newest.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "does not match the manifest" in str(damage(newest))
    with caplog.at_level(logging.INFO):
        train_phase(job_of(1, 4), inputs, tmp_path, score_parity)
    assert f"deleting {newest.name}" in caplog.text
    assert "from checkpoint-4" in caplog.text
    assert_same(end_state(tmp_path), before)


@pytest.mark.parametrize(
    ("packing", "processes", "span", "lora"),
    [
        (True, 1, 1, None),
        pytest.param(False, 1, 1, None, marks=pytest.mark.slow),
        pytest.param(True, 2, 1, None, marks=pytest.mark.slow),
        pytest.param(True, 2, 2, None, marks=pytest.mark.slow),
        pytest.param(True, 2, 1, LORA, marks=pytest.mark.slow),
    ],
)
def test_interrupted_sft_ends_like_an_undisturbed_one(
    packing: bool,
    processes: int,
    span: int,
    lora: LoRASettings | None,
    policy: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    inputs = {"model": policy, "data": data}
    launch = LaunchSettings(num_processes=processes, cpu_threads=1, sequence_parallel=span)
    job = sft_job(epochs=4.0, save_steps=2, packing=packing).model_copy(update={"launch": launch, "lora": lora})
    if processes > 1:
        Stage(SFT_STAGE, job, inputs, tmp_path / "a", processes).finish()
    else:
        sft.run(job, inputs, tmp_path / "a")
    disturbed = Stage(SFT_STAGE, job, inputs, tmp_path / "b", processes)
    status, log = disturbed.interrupt(signal.SIGKILL, after=3)
    assert status == -signal.SIGKILL, log
    assert "from checkpoint-" in disturbed.finish()
    end = end_state(tmp_path / "a")
    assert [row["step"] for row in end["metrics"]] == list(range(1, 11))
    assert_same(end_state(disturbed.work), end)
