"""SFT and GRPO."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, Incidental, PlainUrl, Share, Stop
from qwenlong_core.settings.vllm import RolloutOptions

ScaleRewards = Literal["group", "batch", "task", "none"]

Task = Literal["domain", "answer_type", "source"]
"""The field of an example that says which task it belongs to."""

Truncated = Literal["keep", "mask"]

OptimizerAcrossPhases = Literal["fresh", "carried"]

LEAST_IN_COMMON = 8
"""vLLM 0.31 reads a common prompt once for so many completions that run, and for fewer each time."""


class SFTSettings(Block):
    """Short-context supervised fine-tuning (paper section 3.2), loss on the answer only."""

    max_tokens: int = Field(20_000, ge=128)
    """Longest row (prompt and solution); longer ones are dropped and counted."""
    learning_rate: float = Field(5e-6, gt=0)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(128, ge=1)
    """Rows per optimizer step over all processes."""
    micro_batch_size: int = Field(1, ge=1)
    """Rows per forward pass on one process; with ``packing``, on average."""
    packing: bool = False
    """Concatenate the rows of a forward pass instead of padding them; each row attends only to itself. An optimizer
    step takes the same rows, and has the same gradient, as without packing."""
    loss: Literal["tokens", "rows"] = "tokens"
    """What a step's loss is the mean of: all answer tokens (TRL's), or the rows' own means (the paper's, normalised by
    length), in which a long answer counts no more than a short one."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, on all weights but biases and norms."""
    save_steps: Incidental[int] = Field(50, ge=1)
    """Optimizer steps between checkpoints."""

    @model_validator(mode="after")
    def _packing_needs_several(self) -> SFTSettings:
        if self.packing and self.micro_batch_size == 1:
            raise ValueError(
                "sft.packing concatenates the rows of a forward pass, and sft.micro_batch_size=1 leaves one: raise it, "
                "or set sft.packing=false"
            )
        return self


class DynamicSamplingSettings(Block):
    """DAPO's dynamic sampling: groups whose accuracies are all equal are replaced by fresh draws."""

    max_rounds: int = Field(10, ge=1)
    """Rounds of rollouts per step; 1 switches resampling off. After the last round the step trains on the
    informative groups it has."""
    oversampling: float = Field(1.0, ge=1, le=16)
    """Groups sampled per group that the batch still misses (the released QwenLong-L1 script takes 3). Informative
    groups beyond the batch are used in the next step, or dropped if it has no room for them."""
    tolerance: float = Field(1e-6, ge=0)
    """Accuracies closer than this count as equal."""


class CurriculumSettings(Block):
    """Retrospective sampling: hard examples of earlier phases return (paper section 2)."""

    retrospective_share: Share = 0.25
    """Largest share of a phase's rows that come from earlier phases; 0 switches it off."""
    probe_samples: int | None = Field(None, ge=2)
    """Completions of the base model per row before training, so that the difficulty of every row is known from the
    start (paper section 2). ``None`` learns it from the rollouts alone."""
    retire_after_visits: Annotated[int, Field(ge=1)] | None = None
    """A prompt without a correct completion in this many visits is retired: it is not drawn again, in later phases
    either. ``None`` retires none. At least ``batch_size`` prompts always stay."""


class Phase(Block):
    """One GRPO phase; it trains on prompts longer than the previous phase's limit, up to its own."""

    max_prompt_tokens: int = Field(ge=128)
    max_completion_tokens: int = Field(10_000, ge=8)
    """``L_max`` of the length penalty, and the generation limit."""
    cache_tokens: int = Field(1_000, ge=1)
    """``L_cache``: the penalty falls from 0 to -1 over this many tokens before the limit."""
    steps: int = Field(ge=1)
    """Rollout batches (each is ``batch_size / mini_batch_size`` optimizer steps)."""
    evaluate: Incidental[bool] = True
    """Whether the policy is evaluated after this phase. After the last one it always is."""

    @model_validator(mode="after")
    def _cache_fits(self) -> Phase:
        if self.cache_tokens > self.max_completion_tokens:
            raise ValueError(
                f"cache_tokens={self.cache_tokens} > max_completion_tokens={self.max_completion_tokens}: "
                "the length penalty would start below zero tokens; lower cache_tokens"
            )
        return self


