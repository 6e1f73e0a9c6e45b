"""LoRA: what an adapter learns, what is merged, and what leaves a stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from expert_policy import expert_model
from parity_stage import score_parity
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from training_jobs import grpo_job, lines, sft_job, whole_state
from trl.generation.vllm_generation import VLLMGeneration

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import SettingsError, load_settings
from qwenlong_core.training import sft
from qwenlong_core.training.checkpoints import newest_complete
from qwenlong_core.training.grpo import build_trainer, train_phase
from qwenlong_core.training.lora import adapter_config, merge, merged_weights
from qwenlong_core.training.trainer import LongContextGRPOTrainer

LORA = {"rank": 4, "alpha": 8.0}
SCALE = 2.0
Make = Callable[..., LongContextGRPOTrainer]


def learned(model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer with an adapter, by the name of its weight, after B was given random values."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            b.data = torch.randn(b.shape, generator=generator) / 20
            found[f"{name}.weight"] = a, b
    return found


def adapted(policy: Path, dtype: str = "float32") -> PeftModel:
    model = load_policy(policy, ModelSettings(dtype=dtype))
    return get_peft_model(model, adapter_config(model, LoRASettings(**LORA)))


def plain(policy: Path, dtype: str = "float32") -> dict[str, Tensor]:
    return dict(load_policy(policy, ModelSettings(dtype=dtype)).named_parameters())


def group() -> tuple[Tensor, Tensor, int]:
    """Ids and mask of four completions of one prompt, and the completions' columns."""
    ids = torch.randint(5, 1000, (1, 40), generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    ids[:, 30:] = torch.randint(5, 1000, (4, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 35:] = 0
    return ids, mask, 10


# -- merging ---------------------------------------------------------------------------------------------


def test_a_merged_policy_computes_what_weights_and_adapter_compute(policy: Path) -> None:
    """Against peft's own forward."""
    model = adapted(policy)
    learned(model)
    ids = group()[0]
    with torch.no_grad(), model.disable_adapter():
        before = model(input_ids=ids).logits
    with torch.no_grad():
        beside = model(input_ids=ids).logits
        merged = merge(model)(input_ids=ids).logits
    assert float((beside - before).abs().max()) > 0.1
    torch.testing.assert_close(merged, beside, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_weight_is_rounded_once_and_the_frozen_one_stays(dtype: str, policy: Path) -> None:
    model, start = adapted(policy, dtype), plain(policy, dtype)
    pairs = learned(model)
    sent = dict(merged_weights(model))
    assert sent.keys() == start.keys()
    assert len(pairs) == 2 * 7, "all linear layers but the output head"
    for name, weight in start.items():
        update = SCALE * (pairs[name][1] @ pairs[name][0]) if name in pairs else 0
        assert torch.equal(sent[name], (weight.float() + update).to(weight.dtype)), name
    frozen = {n.replace(".base_layer", ""): w for n, w in model.get_base_model().named_parameters() if "lora_" not in n}
    assert all(torch.equal(frozen[name], weight) for name, weight in start.items())
    assert all(torch.equal(weight, sent[name]) for name, weight in merge(model).named_parameters())


def test_merging_as_peft_does_would_change_the_frozen_weights(policy: Path) -> None:
    """When this fails, TRL may send weights to vLLM in its own way."""
    model, start = adapted(policy, "bfloat16"), plain(policy, "bfloat16")
    learned(model)
    model.merge_adapter()
    model.unmerge_adapter()
    left = model.get_base_model().get_parameter("model.layers.0.mlp.up_proj.base_layer.weight")
    assert not torch.equal(left, start["model.layers.0.mlp.up_proj.weight"])


def test_vllm_gets_the_names_and_weights_that_trl_would_send(policy: Path) -> None:
    model = adapted(policy)
    learned(model)
    ours = {name: weight.clone() for name, weight in merged_weights(model)}
    sender: Any = object.__new__(VLLMGeneration)
    sender.model = model
    sender._dist = SimpleNamespace(is_fsdp=False, gather_params=lambda _: torch.no_grad())
    theirs = {name: weight.clone() for name, weight in sender._iter_named_params()}
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])


# -- what is learned -------------------------------------------------------------------------------------


def test_the_adapter_s_gradient_is_the_projection_of_the_full_one(
    make: Make, policy: Path, data: Path, tmp_path: Path
) -> None:
    """W = W0 + s B A, so dA = s B^T dW and dB = s dW A^T; dW is that of full training on the merged weights, both
    through a whole trainer."""
    trainer = make(score_parity, lora=LORA)
    pairs = learned(trainer.model)
    whole = load_policy(policy, ModelSettings())
    whole.load_state_dict(dict(merged_weights(trainer.model)), strict=False)
    whole.save_pretrained(tmp_path / "merged")
    load_tokenizer(policy).save_pretrained(tmp_path / "merged")
    inputs = {"model": tmp_path / "merged", "data": data}
    full = build_trainer(grpo_job(), inputs=inputs, work=tmp_path, scorer=score_parity, processes=1, rank=0)
    for one in (trainer, full):
        logps = one.logprobs(one.model, *group())[0]
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        assert one.logprobs.shares_prompts
    gradients = {name: weight.grad for name, weight in full.model.named_parameters()}
    for name, (a, b) in pairs.items():
        for found, expected in ((a.grad, SCALE * b.T @ gradients[name]), (b.grad, SCALE * gradients[name] @ a.T)):
            assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) > 0, name
    frozen = [weight for weight in trainer.model.parameters() if not weight.requires_grad]
    assert len(frozen) == len(gradients) and all(weight.grad is None for weight in frozen)


