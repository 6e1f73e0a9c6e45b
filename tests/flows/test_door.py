"""What is looked for once before hours of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenlong.flows.door import (
    attention_trouble,
    require_attention,
    require_database,
    require_rows,
    require_rows_of_others,
)
from qwenlong.tasks.tracking.client import make_database
from qwenlong_core.interpreter import Devices, Installed
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactError


def test_a_file_that_is_no_database_is_not_for_tracking(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database " * 100)
    with pytest.raises(ValueError, match="notes is not an SQLite database"):
        require_database(load_settings("smoke", [f"tracking.uri=sqlite:///{tmp_path}/notes"]))
    with pytest.raises(ArtifactError, match=r"the folder of tracking.uri='/proc/nowhere' cannot be written"):
        require_database(load_settings("smoke", ["tracking.uri=sqlite:////proc/nowhere/x.db"]))
    fine = load_settings("smoke", [f"tracking.uri=sqlite:///{tmp_path}/new/mlflow.db"])
    require_database(fine)
    make_database(fine.tracking.uri)
    require_database(fine)


def test_data_that_takes_in_what_the_pipeline_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine/rows.jsonl", "state/store/stages/sft/1.json", "state/work/sft-1/job.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    state = ["storage.uri=state/store", "storage.work_dir=state/work", "storage.runs_dir=state/runs"]

    def require(*data: str) -> None:
        require_rows_of_others(load_settings("smoke", [*state, *data]))

    for given in (".", str(tmp_path), "state", "jsonl:.", "s*/**/*.json"):
        with pytest.raises(
            ValueError, match=r"^data\.train=.* takes in storage\.\w+ \(.*: name the folder of your data"
        ):
            require(f"data.train=['{given}']")
    with pytest.raises(ValueError, match=r"^data\.eval='\.' takes in storage\.work_dir"):
        require("data.eval=.", "storage.uri=elsewhere")
    require("data.train=mine", "data.eval=state/store/stages/sft/1.json")
    require("data.train=.", *(f"storage.{name}=../out/{name}" for name in ("uri", "work_dir", "runs_dir")))


@pytest.mark.parametrize(
    ("rows", "batch", "short"),
    [((16, 16, 16), 16, None), ((16, 15, 16), 16, None), ((64, 9, 64), 16, 2), ((12, 64, 64), 16, 1)],
)
def test_a_phase_with_less_than_a_batch_is_seen_before_sft(
    rows: tuple[int, ...], batch: int, short: int | None, tmp_path: Path
) -> None:
    """A phase may borrow hard rows of earlier ones, up to ``retrospective_share`` of all."""
    phases = {str(index): {"rows": count} for index, count in enumerate(rows, 1)}
    (tmp_path / "summary.json").write_text(json.dumps({"phases": phases}))
    settings = load_settings("smoke", [f"grpo.batch_size={batch}", "grpo.mini_batch_size=4"])
    assert settings.grpo.curriculum.retrospective_share == 0.25
    if short is None:
        require_rows(settings, tmp_path)
    else:
        with pytest.raises(ValueError, match=rf"phase {short} has {rows[short - 1]} rows, fewer than grpo.batch_size"):
            require_rows(settings, tmp_path)


@pytest.mark.parametrize(
    ("attention", "packages", "gpus", "said"),
    [
        ("flash_attention_2", (), ("H100",), "flash-attn is not installed"),
        ("flash_attention_2", ("flash_attn",), (), "runs on a GPU, and there is none"),
        ("flash_attention_2", ("flash_attn",), ("H100",), None),
        ("sdpa", (), (), None),
        ("auto", (), (), None),
    ],
)
def test_flash_attention_needs_its_package_and_a_gpu(
    attention: str, packages: tuple[str, ...], gpus: tuple[str, ...], said: str | None
) -> None:
    settings = load_settings("smoke", [f"model.attention={attention}"])
    devices = Devices(cuda="13.0", gpus=gpus, attention="sdpa")
    installed = Installed(python="3.12", core="", packages={name: (name,) for name in packages}, versions={})
    trouble = attention_trouble(settings, devices, installed)
    assert trouble is None if said is None else trouble is not None and said in trouble


def test_flash_attention_on_a_cpu_is_refused_before_anything_runs() -> None:
    require_attention(load_settings("smoke"))
    with pytest.raises(
        ValueError, match=r"model.attention='flash_attention_2': flash-attn .* set model.attention='auto'"
    ):
        require_attention(load_settings("smoke", ["model.attention=flash_attention_2"]))
