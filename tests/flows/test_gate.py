"""What stands before the gate, on real artifacts in a real store; the models' answers are written, not sampled."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_tables import BOOTSTRAP, make_sample

from qwenlong.flows.cli.evaluation_run import training_overlap
from qwenlong.flows.gate import run_gate
from qwenlong.flows.nightly_eval import compare_with_earlier_nights
from qwenlong.flows.pipeline_run import StageResult
from qwenlong.tasks.lineage import lineage, training_data
from qwenlong.tasks.models import Model
from qwenlong.tasks.process import ProcessFailed
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.nights import Night, find_night, night_values, overview, remember_night
from qwenlong_core.data.rows import dataset_digest, write_examples
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, Plan
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.results import Evaluation, write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples
from qwenlong_core.evaluation.scores import Bootstrap, compute_scores
from qwenlong_core.jobs import PromoteJob
from qwenlong_core.promotion.gate import run as promotion_stage
from qwenlong_core.records import Example, Score
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.stage_main import OUTPUT
from qwenlong_core.store.artifacts import ArtifactRef, describe

RIGHT, WRONG = Score(value=1.0, rule=1.0), Score(value=0.0, rule=0.0)
NIGHT = date(2026, 3, 9)
ITEMS = 60


@pytest.fixture
def settings(tmp_path):
    return load_settings("smoke", [f"storage.uri={tmp_path}/store", "nightly.nights=3"])


@pytest.fixture
def world(settings, tmp_path):
    return World(settings, tmp_path)


class World:
    """Artifacts of two models and the data they were trained on and answered."""

    def __init__(self, settings, tmp_path: Path) -> None:
        self.settings, self.tmp_path, self.store, self.number = settings, tmp_path, open_store(settings), 0
        self.rows = [self.example(n) for n in range(ITEMS)]
        self.data = self.prepared(self.rows, [self.example(900)])
        self.base = self.artifact("model", {"weights": "base"}, {})
        self.model = self.artifact("model", {"weights": "tuned"}, {"model": self.base.sha256, "data": self.data.sha256})

    def example(self, number: int) -> Example:
        words = np.random.default_rng(number).integers(0, 5_000, 120)
        return Example(
            id=f"q{number:03d}",
            source="made",
            domain="math",
            answer_type="number",
            answers=("7",),
            context=" ".join(f"w{w}" for w in words),
            question=f"What is number {number}?",
            document_id=f"d{number}",
        )

    def folder(self) -> Path:
        self.number += 1
        (folder := self.tmp_path / f"made-{self.number}").mkdir()
        return folder

    def publish(self, kind: str, folder: Path, parents: dict[str, str]) -> ArtifactRef:
        return self.store.publish(folder, describe(folder, kind, parents=parents, settings_digest="", code_digest=""))

    def artifact(self, kind: str, files: dict[str, str], parents: dict[str, str]) -> ArtifactRef:
        folder = self.folder()
        for name, text in files.items():
            (folder / name).write_text(text)
        return self.publish(kind, folder, parents)

    def prepared(self, rows, training) -> ArtifactRef:
        folder = self.folder()
        write_examples(folder / "eval.parquet", rows)
        write_examples(folder / "train.parquet", training, [1] * len(training))
        return self.publish("data", folder, {})

    def evaluation(self, model: str, right, seed: int = 7) -> ArtifactRef:
        folder = self.folder()
        items = tuple(row.id for row in self.rows)
        plan = Plan(
            model_digest=model, dataset_digest=dataset_digest(self.rows), items=items, samples=1, protocol={}, seed=seed
        )
        (folder / PLAN).write_text(plan.model_dump_json())
        blank = Sample(
            example_id="", document_id="", domain="math", source="made", sample=0, prompt_digest="", prompt_tokens=1,
            lost_tokens=0, depth=None, completion="", num_tokens=1, finish_reason="stop", score=WRONG,
            metrics={}, seconds=0.0,
        )  # fmt: skip
        append_samples(
            folder / SAMPLES,
            (
                replace(blank, example_id=row.id, document_id=row.document_id, score=RIGHT if ok else WRONG)
                for row, ok in zip(self.rows, right)
            ),
        )
        write_scores(folder, Bootstrap(resamples=200, confidence=0.95, seed=1))
        return self.publish("evaluation", folder, {"data": self.data.sha256})

    def stage_from_refs(self, spec, refs, *, forced=False) -> StageResult:
        """The promote stage, run here instead of in a process of its own."""
        work = self.folder()
        (work / OUTPUT).mkdir()
        promotion_stage(
            PromoteJob.model_validate(spec.job), {name: self.store.fetch(ref) for name, ref in refs.items()}, work
        )
        return StageResult(name=spec.name, ref=self.publish("decision", work / OUTPUT, {}), how="ran")

    def ask(self, **evaluations) -> str:
        """The gate's reason; each evaluation is a reference, or an error that making it ends in."""

        def give(found):
            if isinstance(found, Exception):
                raise found
            return StageResult(name="evaluate", ref=found, how="ran")

        run = SimpleNamespace(settings=self.settings, stage_from_refs=self.stage_from_refs)
        models = {"challenger": self.model, "champion": self.base}
        made = {role: lambda found=found: give(found) for role, found in evaluations.items()}
        rows = StageResult(name="prepare", ref=self.data, how="kept")
        decision = run_gate(run, models, made, rows)
        return json.loads((self.store.fetch(decision.ref) / "decision.json").read_text())["reason"]

    def pair(self) -> dict[str, ArtifactRef]:
        return {
            "challenger": self.evaluation("tuned", [1] * 50 + [0] * 10),
            "champion": self.evaluation("base", [1] * 20 + [0] * 40),
        }

    def file(self, ref: ArtifactRef, name: str) -> Path:
        return self.store.fetch(ref) / name


