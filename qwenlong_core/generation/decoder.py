"""Decode the rows of a batch together, one token per step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from qwenlong_core.generation.cascade import Shared, cascading, forward_inputs, keep_rows
from qwenlong_core.generation.kv_cache import expand, growing_cache
from qwenlong_core.generation.prefill import Prefill


class Decoder:
    """One forward per step over the rows that are not finished.

    Args:
        prefill: The prefill that ran the prompts.
        lengths: Number of tokens of each prompt.
        samples: Rows per prompt.
        cache: Keys and values of the rows.
    """

    def __init__(self, prefill: Prefill, lengths: Sequence[int], samples: int, cache: Cache) -> None:
        self.model, self.forward, self.cache = prefill.model, prefill.forward, cache
        self.positions = torch.tensor(lengths, device=self.model.device).repeat_interleave(samples)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows."""
        index = torch.tensor(rows, device=self.positions.device)
        self.cache.batch_select_indices(index)
        self.positions = self.positions[index]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row; returns the logits ``[rows, V]`` of the next."""
        logits: Tensor = self.forward(**self._inputs(tokens.unsqueeze(-1))).logits[:, -1]
        self.positions = self.positions + 1
        return logits

    def attention(self) -> AbstractContextManager[None]:
        """The context in which the model decodes."""
        raise NotImplementedError

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        raise NotImplementedError


class CascadeDecoder(Decoder):
    """Rows that attend to the shared parts of their prompts without copying them."""

    def __init__(self, prefill: Prefill, lengths: Sequence[int], samples: int, shared: list[Shared]) -> None:
        super().__init__(prefill, lengths, samples, growing_cache(prefill.layers))
        self.shared = shared

    def attention(self) -> AbstractContextManager[None]:
        return cascading(self.model)

    def keep(self, rows: list[int]) -> None:
        super().keep(rows)
        self.shared = keep_rows(self.shared, rows)

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        return forward_inputs(tokens, self.positions.unsqueeze(-1), self.cache, self.shared)


class ExpandedDecoder(Decoder):
    """Rows with their own copy of their prompt's keys and values, with the model's own attention."""

    def __init__(self, prefill: Prefill, lengths: Sequence[int], samples: int, caches: Sequence[Cache]) -> None:
        super().__init__(prefill, lengths, samples, expand(caches, samples))
        longest = max(lengths)
        columns = torch.arange(longest, device=self.model.device)
        # No mask without padding: attention then uses grouped heads without copying them.
        self.mask = None
        if min(lengths) < longest:
            # The prompt of a row fills the last ``positions`` of the ``longest`` columns.
            self.mask = (columns >= (longest - self.positions).unsqueeze(-1)).long()

    def attention(self) -> AbstractContextManager[None]:
        return nullcontext()

    def keep(self, rows: list[int]) -> None:
        super().keep(rows)
        if self.mask is not None:
            self.mask = self.mask[torch.tensor(rows, device=self.mask.device)]

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        if self.mask is not None:
            # The new token of each row is one more column that all of its later tokens see.
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return {
            "input_ids": tokens,
            "attention_mask": self.mask,
            "position_ids": self.positions.unsqueeze(-1),
            "past_key_values": self.cache,
            "use_cache": True,
        }
