"""The gate opens for a proven gain and for nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from qwenlong_core.data.rows import dataset_digest, write_examples
from qwenlong_core.evaluation.pairs import pair_items
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, SCORES
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.jobs import PromoteJob
from qwenlong_core.promotion.decision import decision_markdown
from qwenlong_core.promotion.gate import decide, run
from qwenlong_core.records import Example
from qwenlong_core.settings.evaluation import PromotionSettings
from qwenlong_core.stage_main import OUTPUT

BOOT = Bootstrap(resamples=1_000, confidence=0.95, seed=1)
SETTINGS = PromotionSettings()


def failed(decision):
    return [condition.name for condition in decision.conditions if not condition.passed]


def gained(make):
    """30 more right answers of 100, none worse."""
    return make([1] * 50 + [0] * 50, "b"), make([1] * 20 + [0] * 80, "a")


def test_a_proven_gain_is_promoted(make_evaluation):
    decision = decide(*gained(make_evaluation), SETTINGS, BOOT)
    assert decision.promote and not failed(decision)
    assert decision.gain.mean == pytest.approx(0.3)
    assert decision.gain.low > 0.15


def test_a_model_against_itself_is_refused(make_evaluation):
    one = make_evaluation([1, 0] * 30)
    assert failed(decide(one, one, SETTINGS, BOOT)) == ["another model", "gain"]


def test_another_sampling_of_the_same_model_is_refused_even_when_lucky(make_evaluation):
    lucky, usual = gained(make_evaluation)
    same = replace(lucky, plan=usual.plan)
    assert failed(decide(same, usual, SETTINGS, BOOT)) == ["another model"]


def test_a_gain_within_noise_is_refused(make_evaluation):
    decision = decide(
        make_evaluation([1] * 22 + [0] * 78, "b"), make_evaluation([0] * 3 + [1] * 20 + [0] * 77), SETTINGS, BOOT
    )
    assert failed(decision) == ["gain"]
    assert "must lie above +0.000" in decision.reason


def test_many_questions_on_few_documents_prove_little(make_evaluation):
    new, old = [1] * 60 + [0] * 60, [0] * 30 + [1] * 30 + [0] * 60
    alone = decide(make_evaluation(new, "b"), make_evaluation(old), SETTINGS, BOOT)
    documents = [f"d{i // 30}" for i in range(120)]
    shared = decide(make_evaluation(new, "b", documents), make_evaluation(old, "a", documents), SETTINGS, BOOT)
    assert alone.promote
    assert failed(shared) == ["gain"]


def test_one_document_gives_no_interval(make_evaluation):
    documents = ["d"] * 10
    decision = decide(
        make_evaluation([1] * 10, "b", documents), make_evaluation([0] * 10, "a", documents), SETTINGS, BOOT
    )
    assert failed(decision) == ["gain"] and "more documents" in decision.reason


def test_the_margin_must_be_cleared(make_evaluation):
    pair = gained(make_evaluation)
    assert decide(*pair, PromotionSettings(margin=0.15), BOOT).promote
    assert failed(decide(*pair, PromotionSettings(margin=0.35), BOOT)) == ["gain"]


def test_a_ruined_benchmark_is_refused_despite_the_gain(make_evaluation):
    domains = ["math"] * 80 + ["reading"] * 20
    new = make_evaluation([1] * 80 + [0] * 20, "b", domains=domains)
    old = make_evaluation([0] * 80 + [1] * 6 + [0] * 14, "a", domains=domains)
    decision = decide(new, old, SETTINGS, BOOT)
    assert failed(decision) == ["no loss in generated-reading"]
    assert "-0.300 over 20 items, may fall by 0.050; that it fell is proven (p = 0.0" in decision.reason
    assert decide(new, old, PromotionSettings(max_loss=0.3), BOOT).promote
    assert decide(new, old, PromotionSettings(max_loss_of={"generated-reading": 0.3}), BOOT).promote


def test_losses_are_tested_against_each_benchmark_s_own_margin_with_holm_s_correction(make_evaluation):
    """Six benchmarks; the p-values are a t-test's over items, the sources' names are the benchmarks'."""
    rng = np.random.default_rng(5)
    fell = [0.30, 0.20, 0.15, 0.10, 0.05, 0.0]
    names = [f"b{k}" for k in range(6) for _ in range(40)]
    old = np.array([1] * 240)
    new = np.array([int(rng.random() >= share) for share in fell for _ in range(40)])
    both = [
        replace(e, samples=tuple(replace(s, source=n) for s, n in zip(e.samples, names)))
        for e in (make_evaluation(list(map(int, new)), "b"), make_evaluation(list(map(int, old))))
    ]
    decision = decide(*both, PromotionSettings(max_loss=0.05, max_loss_of={"b1": 0.5}, loss_confidence=0.95), BOOT)
    gains = [(new - old)[np.array(names) == f"b{k}"] for k in range(6)]
    raw = [stats.ttest_1samp(g, 0, alternative="less").pvalue if g.any() else 1.0 for g in gains]
    adjusted = [min(1.0, max(sorted(raw)[j] * (6 - j) for j in range(sorted(raw).index(p) + 1))) for p in raw]
    margins = [0.05, 0.5, *[0.05] * 4]
    expected = [f"no loss in b{k}" for k in range(6) if adjusted[k] <= 0.05 and -gains[k].mean() > margins[k]]
    assert [name for name in failed(decision) if name.startswith("no loss")] == expected
    assert "no loss in b0" in expected and "no loss in b1" not in expected and adjusted[1] <= 0.05
    assert any(raw[k] <= 0.05 < adjusted[k] for k in range(6)), "the case must tell Holm's correction from none"


