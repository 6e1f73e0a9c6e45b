"""How long prompts and answers may be in a model's context."""

from __future__ import annotations

from qwenlong_core.settings.evaluation import EvaluationSettings

_PAPER = EvaluationSettings()
_ANSWER_SHARE = 4
"""In a context that is too short for both limits, the answer gets one part in so many."""


def fit_limits(context: int | None, prompt: int | None = None, completion: int | None = None) -> tuple[int, int]:
    """Limits of prompt and completion, in tokens: those given, else the paper's, lowered to fit the context.

    A given limit is never changed. If it leaves no room for the other, the two together exceed the context, and
    loading the engine fails with an error that says so.

    Args:
        context: Tokens the model can hold; ``None`` where that is not known.
    """
    # The completion first: without a limit it takes its share, and the prompt gets the rest.
    if completion is None:
        completion = _PAPER.max_completion_tokens
        if context is not None and (prompt or _PAPER.max_prompt_tokens) + completion > context:
            completion = min(completion, max(context - prompt, 1) if prompt else context // _ANSWER_SHARE)
    if prompt is None:
        prompt = (
            _PAPER.max_prompt_tokens if context is None else min(_PAPER.max_prompt_tokens, max(context - completion, 1))
        )
    return prompt, completion
