"""How a training's process is started: options of ``accelerate launch``, and what starts it on several machines."""

from __future__ import annotations

import shutil

from qwenlong.tasks.process import StageRefused
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.shipped import own_or_shipped


def launch_options(launch: LaunchSettings) -> list[str]:
    """Options of ``accelerate launch``.

    Raises:
        StageRefused: the command of ``launch.across`` is not installed.
    """
    if obstacle := missing_launcher(launch):
        raise StageRefused(obstacle)
    machines = ["--num_machines", str(launch.num_machines)]
    if launch.accelerate_config:
        return ["--config_file", str(own_or_shipped(launch.accelerate_config)), *machines]
    options = ["--num_processes", str(launch.num_processes), *machines]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # accelerate starts several processes only with this option, on CPU (gloo) too.
    return options + (["--multi_gpu"] if launch.num_processes > 1 else [])


def missing_launcher(launch: LaunchSettings) -> str | None:
    """What is wrong if the command of ``launch.across`` cannot be started here."""
    if not launch.across or shutil.which(launch.across[0]):
        return None
    return f"launch.across starts with {launch.across[0]!r}, which is not a command here: install it or give its path"
