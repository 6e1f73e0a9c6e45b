"""What is looked for once before hours of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenlong.flows.door import require_database, require_rows
from qwenlong.tasks.tracking.client import make_database
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
