"""A model whose rows cannot be cut is refused by run and doctor before any stage, with the numbers that fit."""

from pathlib import Path

import pytest

from qwenlong.flows.cli.doctor import _sequence_parallel
from qwenlong.flows.pipeline_run import preflight
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

SPREAD = ["sft.batch_size=12", "grpo.mini_batch_size=12", "grpo.batch_size=12"]


def settings_of(processes: int, *changes: str) -> Settings:
    spread = [f"launch.num_processes={processes}", f"launch.sequence_parallel={processes}"]
    return load_settings("smoke", [*spread, *SPREAD, *changes])


@pytest.mark.parametrize(
    ("processes", "change", "reason"),
    [
        (3, "model.name=tiny", "4 query and 2 key heads .* to 3 ranks: possible are 1, 2, 4"),
        (2, "model.attention=eager", "LlamaForCausalLM: its attention is set to eager"),
    ],
)
def test_run_and_doctor_refuse_what_cannot_be_cut(
    processes: int, change: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(processes, "model.name=tiny", change)
    with pytest.raises(ValueError, match=f"launch.sequence_parallel={processes} cannot be used.*{reason}"):
        preflight(settings)
    (finding,) = _sequence_parallel(settings)
    assert not finding.ok and f"launch.sequence_parallel={processes} cannot be used" in finding.mend


def test_what_can_be_cut_passes_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(2, "model.name=tiny")
    preflight(settings)
    (finding,) = _sequence_parallel(settings)
    assert finding.ok and finding.found == "2 processes to a row"
    assert list(_sequence_parallel(settings_of(1, "model.name=tiny"))) == []


def test_more_ranks_than_a_machine_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sequence_parallel=4 does not divide the 2 process\(es\) of a machine"):
        load_settings("smoke", ["launch.num_processes=2", "launch.sequence_parallel=4"])
