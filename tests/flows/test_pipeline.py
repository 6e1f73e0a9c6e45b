"""The real flow on the smoke profile: killed in the middle, resumed, cached, refreshed, served.

One story in several chapters on one state folder, in file order: a full run takes minutes, so each
chapter builds on what the one before left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import CHALLENGER, CHAMPION, by_alias
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.local import LocalStore

COMMAND = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--profile", "smoke", "--json"]
BEFORE = ["base", "prepare", "sft", "grpo-1"]

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


def environment(home: Path) -> dict[str, str]:
    """That of somebody who has Prefect keep the results of flows, too."""
    return os.environ | {"PREFECT_HOME": str(home / ".qwenlong/prefect"), "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"}


def run(home: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *arguments], cwd=home, capture_output=True, text=True, env=environment(home))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Error logging to API" not in done.stderr, "lines that never reached Prefect"
    return {**json.loads(done.stdout), "log": done.stderr}


def how(result: dict[str, Any]) -> dict[str, str]:
    return {row["stage"]: row["how"] for row in result["stages"]}


def tracking(home: Path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{home}/.qwenlong/smoke/mlflow.db")


def kill_when(home: Path, pattern: str, *arguments: str) -> None:
    """Start the pipeline in a process group of its own and kill -9 the group at a line of its log."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(home),
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            break
    else:
        raise AssertionError("ended before " + pattern + ":\n" + "".join(seen[-40:]))
    group = os.getpgid(process.pid)
    os.killpg(group, signal.SIGKILL)
    process.wait()
    left = [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and _group(p.pid) == group]
    psutil.wait_procs(left, timeout=20)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture(scope="module")
def resumed(home) -> dict[str, Any]:
    kill_when(home, r"grpo-2 step 2/3")
    return run(home)


def test_after_a_kill_in_phase_2_it_goes_on_from_there(home, resumed):
    ways = how(resumed)
    assert [name for name, way in ways.items() if way == "cached"] == BEFORE
    assert ways["grpo-2"] == "ran" and ways["report"] == "ran"
    steps = re.findall(r"grpo-2 step (\d)/3", resumed["log"])
    # Step 1 was saved before step 2 began; whether step 2 was, too, is a matter of moments.
    assert steps in (["2", "3"], ["3"]), "phase 2 must go on from its checkpoint, not start over"


def test_what_prefect_keeps_is_small_and_no_pickle(home, resumed):
    kept = [path.read_text() for path in (home / ".qwenlong/prefect/storage").iterdir()]
    assert len(kept) > 10 and max(map(len, kept)) < 100_000
    for text in kept:
        json.loads(text)
        assert "pickle" not in text


def test_the_killed_run_is_shown_as_killed(home, resumed):
    client = client_for(tracking(home))
    runs = client.search_runs([client.get_experiment_by_name("qwenlong").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.info.status for run in parents) == ["FINISHED", "KILLED"]


def test_training_learned_something_to_learn_from(home, resumed):
    """The run must not be empty: informative groups, a gradient, and weights that changed."""
    store = LocalStore(home / ".qwenlong/smoke/artifacts")
    kept, digests = [], []
    for name in ("sft", "grpo-1", "grpo-2", "grpo-3"):
        folder = store.fetch(store.latest(name, "smoke").ref)
        digests.append(store.manifest(store.latest(name, "smoke").ref).files["model.safetensors"].sha256)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        kept.append(sum(line.get("groups_kept", 0) for line in lines))
    assert sum(kept[1:]) > 0
    changed = [before != after for before, after in pairwise(digests)]
    assert changed == [count > 0 for count in kept[1:]], "weights change exactly where there was a gradient"


def test_the_result_names_scores_artifacts_registry_and_report(home, resumed):
    assert [row["stage"] for row in resumed["scores"]] == ["base", "sft", "grpo-1", "grpo-2", "grpo-3"]
    assert {"overall", "math", "logical", "multihop"} <= set(resumed["scores"][0])
    parts = [row["part"] for row in resumed["gain"]]
    assert (parts[0], parts[-1]) == ("grpo-3 over base: all items", "grpo-3 over sft: all items")
    assert set(resumed["gain_intervals"]) == set(parts)
    cases = [(row["stage"], row["case"], row["gold"]) for row in resumed["cases"]]
    golds = (("bond", "$32.4 million"), ("debt", "$980,000"))
    assert cases == [(row["stage"], *gold) for row in resumed["scores"] for gold in golds]
    assert {row["report"].split(",")[0] for row in resumed["cases"]} == {"short"}, "each stage was asked, none too long"
    assert all(len(row["sha256"]) == 64 for row in resumed["stages"])
    page = Path(resumed["report"]).read_text()
    assert "<html" in page and "grpo-3" in page and not re.search(r'(src|href)="https?://', page)
    assert "Right: $32.4 million" in page and "Right: $980,000" in page
    version = by_alias(tracking(home), CHALLENGER)
    assert version is not None and version.version == resumed["model"]["version"]
    assert json.loads((Path(resumed["report"]).parent / "settings.json").read_text())["profile"] == "smoke"


def test_mlflow_has_a_parent_with_a_child_per_stage(home, resumed):
    client = client_for(tracking(home))
    runs = client.search_runs(
        [client.get_experiment_by_name("qwenlong").experiment_id], "attributes.status = 'FINISHED'"
    )
    children = {run.data.tags["stage"]: run for run in runs if "stage" in run.data.tags}
    assert set(how(resumed)) <= set(children)
    grpo = children["grpo-3"]
    assert len(client.get_metric_history(grpo.info.run_id, "reward")) == 2
    assert grpo.data.params["phase.max_prompt_tokens"] == "512"
    assert grpo.inputs.dataset_inputs and grpo.data.tags["logged_model"]
    parent = grpo.data.tags["mlflow.parentRunId"]
    assert [point.step for point in client.get_metric_history(parent, "phases/reward")] == [*range(1, 8)]


def test_a_second_run_is_all_cache_hits(home, resumed):
    again = run(home)
    assert set(how(again).values()) == {"cached"}
    assert [row["sha256"] for row in again["stages"]] == [row["sha256"] for row in resumed["stages"]]
    assert again["scores"] == resumed["scores"]


def test_refresh_re_runs_one_stage_and_what_follows(home, resumed):
    ways = how(run(home, "--refresh", "promote"))
    assert [name for name, way in ways.items() if way == "ran"] == ["promote", "report"]


def test_a_promotion_that_is_allowed_moves_the_alias_and_stays(home, resumed):
    assert by_alias(tracking(home), CHAMPION) is None, "nothing was proven better yet"
    wide = [f"promotion.{name}" for name in ("margin=-1", "max_loss=1", "max_truncated_share=1")]
    result = run(home, "--from", "promote", *(part for name in wide for part in ("--set", name)))
    ways = how(result)
    assert {ways[name] for name in ways if name not in ("promote", "report")} == {"kept"}
    assert "promoted to champion" in result["promotion"] and result["promoted"]
    assert by_alias(tracking(home), CHAMPION).version == resumed["model"]["version"]
    assert "is champion" in run(home)["promotion"]


def test_a_lost_artifact_is_made_again(home, resumed):
    store = LocalStore(home / ".qwenlong/smoke/artifacts")
    lost = store.latest("evaluate-sft", "smoke").ref
    (store.fetch(lost) / "manifest.json").unlink()
    ways = how(run(home))
    assert ways["evaluate-sft"] == "ran" and ways["sft"] == "cached" and ways["evaluate-base"] == "cached"
