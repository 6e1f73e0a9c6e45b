"""The settings tree: every setting of the pipeline, checked before anything runs.

In: a profile (TOML, ``infra/profiles/*.toml``) and overrides. Out: a frozen :class:`Settings`.
Unknown keys are refused with the nearest right name, so no setting is ever accepted and ignored.
The modules of the tree hold schemas only. The code digests that decide what is cached leave them out: a stage's
result depends on the settings' values, which are in its job.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block
from qwenlong_core.settings.data import DataSettings, SFTRows
from qwenlong_core.settings.distill import DistillSettings
from qwenlong_core.settings.evaluation import EvaluationSettings, NightlySettings, PromotionSettings
from qwenlong_core.settings.lora import LoRASettings, require_lora_alone
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.plan import PlanSettings
from qwenlong_core.settings.rewards import RewardSettings
from qwenlong_core.settings.running import (
    ExecutionSettings,
    LaunchSettings,
    NotifySettings,
    StorageSettings,
    TrackingSettings,
)
from qwenlong_core.settings.training import GRPOSettings, SFTSettings


class Settings(Block):
    """All settings of a pipeline run."""

    profile: str
    """The profile's name. It is shown, and finds the profile's earlier results; no result depends on it."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Seed of every random draw; numpy and transformers take 32 bits."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    distill: DistillSettings | None = None
    """``None``: SFT imitates the solutions that the rows of ``data.sft`` come with."""
    sft: SFTSettings = SFTSettings()
    grpo: GRPOSettings
    lora: LoRASettings | None = None
    """``None``: SFT and GRPO train all weights."""
    rewards: RewardSettings = RewardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    promotion: PromotionSettings = PromotionSettings()
    nightly: NightlySettings = NightlySettings()
    launch: LaunchSettings = LaunchSettings()
    storage: StorageSettings = StorageSettings()
    tracking: TrackingSettings = TrackingSettings()
    execution: ExecutionSettings = ExecutionSettings()
    notify: NotifySettings = NotifySettings()
    plan: PlanSettings = PlanSettings()

    @property
    def sft_rows(self) -> SFTRows:
        """What the rows of ``data.sft`` are for."""
        if self.distill is None:
            return "solutions"
        return "questions" if self.distill.teacher is not None or self.distill.traces else "none"

    @property
    def prepared_data(self) -> DataSettings:
        """The sources that preparation reads: without those of SFT where it is skipped."""
        if self.sft_rows != "none":
            return self.data
        return self.data.model_copy(update={"sft": (), "generate_sft": ()})

    @model_validator(mode="after")
    def _lora_fits(self) -> Settings:
        require_lora_alone(self.lora, self.launch, self.grpo.optimizer_across_phases)
        return self

    @model_validator(mode="after")
    def _traces_fit(self) -> Settings:
        if self.distill is None or self.sft_rows == "none":
            return self
        needed = self.distill.max_prompt_tokens + self.distill.min_trace_tokens
        if needed > self.sft.max_tokens:
            raise ValueError(
                f"distill.max_prompt_tokens + min_trace_tokens = {needed:,} is over sft.max_tokens="
                f"{self.sft.max_tokens:,}, so the longest questions would be asked in vain: lower distill."
                "max_prompt_tokens, or raise sft.max_tokens"
            )
        return self

    @model_validator(mode="after")
    def _paragraphs_have_numbers(self) -> Settings:
        bonus = self.rewards.evidence
        if bonus is not None and bonus.of == "paragraphs" and not self.data.number_paragraphs:
            raise ValueError(
                "rewards.evidence.of='paragraphs' pays for citing paragraphs by number, and with "
                "data.number_paragraphs=false they have none: set it to true, or use of='entities'"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Settings:
        processes, share = self.launch.num_processes, self.launch.sequence_parallel
        holders = processes // share
        for name, batch, micro in (
            ("grpo.mini_batch_size", self.grpo.mini_batch_size, self.grpo.micro_batch_size),
            ("sft.batch_size", self.sft.batch_size, self.sft.micro_batch_size),
        ):
            if batch % (micro * holders):
                shared = f", {share} to a row" if holders < processes else ""
                raise ValueError(
                    f"{name}={batch} is not a multiple of {micro * holders} (micro_batch_size={micro} on "
                    f"launch.num_processes={processes}{shared}): every process takes whole micro-batches"
                )
        return self

    @model_validator(mode="after")
    def _judges_have_a_place(self) -> Settings:
        judge, processes = self.rewards.judge, self.launch.num_processes
        if judge is not None and judge.concurrency < processes:
            raise ValueError(
                f"rewards.judge.concurrency={judge.concurrency} is below launch.num_processes={processes}, which share "
                "it: every process needs one request at least; raise it"
            )
        taken = processes // self.launch.num_machines
        for name, each in (("rewards", judge), ("evaluation", self.evaluation.judge)):
            if each is not None and each.serve is not None and each.base_url is not None:
                raise ValueError(
                    f"{name}.judge.serve starts a judge, and base_url={each.base_url!r} is one that runs: drop one "
                    "of them"
                )
            if each is not None and each.serve is not None and min(each.serve.gpus, default=taken) < taken:
                raise ValueError(
                    f"{name}.judge.serve.gpus={list(each.serve.gpus)}, but the {taken} process(es) of a machine take "
                    f"GPU 0 to {taken - 1}: give the judge GPUs from {taken} on, or none for the CPU"
                )
        return self
