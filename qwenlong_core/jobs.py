"""What each stage's process is told: one small schema a stage.

A job holds the settings that can change the stage's output, so they are part of the stage's
fingerprint: an edit to the rewards re-runs GRPO, an edit to storage re-runs nothing.
Schemas only: this module is left out of the code digests.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenlong_core.settings.base import Block, Stop
from qwenlong_core.settings.data import DataSettings
from qwenlong_core.settings.evaluation import EvaluationSettings, PromotionSettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.rewards import RewardSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.training import GRPOBase, Phase, SFTSettings


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
    sft_max_tokens: int
    phase_limits: tuple[int, ...]
    """``max_prompt_tokens`` of the phases, ascending; a row belongs to the first that holds it."""
    eval_max_tokens: int
    seed: int


class SFTJob(Block):
    """Fine-tune on worked solutions. Inputs: ``model`` (base), ``data``."""

    sft: SFTSettings
    model: ModelSettings
    launch: LaunchSettings
    launch_digest: str | None = None
    """SHA-256 of ``launch.accelerate_config``, so that a changed file re-runs the stage."""
    seed: int


class ProbeJob(Block):
    """Measure how hard training rows are for a model. Inputs: ``model``, ``data``."""

    samples: int = Field(ge=2)
    """Completions a row."""
    rows: int | None = Field(None, ge=1)
    """Rows a phase; ``None`` takes all."""
    rows_at_once: int = Field(1, ge=1)
    """Rows sampled together."""
    phases: tuple[Phase, ...]
    group_size: int
    batch_size: int
    max_rounds: int
    """Of the training whose cost is estimated, as the two before."""
    temperature: float
    top_p: float
    stop: Stop = ()
    engine: Literal["transformers", "vllm"]
    rewards: RewardSettings
    model: ModelSettings
    launch: LaunchSettings
    seed: int


class GRPOJob(Block):
    """One GRPO phase. Inputs: ``model`` (SFT or the previous phase), ``data``, and ``probe`` where the
    difficulty of the rows was measured beforehand."""

    index: int = Field(ge=1)
    """Phase number, counted from 1; its rows are those prepare put in bucket ``index``."""
    phase: Phase
    grpo: GRPOBase
    rewards: RewardSettings
    model: ModelSettings
    launch: LaunchSettings
    launch_digest: str | None = None
    """SHA-256 of ``launch.accelerate_config``, so that a changed file re-runs the stage."""
    seed: int


class EvaluateJob(Block):
    """Sample and score one checkpoint on the evaluation rows. Inputs: ``model``, ``data``."""

    evaluation: EvaluationSettings
    number_tolerance: float
    model: ModelSettings
    launch: LaunchSettings
    seed: int


class PromoteJob(Block):
    """Decide whether the challenger may become champion. Inputs: ``challenger``, ``champion``
    (evaluations; the base model's where there is no champion yet), ``rows``, ``trained-1 ...`` (data);
    none of them where there are ``faults``."""

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


class ReportJob(Block):
    """Write the HTML report. Inputs: the training artifacts, the evaluations and the decision."""

    title: str
    notes: tuple[str, ...] = ()
    """What a reader must know first, such as that the run is scaled down; shown on top."""
    bootstrap_resamples: int
    confidence: float
    seed: int