def test_a_loss_needs_less_proof_than_a_gain_and_a_pass_says_what_it_could_have_missed(make_evaluation):
    """11 of 50 items lost and 5 won: chance for a confidence of 95%, not for the gate's 80%."""
    domains = ["math"] * 200 + ["reading"] * 50
    new = make_evaluation([1] * 100 + [0] * 100 + [0] * 11 + [1] * 5 + [0] * 34, "b", domains=domains)
    old = make_evaluation([0] * 200 + [1] * 11 + [0] * 39, domains=domains)
    change = np.array([-1] * 11 + [1] * 5 + [0] * 34)
    p = 2 * stats.ttest_1samp(change, 0, alternative="less").pvalue
    assert 0.05 < p < 0.2
    assert failed(decide(new, old, SETTINGS, BOOT)) == ["no loss in generated-reading"]
    strict = decide(new, old, PromotionSettings(loss_confidence=0.95), BOOT)
    assert strict.promote
    [detail] = [c.detail for c in strict.conditions if c.name == "no loss in generated-reading"]
    freedom, error = 49, change.std(ddof=1) / 50**0.5
    effect = (stats.t.ppf(1 - 0.05 / 2, freedom) + stats.t.ppf(0.8, freedom)) * error
    assert detail.endswith(
        f"may be chance (p = {p:.3f}, Holm-adjusted); a true loss below about {effect:.3f} is likely to go unnoticed"
    )


def test_a_benchmark_that_fell_on_every_item_is_refused_though_it_has_no_spread(make_evaluation):
    domains = ["math"] * 80 + ["reading"] * 8
    new = make_evaluation([1] * 80 + [0] * 8, "b", domains=domains)
    old = make_evaluation([0] * 80 + [1] * 8, "a", domains=domains)
    assert failed(decide(new, old, SETTINGS, BOOT)) == ["no loss in generated-reading"]


def test_a_margin_for_a_benchmark_that_is_not_evaluated_is_refused(make_evaluation):
    decision = decide(*gained(make_evaluation), PromotionSettings(max_loss_of={"docmath": 0.02}), BOOT)
    assert failed(decision) == ["known benchmarks"] and "names docmath; the benchmarks are generated" in decision.reason


def test_unscored_counts_against_the_challenger_on_both_sides(make_evaluation):
    pairs = pair_items(make_evaluation([None, 1]).samples, make_evaluation([0, None]).samples)
    assert (pairs.challenger, pairs.champion) == ([0.0, 1.0], [0.0, 1.0])


def test_a_judge_that_was_down_promotes_nobody(make_evaluation):
    new, old = gained(make_evaluation)
    down = make_evaluation([None if i % 10 == 0 else 1 for i in range(100)], "b")
    assert failed(decide(down, old, SETTINGS, BOOT)) == ["unscored share of the challenger"]
    silent = make_evaluation([None if i % 10 == 0 else 0 for i in range(100)])
    assert failed(decide(new, silent, SETTINGS, BOOT)) == ["unscored share of the champion"]


def test_cut_completions_over_the_ceiling_are_refused(make_evaluation):
    _, old = gained(make_evaluation)
    new = make_evaluation([1] * 50 + [0] * 50, "b", finish_reason="length")
    assert failed(decide(new, old, SETTINGS, BOOT)) == ["truncated share of the challenger"]


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_item_is_refused(make_evaluation, side):
    pair = list(gained(make_evaluation))
    pair[side] = replace(pair[side], samples=pair[side].samples[:-1])
    decision = decide(*pair, SETTINGS, BOOT)
    assert failed(decision) == ["complete"]
    assert decision.gain is None


def test_other_data_is_refused(make_evaluation):
    new, old = gained(make_evaluation)
    changed = replace(new, plan=new.plan.model_copy(update={"dataset_digest": "e" * 12}))
    assert failed(decide(changed, old, SETTINGS, BOOT)) == ["same data"]


def test_another_protocol_is_refused(make_evaluation):
    new, old = gained(make_evaluation)
    hotter = replace(new, plan=new.plan.model_copy(update={"protocol": new.plan.protocol | {"temperature": 1.0}}))
    decision = decide(hotter, old, SETTINGS, BOOT)
    assert failed(decision) == ["same protocol"] and "temperature" in decision.reason


def test_the_verdict_reads_as_a_list(make_evaluation):
    one = make_evaluation([1, 0] * 30)
    text = decision_markdown(decide(one, one, SETTINGS, BOOT))
    assert (
        text.startswith("# Refused")
        and "\n- **FAIL** **gain**: +0.000 [-0.060, +0.060]" in text
        and "\n- pass **same data**: " in text
    )