@pytest.mark.parametrize(("dtype", "engine"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_phase_moves_weights_by_its_adapter_alone(
    dtype: str, engine: float, policy: Path, data: Path, tmp_path: Path
) -> None:
    job = grpo_job(lora=LORA, model={"name": "tiny", "dtype": dtype}, kl_to_start_every=1)
    train_phase(job, {"model": policy, "data": data}, tmp_path, score_parity)
    assert_moved_by_the_adapter(policy, tmp_path, dtype, 14)
    rows = lines(tmp_path / "output/metrics.jsonl")
    assert all(row["grad_norm"] > 0 for row in rows)
    assert all(row["engine_logprob_difference"] < engine for row in rows), "the adapter samples, too"
    assert abs(rows[0]["kl"]) < engine < rows[-1]["kl"] if dtype == "float32" else rows[-1]["kl"] > 0


def test_sft_moves_the_layers_that_are_named(policy: Path, data: Path, tmp_path: Path) -> None:
    job = sft_job(packing=True).model_copy(update={"lora": LoRASettings(**LORA, targets=("q_proj", "v_proj"))})
    sft.run(job, {"model": policy, "data": data}, tmp_path)
    assert_moved_by_the_adapter(policy, tmp_path, "float32", 4)
    assert all(row["grad_norm"] > 0 for row in lines(tmp_path / "output/metrics.jsonl"))


def assert_moved_by_the_adapter(policy: Path, work: Path, dtype: str, layers: int) -> None:
    """The policy is the start plus the adapter in its folder, which is what the last checkpoint holds."""
    start, end = plain(policy, dtype), load_file(work / "output/model.safetensors")
    saved = load_file(work / "output/adapter/adapter_model.safetensors")
    moved = {name for name, weight in start.items() if not torch.equal(end[name], weight)}
    assert len(moved) == layers and end.keys() == start.keys()
    for name in moved:
        a, b = (saved[f"base_model.model.{name.replace('.weight', f'.lora_{x}.weight')}"] for x in "AB")
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(end[name], (start[name].float() + SCALE * (b @ a)).to(start[name].dtype)), name
    newest = newest_complete(work / "checkpoints")
    assert newest is not None
    state = whole_state(newest)
    assert all(".lora_" in name for name in state), "nothing of the frozen weights"
    assert {name for name in state if name.startswith("weights/")} == {
        f"weights/{name.replace('.weight', '.default.weight')}" for name in saved
    }


def test_the_start_is_the_same_memory_without_the_adapter(make: Make) -> None:
    """For the KL to the start and for a KL term alike; against full training's log-probs of the same policy."""
    with torch.no_grad():
        full = make(score_parity)
        expected = full.logprobs(full.model, *group())[0]
        for kl in ({"kl_to_start_every": 1}, {"kl_coefficient": 0.1}):
            trainer = make(score_parity, lora=LORA, **kl)
            learned(trainer.model)
            assert torch.equal(trainer.logprobs(trainer.ref_model, *group())[0], expected)
            assert float((trainer.logprobs(trainer.model, *group())[0] - expected).abs().max()) > 0.01
            own = {weight.data_ptr() for weight in trainer.model.parameters()}
            assert {weight.data_ptr() for weight in trainer.ref_model.parameters()} < own


@pytest.mark.slow
def test_a_phase_with_a_kl_term_and_checkpointing(policy: Path, data: Path, tmp_path: Path) -> None:
    launch = {"cpu_threads": 1, "gradient_checkpointing": True}
    job = grpo_job(lora=LORA, kl_coefficient=0.1, launch=launch)
    train_phase(job, {"model": policy, "data": data}, tmp_path, score_parity)
    assert_moved_by_the_adapter(policy, tmp_path, "float32", 14)
    kl = [row["kl"] for row in lines(tmp_path / "output/metrics.jsonl")]
    assert 0 <= kl[0] < kl[-1]


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("launch.accelerate_config=infra/accelerate/fsdp2-1node.yaml", "lora trains on whole weights"),
        ("grpo.optimizer_across_phases=carried", "lora, whose adapter is a new one in each phase"),
    ],
)
def test_settings_that_do_not_go_with_an_adapter(override: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings("smoke", ["lora.rank=4", override])


def test_rows_that_processes_share_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"launch.sequence_parallel=2\): drop one of them"):
        load_settings("8gpu-14b", ["lora.rank=4", "launch.accelerate_config=none", "launch.sequence_parallel=2"])


def test_experts_and_unknown_layers_are_refused(policy: Path) -> None:
    with pytest.raises(ValueError, match="does not reach the experts of Qwen3MoeForCausalLM"):
        adapter_config(expert_model(100), LoRASettings())
    model = load_policy(policy, ModelSettings())
    with pytest.raises(
        ValueError, match=r"lora\.targets names lm_head, qproj, no linear layer of LlamaForCausalLM: it"
    ):
        adapter_config(model, LoRASettings(targets=("q_proj", "qproj", "lm_head")))


def test_a_process_that_was_started_for_fsdp_is_refused(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="started for FSDP"):
        adapter_config(load_policy(policy, ModelSettings()), LoRASettings())


def test_both_stages_are_told_of_the_adapter() -> None:
    settings = load_settings("smoke", ["lora.rank=4"])
    assert SFTJob.of(settings, None).lora == GRPOJob.of(settings, 1, None).lora == LoRASettings(rank=4)
