"""The page is whole, runs nothing but its own script, and says on top what was decided."""

import hashlib
import html
import json
import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace

from report_pages import JOB, Page, example

from qwenlong_core.report.build import build_page, run
from qwenlong_core.report.reader import choose_samples, filters_of
from qwenlong_core.report.summary import origins_of
from qwenlong_core.store.artifacts import describe
from qwenlong_core.store.files import MANIFEST


def test_page_is_whole_self_contained_and_safe(inputs):
    text = build_page(JOB, inputs)
    page = Page(text)
    assert page.open == [] and page.styled == []
    assert page.addresses and set(page.addresses) <= {f"#{name}" for name in page.ids}
    assert not page.tags.keys() & {"link", "img", "iframe", "b"}
    assert "url(" not in text and "@import" not in text
    assert "A &lt;run&gt;" in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "too &lt;small&gt;" in text


def test_the_page_allows_its_own_script_and_style_and_nothing_else(inputs):
    text = build_page(JOB, inputs)
    [script], [style] = (
        re.findall(r"<script>(.*?)</script>", text, re.DOTALL),
        re.findall(r"<style>(.*?)</style>", text, re.DOTALL),
    )
    digests = [b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>"), "it holds for what comes after it"


def test_samples_can_be_filtered_by_what_tells_them_apart(inputs):
    text = build_page(JOB, inputs)
    assert set(re.findall(r'<select name="(\w+)"', text)) == {"domain", "outcome"}, "all have one length"
    items = re.findall(r'class="item" data-domain="(\w+)" data-outcome="(\w+)"', text)
    assert Counter(domain for domain, _ in items) == {"math": 6, "reading": 6}
    assert {outcome for _, outcome in items} == {"gained", "lost", "right"}


def test_lengths_are_in_their_own_order(make_evaluation):
    evaluation = make_evaluation([1] * 3)
    tokens = (2_000, 100, 300)
    samples = tuple(replace(s, prompt_tokens=count) for s, count in zip(evaluation.samples, tokens))
    rows = [example(item) for item in evaluation.plan.items]
    items = choose_samples({"base": replace(evaluation, samples=samples)}, "base", rows)
    assert filters_of(items) == {"length": ["0–256", "256–512", "1K–2K"]}


def test_an_answer_given_by_several_stages_is_shown_once(make_evaluation):
    evaluations = {
        "base": make_evaluation([0], "a"),
        "sft": make_evaluation([1], "b"),
        "grpo-1": make_evaluation([1], "c"),
    }
    [item] = choose_samples(evaluations, "base", [example("q0000")])
    assert [(a.stage, a.repeated_by) for a in item.answers] == [("grpo-1", ("sft",)), ("base", ())]


def test_a_phase_that_learned_nothing_is_named_on_top_and_for_the_runs_result(inputs, tmp_path):
    (tmp_path / "output").mkdir()
    run(JOB, inputs, tmp_path)
    assert json.loads((tmp_path / "output/warnings.json").read_text()) == []
    rows = [{"step": step, "reward": 0.0, "groups_kept": 0, "groups_drawn": 12} for step in (1, 2)]
    (inputs["grpo-1"] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(JOB, inputs, tmp_path)
    [said] = json.loads((tmp_path / "output/warnings.json").read_text())
    assert said.startswith("grpo-1 learned nothing: in none of its 24 groups did the answers differ in accuracy.")
    text = (tmp_path / "output/report.html").read_text()
    assert text.index("learned nothing") < text.index("<section")


def test_the_phases_make_one_curve_whose_steps_go_on(inputs, tmp_path):
    (tmp_path / "output").mkdir()
    lines = {
        "sft": [{"step": 1, "loss": 2.0}],
        "grpo-1": [
            {"step": 1, "reward": 0.5, "groups_kept": 1, "groups_drawn": 4, "time": 7.0},
            {"step": 2, "reward": 0.25},
        ],
        "grpo-2": [{"step": 1, "reward": 0.75, "kl": 0.1}],
    }
    for stage, rows in lines.items():
        inputs[stage] = tmp_path / "lines" / stage
        inputs[stage].mkdir(parents=True)
        (inputs[stage] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(JOB, inputs, tmp_path)
    assert json.loads((tmp_path / "output/phases.json").read_text()) == [
        {"step": 1, "phases/reward": 0.5, "phases/groups_kept_share": 0.25, "time": 7.0},
        {"step": 2, "phases/reward": 0.25},
        {"step": 3, "phases/reward": 0.75},
    ]


def test_a_stage_that_was_taken_up_again_says_how_often_and_at_what_cost(inputs):
    assert "taken up again" not in build_page(JOB, inputs)
    counted = JOB.model_copy(update={"taken_up": {"grpo-1": 2}, "lost_minutes": {"grpo-1": 3.25}})
    rows = dict(re.findall(r'data-name="stage">([^<]+)</td>(.*?)</tr>', build_page(counted, inputs)))
    cells = {
        name: re.findall(r'data-name="(taken up again|minutes lost)"[^>]*>([^<]+)<', row) for name, row in rows.items()
    }
    assert [("taken up again", "2"), ("minutes lost", "3.25")] in cells.values()
    assert [("taken up again", "0"), ("minutes lost", "0.00")] in cells.values()


def test_the_top_says_what_was_measured_and_decided(inputs, tmp_path):
    folder = tmp_path / "registration"
    folder.mkdir()
    (folder / "registration.json").write_text('{"name": "qwenlong", "version": "3"}')
    (inputs["grpo-1"] / "job.json").write_text('{"model": {"name": "my/model"}}')
    for name in ("grpo-1", "evaluate-sft"):
        manifest = describe(inputs[name], "model", parents={"data": "d" * 64}, settings_digest="", code_digest="")
        (inputs[name] / MANIFEST).write_text(
            manifest.model_copy(update={"created_at": f"2026-01-0{len(name) % 5}T10:11:12"}).model_dump_json()
        )
    top = build_page(JOB, inputs | {"register": folder}).partition("</header>")[0]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", top))
    assert facts.pop("Score of sft").startswith("0.75 [") and facts.pop("Gain over base").startswith("+0.25 [")
    assert facts == {
        "Made": "2026-01-02 10:11 UTC",
        "Base model": "my/model",
        "Registry version": "qwenlong version 3",
        "Verdict": "REFUSED",
    }


def test_the_lineage_names_what_is_only_known_as_an_input(tmp_path):
    def made(name, kind, **parents):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x").write_text(name)
        digests = {key: value * 64 for key, value in parents.items()}
        manifest = describe(folder, kind, parents=digests, settings_digest="", code_digest="")
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        return folder

    evaluation = made("evaluation", "evaluation", model="b", data="d")
    assert [one.name for one in origins_of({"evaluate-A": evaluation})] == ["model", "data", "evaluate-A"]
    sft = made("sft", "model", model="b", data="d")
    names = [one.name for one in origins_of({"sft": sft, "evaluate-base": evaluation})]
    assert sorted(names) == ["base model", "data", "evaluate-base", "sft"]
