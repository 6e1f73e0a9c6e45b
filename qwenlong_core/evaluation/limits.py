"""How long prompts and answers may be under a model's context."""

from __future__ import annotations

import json
from pathlib import Path

_ANSWER_SHARE = 4
"""An answer gets a quarter of a context that is too short for the settings."""


def context_of(folder: Path) -> int | None:
    """Positions of the model in a transformers folder; ``None`` where it does not say (a tokenizer alone)."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    positions: int | None = {**config.get("text_config", {}), **config}.get("max_position_embeddings")
    return positions


def fit_limits(prompt: int, completion: int, context: int | None) -> tuple[int, int]:
    """Limits of prompt and completion, in tokens, that together fit the context; wider ones are lowered."""
    if context is None or prompt + completion <= context:
        return prompt, completion
    completion = min(completion, context // _ANSWER_SHARE)
    return min(prompt, context - completion), completion
