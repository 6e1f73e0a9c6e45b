"""Long benchmarks and the paper's own scoring in the tables, from a log on disk to the page."""

import pytest

from qwenlong_core.data.ruler.tasks import TASKS
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, Plan
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.results import read_evaluation, write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.jobs import ReportJob
from qwenlong_core.records import Score
from qwenlong_core.report.build import build_page
from qwenlong_core.report.paper import paper_rows
from qwenlong_core.report.parts import notes_of, part_tables
from qwenlong_core.report.reader import _outcome

PROTOCOL = {
    "judge": None, "max_prompt_tokens": 8_000, "max_completion_tokens": 64, "temperature": 0.0, "top_p": 1.0,
    "engine": "transformers", "document": "whole",
}  # fmt: skip


def sample(source, item, value, parts=(), **metrics):
    return Sample(
        example_id=f"{source}-{item}", document_id=f"{source}-{item}", domain="reading", source=source, sample=0,
        prompt_digest="", prompt_tokens=900, lost_tokens=0, depth=None, completion="x", num_tokens=1,
        finish_reason="stop", score=Score(value=value, rule=value, extracted="x"), metrics=metrics, parts=parts,
        seconds=0.0,
    )  # fmt: skip


def evaluation(folder, samples):
    folder.mkdir()
    plan = Plan(
        model_digest="m", dataset_digest="d", items=tuple(s.example_id for s in samples), samples=1, protocol=PROTOCOL,
        seed=1,
    )  # fmt: skip
    (folder / PLAN).write_text(plan.model_dump_json())
    append_samples(folder / SAMPLES, samples)
    write_scores(folder, Bootstrap(resamples=100, confidence=0.95, seed=1))
    return read_evaluation(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("parts") / "log"
    samples = [sample("ruler-1K", task, 0.9, (task,)) for task in TASKS]
    samples += [sample("ruler-2K", task, 0.5, (task,)) for task in TASKS]
    samples += [sample("mrcr-2needle", i, 0.25, (name,)) for i, name in enumerate(("4K–8K", "8K–16K"))]
    samples += [sample("aa-lcr", 0, 0.0, ("Legal",))]
    samples += [sample(name, 0, 0.0, qwenlong_l1=1.0) for name in BENCHMARKS]
    samples += [sample("musique", 1, 1.0)]  # left out by the paper's scoring
    evaluation(found, samples)
    return found


def test_tables_of_parts(folder):
    found = read_evaluation(folder)
    tables = dict(part_tables(found))
    ruler, parts, published = tables.values()
    assert [row["task"] for row in ruler] == [*TASKS, "average"]
    assert {(row["1K"], row["2K"]) for row in ruler} == {("90.0", "50.0")}
    assert found.scores.ruler.effective == "1K"
    assert {(row["benchmark"], row["part"]) for row in parts} >= {("mrcr-2needle", "4K–8K"), ("aa-lcr", "Legal")}
    by_name = {row["benchmark"]: row for row in published}
    assert by_name["musique"] == {
        "benchmark": "musique", "score here": "50.0", "as qwenlong-l1": "100.0", "difference": "+50.0", "left out": 1,
    }  # fmt: skip
    assert by_name["average of the seven"]["as qwenlong-l1"] == "100.0"


def test_what_differs_from_the_published_way_is_said(folder):
    notes = notes_of(read_evaluation(folder))
    assert any("aa-lcr: judge none" in note for note in notes)
    assert any("aa-lcr: answers per question: 1; published with 4" in note for note in notes)


def test_the_page_shows_them_and_the_papers_table_has_the_comparable_row(folder):
    rows = paper_rows({"base": read_evaluation(folder)})
    assert rows[-1]["model"].endswith("scored as the paper does)") and rows[-1]["MuSiQue"] == "100.0"
    assert rows[-2]["MuSiQue"] == "50.0"
    job = ReportJob(title="t", notes=(), bootstrap_resamples=100, confidence=0.95, seed=1)
    page = build_page(job, {"evaluate-base": folder})
    for words in ("RULER: percent of each task", "niah_multikey_3", "effective length 1K", "as qwenlong-l1"):
        assert words in page


@pytest.mark.parametrize(
    ("before", "after", "said"), [(0.2, 0.2, "wrong"), (0.2, 0.6, "gained"), (1.0, 0.4, "lost"), (1.0, 1.0, "right")]
)
def test_the_reader_takes_parts_of_a_score(before, after, said):
    assert _outcome(sample("ruler-1K", 0, before), sample("ruler-1K", 0, after)) == said


def test_an_evaluation_without_parts_has_no_such_tables(tmp_path):
    found = evaluation(tmp_path / "log", [sample("musique", 0, 1.0)])
    assert part_tables(found) == [] and notes_of(found) == [] and found.scores.ruler is None
