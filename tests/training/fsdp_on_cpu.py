"""accelerate's own FSDP2 on gloo processes, as the shipped accelerate file asks for it.

accelerate shards on accelerators only: of several CPU processes it makes DDP. All that follows this one choice runs on
a CPU too, so :func:`shard_on_cpu` makes it as accelerate does on GPUs. Nothing else is replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import distributed

from qwenlong_core.shipped import SHIPPED

HERE = Path(__file__).parent
CONFIG = SHIPPED / "infra/accelerate/fsdp2-1node.yaml"


def launch_variables() -> dict[str, str]:
    """What ``accelerate launch --config_file fsdp2-1node.yaml`` tells its processes about FSDP and precision."""
    arguments, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(CONFIG), "none.py"])
    )
    return {k: v for k, v in prepare_multi_gpu_env(arguments).items() if k.startswith(("FSDP_", "ACCELERATE_"))}


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
    plain = AcceleratorState.__init__

    def sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        first = not AcceleratorState._shared_state
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if first and fsdp_plugin is not None:
            # The lines that AcceleratorState.__init__ runs for GPUs.
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = sharded
