"""transformers' activation offload on a CPU, for tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers.modeling_utils

from qwenlong_core.training import runtime


def offload_on_cpu(patch: Any = setattr) -> list[int]:
    """Offload as transformers does it, but into memory that is not pinned, which a CPU build has not.

    Args:
        patch: Sets an attribute of a module, such as ``monkeypatch.setattr``.

    Returns:
        Grows by one entry for each layer whose input goes through the offload.
    """
    moved: list[int] = []

    class Counted(torch.autograd.graph.save_on_cpu):
        def __init__(self, **_: Any) -> None:
            super().__init__(pin_memory=False)
            moved.append(1)

    patch(transformers.modeling_utils, "save_on_cpu", Counted)
    patch(runtime, "offloads", lambda launch: launch.activation_offload)
    return moved
