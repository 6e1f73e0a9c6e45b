"""Training stages: supervised fine-tuning, and GRPO in phases of growing context length.

Read :mod:`grpo` for how a phase is put together, then its parts: :mod:`curriculum` (which rows),
:mod:`dynamic_sampling` (which groups), :mod:`rollout` (how they are sampled and scored), :mod:`batches`
(one batch after another), :mod:`trainer` (how they become gradients), :mod:`checkpoints` and :mod:`metrics`.
"""

import os

# The libraries read these variables when they are imported. Only the package's own __init__ is certain to run before
# every module of the package, also where a stage is started by hand (``python -m qwenlong_core.training.sft``).
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
