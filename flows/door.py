"""Mistakes that would otherwise be seen after hours of training, looked for once before it."""

from __future__ import annotations

import json
from pathlib import Path

from qwenlong_core.data.prepared import SUMMARY
from qwenlong_core.interpreter import Devices, Installed, devices_of, installed_in
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.protocol import check_writable
from qwenlong_core.training.curriculum import retrospective_limit

_SQLITE = "sqlite:///"
_MAGIC = b"SQLite format 3\0"


def require_deployments(settings: Settings) -> None:
    """Refuse deployments that Prefect does not have.

    Raises:
        ValueError: naming the deployment.
    """
    from prefect import get_client  # here, as `doctor` needs this module before Prefect may read its settings
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for family, name in settings.execution.deployments.items():
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                raise ValueError(
                    f"execution.deployments: {family} = {name!r}, which Prefect at {client.api_url} does not have: "
                    "apply it (`prefect deploy --all`), or leave it out to run the stage here"
                ) from None


def attention_trouble(settings: Settings, devices: Devices, installed: Installed) -> str | None:
    """Why the chosen ``model.attention`` cannot work on these devices with these libraries, with the mend."""
    chosen = settings.model.attention
    if (devices.attention if chosen == "auto" else chosen) != "flash_attention_2":
        return None
    if "flash_attn" not in installed.packages:
        return "flash-attn is not installed: set model.attention='auto', or install the extra `flash-attn` (README)"
    if not devices.gpus:
        return "flash-attn runs on a GPU, and there is none: set model.attention='auto'"
    return None


def require_attention(settings: Settings) -> None:
    """Refuse an attention that the stages' interpreter does not have; asked only where one is named.

    Raises:
        ValueError: with the mend.
    """
    chosen, python = settings.model.attention, settings.launch.python
    if chosen != "flash_attention_2":
        return
    if trouble := attention_trouble(settings, devices_of(python), installed_in(python)):
        raise ValueError(f"model.attention={chosen!r}: {trouble}")


def require_database(settings: Settings) -> None:
    """Refuse a tracking file that MLflow cannot use. Servers may be away, and are waited for.

    Raises:
        ValueError: the file is no SQLite database.
        ArtifactError: its folder cannot be written.
    """
    uri = settings.tracking.uri
    if not uri.startswith(_SQLITE):
        return
    path = Path(uri.removeprefix(_SQLITE))
    check_writable(path.parent, "the folder of tracking.uri")
    if path.exists() and path.stat().st_size and path.open("rb").read(len(_MAGIC)) != _MAGIC:
        raise ValueError(f"tracking.uri={uri!r}: {path} is not an SQLite database: name another file")


def require_rows_of_others(settings: Settings) -> None:
    """Refuse data whose folder or glob takes in what the pipeline itself writes, such as ``data.train=.``.

    A path inside, for example to a file of an artifact, is meant so.

    Raises:
        ValueError: naming the file that would be read.
    """
    # The readers load pyarrow, and every command of the console imports this module.
    from qwenlong_core.data.collect import SPLITS, specs_of
    from qwenlong_core.data.sources.read import local_files, location_of

    storage = settings.storage
    folders = {name: getattr(storage, name) for name in ("uri", "cache_dir", "work_dir", "runs_dir")}
    places = {f"storage.{name}": Path(folder).resolve() for name, folder in folders.items() if "://" not in folder}
    for split in SPLITS:
        for spec in specs_of(settings.prepared_data, split):
            given = Path(location_of(spec)).resolve()
            for setting, place in places.items():
                if given.is_relative_to(place):
                    continue
                if mine := next((file for file in local_files(spec) if file.resolve().is_relative_to(place)), None):
                    raise ValueError(
                        f"data.{split}={spec!r} takes in {setting} ({place}), where the pipeline writes, for example "
                        f"{mine}: name the folder of your data alone"
                    )


def require_rows(settings: Settings, prepared: Path) -> None:
    """Refuse a phase that has fewer rows than a batch, as soon as the rows are counted.

    Raises:
        ValueError: naming the phase and a batch size that fits.
    """
    phases = json.loads((prepared / SUMMARY).read_text())["phases"]
    before = 0
    for index, phase in phases.items():
        rows, needed = phase["rows"], settings.grpo.batch_size
        # With all hard rows of earlier phases that may join it.
        most = rows + min(before, retrospective_limit(rows, settings.grpo.curriculum.retrospective_share))
        if most < needed:
            raise ValueError(
                f"phase {index} has {rows} rows, fewer than grpo.batch_size={needed}: add rows of its length or lower "
                "batch_size"
            )
        before += rows
