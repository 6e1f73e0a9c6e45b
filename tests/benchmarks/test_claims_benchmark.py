"""The claims benchmark: its judge, its rows, and what its tables say of results that are known."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/learning"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/claims"))

from arms import CLAIMS, Arm, Claim
from claims import recorded, report
from drift import kl_per_token, next_logprobs
from judge import ACCEPTED, ACCEPTED_IN_OTHER_WORDS, REFUSED, serving, verdict
from tables import at_the_level_of_both, reached, saved, summary, table
from world import half_in_other_words, in_other_words, make_rows, masked, phase_limits, settings_of

from qwenlong.tasks.specs import prepare_stage
from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.rewards.health import check_judge
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.judge_prompt import judge_messages, read_verdict
from qwenlong_core.rewards.rules import rule_score
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.store.files import digest_json

Row = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizer():
    return bundled_tokenizer()


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [
        generate(tokenizer, domain="multihop", kind="bridge_2", tokens=160, seed=f"test/{index}").example
        for index in range(4)
    ]


def test_arms_share_prepared_rows_only_if_the_rows_are_in_the_same_phases(tmp_path):
    """One stage with the rows of three phases would train on the short ones alone."""
    (tmp_path / "limits.json").write_text("[200, 260, 320]")
    for name in ("sft", "train", "eval", "sft-words", "train-masked"):
        (tmp_path / f"{name}.jsonl").write_text("")
    arms = {arm.name: arm for claim in CLAIMS.values() for arm in claim.arms.values()}
    by_job: dict[str, list[str]] = {}
    for name, arm in arms.items():
        job = digest_json(prepare_stage(settings_of(tmp_path, arm, 0, 1)).job)
        by_job.setdefault(job, []).append(name)
    assert sorted(sorted(names) for names in by_job.values()) == [
        ["hybrid", "rule-alone"],
        ["judge-alone"],
        ["long-sft", "no-retrospective", "no-sft", "phases", "uniform"],
        ["masked", "no-dynamic", "no-penalty", "one-stage"],
    ]


def test_the_judge_errs_at_its_rates():
    questions = [f"In which town was the director of film {number} born?" for number in range(4000)]

    def accepted(answer: str) -> float:
        return sum(verdict(question, "Aldale", answer) for question in questions) / len(questions)

    within = pytest.approx
    assert accepted("Aldale") == within(1 - REFUSED, abs=0.015)
    assert accepted("Aldaleville") == within(1 - REFUSED, abs=0.015)
    assert accepted("Ostburg") == within(ACCEPTED, abs=0.015)
    assert accepted("Ostburgville") == within(ACCEPTED_IN_OTHER_WORDS, abs=0.025)
    assert verdict(questions[0], "Aldale", "Ostburg") == verdict(questions[0], "Aldale", "Ostburg")


def test_the_judge_answers_the_projects_own_prompt():
    """For a masked reference it decides as for the town that the mask stands for."""
    question = "In which town was the director of The Velvet Carnival born?"
    with serving({"town of train-1": "Aldale"}) as url:
        for gold in ("Aldale", "town of train-1"):
            for answer in ("Aldale", "Aldaleville", "Ostburg"):
                body = {"model": "m", "messages": judge_messages(question, (gold,), answer)}
                reply = httpx.post(f"{url}/chat/completions", json=body).json()
                said = read_verdict(reply["choices"][0]["message"]["content"])
                assert said == verdict(question, "Aldale", answer)


def test_the_judge_passes_the_check_before_a_run():
    with serving({}) as url:
        judge = Judge(JudgeSettings(base_url=url, model="by-construction"))
        health = asyncio.run(check_judge(judge))
    assert health.agreement == 1


def test_a_rule_pays_the_towns_own_name_alone_and_leaves_the_rest_to_a_judge(rows):
    """Else the arms would not differ in what they are paid for."""
    for row in rows:
        town = row.answers[0]
        assert rule_score(town, row).value == 1
        for answer, asked in ((in_other_words(town), row), (town, masked(row))):
            ruled = rule_score(answer, asked)
            assert (ruled.value, ruled.decided) == (0, False)


def test_every_other_solution_ends_in_other_words(rows):
    for index, (row, other) in enumerate(zip(rows, half_in_other_words(rows), strict=True)):
        town, told = row.answers[0], other.solution or ""
        assert told.endswith(f"the answer is {in_other_words(town) if index % 2 else town}.")
        assert told.count(in_other_words(town)) == index % 2  # the thoughts keep the document's name


def test_phases_are_told_apart_by_their_limits(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules["world"].ROWS, "train", 9)
    monkeypatch.setattr("world.bundled_tokenizer", lambda: tokenizer)
    made = make_rows("train")
    limits = phase_limits(tokenizer, made)
    assert limits == sorted(limits) and len(set(limits)) == 3
    with pytest.raises(ValueError, match="the next starts at"):
        phase_limits(tokenizer, made[::-1])


def points(*values: tuple[int, float]) -> list[Row]:
    """Step and accuracy; two questions, ten tokens a step, a KL of a hundredth of the step."""
    return [
        {"step": step, "tokens": 10 * step, "kl": step / 100, "by_construction": by, "other_words": by, "accuracy": by}
        for step, value in values
        for by in [{"a": value - 0.1, "b": value + 0.1}]
    ]


def result(*values: tuple[int, float]) -> Row:
    last = {"entropy": 0.1, "grad_norm": 1.0, "accuracy": 0.5}
    ends = {"start": {"a": 0.0, "b": 1.0}, "end": {"a": 1.0, "b": 1.0}}
    return {"points": points(*values), "greedy": ends, "last": last, "seconds": 1}


def test_steps_to_an_accuracy_by_hand():
    """0.4 at 0, 0.5 at 10, 0.7 at 20: 0.6 lies half way between the last two."""
    curve = points((0, 0.4), (10, 0.5), (20, 0.7))
    assert reached(curve, 0.6, "step") == pytest.approx(15)
    assert reached(curve, 0.6, "tokens") == pytest.approx(150)
    assert reached(curve, 0.4, "step") == 0
    with pytest.raises(ValueError, match="no point reaches"):
        reached(curve, 0.8, "step")


def test_savings_are_taken_where_both_arrive():
    """The slow arm ends at 0.6, where the fast one is after 10 of 20 steps: it needs half."""
    fast, slow = result((0, 0.4), (10, 0.6), (20, 0.8)), result((0, 0.4), (10, 0.5), (20, 0.6))
    assert at_the_level_of_both(fast, slow, "step") == pytest.approx((10, 20))
    assert saved([fast, fast], [slow, slow], "step") == "+50% [+50%, +50%]"
    both_ways = saved([fast, slow], [slow, fast], "step")  # half and twice as many
    assert both_ways.startswith("+0% [-")
    fallen = result((0, 0.4), (10, 0.3))
    assert at_the_level_of_both(fast, fallen, "step") is None
    assert "the curves overlap in 1 of 2 seeds" in saved([fast, fast], [slow, fallen], "step")


def test_the_table_has_arms_and_differences():
    claim = Claim("c", "somebody: a helps", "gain", {"a": Arm("one"), "b": Arm("other")})
    a, b = result((0, 0.4), (10, 0.6)), result((0, 0.4), (10, 0.5))
    shown = table(claim, {"a": [a, a], "b": [b, b]})
    assert "| a | 0.400 | 0.600 | 0.200 | 1.000 |" in shown
    half = "+0.500 [+0.500, +0.500]"  # one of two questions more, greedy, with every seed
    assert f"| a | +0.200 [+0.200, +0.200] | +0.200 [+0.200, +0.200] | {half} | +0.500 [" in shown
    assert "| a minus b | over seeds | over questions |" in shown
    assert "| accuracy | +0.100 [+0.100, +0.100] | +0.100 [+0.100, +0.100] |" in shown
    row = "| somebody: a helps | a minus b | gain: +0.100 [+0.100, +0.100] |  |"
    assert summary([(claim, {"a": [a, a], "b": [b, b]})]).splitlines()[2] == row
    assert "minus" not in table(claim, {"a": [a], "b": [b]})  # a pilot has no intervals


def test_the_page_holds_what_was_recorded():
    page = (Path(__file__).parents[2] / "docs/claims.md").read_text()
    done = [(claim, results) for claim in CLAIMS.values() if (results := recorded(claim)) is not None]
    assert done
    assert summary(done) in page
    for claim, results in done:
        assert report(claim, results) in page
        assert f"(../benchmarks/claims/results/{claim.name}.svg)" in page


def test_every_claim_compares_arms_of_equal_steps():
    for claim in CLAIMS.values():
        assert len({sum(arm.steps) for arm in claim.arms.values()}) == 1
        assert len({arm.name for arm in claim.arms.values()}) == len(claim.arms) >= 2


def test_arms_of_one_name_are_one_run():
    """Claims share the result files, which bear the name."""
    arms = [arm for claim in CLAIMS.values() for arm in claim.arms.values()]
    named = {arm.name: arm for arm in arms}
    assert all(named[arm.name] == arm for arm in arms)
    assert len(named) < len(arms)


def test_next_logprobs_against_one_row_at_a_time():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()
    batch = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10])]
    expected = []
    for prompt, answer in batch:
        with torch.no_grad():
            expected.append(model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1))
    found = next_logprobs(model, batch)
    assert found.shape == (6, 11)
    torch.testing.assert_close(found, torch.cat(expected))


def test_the_drift_is_the_mean_divergence_of_the_places(tmp_path, monkeypatch, rows):
    """Two models whose next token depends on nothing: the divergence of two known distributions."""
    start, trained = ([math.log(p) for p in ps] for ps in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]))
    monkeypatch.setattr("drift.load_tokenizer", lambda folder: bundled_tokenizer())
    monkeypatch.setattr(
        "drift.AutoModelForCausalLM",
        SimpleNamespace(from_pretrained=lambda folder, dtype: SimpleNamespace(eval=lambda: constant(folder))),
    )

    def constant(logits):
        return lambda input_ids, use_cache: SimpleNamespace(logits=torch.tensor(logits).expand(*input_ids.shape, 3))

    sample = SimpleNamespace(sample=0, completion="Aldale.", example_id=rows[0].id, finish_reason="stop")
    monkeypatch.setattr("drift.read_samples", lambda log: [sample])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert kl_per_token(start, trained, tmp_path, rows) == pytest.approx(expected)


def test_masks_do_not_change_the_question(rows):
    hidden = masked(rows[0])
    assert hidden == replace(rows[0], answers=hidden.answers)
    assert json.dumps(hidden.to_dict())