class VLLMSettings(Block):
    """How vLLM samples the rollouts (TRL's ``vllm_*`` arguments)."""

    tensor_parallel: int = Field(1, ge=1)
    """GPUs that hold one copy of the model together (colocate)."""
    memory_share: float = Field(0.3, gt=0, lt=1)
    """Share of a GPU's memory for vLLM's weights and cache (colocate)."""
    sleep: bool = False
    """Free vLLM's memory while the policy is updated (colocate)."""
    server_url: PlainUrl | None = None
    """Address of ``trl vllm-serve``; needed by, and only for, ``vllm-server``."""
    options: RolloutOptions = Field(default_factory=dict)
    """Further arguments of ``vllm.LLM`` (colocate), such as ``{kv_cache_dtype = "fp8"}`` or
    ``{speculative_config = {method = "ngram", num_speculative_tokens = 4, prompt_lookup_max = 4}}``. The probe samples
    with them, too."""
    group_at_a_time: bool = False
    """Sample one group after the other, so that vLLM reads their common prompt once a step for all of its completions
    (colocate). It does so for eight or more that run, on an H100 or H200; a group then waits for its longest
    completion."""


class EntropyAlarmSettings(Block):
    """When the policy's entropy (nats per token) counts as collapsed. The completions of a group then hardly differ,
    and nothing more is learned."""

    floor: float = Field(0.01, ge=0)
    """An entropy below this is low, wherever it started; 0 switches this check off."""
    share: Share = 0.1
    """An entropy below this share of the phase's first step is low; 0 switches this check off."""
    steps: int = Field(5, ge=1)
    """Low steps in a row that raise the alarm."""
    stop: bool = False
    """Whether the alarm ends the run. If not, it is a warning, repeated after every further ``steps``."""


class AEPOSettings(Block):
    """Entropy control by negative advantages (AEPO, QwenLong-L1.5, arXiv 2512.12967). Learning from what went wrong
    raises the entropy, learning only from what went right lowers it."""

    high: float = Field(gt=0)
    """Completions with a negative advantage are masked from when a batch's entropy (nats per token) is above this."""
    low: float = Field(ge=0)
    """They are learned from again when it is below this. The paper gives neither threshold; its curve lies within 0.1
    to 0.3."""

    @model_validator(mode="after")
    def _low_is_below(self) -> AEPOSettings:
        if self.low > self.high:
            raise ValueError(f"grpo.aepo: low={self.low} is above high={self.high}: swap them")
        return self


