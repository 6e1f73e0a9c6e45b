"""The one way to sample: prompts as token ids in, groups of completions out."""

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
    """Nucleus: the smallest set of tokens that holds this much probability."""
    max_tokens: int
    """New tokens at most; a completion cut here has ``finish_reason == "length"``."""
    seed: int | None = None
    """Same seed, same completions. A prompt's draws depend on the seed and on the prompt itself, not
    on which other prompts stand in the call. ``None`` takes fresh randomness."""
    stop: tuple[str, ...] = ()
    """A completion ends with the token that completes one of these strings, as at an end-of-sequence token;
    text and tokens keep the string (an OpenAI-compatible server leaves it out)."""


class Engine(Protocol):
    """Anything that samples completions."""

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """Draw ``samples`` completions of each prompt.

        Args:
            prompts: Token ids, one sequence a prompt, each at least one token long.
            samples: G, completions per prompt.
            sampling: Temperature, nucleus, limit and seed.

        Returns:
            One list per prompt, in order, of G completions.
        """
        ...
