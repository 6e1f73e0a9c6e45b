"""How a training's process is started, tried with the real launcher."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qwenlong.tasks.launch import launch_options, needs_launcher, threads_per_process
from qwenlong_core.settings.running import LaunchSettings

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("settings", "variable", "threads"),
    [
        ({}, None, CORES),
        ({"num_processes": CORES}, None, 1),
        ({"num_processes": 4 * CORES}, None, 1),  # more processes than cores
        (
            {"num_processes": CORES, "num_machines": CORES, "across": ["srun"]},
            None,
            CORES,
        ),  # one process on each machine
        ({}, "3", 3),
        ({"cpu_threads": 5}, None, 5),
        ({"cpu_threads": 5}, "3", 5),
    ],
)
def test_threads_fill_the_cores_unless_somebody_says_how_many(monkeypatch, settings, variable, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_per_process(LaunchSettings(**settings)) == threads


def test_accelerate_hands_the_threads_to_the_process(tmp_path):
    """Left alone it sets OMP_NUM_THREADS=1."""
    (tmp_path / "says.py").write_text("import os; print('threads', os.environ['OMP_NUM_THREADS'])\n", encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch_options(LaunchSettings(cpu_threads=7))]
    done = subprocess.run([*command, "-m", "says"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "threads 7" in done.stdout


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"cpu_threads": 2}, False),
        ({"num_processes": 2}, True),
        ({"accelerate_config": "infra/accelerate/fsdp2-1node.yaml"}, True),
        ({"across": ["srun"]}, True),
    ],
)
def test_one_process_is_started_as_it_is(settings, needed):
    assert needs_launcher(LaunchSettings(**settings)) is needed
