"""The gate opens for a proven gain and for nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qwenlong_core.config import PromotionSettings
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, SCORES
from qwenlong_core.evaluation.promotion import decide, decision_markdown, pair_items, run
from qwenlong_core.jobs import OUTPUT, PromoteJob

BOOT = {"resamples": 1_000, "confidence": 0.95, "seed": 1}
SETTINGS = PromotionSettings()


def failed(decision):
    return [condition.name for condition in decision.conditions if not condition.passed]


def gained(make):
    """30 more right answers of 100, none worse."""
    return make([1] * 50 + [0] * 50, "b"), make([1] * 20 + [0] * 80, "a")


def test_a_proven_gain_is_promoted(make_evaluation):
    decision = decide(*gained(make_evaluation), SETTINGS, **BOOT)
    assert decision.promote and not failed(decision)
    assert decision.gain.mean == pytest.approx(0.3)
    assert decision.gain.low > 0.15


def test_a_model_against_itself_is_refused(make_evaluation):
    one = make_evaluation([1, 0] * 30)
    assert failed(decide(one, one, SETTINGS, **BOOT)) == ["another model", "gain"]


def test_another_sampling_of_the_same_model_is_refused_even_when_lucky(make_evaluation):
    lucky, usual = gained(make_evaluation)
    same = replace(lucky, plan=usual.plan)
    assert failed(decide(same, usual, SETTINGS, **BOOT)) == ["another model"]


def test_a_gain_within_noise_is_refused(make_evaluation):
    decision = decide(make_evaluation([1] * 22 + [0] * 78, "b"), make_evaluation([0] * 3 + [1] * 20 + [0] * 77), SETTINGS, **BOOT)
    assert failed(decision) == ["gain"]
    assert "must lie above +0.000" in decision.reason


def test_many_questions_on_few_documents_prove_little(make_evaluation):
    new, old = [1] * 60 + [0] * 60, [0] * 30 + [1] * 30 + [0] * 60
    alone = decide(make_evaluation(new, "b"), make_evaluation(old), SETTINGS, **BOOT)
    documents = [f"d{i // 30}" for i in range(120)]
    shared = decide(
        make_evaluation(new, "b", documents), make_evaluation(old, "a", documents), SETTINGS, **BOOT
    )
    assert alone.promote
    assert failed(shared) == ["gain"]


def test_one_document_gives_no_interval(make_evaluation):
    documents = ["d"] * 10
    decision = decide(make_evaluation([1] * 10, "b", documents), make_evaluation([0] * 10, "a", documents), SETTINGS, **BOOT)
    assert failed(decision) == ["gain"] and "more documents" in decision.reason


def test_the_margin_must_be_cleared(make_evaluation):
    pair = gained(make_evaluation)
    assert decide(*pair, PromotionSettings(margin=0.15), **BOOT).promote
    assert failed(decide(*pair, PromotionSettings(margin=0.35), **BOOT)) == ["gain"]


def test_a_ruined_domain_is_refused_despite_the_gain(make_evaluation):
    domains = ["math"] * 80 + ["reading"] * 20
    new = make_evaluation([1] * 80 + [0] * 20, "b", domains=domains)
    old = make_evaluation([0] * 80 + [1] * 4 + [0] * 16, "a", domains=domains)
    decision = decide(new, old, SETTINGS, **BOOT)
    assert failed(decision) == ["no loss in reading"]
    assert "-0.200 over 20 items, may fall by 0.050; that it fell by more may be chance (p = 0." in decision.reason
    assert decide(new, old, PromotionSettings(max_domain_loss=0.2), **BOOT).promote


def test_unscored_counts_against_the_challenger_on_both_sides(make_evaluation):
    pairs = pair_items(make_evaluation([None, 1]).samples, make_evaluation([0, None]).samples)
    assert (pairs.challenger, pairs.champion) == ([0.0, 1.0], [0.0, 1.0])


def test_a_judge_that_was_down_promotes_nobody(make_evaluation):
    new, old = gained(make_evaluation)
    down = make_evaluation([None if i % 10 == 0 else 1 for i in range(100)], "b")
    assert failed(decide(down, old, SETTINGS, **BOOT)) == ["unscored share of the challenger"]
    silent = make_evaluation([None if i % 10 == 0 else 0 for i in range(100)])
    assert failed(decide(new, silent, SETTINGS, **BOOT)) == ["unscored share of the champion"]


def test_cut_completions_over_the_ceiling_are_refused(make_evaluation):
    _, old = gained(make_evaluation)
    new = make_evaluation([1] * 50 + [0] * 50, "b", finish_reason="length")
    assert failed(decide(new, old, SETTINGS, **BOOT)) == ["truncated share of the challenger"]


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_item_is_refused(make_evaluation, side):
    pair = list(gained(make_evaluation))
    pair[side] = replace(pair[side], samples=pair[side].samples[:-1])
    decision = decide(*pair, SETTINGS, **BOOT)
    assert failed(decision) == ["complete"]
    assert decision.gain is None


def test_other_data_is_refused(make_evaluation):
    new, old = gained(make_evaluation)
    changed = replace(new, plan=new.plan.model_copy(update={"dataset_digest": "e" * 12}))
    assert failed(decide(changed, old, SETTINGS, **BOOT)) == ["same data"]


def test_another_protocol_is_refused(make_evaluation):
    new, old = gained(make_evaluation)
    hotter = replace(new, plan=new.plan.model_copy(update={"protocol": new.plan.protocol | {"temperature": 1.0}}))
    decision = decide(hotter, old, SETTINGS, **BOOT)
    assert failed(decision) == ["same protocol"] and "temperature" in decision.reason


def test_the_verdict_reads_as_a_table(make_evaluation):
    one = make_evaluation([1, 0] * 30)
    text = decision_markdown(decide(one, one, SETTINGS, **BOOT))
    assert text.startswith("# Refused") and "| **FAIL** | gain | +0.000 [-0.060, +0.060]" in text


JOB = PromoteJob(promotion=SETTINGS, bootstrap_resamples=500, confidence=0.95, seed=1)


def decide_stage(tmp_path, challenger, champion):
    (tmp_path / OUTPUT).mkdir()
    run(JOB, {"challenger": challenger, "champion": champion}, tmp_path)
    return json.loads((tmp_path / OUTPUT / "decision.json").read_text())


def test_stage_promotes_and_writes_why(tmp_path, make_evaluation, write_evaluation):
    new, old = gained(make_evaluation)
    verdict = decide_stage(tmp_path, write_evaluation(new, tmp_path / "new"), write_evaluation(old, tmp_path / "old"))
    assert verdict["promote"] is True and len(verdict["conditions"]) == 9
    assert np.isclose(verdict["gain"]["mean"], 0.3)
    assert (tmp_path / OUTPUT / "decision.md").read_text().startswith("# Promoted")


@pytest.mark.parametrize("name", [PLAN, SAMPLES, SCORES])
def test_stage_refuses_what_it_cannot_read(tmp_path, make_evaluation, write_evaluation, name):
    new, old = gained(make_evaluation)
    folder = write_evaluation(new, tmp_path / "new")
    (folder / name).unlink()
    verdict = decide_stage(tmp_path, folder, write_evaluation(old, tmp_path / "old"))
    assert verdict["promote"] is False and name in verdict["reason"]


def test_stage_refuses_a_log_that_was_edited(tmp_path, make_evaluation, write_evaluation):
    new, old = gained(make_evaluation)
    folder = write_evaluation(new, tmp_path / "new")
    text = (folder / SAMPLES).read_text()
    (folder / SAMPLES).write_text(text.replace('"rule": 0.0', '"rule": 1.0'))
    verdict = decide_stage(tmp_path, folder, write_evaluation(old, tmp_path / "old"))
    assert verdict["promote"] is False and "damaged" in verdict["reason"]
