"""Seeds of single prompts. Without torch, for engines on other machines and for readers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def prompt_seed(seed: int, prompt: Sequence[int], occurrence: int = 0) -> int:
    """A seed for one prompt that depends on nothing else in the call; it fits into 63 bits."""
    text = f"{seed}/{occurrence}/" + ",".join(map(str, prompt))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prompt_seeds(seed: int, prompts: Sequence[Sequence[int]]) -> list[int]:
    """A seed for each prompt of a call; a repeated prompt gets another seed each time."""
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        seeds.append(prompt_seed(seed, prompt, seen[prompt]))
        seen[prompt] += 1
    return seeds
