"""What becomes of scored groups: advantages, the loss and its denominator, empty batches, refusals."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.grpo_trainer
from accelerate.utils import gather_object
from parity_stage import score_parity
from torch.utils._pytree import tree_leaves
from training_jobs import grpo_job, lines, scripted
from trl.generation import vllm_generation

from qwenlong_core import models
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.monitor import RewardAlarm
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.training import Phase
from qwenlong_core.training.arguments import batch_layout, grpo_config, vllm_as_trained
from qwenlong_core.training.curriculum import Difficulty, read_difficulties
from qwenlong_core.training.grpo import build_trainer, rollout_engine, train_phase
from qwenlong_core.training.logprobs.group_pass import used_columns
from qwenlong_core.training.rollout import Prompts, Scorer, epoch_seed
from qwenlong_core.training.trainer import LongContextGRPOTrainer


def test_advantages_by_hand(make: Callable[..., LongContextGRPOTrainer]) -> None:
    """(1,0,0,0): mean 1/4, sample std 1/2: 1.5 and -0.5. (1,1,0,0): mean 1/2, std sqrt(1/3): +-0.866."""
    trainer = make(scripted([[1, 0, 0, 0], [1, 1, 0, 0]]), batch_size=2, mini_batch_size=2)
    batch = trainer.next_batch()
    expected = [1.5, -0.5, -0.5, -0.5, 0.8660, 0.8660, -0.8660, -0.8660]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-3, rtol=0)


def test_groups_out_of_the_loss_do_not_count_in_its_denominator(
    make: Callable[..., LongContextGRPOTrainer],
) -> None:
    """One informative group of four rows, one all wrong: only the first one's tokens are counted, here for both."""
    trainer = make(
        scripted([[1, 0, 0, 0], [0, 0, 0, 0]]),
        batch_size=2,
        mini_batch_size=2,
        dynamic_sampling={"max_rounds": 1},
    )
    batch = trainer.next_batch()
    tokens = sum(len(c.token_ids) for c in trainer.batch.drawn.kept[0].completions)
    assert int(batch["num_items_in_batch"]) == 2 * tokens
    assert batch["tool_mask"][4:, 0].tolist() == [0] * 4
    assert batch["advantages"][4:].tolist() == [0] * 4


def run(job: GRPOJob, policy: Path, data: Path, work: Path, scorer: Scorer) -> list[dict[str, Any]]:
    train_phase(job, {"model": policy, "data": data}, work, scorer)
    return lines(work / "output" / "metrics.jsonl")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_policy(folder, grpo_job().model).state_dict()


def unequal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in a.items() if not torch.equal(tensor, b[name])]


