"""accelerate's own FSDP2 on gloo processes, as the shipped accelerate file asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import distributed

from qwenlong_core.rehearsal import device
from qwenlong_core.shipped import SHIPPED

HERE = Path(__file__).parent
CONFIG = SHIPPED / "infra/accelerate/fsdp2-1node.yaml"


def launch_variables() -> dict[str, str]:
    """What ``accelerate launch --config_file fsdp2-1node.yaml`` tells its processes about FSDP and precision."""
    variables = device.environment_of(str(CONFIG))
    return {k: v for k, v in variables.items() if k.startswith(("FSDP_", "ACCELERATE_"))}


def run_processes(program: str, *arguments: Any, processes: int, sharded: bool = True) -> None:
    """Run a script of this folder on gloo processes, with one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    done = subprocess.run(
        [*command, str(HERE / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment | (launch_variables() if sharded else {}),
    )
    assert done.returncode == 0, done.stderr[-8000:]


def shard_on_cpu() -> None:
    """Let this process's accelerator shard; call it first."""
    # accelerate makes no group of one process, but a mesh of one needs it.
    distributed.init_process_group("gloo")
    device.shard_on_cpu()
