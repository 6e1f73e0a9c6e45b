"""A key/value cache for decoding many rows from a few prefilled prompts.

``DynamicCache`` copies every key and value at every new token. This one writes in place into
buffers that grow by blocks, starts from prompts of different lengths padded on the left, and lets
finished rows leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 128
"""Tokens by which a full buffer grows."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values ``[rows, heads, length, head_dim]``, appended in place."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._buffers = [_with_room(keys, 0), _with_room(values, 0)]
        self._show(keys.size(-2))

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return everything so far."""
        start, new = self.keys.size(-2), key_states.size(-2)
        if start + new > self._buffers[0].size(-2):
            self._buffers = [_with_room(buffer, new) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states)):
            buffer[..., start : start + new, :] = states
        self._show(start + new)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        length = self.keys.size(-2)
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(length)


def _with_room(states: Tensor, new: int) -> Tensor:
    room = states.new_zeros(*states.shape[:-2], max(_BLOCK, new), states.size(-1))
    return torch.cat([states, room], dim=-2)


def _left_padded(states: Tensor, length: int, rows: int) -> Tensor:
    """Repeat ``[1, heads, p, d]`` for ``rows`` and pad it on the left to ``length``."""
    padded = torch.nn.functional.pad(states, (0, 0, length - states.size(-2), 0))
    return padded.expand(rows, -1, -1, -1)


def expand(prefilled: Sequence[DynamicCache], rows: int) -> Cache:
    """One cache with ``rows`` rows for each prefilled prompt, in order, left-padded to the longest.

    Raises:
        ValueError: a layer is not plain attention (sliding window or recurrent state), whose cache
            cannot be padded and repeated like this.
    """
    length = max(cache.get_seq_length() for cache in prefilled)
    layers = []
    for parts in zip(*(cache.layers for cache in prefilled)):
        if type(parts[0]) is not DynamicLayer:
            raise ValueError(
                f"the transformers engine decodes full-attention models only, got a {type(parts[0]).__name__}: "
                "use a vLLM engine"
            )
        layers.append(
            GrowingLayer(
                torch.cat([_left_padded(part.keys, length, rows) for part in parts]),
                torch.cat([_left_padded(part.values, length, rows) for part in parts]),
            )
        )
    return Cache(layers=layers)
