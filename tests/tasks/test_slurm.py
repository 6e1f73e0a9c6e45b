"""A training over two Slurm nodes: a real controller, two node daemons and srun, all on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from slurm_cluster import Slurm, missing

from qwenlong.tasks.launch import launch_options
from qwenlong.tasks.process import ProcessFailed, StageRefused, run_or_refuse, run_process
from qwenlong.tasks.specs import pipeline_stages
from qwenlong.tasks.stage import RunContext, execute_stage
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef

SRUN = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
ACROSS = "launch.across=" + json.dumps(SRUN)
TWO = ("launch.num_processes=2", "sft.micro_batch_size=2", "grpo.save_steps=1")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path_factory.mktemp("slurm") / "cluster").start()
    yield slurm
    slurm.stop()


def smoke(home: Path, *overrides: str) -> Settings:
    folders = [f"storage.{name}={home}/{name}" for name in ("uri", "work_dir", "runs_dir")]
    return load_settings("smoke", [*folders, f"tracking.uri=sqlite:///{home}/mlflow.db", *overrides])


class Run:
    """Stages of the smoke profile, each executed as the pipeline does."""

    def __init__(self, settings: Settings) -> None:
        self.context = RunContext(settings=settings, run_id="test")
        self.log: list[str] = []
        self.on_line: Callable[[str], None] = lambda line: None

    def stage(self, name: str, inputs: dict[str, ArtifactRef] | None = None) -> ArtifactRef:
        """Execute a stage, after those whose outputs it takes unless ``inputs`` are given."""
        planned = {stage.name: stage for stage in pipeline_stages(self.context.settings)}[name]
        given = inputs or {key: self.stage(other) for key, other in planned.inputs.items()}
        spec = planned.spec()
        return execute_stage(spec, given, self.context, forced=False, log=self._line, progress=print).ref

    def _line(self, line: str) -> None:
        self.log.append(line)
        self.on_line(line)

    def weights(self, ref: ArtifactRef) -> dict[str, torch.Tensor]:
        return load_file(open_store(self.context.settings).fetch(ref) / "model.safetensors")


@pytest.mark.timeout(1800)
def test_grpo_over_two_nodes_survives_the_death_of_one(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    before = Run(smoke(tmp_path))
    inputs = {"model": before.stage("sft"), "data": before.stage("prepare")}
    alone = Run(smoke(tmp_path, "launch.cpu_threads=1", *TWO))
    expected, start = alone.weights(alone.stage("grpo-1", inputs)), alone.weights(inputs["model"])
    assert any(not torch.equal(expected[name], start[name]) for name in expected), "it has learned something"

    across = Run(smoke(tmp_path, "launch.cpu_threads=1", *TWO, "launch.num_machines=2", ACROSS))
    killed: list[psutil.Process] = []

    def kill_a_node(line: str) -> None:
        if "checkpoint of step" in line and not killed:
            killed.extend(cluster.step_on("n2"))
            for process in killed:
                process.kill()

    across.on_line = kill_a_node
    with pytest.raises(ProcessFailed, match="srun"):
        across.stage("grpo-1", inputs)
    assert len(killed) >= 2, "the launcher and the training"
    found = across.weights(across.stage("grpo-1", inputs))
    assert any("from checkpoint-" in line for line in across.log)
    apart = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    assert apart < 1e-2 * across.context.settings.grpo.learning_rate


def test_sigterm_lets_the_tasks_save(cluster, tmp_path, monkeypatch) -> None:
    """srun kills its tasks at SIGTERM, so the pipeline asks it in another way."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    training = tmp_path / "training.py"
    training.write_text(
        "import os, pathlib, signal, sys, time\n"
        "def stop(*_):\n    time.sleep(2); pathlib.Path(f'saved-{os.environ[\"RANK\"]}').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(100)"
    )
    monkeypatch.chdir(tmp_path)
    options = launch_options(smoke(tmp_path, *TWO, "launch.num_machines=2", ACROSS).launch)
    node = [sys.executable, "-m", "qwenlong_core.node", *options, str(training), "--work", str(tmp_path)]
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if lines.count("up") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_process([*SRUN, *node], interrupt)
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}
    assert not cluster.step_on("n1") and not cluster.step_on("n2")


def test_srun_that_starts_another_number_of_machines_is_refused(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    node = [sys.executable, "-m", "qwenlong_core.node", "--num_machines", "3", "--work", str(tmp_path)]
    with pytest.raises(StageRefused, match=r"num_machines=3, but srun started 2 task.*--nodes=3"):
        run_or_refuse([*SRUN, *node], "grpo-1", tmp_path, print)