class GRPOBase(Block):
    """The settings of GRPO that all phases share. The defaults are the paper's (section 3.2); DAPO clips at 0.2
    and 0.28."""

    group_size: int = Field(8, ge=2)
    """G: completions per prompt."""
    batch_size: int = Field(128, ge=1)
    """Prompts per rollout batch over all processes."""
    mini_batch_size: int = Field(32, ge=1)
    """Prompts per optimizer step over all processes."""
    micro_batch_size: int = Field(1, ge=1)
    """Groups per forward pass on one process. They are one row, in which questions on one document share it."""
    learning_rate: float = Field(2e-6, gt=0)
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)
    stop: Stop = ()
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    kl_coefficient: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    scale_rewards: ScaleRewards = "group"
    """What a reward's distance from its group's mean is divided by: the standard deviation of the group, of all rewards
    trained on in the step, of those of them that are of its ``task`` (QwenLong-L1.5), or nothing (Dr. GRPO)."""
    balance_tasks: bool = False
    """Give every ``task`` of a phase the same number of prompts in each batch (QwenLong-L1.5)."""
    task: Task = "domain"
    """What makes two questions one task, for ``balance_tasks`` and ``scale_rewards='task'``."""
    aepo: AEPOSettings | None = None
    """Mask completions with a negative advantage while the entropy is high (QwenLong-L1.5). ``None`` masks none."""
    on_policy: bool = False
    """Train on a batch with the policy that sampled it, and no other: one update per batch, every importance ratio 1
    (QwenLong-L1.5). Informative groups beyond the batch are then dropped."""
    truncated: Truncated = "keep"
    """Completions cut at the limit: ``keep`` them in the loss and in their group's baseline, where the length
    penalty counts against them, or ``mask`` them in both and in the loss's denominator (DAPO's overlong filtering)."""
    optimizer_across_phases: OptimizerAcrossPhases = "fresh"
    """``carried``: a phase starts with the optimizer state that the previous phase ended with (AdamW's moments, 8 bytes
    per parameter in the policy folder). ``fresh``: it starts without any, as the first phase always does."""
    engine: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    """Rollout engine; the vLLM ones need a GPU and the ``gpu`` extra."""
    vllm: VLLMSettings | None = None
    """Only for the vLLM engines."""
    save_steps: Incidental[int] = Field(1, ge=1)
    """Rollout batches between checkpoints."""
    entropy_alarm: EntropyAlarmSettings = EntropyAlarmSettings()
    kl_to_start_every: int | None = Field(None, ge=1)
    """Measure the KL divergence from the phase's starting weights every this many steps. It costs the
    memory of one more copy of the weights and one more pass. With ``kl_coefficient`` above 0 it is
    reported at every step anyway."""
    dynamic_sampling: DynamicSamplingSettings = DynamicSamplingSettings()
    curriculum: CurriculumSettings = CurriculumSettings()

    @model_validator(mode="after")
    def _consistent(self) -> GRPOBase:
        if self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"grpo.batch_size={self.batch_size} is not a multiple of grpo.mini_batch_size={self.mini_batch_size}: "
                f"use {max(1, self.batch_size // self.mini_batch_size) * self.mini_batch_size}"
            )
        if self.vllm is not None and self.engine == "transformers":
            raise ValueError("grpo.vllm is set but grpo.engine='transformers' does not use it: drop one of them")
        server_url = self.vllm.server_url if self.vllm else None
        if (self.engine == "vllm-server") != (server_url is not None):
            raise ValueError("grpo.vllm.server_url and grpo.engine='vllm-server' go together: give both or none")
        if self.engine == "vllm-server" and self.vllm != VLLMSettings(server_url=server_url):
            raise ValueError(
                "grpo.vllm: with grpo.engine='vllm-server' the server decides all but server_url: drop the rest"
            )
        if self.vllm and self.vllm.group_at_a_time and self.group_size < LEAST_IN_COMMON:
            raise ValueError(
                f"grpo.vllm.group_at_a_time=true does nothing for grpo.group_size={self.group_size}: vLLM reads a "
                f"common prompt once for {LEAST_IN_COMMON} completions or more; raise it, or drop group_at_a_time"
            )
        if self.kl_to_start_every is not None and self.kl_coefficient:
            raise ValueError(
                "grpo.kl_to_start_every: with grpo.kl_coefficient above 0 the KL is reported at every step: drop it"
            )
        return self

    @model_validator(mode="after")
    def _task_is_used(self) -> GRPOBase:
        if self.task != "domain" and not self.balance_tasks and self.scale_rewards != "task":
            raise ValueError(
                f"grpo.task={self.task!r} does nothing by itself: set grpo.balance_tasks=true or "
                "grpo.scale_rewards='task', or drop it"
            )
        return self

    @model_validator(mode="after")
    def _one_update(self) -> GRPOBase:
        if not self.on_policy:
            return self
        if self.mini_batch_size != self.batch_size:
            raise ValueError(
                f"grpo.on_policy=true is one update per batch, and grpo.mini_batch_size={self.mini_batch_size} makes "
                f"{self.batch_size // self.mini_batch_size}: set it to grpo.batch_size={self.batch_size}"
            )
        for name in ("clip_low", "clip_high"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(
                    f"grpo.on_policy=true has importance ratios of 1, which grpo.{name}={value} never clips: drop it, "
                    f"or set it to its default {default}"
                )
        return self


class GRPOSettings(GRPOBase):
    """GRPO over phases of growing prompt length."""

    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _phases_grow(self) -> GRPOSettings:
        limits = [phase.max_prompt_tokens for phase in self.phases]
        if any(b <= a for a, b in pairwise(limits)):
            raise ValueError(f"grpo.phases: max_prompt_tokens must grow from phase to phase, got {limits}")
        if not self.phases[-1].evaluate:
            raise ValueError("grpo.phases: the last phase has evaluate=false, but the gate needs its scores: drop it")
        if self.optimizer_across_phases == "carried" and len(self.phases) == 1:
            raise ValueError(
                "grpo.optimizer_across_phases='carried' does nothing with 1 phase: set it to 'fresh', or add a phase"
            )
        return self

    def without_phases(self) -> GRPOBase:
        """What all phases share."""
        return GRPOBase.model_validate(self.model_dump(exclude={"phases"}))
