"""How a training's process is started: options of ``accelerate launch``, and what starts it on several machines."""

from __future__ import annotations

import os
import shutil

from qwenlong.tasks.process import StageRefused
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.shipped import own_or_shipped


def needs_launcher(launch: LaunchSettings) -> bool:
    """Whether ``accelerate launch`` has something to do.

    It imports torch before it starts the process that imports it again: seconds for nothing with one process.
    """
    return launch.num_processes > 1 or bool(launch.accelerate_config) or bool(launch.across)


def launch_options(launch: LaunchSettings) -> list[str]:
    """Options of ``accelerate launch``.

    Raises:
        StageRefused: the command of ``launch.across`` is not installed.
    """
    if obstacle := missing_launcher(launch):
        raise StageRefused(obstacle)
    machines = ["--num_machines", str(launch.num_machines)]
    machines += ["--num_cpu_threads_per_process", str(threads_per_process(launch))]
    if launch.accelerate_config:
        return ["--config_file", str(own_or_shipped(launch.accelerate_config)), *machines]
    options = ["--num_processes", str(launch.num_processes), *machines]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # accelerate starts several processes only with this option, on CPU (gloo) too.
    return options + (["--multi_gpu"] if launch.num_processes > 1 else [])


def threads_per_process(launch: LaunchSettings) -> int:
    """``launch.cpu_threads``, else OMP_NUM_THREADS, else this machine's cores over its processes.

    Without a number accelerate sets OMP_NUM_THREADS=1, which leaves the other cores idle.
    """
    if threads := launch.cpu_threads or int(os.environ.get("OMP_NUM_THREADS") or 0):
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores * launch.num_machines // launch.num_processes)


def missing_launcher(launch: LaunchSettings) -> str | None:
    """What is wrong if the command of ``launch.across`` cannot be started here."""
    if not launch.across or shutil.which(launch.across[0]):
        return None
    return f"launch.across starts with {launch.across[0]!r}, which is not a command here: install it or give its path"