JOB = PromoteJob(
    promotion=SETTINGS,
    bootstrap_resamples=500,
    confidence=0.95,
    seed=1,
    near_duplicates=0.9,
    verified={"model": "ab" * 32},
)


def words(seed, count=200):
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(0, 5_000, count))


def example(number, context=None, question=None, answer="7"):
    return Example(
        id=f"q{number:04d}",
        source="generated",
        domain="math",
        answer_type="number",
        context=context or words(number),
        question=question or f"What is number {number}?",
        answers=(answer,),
        document_id=f"doc-q{number:04d}",
    )


@pytest.fixture
def case(tmp_path, make_evaluation, write_evaluation):
    """``case(training rows)``: the inputs of a promotion that would succeed, on real prepared files."""

    def build(training=(), same_data=False):
        rows = [example(number) for number in range(100)]
        (tmp_path / "rows").mkdir()
        write_examples(tmp_path / "rows" / "eval.parquet", rows)
        trained = tmp_path / ("rows" if same_data else "trained")
        trained.mkdir(exist_ok=True)
        write_examples(trained / "train.parquet", list(training) or [example(500)], [1] * max(1, len(training)))
        folders = {"rows": tmp_path / "rows", "trained-1": trained}
        for role, evaluation in zip(("challenger", "champion"), gained(make_evaluation)):
            plan = evaluation.plan.model_copy(update={"dataset_digest": dataset_digest(rows)})
            folders[role] = write_evaluation(replace(evaluation, plan=plan), tmp_path / role)
        return folders

    return build


def decide_stage(tmp_path, inputs, job=JOB):
    (tmp_path / OUTPUT).mkdir(exist_ok=True)
    run(job, inputs, tmp_path)
    return json.loads((tmp_path / OUTPUT / "decision.json").read_text())


def test_stage_promotes_and_writes_why(tmp_path, case):
    verdict = decide_stage(tmp_path, case())
    assert verdict["promote"] is True, verdict["reason"]
    assert [c["name"] for c in verdict["conditions"]][:2] == ["artifacts verified", "no overlap with training data"]
    assert np.isclose(verdict["gain"]["mean"], 0.3)
    assert (tmp_path / OUTPUT / "decision.md").read_text().startswith("# Promoted")


@pytest.mark.parametrize("name", [PLAN, SAMPLES, SCORES])
def test_stage_refuses_what_it_cannot_read(tmp_path, case, name):
    inputs = case()
    (inputs["challenger"] / name).unlink()
    verdict = decide_stage(tmp_path, inputs)
    assert verdict["promote"] is False and name in verdict["reason"]


def test_stage_refuses_a_log_that_was_edited(tmp_path, case):
    inputs = case()
    text = (inputs["challenger"] / SAMPLES).read_text()
    (inputs["challenger"] / SAMPLES).write_text(text.replace('"rule": 0.0', '"rule": 1.0'))
    verdict = decide_stage(tmp_path, inputs)
    assert verdict["promote"] is False and "damaged" in verdict["reason"]


def test_stage_refuses_where_artifacts_are_at_fault_or_were_not_checked(tmp_path, case):
    verdict = decide_stage(
        tmp_path, {}, JOB.model_copy(update={"faults": ("the model of the champion cannot be trusted: gone",)})
    )
    assert verdict["reason"] == "refused: the model of the champion cannot be trusted: gone"
    verdict = decide_stage(tmp_path, case(), JOB.model_copy(update={"verified": {}}))
    assert verdict["reason"] == "refused: artifacts verified: no artifact was checked against its manifest"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (example(900, context=words(3)), "1 on a document of the evaluation"),
        (example(900, context="x " + words(3)), "1 on one nearly equal to it"),
        (example(900, question="What is number 3?"), "1 with a question and answer of it"),
    ],
)
def test_stage_refuses_a_challenger_that_was_trained_on_the_evaluation(tmp_path, case, row, found):
    verdict = decide_stage(tmp_path, case([row, example(901)]))
    assert verdict["promote"] is False and verdict["reason"].startswith(
        "refused: no overlap with training data: of 2 rows"
    )
    assert found in verdict["reason"] and "(100 evaluated rows)" in verdict["reason"]


def test_a_template_s_question_in_one_preparation_is_no_overlap_but_a_document_is(tmp_path, case):
    asked = example(900, question="What is number 3?")
    assert decide_stage(tmp_path, case([asked], same_data=True))["promote"] is True


def test_a_document_in_both_splits_of_one_preparation_is_an_overlap(tmp_path, case):
    verdict = decide_stage(tmp_path, case([example(900, context=words(3))], same_data=True))
    assert verdict["promote"] is False and "1 on a document of the evaluation" in verdict["reason"]


def test_stage_refuses_rows_that_are_not_the_evaluated_ones(tmp_path, case):
    inputs = case()
    write_examples(inputs["rows"] / "eval.parquet", [example(number, answer="8") for number in range(100)])
    verdict = decide_stage(tmp_path, inputs)
    assert verdict["promote"] is False and "are not those of the prepared data" in verdict["reason"]