def test_a_step_without_informative_groups_leaves_the_weights(policy: Path, data: Path, tmp_path: Path) -> None:
    """Step 1 learns, step 2 does not: Adam's momentum must not move the weights in step 2."""
    learn, nothing = [[1, 0, 0, 0], [0, 1, 1, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]
    base = {"batch_size": 2, "mini_batch_size": 2, "dynamic_sampling": {"max_rounds": 1}}
    phase = {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2}
    one = run(grpo_job(**base, phase=phase | {"steps": 1}), policy, data, tmp_path / "one", scripted(learn))
    two = run(
        grpo_job(**base, phase=phase | {"steps": 2}),
        policy,
        data,
        tmp_path / "two",
        scripted(learn + nothing),
    )
    assert [row["groups_kept"] for row in two] == [2, 0]
    assert one[0]["loss"] == two[0]["loss"]
    assert two[1]["loss"] == 0
    assert two[1].get("entropy") is None, "nothing was measured"
    learned = weights(tmp_path / "one" / "output")
    assert unequal(learned, weights(policy))
    assert unequal(learned, weights(tmp_path / "two" / "output")) == []


def test_an_unscored_completion_drops_its_group(policy: Path, data: Path, tmp_path: Path) -> None:
    job = grpo_job(
        batch_size=2,
        mini_batch_size=2,
        dynamic_sampling={"max_rounds": 1},
        phase={"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 1},
    )
    row = run(job, policy, data, tmp_path, scripted([[1, None, 0, 0], [1, 0, 0, 0]]))[0]
    assert (row["groups_kept"], row["groups_unscored"], row["unscored_share"]) == (1, 1, 0.125)
    difficulty = (tmp_path / "output" / "difficulty.json").read_text()
    assert difficulty.count("visits") == 1, "an unscored group says nothing about difficulty"


def test_a_run_whose_completions_are_all_unscored_stops(policy: Path, data: Path, tmp_path: Path) -> None:
    job = grpo_job(batch_size=2, mini_batch_size=2)
    with pytest.raises(RewardAlarm, match="unscored"):
        run(job, policy, data, tmp_path, scripted([[None] * 4] * 40))


def test_difficulty_leaves_the_length_penalty_out(make: Callable[..., LongContextGRPOTrainer]) -> None:
    """(1, 1, 1, 0) with a penalty on each: mean accuracy 3/4."""

    async def penalised(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        return [Score(value=rule - 0.5, rule=rule, length_penalty=-0.5) for rule in (1.0, 1.0, 1.0, 0.0)]

    trainer = make(penalised, batch_size=1, mini_batch_size=1)
    trainer.next_batch()
    assert list(trainer.batches.difficulties.values()) == [Difficulty(1, 0.75)]


def test_a_phase_trains_and_leaves_a_policy(policy: Path, plain_run: Path) -> None:
    rows = lines(plain_run / "output" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["groups_drawn"] == sum(
            row[f"groups_{n}"] for n in ("kept", "all_right", "all_wrong", "unscored", "surplus")
        )
        assert row["grad_norm"] > 0
        assert row["entropy"] > 0
        assert row["tokens_per_second"] > 0
    assert unequal(weights(policy), weights(plain_run / "output"))
    assert load_tokenizer(plain_run / "output").eos_token_id == load_tokenizer(policy).eos_token_id
    ids = {sample["id"] for sample in lines(plain_run / "output" / "samples.jsonl")}
    assert ids <= {f"p1-{i}" for i in range(8)}


def test_gradient_checkpointing_and_kl_act(policy: Path, data: Path, plain_run: Path, tmp_path: Path) -> None:
    """Checkpointing changes memory, not the result; a KL term changes the weights and shows."""
    plain = lines(plain_run / "output" / "metrics.jsonl")
    saving = grpo_job(launch={"cpu_threads": 1, "gradient_checkpointing": True})
    saved = run(saving, policy, data, tmp_path / "saved", score_parity)
    assert [r["loss"] for r in saved] == pytest.approx([r["loss"] for r in plain], abs=1e-6)
    with_kl = run(grpo_job(kl_coefficient=0.5), policy, data, tmp_path / "kl", score_parity)
    assert with_kl[-1]["kl"] > 0
    assert unequal(weights(tmp_path / "kl" / "output"), weights(plain_run / "output"))


@pytest.mark.parametrize(
    ("changes", "processes", "words"),
    [
        (
            {"mini_batch_size": 2, "micro_batch_size": 1},
            4,
            r"mini_batch_size=2 .* 4 process\(es\).* multiple of 4",
        ),
        ({"batch_size": 6, "mini_batch_size": 6, "micro_batch_size": 4}, 1, "multiple of 4, such as 4"),
        ({"batch_size": 6, "mini_batch_size": 4}, 1, "not a multiple of grpo.mini_batch_size=4: use 4"),
    ],
)
def test_settings_that_would_split_a_group_are_refused(changes: dict[str, Any], processes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        batch_layout(grpo_job(**changes), processes)


def test_any_group_size_fits_since_a_batch_is_counted_in_prompts(make: Callable[..., LongContextGRPOTrainer]) -> None:
    """Groups of 3 in a batch of 4: (1,0,0) has mean 1/3 and sample std sqrt(1/3), so 1.1547 and -0.5774."""
    trainer = make(scripted([[1, 0, 0]] * 4), group_size=3, batch_size=4, mini_batch_size=2)
    batch = trainer.next_batch()
    assert trainer.batch.drawn.counts()["groups_kept"] == 4
    expected = torch.tensor([1.1547, -0.5774, -0.5774] * 4)
    torch.testing.assert_close(batch["advantages"], expected, atol=1e-3, rtol=0)


def test_a_layout_by_hand() -> None:
    """128 prompts, 32 an update, 2 a forward on each of 8 processes: 2 forwards an update, 8 a batch."""
    layout = batch_layout(grpo_job(batch_size=128, mini_batch_size=32, micro_batch_size=2), 8)
    assert (layout.forwards_per_update, layout.forwards_per_batch, layout.updates_per_batch) == (2, 8, 4)


def test_settings_reach_trl(tmp_path: Path) -> None:
    job = grpo_job(
        group_size=6,
        learning_rate=3e-6,
        temperature=0.6,
        top_p=0.9,
        clip_low=0.1,
        clip_high=0.3,
        kl_coefficient=0.04,
        max_grad_norm=0.5,
        scale_rewards="batch",
        stop=["END"],
        engine="vllm-colocate",
        vllm={"tensor_parallel": 2, "memory_share": 0.4, "sleep": True},
        launch={"gradient_checkpointing": True},
    )
    expected = {
        "num_generations": 6, "learning_rate": 3e-6, "temperature": 0.6, "top_p": 0.9, "epsilon": 0.1,
        "epsilon_high": 0.3, "beta": 0.04, "max_grad_norm": 0.5, "scale_rewards": "batch",
        "generation_kwargs": {"stop": ["END"]},
        "max_completion_length": 8, "use_vllm": True, "vllm_mode": "colocate", "vllm_tensor_parallel_size": 2,
        "vllm_gpu_memory_utilization": 0.4, "vllm_enable_sleep_mode": True, "vllm_max_model_length": 108,
        "vllm_importance_sampling_mode": "token_truncate", "loss_type": "dapo", "gradient_checkpointing": True,
        # 3 steps of 2 updates; each takes 2 forwards of 1 group
        "max_steps": 6, "gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 6,
    }  # fmt: skip
    arguments = grpo_config(job, batch_layout(job, 1), 100, tmp_path)
    assert {name: getattr(arguments, name) for name in expected} == expected
    served = grpo_job(engine="vllm-server", vllm={"server_url": "http://10.0.0.7:8000"})
    arguments = grpo_config(served, batch_layout(served, 1), 100, tmp_path)
    assert (arguments.vllm_mode, arguments.vllm_server_base_url) == ("server", "http://10.0.0.7:8000")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vllm_is_told_the_models_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TRL starts it. ``make test-vllm`` compares the log-probs."""
    monkeypatch.setattr(vllm_generation, "LLM", dict, raising=False)
    model, policy = {"name": "tiny", "dtype": dtype}, torch.nn.Linear(2, 2)
    with vllm_as_trained(grpo_job(engine="vllm-colocate", model=model), policy):
        assert vllm_generation.LLM(model="folder") == {"model": "folder", "dtype": dtype}
    with vllm_as_trained(grpo_job(model=model), policy):
        assert vllm_generation.LLM is dict


def test_vllm_is_told_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what TRL passes. ``make test-vllm`` runs a stage with them."""
    monkeypatch.setattr(vllm_generation, "LLM", dict, raising=False)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    options = {"kv_cache_dtype": "fp8", "enforce_eager": True}
    told = {"seed": 1, "dtype": "float32", **options}
    for by_groups in (False, True):
        job = grpo_job(engine="vllm-colocate", group_size=8, vllm={"options": options, "group_at_a_time": by_groups})
        with vllm_as_trained(job, torch.nn.Linear(2, 2)):
            assert vllm_generation.LLM(seed=1) == told | ({"disable_cascade_attn": False} if by_groups else {})
            assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == ("0" if by_groups else "1")


@pytest.mark.parametrize(
    ("limit", "context", "words"),
    [
        (128, 8192, r"'long' has \d+ tokens, over the phase's max_prompt_tokens=128"),
        (1024, 256, r"'long' has \d+ tokens.*max_completion_tokens=64.*context of 256"),
    ],
)
def test_a_prompt_over_a_limit_is_refused(limit: int, context: int, words: str, policy: Path) -> None:
    example = Example(
        id="long",
        source="t",
        domain="math",
        answer_type="number",
        context="x " * 300,
        question="?",
        answers=("1",),
    )
    phase = Phase(max_prompt_tokens=limit, max_completion_tokens=64, cache_tokens=8, steps=1)
    with pytest.raises(ValueError, match=words):
        Prompts(load_tokenizer(policy), [example], phase, context)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_said_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grpo.engine='vllm-colocate' needs vLLM.*make setup-gpu"):
        build_trainer(
            grpo_job(engine="vllm-colocate"),
            inputs={"model": tmp_path, "data": data},
            work=tmp_path,
            scorer=score_parity,
            processes=1,
            rank=0,
        )


def test_more_processes_than_run_are_refused(policy: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accelerate launch --num_processes 2"):
        run(grpo_job(launch={"num_processes": 2}), policy, data, tmp_path, score_parity)


@pytest.mark.skipif(torch.cuda.is_available(), reason="FSDP works on a GPU")
def test_sharding_on_a_cpu_is_refused(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match=r"'fsdp.yaml' asks for FSDP.*without a GPU"):
        run(grpo_job(launch={"accelerate_config": "fsdp.yaml"}), policy, data, tmp_path, score_parity)


def test_sampling_on_each_process_alone_is_refused_where_weights_are_sharded(
    make: Callable[..., LongContextGRPOTrainer],
) -> None:
    trainer = make(scripted([]), launch={"accelerate_config": "fsdp.yaml", "cpu_threads": 1})
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"samples on each process alone, but fsdp.yaml shards.*'vllm-colocate'"):
        rollout_engine(trainer.job, trainer)


def test_deepspeed_is_refused_before_a_step_is_paid_for(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"'zero3.yaml' asks for DeepSpeed.*use FSDP2"):
        run(grpo_job(launch={"accelerate_config": "zero3.yaml"}), policy, data, tmp_path, score_parity)


@pytest.mark.parametrize(
    ("gpu", "installed", "chosen"),
    [(True, True, "flash_attention_2"), (True, False, "sdpa"), (False, True, "sdpa"), (False, False, "sdpa")],
)
def test_attention_is_what_is_there(gpu: bool, installed: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(models, "is_flash_attn_2_available", lambda: installed)
    assert models.attention_implementation(ModelSettings(name="tiny")) == chosen
    assert models.attention_implementation(ModelSettings(name="tiny", attention="eager")) == "eager"


def test_seeds_of_epochs_differ() -> None:
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


def test_columns_in_use() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0]])
    assert used_columns(mask) == (1, 6)


def test_a_phase_goes_on_from_the_one_before(
    data: Path, plain_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Phase 2 starts from phase 1's folder: its difficulty brings hard rows back and is extended."""
    first = read_difficulties(plain_run / "output")
    with caplog.at_level(logging.INFO):
        run(grpo_job(index=2), plain_run / "output", data, tmp_path, score_parity)
    assert "grpo-2: 8 rows of its own length, 2 hard ones of earlier phases" in caplog.text
    chosen = models.attention_implementation(grpo_job().model)
    assert f"grpo-2: 3 steps of 4 prompts x 4, engine transformers, attention {chosen}, prompts shared" in caplog.text
    second = read_difficulties(tmp_path / "output")
    for key, before in first.items():
        assert second[key] == before or second[key].visits > before.visits
    assert any(key.startswith("p2-") for key in second)
    assert sum(d.visits for d in second.values()) > sum(d.visits for d in first.values())


def test_a_batch_tokenises_no_prompt_again_and_gathers_no_text(
    make: Callable[..., LongContextGRPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL would tokenise every prompt G times and gather its text on every process."""
    trainer = make(scripted([[1, 0, 0, 0]] * 4), dynamic_sampling={"max_rounds": 1})
    gathered: list[Any] = []
    tokenised: list[Any] = []

    def gather(objects: Any) -> Any:
        gathered.append(objects)
        return gather_object(objects)

    monkeypatch.setattr(trl.trainer.grpo_trainer, "gather_object", gather)
    monkeypatch.setattr(type(trainer.processing_class), "_encode_plus", lambda *args, **_: tokenised.append(args))
    trainer.next_batch()
    assert not tokenised
    texts = [leaf for leaf in tree_leaves(gathered) if isinstance(leaf, str)]
    assert texts
    assert max(map(len, texts)) == 0, "an empty text in place of each prompt"
