"""FSDP2 as the large profiles use it: accelerate's own, on gloo processes, with production's precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from fsdp_on_cpu import launch_variables, run_processes
from parity_stage import score_parity
from safetensors.torch import load_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from qwenlong_core.models import load_policy
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.runtime import save_policy, set_up_process, trainer_arguments
from qwenlong_core.training.sharding import empty_policy, is_sharded, precision_policy
from qwenlong_core.training.trainer import LongContextGRPOTrainer

SETTINGS = ModelSettings(name="tiny", dtype="float32")


def test_the_precision_of_sharded_training() -> None:
    policy = precision_policy("bf16")
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert policy.output_dtype is None, "log-probs are float32 already; a layer's output would take twice the memory"
    plain = precision_policy("no")
    assert (plain.param_dtype, plain.reduce_dtype, plain.output_dtype) == (None, None, None)
    with pytest.raises(ValueError, match=r"mixed_precision: fp16 .* use bf16"):
        precision_policy("fp16")


def test_only_sharded_gradients_are_reduced_at_every_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> Any:
        arguments = trainer_arguments(SETTINGS, LaunchSettings(), 1, Path("checkpoints"))
        return arguments["accelerator_config"]["gradient_accumulation_kwargs"]["sync_each_batch"]

    assert not settings()
    for name, value in launch_variables().items():
        monkeypatch.setenv(name, value)
    assert is_sharded()
    assert settings()


def test_the_first_version_of_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match=r"'old.yaml' asks for FSDP version 1, .* set fsdp_version: 2"):
        set_up_process(LaunchSettings(accelerate_config="old.yaml"))


@pytest.mark.slow
def test_processes_wait_as_long_as_the_setting_says(tmp_path: Path) -> None:
    """TRL's own setting comes too late: the group of processes is made before its trainer."""
    run_processes("process_group.py", tmp_path, processes=2, sharded=False)
    assert [(tmp_path / f"timeout-{rank}").read_text() for rank in (0, 1)] == ["420.0"] * 2


def test_an_empty_policy_is_the_loaded_one_but_for_its_weights(policy: Path) -> None:
    loaded, empty = load_policy(policy, SETTINGS), empty_policy(policy, SETTINGS)
    shapes = [{name: (p.shape, p.dtype, p.requires_grad) for name, p in m.named_parameters()} for m in (loaded, empty)]
    assert shapes[0] == shapes[1]
    buffers = dict(empty.named_buffers())
    assert buffers, "rotary frequencies"
    for name, buffer in loaded.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, atol=0, rtol=0, msg=name)
    assert empty.lm_head.weight is empty.model.embed_tokens.weight
    assert empty.config.to_dict() == loaded.config.to_dict()
    assert empty.generation_config.to_dict() == loaded.generation_config.to_dict()


def test_an_empty_policy_touches_no_pages(tmp_path: Path) -> None:
    """500 MB of weights; a policy that was initialised, or loaded, would have touched every page."""
    size = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8}
    LlamaConfig(vocab_size=12_000, **size).save_pretrained(tmp_path)
    GenerationConfig().save_pretrained(tmp_path)
    process = psutil.Process()
    before = process.memory_info().rss
    model = empty_policy(tmp_path, SETTINGS)
    weights = sum(p.nbytes for p in model.parameters())
    assert weights > 400e6
    assert process.memory_info().rss - before < 0.1 * weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_folder_names_the_dtype_that_it_has(
    dtype: str, make: Callable[..., LongContextGRPOTrainer], tmp_path: Path
) -> None:
    trainer = make(score_parity, model={"name": "tiny", "dtype": dtype})
    save_policy(trainer, trainer.processing_class, dtype, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()}
    assert kinds == {getattr(torch, dtype)}
    assert trainer.model.dtype == torch.float32


def stage(how: str, processes: int, policy: Path, data: Path, work: Path) -> list[dict[str, Any]]:
    """What each process saw in two steps; the whole gradients are in ``work``."""
    work.mkdir()
    run_processes("fsdp_stage.py", how, policy, data, work, processes=processes)
    return [json.loads((work / f"seen-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_and_four_processes_have_the_loss_and_gradient_of_one(policy: Path, data: Path, tmp_path: Path) -> None:
    """All under production's policy. The sums over processes are float32, so they differ by its rounding only."""
    (one,) = stage("ours", 1, policy, data, tmp_path / "1")
    assert abs(one["losses"][1]) > 1e-4, "the KL to the start, after one update"
    for processes in (2, 4):
        for seen in stage("ours", processes, policy, data, tmp_path / str(processes)):
            assert seen["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-8)
            # Between two forwards of an update: a process's share in float32, and nothing whole.
            assert seen["between"] == pytest.approx(4 * seen["parameters"] / processes, rel=0.01)
            # A change of the weights shows in the log-probs as it does in a whole model that computes in bfloat16.
            assert 0.002 < seen["expected_std"] < 0.005
            assert seen["ratio_std"] == pytest.approx(seen["expected_std"], rel=1e-3)
            assert seen["apart"] < 1e-6
        for step in (0, 1):
            ours, theirs = (load_file(tmp_path / n / f"gradients-{step}.safetensors") for n in (str(processes), "1"))
            for name, gradient in theirs.items():
                assert float((ours[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


@pytest.mark.slow
def test_accelerates_own_policy_would_be_noticed(policy: Path, data: Path, tmp_path: Path) -> None:
    """It rounds log-probs, so that most ratios are 1 and the others far off, and keeps the whole gradient."""
    for seen in stage("accelerate", 4, policy, data, tmp_path / "4"):
        assert seen["zeros"] > 0.5
        assert seen["ratio_std"] > 2 * seen["expected_std"]
        assert seen["between"] == pytest.approx(2 * seen["parameters"], rel=0.01)


@pytest.mark.slow
def test_offload_of_a_shared_row_changes_no_gradient(policy: Path, data: Path, tmp_path: Path) -> None:
    """Of a row that two processes compute together, with sharded weights: in every forward, and to the bit."""
    plain, offloaded = tmp_path / "plain", tmp_path / "offloaded"
    assert [seen["offloaded"] for seen in stage("shared", 2, policy, data, plain)] == [0, 0]
    layers, forwards, steps = 2, 8, 2
    for seen in stage("shared, offloaded", 2, policy, data, offloaded):
        assert seen["offloaded"] >= layers * forwards * steps
    for step in (0, 1):
        ours, theirs = (load_file(folder / f"gradients-{step}.safetensors") for folder in (offloaded, plain))
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.slow
def test_only_the_main_process_reads_the_weights_and_all_get_them(tmp_path: Path) -> None:
    """300 MB of weights on four processes. Without `start_policy` each would hold them at the start.

    The folder is in bfloat16, as the stages write it: float32 files would stay mapped and take no memory of their own.
    """
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 8}
    LlamaForCausalLM(LlamaConfig(vocab_size=12_000, **size)).bfloat16().save_pretrained(tmp_path / "policy")
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    total = sum(4 * tensor.numel() for tensor in weights.values()) / 1e6
    run_processes("fsdp_start.py", "ours", tmp_path / "policy", tmp_path, processes=4)
    seen = [json.loads((tmp_path / f"memory-{rank}.json").read_text()) for rank in range(4)]
    assert seen[0]["started"] > 0.9 * total
    for one in seen[1:]:
        assert one["started"] < 0.1 * total
    for one in seen:
        assert one["sums"].keys() == weights.keys()
        for name, found in one["sums"].items():
            assert found == pytest.approx(float(weights[name].double().sum()), rel=1e-6, abs=1e-6), name
