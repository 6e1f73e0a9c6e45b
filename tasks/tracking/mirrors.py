"""Step lines that also go to Weights & Biases or TensorBoard (``tracking.also``). MLflow stays the record.

A mirror shows what MLflow has, so its failure never stops a training: it is told once, and the training goes on.
"""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from qwenlong_core.settings.tree import Settings

_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard"}
_OFFLINE = ("offline", "disabled", "dryrun")
_HOST = "api.wandb.ai"

Line = Mapping[str, Any]


class Mirror(Protocol):
    """Where step lines go besides MLflow."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of one step; steps come in order, each once."""

    def close(self) -> None:
        """Write out what is left."""


def require_mirrors(settings: Settings) -> None:
    """Refuse a mirror that cannot be written to, before anything runs.

    Raises:
        ValueError: its package is not installed, or Weights & Biases has no key to log in with.
    """
    for name in settings.tracking.also:
        if find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"tracking.also has {name!r}, whose package is not installed: pip install {_PACKAGES[name]}, or leave "
                f"{name!r} out"
            )
    if "wandb" in settings.tracking.also and not _can_log_in():
        raise ValueError(
            "tracking.also has 'wandb', and there is no key to log in with: set WANDB_API_KEY, or WANDB_MODE=offline "
            "to write a folder that `wandb sync` sends later"
        )


def _can_log_in() -> bool:
    if os.environ.get("WANDB_MODE", "").lower() in _OFFLINE or os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def numbers_of(line: Line) -> dict[str, float]:
    """The numbers of a step line, under the names that MLflow shows; the time is no metric."""
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "time")
    }


@contextmanager
def mirrored(
    settings: Settings, run_id: str, stage: str, log: Callable[[str], None]
) -> Iterator[Callable[[Line], None]]:
    """Open the mirrors of a stage; yields what takes each of its step lines.

    Args:
        run_id: The pipeline run, which groups its stages.
        log: Takes what went wrong with a mirror.
    """
    require_mirrors(settings)
    folder = Path(settings.storage.runs_dir).absolute() / run_id
    opened: dict[str, Mirror] = {}
    for asked in settings.tracking.also:
        with _told(asked, log):
            opened[asked] = _MAKERS[asked](settings, folder, run_id, stage)
    last = -1

    def write(line: Line) -> None:
        nonlocal last
        if line["step"] <= last:  # MLflow was away, and the line comes again for it
            return
        last = line["step"]
        for name in tuple(opened):
            with _told(name, log, opened):
                opened[name].write(last, numbers_of(line))

    try:
        yield write
    finally:
        for name, mirror in opened.items():
            with _told(name, log):
                mirror.close()


@contextmanager
def _told(name: str, log: Callable[[str], None], opened: dict[str, Mirror] | None = None) -> Iterator[None]:
    """Tell of an error of a mirror in place of raising it, and write to that mirror no more."""
    try:
        yield
    except Exception as error:  # any: the libraries' errors share no class, and none may stop a training
        log(f"{name} gets no more step lines, MLflow does: {type(error).__name__}: {error}")
        if opened is not None:
            with contextlib.suppress(Exception):  # it is broken already
                opened.pop(name).close()


class _TensorBoard:
    """Event files below the run's folder, one folder a stage."""

    def __init__(self, settings: Settings, folder: Path, run_id: str, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps of an earlier try come again, and would show twice.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=0)  # type: ignore[no-untyped-call]

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """One run a stage, grouped by the pipeline run, in the project that is named like the MLflow experiment."""

    def __init__(self, settings: Settings, folder: Path, run_id: str, stage: str) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        project = settings.tracking.experiment.replace("/", "-")
        self._run: Any = wandb.init(
            project=project, group=run_id, name=stage, id=f"{run_id}-{stage}", dir=str(folder), resume="allow",
            config={"profile": settings.profile, "stage": stage}, settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self._run.step:  # a stage that is taken up again sends its first steps a second time
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_MAKERS: dict[str, Callable[[Settings, Path, str, str], Mirror]] = {"wandb": _Wandb, "tensorboard": _TensorBoard}
