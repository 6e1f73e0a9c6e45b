"""The page holds what it should, escapes what models wrote, and reaches for nothing outside."""

import json
import pickle
import re
from dataclasses import replace

import pytest
from evaluation_tables import BOOTSTRAP
from report_pages import JOB, Page, example

from qwenlong_core.data.rows import write_examples
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.markdown import markdown_table
from qwenlong_core.report.build import build_page, run
from qwenlong_core.report.charts import Series, Whisker, forest_chart, line_chart, nice_ticks
from qwenlong_core.report.curves import training_panels
from qwenlong_core.report.reader import MAX_DOCUMENT_CHARS, choose_samples, mark_document, split_thinking
from qwenlong_core.report.tables import intervals, score_rows, scores_table
from qwenlong_core.stage_main import OUTPUT


def test_rows_are_numbers_that_read_with_their_interval(make_evaluation):
    base, better = make_evaluation([0] * 10 + [1] * 10), make_evaluation([1] * 20, "b")
    rows = score_rows({"base": base, "sft": better})
    assert [row["stage"] for row in rows] == ["base", "sft"]
    assert rows[0]["overall"] == 0.5 and re.fullmatch(r"0\.50 \[0\.\d\d, 0\.\d\d\]", str(rows[0]["overall"]))
    assert rows[1]["gain over base"] == 0.5
    assert re.fullmatch(r"\+0\.50 \[\+0\.[23]\d, \+0\.[67]\d\]", str(rows[1]["gain over base"]))
    assert rows[0]["gain over base"] == ""
    assert json.loads(json.dumps(rows))[1] == {
        "stage": "sft",
        "overall": 1.0,
        "math": 1.0,
        "gain over base": 0.5,
        "items": 20,
    }
    again = pickle.loads(pickle.dumps(rows))
    assert [str(cell) for cell in again[1].values()] == [str(cell) for cell in rows[1].values()]


def test_intervals_are_the_ends_that_the_cells_show(inputs):
    rows = scores_table({"base": inputs["evaluate-base"], "sft": inputs["evaluate-sft"]})
    found = intervals(rows)
    low, high = found["sft"]["gain over base"]
    assert str(rows[1]["gain over base"]) == f"+0.25 [{low:+.2f}, {high:+.2f}]"
    assert set(found["base"]) == {"overall", "math", "reading"}


def test_a_cell_stays_one_cell_and_numbers_stand_right():
    rows = [{"name": "a|b", "count": 1}, {"name": "two\nlines", "count": 20}]
    assert markdown_table(rows, numbers=True) == (
        "| name | count |\n| --- | ---: |\n| a\\|b | 1 |\n| two lines | 20 |\n"
    )
    assert markdown_table([]) == ""


