"""The benchmark of kills: moments are spread over stages and ways, and what is left behind is found."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kills
import left_behind

SECONDS = {name: float(length) for length, name in enumerate(("base", "sft", "grpo-1", "report", "end"), 1)}


def test_every_stage_and_every_way_comes_equally_often_and_within_the_stage() -> None:
    drawn = [kills.drawn(7, folder, SECONDS) for folder in range(5)]
    assert drawn == [kills.drawn(7, folder, SECONDS) for folder in range(5)] != [kills.drawn(8, 0, SECONDS)]
    every = [kill for folder in drawn for kill in folder]
    assert Counter(kill["stage"] for kill in every) == dict.fromkeys(SECONDS, 6)
    assert sorted(Counter((kill["signal"], kill["whom"]) for kill in every).values()) == [7, 7, 8, 8]
    assert all(0 <= kill["after"] <= SECONDS[kill["stage"]] for kill in every)
    order = list(SECONDS)
    for folder in drawn:
        places = [(order.index(kill["stage"]), kill["after"]) for kill in folder]
        assert places == sorted(places)


def database(path: Path, **tables: dict[str, str]) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        for table, rows in tables.items():
            column = "status" if table == "runs" else "state_type"
            connection.execute(f"create table {table} (name, {column})")
            connection.executemany(f"insert into {table} values (?, ?)", rows.items())


def test_everything_that_is_left_behind_is_found(tmp_path: Path) -> None:
    state = tmp_path / kills.STATE
    database(state / "mlflow.db", runs={"sft": "RUNNING", "base": "FINISHED"})
    ended = {"done": "COMPLETED", "dead": "CRASHED"}
    prefect = tmp_path / ".qwenlong/prefect/prefect.db"
    database(prefect, flow_run={"smoke": "RUNNING"} | ended, task_run={"grpo-1": "PENDING"} | ended)
    for name in ("artifacts/model/.tmp-1/weights", "artifacts/checkpoint/abc/manifest.json", "work/sft-1.lock"):
        (state / name).parent.mkdir(parents=True)
        (state / name).touch()
    (tmp_path / "tmp/torch").mkdir(parents=True)
    (tmp_path / "tmp/torchinductor_root").mkdir()  # torch makes it at its import
    environment = os.environ | {left_behind.MARK: str(tmp_path)}
    with (state / "work/sft-1.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(["sleep", "60"], env=environment) as server:
            assert left_behind.alive(tmp_path) == {server.pid: "sleep 60"}
            server.kill()
        found = left_behind.left(tmp_path, state)
    assert found == [
        "held lock .qwenlong/smoke/work/sft-1.lock",
        "file .qwenlong/smoke/artifacts/model/.tmp-1",
        "file .qwenlong/smoke/artifacts/checkpoint/abc",
        "file .qwenlong/smoke/work/sft-1.lock",
        "file tmp/torch",
        "MLflow run sft",
        "flow run smoke",
        "task run grpo-1",
    ]
    assert not [one for one in left_behind.left(tmp_path, state) if one.startswith("held lock")]
