"""The interface of all engines: prompts as token ids in, groups of completions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qwenlong_core.records import Completion


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a completion."""

    temperature: float
    """0 is greedy."""
    top_p: float
    """Sample from the smallest set of tokens (the nucleus) that holds this much probability."""
    max_tokens: int
    """Most new tokens; a completion that reaches this limit has ``finish_reason == "length"``."""
    seed: int | None = None
    """The same seed gives the same completions. What is drawn for a prompt depends on the seed and the prompt, not on
    the other prompts of the call. ``None`` draws a fresh seed."""
    stop: tuple[str, ...] = ()
    """A completion ends at the token that completes one of these strings. Text and tokens keep the string, but an
    OpenAI-compatible server leaves it out."""


class Engine(Protocol):
    """Anything that samples completions."""

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """Draw ``samples`` completions of each prompt.

        Args:
            prompts: Token ids of each prompt, at least one token long.
            samples: Completions per prompt, G.
            sampling: Temperature, nucleus, limit, seed and stop strings.

        Returns:
            One list per prompt, in order, of G completions.
        """
        ...
