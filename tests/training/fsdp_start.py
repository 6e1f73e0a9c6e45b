"""Memory of each process when a sharded training starts: ``run_processes("fsdp_start.py", HOW, POLICY, WORK, ...)``.

``HOW`` is ``ours``, or ``everywhere``: each process reads the weights, as transformers does it. Writes
``memory-RANK.json``: private MB above the start, once the policy stands and once it is sharded.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from fsdp_on_cpu import shard_on_cpu
from torch.distributed.tensor import DTensor
from torch.optim import SGD

from qwenlong_core.models import load_policy
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.training.sharding import set_precision, start_policy


def private_mb() -> float:
    """Memory of this process alone; pages of a mapped file belong to all."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def main(how: str, policy: Path, work: Path) -> None:
    shard_on_cpu()
    state = PartialState(cpu=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    set_precision(accelerator)
    before = private_mb()
    load: Any = {"ours": start_policy, "everywhere": load_policy}[how]
    model = load(policy, ModelSettings(name="any", dtype="float32"))
    started = private_mb() - before
    model, _ = accelerator.prepare(model, SGD(model.parameters(), lr=0.1))
    seen = {"started": started, "sharded": private_mb() - before, "sums": {}}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        seen["sums"][name] = float(parameter.full_tensor().double().sum())
    (work / f"memory-{state.process_index}.json").write_text(json.dumps(seen))
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
