"""What the processes of a stage wait for each other: ``run_processes("process_group.py", WORK, processes=2)``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.distributed_c10d import _get_default_group

from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.runtime import leave_group, set_up_process


def main(work: Path) -> None:
    state = set_up_process(LaunchSettings(num_processes=2, timeout_minutes=7))
    timeout = _get_default_group()._get_backend(torch.device("cpu")).options._timeout
    (work / f"timeout-{state.process_index}").write_text(str(timeout.total_seconds()))
    leave_group()
    assert not distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
