"""The stages of the pipeline: what each one runs, in which order, and which outputs it takes.

A :class:`StageSpec` says what runs (a module, started as a process) and with which job.
:func:`pipeline_stages` is the one place that knows the order and the dependencies. A stage's name is what
Prefect shows and what a run is started at or refreshed from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from qwenlong_core.base_tokenizer import chat_template_file
from qwenlong_core.bundled import BUNDLED, bundled_file
from qwenlong_core.data.collect import SPLITS, specs_of
from qwenlong_core.data.sources.read import local_files
from qwenlong_core.data.trace_files import check_trace_files
from qwenlong_core.jobs import (
    BaseJob,
    DistillJob,
    EvaluateJob,
    GRPOJob,
    PrepareJob,
    ProbeJob,
    PromoteJob,
    RegisterJob,
    ReportJob,
    SFTJob,
)
from qwenlong_core.plan.check import planned_stages
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import own_or_shipped
from qwenlong_core.store.files import digest_file, digest_json, files_below
from qwenlong_core.store.fingerprint import code_digest

SCALED_DOWN = (
    "Scaled down: short contexts and a few steps, so that every part runs on a small machine. Read differences between "
    "stages with their intervals."
)
SFT_SKIPPED = (
    "SFT was skipped: there are neither a teacher (distill.teacher) nor traces (distill.traces) to learn from, and "
    "GRPO started from the base model."
)
_FULL_SCALE_TOKENS = 20_000
"""The paper's first phase."""


class StageSpec(Block):
    """One stage: what to run and what its result depends on besides its inputs."""

    name: str
    """Unique in a pipeline run: ``evaluate-sft``."""
    cached_as: str
    """Name in its fingerprint and in the store's records. It is ``evaluate`` for every evaluation, so that two
    checkpoints with the same weights are evaluated once; other stages use their own name."""
    kind: str
    """Kind of the artifact it makes."""
    module: str
    """Module that is run, and where the code closure starts."""
    launcher: Literal["python", "accelerate", "inline"] = "python"
    """``inline`` runs in this process: the registry, which no core module may touch."""
    python: str | None = None
    """Interpreter of its process (``launch.python``); ``None`` is this one, and always that of an inline stage."""
    job: dict[str, Any]
    deciding_job: dict[str, Any]
    """The part of the job that can change the result (see :meth:`Block.deciding`). Only this is in the fingerprint."""

    @property
    def family(self) -> str:
        """See :func:`family_of`."""
        return family_of(self.name)

    @property
    def code(self) -> str:
        """Digest of its code, and of the libraries of the interpreter that runs it."""
        return code_digest((self.module,), python=self.python)


def family_of(name: str) -> str:
    """The stages that a name belongs to: ``grpo`` for ``grpo-2``, ``evaluate`` for ``evaluate-sft``.

    Deployments are given by family, and a refreshed family is run again as a whole.
    """
    return name.partition("-")[0]


def is_scaled_down(settings: Settings) -> bool:
    """Whether all phases are shorter than the paper's first one."""
    return settings.grpo.phases[-1].max_prompt_tokens < _FULL_SCALE_TOKENS


def notes_of(settings: Settings) -> tuple[str, ...]:
    """What a reader of the results must know first."""
    return (SCALED_DOWN,) * is_scaled_down(settings) + (SFT_SKIPPED,) * (settings.sft_rows == "none")


def _spec(name: str, kind: str, module: str, job: Block, python: str | None, **options: Any) -> StageSpec:
    defaults = {"name": name, "cached_as": name, "kind": kind, "module": module, "python": python}
    return StageSpec(**defaults | options, job=job.model_dump(mode="json"), deciding_job=job.deciding())


def base_stage(settings: Settings) -> StageSpec:
    """Import the base policy."""
    folder = Path(settings.model.name)
    files = [bundled_file()] if settings.model.name in BUNDLED else files_below(folder) if folder.is_dir() else []
    if settings.model.chat_template is not None:
        files.append(chat_template_file(settings.model.chat_template))
    digest = digest_json([[path.name, digest_file(path)] for path in files]) if files else None
    return _spec(
        "base", "model", "qwenlong_core.models", BaseJob(model=settings.model, digest=digest), settings.launch.python
    )


def prepare_stage(settings: Settings) -> StageSpec:
    """Prepare the data. Input: ``base``.

    Raises:
        ValueError: a source names a file that is not there.
    """
    specs = dict.fromkeys(spec for split in SPLITS for spec in specs_of(settings.prepared_data, split))
    files = {str(path): digest_file(path) for spec in specs for path in local_files(spec)}
    return _spec(
        "prepare", "data", "qwenlong_core.data.prepare", PrepareJob.of(settings, files), settings.launch.python
    )


def distill_stage(settings: Settings) -> StageSpec:
    """Collect verified traces for SFT. Inputs: ``base``, ``data``.

    Raises:
        ValueError: a file of traces is not there.
    """
    assert settings.distill is not None
    check_trace_files(settings.distill.traces)
    job = DistillJob.of(settings, {path: digest_file(Path(path)) for path in settings.distill.traces})
    return _spec("distill", "data", "qwenlong_core.data.distill", job, settings.launch.python)


def _launch_digest(settings: Settings) -> str | None:
    config = settings.launch.accelerate_config
    return digest_file(own_or_shipped(config)) if config else None


def sft_stage(settings: Settings) -> StageSpec:
    """Short-context SFT. Inputs: ``model``, ``data``."""
    job = SFTJob.of(settings, _launch_digest(settings))
    return _spec("sft", "model", "qwenlong_core.training.sft", job, settings.launch.python, launcher="accelerate")


