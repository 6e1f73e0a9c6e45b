"""Evaluations made from plain tables of right and wrong, for tests that need no model."""

from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.records import Score

SCORES = {
    1: Score(value=1.0, rule=1.0, extracted="7", reason="equals gold '7'"),
    0: Score(value=0.0, rule=0.0, extracted="8", reason="differs from gold '7'"),
    None: Score(value=None, rule=0.0, extracted="8", status="unscored", reason="the judge could not be reached"),
}

PROTOCOL = {
    "max_prompt_tokens": 512,
    "max_completion_tokens": 64,
    "temperature": 0.7,
    "top_p": 0.95,
    "engine": "transformers",
    "judge": None,
    "document": "whole",
}
BOOTSTRAP = Bootstrap(resamples=200, confidence=0.95, seed=1)


def make_sample(example_id: str = "q0", value: int | None = 1, **changes) -> Sample:
    fields = dict(
        example_id=example_id, document_id=f"doc-{example_id}", domain="math", source="generated", sample=0,
        prompt_digest="00", prompt_tokens=300, lost_tokens=0, depth=None,
        completion="Therefore, the answer is 7.", num_tokens=7, finish_reason="stop",
        score=SCORES[value], metrics={}, seconds=0.5,
    )  # fmt: skip
    return Sample(**fields | changes)
