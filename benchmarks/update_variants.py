"""One training forward and backward over one group, or over the groups of several questions, by one method.

    python benchmarks/update_variants.py --model FOLDER --variant ours --prompt 2048 --completion 128 --group 8

Prints one line of JSON: seconds, processor seconds, peak memory, loss, gradient norm. ``update.py`` and ``growth.py``
start it as a separate process, so that each method's peak memory is its own. Variants:

``ours``            the trainer of this project: the group in one packed row
``groups``          the same, with several questions: each question's group in a forward of its own
``loop``            the same trainer with the same products and heap, one completion after the other
``torch-loop``      the same loop with PyTorch's own linear layers (the plain computation)
``trl``             stock TRL: the group's padded rows in one forward, its own output head
``prefix-grouper``  PrefixGrouper's split and joined attention over SDPA, if it is installed

All compute TRL's own loss on the same tokens; loss and gradient norm show that they agree.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from compare import model_folder
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from trl import GRPOConfig, GRPOTrainer

from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.training.logprobs.cpu_head import label_log_probs, use_compact_head
from qwenlong_core.training.logprobs.fast_linear import use_fast_linear
from qwenlong_core.training.logprobs.group_pass import GroupPass, share_prompts
from qwenlong_core.training.runtime import enable_checkpointing, quiet

VARIANTS = ("ours", "loop", "torch-loop", "trl", "prefix-grouper")
QUESTION = 64
"""Tokens at the end of a prompt that are its own, where several questions are asked on one document."""


def lengths(group: int, completion: int, ragged: bool) -> list[int]:
    """Completion lengths: all equal, or spread from a quarter of the limit to the limit."""
    return [completion - (3 * completion // 4 * i // group if ragged else 0) for i in range(group)]


def group_inputs(
    prompt: int, sizes: list[int], vocabulary: int, device: torch.device, questions: int = 1
) -> dict[str, Tensor]:
    """Groups as TRL's loss expects them: prompts ``[k * G, P]``, completions ``[k * G, C]`` padded on the right."""
    generator, count = torch.Generator().manual_seed(0), len(sizes)
    ids = torch.randint(5, vocabulary, (prompt,), generator=generator).repeat(questions, 1)
    ids[1:, -QUESTION:] = torch.randint(5, vocabulary, ids[1:, -QUESTION:].shape, generator=generator)
    mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).long().repeat(questions, 1)
    inputs = {
        "prompt_ids": ids.repeat_interleave(count, 0),
        "prompt_mask": torch.ones(len(mask), prompt, dtype=torch.long),
        "completion_ids": torch.randint(5, vocabulary, mask.shape, generator=generator) * mask,
        "completion_mask": mask,
        "advantages": torch.randn(len(mask), generator=generator),
        "num_items_in_batch": mask.sum(),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def grpo_config(args: argparse.Namespace, folder: str) -> GRPOConfig:
    return GRPOConfig(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        report_to="none",
        per_device_train_batch_size=args.group * args.questions,
        num_generations=args.group,
        steps_per_generation=1,
        max_completion_length=args.completion,
        loss_type="dapo",
        beta=0.0,
        disable_tqdm=True,
    )


def build(args: argparse.Namespace, folder: str) -> GRPOTrainer:
    model = load_policy(args.model, ModelSettings(attention="sdpa"))
    tokenizer, config = load_tokenizer(args.model), grpo_config(args, folder)
    kinds = {"trl": GRPOTrainer, "prefix-grouper": PrefixGrouperTrainer}
    trainer = kinds.get(args.variant, GroupPassTrainer)(
        model,
        reward_funcs=lambda **_: None,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [""] * args.group * args.questions}),
    )
    if args.variant != "trl":
        use_compact_head(trainer.model)
    if args.variant in ("ours", "groups", "loop"):
        use_fast_linear(trainer.model)
    if args.variant in ("ours", "groups"):
        trainer.logprobs.shares_prompts = share_prompts(trainer.model, None)
    quiet(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.to(trainer.accelerator.device).train()
    if args.checkpointing:  # as train() does first
        enable_checkpointing(trainer.model, {"use_reentrant": False})
    return trainer


class GroupPassTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's loss on this project's log-probs, as in the project's own trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        separate_rows = super()._get_per_token_logps_and_entropies
        self.logprobs = GroupPass(self.accelerator, self.num_generations, separate_rows, shares_prompts=False)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return self.logprobs(*args, **kwargs)


class PrefixGrouperTrainer(GRPOTrainer):  # type: ignore[misc]
    """PrefixGrouper as in its README, with this project's output head, so that attention is what differs."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        from prefix_grouper import PrefixGrouper

        model.set_attn_implementation(PREFIX_GROUPER)
        prompt, kept = input_ids[:1, :-logits_to_keep], attention_mask[:, -logits_to_keep:]
        completions, prefix = input_ids[:, -logits_to_keep:], prompt.size(1)
        ones = torch.ones_like(prompt)
        grouper = PrefixGrouper.from_ungrouped_masks(ones, kept, len(input_ids), device=prompt.device)
        positions = [torch.arange(prefix)] + [prefix + torch.arange(int(n)) for n in kept.sum(1)]
        with self.accelerator.autocast():
            hidden = model.base_model(
                grouper.concat_input(prompt, ones, completions, kept),
                use_cache=False,
                prefix_grouper=grouper,
                position_ids=torch.cat(positions)[None].to(prompt.device),
                attention_mask=prompt.new_zeros(1, 1, 1, 1, dtype=torch.bool),
            ).last_hidden_state
            suffix = grouper.split_output(hidden, include_prefix_last=1)[2][:, :-1]
            labels = completions.masked_fill(kept == 0, -100)
            output = label_log_probs(suffix, model.get_output_embeddings().weight, None, labels, 1.0)
        return output.log_probs, output.entropy, None


PREFIX_GROUPER = "prefix_grouper_over_sdpa"


def _grouped(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, prefix_grouper: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """PrefixGrouper makes one call for the prefix, and one for all suffixes with the prefix in front."""

    def attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        ahead = k.size(2) - q.size(2)
        visible = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(ahead) if ahead else None
        causal = ahead == 0  # padding is on the right, where queries have no loss
        out = scaled_dot_product_attention(q, k, v, visible, is_causal=causal, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2)

    return prefix_grouper.forward(attend, query, key, value), None


AttentionInterface.register(PREFIX_GROUPER, _grouped)


def update(trainer: GRPOTrainer, inputs: dict[str, Tensor], rows: int) -> float:
    """Forward and backward, some rows at a time; returns the loss and leaves the gradients in the parameters."""
    trainer.model.zero_grad(set_to_none=True)
    total = 0.0
    for first in range(0, len(inputs["prompt_ids"]), rows):
        part = {name: x if x.dim() == 0 else x[first : first + rows] for name, x in inputs.items()}
        loss = trainer.compute_loss(trainer.model, part)
        loss.backward()
        total += float(loss.detach())
    return total


class Peak:
    """Peak memory in MB since this object was created: resident, or allocated on the GPU."""

    def __init__(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            self.before = self._status("VmRSS")

    @staticmethod
    def _status(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def now(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else self._status("VmHWM")


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant; returns the line that is printed."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(args, folder)
    vocabulary, device = trainer.model.config.vocab_size, trainer.accelerator.device
    rows = {"groups": args.group, "loop": 1, "torch-loop": 1}.get(args.variant, args.group * args.questions)
    short = group_inputs(80, [8] * args.group, vocabulary, device, args.questions)
    update(trainer, short, rows)  # starts threads, checks packing
    trainer.model.zero_grad(set_to_none=True)
    sizes = lengths(args.group, args.completion, args.ragged)
    inputs = group_inputs(args.prompt, sizes, vocabulary, device, args.questions)
    peak = Peak()
    synchronise()
    start, processor = time.perf_counter(), time.process_time()
    loss = update(trainer, inputs, rows)
    synchronise()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_mb": peak.now(),
        "before_mb": peak.before,
        "loss": loss,
        "gradient_norm": float(norm),
        "threads": torch.get_num_threads(),
    }


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    result.add_argument(
        "--model", type=model_folder, required=True, help="policy folder, from python -m qwenlong_core.models"
    )
    result.add_argument("--variant", choices=(*VARIANTS, "groups"), required=True)
    result.add_argument("--prompt", type=int, required=True)
    result.add_argument("--completion", type=int, required=True)
    result.add_argument("--group", type=int, required=True)
    result.add_argument("--questions", type=int, default=1, help="groups, on prompts that differ at their end")
    result.add_argument("--checkpointing", action="store_true")
    result.add_argument("--ragged", action="store_true", help="completions of different lengths")
    result.add_argument("--threads", type=int, default=None, help="processor threads (default: all cores)")
    return result


if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print(json.dumps(measure(parser().parse_args())))
