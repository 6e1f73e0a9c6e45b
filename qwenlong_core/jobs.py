"""What each stage's process is told: one schema a stage, and how it is made from the settings.

A job holds the settings that can change the stage's output. They are part of the stage's fingerprint, so an
edit to the rewards re-runs GRPO, and an edit to storage re-runs nothing.

A job's ``of`` runs in the pipeline, never inside a stage. The code digests therefore leave this module out, as
they do the settings: all that a stage sees of it is the job's values. What has to be read from disk, such as a
file's digest, is handed to ``of``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from qwenlong_core.settings.base import Block, Incidental, Stop
from qwenlong_core.settings.data import DataSettings, SFTRows
from qwenlong_core.settings.distill import DistillSettings
from qwenlong_core.settings.evaluation import EvaluationSettings, PromotionSettings
from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.rewards import RewardSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.training import GRPOBase, Phase, SFTSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.settings.vllm import RolloutOptions

_UNCUT = 100_000_000
"""Tokens: over any document, and the most that a setting may say."""
_ROWS_PER_VLLM_CALL = 64
"""Rows that the probe hands to vLLM at once; each stands for several completions."""


class BaseJob(Block):
    """Import the base policy as a plain transformers folder: config, safetensors, tokenizer."""

    model: ModelSettings
    digest: str | None = None
    """Digest of a local model folder, so that changed weights re-run the stage."""


class PrepareJob(Block):
    """Read, validate, measure, split and bucket the data. Input: ``base`` (its tokenizer)."""

    data: DataSettings
    file_digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every local source file by path, so that changed data re-runs the stage."""
    sft_rows: SFTRows = "solutions"
    sft_max_tokens: int
    """Of prompt and solution; of the prompt alone where the rows are questions."""
    phase_limits: tuple[int, ...]
    """``max_prompt_tokens`` of the phases, ascending; a row belongs to the first that holds it."""
    eval_max_tokens: int
    seed: int

    @classmethod
    def of(cls, settings: Settings, file_digests: Mapping[str, str]) -> PrepareJob:
        """The job of a pipeline run."""
        return cls(
            data=settings.prepared_data,
            file_digests=dict(file_digests),
            sft_rows=settings.sft_rows,
            sft_max_tokens=settings.distill.max_prompt_tokens if settings.distill else settings.sft.max_tokens,
            phase_limits=tuple(phase.max_prompt_tokens for phase in settings.grpo.phases),
            # The memory reader reads what is beyond the prompt's limit, so nothing is cut for it.
            eval_max_tokens=settings.evaluation.max_prompt_tokens if settings.evaluation.reader == "whole" else _UNCUT,
            seed=settings.seed,
        )


class DistillJob(Block):
    """Collect verified traces from a teacher or from files. Inputs: ``base`` (its tokenizer), ``data``."""

    distill: DistillSettings
    file_digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every file of traces by path, so that changed traces re-run the stage."""
    max_row_tokens: int
    """``sft.max_tokens``: of prompt and trace."""
    number_tolerance: float
    seed: int

    @classmethod
    def of(cls, settings: Settings, file_digests: Mapping[str, str]) -> DistillJob:
        """The job of a pipeline run whose settings have ``distill``."""
        assert settings.distill is not None
        return cls(
            distill=settings.distill,
            file_digests=dict(file_digests),
            max_row_tokens=settings.sft.max_tokens,
            number_tolerance=settings.rewards.number_tolerance,
            seed=settings.seed,
        )


class SFTJob(Block):
    """Fine-tune on worked solutions. Inputs: ``model`` (base), ``data`` (of prepare or distill)."""

    sft: SFTSettings
    lora: LoRASettings | None = None
    model: ModelSettings
    launch: LaunchSettings
    launch_digest: str | None = None
    """SHA-256 of ``launch.accelerate_config``, so that a changed file re-runs the stage."""
    seed: int

    @classmethod
    def of(cls, settings: Settings, launch_digest: str | None) -> SFTJob:
        """The job of a pipeline run."""
        return cls(
            sft=settings.sft,
            lora=settings.lora,
            model=settings.model,
            launch=settings.launch,
            launch_digest=launch_digest,
            seed=settings.seed,
        )


class ProbeJob(Block):
    """Measure how hard training rows are for a model. Inputs: ``model``, ``data``.

    It copies single settings of GRPO, so that a new learning rate does not measure the rows again.
    """

    samples: int = Field(ge=2)
    """Completions per row."""
    rows: int | None = Field(None, ge=1)
    """Rows per phase; ``None`` takes all."""
    rows_at_once: int = Field(1, ge=1)
    """Rows sampled together."""
    phases: tuple[Phase, ...]
    group_size: int
    """With ``batch_size`` and ``max_rounds``: the training whose cost is estimated."""
    batch_size: int
    max_rounds: int
    temperature: float
    top_p: float
    stop: Stop = ()
    engine: Literal["transformers", "vllm"]
    vllm_options: RolloutOptions = Field(default_factory=dict)
    rewards: RewardSettings
    model: ModelSettings
    launch: LaunchSettings
    seed: int

    @classmethod
    def of(cls, settings: Settings, samples: int, rows: int | None = None) -> ProbeJob:
        """The probe of the settings' training, with its prompts, sampling, rewards and engine."""
        grpo = settings.grpo
        with_vllm = grpo.engine.startswith("vllm")
        return cls(
            samples=samples,
            rows=rows,
            rows_at_once=_ROWS_PER_VLLM_CALL if with_vllm else grpo.micro_batch_size,
            phases=grpo.phases,
            group_size=grpo.group_size,
            batch_size=grpo.batch_size,
            max_rounds=grpo.dynamic_sampling.max_rounds,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            stop=grpo.stop,
            engine="vllm" if with_vllm else "transformers",
            vllm_options=grpo.vllm.options if grpo.vllm else {},
            rewards=settings.rewards.model_copy(update={"evidence": None}),  # it measures accuracies
            model=settings.model,
            launch=settings.launch.for_sampling(),
            seed=settings.seed,
        )