def test_a_gain_on_sound_artifacts_is_promoted_and_a_model_against_itself_is_not(world):
    pair = world.pair()
    assert world.ask(**pair) == "promoted: every condition holds"
    assert "refused: another model" in world.ask(challenger=pair["champion"], champion=pair["champion"])


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        ("model", "weights", "the model of the challenger cannot be trusted"),
        ("base", "weights", "the model of the champion cannot be trusted"),
        ("data", "train.parquet", "the evaluated data cannot be trusted"),
    ],
)
def test_a_corrupted_artifact_is_refused_in_words(world, what, name, words):
    pair, path = world.pair(), world.file(getattr(world, what), name)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = world.ask(**pair)
    assert said.startswith(f"refused: {words}: {name} of ") and "is missing or altered" in said, said


@pytest.mark.parametrize(
    "damage", [lambda text: text.replace('"rule": 0.0', '"rule": 1.0'), lambda text: text[: len(text) // 2]]
)
def test_an_evaluation_that_was_edited_or_lost_items_is_refused(world, damage):
    pair = world.pair()
    path = world.file(pair["challenger"], SAMPLES)
    path.write_text(damage(path.read_text()))
    assert world.ask(**pair).startswith(
        "refused: the evaluation of the challenger cannot be trusted: samples.jsonl of evaluation/"
    )


def test_a_lost_artifact_is_refused(world):
    pair = world.pair()
    world.file(world.base, "manifest.json").unlink()
    assert "refused: the model of the champion cannot be trusted" in world.ask(**pair)


def test_an_evaluation_that_cannot_be_finished_is_refused_with_its_reason(world):
    down = ProcessFailed(
        "`python -m runner ...` ended with status 1; its last lines:\n  RuntimeError: the judge did not answer"
    )
    said = world.ask(challenger=down, champion=world.pair()["champion"])
    assert (
        said
        == "refused: the evaluation of the challenger could not be finished: RuntimeError: the judge did not answer"
    )


def test_data_that_changed_under_an_evaluation_is_refused(world):
    pair = world.pair()
    world.data = world.prepared([replace(row, answers=("8",)) for row in world.rows], [world.example(900)])
    assert "are not those of the prepared data" in world.ask(**pair)


def test_training_data_of_every_model_before_is_held_against_the_evaluation(world):
    """The leak stands in the data of the model that the challenger was trained from."""
    leak = world.prepared(
        [world.example(800)], [replace(world.rows[3], id="x", question="Another question?"), world.example(901)]
    )
    early = world.artifact("model", {"weights": "early"}, {"model": world.base.sha256, "data": leak.sha256})
    world.model = world.artifact("model", {"weights": "late"}, {"model": early.sha256, "data": world.data.sha256})
    said = world.ask(**world.pair())
    assert "refused: no overlap with training data: of 3 rows the challenger was trained on, 1 on a document" in said


def test_distilled_rows_are_held_against_the_evaluation_as_the_prepared_rows_that_they_are(world):
    """By themselves their questions would look like no templates, which only all prepared rows show."""
    distilled = world.artifact("data", {"summary.json": "{}"}, {"base": world.base.sha256, "data": world.data.sha256})
    tuned = world.artifact("model", {"weights": "sft"}, {"model": world.base.sha256, "data": distilled.sha256})
    assert [ref.sha256 for ref in training_data(world.store, tuned)] == [world.data.sha256]
    assert lineage(world.store, tuned)[1].sha256 == distilled.sha256, "the card shows what was imitated"


def test_an_origin_that_cannot_be_traced_is_refused(world):
    world.model = world.artifact("model", {"weights": "late"}, {"model": "0" * 64, "data": world.data.sha256})
    assert "is unknown: model/000000000000 is not in the store" in world.ask(**world.pair())


def remember(world, back: int, evaluation: ArtifactRef) -> None:
    night = Night(
        night=NIGHT - timedelta(days=back),
        profile="smoke",
        evaluations={"champion": evaluation},
        compared_with=(),
        falls=(),
    )
    remember_night(world.store, world.settings, night, None)


def draws(world, rate: float, seed: int) -> ArtifactRef:
    return world.evaluation("champion", np.random.default_rng(seed).random(ITEMS) < rate, seed)


def test_a_champion_that_got_worse_is_found_under_both_seeds(world):
    for back in (1, 2, 5):
        remember(world, back, draws(world, 0.9, back))
    looks = {False: draws(world, 0.4, 11), True: draws(world, 0.4, 12)}
    asked = []

    def look(alias, *, second=False):
        asked.append((alias, second))
        return looks[second]

    night, _, found = compare_with_earlier_nights(world.settings, NIGHT, {"champion": looks[False]}, look)
    assert night.compared_with == (
        NIGHT - timedelta(days=1),
        NIGHT - timedelta(days=2),
    ), "night 5 is past nightly.nights"
    assert asked == [("champion", True)] and found[0].significant
    assert night.words.startswith(
        "night 2026-03-09: the champion got worse, compared with 2 earlier nights, under both seeds: made fell by 0."
    )


def test_a_fall_that_the_second_seed_does_not_show_is_no_fall(world):
    remember(world, 1, draws(world, 0.9, 1))
    night, _, _ = compare_with_earlier_nights(
        world.settings, NIGHT, {"champion": draws(world, 0.4, 11)}, lambda alias, second: draws(world, 0.9, 12)
    )
    assert (
        night.falls == ()
        and "no significant fall, compared with 1 earlier nights; under one of two seeds made fell" in night.words
    )


def test_an_equal_champion_is_quiet_and_asks_no_second_time(world):
    remember(world, 1, draws(world, 0.9, 1))
    night, _, _ = compare_with_earlier_nights(world.settings, NIGHT, {"champion": draws(world, 0.9, 11)}, None)
    assert night.words == "night 2026-03-09: no significant fall, compared with 1 earlier nights"


def test_a_slow_fall_is_found_over_the_nights_of_one_model_and_a_new_model_begins_anew(world):
    """A model that loses ten points, which a night may miss. Every night is kept as the flow keeps it."""

    def one(day: int, model: str, rate: float) -> Night:
        def draw(seed: int) -> ArtifactRef:
            return world.evaluation(model, np.random.default_rng(seed).random(ITEMS) < rate, seed)

        date = NIGHT + timedelta(days=day)
        night, _, _ = compare_with_earlier_nights(
            world.settings, date, {"champion": draw(day)}, lambda alias, second: draw(1_000 + day)
        )
        remember_night(world.store, world.settings, night, None)
        return night

    for day in range(5):
        night = one(day, "old", 0.85)
        assert night.series == tuple(NIGHT + timedelta(days=before) for before in range(day)) and not night.drifts
    days = iter(range(5, 25))
    while not (night := one(next(days), "old", 0.65)).drifts:
        pass
    assert night.failed and "the champion got worse" in night.words and "nights: made (evidence" in night.words
    new = one(next(days), "new", 0.65)
    assert new.series == () and new.p_values == {} and not new.failed


def test_nights_of_other_rows_are_not_compared(world):
    remember(world, 1, draws(world, 0.9, 1))
    world.rows = [replace(row, question="Another?") for row in world.rows]
    night, _, found = compare_with_earlier_nights(world.settings, NIGHT, {"champion": draws(world, 0.1, 2)}, None)
    assert (night.compared_with, found) == ((), [])


def test_a_night_is_found_again_by_its_date(world):
    assert find_night(world.store, world.settings, NIGHT) is None
    remember(world, 0, draws(world, 0.9, 1))
    assert find_night(world.store, world.settings, NIGHT).night == NIGHT
    other = world.settings.model_copy(update={"profile": "another"})
    assert find_night(world.store, other, NIGHT) is None


def test_eval_warns_of_what_the_gate_would_refuse_for_overlap(world):
    model = Model(given="m", name="m", folder=world.tmp_path, artifact=world.model)
    trained, other = world.example(900), world.example(901)
    words = training_overlap(world.settings, model, [other, trained])
    assert words.startswith("of 1 rows the model was trained on, 1 on a document of the evaluation, 0 on one nearly")
    assert training_overlap(world.settings, model, [other]) is None
    asked_alike = replace(other, question=trained.question)
    assert "1 with a question and answer of it" in training_overlap(world.settings, model, [asked_alike])
    base = Model(given="b", name="b", folder=world.tmp_path, artifact=world.base)
    assert training_overlap(world.settings, base, [trained]) is None
    assert training_overlap(world.settings, Model(given="f", name="f", folder=world.tmp_path), [trained]) is None


def test_eval_says_when_the_training_data_is_gone(world):
    gone = world.artifact("model", {"weights": "lost"}, {"data": "0" * 64})
    model = Model(given="m", name="m", folder=world.tmp_path, artifact=gone)
    words = training_overlap(world.settings, model, [world.example(900)])
    assert words.startswith("the model's training data was not compared with these questions: ")


def test_a_night_s_point_of_the_average_is_there_only_if_all_seven_are(world):
    def night_of(names):
        rows = [make_sample(f"{name}-{n}", n % 2, source=name) for name in names for n in range(4)]
        return Evaluation(plan=None, samples=tuple(rows), scores=compute_scores(rows, BOOTSTRAP), bootstrap=BOOTSTRAP)

    whole, six = night_of(BENCHMARKS), night_of(list(BENCHMARKS)[1:])
    assert night_values({"champion": whole}, [])[f"champion/{AVERAGE}"] == 0.5
    assert f"champion/{AVERAGE}" not in night_values({"champion": six}, [])
    result = Night(night=NIGHT, profile="p", evaluations={}, compared_with=(), falls=())
    assert overview(result, {"champion": whole})[AVERAGE] == {"champion": 0.5}
    assert "not evaluated: docmath" in overview(result, {"champion": six})[AVERAGE]["champion"]
    assert AVERAGE not in overview(result, {"champion": night_of(["made"])})
