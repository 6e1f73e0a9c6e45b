"""A GRPO phase under accelerate's FSDP2 on gloo processes: what its updates were, and what its log-probs can tell.

    run_processes("fsdp_stage.py", HOW, POLICY, DATA, WORK, processes=2)

``HOW`` is ``accelerate``, whose own policy and no_sync are then left in place, or a key of ``LAUNCH``. Writes
``gradients-N.safetensors`` (whole, before clipping; one file an update), the policy in ``output`` and, of each process,
``seen-RANK.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from fsdp_on_cpu import shard_on_cpu
from host_offload import offload_on_cpu
from parity_stage import score_parity
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from training_jobs import example, grpo_job
from transformers import TrainerCallback

from qwenlong_core.data.prompts import encode, render_prompt
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.models import load_policy
from qwenlong_core.training import grpo, hooks, runtime
from qwenlong_core.training.logprobs.attention import NAME
from qwenlong_core.training.logprobs.cpu_head import use_compact_head
from qwenlong_core.training.trainer import LongContextGRPOTrainer

STEPS = 2
LAUNCH: dict[str, dict[str, Any]] = {
    "ours": {},
    "shared": {"sequence_parallel": 2},
    "shared, offloaded": {"sequence_parallel": 2, "activation_offload": True},
}


class Sampler(TransformersEngine):
    """A copy of the start, since sampling needs whole weights, which vLLM has in production.

    When it is asked, vLLM would be given the weights. TRL gathers a weight by ``full_tensor``, which one that is still
    whole has not: after a pass without gradient FSDP leaves the last norm and the head so, until a backward.
    """

    def __init__(self, policy: Path, trainer: LongContextGRPOTrainer) -> None:
        super().__init__(load_policy(policy, trainer.job.model), trainer.processing_class, batch_size=1)
        self.trained = trainer.model

    def generate(self, *arguments: Any) -> Any:
        whole = [name for name, weight in self.trained.named_parameters() if not isinstance(weight, DTensor)]
        assert not whole, f"vLLM could not be given {whole}"
        return super().generate(*arguments)


class Watch(TrainerCallback):
    """Keeps the gradient of each update, and what a process holds of it while an update still has forwards to run."""

    def __init__(self, trainer: LongContextGRPOTrainer, work: Path) -> None:
        self.trainer, self.work = trainer, work
        self.between = 0

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        self.between = max(self.between, gradient_bytes(self.trainer.model))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        gradients = {n: p.grad.full_tensor().contiguous() for n, p in self.trainer.model.named_parameters()}
        if self.trainer.accelerator.is_main_process:
            save_file(gradients, self.work / f"gradients-{state.global_step}.safetensors")


def gradient_bytes(model: Any) -> int:
    """Bytes of gradient that this process holds: its shards, and what FSDP keeps whole for a later reduction."""
    states = [module._get_fsdp_state() for module in model.modules() if hasattr(module, "_get_fsdp_state")]
    groups = {id(group): group for state in states for group in state._fsdp_param_groups}
    held = []
    for one in (one for group in groups.values() for one in group.fsdp_params):
        shard = one.sharded_param.grad
        whole = one._unsharded_param.grad if hasattr(one, "_unsharded_param") else None
        held += [whole, one.unsharded_accumulated_grad, None if shard is None else shard.to_local()]
    return sum(gradient.nbytes for gradient in held if gradient is not None)


def build(policy: Path, data: Path, work: Path, launch: dict[str, Any]) -> LongContextGRPOTrainer:
    state = PartialState(cpu=True)
    always = {"num_processes": state.num_processes, "cpu_threads": 1, "gradient_checkpointing": True}
    job = grpo_job(
        launch=always | launch,
        model={"name": "tiny", "dtype": "bfloat16"},
        phase={"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": STEPS},
        batch_size=8,
        mini_batch_size=8,
        dynamic_sampling={"max_rounds": 1},
        kl_coefficient=0.5,
        learning_rate=1e-3,
    )
    grpo.rollout_engine = lambda job, trainer: Sampler(policy, trainer)  # type: ignore[assignment]
    return grpo.build_trainer(
        job,
        inputs={"model": policy, "data": data},
        work=work,
        scorer=score_parity,
        processes=state.num_processes,
        rank=state.process_index,
    )


@torch.no_grad()
def log_ratio(trainer: LongContextGRPOTrainer, model: Any) -> Tensor:
    """Log-probs of a group after a small change of the last norm's weights, less those before it."""
    tokenizer = trainer.processing_class
    prompt = encode(tokenizer, render_prompt(tokenizer, example(1)))
    generator = torch.Generator().manual_seed(0)
    completions = torch.randint(5, model.config.vocab_size, (4, 32), generator=generator).tolist()
    weight, found = model.model.norm.weight, []
    local = weight.to_local() if hasattr(weight, "to_local") else weight
    # Numbers that bfloat16 holds, so that a layer sees the change as it is.
    for value in (1.0, 1 + 3 * 2**-7):
        local.fill_(value)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # the last norm's would otherwise stay gathered, with the value before
        found.append(torch.tensor(trainer.logprobs.of_group(model, prompt, completions)))
    return found[1] - found[0]


def alone(trainer: LongContextGRPOTrainer, folder: Path) -> Any:
    """The saved policy, whole and in bfloat16 as a layer sees its weights, with the same attention and head."""
    model = load_policy(folder, trainer.job.model)
    use_compact_head(model, trainer.temperature)
    model.set_attn_implementation(NAME)
    return model


def main(how: str, policy: Path, data: Path, work: Path) -> None:
    shard_on_cpu()
    if how == "accelerate":
        hooks.set_precision = lambda accelerator: None  # type: ignore[assignment]
        runtime.is_sharded = lambda: False  # type: ignore[assignment]
    moved = offload_on_cpu()
    trainer = build(policy, data, work, LAUNCH.get(how, {}))
    watch = Watch(trainer, work)
    trainer.add_callback(watch)
    trainer.add_callback(runtime.StepBoundary(updates=1, steps=STEPS, save_steps=STEPS))
    trainer.train()
    runtime.save_policy(trainer, trainer.processing_class, "bfloat16", work / "output")
    ratio, expected = log_ratio(trainer, trainer.model), log_ratio(trainer, alone(trainer, work / "output"))
    seen = {
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "between": watch.between,
        "offloaded": len(moved),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "ratio_std": float(ratio.std()),
        "expected_std": float(expected.std()),
        "apart": float((ratio - expected).abs().max()),
        "zeros": float((ratio == 0).float().mean()),
    }
    (work / f"seen-{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
