"""How a stage's process is started: options of ``accelerate launch`` from the launch settings."""

from __future__ import annotations

import os

from qwenlong.tasks.process import StageRefused
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.shipped import own_or_shipped


def launch_options(launch: LaunchSettings) -> list[str]:
    """Options of ``accelerate launch``.

    Raises:
        StageRefused: several machines, and no variables that say which of them this is.
    """
    if launch.accelerate_config:
        return ["--config_file", str(own_or_shipped(launch.accelerate_config)), *_machine(launch.num_machines)]
    options = ["--num_processes", str(launch.num_processes), "--num_machines", str(launch.num_machines)]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # accelerate starts several processes only with this option, on CPU (gloo) too.
    return options + (["--multi_gpu"] if launch.num_processes > 1 else [])


def _machine(machines: int) -> list[str]:
    """Which of several machines this is, from the variables that ``torchrun`` and the cluster's job set."""
    if machines == 1:
        return []
    variables = {
        "--machine_rank": "NODE_RANK",
        "--main_process_ip": "MASTER_ADDR",
        "--main_process_port": "MASTER_PORT",
    }
    if missing := [name for name in variables.values() if name not in os.environ]:
        raise StageRefused(
            f"launch.num_machines={machines}, but {', '.join(missing)} is not set: start the stage's worker on every "
            "machine with NODE_RANK, MASTER_ADDR and MASTER_PORT"
        )
    return [part for option, name in variables.items() for part in (option, os.environ[name])]