def test_markdown_table_of_folders(inputs):
    text = markdown_table(scores_table({"base": inputs["evaluate-base"], "sft": inputs["evaluate-sft"]}))
    lines = text.splitlines()
    assert lines[0] == "| stage | overall | math | reading | gain over base | items |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2].startswith("| base | 0.50 [") and lines[3].startswith("| sft | 0.75 [") and len(lines) == 4


def test_champion_is_the_baseline_where_there_is_no_base(make_evaluation):
    one = make_evaluation([0, 1] * 5)
    rows = score_rows({"challenger": make_evaluation([1] * 10, "b"), "champion": one})
    assert rows[0]["gain over champion"] == 0.5 and rows[1]["gain over champion"] == ""


def test_stages_that_answered_other_items_are_not_compared(make_evaluation):
    with pytest.raises(ValueError, match="different items"):
        score_rows({"base": make_evaluation([1, 0]), "sft": make_evaluation([1, 0, 1], "b")})


def test_page_shows_every_part(inputs):
    text = build_page(JOB, inputs)
    for part in (
        "Scaled down.", "Scores", "0.50 [", "+0.25", "✗ fail", "Accuracy by prompt length",
        "Reward and accuracy", "Groups kept", "<mark>Paris</mark>", "Thinking, 2 characters", "too long 3",
        "2e-06", "QwenLong-L1-32B (DAPO)", "70.7", "equals gold &#39;7&#39;",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("missing", ["data", "grpo-1", "promote"])
def test_a_part_that_is_not_given_is_left_out(inputs, missing):
    assert Page(build_page(JOB, {name: folder for name, folder in inputs.items() if name != missing})).open == []


def test_probe_says_what_needs_no_document(tmp_path, inputs, make_evaluation, write_evaluation):
    probe = make_evaluation([1] * 3 + [0] * 9)
    with pytest.raises(ValueError, match="was asked with documents"):
        build_page(JOB, inputs | {"probe": write_evaluation(probe, tmp_path / "asked")})
    protocol = probe.plan.protocol | {"document": "none"}
    without = replace(probe, plan=probe.plan.model_copy(update={"protocol": protocol}))
    assert "still answers 0.25 [" in build_page(JOB, inputs | {"probe": write_evaluation(without, tmp_path / "probe")})


def test_a_run_on_the_paper_s_benchmarks_stands_below_the_paper_s_scores(
    inputs, tmp_path, make_evaluation, write_evaluation
):
    folder = write_evaluation(make_evaluation([1] * 3 + [0] * 9, source="musique"), tmp_path / "one")
    text = build_page(JOB, {"evaluate-mine": folder})
    [row] = re.findall(r"<tr><td[^>]*>mine \(this run\)</td>(.*?)</tr>", text, re.DOTALL)
    assert re.findall(r'data-name="([\w ]+)"[^>]*>([^<]*)<', row) == [
        ("DocMath", ""),
        ("FRAMES", ""),
        ("2WikiMQA", ""),
        ("HotpotQA", ""),
        ("MuSiQue", "25.0"),
        ("NarrativeQA", ""),
        ("Qasper", ""),
        (
            AVERAGE,
            "no average of the seven (not evaluated: docmath, frames, 2wikimultihopqa, hotpotqa, narrativeqa, qasper)",
        ),
    ]
    assert "temperature" not in text.partition("differs from the paper")[2].partition("</p>")[0], "it is the paper's"
    assert "max prompt tokens 512 here, 120000 in the paper" in text and "judge none (rules only) here" in text
    assert "12 questions of MuSiQue here, 200 in the paper" in text
    assert "QwenLong-L1-32B (DAPO) (paper)" in text
    assert "(this run)" not in build_page(JOB, inputs), "generated questions are none of the paper's"


def test_the_options_of_a_question_stand_on_lines_of_their_own(tmp_path, make_evaluation, write_evaluation):
    (tmp_path / "data").mkdir()
    row = example(answer_type="choice", choices=("in Paris", "in Rome"), answers=("A",))
    write_examples(tmp_path / "data" / "eval.parquet", [row])
    folder = write_evaluation(make_evaluation([1]), tmp_path / "one")
    text = build_page(JOB, {"evaluate-one": folder, "data": tmp_path / "data"})
    assert "Where?<br>(A) in Paris<br>(B) in Rome</p>" in text


def test_one_evaluation_is_compared_with_nothing(tmp_path, make_evaluation, write_evaluation):
    folder = write_evaluation(make_evaluation([1] * 3 + [0] * 9), tmp_path / "one")
    text = build_page(JOB, {"evaluate-a-model-with-a-long-name": folder})
    assert "gain over" not in text and "Gains are" not in text and "Evaluated: a-model-with-a-long-name." in text
    assert ">a-model-wi…</text>" in text


def test_training_alone_makes_a_page(inputs):
    text = build_page(JOB, {"grpo-1": inputs["grpo-1"]})
    assert "Reward and accuracy" in text and 'id="scores"' not in text


def test_stage_writes_the_page_and_refuses_a_damaged_log(tmp_path, inputs):
    (tmp_path / "work" / OUTPUT).mkdir(parents=True)
    run(JOB, inputs, tmp_path / "work")
    assert (tmp_path / "work" / OUTPUT / "report.html").read_text().startswith("<!doctype html>")
    with (inputs["evaluate-sft"] / "samples.jsonl").open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(ValueError, match="damaged"):
        run(JOB, inputs, tmp_path / "work")


@pytest.mark.parametrize(
    ("completion", "parts"),
    [
        ("<think>a</think> b", ("a", "b")),
        ("a</think>b", ("a", "b")),
        ("<think>never ends", ("never ends", "")),
        ("plain", ("", "plain")),
    ],
)
def test_thinking_is_split_off(completion, parts):
    assert split_thinking(completion) == parts


def test_evidence_is_underlined_and_gold_marked_within_it():
    row = example(context="x < y. It was in Paris, said Paris.", metadata={"evidence": [[7, 22]]})
    document, shown = mark_document(row)
    assert document == 'x &lt; y. <span class="evidence">It was in <mark>Paris</mark></span>, said <mark>Paris</mark>.'
    assert shown == (0, 35)


def test_evidence_of_a_shortened_document_is_not_guessed():
    row = example(metadata={"evidence": [[0, 5]], "lost_tokens": 9})
    assert "evidence" not in mark_document(row)[0]


def test_a_long_document_is_shown_around_its_evidence():
    row = example(context="a" * 20_000 + " Paris " + "b" * 20_000)
    document, (low, high) = mark_document(row)
    assert high - low == MAX_DOCUMENT_CHARS and low < 20_000 < high and "<mark>Paris</mark>" in document
    assert mark_document(example(context="c" * 20_000))[1] == (0, MAX_DOCUMENT_CHARS)


def test_reader_takes_domains_and_outcomes_in_turn(make_evaluation):
    domains = ["math"] * 40 + ["reading"] * 2
    base = make_evaluation([0] * 42, "a", domains=domains)
    last = make_evaluation([0] * 39 + [1] + [0, 1], "b", domains=domains)
    rows = [example(f"q{i:04d}", domain=domain) for i, domain in enumerate(domains)]
    items = choose_samples({"base": base, "sft": last}, "base", rows)
    assert len(items) == 24
    assert {(i.example.domain, i.outcome) for i in items} == {
        ("math", "gained"),
        ("math", "wrong"),
        ("reading", "gained"),
        ("reading", "wrong"),
    }
    assert [answer.stage for answer in items[0].answers] == ["sft", "base"]


def test_phases_follow_one_another_on_the_step_axis(tmp_path):
    for phase, steps in (("grpo-1", (1, 2)), ("grpo-2", (1, 2, 3))):
        (tmp_path / phase).mkdir()
        (tmp_path / phase / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": s, "reward": s, "entropy": None}) + "\n" for s in steps)
        )
    panels = training_panels({name: tmp_path / name for name in ("grpo-1", "grpo-2")})
    assert [panel.title for panel in panels] == ["Reward and accuracy"]
    svg = str(panels[0].chart)
    points = re.search(r'polyline points="([^"]+)"', svg)[1].split()
    assert len(points) == 5 and [float(p.split(",")[0]) for p in points] == pytest.approx([40, 112.5, 185, 257.5, 330])
    assert "grpo-2" in svg


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.5, 1.0]), (0, 7, [0, 2, 4, 6, 8]), (-0.6, 0, [-0.6, -0.4, -0.2, 0]), (5, 5, [4, 6, 8, 10])],
)
def test_ticks_are_round_and_cover(low, high, ticks):
    found = nice_ticks(low, high)
    assert found == pytest.approx(ticks)
    assert found[0] <= low and found[-1] >= high


