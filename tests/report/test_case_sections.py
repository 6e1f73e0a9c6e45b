"""The case studies on the page: question, gold, and each stage's answer with its verdict."""

from __future__ import annotations

import re
from dataclasses import replace

from evaluation_tables import make_sample

from qwenlong_core.evaluation.cases import CaseAnswer, write_case_answers
from qwenlong_core.jobs import ReportJob
from qwenlong_core.records import Score
from qwenlong_core.report.build import build_page

JOB = ReportJob(title="A run", bootstrap_resamples=200, confidence=0.95, seed=1)
ASKED = CaseAnswer(case="bond", question="What does it <cost>?", gold="$32.4 million", document="short")


def answered(extracted, value, completion):
    score = Score(value=value, rule=value, extracted=extracted, reason="equals gold" if value else "17.4 is not 32.4")
    sample = replace(make_sample("case-bond-short", value), completion=completion, score=score, prompt_tokens=1_295)
    return replace(ASKED, sample=sample)


def test_the_page_shows_each_stages_answer_and_whether_it_is_right(tmp_path, make_evaluation, write_evaluation):
    inputs = {
        f"evaluate-{name}": write_evaluation(make_evaluation([0, 1] * 3, model), tmp_path / name)
        for name, model in (("base", "a"), ("sft", "b"), ("grpo-1", "c"))
    }
    before = build_page(JOB, inputs)
    assert "Case studies" not in before
    not_asked = replace(ASKED, document="", why_not="its prompt is too long")
    write_case_answers([not_asked], inputs["evaluate-base"])
    write_case_answers([answered("$17.4 million", 0.0, "<script>x</script> $17.4 million")], inputs["evaluate-sft"])
    write_case_answers([answered("$32.4 million", 1.0, "So $32.4 million")], inputs["evaluate-grpo-1"])
    page = build_page(JOB, inputs)
    section = page[page.index("<h2>Case studies</h2>") :]
    section = section[: section.index("</section>")]
    assert "What does it &lt;cost&gt;? <strong>Right: $32.4 million</strong>" in section
    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in section.split("<tr>")[2:]]
    assert rows[0][:3] == ["base", "not", "asked"] and "its prompt is too long" in " ".join(rows[0])
    assert rows[1][:4] == ["sft", "wrong", "$17.4", "million"]
    assert rows[2][:4] == ["grpo-1", "right", "$32.4", "million"] and "short, 1,295 prompt tokens" in " ".join(rows[2])
    assert "<script>x" not in page and page.count("<script") == 1, "the page has one of its own"
    scores = slice(0, page.index("<h2>Case studies</h2>"))
    kept = slice(0, before.index("<h2>Sample answers</h2>") if "Sample answers" in before else None)
    assert re.findall(r"\d\.\d\d \[", page[scores]) == re.findall(r"\d\.\d\d \[", before[kept]), "in no score"
