"""The length penalty, which a completion gets for coming near its token limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthLimits:
    """A phase's ``L_max`` and ``L_cache``, in policy tokens of the completion."""

    max_tokens: int
    cache_tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.cache_tokens <= self.max_tokens:
            raise ValueError(
                f"cache_tokens={self.cache_tokens} must lie in 1..max_tokens={self.max_tokens}: "
                "the penalty falls from 0 to -1 over the last cache_tokens tokens"
            )


def length_penalty(num_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """Penalty in [-1, 0] for a completion of ``num_tokens`` tokens: DAPO's soft overlong punishment (its equation 13).

    ``0`` up to ``L_max - L_cache``, then ``(L_max - L_cache - num_tokens) / L_cache`` up to
    ``L_max``, then ``-1``.
    """
    if num_tokens <= max_tokens - cache_tokens:
        return 0.0
    if num_tokens <= max_tokens:
        return (max_tokens - cache_tokens - num_tokens) / cache_tokens
    # Engines stop at L_max, so only completions from elsewhere (``qwenlong score``) come here.
    return -1.0
