"""Small evaluations for the tests of evaluation, promotion, report and the commands that read them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from evaluation_tables import BOOTSTRAP, PROTOCOL, make_sample

from qwenlong_core.data.rows import write_examples
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, Plan
from qwenlong_core.evaluation.results import Evaluation, write_scores
from qwenlong_core.evaluation.samples import append_samples
from qwenlong_core.evaluation.scores import compute_scores
from qwenlong_core.records import Example


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    """``make(values, model="a", documents=None, domains=None)``: one sample per item."""

    def make(
        values: Sequence[int | None],
        model: str = "a",
        documents: Sequence[str] | None = None,
        domains: Sequence[str] | None = None,
        **changes,
    ) -> Evaluation:
        ids = [f"q{i:04d}" for i in range(len(values))]
        samples = tuple(
            make_sample(
                item,
                value,
                document_id=documents[i] if documents else item,
                domain=domains[i] if domains else "math",
                **changes,
            )
            for i, (item, value) in enumerate(zip(ids, values))
        )
        plan = Plan(
            model_digest=model * 12,
            dataset_digest="d" * 12,
            items=tuple(ids),
            samples=1,
            protocol=PROTOCOL,
            seed=7,
        )
        return Evaluation(plan=plan, samples=samples, scores=compute_scores(samples, BOOTSTRAP), bootstrap=BOOTSTRAP)

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


@pytest.fixture(scope="session")
def rows() -> list[Example]:
    """Ten rows of two domains on six documents; the last is too long for a 200-token prompt."""
    return [
        Example(
            id=f"r{i}",
            source="made",
            domain="math" if i % 2 else "reading",
            answer_type="number" if i % 2 else "span",
            question=f"What is number {i}?",
            answers=(str(i),),
            context=" ".join(f"Entry {n} is {n * 7}." for n in range(60 if i == 9 else i // 2)) + f" It is {i}.",
            document_id=f"d{i // 2}" if i < 8 else "",
        )
        for i in range(10)
    ]


@pytest.fixture
def data_folder(tmp_path, rows) -> Path:
    """A data artifact as the evaluate stage reads it."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_examples(folder / "eval.parquet", rows)
    return folder
