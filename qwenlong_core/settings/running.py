"""How and where a run happens: processes, storage, tracking, execution."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong_core.settings.base import Block, Incidental, Name, PlainUrl

_TRACKING_URI = re.compile(r"sqlite:///.+|((postgresql|mysql|mssql)(\+\w+)?|https?)://[^/].*|databricks(://.+)?")


def _database_or_server(uri: str) -> str:
    if not _TRACKING_URI.fullmatch(uri):
        # In an address without a scheme PlainUrl does not recognise a password.
        shown = re.sub(r".*@", "***@", uri)
        raise ValueError(
            f"{shown!r} is not an address where MLflow can keep a registry: give sqlite:///FILE, http(s)://SERVER or "
            "postgresql+psycopg2://USER@HOST/DATABASE"
        )
    return uri


class LaunchSettings(Block):
    """How the processes of stages are started; training goes through ``accelerate launch``."""

    python: Incidental[Name | None] = None
    """Interpreter of every stage's process, for example ``.venv-gpu/bin/python``; a relative path starts at the working
    directory. ``None`` takes the one that runs the pipeline. The fingerprint counts its libraries, not its path."""
    num_processes: int = Field(1, ge=1)
    num_machines: int = Field(1, ge=1)
    across: Incidental[tuple[Name, ...]] = ()
    """A command that is put before a training's own and starts it on ``num_machines`` machines, for example
    ``["srun", "--nodes=4", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]``. All must see ``storage``'s folders under
    the same paths."""
    accelerate_config: str | None = None
    """A file of ``infra/accelerate/`` (FSDP2 and so on); ``None`` runs plain data parallel."""
    sequence_parallel: int = Field(1, ge=1)
    """Neighbouring processes of a machine that compute a row together, in SFT and GRPO, each a share of its tokens
    (Ulysses). Activations on a GPU shrink by this factor. It must divide the processes of a machine and fit the
    model's heads."""
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    """Move the activations that gradient checkpointing saves to the host's memory. They grow with layers x tokens;
    copying them makes a step slower."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads per process on CPU. ``None``: OMP_NUM_THREADS where it is set, else the cores, dealt to a machine's
    processes."""
    timeout_minutes: Incidental[int] = Field(60, ge=1)
    """How long processes wait for each other before the run fails: longer than the main process takes to write and seal
    a checkpoint, and than a judge may hold one process up."""

    def for_sampling(self) -> LaunchSettings:
        """The same without how training is sharded and saves memory, which does not matter to sampling."""
        plain = {"accelerate_config": None, "gradient_checkpointing": False, "activation_offload": False}
        return self.model_copy(update=plain | {"sequence_parallel": 1})

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
        on_a_machine = self.num_processes // self.num_machines
        if on_a_machine % self.sequence_parallel:
            fit = ", ".join(str(n) for n in range(1, on_a_machine + 1) if on_a_machine % n == 0)
            raise ValueError(
                f"launch.sequence_parallel={self.sequence_parallel} does not divide the {on_a_machine} process(es) of "
                f"a machine, inside which a row is shared: possible are {fit}"
            )
        if self.num_machines > 1 and not self.across:
            raise ValueError(
                f"launch.num_machines={self.num_machines}, but launch.across is empty: name the command that starts "
                'a process on every machine, for example ["srun", "--nodes=4", "--ntasks-per-node=1", '
                '"--kill-on-bad-exit=1"]'
            )
        return self


class S3Settings(Block):
    """How to reach a bucket. Credentials come from boto3's usual places: ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, or the machine's role."""

    endpoint_url: PlainUrl | None = None
    """A server other than Amazon's, for example ``http://127.0.0.1:8333``."""
    region: str | None = None
    """``None`` leaves it to boto3, and means ``us-east-1`` if boto3 knows none."""
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    """The encryption to ask the server for; ``None`` uses the bucket's default."""
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
    """How to reach the bucket; only with ``s3://``."""
    keep_checkpoints: bool = False
    """Keep the two newest checkpoints of a training that is done. Nothing reads them any more, and each is about three
    times as large as the model."""
    cache_dir: Name = ".qwenlong/cache"
    """Where artifacts of a bucket are copied to be read; those of a folder are read in place."""
    cache_gb: float | None = Field(None, gt=0)
    """Largest size in GB (10^9 bytes); beyond it the least recently read copies are evicted. ``None`` keeps a tenth of
    the disk free instead. What a running process has read stays."""
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
                f"uri={self.uri!r} is not 's3://BUCKET/PREFIX': the bucket has 3 to 63 lowercase letters, digits, '.' "
                "and '-', the prefix letters, digits, '.', '_', '=' and '-' between single '/'"
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
    """Address at which people open MLflow; links in Prefect and on the console start with it."""
    experiment: Annotated[Name, Field(max_length=500)] = "qwenlong"
    registered_model: str = Field("qwenlong", pattern=r"^[^/:@]*[^/:@\s][^/:@]*$", max_length=256)
    """A name without ``/``, ``:`` and ``@``, which mean something in ``models:/NAME@ALIAS``."""
    also: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where the step lines of trainings and evaluations go besides MLflow, which stays the record. Their packages are
    installed by hand. Weights & Biases reads its own variables, such as ``WANDB_API_KEY`` and ``WANDB_MODE``."""


_PLACE = re.compile(r"\$[A-Za-z_]\w*|[a-z0-9-]+/[A-Za-z0-9-]+")


def _no_address(place: str) -> str:
    if not _PLACE.fullmatch(place):  # the value is not repeated: an address may hold a key
        raise ValueError(
            "name a notification block of Prefect as TYPE/NAME, for example slack-webhook/team, or an environment "
            "variable with an Apprise address as $NAME; an address itself may hold a key, and is no setting"
        )
    return place


class NotifySettings(Block):
    """Who hears of a run that failed, a night that fell, a promotion or refusal, and a server that is away."""

    to: tuple[Annotated[str, AfterValidator(_no_address)], ...] = ()
    """Places: notification blocks of Prefect (``slack-webhook/team``) and environment variables that hold an address
    of Apprise (``$OPS_MAIL`` with ``mailtos://...``)."""


DeployedFamily = Literal["base", "prepare", "distill", "probe", "sft", "grpo", "evaluate", "promote", "report"]
"""Families of stages that can run elsewhere: all but ``register``, which is a call to the registry."""


class ExecutionSettings(Block):
    """How the flow runs its stages."""

    retries: int = Field(2, ge=0)
    """For failures that can pass: network, storage, server errors, a killed worker."""
    retry_delay_seconds: float = Field(10.0, ge=0)
    silent_minutes: float = Field(720.0, gt=0)
    """A stage whose process writes no line for so long hangs: it is ended and tried again. A step of a large model may
    take hours."""
    deployments: dict[DeployedFamily, Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]] = Field(default_factory=dict)
    """Family of stages to the Prefect deployment that runs them on its own work pool, for example
    ``{grpo = "stage/gpu"}``. All other stages run in-process. The workers may be on other hosts: store, MLflow and
    Prefect must be where these reach them."""
    workers_here: bool = False
    """The workers of ``deployments`` run on this machine, so store, MLflow and Prefect may be local."""

    @model_validator(mode="after")
    def _workers_have_work(self) -> ExecutionSettings:
        if self.workers_here and not self.deployments:
            raise ValueError(
                "execution.workers_here says where the workers of execution.deployments run, and there are none: set "
                "both or none"
            )
        return self