def test_charts_escape_names_and_say_their_numbers():
    svg = forest_chart(
        "All", [Whisker(label="<a>", mean=0.25, low=0.1, high=0.5), Whisker(label="b", mean=1, low=None, high=None)]
    )
    assert "&lt;a&gt; 0.25 [0.10, 0.50], b 1.00" in svg and "<a>" not in svg
    assert "nan" not in line_chart("Flat", [Series(name="x", points=[(1, 0.0)])])


def test_a_mark_at_the_right_edge_is_written_to_its_left():
    chart = line_chart("Steps", [Series(name="x", points=[(1, 0.0), (6, 1.0)])], marks=[(1, "grpo-1"), (6, "grpo-3")])
    assert dict(re.findall(r'text-anchor="(\w+)" class="tick">(grpo-\d)<', chart)) == {
        "start": "grpo-1",
        "end": "grpo-3",
    }


def test_an_answer_without_a_score_keeps_its_status_in_the_reader(make_evaluation):
    evaluation = make_evaluation([None])
    item = choose_samples({"base": evaluation}, "base", [example("q0000")])[0]
    assert item.answers[0].verdict == "unscored"


def test_bootstrap_of_the_job_draws_the_gain(make_evaluation):
    pair = {"base": make_evaluation([0, 1] * 20), "sft": make_evaluation([1, 1, 1, 0] * 10, "b")}
    wide = score_rows(pair, BOOTSTRAP.model_copy(update={"confidence": 0.99}))[1]["gain over base"]
    usual = score_rows(pair)[1]["gain over base"]
    assert wide.estimate.low < usual.estimate.low


def test_planned_beside_measured(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "seconds": seconds, "memory_mb": memory}) + "\n"
            for step, seconds, memory in ((1, 90.0, 4096), (2, 10.0, 3072), (3, 14.0, 3072))
        )
    )
    job = JOB.model_copy(update={"planned_seconds": {"grpo-1": 11.0, "sft": 2.0}, "planned_gib": {"grpo-1": 4.5}})
    page = build_page(job, {"grpo-1": tmp_path})
    # The first step counts for memory alone, and a stage without steps has no row.
    row = re.search(r"<td[^>]*>grpo-1</td>(.*?)</tr>", page[page.index("Planned beside measured") :], re.DOTALL)
    assert row is not None
    assert re.findall(r">([\d.]+)</td>", row[1]) == ["11", "12", "4.50", "4.00"]
    assert "Planned beside measured" not in build_page(JOB, {"grpo-1": tmp_path})