class GRPOJob(Block):
    """One GRPO phase. Inputs: ``model`` (base, SFT or the previous phase), ``data``, and ``probe`` where the
    difficulty of the rows was measured beforehand."""

    index: int = Field(ge=1)
    """Phase number, counted from 1; its rows are those prepare put in bucket ``index``."""
    phase: Phase
    grpo: GRPOBase
    rewards: RewardSettings
    lora: LoRASettings | None = None
    model: ModelSettings
    launch: LaunchSettings
    launch_digest: str | None = None
    """SHA-256 of ``launch.accelerate_config``, so that a changed file re-runs the stage."""
    seed: int

    @classmethod
    def of(cls, settings: Settings, index: int, launch_digest: str | None) -> GRPOJob:
        """The job of phase ``index``, counted from 1. It has a seed of its own, so that phases draw differently."""
        return cls(
            index=index,
            phase=settings.grpo.phases[index - 1],
            grpo=settings.grpo.without_phases(),
            rewards=settings.rewards,
            lora=settings.lora,
            model=settings.model,
            launch=settings.launch,
            launch_digest=launch_digest,
            seed=settings.seed + index,
        )


class EvaluateJob(Block):
    """Sample and score one checkpoint on the evaluation rows. Inputs: ``model``, ``data``."""

    evaluation: EvaluationSettings
    number_tolerance: float
    model: ModelSettings
    launch: LaunchSettings
    seed: int

    @classmethod
    def of(cls, settings: Settings) -> EvaluateJob:
        """The job of a checkpoint, which is the same for all of them."""
        return cls(
            evaluation=settings.evaluation,
            number_tolerance=settings.rewards.number_tolerance,
            model=settings.model,
            launch=settings.launch.for_sampling(),
            seed=settings.seed,
        )


REGISTRATION = "registration.json"
"""The file that a registration writes: name and version of the model in the registry, and what they stand for."""


class RegisterJob(Block):
    """Make a registry version of a model. Inputs: ``model``, ``evaluation``."""

    registered_model: str
    tracking_uri: str

    @classmethod
    def of(cls, settings: Settings) -> RegisterJob:
        """The job of a pipeline run."""
        return cls(registered_model=settings.tracking.registered_model, tracking_uri=settings.tracking.uri)


class PromoteJob(Block):
    """Decide whether the challenger may become champion.

    Inputs: ``challenger`` and ``champion`` (evaluations; the base model's where there is no champion yet),
    ``rows``, and ``trained-1 ...`` (data). There are none of them where there are ``faults``.
    """

    promotion: PromotionSettings
    near_duplicates: float | None = None
    """Similarity of documents, as in ``data.near_duplicates``."""
    verified: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every artifact that was checked, file by file, before the decision."""
    faults: tuple[str, ...] = ()
    """What is wrong with an artifact or an evaluation; one is enough for a refusal."""
    bootstrap_resamples: int
    confidence: float
    seed: int

    @classmethod
    def of(cls, settings: Settings, verified: Mapping[str, str], faults: Sequence[str]) -> PromoteJob:
        """The job of a decision on artifacts that were checked."""
        return cls(
            promotion=settings.promotion,
            near_duplicates=settings.data.near_duplicates,
            verified=dict(verified),
            faults=tuple(faults),
            bootstrap_resamples=settings.evaluation.bootstrap_resamples,
            confidence=settings.evaluation.confidence,
            seed=settings.seed,
        )


class ReportJob(Block):
    """Write the HTML report. Inputs: the training artifacts, the evaluations and the decision."""

    title: str
    notes: tuple[str, ...] = ()
    """What a reader must know first, such as that the run is scaled down; shown on top."""
    planned_seconds: Incidental[dict[str, float]] = Field(default_factory=dict)
    """Of a step, by stage; shown beside what was measured. A new plan makes no new report."""
    planned_gib: Incidental[dict[str, float]] = Field(default_factory=dict)
    """Of one process, by stage."""
    taken_up: Incidental[dict[str, int]] = Field(default_factory=dict)
    """How often a stage was taken up again after a fault; none for one that went through."""
    lost_minutes: Incidental[dict[str, float]] = Field(default_factory=dict)
    """Of work, by stage, that such faults cost."""
    bootstrap_resamples: int
    confidence: float
    seed: int

    @classmethod
    def of(
        cls,
        settings: Settings,
        title: str,
        notes: Sequence[str] = (),
        planned: Mapping[str, Mapping[str, float]] | None = None,
    ) -> ReportJob:
        """The job of a report with the evaluation's statistics; ``planned`` has ``seconds`` and ``gib`` by stage."""
        return cls(
            title=title,
            notes=tuple(notes),
            planned_seconds={stage: one["seconds"] for stage, one in (planned or {}).items()},
            planned_gib={stage: one["gib"] for stage, one in (planned or {}).items()},
            bootstrap_resamples=settings.evaluation.bootstrap_resamples,
            confidence=settings.evaluation.confidence,
            seed=settings.seed,
        )
