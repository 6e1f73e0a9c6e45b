"""Evaluations made from plain tables of right and wrong, for tests that need no model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qwenlong_core.evaluation.plan import PLAN, SAMPLES, Plan
from qwenlong_core.evaluation.results import Evaluation, write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples
from qwenlong_core.evaluation.scores import Bootstrap, compute_scores
from qwenlong_core.records import Score

SCORES = {
    1: Score(value=1.0, rule=1.0, extracted="7", reason="equals gold '7'"),
    0: Score(value=0.0, rule=0.0, extracted="8", reason="differs from gold '7'"),
    None: Score(value=None, rule=0.0, extracted="8", status="unscored", reason="the judge could not be reached"),
}

BOOTSTRAP = Bootstrap(resamples=200, confidence=0.95, seed=1)


def make_sample(example_id: str = "q0", value: int | None = 1, **changes) -> Sample:
    fields = dict(
        example_id=example_id, document_id=f"doc-{example_id}", domain="math", source="generated", sample=0,
        prompt_digest="00", prompt_tokens=300, lost_tokens=0, depth=None,
        completion="Therefore, the answer is 7.", num_tokens=7, finish_reason="stop",
        score=SCORES[value], seconds=0.5,
    )  # fmt: skip
    return Sample(**fields | changes)


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    """``make(values, model="a", documents=None, domains=None)``: one sample per item."""

    def make(
        values: Sequence[int | None], model: str = "a", documents: Sequence[str] | None = None,
        domains: Sequence[str] | None = None, **changes,
    ) -> Evaluation:  # fmt: skip
        ids = [f"q{i:04d}" for i in range(len(values))]
        samples = tuple(
            make_sample(
                item, value,
                document_id=documents[i] if documents else item,
                domain=domains[i] if domains else "math",
                **changes,
            )
            for i, (item, value) in enumerate(zip(ids, values))
        )  # fmt: skip
        plan = Plan(
            model_digest=model * 12, dataset_digest="d" * 12, items=tuple(ids), samples=1,
            protocol={"temperature": 0.7}, seed=7,
        )  # fmt: skip
        return Evaluation(plan=plan, samples=samples, scores=compute_scores(samples, BOOTSTRAP))

    return make


@pytest.fixture
def write_evaluation() -> Callable[[Evaluation, Path], Path]:
    """Write an evaluation to a folder as the runner does."""

    def write(evaluation: Evaluation, folder: Path) -> Path:
        folder.mkdir()
        (folder / PLAN).write_text(evaluation.plan.model_dump_json())
        append_samples(folder / SAMPLES, evaluation.samples)
        write_scores(folder, BOOTSTRAP)
        return folder

    return write
