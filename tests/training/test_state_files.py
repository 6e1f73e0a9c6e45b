"""Random states as JSON: a process that loads them draws what the other would have drawn next.

The scheduler's state is tested with the optimizer's (``test_shards``).
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from qwenlong_core.training.state_files import load_random_state, save_random_state


def test_random_states_come_back(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]

    draws()  # Box-Muller keeps a second number for the next call: part of the state
    save_random_state(tmp_path / "rng.json")
    first = draws()
    draws()
    load_random_state(tmp_path / "rng.json")
    assert draws() == first
