"""Prefill: run each part of the prompts once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from qwenlong_core.generation.cascade import Shared, cascading, forward_inputs
from qwenlong_core.generation.kv_cache import growing_cache
from qwenlong_core.generation.prompt_tree import Part, Path

Forward = Callable[..., Any]
"""The model's forward, or one that uses packed weights."""


class Prefill:
    """Runs parts and keeps their caches as long as they are needed."""

    def __init__(self, model: PreTrainedModel, forward: Forward, layers: int) -> None:
        self.model, self.forward, self.layers = model, forward, layers
        self.caches: dict[Part, Cache] = {}

    def __call__(self, path: Path) -> Tensor:
        """Run the parts of a prompt that have not been run yet; returns the logits ``[1, V]`` after its last token."""
        for i, part in enumerate(path.parts):
            if part not in self.caches:
                logits = self._run(part, [self.caches[above] for above in path.parts[:i]])
        return logits

    def _run(self, part: Part, above: list[Cache]) -> Tensor:
        cache = growing_cache(self.layers)
        tokens = torch.tensor([list(part.token_ids)], device=self.model.device)
        if above:
            positions = torch.arange(part.start, part.start + tokens.size(1), device=tokens.device)[None]
            inputs = forward_inputs(tokens, positions, cache, [Shared(each, 0, 1) for each in above])
            with cascading(self.model):
                output = self.forward(**inputs)
        else:
            # Nothing to share yet: the model's own attention has the fastest kernel for a long prompt.
            output = self.forward(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.caches[part] = cache
        logits: Tensor = output.logits[:, -1]
        return logits

    def shared(self, batch: Sequence[Path], samples: int) -> list[Shared]:
        """Every part of the batch with the rows that attend to it; each path has ``samples`` rows."""
        members: dict[Part, list[int]] = {}
        for number, path in enumerate(batch):
            for part in path.parts:
                members.setdefault(part, []).append(number)
        return [
            Shared(self.caches[part], numbers[0] * samples, (numbers[-1] + 1) * samples)
            for part, numbers in members.items()
        ]

    def keep_for(self, upcoming: Sequence[Path]) -> None:
        """Drop the caches of all parts that these paths do not need."""
        needed = {part for path in upcoming for part in path.parts}
        self.caches = {part: cache for part, cache in self.caches.items() if part in needed}
