"""Key/value caches for decoding.

``DynamicCache`` copies all keys and values for every new token. :class:`GrowingLayer` instead writes into a buffer that
grows by blocks, and can drop finished rows. :func:`expand` serves models whose attention :mod:`cascade` cannot replace:
it pads prompts of different lengths on the left and repeats them for every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 128
"""Number of tokens by which a full buffer grows."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values ``[rows, heads, length, head_dim]``, appended in place."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start with an empty buffer that has the shape of the first tokens."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = [states[..., :0, :] for states in (key_states, value_states)]
        self._show(0)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the new tokens; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.keys.size(-2), key_states.size(-2)
        # Copies everything, but only once in _BLOCK tokens.
        if start + new > self._buffers[0].size(-2):
            self._buffers = [_with_room(buffer, new) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states)):
            buffer[..., start : start + new, :] = states
        self._show(start + new)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        if not self.is_initialized:
            return
        length = self.keys.size(-2)
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(length)


def _with_room(states: Tensor, new: int) -> Tensor:
    room = states.new_zeros(*states.shape[:-2], max(_BLOCK, new), states.size(-1))
    return torch.cat([states, room], dim=-2)


def require_full_attention(config: Any) -> int:
    """The number of layers.

    Raises:
        ValueError: a layer is not full attention but has a sliding window or recurrent state. Such a cache can neither
            be shared between rows nor padded and repeated.
    """
    layers = DynamicCache(config=config).layers
    for layer in layers:
        if type(layer) is not DynamicLayer:
            raise ValueError(
                f"the transformers engine decodes full-attention models only, got a {type(layer).__name__}: "
                "use a vLLM engine"
            )
    return len(layers)


def growing_cache(layers: int) -> Cache:
    """An empty cache."""
    return Cache(layers=[GrowingLayer() for _ in range(layers)])


def _left_padded(states: Tensor, length: int, rows: int) -> Tensor:
    """Pad ``[1, heads, p, d]`` on the left to ``length`` and repeat it for ``rows`` rows."""
    padded = torch.nn.functional.pad(states, (0, 0, length - states.size(-2), 0))
    return padded.expand(rows, -1, -1, -1)


def expand(prefilled: Sequence[Cache], rows: int) -> Cache:
    """One cache with ``rows`` rows for each prefilled prompt, in order, padded on the left to the longest prompt."""
    length = max(cache.get_seq_length() for cache in prefilled)
    expanded = growing_cache(len(prefilled[0].layers))
    for layer, parts in zip(expanded.layers, zip(*(cache.layers for cache in prefilled))):
        layer.update(
            torch.cat([_left_padded(part.keys, length, rows) for part in parts]),
            torch.cat([_left_padded(part.values, length, rows) for part in parts]),
        )
    return expanded