def probe_stage(settings: Settings) -> StageSpec:
    """Measure the difficulty of all training rows on the base model. Inputs: ``model``, ``data``."""
    samples = settings.grpo.curriculum.probe_samples
    assert samples is not None
    return _spec(
        "probe", "probe", "qwenlong_core.training.probe", ProbeJob.of(settings, samples), settings.launch.python
    )


def grpo_stage(settings: Settings, index: int) -> StageSpec:
    """GRPO phase ``index``, counted from 1. Inputs: ``model``, ``data``; the first also ``probe`` if it ran."""
    job = GRPOJob.of(settings, index, _launch_digest(settings))
    return _spec(
        f"grpo-{index}", "model", "qwenlong_core.training.grpo", job, settings.launch.python, launcher="accelerate"
    )


def evaluate_stage(settings: Settings, checkpoint: str) -> StageSpec:
    """Evaluate one checkpoint. Inputs: ``model``, ``data``."""
    module = "qwenlong_core.evaluation.runner"
    job, python = EvaluateJob.of(settings), settings.launch.python
    return _spec(f"evaluate-{checkpoint}", "evaluation", module, job, python, cached_as="evaluate")


def register_stage(settings: Settings) -> StageSpec:
    """Register the final checkpoint. Inputs: ``model``, ``evaluation``."""
    job = RegisterJob.of(settings)
    return _spec("register", "registration", "qwenlong.tasks.tracking.registry", job, None, launcher="inline")


def promote_stage(settings: Settings, verified: Mapping[str, str], faults: Sequence[str]) -> StageSpec:
    """Decide on promotion. Inputs: those of :class:`PromoteJob`."""
    job = PromoteJob.of(settings, verified, faults)
    return _spec("promote", "decision", "qwenlong_core.promotion.gate", job, settings.launch.python)


def report_stage(settings: Settings) -> StageSpec:
    """Write the HTML report. Inputs: everything it shows."""
    title = f"qwenlong: profile {settings.profile}"
    job = ReportJob.of(settings, title, notes_of(settings), planned_stages(settings))
    return _spec("report", "report", "qwenlong_core.report.build", job, settings.launch.python)


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage's place in the pipeline."""

    name: str
    inputs: Mapping[str, str]
    """Name of an input to the stage whose output it is."""
    spec: Callable[[], StageSpec] | None
    """Makes the spec. It is called when the stage's turn comes, because it hashes local model and data files.
    ``None`` for ``promote``, whose job depends on what the registry holds by then (see ``flows/gate.py``)."""


def checkpoint_names(settings: Settings) -> list[str]:
    """The stages that end with a model, from the base model to the last phase."""
    tuned = [] if settings.sft_rows == "none" else ["sft"]
    return ["base", *tuned, *(f"grpo-{index}" for index in range(1, len(settings.grpo.phases) + 1))]


def evaluated_names(settings: Settings) -> list[str]:
    """The stages whose models are evaluated: all but the phases that say otherwise."""
    skipped = {f"grpo-{index}" for index, phase in enumerate(settings.grpo.phases, 1) if not phase.evaluate}
    return [name for name in checkpoint_names(settings) if name not in skipped]


def pipeline_stages(settings: Settings) -> list[PlannedStage]:
    """All stages in the order they run."""
    stages: list[PlannedStage] = []

    def add(name: str, inputs: Mapping[str, str], make: Callable[..., StageSpec] | None, *options: Any) -> None:
        spec = partial(make, settings, *options) if make else None
        stages.append(PlannedStage(name=name, inputs=inputs, spec=spec))

    checkpoints = checkpoint_names(settings)
    trained, final, distilled = checkpoints[1:], checkpoints[-1], settings.sft_rows == "questions"
    probed = settings.grpo.curriculum.probe_samples is not None
    add("base", {}, base_stage)
    add("prepare", {"base": "base"}, prepare_stage)
    if probed:
        add("probe", {"model": "base", "data": "prepare"}, probe_stage)
    if distilled:
        add("distill", {"base": "base", "data": "prepare"}, distill_stage)
    if "sft" in trained:
        add("sft", {"model": "base", "data": "distill" if distilled else "prepare"}, sft_stage)
    phases = checkpoints[-len(settings.grpo.phases) - 1 :]  # with the model that the first one starts from
    for index, (before, name) in enumerate(pairwise(phases), 1):
        # Later phases find the difficulty of the rows in the policy folder of the phase before.
        probe = {"probe": "probe"} if probed and index == 1 else {}
        add(name, {"model": before, "data": "prepare", **probe}, grpo_stage, index)
    for name in evaluated_names(settings):
        add(f"evaluate-{name}", {"model": name, "data": "prepare"}, evaluate_stage, name)
    add("register", {"model": final, "evaluation": f"evaluate-{final}"}, register_stage)
    # Without a champion in the registry the gate compares with the base model.
    add("promote", {"rows": "prepare", "challenger": f"evaluate-{final}", "champion": "evaluate-base"}, None)
    shown = [*["distill"] * distilled, *trained, *(f"evaluate-{name}" for name in evaluated_names(settings))]
    add("report", {"data": "prepare", **{name: name for name in (*shown, "register", "promote")}}, report_stage)
    return stages


def stage_names(settings: Settings) -> list[str]:
    """Names of all stages in the order they run."""
    return [stage.name for stage in pipeline_stages(settings)]
