"""How long prompts and answers may be under a model's context."""

from __future__ import annotations

from qwenlong_core.settings.evaluation import EvaluationSettings

_PAPER = EvaluationSettings()
_ANSWER_SHARE = 4
"""An answer gets a quarter of a context that is too short for the settings."""


def fit_limits(context: int | None, prompt: int | None = None, completion: int | None = None) -> tuple[int, int]:
    """Limits of prompt and completion, in tokens: the given ones, else the paper's, lowered to what the context leaves.

    A given limit stays; where it leaves the other no room, the two together are over the context and the
    engine says so.
    """
    if completion is None:
        completion = _PAPER.max_completion_tokens
        if context is not None and (prompt or _PAPER.max_prompt_tokens) + completion > context:
            completion = min(completion, max(context - prompt, 1) if prompt else context // _ANSWER_SHARE)
    if prompt is None:
        prompt = (
            _PAPER.max_prompt_tokens if context is None else min(_PAPER.max_prompt_tokens, max(context - completion, 1))
        )
    return prompt, completion
