"""Activation offload: past TRL's crash, the same weights, and less memory where there is a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from host_offload import offload_on_cpu
from parity_stage import score_parity
from safetensors.torch import load_file
from training_jobs import grpo_job, lines, sft_job

from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training import grpo, runtime, sft, trainer

OFFLOADED = {"cpu_threads": 1, "gradient_checkpointing": True, "activation_offload": True}


@pytest.fixture
def offload_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return offload_on_cpu(monkeypatch.setattr)


@pytest.mark.parametrize("names", [["gradient"], ["gradient", "activation"]], ids=["5.17", "5.23"])
def test_the_switch_is_found_under_the_name_that_a_transformers_has(names: list[str]) -> None:
    called: list[tuple[str, dict[str, bool], bool]] = []

    def method(name: str) -> Any:
        return lambda options, offload: called.append((name, options, offload))

    model = SimpleNamespace(**{f"{name}_checkpointing_enable": method(name) for name in names})
    runtime.enable_checkpointing(model, {"use_reentrant": False}, offload=True)
    assert called == [(names[-1], {"use_reentrant": False}, True)]


def trained(policy: Path, data: Path, work: Path, **changes: Any) -> dict[str, torch.Tensor]:
    grpo.train_phase(grpo_job(**changes), {"model": policy, "data": data}, work, score_parity)
    return load_file(work / "output" / "model.safetensors")


@pytest.mark.parametrize("updates", [1, 2])
def test_grpo_with_offload_ends_as_without(
    updates: int, policy: Path, data: Path, tmp_path: Path, offload_on_a_cpu: list[int]
) -> None:
    """In every step, the ones after TRL has switched checkpointing off and on again as well."""
    batch = {"mini_batch_size": 4 // updates, "kl_to_start_every": 2}
    ours = trained(policy, data, tmp_path / "ours", launch=OFFLOADED, **batch)
    layers, forwards, steps = 2, 4, 3
    assert len(offload_on_a_cpu) >= layers * forwards * steps
    plain = {"cpu_threads": 1, "gradient_checkpointing": True}
    theirs = trained(policy, data, tmp_path / "theirs", launch=plain, **batch)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_trl_alone_still_loses_the_offload(
    policy: Path, data: Path, tmp_path: Path, offload_on_a_cpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When this fails TRL has learned the option, and ``checkpointing_off`` can go."""
    monkeypatch.setattr(trainer, "checkpointing_off", lambda model, options: nullcontext())
    trained(policy, data, tmp_path, launch=OFFLOADED)
    assert offload_on_a_cpu == []


def test_sft_with_offload_ends_as_without(
    policy: Path, data: Path, tmp_path: Path, offload_on_a_cpu: list[int]
) -> None:
    ends = []
    for launch in (OFFLOADED, {"cpu_threads": 1}):
        job = sft_job(epochs=1.0).model_copy(update={"launch": LaunchSettings.model_validate(launch)})
        work = tmp_path / str(len(launch))
        sft.run(job, {"model": policy, "data": data}, work)
        ends.append(lines(work / "output" / "metrics.jsonl")[-1]["loss"])
    assert offload_on_a_cpu
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to move")
def test_without_a_gpu_there_is_nothing_to_move(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert not runtime.offloads(LaunchSettings.model_validate(OFFLOADED))
    assert "nothing to move" in caplog.text


def test_offload_without_checkpointing_is_refused() -> None:
    with pytest.raises(ValueError, match="set both or none"):
        LaunchSettings(activation_offload=True)


@pytest.mark.gpu
def test_offload_saves_gpu_memory(policy: Path, data: Path, tmp_path: Path) -> None:
    """The same losses, and a lower peak than checkpointing alone. Not run anywhere yet."""
    peaks, losses = [], []
    for offload in (True, False):
        torch.cuda.reset_peak_memory_stats()
        launch = {"gradient_checkpointing": True, "activation_offload": offload}
        trained(policy, data, tmp_path / str(offload), launch=launch)
        peaks.append(torch.cuda.max_memory_allocated())
        losses.append([row["loss"] for row in lines(tmp_path / str(offload) / "output" / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert peaks[0] <= peaks[1]
