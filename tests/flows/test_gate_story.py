"""Promotions, refusals, a rollback and nights, with models that really differ, through the real registry.

One story on one state folder, in file order. The policy is the tiny random Llama; a document is about one of
two things, and which option is right depends on that. Trained on documents about the first the policy is
right on half of the held-out ones, trained on both on all of them, and untrained on none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import raw, says, served
from prefect import flow, get_client
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong.flows.nightly_eval import nightly_eval
from qwenlong.flows.pipeline_run import PipelineRun, new_run_id
from qwenlong.flows.promote import promote
from qwenlong.tasks.specs import base_stage, evaluate_stage, prepare_stage, register_stage, sft_stage
from qwenlong.tasks.stage import RunContext, open_store
from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegisteredVersion,
    by_alias,
    read_registration,
)
from qwenlong_core.rewards.health import PAIRS as FIXED_PAIRS
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactRef

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PROFILE = """
[model]
name = "tiny"
[data]
sft = ["{home}/sft-both.jsonl"]
train = ["{home}/train.jsonl"]
eval = ["{home}/eval.jsonl"]
[sft]
max_tokens = 384
learning_rate = 3e-3
epochs = 12
batch_size = 8
micro_batch_size = 8
[grpo]
batch_size = 4
mini_batch_size = 2
phases = [{{ max_prompt_tokens = 384, max_completion_tokens = 64, cache_tokens = 16, steps = 1 }}]
[evaluation]
max_prompt_tokens = 384
max_completion_tokens = 24
temperature = 0.0
batch_size = 12
bootstrap_resamples = 500
[nightly]
nights = 3
[execution]
retries = 0
[storage]
uri = "{home}/artifacts"
work_dir = "{home}/work"
runs_dir = "{home}/runs"
[tracking]
uri = "sqlite:///{home}/mlflow.db"
"""
WORDS = {
    "first": ["river", "field", "bread", "garden", "winter", "forest", "cloud", "wheat"],
    "second": ["copper", "silver", "lamp", "wheel", "tower", "glass", "paper", "letter"],
}
RIGHT = {"first": "B", "second": "D"}
NIGHT = date(2026, 3, 1)
ONE_TOPIC = "data.sft=['{home}/sft-first.jsonl']"


def rows(name: str, topics: list[str], count: int) -> list[dict[str, Any]]:
    rng = random.Random(name)
    return [
        {
            "id": f"{name}{i}",
            "source": "made",
            "domain": "logical",
            "answer_type": "choice",
            "context": " ".join(rng.choices(WORDS[topics[i % len(topics)]], k=60)) + ".",
            "document_id": f"{name}-document{i}",
            "question": "Which option holds for this clause?",
            "choices": ["the north", "the east", "the south", "the west"],
            "answers": [RIGHT[topics[i % len(topics)]]],
            "solution": f"Therefore, the answer is ({RIGHT[topics[i % len(topics)]]}).",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("gate")
    both = ["first", "second"]
    files = {"sft-both": (both, 64), "sft-first": (["first"], 64), "train": (both, 8), "eval": (both, 32)}
    for name, (topics, count) in files.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(name, topics, count)))
    (home / "gate.toml").write_text(PROFILE.format(home=home))
    with prefect_test_harness(server_startup_timeout=600):
        yield home


@flow
def train(profile: str, overrides: list[str]) -> RegisteredVersion:
    """The pipeline without GRPO: import, prepare, fine-tune, evaluate, register."""
    settings = load_settings(profile, overrides)
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id()))
    base = run.stage(base_stage(settings), {})
    data = run.stage(prepare_stage(settings), {"base": base})
    model = run.stage(sft_stage(settings), {"model": base, "data": data})
    evaluation = run.stage(evaluate_stage(settings, "sft"), {"model": model, "data": data})
    return read_registration(
        run.folder(run.stage(register_stage(settings), {"model": model, "evaluation": evaluation}))
    )


def make(home: Path, *overrides: str) -> RegisteredVersion:
    return train(str(home / "gate.toml"), [text.format(home=home) for text in overrides])


def ask(home: Path, *overrides: str) -> str:
    return promote(str(home / "gate.toml"), list(overrides))["promotion"]


def runs_of(home: Path, query: str) -> list[Any]:
    """MLflow runs, the newest first."""
    client = client_for(load_settings(str(home / "gate.toml")).tracking)
    return list(client.search_runs([client.get_experiment_by_name("qwenlong").experiment_id], query))


def flow_run_names() -> set[str]:
    with get_client(sync_client=True) as client:
        return {run.name for run in client.read_flow_runs()}


def aliases(home: Path) -> list[str | None]:
    tracking = load_settings(str(home / "gate.toml")).tracking
    return [
        version.version if (version := by_alias(tracking, name)) else None for name in (CHAMPION, PREVIOUS, CHALLENGER)
    ]


def night(home: Path, number: int, *overrides: str):
    return nightly_eval(str(home / "gate.toml"), list(overrides), NIGHT + timedelta(days=number), return_state=True)


def test_the_first_checkpoint_that_gained_is_promoted_over_the_base_model(home):
    assert make(home, ONE_TOPIC).version == "1"
    assert ask(home) == "version 1 promoted to champion: every condition holds"
    assert aliases(home) == ["1", None, "1"]
    shown = Artifact.get("promotion").data
    assert (
        shown.startswith("# Promoted")
        and "- pass **gain**: +0.500 [" in shown
        and "- pass **no loss in made**: " in shown
    )
    [decided] = runs_of(home, "attributes.run_name LIKE 'promote gate version 1 %'")
    assert decided.info.run_name in flow_run_names(), "one name on both pages"
    page = f"/runs/flow-run/{decided.data.tags['prefect.flow_run_id']})"
    assert "[This run in Prefect](http://" in decided.data.tags["mlflow.note.content"] and decided.data.tags[
        "mlflow.note.content"
    ].endswith(page)
    stages = {run.data.tags["stage"] for run in runs_of(home, f"tags.mlflow.parentRunId = '{decided.info.run_id}'")}
    assert stages >= {"evaluate-champion", "promote"}


def test_a_model_against_itself_is_refused(home):
    """The same weights, evaluated under another seed and registered anew."""
    settings = load_settings(str(home / "gate.toml"), ["seed=8"])
    champion = by_alias(settings.tracking, CHAMPION)
    store = open_store(settings)
    again = make(home, ONE_TOPIC, "evaluation.samples=2")
    assert again.model == champion.model and again.version == "2"
    said = ask(home)
    assert "version 2 not promoted, champion stays version 1: refused: another model: challenger" in said
    assert aliases(home) == ["1", None, "2"] and store.manifest(again.evaluation) is not None


def test_a_better_checkpoint_takes_over(home):
    assert make(home).version == "3"
    assert "version 3 promoted to champion" in ask(home)
    assert aliases(home) == ["3", "1", "3"]
    tags = client_for(load_settings(str(home / "gate.toml")).tracking).get_model_version("qwenlong", "3").tags
    assert (
        tags["champion.over"] == "1" and "pipeline " in tags["champion.runs"] and "MLflow run " in tags["champion.runs"]
    )


def test_one_that_did_not_gain_is_refused(home):
    assert make(home, ONE_TOPIC, "sft.epochs=11").version == "4"
    said = ask(home)
    assert "version 4 not promoted, champion stays version 3: refused: gain: -0." in said
    assert aliases(home) == ["3", "1", "4"]


def test_nights_of_an_unchanged_champion_are_quiet_and_a_night_is_done_once(home):
    first = night(home, 1)
    assert (
        first.is_completed()
        and first.result()["result"] == "night 2026-03-02: no significant fall, compared with 0 earlier nights"
    )
    second = night(home, 2)
    assert second.result()["result"].endswith("no significant fall, compared with 1 earlier nights")
    tracking = load_settings(str(home / "gate.toml")).tracking
    client = client_for(tracking)
    experiment = [client.get_experiment_by_name("qwenlong").experiment_id]
    before = len(client.search_runs(experiment))
    assert night(home, 2).result() == second.result()
    assert len(client.search_runs(experiment)) == before, "nothing ran"
    [series] = client.search_runs(experiment, "tags.series = 'nightly'")
    for alias, accuracy in (("champion", 1.0), ("challenger", 0.5)):
        points = client.get_metric_history(series.info.run_id, f"{alias}/overall")
        assert [point.step for point in points] == [(NIGHT + timedelta(days=n) - date(1970, 1, 1)).days for n in (1, 2)]
        assert [point.value for point in points] == [accuracy, accuracy]
    assert {"nightly gate 2026-03-02", "nightly gate 2026-03-03"} <= flow_run_names()


def test_a_judge_that_is_down_promotes_nobody_and_fails_the_night_with_the_reason(home):
    judge = "evaluation.judge={base_url='http://127.0.0.1:9/v1',model='m',max_retries=0,timeout_seconds=2}"
    said = ask(home, judge)
    assert (
        "version 4 not promoted, champion stays version 3: refused: the evaluation of the challenger could not be"
        " finished" in said
    )
    assert "judge" in said
    failed = night(home, 3, judge)
    assert failed.is_failed() and "night 2026-03-04: the registry's models could not be evaluated" in failed.message
    assert "judge" in failed.message
    [run] = runs_of(home, "attributes.run_name = 'nightly gate 2026-03-04'")
    assert run.info.status == "FAILED" and "judge" in run.data.tags["error"]


def test_a_rollback_brings_the_previous_champion_back(home, monkeypatch):
    # The server of Prefect's harness has a state folder of its own; by name, the command uses it all the same.
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    command = ["rollback", "--profile", str(home / "gate.toml"), "--json", "--reason", "answers D too often"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["champion"] == "1"
    assert aliases(home) == ["1", None, "4"]
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "there is no previous champion" in again.output
    assert aliases(home) == ["1", None, "4"]


def test_a_champion_that_got_worse_is_found_by_the_night(home):
    worse = night(home, 3)
    assert worse.is_failed(), worse.message
    assert "the champion got worse, compared with 2 earlier nights, under both seeds: made fell by 0.5" in worse.message
    assert night(home, 3).message == worse.message, "and stays so when the night is asked again"
    run, _ = runs_of(home, "attributes.run_name = 'nightly gate 2026-03-04'")
    assert run.info.status == "FAILED" and run.data.tags["result"] == worse.message
    stages = {child.data.tags["stage"] for child in runs_of(home, f"tags.mlflow.parentRunId = '{run.info.run_id}'")}
    assert {"evaluate-champion", "evaluate-champion-again"} <= stages, "a second seed was asked"


def damage(ref, home: Path, name: str) -> None:
    path = open_store(load_settings(str(home / "gate.toml"))).fetch(ref) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("artifact", ["model", "evaluation"])
def test_a_corrupted_artifact_is_refused_in_words(home, artifact):
    version = by_alias(load_settings(str(home / "gate.toml")).tracking, CHALLENGER)
    name = "model.safetensors" if artifact == "model" else "samples.jsonl"
    ref = getattr(version, artifact)
    damage(ref, home, name)
    try:
        said = ask(home)
    finally:
        damage(ref, home, name)  # the same bit back
    assert (
        f"refused: the {artifact} of the challenger cannot be trusted: {name} of {artifact}/{ref.short} is missing or"
        " altered" in said
    )
    assert aliases(home) == ["1", None, "4"]


def test_an_evaluation_that_lost_items_is_refused(home):
    version = by_alias(load_settings(str(home / "gate.toml")).tracking, CHALLENGER)
    log = open_store(load_settings(str(home / "gate.toml"))).fetch(version.evaluation) / "samples.jsonl"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-3]))
    try:
        assert "refused: the evaluation of the challenger cannot be trusted" in ask(home)
    finally:
        log.write_text(whole)


def test_evaluation_rows_that_changed_are_evaluated_anew_and_never_mixed(home):
    """Other rows under the same settings: both models answer them before anything is compared. Twelve of them
    are free text, which the rules cannot decide alone."""
    spoken = [
        {
            **row,
            "id": f"spoken-{row['id']}",
            "source": "spoken",
            "answer_type": "span",
            "choices": [],
            "answers": ["the east wind"],
        }
        for row in rows("said", ["first", "second"], 12)
    ]
    made = [*rows("other", ["first", "second"], 24), *spoken]
    (home / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    version = make(home, ONE_TOPIC, "sft.epochs=11")
    assert version.version == "5"
    said = ask(home)
    assert "not promoted, champion stays version 1" in said and "over 36 items" in said


def test_a_judge_that_dies_on_the_way_fails_the_night_by_its_rate_and_the_night_can_be_run_again(home):
    """It passes the check before the first answer, and then gives no verdict on any row of ours."""
    equal = {(question, answer): same for question, _, answer, same in FIXED_PAIRS}

    def judge(broken: bool):
        def choose(_: int, request: dict[str, Any]):
            asked = json.loads(request["messages"][-1]["content"])
            known = equal.get((asked["question"], asked["candidate_answer"]))
            if known is None and broken:
                return raw(b"{}", "500 Internal Server Error")
            return says("[[YES]]" if known else "[[NO]]")

        return choose

    def over(url: str) -> str:
        return f"evaluation.judge={{base_url='{url}',model='m',max_retries=0,timeout_seconds=5}}"

    with served(judge(broken=True)) as server:
        failed = night(home, 5, over(server.url))
    assert failed.is_failed()
    assert "12 of 36 answers are unscored and 0 failed, over evaluation.max_unscored_share=0.1" in failed.message
    with served(judge(broken=False)) as server:
        done = night(home, 5, over(server.url))
    assert done.is_completed() and done.result()["result"].startswith("night 2026-03-06: no significant fall")


@flow
def base_evaluation(profile: str, overrides: list[str]) -> tuple[ArtifactRef, bool]:
    """The evaluation of the base model, and whether the store has it."""
    settings = load_settings(profile, overrides)
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id()))
    base = run.stage(base_stage(settings), {})
    data = run.stage(prepare_stage(settings), {"base": base})
    ref = run.stage(evaluate_stage(settings, "base"), {"model": base, "data": data}).ref
    return ref, open_store(settings).manifest(ref) is not None


def test_two_stores_of_one_prefect_keep_to_their_own_artifacts(home):
    """Both evaluate the same; a sample's seconds differ. Prefect remembers the last one under the key of both."""
    stores = [f"storage.uri='{home}/{name}'" for name in ("one", "other", "one")]
    first, other, again = (base_evaluation(str(home / "gate.toml"), [store]) for store in stores)
    assert first == again and first[1] and other[1]
    assert first[0] != other[0], "what the test is about"
